"""A result as it is read again: what it says of itself, its frames, their pace, its sound.

    metadata = metadata_of(path)                     # {} where it was made without
    fps, info = pace_of(path, metadata)
    for picture in frames_of_result(path, fps, info): ...      # PIL, RGB; of a video, or of a zip of pictures

Any other video is taken too.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from zipfile import BadZipFile, ZipFile

from PIL import Image

from pyramid.media.files import RATE, read_metadata
from pyramid.media.pictures import MAX_BYTES, read_picture
from pyramid.media.sound import Sound
from pyramid.media.video import gif_rate
from pyramid.media.video_reader import Budget, VideoInfo, inspect, read_frames, sound_of
from pyramid.settings import SettingsError, check_value

# What the owner of the machine asks for may take its time.
EXPORTED = Budget(seconds=3600.0, frames=500_000)
FASTEST = 120.0  # frames a second
MAX_RATE = 32  # bytes: a number
MAX_DIGITS = 20  # of a number in a picture's name


def metadata_of(source: Path) -> dict[str, Any]:
    """What a result says of itself; {} where it was made without. ValueError where there is no such file."""
    try:
        return read_metadata(source)
    except ValueError:
        if not source.is_file():
            raise
        return {}  # nothing to pass on


def pace_of(source: Path, metadata: dict[str, Any]) -> tuple[float, VideoInfo | None]:
    """Frames a second as the file says, with all that it says of a video. ValueError where it says no rate.

    The settings say how a clip was made, and it may be smoother since. A GIF rounds its times, though, so one
    of ours has that of a multiple of their rate which is nearest.
    """
    made = fps_of(metadata)
    if source.suffix.lower() == ".zip":
        return _rate_in_zip(source) or made or _no_rate(source), None
    info = inspect(source, EXPORTED)
    # Frames that are spaced unevenly keep their times at the steady rate; where that is a clock's, at their
    # average.
    rate = info.rate if info.rate and info.rate <= FASTEST else info.fps
    if made and info.fps and info.codec == "gif":
        said = info.fps
        smoother = (gif_rate(made * times) for times in range(1, max(int(FASTEST / made), 1) + 1))
        rate = min(smoother, key=lambda each: abs(each - said))
    return min(rate or made or _no_rate(source), FASTEST), info


def _no_rate(source: Path) -> NoReturn:
    inside = f": put a file {RATE} with that number in it, such as 24" * (source.suffix.lower() == ".zip")
    raise ValueError(f"{source.name} does not say how many frames a second it has{inside}")


def _rate_in_zip(source: Path) -> float | None:
    """Pictures a second of a zip, which `PicturesWriter` writes into it; None without a number."""
    with _zip_of(source) as file:
        if RATE not in file.namelist() or file.getinfo(RATE).file_size > MAX_RATE:
            return None
        said = file.read(RATE).strip()
    if not re.fullmatch(rb"\d+(\.\d+)?", said):
        return None
    return min(float(said), FASTEST) or None


def fps_of(metadata: dict[str, Any]) -> int | None:
    """Frames a second of the settings in what a file says of itself; None where those are none.

    It becomes a part of ffmpeg's filters, so a file may say a number and nothing else.
    """
    settings = metadata.get("settings")
    if not isinstance(settings, dict):
        return None
    try:
        return check_value("fps", settings.get("fps"))
    except SettingsError:
        return None


def count_of(source: Path, fps: float) -> int:
    """About how many frames a clip has at `fps`, by its duration; 0 where it says none. ValueError for what
    cannot be read.
    """
    if source.suffix.lower() == ".zip":
        with _zip_of(source) as file:
            return len(_pictures_in(file))
    return round((inspect(source, EXPORTED).duration or 0) * fps)


def frames_of_result(
    source: Path, fps: float | None = None, info: VideoInfo | None = None
) -> Iterator[Image.Image]:
    """The frames of a video, or the pictures of a zip that `PicturesWriter` wrote, as RGB.
    ValueError otherwise.
    """
    if source.suffix.lower() != ".zip":
        yield from read_frames(source, fps=fps, budget=EXPORTED, info=info)
        return
    with _zip_of(source) as file:
        for name in _pictures_in(file):
            if (size := file.getinfo(name).file_size) > MAX_BYTES:
                raise ValueError(f"{source.name}: {name} has {size / 1e6:,.0f} MB, too much for a picture")
            yield read_picture(file.read(name))


@contextmanager
def _zip_of(source: Path) -> Iterator[ZipFile]:
    """A zip that is read. ValueError for what is none, or damaged."""
    try:
        with ZipFile(source) as file:
            yield file
    except (BadZipFile, OSError, NotImplementedError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{source.name} is not a zip of pictures that this program can read: {error}"
        ) from error


def _pictures_in(file: ZipFile) -> list[str]:
    """The names of a zip's pictures, in the order of their numbers: 9999.png, then 10000.png."""
    names = [name for name in file.namelist() if name.lower().endswith(".png")]
    return sorted(names, key=lambda name: re.sub(r"\d+", lambda digits: digits[0].zfill(MAX_DIGITS), name))


def sound_for(source: Path, kind: str, tell: Callable[[str], Any]) -> Sound | None:
    """The sound of a video that goes along; None, and a word to `tell`, where what it becomes (mp4, webm, …)
    has none, or where it cannot be read. ValueError for what is no video.
    """
    if source.suffix.lower() == ".zip":
        return None
    inspect(source)  # raises: the one error that is not of the sound
    try:
        sound = sound_of(source)
    except ValueError as error:
        tell(f"{error}: it is left out")
        return None
    if sound is not None and kind not in ("mp4", "webm"):
        tell(f"{source.name} has sound, which is left out: as {kind} it has pictures only")
        return None
    return sound
