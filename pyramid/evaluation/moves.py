"""How well a model moves a photograph, by registration of its frames with one another and with the truth.

    figures = measure_moves(pipe, photographs("held_out"), CAMERAS, seed=0)

A photograph seen by a moving camera gives both what a model is shown, the first frame, and what it should
make of the words. Direction and speed are read off the clip alone; how near the last frame comes to the true
one is compared with simply repeating the photograph; and the detail of the last frame, beside that of the
first, says whether the picture dissolves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from pyramid.evaluation.evaluate import Share, sharpness
from pyramid.evaluation.registration import register
from pyramid.training.data import psnr
from pyramid.training.photos import Photo, camera_clip
from pyramid.training.world import camera_caption

PANS_AND_ZOOMS = ("zoom in", "zoom out", "pan left", "pan right")
SPEED = 0.3  # how far from the true speed is right
NAMES = {  # a figure of `compare`, and what it is called over many clips
    "direction": "photographs: direction right",
    "speed": f"photographs: speed within {SPEED:.0%}",
    "gain": "photographs: last frame nearer to the true one than the photo (dB)",
    "detail": "photographs: detail of the last frame, of the first's",
}


def measure_moves(
    pipe, photos: Sequence[Photo], cameras: Sequence[str], seed: int, **settings: Any
) -> dict[str, Share | float]:
    """Figures over all photographs and cameras, for the size and length that the model was trained for;
    `settings` go to the pipeline.
    """
    v = pipe.defaults
    rng = np.random.default_rng(seed)
    rows = []
    for index, photo in enumerate(track(photos, description="photographs", transient=True)):
        for camera in cameras:
            truth = camera_clip(photo, camera, rng, size=v.width, frames=v.num_frames)
            text = camera_caption(camera, rng)
            start = Image.fromarray(truth[0])
            frames = pipe(text, image=start, seed=seed + index, output_type="np", **settings).frames[0]
            rows.append(compare((frames * 255).round().astype(np.uint8), truth, camera))
    return {
        NAMES["direction"]: Share(sum(row["direction"] == 1 for row in rows), len(rows)),
        NAMES["speed"]: Share(sum(row["speed"] == 1 for row in rows), len(rows)),
        NAMES["gain"]: _mean(rows, "gain"),
        NAMES["detail"]: _mean(rows, "detail"),
    }


def _mean(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def compare(clip: np.ndarray, truth: np.ndarray, camera: str) -> dict[str, float]:
    """A clip beside the true camera move, both uint8 (f, h, w, 3).

    "direction" and "speed" are right (1) or not; "gain" is by how much (dB) the last frame is nearer to the
    true one than the first true frame is; "detail" the last frame's share of the first's.
    """
    made = register(clip[0], clip[-1])
    wanted = register(truth[0], truth[-1])
    ratio = made.along(camera) / max(wanted.along(camera), 1e-6)
    last = truth[-1].astype(float)
    return {
        "direction": float(made.camera == camera),
        "speed": float(made.camera == camera and abs(ratio - 1) <= SPEED),
        "gain": psnr(clip[-1].astype(float), last, 255.0) - psnr(truth[0].astype(float), last, 255.0),
        "detail": sharpness(clip[-1:]) / max(sharpness(clip[:1]), 1e-6),
    }
