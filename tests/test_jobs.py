"""Runs that belong to the server: to the end, stopped, refused, failed, and seen from another thread."""

import shutil
from dataclasses import replace

import pytest

from pyramid.jobs import Busy, Engine
from pyramid.video import read_metadata


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    return Engine(str(tiny_checkpoint))


def wait(run) -> None:
    """Until the run has ended, or the test has taken far too long."""
    assert run.done.wait(120), "the run does not end"


def ask(engine: Engine, **changes):
    return replace(engine.start_from, prompt="a red ball moves to the right", **changes)


def test_a_run_shows_each_stage_and_leaves_a_file_with_its_settings(engine, tmp_path):
    run = engine.start(ask(engine, seed=3), tmp_path)
    assert engine.find(run.id) is run and engine.find("another") is None
    wait(run)
    assert run.error == "" and not run.busy
    assert [picture.size for picture in run.estimates] == [(2, 2), (4, 4), (8, 8)]
    assert len(run.frames) == 17 and run.frames[0].shape == (64, 64, 3)
    assert run.shares() == [1.0] * 3
    assert run.path == tmp_path / "a-red-ball-moves-to-the-right-3.mp4"
    assert read_metadata(run.path)["settings"]["seed"] == 3


def test_a_stopped_run_keeps_what_is_finished_and_the_engine_goes_on(engine, tmp_path):
    many = (200, 200, 200)
    run = engine.start(ask(engine, num_inference_steps=(1, 1, 1), video_num_inference_steps=many), tmp_path)
    with pytest.raises(Busy, match="another video is being made"):
        engine.start(ask(engine), tmp_path)
    while not run.frames and run.busy:
        run.done.wait(0.01)
    run.stop.set()
    wait(run)
    assert run.error == "" and 0 < len(run.frames) < 17
    assert run.path.stem.endswith("-partial") and read_metadata(run.path)["partial"] is True
    again = engine.start(ask(engine, seed=4), tmp_path)
    wait(again)
    assert len(again.frames) == 17


def test_a_run_stopped_before_it_made_anything_leaves_no_file(engine, tmp_path):
    run = engine.start(ask(engine, num_inference_steps=(200, 200, 200)), tmp_path)
    run.stop.set()
    wait(run)
    assert (run.error, run.path, list(tmp_path.iterdir())) == ("", None, [])


def test_settings_and_pictures_that_cannot_be_used_start_nothing(engine, tmp_path):
    before = engine.run
    with pytest.raises(ValueError, match="the prompt is empty"):
        engine.start(replace(engine.start_from, prompt=""), tmp_path)
    with pytest.raises(ValueError, match="not a picture"):
        engine.start(ask(engine), tmp_path, b"not a picture")
    assert engine.run is before


def test_a_model_that_cannot_be_loaded_is_told_by_the_run_that_needs_it(tiny_checkpoint, tmp_path):
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    weights = broken / "diffusion_transformer_128p" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    engine = Engine(str(broken))
    run = engine.start(ask(engine), tmp_path / "out")
    wait(run)
    assert "truncated" in run.error and run.path is None


def test_a_model_that_is_not_there_is_refused_at_once(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor a model"):
        Engine(str(tmp_path / "nothing"))
