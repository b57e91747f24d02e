"""The photographs: their split, their licenses, and the camera that moves over them."""

import numpy as np
import pytest

from pyramid.training.photos import HELD_OUT, SOURCES, Photo, camera_clip, crop, photographs
from pyramid.training.world import CAMERAS

FREE = {"CC0", "public domain", "CC BY 2.0", "CC BY 4.0"}


def ramp() -> Photo:
    """A picture whose red says where it was across, and whose green where it was down."""
    y, x = np.mgrid[0:240, 0:360]
    return Photo(
        "ramp", "CC0", "made here", np.stack([x * 255 / 359, y * 255 / 239, 0 * x], axis=-1).astype(np.uint8)
    )


def test_held_out_photographs_are_never_among_those_trained_on():
    held_out = [photo.name for photo in photographs("held_out")]
    assert sorted(held_out) == sorted(HELD_OUT) and len(held_out) >= 6
    assert {name for _, name, _, _ in SOURCES} > set(HELD_OUT)
    assert all(license_ in FREE and owner for _, _, license_, owner in SOURCES)
    with pytest.raises(ValueError, match="held_out"):
        photographs("test")


def test_cameras_move_as_they_are_named():
    rng = np.random.default_rng(0)
    for camera in CAMERAS:
        clip = camera_clip(ramp(), camera, rng, size=32, frames=5).astype(float)
        assert clip.shape == (5, 32, 32, 3)
        widths = clip[:, :, -1, 0].mean(1) - clip[:, :, 0, 0].mean(1)
        middles = clip[..., int(camera.startswith("tilt"))].mean((1, 2))
        if camera.startswith("zoom"):
            ratio = widths[-1] / widths[0]
            assert 1 / 1.9 < ratio < 1 / 1.4 if camera == "zoom in" else 1.4 < ratio < 1.9
        else:
            steps = np.diff(middles) * (1 if camera in ("pan right", "tilt down") else -1)
            assert steps.min() > 0 and np.ptp(steps) < 0.2 * steps.mean() + 1
            assert abs(widths - widths[0]).max() < 3
    with pytest.raises(ValueError, match="zoom in"):
        camera_clip(ramp(), "roll", rng, size=32, frames=5)


def test_crops_are_of_the_photograph_at_many_scales():
    rng = np.random.default_rng(0)
    crops = [crop(ramp(), rng, 32).astype(float) for _ in range(30)]
    widths = [abs(c[:, -1, 0] - c[:, 0, 0]).mean() for c in crops]
    assert crops[0].shape == (32, 32, 3)
    assert min(widths) < 40 and max(widths) > 100
