"""Another way from a unit of a clip, by the command line.

python -m pytest tests/commands/test_branch.py
"""

import numpy as np
import pytest

from pyramid.commands import cli
from pyramid.generate import pipeline
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames


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
        (["--at-unit", "1", "--seed", "2", "--endless"], "choose one"),
    ],
)
def test_what_a_branch_cannot_be_is_said(tiny_checkpoint, tmp_path_factory, flags, message, capfd, clip):
    assert cli.main(["generate", "--branch", str(clip), *flags]) == 2
    assert message in capfd.readouterr().err


@pytest.fixture(scope="module")
def clip(tiny_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    run = ["generate", "--prompt", "a red ball", "--model", str(tiny_checkpoint), "--steps", "1"]
    assert cli.main([*run, "--video-steps", "1", "--num-frames", "9", "--output", str(path)]) == 0
    return path
