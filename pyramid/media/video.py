"""Pictures and videos in and out of files.

    picture = fit_picture(read_picture("photo.jpg"), 640, 384, "crop")      # PIL, RGB, upright
    frames = read_video("clip.mp4", 640, 384, fps=24, num_frames=17)        # its end, uint8 (f, h, w, 3)
    with VideoWriter("out.mp4", 24, (640, 384), metadata) as writer:        # H.264 yuv420p, as frames arrive
        for frames in source:
            writer.write(frames)                                            # uint8 (f, h, w, 3)
    writer.path                                                             # out.mp4, or out-2.mp4 if taken
    read_metadata(writer.path) == metadata

Nothing is ever overwritten, and nothing half-written ever carries its final name: `pyramid.media.files` sees
to that.
"""

import io
import json
import re
import struct
import subprocess
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np
from PIL import Image, ImageCms, ImageFilter, ImageOps, PngImagePlugin, UnidentifiedImageError

from pyramid.media.files import (
    KEEPS,
    describe,
    ffmpeg,
    no_interrupts,
    publish,
    read_metadata,
    reserve,
    tag,
    unique_path,
    write_sidecar,
)
from pyramid.settings import FITS, FRAMES_PER_UNIT, Settings, SettingsError

__all__ = [  # files in and out, all by one name: also what files.py holds
    "VideoWriter",
    "describe",
    "ffmpeg",
    "fit_picture",
    "probe",
    "read_frames",
    "read_given",
    "read_metadata",
    "read_picture",
    "read_video",
    "to_rgb",
    "unique_path",
    "write_picture",
]

BACKGROUND = "white"  # what shows through transparent parts
PAD_COLOR = "black"  # the bars of fit = "pad"
MAX_PIXELS = 178_000_000  # of a picture; Pillow itself refuses files a little above that
QUALITY = 17  # H.264's CRF: 17 looks like the original, 23 is smaller, 51 is the worst
TO_BT709 = ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
IS_BT709 = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
BT709 = [*TO_BT709, *IS_BT709]
PALETTE = (
    "split[a][b];[a]palettegen=stats_mode=full[p];[b][p]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
)


