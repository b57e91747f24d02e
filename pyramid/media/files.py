"""Names of results, which never overwrite each other, and what is written into them.

    name = file_name("{date}/{prompt}-{seed}", settings)         # "2026-11-22/a-red-ball-7", checked strictly
    part, path = reserve(folder / f"{name}.mp4")                 # a hidden file to fill, and the first free
    name path = publish(part, path)                                   # now it is there, complete, or not at
    all metadata = describe(settings, {"identity": …})
    read_metadata(path) == metadata  # of mp4, webm, gif, png, zip, or the .json beside

A result says how it was made: inside itself, in a `.json` beside it, or not at all (KEEPS).
"""

import errno
import json
import os
import re
import shutil
import signal
import string
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from glob import escape
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from PIL import Image

from pyramid.media.containers import this_file
from pyramid.media.parts import check_parts
from pyramid.media.sound import Sound
from pyramid.settings import Settings, SettingsError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

PROGRAM = "pyramid"
KEEPS = ("embed", "sidecar", "none")  # where a result's metadata goes
PATTERN = "{prompt}-{seed}"
MAX_WORDS = 60  # characters of a prompt in a name
MAX_WIDTH = 64  # characters of a field of a pattern
MAX_NAME = 200  # bytes of a name: file systems take 255, endings and numbers come on top
LONGEST = 255  # bytes of a name, on most file systems
ROOM = len("-9999.json")  # for what comes on top of a name that is made up: a number, and the metadata beside
MEMBER = "settings.json"  # of a zip of pictures
RATE = "fps.txt"  # of one, too: how many of them a second
PICTURES = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "PPM", "TGA", "ICO")
"""Pillow's formats that are read. It knows some that are programs: for EPS it starts Ghostscript."""
# What Pillow's readers raise at damaged and made-up files, beside what they mean to.
OF_READERS = (
    OSError,
    SyntaxError,
    EOFError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
VIDEOS = (".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi", ".m4v")  # what a folder is searched for
MAX_METADATA = 2**22  # bytes: what a result says of itself is a few thousand
MAX_DIRECTORY = 2**20  # bytes of a zip's list of its files, of which the whole is read first
PATIENCE = 20.0  # seconds that ffmpeg may take to say what a file says of itself
_held: dict[Path, int] = {}  # files that this process has claimed -> their open handles
_claims = threading.RLock()  # of its threads, one at a time changes what is held
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)  # no names of files on Windows


# -- patterns
def ending_of(settings: Settings, clip: str = ".mp4") -> str:
    """What a result's name ends in: one frame is a picture, more are as `clip` says."""
    return ".png" if settings.num_frames == 1 else clip


def file_name(pattern: str, settings: Settings, *, index: int = 1, when: datetime | None = None) -> str:
    """The name, without its ending, that `pattern` gives a result;
    "/" leads to folders inside the output folder.

    Fields: {prompt} {seed} {date} {time} {index} {model} {variant} {preset} {width} {height} {frames}
    {seconds}, with Python's formats ({index:03}, {prompt:.20}). Raises SettingsError("pattern", …) for
    unknown fields, for formats that do not fit, and for names that would leave the folder, be hidden or not
    work on every system.
    """
    when = when or datetime.now()
    s = settings
    values = {
        "prompt": _words(s.prompt) or "video",
        "seed": "random" if s.seed is None else s.seed,
        "date": f"{when:%Y-%m-%d}",
        "time": f"{when:%H-%M-%S}",
        "index": index,
        "model": _words(Path(s.model).name) or "model",
        "variant": s.variant,
        "preset": _words(s.preset or "none"),
        "width": s.width,
        "height": s.height,
        "frames": s.num_frames,
        "seconds": s.seconds,
    }
    name = "".join(_filled(pattern, values))
    for part in name.split("/"):
        _check_part(pattern, part)
    return name


def check_pattern(pattern: str) -> str:
    """The pattern, if a name can be made by it: see `file_name` for what is raised."""
    file_name(pattern, Settings(prompt="a red ball moves to the right", seed=0))
    return pattern


