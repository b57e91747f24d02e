"""Ctrl-C in a terminal: what is at work ends within a step, and within three seconds whatever it does.

    with interruptible(stop):      # Ctrl-C, SIGTERM and a closed terminal set `stop`, a threading.Event
        ...                        # who looks at it ends by itself; after GRACE s `Halted` is raised
    with as_by_ctrl_c():           # SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does
        ...

A second Ctrl-C ends the program at once.
"""

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 1.2  # seconds that a step, or what is being loaded, has to end by itself
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Halted(Exception):
    """The work was told to stop, and did not end in time. What is finished is kept, as after any error."""


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """The signals that end a program set `stop`; Halted after GRACE seconds, KeyboardInterrupt after twice
    those, or at the second signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    clock = Clock()

    def interrupt(number: int, frame: object) -> None:
        if clock.rang():
            raise Halted if clock.rings == 1 else KeyboardInterrupt
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        clock.start()

    with handled(interrupt):
        try:
            yield
        finally:
            clock.stop()


@contextmanager
def as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM and a closed terminal end what is at work as Ctrl-C does, so nothing stays half written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with handled(interrupt, tuple(number for number in SIGNALS if number != signal.SIGINT)):
        yield


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], object], signals: tuple[signal.Signals, ...] = SIGNALS
) -> Iterator[None]:
    """`handler` gets the signals that end a program, while this lasts.

    Who was told to outlive its terminal (nohup) does; SIGINT counts all the same, as scripts start programs
    with it ignored.
    """
    wanted = [n for n in signals if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = [signal.signal(number, handler) for number in wanted]
    try:
        yield
    finally:
        for number, former in zip(wanted, before, strict=True):
            signal.signal(number, former)


class Clock:
    """Rings twice in the main thread, GRACE seconds apart: as a signal, which interrupts what is at work."""

    def __init__(self):
        self.rings = 0
        self._ringing = self._ended = False
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        self._timer = threading.Timer(GRACE, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        if self._ended:
            return
        self._ringing = True
        if self.rings == 0:
            self.start()
        if hasattr(signal, "pthread_kill"):  # which also ends what waits for the system
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        else:
            _thread.interrupt_main()

    def rang(self) -> bool:
        """Whether it is this clock that calls, and no signal from outside."""
        if not self._ringing:
            return False
        self._ringing = False
        self.rings += 1
        return True

    def stop(self) -> None:
        self._ended = True
        if self._timer:
            self._timer.cancel()
