"""The device thread, on a real tiny model: to the end, stopped, failed, killed,
and watched from other threads.
"""

import gc
import os
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forks import start
from helpers import finish, until
from PIL import Image

from pyramid.jobs import run
from pyramid.jobs.queue import Job, JobStore, Output, State
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.speed import Speeds
from pyramid.jobs.worker import PLAYED, Live, Worker
from pyramid.media import preview
from pyramid.media.files import read_metadata
from pyramid.media.preview import latent_preview, load_estimates
from pyramid.media.video_reader import read_frames
from pyramid.ui import App
from pyramid.ui.live import progress
from pyramid.ui.results import Results, delete
from pyramid.ui.view import View
from pyramid.ui.watch import Ended

SLOW = (200, 200, 200)  # steps: a run that is not over before it is stopped


def add(
    worker: Worker, prompt: str = "a red ball moves to the right", owner: str = "local", **changes
) -> Job:
    own = {name: changes.pop(name) for name in ("output", "image", "image_name") if name in changes}
    return worker.store.add(replace(worker.start_from, prompt=prompt, **changes), owner=owner, **own)


def begun(worker: Worker, job: Job, units: int = 1) -> Live:
    """Wait until so many units are finished."""
    return until(
        worker,
        lambda: (
            (live := worker.live) and live.job.id == job.id and len(live.frames) > 8 * (units - 1) and live
        ),
    )


def frames_in(path: Path) -> int:
    return len(list(read_frames(path)))


# ------------------------------------------------------------------------------------------------------------
# A run


def test_a_small_model_has_taken_a_step_before_a_clip_is_asked_for(worker):
    until(worker, worker.loaded.is_set)
    loaded = worker.hands[0].holder.loaded
    assert loaded is not None and len(loaded.pipeline.text.loaded) == 2 and not worker.error
    assert loaded.pipeline.num_timesteps > 0 and loaded.pipeline._runs == []


def test_a_job_is_shown_while_it_is_made_and_leaves_a_file_that_says_how(worker):
    job = add(worker, seed=3, video_num_inference_steps=(12, 12, 12))
    live = until(
        worker, lambda: worker.live and worker.live.job.id == job.id and worker.live.growing and worker.live
    )
    playable = frames_in(live.growing)
    assert live.busy and playable in (1, 9) and live.growing.parent.name == job.id
    assert not list(worker.store.folder.glob("[!.]*.mp4"))  # nothing has the final name yet
    later = begun(worker, job, 2)
    assert (
        later.at.unit >= 1 and later.at.total == 6 + 2 * 36 and later.left >= 0 and later.memory_bytes > 10**7
    )
    done = finish(worker, job)
    assert (done.state, done.error, done.units_done) == (State.DONE, "", 3)
    assert (
        done.path == worker.store.folder / "a-red-ball-moves-to-the-right-3.mp4"
        and frames_in(done.path) == 17
    )
    metadata = read_metadata(done.path)
    assert metadata["settings"]["seed"] == 3 and metadata["model"]["weights"]["transformer"]
    assert metadata["timings"]["total"] > 0 and done.timings["total"] > 0 and "partial" not in metadata
    live = worker.live
    assert live.job == done and not live.busy and live.shares == [1.0] * 3 and len(live.frames) == 17
    assert {key: picture.size for key, picture in live.estimates.items()} == {
        (unit, stage): (8 * 2**stage,) * 2 for unit in range(3) for stage in range(3)
    }
    assert load_estimates(worker.store.units_of(job)).keys() == live.estimates.keys()
    assert live.preview_share > 0  # of the run's time; what bounds it is below
    clips = worker.store.private / "live"
    assert (clips / job.id).is_dir()  # a player may still read the clip that grew
    for _ in range(PLAYED):
        finish(worker, add(worker, num_frames=9))
    until(worker, lambda: not (clips / job.id).exists())
    assert worker.estimate(job.settings) > worker.estimate(replace(job.settings, num_frames=9)) > 0
    assert worker.step_seconds > 0 and Speeds(worker.speeds.path).estimate(
        worker.hands[0].holder.loaded.speed_key, job.settings
    ) == pytest.approx(worker.estimate(job.settings))


@pytest.mark.parametrize(("budget", "pictures"), [(1e9, 18), (0.0, 10)])
def test_previews_over_their_budget_are_left_out_but_a_stages_last(worker, monkeypatch, budget, pictures):
    """Of 3 units, 3 stages and 2 steps: all, or the first and then each stage's last."""
    drawn = []
    monkeypatch.setattr(run, "PREVIEW_BUDGET", budget)
    monkeypatch.setattr(preview, "latent_preview", lambda *a, **k: drawn.append(1) or latent_preview(*a, **k))
    assert finish(worker, add(worker)).state is State.DONE
    assert len(drawn) == pictures and len(worker.live.estimates) == 9


