"""How many threads compute: by the load, within the user's number, and always with the same result."""

import threading

import pytest
import torch

from pyramid.events import Finished, Frames
from pyramid.generate.loaded import load_quickly
from pyramid.hub.checkpoints import find
from pyramid.memory import threads as module
from pyramid.memory.device import device_of
from pyramid.memory.threads import (
    Load,
    Threads,
    quotas,
    runnable,
    take_cores,
    usable_cores,
    wait_asleep,
    wait_briefly,
    wanted,
)
from pyramid.settings import Settings


@pytest.mark.parametrize("said", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}], ids=str)
@pytest.mark.parametrize(
    ("wait", "set_then"), [(wait_briefly, module.BRIEFLY), (wait_asleep, {"OMP_WAIT_POLICY": "PASSIVE"})]
)
def test_how_threads_wait_is_the_users_to_say(monkeypatch, said, wait, set_then):
    monkeypatch.setattr(module.os, "environ", dict(said))
    wait()
    assert module.os.environ == (said or set_then)


@pytest.mark.parametrize(
    ("now", "most", "free", "then"),
    [
        (2, 2, 2.0, 2),
        (2, 2, 1.6, 2),  # a little of a core is no reason
        (2, 2, 1.3, 1),  # beside one that computes, which gets two thirds of a core from two of ours
        (1, 2, 1.0, 1),  # and a whole one from one
        (1, 2, 1.9, 2),
        (1, 2, 0.2, 1),  # never none
        (8, 8, 5.2, 5),
        (5, 8, 5.5, 5),
        (5, 8, 7.9, 8),
        (2, 2, 64.0, 2),
        (4, 2, 4.0, 2),  # the user wants fewer since
    ],
)
def test_as_many_threads_as_there_are_cores_to_be_had(now, most, free, then):
    assert wanted(now, most, free) == then


