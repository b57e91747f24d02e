"""Photographs moved by a camera: what registration reads off them is how they were moved."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pyramid.evaluation.moves import compare
from pyramid.evaluation.registration import register
from pyramid.generate.loaded import load_for
from pyramid.hub.checkpoints import find
from pyramid.settings import Settings
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


@pytest.mark.parametrize("words", ["a photograph", "waves on the beach"])
def test_a_photo_without_camera_words_moves_gently_rather_than_dissolving(words):
    """On photographs that nobody trained on, with words that say nothing of a camera, known or not."""
    expects = find("embedded", "128p-photos").defaults
    pipe = load_for(Settings.for_model("embedded", "128p-photos", expects))
    for photo in [photo for photo in photographs("held_out") if photo.name in ("coffee.png", "china.jpg")]:
        picture = Image.fromarray(photo.image).resize((128, 128), Image.Resampling.BOX)
        steps = {"num_inference_steps": [4, 4, 4], "video_num_inference_steps": [4, 4, 4]}
        frames = pipe(words, image=picture, seed=1, output_type="np", **steps).frames[0]
        first, last = (255 * frames[at].mean(-1) for at in (0, -1))
        move = register(*((255 * frames[at]).astype(np.uint8) for at in (0, -1)))
        assert 0.85 < move.zoom < 1.3 and max(abs(move.right), abs(move.down)) < 0.1, (photo.name, move)
        assert np.corrcoef(first.ravel(), last.ravel())[0, 1] > 0.6, photo.name
