"""Drawings are told from photographs: the app's own, what the embedded model made, and photos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pyramid.media.files import describe
from pyramid.media.looks import is_drawn, is_drawn_file
from pyramid.media.pictures import write_picture
from pyramid.settings import VARIANTS, Settings
from pyramid.training.world import World, render

ASSETS = Path(__file__).parent.parent.parent / "assets"


def photo(seed: int, smooth: float) -> np.ndarray:
    """Texture as of grass, clouds or cloth, in color: noise, finer or coarser, over a gradient."""
    noise = np.random.default_rng(seed).integers(0, 256, (256, 320, 3), np.uint8)
    picture = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(smooth))
    picture = np.asarray(picture, float)
    return np.clip((picture - picture.mean()) * (40 / picture.std()) + 128, 0, 255).astype(np.uint8)


def test_the_apps_own_drawings_and_what_its_model_makes_are_drawn():
    for path in (ASSETS / "examples").glob("*.png"):
        assert is_drawn_file(path)
    samples = np.asarray(Image.open(ASSETS / "embedded" / "samples.png").convert("RGB"))
    frames = [samples[y : y + 128, x : x + 128] for y in range(0, 1536, 128) for x in range(0, 896, 256)]
    assert all(is_drawn(frame) for frame in frames)


@pytest.mark.parametrize("number", range(0, 600, 53))
def test_the_models_world_is_drawn(number):
    world = World()
    scene = world.scenes()[number]
    assert is_drawn(render(scene, np.random.default_rng(1), frames=9)[-1])


@pytest.mark.parametrize("smooth", [0.7, 2, 6])
def test_texture_is_a_photograph(smooth):
    assert not any(is_drawn(photo(seed, smooth)) for seed in range(3))


def test_scikit_images_photographs_are_photographs():
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    names = (
        "astronaut.png",
        "brick.png",
        "chelsea.png",
        "coffee.png",
        "moon.png",
        "rocket.jpg",
        "camera.png",
    )
    there = [data / name for name in names if (data / name).is_file()]
    assert not [path.name for path in there if is_drawn_file(path)]


def test_what_the_model_made_lies_in_its_world_however_it_looks(tmp_path):
    for model, image in (("embedded", None), ("miniflux", None), ("embedded", "photo.jpg")):
        settings = Settings(prompt="x", seed=1, model=model, image=image, num_frames=9)
        path = write_picture(tmp_path / f"{model}-{image}.png", photo(0, 2), describe(settings, {}))
        assert is_drawn_file(path, "embedded") == (model == "embedded" and image is None)
        assert not is_drawn_file(path)


def test_only_photographs_are_told_to_be_untrained():
    begins = Settings(prompt="a red ball", image="ball.png")
    drawn_scenes = replace(VARIANTS["128p"], photographs=False)
    assert not begins.experimental(drawn_scenes, drawn=True)
    assert "photographs" in begins.experimental(drawn_scenes)[0]
    assert not is_drawn_file("/nowhere.png")
