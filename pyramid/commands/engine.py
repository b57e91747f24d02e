"""What makes the items of a list, and how it tells how they ended: `batch` drives it, here or on a cluster.

    maker = Maker(stop, memory="auto")
    path = maker.make(item, read_given(item.settings), folder, source(item.settings))     # or Stopped

An engine takes items and hands back outcomes. That of this process is `batch.Here`, that of a Ray cluster
`cluster.OnRay`: both make items with a `Maker`, which keeps one model loaded.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pyramid.commands.prompt_list import Item, name_of, result_path
from pyramid.failures import sentence
from pyramid.generate.loaded import ModelHolder
from pyramid.jobs.recorder import Listener, Nothing, Recorder, Recording
from pyramid.jobs.recovery import UnitsFolder


class Stopped(Exception):
    """The user ended the batch while an item was in the making."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: with a file, or with an error that may pass when tried again (`again`),
    or not.
    """

    item: Item
    path: Path | None = None
    error: str = ""
    again: bool = True
    seconds: float = 0.0


class Engine(Protocol):
    """Who makes videos: takes up to `capacity` items, and tells how one after the other ended."""

    capacity: int

    def submit(self, item: Item) -> None: ...
    def next(self) -> Outcome: ...
    def close(self) -> None: ...


def failure(item: Item, error: Exception, seconds: float = 0.0) -> Outcome:
    """The outcome of an attempt that raised. What a user caused (ValueError) does not pass by trying
    again.
    """
    return Outcome(item, error=sentence(error), again=not isinstance(error, ValueError), seconds=seconds)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Maker:
    """Makes items one after the other with one model in memory; a new one comes when an item needs it.

    `tell` gets what people should know of an item: that memory ran out on the way, for example.
    """

    def __init__(
        self,
        stop: threading.Event | None = None,
        memory: str = "auto",
        tell: Callable[[str], Any] = say,
    ):
        self.stop = stop or threading.Event()
        self.memory = memory
        self.tell = tell
        self.holder = ModelHolder()

    def make(
        self,
        item: Item,
        given: dict[str, Any],
        folder: Path,
        source: dict[str, Any],
        units: Path | None = None,
    ) -> Path:
        """The result's path. Raises Stopped, or whatever goes wrong; then there is no result.

        `given` is what was read of the item's picture or video, `source` says which one it was. `units`: a
        folder for the finished units, from which another attempt goes on.
        """
        from pyramid.generate.request import Inputs

        settings = item.settings
        before = self.holder.loaded
        loaded = self.holder.bring(settings, self.memory)
        if loaded is not before and loaded.note:
            self.tell(loaded.note)
        recording = Recording(
            settings,
            result_path(folder, item),
            loaded.identity,
            marks=source | {"batch": item.key},
            units=UnitsFolder(units) if units else None,
        )
        recorder = Recorder(recording, Telling(item, self.tell, self.stop), loaded.notes)
        try:
            return recorder.record(
                lambda finished: loaded.stream(settings, Inputs(**given, finished=finished, stop=self.stop))
            )
        except Nothing:
            raise Stopped from None


class Telling(Listener):
    """Tells what was changed on the way, by the item's name. Only what is whole becomes a result."""

    def __init__(self, item: Item, tell: Callable[[str], Any], stop: threading.Event | None = None):
        self.item = item
        self.tell = tell
        self.stop = stop

    def note(self, sentence: str) -> None:
        self.tell(f"{name_of(self.item)}: {sentence}")

    def waiting(self, why: str) -> None:
        self.tell(f"{name_of(self.item)}: {why}")

    def stopping(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    def unsaved(self, why: str) -> None:
        self.note(f"finished units cannot be saved from here on ({why})")

    def wants(self, early: bool) -> bool:
        return not early
