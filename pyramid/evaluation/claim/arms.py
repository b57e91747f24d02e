"""The ways to train that are compared, and a run of one: so many counted operations, resumable, measured.

    run = ArmRun(ARMS["pyramid"], seed=0, clips=clips, folder=folder)
    while run.train(until=bench.flops):  ...               # a step each; the state is in folder/state.pt

Batches, prefixes, noise and history are those of `train dit` (`clips.batches.Order`, `clip_dit.sample_of`):
the ways differ in the recipe alone, and in how many samples a step has, so that a step has as many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor

from pyramid.disk import whole
from pyramid.evaluation.claim.bench import Bench, Clips
from pyramid.evaluation.claim.flops import count_operations
from pyramid.events import Unit
from pyramid.generate.guidance import GuidedModel, Prompt
from pyramid.generate.latents import normalize
from pyramid.generate.sampler import Crossing, Noise, Sampling, derive, sample
from pyramid.generate.scales import Guidance
from pyramid.generate.schedule import make_stages
from pyramid.hub.families import FAMILIES
from pyramid.models import transformer_class
from pyramid.settings import units_of
from pyramid.training.clip_dit import Row, make_optimizer, sample_of, together
from pyramid.training.clip_plan import stage_tokens
from pyramid.training.clips.batches import Order, Step, generator_for
from pyramid.training.clips.cache import Text
from pyramid.training.clips.recipe import ClipRecipe, DataRecipe, TrainRecipe

WORDS = 12  # of a caption, about: what a sample has in tokens beside its picture


@dataclass(frozen=True)
class Arm:
    """One way to train. `shares`: samples of each stage; `causal`: blockwise causal attention; `shrunken`:
    coarse levels are encoded from shrunken pixels, in place of averages of latents (`bench.add_shrunken`).
    """

    name: str
    label: str
    spatial: bool = True
    temporal: bool = True
    shares: tuple[int, ...] = (1, 2, 1)
    history_noise: float = 1 / 3
    causal: bool = True
    shrunken: bool = False

    def recipe(self, bench: Bench, seed: int) -> ClipRecipe:
        """The recipe of `train dit`, with a batch of about `bench.tokens` tokens."""
        world = bench.world
        data = DataRecipe(width=world.size, height=world.size, fps=world.fps, frames=world.frames, images=0)
        train = TrainRecipe(
            stage_shares=self.shares,
            temporal_pyramid=self.temporal,
            spatial_pyramid=self.spatial,
            history_noise=self.history_noise,
            learning_rate=bench.learning_rate,
            warm_up=bench.warm_up,
            ema_decay=bench.ema_decay,
        )
        draft = ClipRecipe(self.name, seed, data, train=train)
        shares = self.shares if self.spatial else (1,)
        tokens = [sum(counts) / len(counts) + WORDS for counts in stage_tokens(draft)]
        each = sum(share * count for share, count in zip(shares, tokens, strict=True)) / sum(shares)
        batch = sum(shares) * max(1, round(bench.tokens / each / sum(shares)))
        return ClipRecipe(self.name, seed, data, train=TrainRecipe(**(train.__dict__ | {"batch": batch})))


MAIN = (
    Arm("pyramid", "pyramid, autoregressive"),
    Arm("full-ar", "full resolution, autoregressive", spatial=False),
    Arm("full-sequence", "full resolution, full sequence", spatial=False, temporal=False, causal=False),
)
SIDE = (
    Arm("even-shares", "stages trained evenly (1:1:1)", shares=(1, 1, 1)),
    Arm("clean-history", "no noise on the history", history_noise=0.0),
    Arm("bidirectional", "bidirectional attention", causal=False),
    Arm("shrunken-pixels", "coarse latents from shrunken pixels", shrunken=True),
)
ARMS = {arm.name: arm for arm in (*MAIN, *SIDE)}


class ArmRun:
    """A run of one arm with one seed; goes on from its last saved state."""

    def __init__(self, arm: Arm, seed: int, clips: Clips, folder: Path):
        self.arm = arm
        self.seed = seed
        self.clips = clips
        self.folder = folder
        self.recipe = arm.recipe(clips.bench, seed)
        self.order = Order(clips.entries, self.recipe)
        self.stages = make_stages(self.recipe.stages)
        self.model = make_network(clips, seed, causal=arm.causal)
        self.weights = list(self.model.parameters())
        (self.optimizer,) = make_optimizer(self.model, self.recipe)
        self.average = EMAModel(
            self.weights, decay=self.recipe.train.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
        )
        self.step = 0
        self.flops = 0
        self.costs: dict[str, int] = {}  # of a sample, forward and backward, by its shapes
        folder.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            self._load(torch.load(self._path, weights_only=True))

    # -- training
    def train(self, until: float) -> bool:
        """One optimizer's step, unless `until` operations were done already; whether there was one."""
        if self.flops >= until:
            return False
        step, train = self.order.step(self.step), self.recipe.train
        places = range(len(step.entries))
        for stage in range(len(self.stages)):
            taken = [place for place in places if step.stages[place] == stage]
            if taken:
                loss = self._loss(step, taken) * len(taken) / len(step.entries)
                loss.backward()
        rate = train.learning_rate * min(1.0, (self.step + 1) / max(train.warm_up, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(self.weights, train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.average.step(self.weights)
        return True

    def _loss(self, step: Step, places: Sequence[int]) -> Tensor:
        """The loss of some places of one stage; adds what it costs to `flops`."""
        rows = [self._row(step, place) for place in places]
        for row, place in zip(rows, places, strict=True):
            self.flops += self._cost(row, step, place)
        return self._error(rows)

    def _row(self, step: Step, place: int) -> Row:
        """What one place of the batch trains on."""
        generator, train = generator_for(self.seed, step.number, place), self.recipe.train
        name = step.entries[place].name
        stored = self.clips.stored[name]
        dropped = bool(torch.rand(1, generator=generator) < train.text_dropout)
        assert stored.deviation is not None
        latents = stored.mean + stored.deviation * torch.randn(stored.mean.shape, generator=generator)
        clip = normalize(latents[None], self.clips.scales)[:, :, : step.prefixes[place]]
        coarse: list[Tensor] = []
        if self.arm.shrunken:
            levels = (normalize(level[None], self.clips.scales) for level in self.clips.coarse[name])
            coarse = [level[:, :, : step.prefixes[place]] for level in levels]
        made = sample_of(clip, step.stages[place], self.stages, self.recipe, generator, coarse)
        history, noisy, target, timestep = made
        text = self.clips.nothing if dropped else stored.texts[0]
        return Row([*history, noisy], target, timestep, text)

    def _error(self, rows: Sequence[Row]) -> Tensor:
        clips = [torch.cat(clips) for clips in zip(*(row.clips for row in rows), strict=True)]
        timestep = torch.cat([row.timestep for row in rows])
        velocity = self.model(clips, timestep=timestep, **together([row.text for row in rows]))
        return F.mse_loss(velocity.float(), torch.cat([row.target for row in rows]))

    def _cost(self, row: Row, step: Step, place: int) -> int:
        """What a sample costs: counted at the first of its kind, its noising and its history included."""
        stage, units = step.stages[place], step.prefixes[place]
        key = f"stage {stage}, {units} units"
        if key not in self.costs:

            def work() -> Tensor:
                self._row(step, place)
                return self._error([row])

            self.costs[key] = count_operations(work, self.weights)
        return self.costs[key]

    # -- its state
    @property
    def _path(self) -> Path:
        return self.folder / "state.pt"

    def save(self) -> None:
        """Keep everything that going on needs, in one file that is whole or not there."""
        state = {"step": self.step, "flops": self.flops, "costs": self.costs}
        state |= {"weights": [weight.detach() for weight in self.weights]}
        state |= {"optimizer": self.optimizer.state_dict(), "average": self.average.state_dict()}
        with whole(self._path) as part:
            torch.save(state, part)

    @torch.no_grad()
    def _load(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.flops = state["flops"]
        self.costs = state["costs"]
        self.average.load_state_dict(state["average"])
        for weight, kept in zip(self.weights, state["weights"], strict=True):
            weight.copy_(kept)
        self.optimizer.load_state_dict(state["optimizer"])

    # -- looking
    @torch.no_grad()
    def sample(self, texts: Sequence[Text], seed: int) -> Tensor:
        """Whole clips `(n, c, t, h, w)` of some captions, by the averaged weights."""
        self.average.store(self.weights)
        self.average.copy_to(self.weights)
        try:
            return self._sample(texts, seed)
        finally:
            self.average.restore(self.weights)

    def _sample(self, texts: Sequence[Text], seed: int) -> Tensor:
        bench, count = self.clips.bench, len(texts)
        guided = GuidedModel(
            self.model,
            _prompt(texts),
            _prompt([self.clips.nothing] * count),
            Guidance(bench.guidance, bench.guidance),
        )
        shape = self.clips.stored[self.clips.entries[0].name].mean.shape  # c t h w
        seeds = [seed + number for number in range(count)]
        if not self.arm.temporal:
            return sample_whole(guided, shape, seeds, bench.evaluations)
        steps = (bench.evaluations // len(self.stages),) * len(self.stages)
        run = Sampling(units=units_of(bench.world.frames), steps=steps, video_steps=steps, sampler="even")
        events = sample(guided, Noise((shape[0], *shape[2:]), seeds), run)
        return torch.cat([event.latents for event in events if isinstance(event, Unit)], dim=2)


def _prompt(texts: Sequence[Text]) -> Prompt:
    """Texts as the sampler takes them."""
    table = together(texts)
    states, mask = table["encoder_hidden_states"], table["encoder_attention_mask"]
    return Prompt(states, mask, table["pooled_projections"])


def make_network(clips: Clips, seed: int, *, causal: bool) -> Any:
    """A fresh miniFLUX of the bench's size: of one seed the same in all arms."""
    bench, family = clips.bench, FAMILIES["miniflux"]
    sizes = family.config(
        layers=bench.layers, single_layers=bench.single_layers, heads=bench.heads, head_dim=bench.head_dim
    )
    texts = {
        "joint_attention_dim": clips.nothing.states.shape[-1],
        "pooled_projection_dim": clips.nothing.pooled.shape[-1],
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformer_class(family.transformer_class)(
            **sizes, **texts, use_temporal_causal=causal
        ).train()


def sample_whole(model: GuidedModel, shape: Sequence[int], seeds: Sequence[int], steps: int) -> Tensor:
    """All units at once, at full resolution, in equal steps: `(n, c, t, h, w)`."""
    noises = [torch.randn((1, *shape), generator=derive(seed, "whole", 0, 0)) for seed in seeds]
    x = torch.cat(noises)
    (stage,) = make_stages(1)
    crossing = Crossing.of("even", stage, steps)
    velocity_of = model.stage(0, 0, [], x)
    for index, timestep in enumerate(crossing.timesteps):
        x = crossing.step(index, x, velocity_of(x, timestep), None)
    return x
