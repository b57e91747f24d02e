"""Presets: the shipped ones can be run, files are read strictly, another model's bring that model's own settings."""

import dataclasses

import pytest

from pyramid.presets import PRESETS_FOLDER, load_preset, preset_names, presets
from pyramid.settings import VARIANTS, Settings, SettingsError

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


@pytest.mark.parametrize("text, words", [
    ('description = "d"\nwidht = 64', ["my.toml", "'widht'", "'width'"]),
    ('description = "d"\nprompt = "cat"', ["'prompt'"]),
    ('description = "d"\nwidth = "64"', ["width", "whole number"]),
    ('description = "d"\nwidth = 100', ["100", "64 or 128"]),
    ("width = 64", ["description"]),
    ("width = = 64", ["as TOML"]),
])
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
