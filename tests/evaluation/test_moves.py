"""Photographs moved by a camera: what registration reads off them is how they were moved."""

import numpy as np
import pytest
from scipy import ndimage

from pyramid.evaluation.moves import compare
from pyramid.evaluation.registration import register
from pyramid.training.photos import camera_clip, photographs
from pyramid.training.world import CAMERAS


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_true_move_is_found_and_a_still_one_is_not(camera):
    rng = np.random.default_rng(0)
    for photo in photographs("held_out"):
        truth = camera_clip(photo, camera, rng, size=128, frames=9)
        assert register(truth[0], truth[-1]).camera == camera, photo.name
        itself = compare(truth, truth, camera)
        assert (itself["direction"], itself["speed"]) == (1, 1) and itself["gain"] > 20
        still = compare(np.repeat(truth[:1], 9, axis=0), truth, camera)
        assert (still["direction"], still["gain"], still["detail"]) == (0, 0, pytest.approx(1))


def test_half_the_speed_is_not_the_speed_and_blur_is_not_detail():
    photo = photographs("held_out")[0]
    truth = camera_clip(photo, "pan right", np.random.default_rng(1), size=128, frames=9)
    slow = compare(np.concatenate([truth[:5], truth[4:5]]), truth, "pan right")
    assert (slow["direction"], slow["speed"]) == (1, 0)
    blurred = truth.copy()
    blurred[-1] = ndimage.uniform_filter(truth[-1], (5, 5, 1))
    assert compare(blurred, truth, "pan right")["detail"] < 0.6
