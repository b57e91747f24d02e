"""Ray, for the lists of `batch --ray` and for the page's jobs: who meets a cluster, and a holder there.

    cluster = Cluster("auto", 2)                # or HOST:PORT, or "local" for one on this machine
    holders = actors(cluster)                   # of the page: the models are there, all else is here

Machines of a cluster need this project at the same path, and the models in place; no common disk. Neither
restarts nor retries are Ray's: who gives the work counts attempts.
"""

import hashlib
import importlib.util
import logging
import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pyramid.jobs.elsewhere import BEAT, Died, Message, Remote, Station
from pyramid.memory.threads import WAITING, take_cores

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
STORE = 80 * 2**20  # bytes of a local object store: Ray's least; a video is a few million
AHEAD = 8  # messages that may wait to be fetched: a run does not go on without its reader
ASKS = 2.0  # seconds that an idle actor has to say that it is there
REACHES = 5.0  # seconds that the head of a cluster has to answer


def need_ray() -> None:
    """ValueError with the command that installs Ray, where it is missing."""
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--ray needs Ray, which is not installed: run `python -m pip install ray`")


def check_address(address: str) -> None:
    """ValueError for an address that is none, or where nobody answers: Ray itself would try for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--ray {address}: give HOST:PORT of a cluster's head, auto, or local for one here")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHES).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise ValueError(
            f"--ray {address}: nobody answers there ({why}); start a cluster with `ray start --head`, which "
            "tells its address"
        ) from None


def connect(ray: Any, address: str, workers: int | None) -> None:
    """Join the cluster at an address, or start one of `workers` here where that is "local".

    Raises ValueError when it cannot be reached.
    """
    check_address(address)
    waiting = {name: os.environ[name] for name in WAITING if name in os.environ}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    how = (
        {"address": address}
        if address != "local"
        else {
            "address": "local",
            "num_cpus": workers or 1,
            "object_store_memory": STORE,
            "include_dashboard": False,
        }
    )
    try:
        ray.init(
            log_to_driver=False,
            logging_level="error",
            configure_logging=False,
            runtime_env={"env_vars": {"PYTHONPATH": path, **waiting}},
            **how,
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ValueError(
            f"--ray {address}: the cluster cannot be reached ({error}); start one with `ray start --head`"
        ) from None


def threads_wanted() -> str:
    """How many threads the user gives a worker, for `take_cores`, as Ray gives one to each: a run takes as
    many as there are cores that no other worker and no other program uses.
    """
    return os.environ.get("OMP_NUM_THREADS", "")


class Cluster:
    """A connection to a cluster, with room for so many workers; by default one a card, or a machine.
    Raises ValueError when it cannot be reached, or has no room for them.
    """

    def __init__(self, address: str, workers: int | None = None):
        import ray

        self.ray = ray
        connect(ray, address, workers)
        cards = ray.cluster_resources().get("GPU", 0)
        self.capacity = workers or int(cards) or len([node for node in ray.nodes() if node["Alive"]])
        self.needs = {"num_gpus": 1, "num_cpus": 1} if cards else {"num_cpus": 1}
        have = min(
            ray.cluster_resources().get(kind, 0) / count
            for kind, count in (("CPU", 1), *([("GPU", 1)] if cards else []))
        )
        if have < self.capacity:
            raise ValueError(f"--workers {self.capacity}: this cluster has room for {int(have)}")

    def actor(self, kind: type, **options: Any) -> Any:
        """What makes actors of a class, each with the room of a worker."""
        return self.ray.remote(max_restarts=0, max_task_retries=0, **self.needs, **options)(kind)

    def close(self) -> None:
        """Let the workers go, and the cluster, if it was started here."""
        self.ray.shutdown()


class Answering:
    """What an actor of the page does: a `Station` whose messages are asked for by number."""

    def __init__(self, threads: str = "") -> None:
        """`threads`: as many as the user says, see `threads_wanted`."""
        take_cores(threads)
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.station = Station(ask=self._ask)
        self.stops: dict[int, threading.Event] = {}

    def place(self) -> tuple[str, str]:
        """The id of its machine, and which code it has: that it answers says that it is there."""
        import ray

        return ray.get_runtime_context().get_node_id(), code()

    def answer(self, number: int, name: str, *values: Any) -> Iterator[Message]:
        stop = self.stops.setdefault(number, threading.Event())

        def work() -> None:
            for message in self.station.answer(stop, name, *values):
                self.messages.put(message)

        threading.Thread(target=work, daemon=True).start()
        kind = ""
        while kind not in ("end", "wrong"):
            try:
                kind, value = self.messages.get(timeout=BEAT)
            except queue.Empty:
                kind, value = "alive", None
            yield kind, value
        self.stops = {}

    def tell(self, value: Any) -> None:
        self.told.put(value)

    def _ask(self, value: Any) -> Any:
        self.messages.put(("ask", value))
        return self.told.get()

    def halt(self, number: int) -> None:
        self.stops.setdefault(number, threading.Event()).set()


@cache
def code() -> str:
    """What tells one version of this program from another: all its sources, as one number."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "pyramid").rglob("*.py")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


