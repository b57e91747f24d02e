"""What the embedded model makes, as arrays: recorded before a change of the code,
compared bit for bit after it.

    python tools/equality.py record before.safetensors      # on the old code
    python tools/equality.py compare before.safetensors     # on the new code: 0 when all is equal

Text, a picture, a clip, two and four stages, a still, a run that is stopped and goes on, and three at once:
each from `PyramidFlowPipeline` (latents and frames), from the command line and from the page's endpoints
(frames of the files, latents of the units that a stopped run leaves). `--only pipeline` makes a part of them.
Equal arrays are to be expected on one machine with one torch: other processors sum in other orders.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROMPT = "a red ball moves to the right over a green meadow"
PROMPTS = (PROMPT, "a blue star spins over the sea", "a yellow square stays still")
SEED = 20
STEPS = {"num_inference_steps": [3, 3, 3], "video_num_inference_steps": [2, 2, 2]}
LONG = {"num_inference_steps": [3, 3, 3], "video_num_inference_steps": [150, 150, 150]}  # time for a stop
CASES = {  # name -> settings that differ
    "text": {},
    "two stages": {"num_inference_steps": [4, 3], "video_num_inference_steps": [2, 2]},
    "four stages": {"num_inference_steps": [3, 2, 2, 2], "video_num_inference_steps": [2, 2, 2, 1]},
    "still": {"num_frames": 1},
    "falling guidance": {"guidance_scale": 5.0, "video_guidance_scale": 4.0, "guidance_decay": 0.5},
}
WAIT = 1800  # seconds for a job or a command, on a machine that does other things besides


def picture() -> np.ndarray:
    """(96, 160, 3) uint8: not of the model's shape, so that cropping is a part of what is compared."""
    y, x = np.mgrid[:96, :160]
    disc = (x - 60) ** 2 + (y - 40) ** 2 < 900
    colors = np.stack([x + 60, 2 * y, 220 - x], axis=-1).clip(0, 255)
    return np.where(disc[..., None], (220, 40, 30), colors).astype(np.uint8)


def clip() -> np.ndarray:
    """(9, 128, 128, 3) uint8: the picture, pushed to the right."""
    frame = np.pad(picture(), ((16, 16), (0, 0), (0, 0)), mode="edge")
    return np.stack([np.roll(frame, 4 * t, axis=1)[:, :128] for t in range(9)])


def frames_of(path: Path) -> np.ndarray:
    """All frames of a result, (f, h, w, 3) uint8."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path).convert("RGB"))[None]
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


# -- the pipeline
def of_pipeline() -> Iterator[tuple[str, np.ndarray]]:
    from pyramid import PyramidFlowPipeline

    pipe = PyramidFlowPipeline.from_pretrained("embedded")
    pipe.set_progress_bar_config(disable=True)
    given = {
        "picture": {"image": Image.fromarray(picture())},
        "clip": {"video": list(clip()), "num_frames": 25},
    }
    for name, changes in {**CASES, **given, "three": {}}.items():
        asked = {"seed": SEED, **STEPS, **changes}
        prompt = list(PROMPTS) if name == "three" else PROMPT
        latents = pipe(prompt, output_type="latent", **asked).frames
        yield f"{name}/latents", latents.float().numpy()
        yield f"{name}/frames", pipe(prompt, output_type="np", **asked).frames
    stop, units = threading.Event(), []
    asked = {"seed": SEED, "stop": stop, **STEPS}
    before_inputs = not hasattr(pipe, "request")  # on code in which `stream` took the arguments of a call
    for event in (
        pipe.stream(PROMPT, **asked) if before_inputs else pipe.stream(*pipe.request(PROMPT, **asked))
    ):
        if type(event).__name__ == "Unit":
            units.append(event)
            stop.set() if event.index == 1 else None
    yield "stopped/latents", np.concatenate([unit.latents.numpy() for unit in units], axis=2)
    yield "resumed/frames", pipe(PROMPT, seed=SEED, finished=units, output_type="np", **STEPS).frames


# -- the command line
def flags(changes: dict) -> list[str]:
    names = {
        "num_inference_steps": "steps",
        "video_num_inference_steps": "video-steps",
        "guidance_scale": "guidance",
        "video_guidance_scale": "video-guidance",
    }
    words = []
    for name, value in ({"seed": SEED} | STEPS | changes).items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words += [f"--{names.get(name, name.replace('_', '-'))}", text]
    return words


def run(*words: str | Path) -> Path:
    """A command of the program; the path that it prints last."""
    done = subprocess.run(
        [sys.executable, "-m", "pyramid", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    if done.returncode:
        raise RuntimeError(f"{words}: exit code {done.returncode}\n{done.stderr}")
    return Path(done.stdout.splitlines()[-1])


def of_command_line(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    image, video = files(folder)
    given = {"picture": {"image": image}, "clip": {"video": video, "num_frames": 25}}
    for name, changes in {**CASES, **given}.items():
        path = run("generate", "--prompt", PROMPT, *flags(changes), "--output", folder / name)
        yield f"{name}/frames", frames_of(ROOT / path)
    yield from stopped_and_resumed(folder / "stopped")
    lines = [json.dumps({"prompt": prompt, "seed": SEED + n} | STEPS) for n, prompt in enumerate(PROMPTS)]
    (folder / "three.jsonl").write_text("\n".join(lines))
    run("batch", folder / "three.jsonl", "--output-dir", folder / "three")
    for n, path in enumerate(sorted((folder / "three").glob("*.mp4"))):
        yield f"three/{n}/frames", frames_of(path)


def stopped_and_resumed(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    command = [
        sys.executable,
        "-m",
        "pyramid",
        "generate",
        "--prompt",
        PROMPT,
        *flags(LONG),
        "--output",
        folder,
    ]
    process = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    second = wait_for(lambda: next(iter(folder.glob(".*.units/unit-001.safetensors")), None))
    process.send_signal(signal.SIGINT)
    process.wait(WAIT)
    for n in range(2):
        yield f"stopped/unit {n}", load_file(second.with_name(f"unit-{n:03}.safetensors"))["latents"]
    yield "resumed/frames", frames_of(ROOT / run("resume", second.parent))


def files(folder: Path) -> tuple[Path, Path]:
    """The picture and the clip as files."""
    import imageio_ffmpeg

    folder.mkdir(parents=True, exist_ok=True)
    image, video = folder / "picture.png", folder / "clip.mp4"
    Image.fromarray(picture()).save(image)
    writer = imageio_ffmpeg.write_frames(str(video), (128, 128), fps=8, quality=9, macro_block_size=8)
    writer.send(None)
    for frame in clip():
        writer.send(frame.tobytes())
    writer.close()
    return image, video


def wait_for(question, seconds: float = WAIT):
    """The first answer that is not false."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise TimeoutError(f"nothing came in {seconds} s")


