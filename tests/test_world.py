"""The synthetic world, the photographs and the judge that tells them apart."""

import numpy as np
import pytest
from scipy import ndimage

from pyramid.training.evaluate import Share, choose_scenes, contact_sheet, score
from pyramid.training.judge import Verdict, camera_move, judge
from pyramid.training.photos import HELD_OUT, camera_clip, crop, photographs
from pyramid.training.world import CAMERAS, CPU_WORLD, Scene, World, camera_caption, canonical_caption, caption


def test_the_full_world_has_what_a_gpu_model_needs_and_the_small_one_what_two_cores_can_learn():
    full, small = World(), CPU_WORLD
    assert min(map(len, (full.shapes, full.colours, full.backgrounds))) >= 8 and len(full.motions) >= 9
    assert list(map(len, (small.shapes, small.colours, small.backgrounds, small.motions))) == [5, 6, 6, 7]


def test_one_combination_in_twelve_is_held_out_in_every_world_alike():
    full = World()
    share = len(full.held_out_scenes()) / len(full.scenes())
    assert 0.06 < share < 0.11
    assert set(CPU_WORLD.held_out_scenes()) <= set(full.held_out_scenes())
    assert not set(full.training_scenes()) & set(full.held_out_scenes())


def test_captions_are_short_varied_and_of_the_vocabulary():
    world, rng = World(), np.random.default_rng(0)
    words = set(world.vocabulary())
    for scene in choose_scenes(world, 50, 0):
        texts = {caption(scene, rng) for _ in range(8)} | {canonical_caption(scene)}
        assert len(texts) > 2
        assert all(len(text.split()) <= 24 and set(text.split()) <= words for text in texts)
    assert canonical_caption(Scene("ball", "red", "meadow", "right")) == (
        "a red ball moves to the right over a green meadow"
    )
    assert all(set(camera_caption(camera, rng).split()) <= words for camera in CAMERAS)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="ball"):
        World(shapes=("blob",))


def test_a_clip_is_the_same_for_the_same_draw_and_differs_for_another():
    scene = Scene("star", "blue", "desert", "left")
    clips = [CPU_WORLD.render(scene, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert clips[0].shape == (25, 128, 128, 3) and clips[0].dtype == np.uint8
    assert np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[0], clips[2])


@pytest.mark.parametrize("world", [CPU_WORLD, World()], ids=["cpu", "full"])
@pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
def test_the_judge_is_right_on_what_was_rendered(world, noisy):
    rng = np.random.default_rng(5)
    scenes = choose_scenes(world, 20, 5)
    clips = [world.render(scene, rng) for scene in scenes]
    if noisy:
        clips = [ndimage.gaussian_filter(clip.astype(float), (0, 1.2, 1.2, 0)) for clip in clips]
        clips = [np.clip(clip + rng.normal(0, 5, clip.shape), 0, 255).astype(np.uint8) for clip in clips]
    results = score([judge(clip, world) for clip in clips], scenes)
    assert sum(share.right for share in results.values()) >= 0.97 * sum(share.total for share in results.values())


def test_the_judge_finds_nothing_where_nothing_is():
    rng = np.random.default_rng(0)
    clip = CPU_WORLD.render(Scene("ball", "red", "sky", "stay"), rng)
    empty = np.repeat(clip[:, :, :1], 128, axis=2)
    assert judge(empty, CPU_WORLD) == Verdict(None, None, None, 0.0)


def test_a_wrong_clip_is_judged_wrong():
    scene = Scene("ball", "red", "sky", "right")
    clip = CPU_WORLD.render(scene, np.random.default_rng(0))
    verdict = judge(clip[::-1], CPU_WORLD)
    assert (verdict.motion, verdict.colour) == ("left", "red")


def test_held_out_photographs_are_never_among_those_trained_on():
    train, held_out = photographs("train"), photographs("held_out")
    assert len(held_out) == len(HELD_OUT) >= 6
    assert not {p.name for p in train} & {p.name for p in held_out}
    assert all(p.licence and p.attribution for p in train + held_out)
    with pytest.raises(ValueError, match="held_out"):
        photographs("test")


def test_camera_moves_are_told_apart():
    rng = np.random.default_rng(0)
    for photo in photographs("held_out")[:3]:
        for camera in CAMERAS:
            clip = camera_clip(photo, camera, rng, size=128, frames=9)
            assert clip.shape == (9, 128, 128, 3) and camera_move(clip) == camera
        assert crop(photo, rng, 64).shape == (64, 64, 3)
    assert camera_move(np.stack([clip[0]] * 3)) is None
    with pytest.raises(ValueError, match="zoom in"):
        camera_clip(photo, "roll", rng, size=128, frames=9)


def test_shares_have_wilson_intervals():
    low, high = Share(50, 100).interval
    assert (low, high) == (pytest.approx(0.404, abs=0.002), pytest.approx(0.596, abs=0.002))
    assert Share(0, 10).interval[0] == 0 and Share(10, 10).interval[1] == 1


def test_scores_count_moving_kinds_apart():
    scenes = [Scene("ball", "red", "sky", "stay"), Scene("star", "blue", "sea", "up")]
    verdicts = [Verdict("red", "stay", "ball", 1.0), Verdict("red", "stay", "star", 0.9)]
    results = score(verdicts, scenes)
    assert (results["colour right"].right, results["motion right, all kinds"].right) == (1, 1)
    assert results["motion right, kinds that move"] == Share(0, 1)
    assert results["object present throughout"] == Share(1, 2)


def test_a_contact_sheet_has_a_row_for_each_clip():
    assert contact_sheet(np.zeros((2, 25, 16, 16, 3), np.uint8), columns=5).size == (80, 32)
