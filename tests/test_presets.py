"""Presets: the shipped ones can be run, files are read strictly,
another model's bring that model's own settings.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny import make_checkpoint

from pyramid.presets import (
    PRESETS_FOLDER,
    load_preset,
    preset_names,
    presets,
    resolve,
    save_preset,
    speed_of,
    speed_words,
    speeds_of,
)
from pyramid.settings import SPEEDS, VARIANTS, Settings, SettingsError

GOOD = Settings(prompt="a red ball")


def test_shipped_presets_differ_are_described_and_can_be_run():
    found = presets()
    assert {"quick", "quality", "still", "released-384p", "released-768p"} <= {p.name for p in found}
    results = [preset.apply(GOOD).validate().to_dict() | {"preset": None} for preset in found]
    assert all(result not in [GOOD.to_dict(), *results[:i]] for i, result in enumerate(results))
    assert all(len(preset.description) > 20 for preset in found)
    assert load_preset("quick").apply(GOOD).preset == "quick"


def test_a_preset_of_another_model_keeps_what_the_user_said_and_takes_the_models_rest():
    mine = dataclasses.replace(GOOD, seed=5, image="cat.png", device="cpu")
    settings = load_preset("released-768p").apply(mine)
    assert [getattr(settings, name) for name in ("prompt", "seed", "image")] == ["a red ball", 5, "cat.png"]
    assert settings.device == "cpu"
    assert (settings.model, settings.width, settings.fps) == ("miniflux", 1280, 24)
    assert settings.prompt_suffix == VARIANTS["768p"].prompt_suffix and settings.experimental() == []


@pytest.mark.parametrize(
    "text, words",
    [
        ('description = "d"\nwidht = 64', ["my.toml", "'widht'", "'width'"]),
        ('description = "d"\nprompt = "cat"', ["'prompt'"]),
        ('description = "d"\nwidth = "64"', ["width", "whole number"]),
        ('description = "d"\nwidth = 100', ["100", "64 or 128"]),
        ("width = 64", ["description"]),
        ("width = = 64", ["as TOML"]),
        ("a = " + "[" * 50_000, ["as TOML: its tables lie too deep in each other"]),
        ("seed = " + "9" * 5000, ["my.toml: a number in it has thousands of digits"]),
    ],
)
def test_presets_are_read_strictly(tmp_path, text, words):
    (tmp_path / "my.toml").write_text(text)
    for name, folder in (("my", tmp_path), (str(tmp_path / "my.toml"), PRESETS_FOLDER)):
        with pytest.raises(SettingsError) as caught:
            load_preset(name, folder)
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unknown_presets_name_the_nearest():
    assert preset_names() == sorted(preset_names())
    with pytest.raises(SettingsError, match="did you mean 'quick'"):
        load_preset("quikc")
    for name in ("../presets/quick", "", "nothing/there.toml", "/"):
        with pytest.raises(SettingsError):
            load_preset(name)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_a_preset_with_one_list_of_steps_brings_the_other_to_as_many_stages(tmp_path, stages):
    mine = dataclasses.replace(GOOD, num_inference_steps=(7, 8), video_num_inference_steps=(3, 4))
    for given, other, left in (("num", "video_num", (3, 4, 4, 4)), ("video_num", "num", (7, 8, 8, 8))):
        (tmp_path / "my.toml").write_text(f'description = "d"\n{given}_inference_steps = {[9] * stages}')
        settings = load_preset("my", tmp_path).apply(mine)
        assert getattr(settings, f"{given}_inference_steps") == (9,) * stages
        assert getattr(settings, f"{other}_inference_steps") == left[:stages]
    assert dataclasses.replace(load_preset("still").apply(mine), width=128).validate().stages == 3


@pytest.mark.parametrize("wrong", [{"width": 100}, {"num_inference_steps": (500, 5, 5)}, {"fps": 0}])
def test_what_cannot_be_run_is_not_saved(tmp_path, wrong):
    name, value = next(iter(wrong.items()))
    shown = f"{name}, stage 1 = 500" if name == "num_inference_steps" else f"{name} = {value}"
    with pytest.raises(SettingsError, match=f"preset 'mine' could not be used: {shown}"):
        save_preset("mine", dataclasses.replace(GOOD, **wrong), tmp_path)
    assert not list(tmp_path.iterdir())
    save_preset("mine", GOOD, tmp_path)
    assert load_preset("mine", tmp_path).apply(GOOD) == dataclasses.replace(GOOD, preset="mine")


def test_a_request_is_the_models_own_then_the_presets_then_what_it_says():
    plain = resolve(None, None, {"prompt": "a red ball"})
    assert plain.model == "embedded" and plain.variant == "128p" and plain.prompt == "a red ball"
    quick = load_preset("quick")
    changed = resolve(None, quick, {"guidance_scale": 6, "quantise": "int8"}, seconds=2)
    assert (changed.preset, changed.guidance_scale, changed.quantize) == ("quick", 6.0, "int8")
    assert (changed.num_inference_steps, changed.num_frames) == ((5, 5, 5), 17)
    # A preset's variant is one of its own model's, and a loaded model keeps its own, and its machine.
    assert resolve("embedded", load_preset("released-768p"), {}).variant == "128p"
    sd3 = Settings.for_model("sd3", dtype="bfloat16")
    loaded = resolve(sd3, load_preset("released-768p"), {})
    assert (loaded.model, loaded.variant, loaded.dtype, loaded.width) == ("sd3", "384p", "bfloat16", 640)
    with pytest.raises(SettingsError, match="did you mean 'width'"):
        resolve(None, None, {"widht": 64})


@pytest.mark.parametrize(
    ("changes", "first", "later"),
    [
        ({"num_inference_steps": 7}, (7, 7, 7), (8, 8, 8)),
        ({"num_inference_steps": (7, 3)}, (7, 3), (7, 3)),
        ({"num_inference_steps": [7, 3], "video_num_inference_steps": 2}, (7, 3), (2, 2)),
        ({"num_inference_steps": 4, "video_num_inference_steps": (3, 2)}, (4, 4), (3, 2)),
        ({"num_inference_steps": [9]}, (9,), (9,)),
    ],
)
def test_one_count_stands_for_all_stages_and_other_stages_hold_for_later_units_too(changes, first, later):
    start = dataclasses.replace(GOOD, video_num_inference_steps=(8, 8, 8))
    settings = resolve(start, None, changes)
    assert (settings.num_inference_steps, settings.video_num_inference_steps) == (first, later)


# -- speeds


def evaluations(settings):
    return sum(sum(settings.evaluations(unit)) for unit in range(settings.units))


def test_a_speed_stands_for_a_sampler_and_steps():
    usual = resolve("embedded", None, {"prompt": "x"})
    made = {
        speed: resolve("embedded", None, {"prompt": "x", "variant": "128p"}, speed=speed) for speed in SPEEDS
    }
    assert made["reference"] == usual == dataclasses.replace(usual, variant="128p")
    assert (made["balanced"].sampler, made["balanced"].num_inference_steps) == ("multistep", (5, 5, 5))
    assert [evaluations(made[speed]) for speed in SPEEDS] == [36, 48, 96]
    assert all(speed_of(made[speed], usual) == speed for speed in SPEEDS)
    assert speed_of(dataclasses.replace(usual, sampler="even"), usual) is None
    assert "48 times" in speed_words("balanced", made["balanced"])
    own = resolve("embedded", None, {"video_num_inference_steps": 3}, speed="balanced")
    assert (own.num_inference_steps, own.video_num_inference_steps) == ((5, 5, 5), (3, 3, 3))
    with pytest.raises(SettingsError, match="did you mean 'quick'"):
        resolve("embedded", None, {}, speed="quik")


def test_quick_takes_the_fast_variant_where_there_is_one(tmp_path):
    folder = make_checkpoint(tmp_path)
    shutil.copytree(folder / "diffusion_transformer_128p", folder / "diffusion_transformer_128p-fast")
    details = json.loads((folder / "pyramid.json").read_text())
    fast = {"sampler": "even", "num_inference_steps": [2, 2, 1], "video_num_inference_steps": [2, 2, 1]}
    (folder / "pyramid.json").write_text(json.dumps(details | {"variants": {"128p-fast": fast}}))
    made = {speed: resolve(str(folder), None, {}, speed=speed) for speed in SPEEDS}
    assert [made[speed].variant for speed in SPEEDS] == ["128p-fast", "128p", "128p"]
    assert made["quick"].num_inference_steps == (2, 2, 1) and made["quick"].sampler == "even"
    assert speeds_of(made["quick"]) == ("quick",)
    with pytest.raises(SettingsError, match="choose 128p"):
        resolve(str(folder), None, {"variant": "128p-fast"}, speed="balanced")


def test_a_photograph_takes_the_variant_that_moves_it_where_none_is_named(tmp_path):
    photo, drawing = tmp_path / "photo.png", tmp_path / "drawing.png"
    texture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(texture).save(photo)
    Image.new("RGB", (128, 128), "blue").save(drawing)

    def variant(**changes) -> str:
        return resolve("embedded", None, changes).variant

    assert variant(image=str(photo)) == "128p-photos"
    assert resolve(None, None, {"image": str(photo)}, speed="quick").variant == "128p-photos"
    assert variant(image=str(photo), variant="128p-fast") == "128p-fast"
    assert variant(image=str(photo), num_frames=1) == variant(image=str(drawing)) == variant() == "128p"
