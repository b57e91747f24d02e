"""The synthetic world: its names, sentences and pictures."""

from itertools import product

import numpy as np
import pytest

from pyramid.training.world import (
    BACKGROUNDS,
    CAMERAS,
    COLORS,
    CPU_WORLD,
    Scene,
    World,
    background,
    camera_caption,
    canonical_caption,
    caption,
)

SHOWCASE = Scene("ball", "red", "meadow", "right")


def test_the_full_world_has_what_a_gpu_model_needs_and_the_small_one_what_two_cores_can_learn():
    full, small = World(), CPU_WORLD
    assert min(map(len, (full.shapes, full.colors, full.backgrounds))) >= 8 and len(full.motions) >= 9
    assert list(map(len, (small.shapes, small.colors, small.backgrounds, small.motions))) == [5, 6, 6, 7]
    assert SHOWCASE in small.scenes()


def test_one_combination_in_twelve_is_held_out_in_every_world_alike():
    full = World()
    share = len(full.held_out_scenes()) / len(full.scenes())
    assert 0.06 < share < 0.11
    assert set(CPU_WORLD.held_out_scenes()) <= set(full.held_out_scenes())
    assert sorted(map(repr, full.training_scenes() + full.held_out_scenes())) == sorted(
        map(repr, full.scenes())
    )


def test_captions_are_short_varied_and_of_the_vocabulary():
    world, rng = World(), np.random.default_rng(0)
    words = set(world.vocabulary())
    for scene in world.held_out_scenes()[::9]:
        texts = {caption(scene, rng) for _ in range(8)} | {canonical_caption(scene)}
        assert len(texts) > 2
        assert all(len(text.split()) <= 24 and set(text.split()) <= words for text in texts)
    assert canonical_caption(SHOWCASE) == "a red ball moves to the right over a green meadow"
    assert canonical_caption(Scene("star", "orange", "sky", "up")).startswith("an orange star moves up")
    assert all(set(camera_caption(camera, rng).split()) <= words for camera in CAMERAS)


def test_different_scenes_are_never_said_alike():
    rng = np.random.default_rng(1)
    scenes = World().scenes()[::7]
    said = {}
    for scene, _ in product(scenes, range(3)):
        assert said.setdefault(caption(scene, rng), scene) == scene


def test_words_of_what_a_world_lacks_are_not_in_its_vocabulary():
    assert {"zoom", "spins", "snow", "pink"} <= set(World().vocabulary())
    small = World(motions=("right", "left"), photo_cameras=(), colors=("red",), backgrounds=("sky",))
    assert not {"zoom", "camera", "spins", "snow", "pink"} & set(small.vocabulary())


@pytest.mark.parametrize("lists", [{"shapes": ("blob",)}, {"motions": ()}, {"colors": ("red", "red")}])
def test_names_that_cannot_be_used_are_refused_with_the_choices(lists):
    with pytest.raises(ValueError, match="choose different names among .*(ball|right|red)"):
        World(**lists)


@pytest.mark.parametrize("sizes", [{"size": 0}, {"size": 100}, {"frames": 8}, {"frames": 265}, {"fps": 0}])
def test_sizes_that_cannot_be_used_are_refused_with_their_limits(sizes):
    ((name, value),) = sizes.items()
    with pytest.raises(ValueError, match=f"world.{name} = {value}: .* is expected"):
        World(**sizes)


def test_a_clip_is_the_same_for_the_same_draw_and_differs_for_another():
    scene = Scene("star", "blue", "desert", "left")
    clips = [CPU_WORLD.render(scene, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert clips[0].shape == (25, 128, 128, 3) and clips[0].dtype == np.uint8
    assert np.array_equal(clips[0], clips[1]) and not np.array_equal(clips[0], clips[2])


@pytest.mark.parametrize("motion", World().motions)
def test_objects_stay_wholly_in_the_picture(motion):
    """A pixel's width around the picture shows the background alone,
    for every shape at the limits of the jitter.
    """
    for shape, corner in zip(World().shapes, (-1, 1) * 5, strict=False):
        clip = World().render(Scene(shape, "red", "snow", motion), Limits(corner), frames=13).astype(int)
        rows = background("snow", 128) * (1 + 0.02 * corner)
        for edge in (clip[:, 0], clip[:, -1]):
            assert np.ptp(edge, axis=1).max() == 0
        for edge in (clip[:, :, 0], clip[:, :, -1]):
            assert abs(edge - rows).max() <= 1


class Limits:
    """A source of randomness that always draws an end of the range."""

    def __init__(self, sign: int):
        self.sign = sign

    def uniform(self, low: float, high: float, size: int | None = None):
        value = high if self.sign > 0 else low
        return value if size is None else np.full(size, value)


def test_moving_objects_move_evenly():
    clip = CPU_WORLD.render(SHOWCASE, np.random.default_rng(0)).astype(int)
    red = (clip[..., 0] - clip[..., 1] > 100).sum(axis=1)  # frames w
    places = (red * np.arange(128)).sum(axis=1) / red.sum(axis=1)
    steps = np.diff(places)
    assert places[-1] - places[0] > 0.45 * 128
    assert steps.min() > 0.8 * steps.mean() and steps.max() < 1.2 * steps.mean()


def test_every_color_stands_out_from_every_background():
    for color, name in product(COLORS.values(), BACKGROUNDS):
        far = abs(background(name, 64) - np.array(color)).max(axis=1)
        assert far.min() > 24, (color, name)