def test_previews_can_be_switched_off(worker):
    done = finish(worker, add(worker, output=Output(previews=False)))
    assert done.state is State.DONE and worker.live.estimates == {} and worker.live.preview_share == 0


@pytest.mark.parametrize(("form", "ending"), [("gif", ".gif"), ("png", ".zip")])
def test_a_result_has_the_format_and_the_name_that_were_asked_for(worker, form, ending):
    output = Output(format=form, pattern="{model}/{seed}", metadata="sidecar")
    done = finish(worker, add(worker, seed=4, num_frames=9, output=output))
    assert (
        done.error == "" and done.path.name == f"4{ending}" and done.path.parent.parent == worker.store.folder
    )
    assert read_metadata(done.path)["settings"]["seed"] == 4


def test_one_frame_is_a_picture(worker):
    done = finish(worker, add(worker, num_frames=1, seed=5))
    assert done.state is State.DONE and done.path.suffix == ".png" and Image.open(done.path).size == (64, 64)
    assert read_metadata(done.path)["timings"]["total"] > 0


def test_what_is_marked_is_news_and_what_is_deleted_is_not_shown_any_more(worker):
    done, ended = finish(worker, add(worker, num_frames=1, seed=6)), Ended(worker.store)
    before = ended.key("local")
    worker.store.favourite(done.id, "local")
    assert ended.key("local") != before
    worker.forget("another")
    assert worker.live.job.id == done.id
    delete(Results(App(worker.store, worker, worker.store.folder)), done, View(), "")
    assert worker.live is None and not done.path.exists()


def test_units_are_announced_and_steps_are_not():
    at = SimpleNamespace(unit=0, units=3, stage=1, stages=3, step=0, steps=9)
    assert progress(Live(None, "", at=at)) == ("<b>Unit 1 of 3</b>", " · stage 2 of 3 · step 1 of 9")


def test_a_picture_begins_the_clip(worker, tmp_path):
    Image.new("RGB", (70, 64), "blue").save(tmp_path / "blue.png")
    done = finish(worker, add(worker, seed=6, image=tmp_path / "blue.png"))
    assert done.state is State.DONE and frames_in(done.path) == 17
    assert read_metadata(done.path)["source"]["name"] == "blue.png"
    assert (0, 0) not in worker.live.estimates and (1, 0) in worker.live.estimates


def test_what_was_cut_of_a_prompt_stays_in_sight(worker):
    done = finish(worker, add(worker, "a red ball " * 60, num_frames=9))
    assert (
        len(done.notes) == 1
        and "too long" in done.notes[0]
        and read_metadata(done.path)["notes"] == [*done.notes]
    )


# ------------------------------------------------------------------------------------------------------------
# Stopping


def test_stop_and_keep_leaves_a_video_of_the_finished_units(worker):
    job = add(worker, seed=7, video_num_inference_steps=SLOW)
    begun(worker, job)
    worker.stop(job.id)
    done = finish(worker, job)
    assert done.state is State.PARTIAL and 1 <= done.units_done < 3 and done.error == ""
    assert done.path.stem.endswith("-partial") and read_metadata(done.path)["partial"] is True
    assert frames_in(done.path) == 1 + 8 * (done.units_done - 1)


def test_stop_takes_effect_within_a_step(worker):
    job = add(worker, num_inference_steps=SLOW)
    until(worker, lambda: worker.live and worker.live.job.id == job.id and worker.live.at)
    before = worker.live.at.done
    worker.stop(job.id)
    done = finish(worker, job)
    assert (done.state, done.path, done.error) == (State.STOPPED, None, "")
    assert worker.live.at.done - before <= 2  # the step that was on, and one between looking and asking


def test_what_is_finished_can_be_thrown_away_too(worker):
    job = add(worker, "thrown away", video_num_inference_steps=SLOW)
    begun(worker, job)
    worker.stop(job.id, keep=False)
    done = finish(worker, job)
    assert (done.state, done.path) == (State.STOPPED, None) and not list(
        worker.store.folder.glob("[!.]*thrown*")
    )


def test_another_owner_cannot_stop_it_and_a_waiting_one_never_begins(worker):
    runs, waits = add(worker, owner="ana", num_inference_steps=SLOW), add(worker, owner="bob")
    until(worker, lambda: worker.live and worker.live.job.id == runs.id)
    with pytest.raises(KeyError):
        worker.stop(runs.id, owner="bob")
    worker.stop(waits.id, owner="bob")
    assert worker.store.get(waits.id).state is State.STOPPED and worker.live.busy
    worker.stop(runs.id, owner="ana")
    assert finish(worker, runs).state is State.STOPPED


