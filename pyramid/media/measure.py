"""What frames are like, in numbers: color, contrast, sharpness; and how far a clip drifts from its beginning.

look = Look.of(frames)                # uint8 (f, h, w, 3)
drift = Drift()
for frames in units:
    drift.add(frames)
print(drift)                          # color 3.1 levels, contrast +4 %, sharpness -12 % against units 1 to 3
"""

from dataclasses import astuple, dataclass, field
from typing import Self

import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722])  # BT.709
FIRST = 3  # moving units that the later ones are compared with


@dataclass(frozen=True)
class Look:
    """Means over some frames, in levels of 0 to 255."""

    red: float
    green: float
    blue: float
    contrast: float  # the standard deviation of luma in a frame
    sharpness: float  # the mean size of its Laplacian

    @classmethod
    def of(cls, frames: np.ndarray) -> Self:
        """The look of frames, uint8 (f, h, w, 3)."""
        values = frames.astype(np.float32)
        light = values @ LUMA.astype(np.float32)  # f h w
        red, green, blue = (float(each) for each in values.mean((0, 1, 2)))
        return cls(
            red,
            green,
            blue,
            float(light.std((1, 2)).mean()),
            float(np.abs(laplacian(light)).mean()),
        )

    @classmethod
    def mean(cls, looks: "list[Look]") -> "Look":
        return cls(*(float(each) for each in np.mean([astuple(look) for look in looks], axis=0)))


def laplacian(light: np.ndarray) -> np.ndarray:
    """Four times a pixel less its neighbors: (…, h, w) -> (…, h - 2, w - 2)."""
    middle = light[..., 1:-1, 1:-1]
    across = light[..., 1:-1, :-2] + light[..., 1:-1, 2:]
    return 4 * middle - across - light[..., :-2, 1:-1] - light[..., 2:, 1:-1]


@dataclass
class Drift:
    """How far the last unit is from the first moving ones. It holds a few numbers a unit, and no frame."""

    looks: list[Look] = field(default_factory=list)

    def add(self, frames: np.ndarray) -> None:
        """The frames of one more unit, uint8 (f, h, w, 3). The first unit, a single frame, is left out."""
        if len(frames) > 1:
            self.looks.append(Look.of(frames))

    @property
    def first(self) -> Look:
        return Look.mean(self.looks[:FIRST])

    def at(self, index: int) -> tuple[float, float, float]:
        """Of a moving unit: color in levels away, contrast and sharpness as shares more or less."""
        look = self.looks[index]
        first = self.first
        color = np.sqrt(np.mean(np.subtract(astuple(look)[:3], astuple(first)[:3]) ** 2))
        contrast = look.contrast / max(first.contrast, 1e-6) - 1
        return float(color), contrast, look.sharpness / max(first.sharpness, 1e-6) - 1

    def table(self) -> list[list[float]]:
        """`at` of all moving units."""
        return [[round(value, 4) for value in self.at(index)] for index in range(len(self.looks))]

    def __str__(self) -> str:
        if not self.looks:
            return "nothing moves yet"
        color, contrast, sharpness = self.at(len(self.looks) - 1)
        return (
            f"color {color:.1f} levels, contrast {contrast:+.0%}, sharpness {sharpness:+.0%} against the "
            f"first {min(FIRST, len(self.looks))} moving units"
        )