class Actor(Remote):
    """A holder on a cluster. One that dies is replaced, as soon as there is room for it."""

    def __init__(self, cluster: Cluster):
        super().__init__()
        self.cluster = cluster
        self.ray = cluster.ray
        self._kind = cluster.actor(Answering, concurrency_groups={"beside": 1})
        self._answers: Any = None
        self._asked: Any = None  # whether it is there
        self._actor = self._kind.remote(threads_wanted())

    def ready(self) -> bool:
        if self._asked is None:
            self._asked = self._actor.place.options(concurrency_group="beside").remote()
        answered, _ = self.ray.wait([self._asked], timeout=ASKS)
        if not answered:
            return False
        try:
            where, theirs = self.ray.get(self._asked)
        except self.ray.exceptions.RayActorError:
            self._again()
            return False
        self._asked = None
        if theirs != code():
            told = (
                f"machine {where[:8]} of the cluster has another version of this program: bring it up to date"
            )
            if told != self.trouble:
                log.warning("%s", told)
            self.trouble = told
            return False
        self.trouble = ""
        return True

    def _again(self) -> None:
        self._lost()
        self._asked = None
        self._actor = self._kind.remote(threads_wanted())

    def _ask(self, number: int, name: str, *values: Any) -> None:
        how = {"num_returns": "streaming", "_generator_backpressure_num_objects": AHEAD}
        self._answers = self._actor.answer.options(**how).remote(number, name, *values)

    def _message(self, seconds: float) -> Message | None:
        try:
            come, _ = self.ray.wait([self._answers], timeout=seconds, fetch_local=False)
            return self.ray.get(next(self._answers)) if come else None
        except StopIteration:
            return "end", None
        except self.ray.exceptions.RayError as error:
            self._again()
            log.warning("a worker of the cluster has ended: %s: %s", type(error).__name__, str(error).strip())
            full = isinstance(error, self.ray.exceptions.OutOfMemoryError)
            why = ", as the memory of its machine ran out" if full else ""
            raise Died(f"a worker of the cluster has ended{why}") from error

    def _give_up(self, why: str) -> Died:
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(self._actor)
        self._again()
        return Died(f"a worker of the cluster {why} and was ended")

    def _tell(self, number: int, value: Any) -> None:
        self._actor.tell.options(concurrency_group="beside").remote(value)

    def _halt(self, number: int) -> None:
        self._actor.halt.options(concurrency_group="beside").remote(number)

    def close(self) -> None:
        """The actor goes; the cluster, if it was started here, goes with this process."""
        self._lost()
        self.ray.kill(self._actor)


def actors(cluster: Cluster) -> list[Actor]:
    """A holder for each of a cluster's workers."""
    return [Actor(cluster) for _ in range(cluster.capacity)]
