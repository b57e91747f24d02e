"""Settings: limits and their messages, round trips, frames and seconds."""

import dataclasses
import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import settings_page
import torch

from pyramid.hub.checkpoints import defaults_of
from pyramid.settings import (
    MAX_SEED,
    MODELS,
    VARIANTS,
    Settings,
    SettingsError,
    check_known,
    check_size,
    check_value,
    flag_of,
    frames_for_seconds,
    frames_of,
    label_of,
    seconds_of,
    size_grid,
    units_of,
    variant_of,
)

GOOD = Settings(prompt="a red ball")


@pytest.mark.parametrize("model, variant", [(m, v) for m, names in MODELS.items() for v in names])
def test_every_model_starts_with_settings_it_was_trained_for(model, variant):
    settings = Settings.for_model(model, variant, prompt="a red ball").validate()
    assert settings.experimental() == []
    assert (settings.width, settings.height) == variant_of(variant).sizes[0]


def test_the_defaults_are_the_embedded_models():
    assert Settings() == Settings.for_model("embedded")
    assert (GOOD.num_frames, GOOD.units, GOOD.fps, GOOD.seconds) == (25, 4, 8, 3)


@pytest.mark.parametrize(
    "changes, field, words",
    [
        (dict(prompt=""), "prompt", ["empty"]),
        (dict(prompt=" \n\t"), "prompt", ["empty"]),
        (dict(prompt="x" * 2001), "prompt", ["2001", "2000"]),
        (dict(width=100), "width", ["100", "64", "128"]),
        (dict(height=130), "height", ["130", "128 or 192"]),
        (dict(width=0), "width", ["0", "16 to 4096"]),
        (dict(height=-64), "height", ["-64"]),
        (dict(width=64 * 1000), "width", ["64000", "4096"]),
        (dict(num_frames=24), "num_frames", ["24", "17 or 25"]),
        (dict(num_frames=0), "num_frames", ["0"]),
        (dict(num_frames=-7), "num_frames", ["-7"]),
        (dict(num_frames=10**6 + 1), "num_frames", ["79993"]),
        (dict(num_frames=2049), "num_frames", ["2041", "history"]),
        (dict(num_inference_steps=()), "num_inference_steps", ["0 numbers"]),
        (dict(num_inference_steps=(1,) * 5), "num_inference_steps", ["5", "1 to 4"]),
        (dict(num_inference_steps=(10, 0, 10)), "num_inference_steps", ["0"]),
        (dict(num_inference_steps=(10, 10)), "video_num_inference_steps", ["2", "3"]),
        (dict(guidance_scale=0.0), "guidance_scale", ["1 to 30"]),
        (dict(video_guidance_scale=float("nan")), "video_guidance_scale", ["nan"]),
        (dict(guidance_decay=-1.0), "guidance_decay", ["-1"]),
        (dict(fps=0), "fps", ["0"]),
        (dict(seed=-1), "seed", ["-1", "random"]),
        (dict(seed=MAX_SEED + 1), "seed", [str(MAX_SEED)]),
        (dict(image="a.png", video="a.mp4"), "image", ["both"]),
        (dict(image="a.png", num_frames=1), "num_frames", ["nothing to make"]),
        (dict(fit="corp"), "fit", ["'crop'?"]),
        (dict(model=" "), "model", ["embedded"]),
        (dict(variant="384p"), "variant", ["'embedded'", "128p"]),
        (dict(model="someone/else", variant="../up"), "variant", ["../up"]),
        (dict(dtype="fp16"), "dtype", ["did you mean 'float16'", "bfloat16"]),
        (dict(quantize="int4"), "quantize", ["int4", "nf4"]),
        (dict(dtype="bf16"), "dtype", ["bfloat16"]),
        (dict(device="gpu0"), "device", ["gpu0", "cuda"]),
    ],
)
def test_what_cannot_be_run_is_refused_with_value_and_way_out(changes, field, words):
    with pytest.raises(SettingsError) as caught:
        dataclasses.replace(GOOD, **changes).validate()
    assert caught.value.field == field
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        dict(width="128"),
        dict(width=128.0),
        dict(seed=True),
        dict(seed=1.5),
        dict(guidance_scale="7"),
        dict(prompt=None),
        dict(num_inference_steps=20),
        dict(num_inference_steps=(1, 2.5)),
        dict(image=b"a"),
    ],
)
def test_wrong_types_are_refused_at_once(changes):
    with pytest.raises(SettingsError, match="is expected"):
        Settings(**changes)


def test_settings_survive_json_and_reject_what_they_do_not_know():
    settings = Settings.for_model("sd3", "768p", prompt='größer, 世 \n"q"', seed=MAX_SEED, image="a b.png")
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(SettingsError, match="unknown setting 'widht', did you mean 'width'"):
        Settings.from_dict({"widht": 64})
    with pytest.raises(SettingsError, match="version 99"):
        Settings.from_dict(settings.to_dict() | {"version": 99})
    with pytest.raises(SettingsError, match="table"):
        Settings.from_dict(["prompt"])


