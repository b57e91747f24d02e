"""A photograph goes to the variant that moves it, whoever drops it, and the page says so."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import idle_app, left_of
from PIL import Image

from pyramid.hub.checkpoints import find
from pyramid.ui.addresses import uploads_folder
from pyramid.ui.photographs import checkpoint_of, for_photograph
from pyramid.ui.restore import of_job


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The page as it opens: with the embedded model's fast variant, of which nothing is loaded."""
    with idle_app("embedded", tmp_path_factory.mktemp("outputs")) as app:
        app.worker.switch("embedded", "128p-fast")
        yield app


@pytest.fixture(scope="module")
def left(app):
    return left_of(app)


def upload(name: str, picture: Image.Image) -> dict:
    """What a browser says of a file that it sent."""
    folder = uploads_folder() / "photographs"
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / name)
    return {"path": str(folder / name), "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def photo() -> dict:
    rng = np.random.default_rng(0)
    return upload("photo.png", Image.fromarray(rng.integers(0, 255, (128, 128, 3), np.uint8)))


@pytest.fixture(scope="module")
def drawing() -> dict:
    return upload("drawing.png", Image.new("RGB", (128, 128), "teal"))


def values(left, **changes) -> list:
    held = {name: part.value for name, part in left.form.fields.items()} | {"prompt": "zoom out"} | changes
    return list(held.values())


def test_a_photograph_brings_the_variant_that_moves_it_with_its_own_steps(app, left, photo, drawing):
    moved = left.form.read(*values(left, mode="image", picture=photo))
    expected = find("embedded", "128p-photos").defaults
    assert moved.variant == "128p-photos" and moved.num_inference_steps == expected.steps
    assert moved.video_guidance_scale == expected.video_guidance_scale and moved.sampler == expected.sampler
    chosen = left.form.read(*values(left, mode="image", picture=photo, guidance_scale=3))
    assert chosen.guidance_scale == 3, "what somebody chose stays"
    for other in ({"picture": drawing, "mode": "image"}, {"picture": photo, "mode": "text"}):
        assert left.form.read(*values(left, **other)).variant == "128p-fast"


def test_the_page_says_so_with_the_words_that_it_knows(left, photo):
    words, _, _, _, verdict, *_ = left.look(*values(left, mode="image", picture=photo, prompt="waves pan"))
    assert "128p-photos makes this clip" in words and 'data-known="the camera pans left"' in words
    assert "<s>waves</s>" in words and "<s>pan</s>" not in words and "Not trained" not in verdict
    assert "128p-photos" not in left.look(*values(left))[0]


def test_a_model_that_knows_photographs_and_one_without_such_a_variant_stay(
    app, left, photo, monkeypatch, tiny_checkpoint
):
    settings = replace(app.worker.start_from, prompt="x", image="photo.png")
    knows = replace(app.worker.checkpoint.defaults, photographs=True)
    monkeypatch.setattr(app.worker, "checkpoint", replace(app.worker.checkpoint, defaults=knows))
    assert for_photograph(app, settings, photo["path"]) is settings
    monkeypatch.setattr(app.worker, "checkpoint", find(tiny_checkpoint))
    assert for_photograph(app, settings, photo["path"]) is settings
    assert checkpoint_of(app, settings) is app.worker.checkpoint


def test_a_moved_photograph_is_brought_back_without_a_warning(app, left, photo):
    settings = left.form.read(*values(left, mode="image", picture=photo))
    job = app.store.add(settings, owner="local", image=photo["path"], image_name="photo.png")
    found = of_job(job, app)
    assert found.notes == () and found.picture is not None
    again = left.form.read(*values(left, mode="image", picture=photo, seed=job.settings.seed, random=False))
    assert again.variant == job.settings.variant
    app.store.delete(job.id, "local")