# -- pictures
def read_picture(source: str | Path | bytes, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture as RGB, upright, in sRGB, transparency over white. Of an animation, the first frame.

    With `size`, the (width, height) it will be fitted to, a huge JPEG is decoded no larger than that needs.
    Raises ValueError: no such file, not a picture, truncated, more than MAX_PIXELS.
    """
    name = "the picture" if isinstance(source, bytes) else repr(str(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked below
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if size is not None:
                least = 2 * max(size) / min(image.size)  # covers twice the size, whichever way up
                image.draft("RGB", (int(image.width * least), int(image.height * least)))
            return to_rgb(image)
    except Image.DecompressionBombError:
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise ValueError(f"{name} has more than {limit}: make it smaller first") from None
    except UnidentifiedImageError:
        advice = "use PNG, JPEG, WebP or TIFF (a video is given as video)"
        raise ValueError(f"{name} is not a picture this program can read: {advice}") from None
    except (OSError, SyntaxError, EOFError, struct.error) as error:  # of Pillow's readers
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{name} cannot be read: {reason}") from error


def to_rgb(image: Image.Image, background: str = BACKGROUND) -> Image.Image:
    """Any picture as RGB: upright, in sRGB, 16 bit as 8, flattened on `background`. Twice is as once."""
    image = ImageOps.exif_transpose(image)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        flat = Image.new("RGBA", image.size, background)
        flat.alpha_composite(image)
        image = flat.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        image = _to_srgb(image, profile)
    image = image.convert("RGB")  # reads all of it: a truncated file shows here
    image.info = {}
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grayscale of 16 or 32 bits or floating point as 8 bits; the range follows the values that occur."""
    values = np.asarray(image, dtype=np.float64)
    top = values.max(initial=0)
    known = {"F": (1, 255, 65535), "I": (255, 65535)}.get(image.mode, (65535,))
    limit = next((limit for limit in known if top <= limit), top)
    return Image.fromarray((np.nan_to_num(values) / limit * 255).round().clip(0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile, or one of another color space: the numbers are taken as they are


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
    across, down = min(image.width, width / scale), min(image.height, height / scale)  # of the source
    left, top = (image.width - across) / 2, (image.height - down) / 2
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


# -- videos
def read_given(settings: Settings, path: str | Path | None = None) -> dict[str, Any]:
    """The picture or the end of the video that `settings` start from, as the pipeline's argument; none:
    empty.

    `path`: where it lies, when not where the settings say. Raises ValueError when it cannot be read.
    """
    s = settings
    if s.image is not None:
        return {"image": read_picture(path or s.image, (s.width, s.height))}
    if s.video is not None:
        frames = read_video(path or s.video, s.width, s.height, fps=s.fps, num_frames=s.num_frames, fit=s.fit)
        return {"video": list(frames)}
    return {}


def read_video(
    path: str | Path, width: int, height: int, *, fps: float, num_frames: int, fit: str = "crop"
) -> np.ndarray:
    """The end of a video at `fps`: its last frames at a size, uint8 (f, h, w, 3).

    f is the largest 1 + 8k that is at most `num_frames` and at most what the file has. Raises ValueError when
    the file is missing, or no video can be read from it.
    """
    frames: deque[np.ndarray] = deque(maxlen=num_frames)
    last = (num_frames + 2) / fps + 1  # seconds, with room for rounding
    # From the beginning where sound that lasts longer than the pictures misled the seek.
    for bound in (last, None):
        frames.clear()
        try:
            for picture in read_frames(path, fps=fps, last=bound):
                frames.append(np.asarray(fit_picture(picture, width, height, fit)))
        except ValueError:
            if bound is None:
                raise
        if len(frames) == num_frames:
            break
    usable = 1 + (len(frames) - 1) // FRAMES_PER_UNIT * FRAMES_PER_UNIT
    return np.stack(list(frames)[-usable:])


def read_frames(
    path: str | Path, *, fps: float | None = None, last: float | None = None
) -> Iterator[Image.Image]:
    """The frames of a video as RGB pictures, one at a time, upright;
    at `fps`, only the `last` seconds, if given.

    Raises ValueError when the file is missing, or no video can be read from it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file")
    seen = False
    with TemporaryFile() as words:  # a pipe would fill up, and stop ffmpeg, at a badly damaged video
        command = _reading(path, fps, last)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words) as process:
            for picture in _ppm_pictures(process.stdout):
                seen = True
                yield picture
        words.seek(0)
        reason = words.readline().decode(errors="replace").strip()
    if not seen:
        raise ValueError(f"{str(path)!r} is not a video this program can read" + f": {reason}" * bool(reason))


def _reading(path: Path, fps: float | None, last: float | None) -> list[str | Path]:
    """ffmpeg's command that writes a video's frames to its output, as `read_frames` wants them."""
    duration = _duration(path) if last is not None else None
    seek = ["-ss", f"{duration - last:.3f}"] if duration is not None and duration > last else []
    rate = [f"fps={fps}"] if fps is not None else []
    filters = ",".join([*rate, "scale=iw*sar:ih", "setsar=1"])
    source = ["-v", "error", "-nostdin", *seek, "-i", path.absolute()]
    pictures = ["-an", "-sn", "-map", "0:v:0", "-vf", filters]
    return [ffmpeg(), *source, *pictures, "-f", "image2pipe", "-c:v", "ppm", "-"]


def _ppm_pictures(stream: io.BufferedReader) -> Iterator[Image.Image]:
    """The pictures of a stream of binary PPM; each brings its size, so rotated videos are no special case."""
    while stream.readline().strip() == b"P6":
        width, height = map(int, stream.readline().split())
        stream.readline()  # the largest value, 255
        data = stream.read(width * height * 3)
        if len(data) < width * height * 3:
            return
        yield Image.frombytes("RGB", (width, height), data)


def _duration(path: Path) -> float | None:
    found = re.search(r"Duration: (\d+):(\d+):([\d.]+)", probe(path))
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else None


def probe(path: str | Path) -> str:
    """What ffmpeg says of a file: streams, sizes, pixel format, duration."""
    command = [ffmpeg(), "-hide_banner", "-nostdin", "-i", Path(path).absolute()]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")


def encoding(suffix: str, quality: int) -> tuple[str, list[str]]:
    """ffmpeg's encoder and its options for a file that ends in `suffix`; `quality` in H.264's CRF, 1 to 51.

    VP9's scale ends at 63, so the number is stretched; a GIF has no quality. SettingsError for anything else.
    """
    if not 1 <= quality <= 51:
        raise SettingsError(
            "quality",
            f"quality = {quality} is outside 1 to 51: 17 looks like the original, "
            "a higher number makes a smaller file",
        )
    match suffix.lower():
        case ".mp4":
            return "libx264", ["-crf", str(quality), *BT709]
        case ".webm":
            crf = round(quality * 63 / 51)
            options = f"-crf {crf} -b:v 0 -row-mt 1 -cpu-used 3 -pix_fmt yuv420p".split()
            return "libvpx-vp9", [*options, *BT709]
        case ".gif":
            return "gif", ["-vf", PALETTE, "-loop", "0"]
    raise SettingsError(
        "format", f"a video cannot be written as {suffix!r}: its name must end in .mp4, .webm or .gif"
    )


class VideoWriter:
    """A video that grows as frames arrive: mp4 (H.264, yuv420p, BT.709), webm (VP9) or gif,
    by its name's ending.

    A context manager. It is written under a hidden temporary name. Leaving the context without an exception
    keeps `metadata` (which may be changed until then) as `keep` says, see `files.KEEPS`, and gives the file
    its final name, `path`: the asked one, or the next free `name-2.mp4`. After an exception, or without a
    frame, nothing stays. With `partial` set, the name ends in `-partial` and the metadata says so.

    Raises ValueError for odd sizes, other endings and frames of another size; OSError when ffmpeg fails.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        metadata: dict | None = None,
        *,
        quality: int = QUALITY,
        keep: str = "embed",
    ):
        width, height = size
        if width % 2 or height % 2 or min(size) < 2:
            raise ValueError(f"a video of {width}×{height} cannot be yuv420p: both sides must be even")
        if keep not in KEEPS:
            raise SettingsError("metadata", f"metadata {keep!r}: choose from {', '.join(KEEPS)}")
        self.wanted = self.path = Path(path)
        self.codec, self._options = encoding(self.wanted.suffix, quality)
        self.fps = fps
        self.size = (width, height)
        self.metadata = dict(metadata or {})
        self.keep = keep
        self.frames = 0
        self.partial = False
        self._writer = self._part = None

    def __enter__(self) -> Self:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # takes a second: not for every command

        self._part, self.path = reserve(self.wanted)
        try:
            with no_interrupts():
                self._writer = FFMPEG_VideoWriter(
                    str(self._part.absolute()),
                    self.size,
                    self.fps,
                    codec=self.codec,
                    preset="medium",
                    ffmpeg_params=self._options,
                )
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames: uint8 (f, h, w, 3), or one frame (h, w, 3)."""
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(
                f"frames of {frames.dtype} {frames.shape} for a video of {self.size[0]}×"
                f"{self.size[1]}: uint8 (f, h, w, 3) of that size is expected"
            )
        for frame in frames:
            try:
                self._writer.write_frame(frame)
            except OSError as error:  # moviepy's words on ffmpeg's, and advice about codecs
                full = "a full disk: No space left on device" * ("No space left" in str(error))
                raise OSError(f"the video {self.path.name} could not be written: {full or error}") from None
            self.frames += 1

    def __exit__(self, kind, error, traceback) -> None:
        tagged = self._part.with_name(f"{self._part.stem}-tagged{self.wanted.suffix}")
        try:
            self._end(kill=kind is not None)
            if kind is None and self.frames:
                if self.partial:
                    self.path = self.wanted.with_name(f"{self.wanted.stem}-partial{self.wanted.suffix}")
                    self.metadata["partial"] = True
                tag(self._part, tagged, self.metadata if self.keep == "embed" else None)
                self.path = publish(tagged, self.path)
                if self.keep == "sidecar":
                    write_sidecar(self.path, self.metadata)
        finally:
            self._part.unlink(missing_ok=True)
            tagged.unlink(missing_ok=True)

    def _end(self, kill: bool) -> None:
        """Close ffmpeg; OSError with its own words when it failed. (moviepy's own close does not look.)"""
        process = self._writer.proc
        if process is None:  # moviepy closed it after an error of its own
            return
        if kill:
            process.kill()
        with suppress(OSError):  # it died before: the return code tells
            process.stdin.close()
        words = "" if process.stderr.closed else process.stderr.read().decode(errors="replace").strip()
        self._writer.close()
        if process.returncode and not kill:
            raise OSError(f"the video {self.path.name} could not be written: {words or process.returncode}")
