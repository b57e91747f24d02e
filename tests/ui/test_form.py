"""What the form's values become: settings, or a sentence that names the field.
The page itself is in test_page.py.
"""

import zipfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import gradio
import gradio as gr
import pytest
from helpers import idle_app, left_of
from PIL import Image

from pyramid.failures import keep_log
from pyramid.jobs.queue import Limits
from pyramid.jobs.record import FORMATS
from pyramid.presets import find_preset, load_preset
from pyramid.settings import Settings, SettingsError
from pyramid.ui import errors, form, page, presets
from pyramid.ui.addresses import uploads_folder
from pyramid.ui.results import build_results
from pyramid.ui.sight import Sight


@pytest.fixture(scope="module")
def app(tiny_checkpoint, tmp_path_factory):
    """A store and a worker that loads nothing, with a visitor's limits."""
    limits = Limits(max_pixels=128 * 128, max_steps=50)
    with idle_app(tiny_checkpoint, tmp_path_factory.mktemp("outputs"), limits) as app:
        yield app


@pytest.fixture(scope="module")
def left(app):
    return left_of(app)


def values(left, **changes) -> list:
    """What the fields hold when the page opens, and what was changed of it."""
    held = {name: part.value for name, part in left.form.fields.items()} | {"prompt": ""} | changes
    assert held.keys() == left.form.fields.keys()
    return list(held.values())


def handler(blocks: gr.Blocks, name: str):
    """The function of that name behind an event of `blocks`."""
    return next(at.fn for at in blocks.fns.values() if getattr(at.fn, "__name__", "") == name)


# -- the verdict


@pytest.mark.parametrize("prompt", ["", "a red ball", "ball " * 1000])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": form.OTHER, "width": 100}, "Width = 100"),
        ({"size": form.OTHER, "height": 0}, "Height = 0"),
        ({"size": form.OTHER, "width": None}, "Width is empty"),
        ({"first0": 500}, "Steps for the first frame, stage 1 = 500"),
        ({"first0": 10**12, "rest0": 10**12}, "Steps for the first frame, stage 1 = 1000000000000"),
        ({"rest1": 2.5}, "Steps for each later unit, stage 2 = 2.5: a whole number"),
        ({"first1": float("inf")}, "Steps for the first frame, stage 2 = inf: a whole number"),
        ({"fps": 0}, "Frames a second = 0"),
        ({"fps": -8}, "Frames a second = -8"),
        ({"fps": None}, "Frames a second is empty"),
        ({"seconds": None}, "Seconds is empty"),
        ({"seconds": 10**6}, "Seconds = 1000000: at most"),
        ({"guidance_scale": 99}, "Guidance for the first frame = 99"),
    ],
)
def test_what_is_wrong_is_said_with_and_without_a_prompt(left, changes, words, prompt):
    shown, verdict = left.look.judge(*values(left, prompt=prompt, **changes))
    assert 'class="problem"' in verdict
    if len(prompt) < 2000:
        assert words in verdict
    assert shown is None or "guidance_scale" in changes  # what cannot be made is not drawn either
    assert len(left.look(*values(left, prompt=prompt, **changes))) == len(left.look.outputs)


def test_a_blank_prompt_alone_is_no_problem(left):
    settings, verdict = left.look.judge(*values(left))
    assert settings is not None and 'class="ready"' in verdict
    assert "at most 50 steps" in left.look.judge(*values(left, first0=60))[1]  # a visitor's limit


# -- the sight


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 9000, "height": 9000}, "Width = 9000 is outside"),
        ({"width": 1024, "height": 1024}, "at most 16,384 are allowed"),
        ({"width": None}, "Width is empty"),
        ({"width": 0}, "Width = 0"),
        ({"mode": "video", "fps": None}, "Frames a second is empty"),
        ({"mode": "video", "fps": 0}, "Frames a second = 0"),
    ],
)
def test_a_picture_is_not_brought_to_a_size_that_cannot_be_made(left, tmp_path, changes, words, monkeypatch):
    Image.new("RGB", (80, 60), "teal").save(path := tmp_path / "sea.png")
    look = Sight(left.form)
    asked = {
        "mode": "image",
        "picture": str(path),
        "clip": str(path),
        "fit": "crop",
        "size": form.OTHER,
        "width": 64,
        "height": 64,
        "stages": 3,
        "fps": 8,
    }
    assert "64 × 64 px" in look(*asked.values()) and "16 × 48 px" in look(
        *(asked | {"width": 16, "height": 48, "stages": 1, "fps": None}).values()
    )
    monkeypatch.setattr("pyramid.ui.sight.read_picture", lambda *_: pytest.fail("it was read"))
    said = look(*(asked | changes).values())
    assert 'class="problem"' in said and words in said


# -- the fields


def test_the_forms_formats_are_those_of_a_result():
    assert tuple(form.FORMATS) == FORMATS


def test_a_format_or_a_number_of_videos_that_is_no_whole_number_is_told(left):
    extras = [part.value for part in left.form.extras]
    assert left.form.output(*extras)[1] == 1
    at = list(left.form.extra).index("count")
    with pytest.raises(SettingsError, match=r"number of videos = 2\.5"):
        left.form.output(*extras[:at], left.form.extra["count"].preprocess(2.5), *extras[at + 1 :])


