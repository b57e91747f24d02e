"""The folder of results goes away while a job runs, and comes back: the job waits, and nothing is lost."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import until

from pyramid.jobs.place import Place
from pyramid.jobs.queue import JobStore, State
from pyramid.jobs.recorder import Listener, Recorder, Recording
from pyramid.jobs.worker import Worker
from pyramid.media.video_reader import read_frames

STEPS = {"num_inference_steps": (2, 2, 2), "video_num_inference_steps": (60, 60, 60)}


@pytest.fixture
def worker(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("pyramid.jobs.place.LOOKS_EVERY", 0.0)  # the tiny model is done within a second
    store = JobStore(tmp_path / "outputs")
    worker = Worker(store, model=str(tiny_checkpoint))
    yield worker
    worker.close()
    store.close()


def add(worker, **changes):
    asked = replace(worker.start_from, prompt="a red ball", **STEPS | changes)
    return worker.store.add(asked, owner="local")


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_job_waits_for_its_folder_and_goes_on(worker, how, tmp_path):
    folder, away = worker.store.folder, tmp_path / "away"
    before = add(worker, seed=1, num_frames=1)
    until(worker, lambda: worker.store.get(before.id).over)
    job = add(worker, seed=2)
    until(worker, lambda: worker.live and worker.live.job.id == job.id and worker.live.units_done == 1)
    os.rename(folder, away)
    if how == "removed":
        shutil.rmtree(away)
    until(
        worker, lambda: "Waiting, as nothing can be written: the folder outputs is gone" in worker.live.phase
    )
    assert not folder.exists()  # it may be a drive: nothing is written where it was
    os.rename(away, folder) if how == "moved" else folder.mkdir()
    until(worker, lambda: worker.store.get(job.id).over and not worker.live.busy)
    done = worker.store.get(job.id)
    assert (done.state, done.error, done.units_done) == (State.DONE, "", 3), done.error
    assert len(list(read_frames(done.path))) == 17 == len(worker.live.frames)
    assert not [note for note in done.notes if "saved" in note]
    assert [j.id for j in JobStore(folder).history("local")] == [job.id, before.id]  # the history, too
    again = add(worker, seed=2)
    until(worker, lambda: worker.store.get(again.id).over)
    same = [list(read_frames(worker.store.get(each).path)) for each in (job.id, again.id)]
    assert np.array_equal(*same)  # as without the interruption


def test_a_job_stops_while_it_waits(worker, tmp_path):
    job = add(worker, seed=3)
    until(worker, lambda: worker.live and worker.live.job.id == job.id and worker.live.units_done == 1)
    os.rename(worker.store.folder, tmp_path / "away")
    until(worker, lambda: "Waiting" in worker.live.phase)
    worker.stop(job.id)
    os.rename(tmp_path / "away", worker.store.folder)
    until(worker, lambda: worker.store.get(job.id).over)
    assert worker.store.get(job.id).state in (State.PARTIAL, State.STOPPED)


def test_what_is_wrong_with_a_folder_is_told_and_nothing_else_is_waited_for(tmp_path, monkeypatch):
    place = Place(tmp_path / "outputs")
    assert place.trouble() == "the folder outputs is gone: bring it back, or make it anew"
    place.folder.mkdir()
    assert place.trouble() == "" and not list(place.folder.iterdir())
    assert not place.wait(OSError("the encoder failed"), pytest.fail, lambda: False)
    monkeypatch.setattr("pyramid.jobs.place.os.access", lambda *_: False)
    assert place.trouble() == "outputs: Read-only file system: make it writable, or choose another folder"
    said = []
    assert not place.wait(None, said.append, lambda: True)  # stopped
    assert said == [f"Waiting, as nothing can be written: {place.trouble()}. It goes on by itself then"]


def test_an_encoder_that_fails_ends_the_run(tmp_path, monkeypatch):
    from pyramid.settings import Settings

    recorder = Recorder(Recording(Settings(prompt="x", seed=1), tmp_path / "a.mp4", {}), Listener())
    tries = []

    def broken(*_, **__):
        tries.append(1)
        raise OSError("ffmpeg: no such encoder")

    monkeypatch.setattr("pyramid.jobs.recorder.open_writer", broken)
    with pytest.raises(OSError, match="no such encoder"):
        recorder.record(lambda units: iter(()))
    assert len(tries) == 2
