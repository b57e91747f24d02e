"""Clips one after the other in one file, and a clip after the one that it continues."""

import numpy as np
import pytest

from pyramid.commands.cli import main
from pyramid.media.export import export
from pyramid.media.files import describe, read_metadata
from pyramid.media.join import join_clips
from pyramid.media.result import frames_of_result
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import inspect
from pyramid.settings import Settings, SettingsError


def clip(path, grays, size=(64, 48), fps=8, **metadata):
    """A clip of plain frames, one for each gray."""
    with VideoWriter(path, fps, size, metadata or None) as writer:
        for gray in grays:
            writer.write(np.full((size[1], size[0], 3), gray, np.uint8))
    return writer.path


def grays_of(path):
    return [round(float(np.asarray(frame).mean()), -1) for frame in frames_of_result(path)]


@pytest.fixture
def source(tmp_path):
    return clip(tmp_path / "source.mp4", range(20, 110, 10))


@pytest.fixture
def continued(tmp_path, source):
    """Two frames of the source again, and four of its own; smaller, and made to continue it."""
    settings = Settings(prompt="on", seed=1, fps=8, video="source.mp4", fit="pad", num_frames=9)
    about = describe(settings, {"identity": "embedded/128p"}, given_frames=2)
    return clip(tmp_path / "more.mp4", [90, 100, 200, 210, 220, 230], (32, 32), **about)


def test_clips_follow_each_other_in_the_size_and_pace_of_the_first(tmp_path, source):
    other = clip(tmp_path / "other.mp4", [200] * 8, (32, 32), fps=4)
    path = join_clips([source, other], tmp_path / "both.mp4")
    info = inspect(path)
    assert (info.width, info.height, info.fps) == (64, 48, 8)
    assert grays_of(path) == [*range(20, 110, 10), *[200] * 16]  # 2 s stay 2 s


def test_what_cannot_be_joined_is_said(tmp_path, source):
    with pytest.raises(ValueError, match="1 clips to join: give two or more"):
        join_clips([source], tmp_path / "both.mp4")
    with pytest.raises(ValueError, match="no frame after its first 9"):
        join_clips([source, source], tmp_path / "both.mp4", skip=(0, 9))
    with pytest.raises(SettingsError, match="must end in"):
        join_clips([source, source], tmp_path / "both.txt")
    assert not list(tmp_path.glob("*both*"))


def test_a_continued_clip_is_joined_to_its_source_with_each_moment_once(continued, source):
    path = export(continued, "joined", before=source)
    assert path.name == "more-joined.mp4"
    assert grays_of(path)[-4:] == [200, 210, 220, 230] and len(grays_of(path)) == 13
    assert inspect(path).width == 32  # the source was padded to it, as the model saw it
    about = read_metadata(path)
    assert about["settings"]["seed"] == 1 and about["joined"] == ["source.mp4", "more.mp4"]


def test_a_smoother_clip_is_joined_to_its_source_with_each_moment_once(continued, source, tmp_path):
    smoother = clip(
        tmp_path / "smoother.mp4",
        [90, 100, 100, 150, 200, 210, 210, 220, 220, 230, 230],
        (32, 32),
        16,
        **read_metadata(continued),
    )
    path = export(smoother, "joined", before=source)
    assert inspect(path).fps == 16
    assert grays_of(path)[16:] == [80, 80, 200, 210, 210, 220, 220, 230, 230]  # 100, with bars


def test_only_a_continued_clip_has_a_source(continued, source):
    with pytest.raises(SettingsError, match="joined begins with the clip that more.mp4 continues"):
        export(continued, "joined")
    with pytest.raises(ValueError, match="source.mp4 continues no other clip"):
        export(source, "joined", before=continued)


def test_the_command_joins_and_tells_a_strange_source(continued, source, capsys):
    assert main(["export", str(continued), "--format", "joined", "--source", str(source)]) == 0
    out, err = capsys.readouterr()
    assert out.strip().endswith("more-joined.mp4") and "another file" not in err
    about = read_metadata(continued) | {"source": {"name": "source.mp4", "hash": "0" * 16}}
    strange = clip(continued.with_name("strange.mp4"), [90, 100, 200], (32, 32), **about)
    assert main(["export", str(strange), "--format", "joined", "--source", str(source)]) == 0
    assert "strange.mp4 was made from another file than source.mp4" in capsys.readouterr().err
