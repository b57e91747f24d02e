"""What goes to the terminal: readable in every encoding, harmless, and no reason to fail.

    with steady_output():                  # around a program's `main`
        print(name)                        # in ASCII: "\\u7ea2\\u7403.mp4" in place of a UnicodeEncodeError
        screen().print(table)              # rich's console, whose own escapes pass

Names, captions, settings and metadata of foreign files may hold control characters, with which a terminal can
be made to show anything, or do worse. They are printed as the escapes that Python writes.
"""

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# All of ASCII's and Latin-1's but newline and tab, and those that turn the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

STDERR = 2
NARROWEST = 60  # columns that a table is given, whatever COLUMNS says: in fewer its last ones would vanish


def visible(text: str) -> str:
    """A text with its control characters as escapes; newlines and tabs stay."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class Lasting:
    """A text stream that goes on silently when nobody reads it any more."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        """Write, or do nothing where the reader or the terminal is gone."""
        try:
            self.stream.write(text)
        except OSError as error:
            self._forget(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self.stream.flush()
        except OSError as error:
            self._forget(error)

    def _forget(self, error: OSError) -> None:
        """Whatever comes from here on, also at the program's end, goes nowhere. Other errors than that nobody
        reads (a full disk) are raised again, but for words beside the result: they fail nothing.
        """
        if error.errno not in (errno.EPIPE, errno.EIO) and self.stream.fileno() != STDERR:
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Steady(Lasting):
    """One that shows control characters too."""

    def __init__(self, stream: Any):
        super().__init__(stream)
        self.rich_proxied_file = Lasting(stream)  # rich has escapes of its own to write

    def write(self, text: str) -> int:
        """Write; a carriage return at the very beginning is that of a progress bar."""
        bar = "\r" if text.startswith("\r") else ""
        super().write(bar + visible(text[len(bar) :]))
        return len(text)


def screen(**options: Any) -> Any:
    """rich's console, in which texts show their control characters; `options` are its own."""
    from rich.console import Console

    class Screen(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterator[Any]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    made = Screen(**options)
    if made.width < NARROWEST:
        made.width = NARROWEST
    return made


@contextmanager
def steady_output() -> Iterator[None]:
    """stdout and stderr as `Steady` streams, in which no character is an error, while this lasts.

    Closed ones are opened on nothing: else the next file that is opened would take their place, and get what
    is printed.
    """
    before = sys.stdout, sys.stderr
    opened = [steady(stream) for stream in before]
    sys.stdout, sys.stderr = opened
    try:
        yield
    finally:
        for stream in opened:
            stream.flush()
        if (sys.stdout, sys.stderr) == tuple(opened):
            sys.stdout, sys.stderr = before


def steady(stream: Any) -> Any:
    """A stream of `sys`, made steady; once is enough."""
    if isinstance(stream, Steady):
        return stream
    if stream is None:
        return Steady(open(os.devnull, "w", encoding="utf-8"))
    if callable(reconfigure := getattr(stream, "reconfigure", None)):
        reconfigure(errors="backslashreplace")
    return Steady(stream)
