"""A finished clip larger and smoother: Lanczos or a learned model for the size, ffmpeg for frames between.

    finish(Path("outputs/a-ball-7.mp4"), Finish(upscale=2, smooth=2))        # outputs/a-ball-7-x2-smooth2.mp4
    preview(Path("outputs/a-ball-7.mp4"), Path("look.mp4"), Finish(4))      # a second of both, side by side

Lanczos and `minterpolate` do not know what the clip shows. Lanczos (a windowed sinc, the sharpest filter
that invents nothing) makes no detail; `minterpolate` moves blocks of pixels along estimated motion, and
blends where it finds none, so fast or occluded parts may smear. A learned model (`learned.py`, where its
packages are) makes edges that are likely. Frames of the clip itself stay as they are before they are
enlarged, and the original file is never touched.
"""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pyramid.media import learned
from pyramid.media.files import beside, ffmpeg, filtering, words_of
from pyramid.media.result import FASTEST, count_of, frames_of_result, metadata_of, pace_of, sound_for
from pyramid.media.video import QUALITY, VideoWriter
from pyramid.settings import SettingsError

UPSCALES = (1, 2, 4)  # times as wide and high
SMOOTHS = (1, 2, 4)  # times as many frames a second
BYS = ("lanczos", "learned")  # what enlarges
LARGEST = 7680 * 4320  # pixels of a frame that is made: 8K
SMALLEST = 16  # pixels of a side: two blocks, which minterpolate asks for
METHOD = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:mb_size=8"  # overlapped blocks of 8 pixels or fewer
AHEAD = 2  # frames that minterpolate looks ahead, and so withholds at the end
BESIDE = 360  # pixels: the height of each half of a preview, at most
WORDS = 24  # pixels: of the line under it
SECOND = 1.0  # that a preview shows
INK = (240, 236, 228)
Own = queue.SimpleQueue[np.ndarray | Exception | None]


@dataclass(frozen=True)
class Finish:
    """What is to be done. Raises SettingsError for other factors, where nothing is to be done, and for what
    is not installed.
    """

    upscale: int = 1
    smooth: int = 1
    by: str = "lanczos"

    def __post_init__(self):
        for name, choices in (("upscale", UPSCALES), ("smooth", SMOOTHS), ("by", BYS)):
            if (value := getattr(self, name)) not in choices:
                raise SettingsError(name, f"{name} = {value!r}: choose from {', '.join(map(str, choices))}")
        if self.upscale == self.smooth == 1:
            raise SettingsError("upscale", "neither larger nor smoother: choose 2 or 4 for one of them")
        if self.by_model and (install := learned.missing()):
            raise SettingsError("by", f"the learned model is not installed: {install}, or take lanczos")

    @property
    def by_model(self) -> bool:
        return self.by == "learned" and self.upscale > 1

    @property
    def name(self) -> str:
        """What a file's name says of it."""
        larger = f"x{self.upscale}{'-learned' * self.by_model}"
        parts = [larger] * (self.upscale > 1) + [f"smooth{self.smooth}"] * (self.smooth > 1)
        return "-".join(parts)

    @property
    def table(self) -> dict[str, Any]:
        """What a file says of it."""
        told: dict[str, Any] = {}
        if self.upscale > 1:
            told["upscale"] = {"factor": self.upscale, "by": learned.NAME if self.by_model else "Lanczos"}
        if self.smooth > 1:
            told["smooth"] = {"factor": self.smooth, "by": f"ffmpeg minterpolate {METHOD}"}
        return told

    def told(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """What a file says of it that is made of one with `metadata`: with what was done to that before."""
        return self.table | ({"earlier": metadata["finish"]} if "finish" in metadata else {})

    def check(self, size: tuple[int, int], fps: float) -> None:
        """SettingsError where what comes out is too large, or too fast, or frames are too small."""
        width, height = (side * self.upscale for side in size)
        if width * height > LARGEST:
            problem = f"{self.upscale} times as large is {width}×{height}: 8K is the most, so choose less"
            raise SettingsError("upscale", problem)
        if fps * self.smooth > FASTEST:
            problem = f"{self.smooth} times {fps:g} frames a second: {FASTEST:g} is the most, so choose less"
            raise SettingsError("smooth", problem)

        if self.smooth > 1 and min(size) < SMALLEST:
            problem = f"frames of {size[0]}×{size[1]}: both sides are {SMALLEST} or more for those between"
            raise SettingsError("smooth", problem)

    def larger(self, frame: np.ndarray) -> np.ndarray:
        """A frame, uint8 (h, w, 3), in its new size by Lanczos."""
        if self.upscale == 1:
            return frame
        height, width, _ = frame.shape
        size = (width * self.upscale, height * self.upscale)
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))

    def frames(self, frames: Iterator[np.ndarray], fps: float) -> Iterator[np.ndarray]:
        """Frames, uint8 (h, w, 3) at `fps`, as they become: n of them are (n - 1) · smooth + 1."""
        if self.smooth > 1:
            frames = smoothed(frames, fps, self.smooth)
        yield from learned.enlarged(frames, self.upscale) if self.by_model else map(self.larger, frames)