def test_a_seed_is_drawn_once_and_kept():
    drawn = GOOD.resolved()
    assert drawn.seed is not None and drawn.resolved() is drawn and GOOD.seed is None
    assert len({GOOD.resolved().seed for _ in range(20)}) > 15
    assert dataclasses.replace(GOOD, seed=0).resolved().seed == 0


def test_frames_units_and_seconds_agree():
    assert [frames_of(u) for u in (1, 2, 16, 31)] == [1, 9, 121, 241]
    assert all(units_of(frames_of(u)) == u for u in range(1, 50))
    assert [frames_for_seconds(s, 24) for s in (5, 10, 0.01)] == [121, 241, 9]
    assert frames_for_seconds(3, 8) == 25
    near = [seconds_of(frames_for_seconds(s / 7, 24), 24) - s / 7 for s in range(3, 200)]
    assert max(map(abs, near)) <= 8 / 24 / 2 + 1e-9
    for bad in (0, -1, float("nan"), float("inf"), 1e9):
        with pytest.raises(SettingsError, match="seconds"):
            frames_for_seconds(bad, 24)


@pytest.mark.parametrize("stages, grid", [(1, 16), (2, 32), (3, 64), (4, 128)])
def test_the_size_grid_follows_the_stages(stages, grid):
    assert size_grid(stages) == grid
    check_size(grid, 3 * grid, stages)
    with pytest.raises(SettingsError):
        check_size(grid, grid + grid // 2, stages)


def test_what_lies_outside_training_is_said():
    settings = Settings.for_model(
        "miniflux",
        prompt="x",
        width=384,
        height=640,
        num_frames=241,
        fps=12,
        num_inference_steps=(9, 9),
        video_num_inference_steps=(9, 9),
    )
    assert [note.split(":")[0] for note in settings.validate().experimental()] == [
        "2 stages",
        "384×640",
        "241 frames",
        "12 frames a second",
    ]


def test_a_photo_is_an_experiment_for_a_model_of_drawn_scenes():
    drawn = defaults_of("128p", Path("x"), {"trained_on": {"cameras": []}})
    moved = defaults_of("128p", Path("x"), {"trained_on": {"cameras": ["zoom in"]}})
    settings = Settings.for_model("embedded", "128p", prompt="x", image="photo.jpg")
    assert ["photographs" in note for note in settings.experimental(drawn)] == [True]
    assert settings.experimental(drawn)[0].endswith("128p-photos moves it.")
    assert settings.experimental(moved) == settings.experimental(defaults_of("128p", Path("x"), {})) == []
    assert dataclasses.replace(settings, image=None).experimental(drawn) == []


def test_former_names_are_read():
    assert Settings.from_dict({"prompt": "a red ball", "quantise": "int8"}).quantize == "int8"


def test_one_value_is_checked_by_itself():
    assert check_value("fps", 8) == 8 and check_value("seed", None) is None
    assert check_value("num_inference_steps", [1, 2]) == (1, 2) and check_value("guidance_scale", 7) == 7.0
    for name, value, words in (("fps", 0, "fps = 0 is outside 1 to 120"), ("width", None, "width is empty")):
        with pytest.raises(SettingsError, match=words):
            check_value(name, value)


def test_each_front_end_calls_a_setting_by_its_own_word():
    with pytest.raises(SettingsError) as caught:
        check_value("video_num_inference_steps", (5, 500, 5))
    said = [caught.value.told(name_of) for name_of in (str, label_of, flag_of)]
    names = "video_num_inference_steps", "Steps for each later unit", "--video-steps"
    assert said == [
        f"{name}, stage 2 = 500 is outside 1 to 200: 10 or 20 steps a stage are usual" for name in names
    ]


def test_the_list_of_settings_is_what_the_table_gives():
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.as_markdown()


ENTRIES = """
    grain: float = setting(0.0, "Film grain", "how grainy it looks", "more", low=0, high=2, step=0.1)
    loop: bool = setting(False, "Endless", "whether its end meets its beginning", "more")
"""
EVERYWHERE = """
import contextlib, io, sys, threading, typing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import settings_page
import torch
from gradio_client.utils import python_type_to_json_schema
from pyramid.commands import cli
from pyramid.commands.flags import asked_for, command_of
from pyramid.jobs.queue import JobStore, Limits
from pyramid.jobs.worker import Worker
from pyramid.presets import resolve
from pyramid.settings import Settings, SettingsError, label_of
from pyramid.ui import App, api, compare, page

start = Settings(prompt="a red ball")
try:                                                            # validation
    resolve(start, None, {"grain": 3}).validate()
except SettingsError as error:
    assert error.told(label_of) == "Film grain = 3 is outside 0 to 2", error.told(label_of)

args = cli.parser("generate").parse_args(["generate", "--grain", "1.5", "--loop"])       # flags and help
changed = resolve(start, None, asked_for(args))
assert (changed.grain, changed.loop) == (1.5, True)
assert "--grain=1.5 --loop" in command_of(changed) and "--no-loop" in command_of(start)
with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
    cli.parser("generate").parse_args(["generate", "--help"])
assert "--grain GRAIN" in told.getvalue() and "how grainy it looks" in told.getvalue()

store = JobStore(Path("outputs"), Limits())                     # the form
worker = Worker(store, model=sys.argv[1], begin=threading.Event())
with gr.Blocks(analytics_enabled=False):
    form = page.build_left(App(store, worker, store.folder, store.limits, True)).form
slider, box = form.fields["grain"], form.fields["loop"]
assert (slider.label, slider.minimum, slider.maximum, slider.step) == ("Film grain", 0, 2, 0.1)
assert (box.label, box.value) == ("Endless", False)
held = {name: part.value for name, part in form.fields.items()}
asked = form.read(*(held | {"prompt": "a red ball", "grain": 0.5, "loop": True}).values())
assert (asked.grain, asked.loop) == (0.5, True)
assert form.fill(asked)[list(form.fields).index("grain")]["value"] == 0.5
worker.close()
store.close()

kinds = python_type_to_json_schema(typing.get_type_hints(api.Endpoints.generate)["settings"])["oneOf"][1]
assert kinds["properties"]["grain"] == {"type": "number"}, kinds                # the endpoints
assert "grain (number, 0 to 2): how grainy it looks" in api.Endpoints.generate.__doc__

rows = compare.differences(SimpleNamespace(settings=start), SimpleNamespace(settings=asked))    # compare
assert '<th scope="row">Film grain</th><td>0</td><td>0.5</td>' in rows, rows
row = "| `grain` | Film grain | `--grain` | how grainy it looks | number, 0 to 2 | 0 |"
assert row in settings_page.as_markdown()                       # the documents
"""


def test_a_new_setting_is_one_entry_of_the_table(tmp_path, tiny_checkpoint):
    root = Path(__file__).parent.parent
    shutil.copytree(root / "pyramid", tmp_path / "pyramid")
    for name in ("presets", "assets", "tools"):
        (tmp_path / name).symlink_to(root / name)
    shutil.copy(root / "tools" / "settings_page.py", tmp_path)
    table = tmp_path / "pyramid" / "settings.py"
    text, last = table.read_text(encoding="utf-8"), "    preset: str | None ="
    table.write_text(text.replace(last, f"{ENTRIES}{last}"), encoding="utf-8")
    code = [sys.executable, "-c", EVERYWHERE, str(tiny_checkpoint)]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_of_numpy_and_torch_are_numbers():
    usual = Settings(prompt="x", seed=3, guidance_scale=4.5, num_inference_steps=(4, 4))
    for numbers in (
        {"seed": np.int64(3), "guidance_scale": np.float32(4.5), "num_inference_steps": np.array([4, 4])},
        {"seed": np.array(3), "guidance_scale": np.array(4.5), "num_inference_steps": [np.int8(4), 4]},
        {
            "seed": torch.tensor(3),
            "guidance_scale": Fraction(9, 2),
            "num_inference_steps": torch.tensor([4, 4]),
        },
    ):
        made = Settings(prompt="x", **numbers)
        assert made == usual and json.dumps(made.to_dict()) == json.dumps(usual.to_dict())
    assert frames_for_seconds(np.float32(3), 8) == 25
    for odd in (
        {"seed": np.bool_(True)},
        {"seed": np.float64(3)},
        {"guidance_scale": np.array([4.0])},
        {"fps": True},
    ):
        with pytest.raises(SettingsError, match="expected"):
            Settings(prompt="x", **odd)


def test_the_name_that_was_meant_is_offered():
    meant = {
        "promt": "prompt",
        "steps": "num_inference_steps",
        "cfg_scale": "guidance_scale",
        "duration": None,
    }
    for name, nearest in meant.items():
        with pytest.raises(SettingsError) as told:
            check_known({name: 1}, "setting")
        assert (f"did you mean {nearest!r}" in str(told.value)) == (nearest is not None)


def test_a_variant_with_few_steps_says_what_it_was_taught():
    v = dataclasses.replace(
        VARIANTS["128p"], name="128p-fast", steps=(2, 2, 1), video_steps=(2, 2, 1), sampler="even"
    )
    v = dataclasses.replace(v, guidance_scale=1, video_guidance_scale=1)
    taught = Settings.for_model("/a/folder", v.name, v, prompt="a red ball")
    assert taught.experimental(v) == []
    more = dataclasses.replace(taught, num_inference_steps=(8, 8, 8), video_guidance_scale=4.0)
    steps, guidance = more.experimental(v)
    assert "8, 8, 8" in steps and "2, 2, 1" in steps and "128p takes any" in steps and "1 is" in guidance
    assert "sampler reference" in dataclasses.replace(taught, sampler="reference").experimental(v)[0]
