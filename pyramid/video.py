"""Pictures and videos in and out of files.

    picture = fit_picture(read_picture("photo.jpg"), 640, 384, "crop")      # PIL, RGB, upright
    frames = read_video("clip.mp4", 640, 384, fps=24, num_frames=17)        # its end, uint8 (f, h, w, 3)
    with VideoWriter("out.mp4", 24, (640, 384), metadata) as writer:        # H.264 yuv420p, as frames arrive
        for frames in source:
            writer.write(frames)                                            # uint8 (f, h, w, 3)
    writer.path                                                             # out.mp4, or out-2.mp4 if taken
    read_metadata(writer.path) == metadata

Nothing is ever overwritten, and nothing half-written ever carries its final name.
"""

import errno
import io
import json
import os
import re
import signal
import struct
import subprocess
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self

import numpy as np
from PIL import Image, ImageCms, ImageFilter, ImageOps, PngImagePlugin, UnidentifiedImageError

from pyramid.settings import FITS, FRAMES_PER_UNIT, Settings

BACKGROUND = "white"                    # what shows through transparent parts
PAD_COLOUR = "black"                    # the bars of fit = "pad"
MAX_PIXELS = 178_000_000                # of a picture; Pillow itself refuses files a little above that
PROGRAM = "pyramid"
H264 = ["-crf", "17", "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709",
        "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]


# ------------------------------------------------------------------------------------------------- pictures
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
    """Greyscale of 16 or 32 bits or floating point as 8 bits; the range follows the values that occur."""
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
        return image  # a broken profile, or one of another colour space: the numbers are taken as they are


def fit_picture(image: Image.Image, width: int, height: int, fit: str = "crop", colour: str = PAD_COLOUR
                ) -> Image.Image:
    """A picture brought to a size without distortion, as RGB.

    "crop" fills the size and cuts what stands out, evenly on both sides; "fit" shows the whole picture before
    a blurred enlargement of itself; "pad" shows the whole picture between bars of `colour`.
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
        ground = Image.new("RGB", (width, height), colour)
    else:
        ground = _cover(image, width, height).filter(ImageFilter.GaussianBlur(min(width, height) / 12))
    ground.paste(image.resize(inner, Image.Resampling.LANCZOS, reducing_gap=3.0),
                 ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return ground


def _cover(image: Image.Image, width: int, height: int) -> Image.Image:
    scale = max(width / image.width, height / image.height)
    across, down = min(image.width, width / scale), min(image.height, height / scale)  # of the source
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def write_picture(path: str | Path, frame: np.ndarray, metadata: dict[str, Any] | None = None) -> Path:
    """A still, uint8 (h, w, 3), as PNG with `metadata` in a text chunk. Returns the path used."""
    info = PngImagePlugin.PngInfo()
    if metadata is not None:
        info.add_text("comment", json.dumps(metadata, allow_nan=False))
    part, path = _reserve(Path(path))
    try:
        Image.fromarray(frame).save(part, format="PNG", pnginfo=info)
        return _publish(part, path)
    finally:
        part.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- videos
def read_video(path: str | Path, width: int, height: int, *, fps: float, num_frames: int, fit: str = "crop"
               ) -> np.ndarray:
    """The end of a video at `fps`: its last frames at a size, uint8 (f, h, w, 3).

    f is the largest 1 + 8k that is at most `num_frames` and at most what the file has. Raises ValueError when
    the file is missing, or no video can be read from it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file")
    duration, wanted = _duration(path), (num_frames + 2) / fps + 1  # seconds, with room for rounding
    seek = ["-ss", f"{duration - wanted:.3f}"] if duration is not None and duration > wanted else []
    command = [ffmpeg(), "-v", "error", "-nostdin", *seek, "-i", str(path), "-an", "-sn", "-map", "0:v:0",
               "-vf", f"fps={fps},scale=iw*sar:ih,setsar=1", "-f", "image2pipe", "-c:v", "ppm", "-"]
    frames: deque[np.ndarray] = deque(maxlen=num_frames)
    with TemporaryFile() as words:  # a pipe for these would fill up, and stop ffmpeg, at a badly damaged video
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words) as process:
            for picture in _ppm_pictures(process.stdout):
                frames.append(np.asarray(fit_picture(picture, width, height, fit)))
        words.seek(0)
        reason = words.readline().decode(errors="replace").strip()
    if not frames:
        raise ValueError(f"{str(path)!r} is not a video this program can read" + f": {reason}" * bool(reason))
    usable = 1 + (len(frames) - 1) // FRAMES_PER_UNIT * FRAMES_PER_UNIT
    return np.stack(list(frames)[-usable:])


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


