"""Where two clips meet, in numbers: how far the pictures jump there, beside how far they move around it.

    seams = Seams()
    for frame in first: seams.add(frame)                # uint8 (h, w, 3)
    seams.cut()
    for frame in second: seams.add(frame)
    print(seams.end()[0])  # from frame to frame 9.1 levels, around it 3.0 (3.0 times): a jump that is seen
    strip(first, second).save("seam.webp")              # the last and the first pictures, a bar between them

A jump as large as the motion around it is not seen; one of several times that is a cut.
"""

from collections import deque
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np
from PIL import Image

from pyramid.media.measure import Look

SIDE = 9  # frames on each side that are compared: a unit, and one more for its steps
STILL = 0.5  # levels: below it nothing moves, and a jump is compared with that
SEEN = 2.0  # times the motion around it: a jump above that is seen
SHOWN = 3  # frames of each side in a picture of a seam
TALL = 120  # pixels: how high they are there, at most
BAR = (235, 120, 40)  # color of what stands between the two sides


@dataclass(frozen=True)
class Seam:
    """One place where clips meet; levels are of 0 to 255, means over all pixels and colors."""

    jump: float  # levels from the last frame before it to the first after it
    around: float  # levels from frame to frame on both sides, the median
    color: float  # levels between the mean colors of the two sides
    contrast: float  # of the second side, more or less than the first's, as a share
    sharpness: float  # likewise

    @property
    def ratio(self) -> float:
        """How often the jump has the motion around it."""
        return self.jump / max(self.around, STILL)

    @property
    def table(self) -> dict[str, Any]:
        """For what a file says of itself."""
        rounded = {name: round(value, 3) for name, value in asdict(self).items()}
        return rounded | {"ratio": round(self.ratio, 3)}

    def __str__(self) -> str:
        words = "a jump that is seen" if self.ratio > SEEN else "no more than what moves there"
        return (
            f"from frame to frame {self.jump:.1f} levels, around it {self.around:.1f} "
            f"({self.ratio:.1f} times): {words}; color {self.color:.1f} levels, "
            f"contrast {self.contrast:+.0%}, sharpness {self.sharpness:+.0%}"
        )


def seam(before: np.ndarray, after: np.ndarray) -> Seam:
    """The seam between two runs of frames, uint8 (f, h, w, 3) each, which show SIDE frames or fewer."""
    first, second = (np.asarray(frames).astype(np.float32) for frames in (before, after))
    steps = [
        float(np.abs(frames[index + 1] - frames[index]).mean())
        for frames in (first, second)
        for index in range(len(frames) - 1)
    ]
    looks = [Look.of(np.asarray(frames)) for frames in (before, after)]
    color = np.sqrt(np.mean(np.subtract(astuple(looks[1])[:3], astuple(looks[0])[:3]) ** 2))
    return Seam(
        float(np.abs(second[0] - first[-1]).mean()),
        float(np.median(steps)) if steps else 0.0,
        float(color),
        looks[1].contrast / max(looks[0].contrast, 1e-6) - 1,
        looks[1].sharpness / max(looks[0].sharpness, 1e-6) - 1,
    )


def strip(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """The last SHOWN frames of one side and the first of the other, in a row with a bar between the sides.

    uint8 (f, h, w, 3) each, of one size; fewer frames where a side has fewer.
    """
    sides = [[Image.fromarray(frame) for frame in frames] for frames in (before[-SHOWN:], after[:SHOWN])]
    for picture in (*sides[0], *sides[1]):
        picture.thumbnail((4 * TALL, TALL))
    width, height = sides[0][0].size
    gap = max(2, width // 24)
    whole = Image.new("RGB", (width * (len(sides[0]) + len(sides[1])) + 2 * gap, height), BAR)
    left = 0
    for pictures in sides:
        for picture in pictures:
            whole.paste(picture, (left, 0))
            left += width
        left += 2 * gap
    return whole


class Seams:
    """Measures the seams of clips that follow each other, as their frames go by. It holds a few frames."""

    def __init__(self) -> None:
        self.found: list[Seam] = []
        self._last: deque[np.ndarray] = deque(maxlen=SIDE)
        self._before: list[np.ndarray] = []  # of a seam that is not measured yet
        self._after: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        """One more frame, uint8 (h, w, 3)."""
        self._last.append(frame)
        if self._before:
            self._after.append(frame)
            if len(self._after) == SIDE:
                self._measure()

    def cut(self) -> None:
        """What comes now is another clip."""
        self._measure()
        self._before = list(self._last)
        self._last.clear()

    def end(self) -> list[Seam]:
        """All seams, in turn."""
        self._measure()
        return self.found

    def _measure(self) -> None:
        if self._before and self._after:
            self.found.append(seam(np.stack(self._before), np.stack(self._after)))
        self._before = []
        self._after = []
