"""Clips of a list as the autoencoder trains on them: `train vae --data LIST`.

    pool = ListPool(open_list("clips"), recipe, rng)            # as `pyramid.training.data.ClipPool`
    video = pool.batch(2, 64, 9, rng, photos=0.2)

Clips are brought to the largest size of the recipe's phases, and kept in memory: `[vae] clips` of them at
most. Every tenth is held out, for looking and measuring.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pyramid.training.clips.lists import Listing
from pyramid.training.clips.reading import Wanted, read_clip
from pyramid.training.clips.sample import BrokenItem, Sample
from pyramid.training.data import ClipPool, to_video
from pyramid.training.recipe import Recipe

HELD_OUT = 10  # of so many items one is
SHOWN = 4  # held-out clips


class ListPool(ClipPool):
    """The clips and pictures of a list, and crops of them. ValueError where there are not enough."""

    def __init__(self, listing: Listing, recipe: Recipe, rng: np.random.Generator):
        phases = recipe.vae.phases
        if not phases:
            raise ValueError("[[vae.phases]] is missing in the recipe: it says the sizes and lengths")
        side = max(phase.size for phase in phases)
        frames = max(phase.frames for phase in phases)
        self.world = replace(recipe.world, size=side, frames=frames)
        samples = [item for item in listing if isinstance(item, Sample)]
        chosen = sorted(rng.permutation(len(samples))[: recipe.vae.clips])
        wanted = Wanted(recipe.world.fps, frames, ((side, side),))
        self.broken: dict[str, str] = {}
        read = [clip for index in chosen if (clip := self._read(samples[index], wanted)) is not None]
        self.held = read[::HELD_OUT][:SHOWN]
        kept = [clip for index, clip in enumerate(read) if index % HELD_OUT or len(read) == 1]
        self.toys = [clip for clip in kept if len(clip) > 1]
        self.stills = [clip for clip in kept if len(clip) == 1] or [clip[:1] for clip in self.toys]
        if not any(len(clip) >= frames for clip in kept):
            raise ValueError(f"no usable clip of the list has the {frames} frames of the longest phase")

    def _read(self, sample: Sample, wanted: Wanted) -> np.ndarray | None:
        try:
            return read_clip(sample, wanted)
        except BrokenItem as error:
            print(f"skipped: {sample.name}: {error.reason}")
            self.broken[sample.name] = error.reason
            return None

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
