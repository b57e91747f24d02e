"""A finished result in other forms: another format or quality, pictures, its last frame,
its stages side by side.

    export(Path("outputs/a-ball-7.mp4"), "gif")                       # outputs/a-ball-7.gif
    export(path, "mp4", quality=28, keep="none")  # smaller, and says nothing of how it was made
    export(path, "stages", estimates=load_estimates(folder))  # a clip: each stage's estimate, then the result

Also directly from frames, as they are made:

    with open_writer(folder / "clip.webm", fps, (width, height), metadata, keep="sidecar") as writer:
        writer.write(frames)                                          # uint8 (f, h, w, 3)

All follow the rules of `pyramid.media.files`: a name that is taken is never replaced, and what has a name is
complete.
"""

import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pyramid.media.files import MEMBER, publish, read_metadata, reserve, tag, write_sidecar
from pyramid.media.pictures import write_picture
from pyramid.media.sound import Sound
from pyramid.media.video import QUALITY, FramesWriter, VideoWriter
from pyramid.media.video_reader import Budget, VideoInfo, inspect, read_frames, sound_of
from pyramid.settings import FRAMES_PER_UNIT, SettingsError

KINDS = {  # what a result can become -> the file's ending, what it is for people
    "mp4": (".mp4", "mp4, plays everywhere"),
    "webm": (".webm", "webm (VP9), for web pages"),
    "gif": (".gif", "gif, moves in chats"),
    "png": (".zip", "PNG pictures in a zip, for editing"),
    "last": ("-last.png", "the last frame, PNG"),
    "stages": ("-stages.mp4", "the stages side by side, mp4"),
}
PANEL = 384  # pixels: the longer side of one panel of the stages' clip, at least
MAX_PANEL = 640  # and at most
# What the owner of the machine asks for may take its time.
EXPORTED = Budget(seconds=3600.0, frames=500_000)
FASTEST = 120.0  # frames a second
CAPTION = 28  # pixels under each panel
INK = (240, 236, 228)
GROUND = (20, 19, 15)


def export(
    source: Path,
    kind: str,
    target: Path | None = None,
    *,
    quality: int | None = None,
    keep: str = "embed",
    estimates: dict[tuple[int, int], Image.Image] | None = None,
    tell: Callable[[str], Any] = lambda sentence: None,
) -> Path:
    """Write the result `source` as `kind` (of KINDS) and return the new file's path; `source` stays as it is.

    `target`: the wanted name, by default `source`'s own with the kind's ending. `quality`: H.264's CRF, 1 to
    51; None copies an mp4 as it is, without loss. `keep`: where the settings go, see `files.KEEPS`.
    `estimates` by (unit, stage): what "stages" shows. `tell` hears of what is left out, such as sound.
    Raises ValueError for what cannot be made, or read.
    """
    if kind not in KINDS:
        raise SettingsError("format", f"unknown format {kind!r}: choose from {', '.join(KINDS)}")
    source = Path(source)
    target = Path(target) if target else source.with_name(source.stem + KINDS[kind][0])
    metadata = _metadata_of(source)
    if source.suffix.lower() == ".png":
        return _export_still(source, kind, target, keep)
    if target.suffix.lower() != (ending := Path(f"x{KINDS[kind][0]}").suffix):
        raise SettingsError("format", f"{target.name}: as {kind} its name must end in {ending}")
    if kind == "mp4" and quality is None and source.suffix.lower() == ".mp4":
        return copy_video(source, target, metadata, keep)
    sound = _sound_for(source, kind, tell)
    if kind == "last":
        *_, last = frames_of_result(source)
        return write_picture(target, np.asarray(last), metadata | {"export": "last frame"}, keep=keep)
    if kind == "stages":
        return write_stages(target, source, estimates or {}, metadata, keep=keep)
    return _convert(source, target, metadata, keep=keep, quality=quality, sound=sound)


