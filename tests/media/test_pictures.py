"""Pictures with odd tags are turned as those without."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from pyramid.media.colors import told_colors
from pyramid.media.files import ffmpeg
from pyramid.media.pictures import read_picture
from pyramid.media.video_reader import read_frames

ODD = {  # tag, type, count, value: what phones and converters have written
    "a resolution in letters": (0x011A, 2, 3, b"72\0\0"),
    "a width below zero": (0x0100, 9, 1, struct.pack("<i", -5)),
    "a rational of nothing": (0x011A, 5, 1, struct.pack("<I", 0)),
    "a signed rational": (0x9204, 10, 1, struct.pack("<I", 8)),
    "an unknown type": (0x0132, 99, 1, b"abcd"),
    "a maker beyond the end": (0x010F, 2, 20, struct.pack("<I", 5000)),
    "a maker that is too long": (0x010F, 2, 200, struct.pack("<I", 8)),
    "widths beyond the end": (0x0100, 4, 1_000_000, struct.pack("<I", 8)),
    "strips beyond the end": (0x0111, 4, 1_000_000, b"abcd"),
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tag_that_lies_nowhere_hides_no_orientation(kind, order):
    maker = struct.pack(order + "HHII", 0x010F, 2, 20, 5000)
    turned = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
    exif = struct.pack(order + "HIH", 42, 8, 2) + maker + turned + bytes(4)
    exif = b"Exif\0\0" + (b"II" if order == "<" else b"MM") + exif
    image = Image.new("RGB", (12, 8), "red")
    image.paste("blue", (0, 0, 12, 4))  # the upper half, which comes to lie on the right
    out = io.BytesIO()
    image.save(out, kind, exif=exif)
    read = read_picture(out.getvalue())
    assert read.size == (8, 12)
    assert read.getpixel((0, 6))[0] > 200 and read.getpixel((7, 6))[2] > 200


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        (0x02BC, 3, 7),  # XMP, a profile, and where the directories of EXIF and GPS are
        (0x8773, 4, 7),
        (0x8773, 2, 0x646362),
        (0x8769, 9, -3),
        (0x8825, 8, 0xFFFD),
    ],
)
def test_an_odd_tag_of_a_tiff_changes_nothing(tag, kind, value):
    values = {256: 3, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 274: 6, 277: 1, 278: 2, 279: 6}
    entries = [struct.pack("<HHIi", number, 4, 1, told) for number, told in values.items()]
    entries.append(struct.pack("<HHIi", tag, kind, 1, value))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 14) + bytes([10, 20, 30, 40, 50, 60]) + directory
    assert np.asarray(read_picture(data))[..., 0].tolist() == [[40, 10], [50, 20], [60, 30]]


def test_an_orientation_that_is_none_is_ignored():
    assert read_picture(tagged(77)).size == (48, 32)


# -- what is said of files that are none


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF", "TIFF", "JPEG"])
@pytest.mark.parametrize("end", [12, 30, 100])
def test_a_picture_that_is_cut_off_is_said_to_be(kind, end):
    out = io.BytesIO()
    Image.effect_noise((64, 48), 99).save(out, kind)
    with pytest.raises(ValueError, match=r"cut off|runcated") as told:
        read_picture(out.getvalue()[:end])
    assert "is not a picture" not in str(told.value)


def test_an_empty_file_and_one_of_another_kind_are_told_as_such(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    for source in (path, b""):
        with pytest.raises(ValueError, match="is empty"):
            read_picture(source)
    with pytest.raises(ValueError, match="is not a picture this program can read: use PNG"):
        read_picture(b"a letter to a friend")


# -- colors


def profile(space: str) -> bytes:
    """A profile that swaps red and green, or makes grays lighter: nobody can take it for sRGB."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = bytearray(made)
    tags = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * data[131], 12)}
    if space == "RGB":
        red, green = tags[b"rXYZ"], tags[b"gXYZ"]
        data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
        return bytes(data)
    curve = struct.pack(">4sIIH", b"curv", 0, 1, 256) + b"\0\0"  # gamma 1: linear light
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"gray\0" + bytes(78) + b"\0"
    parts = {b"kTRC": curve, b"wtpt": white, b"desc": name, b"cprt": b"text" + bytes(4) + b"none\0"}
    at, table, body = 128 + 4 + 12 * len(parts), b"", b""
    for tag, content in parts.items():
        table += struct.pack(">4sII", tag, at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = bytearray(made[:128])
    head[0:4], head[16:20] = struct.pack(">I", at + len(body)), b"GRAY"
    return bytes(head) + struct.pack(">I", len(parts)) + table + body


def saved(image, space, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind, icc_profile=profile(space))
    return out.getvalue()


COLOR = (200, 40, 40)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "P and transparency"])
def test_the_profile_of_a_color_picture_counts_in_every_mode(mode):
    image = Image.new("RGB", (8, 8), COLOR)
    if mode == "RGBA":
        image.putalpha(255)
    elif mode != "RGB":
        image = image.quantize(4)
        image.info = {"transparency": 3} if "and" in mode else {}
    red, green, blue = read_picture(saved(image, "RGB")).getpixel((4, 4))
    assert red < 100 < 180 < green and blue < 60


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_the_profile_of_a_gray_picture_counts_in_every_mode(mode):
    gray = np.full((8, 8), 64, np.uint8)
    image = Image.fromarray(gray)
    if mode == "LA":
        image.putalpha(255)
    elif mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    assert image.mode == mode
    # Linear light of a quarter is 137 in sRGB.
    assert np.abs(np.asarray(read_picture(saved(image, "GRAY")), int) - 137).max() <= 2