def _filled(pattern: str, values: dict[str, Any]) -> Iterator[str]:
    try:
        pieces = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise _refused(pattern, f"{error}; write {{{{ for a brace") from None
    for text, field, form, conversion in pieces:
        yield text
        if field is None:
            continue
        form = form or ""
        if field not in values:
            raise _refused(
                pattern, f"there is no {{{field}}}; use {', '.join(f'{{{name}}}' for name in values)}"
            )
        try:
            if conversion:
                raise ValueError(f"!{conversion} is not used")
            if any(int(digits) > MAX_WIDTH for digits in re.findall(r"\d+", form)):
                raise ValueError(f"a width or precision is at most {MAX_WIDTH}")
            yield format(values[field], form)
        except ValueError as error:
            raise _refused(pattern, f"{{{field}:{form}}} does not work: {error}") from None


def _check_part(pattern: str, part: str) -> None:
    """One folder or file name of a filled pattern."""
    if not part.strip():
        raise _refused(
            pattern,
            "a name in it is empty; it is for a place inside the output folder, as in {date}/{prompt}-{seed}",
        )
    if part.startswith(".") or part.endswith((".", " ")) or part != part.strip():
        raise _refused(
            pattern, f"{part!r} begins or ends with a dot or a space: names must be visible and stay inside"
        )
    if bad := sorted({sign for sign in part if sign in '<>:"\\|?*' or ord(sign) < 32 or ord(sign) == 127}):
        raise _refused(pattern, f"{' '.join(map(repr, bad))} cannot be in a file's name on every system")
    if RESERVED.fullmatch(part.split(".")[0]):
        raise _refused(pattern, f"{part!r} is the name of a device on Windows")
    if len(part.encode()) > MAX_NAME:
        raise _refused(
            pattern,
            f"the name has {len(part.encode())} bytes, more than {MAX_NAME}: "
            "shorten it, as {prompt:.20} does",
        )


def _refused(pattern: str, why: str) -> SettingsError:
    return SettingsError("pattern", f"pattern {pattern!r}: {why}")


def _words(text: str) -> str:
    """Text as a piece of a name: words joined by dashes, at most MAX_WORDS characters and twice as many
    bytes.
    """
    text = re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:MAX_WORDS]
    return text.encode()[: 2 * MAX_WORDS].decode(errors="ignore").strip("-")


# -- names
def unique_path(path: str | Path) -> Path:
    """`path`, or the first of `name-2.mp4`, `name-3.mp4`, … that is free. Writers look again at the end."""
    return next(name for name in _names(Path(path)) if not _taken(name) and not _part_of(name).exists())


def beside(source: Path, ending: str) -> Path:
    """The name of what is made of `source`: its own with another ending ("-loop.mp4"), cut where that is too
    long for a file system.
    """
    return source.with_name(_cut(source.stem, LONGEST - ROOM - len(ending)) + ending)


def sidecar_of(path: Path) -> Path:
    """Where the metadata of a file lie when they lie beside it."""
    return path.with_name(f"{path.name}.json")


def reserve(path: Path) -> tuple[Path, Path]:
    """A temporary file of our own beside the first free name, and that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    for name in _names(path):
        try:
            if not _taken(name):
                _part_of(name).touch(exist_ok=False)
                if hold(_part_of(name)):
                    return _part_of(name), name
        except FileExistsError:  # another writer's
            continue
    raise AssertionError("the names do not end")


def publish(part: Path, path: Path) -> Path:
    """Give `part` its final name, or the next free one; a name that is taken is never replaced.

    Its content reaches the disk first: a power cut leaves no empty file under that name.
    """
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    for name in _names(path):
        if _taken(name):
            continue
        try:
            os.link(part, name)  # fails when the name is taken meanwhile, as a rename would not
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise
            try:  # a file system without links: take the name, then fill it
                name.touch(exist_ok=False)
            except FileExistsError:
                continue
            os.replace(part, name)
            return name
        os.unlink(part)
        return name
    raise AssertionError("the names do not end")


def videos_in(folder: Path) -> list[Path]:
    """The videos of a folder, by name, without hidden ones. ValueError where there is none."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [path for path in paths if path.suffix.lower() in VIDEOS and not path.name.startswith(".")]
    if not found:
        raise ValueError(f"{folder} has no videos: {', '.join(VIDEOS)} are looked for")
    return found


