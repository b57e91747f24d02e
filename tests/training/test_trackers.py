"""Where a run can be watched: what is told, what is missing, samples as videos."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState

from pyramid.media.video import VideoWriter
from pyramid.training.clips.recipe import ClipRecipe
from pyramid.training.trackers import Trackers, check, flat


@pytest.fixture(autouse=True)
def one_process():
    """As the loop has it when its trackers start."""
    PartialState(cpu=True)


@pytest.fixture
def video(tmp_path) -> Path:
    with VideoWriter(tmp_path / "000020.mp4", 8, (64, 48), keep="none") as writer:
        for at in range(9):
            writer.write(np.full((48, 64, 3), 20 * at, np.uint8))
    return tmp_path / "000020.mp4"


def test_a_recipe_is_told_as_plain_values():
    told = flat(ClipRecipe("mine"))
    assert told["name"] == "mine" and told["train.batch"] == 64 and told["train.betas"] == "(0.9, 0.95)"
    assert all(isinstance(value, bool | int | float | str) for value in told.values())


def test_missing_trackers_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    trackers = Trackers.start(("tensorboard",), "mine", tmp_path, {})
    assert trackers.trackers == [] and "pip install tensorboard" in capsys.readouterr().out
    trackers.log({"loss": 1.0}, step=1)
    trackers.finish()
    with pytest.raises(ValueError, match="trackio is not installed: pip install trackio"):
        check(("trackio",))
    with pytest.raises(ValueError, match="'mlflow' is unknown"):
        check(("mlflow",))


def test_losses_and_samples_go_to_another_tracker_by_its_name(monkeypatch, tmp_path, video):
    """trackio's own calls, as accelerate makes them; the package itself is not needed here."""
    told: list = []
    run = types.SimpleNamespace(
        log=lambda values, step, **_: told.append((step, values)), finish=lambda: told.append("finished")
    )
    fake = types.ModuleType("trackio")
    fake.__spec__ = types.SimpleNamespace()
    fake.init = lambda project, **_: told.append(project) or run
    fake.config = types.SimpleNamespace(update=lambda values, **_: told.append(values))
    fake.Video = lambda path, format: ("video", path, format)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    trackers = Trackers.start(("trackio",), "mine", tmp_path, {"batch": 4})
    trackers.log({"loss": 0.5}, step=20)
    trackers.show(video, step=20)
    trackers.show(tmp_path / "none.png", step=20)
    trackers.finish()
    shown = (20, {"sample": ("video", str(video), "mp4")})
    assert told == ["mine", {"batch": 4}, (20, {"loss": 0.5}), shown, "finished"]


def test_tensorboard_gets_losses_and_videos(tmp_path, video):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trackers = Trackers.start(("tensorboard",), "mine", tmp_path, flat(ClipRecipe("mine")))
    trackers.log({"loss": 0.5}, step=20)
    trackers.show(video, step=20)
    trackers.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("loss")] == [0.5]
    assert events.Images("sample")[0].encoded_image_string.startswith(b"GIF8")