def finish(
    source: Path,
    asked: Finish,
    target: Path | None = None,
    *,
    quality: int = QUALITY,
    keep: str = "embed",
    tell: Callable[[str], Any] = lambda sentence: None,
) -> Path:
    """Write `source` larger and smoother, as `asked`; its new path.

    `target`: the wanted name (.mp4, .webm, .gif), by default beside `source`, as mp4. Sound goes along, and
    how it was finished is in what the file says of itself. Raises ValueError for what cannot be read or made.
    """
    source = Path(source)
    target = Path(target) if target else beside(source, f"-{asked.name}.mp4")
    metadata = metadata_of(source)
    fps, first, frames = opened(source, metadata)
    asked.check(first.size, fps)
    sound = sound_for(source, target.suffix.lower().lstrip("."), tell)
    size = (first.width * asked.upscale, first.height * asked.upscale)
    told = metadata | {"export": "finished", "finish": asked.told(metadata), "source_file": source.name}
    pictures = (np.asarray(picture) for picture in itertools.chain([first], frames))
    with VideoWriter(
        target, fps * asked.smooth, size, told, quality=quality, keep=keep, sound=sound
    ) as writer:
        for frame in asked.frames(pictures, fps):
            writer.write(frame)
    return writer.path


def preview(source: Path, target: Path, asked: Finish) -> Path:
    """Write a second from the middle of `source` as an mp4: as it is on the left, finished on the right.

    Both halves show the same part, pixel for pixel of the finished one where that is larger than BESIDE: the
    left one with its pixels as squares, each frame as long as it is.
    """
    metadata = metadata_of(source)
    fps, first, frames = opened(source, metadata)
    asked.check(first.size, fps)
    count = max(2, round(SECOND * fps) + 1)
    end = (count_of(source, fps) + count) // 2
    pictures = itertools.islice(itertools.chain([first], frames), max(end, count))
    # The last ones where the clip is shorter than it says.
    shown = list(deque((np.asarray(picture) for picture in pictures), maxlen=count))
    if asked.smooth > 1 and len(shown) < 2:
        raise ValueError(f"{source.name} is one picture: there is nothing between its frames")
    pairs = (
        _beside(shown[min(number // asked.smooth, len(shown) - 1)], frame, asked, fps)
        for number, frame in enumerate(asked.frames(iter(shown), fps))
    )
    pair = next(pairs)
    size = (pair.shape[1], pair.shape[0])
    with VideoWriter(target, fps * asked.smooth, size, {"export": "preview"}, keep="none") as writer:
        for each in itertools.chain([pair], pairs):
            writer.write(each)
    return writer.path


def opened(source: Path, metadata: dict[str, Any]) -> tuple[float, Image.Image, Iterator[Image.Image]]:
    """Frames a second, the first frame, and those after it. ValueError where there is none."""
    if source.suffix.lower() == ".png":
        raise ValueError(f"{source.name} is one picture: a clip can be finished")
    fps, info = pace_of(source, metadata)
    frames = frames_of_result(source, fps, info)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{source.name} has no pictures in it")
    return fps, first, frames


def _beside(before: np.ndarray, after: np.ndarray, asked: Finish, fps: float) -> np.ndarray:
    """A frame as it is, its pixels as squares, beside the same part of the finished one, with a word each."""
    height, width, _ = after.shape
    side = (min(height, BESIDE), min(width, BESIDE * 16 // 9))
    top, left = (height - side[0]) // 2, (width - side[1]) // 2
    large = before.repeat(asked.upscale, 0).repeat(asked.upscale, 1)
    parts = [part[top : top + side[0], left : left + side[1]] for part in (large, after)]
    gap = np.zeros((side[0], 4, 3), np.uint8)
    row = np.concatenate([parts[0], gap, parts[1]], axis=1)
    whole = Image.new("RGB", (row.shape[1], row.shape[0] + WORDS))  # with room for words under it
    whole.paste(Image.fromarray(row))
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(13)
    for at, words in (
        (8, f"now · {before.shape[1]}x{before.shape[0]} · {fps:g} fps"),
        (side[1] + 12, f"finished · {width}x{height} · {fps * asked.smooth:g} fps"),
    ):
        draw.text((at, side[0] + WORDS / 2), words, fill=INK, font=font, anchor="lm")
    return np.asarray(whole)


# -- frames between
def smoothed(frames: Iterator[np.ndarray], fps: float, factor: int) -> Iterator[np.ndarray]:
    """n frames, uint8 (h, w, 3), as (n - 1) · factor + 1: their own, and `factor` - 1 between each two.

    OSError when ffmpeg fails; what `frames` raises.
    """
    first = next(frames, None)
    if first is None:
        return
    own: Own = queue.SimpleQueue()  # frames that ffmpeg was given, then None, or what went wrong
    with _interpolator(first.shape, fps, factor) as process:
        threading.Thread(target=_feed, args=(process, first, frames, own), daemon=True).start()
        yield first
        _read(process, first.shape)  # like the first
        while True:
            made = [_read(process, first.shape) for _ in range(factor)]  # the last is like the next frame
            after = own.get()
            if isinstance(after, Exception):
                raise after
            if after is None:
                return
            if made[-1] is None:
                said = words_of(process.stderr.read().decode(errors="replace"))
                raise OSError(f"ffmpeg could not make the frames between: {said or 'it ended early'}")
            yield from (frame for frame in made[:-1] if frame is not None)
            yield after


def _interpolator(shape: tuple[int, ...], fps: float, factor: int) -> AbstractContextManager[Any]:
    """ffmpeg at work: raw frames in, raw frames out."""
    height, width, _ = shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    filters = f"format=yuv444p,minterpolate=fps={fps * factor:.6f}:{METHOD}"
    command = [ffmpeg(), "-v", "error", *raw, "-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "-"]
    return filtering([*command, "-vf", filters, *raw, "-"])


def _feed(process: Any, first: np.ndarray, frames: Iterator[np.ndarray], own: Own) -> None:
    """Give ffmpeg all frames, and the last AHEAD times more."""
    end: Exception | None = None
    frame = first
    with suppress(OSError, ValueError):  # it has ended: who reads finds out
        process.stdin.write(frame.tobytes())
        try:
            for frame in frames:
                own.put(frame)
                process.stdin.write(frame.tobytes())
        except ValueError as error:  # of what was to be read
            end = error
        for _ in range(AHEAD):
            process.stdin.write(frame.tobytes())
    with suppress(OSError):
        process.stdin.close()
    own.put(end)


def _read(process: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """The next frame of ffmpeg's, uint8 as `shape`; None where there is none."""
    content = process.stdout.read(int(np.prod(shape)))
    return np.frombuffer(content, np.uint8).reshape(shape) if len(content) == np.prod(shape) else None
