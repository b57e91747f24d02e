"""One thing to train on, whatever list it stands in, and where its bytes come from.

    with sample.source.path() as path:             # a file of its own, also for a member of an archive
        frames = read_frames(path)

Lists and archives are of strangers: a name never leads out of the root, a member of an archive is unpacked to
a temporary file up to a bound and never under its own name, and links are not followed.
"""

import hashlib
import io
import lzma
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

VIDEOS = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".flv", ".ogv"}
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MOST_BYTES = 2 * 2**30  # of a member of an archive: a clip of minutes is far below
MOST_PACKED = 200  # bytes out for one in: a compressed video does not shrink
MOST_CAPTION = 2**20  # characters; what is longer is no caption
COPY = 2**20  # bytes at a time
PACKED = (  # what a damaged, encrypted or unknown archive raises
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    UnicodeError,
    EOFError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    OSError,
)


class BrokenItem(ValueError):
    """An item that cannot be trained on: `reason` in a word or two, the message for people."""

    def __init__(self, reason: str, message: str = ""):
        self.reason = reason
        super().__init__(message or reason)


@dataclass(frozen=True, slots=True)
class Broken:
    """A line of a list that gives no sample, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on the disk."""

    file: Path

    @contextmanager
    def path(self) -> Iterator[Path]:
        """The file itself. Raises BrokenItem where it is missing or empty."""
        if not self.file.is_file():
            raise BrokenItem("missing", f"{self.file} is not there")
        if not self.file.stat().st_size:
            raise BrokenItem("empty", f"{self.file} has no bytes")
        yield self.file

    def state(self) -> tuple:
        """What changes with its bytes."""
        return _states(self.file)

    def files(self) -> tuple[Path, ...]:
        """Where they lie."""
        return (self.file,)

    def named(self, root: Path) -> dict[str, Any]:
        """How a list of ours says where it is."""
        return {"path": short(self.file, root)}


@dataclass(frozen=True, slots=True)
class ZipSource:
    """A member of a zip, which may be split into several files."""

    parts: tuple[Path, ...]
    member: str

    @contextmanager
    def path(self) -> Iterator[Path]:
        """A temporary file with its bytes. Raises BrokenItem."""
        with temporary(self.member) as file:
            try:
                with open_zip(self.parts) as archive, archive.open(checked(archive, self.member)) as stream:
                    fill(file, stream, self.member)
            except PACKED as error:
                raise BrokenItem("damaged archive", f"{self.parts[0].name}: {self.member}: {error}") from None
            yield Path(file.name)

    def state(self) -> tuple:
        """What changes with its bytes."""
        return self.member, *_states(*self.parts)

    def files(self) -> tuple[Path, ...]:
        """Where they lie."""
        return self.parts

    def named(self, root: Path) -> dict[str, Any]:
        """How a list of ours says where it is."""
        return {"path": self.member, "archive": [short(part, root) for part in self.parts]}


@dataclass(frozen=True, slots=True)
class TarSource:
    """A regular file in an unpacked tar, by its place there."""

    archive: Path
    member: str
    offset: int
    size: int

    @contextmanager
    def path(self) -> Iterator[Path]:
        """A temporary file with its bytes. Raises BrokenItem."""
        if not self.size:
            raise BrokenItem("empty", f"{self.member} has no bytes")
        with temporary(self.member) as file:
            try:
                with self.archive.open("rb") as archive:
                    archive.seek(self.offset)
                    fill(file, Slice(archive, self.size), self.member, self.size)
            except OSError as error:
                raise BrokenItem("missing", f"{self.archive.name}: {error.strerror or error}") from None
            yield Path(file.name)

    def state(self) -> tuple:
        """What changes with its bytes."""
        return self.offset, self.size, *_states(self.archive)

    def files(self) -> tuple[Path, ...]:
        """Where they lie."""
        return (self.archive,)

    def named(self, root: Path) -> dict[str, Any]:
        """How a list of ours says where it is."""
        where = {"archive": [short(self.archive, root)], "offset": self.offset, "size": self.size}
        return {"path": self.member, **where}


@dataclass(frozen=True, slots=True)
class BytesSource:
    """Bytes that a data set holds itself."""

    data: bytes = field(repr=False)
    member: str

    @contextmanager
    def path(self) -> Iterator[Path]:
        """A temporary file with them."""
        if not self.data:
            raise BrokenItem("empty", f"{self.member} has no bytes")
        with temporary(self.member) as file:
            fill(file, io.BytesIO(self.data), self.member)
            yield Path(file.name)

    def state(self) -> tuple:
        """What changes with its bytes."""
        return (hashlib.sha256(self.data).hexdigest(),)

    def files(self) -> tuple[Path, ...]:
        """In none that a list of ours could name."""
        return ()

    def named(self, root: Path) -> dict[str, Any]:
        """A list cannot say where they are."""
        raise ValueError(f"{self.member} lies inside a data set, which a list of files cannot refer to")


Source = FileSource | ZipSource | TarSource | BytesSource


@dataclass(frozen=True, slots=True)
class Sample:
    """A clip or a picture with its captions.

    `start` and `end` (exclusive) bound the part to use, in frames of the file; `frames` are the very frames
    to use, where a list gives them. `crop` is (left, right, top, bottom) in pixels. `fps` and `size` (width,
    height) are what the list says, which the file may contradict. `latent` and `text_features` are files of
    the reference's, made before.
    """

    name: str
    source: Source
    kind: str  # "video" or "image"
    captions: tuple[str, ...] = ()
    start: int = 0
    end: int | None = None
    frames: tuple[int, ...] | None = None
    crop: tuple[int, int, int, int] | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    latent: Path | None = None
    text_features: Path | None = None


