"""The photographs: their split, their licenses, and the camera that moves over them."""

import numpy as np
import pytest
from PIL import Image

from pyramid.evaluation.registration import register
from pyramid.training.photos import (
    DEBIAN,
    HELD_OUT,
    SOURCES,
    STILL,
    WAY,
    ZOOM,
    Photo,
    camera_clip,
    crop,
    photographs,
    recolored,
    varied_clip,
)
from pyramid.training.textures import clouds, dead_leaves, draw_texture
from pyramid.training.world import CAMERAS

FREE = {"CC0", "public domain", "CC BY 2.0", "CC BY 4.0", "CC BY-SA 4.0", "GPL-2+", "LGPL-3"}


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
    assert not any("20.04" in package for package, _, _, _ in SOURCES)
    with pytest.raises(ValueError, match="held_out"):
        photographs("test")


def test_packages_are_found_where_they_were_unpacked(tmp_path):
    before = len(photographs("train"))
    for package, name in (("mate-backgrounds", "Dune.jpg"), ("plasma-workspace-wallpapers", "Kite.jpg")):
        inside = tmp_path / DEBIAN[package].format(name=name, stem=name.removesuffix(".jpg"))
        inside.parent.mkdir(parents=True)
        Image.fromarray(ramp().image).save(inside)
    found = photographs("train", extra=[tmp_path])
    assert len(found) == before + 2 and {"Dune.jpg", "Kite.jpg"} < {photo.name for photo in found}


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


@pytest.mark.parametrize("camera", ["pan left", "pan right", "zoom in", "zoom out", "tilt up", STILL])
def test_a_clip_to_learn_on_moves_at_one_speed_and_as_it_is_named(camera):
    photo = Photo("texture", "", "", draw_texture(np.random.default_rng(5), 400))
    clip = varied_clip(photo, camera, np.random.default_rng(1), size=96, frames=5)
    move = register(clip[0], clip[-1])
    if camera == STILL:
        assert 1.0 <= move.zoom < 1.2 and max(abs(move.right), abs(move.down)) < 0.05
        return
    assert clip.shape == (5, 96, 96, 3) and move.camera == camera
    assert move.along(camera) == pytest.approx(np.log(ZOOM) if "zoom" in camera else WAY, abs=0.06)


def test_half_of_the_clips_to_learn_on_see_all_of_the_photograph(monkeypatch):
    def share_of_width(seed: int) -> float:
        """How much of the ramp, a step of 255 from side to side, is in the first frame."""
        clip = varied_clip(ramp(), STILL, np.random.default_rng(seed), size=16, frames=2)
        return np.ptp(clip[0, 8].astype(float), axis=0).max() / 255

    def share_that_is_wide() -> float:
        return np.mean([share_of_width(seed) > 0.3 for seed in range(40)])

    monkeypatch.setattr("pyramid.training.photos.recolored", lambda image, _: image)
    mixed = share_that_is_wide()
    monkeypatch.setattr("pyramid.training.photos.WHOLE", 0.0)
    pieces = share_that_is_wide()
    monkeypatch.setattr("pyramid.training.photos.WHOLE", 1.0)
    assert share_that_is_wide() == 1 and pieces < 0.5
    assert pieces + 0.3 < mixed < 0.95


def test_colors_change_and_what_is_seen_does_not():
    seen = {recolored(ramp().image, np.random.default_rng(seed)).mean().round() for seed in range(6)}
    assert len(seen) > 3
    image = recolored(ramp().image, np.random.default_rng(0)).astype(float).sum(-1)
    assert np.corrcoef(image.ravel(), ramp().image.astype(float).sum(-1).ravel())[0, 1] > 0.95


def test_textures_have_no_end_and_the_spectrum_of_photographs():
    one, same, other = (draw_texture(np.random.default_rng(seed), 64) for seed in (0, 0, 1))
    assert one.shape == (64, 64, 3) and one.dtype == np.uint8
    assert (one == same).all() and (one != other).mean() > 0.5
    field = clouds(np.random.default_rng(0), 256, slope=1.0)[..., 0]
    power = abs(np.fft.fft(field - field.mean(), axis=1)).mean(0)[[4, 40]]
    assert 3 < power[0] / power[1] < 20  # about ten times as much at a tenth of the frequency
    edges = abs(np.diff(dead_leaves(np.random.default_rng(0), 128), axis=1)).mean(-1)
    assert np.quantile(edges, 0.99) > 6 * np.quantile(edges, 0.5)
