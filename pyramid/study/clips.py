"""The videos of a blind study: found by their prompts, and copied so that nothing of a copy tells its origin.

    found = videos_by_prompt(Path("ours"), ["a red ball"])       # {"a red ball": [path, …]}
    copy_blind(path, Path("study/clips/5f3c….mp4"))               # the frames alone, encoded anew: a Clip
    copy_blind(path, target, ruined=True)                         # for an attention check

A copy has the frames and their rate. Its name is random, it has no metadata and no sound, and the encoder is
the same for all. What is left are size, rate and length, which `pyramid.study.kept` names in its report.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyramid.media.files import read_metadata, videos_in
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import inspect, read_frames

NUMBERED = re.compile(r"(?P<prompt>.+)-\d+")  # VBench's names: the prompt, and which of its samples
RUIN = 12  # pixels of the short side that are left of a ruined clip
USUAL_RATE = 24.0  # of a video that does not say its own


@dataclass(frozen=True)
class Clip:
    """What can be seen of a copy."""

    width: int
    height: int
    fps: float
    frames: int


def prompt_of(path: Path) -> str:
    """The words that a video was made from: as its record says, else as its name does (VBench's way)."""
    try:
        settings = read_metadata(path).get("settings")
    except ValueError:
        settings = None
    if isinstance(settings, dict) and isinstance(settings.get("prompt"), str) and settings["prompt"]:
        return settings["prompt"]
    found = NUMBERED.fullmatch(path.stem)
    return found["prompt"] if found else path.stem


def videos_by_prompt(folder: Path, prompts: Sequence[str] = ()) -> dict[str, list[Path]]:
    """The videos of a folder by the words they show; with `prompts`, those words alone, in their order.

    Words are told apart without regard to case and spaces. ValueError names prompts without a video.
    """
    found: dict[str, list[Path]] = {}
    for path in videos_in(folder):
        found.setdefault(prompt_of(path), []).append(path)
    if not prompts:
        return found
    known = {plain(prompt): paths for prompt, paths in found.items()}
    missing = [prompt for prompt in prompts if plain(prompt) not in known]
    if missing:
        shown = ", ".join(repr(prompt) for prompt in missing[:3])
        raise ValueError(
            f"{folder} has no video for {len(missing)} of {len(prompts)} prompts ({shown}): a video is found "
            "by the prompt in its record, or by its name, as `a red ball-0.mp4`"
        )
    return {prompt: known[plain(prompt)] for prompt in prompts}


def plain(prompt: str) -> str:
    return " ".join(prompt.casefold().split())


def copy_blind(source: Path, target: Path, *, ruined: bool = False) -> Clip:
    """Encode a video's frames anew at `target` (.mp4), without metadata and sound.

    `ruined`: as a few large blocks, in a random order, which nobody who looks can prefer. ValueError for what
    is no video.
    """
    info = inspect(source)
    fps = info.rate or info.fps or USUAL_RATE
    frames = (np.asarray(picture) for picture in read_frames(source, info=info))
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{source.name} has no frames")
    size = (first.shape[1], first.shape[0])
    with VideoWriter(target, fps, size, keep="none") as writer:
        for frame in _ruined(first, frames) if ruined else _after(first, frames):
            writer.write(frame)
    return Clip(*writer.written_size, round(float(fps), 3), writer.frames)


def _after(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest


def _ruined(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames as blocks, in a random order."""
    block = max(2, min(first.shape[:2]) // RUIN)
    small = [frame[block // 2 :: block, block // 2 :: block] for frame in _after(first, rest)]
    for index in np.random.default_rng(0).permutation(len(small)):
        large = small[index].repeat(block, 0).repeat(block, 1)[: first.shape[0], : first.shape[1]]
        more = ((0, first.shape[0] - large.shape[0]), (0, first.shape[1] - large.shape[1]), (0, 0))
        yield np.pad(large, more, mode="edge")
