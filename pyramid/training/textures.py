"""Pictures that nobody took, to learn motion on: dead leaves, noise as natural pictures have it, drawings.

    picture = draw_texture(np.random.default_rng(0), side=256)         # uint8 (256, 256, 3)

Whoever copies a picture and moves it must not know it by heart, and there is no end of these. Dead leaves
(Lee, Mumford and Huang, 2001) are discs and boxes of all sizes that cover one another, 1/f noise has the
spectrum of photographs, and drawings are flat shapes before a shaded ground. numpy only.
"""

from __future__ import annotations

import numpy as np

from pyramid.training.world import SHAPES, distance


def draw_texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """One of the three kinds, or two of them blended: uint8 `(side, side, 3)`."""
    kinds = (dead_leaves, clouds, drawing)
    picture = kinds[rng.integers(3)](rng, side)
    if rng.random() < 0.3:
        other = kinds[rng.integers(3)](rng, side)
        share = rng.uniform(0.15, 0.5)
        picture = (1 - share) * picture + share * other
    return np.clip(picture, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, side: int, slope: float | None = None) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power of `slope`, about 1 as in photographs, in two
    or three correlated colors: float (side, side, 3) in 0…255.
    """
    slope = rng.uniform(1.0, 1.6) if slope is None else slope
    down, across = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    fall = np.maximum(np.hypot(down, across), 1 / side) ** -slope
    fields = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, side, side))) * fall, s=(side, side))
    fields = (fields - fields.mean((1, 2), keepdims=True)) / fields.std((1, 2), keepdims=True)
    mix = np.ones((3, 1)) * np.array([1.0, 0, 0]) + rng.uniform(0, 0.7) * rng.standard_normal((3, 3))
    colors = np.einsum("cf,fyx->yxc", mix, fields)
    return np.clip(rng.uniform(70, 185, 3) + rng.uniform(25, 60) * colors, 0, 255)


def dead_leaves(rng: np.random.Generator, side: int, count: int = 130) -> np.ndarray:
    """Shapes of all sizes, the later in front of the earlier, some of them rough: float (side, side, 3)."""
    picture = clouds(rng, side)
    rough = clouds(rng, side) - 128
    radii = np.sort(0.03 * side * (1 - rng.random(count)) ** -0.7)[::-1]  # few large ones, many small
    for radius in np.minimum(radii, 0.3 * side):
        _put(picture, rng, radius, ("ball", "square", "triangle")[rng.integers(3)], rough)
    return picture


def drawing(rng: np.random.Generator, side: int) -> np.ndarray:
    """A few shapes before a ground that is shaded from top to bottom: float (side, side, 3)."""
    top, bottom = rng.uniform(0, 255, (2, 3))
    share = np.linspace(0, 1, side)[:, None, None]
    picture = np.broadcast_to(top + share * (bottom - top), (side, side, 3)).copy()
    for _ in range(int(rng.integers(4, 25))):
        _put(picture, rng, side * rng.uniform(0.03, 0.22), SHAPES[rng.integers(len(SHAPES))], None)
    return picture


def _put(
    picture: np.ndarray, rng: np.random.Generator, radius: float, shape: str, rough: np.ndarray | None
) -> None:
    """A shape somewhere in the picture, turned, with an edge a pixel wide; `rough`: what is added to some."""
    side = len(picture)
    x, y = rng.uniform(0, side, 2)
    reach = int(radius * 1.5) + 2
    left, right = max(int(x) - reach, 0), min(int(x) + reach, side)
    above, below = max(int(y) - reach, 0), min(int(y) + reach, side)
    u = ((np.arange(left, right) + 0.5 - x) / radius)[None, :]
    v = ((np.arange(above, below) + 0.5 - y) / radius)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    turned = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    alpha = np.clip(0.5 - radius * distance(shape, *turned), 0, 1)[..., None]
    paint = rng.uniform(0, 255, 3)
    if rough is not None and rng.random() < 0.6:
        paint = paint + rng.uniform(0.2, 0.8) * rough[above:below, left:right]
    under = picture[above:below, left:right]
    picture[above:below, left:right] = under + alpha * (paint - under)
