"""In what this processor multiplies faster, float32 or bfloat16: measured once, and kept in the cache.

    prefers_bfloat16(processor_has_bfloat16())      # a tenth of a second, the first time on a machine

What a processor says of itself is believed unless the measurement contradicts it clearly: it may have
bfloat16, and a library that does not use it, or no word for a way in which it has it.
"""

import functools
import json
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyramid.disk import whole

BUDGET = 0.1  # seconds
CLEARLY = 1.3  # times as fast: less may be chance, and a change of dtype changes results
TOKENS, WIDTH, WIDE = 256, 256, 1024  # of the layer: as in a small model
DTYPES = ("float32", "bfloat16")


@functools.cache
def prefers_bfloat16(has: bool) -> bool:
    """Whether models should compute in bfloat16 on this processor, which says that it `has` it, or not."""
    seconds = layer_seconds()
    gain = seconds["float32"] / seconds["bfloat16"]
    return gain * CLEARLY >= 1 if has else gain >= CLEARLY


def layer_seconds() -> dict[str, float]:
    """Seconds of a layer in each of `DTYPES`, from the cache or measured now."""
    from pyramid.text.cache import cache_folder

    path, here = cache_folder() / "processor.json", key()
    known = _read(path)
    found = known.get(here)
    if isinstance(found, dict) and all(
        isinstance(found.get(name), float) and found[name] > 0 for name in DTYPES
    ):
        return {name: found[name] for name in DTYPES}
    measured = measure()
    _write(path, known | {here: measured})
    return measured


def key() -> str:
    """What the answer depends on: the processor, torch, and the instructions that it may use."""
    import torch

    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    return f"{_model()}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {allowed}"


def _model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure() -> dict[str, float]:
    """The fastest of several, in turns, by the clock of one thread, which stops while others compute."""
    import torch
    from torch.nn.functional import linear

    layers = {}
    for name in DTYPES:
        dtype = getattr(torch, name)
        layers[name] = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDE, WIDTH, dtype=dtype)
    best = dict.fromkeys(DTYPES, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for x, weight in layers.values():  # what is made once comes first
                linear(x, weight)
            began = time.thread_time()
            while time.thread_time() - began < BUDGET:
                for name, (x, weight) in layers.items():
                    before = time.thread_time()
                    linear(x, weight)
                    best[name] = min(best[name], time.thread_time() - before)
    finally:
        torch.set_num_threads(threads)
    return best


def _read(path: Path) -> dict[str, Any]:
    """What is kept; nothing where the file is damaged: it is measured again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, Any]) -> None:
    """Whole or not at all. A cache that cannot be written is no error: it is measured again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(json.dumps(known, indent=1), encoding="utf-8")
