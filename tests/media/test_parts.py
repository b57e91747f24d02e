"""Pictures that are built to take long, or much memory, are refused before Pillow reads them; no other is."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from pyramid.media import pictures
from pyramid.media.files import PICTURES, read_metadata, readable
from pyramid.media.parts import MOST_PARTS, TooLarge, check_parts
from pyramid.media.pictures import read_picture


def saved(kind, mode="RGB", size=(8, 8), **options):
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **options)
    return out.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks):
    whole = saved("PNG")
    return whole[:33] + b"".join(chunks) + whole[33:]


def jpeg(*segments):
    whole = saved("JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def gif(between):
    whole = saved("GIF", "P")
    head = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:head] + between + whole[head:]


def tags(count):
    """A directory of so many tags, all of which are the same 100 kB."""
    entries = b"".join(struct.pack("<HHII", 40000 + tag, 7, 100_000, 8) for tag in range(count))
    return (
        b"II*\0" + struct.pack("<I", 100_008) + bytes(100_000) + struct.pack("<H", count) + entries + bytes(4)
    )


def exif_of(data):
    parts = [data[at : at + 60_000] for at in range(0, len(data), 60_000)]
    return [b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts]


def strips(count):
    """A TIFF of one column, each row of which lies where it likes."""
    values = {256: 1, 257: count, 258: 8, 259: 1, 262: 1, 278: 1}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()]
    entries += [struct.pack("<HHII", tag, 4, count, 8) for tag in (273, 279)]
    body = bytes(4 * count)
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return (
        head + body + struct.pack("<H", 8) + b"".join(sorted(entries, key=lambda e: e[:2][::-1])) + bytes(4)
    )


def icon(side):
    inside = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0))
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inside), 22) + inside


def in_scans(side, progressive=True):
    """A JPEG's header of a size that its pixels are not."""
    whole = bytearray(saved("JPEG", progressive=progressive, subsampling=0))
    at = whole.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    whole[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(whole)


HARMFUL = {
    "chunks of nothing": lambda: png(*[chunk(b"teXt", b"")] * 2 * MOST_PARTS),
    "tags of a PNG": lambda: png(chunk(b"eXIf", tags(50))),
    "segments of nothing": lambda: jpeg(b"\xff\xe5\0\2" * 2 * MOST_PARTS),
    "padding of a JPEG": lambda: jpeg(b"\xff" * 100_000),
    "junk in a JPEG": lambda: jpeg(b"x" * 100_000),
    "tags of a JPEG, in several segments": lambda: jpeg(*exif_of(tags(50))),
    "scans of a JPEG": lambda: in_scans(11_000),
    "comments": lambda: gif(b"!\xfe\1a\0" * 2 * MOST_PARTS),
    "one comment in pieces": lambda: gif(b"!\xfe" + b"\1a" * 2 * MOST_PARTS + b"\0"),
    "a comment before the sizes": lambda: b"P6\n#" + b"a" * 10_000 + b"\n8 8 255\n" + bytes(192),
    "numbers in words": lambda: b"P3 2000 1000 255\n" + b"1 " * 2_100_000,
    "tags of a TIFF": lambda: tags(50),
    "strips": lambda: strips(200_000),
    "an icon of another size": lambda: icon(10_000),
    "run lengths of a BMP": lambda: b"BM" + bytes(28) + b"\1\0\0\0" + bytes(5_000_000),
}


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_file_that_is_built_to_cost_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(HARMFUL[kind]())
    began = time.process_time()
    for source in (path, path.read_bytes()):
        with pytest.raises(TooLarge, match=r"save it as|make it smaller"):
            read_picture(source)
    with pytest.raises(ValueError, match="holds no settings"):
        read_metadata(path)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("kind", [name for name in PICTURES if name in readable()])
def test_what_programs_write_is_let_through(kind):
    mode = "P" if kind == "GIF" else "RGB"
    check_parts(io.BytesIO(saved(kind, mode, (300, 200))), "it")


@pytest.mark.parametrize(
    "options",
    [{"progressive": True}, {"exif": b"Exif\0\0" + tags(1)[:60_000]}, {"icc_profile": bytes(200_000)}],
    ids=lambda options: next(iter(options)),
)
def test_large_parts_of_a_camera_are_let_through(options):
    assert read_picture(saved("JPEG", size=(64, 48), **options)).size == (64, 48)
    check_parts(io.BytesIO(in_scans(4_000)), "a photograph of 16 million pixels")
    check_parts(io.BytesIO(in_scans(13_000, progressive=False)), "which is decoded smaller")


def test_tags_that_point_everywhere_are_not_read_and_nothing_else_is_lost():
    """WebP has no parts of its own to look at: its tags are, before they are read."""
    whole = saved("WEBP", exif=b"Exif\0\0" + tags(50))
    assert read_picture(whole).size == (8, 8)


# -- what a picture holds


def test_float_pictures_with_values_that_are_no_numbers():
    values = np.linspace(0, 1, 600 * 64, dtype=np.float32).reshape(600, 64)
    plain = np.asarray(read_picture(tiff_of(values)))
    values[0, 0], values[599, 63], values[300, :2] = np.nan, np.inf, -np.inf
    odd = np.array(read_picture(tiff_of(values)))
    assert odd[0, 0, 0] == odd[300, 0, 0] == 0 and odd[599, 63, 0] == 255
    odd[300, :2] = plain[300, :2]
    assert np.array_equal(odd, plain)


def tiff_of(values):
    out = io.BytesIO()
    Image.fromarray(values).save(out, "TIFF")
    return out.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "CMYK"])
def test_a_tall_picture_is_read_in_strips_as_a_low_one_is(mode):
    made = np.random.default_rng(0).integers(0, 256, (700, 16, 4), np.uint8)
    tall = Image.fromarray(made, "RGBA").convert(mode)
    out = io.BytesIO()
    tall.save(out, "TIFF")
    read = np.asarray(read_picture(out.getvalue()))
    for top in (0, 250, 690):
        out = io.BytesIO()
        tall.crop((0, top, 16, top + 10)).save(out, "TIFF")
        assert np.array_equal(np.asarray(read_picture(out.getvalue())), read[top : top + 10])


@pytest.mark.parametrize(
    ("kind", "mode", "side"), [("WEBP", "RGB", 160), ("TIFF", "F", 210), ("PNG", "LA", 252)]
)
def test_what_takes_more_memory_than_its_pixels_say_is_refused(kind, mode, side, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 500_000)
    assert read_picture(saved("PNG", size=(248, 248))).size == (248, 248)
    with pytest.raises(TooLarge, match=f"has {side}×{side} pixels"):
        read_picture(saved(kind, mode, (side, side)))
