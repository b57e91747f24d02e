"""Registration: how one picture became another, by a zoom about the middle and a shift (numpy and Pillow).

register(clip[0], clip[-1])                  # Move(zoom=1.0, right=-0.31, down=0.0), of the picture
register(clip[0], clip[-1]).camera           # "pan right"
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 64  # pixels at which frames are registered
ZOOMS = np.exp(np.linspace(-0.7, 0.7, 29))  # 0.5 … 2
FURTHEST = 0.6  # of the width
LEAST_OVERLAP = 0.3  # of the frame
LEAST_ZOOM = 0.1
LEAST_PAN = 0.05


@dataclass(frozen=True)
class Move:
    """How a picture moved: it became `zoom` times larger about its middle, and went right and down by so much
    of its width.
    """

    zoom: float
    right: float
    down: float
    score: float = 1.0  # correlation where both are seen

    @property
    def camera(self) -> str | None:
        """The camera's move: one that pans right sends the picture to the left. None: it stands still."""
        zoom = math.log(self.zoom)
        pan = max(abs(self.right), abs(self.down))
        if abs(zoom) > LEAST_ZOOM and abs(zoom) > pan:
            return "zoom in" if zoom > 0 else "zoom out"
        if pan < LEAST_PAN:
            return None
        if abs(self.right) >= abs(self.down):
            return "pan left" if self.right > 0 else "pan right"
        return "tilt up" if self.down > 0 else "tilt down"

    def along(self, camera: str) -> float:
        """How far it went in a camera's direction, negative for the other way."""
        kind, way = camera.split()
        if kind == "zoom":
            return math.log(self.zoom) * (1 if way == "in" else -1)
        return {"left": self.right, "right": -self.right, "up": self.down, "down": -self.down}[way]


def register(first: np.ndarray, last: np.ndarray) -> Move:
    """The move that takes the first frame to the last, uint8 (h, w, 3): the zoom and the shift at which they
    correlate best, over all that both show.
    """
    before = _gray(first)
    after = _gray(last)
    best = Move(1.0, 0.0, 0.0, score=-1.0)
    for zoom in ZOOMS:
        picture, mask = _zoomed(before, zoom)
        scores = _correlations(picture, mask, after)
        y, x = np.unravel_index(scores.argmax(), scores.shape)
        if scores[y, x] > best.score + 1e-3:
            middle = SIDE  # where a shift of nothing lies
            best = Move(float(zoom), (x - middle) / SIDE, (y - middle) / SIDE, float(scores[y, x]))
    return best


def _gray(frame: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(frame).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.float64) / 255


def _zoomed(picture: np.ndarray, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """The picture about its middle at another size, and where it is seen."""
    half = SIDE / zoom / 2
    box = (SIDE / 2 - half, SIDE / 2 - half, SIDE / 2 + half, SIDE / 2 + half)
    method = Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
    moved = Image.fromarray(picture.astype(np.float32)).transform((SIDE, SIDE), *method)
    seen = Image.fromarray(np.ones_like(picture, np.float32)).transform((SIDE, SIDE), *method)
    mask = np.asarray(seen, np.float64) > 0.99
    return np.asarray(moved, np.float64) * mask, mask.astype(np.float64)


def _correlations(picture: np.ndarray, mask: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Pearson's correlation over what both show, for each shift of `picture`; index `SIDE` is no shift.

    By Fourier transforms of masked pictures (Padfield, 2012, "Masked object registration").
    """
    shape = (2 * SIDE, 2 * SIDE)

    def transformed(values: np.ndarray) -> np.ndarray:
        return np.fft.rfft2(values, shape)

    def overlap(still: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """For each shift of the second, the sum of the products."""
        return np.fft.fftshift(np.fft.irfft2(still * np.conj(moving), shape))

    whole = transformed(np.ones_like(after))
    seen = transformed(mask)
    a = transformed(picture)
    a_squared = transformed(picture**2)
    b = transformed(after)
    b_squared = transformed(after**2)
    count = np.maximum(overlap(whole, seen), 1e-9)
    mean_a = overlap(whole, a) / count
    mean_b = overlap(b, seen) / count
    covariance = overlap(b, a) / count - mean_a * mean_b
    spread = (overlap(whole, a_squared) / count - mean_a**2) * (overlap(b_squared, seen) / count - mean_b**2)
    scores = covariance / np.sqrt(np.maximum(spread, 1e-8))
    shifts = np.abs(np.arange(2 * SIDE) - SIDE)
    near = np.maximum.outer(shifts, shifts) <= FURTHEST * SIDE
    return np.where(near & (count >= LEAST_OVERLAP * SIDE**2), scores, -1.0)
