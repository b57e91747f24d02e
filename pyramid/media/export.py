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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Self
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pyramid.media.containers import container_of
from pyramid.media.files import MEMBER, RATE, Unfit, beside, publish, reserve, tag, write_sidecar
from pyramid.media.join import join_to_source
from pyramid.media.pictures import read_picture, write_picture
from pyramid.media.result import fps_of, frames_of_result, metadata_of, pace_of, sound_for
from pyramid.media.sound import Sound
from pyramid.media.video import QUALITY, FramesWriter, VideoWriter
from pyramid.media.video_reader import read_frames
from pyramid.settings import FRAMES_PER_UNIT, SettingsError

KINDS = {  # what a result can become -> the file's ending, what it is for people
    "mp4": (".mp4", "mp4, plays everywhere"),
    "webm": (".webm", "webm (VP9), for web pages"),
    "gif": (".gif", "gif, moves in chats"),
    "png": (".zip", "PNG pictures in a zip, for editing"),
    "last": ("-last.png", "the last frame, PNG"),
    "stages": ("-stages.mp4", "the stages side by side, mp4"),
    "joined": ("-joined.mp4", "joined to the clip that it continues, mp4"),
}
OF_SOME = ("stages", "joined")  # kinds for results with kept estimates, and for those that continue a clip
PANEL = 384  # pixels: the longer side of one panel of the stages' clip, at least
MAX_PANEL = 640  # and at most
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
    before: Path | None = None,
    tell: Callable[[str], Any] = lambda sentence: None,
) -> Path:
    """Write the result `source` as `kind` (of KINDS) and return the new file's path; `source` stays as it is.

    `target`: the wanted name, by default `source`'s own with the kind's ending. `quality`: H.264's CRF, 1 to
    51; None copies an mp4 as it is, without loss. `keep`: where the settings go, see `files.KEEPS`.
    `estimates` by (unit, stage): what "stages" shows. `before`: the clip that "joined" puts in front, which
    `source` continues. `tell` hears of what is left out, such as sound.
    Raises ValueError for what cannot be made, or read.
    """
    source = Path(source)
    target = _target_of(source, kind, target)
    metadata = metadata_of(source)
    if source.suffix.lower() == ".png":
        return _export_still(source, kind, target, keep)
    if kind == "mp4" and quality is None and _is_mp4(source):
        with suppress(Unfit):  # its pictures are of a codec that mp4 has not: they are made anew
            return copy_video(source, target, metadata, keep, tell)
    if kind == "joined":
        if before is None:
            raise SettingsError(
                "source", f"joined begins with the clip that {source.name} continues: give it"
            )
        return join_to_source(source, before, target, quality=quality, keep=keep, tell=tell)
    sound = sound_for(source, kind, tell)
    if kind == "last":
        return _export_last(source, target, metadata, keep)
    if kind == "stages":
        return write_stages(target, source, estimates or {}, metadata, keep=keep)
    return _convert(source, target, metadata, keep=keep, quality=quality, sound=sound)


def _target_of(source: Path, kind: str, target: Path | None) -> Path:
    """The wanted name of what `source` becomes. SettingsError for an unknown kind, or another's ending."""
    if kind not in KINDS:
        raise SettingsError("format", f"unknown format {kind!r}: choose from {', '.join(KINDS)}")
    own = beside(source, KINDS[kind][0])
    target = Path(target) if target else own
    if source.suffix.lower() != ".png" and target.suffix.lower() != own.suffix:
        raise SettingsError("format", f"{target.name}: as {kind} its name must end in {own.suffix}")
    return target


def _is_mp4(source: Path) -> bool:
    """Whether it is one by its name and by its content. ValueError for what is no video."""
    return source.suffix.lower() == ".mp4" and container_of(source) == "mov"


def _export_still(source: Path, kind: str, target: Path, keep: str) -> Path:
    if kind not in ("png", "last"):
        raise SettingsError("format", f"{source.name} is one picture: it can be exported as PNG only")
    frame = np.asarray(read_picture(source))
    return write_picture(target.with_suffix(".png"), frame, metadata_of(source), keep=keep)


def _export_last(source: Path, target: Path, metadata: dict[str, Any], keep: str) -> Path:
    last = deque(frames_of_result(source), maxlen=1)
    if not last:
        raise ValueError(f"{source.name} has no pictures in it")
    told = metadata | {"export": "last frame", "source_file": source.name}
    return write_picture(target, np.asarray(last[0]), told, keep=keep)


def _convert(
    source: Path,
    target: Path,
    metadata: dict[str, Any],
    *,
    keep: str,
    quality: int | None,
    sound: Sound | None,
) -> Path:
    fps, info = pace_of(source, metadata)
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


def copy_video(
    source: Path, target: Path, metadata: dict[str, Any], keep: str, tell: Callable[[str], Any]
) -> Path:
    """The same video without loss, with its settings inside, beside or nowhere.

    `tell` hears where an mp4 cannot hold all of its tracks. Unfit where it cannot hold its pictures.
    """
    if not metadata:  # somebody else's: what cannot be decoded would be copied as well
        next(read_frames(source))
    part, path = reserve(target)
    try:
        _copy_tracks(source, part, metadata if keep == "embed" else None, tell)
        path = publish(part, path)
    finally:
        part.unlink(missing_ok=True)
    if keep == "sidecar":
        write_sidecar(path, metadata)
    return path


def _copy_tracks(source: Path, part: Path, inside: dict[str, Any] | None, tell: Callable[[str], Any]) -> None:
    """All tracks of pictures and sound, or the first of each that can be used."""
    try:
        tag(source, part, inside, every=True)
    except Unfit:
        tag(source, part, inside, sound=sound_for(source, "mp4", tell))
        tell(
            f"an mp4 cannot hold all that is in {source.name}: its first pictures, and the first sound that "
            "can be read, are kept"
        )


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
    `fps.txt` says how many of them a second, `settings.json` the rest.

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
                self._file.writestr(RATE, f"{self.fps:.10g}\n")
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
            "what the stages looked like was not kept for this result: make it again with previews",
        )
    pace, info = pace_of(source, metadata)
    fps = fps_of(metadata) or pace  # units are of frames as they were made: the clip may be smoother now
    pictures = _staged(frames_of_result(source, fps, info), estimates)
    first = next(pictures)
    told = metadata | {"export": "stages", "source_file": source.name}
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
