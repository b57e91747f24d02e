"""Pictures in and out of files.

picture = fit_picture(read_picture("photo.jpg"), 640, 384, "crop")      # PIL, RGB, upright
write_picture("still.png", frame, metadata)                             # uint8 (h, w, 3)
"""

import io
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFilter, PngImagePlugin, TiffTags, UnidentifiedImageError

from pyramid.disk import check_file
from pyramid.media.colors import as_srgb, told_colors
from pyramid.media.files import OF_READERS, publish, readable, reserve, write_sidecar
from pyramid.media.parts import MAX_BYTES, TooLarge, check_parts, orientation_of, tags_are_bounded
from pyramid.settings import FITS, at_home

BACKGROUND = "white"  # what shows through transparent parts
PAD_COLOR = "black"  # the bars of fit = "pad"
TURNS = {  # of the EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of profiles, as Pillow calls them
MODES_OF = {  # modes that hold such colors
    "RGB": ("RGB", "RGBA", "RGBX", "P", "PA"),
    "L": ("L", "LA", "1"),
    "CMYK": ("CMYK",),
    "LAB": ("LAB",),
}
HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # brands, after "ftyp"
SIGNS = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II[*+]\0|MM\0[*+]|....ftypavi[fs]", re.DOTALL
)  # how pictures begin
PLAIN = {"could not create decoder object": "it is damaged or cut off"}  # what is said of a WebP
MAX_PIXELS = 178_000_000  # of a picture; Pillow itself refuses files a little above that
STORED = {"1": 1, "L": 1, "P": 1, "I": 8, "F": 8}  # bytes a pixel, in Pillow and on the way; "I;16": 6
OF_MODE = 4  # in all other modes, and of the RGB that is made
OF_FORMAT = {"WEBP": 12, "AVIF": 6, "HEIF": 6}  # what a decoder takes beside
SCALES = {"L;2": 85, "L;4": 17}  # from values of 2 and 4 bits, as Pillow names them, to those of 8
TOLD = "colors told by numbers"  # where they are kept in Pillow's `info` of a picture
STRIP = 256  # rows that are brought to 8 bits, or to RGB, at once


