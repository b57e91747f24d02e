"""A model in another process: what a device thread has in place of a `ModelHolder`, and what runs there.

    holder = Process("cuda:1")                          # or `cluster.Actor`, on another machine
    loaded = holder.bring(settings, "auto", say)        # a Model, as a ModelHolder gives one
    for event in loaded.stream(settings, inputs):       # the very events; Died when the process has ended
        ...

The far side has the model and makes the events. Whoever asked has the queue, the files and the recorder: so a
run elsewhere is recorded, shown and stopped as one in this process, and what it has finished lies here when
it dies. Both sides talk in pickled messages, of a kind and a value; each call has a number, so that a stop
that comes late stops nothing else. The far side says every few seconds that it is alive: one that hangs, and
says nothing any more, is ended and has died, too.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from pyramid.events import Preview
from pyramid.failures import Known, known
from pyramid.generate.loaded import Loaded, ModelHolder, picture_of
from pyramid.memory.machine import in_use
from pyramid.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from pyramid.generate.pipeline import Event
    from pyramid.generate.request import Inputs
    from pyramid.hub.families import LatentScales

Say = Callable[[str], Any]
Message = tuple[str, Any]  # say, loaded, event, memory, wrong, end; alive
POLL = 0.05  # seconds between two looks at whether a run is to stop
MEMORY_EVERY = 1.0  # seconds between two messages of how much memory is in use
ENDS_WITHIN = 2.0  # seconds that a process has to end once it was told
BEAT = 5.0  # seconds between two signs of life
SILENT = 120.0  # seconds without one after which a process is taken for dead
STARTS_WITHIN = 900.0  # seconds until the first one
STOPS_WITHIN = 300.0  # seconds that a run has to end once it was stopped, or SLOWER times its longest step
SLOWER = 5


class Died(Exception):
    """The process that made something has ended, and what it had not told is lost."""


class Model(Protocol):
    """A model on its device, as a run needs it: `Loaded`, or `Far`."""

    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> str: ...
    @property
    def speed_key(self) -> str: ...
    @property
    def scales(self) -> "LatentScales": ...
    def picture(self, event: Preview) -> Image.Image: ...
    @property
    def colors(self) -> Any: ...
    @property
    def memory_bytes(self) -> int: ...
    def stream(self, settings: Settings, inputs: "Inputs") -> "Iterator[Event]": ...
    def drafting(self, wanted: Sequence[Settings], whole: bool, inputs: "Inputs") -> Any: ...


class Holder(Protocol):
    """What keeps a device's one model loaded. Used by one thread; `loaded` may be read from any."""

    @property
    def loaded(self) -> Model | None: ...
    @property
    def trouble(self) -> str:
        """Why it cannot be given a job, where that does not pass by itself; else ""."""
        ...

    def bring(self, settings: Settings, memory: str = "auto", say: Say | None = None) -> Model: ...
    def ready(self) -> bool:
        """Whether a job can be given to it now."""
        ...

    def close(self) -> None: ...


