"""A unit made anew within a clip: both sides stay, so may the composition, and the seams are measured."""

import threading
from dataclasses import replace

import pytest
import torch

from pyramid.commands import cli
from pyramid.events import Unit
from pyramid.generate.latents import pyramid
from pyramid.generate.loaded import ModelHolder
from pyramid.generate.request import Inputs
from pyramid.jobs.editing import Edit, remade
from pyramid.media.files import read_metadata
from pyramid.settings import Settings, SettingsError


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint):
    return ModelHolder().bring(settings_of(tiny_checkpoint))


def settings_of(checkpoint, **changes) -> Settings:
    asked = {"prompt": "a red ball", "seed": 3, "num_frames": 25} | changes
    return Settings.for_model(str(checkpoint), "128p", **asked)


@pytest.fixture(scope="module")
def clip(loaded, tiny_checkpoint):
    settings = settings_of(tiny_checkpoint)
    events = loaded.stream(settings, Inputs(output_type="latent"))
    return settings, [event for event in events if isinstance(event, Unit)]


def done(making):
    while True:
        try:
            next(making)
        except StopIteration as end:
            return end.value


def test_the_other_units_stay_and_the_best_of_the_seeds_does(loaded, clip):
    settings, units = clip
    choice = done(remade(loaded.stream, settings, units, Edit(1, "a blue star", seeds=(5, 6))))
    same = [bool((a.latents == b.latents).all()) for a, b in zip(units, choice.units, strict=True)]
    assert same == [True, False, True, True]
    assert choice.seams.keys() == {"left", "right"} and choice.tried.keys() == {5, 6}
    assert choice.tried[choice.seed] == min(choice.tried.values())
    assert choice.tried[choice.seed] == choice.worst >= max(seam.ratio for seam in choice.seams.values())
    assert choice.fading > 0 and choice.table(Edit(1))["fading"] == round(choice.fading, 3)
    again = done(remade(loaded.stream, settings, units, Edit(1, "a blue star", seeds=(choice.seed,))))
    assert (again.units[1].latents == choice.units[1].latents).all()
    last = done(remade(loaded.stream, settings, units, Edit(3, seeds=(5,))))
    assert last.seams.keys() == {"left"} and last.fading is None


def test_with_its_own_words_and_seed_a_unit_becomes_what_it_was(loaded, clip):
    settings, units = clip
    choice = done(remade(loaded.stream, settings, units, Edit(2, seeds=(settings.seed,))))
    assert (choice.units[2].latents == units[2].latents).all() and choice.fading == 0


def test_the_composition_stays_where_it_is_asked_for(loaded, clip):
    settings, units = clip

    def away(choice) -> float:
        a, b = (pyramid(each[2].latents, settings.stages)[0] for each in (units, choice.units))
        return float((a - b).norm())

    free, kept = (
        done(remade(loaded.stream, settings, units, Edit(2, seeds=(9,), composition=composition)))
        for composition in (False, True)
    )
    assert away(kept) < away(free) and not torch.equal(kept.units[2].latents, units[2].latents)


def test_what_cannot_be_edited_is_told_and_a_stop_leaves_nothing(loaded, clip):
    settings, units = clip
    for unit, why in ((0, "unit 0 is the first frame"), (4, "unit 4 is not in this clip")):
        with pytest.raises(SettingsError, match=f"{why}.*: choose 1 to 3, or make the clip anew"):
            done(remade(loaded.stream, settings, units, Edit(unit)))
    with pytest.raises(SettingsError, match="17 seeds: 1 to 16"):
        Edit(1, seeds=tuple(range(17)))
    stop = threading.Event()
    stop.set()
    assert done(remade(loaded.stream, settings, units, Edit(1), stop)) is None


def test_the_command(tiny_checkpoint, tmp_path, capsys):
    s = settings_of(tiny_checkpoint)
    clip = tmp_path / "ball.mp4"
    flags = ["--model", s.model, "--prompt", s.prompt, "--seed", "3", "--num-frames", "17"]
    assert cli.main(["generate", *flags, "--output", str(clip)]) == 0
    capsys.readouterr()
    edit = ["edit", str(clip), "--unit", "1", "--prompt", "a blue star", "--seed", "5"]
    assert cli.main(edit) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "ball-unit1.mp4") and "on the left, from frame to frame" in err
    told = read_metadata(tmp_path / "ball-unit1.mp4")
    assert told["edit"]["seed"] == 5 and told["edit"]["seams"].keys() == {"left", "right"}
    assert (
        told["settings"] == read_metadata(clip)["settings"]
        and "Frames 1 to 8 (unit 1) were made anew" in told["notes"][0]
    )
    assert cli.main(["edit", out.strip(), "--unit", "1"]) == 2
    assert "was made of another clip" in capsys.readouterr()[1]
    assert cli.main([*edit, "--units", str(tmp_path)]) == 2
    capsys.readouterr()
    assert cli.main(["edit", out.strip(), str(clip), "--unit", "2", "--seed", "7"]) == 1  # the others go on
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "ball-unit2.mp4") and "was made of another clip" in err
    assert cli.main(["edit", str(clip), str(clip), "--unit", "1", "--output", str(clip)]) == 2
    assert cli.main(["edit", str(clip), "--unit", "1", "--tries", "1000000000"]) == 2
    assert "1 to 16 can be tried" in capsys.readouterr()[1]
    assert replace(s, num_frames=17).units == 3