def test_transparent_parts_stay_white_beside_a_profile():
    image = Image.new("RGBA", (8, 8), (*COLOR, 0))
    assert read_picture(saved(image, "RGB")).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("space", ["RGB", "GRAY"])
def test_a_profile_of_another_color_space_is_left_alone(space):
    image = Image.new("CMYK" if space == "RGB" else "RGB", (8, 8), 0)
    plain = io.BytesIO()
    image.save(plain, "TIFF")
    assert read_picture(saved(image, space, "TIFF")).tobytes() == read_picture(plain.getvalue()).tobytes()


# -- transparency by one color


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth, kind, row, *chunks):
    """A PNG of 8 × 2 pixels with chunks of such kinds and depths as Pillow does not write."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 2, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(2 * (b"\0" + row)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


KEYED = {  # bits, kind, a row of four transparent and four other pixels, the transparent color, the other
    "1 bit": (1, 0, b"\x0f", [0], (255, 255, 255)),
    "2 bits": (2, 0, b"\x55\xaa", [1], (170, 170, 170)),
    "4 bits": (4, 0, b"\x55\x55\xaa\xaa", [5], (170, 170, 170)),
    "8 bits": (8, 0, bytes([85] * 4 + [170] * 4), [85], (170, 170, 170)),
    "16 bits": (16, 0, np.array([0x1234] * 4 + [0x1280] * 4, ">u2").tobytes(), [0x1234], (18, 18, 18)),
    "colors of 8 bits": (8, 2, bytes([1, 2, 3] * 4 + [128, 32, 192] * 4), [1, 2, 3], (128, 32, 192)),
    "colors of 16 bits": (
        16,
        2,
        np.array([0x1234, 0x5678, 0x9ABC] * 4 + [0x8080, 0x2020, 0xC0C0] * 4, ">u2").tobytes(),
        [0x1234, 0x5678, 0x9ABC],
        (128, 32, 192),
    ),
}


@pytest.mark.parametrize("case", KEYED)
def test_a_transparent_color_is_white_at_every_depth(case):
    depth, kind, row, key, other = KEYED[case]
    image = read_picture(png(depth, kind, row, chunk(b"tRNS", np.asarray(key, ">u2").tobytes())))
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert image.getpixel((6, 1)) == other


@pytest.mark.parametrize("transparent", [False, True])
def test_a_gif_is_white_around_a_first_picture_that_is_smaller_than_its_screen(transparent):
    first = Image.new("P", (4, 3), 1)
    first.putpalette([9, 9, 9, 200, 40, 40])
    out = io.BytesIO()
    first.save(out, "GIF", **({"transparency": 0} if transparent else {}))
    data = bytearray(out.getvalue())
    data[6:10] = struct.pack("<HH", 8, 6)  # the screen
    at = data.index(struct.pack("<BHHHH", ord(","), 0, 0, 4, 3))
    data[at + 1 : at + 5] = struct.pack("<HH", 2, 1)  # where it lies
    image = np.asarray(read_picture(bytes(data)))
    assert image.shape == (6, 8, 3)
    assert (image[1:4, 2:6] == COLOR).all()
    image = image.copy()
    image[1:4, 2:6] = 255
    assert (image == 255).all()


# -- HDR, and wide gamuts without a profile

PATCHES = [(191, 63, 63), (62, 158, 94), (189, 189, 189)]
TO_LIGHT = "format=gbrpf32le,setparams=color_primaries=bt709:color_trc={}:colorspace=gbr:range=pc"
TO_2020 = ",zscale=t=linear:npl=203,zscale=p=2020:t={}:m=2020_ncl:npl=203,format=yuv444p10le"
TO_P3 = ",zscale=t=linear,zscale=p=smpte432:t=iec61966-2-1:m=709,format=yuv444p10le"
WIDE = {  # ffmpeg's filter, and the names of matrix, primaries and transfer that the file tells
    "PQ": (TO_LIGHT.format("bt709") + TO_2020.format("smpte2084"), "bt2020nc", "bt2020", "smpte2084"),
    "HLG": (TO_LIGHT.format("bt709") + TO_2020.format("arib-std-b67"), "bt2020nc", "bt2020", "arib-std-b67"),
    "P3": (TO_LIGHT.format("iec61966-2-1") + TO_P3, "bt709", "smpte432", "iec61966-2-1"),
    "sRGB": ("scale=out_color_matrix=bt709,format=yuv444p10le", "bt709", "bt709", "iec61966-2-1"),
}


def wide_avif(path, case):
    """PATCHES side by side, 16 × 16 each, as an AVIF of 10 bits."""
    chain, matrix, primaries, transfer = WIDE[case]
    patches = np.repeat(np.repeat(np.array([PATCHES], np.uint8), 16, 1), 16, 0)
    command = [ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "48x16", "-i", "-"]
    command += ["-vf", chain, "-frames:v", "1", "-c:v", "libaom-av1", "-still-picture", "1", "-crf", "0"]
    command += ["-cpu-used", "8", "-colorspace", matrix, "-color_primaries", primaries]
    command += ["-color_trc", transfer, str(path)]
    subprocess.run(command, input=patches.tobytes(), check=True)
    return path


@pytest.mark.parametrize("case", WIDE)
def test_an_avif_has_the_colors_that_it_tells(tmp_path, case):
    path = wide_avif(tmp_path / "wide.avif", case)
    for source in (path, path.read_bytes()):
        image = read_picture(source)
        for number, color in enumerate(PATCHES):
            # A step of PQ is up to four of sRGB's, and libavif is off by one.
            assert np.abs(np.subtract(image.getpixel((16 * number + 8, 8)), color)).max() <= 8


def test_an_avif_in_hdr_is_as_bright_as_the_same_video(tmp_path):
    path = wide_avif(tmp_path / "wide.avif", "HLG")
    frame = np.asarray(next(read_frames(path)), int)
    assert np.abs(np.asarray(read_picture(path), int) - frame)[:, 8::16].max() <= 4


def test_a_png_in_hdr_is_clipped_at_diffuse_white():
    pq = chunk(b"cICP", bytes([1, 16, 0, 1]))
    row = bytes([148] * 3 * 4 + [129] * 3 * 4)  # 203 and 98 nits: BT.1886's white, and 188
    image = read_picture(png(8, 2, row, pq))
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert image.getpixel((6, 1)) == (188, 188, 188)
    gray = read_picture(png(16, 0, np.full(8, 129 * 257, ">u2").tobytes(), pq))
    assert gray.getpixel((6, 1)) == (188, 188, 188)


def test_transparent_parts_of_hdr_are_white():
    pq = chunk(b"cICP", bytes([9, 16, 0, 1]))
    image = read_picture(png(8, 6, bytes([100, 50, 20, 0] * 4 + [129, 129, 129, 255] * 4), pq))
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert image.getpixel((6, 1)) == (188, 188, 188)


def test_a_file_that_tells_nothing_or_ends_early_tells_no_colors(tmp_path):
    whole = wide_avif(tmp_path / "wide.avif", "PQ").read_bytes()
    assert told_colors(io.BytesIO(whole)) == (9, 16)
    box = whole.index(b"colrnclx")
    assert all(told_colors(io.BytesIO(whole[:end])) is None for end in range(box))
    assert told_colors(io.BytesIO(whole.replace(b"colrnclx\0\x09\0\x10", b"colrnclx\0\x01\0\x0d"))) is None
    plain = png(8, 2, bytes(24), chunk(b"cICP", bytes([1, 13, 0, 1])))
    assert all(told_colors(io.BytesIO(plain[:end])) is None for end in range(len(plain)))


# -- HEIC

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


@pytest.mark.parametrize("as_file", [False, True])
def test_a_heic_picture_names_the_way_out(tmp_path, monkeypatch, as_file):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(HEIC)
    with pytest.raises(ValueError, match="HEIC.*pip install pillow-heif.*JPEG") as told:
        read_picture(path if as_file else HEIC)
    assert ("IMG_1.HEIC" in str(told.value)) == as_file


def test_a_heic_picture_is_read_where_pillow_heif_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    path = tmp_path / "red.heic"
    Image.new("RGB", (64, 64), COLOR).save(path)
    assert np.abs(np.subtract(read_picture(path).getpixel((9, 9)), COLOR)).max() < 12