# ------------------------------------------------------------------------------------------------------------
# The queue, and what goes wrong


def test_a_failing_job_says_so_and_the_others_are_made(worker, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    hold = add(worker, num_inference_steps=SLOW)  # so that the others wait
    until(worker, lambda: worker.live and worker.live.job.id == hold.id)
    (worker.store.folder / "taken").write_text("a file where a folder is wanted")
    lost, bad = (
        add(worker, image=tmp_path / "x.png"),
        add(worker, "taken", output=Output(pattern="{prompt}/{seed}")),
    )
    good = [add(worker, seed=seed, num_frames=9) for seed in (11, 12)]
    worker.store.input_of(lost).unlink()
    worker.stop(hold.id)
    lost, bad, *good = [finish(worker, job) for job in (lost, bad, *good)]
    assert (lost.state, lost.path) == (State.FAILED, None)
    assert lost.error == "x.png, which this starts from, is not here any more"
    assert bad.state is State.FAILED and bad.error.startswith("The generation failed: ")
    assert str(worker.store.folder) not in bad.error and "Traceback" not in bad.error
    assert [job.state for job in good] == [State.DONE] * 2 and good[0].ended <= good[1].started


def test_an_error_in_the_middle_keeps_what_was_finished(worker, monkeypatch):
    job = add(worker, "an error in the middle", video_num_inference_steps=SLOW)
    begun(worker, job)
    transformer = worker.hands[0].holder.loaded.pipeline.transformer
    monkeypatch.setattr(transformer, "denoise", lambda *inputs: 1 / 0)
    done = finish(worker, job)
    monkeypatch.undo()
    assert done.state is State.FAILED and "division by zero" in done.error
    assert done.path.name.endswith("-partial.mp4") and frames_in(done.path) == 1
    assert finish(worker, add(worker, num_frames=9)).state is State.DONE


def test_a_disk_that_takes_no_units_ends_no_run(worker):
    hold = add(worker, num_inference_steps=SLOW)
    until(worker, lambda: worker.live and worker.live.job.id == hold.id)
    job = add(worker, num_frames=9)
    units = worker.store.units_of(job)
    units.write_text("a file where the folder of units is wanted")  # so nothing can be written there
    worker.stop(hold.id)
    done = finish(worker, job)
    assert done.state is State.DONE and frames_in(done.path) == 9
    assert len(done.notes) == 1 and "could not be saved" in done.notes[0]
    units.unlink()


def test_a_second_program_on_the_same_queue_is_refused(worker, tiny_checkpoint):
    with pytest.raises(ValueError, match="another program makes videos into"):
        Worker(JobStore(worker.store.folder), model=str(tiny_checkpoint))


# ------------------------------------------------------------------------------------------------------------
# Models


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory) -> Path:
    from tiny import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("other"), variant="384p", seed=1)


def test_a_job_brings_its_model_and_the_old_one_is_freed(worker, other_checkpoint):
    assert worker.loaded.wait(120) and worker.error == ""
    finish(worker, add(worker, num_frames=9))
    old, before = weakref.ref(worker.hands[0].holder.loaded.pipeline.transformer), worker.start_from
    with pytest.raises(ValueError, match="neither a folder nor a model"):
        worker.switch("nothing/at/all")
    assert worker.start_from == before
    worker.switch(str(other_checkpoint))
    assert worker.start_from.variant == "384p" and worker.checkpoint.variant == "384p"
    until(worker, worker.loaded.is_set)
    gc.collect()
    assert worker.error == "" and old() is None
    back = finish(
        worker, worker.store.add(replace(before, prompt="a blue star", num_frames=9), owner="local")
    )
    there = finish(worker, add(worker, num_frames=9))
    assert back.state is there.state is State.DONE
    assert [read_metadata(job.path)["settings"]["variant"] for job in (back, there)] == ["128p", "384p"]
    worker.switch(before.model)
    until(worker, worker.loaded.is_set)


def test_a_model_that_cannot_be_loaded_is_told_by_the_job_that_needs_it(worker, other_checkpoint):
    weights = other_checkpoint / "diffusion_transformer_384p" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    before = worker.start_from
    worker.switch(str(other_checkpoint))
    until(worker, worker.loaded.is_set)
    assert "truncated" in worker.error
    done = finish(worker, add(worker))
    assert done.state is State.FAILED and "truncated" in done.error
    weights.write_bytes(whole)
    assert finish(worker, add(worker, num_frames=9)).state is State.DONE  # mended: no restart is needed
    worker.switch(before.model)
    until(worker, worker.loaded.is_set)


# ------------------------------------------------------------------------------------------------------------
# The end of the program