def result_of(run: str, beginning: Path) -> tuple[Path, dict[str, Any]] | None:
    """The file that was published of a run, its name beginning as given, and its metadata; None without any.

    Found by the mark `run` in its metadata: the name may have become the next free one.
    """
    for file in sorted(beginning.parent.glob(f"{escape(beginning.name)}*")):
        try:
            metadata = read_metadata(file)
        except ValueError:  # somebody else's
            continue
        if metadata.get("run") == run and file.suffix != ".json":
            return file, metadata
    return None


def sweep(folder: Path) -> None:
    """Delete the temporary files of processes that were killed: nobody holds those."""
    for path in folder.glob(".*.part*.*") if fcntl else ():
        part = path.with_name(path.name.replace(".part-tagged.", ".part."))  # who holds the one holds both
        with _claims:  # between the last unlink and `let_go`, another thread may not make the name its own
            if path.is_file() and hold(part):
                # Once each: the next file of that name is another writer's.
                for name in dict.fromkeys((path, part)):
                    name.unlink(missing_ok=True)
                let_go(part)


def hold(path: Path) -> bool:
    """Claim a file for this process, until `let_go`, or until the process or the file is gone.
    False when another, or this one already, has it. The system gives it back however a process ends; where it
    has no such locks (Windows, some network drives) every claim succeeds.
    """
    with _claims:
        for gone in [held for held, handle in _held.items() if not _is_of(handle, held)]:
            let_go(gone)  # deleted, or deleted and made anew
        if path in _held:
            return False
        if not fcntl:
            path.touch()
            return True  # without an open file: it could be neither renamed nor deleted
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_of(handle, path):
                raise BlockingIOError  # swept away between opening and locking
        except BlockingIOError:
            os.close(handle)
            return False
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(handle)
                raise
        _held[path] = handle
        return True


def _is_of(handle: int, path: Path) -> bool:
    """Whether an open handle is of the file that now has this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def let_go(path: Path) -> None:
    """The opposite of `hold`; nothing happens where it is not held."""
    with _claims:
        if (handle := _held.pop(path, None)) is not None:
            os.close(handle)


def _names(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        ending = f"-{number}{path.suffix}"
        yield path.with_name(_cut(path.stem, LONGEST - len(os.fsencode(ending))) + ending)


def _taken(path: Path) -> bool:
    return path.exists() or os.path.exists(sidecar_of(path))  # no error where that name would be too long


def _part_of(path: Path) -> Path:
    """The hidden file that becomes `path`, with room in its name for "-tagged"."""
    stem, ending = path.stem, f".part{path.suffix}"
    most = LONGEST - len(os.fsencode(f".-tagged{ending}"))
    if len(os.fsencode(stem)) > most:  # another name that begins so has another one
        number = f"-{zlib.crc32(os.fsencode(stem)):08x}"
        stem = _cut(stem, most - len(number)) + number
    return path.with_name(f".{stem}{ending}")


def _cut(stem: str, most: int) -> str:
    """The beginning of a name, of at most so many bytes, without half a character at its end."""
    name = os.fsencode(stem)
    return stem if len(name) <= most else name[:most].decode(errors="ignore")


# -- ffmpeg
def ffmpeg() -> str:
    """The ffmpeg that came with imageio-ffmpeg, or the one that IMAGEIO_FFMPEG_EXE names."""
    import imageio_ffmpeg  # here, for a page and a command line that open at once

    check_ffmpeg()
    return imageio_ffmpeg.get_ffmpeg_exe()


def check_ffmpeg() -> None:
    """ValueError where IMAGEIO_FFMPEG_EXE names no program, before what it would have to write is made."""
    named = os.environ.get("IMAGEIO_FFMPEG_EXE")
    if named and shutil.which(named) is None:
        raise ValueError(
            f"IMAGEIO_FFMPEG_EXE = {named!r}: no program is there; name ffmpeg's path, or unset it"
        )


def words_of(said: str) -> str:
    """What ffmpeg said, without the addresses of its parts ("[mov @ 0x55d0…]"), for people."""
    lines = (re.sub(r"\[[^\]]*@ 0x[0-9a-fA-F]+\]\s*", "", line).strip() for line in said.splitlines())
    return "\n".join(line for line in lines if line)


@contextmanager
def no_interrupts():
    """Children started here never get Ctrl-C, which a terminal sends to all: the file must outlive it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def filtering(command: list[str], said: Any = subprocess.PIPE) -> Iterator[Any]:
    """A program at work, bytes in and bytes out; `said` gets what it says. Killed behind the `with`."""
    with no_interrupts():
        process: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            with suppress(OSError):  # of what it did not take
                stream.close()