def _metadata_of(source: Path) -> dict[str, Any]:
    try:
        return read_metadata(source)
    except ValueError:
        if not source.is_file():
            raise
        return {}  # it was made without: nothing to pass on


def _export_still(source: Path, kind: str, target: Path, keep: str) -> Path:
    if kind not in ("png", "last"):
        raise SettingsError("format", f"{source.name} is one picture: it can be exported as PNG only")
    with Image.open(source) as image:
        frame = np.asarray(image.convert("RGB"))
    return write_picture(target.with_suffix(".png"), frame, _metadata_of(source), keep=keep)


def _sound_for(source: Path, kind: str, tell: Callable[[str], Any]) -> Sound | None:
    """The sound of a video that goes along; None, and a word to `tell`, where it cannot."""
    if source.suffix.lower() == ".zip":
        return None
    try:
        sound = sound_of(source)
    except ValueError as error:
        tell(f"{error}: it is left out")
        return None
    if sound is not None and kind not in ("mp4", "webm"):
        tell(f"{source.name} has sound, which is left out: as {kind} it has pictures only")
        return None
    return sound


def _convert(
    source: Path,
    target: Path,
    metadata: dict[str, Any],
    *,
    keep: str,
    quality: int | None,
    sound: Sound | None,
) -> Path:
    fps, info = _fps(source, metadata)
    frames = frames_of_result(source, fps, info)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{source.name} has no pictures in it")
    quality = QUALITY if quality is None else quality
    with open_writer(target, fps, first.size, metadata, quality=quality, keep=keep, sound=sound) as writer:
        writer.write(np.asarray(first))
        for picture in frames:
            writer.write(np.asarray(picture))
    return writer.path


def copy_video(source: Path, target: Path, metadata: dict[str, Any], keep: str) -> Path:
    """The same video without loss, with its settings inside, beside or nowhere."""
    part, path = reserve(target)
    try:
        tag(source, part, metadata if keep == "embed" else None)
        path = publish(part, path)
    finally:
        part.unlink(missing_ok=True)
    if keep == "sidecar":
        write_sidecar(path, metadata)
    return path


def frames_of_result(
    source: Path, fps: float | None = None, info: VideoInfo | None = None
) -> Iterator[Image.Image]:
    """The frames of a video, or the pictures of a zip that `PicturesWriter` wrote, as RGB.
    ValueError otherwise.
    """
    if source.suffix.lower() != ".zip":
        yield from read_frames(source, fps=fps, budget=EXPORTED, info=info)
        return
    try:
        with ZipFile(source) as file:
            for name in sorted(name for name in file.namelist() if name.endswith(".png")):
                with Image.open(io.BytesIO(file.read(name))) as image:
                    yield image.convert("RGB")
    except (BadZipFile, OSError) as error:
        raise ValueError(
            f"{source.name} is not a zip of pictures that this program can read: {error}"
        ) from error


def _fps(source: Path, metadata: dict[str, Any]) -> tuple[float, VideoInfo | None]:
    """Frames a second: as the settings say, for a GIF rounds it; else as the file says, with all that it
    says. ValueError without either.
    """
    if fps := metadata.get("settings", {}).get("fps"):
        return fps, None
    info = inspect(source, EXPORTED)
    # Frames that are spaced unevenly keep their times at the steady rate; where that is a clock's, at their
    # average.
    rate = info.rate if info.rate and info.rate <= FASTEST else info.fps
    if not rate:
        raise ValueError(f"{source.name} does not say how many frames a second it has")
    return min(rate, FASTEST), info


# -- writers
def open_writer(
    path: str | Path,
    fps: float,
    size: tuple[int, int],
    metadata: dict | None = None,
    *,
    quality: int = QUALITY,
    keep: str = "embed",
    sound: Sound | None = None,
) -> "VideoWriter | PicturesWriter":
    """A writer for frames by the name's ending: .mp4, .webm and .gif, or .zip for pictures.
    See `VideoWriter`.
    """
    if Path(path).suffix.lower() == ".zip":
        return PicturesWriter(path, fps, size, metadata, keep=keep)
    return VideoWriter(path, fps, size, metadata, quality=quality, keep=keep, sound=sound)