def read_picture(source: str | Path | bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture as RGB, upright, in sRGB, transparency over white. Of an animation, the first frame.

    With `size`, the (width, height) it will be fitted to, a huge JPEG is decoded no larger than that needs.
    Raises ValueError: no such file, not a picture, truncated, more than MAX_PIXELS, or than MAX_BYTES where
    it is decoded as it is.
    """
    name = "the picture" if isinstance(source, bytes) else repr(str(source))
    file = io.BytesIO(source) if isinstance(source, bytes) else at_home(source)
    if isinstance(file, Path):
        check_file(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd tags, and of large pictures: the limits are checked here
            return to_rgb(_open(file, name, size))
    except Image.DecompressionBombError:
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise ValueError(f"{name} has more than {limit}: make it smaller first") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} {_why_none(_head(file))}") from None
    except ModuleNotFoundError:
        raise ValueError(
            f"{name} is a HEIC picture, as phones take them: install pillow-heif to read it "
            "(.venv/bin/python -m pip install pillow-heif), or save it as JPEG, PNG, WebP or AVIF first"
        ) from None
    except TooLarge:
        raise
    except OF_READERS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"{name} cannot be read: {PLAIN.get(reason, reason)}") from error


def _open(file: io.BytesIO | Path, name: str, size: tuple[int, int] | None) -> Image.Image:
    """A picture of which only the header has been read, with its limits checked: see `read_picture`."""
    check_parts(file, name)
    _open_heif(_head(file))
    told = told_colors(file)
    image = Image.open(file, formats=readable())
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    if size is not None:
        least = 2 * max(size) / min(image.size)  # covers twice the size, whichever way up
        image.draft("RGB", (int(image.width * least), int(image.height * least)))
    _check_bytes(image, name)
    if told:
        image.info[TOLD] = told
    return image


def _head(file: io.BytesIO | Path) -> bytes:
    """The first 12 bytes, which say what a file is."""
    if isinstance(file, io.BytesIO):
        return file.getbuffer()[:12].tobytes()
    with file.open("rb") as opened:
        return opened.read(12)


def _why_none(head: bytes) -> str:
    """Why a file that begins with `head` is none that Pillow takes for a picture."""
    if not head:
        return "is empty: fetch or save it again"
    if SIGNS.match(head):
        return (
            "begins as a picture does, but is damaged, cut off, or of a rare kind: fetch it again, or save "
            "it as PNG or JPEG"
        )
    return (
        "is not a picture this program can read: use PNG, JPEG, WebP, AVIF or TIFF "
        "(a video is given as video)"
    )


def _open_heif(head: bytes) -> None:
    """Make Pillow read HEIC, if a file that begins so is one. ModuleNotFoundError where pillow-heif is
    missing.
    """
    if head[4:8] != b"ftyp" or head[8:12] not in HEIF:
        return
    import pillow_heif

    pillow_heif.register_heif_opener()


def to_rgb(image: Image.Image, background: str = BACKGROUND) -> Image.Image:
    """Any picture as RGB: upright, in sRGB, 16 bit as 8, flattened on `background`. Twice is as once."""
    _scale_key(image)
    extent = _extent(image)
    image = upright(image)
    if image.mode == "RGB" and not image.info:  # a large one is not copied for nothing
        return image
    wide = image.mode.startswith("I") or image.mode == "F"
    limit = _limit(image) if wide else 0.0
    made = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        narrow = _eight_bits(strip, limit) if wide else strip
        made.paste(_flat(narrow, image.info, background), (0, top))
    if extent is None:
        return made
    ground = Image.new("RGB", image.size, background)
    ground.paste(made.crop(extent), extent)
    return ground


def _extent(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Where the first picture of a GIF lies, if that is not all of its screen. Around it there is nothing,
    which Pillow gives the first color of the palette.
    """
    if image.format != "GIF" or image.tell():
        return None
    extent = getattr(image, "dispose_extent", None)
    return None if extent == (0, 0, *image.size) else extent


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in pieces, each with the row that it begins at: a large one is not there several times."""
    for top in range(0, image.height, STRIP):
        yield top, image.crop((0, top, image.width, min(top + STRIP, image.height)))


def _scale_key(image: Image.Image) -> None:
    """The color that a PNG says is transparent, in the 8 bits that Pillow will bring its pixels to. That of
    16 bits of gray stays as it is, as they do; of 16 bits of color Pillow keeps the upper half.
    """
    key = image.info.get("transparency")
    tiles = getattr(image, "tile", None)  # what is still to be decoded
    if key is None or not tiles or image.format != "PNG":
        return
    depth = tiles[0].args
    if depth in SCALES:
        image.info["transparency"] = key * SCALES[depth]
    elif depth == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _flat(image: Image.Image, info: dict[Any, Any], background: str) -> Image.Image:
    """A strip of any mode of 8 bits as RGB, in sRGB, flattened on `background`; `info`: of its picture."""
    if image.mode in ("La", "RGBa"):  # colors times transparency
        image = image.convert(image.mode.upper())
    transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    alpha = image.convert("RGBA").getchannel("A") if transparent else None
    if profile := info.get("icc_profile"):
        image = _to_srgb(image, profile)
    elif told := info.get(TOLD):
        image = as_srgb(image.convert("RGB"), told)
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha)
        flat = Image.new("RGBA", image.size, background)
        flat.alpha_composite(image)
        image = flat
    return image.convert("RGB")


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF says. Nothing else of the EXIF is read,
    as phones write odd things there.
    """
    _drop_odd_tags(image)
    image.load()  # reads all of it: a truncated file shows here; Pillow turns a TIFF by itself
    orientation = _orientation(image)
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _drop_odd_tags(image: Image.Image) -> None:
    """Leave out what Pillow would look at beside the pixels, and fail at: a profile or XMP that is no bytes,
    and in a TIFF the directories that its tags point to.
    """
    for name in ("icc_profile", "xmp"):
        if not isinstance(image.info.get(name, b""), bytes):
            del image.info[name]
    if image.format == "TIFF":
        exif = image.getexif()
        for pointer in TiffTags.TAGS_V2_GROUPS:
            exif.pop(pointer, None)


def _orientation(image: Image.Image) -> Any:
    """How a picture is turned, by its EXIF, or what Pillow finds elsewhere (XMP); None where nothing says."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        orientation = orientation_of(exif)
        if orientation is not None or not tags_are_bounded(exif):
            return orientation
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except OF_READERS:
        return None


def _limit(image: Image.Image) -> float:
    """The white of grayscale of 16 or 32 bits or floating point: it follows the values that occur."""
    values = (np.asarray(strip) for _, strip in _strips(image))
    top = max(float(strip.max(initial=0, where=np.isfinite(strip))) for strip in values)
    known = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    return next((limit for limit in known if top <= limit), top)


def _eight_bits(image: Image.Image, limit: float) -> Image.Image:
    """Grayscale of 16 or 32 bits or floating point as 8 bits, in which `limit` is white.

    What is no number becomes black, and infinity white. Where one value is transparent, with an alpha.
    """
    values = np.asarray(image)
    numbers = np.nan_to_num(values.astype(np.float64), posinf=limit)
    made = Image.fromarray((numbers / limit * 255).round().clip(0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        made.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return made


def _check_bytes(image: Image.Image, name: str) -> None:
    """Raises TooLarge for a picture that would take too much memory, by what its header says."""
    stored = 6 if image.mode.startswith("I;16") else STORED.get(image.mode, OF_MODE)
    deep = stored + OF_MODE + OF_FORMAT.get(image.format or "", 0)
    size = image.width * image.height * deep
    if size > MAX_BYTES:
        raise TooLarge(
            f"{name} has {image.width}×{image.height} pixels, {size / 1e6:.0f} MB of memory: at most "
            f"{MAX_BYTES / 1e6:.0f} MB are read; make it smaller, or save it as JPEG"
        )


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The colors of a picture of any mode, as its profile means them. A palette and transparency are no
    colors: what is in them is brought to the profile's own space first.

    A broken profile, or one of another color space than the picture's: the numbers are taken as they are.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = SPACES.get(source.profile.xcolor_space.strip())
        if space is None or image.mode not in MODES_OF[space]:
            return image
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image.convert(space), source, target, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image


def fit_picture(
    image: Image.Image, width: int, height: int, fit: str = "crop", color: str = PAD_COLOR
) -> Image.Image:
    """A picture brought to a size without distortion, as RGB.

    "crop" fills the size and cuts what stands out, evenly on both sides; "fit" shows the whole picture before
    a blurred enlargement of itself; "pad" shows the whole picture between bars of `color`.
    """
    if fit not in FITS:
        raise ValueError(f"unknown fit {fit!r}; choose from {', '.join(FITS)}")
    image = to_rgb(image)
    if image.size == (width, height):
        return image
    if fit == "crop" or image.width * height == image.height * width:
        return _cover(image, width, height)
    scale = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if fit == "pad":
        ground = Image.new("RGB", (width, height), color)
    else:
        ground = _cover(image, width, height).filter(ImageFilter.GaussianBlur(min(width, height) / 12))
    ground.paste(
        image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0),
        ((width - inner[0]) // 2, (height - inner[1]) // 2),
    )
    return ground


def _cover(image: Image.Image, width: int, height: int) -> Image.Image:
    scale = max(width / image.width, height / image.height)
    across = min(image.width, width / scale)
    down = min(image.height, height / scale)
    left = (image.width - across) / 2
    top = (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def write_picture(
    path: str | Path, frame: np.ndarray, metadata: dict[str, Any] | None = None, *, keep: str = "embed"
) -> Path:
    """A still, uint8 (h, w, 3), as PNG; `keep`: `metadata` in a text chunk, in a sidecar, or nowhere.

    Returns the path used.
    """
    info = PngImagePlugin.PngInfo()
    if metadata is not None and keep == "embed":
        info.add_text("comment", json.dumps(metadata, allow_nan=False))
    part, path = reserve(Path(path))
    try:
        Image.fromarray(frame).save(part, format="PNG", pnginfo=info)
        path = publish(part, path)
    finally:
        part.unlink(missing_ok=True)
    if metadata is not None and keep == "sidecar":
        write_sidecar(path, metadata)
    return path
