"""A clip whose end meets its beginning, from the frames that are there: nothing new is made.

    path, seam = loop(Path("outputs/a-ball-7.mp4"), "fade", frames=8)
    print(seam)                                        # how its end meets its beginning now
    meeting(Path("outputs/a-ball-7.mp4"), "back")      # how it would, and what that looks like

"fade": the last frames dissolve into the first ones, which then are shown there only: two pictures lie over
each other for that long. "back": forwards, then backwards, so it turns round at both ends. A model that makes
a clip unit by unit from its past knows no future: a loop whose motion closes by itself is not to be had so.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyramid.media.files import beside
from pyramid.media.finish import opened
from pyramid.media.result import metadata_of
from pyramid.media.seam import SIDE, Seam, seam, strip
from pyramid.media.video import QUALITY, VideoWriter
from pyramid.media.video_reader import sound_of
from pyramid.settings import SettingsError

HOWS = {  # how the end meets the beginning -> what it is for people
    "fade": "the end dissolves into the beginning",
    "back": "forwards, then backwards",
}
FRAMES = 8  # of a dissolve


def loop(
    source: Path,
    how: str = "fade",
    target: Path | None = None,
    *,
    frames: int = FRAMES,
    quality: int = QUALITY,
    keep: str = "embed",
    tell: Callable[[str], Any] = lambda sentence: None,
) -> tuple[Path, Seam]:
    """Write `source` as a loop: its path, and how its end meets its beginning.

    `target`: the wanted name (.mp4, .webm, .gif), by default beside `source`. `frames`: of the dissolve; the
    loop is that much shorter. Raises ValueError for a clip that is too short, and for what cannot be read.
    """
    source = Path(source)
    _check(how, frames)
    target = Path(target) if target else beside(source, "-loop.mp4")
    metadata = metadata_of(source)
    fps, opening, rest = opened(source, metadata)
    first = np.asarray(opening)
    made = _made(first, rest, how, frames)
    ends = Ends()
    about = {"how": how} | ({"frames": frames} if how == "fade" else {})
    told = metadata | {"export": "loop", "loop": about, "source_file": source.name}
    if source.suffix.lower() != ".zip" and sound_of(source):
        tell(f"the sound of {source.name} is left out: it would not meet its beginning")
    with VideoWriter(
        target, fps, (first.shape[1], first.shape[0]), told, quality=quality, keep=keep
    ) as writer:
        for frame in made:
            writer.write(frame)
            ends.add(frame)
        met = seam(*ends.both)
        writer.metadata["loop"] |= {"seam": met.table}
    return writer.path, met


def meeting(source: Path, how: str = "fade", frames: int = FRAMES) -> tuple[Seam, Image.Image]:
    """How the end of a loop would meet its beginning, and a picture of it: see `seam.strip`. Nothing is
    written. Raises as `loop` does.
    """
    _check(how, frames)
    _, opening, rest = opened(source, metadata_of(source))
    ends = Ends()
    for frame in _made(np.asarray(opening), rest, how, frames):
        ends.add(frame)
    return seam(*ends.both), strip(*ends.both)


class Ends:
    """The first and the last SIDE frames of what goes by."""

    def __init__(self) -> None:
        self.first: list[np.ndarray] = []
        self.last: deque[np.ndarray] = deque(maxlen=SIDE)

    def add(self, frame: np.ndarray) -> None:
        self.last.append(frame)
        if len(self.first) < SIDE:
            self.first.append(frame)

    @property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """The last ones, and the first that follow them in a loop: (f, h, w, 3) each."""
        return np.stack(self.last), np.stack(self.first)


def _made(first: np.ndarray, rest: Iterator[Image.Image], how: str, frames: int) -> Iterator[np.ndarray]:
    """The frames of the loop of a clip that begins with `first`."""
    whole = chain([first], (np.asarray(picture) for picture in rest))
    return faded(whole, frames) if how == "fade" else there_and_back(whole, first.shape)


def _check(how: str, frames: int) -> None:
    """SettingsError for a loop that is none."""
    if how not in tuple(HOWS):  # whatever a program sends
        raise SettingsError("how", f"unknown loop {how!r}: choose from {', '.join(HOWS)}")
    if frames < 1:
        raise SettingsError("frames", f"{frames} frames: a dissolve has 1 or more")


def faded(frames: Iterator[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The frames without the first `count`, which the last `count` dissolve into. ValueError for fewer than
    twice as many and one.
    """
    first = [frame for _, frame in zip(range(count), frames, strict=False)]
    last: deque[np.ndarray] = deque()
    rest = 0
    for frame in frames:
        rest += 1
        last.append(frame)
        if len(last) > count:
            yield last.popleft()
    if rest <= count:
        raise ValueError(
            f"{len(first) + rest} frames are too few for a dissolve of {count}: it takes {2 * count + 1}, "
            "so ask for a shorter one"
        )
    for index, (old, new) in enumerate(zip(last, first, strict=True), 1):
        share = np.float32(index / (count + 1))
        mixed = old.astype(np.float32) * (1 - share) + new.astype(np.float32) * share
        yield mixed.round().astype(np.uint8)


def there_and_back(frames: Iterator[np.ndarray], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The frames, then those between the last and the first backwards. They wait in a file meanwhile."""
    with tempfile.TemporaryFile() as file:
        count = 0
        for frame in frames:
            file.write(frame.tobytes())
            count += 1
            yield frame
        size = int(np.prod(shape))
        for index in range(count - 2, 0, -1):
            file.seek(index * size)
            yield np.frombuffer(file.read(size), np.uint8).reshape(shape)
