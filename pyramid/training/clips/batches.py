"""Which items a step trains on, at which stage: a function of the recipe and the step's number, and no state.

    order = Order(cache.entries(), recipe)
    step = order.step(12_345)                       # Step: its items, their stages, the length of the prefix

So a run goes on anywhere as if it had never stopped, and all processes agree without asking. Every item of a
bucket (one size, one length) comes once an epoch; a last batch that is not full is filled from the front.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pyramid.training.clips.cache import Entry
from pyramid.training.clips.recipe import ClipRecipe


@dataclass(frozen=True)
class Step:
    """What one step trains on: an item, its stage and the units of its prefix for each place in the batch."""

    number: int
    entries: tuple[Entry, ...]
    stages: tuple[int, ...]
    prefixes: tuple[int, ...]


class Order:
    """The order of the batches. Raises ValueError for a cache without an item that could be trained on."""

    def __init__(self, entries: Sequence[Entry], recipe: ClipRecipe):
        self.recipe = recipe
        images = [entry for entry in entries if entry.shape[0] == 1]
        clips = [entry for entry in entries if entry.shape[0] > 1]
        if not images and not clips:
            raise ValueError("there is nothing to train on: the list has no usable item")
        self.images = Epochs(images, recipe)
        self.clips = Epochs(clips, recipe)
        # Only what there is: a list of pictures alone is all pictures.
        share = recipe.data.images if images else 0.0
        self.share = share if clips else 1.0
        shares = recipe.train.stage_shares if recipe.stages > 1 else (1,)
        self.pattern = [stage for stage, count in enumerate(shares) for _ in range(count)]

    def step(self, number: int) -> Step:
        """The step `number`, 0 the first."""
        before = int(number * self.share + 1e-9)
        now = int((number + 1) * self.share + 1e-9)
        pictures = now > before
        turn = before if pictures else number - before
        entries = (self.images if pictures else self.clips).batch(turn)
        count = len(entries)
        stages = tuple(self.pattern[(number * count + place) % len(self.pattern)] for place in range(count))
        units = entries[0].shape[0]
        prefixes = tuple(self._prefix(turn, units, stage) for stage in stages)
        return Step(number, tuple(entries), stages, prefixes)

    def _prefix(self, turn: int, units: int, stage: int) -> int:
        """Units of the clip that are trained on: long ones at the finest stage are short at the others.

        The finest sweeps 1…units over the steps, the same on all processes, so each step costs about as much.
        """
        if not self.recipe.train.temporal_pyramid:
            return units
        length = turn % units + 1
        return length if stage == self.recipe.stages - 1 else 1 + units - length


class Epochs:
    """Batches of one kind, shuffled anew each time that all were seen."""

    def __init__(self, entries: Sequence[Entry], recipe: ClipRecipe):
        self.size = recipe.train.batch
        self.seed = recipe.seed
        self.buckets: dict[tuple[int, int, int], list[Entry]] = {}
        for entry in entries:
            self.buckets.setdefault(entry.shape, []).append(entry)
        self.count = sum(-(-len(bucket) // self.size) for bucket in self.buckets.values())
        self._epoch = -1
        self._batches = [[entries[0]]] if entries else []

    def batch(self, turn: int) -> list[Entry]:
        """The batch of turn 0, 1, …"""
        epoch, place = divmod(turn, self.count)
        if epoch != self._epoch:
            self._epoch = epoch
            self._batches = self._shuffled(epoch)
        return self._batches[place]

    def _shuffled(self, epoch: int) -> list[list[Entry]]:
        rng = np.random.default_rng([self.seed, epoch])
        batches = []
        for shape in sorted(self.buckets):
            bucket = self.buckets[shape]
            order = [bucket[i] for i in rng.permutation(len(bucket))]
            for start in range(0, len(order), self.size):
                taken = order[start : start + self.size]
                batches.append(
                    [taken[i] if i < len(taken) else order[i % len(order)] for i in range(self.size)]
                )
        return [batches[i] for i in rng.permutation(len(batches))]


def generator_for(seed: int, step: int, place: int) -> torch.Generator:
    """What one sample of one step draws from, whichever process works on it."""
    digest = hashlib.sha256(f"{seed} {step} {place}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
