"""Of what parts a picture's file is built: what would take Pillow long, or much memory, is found before.

    check_parts(file, "'photo.jpg'")          # TooLarge: so many parts, or such, as no program writes

Pillow bounds the pixels of a picture, by its header. But it walks over the parts of a file one by one, joins
comments to each other, reads each tag wherever it points to, and makes an object of each strip: of a few
megabytes it can be made to work for minutes, or to take gigabytes. Here a file is looked at up to where its
pixels begin, and refused once it is worse than any that a camera or a program makes.
"""

import io
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

MOST_PARTS = 5000  # chunks, segments, comments
LEAST_BYTES = 256  # of a chunk of a PNG, on average, where there are more
MOST_JUNK = 65_536  # bytes between parts that are none
MOST_HEAD = 4096  # bytes of the header of a PPM, comments in it
MOST_SLOW = 4_000_000  # bytes of what Pillow reads byte by byte: plain PPM, run lengths of a BMP
MOST_STRIPS = 100_000  # of a TIFF
MOST_TAGS = 1_000_000  # bytes of tags beside four times those of what they are in
MAX_BYTES = 500_000_000  # of memory while a picture is decoded
MAX_SCANS = 200_000_000  # of coefficients that a JPEG in many scans keeps beside
TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
OF_TYPE = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
ORIENTATION = 0x0112  # tag of how a picture is turned
WHOLE = {1: "B", 3: "H", 4: "I"}  # types of whole numbers
STRIPS = (273, 324)  # tags that list where strips or tiles are
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # segments of a JPEG that say its size
SCANS = (0xC2, 0xC6, 0xCA, 0xCE)  # those of one in many scans
BARE = (0x00, 0x01, *range(0xD0, 0xD9))  # segments without a length


class TooLarge(ValueError):
    """A picture that would take more memory or time than it may."""


def check_parts(source: Path | io.BytesIO, name: str) -> None:
    """Raises TooLarge for a file that would take Pillow long, or much memory. What is damaged in other ways,
    or no picture, is for Pillow to say; OSError where it cannot be opened.
    """
    if isinstance(source, io.BytesIO):
        _check(source, name)
        source.seek(0)
        return
    with source.open("rb") as file:
        _check(file, name)


def _check(file: IO[bytes], name: str) -> None:
    head = file.read(16)
    size = file.seek(0, io.SEEK_END)
    try:
        if head.startswith(b"\xff\xd8"):
            _jpeg(file, name)
        elif head.startswith(b"\x89PNG"):
            _png(file, name)
        elif head.startswith(b"GIF8"):
            _gif(file, name)
        elif TIFF.match(head):
            file.seek(0)
            _tags(file, size, name)
        elif head.startswith(b"\0\0\1\0"):
            _icon(file, name)
        elif re.match(rb"P[1-6f]\s", head):
            _ppm(file, name, size)
        elif head.startswith(b"BM"):
            file.seek(30)
            if file.read(4) in (b"\1\0\0\0", b"\2\0\0\0") and size > MOST_SLOW:
                raise _refused(name, f"{size / 1e6:.0f} MB of run lengths")
    except (struct.error, IndexError):
        return  # it ends early


def _refused(name: str, what: str) -> TooLarge:
    return TooLarge(f"{name} is built of {what}, which no camera writes: save it as PNG or JPEG")


