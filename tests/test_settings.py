"""Settings: limits and their messages, round trips, frames and seconds."""

import dataclasses
import json
from pathlib import Path

import pytest

from pyramid.hub.checkpoints import defaults_of
from pyramid.settings import (
    MAX_SEED,
    MODELS,
    VARIANTS,
    Settings,
    SettingsError,
    check_size,
    frames_for_seconds,
    frames_of,
    seconds_of,
    size_grid,
    units_of,
)

GOOD = Settings(prompt="a red ball")


@pytest.mark.parametrize("model, variant", [(m, v) for m, names in MODELS.items() for v in names])
def test_every_model_starts_with_settings_it_was_trained_for(model, variant):
    settings = Settings.for_model(model, variant, prompt="a red ball").validate()
    assert settings.experimental() == []
    assert (settings.width, settings.height) == VARIANTS[variant].sizes[0]


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
        (dict(num_frames=10**6 + 1), "num_frames", ["2041"]),
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
    assert settings.experimental(moved) == settings.experimental(defaults_of("128p", Path("x"), {})) == []
    assert dataclasses.replace(settings, image=None).experimental(drawn) == []


def test_former_names_are_read():
    assert Settings.from_dict({"prompt": "a red ball", "quantise": "int8"}).quantize == "int8"
