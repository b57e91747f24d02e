"""Clips of a list as the autoencoder trains on them: `train vae --data LIST`.

    with ListPool(open_list("clips"), recipe) as pool:           # as `pyramid.training.data.ClipPool`
        pool.advance(step)                                       # what is in memory at that step
        video = pool.batch(2, 64, 9, rng, photos=0.2)

Clips are brought to the largest size of the recipe's phases. Those of a short list are all kept in memory. Of
a longer one, `[vae] pool_mb` of them are: threads read on in an order drawn from the seed, `fresh` clips a
step, and the oldest go. What is in memory follows from the step alone, so a run that was killed goes on bit
for bit. Of several processes, each reads its share of one order. Every tenth clip is held out, for looking,
and of a long list as many as are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyramid.memory.threads import usable_cores
from pyramid.settings import FRAMES_PER_UNIT
from pyramid.training.clips.lists import Listing
from pyramid.training.clips.reading import Wanted, read_clip
from pyramid.training.clips.sample import BrokenItem, Sample
from pyramid.training.data import ClipPool, to_video
from pyramid.training.recipe import Recipe, VAERecipe

HELD_OUT = 10  # of so many items one is
SHOWN = 4  # held-out clips
MOST_READERS = 4  # threads, each of which waits for ffmpeg
AHEAD = 2 * MOST_READERS  # clips that are read before their step comes
RESERVE = AHEAD + 2 * MOST_READERS  # places for clips beside those: one that is being read takes two
PICTURES = 1 / 8  # of the memory, where a list has clips too
LEAST_PLACES = 8  # for clips in memory: with fewer, neighboring steps are too much alike


def largest(settings: VAERecipe) -> tuple[int, int]:
    """The most pixels a side and the most frames of all phases. ValueError where there is none."""
    if not settings.phases:
        raise ValueError("[[vae.phases]] is missing in the recipe: it says the sizes and lengths")
    return max(phase.size for phase in settings.phases), max(phase.frames for phase in settings.phases)


def readers() -> int:
    """Threads that read clips."""
    return max(1, min(MOST_READERS, int(usable_cores())))


def places(settings: VAERecipe, frames: int, share: float = 1.0) -> int:
    """How many clips of so many frames a share of `pool_mb` holds, besides those that are being read. It
    follows from the recipe alone, or a run would go on otherwise on a machine of other cores. ValueError
    where they are too few.
    """
    side, _ = largest(settings)
    each = frames * side * side * 3
    count = int(share * settings.pool_mb * 2**20) // each - RESERVE
    if count < LEAST_PLACES:
        least = each * (LEAST_PLACES + RESERVE) / share / 2**20
        raise ValueError(
            f"[vae] pool_mb = {settings.pool_mb} holds too few clips of {frames} frames at {side}×{side}: "
            f"give {int(least) + 1} or more"
        )
    return count


@dataclass
class Stream:
    """An endless order of samples, with a window of it in memory.

    Each round over the samples has an order of its own. A process takes every `share[1]`-th read of it, from
    `share[0]` on. Where all samples have a place, the window is all of them, and stays.
    """

    samples: Sequence[Sample]
    places: int
    seed: int
    share: tuple[int, int]
    window: dict[int, Future] = field(default_factory=dict)
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all samples are in memory."""
        return len(self.samples) <= self.places

    def sample(self, number: int) -> Sample:
        """The sample of a read of this process."""
        if self.whole:
            return self.samples[number]
        turn, place = divmod(number * self.share[1] + self.share[0], len(self.samples))
        if turn not in self._orders:
            self._orders = {old: order for old, order in self._orders.items() if old == turn - 1}
            self._orders[turn] = np.random.default_rng([self.seed, turn]).permutation(len(self.samples))
        return self.samples[self._orders[turn][place]]

    def move(self, first: int, read: Callable[[Sample], Future]) -> list[tuple[Sample, Future]]:
        """Let the window begin at a read, and begin the reads behind it; what is in it, in order."""
        first = 0 if self.whole else first
        end = first + min(self.places, len(self.samples))
        for number in [number for number in self.window if number < first]:
            self.window.pop(number).cancel()
        for number in range(first, end if self.whole else end + AHEAD):
            if number not in self.window:
                self.window[number] = read(self.sample(number))
        return [(self.sample(number), self.window[number]) for number in range(first, end)]