class Here(ModelHolder):
    """The holder of this process."""

    trouble = ""

    def ready(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing of it outlives the process."""


# ------------------------------------------------------------------------------------------------------------
# The far side


@dataclass(frozen=True)
class About:
    """What is told of a model that was loaded elsewhere."""

    identity: dict[str, Any]
    notes: tuple[str, ...]
    device: str
    speed_key: str
    scales: "LatentScales"
    colors: Any

    @classmethod
    def of(cls, loaded: Loaded) -> "About":
        return cls(*(getattr(loaded, field.name) for field in fields(cls)))


class Station:
    """Keeps one model loaded, and answers what is asked of it with messages. Answers come from one thread."""

    def __init__(self, device: str = "", ask: Callable[[Any], Any] | None = None):
        """`device`: where the models go, whatever the settings say. `ask`: tells who runs it what is asked,
        by a message `ask`, and waits for the answer.
        """
        self.device = device
        self.ask = ask
        self.holder = ModelHolder()
        self._told = 0.0  # when it was told last how much memory is in use

    def answer(self, stop: threading.Event, name: str, *values: Any) -> Iterator[Message]:
        """The messages of a call, the last of which is `end` or `wrong`."""
        try:
            calls: dict[str, Callable[..., Iterator[Message]]] = {
                "bring": self.bring,
                "stream": self.stream,
                "drafts": self.drafts,
            }
            yield from calls[name](stop, *values)
        except Exception as error:
            yield "wrong", wrong(error)
        else:
            yield "end", None

    def bring(self, stop: threading.Event, settings: Settings, memory: str) -> Iterator[Message]:
        if self.device:
            settings = replace(settings, device=self.device)
        if not self.holder.has(settings, memory):
            yield "say", "Loading the model"
        yield "loaded", About.of(self.holder.bring(settings, memory))
        yield "memory", in_use()

    def stream(
        self, stop: threading.Event, settings: Settings, inputs: "Inputs", asks: bool
    ) -> Iterator[Message]:
        loaded = self.holder.loaded
        assert loaded is not None, "a model is brought before it is run"
        words = self.ask if asks else None
        yield from self._events(loaded.stream(settings, replace(inputs, stop=stop, words=words)))

    def drafts(
        self, stop: threading.Event, wanted: Sequence[Settings], whole: bool, inputs: "Inputs"
    ) -> Iterator[Message]:
        loaded = self.holder.loaded
        assert loaded is not None, "a model is brought before it is run"
        drafting = loaded.drafting(wanted, whole, replace(inputs, stop=stop))
        yield from self._events(drafting)
        yield "drafts", movable(drafting.drafts)

    def _events(self, events: "Iterable[Event]") -> Iterator[Message]:
        for event in events:
            if time.monotonic() - self._told > MEMORY_EVERY:
                yield "memory", in_use()
                self._told = time.monotonic()
            yield "event", movable(event)


def movable(value: Any) -> Any:
    """The same with its tensors, and those of its fields and lists, in main memory."""
    if hasattr(value, "detach"):
        return value.detach().cpu()
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: movable(part) for name, part in own.items()})
    if isinstance(value, list | tuple):
        return type(value)(movable(part) for part in value)
    return value


def wrong(error: Exception) -> tuple[bool, str | None, str]:
    """An error as a message: whether a user caused it, its sentence where it has one, its traceback."""
    return isinstance(error, ValueError), known(error), "".join(traceback.format_exception(error))


def error_of(by_user: bool, words: str | None, told: str) -> Exception:
    """The error of such a message, to be raised here."""
    if words is not None:
        return ValueError(words) if by_user else Known(words)
    error = RuntimeError(told.strip().rpartition("\n")[2])
    error.__cause__ = Exception(f"in the other process:\n{told}")  # for the log
    return error


# ------------------------------------------------------------------------------------------------------------
# This side


@dataclass(frozen=True)
class Far(About):
    """A model that is loaded elsewhere."""

    holder: "Remote"

    @property
    def memory_bytes(self) -> int:
        """Memory that was in use there when it was told last."""
        return self.holder.memory_bytes

    def stream(self, settings: Settings, inputs: "Inputs") -> "Iterator[Event]":
        """The events of a run. Raises as `Loaded.stream` does, and Died."""
        given = movable(replace(inputs, stop=None, words=None))
        asks = inputs.words is not None
        call = self.holder.call("stream", settings, given, asks, stop=inputs.stop, words=inputs.words)
        for kind, value in call:
            if kind == "event":
                yield value

    def picture(self, event: Preview) -> Image.Image:
        """As `Loaded.picture`, made here."""
        return picture_of(event, self.scales, self.colors)

    def drafting(self, wanted: Sequence[Settings], whole: bool, inputs: "Inputs") -> "FarDrafting":
        """As `Loaded.drafting`."""
        return FarDrafting(self.holder, list(wanted), whole, inputs)


@dataclass
class FarDrafting:
    """Drafts that are made elsewhere: iterating gives the events, then `drafts` are there."""

    holder: "Remote"
    wanted: list[Settings]
    whole: bool
    inputs: "Inputs"
    drafts: list[Any] = field(default_factory=list)

    def __iter__(self) -> "Iterator[Event]":
        given = movable(replace(self.inputs, stop=None))
        call = self.holder.call("drafts", self.wanted, self.whole, given, stop=self.inputs.stop)
        for kind, value in call:
            if kind == "event":
                yield value
            if kind == "drafts":
                self.drafts = value


@dataclass
class Patience:
    """How long one waits for the other side. Only waiting counts: who is slow to ask has lost no patience."""

    most: float  # seconds without a sign of life
    silent: float = 0.0  # seconds that were waited since the last sign of life
    idle: float = 0.0  # since the last message
    longest: float = 0.0  # between two messages, so far
    halted: bool = False  # whether the call was told to end

    def waited(self, seconds: float, message: Message | None) -> None:
        """So long was waited, and this came."""
        self.silent = 0.0 if message else self.silent + seconds
        if message and message[0] != "alive":
            self.longest = max(self.longest, self.idle)
            self.idle = 0.0
        else:
            self.idle += seconds

    @property
    def ended(self) -> str:
        """Why nothing more is waited for; "" while it is."""
        if self.silent > self.most:
            return f"said nothing for {self.most:g} s"
        if self.halted and self.idle > max(STOPS_WITHIN, SLOWER * self.longest):
            return "did not stop when it was told to"
        return ""


class Remote(ABC):
    """A holder whose model is elsewhere. How the messages go is for its subclasses to say."""

    def __init__(self) -> None:
        self.loaded: Far | None = None
        self.trouble = ""
        self.memory_bytes = 0
        self._number = 0  # of the last call
        self._open = False  # whether that has not ended
        self._heard = False  # whether the other side was ever heard
        self._patience = Patience(STARTS_WITHIN)  # with that

    @abstractmethod
    def ready(self) -> bool: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _ask(self, number: int, name: str, *values: Any) -> None:
        """Begin a call. Raises Died, as the others do."""

    @abstractmethod
    def _message(self, seconds: float) -> Message | None:
        """The next message of the call; None where there is none within so many seconds."""

    @abstractmethod
    def _halt(self, number: int) -> None:
        """Let a call end before its next step."""

    @abstractmethod
    def _tell(self, number: int, value: Any) -> None:
        """The answer to what a call asked."""

    @abstractmethod
    def _give_up(self, why: str) -> Died:
        """End the other side, which does not answer any more: what is to be raised."""

    def bring(self, settings: Settings, memory: str = "auto", say: Say | None = None) -> Far:
        """As `ModelHolder.bring`. Raises Died, too."""
        for kind, value in self.call("bring", settings, memory):
            if kind == "say" and say:
                say(value)
            if kind == "loaded":
                self.loaded = Far(**vars(value), holder=self)
        assert self.loaded is not None, "a call that ends well has told what was loaded"
        return self.loaded

    def call(
        self,
        name: str,
        *values: Any,
        stop: threading.Event | None = None,
        words: Callable[[int], Any] | None = None,
    ) -> Iterator[Message]:
        """The messages of a call but the last. Where it is not taken to its end, it is halted then, or by the
        next call. `words` answers what it asks.
        """
        self._drain()
        self._number += 1
        number = self._number
        self._ask(number, name, *values)
        self._open = True
        self._patience = Patience(SILENT if self._heard else STARTS_WITHIN)
        try:
            yield from self._messages(number, stop, words)
        except GeneratorExit:
            if number == self._number:
                self._drain()
            raise

    def _messages(
        self, number: int, stop: threading.Event | None, words: Callable[[int], Any] | None
    ) -> Iterator[Message]:
        while number == self._number:
            if stop is not None and stop.is_set() and not self._patience.halted:
                self._patience.halted = True
                self._halt(number)
            match self._next():
                case "end", _:
                    return
                case "wrong", value:
                    raise error_of(*value)
                case "ask", value if words:
                    self._tell(number, words(value))
                case "memory", value:
                    self.memory_bytes = value
                case (_, _) as message:
                    yield message

    def _next(self) -> Message | None:
        """The next message, if there is one; None for a sign of life. Raises Died where there are none for
        too long.
        """
        self._open = False  # unless it was not the last
        began = time.monotonic()
        message = self._message(POLL)
        self._open = message is None or message[0] not in ("end", "wrong")
        self._patience.waited(time.monotonic() - began, message)
        if message and not self._heard:
            self._heard = True
            self._patience.most = SILENT
        if why := self._patience.ended:
            raise self._give_up(why)
        return None if message and message[0] == "alive" else message

    def _drain(self) -> None:
        """Let a call that nobody listens to any more come to its end."""
        with suppress(Died):
            if self._open:
                self._patience.halted = True
                self._halt(self._number)
            while self._open:
                self._next()

    def _lost(self) -> None:
        """Nothing of the other side is there any more."""
        self.loaded = None
        self.memory_bytes = 0
        self._open = False
        self._heard = False


class Process(Remote):
    """A process of this machine, with a device of its own. It ends with this one."""

    def __init__(self, device: str, turn: "threading.Lock | None" = None):
        """`turn`: of loading, one process after the other, as each looks at how much memory is free."""
        super().__init__()
        self.device = device
        self._turn = turn or threading.Lock()
        self._process: Any = None
        self._line: Connection | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process else None

    def ready(self) -> bool:
        if self._process is None or not self._process.is_alive():
            self._start()
        return True

    def _start(self) -> None:
        self.close()
        context = multiprocessing.get_context("spawn")
        self._line, there = context.Pipe()
        values = (there, self.device)
        self._process = context.Process(target=serve, args=values, name=f"worker {self.device}", daemon=True)
        self._process.start()
        there.close()

    def bring(self, settings: Settings, memory: str = "auto", say: Say | None = None) -> Far:
        with self._turn:
            return super().bring(settings, memory, say)

    def _ask(self, number: int, name: str, *values: Any) -> None:
        if name == "bring":
            self.ready()
        self._send(number, name, *values)

    def _halt(self, number: int) -> None:
        self._send(number, "halt")

    def _tell(self, number: int, value: Any) -> None:
        self._send(number, "told", value)

    def _send(self, *message: Any) -> None:
        try:
            self._there.send_bytes(pickle.dumps(message))
        except OSError as error:
            raise self._died() from error

    def _message(self, seconds: float) -> Message | None:
        try:
            return pickle.loads(self._there.recv_bytes()) if self._there.poll(seconds) else None
        except (EOFError, OSError) as error:
            raise self._died() from error

    @property
    def _there(self) -> "Connection":
        if self._line is None:
            raise Died(f"the process on {self.device} has ended")
        return self._line

    def _give_up(self, why: str) -> Died:
        if self._process is not None:
            self._process.kill()
        self.close()
        return Died(f"the process on {self.device} {why} and was ended")

    def _died(self) -> Died:
        process = self._process
        how = ""
        if process is not None:
            process.join(ENDS_WITHIN)
            code = process.exitcode
            how = f" by signal {-code}" if code is not None and code < 0 else f" with code {code}"
        self.close()
        return Died(f"the process on {self.device} has ended{how}")

    def close(self) -> None:
        """End the process, at once if need be."""
        line = self._line
        process = self._process
        self._line = None
        self._process = None
        self._lost()
        if line is not None:
            line.close()  # which it notices
        if process is not None:
            process.join(ENDS_WITHIN)
            if process.is_alive():
                process.kill()


def processes(devices: Sequence[str]) -> list[Process]:
    """A holder for each device. Those on the processor share its cores, as each follows the load."""
    turn = threading.Lock()
    return [Process(device, turn) for device in devices]


def serve(line: "Connection", device: str) -> None:
    """The main function of a `Process`: answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks: a run ends in order then
    told = queue.SimpleQueue[Any]()
    turn = threading.Lock()  # of who sends

    def send(*message: Any) -> None:
        try:
            with turn:
                line.send_bytes(pickle.dumps(message))
        except OSError:
            os._exit(0)

    def ask(value: Any) -> Any:
        send("ask", value)
        return told.get()

    threading.Thread(target=beat, args=(send,), daemon=True).start()
    station = Station(device, ask)
    calls = queue.SimpleQueue[tuple[threading.Event, tuple[Any, ...]]]()
    threading.Thread(target=listen, args=(line, calls, told), daemon=True).start()
    while True:
        stop, call = calls.get()
        for message in station.answer(stop, *call):
            send(*message)


def beat(send: Callable[..., None]) -> None:
    """Say that the process is alive, as long as it is."""
    while True:
        time.sleep(BEAT)
        send("alive", None)


def listen(
    line: "Connection",
    calls: "queue.SimpleQueue[tuple[threading.Event, tuple[Any, ...]]]",
    told: "queue.SimpleQueue[Any]",
) -> None:
    """Take what is asked, and halts of it, while that is answered. Ends the process when the line ends."""
    stops: dict[int, threading.Event] = {}
    try:
        while True:
            number, name, *values = pickle.loads(line.recv_bytes())
            if name == "halt":
                stops.get(number, threading.Event()).set()
                continue
            if name == "told":
                told.put(values[0])
                continue
            stops = {number: threading.Event()}  # one call after the other
            calls.put((stops[number], (name, *values)))
    except (EOFError, OSError):
        os._exit(0)
