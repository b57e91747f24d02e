"""Colors that a picture's file tells by numbers in place of a profile: HDR, and wide gamuts.

    told = told_colors(Path("photo.avif"))     # Told(primaries=9, transfer=16); None where it is as sRGB
    strip = as_srgb(strip, told)               # RGB of 8 bits, in sRGB

The numbers are those of ITU-T H.273 ("CICP"). AVIF and HEIC have them in a box (`colr`, ISO 14496-12), PNG
in a chunk (`cICP`). Pillow decodes such pictures to 8 bits, and leaves the colors as they are.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from pyramid.media.parts import boxes_of, chunks_of

PQ, HLG = 16, 18  # transfers of HDR
WHITE = 203.0  # nits of diffuse white, ITU-R BT.2408; what is brighter is clipped
PEAK = 1000.0  # nits of HLG's brightest, ITU-R BT.2100
GAMMA = 2.4  # of a screen that shows BT.709, ITU-R BT.1886: so HDR becomes SDR in videos, too
BT2020 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
P3 = ((1.2249, -0.2249, 0.0), (-0.0421, 1.0421, 0.0), (-0.0196, -0.0786, 1.0983))
GAMUTS = {9: BT2020, 11: P3, 12: P3}  # primaries -> from their linear light to that of sRGB's
MOST_BOXES = 262_144  # bytes at the front of a file in which its boxes are looked for
PIECE = 262_144  # pixels that are converted at once


class Told(NamedTuple):
    """Numbers of ITU-T H.273; 2 is "not said"."""

    primaries: int
    transfer: int


def told_colors(source: Path | io.BytesIO) -> Told | None:
    """What an AVIF, HEIC or PNG says of its colors; None where it says nothing, or they need no conversion.

    The file has passed `pyramid.media.parts.check_parts`, which bounds its chunks.
    """
    if isinstance(source, io.BytesIO):
        source.seek(0)
        told = _told(source)
        source.seek(0)
    else:
        with source.open("rb") as file:
            told = _told(file)
    if told is None or (told.transfer not in (PQ, HLG) and told.primaries not in GAMUTS):
        return None
    return told


def _told(file: IO[bytes]) -> Told | None:
    head = file.read(12)
    try:
        if head.startswith(b"\x89PNG"):
            return _in_chunks(file)
        if head[4:8] == b"ftyp":
            return _in_boxes(head + file.read(MOST_BOXES))
    except (struct.error, KeyError, IndexError):
        pass  # it ends early, or has no such box
    return None


def _in_chunks(file: IO[bytes]) -> Told | None:
    """Of a PNG: the chunk lies before the pixels."""
    for kind, _ in chunks_of(file):
        if kind == b"cICP":
            return Told(*struct.unpack("BB", file.read(2)))
        if kind == b"IDAT":
            break
    return None


def _in_boxes(data: bytes) -> Told | None:
    """Of the primary picture of an AVIF or HEIC: others in it may have other colors, as a gain map has."""
    meta = dict(_boxes(dict(_boxes(data))[b"meta"][4:]))
    parts = dict(_boxes(meta[b"iprp"]))
    properties = list(_boxes(parts[b"ipco"]))
    primary = meta[b"pitm"]
    (item,) = struct.unpack_from(">I" if primary[0] else ">H", primary, 4)
    for number in _properties_of(item, parts[b"ipma"]):
        kind, content = properties[number - 1]
        if kind == b"colr" and content.startswith(b"nclx"):
            return Told(*struct.unpack_from(">HH", content, 4))
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each box with its kind and content."""
    file = io.BytesIO(data)
    for kind, size in boxes_of(file):
        yield kind, file.read(size)


def _properties_of(wanted: int, table: bytes) -> list[int]:
    """The numbers of an item's properties, from 1 on, by the table `ipma`."""
    name = ">I" if table[0] else ">H"
    size = 2 if table[3] & 1 else 1
    (count,) = struct.unpack_from(">I", table, 4)
    at = 8
    for _ in range(count):
        (item,) = struct.unpack_from(name, table, at)
        at += struct.calcsize(name)
        end = at + 1 + size * table[at]
        if item == wanted:
            numbers = (table[place : place + size] for place in range(at + 1, end, size))
            essential = 1 << (8 * size - 1)  # a flag beside the number
            return [int.from_bytes(number) & ~essential for number in numbers]
        at = end
    return []


def as_srgb(image: Image.Image, told: Told) -> Image.Image:
    """RGB of 8 bits in the colors that were told as RGB in sRGB. What lies outside is clipped."""
    values = np.asarray(image).reshape(-1, 3)
    made = np.empty_like(values)
    light = _light(told.transfer)
    shown = _shown(told.transfer)
    primaries = 9 if told.primaries == 2 and told.transfer in (PQ, HLG) else told.primaries
    gamut = (len(shown) - 1) * np.asarray(GAMUTS.get(primaries, np.eye(3)), np.float32).T
    for at in range(0, len(values), PIECE):
        linear = light[values[at : at + PIECE]] @ gamut  # (pixels, 3)
        made[at : at + PIECE] = shown[linear.clip(0, len(shown) - 1).astype(np.uint16)]
    return Image.fromarray(made.reshape(image.height, image.width, 3))


def _light(transfer: int) -> np.ndarray:
    """The linear light that a screen shows for each value of 8 bits, float32 (256,); 1 is white."""
    value = np.arange(256) / 255
    if transfer == PQ:  # SMPTE ST 2084
        root = value ** (32 / 2523)
        light = 10_000 / WHITE * ((root - 0.8359375).clip(0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
    elif transfer == HLG:  # ITU-R BT.2100, its OOTF taken for each color by itself, as ffmpeg does for videos
        bright = (np.exp((value - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = PEAK / WHITE * np.where(value <= 0.5, value**2 / 3, bright) ** 1.2
    else:
        light = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def _shown(transfer: int) -> np.ndarray:
    """The value of 8 bits for each of 65536 steps of linear light from black to white. Grays of SDR stay as
    they are.
    """
    light = np.arange(65536) / 65535
    if transfer in (PQ, HLG):
        value = light ** (1 / GAMMA)
    else:
        value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (value * 255).round().astype(np.uint8)
