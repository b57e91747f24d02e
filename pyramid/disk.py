"""Files on the disk: whole under their name or not there at all, and one file in two folders.

with whole(path) as part:                 # write `part`; afterwards it is `path`
    save_file(tensors, part)
write_json(path, {"name": "mine"})        # the same for JSON
as_json({"share": math.nan})              # what it writes, and every program can read: null
write_through(path, content)              # the same for bytes, and a power cut does not undo it
link(source, target)                      # the same file once more, or a copy
unwritable(Path("outputs"))               # "", or why nothing can be written there
check_file(Path("photo.png"))             # ValueError for a folder, a pipe or a device
file_variant(Path("causal_video_vae"))    # "fp16", where the weights' names say so
"""

import json
import math
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model")  # names of weight files before the dot
WEIGHT_FILE = re.compile(  # its first or second group: the variant, if it has one
    rf"(?:{'|'.join(WEIGHTS)})\.(?:(?:(\w+)\.)?(?:safetensors|bin)|(?:safetensors|bin)\.index\.(?:(\w+)\.)?json)"
)
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A draft beside `path`, of this thread alone, that takes the name once it is written; a failure leaves
    nothing of it. OSError where the folder is missing.
    """
    part = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")  # short: the name may be long
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_through(path: Path, content: bytes) -> None:
    """A whole file that has reached the disk, its name too, when this returns."""
    with whole(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot be asked for that
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any, **how: Any) -> None:
    """A whole file of JSON for people to read, in a folder that is made; see `as_json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        # Half a character, as of a name that is no UTF-8, becomes the escape that JSON has for it.
        part.write_text(as_json(value, **how) + "\n", encoding="utf-8", errors="backslashreplace")


def as_json(value: Any, **how: Any) -> str:
    """JSON for people to read. It has no NaN and no infinity, which few programs read: those are null.
    `how`: see `json.dumps`.
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False, **how)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def link(source: str | Path, target: str | Path) -> None:
    """The same file under another name, in place of what has it; a copy where a file cannot have two."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(os.path.realpath(source), target)  # what a link leads to, not the link
    except OSError:
        with whole(Path(target)) as part:
            shutil.copyfile(source, part)


def special(path: Path) -> str:
    """What a path is that is no file: it would be waited for without end, or never end. "" for a file, and
    for what is not there.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # a name that cannot be one
        return ""
    for is_one, what in KINDS:
        if is_one(mode):
            return what
    return ""


def check_file(path: Path) -> None:
    """Raises ValueError for what is there and no file."""
    if what := special(path):
        raise ValueError(f"{path.name or str(path)!r} is {what}: give a file")


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def unwritable(folder: Path) -> str:
    """Why nothing can be written in a folder, or where it is to be made; "" where it can."""
    there = folder
    try:  # rights alone do not tell: the disk may be full, or read-only
        with suppress(FileNotFoundError):
            folder.lstat()  # which fails for a name that is too long to be made
        there = nearest(folder)
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
    except OSError as error:
        return f"nothing can be written in {there}: {error.strerror}"
    return ""


def file_variant(folder: Path) -> str:
    """The variant in the names of a folder's weights, as diffusers and transformers call it: "fp16" where
    they are saved as `model.fp16.safetensors`. "" where weights without one are there, or none.
    """
    found = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        name = WEIGHT_FILE.fullmatch(path.name)
        if name:
            found.add(name[1] or name[2] or "")
    return "" if "" in found else min(found, default="")
