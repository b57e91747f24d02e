"""What a run takes, measured: bytes by kind and seconds, in a process of its own or beside another way.

    peak(settings, "low")                      # bytes "vram", "ram", "file", "anon"; seconds
    measure(settings, plan, checkpoint)        # of weights and caches, with latents and frames to compare
    for way in WAYS: way.apply(plan)           # the ways of saving memory

Importing this loads no torch: that comes with the first run.
"""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pyramid.settings import Settings

# -- a run in a process of its own


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
    most = {"ram": 0, "file": 0, "anon": 0}
    over = threading.Event()

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
        [sys.executable, "-m", "pyramid.generate.footprint", asked],
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
        from pyramid.generate.loaded import ModelHolder

        pipe = ModelHolder().bring(settings, memory).pipeline
        seconds = 0.0
        began = time.perf_counter()
        for event in pipe.stream(settings):
            if isinstance(event, Unit):
                seconds = time.perf_counter() - began
                began = time.perf_counter()
            elif isinstance(event, Frames):
                seconds += time.perf_counter() - began
                began = time.perf_counter()
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

    import numpy as np

    from pyramid.events import Finished, Frames
    from pyramid.generate.loaded import load_pipeline
    from pyramid.memory.device import empty_caches

    gc.collect()  # what the way before this one had on the card
    empty_caches()
    pipe = load_pipeline(checkpoint, plan)
    frames: list[Any] = []
    encoders: list[Any] = []
    plan.transformer.place.reset_peak()
    pipe.text.cache = False
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
    decoding = decoding_bytes(settings, plan, checkpoint)
    vram = plan.transformer.place.peak_allocated()
    return Measured(weights, decoding, vram, seconds, latents, np.concatenate(frames).astype(np.float32))


def decoding_bytes(settings: Settings, plan, checkpoint) -> int:
    """Tensors alive in a decode by the estimate, which a test holds to the truth."""
    from pyramid.memory.estimate import Shape

    item = 4 if plan.vae.dtype == "float32" else 2
    return Shape.of(checkpoint, settings).decoding(item, plan.tile, window=plan.window)


if __name__ == "__main__":  # the process that `peak` starts
    asked = json.loads(sys.argv[1])
    print(json.dumps(run_watched(Settings.from_dict(asked["settings"]), asked["memory"])))
