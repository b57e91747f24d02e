"""How many threads compute on a processor: as many as it has cores that no other program uses.

    wait_briefly()                # before torch is loaded: threads that wait spin for a moment, then sleep
    threads = Threads()           # of one run, in the thread that computes
    for step in steps:
        threads.adapt()           # between steps, as often as one likes: it looks each fifth of a second
    threads.restore()

A forward of a small model is a thousand short parallel regions, each of which ends when its last thread is
done. Spinning at that end is a third faster than sleeping, as long as each thread has a core of its own; a
thread that computes and has lost its core to one that waits for it takes three to twenty times as long. So
threads spin, and there are never more of them than cores to be had. What a run makes does not depend on their
number, which tests hold.

`OMP_NUM_THREADS`, or `torch.set_num_threads` before a run, says the most. Importing this loads no torch.
"""

import functools
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyramid.memory.groups import control_groups

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Of libgomp: under a millisecond, as fast as its own 300,000 on cores of one's own, and over sooner where it
# waits in vain. Of Intel's and LLVM's OpenMP: milliseconds, of which they take 200; not measured.
BRIEFLY = {"GOMP_SPINCOUNT": "50000", "KMP_BLOCKTIME": "1"}
EVERY = 0.2  # seconds between two looks: the system counts in hundredths
STALE = 5.0  # seconds after which a look says nothing of now
FEWER, MORE = 0.5, 0.7  # cores that must be missing, or free, before there is one thread less, or more


def wait_briefly() -> None:
    """Let threads that wait for each other spin for a moment, where the user has not said how they wait.

    The libraries read it when torch is loaded, so this comes before. For runs that look at the load.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(BRIEFLY)


def wait_asleep() -> None:
    """Let them sleep: for work that does not look at the load, as training, whose steps are long."""
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def take_cores(most: str = "") -> None:
    """Let torch use all cores of this process, or as many as `most` says, in the words of OMP_NUM_THREADS:
    for a process that Ray has given one thread, as it does where nobody says more. Comes before torch is
    loaded.
    """
    if most or os.environ.get("OMP_NUM_THREADS", "1") == "1":
        os.environ["OMP_NUM_THREADS"] = most or str(max(1, int(usable_cores())))


# -- cores


def usable_cores(others: float = 0.0) -> float:
    """Cores with arithmetic of their own that are left to this process where other programs keep so many
    logical processors busy: of those that it is bound to, and no more than a container's limit.
    """
    allowed = cpus()
    cores = len({_siblings(cpu) for cpu in allowed})
    return min([cores - others * cores / len(allowed), *quotas()])


def cpus() -> list[int]:
    """The numbers of the logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@functools.cache
def _siblings(cpu: int, root: Path = Path("/sys/devices/system/cpu")) -> str:
    """What names the core of a logical processor, the same for all that share it."""
    try:
        return (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:  # not Linux: each counts as a core
        return str(cpu)


def quotas(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")):
    """Processors' worth of time that each control group around this process allows, where it has a limit."""
    for folder, version1 in control_groups("cpu", root, of):
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version1 else ("cpu.max",)
        try:
            words = " ".join((folder / name).read_text() for name in names).split()
        except OSError:
            continue
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            yield int(words[0]) / int(words[1])


# -- what others do


class Load:
    """How many of the processors that this process may use others were busy on, since the last question."""

    def __init__(self, busy: Callable[[], float] | None = None, own: Callable[[], float] = time.process_time):
        self._busy = busy or busy_seconds
        self._own = own
        self._last: tuple[float, float] | None = None  # when, and others' seconds until then
        self.known: float | None = None  # the last answer

    @property
    def age(self) -> float:
        """Seconds since the last question; infinite before the first."""
        return time.monotonic() - self._last[0] if self._last else float("inf")

    def others(self) -> float | None:
        """Their mean number since the last question; None where nobody counts them, and at first."""
        try:
            now = time.monotonic(), self._busy() - self._own()
        except OSError:
            return None
        before = self._last
        self._last = now
        self.known = None
        if before is not None and now[0] > before[0]:
            self.known = max(0.0, (now[1] - before[1]) / (now[0] - before[0]))
        return self.known


def busy_seconds() -> float:
    """Seconds that the processors of this process were busy, with whatever, since the machine began."""
    import psutil

    times, total = psutil.cpu_times(percpu=True), 0.0
    for cpu in cpus():
        if cpu < len(times):
            all_of_it = times[cpu]._asdict()
            idle = ("idle", "iowait", "guest", "guest_nice")  # guests' are in the others' already
            total += sum(seconds for name, seconds in all_of_it.items() if name not in idle)
    return total


def runnable(path: Path = Path("/proc/loadavg")) -> float:
    """How many threads of others want to compute at this moment: for who begins, and has not looked before.
    0 where the system does not say.
    """
    with suppress(OSError, ValueError, IndexError):
        return max(0.0, float(path.read_text().split()[3].partition("/")[0]) - 1)  # this one is counted too
    return 0.0


# -- threads of a run


class Threads:
    """The threads of one run, beside other runs of this process and other programs."""

    _active: dict["Threads", float] = {}  # noqa: RUF012 - the runs of this process, and when each last looked
    _load = Load()  # of this process, as its own seconds are
    _lock = threading.Lock()
    _here = threading.local()  # `count`: what was last set in this thread
    _count: int | None = None  # what was last set in any
    _most = 1  # what was there before anything was set

    def __init__(self, adapts: bool = True):
        """`adapts`: whether the run computes on the processor; else nothing is ever changed."""
        self.adapts = adapts

    @classmethod
    def watch(cls) -> None:
        """Begin to look at the load, so that a run that begins soon knows of it."""
        with cls._lock:
            if cls._load.age > STALE:
                cls._load.others()
                cls._load.known = None  # of a time that is long past

    def adapt(self) -> None:
        """Between two steps: as many threads as there are cores to be had, if it is time to look."""
        if not self.adapts:
            return
        self.watch()
        with self._lock:
            begins = self not in self._active
            self._active[self] = time.monotonic()
            others = self._load.others() if self._load.age >= EVERY else None
            if others is None and begins:  # two threads beside a busy program lose more than one without
                others = runnable() if self._load.known is None else self._load.known
            if others is not None:
                free = usable_cores(others) / self._sharing()
                self._set(wanted(self._now(), self._most_here(), free))

    def restore(self) -> None:
        """As many threads as there were before the run, once no other run of this process is at work."""
        with self._lock:
            if self._active.pop(self, None) is not None and not self._active:
                self._set(self._most_here())

    def _sharing(self) -> int:
        """Runs of this process that are at work, this one included: those that have looked lately."""
        return sum(time.monotonic() - when < STALE for when in self._active.values())

    @staticmethod
    def _now() -> int:
        import torch

        return torch.get_num_threads()

    def _most_here(self) -> int:
        """The most that there may be: what torch had before anything was set here, or what its user set
        since. A number belongs to a thread; a new one has the last that was set in any.
        """
        now = self._now()
        if now != getattr(self._here, "count", Threads._count):
            Threads._most = now
        return Threads._most

    def _set(self, count: int) -> None:
        import torch

        if count != self._now():
            torch.set_num_threads(count)
        self._here.count = Threads._count = count


def wanted(now: int, most: int, free: float) -> int:
    """How many threads there should be, where there are `now`, and so many cores are free for them."""
    if free < now - FEWER:
        return max(1, min(most, int(free + FEWER)))
    if free > now + MORE:
        return max(1, min(most, int(free + 1 - MORE)))
    return min(now, most)