# -- the endpoints
@contextmanager
def page_in(folder: Path) -> Iterator[int]:
    """The page at work, its results in a folder; the port that it listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), "--output-dir", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield port
    finally:
        page.send_signal(signal.SIGINT)
        page.wait(60)


class Asking:
    """A program that asks a page for videos."""

    token = "equality-of-all-arrays"

    def __init__(self, port: int, folder: Path):
        from gradio_client import Client

        self.client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=str(folder))

    def ask(self, prompt: str = PROMPT, changes: dict | None = None, seed: int = SEED, **uploads) -> str:
        """The job that makes it."""
        settings, token = STEPS | (changes or {}), self.token
        return self.client.predict(
            prompt, **uploads, seed=seed, settings=settings, token=token, api_name="/generate"
        )["id"]

    def state(self, job: str) -> dict:
        return self.client.predict(job, token=self.token, api_name="/status")

    def stop(self, job: str) -> None:
        self.client.predict(job, token=self.token, api_name="/stop")

    def result(self, job: str) -> np.ndarray:
        """The frames of a job, once it has ended."""

        def over():
            return (told := self.state(job))["state"] not in ("waiting", "running", "queued") and told

        told = wait_for(over)
        if not told["result"]:
            raise RuntimeError(f"{told['state']}: {told['error']}")
        found = told["result"]
        return frames_of(Path(found["path"] if isinstance(found, dict) else found))


def of_endpoints(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from gradio_client import handle_file

    image, video = files(folder)
    with page_in(folder / "page") as port:
        page = Asking(port, folder)
        jobs = {name: page.ask(changes=changes) for name, changes in CASES.items()}
        jobs["picture"] = page.ask(image=handle_file(str(image)))
        jobs["clip"] = page.ask(video=handle_file(str(video)), changes={"num_frames": 25})
        jobs |= {f"three/{n}": page.ask(prompt, seed=SEED + n) for n, prompt in enumerate(PROMPTS)}
        for name, job in jobs.items():
            yield f"{name}/frames", page.result(job)
        job = page.ask(changes=LONG)
        wait_for(lambda: page.state(job)["units_done"] >= 2)
        page.stop(job)
        page.result(job)
        units = next((folder / "page").rglob(f"*{job}*/unit-001.safetensors")).parent
        for n in range(2):
            yield f"stopped/unit {n}", load_file(units / f"unit-{n:03}.safetensors")["latents"]


# -- all
PARTS = {"pipeline": lambda _: of_pipeline(), "command line": of_command_line, "endpoints": of_endpoints}


def made(parts: list[str]) -> dict[str, np.ndarray]:
    """All arrays by name, told as they come."""
    arrays = {}
    with tempfile.TemporaryDirectory(prefix="equality-") as folder:
        os.environ["PYRAMID_CACHE"] = str(Path(folder) / "cache")
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        for part in parts:
            for name, array in PARTS[part](Path(folder) / part):
                print(f"{part}: {name} {array.shape}", file=sys.stderr, flush=True)
                arrays[f"{part}/{name}"] = np.ascontiguousarray(array)
    return arrays


def differences(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[str]:
    """A line for each array that is not the same, bit for bit."""
    lines = [
        f"{name}: only {'before' if name in before else 'after'}"
        for name in sorted(before.keys() ^ after.keys())
    ]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if old.shape != new.shape or old.dtype != new.dtype:
            lines.append(f"{name}: {old.dtype} {old.shape} before, {new.dtype} {new.shape} after")
        elif old.tobytes() != new.tobytes():
            lines.append(f"{name}: differs by up to {np.abs(old.astype(float) - new.astype(float)).max():g}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path, help="where the arrays are: .safetensors")
    parser.add_argument("--only", choices=PARTS, help="a part of the cases")
    args = parser.parse_args()
    arrays = made([args.only] if args.only else list(PARTS))
    if args.what == "record":
        save_file(arrays, args.file)
        print(f"{len(arrays)} arrays recorded in {args.file}")
        return 0
    before = load_file(args.file)
    if args.only:
        before = {name: array for name, array in before.items() if name.startswith(f"{args.only}/")}
    found = differences(before, arrays)
    print("\n".join(found) or f"{len(arrays)} arrays are equal, bit for bit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
