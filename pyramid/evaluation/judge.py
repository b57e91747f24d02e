"""The automatic judge: what a clip of the synthetic world shows, from its pixels alone (numpy and SciPy).

    verdict = judge(clip, World())        # Verdict(color="red", motion="right", shape="ball", present=1.0)

Backgrounds are constant along each row, so what differs from its row's median is the object. Its color is
the nearest one of the palette at any brightness, its motion comes from the path of its center and its size,
its shape is the template of greatest overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from pyramid.training.world import COLORS, World, distance

CONTRAST = 26.0  # of 255: the least difference from the row's median that counts as the object
LEAST_AREA = 0.004  # of the frame: a smaller spot is no object
TRAVEL = 0.15  # of the frame: the least way of an object that moves
RESIZE = 1.25  # least ratio of diameters of an object that grows
TEMPLATE = 48  # pixels
CHOSEN = 5  # frames in which the shape is looked at


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; None for what could not be told because no object was found."""

    color: str | None
    motion: str | None
    shape: str | None
    present: float  # share of the frames in which there is an object


def judge(clip: np.ndarray, world: World) -> Verdict:
    """Judge a clip, uint8 `(frames, h, w, 3)`, among the names of `world`."""
    masks = object_masks(clip)  # frames h w
    seen = masks.any(axis=(1, 2))
    present = float(seen.mean())
    if present < 0.5:
        return Verdict(None, None, None, present)
    clip = clip[seen]
    masks = masks[seen]
    return Verdict(
        color=_color(clip, masks, world.colors),
        motion=_motion(clip, masks, world.motions),
        shape=_shape(masks, world.shapes, turned="spin" in world.motions),
        present=present,
    )


def features(clip: np.ndarray, world: World) -> np.ndarray:
    """What a verdict is read from, float64 (d,): presence, ways and size, distances to the colors, overlaps
    with the shapes. Zeros where no object was found. For distances between sets of clips.
    """
    masks = object_masks(clip)  # frames h w
    seen = masks.any(axis=(1, 2))
    found = np.zeros(5 + len(world.colors) + len(world.shapes))
    found[0] = seen.mean()
    if found[0] >= 0.5:
        clip = clip[seen]
        masks = masks[seen]
        found[1:5] = _travel(masks)
        found[5 : 5 + len(world.colors)] = _color_distances(clip, masks, world.colors) / 255
        overlaps = _overlaps(masks, world.shapes, turned="spin" in world.motions)
        found[5 + len(world.colors) :] = overlaps / CHOSEN
    return found


def object_masks(clip: np.ndarray) -> np.ndarray:
    """Where the object is, bool `(frames, h, w)`: the largest connected spot of each frame, or nothing."""
    values = np.ascontiguousarray(np.moveaxis(clip, -1, 0))  # 3 frames h w
    middle = values.shape[-1] // 2
    medians = np.partition(values, middle, axis=-1)[..., middle, None].astype(np.int16)
    red, green, blue = np.abs(values - medians)
    difference = np.maximum(np.maximum(red, green), blue).astype(np.float32)
    spots = ndimage.uniform_filter(difference, (1, 3, 3)) > CONTRAST
    return np.stack([_largest(frame) for frame in spots])


def _largest(spots: np.ndarray) -> np.ndarray:
    """The largest connected spot of a mask, small holes filled;
    nothing when it is too small for an object.
    """
    labels, count = ndimage.label(spots)
    areas = np.bincount(labels.ravel(), minlength=2)[1:]
    if count == 0 or areas.max() < LEAST_AREA * spots.size:
        return np.zeros_like(spots)
    label = 1 + int(areas.argmax())
    window = ndimage.find_objects(labels)[label - 1]
    outside, _ = ndimage.label(np.pad(labels[window] != label, 1, constant_values=True))
    filled = (outside != outside[0, 0])[1:-1, 1:-1]
    mask = labels == label
    if filled.sum() < 1.06 * areas.max():  # the hole of a ring is part of its shape
        mask[window] = filled
    return mask


