"""The judge: right on what was rendered, wrong on what is wrong, nothing where there is nothing."""

import numpy as np
import pytest

from pyramid.evaluation.judge import Verdict, judge
from pyramid.training.world import CPU_WORLD, Scene, World


def soiled(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurred a little and noisy, as a small VAE would leave it."""
    values = clip.astype(np.float32)
    for axis in (1, 2):
        values = (np.roll(values, 1, axis) + 2 * values + np.roll(values, -1, axis)) / 4
    return np.clip(values + rng.normal(0, 5, (1, *clip.shape[1:])), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("world", [CPU_WORLD, World()], ids=["cpu", "full"])
def test_the_judge_is_right_on_what_was_rendered(world):
    rng = np.random.default_rng(5)
    scenes = world.held_out_scenes()
    right = []
    for index in rng.permutation(len(scenes))[:14]:
        scene = scenes[index]
        clip = world.render(scene, rng)
        verdict = judge(soiled(clip, rng) if index % 2 else clip, world)
        right += [
            verdict.color == scene.color,
            verdict.motion == scene.motion,
            verdict.shape == scene.shape,
        ]
        assert verdict.present == 1
    assert np.mean(right) >= 0.97


@pytest.mark.parametrize("shape", World().shapes)
def test_turning_is_told_from_resting(shape):
    rng = np.random.default_rng(2)
    for motion in ("spin", "stay"):
        verdict = judge(World().render(Scene(shape, "orange", "wall", motion), rng), World())
        assert (verdict.shape, verdict.motion) == (shape, motion)


def test_the_judge_finds_nothing_where_nothing_is():
    clip = CPU_WORLD.render(Scene("ball", "red", "sky", "stay"), np.random.default_rng(0))
    empty = np.repeat(clip[:, :, :1], 128, axis=2)
    assert judge(empty, CPU_WORLD) == Verdict(None, None, None, 0.0)
    vanishing = np.concatenate([clip[:20], empty[20:]])
    assert judge(vanishing, CPU_WORLD).present == 0.8


def test_a_wrong_clip_is_judged_wrong():
    clip = CPU_WORLD.render(Scene("ball", "red", "sky", "right"), np.random.default_rng(0))
    assert judge(clip[::-1], CPU_WORLD).motion == "left"
    assert judge(clip[..., ::-1], CPU_WORLD).color == "blue"
    assert judge(clip[[12] * 25], CPU_WORLD) == Verdict("red", "stay", "ball", 1.0)
    assert judge(clip.transpose(0, 2, 1, 3).copy(), CPU_WORLD).motion != "right"