# -- metadata
def describe(settings: Settings, model: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What is kept with a result: the settings with the seed that was used, the model, and `more`."""
    return {"program": PROGRAM, "settings": told(settings), "model": model, **more}


def told(settings: Settings) -> dict[str, Any]:
    """Settings as a result that may be shown to others holds them: what lies in one's own home folder has
    `~` in its place, which whatever reads them knows.
    """
    home = os.path.join(os.path.expanduser("~"), "")
    values = settings.to_dict()
    if len(home) > 1:  # else the program has none
        for name, begin in (("model", "^"), ("image", "^"), ("video", "^"), ("lora", r"^|(?<=,)\s*")):
            own = re.compile(f"({begin}){re.escape(home)}")
            values[name] = values[name] and own.sub(lambda found: f"{found[1]}~{os.sep}", values[name])
    return values


def of_file(name: str, words: str) -> str:
    """What is to be said of a file, with its name where that is not in it."""
    return words if name in words else f"{name}: {words}"


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What was embedded in a result, or lies beside it; of a .json, what is in it.

    Raises ValueError: no such file, or nothing of this program in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file")
    for text in (_text_in(path), _text_of(sidecar_of(path))):
        try:
            found = json.loads(text or "", parse_constant=_no_number)
        except (ValueError, RecursionError):
            continue  # somebody else's comment, or none
        ours = isinstance(found, dict) and found.get("program") == PROGRAM
        if ours and isinstance(found.get("settings"), dict):
            return found
    raise ValueError(f"{str(path)!r} holds no settings of this program")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is none of JSON's numbers, and in no file of ours")


def _text_in(path: Path) -> str | bytes | None:
    """The text that a file of any of our kinds carries."""
    if path.suffix.lower() == ".json":
        return _text_of(path)
    if path.suffix.lower() == ".zip":
        try:
            return _member_of(path)
        except RuntimeError:
            raise ValueError(f"{path.name} is encrypted: unpack it, and give what is in it") from None
        except (BadZipFile, OSError, KeyError):
            return None
    try:
        check_parts(path, path.name)
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=readable()) as image:
            comment = image.info.get("comment")
            return comment if isinstance(comment, str | bytes) else None
    except (*OF_READERS, Image.DecompressionBombError):  # not a picture
        return _container_comment(path)


def readable() -> list[str]:
    """Those of PICTURES that this Pillow can read; HEIF is an extra."""
    Image.init()
    return [name for name in PICTURES if name in Image.OPEN]


def _member_of(path: Path) -> bytes | None:
    """What a zip says of itself, if that and the list of its files are small."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 66_000), os.SEEK_END)  # its end has its size and a comment
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    directory = int.from_bytes(end[at + 12 : at + 16], "little")
    if at < 0 or b"PK\x06\x07" in end or directory > MAX_DIRECTORY:  # 06 07: it is a zip of billions
        return None
    with ZipFile(path) as file:
        member = file.getinfo(MEMBER)
        usual = member.compress_type in (ZIP_STORED, ZIP_DEFLATED)
        # What its header says is all that is unpacked of a member, whatever it holds.
        return file.read(member) if usual and member.file_size <= MAX_METADATA else None


def _text_of(path: Path) -> str | None:
    try:
        small = path.is_file() and path.stat().st_size <= MAX_METADATA
        return path.read_text(encoding="utf-8-sig") if small else None
    except (OSError, UnicodeDecodeError):
        return None


def _container_comment(path: Path) -> str | None:
    try:
        command = [ffmpeg(), "-v", "error", "-nostdin", *this_file(path), "-f", "ffmetadata", "-"]
    except ValueError:  # not a video
        return None
    with TemporaryFile() as said:  # a title, or chapters, may have any length
        try:
            subprocess.run(command, stdout=said, stderr=subprocess.DEVNULL, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return None
        said.seek(0)
        text = said.read(MAX_METADATA).decode("utf-8", errors="replace")
    found = re.search(r"^comment=((?:[^\\\n]|\\.)*)", text, re.MULTILINE | re.IGNORECASE)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None


class Unfit(OSError):
    """A container cannot hold what was to be copied into it."""


def tag(
    source: Path,
    target: Path,
    metadata: dict[str, Any] | None,
    *,
    sound: Sound | None = None,
    every: bool = False,
) -> None:
    """Copy the pictures of a video as they are, its index in front for browsers, with `metadata` as its only
    comment (None: without), and with `sound`, of this video or another.

    `every`: all tracks of its pictures and its own sound. Raises Unfit where the container cannot hold that.
    """
    source.stat()  # OSError where it is gone, as with the folder that it was in
    if target.suffix.lower() == ".gif":
        target.write_bytes(_gif_with(source.read_bytes(), metadata))
        return
    comment = (
        "" if metadata is None else re.sub(r"([=;#\\\n])", r"\\\1", json.dumps(metadata, allow_nan=False))
    )
    command = _copying(source, target, sound, every)
    with no_interrupts():
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    _, words = process.communicate(f";FFMETADATA1\n{f'comment={comment}' if comment else ''}\n".encode())
    if process.returncode:
        raise Unfit(f"the settings could not be embedded: {words_of(words.decode(errors='replace'))}")


def _copying(source: Path, target: Path, sound: Sound | None, every: bool) -> list[str]:
    """The command of `tag`, which reads the metadata, too."""
    front = ["-cues_to_front", "1"] if target.suffix.lower() == ".webm" else ["-movflags", "+faststart"]
    return [
        ffmpeg(),
        "-v",
        "error",
        "-y",
        *this_file(source),
        "-f",
        "ffmetadata",
        "-i",
        "-",
        *(sound.source() if sound else []),
        "-map",  # a camera's data tracks have no place in every container
        "0:v" if every else "0:v:0",
        *(["-map", "0:a?"] if every else []),
        *(["-map", f"2:a:{sound.track}"] if sound else []),
        "-map_metadata",
        "1",
        "-c",
        "copy",
        *(sound.encoding(target.suffix.lower()) if sound else []),
        *front,
        str(target.absolute()),
    ]


def _gif_with(data: bytes, metadata: dict[str, Any] | None) -> bytes:
    """A GIF with `metadata` as its comment, before its first picture:
    ffmpeg writes none, Pillow re-colors.
    """
    if metadata is None:
        return data
    flags = data[10]
    head = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0)  # header, screen, its colors
    text = json.dumps(metadata, allow_nan=False).encode()
    blocks = b"".join(bytes([len(text[i : i + 255])]) + text[i : i + 255] for i in range(0, len(text), 255))
    return data[:head] + b"!\xfe" + blocks + b"\0" + data[head:]


def write_sidecar(path: Path, metadata: dict[str, Any]) -> Path:
    """`metadata` as a .json beside the result `path`. Returns the path used."""
    part, name = reserve(sidecar_of(path))
    try:
        part.write_text(
            json.dumps(metadata | {"file": path.name}, indent=2, allow_nan=False), encoding="utf-8"
        )
        return publish(part, name)
    finally:
        part.unlink(missing_ok=True)