class PicturesWriter(FramesWriter):
    """A zip of PNGs, 0001.png and so on, as frames arrive; used as `VideoWriter` is.
    `settings.json` says the rest.

    Raises ValueError for frames of another size, OSError when the file cannot be written.
    """

    def __enter__(self) -> Self:
        self._part, self.path = reserve(self.wanted)
        self._file = ZipFile(self._part, "w", ZIP_STORED)  # PNG is compressed already
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames: uint8 (f, h, w, 3), or one frame (h, w, 3)."""
        for frame in self._checked(frames):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, format="PNG")
            self.frames += 1
            self._file.writestr(f"{self.frames:04d}.png", buffer.getvalue())

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None and self.frames:
                if (inside := self._settle()) is not None:
                    self._file.writestr(MEMBER, json.dumps(inside, indent=2, allow_nan=False))
                self._file.close()
                self._publish(self._part)
        finally:
            self._file.close()
            self._part.unlink(missing_ok=True)


# -- stages
def write_stages(
    target: Path,
    source: Path,
    estimates: dict[tuple[int, int], Image.Image],
    metadata: dict[str, Any],
    *,
    keep: str = "embed",
) -> Path:
    """A clip that shows, side by side, the last denoised estimate of each stage and the result, in step.

    A unit is 8 frames and has one estimate a stage. Where a unit was given (a picture or a clip to begin
    with) its stages show the result in their size. ValueError when there are no estimates at all.
    """
    if not estimates:
        raise SettingsError(
            "format",
            "what the stages looked like was not kept for this result: "
            "make it again with previews switched on",
        )
    pictures = _staged(frames_of_result(source), estimates)
    first = next(pictures)
    told = metadata | {"export": "stages"}
    fps, _ = _fps(source, metadata)
    with open_writer(target, fps, first.size, told, keep=keep) as writer:
        for picture in chain([first], pictures):
            writer.write(np.asarray(picture))
    return writer.path


def _staged(
    frames: Iterator[Image.Image], estimates: dict[tuple[int, int], Image.Image]
) -> Iterator[Image.Image]:
    """Each frame beside what its unit's stages looked like."""
    stages = max(stage for _, stage in estimates) + 1
    sizes = {stage: picture.size for (_, stage), picture in estimates.items()}
    for index, frame in enumerate(frames):
        unit = -(-index // FRAMES_PER_UNIT)  # the first frame is unit 0, then 8 each
        panels = [
            estimates.get((unit, stage)) or frame.resize(sizes.get(stage, frame.size), Image.Resampling.BOX)
            for stage in range(stages)
        ]
        yield _side_by_side([*panels, frame], frame.size)


def _side_by_side(panels: list[Image.Image], size: tuple[int, int]) -> Image.Image:
    """The stages' pictures and the result in a row, all as large as each other, with their sizes in words."""
    scale = min(max(PANEL, *size), MAX_PANEL) / max(size)
    width, height = (round(side * scale / 2) * 2 for side in size)
    gap = 8
    whole = Image.new("RGB", (len(panels) * (width + gap) + gap, height + CAPTION + gap), GROUND)
    draw = ImageDraw.Draw(whole)
    font = ImageFont.load_default(15)
    for number, panel in enumerate(panels):
        left = gap + number * (width + gap)
        last = number == len(panels) - 1
        large = panel.resize((width, height), Image.Resampling.LANCZOS)
        whole.paste(large, (left, gap))
        # Pixels; the last stage has the result's.
        shown = [side >> max(len(panels) - 2 - number, 0) for side in size]
        words = "Result" if last else f"Stage {number + 1}"
        draw.text((left + 2, gap + height + 4), f"{words} · {shown[0]} × {shown[1]}", fill=INK, font=font)
    return whole
