"""Another way from a unit of a clip, by the command line.

python -m pytest tests/commands/test_branch.py
"""

import shutil

import numpy as np
import pytest
import torch

from pyramid.commands import cli
from pyramid.commands.branching import settle, shared_units
from pyramid.events import Unit
from pyramid.generate import pipeline
from pyramid.jobs.recovery import UnitsFolder
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames
from pyramid.settings import Settings


def test_a_branch_takes_kept_units_and_makes_what_its_settings_make(
    tiny_checkpoint, tmp_path, capfd, monkeypatch
):
    begin = ["generate", "--prompt", "a red ball", "--model", str(tiny_checkpoint), "--seed", "1"]
    short = ["--steps", "1", "--video-steps", "1", "--num-frames", "25", "--keep-units"]
    first, other, again = (str(tmp_path / name) for name in ("one.mp4", "two.mp4", "three.mp4"))
    assert cli.main([*begin, *short, "--output", first]) == 0
    assert len(list((tmp_path / ".one.kept").glob("unit-*"))) == 4
    go = ["generate", "--branch", first, "--at-unit", "2", "--prompt", "a blue star"]
    sampled = []
    run = pipeline.sample
    monkeypatch.setattr(pipeline, "sample", lambda *a: sampled.append(len(a[2].finished)) or run(*a))
    assert cli.main([*go, "--video-guidance", "2", "--seed", "9", "--output", other]) == 0
    settings = read_metadata(other)["settings"]
    assert settings["seed"] == 1 and settings["prompt"] == "a red ball" and sampled == [2]
    assert '"from": 2, "prompt": "a blue star", "guidance": 2.0, "seed": 9' in settings["timeline"]
    (tmp_path / ".one.kept").rename(tmp_path / "gone")
    assert cli.main([*go, "--video-guidance", "2", "--seed", "9", "--output", again]) == 0
    assert "made again" in capfd.readouterr().err and sampled == [2, 0]
    assert read_metadata(again)["settings"] == settings
    assert np.array_equal(*(np.stack(list(read_frames(path))) for path in (other, again)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--at-unit", "1"], "what is to be different"),
        (["--prompt", "x"], "needs --at-unit"),
        (["--at-unit", "9", "--prompt", "x"], "1 to 1"),
        (["--at-unit", "1", "--width", "128"], "--width with --branch"),
        (["--at-unit", "1", "--prompt", "x", "--speed", "reference"], "--speed with --branch"),
        (["--at-unit", "1", "--prompt", "x", "--preset", "quality"], "--preset with --branch"),
        (["--at-unit", "1", "--prompt", "x", "--model", "miniflux"], "--model with --branch"),
        (["--at-unit", "1", "--guidance", "5", "--video-guidance", "2"], "--video-guidance with --guidance"),
        (["--at-unit", "1", "--steps", "3", "--video-steps", "2"], "--video-steps with --steps"),
        (["--at-unit", "1", "--seed", "-1"], "--seed = -1 is outside"),
        (["--at-unit", "1", "--prompt", ""], "the prompt is empty"),
        (["--at-unit", "1", "--video-steps", "0"], "--video-steps, stage 1 = 0"),
        (["--at-unit", "1", "--seed", "2", "--endless"], "choose one"),
    ],
)
def test_what_a_branch_cannot_be_is_said(tiny_checkpoint, tmp_path_factory, flags, message, capfd, clip):
    assert cli.main(["generate", "--branch", str(clip), *flags]) == 2
    assert message in capfd.readouterr().err


def test_units_of_a_clip_that_had_the_name_before_are_not_taken(tiny_checkpoint, tmp_path, capfd, clip):
    path = tmp_path / "clip.mp4"
    shutil.copy(clip, path)
    kept = tmp_path / ".clip.kept"
    run = {"run": "0" * 32, "result": "clip.mp4"}
    settings = Settings.from_dict(read_metadata(clip)["settings"])
    about = read_metadata(clip)["model"]
    UnitsFolder(kept).begin(settings, about, run)
    UnitsFolder(kept).save(Unit(0, 2, torch.zeros(1, 16, 1, 8, 8)))
    assert shared_units(path, read_metadata(path), 1) == [] and "not kept" in capfd.readouterr().err
    UnitsFolder(kept).begin(settings, about, run | {"run": read_metadata(path)["run"]})
    UnitsFolder(kept).save(Unit(0, 2, torch.ones(1, 16, 1, 8, 8)))
    assert [unit.index for unit in shared_units(path, read_metadata(path), 1)] == [0]


def test_what_was_kept_before_is_replaced_and_a_failure_is_a_note(tmp_path, capsys, monkeypatch):
    result = tmp_path / "c.mp4"
    kept = tmp_path / ".c.kept"
    units = UnitsFolder(tmp_path / ".c.units")
    for folder, name in ((kept, "old"), (units.path, "new")):
        folder.mkdir()
        (folder / name).touch()
    settle(units, result, kept=True)
    assert [path.name for path in kept.iterdir()] == ["new"] and not units.path.exists()
    settle(None, result, kept=False)  # a new clip of that name
    assert not kept.exists() and capsys.readouterr().err == ""
    units.path.mkdir()
    kept.touch()  # something that is no folder of ours
    settle(units, result, kept=True)
    assert "note: .c.kept could not be put in order (Not a directory)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def clip(tiny_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    run = ["generate", "--prompt", "a red ball", "--model", str(tiny_checkpoint), "--steps", "1"]
    assert cli.main([*run, "--video-steps", "1", "--num-frames", "9", "--output", str(path)]) == 0
    return path
