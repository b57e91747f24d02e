"""Pictures with odd tags are turned as those without."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pyramid.media.pictures import read_picture

ODD = {  # tag, type, count, value: what phones and converters have written
    "a resolution in letters": (0x011A, 2, 3, b"72\0\0"),
    "a width below zero": (0x0100, 9, 1, struct.pack("<i", -5)),
    "a rational of nothing": (0x011A, 5, 1, struct.pack("<I", 0)),
    "a signed rational": (0x9204, 10, 1, struct.pack("<I", 8)),
    "an unknown type": (0x0132, 99, 1, b"abcd"),
}


def tagged(orientation, odd=None):
    """A JPEG with an orientation and perhaps another tag, as bytes."""
    entries = [struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", orientation, 0)]
    if odd:
        tag, kind, count, value = odd
        entries.append(struct.pack("<HHI", tag, kind, count) + value[:4].ljust(4, b"\0"))
    entries.sort()
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    ramp = np.arange(32 * 48 * 3, dtype=np.uint32).reshape(32, 48, 3)
    out = io.BytesIO()
    Image.fromarray((ramp // 20 % 256).astype(np.uint8)).save(out, "JPEG", exif=exif, quality=95)
    return out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_tag_changes_nothing(orientation, odd):
    plain = np.asarray(read_picture(tagged(orientation)))
    assert plain.shape == ((32, 48, 3) if orientation < 5 else (48, 32, 3))
    assert np.array_equal(np.asarray(read_picture(tagged(orientation, ODD[odd]))), plain)


def test_an_orientation_that_is_none_is_ignored():
    assert read_picture(tagged(77)).size == (48, 32)
