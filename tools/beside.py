"""How long a clip takes on this machine as it is, beside busy programs, beside another clip, and in float32.

    python tools/beside.py              # what the README's clip takes, and by how much longer than in quiet
    python tools/beside.py --frames 9   # a shorter one
    python tools/beside.py --variant 128p-fast --busy 1,2,4

The quiet case means something only where nothing else runs; the load at the start is printed. Programs beside
are loops of Python, as many as are asked for, on all cores. "as AVX2" has oneDNN, MKL and torch use AVX2
alone: an emulation, as this processor may be faster or slower at it than one that has no more. A case is a
process of its own that makes a clip to warm up, and then three of which the middle one counts. "used" is what
it took of all processors: less than the time in all is what the others left it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red ball moves to the right over a green meadow"
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
CLIPS = 3


def child(variant: str, frames: int, dtype: str) -> None:
    """Load, warm up, wait for a line, make clips; a line of JSON with the seconds of each."""
    sys.path.insert(0, str(ROOT))
    from pyramid.memory.threads import wait_briefly

    wait_briefly()
    from pyramid.events import Finished
    from pyramid.generate.loaded import ModelHolder
    from pyramid.generate.request import Inputs
    from pyramid.hub.checkpoints import find
    from pyramid.settings import Settings

    asked = {"prompt": PROMPT, "seed": 7, "num_frames": frames, "dtype": dtype, "device": "cpu"}
    settings = Settings.for_model("embedded", variant, find("embedded", variant).defaults, **asked)
    loaded = ModelHolder().bring(settings)

    def make() -> dict[str, float]:
        used = time.process_time()
        *_, last = loaded.stream(settings, Inputs())
        assert isinstance(last, Finished)
        dtype = str(loaded.pipeline.transformer.dtype).removeprefix("torch.")
        return last.seconds | {"dtype": dtype, "processor": time.process_time() - used}

    make()
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([make() for _ in range(CLIPS)]), flush=True)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many other programs that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def clips(args: argparse.Namespace, count: int = 1, dtype: str = "auto", **environment: str) -> list[dict]:
    """The middle clip of each of `count` processes that make theirs at once."""
    command = [sys.executable, __file__, "--child", args.variant, str(args.frames), dtype]
    here = os.environ | environment
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=here) for _ in range(count)]
    for process in running:
        assert process.stdout and process.stdout.readline() == "ready\n", "the clip could not be made"
    for process in running:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    made = [json.loads(process.communicate()[0]) for process in running]
    return [middle(each) for each in made]


def middle(made: list[dict]) -> dict:
    """The clip that took neither longest nor shortest."""
    return sorted(made, key=lambda clip: clip["total"])[len(made) // 2]


def show(name: str, made: list[dict], quiet: float, goal: float | None) -> None:
    worst = max(made, key=lambda clip: clip["total"])
    ratio = worst["total"] / quiet
    seconds = "".join(f"{worst[phase]:9.2f}" for phase in ("total", "sample", "decode", "processor"))
    told = f"{name:24}{worst['dtype']:10}{seconds}"
    kept = "yes" if goal is not None and ratio <= goal else "NO"
    aim = "" if goal is None else f"   at most {goal:.2f}: {kept}"
    print(f"{told}{ratio:8.2f}{aim}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--variant", default="128p")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--busy", default="1,2", help="numbers of programs beside")
    parser.add_argument("--without-float32", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], int(args.child[1]), args.child[2])
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{args.variant}, {args.frames} frames, {os.cpu_count()} processors, load {load} at the start")
    print(f"{'case':24}{'dtype':10}{'in all':>9}{'sampling':>9}{'decode':>9}{'used':>9}{'ratio':>8}")
    alone = clips(args)
    quiet = alone[0]["total"]
    show("quiet", alone, quiet, None)
    for count in (int(number) for number in args.busy.split(",")):
        with busy(count):
            time.sleep(0.5)
            show(f"beside {count} busy", clips(args), quiet, (1 + count / 2) * 1.3)
    show("two clips at once", clips(args, 2), quiet, 2.2)
    if not args.without_float32:
        show("float32", clips(args, dtype="float32"), quiet, None)
        show("float32, as AVX2", clips(args, dtype="float32", **AVX2), quiet, 2.5)


if __name__ == "__main__":
    main()