def ffmpeg() -> str:
    """The ffmpeg that came with imageio-ffmpeg, or the one that IMAGEIO_FFMPEG_EXE names."""
    import imageio_ffmpeg  # here, for a page and a command line that open at once

    return imageio_ffmpeg.get_ffmpeg_exe()


def probe(path: str | Path) -> str:
    """What ffmpeg says of a file: streams, sizes, pixel format, duration."""
    command = [ffmpeg(), "-hide_banner", "-nostdin", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")


class VideoWriter:
    """An mp4 (H.264, yuv420p, BT.709) that grows as frames arrive. A context manager.

    It is written under a hidden temporary name. Leaving the context without an exception embeds `metadata`
    (which may be changed until then) and gives the file its final name, `path`: the asked one, or the next
    free `name-2.mp4`. After an exception, or without a frame, nothing stays. With `partial` set, the name ends in
    `-partial` and the metadata says so.

    Raises ValueError for odd sizes, other endings and frames of another size; OSError when ffmpeg fails.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int], metadata: dict | None = None):
        width, height = size
        if width % 2 or height % 2 or min(size) < 2:
            raise ValueError(f"a video of {width}×{height} cannot be yuv420p: both sides must be even")
        if Path(path).suffix.lower() != ".mp4":
            raise ValueError(f"{str(path)!r}: a video is written as .mp4, so its name must end so")
        self.wanted = self.path = Path(path)
        self.fps, self.size, self.metadata = fps, (width, height), dict(metadata or {})
        self.frames, self.partial = 0, False
        self._writer = self._part = None

    def __enter__(self) -> Self:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # takes a second: not for every command

        self._part, self.path = _reserve(self.wanted)
        try:
            with _no_interrupts():
                self._writer = FFMPEG_VideoWriter(str(self._part), self.size, self.fps, codec="libx264",
                                                  preset="medium", ffmpeg_params=H264)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames: uint8 (f, h, w, 3), or one frame (h, w, 3)."""
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.dtype != np.uint8 or frames.shape[1:] != (self.size[1], self.size[0], 3):
            raise ValueError(f"frames of {frames.dtype} {frames.shape} for a video of {self.size[0]}×"
                             f"{self.size[1]}: uint8 (f, h, w, 3) of that size is expected")
        for frame in frames:
            self._writer.write_frame(frame)
            self.frames += 1

    def __exit__(self, kind, error, traceback) -> None:
        tagged = self._part.with_name(f"{self._part.stem}-tagged.mp4")
        try:
            self._end(kill=kind is not None)
            if kind is None and self.frames:
                if self.partial:
                    self.path = self.wanted.with_name(f"{self.wanted.stem}-partial.mp4")
                    self.metadata["partial"] = True
                _tag(self._part, tagged, self.metadata)
                self.path = _publish(tagged, self.path)
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
        try:
            process.stdin.close()
        except OSError:
            pass  # it died before: the return code tells
        words = process.stderr.read().decode(errors="replace").strip()
        self._writer.close()
        if process.returncode and not kill:
            raise OSError(f"the video {self.path.name} could not be written: {words or process.returncode}")


@contextmanager
def _no_interrupts():
    """Children started here never get Ctrl-C, which a terminal sends to all: the file must outlive it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------------------------------------------- names
def unique_path(path: str | Path) -> Path:
    """`path`, or the first of `name-2.mp4`, `name-3.mp4`, … that is free. Writers look again at the end."""
    return next(name for name in _names(Path(path)) if not name.exists() and not _part_of(name).exists())


def _names(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}.part{path.suffix}")


def _reserve(path: Path) -> tuple[Path, Path]:
    """A temporary file of our own beside the first free name, and that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in _names(path):
        try:
            if not name.exists():
                _part_of(name).touch(exist_ok=False)
                return _part_of(name), name
        except FileExistsError:  # another writer's
            continue


def _publish(part: Path, path: Path) -> Path:
    """Give `part` its final name, or the next free one; a name that is taken is never replaced."""
    for name in _names(path):
        try:
            os.link(part, name)  # fails when the name is taken, as a rename would not
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


# ------------------------------------------------------------------------------------------------- metadata
def describe(settings: Settings, model: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What is embedded in a result: the settings with the seed that was used, the model, and `more`."""
    return {"program": PROGRAM, "settings": settings.to_dict(), "model": model, **more}


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What `VideoWriter` or `write_picture` embedded. Raises ValueError: no such file, or nothing in it."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{str(path)!r} is not a file")
    try:
        with Image.open(path) as image:
            text = image.info.get("comment")
    except (OSError, SyntaxError):  # not a picture
        text = _container_comment(path)
    try:
        found = json.loads(text or "")
    except ValueError:
        found = None  # somebody else's comment, or none
    if not isinstance(found, dict) or found.get("program") != PROGRAM:
        raise ValueError(f"{str(path)!r} holds no settings of this program")
    return found


def _container_comment(path: Path) -> str | None:
    command = [ffmpeg(), "-v", "error", "-nostdin", "-i", str(path), "-f", "ffmetadata", "-"]
    text = subprocess.run(command, capture_output=True, check=False).stdout.decode("utf-8", errors="replace")
    found = re.search(r"^comment=((?:[^\\\n]|\\.)*)", text, re.MULTILINE)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None


def _tag(source: Path, target: Path, metadata: dict[str, Any]) -> None:
    """Copy a video as it is, with `metadata` as its comment and the index in front, for browsers."""
    comment = re.sub(r"([=;#\\\n])", r"\\\1", json.dumps(metadata, allow_nan=False))
    command = [ffmpeg(), "-v", "error", "-y", "-i", str(source), "-f", "ffmetadata", "-i", "-", "-map", "0",
               "-map_metadata", "1", "-c", "copy", "-movflags", "+faststart", str(target)]
    with _no_interrupts():
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    _, words = process.communicate(f";FFMETADATA1\ncomment={comment}\n".encode())
    if process.returncode:
        raise OSError(f"the settings could not be embedded: {words.decode(errors='replace').strip()}")


# ------------------------------------------------------------------------------------------ latent previews
@dataclass(frozen=True)
class LatentColours:
    """What the channels of an autoencoder's latents look like: rgb in [-1, 1] = latents @ factors + bias."""

    factors: np.ndarray   # (channels, 3)
    bias: np.ndarray      # (3,)


def latent_preview(vae_latents, colours: LatentColours) -> np.ndarray:
    """Latents (…, c, t, h, w) in the autoencoder's space, tensor or array, as uint8 pictures (…, t, h, w, 3).

    One small matrix product, so that a preview costs nothing beside a step.
    """
    if hasattr(vae_latents, "detach"):
        vae_latents = vae_latents.detach().float().cpu().numpy()
    rgb = np.moveaxis(vae_latents, -4, -1) @ colours.factors + colours.bias               # … t h w 3
    return (rgb * 127.5 + 127.5).round().clip(0, 255).astype(np.uint8)


def fit_latent_colours(vae_latents: np.ndarray, pictures: np.ndarray) -> LatentColours:
    """Least squares from latents (n, c, h, w) to the mean colours of pictures (n, 3, h·s, w·s) in ±1."""
    n, channels, h, w = vae_latents.shape
    s = pictures.shape[-1] // w
    right = pictures.reshape(n, 3, h, s, w, s).mean((3, 5)).transpose(0, 2, 3, 1).reshape(-1, 3)  # (n h w) 3
    left = vae_latents.transpose(0, 2, 3, 1).reshape(-1, channels)                        # (n h w) c
    solution = np.linalg.lstsq(np.pad(left, ((0, 0), (0, 1)), constant_values=1), right, rcond=1e-5)[0]
    return LatentColours(solution[:-1], solution[-1])


def latent_colours(vae, pictures: int = 16, side: int = 64) -> LatentColours:
    """The colours of a CausalVideoVAE's latents: from its config, or fitted on random pictures it encodes.

    The config may hold `latent_rgb_factors` (16 rows of 3) and, with it, `latent_rgb_bias` (3 numbers).
    """
    factors = getattr(vae.config, "latent_rgb_factors", None)
    if factors is not None:
        return LatentColours(np.array(factors, np.float32), np.array(vae.config.latent_rgb_bias, np.float32))
    import torch  # only who has an autoencoder gets here

    made = random_pictures(pictures, side)
    video = torch.from_numpy(made)[:, :, None].to(vae.device, vae.dtype)                  # n 3 1 h w
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()[:, :, 0].float().cpu().numpy()     # n c h/8 w/8
    return fit_latent_colours(latents, made)


def random_pictures(number: int, side: int) -> np.ndarray:
    """Smooth fields of colour with rectangles: float32 (n, 3, side, side) in [-1, 1], the same each time."""
    random = np.random.default_rng(0)
    pictures = np.empty((number, 3, side, side), np.float32)
    for picture in pictures:
        few = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        values = np.array(few.resize((side, side), Image.Resampling.BICUBIC))
        for _ in range(6):
            x, y, w, h = random.integers(0, side, 4)
            values[y:y + h // 2 + 4, x:x + w // 2 + 4] = random.integers(0, 256, 3)
        picture[:] = values.transpose(2, 0, 1) / 127.5 - 1
    return pictures