def test_settings_with_unequal_steps_do_not_fill_the_form(left):
    with pytest.raises(
        gr.Error, match="Steps for the first frame has 3 numbers .* Steps for each later unit 2"
    ):
        left.form.fill(Settings(prompt="x", video_num_inference_steps=(1, 1)))
    with pytest.raises(gr.Error, match="Frames a second is 0"):
        left.form.fill(Settings(prompt="x", fps=0))


# -- the presets


def test_a_preset_brings_both_lists_of_steps_to_its_stages(left):
    two = left.form.basis(*values(left, stages=2))
    still = load_preset("still").apply(two)
    assert (still.num_inference_steps, still.video_num_inference_steps) == ((20, 20, 20), (2, 2, 2))
    left.form.put(still, *values(left, stages=2))


def test_the_settings_name_the_preset_that_they_still_are(left):
    quick = dict.fromkeys(["first0", "first1", "first2"], 5) | dict.fromkeys(["rest0", "rest1", "rest2"], 4)
    assert left.form.read(*values(left, preset="quick", **quick)).preset == "quick"
    assert left.form.read(*values(left, preset="quick", **quick | {"rest2": 9})).preset is None
    assert left.form.read(*values(left)).preset is None


# -- the examples


def test_an_example_is_the_one_that_was_clicked_whatever_model_is_loaded(app, monkeypatch):
    def load(model: str) -> None:
        monkeypatch.setattr(app.worker, "start_from", replace(app.worker.start_from, model=model))

    with gr.Blocks(analytics_enabled=False) as blocks:
        load("embedded")
        left = page.build_left(app)
        presets.wire_examples(left.form, left.examples)
    take = handler(blocks, "take")
    for model in ("embedded", "miniflux"):
        load(model)
        for name, (_, prompt, picture) in presets.NAMED.items():
            taken = take(gr.EventData(None, {"example": name}))
            assert taken[:2] == [prompt, "image" if picture else "text"]
    assert take(gr.EventData(None, {"example": presets.SURPRISE}))[0]
    shown = presets.examples_html(app)
    assert 'data-example="world-0"' in shown and 'data-example="shapes-0"' not in shown
    with pytest.raises(gr.Error, match="load the page anew"):
        take(gr.EventData(None, {"example": "world-99"}))


# -- as the browser sends it


def test_every_event_that_takes_the_fields_takes_them_as_they_were_sent(app):
    with page.build(app) as built:
        pass
    ours = [at for at in built.fns.values() if any(isinstance(part, gr.Slider) for part in at.inputs)]
    assert ours and not any(at.preprocess for at in ours)


def test_an_upload_is_known_by_its_path(left):
    path = str(uploads_folder() / "a.png")
    sent = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    asked = values(left, mode="image", picture=sent, prompt="a red ball")
    assert left.form.sources(*asked) == (path, None)
    assert left.form.read(*asked).image == "a.png"
    for other in ("/etc/a.png", str(uploads_folder() / ".." / "a.png")):
        with pytest.raises(ValueError, match="'a.png' was not uploaded"):
            left.form.read(*values(left, mode="image", picture={"path": other}, prompt="a red ball"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "everything"}, "mode = 'everything' is unknown"),
        ({"size": "12"}, "size '12'"),
        ({"size": "-8x-8"}, "size '-8x-8'"),
        ({"size": None}, "size None"),
        ({"stages": "3"}, "stages = 3: a whole number"),
        ({"stages": 9}, "stages = 9"),
    ],
)
def test_what_no_field_of_the_page_can_hold_is_refused(left, changes, words):
    with pytest.raises(SettingsError, match=words):
        left.form.read(*values(left, prompt="a red ball", **changes))


def test_a_preset_is_a_name_and_never_the_path_of_a_file(left, app, tmp_path):
    path = tmp_path / "elsewhere.toml"
    path.write_text('description = "not for this page"\nfps = 8\n')
    with pytest.raises(SettingsError, match="preset = .* is unknown"):
        find_preset(str(path), app.presets_folder)
    assert left.form.read(*values(left, preset=str(path), fps=8)).preset is None


@pytest.mark.parametrize("folder", [None, "elsewhere"])
def test_the_folder_of_uploads_is_gradios(folder, monkeypatch, tmp_path):
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    if folder:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / folder))
    assert uploads_folder() == Path(gradio.utils.get_upload_folder()).resolve()


