"""The automatic judge: what a clip of the synthetic world shows, from its pixels alone (numpy and SciPy, no network).

    verdict = judge(clip, World())        # Verdict(colour="red", motion="right", shape="ball", present=1.0)

Backgrounds are constant along each row, so what differs from its row's median is the object. Its colour is the nearest
one of the palette at any brightness, its motion comes from the path of its centre and its size, its shape is the
template of greatest overlap. `camera_move` says how the camera moved in a clip of a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy import ndimage

from pyramid.training.world import COLOURS, Scene, World, render

CONTRAST = 26.0  # of 255: the least difference from the row's median that counts as the object
LEAST_AREA = 0.004  # of the frame: a smaller spot is no object
TRAVEL = 0.15  # of the frame: the least way of an object that moves
RESIZE = 1.25  # least ratio of diameters of an object that grows
TEMPLATE = 48  # pixels


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; None for what could not be told because no object was found."""

    colour: str | None
    motion: str | None
    shape: str | None
    present: float  # share of the frames in which there is an object


def judge(clip: np.ndarray, world: World) -> Verdict:
    """Judge a clip, uint8 `(frames, h, w, 3)`, among the names of `world`."""
    masks = np.stack([object_mask(frame) for frame in clip])  # frames h w
    seen = masks.any(axis=(1, 2))
    if seen.mean() < 0.5:
        return Verdict(None, None, None, float(seen.mean()))
    return Verdict(
        colour=_colour(clip[seen], masks[seen], world.colours),
        motion=_motion(clip[seen], masks[seen], world.motions),
        shape=_shape(masks[seen], world.shapes),
        present=float(seen.mean()),
    )


def object_mask(frame: np.ndarray) -> np.ndarray:
    """Where the object is in a frame, bool `(h, w)`: the largest connected spot, all False when there is none."""
    values = frame.astype(np.float32)
    difference = np.abs(values - np.median(values, axis=1, keepdims=True)).max(axis=-1)
    spots, count = ndimage.label(ndimage.uniform_filter(difference, 3) > CONTRAST)
    if count == 0:
        return np.zeros(frame.shape[:2], bool)
    areas = np.bincount(spots.ravel())[1:]
    if areas.max() < LEAST_AREA * spots.size:
        return np.zeros(frame.shape[:2], bool)
    spot = spots == 1 + areas.argmax()
    filled = ndimage.binary_fill_holes(spot)
    return filled if filled.sum() < 1.06 * spot.sum() else spot  # a ring's hole is part of its shape


