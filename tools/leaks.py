"""Whether memory grows over runs: ten in one process with cancels and errors between,
then ten changes of model.

    python tools/leaks.py                          # the embedded model; minutes
    python tools/leaks.py --steps 1 --units 2      # quick

Prints the resident memory after each; it fails where the last is more than 2 % above the second.
"""

import argparse
import gc
import sys
import threading
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyramid.events import Preview
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.memory.ladder import free
from pyramid.memory.machine import keep_freed_memory
from pyramid.settings import frames_of

PROMPT = "a red ball moves to the right over a green meadow"


def resident() -> float:
    """MB of this process, after what nobody uses is gone."""
    free()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def run(pipe, number: int, request: dict) -> None:
    """One run: every third is cancelled in its second unit, every third fails there."""
    stop = threading.Event()

    def act(pipeline, step, timestep, kwargs):
        if step >= 4 and number % 3 == 1:
            stop.set()
        if step >= 4 and number % 3 == 2:
            raise RuntimeError("on purpose")

    try:
        events = list(
            pipe.stream(*pipe.request(PROMPT, seed=number, callback_on_step_end=act, stop=stop, **request))
        )
        assert any(isinstance(event, Preview) for event in events)
    except RuntimeError as error:
        assert str(error) == "on purpose"


def runs(request: dict, count: int) -> list[float]:
    pipe = PyramidFlowPipeline.from_pretrained("embedded")
    used = []
    for number in range(count):
        run(pipe, 0, request)  # a whole one each time, so that all are compared at the same point
        if number:
            run(pipe, 1, request)
            run(pipe, 2, request)
        used.append(resident())
    return used


def switches(request: dict, count: int) -> list[float]:
    """The model anew each time, in another type each second time, with a short run."""
    used = []
    for number in range(count):
        pipe = PyramidFlowPipeline.from_pretrained(
            "embedded", dtype=(torch.float32, torch.bfloat16)[number % 2]
        )
        run(pipe, 0, request | dict(num_frames=9))
        del pipe
        gc.collect()
        used.append(resident())
    return used


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--units", type=int, default=4)
    parser.add_argument("--count", type=int, default=10, help="runs, and changes of model; 3 or more")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    request = dict(
        num_frames=frames_of(args.units),
        num_inference_steps=[args.steps] * 3,
        video_num_inference_steps=[args.steps] * 3,
    )
    failed = False
    for name, measured in (("runs", runs(request, args.count)), ("switches", switches(request, args.count))):
        growth = max(measured[2:]) / max(measured[:2]) - 1
        failed |= growth > 0.02
        shown = " ".join(f"{value:.0f}" for value in measured)
        print(f"{name}: {shown} MB, {growth:+.1%} after the second", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
