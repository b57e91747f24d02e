"""A photograph goes to the variant that moves it, more steps than were taught to the one that takes any."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import idle_app, left_of
from PIL import Image

from pyramid.hub.checkpoints import find, page_variant
from pyramid.presets import load_preset
from pyramid.settings import SettingsError
from pyramid.ui.addresses import uploads_folder
from pyramid.ui.api_shared import Serving
from pyramid.ui.presets import applied, needs
from pyramid.ui.restore import of_job
from pyramid.ui.variants import at_speed_of, checkpoint_of, for_photograph


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


def after(updates: list[dict], held: list) -> list:
    """The form's values when the updates have come."""
    return [new.get("value", old) for new, old in zip(updates, held, strict=True)]


def at_speed(app, left, speed: str, held: list) -> list:
    """The form's values after a speed was chosen."""
    return after(left.form.put(at_speed_of(app, speed, left.form.basis(*held)), *held), held)


def test_the_page_begins_with_few_steps_and_every_speed_is_offered(app, left):
    assert page_variant("embedded") == "128p-fast"
    assert [value for _, value in left.form.speed.choices] == ["quick", "balanced", "reference"]
    assert left.form.speed.value == "quick"


def test_a_speed_with_more_steps_brings_the_variant_that_takes_them_with_its_guidance(app, left):
    expected = find("embedded", "128p").defaults
    slow = at_speed(app, left, "reference", values(left))
    made = left.form.read(*slow)
    assert made.variant == "128p" and made.num_inference_steps == expected.steps
    assert made.guidance_scale == expected.guidance_scale and made.sampler == "reference"
    assert left.look.speed(made)["value"] == "reference"
    back = at_speed(app, left, "quick", slow)
    assert left.form.read(*back) == left.form.read(*values(left)), "and back again"


@pytest.mark.parametrize("steps", [[], [0, 1, 1]])
def test_steps_that_cannot_be_taken_are_told_before_a_variant_is_looked_for(app, steps):
    with pytest.raises(SettingsError, match="num_inference_steps"):
        Serving(app).settings("a red ball", None, 1, None, {"num_inference_steps": steps})


def test_what_is_shown_in_the_form_is_what_runs(app, left):
    held = at_speed(app, left, "balanced", values(left))
    unguided = dict(zip(left.form.fields, held, strict=True)) | {
        "guidance_scale": 1,
        "video_guidance_scale": 1,
    }
    made = left.form.read(*unguided.values())
    assert made.variant == "128p" and made.guidance_scale == made.video_guidance_scale == 1
    fewer = left.form.read(*values(left, first0=1, first1=1))
    assert fewer.variant == "128p-fast", "fewer steps than were taught are its own, too"


def test_a_preset_with_steps_is_offered_and_brings_the_variant_that_takes_them(app, left):
    assert needs(app, load_preset("quick")) == ""
    held = values(left)
    settings = applied(app, load_preset("quick"), left.form.basis(*held))
    made = left.form.read(*after(left.form.put(settings, *held), held))
    assert made.variant == "128p" and made.guidance_scale == settings.guidance_scale > 1


def test_a_result_of_the_variant_that_takes_any_steps_is_brought_back_without_a_warning(app, left):
    settings = left.form.read(*at_speed(app, left, "reference", values(left)))
    job = app.store.add(settings, owner="local")
    found = of_job(job, app)
    assert found.notes == ()
    app.store.delete(job.id, "local")