# -- what tells samples apart
def digest_of(name: str, item: Sample | Broken) -> str:
    """Of all that is read of an item: another one once its file, its part or its captions are others.

    No file is opened, and where the folder lies does not matter. `name`: the item's, told apart.
    """
    facts: tuple
    if isinstance(item, Broken):
        facts = (item.reason,)
    else:
        part = (item.kind, item.start, item.end, item.frames, item.crop)
        clip = (*part, item.source.state()) if item.latent is None else _states(item.latent)
        facts = (clip, item.captions if item.text_features is None else _states(item.text_features))
    return hashlib.sha256(ascii((name, facts)).encode()).hexdigest()[:16]


def _states(*files: Path) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of change of files; None for one that is not there."""
    states: list[tuple[int, int] | None] = []
    for file in files:
        try:
            stat = file.stat()
        except (OSError, ValueError):
            states.append(None)
        else:
            states.append((stat.st_size, stat.st_mtime_ns))
    return tuple(states)


# -- names
def kind_of(name: str) -> str | None:
    """Whether a name is that of a video or of an image; None for anything else."""
    suffix = Path(name).suffix.lower()
    if suffix in VIDEOS:
        return "video"
    return "image" if suffix in PICTURES else None


def inside(root: Path, name: str) -> Path:
    """The file `name` of a list, under `root`. BrokenItem when it leads out of it, also by a link."""
    if "\0" in name or "://" in name:
        raise BrokenItem("outside the root", f"{name!r} is no path of a file")
    path = root / name
    try:
        home = _real(os.path.abspath(root))
        place = os.path.realpath(path)
        within = home in (place, os.sep) or place.startswith(home + os.sep)
    except UnicodeError as error:  # half of a character
        raise BrokenItem("unreadable", f"{name!r}: {error}") from None
    if not within:
        raise BrokenItem("outside the root", f"{name!r} lies outside {root}: name a folder above it")
    return path


@lru_cache(maxsize=64)
def _real(root: str) -> str:
    """Where a root is, behind its links: asked for each of millions of lines."""
    return os.path.realpath(root)


def captions_of(given: Any) -> tuple[str, ...]:
    """The captions among what a list has in their place: a text, a list of texts, or nothing."""
    texts = given if isinstance(given, list) else [given]
    short = [text for text in texts if isinstance(text, str) and len(text) <= MOST_CAPTION]
    whole = (text.encode(errors="replace").decode().strip() for text in short)  # no halves of characters
    return tuple(text for text in whole if text)


def short(path: Path, root: Path) -> str:
    """A path as a list under `root` says it. ValueError where it lies elsewhere."""
    return str(Path(os.path.abspath(path)).relative_to(os.path.abspath(root)))


def root_of(samples: Iterable[Sample], root: Path) -> Path:
    """The folder that a list of samples can start from: `root` where all their files lie in it, else the
    deepest that has them all.
    """
    folders: set[str] = set()
    for sample in samples:
        files = (*sample.source.files(), sample.latent, sample.text_features)
        folders.update(os.path.dirname(os.path.abspath(file)) for file in files if file is not None)
    home = Path(os.path.abspath(root))
    if all(Path(folder).is_relative_to(home) for folder in folders):
        return root
    return Path(os.path.commonpath(folders))


# -- archives
class Joined(io.RawIOBase):
    """Several files read as one: a zip that was split."""

    def __init__(self, parts: tuple[Path, ...]):
        self.files = [part.open("rb") for part in parts]
        self.ends: list[int] = []
        for part in parts:
            self.ends.append((self.ends[-1] if self.ends else 0) + part.stat().st_size)
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.ends[-1]}[whence]
        if start + offset < 0:
            raise OSError("a place before the beginning of the archive")
        self.at = start + offset
        return self.at

    def readinto(self, buffer) -> int:
        index = next((i for i, end in enumerate(self.ends) if self.at < end), None)
        if index is None:
            return 0
        begin = self.ends[index - 1] if index else 0
        self.files[index].seek(self.at - begin)
        data = self.files[index].read(min(len(buffer), self.ends[index] - self.at))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


class Slice(io.RawIOBase):
    """So many bytes of an open file, from where it stands."""

    def __init__(self, file, size: int):
        self.file = file
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self.file.read(min(len(buffer), self.left))
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)


@contextmanager
def open_zip(parts: tuple[Path, ...]) -> Iterator[zipfile.ZipFile]:
    """A zip of one file or of several. Raises zipfile.BadZipFile and OSError."""
    with Joined(parts) as joined, zipfile.ZipFile(io.BufferedReader(joined)) as archive:
        yield archive


def checked(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    """What an archive says of a member. BrokenItem where it is unpacked to more than a clip can be."""
    info = archive.getinfo(member)
    if info.file_size > MOST_BYTES or info.file_size > MOST_PACKED * max(info.compress_size, 1):
        raise BrokenItem("too large", f"{member} unpacks from {info.compress_size} to {info.file_size} bytes")
    return info


def temporary(name: str):
    """A temporary file, its name ending as `name` where that is a clip's or a picture's."""
    return tempfile.NamedTemporaryFile(suffix=Path(name).suffix.lower() if kind_of(name) else "")


def fill(file, stream, name: str, size: int | None = None) -> None:
    """Copy a stream into a file. BrokenItem beyond MOST_BYTES, and "truncated" where `size` bytes were
    promised and fewer came.
    """
    total = 0
    while data := stream.read(COPY):
        total += len(data)
        if total > MOST_BYTES:
            raise BrokenItem("too large", f"{name} has more than {MOST_BYTES} bytes")
        file.write(data)
    if size is not None and total < size:
        raise BrokenItem("truncated", f"{name} ends after {total} of {size} bytes")
    file.flush()