def test_a_speed_fills_sampler_and_steps(app, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Info", lambda message, **_: told.append(message))
    with gr.Blocks(analytics_enabled=False) as blocks:
        built = page.build_left(app)
        presets.wire_speed(built.form)
    choose = handler(blocks, "choose")
    updates = dict(zip(built.form.fields, choose("balanced", *values(built)), strict=True))
    assert updates["sampler"]["value"] == "multistep" and "asked" in told[0]
    start = built.form.app.worker.start_from
    assert built.form.speed.value == "reference" == built.look.speed(start)["value"]
    assert built.look.speed(replace(start, num_inference_steps=(9, 9, 9)))["value"] is None
    with pytest.raises(gr.Error, match="choose from quick"):
        choose("at once", *values(built))


def test_presets_that_set_steps_are_not_for_a_variant_that_was_taught_few_by_one_that_is_not_here(
    app, monkeypatch
):
    assert presets.needs(app, load_preset("quick")) == ""
    fast = replace(app.worker.start_from, variant="128p-fast")
    monkeypatch.setattr(app.worker, "start_from", fast)
    assert presets.needs(app, load_preset("quick")).endswith(" 128p")


# -- LoRAs


def test_loras_have_sliders_that_say_the_setting_and_follow_it(app, tmp_path, monkeypatch):
    monkeypatch.setenv("PYRAMID_LORAS", str(tmp_path))
    for name in ("sketch", "slow"):
        (tmp_path / f"{name}.safetensors").touch()
    with gr.Blocks(analytics_enabled=False) as blocks:
        page.build_left(app)
    sliders = [part.label for part in blocks.blocks.values() if isinstance(part, gr.Slider)]
    assert {"sketch", "slow"} <= set(sliders)
    assert handler(blocks, "say")(0.8, 0) == "sketch:0.8"
    assert handler(blocks, "show")("slow:-0.5, gone") == [0, -0.5]


# -- what goes wrong


@pytest.fixture(scope="module")
def built(app):
    """The whole page."""
    return page.build(app)


def test_no_two_functions_of_the_page_keep_each_other_at_work(built):
    hanging = defaultdict(list)  # see `ui.follow`
    for event in built.fns.values():
        if event.fn is not None and event.trigger_mode == "always_last":
            for target in event.targets:
                hanging[target].append(event.name)
    shared = {on: names for on, names in hanging.items() if len(names) > 1}
    assert not [on for on in shared if on[1] not in ("load", "then")]  # these begin each function by itself


def test_every_event_of_the_page_tells_what_goes_wrong_in_it(built):
    ours = [event.fn for event in built.fns.values() if event.fn is not None]
    assert len(ours) > 20 and all(hasattr(function, "__wrapped__") for function in ours)


def test_what_nobody_foresaw_is_told_by_an_id_and_what_users_cause_by_a_sentence(app, tmp_path):
    keep_log(app.store.private / "log.txt", terminal=False)

    def fails(error):
        raise error

    for error, words in (
        (
            TypeError("of <b>nobody</b>"),
            r"Something went wrong .*&lt;b&gt;.* error [0-9a-f]{8} in the log, log\.txt",
        ),
        (KeyError("there is no job 'a'"), "This job is no longer in the queue"),
        (SettingsError("seed", "= -3 is outside", named=True), "Seed = -3 is outside"),
        (RecursionError(), "Lists or tables lie too deep"),
    ):
        with pytest.raises(gr.Error, match=words):
            errors.told(app, fails)(error)
    log = (app.store.private / "log.txt").read_text()
    assert "TypeError: of <b>nobody</b>" in log and "RecursionError" not in log
    with pytest.raises(gr.Error, match="seed = -3"):
        errors.told(app, fails, program=True)(SettingsError("seed", "= -3", named=True))


def test_what_is_wrong_names_its_field_near_the_button(left):
    _, verdict = left.look.judge(*values(left, prompt="x", first1=500))
    assert 'data-field="num_inference_steps" data-part="stage 2" data-say="500 is outside 1 to 200' in verdict


@pytest.mark.parametrize("seed", [-3, 10**22 + 0.0, 2**53])
def test_a_seed_that_is_flagged_does_not_run(left, app, seed):
    request = gr.Request(username=None)
    for random in (False,):
        fields = values(left, prompt="a red ball", seed=seed, random=random)
        extras = [part.value for part in left.form.extras]
        number, verdict = left.begin("token", request, *fields, *extras)
        assert 'data-field="seed"' in verdict and "value" not in number and not app.store.queue()


def test_a_file_of_any_odd_content_is_told_and_changes_nothing(app, tmp_path):
    with gr.Blocks(analytics_enabled=False):
        part = build_results(app)
        part.form = page.build_left(app).form
    odd = {
        "deep.json": "[" * 100_000,
        "deep.toml": "a = " + "[" * 100_000,
        "half.json": '{"a": ',
        "null.json": "null",
    }
    for name, text in odd.items():
        (tmp_path / name).write_text(text)
    locked = bytearray(_zip(tmp_path / "locked.zip").read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + at] |= 1  # what an encrypted archive says of its members
    (tmp_path / "locked.zip").write_bytes(locked)
    for name in (*odd, "locked.zip"):
        file, said, *fields = part.drop(str(tmp_path / name), "t", gr.Request())
        assert file is None and 'class="notes failed"' in said and name in said, said
        assert str(tmp_path) not in said and "Traceback" not in said
    assert "is encrypted: unpack it" in part.drop(str(tmp_path / "locked.zip"), "t", gr.Request())[1]


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("settings.json", "{}")
    return path
