"""Several device threads, their models in processes of their own: at once, stopped, killed, and in turn."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, finish, until

from pyramid.events import Preview
from pyramid.failures import sentence
from pyramid.generate.request import Inputs
from pyramid.jobs.cluster import check_address
from pyramid.jobs.directing import branch, edit, endless, explore, refine, vary
from pyramid.jobs.editing import Edit
from pyramid.jobs.elsewhere import Died, Here, Patience, Process, error_of, processes, wrong
from pyramid.jobs.queue import Job, JobStore, State
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.run import Live
from pyramid.jobs.worker import Worker
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames
from pyramid.settings import Settings, SettingsError
from pyramid.timeline import Cue
from pyramid.ui import App
from pyramid.ui.live import LivePart
from pyramid.ui.queue import Queue

SLOW = (200, 200, 200)  # steps: a run that is not over before it is stopped
SOME = (40, 40, 40)


@pytest.fixture(scope="module")
def worker(tiny_checkpoint, tmp_path_factory):
    store = JobStore(tmp_path_factory.mktemp("outputs"))
    worker = Worker(store, model=str(tiny_checkpoint), holders=processes(["cpu", "cpu"]))
    yield worker
    worker.close()
    store.close()


def add(worker: Worker, prompt: str = "a red ball", owner: str = "local", **changes) -> Job:
    return worker.store.add(replace(worker.start_from, prompt=prompt, **changes), owner=owner)


def hand_of(worker: Worker, job: Job):
    return next((hand for hand in worker.hands if hand.run and hand.run.job.id == job.id), None)


def begun(worker: Worker, job: Job, units: int = 1) -> Live:
    """Wait until so many units are finished."""
    live = lambda: worker.live_of(job.id)  # noqa: E731 - asked anew each time
    return until(worker, lambda: live() and live().units_done >= units and live())


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def test_two_jobs_run_at_once_each_with_its_stages_and_stop_as_one_does(worker):
    first = add(worker, "one", seed=1, video_num_inference_steps=SLOW)
    second = add(worker, "two", seed=2, video_num_inference_steps=SLOW)
    begun(worker, first)
    live = begun(worker, second)
    assert worker.busy and [live.job.id for live in worker.lives] == [first.id, second.id]
    assert live.busy and live.estimates[0, 2].size == (32, 32) and live.memory_bytes > 10**7
    assert len({hand.holder.pid for hand in worker.hands} - {os.getpid(), None}) == 2
    with pytest.raises(KeyError):
        worker.stop(second.id, owner="ana")
    worker.stop(second.id)
    done = finish(worker, second)
    assert done.state is State.PARTIAL and read_metadata(done.path)["partial"] is True
    assert worker.store.get(first.id).state is State.RUNNING  # the other one goes on
    worker.stop(first.id, keep=False)
    assert finish(worker, first).state is State.STOPPED and not worker.busy
    assert worker.estimate(first.settings) > 0 and worker.loaded.is_set() and not worker.error


def test_a_killed_workers_job_goes_on_elsewhere_from_its_last_finished_unit(worker):
    job = add(worker, seed=3, video_num_inference_steps=SOME)
    begun(worker, job, 2)
    unit = worker.store.units_of(job) / "unit-000.safetensors"
    made, hand = unit.stat().st_mtime_ns, hand_of(worker, job)
    before = hand.holder.pid
    os.kill(before, signal.SIGKILL)
    done = finish(worker, job)
    assert done.state is State.DONE and done.units_done == 3
    assert "has ended by signal 9 while it made unit 3; another one went on" in done.notes[0]
    assert read_metadata(done.path)["notes"] == [*done.notes] and unit.stat().st_mtime_ns == made
    same = finish(worker, add(worker, seed=3, video_num_inference_steps=SOME))
    assert not same.notes and (frames_of(same.path) == frames_of(done.path)).all()
    units = [UnitsFolder(worker.store.units_of(each)).load()[1] for each in (done, same)]
    assert all(bool((a.latents == b.latents).all()) for a, b in zip(*units, strict=True))
    until(worker, lambda: hand.holder.pid not in (None, before))  # and there is another process


def test_a_process_that_hangs_is_ended_and_its_job_goes_on_elsewhere(worker, monkeypatch):
    job = add(worker, seed=5, video_num_inference_steps=SOME)
    begun(worker, job, 2)
    hand = hand_of(worker, job)
    before = hand.holder.pid
    monkeypatch.setattr(hand.holder._patience, "most", 0.5)
    os.kill(before, signal.SIGSTOP)
    done = finish(worker, job)
    assert done.state is State.DONE and done.units_done == 3
    assert "said nothing for 0.5 s and was ended while it made unit 3" in done.notes[0]
    until(worker, lambda: hand.holder.pid not in (None, before))


def test_patience_is_lost_with_who_is_silent_and_with_who_does_not_stop():
    patience = Patience(10.0)
    patience.waited(9, None)
    assert not patience.ended
    patience.waited(2, ("alive", None))
    patience.waited(9, None)
    assert not patience.ended  # and what alone is alive has not stopped
    patience.halted = True
    for _ in range(100):
        patience.waited(5, ("alive", None))
    assert "did not stop" in patience.ended
    patience.waited(0, ("event", None))
    assert not patience.ended and patience.longest > 500  # seconds of a step: so long one waits for the next
    patience.waited(11, None)
    assert patience.ended == "said nothing for 10 s"


class Dying:
    """A holder whose process dies of each job but that of a still."""

    loaded = None
    trouble = ""

    def bring(self, settings, memory="auto", say=None):
        raise Died("the process on cpu has ended by signal 9")

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        pass


def test_a_job_that_workers_die_of_has_failed(tiny_checkpoint, tmp_path):
    store = JobStore(tmp_path)
    worker = Worker(store, model=str(tiny_checkpoint), holders=[Dying(), Dying()])
    done = finish(worker, add(worker, seed=4))
    assert done.state is State.FAILED and done.units_done == 0
    assert done.error.startswith("the process on cpu has ended by signal 9, twice at unit 1")
    assert len(done.notes) == 1 and "another one went on" in done.notes[0]
    until(worker, worker.loaded.is_set)
    assert "signal 9" in worker.error and worker.lives == ()
    worker.close()
    store.close()


class Wrong(Dying):
    """A holder of a device that is not there."""

    def bring(self, settings, memory="auto", say=None):
        raise ValueError("device cuda:7 is not there")


@pytest.mark.parametrize("bad", [Dying, Wrong])
def test_a_worker_that_never_works_costs_no_job_where_another_one_does(
    bad, tiny_checkpoint, tmp_path, caplog
):
    store = JobStore(tmp_path)
    worker = Worker(store, model=str(tiny_checkpoint), holders=[bad(), Here()])
    jobs = [add(worker, seed=n, num_frames=9, video_num_inference_steps=SOME) for n in range(3)]
    assert [finish(worker, job).state for job in jobs] == [State.DONE] * 3
    assert not worker.error and worker.hands[0].error and not worker.hands[1].error
    assert "worker 1 of 2 makes no videos: " in caplog.text
    worker.close()
    store.close()


def test_what_is_directed_is_the_same_on_workers(worker):
    store = worker.store
    asked = replace(worker.start_from, prompt="a red ball", seed=11, video_num_inference_steps=(4, 4, 4))
    plain = finish(worker, store.add(asked, owner="local"))
    wall = finish(worker, explore(store, asked, owner="local"))
    clip = finish(worker, refine(store, wall.id, "local", 0))
    assert (frames_of(clip.path) == frames_of(plain.path)).all()
    kin = finish(worker, vary(store, wall.id, "local", 1, strength=0.3))
    assert (wall.state, kin.state) == (State.DONE, State.DONE)
    other = finish(worker, branch(store, plain.id, "local", 2, Cue(2, "a blue star", seed=3)))
    assert (
        frames_of(other.path) == frames_of(finish(worker, store.add(other.settings, owner="a")).path)
    ).all()
    anew = finish(worker, edit(store, plain.id, "local", Edit(1, seeds=(11,))))
    assert (frames_of(anew.path) == frames_of(plain.path)).all()  # with its own seed it is what it was


def test_a_clip_on_a_worker_is_held_goes_on_and_one_without_an_end_is_told_and_stopped(worker):
    store = worker.store
    asked = replace(worker.start_from, prompt="a red ball", seed=12, video_num_inference_steps=(20, 20, 20))
    job = store.add(asked, owner="local")
    begun(worker, job)
    worker.pause(job.id, "stage", owner="local")
    assert finish(worker, job).state is State.PAUSED
    worker.resume(job.id)
    held = finish(worker, job)
    whole = finish(worker, store.add(asked, owner="local"))
    assert held.state is State.DONE and (frames_of(held.path) == frames_of(whole.path)).all()
    long = endless(store, asked, owner="local", units=50, trained=3)
    begun(worker, long, 2)
    worker.tell(long.id, "a blue star falls")
    until(worker, lambda: store.get(long.id).settings.cues)
    told = store.get(long.id).settings.cues[0]
    begun(worker, long, told.start + 1)
    worker.stop(long.id)
    done = finish(worker, long)
    assert done.state is State.DONE and done.settings.cues[0].prompt == "a blue star falls"
    assert done.units_done < 50 and done.settings.units == done.units_done


def test_errors_keep_their_words_on_the_way():
    def there(error: Exception) -> Exception:
        try:
            raise error
        except Exception as caught:
            return error_of(*wrong(caught))

    assert isinstance(there(SettingsError("seed", "is odd")), ValueError)
    assert "memory ran out" in sentence(there(MemoryError())).lower()
    odd = there(KeyError("x"))
    assert str(odd) == "KeyError: 'x'" and "Traceback" in str(odd.__cause__)


def test_a_call_that_nobody_listens_to_is_halted_by_the_next(tiny_checkpoint, tmp_path):
    holder = Process("cpu")
    s = Settings.for_model(str(tiny_checkpoint), "128p", prompt="a", seed=1, num_inference_steps=SLOW)
    try:
        with pytest.raises(ValueError, match="neither a folder nor a model"):
            holder.bring(replace(s, model=str(tmp_path / "gone")))
        loaded = holder.bring(s)
        events = loaded.stream(s, Inputs(preview_every=1))
        while not isinstance(next(events), Preview):
            pass
        again = holder.bring(s)  # the first call is not over, and its events are still held
        assert again.identity == loaded.identity
        quick = replace(s, num_inference_steps=(1, 1, 1), num_frames=1)
        stopped = threading.Event()
        stopped.set()
        assert list(again.stream(quick, Inputs(stop=stopped)))[-1].stopped
        assert list(events) == []
        holder.close()
        with pytest.raises(Died):
            next(again.stream(quick, Inputs()))
    finally:
        holder.close()


def test_of_several_jobs_of_one_owner_the_page_shows_the_first_or_the_chosen_one(worker):
    app = App(worker.store, worker, worker.store.folder)
    part, queue = LivePart(app), Queue(app)
    jobs = [add(worker, f"number {n}", seed=n, num_inference_steps=SLOW) for n in (1, 2)]
    until(worker, lambda: sum(live.busy for live in worker.lives) == 2)
    first, second = (worker.store.queue("local")[n] for n in (0, 1))
    assert {first.id, second.id} == {job.id for job in jobs} and part.of("ana") == (None, 0)
    assert part.shown_id("local") == worker.lives[0].job.id
    other = next(job for job in jobs if job.id != part.shown_id("local"))
    rows = queue.rows("local", part.shown_id("local"))
    assert rows.count('data-act="watch"') == 1 and f'data-act="watch" data-job="{other.id}"' in rows
    version = worker.store.version
    part.watch("local", other.id)
    assert part.shown_id("local") == other.id and worker.store.version != version
    with pytest.raises(KeyError):
        part.watch("ana", other.id)
    for job in jobs:
        worker.stop(job.id, keep=False)
        finish(worker, job)


@pytest.mark.parametrize(
    "address, words",
    [
        ("nonsense", "give HOST:PORT"),
        ("host:port", "give HOST:PORT"),
        ("127.0.0.1:99999", "give HOST:PORT"),
        ("127.0.0.1:1", "nobody answers there"),
        ("host.invalid:6379", "nobody answers there"),
    ],
)
def test_an_address_where_no_cluster_is_is_told_at_once(address, words):
    with pytest.raises(ValueError, match=f"--ray {address}: {words}"):
        check_address(address)


RAY = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
import numpy as np
from ray.cluster_utils import Cluster as Nodes
from pyramid.jobs.cluster import Cluster, actors
from pyramid.jobs.queue import JobStore, State
from pyramid.jobs.worker import Worker
from pyramid.media.video_reader import read_frames

nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
both = [nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
cluster = Cluster(nodes.address, 2)
store = JobStore(Path(sys.argv[2]))
worker = Worker(store, model=sys.argv[1], holders=actors(cluster))

def until(true):
    end = time.monotonic() + 200
    while not (found := true()):
        assert time.monotonic() < end, (worker.lives, worker.error)
        time.sleep(0.02)
    return found

def add(seed):
    steps = (150, 150, 150)
    asked = replace(worker.start_from, prompt="a", seed=seed, video_num_inference_steps=steps)
    return store.add(asked, owner="a")

jobs = [add(1), add(2)]
for job in jobs:
    until(lambda: (live := worker.live_of(job.id)) and live.units_done >= 1 and live.estimates)
hand = next(hand for hand in worker.hands if hand.run.job.id == jobs[1].id)
import ray
where, _ = ray.get(hand.holder._actor.place.options(concurrency_group="beside").remote())
lost = next(node for node in both if node.node_id == where)
nodes.remove_node(lost, allow_graceful=False)
done = [until(lambda: (found := store.get(job.id)).over and found) for job in jobs]
assert [job.state for job in done] == [State.DONE] * 2, done
assert not done[0].notes and "went on from what was finished" in done[1].notes[0], done
same = add(2)
same = until(lambda: (found := store.get(same.id)).over and found)
frames = [np.stack(list(read_frames(job.path))) for job in (done[1], same)]
assert (frames[0] == frames[1]).all() and not same.notes
stopped = add(3)
until(lambda: (live := worker.live_of(stopped.id)) and live.units_done >= 1)
worker.stop(stopped.id)
assert until(lambda: (found := store.get(stopped.id)).over and found).state is State.PARTIAL
worker.close()
print("two nodes, one lost: as it would have been", flush=True)
ray.shutdown()
nodes.shutdown()
os._exit(0)
"""


def test_a_lost_node_of_a_ray_cluster_gives_its_job_back(tiny_checkpoint, tmp_path):
    pytest.importorskip("ray")
    program = [sys.executable, "-c", RAY, str(tiny_checkpoint), str(tmp_path / "outputs")]
    values = os.environ | {"PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    values |= {"RAY_memory_monitor_refresh_ms": "0"}  # other programs' memory is no reason to end this one's
    done = subprocess.run(program, env=values, capture_output=True, text=True, timeout=400)
    assert "as it would have been" in done.stdout, done.stdout + done.stderr
