"""What went wrong, as a sentence for people: one place for the page, its endpoints, the commands and lists.

    words = sentence(error, flag_of)       # the page passes label_of, endpoints pass str
    keep_log(folder / "log.txt")           # where the tracebacks go of what has no sentence

A sentence says the value, the limit and the way out. An error that nobody foresaw gets an id, which the
log has with the traceback: it is all that has to be told to find the cause.
"""

import errno
import json
import logging
import os
import re
import secrets
import sqlite3
import sys
import sysconfig
import traceback
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path
from zipfile import BadZipFile

from pyramid.settings import SettingsError

log = logging.getLogger(__name__)
LOG_BYTES = 1_000_000  # of the log; one before it is kept
MOST = 2000  # characters of a sentence: what was given may be repeated in it, whatever its size
WAYS_OUT = {  # what the system refused, and what helps
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "check who may use it, or choose another",
    errno.EPERM: "check who may use it, or choose another",
    errno.ENOENT: "it was moved or deleted, or its name is another",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "something else has this name: choose another",
    errno.ELOOP: "links lead to each other in a circle: choose another",
    errno.ENOTDIR: "a file stands where a folder is expected: choose another",
    errno.EISDIR: "give a file",
    errno.EMFILE: "too many files are open: close other programs, or start this one anew",
    errno.EIO: "check the drive and its cable",
    errno.ENODEV: "check the drive and its cable",
}
BY_TYPE = {
    UnicodeDecodeError: "this is not UTF-8 text: save it as UTF-8",
    RecursionError: "lists or tables lie too deep in each other: a few levels are read",
    OverflowError: "a number is too large: give a smaller one",
    BadZipFile: "the archive is damaged: make or fetch it again",
    MemoryError: "memory ran out: ask for a smaller size or fewer frames, or close other programs",
}
OF_LIBRARIES = (  # what Python and its libraries say -> what it means
    (r"embedded null (byte|character)", "it holds a NUL character, which no name can have: leave that out"),
    (r"Exceeds the limit .* digits", "a number has thousands of digits: give one of at most 15"),
    (r"too large to convert to float|cannot convert float|int too (big|large)", "a number is too large"),
)


class Known(Exception):
    """An error whose words are for people already, such as one that another process told of."""


def sentence(error: BaseException, name_of: Callable[[str], str] = str) -> str:
    """What is told of `error`, with settings named by `name_of`. What nobody foresaw goes into the log."""
    words = known(error, name_of)
    return printable(unforeseen(error) if words is None else words)


def known(error: BaseException, name_of: Callable[[str], str] = str) -> str | None:
    """The sentence that an error has; None for one that nobody foresaw."""
    match error:
        case SettingsError():
            return error.told(name_of)
        case Known():
            return str(error)
        case json.JSONDecodeError():
            return f"this is not JSON ({error.msg} at line {error.lineno}, column {error.colno}): correct it"
        case UnicodeEncodeError():
            before = error.object[: error.start][-20:]
            return f"the text holds what is no character (after {before!r}): type it again"
        case sqlite3.Error():
            return _of_database(error)
        case OSError() if error.strerror:
            return _of_system(error)
    for kind, words in BY_TYPE.items():
        if isinstance(error, kind):
            return words
    return _by_its_words(error)


def _by_its_words(error: BaseException) -> str | None:
    """The sentence of an error whose type alone does not tell."""
    words = str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
        return BY_TYPE[MemoryError]
    if re.search(r"No space left on device|os error 28", words):  # of libraries that have no OSError for it
        return f"{os.strerror(errno.ENOSPC)}: {WAYS_OUT[errno.ENOSPC]}"
    if isinstance(error, RuntimeError) and re.search(r"encrypted|password required", words):
        return "the archive is encrypted: unpack it, and give what is in it"
    if isinstance(error, ValueError):
        for pattern, meaning in OF_LIBRARIES:
            if re.search(pattern, words):
                return meaning
        return words if words and _is_ours(error) else None
    return words if isinstance(error, (OSError, FloatingPointError)) and words and _is_ours(error) else None


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by our code, with words that are meant for people, and not within a library."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return True
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not any(Path(frames[-1].filename).is_relative_to(folder) for folder in libraries)


def _of_system(error: OSError) -> str:
    """What the system refused, of which file (its name, no folder), and what helps."""
    name = Path(str(error.filename)).name if error.filename else ""
    way_out = WAYS_OUT.get(error.errno or 0, "")
    return ": ".join(filter(None, (name, error.strerror, way_out)))


def _of_database(error: sqlite3.Error) -> str:
    words = str(error)
    if "locked" in words or "busy" in words:
        return "the list of jobs is locked by another program: close that one, and try again"
    if "unable to open" in words:
        return "the output folder is gone: bring it back, or make it anew"
    if "readonly" in words:
        return "the list of jobs cannot be written: make the output folder writable"
    if "full" in words:
        return "the list of jobs cannot be written, as the disk is full: free some space there"
    return f"the list of jobs cannot be used ({words}): move jobs.sqlite away, and a new one is made"


def unforeseen(error: BaseException) -> str:
    """Write the traceback into the log, under an id; the sentence that names it."""
    number = secrets.token_hex(4)
    log.error("error %s", number, exc_info=error)
    words = " ".join(str(error).split())
    what = type(error).__name__ + (f": {words[:200]}" if words else "")
    return f"something went wrong that was not foreseen ({what}); it is error {number} in {log_name()}"


def printable(words: str) -> str:
    """One line that every encoding can write, no longer than MOST."""
    line = " ".join(words.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0").split())
    return line if len(line) <= MOST else f"{line[: MOST - 1]}…"


def keep_log(path: Path, *, terminal: bool = True) -> None:
    """Write what was not foreseen into the file `path`, in place of one that was named before; also to the
    terminal, if `terminal`. A folder that cannot be written leaves it to the terminal alone.
    """
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = terminal
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, delay=True, encoding="utf-8")
    except OSError:
        log.propagate = True
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)


def log_name() -> str:
    """Where the log is, for people: the file's name, or the terminal."""
    names = [
        Path(handler.baseFilename) for handler in log.handlers if isinstance(handler, logging.FileHandler)
    ]
    if names:
        return f"the log, {names[0]}"
    return "the terminal" if sys.stderr else "the log"