def _color(clip: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> str:
    """The palette's color nearest to the object's core, at the brightness that suits it best."""
    return names[int(_color_distances(clip, masks, names).argmin())]


def _color_distances(clip: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    cores = ndimage.minimum_filter(masks.astype(np.uint8), (1, 5, 5)).astype(bool)
    seen = np.median(clip[cores if cores.any() else masks].astype(np.float32), axis=0)

    def difference(name: str) -> float:
        color = np.array(COLORS[name], np.float32)
        scale = np.clip(seen @ color / (color @ color), 0.75, 1.2)
        return float(np.linalg.norm(seen - scale * color))

    return np.array([difference(name) for name in names])


def _motion(clip: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> str:
    """The motion, from the object's center and diameter in the first and the last frames."""
    right, down, size, climb = _travel(masks)
    found = "stay"
    if max(abs(right), abs(down)) >= TRAVEL:
        found = _direction(right, down)
    elif climb > 3 * TRAVEL:
        found = "bounce"
    elif size > RESIZE:
        found = "grow"
    elif size < 1 / RESIZE:
        found = "shrink"
    elif "spin" in names and _turns(clip, masks):
        found = "spin"
    return found if found in names else "stay"


def _travel(masks: np.ndarray) -> tuple[float, float, float, float]:
    """How far the object's center went to the right and down, the ratio of its diameters, and all ways up
    and down together; ways as shares of the frame.
    """
    height, width = masks.shape[1:]
    by_row = masks.sum(axis=2)
    by_column = masks.sum(axis=1)
    areas = by_row.sum(axis=1)
    y = by_row @ (np.arange(height) + 0.5) / areas / height
    x = by_column @ (np.arange(width) + 0.5) / areas / width
    right = x[-3:].mean() - x[:3].mean()
    down = y[-3:].mean() - y[:3].mean()
    size = np.sqrt(areas[-3:].mean() / areas[:3].mean())
    climb = np.abs(np.diff(ndimage.uniform_filter1d(y, 3))).sum()
    return float(right), float(down), float(size), float(climb)


def _direction(right: float, down: float) -> str:
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def _turns(clip: np.ndarray, masks: np.ndarray) -> bool:
    """Whether the object's looks change although it stays: outline and marks turn."""
    around = ndimage.binary_dilation(masks.any(axis=0), iterations=2)
    values = clip[:, around].astype(np.float32)
    change = np.abs(values[3:] - values[:-3]).max(axis=-1)
    return float((change > 40).mean()) > 0.04


def _shape(masks: np.ndarray, names: tuple[str, ...], *, turned: bool) -> str:
    """The shape whose template covers the object best (intersection over union), over five frames."""
    return names[int(_overlaps(masks, names, turned=turned).argmax())]


def _overlaps(masks: np.ndarray, names: tuple[str, ...], *, turned: bool) -> np.ndarray:
    """For each shape the sum of the best overlaps in CHOSEN frames."""
    chosen = np.linspace(0, len(masks) - 1, CHOSEN).round().astype(int)
    seen = np.stack([_normalized(mask) for mask in masks[chosen]])  # CHOSEN pixels

    def score(name: str) -> float:
        templates = _templates(name, turned)  # angles pixels
        both = seen @ templates.T  # CHOSEN angles
        either = seen.sum(axis=1)[:, None] + templates.sum(axis=1) - both
        return float((both / either).max(axis=1).sum())

    return np.array([score(name) for name in names])


@lru_cache
def _templates(shape: str, turned: bool) -> np.ndarray:
    """The shape upright and, where objects spin, at every 10 degrees: float32 (angles, pixels)."""
    side = 128
    across = (np.arange(side, dtype=np.float32) + 0.5 - side / 2) / 30  # in units of the radius
    angles = np.deg2rad(np.arange(0, 360 if turned else 1, 10))
    cos = np.cos(angles)[:, None, None]
    sin = np.sin(angles)[:, None, None]
    u, v = across[None, None, :], across[None, :, None]
    masks = distance(shape, cos * u + sin * v, cos * v - sin * u) < 0
    return np.stack([_normalized(mask) for mask in masks])


def _normalized(mask: np.ndarray) -> np.ndarray:
    """The mask moved to its center and scaled to a fixed area: float32 (pixels,) of 0 and 1."""
    rows, columns = np.nonzero(mask)
    half = 1.1 * np.sqrt(len(rows))  # of the window, in pixels
    y = rows.mean() + 0.5
    x = columns.mean() + 0.5
    box = (x - half, y - half, x + half, y + half)
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    window = picture.transform((TEMPLATE, TEMPLATE), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    return (np.asarray(window) > 127).astype(np.float32).ravel()