class ListPool(ClipPool):
    """The clips and pictures of a list, and crops of them. `share`: which of how many processes that have
    clips of their own. ValueError where there are not enough, or more than `most_broken` cannot be read.
    """

    def __init__(self, listing: Listing, recipe: Recipe, share: tuple[int, int] = (0, 1)):
        self.settings = recipe.vae
        self.seed = recipe.seed
        self.share = share
        side, self.frames = largest(recipe.vae)
        self.world = replace(recipe.world, size=side, frames=self.frames)
        least = min(self.frames, 1 + FRAMES_PER_UNIT)
        self.wanted = Wanted(recipe.world.fps, self.frames, ((side, side),), least)
        self.broken: dict[str, str] = {}
        self.held: list[np.ndarray] = []
        self._first: int | None = None  # read of the window
        self._threads = ThreadPoolExecutor(readers(), "clips")
        try:
            kinds: dict[str, list[Sample]] = {"video": [], "image": []}
            for sample in self._hold_out(chosen(listing, recipe)):
                kinds[sample.kind].append(sample)
            self.streams = streams(kinds, recipe, share)
            self.advance(0)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ListPool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Read no further."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _hold_out(self, samples: list[Sample]) -> list[Sample]:
        """What is left to train on, once some clips are held out; those, where nothing else is left."""
        short = len(samples) <= HELD_OUT * SHOWN
        held: dict[int, Sample] = {}
        tried = set()
        due = False
        for place, sample in enumerate(samples):
            due = due or place % HELD_OUT == 0
            if not due or (len(self.held) == SHOWN and not short):
                continue
            tried.add(place)
            clip = self._clip(sample, self._read(sample))
            if clip is not None:
                held[place] = sample
                self.held.append(clip)
                due = False
            elif len(tried) > HELD_OUT * SHOWN and not held:
                self._check(0, len(tried))
        self.held = self.held[:SHOWN]
        return [sample for place, sample in enumerate(samples) if place not in tried] or [*held.values()]

    def _read(self, sample: Sample) -> Future:
        return self._threads.submit(read_clip, sample, self.wanted)

    def _clip(self, sample: Sample, read: Future) -> np.ndarray | None:
        """What was read, None where it could not be, which is told once."""
        try:
            return read.result()
        except BrokenItem as error:
            if sample.name not in self.broken:
                print(f"skipped: {sample.name}: {error.reason}")
                self.broken[sample.name] = error.reason
            return None

    def drawn(self, step: int) -> np.random.Generator:
        """Have in memory what a step draws from; what it draws with, which follows from its number, too."""
        self.advance(step)
        return np.random.default_rng([self.seed, self.share[0], step])

    def advance(self, step: int) -> None:
        """Have in memory what a step draws from; waits for the threads where they are behind."""
        first = int(step * self.settings.fresh)
        if first == self._first:
            return
        self._first = first
        found: dict[str, list[np.ndarray]] = {}
        for kind, stream in self.streams.items():
            read = [self._clip(*each) for each in stream.move(first, self._read)]
            found[kind] = [clip for clip in read if clip is not None]
            self._check(len(found[kind]), len(read))
        self.toys = found.get("video", [])
        self.stills = found.get("image", []) or [clip[:1] for clip in self.toys]
        if not any(len(clip) >= self.frames for clip in (*self.toys, *self.stills)):
            raise ValueError(f"no usable clip of the list has the {self.frames} frames of the longest phase")

    def _check(self, usable: int, read: int) -> None:
        if read - usable > self.settings.most_broken * read:
            raise ValueError(
                f"{read - usable} of {read} items cannot be used, more than the share "
                f"{self.settings.most_broken:g} of [vae] most_broken: data doctor says which"
            )

    def _one(self, size: int, frames: int, rng: np.random.Generator, photos: float) -> np.ndarray:
        """A random window of a random clip; of one frame, with probability `photos`, of a picture."""
        pictures = frames == 1 and (rng.random() < photos or not self.toys)
        source = self.stills if pictures else [clip for clip in self.toys if len(clip) >= frames]
        clip = source[rng.integers(len(source))]
        length, height, width = clip.shape[:3]
        start = rng.integers(length - frames + 1)
        top = rng.integers(height - size + 1)
        left = rng.integers(width - size + 1)
        return clip[start : start + frames, top : top + size, left : left + size]

    def held_out_videos(self, count: int = SHOWN) -> dict[str, Tensor]:
        """Clips that training never sees, of one length, and their first frames."""
        length = min(len(clip) for clip in self.held)
        clips = np.stack([clip[:length] for clip in self.held[:count]])
        made = {"clip": to_video(clips), "still": to_video(clips[:, :1])}
        return made if length > 1 else {"still": made["still"]}

    @torch.no_grad()
    def latents_of(self, vae, rng: np.random.Generator, videos: int) -> tuple[Tensor, Tensor]:
        """As ClipPool's; of pictures alone, the first units stand in for later ones."""
        first, later = super().latents_of(vae, rng, videos)
        return first, later if len(later) else first


def chosen(listing: Listing, recipe: Recipe) -> list[Sample]:
    """The items that a run is on, in the order of the list: `[vae] clips` of them, all where that is 0."""
    samples = [item for item in listing if isinstance(item, Sample)]
    most = recipe.vae.clips or len(samples)
    if len(samples) <= most:
        return samples
    picked = np.random.default_rng(recipe.seed).permutation(len(samples))[:most]
    return [samples[place] for place in sorted(picked)]


def streams(kinds: dict[str, list[Sample]], recipe: Recipe, share: tuple[int, int]) -> dict[str, Stream]:
    """What is read of each kind that there is. ValueError where there is nothing, or no memory for it."""
    found = {kind: samples for kind, samples in kinds.items() if samples}
    if not found:
        raise ValueError("the list has no clips and no pictures to train on: data doctor says why")
    both = len(found) > 1
    shares = {"video": 1 - PICTURES, "image": PICTURES} if both else dict.fromkeys(found, 1.0)
    lengths = {"video": largest(recipe.vae)[1], "image": 1}
    return {
        kind: Stream(samples, places(recipe.vae, lengths[kind], shares[kind]), recipe.seed, share)
        for kind, samples in found.items()
    }
