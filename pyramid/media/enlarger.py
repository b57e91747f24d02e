"""The program behind `learned.py`: raw frames in, each larger by a model of sr-vulkan out.

    python -P enlarger.py MODEL FACTOR WIDTH HEIGHT < frames > larger

It imports nothing of ours, so it starts in a moment. A card with a Vulkan driver is used where there is one,
else all processors are. What libraries print goes to stderr; the last line there says what was wrong.
"""

import io
import os
import sys
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

SOFTWARE = "llvmpipe"  # a Vulkan driver that is no card: slower than the processor without it


def begun() -> Any:
    """sr-vulkan at work on a card, or on the processor. SystemExit where it is on neither."""
    from sr_vulkan import sr_vulkan

    found = sr_vulkan.init() >= 0
    cards = [name for name in sr_vulkan.getGpuInfo() or () if SOFTWARE not in name.lower()] if found else []
    how = (0,) if cards else (-1, sr_vulkan.getCpuCoreNum())
    if sr_vulkan.initSet(*how) != 0:
        sys.exit(f"sr-vulkan does not start: {sr_vulkan.getLastError()}")
    return sr_vulkan


def larger(program: Any, model: str, factor: int, frame: np.ndarray) -> np.ndarray:
    """A frame, uint8 (h, w, 3), `factor` times as wide and high. SystemExit where there is none."""
    picture = io.BytesIO()
    Image.fromarray(frame).save(picture, "PNG", compress_level=1)
    if program.add(picture.getvalue(), getattr(program, model), 1, float(factor), format="png") <= 0:
        sys.exit(str(program.getLastError()))
    found = program.load(0)  # waits for it
    if not found or not found[0]:
        sys.exit(str(program.getLastError()))
    with Image.open(io.BytesIO(found[0])) as made:
        return np.asarray(made.convert("RGB"))


def run(model: str, factor: int, shape: tuple[int, int, int], source: BinaryIO, target: BinaryIO) -> None:
    """All frames of `source`, one after the other."""
    program = begun()
    size = int(np.prod(shape))
    while len(content := source.read(size)) == size:
        made = larger(program, model, factor, np.frombuffer(content, np.uint8).reshape(shape))
        target.write(made.tobytes())
        target.flush()


if __name__ == "__main__":
    name, times, width, height = sys.argv[1:]
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries print where they like
    run(name, int(times), (int(height), int(width), 3), sys.stdin.buffer, frames)
    os._exit(0)  # its threads end with the process
