"""Measures of videos that need no model: for any folder, ours or others'.

    rows = measure_folder(Path("outputs"))           # name -> Measures
    rows["a-red-ball-7.mp4"].motion                  # pixels a frame, by optical flow

Flicker is how much the mean light jumps back and forth, consistency how alike neighboring frames are once
motion is taken out. Motion is the mean length of the flow from frame to frame, after Lucas and Kanade (1981):
least squares in windows of WINDOW pixels at a quarter, half and the whole of the size, from the coarsest on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import islice
from pathlib import Path

import numpy as np

from pyramid.media.files import of_file, videos_in
from pyramid.media.measure import LUMA, Look
from pyramid.media.video_reader import read_frames

WINDOW = 9
LEVELS = 3
SMALLEST = 3  # pixels of a side
MOST = 400  # frames of a video that are looked at, from its beginning


@dataclass(frozen=True)
class Measures:
    """Of one video; levels go from 0 to 255."""

    frames: float
    motion: float  # pixels from frame to frame
    consistency: float  # 1 less the mean difference after motion, as a share of the spread of light
    flicker: float  # levels: the mean size of the second difference of the mean light
    sharpness: float  # levels: the mean size of the Laplacian
    contrast: float  # levels: the standard deviation of light

    @classmethod
    def of(cls, frames: Iterable[np.ndarray]) -> "Measures":
        """Of frames, uint8 (h, w, 3), of which two are held at a time. Without a second frame there is no
        motion, and no flicker. ValueError for frames below SMALLEST pixels.
        """
        looks: list[Look] = []
        lights: list[float] = []
        motion = [0.0]
        rest = [0.0]
        before: np.ndarray | None = None
        for frame in frames:
            if min(frame.shape[:2]) < SMALLEST:
                raise ValueError(f"{frame.shape[1]} × {frame.shape[0]} pixels are too few to be measured")
            light = frame.astype(np.float32) @ LUMA.astype(np.float32)
            looks.append(Look.of(frame[None]))
            lights.append(float(light.mean()))
            if before is not None:
                move = flow(before, light)
                motion.append(float(_inside(np.hypot(*move)).mean()))
                rest.append(float(_inside(np.abs(moved(light, move) - before)).mean()))
            before = light
        if not looks:
            raise ValueError("there are no frames")
        count = max(len(looks) - 1, 1)
        look = Look.mean(looks)
        jumps = np.abs(np.diff(lights, n=2))
        consistency = 1 - sum(rest) / count / max(look.contrast, 1e-6)
        flicker = float(jumps.mean()) if len(jumps) else 0.0
        return cls(len(looks), sum(motion) / count, consistency, flicker, look.sharpness, look.contrast)

    def told(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def mean_of(rows: Sequence[Measures]) -> Measures:
    """The mean of each measure."""
    return Measures(*(float(value) for value in np.mean([astuple(row) for row in rows], axis=0)))


def measure_folder(folder: Path, unread: dict[str, str] | None = None) -> dict[str, Measures]:
    """Of every video in a folder, by name. ValueError where there is none.

    What cannot be read is put into `unread`, name and reason, where that is given; else it is a ValueError,
    as it is where nothing can be read.
    """
    rows: dict[str, Measures] = {}
    lost: dict[str, str] = {}
    for path in videos_in(folder):
        try:
            rows[path.name] = Measures.of(frames_of_clip(path))
        except ValueError as error:
            lost[path.name] = str(error)
        except OSError as error:
            lost[path.name] = error.strerror or str(error)
    if lost and (unread is None or not rows):
        raise ValueError("; ".join(of_file(name, words) for name, words in lost.items()))
    if unread is not None:
        unread |= lost
    return rows


def frames_of_clip(path: Path) -> Iterator[np.ndarray]:
    """The first MOST frames of a video, uint8 (h, w, 3). ValueError where it cannot be read."""
    for frame in islice(read_frames(path), MOST):
        yield np.asarray(frame)


def read_clip(path: Path) -> np.ndarray:
    """The same as one array, (f, h, w, 3). ValueError where there is none."""
    frames = list(frames_of_clip(path))
    if not frames:
        raise ValueError(f"{path.name} has no frames")
    return np.stack(frames)


def _inside(values: np.ndarray) -> np.ndarray:
    """All but the edge, (h, w): what comes in there was not in the frame before."""
    edge = WINDOW if min(values.shape) >= 4 * WINDOW else 0
    return values[edge : values.shape[0] - edge, edge : values.shape[1] - edge]


# -- optical flow
def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far each pixel of `before` (h, w) has gone in `after`: (2, h, w), down and to the right."""
    levels = [(before, after)]
    while len(levels) < LEVELS and min(levels[-1][0].shape) >= 4 * WINDOW:
        a, b = levels[-1]
        levels.append((_half(a), _half(b)))
    move = np.zeros((2, *levels[-1][0].shape), np.float32)
    for a, b in reversed(levels):
        if move.shape[1:] != a.shape:
            move = 2 * _twice(move, a.shape)
        for _ in range(3):
            move = move + _step(a, moved(b, move))
    return move


def _step(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What is left of the motion from `a` to `b`, where that is small."""
    down, across = np.gradient((a + b) / 2)
    change = b - a
    yy = _mean(down * down) + 1.0
    xx = _mean(across * across) + 1.0
    xy = _mean(down * across)
    y = _mean(down * change)
    x = _mean(across * change)
    scale = yy * xx - xy * xy
    step = np.stack([xy * x - xx * y, xy * y - yy * x]) / scale
    return np.clip(step, -2, 2)


def moved(picture: np.ndarray, move: np.ndarray) -> np.ndarray:
    """The picture (h, w) as it was before it moved: read where each pixel has gone, linearly."""
    height, width = picture.shape
    y = np.clip(np.arange(height)[:, None] + move[0], 0, height - 1)
    x = np.clip(np.arange(width)[None] + move[1], 0, width - 1)
    top = np.minimum(y.astype(int), height - 2)
    left = np.minimum(x.astype(int), width - 2)
    v = y - top
    u = x - left
    upper = picture[top, left] * (1 - u) + picture[top, left + 1] * u
    lower = picture[top + 1, left] * (1 - u) + picture[top + 1, left + 1] * u
    return upper * (1 - v) + lower * v


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean in a window around each pixel."""
    half = WINDOW // 2
    for _ in (0, 1):  # along the rows, then, turned, along the columns
        sums = np.cumsum(np.pad(values, ((half + 1, half), (0, 0)), mode="edge"), axis=0, dtype=np.float64)
        values = ((sums[WINDOW:] - sums[:-WINDOW]) / WINDOW).T
    return values


def _half(x: np.ndarray) -> np.ndarray:
    h = x.shape[0] // 2 * 2
    w = x.shape[1] // 2 * 2
    return x[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3))


def _twice(move: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = (np.minimum(np.arange(n) // 2, m - 1) for n, m in zip(shape, move.shape[1:], strict=True))
    return move[:, rows[:, None], columns[None]]


NAMES = tuple(field.name for field in fields(Measures))