def _colour(clip: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> str:
    """The palette's colour nearest to the object's core, at the brightness that suits it best."""
    cores = np.stack([ndimage.binary_erosion(mask, iterations=3) for mask in masks])
    pixels = clip[cores if cores.any() else masks].astype(np.float32)
    seen = np.median(pixels, axis=0)

    def distance(name: str) -> float:
        colour = np.array(COLOURS[name], np.float32)
        scale = np.clip(seen @ colour / (colour @ colour), 0.75, 1.2)
        return float(np.linalg.norm(seen - scale * colour))

    return min(names, key=distance)


def _motion(clip: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> str:
    """The motion, from the object's centre and diameter in the first and the last frames."""
    height, width = masks.shape[1:]
    areas = masks.sum(axis=(1, 2))
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    y = (masks * rows).sum(axis=(1, 2)) / areas / height
    x = (masks * columns).sum(axis=(1, 2)) / areas / width
    right, down = x[-3:].mean() - x[:3].mean(), y[-3:].mean() - y[:3].mean()
    size = np.sqrt(areas[-3:].mean() / areas[:3].mean())
    climb = np.abs(np.diff(ndimage.uniform_filter1d(y, 3))).sum()

    candidates = []
    if max(abs(right), abs(down)) >= TRAVEL:
        sideways = "right" if right > 0 else "left"
        candidates = [sideways if abs(right) > abs(down) else "down" if down > 0 else "up"]
    elif climb > 3 * TRAVEL and abs(down) < TRAVEL:
        candidates = ["bounce"]
    elif size > RESIZE:
        candidates = ["grow"]
    elif size < 1 / RESIZE:
        candidates = ["shrink"]
    elif "spin" in names and _turns(clip, masks):
        candidates = ["spin"]
    return candidates[0] if candidates and candidates[0] in names else "stay"


def _turns(clip: np.ndarray, masks: np.ndarray) -> bool:
    """Whether the object's looks change although it stays: outline and marks turn."""
    around = ndimage.binary_dilation(masks.any(axis=0), iterations=2)
    values = clip[:, around].astype(np.float32)
    change = np.abs(values[3:] - values[:-3]).max(axis=-1)
    return float((change > 40).mean()) > 0.04


def _shape(masks: np.ndarray, names: tuple[str, ...]) -> str:
    """The shape whose template covers the object best, over a few frames and, for what may spin, angles."""
    scores = dict.fromkeys(names, 0.0)
    for index in np.linspace(0, len(masks) - 1, 5).round().astype(int):
        seen = _normalised(masks[index])
        for name in names:
            scores[name] += max(_overlap(seen, template) for template in _templates(name))
    return max(scores, key=scores.get)


@lru_cache
def _templates(shape: str) -> tuple[np.ndarray, ...]:
    """The shape upright and turned, as normalised masks."""
    clip = render(Scene(shape, "red", "night", "stay"), np.random.default_rng(0), size=128, frames=1)
    mask = object_mask(clip[0])
    angles = (0, 15, 30, 45, 60, 75) if shape in ("square", "star", "cross", "diamond", "triangle") else (0,)
    return tuple(_normalised(ndimage.rotate(mask.astype(np.float32), a, reshape=False, order=1) > 0.5) for a in angles)


def _normalised(mask: np.ndarray) -> np.ndarray:
    """The mask moved to its centre and scaled to a fixed area, `(TEMPLATE, TEMPLATE)`."""
    rows, columns = np.nonzero(mask)
    half = 1.1 * np.sqrt(len(rows))  # of the window, in pixels
    y, x = rows.mean() + 0.5, columns.mean() + 0.5
    picture = Image.fromarray((mask * 255).astype(np.uint8))
    window = picture.transform(
        (TEMPLATE, TEMPLATE),
        Image.Transform.EXTENT,
        (x - half, y - half, x + half, y + half),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(window) > 127


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def camera_move(clip: np.ndarray) -> str | None:
    """How the camera moves: "zoom in", "zoom out", "pan left", "pan right", or None when it stands still.

    The last frame is compared with windows of the first at several scales and places, and the other way round.
    """
    first, last = (_grey(frame) for frame in (clip[0], clip[-1]))
    zooms = np.exp(np.linspace(0, 0.7, 8))  # 1 … 2
    best, found = _correlation(first, last) + 0.01, None
    for factor in zooms[1:]:
        for name, (inner, outer) in {"zoom in": (last, first), "zoom out": (first, last)}.items():
            score = _correlation(_view(outer, 0.5, factor), inner)
            if score > best:
                best, found = score, name
    for way in np.linspace(0.05, 0.5, 19):
        width = first.shape[1]
        step = round(way * width)
        for name, (a, b) in {"pan right": (first, last), "pan left": (last, first)}.items():
            score = _correlation(a[:, step:], b[:, : width - step])
            if score > best:
                best, found = score, name
    return found


def _grey(frame: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(frame).convert("L").resize((64, 64), Image.Resampling.BOX)
    return np.asarray(picture, np.float32)


def _view(picture: np.ndarray, centre: float, factor: float) -> np.ndarray:
    """The middle of a picture, `factor` times larger."""
    size = len(picture)
    half = size / factor / 2
    middle = centre * size
    box = (middle - half, middle - half, middle + half, middle + half)
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, box=box))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two pictures; 0 for a flat one."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-6))