def test_closing_marks_what_ran_and_leaves_what_waits(tiny_checkpoint, tmp_path):
    store = JobStore(tmp_path)
    worker = Worker(store, model=str(tiny_checkpoint))
    runs, waits = add(worker, video_num_inference_steps=SLOW), add(worker)
    begun(worker, runs)
    worker.close()
    assert (store.get(runs.id).state, store.get(runs.id).path) == (State.INTERRUPTED, None)
    assert store.get(waits.id).state is State.QUEUED and not list(tmp_path.glob("[!.]*.mp4"))
    store.close()


KILLED = """
import sys
import threading
from dataclasses import replace
from pathlib import Path
from pyramid.jobs.queue import JobStore
from pyramid.jobs.worker import PLAYED, Worker
store = JobStore(Path(sys.argv[2]))
worker = Worker(store, model=sys.argv[1])
start = replace(worker.start_from, prompt="a red ball", seed=1)
many = (60, 60, 60)
job = store.add(replace(start, video_num_inference_steps=many), owner="local")
store.add(replace(start, prompt="a blue star", num_frames=9), owner="local")
while not (worker.live and len(worker.live.frames) >= 9):
    store.wait(store.version, 0.01)
print(job.id, flush=True)
threading.Event().wait()
"""


@pytest.fixture(scope="module")
def killed(tiny_checkpoint, tmp_path_factory) -> tuple[Path, str]:
    """The output folder of a program that was killed in its third unit, and that job's id."""
    folder = tmp_path_factory.mktemp("killed")
    with start("-c", KILLED, tiny_checkpoint, folder) as process:
        job_id = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGKILL)
    return folder, job_id


def test_after_a_kill_the_job_is_taken_up_again_and_the_queue_goes_on(killed, tiny_checkpoint):
    folder, job_id = killed
    store = JobStore(folder)
    worker = Worker(store, model=str(tiny_checkpoint))
    try:
        job = store.get(job_id)
        assert not job.over and job.units_done == 2 and job.error == ""
        resumed = finish(worker, job)
        total = worker.live.at.total if worker.live.job.id == job_id else 180
        until(worker, lambda: not store.queue())
        star = store.history("local")[0]
        assert star.state is State.DONE and star.settings.prompt == "a blue star"
        assert {path.name for path in folder.glob("[!.]*.mp4")} == {star.path.name, resumed.path.name}
        assert not list(folder.glob(".*.part*"))
        assert (resumed.state, resumed.error, resumed.units_done) == (State.DONE, "", 3)
        assert total == 180 and frames_in(resumed.path) == 17  # the third unit's steps only
        uninterrupted = finish(worker, store.add(job.settings, owner="local"))
        units = [UnitsFolder(store.units_of(each)).load()[1] for each in (resumed, uninterrupted)]
        assert len(units[0]) == 3
        assert all(torch.equal(ours.latents, theirs.latents) for ours, theirs in zip(*units, strict=True))
    finally:
        worker.close()
        store.close()


def test_the_finished_units_of_an_ended_job_become_a_video(worker):
    job = add(worker, seed=21, video_num_inference_steps=(40, 40, 40))
    begun(worker, job, 2)
    worker.stop(job.id, keep=False)
    stopped = finish(worker, job)
    assert stopped.state is State.STOPPED and stopped.units_done == 2
    with pytest.raises(KeyError):
        worker.decode_finished(job.id, owner="another")
    decoded = finish(worker, worker.decode_finished(job.id, owner="local"))
    assert (decoded.state, decoded.error, decoded.units_done) == (State.PARTIAL, "", 2)
    assert frames_in(decoded.path) == 9 and decoded.path.stem.endswith("-partial") and worker.live.at is None
    more = worker.resume(decoded.id)  # the partial video stays, a copy goes on
    assert more.id != decoded.id and more.parent == decoded.id
    assert until(worker, lambda: (live := worker.live).job.id == more.id and live.at and live).at.unit == 2
    worker.stop(more.id, keep=False)
    assert finish(worker, more).state is State.STOPPED and decoded.path.exists()
    found = after_a_kill(worker, decoded)
    assert (found.state, found.path, found.units_done) == (State.PARTIAL, decoded.path, 2)


def after_a_kill(worker: Worker, job: Job) -> Job:
    """What a start makes of an ended job, had the program been killed between publishing its result and
    noting it.
    """
    with worker.store.change() as db:
        db.execute("UPDATE jobs SET state = 'running', path = NULL, timings = '{}' WHERE id = ?", [job.id])
    return worker.store.recover()[0]


def test_a_result_published_just_before_a_kill_is_not_made_again(worker):
    done = finish(worker, add(worker, seed=31, num_frames=9, output=Output(pattern="odd.name-{seed}")))
    found = after_a_kill(worker, done)
    assert (
        found.timings.keys() == done.timings.keys() and found.path == done.path and found.state is State.DONE
    )
