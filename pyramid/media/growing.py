"""A clip that can be played while it is made: after each unit a new mp4 of all frames so far,
at full quality.

    with GrowingClip(folder, fps=24, size=(640, 384), told=show) as clip:
        clip.add(frames)                      # returns at once; `show(path)` is called when the new clip is
        there

Every unit is encoded once, as a piece that begins with a key frame; a new clip is the pieces put together,
which encodes nothing. Players may still read the clip before the latest, so that one stays; older ones are
removed.
"""

import logging
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np

from pyramid.disk import whole
from pyramid.media.files import ffmpeg, no_interrupts, words_of
from pyramid.media.video import QUALITY, encoding

log = logging.getLogger(__name__)
KEPT = 12  # pieces of a clip without an end: who comes late begins with the latest
FRAGMENT = ["-pix_fmt", "yuv420p", "-bf", "0", "-f", "mp4"]
FRAGMENT += ["-movflags", "frag_keyframe+empty_moov+default_base_moof"]
PIECE = ["-pix_fmt", "yuv420p", "-bf", "0", "-f", "h264"]  # in order: a stream needs no time stamps


class GrowingClip:
    """Encodes in a thread of its own: the device never waits for it.
    An encoder that fails ends only the clip.
    """

    def __init__(
        self,
        folder: Path,
        fps: float,
        size: tuple[int, int],
        told: Callable[[Path], None],
        quality: int = QUALITY,
    ):
        self.folder = folder
        self.fps = fps
        self.size = size
        self.told = told
        self.quality = quality
        self._waiting: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="growing clip", daemon=True)
        self._clips: list[Path] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._waiting.put(None)
        self._thread.join()

    def add(self, frames: np.ndarray) -> None:
        """The frames of another unit: uint8 (f, h, w, 3)."""
        self._waiting.put(frames)

    def _work(self) -> None:
        while (frames := self._waiting.get()) is not None:
            try:
                self._grow(frames)
            except OSError as error:
                log.warning("the clip cannot be shown while it grows: %s", error)
                return

    def _grow(self, frames: np.ndarray) -> None:
        stream = self.folder / "clip.h264"
        with stream.open("ab") as file:
            file.write(self._encode(frames))
        path = self.folder / f"clip-{len(self._clips) + 1:03d}.mp4"
        source = ["-f", "h264", "-framerate", str(self.fps), "-i", str(stream)]
        with whole(path) as part:
            _run([*source, "-c", "copy", "-movflags", "+faststart", "-f", "mp4", str(part)])
        self._clips.append(path)
        self.told(path)
        if len(self._clips) > 2:
            # Windows refuses it while a browser still reads the clip: the folder goes with the job.
            with suppress(PermissionError):
                self._clips[-3].unlink(missing_ok=True)

    def _encode(self, frames: np.ndarray, form: Sequence[str] = PIECE) -> bytes:
        """A piece of H.264 that begins with a key frame."""
        width, height = self.size
        codec, options = encoding(".mp4", self.quality)
        source = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {self.fps} -i -".split()
        return _run([*source, "-c:v", codec, *options, *form, "-"], frames.tobytes())


class StreamedClip(GrowingClip):
    """A clip without an end as pieces, one a unit, which a browser puts together as they come: piece n is
    `unit-00000n.mp4`, a fragmented mp4 that stands alone. Only the latest KEPT are there.
    """

    def _grow(self, frames: np.ndarray) -> None:
        path = self.folder / f"unit-{len(self._clips):06d}.mp4"
        with whole(path) as part:
            part.write_bytes(self._encode(frames, FRAGMENT))
        self._clips.append(path)
        self.told(path)
        if len(self._clips) > KEPT:
            with suppress(PermissionError):
                self._clips[-KEPT - 1].unlink(missing_ok=True)


def _run(arguments: list[str], data: bytes = b"") -> bytes:
    """What ffmpeg writes to its output. OSError with its own words when it fails."""
    with no_interrupts():
        process = subprocess.Popen(
            [ffmpeg(), "-v", "error", "-y", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    written, words = process.communicate(data)
    if process.returncode:
        raise OSError(words_of(words.decode(errors="replace")) or f"ffmpeg ended with {process.returncode}")
    return written