def test_others_are_all_that_is_busy_but_this_process(monkeypatch):
    clock = [100.0]
    busy = [50.0]
    own = [7.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    load = Load(lambda: busy[0], lambda: own[0])
    assert load.age == float("inf") and load.others() is None
    clock[0], busy[0], own[0] = 100.5, 51.0, 7.5
    assert load.age == 0.5 and load.others() == pytest.approx(1.0) == load.known
    clock[0], own[0] = 101.0, 7.52  # hundredths are counted late
    assert load.others() == 0.0

    def hidden():
        raise PermissionError("as in some containers")

    assert Load(hidden).others() is None


def test_a_worker_of_ray_has_the_cores_of_its_machine(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 6.5)
    for before, most, then in (
        (None, "", "6"),
        ("1", "", "6"),  # as Ray says where nobody does
        ("4", "", "4"),  # by who started the cluster
        ("1", "3", "3"),  # by who uses it
    ):
        monkeypatch.setattr(module.os, "environ", {} if before is None else {"OMP_NUM_THREADS": before})
        take_cores(most)
        assert module.os.environ == {"OMP_NUM_THREADS": then}


def test_who_wants_to_compute_now_is_counted(tmp_path):
    said = tmp_path / "loadavg"
    said.write_text("0.20 0.18 0.12 5/80 11206\n")
    assert runnable(said) == 4.0
    said.write_text("none of it")
    assert runnable(said) == 0.0 and runnable(tmp_path / "missing") == 0.0


def test_cores_are_those_of_this_process_under_its_limit(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "self").write_text("0::/a/b\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    assert list(quotas(tmp_path, tmp_path / "self")) == [1.5]
    old = tmp_path / "cpu" / "c"
    old.mkdir(parents=True)
    (tmp_path / "self1").write_text("3:cpu,cpuacct:/c\n")
    for name, value in (("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000")):
        (old / name).write_text(value)
    assert list(quotas(tmp_path, tmp_path / "self1")) == []
    (old / "cpu.cfs_quota_us").write_text("250000")
    assert list(quotas(tmp_path, tmp_path / "self1")) == [2.5]
    monkeypatch.setattr(module, "cpus", lambda: [0, 1, 2, 3, 4, 5, 6, 7])
    monkeypatch.setattr(module, "_siblings", lambda cpu: str(cpu % 4))  # four cores with two threads each
    monkeypatch.setattr(module, "quotas", lambda: [6.0])
    assert usable_cores() == 4.0 and usable_cores(2.0) == 3.0
    monkeypatch.setattr(module, "quotas", lambda: [1.5])
    assert usable_cores() == 1.5


class Made:
    """A load that is said."""

    def __init__(self):
        self.age, self.busy = 1.0, 0.0
        self.known: float | None = None

    def others(self):
        return self.busy


@pytest.fixture
def load(monkeypatch):
    """A machine of two cores with a load that the test says, in a thread that may have two threads."""
    made = Made()
    monkeypatch.setattr(Threads, "_load", made)
    monkeypatch.setattr(Threads, "_active", {})
    monkeypatch.setattr(module, "usable_cores", lambda others=0.0: 2.0 - others)
    monkeypatch.setattr(module, "runnable", lambda: 0.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield made
    torch.set_num_threads(before)


def test_threads_follow_the_load_and_are_given_back(load):
    run = Threads()
    run.adapt()
    assert torch.get_num_threads() == 2
    load.busy = 0.7
    run.adapt()
    assert torch.get_num_threads() == 1
    load.age, load.busy = 0.1, 0.0  # it is not looked at all the time
    run.adapt()
    assert torch.get_num_threads() == 1
    load.age = 0.3
    run.adapt()
    assert torch.get_num_threads() == 2
    load.busy = 1.0
    run.adapt()
    run.restore()
    run.restore()
    assert torch.get_num_threads() == 2


def test_a_run_begins_by_what_is_known_of_the_load(load, monkeypatch):
    """Before the first look of its own: what the last one said, or who wants to compute now."""
    load.age = 0.1
    for load.known, now, threads in ((None, 0.0, 2), (None, 3.0, 1), (0.1, 3.0, 2), (1.9, 0.0, 1)):
        monkeypatch.setattr(module, "runnable", lambda now=now: now)
        run = Threads()
        run.adapt()
        assert torch.get_num_threads() == threads
        run.restore()
        assert torch.get_num_threads() == 2


def test_runs_of_one_process_share_its_cores(load):
    first, second = Threads(), Threads()
    first.adapt()
    second.adapt()
    first.adapt()
    assert torch.get_num_threads() == 1
    second.restore()
    first.adapt()
    assert torch.get_num_threads() == 2
    first.restore()


def test_the_users_number_is_the_most(load):
    torch.set_num_threads(1)
    run = Threads()
    run.adapt()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)  # meanwhile
    run.adapt()
    assert torch.get_num_threads() == 2
    run.restore()
    still = device_of("cuda").threads()
    load.busy = 2.0
    still.adapt()
    still.restore()
    assert torch.get_num_threads() == 2 and device_of("cpu").threads().adapts and not still.adapts


def test_a_run_that_ends_in_another_thread_leaves_no_trace(load):
    run = Threads()
    run.adapt()
    load.busy = 1.0
    run.adapt()
    ending = threading.Thread(target=run.restore)
    ending.start()
    ending.join()
    load.busy = 0.0
    later = Threads()
    later.adapt()
    assert torch.get_num_threads() == 2
    later.restore()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_number_of_threads_changes_no_bit(tiny_checkpoint, dtype, load):
    few = {"num_frames": 9, "num_inference_steps": (2, 1, 1), "video_num_inference_steps": (2, 1, 1)}
    asked = {"prompt": "a red ball", "device": "cpu", "dtype": dtype, "seed": 3} | few
    settings = Settings.for_model(str(tiny_checkpoint), "128p", find(str(tiny_checkpoint)).defaults, **asked)
    pipe = load_quickly(settings)
    made = []
    for load.busy in (0.0, 1.0):
        events = list(pipe.stream(settings))
        frames = [torch.from_numpy(event.video) for event in events if isinstance(event, Frames)]
        assert isinstance(events[-1], Finished) and events[-1].latents is not None
        made.append((events[-1].latents, torch.cat(frames)))
    assert all(one.equal(other) for one, other in zip(*made, strict=True))