def _unpack(form: str, file: IO[bytes]) -> tuple[int, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _jpeg(file: IO[bytes], name: str) -> None:
    """Up to the first scan. Where there are several of those, all of the picture is kept as coefficients, of
    two bytes each, however small it is decoded.
    """
    exif = b""
    frame = b""
    progressive = False
    for count, (kind, content) in enumerate(_segments(file, name)):
        if count > MOST_PARTS:
            raise _refused(name, f"more than {MOST_PARTS} segments")
        if kind == 0xE1 and content.startswith(b"Exif\0\0"):
            exif += content[6:]  # one after the other is one, to Pillow
        elif kind in FRAMES:
            frame = content
            progressive = kind in SCANS
        elif kind == 0xDA:
            if frame and (progressive or content[0] < frame[5]):
                _check_coefficients(frame, name)
            break
    if exif and not tags_are_bounded(exif):
        raise _refused(name, "tags that are in each other")


def _segments(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """A JPEG's segments, each with its kind; those without a length are empty."""
    file.seek(2)
    junk = 0
    while junk <= MOST_JUNK:
        before = file.read(1)
        if before != b"\xff":
            junk += 1
        else:
            while (sign := file.read(1)) == b"\xff" and junk <= MOST_JUNK:
                junk += 1
            if sign and sign[0] in BARE:
                yield sign[0], b""
            elif sign and sign != b"\xff":
                (length,) = _unpack(">H", file)
                yield sign[0], file.read(max(0, length - 2))
        if not before:
            return
    raise _refused(name, "bytes without a meaning")


def _check_coefficients(frame: bytes, name: str) -> None:
    """TooLarge where a JPEG of several scans takes too much memory; `frame`: what it says of its size."""
    height, width, colors = struct.unpack(">HHB", frame[1:6])
    factors = [divmod(frame[7 + 3 * color], 16) for color in range(colors)]
    most = max(across * down for across, down in factors) or 1
    size = 2 * width * height * sum(across * down for across, down in factors) // most
    if size > MAX_SCANS:
        raise TooLarge(
            f"{name} is a progressive JPEG of {width}×{height} pixels, {size / 1e6:.0f} MB of memory: at "
            f"most {MAX_SCANS / 1e6:.0f} MB are read; make it smaller, or save it as a baseline JPEG"
        )


def chunks_of(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The kind and length of each chunk of a PNG, the file then at its content. struct.error where it ends
    early.
    """
    at = 8
    while True:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        yield kind, length
        at += 12 + length


def boxes_of(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """The kind of each box of an mp4, an AVIF or a HEIC and the length of its content, -1 for all that is
    left; the file then at that. Up to where it ends, or a box says no size that one can have.
    """
    at = 0
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head)
        begin = 8
        if size == 1:  # it is told behind, in eight bytes
            size = int.from_bytes(file.read(8))
            begin = 16
        if size == 0:
            yield kind, -1
        if size < begin:
            return
        yield kind, size - begin
        at += size


def _png(file: IO[bytes], name: str) -> None:
    at = 8
    for count, (kind, length) in enumerate(chunks_of(file)):
        if count > MOST_PARTS and at < LEAST_BYTES * count:
            raise _refused(name, f"more than {MOST_PARTS} tiny chunks")
        if kind == b"eXIf" and not tags_are_bounded(file.read(length)):
            raise _refused(name, "tags that are in each other")
        at += 12 + length
        if kind == b"IEND":
            return


def _gif(file: IO[bytes], name: str) -> None:
    """Up to the first picture."""
    file.seek(10)
    flags = file.read(1)[0]
    file.seek(13 + (3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0))
    count = 0
    while count <= MOST_PARTS:
        count += 1
        sign = file.read(1)
        if sign in (b"", b",", b";"):
            return
        if sign == b"!":
            file.read(1)
            while count <= MOST_PARTS and (length := file.read(1)[0]):
                file.seek(length, io.SEEK_CUR)
                count += 1
    raise _refused(name, f"more than {MOST_PARTS} comments")


def _ppm(file: IO[bytes], name: str, size: int) -> None:
    file.seek(0)
    head = file.read(MOST_HEAD)
    if head[:2] in (b"P1", b"P2", b"P3") and size > MOST_SLOW:
        raise _refused(name, f"{size / 1e6:.0f} MB of numbers in words")
    words = re.sub(rb"#[^\r\n]*(?:[\r\n]|$)", b" ", head).split(None, 4)
    if size > MOST_HEAD and len(words) < (4 if head[:2] in (b"P1", b"P4") else 5):
        raise _refused(name, "a header of thousands of bytes")


def _icon(file: IO[bytes], name: str) -> None:
    """The pictures in an icon say their own size, whatever the icon says of them."""
    file.seek(4)
    (count,) = _unpack("<H", file)
    entries = [struct.unpack("<8xII", entry) for entry in _pieces(file.read(16 * count), 16)]
    for _, at in entries:
        file.seek(at)
        head = file.read(24)
        if head.startswith(b"\x89PNG"):
            width, height = struct.unpack(">II", head[16:24])
        else:
            width, height = struct.unpack("<4xii", head[:12])
        if 8 * abs(width * height) > MAX_BYTES:
            raise TooLarge(f"{name} is an icon with a picture of {width}×{height} pixels: make it smaller")


def _pieces(data: bytes, size: int) -> Iterable[bytes]:
    return (data[at : at + size] for at in range(0, len(data) - size + 1, size))


def tags_are_bounded(exif: bytes) -> bool:
    """Whether the tags of an EXIF take no more memory than a few times its own. What is none is."""
    content = exif.removeprefix(b"Exif\0\0")
    try:
        if TIFF.match(content[:4]):
            _tags(io.BytesIO(content), len(content), "")
    except TooLarge:
        return False
    except struct.error:
        pass
    return True


def orientation_of(exif: bytes) -> int | None:
    """The orientation in an EXIF's first directory; None without one.

    Each entry is looked at by itself: one whose value lies beyond the end hides none behind it. Pillow ends
    there.
    """
    content = exif.removeprefix(b"Exif\0\0")
    if not TIFF.match(content[:4]):
        return None
    order = "<" if content.startswith(b"II") else ">"
    try:
        for tag, kind, number, value in _entries(io.BytesIO(content)):
            if tag == ORIENTATION and kind in WHOLE and number == 1:
                return int(struct.unpack_from(order + WHOLE[kind], value)[0])
    except struct.error:
        pass
    return None


def _tags(file: IO[bytes], size: int, name: str) -> None:
    """The first directory of a TIFF. Each tag's value is read by itself: all may point to the same bytes."""
    total = 0
    for tag, kind, number, _ in _entries(file):
        total += min(number * OF_TYPE.get(kind, 0), size)
        if tag in STRIPS and number > MOST_STRIPS and size > 4 * MOST_STRIPS:
            raise _refused(name, f"{number} strips")
    if total > 4 * size + MOST_TAGS:
        raise _refused(name, "tags that are in each other")


def _entries(file: IO[bytes]) -> Iterator[tuple[int, int, int, bytes]]:
    """The entries of a TIFF's first directory: tag, type, number of values, and the bytes that hold a small
    value itself and the place of a large one. struct.error where it ends early.
    """
    order = "<" if file.read(2) == b"II" else ">"
    big = _unpack(f"{order}H", file) == (43,)
    (at,) = _unpack(f"{order}4xQ" if big else f"{order}I", file)
    file.seek(at)
    (count,) = _unpack(f"{order}{'Q' if big else 'H'}", file)
    size = 20 if big else 12
    for entry in _pieces(file.read(size * min(count, MOST_JUNK)), size):
        yield *struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", entry), entry[12 if big else 8 :]
