"""Which container a video is in, told by its content: those that hold their pictures themselves,
and no others.

    command = [ffmpeg(), *this_file(path), …]           # opens that file, and nothing that it refers to

ffmpeg reads dozens of formats that are lists of other files (m3u8, concat, SDP, DASH, name patterns). Left to
guess, it would open whatever a stranger's file names. So it is told the format, and may open plain files
only.
"""

import itertools
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pyramid.disk import check_file
from pyramid.media.parts import boxes_of, chunks_of

BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
PNG = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 1000  # of a PNG, which are looked at; boxes of an mp4
MOST_MOVIE = 4_000_000  # bytes of what an mp4 says of its tracks
ENCRYPTED = (b"encv", b"sinf", b"schm")  # what is in there where the pictures are
CONTAINERS = {  # ffmpeg's demuxer -> whether a file's first bytes are of that container
    "mov": lambda head: head[4:8] in BOXES,
    "matroska": lambda head: head.startswith(b"\x1a\x45\xdf\xa3"),
    "avi": lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:11] == b"AVI",
    "gif": lambda head: head.startswith((b"GIF87a", b"GIF89a")),
    "apng": lambda head: head.startswith(PNG) and b"acTL" in head,
    "mpeg": lambda head: head.startswith(b"\x00\x00\x01\xba"),
    "mpegvideo": lambda head: head.startswith(b"\x00\x00\x01\xb3"),
    "mpegts": lambda head: any(
        head[at : at + 1] == head[at + 188 : at + 189] == b"\x47"
        or head[at : at + 1] == head[at + 192 : at + 193] == b"\x47"
        for at in (0, 4)
    ),
    "flv": lambda head: head.startswith(b"FLV\x01"),
    "ogg": lambda head: head.startswith(b"OggS"),
    "asf": lambda head: head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    "ivf": lambda head: head.startswith(b"DKIF"),
    "yuv4mpegpipe": lambda head: head.startswith(b"YUV4MPEG2 "),
    "mxf": lambda head: head.startswith(b"\x06\x0e\x2b\x34"),
    "dv": lambda head: head.startswith((b"\x1f\x07\x00\x3f", b"\x1f\x07\x00\xbf")),
}


def container_of(path: Path) -> str:
    """ffmpeg's name of the container of a file, told by its content alone.

    Raises ValueError for what is none of the containers that hold their pictures themselves.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            head = file.read(400)
            if head.startswith(PNG):
                head = PNG + _chunks(file)
            movie = _movie(file) if CONTAINERS["mov"](head) else b""
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror or error}") from None
    if all(name in movie for name in ENCRYPTED):  # ffmpeg would decode it to noise
        raise ValueError(f"{path.name} is encrypted: save it from a program that plays it")
    for demuxer, holds in CONTAINERS.items():
        if holds(head):
            return demuxer
    if re.match(rb"\s*(#EXTM3U|ffconcat|<\?xml|<MPD|v=0|\[playlist\])", head, re.IGNORECASE):
        raise ValueError(
            f"{path.name} is a list that refers to other files, which are not opened: give the video"
        )
    raise ValueError(
        f"{str(path)!r} is not a video this program can read: mp4, mov, webm, mkv, avi, gif, mpg, ts, "
        "flv, ogv, wmv and mxf are (a picture is given as image)"
    )


def _chunks(file: BinaryIO) -> bytes:
    """The names of a PNG's chunks in front of its pixels, where an animated one has acTL, maybe behind a long
    profile.
    """
    names: list[bytes] = []
    with suppress(struct.error):  # it ends early
        for name, _ in itertools.islice(chunks_of(file), MOST_CHUNKS):
            if name == b"IDAT":
                break
            names.append(name)
    return b" ".join(names)


def _movie(file: BinaryIO) -> bytes:
    """What an mp4 says of its tracks (its box `moov`), or as much of that as is ever looked at."""
    for name, size in itertools.islice(boxes_of(file), MOST_CHUNKS):
        if name == b"moov":
            return file.read(MOST_MOVIE if size < 0 else min(size, MOST_MOVIE))
    return b""


def this_file(path: Path, *options: str) -> list[str]:
    """ffmpeg's arguments to read a file, with `options` of its decoder.
    Raises ValueError, see `container_of`.
    """
    return [
        "-protocol_whitelist",
        "file",
        "-f",
        container_of(path),
        *options,
        "-i",
        f"file:{path.absolute()}",
    ]
