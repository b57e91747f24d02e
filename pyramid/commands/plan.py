"""Plans and what they need, estimated and measured: `python -m pyramid plan`.

    python -m pyramid plan --model miniflux --variant 768p --seconds 5   # every plan for this machine
    python -m pyramid plan --measure  # a run of the chosen one, in a new process
    python -m pyramid plan --compare  # what each way saves, costs and changes

`--measure` runs one step a stage: the peak does not depend on their number. `--compare` loads the model in
one way after another and compares latents and frames with those of bfloat16, or whatever the device
computes in otherwise.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyramid.commands.terminal import screen
from pyramid.settings import DTYPES, MODELS, QUANTIZE, SAMPLERS, Settings, frames_for_seconds, shown

PROMPT = "a red ball moves to the right over a green meadow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pyramid plan`."""
    add = parser.add_argument
    add("--model", default="embedded", help=f"{', '.join(MODELS)}, a folder, or a repository")
    add("--variant", help="which of the model's transformers")
    add("--width", type=int, help="pixels")
    add("--height", type=int, help="pixels")
    add("--num-frames", type=int, help="1 + 8k frames")
    add("--seconds", type=float, help="length, in place of --num-frames")
    add("--dtype", choices=DTYPES, default="auto")
    add("--quantize", choices=QUANTIZE, default="none")
    add("--device", default="auto")
    add("--memory", default="auto", help="the plan to choose: auto, max, balanced, low, tiny, cpu")
    add("--measure", action="store_true", help="run the chosen plan in a new process, one step a stage")
    add("--compare", action="store_true", help="measure each way of saving memory on this model")
    add("--means", dest="compare", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--sheet", help="with --compare: a picture of what each sampler makes")
    add("--json", action="store_true")


def settings_from(args: argparse.Namespace) -> Settings:
    """The settings that the plan is for. ValueError where they cannot be used."""
    from pyramid.hub.checkpoints import find

    checkpoint = find(args.model, args.variant)
    start = Settings.for_model(
        args.model,
        checkpoint.variant,
        expects=checkpoint.defaults,
        prompt=PROMPT,
        seed=1,
        dtype=args.dtype,
        quantize=args.quantize,
        device=args.device,
    )
    changes = {name: getattr(args, name) for name in ("width", "height", "num_frames") if getattr(args, name)}
    if args.seconds:
        changes["num_frames"] = frames_for_seconds(args.seconds, start.fps)
    return replace(start, **changes).validate()


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    from pyramid.hub.checkpoints import find, verify
    from pyramid.memory.machine import Machine
    from pyramid.memory.plan import make_plan, plans

    asked = settings = settings_from(args)
    if args.measure or args.compare:
        settings = one_step(settings)
    checkpoint, machine = find(args.model, args.variant), Machine.here(settings.device)
    verify(checkpoint)
    every, chosen = (
        plans(checkpoint, settings, machine),
        make_plan(checkpoint, settings, machine, args.memory),
    )
    measured = peak(settings, chosen.name) if args.measure else None
    if args.json:
        print(
            json.dumps(
                {
                    "machine": asdict(machine),
                    "chosen": asdict(chosen),
                    "measured": measured,
                    "plans": [asdict(plan) for plan in every],
                },
                indent=2,
            )
        )
        return 0

    console = screen()
    console.print(plan_table(every, chosen, machine, settings, measured))
    console.print(f"{chosen.name}: {'; '.join(chosen.reasons)}", highlight=False)
    if args.compare:
        console.print(comparison(settings, chosen))
        console.print(sampler_table(asked, chosen, sheet=args.sheet))
    return 0


def one_step(settings: Settings) -> Settings:
    """One step a stage."""
    once = (1,) * settings.stages
    return replace(settings, num_inference_steps=once, video_num_inference_steps=once)


COLUMNS = (
    "plan",
    "fits",
    "card",
    "main memory",
    "of it files",
    "last unit",
    "dtype",
    "text",
    "transformer",
    "VAE",
)


def plan_table(every, chosen, machine, settings: Settings, measured: dict[str, float] | None):
    """All plans for the machine, as a rich table; beside the chosen one, what was measured."""
    from rich.table import Table

    free = f"{machine.free_ram / 1e9:.1f} GB of main memory free"
    if machine.free_vram:
        free = f"{machine.free_vram / 1e9:.1f} of {machine.total_vram / 1e9:.1f} GB on {machine.name}, {free}"
    table = Table(
        title=f"{settings.model}/{settings.variant}, {settings.width}×{settings.height}, "
        f"{settings.num_frames} frames; {free}"
    )
    for name in COLUMNS:
        table.add_column(name)
    for plan in every:
        e, mark = plan.estimate, "▸ " if plan.name == chosen.name else "  "
        table.add_row(
            mark + plan.name,
            "yes" if plan.fits else "no",
            *(size_shown(b) for b in (e.vram, e.ram, e.file)),
            f"{e.seconds:.1f} s",
            plan.transformer.dtype,
            words(plan.text),
            words(plan.transformer),
            f"tile {plan.tile or 'none'}, {'as units come' if plan.window else 'after sampling'}",
        )
        if measured and plan.name == chosen.name:
            table.add_row(
                "  measured",
                "",
                *(size_shown(measured[k]) for k in ("vram", "ram", "file")),
                f"{measured['last_unit']:.1f} s",
                f"estimate {e.ram / measured['ram'] - 1:+.0%}",
                style="bold",
            )
    return table


def size_shown(size: float) -> str:
    """Bytes for people."""
    return "–" if not size else f"{size / 1e9:.2f} GB"


def words(part) -> str:
    """Where a component is and how it comes there."""
    how = {
        "": "stays",
        "free": "goes after use",
        "go": "goes after use",
        "model": "comes whole",
        "block": "comes by blocks",
        "leaf": "comes by layers",
    }[part.offload]
    return f"{part.device} {how}" + (f", {part.quantized}" if part.quantized else "")


# -- peak memory


def memory_now() -> dict[str, int]:
    """Bytes of this process in main memory: "ram", and "file", the part mapped from files."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            table = dict(line.split(":", 1) for line in status)
        return {"ram": int(table["VmRSS"].split()[0]) * 1024, "file": int(table["RssFile"].split()[0]) * 1024}
    except (OSError, KeyError):  # not Linux
        import psutil

        return {"ram": psutil.Process().memory_info().rss, "file": 0}


@contextmanager
def watched(every: float = 0.01) -> Iterator[dict[str, int]]:
    """The most of each of `memory_now` while this lasts, and of "anon", looked at each `every` seconds."""
    most, over = {"ram": 0, "file": 0, "anon": 0}, threading.Event()

    def look() -> None:
        while True:
            now = memory_now()
            now["anon"] = now["ram"] - now["file"]
            most.update({name: max(most[name], now[name]) for name in most})
            if over.wait(every):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def peak(settings: Settings, memory: str) -> dict[str, float]:
    """What a run of `settings` takes in a process of its own: bytes "vram", "ram", "file", "anon"; seconds.

    RuntimeError with the end of what the process said when it fails.
    """
    asked = json.dumps({"settings": settings.to_dict(), "memory": memory})
    done = subprocess.run(
        [sys.executable, "-m", "pyramid.commands.plan", asked],
        capture_output=True,
        text=True,
        env=os.environ | {"DIFFUSERS_VERBOSITY": "error"},
    )
    if done.returncode:
        raise RuntimeError(f"the run to be measured failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_watched(settings: Settings, memory: str) -> dict[str, float]:
    """The same in this process."""
    with watched() as most:
        from pyramid.events import Frames, Unit
        from pyramid.generate.loaded import load_for

        pipe, seconds, began = load_for(settings, memory), 0.0, time.perf_counter()
        for event in pipe.stream(settings):
            if isinstance(event, Unit):
                seconds, began = time.perf_counter() - began, time.perf_counter()
            elif isinstance(event, Frames):
                seconds, began = seconds + time.perf_counter() - began, time.perf_counter()
        assert pipe.plan
        vram = pipe.plan.transformer.place.peak_reserved()
    return {**most, "vram": vram, "last_unit": seconds}


# -- ways of saving memory


@dataclass(frozen=True)
class Way:
    """A way to need less memory, as changes of a plan. card: it has no effect, or does not run,
    without one.
    """

    name: str
    changes: dict[str, dict[str, Any] | int]
    card: bool = False

    def apply(self, plan):
        parts = {
            key: replace(getattr(plan, key), **value) if isinstance(value, dict) else value
            for key, value in self.changes.items()
        }
        return replace(plan, **parts)


WAYS = (
    Way("float32", {key: {"dtype": "float32"} for key in ("text", "transformer", "vae")}),
    Way("text int8", {"text": {"quantized": "int8"}}),
    Way("text nf4", {"text": {"quantized": "nf4"}}),
    Way("transformer fp8 storage", {"transformer": {"quantized": "fp8"}}),
    Way("transformer int8", {"transformer": {"quantized": "int8"}}, card=True),
    Way("transformer nf4", {"transformer": {"quantized": "nf4"}}, card=True),
    Way("VAE tiles, as units come", {"tile": 0, "window": 1}),
    Way("VAE tiles, after sampling", {"tile": 0, "window": 0}),
    Way("model offload", {"transformer": {"offload": "model"}, "vae": {"offload": "model"}}, card=True),
    Way(
        "group offload by blocks",
        {"transformer": {"offload": "block"}, "vae": {"offload": "leaf"}},
        card=True,
    ),
    Way(
        "group offload by layers", {"transformer": {"offload": "leaf"}, "vae": {"offload": "leaf"}}, card=True
    ),
)


@dataclass(frozen=True)
class Measured:
    """Of one way: bytes of weights (text encoders, transformer, VAE), of the decoder's caches, seconds;
    results.
    """

    weights: int
    decoding: int
    vram: int
    seconds: float
    latents: Any
    frames: Any


def bytes_of(model) -> int:
    """Bytes of a model's weights, as they lie in memory."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def measure(settings: Settings, plan, checkpoint) -> Measured:
    """A run with `plan`. Nothing comes from the cache of embeddings, so that the text encoders work too."""
    import tempfile

    import numpy as np

    from pyramid.events import Finished, Frames
    from pyramid.generate.loaded import load_pipeline
    from pyramid.memory.device import empty_caches

    gc.collect()  # what the way before this one had on the card
    empty_caches()
    pipe, frames, encoders = load_pipeline(checkpoint, plan), [], []
    plan.transformer.place.reset_peak()
    with tempfile.TemporaryDirectory() as folder:
        pipe.text.cache = Path(folder)
        read = pipe.text.load

        def load(part):
            encoders.append(read(part))
            return encoders[-1]

        pipe.text.load = load
        began = time.perf_counter()
        for event in pipe.stream(settings):
            if isinstance(event, Frames):
                frames.append(event.video)
            elif isinstance(event, Finished) and event.latents is not None:
                latents = event.latents.float().cpu()
        seconds = time.perf_counter() - began
    weights = sum(map(bytes_of, (*encoders, pipe.transformer, pipe.vae)))
    vram = plan.transformer.place.peak_allocated()
    return Measured(
        weights,
        decoding_bytes(settings, plan, checkpoint),
        vram,
        seconds,
        latents,
        np.concatenate(frames).astype(np.float32),
    )


def decoding_bytes(settings: Settings, plan, checkpoint) -> int:
    """Tensors alive in a decode by the estimate, which a test holds to the truth."""
    from pyramid.memory.estimate import Shape

    item = 4 if plan.vae.dtype == "float32" else 2
    return Shape.of(checkpoint, settings).decoding(item, plan.tile, window=plan.window)


def comparison(settings: Settings, plan):
    """Each way beside `plan` itself: memory, speed, error of the latents, likeness of the frames."""
    from rich.table import Table

    from pyramid.hub.checkpoints import find

    checkpoint, card = find(settings.model, settings.variant), plan.transformer.place.is_card
    plain = replace(plan, tile=None, window=1, text=replace(plan.text, quantized=""))
    settings = replace(settings, num_frames=min(settings.num_frames, 17))
    measure(settings, plain, checkpoint)  # what is slow the first time only
    base = measure(settings, plain, checkpoint)
    table = Table(
        title=f"beside {plain.transformer.dtype} on {plain.transformer.device}, {settings.num_frames} frames"
    )
    for name in ("way", "weights", "decoding", "time", "error of latents", "PSNR of frames"):
        table.add_column(name, justify="left" if name == "way" else "right")
    table.add_row("none", shown_mb(base.weights), shown_mb(base.decoding), "1.00", "–", "–")
    for way in WAYS:
        if way.card and not card:
            table.add_row(way.name, "needs a card")
            continue
        other = way.apply(plain)
        if other.tile == 0:
            other = replace(other, tile=max(settings.width, settings.height) // 2)
        there = measure(settings, other, checkpoint)
        table.add_row(
            way.name,
            shown_mb(there.weights),
            shown_mb(there.decoding),
            f"{there.seconds / base.seconds:.2f}",
            f"{relative(there.latents, base.latents):.2%}",
            f"{psnr(there.frames, base.frames):.1f} dB",
        )
    return table


def sampler_rows(settings: Settings) -> list[Settings]:
    """The samplers, with the model's steps and with half of them; first, what all are measured against."""
    steps = settings.num_inference_steps, settings.video_num_inference_steps
    rows = []
    for share, samplers in ((2.5, ("multistep",)), (1, SAMPLERS), (0.5, SAMPLERS)):
        first, later = (tuple(max(2, round(share * n)) for n in counts) for counts in steps)
        for sampler in samplers:
            rows.append(
                replace(settings, sampler=sampler, num_inference_steps=first, video_num_inference_steps=later)
            )
    return rows


def sampler_table(settings: Settings, plan, sheet: str | Path | None = None):
    """Each sampler beside a far finer grid of steps: evaluations, time, error of the latents, likeness.

    sheet: a picture to write, a row of frames for each.
    """
    from rich.table import Table

    from pyramid.hub.checkpoints import find

    checkpoint = find(settings.model, settings.variant)
    settings = replace(settings, num_frames=min(settings.num_frames, 17))
    rows = sampler_rows(settings)
    made = [measure(each, plan, checkpoint) for each in rows]
    table = Table(title=f"samplers, beside {rows[0].sampler} with {shown(rows[0].num_inference_steps)} steps")
    for name in ("sampler", "steps", "evaluations", "time", "error of latents", "PSNR of frames"):
        table.add_column(name, justify="left" if name == "sampler" else "right")
    exact, usual = made[0], made[1]
    for asked, there in zip(rows, made, strict=True):
        itself = there is exact
        table.add_row(
            asked.sampler,
            steps_shown(asked),
            str(sum(sum(asked.evaluations(unit)) for unit in range(asked.units))),
            f"{there.seconds / usual.seconds:.2f}",
            "–" if itself else f"{relative(there.latents, exact.latents):.2%}",
            "–" if itself else f"{psnr(there.frames, exact.frames):.1f} dB",
        )
    if sheet:
        write_sheet(sheet, [there.frames for there in made])
    return table


def steps_shown(settings: Settings) -> str:
    """The steps of the first frame, and those of later units where they differ."""
    first, later = settings.num_inference_steps, settings.video_num_inference_steps
    return shown(first) if first == later else f"{shown(first)}; {shown(later)}"


def write_sheet(path: str | Path, clips: list[Any], columns: int = 6) -> None:
    """Clips, (f, h, w, 3) in 0…255, as rows of a picture."""
    import numpy as np
    from PIL import Image

    places = np.linspace(0, len(clips[0]) - 1, min(columns, len(clips[0]))).round().astype(int)
    rows = [np.concatenate(list(clip[places]), axis=1) for clip in clips]
    Image.fromarray(np.concatenate(rows).astype(np.uint8)).save(path)


def shown_mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e9 else size_shown(size)


def relative(a, b) -> float:
    """‖a − b‖ / ‖b‖."""
    return float((a - b).norm() / b.norm())


def psnr(a, b) -> float:
    """Peak signal to noise ratio of frames in 0…255, in dB; infinite for equal ones."""
    import numpy as np

    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


if __name__ == "__main__":  # the process that `peak` starts
    asked = json.loads(sys.argv[1])
    print(json.dumps(run_watched(Settings.from_dict(asked["settings"]), asked["memory"])))
