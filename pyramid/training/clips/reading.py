"""What is in a sample: its pictures at a rate and a size, and, without decoding all, whether it can be used.

    clip = read_clip(sample, Wanted(fps=24, frames=121, sizes=BUCKETS["384p"]))   # uint8 (f, h, w, 3)
    facts = look(sample)                              # Facts; BrokenItem with the reason

The reader is the app's own (`pyramid.media.video_reader`): upright, deinterlaced, HDR as SDR, gaps closed.
"""

import math
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from pyramid.media.containers import this_file
from pyramid.media.files import ffmpeg
from pyramid.media.pictures import fit_picture, read_picture
from pyramid.media.video_reader import Budget, inspect, read_frames, read_frames_from
from pyramid.settings import FRAMES_PER_UNIT, frames_of
from pyramid.training.clips.buckets import Size, nearest, whole_units
from pyramid.training.clips.sample import BrokenItem, Sample

THUMBNAIL = 32  # pixels a side that shots are told apart by
CUT = 0.2  # mean difference of neighbors, of the whole range, from which on it may be a cut
CUT_FACTOR = 4  # and so many times the usual difference of this clip
RATES = (1, 120)  # frames a second, the least and the most: those that a result may have
PARTIAL = re.compile(r"partial file|ended prematurely|truncat|moov atom not found|end of file", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """What clips are brought to: `frames` at most, at `fps`, in the nearest of `sizes`."""

    fps: float
    frames: int
    sizes: tuple[Size, ...]
    least: int = 1 + FRAMES_PER_UNIT  # fewer frames of a video are too short
    cuts: bool = True  # whether a clip is its first shot that is long enough, by the cuts that are found


@dataclass(frozen=True)
class Facts:
    """What was found in a sample."""

    width: int
    height: int
    fps: float | None = None  # None: a picture, or a latent
    seconds: float | None = None
    picture: Image.Image | None = None  # its first frame, small


# -- its pictures
def read_clip(sample: Sample, wanted: Wanted) -> np.ndarray:
    """The frames of a sample, uint8 (f, h, w, 3), f = 1 for a picture, else 1 + 8k.

    Raises BrokenItem: missing, unreadable, too short.
    """
    pictures = _pictures(sample, wanted)
    try:
        first = next(pictures, None)
        if first is None:
            raise BrokenItem("too short", f"{sample.name} has no frame from {sample.start} on")
        width, height = nearest(wanted.sizes, first.width, first.height)
        frames = [np.asarray(fit_picture(first, width, height))]
        frames += [np.asarray(fit_picture(picture, width, height)) for picture in pictures]
    except BrokenItem:
        raise
    except (ValueError, OSError) as error:
        raise BrokenItem("unreadable", f"{sample.name}: {error}") from None
    clip = np.stack(frames)
    if sample.kind == "video" and wanted.cuts:
        clip = next((shot for shot in shots(clip) if len(shot) >= wanted.least), clip[:0])
    if sample.kind == "video" and len(clip) < wanted.least:
        raise BrokenItem(
            "too short", f"{sample.name} has no shot of {wanted.least} frames: {len(frames)} in all"
        )
    return clip[: frames_of(whole_units(len(clip)))]


def _pictures(sample: Sample, wanted: Wanted) -> Iterator[Image.Image]:
    """The pictures to use, cropped as the list says, of any size."""
    with sample.source.path() as path:
        if sample.kind == "image":
            yield _cropped(sample, read_picture(path))
            return
        if sample.frames is not None:
            chosen = set(sample.frames[: wanted.frames])
            for index, picture in enumerate(read_frames(path)):
                if index in chosen:
                    yield _cropped(sample, picture)
                if index >= max(chosen):
                    return
            return
        rate = (inspect(path).fps or wanted.fps) if sample.start or sample.end is not None else 1.0
        begin = round(sample.start / rate * wanted.fps)
        end = begin + wanted.frames
        if sample.end is not None:
            end = min(end, round(sample.end / rate * wanted.fps))
        for picture in islice(read_frames_from(path, begin, fps=wanted.fps), max(end - begin, 0)):
            yield _cropped(sample, picture)


def _cropped(sample: Sample, picture: Image.Image) -> Image.Image:
    """The part of a picture that the list says, as far as it lies in it."""
    if sample.crop is None:
        return picture
    left, right, top, bottom = sample.crop
    right = min(right, picture.width)
    bottom = min(bottom, picture.height)
    if right - left < 2 or bottom - top < 2:
        raise BrokenItem("too small", f"{sample.name}: nothing is left of it by the crop {sample.crop}")
    return picture.crop((left, top, right, bottom))


def shots(clip: np.ndarray) -> list[np.ndarray]:
    """The shots of a clip (f, h, w, 3), in order: itself, where there is no cut.

    A cheap detector: small gray pictures, and the difference of neighbors against this clip's usual one.
    """
    small = [Image.fromarray(frame).convert("L").resize((THUMBNAIL, THUMBNAIL)) for frame in clip]
    gray = np.stack([np.asarray(picture, dtype=np.float32) for picture in small]) / 255
    steps = np.abs(np.diff(gray, axis=0)).mean((1, 2))
    if not len(steps):
        return [clip]
    cuts = np.nonzero((steps > CUT) & (steps > CUT_FACTOR * np.median(steps)))[0]
    return np.split(clip, cuts + 1)


# -- whether it can be used
def look(
    sample: Sample, *, least_frames: int, least_side: int, picture: bool = False, captions: bool = True
) -> Facts:
    """What a sample is, read no further than that takes; `picture`: with its first frame. `captions`: whether
    it needs one: if so, it is for a transformer, which learns from files of the reference's in place of clip
    and texts where the list names them.

    Raises BrokenItem: missing, empty, unreadable, truncated, too short, too small, no caption, damaged latent
    and text features.
    """
    if captions and sample.text_features is not None:
        from pyramid.training.clips.cache import reference_text  # loads torch, which most lists do not need

        reference_text(sample.text_features)
    if captions and sample.latent is not None:
        facts = _latent_facts(sample.latent)
    else:
        facts = _clip_facts(sample, least_frames, picture)
        _check_side(sample, facts, least_side)
    if captions and not sample.captions:
        raise BrokenItem("no caption", f"{sample.name} has no caption")
    return facts


def _latent_facts(path: Path) -> Facts:
    from pyramid.hub.families import GRID
    from pyramid.training.clips.cache import reference_latent

    height, width = reference_latent(path).shape[2:]
    return Facts(GRID.downsampling * width, GRID.downsampling * height)


def _clip_facts(sample: Sample, least_frames: int, picture: bool) -> Facts:
    try:
        with sample.source.path() as path:
            facts = _picture_facts(path) if sample.kind == "image" else _video_facts(sample, path, picture)
    except BrokenItem:
        raise
    except (ValueError, OSError) as error:
        reason = "truncated" if PARTIAL.search(str(error)) else "unreadable"
        raise BrokenItem(reason, f"{sample.name}: {error}") from None
    if sample.kind == "video":
        _check_length(sample, facts, least_frames)
    return facts


def _check_side(sample: Sample, facts: Facts, least_side: int) -> None:
    """BrokenItem where less is left of a picture than is needed."""
    sides = (facts.width, facts.height)
    if sample.crop is not None:
        left, right, top, bottom = sample.crop
        sides = (min(right, facts.width) - left, min(bottom, facts.height) - top)
    if min(sides) < least_side:
        raise BrokenItem(
            "too small", f"{sample.name} is {sides[0]}×{sides[1]}: {least_side} pixels are needed"
        )


def _picture_facts(path: Path) -> Facts:
    picture = read_picture(path)
    small = picture.copy()
    small.thumbnail((256, 256))
    return Facts(picture.width, picture.height, picture=small)


def _video_facts(sample: Sample, path: Path, picture: bool) -> Facts:
    info = inspect(path)
    if complaint := _complaint(path):
        raise BrokenItem("truncated", f"{sample.name}: {complaint}")
    if picture:
        first = next(read_frames(path))
        width, height = first.size
        first.thumbnail((256, 256))
        return Facts(width, height, info.fps, info.duration, first)
    return Facts(*info.shown, info.fps, info.duration)


def _complaint(path: Path) -> str:
    """What ffmpeg says of a file whose end is missing, "" when it is whole. Nothing is decoded."""
    command = [ffmpeg(), "-v", "error", "-nostdin", *this_file(path), "-map", "0:v:0", "-c", "copy"]
    try:
        done = subprocess.run(
            [*command, "-f", "null", "-"], capture_output=True, check=False, timeout=Budget().seconds
        )
    except subprocess.TimeoutExpired:
        raise BrokenItem("unreadable", f"{path.name} takes too long to read") from None
    said = done.stderr.decode(errors="replace")
    return next((line for line in said.splitlines() if PARTIAL.search(line)), "")


def _check_length(sample: Sample, facts: Facts, least: int) -> None:
    """BrokenItem where fewer frames are left of a clip than are needed."""
    if sample.frames is not None:
        there = math.inf if facts.seconds is None or facts.fps is None else round(facts.seconds * facts.fps)
        count: float = len({frame for frame in sample.frames if frame < there})
    elif facts.seconds is None or facts.fps is None:
        return  # the container does not say; reading it will
    else:
        count = facts.seconds * facts.fps
        count = min(count, sample.end if sample.end is not None else count) - sample.start
    if round(count) < least:
        raise BrokenItem("too short", f"{sample.name} has {max(round(count), 0)} frames: {least} are needed")


def bucket_shares(facts: Sequence[Facts], sizes: Sequence[Size]) -> dict[Size, float]:
    """The share of samples that goes to each size."""
    counts = dict.fromkeys(sizes, 0)
    for fact in facts:
        counts[nearest(sizes, fact.width, fact.height)] += 1
    return {size: count / max(len(facts), 1) for size, count in counts.items()}
