"""The engine of `pyramid batch --ray`: Ray actors that each keep a model loaded.

    engine = OnRay(folder, stop, "local", 2)  # two workers here; "auto" or HOST:PORT joins a cluster

Pictures go to the workers and results come back through Ray, so the machines need no common disk; they need
this project at the same path, and the models in place. The driver alone names files and writes the journal,
and gives an item to one worker at a time, so nothing is done twice. A worker that dies is replaced, which
counts as an attempt.
"""

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pyramid.commands.engine import Maker, Outcome, Stopped, failure, say
from pyramid.commands.prompt_list import Item, result_path
from pyramid.jobs.cluster import Cluster, threads_wanted
from pyramid.memory.threads import take_cores

POLL = 0.5  # seconds between looks at Ctrl-C


class Worker:
    """What an actor does: makes items into files, and returns their bytes, and lines to be told."""

    def __init__(self, memory: str, threads: str = ""):
        """`threads`: as many as the user says, see `threads_wanted`."""
        take_cores(threads)
        self.told: list[str] = []
        self.maker = Maker(memory=memory, tell=self.told.append)

    def make(self, item: Item, given: dict[str, Any], source: dict[str, Any]) -> tuple[bytes, list[str]]:
        self.told.clear()
        with tempfile.TemporaryDirectory(prefix="pyramid-") as folder:
            return self.maker.make(item, given, Path(folder), source).read_bytes(), [*self.told]


class OnRay:
    """The engine of a cluster. Raises ValueError when it cannot be reached or has no room for a worker."""

    def __init__(
        self,
        folder: Path,
        stop: threading.Event,
        address: str,
        workers: int | None = None,
        *,
        memory: str = "auto",
    ):
        self.cluster = Cluster(address, workers)
        self.ray = self.cluster.ray
        self.capacity = self.cluster.capacity
        self.memory = memory
        self.folder = folder
        self.stop = stop
        self.actor = self.cluster.actor(Worker)
        self.idle = [self.actor.remote(self.memory, threads_wanted()) for _ in range(self.capacity)]
        self.running: dict[Any, tuple[Any, Item, float]] = {}
        self.unread: list[Outcome] = []  # items whose picture or video is gone meanwhile

    def submit(self, item: Item) -> None:
        from pyramid.jobs.recorder import source
        from pyramid.media.video_reader import read_given

        try:
            given = read_given(item.settings)
            about = source(item.settings)
        except (ValueError, OSError) as error:
            self.unread.append(failure(item, error))
            return
        actor = self.idle.pop()
        self.running[actor.make.remote(item, given, about)] = actor, item, time.monotonic()

    def next(self) -> Outcome:
        if self.unread:
            return self.unread.pop()
        while True:
            ended, _ = self.ray.wait(list(self.running), timeout=POLL)
            if ended:
                break
            if self.stop.is_set():
                raise Stopped
        actor, item, began = self.running.pop(ended[0])
        try:
            content, told = self.ray.get(ended[0])
        except self.ray.exceptions.RayActorError:
            self.idle.append(self.actor.remote(self.memory, threads_wanted()))
            return Outcome(item, error="its worker died (out of memory, or its machine is gone)")
        except self.ray.exceptions.RayTaskError as error:
            self.idle.append(actor)
            return failure(item, error.cause, time.monotonic() - began)
        self.idle.append(actor)
        for line in told:
            say(line)
        try:
            return Outcome(item, self._keep(item, content), seconds=time.monotonic() - began)
        except OSError as error:  # the disk is full, say
            return failure(item, error, time.monotonic() - began)

    def _keep(self, item: Item, content: bytes) -> Path:
        """The result under its name in the output folder, whole or not at all."""
        from pyramid.media.files import publish, reserve

        part, path = reserve(result_path(self.folder, item))
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            return publish(part, path)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the workers go, and the cluster, if it was started here."""
        self.cluster.close()
