"""Clips one after the other in one file.

    join_clips([Path("morning.mp4"), Path("evening.mp4")], Path("day.mp4"))

    meeting(Path("morning.mp4"), Path("evening.mp4"))   # how they would meet, and what that looks like

    join_to_source(Path("ball-2.mp4"), Path("ball.mp4"), Path("both.mp4"))  # one, and what continues it

A clip that continues another begins with that one's last frames, as the model saw them: they are left out, so
that each moment is there once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyramid.media.pictures import fit_picture
from pyramid.media.result import fps_of, frames_of_result, metadata_of, pace_of, sound_for
from pyramid.media.seam import SIDE, Seam, Seams, seam, strip
from pyramid.media.video import QUALITY, VideoWriter
from pyramid.media.video_reader import sound_of


def join_clips(
    paths: Sequence[Path],
    target: Path,
    *,
    like: Path | None = None,
    skip: Sequence[int] = (),
    fit: str = "crop",
    quality: int = QUALITY,
    keep: str = "embed",
    tell: Callable[[str], Any] = lambda sentence: None,
) -> Path:
    """Write the clips one after the other as `target` (.mp4, .webm or .gif) and return its path.

    The whole has the size, the frames a second and the settings of `like`, by default of the first clip;
    others come to that size as `fit` says (`pictures.fit_picture`). `skip`: frames that are left out at each
    clip's beginning, none by default. The first clip keeps its sound; `tell` hears of sound that is left out,
    and how the clips meet (`seam.Seam`), which the file says too. Raises ValueError for fewer than two clips,
    and for what cannot be read.
    """
    paths = [Path(path) for path in paths]
    if len(paths) < 2:
        raise ValueError(f"{len(paths)} clips to join: give two or more")
    skip = [*skip] or [0] * len(paths)
    like = Path(like) if like else paths[0]
    about = metadata_of(like)
    fps, info = pace_of(like, about)
    size = next(frames_of_result(like, fps, info)).size
    about |= {"export": "joined", "joined": [path.name for path in paths]}
    sound = None if skip[0] else sound_for(paths[0], Path(target).suffix.lower().lstrip("."), tell)
    _tell_sound(paths[1:], tell)
    seams = Seams()
    with VideoWriter(target, fps, size, about, quality=quality, keep=keep, sound=sound) as writer:
        for path, first in zip(paths, skip, strict=True):
            seams.cut()
            for picture in frames_after(path, first, fps):
                writer.write(frame := np.asarray(fit_picture(picture, *size, fit)))
                seams.add(frame)
        writer.metadata["seams"] = [each.table for each in seams.end()]
    _tell_seams(paths, seams, tell)
    return writer.path


def meeting(
    first: Path, second: Path, *, like: Path | None = None, fit: str = "crop"
) -> tuple[Seam, Image.Image]:
    """How two clips would meet if they were joined, and a picture of it, see `seam.strip`: no file is made.

    Size and frames a second are those of `like`, by default of the first. Raises as `join_clips` does.
    """
    like = like or first
    fps, info = pace_of(like, metadata_of(like))
    size = next(frames_of_result(like, fps, info)).size
    sides = (
        deque(frames_after(first, 0, fps), maxlen=SIDE),
        islice(frames_after(second, 0, fps), SIDE),
    )
    before, after = (np.stack([np.asarray(fit_picture(each, *size, fit)) for each in side]) for side in sides)
    return seam(before, after), strip(before, after)


def _tell_sound(others: Sequence[Path], tell: Callable[[str], Any]) -> None:
    for path in others:
        if path.suffix.lower() != ".zip" and sound_of(path):
            tell(f"the sound of {path.name} is left out: only the first clip's is kept")


def _tell_seams(paths: Sequence[Path], seams: Seams, tell: Callable[[str], Any]) -> None:
    for path, met in zip(paths[1:], seams.found, strict=True):
        tell(f"where {path.name} begins, {met}")


def frames_after(path: Path, first: int, fps: float) -> Iterator[Image.Image]:
    """The frames of a clip at `fps` from number `first` on. ValueError where there are none."""
    frames = islice(frames_of_result(path, fps), first, None)
    picture = next(frames, None)
    if picture is None:
        raise ValueError(f"{path.name} has no frame after its first {first}: nothing of it could be joined")
    yield picture
    yield from frames


def given_frames(result: Path, metadata: dict[str, Any]) -> int:
    """How many frames of its source a clip begins with. ValueError for one that continues no other."""
    settings = metadata.get("settings")
    if not isinstance(settings, dict) or not settings.get("video"):
        raise ValueError(f"{result.name} continues no other clip: there is nothing to join it to")
    count = metadata.get("given_frames")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(
            f"{result.name} does not say how many frames of {settings['video']} it begins with: it was made "
            "by an earlier version; make it again to join it"
        )
    return count


def join_to_source(
    result: Path,
    source: Path,
    target: Path,
    *,
    quality: int | None = None,
    keep: str = "embed",
    tell: Callable[[str], Any] = lambda sentence: None,
) -> Path:
    """Write `source`, and then what `result`, which continues it, adds, as one clip in the size of `result`.

    `quality`: H.264's CRF, 1 to 51; None looks like the original. Raises ValueError where `result` continues
    no clip, or either cannot be read.
    """
    metadata = metadata_of(result)
    pace, _ = pace_of(result, metadata)
    made = fps_of(metadata) or pace  # it may be smoother since
    skip = (0, round(given_frames(result, metadata) * pace / made))
    return join_clips(
        [source, result],
        target,
        like=result,
        skip=skip,
        fit=metadata["settings"].get("fit", "crop"),
        quality=QUALITY if quality is None else quality,
        keep=keep,
        tell=tell,
    )
