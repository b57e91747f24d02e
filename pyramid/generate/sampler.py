"""The sampler: steps in stages in units, as a generator of events. It calls the model it is given.

    model = GuidedModel(transformer, prompt, negative, Guidance(7.0, 5.0))
    run = Sampling(units=16, steps=(20, 20, 20), video_steps=(10, 10, 10))
    for event in sample(model, Noise((16, 48, 80), seeds=[7]), run):
        ...                                      # Preview, one a step; Unit, one a unit

Source: arXiv 2410.05954, sections 3.2 (inference with renoising) and 3.3 (autoregression over units).
"""

import hashlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol, Self

import torch
from torch import Tensor

from pyramid.events import Preview, Unit
from pyramid.generate.guidance import Model
from pyramid.generate.latents import block_noise, denoised_estimate, history, jump, noise_pyramid, pyramid, up
from pyramid.generate.schedule import Stage, make_stages
from pyramid.settings import SAMPLERS, evaluations

# ----------------------------------------------------------------------------------------------------------
# What a run is given


class Noise:
    """All the Gaussian noise of a run. What is not given is drawn on the CPU, by role.

    Every draw has a generator of its own, derived from (seed, role, unit, stage): so a unit's noise does not
    depend on how many units follow, on what ran before, on the device, or on the other samples of the batch.
    The roles: "composition" starts unit 0, "motion" the later units, "detail" is the noise of the jumps.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        seeds: Sequence[int],
        *,
        latents: Tensor | None = None,
        jumps: Sequence[Tensor] | None = None,
        first: int = 0,
        variation: "Variation | None" = None,
        unit_seeds: Mapping[int, Sequence[int]] | None = None,
    ):
        """`shape`: channels, height, width of the latents; `seeds`: one for each sample of the batch.

        `latents` (b, c, t, h, w): the initial noise at full resolution, one frame for each unit to sample,
        where `first` is the index of the first of them. `jumps`: the block noise of all jumps in order of
        use. `variation`: what the drawn start of that first unit is blended with. `unit_seeds`: other seeds
        for some units, one a sample.
        """
        self.shape = shape
        self.seeds = list(seeds)
        self.first = first
        self.latents = latents
        self.variation = variation
        self.unit_seeds = unit_seeds or {}
        self._jumps = iter(jumps) if jumps is not None else None

    def initial(self, unit: int, stages: int) -> Tensor:
        """Where a unit starts: (b, c, 1, h, w) at stage 0's resolution."""
        return noise_pyramid(self.full(unit), stages)[0]  # b c 1 h0 w0

    def full(self, unit: int) -> Tensor:
        """The noise field of a unit, whose coarsest level it starts at: (b, c, 1, h, w)."""
        if self.latents is not None:
            index = unit - self.first
            return self.latents[:, :, index : index + 1].float()
        role = "motion" if unit else "composition"
        full = self._drawn(self._seeds(unit), role, unit)
        if self.variation is not None and unit == self.first:
            full = self.variation.blend(full, self._drawn(self.variation.seeds, role, unit))
        return full

    def _seeds(self, unit: int) -> Sequence[int]:
        return self.unit_seeds.get(unit, self.seeds)

    def _drawn(self, seeds: Sequence[int], role: str, unit: int) -> Tensor:
        """(b, c, 1, h, w) at full resolution."""
        shape = (1, self.shape[0], 1, *self.shape[1:])
        return torch.cat([torch.randn(shape, generator=derive(seed, role, unit, 0)) for seed in seeds])

    def jump(self, unit: int, stage: int, shape: Sequence[int]) -> Tensor:
        """The block noise of the jump into `stage`: `shape` (b, c, 1, h, w) there."""
        if self._jumps is not None:
            return next(self._jumps).float()
        generators = [derive(seed, "detail", unit, stage) for seed in self._seeds(unit)]
        return torch.cat([block_noise((1, *shape[1:]), generator=g) for g in generators])


@dataclass(frozen=True)
class Variation:
    """Other seeds, one a sample, and how far to go from the noise of a run to theirs."""

    seeds: Sequence[int]
    strength: float  # in [0, 1]: a share of the quarter turn from one noise to the other

    def blend(self, noise: Tensor, other: Tensor) -> Tensor:
        """Both fields at an angle: as they are independent, the blend is of unit variance at any strength."""
        angle = self.strength * math.pi / 2
        return math.cos(angle) * noise + math.sin(angle) * other


def derive(seed: int, role: str, unit: int, stage: int) -> torch.Generator:
    """A CPU generator for one role in one place; by a hash, so that seeds 1 and 2 give unrelated noise."""
    digest = hashlib.sha256(f"{seed} {role} {unit} {stage}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # 63 bits: fits int64


# ----------------------------------------------------------------------------------------------------------
# How a stage is crossed


@dataclass(frozen=True, eq=False)
class Crossing:
    """The steps from a stage's start to its end, by one of `settings.SAMPLERS`.

    Each stage has its own: at a jump the flow changes, and nothing of the stage before holds on.
    """

    timesteps: Sequence[float]  # what the model is told, one a step
    levels: Sequence[float]  # stage-local noise levels r, 1 … 0, one more
    multistep: bool = False

    @classmethod
    def of(cls, sampler: str, stage: Stage, steps: int) -> Self:
        """What a sampler does of `steps` steps of a stage."""
        assert sampler in SAMPLERS
        if sampler == "reference":
            grid = stage.inference(steps)
        else:
            grid = stage.even(*evaluations(sampler, [steps]))
        timesteps, levels = (values.tolist() for values in grid)
        return cls(timesteps, levels, multistep=sampler == "multistep")

    def step(self, index: int, x: Tensor, velocity: Tensor, before: Tensor | None) -> Tensor:
        """`x` a step on; `before` is the velocity of the step before, None at the first.

        With `multistep` the second-order rule of Adams and Bashforth: the velocity in the middle of the step,
        as it would be if it went on changing as it did. Else Euler's.
        """
        size = self.levels[index + 1] - self.levels[index]
        if self.multistep and before is not None:
            ratio = size / (self.levels[index] - self.levels[index - 1])
            velocity = velocity + ratio / 2 * (velocity - before)
        return x + size * velocity


# ----------------------------------------------------------------------------------------------------------
# What is asked


class Stop(Protocol):
    """What can stop a run: a `threading.Event`, or anything that answers `is_set`."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, eq=False)
class Begun:
    """Where an earlier run left a unit: the latents (b, c, 1, h, w) at the end of one of its stages."""

    unit: int
    stage: int
    latents: Tensor


# Called after each step with (unit, stage, step, timestep, x); may return other latents to go on with.
StepCallback = Callable[[int, int, int, float, Tensor], Tensor | None]


@dataclass(frozen=True, eq=False)
class Sampling:
    """What is to be sampled.

    `steps` (unit 0) and `video_steps` (later units) have one entry a stage: their length is the number of
    stages. `sampler` is one of `settings.SAMPLERS`, and decides how many of the steps are taken.
    `given`: the first units as clean latents (b, c, 1, h, w), made of pictures. `finished`: the units after
    those as an earlier run yielded them; they are yielded again and not sampled: as a unit depends on the
    seed's roles and on the units before it only, the rest is what that run would have made. `preview_every` n
    > 0: each n-th step of a stage, and its last, carries a denoised estimate. `stop` is looked at before each
    step. `begun`: a unit of which some stages are not made again. `unit_steps`: other steps for some units.
    `history_units` > 0: a unit sees so many before it, and no more are held. `correct`: each channel
    of a later unit is brought to the mean and the spread that it has in unit 1.
    """

    units: int
    steps: Sequence[int]
    video_steps: Sequence[int]
    sampler: str = "reference"
    given: Sequence[Tensor] = ()
    finished: Sequence[Tensor] = ()
    preview_every: int = 0
    on_step_end: StepCallback | None = None
    stop: Stop | None = None
    begun: Begun | None = None
    history_units: int = 0
    correct: bool = False
    unit_steps: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def __post_init__(self):
        assert len(self.video_steps) == len(self.steps) and self.known <= self.units

    @property
    def known(self) -> int:
        """How many units need no sampling."""
        return len(self.given) + len(self.finished)

    @property
    def stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    def begun_of(self, unit: int) -> Begun | None:
        """What is there of a unit already."""
        return self.begun if self.begun is not None and self.begun.unit == unit else None

    def counts(self, unit: int) -> Sequence[int]:
        """The steps that are taken in a unit, one entry a stage."""
        taken = evaluations(self.sampler, self.wanted(unit))
        begun = self.begun_of(unit)
        made = 0 if begun is None else begun.stage + 1
        return (*(0,) * made, *taken[made:])

    def wanted(self, unit: int) -> Sequence[int]:
        """The steps that are asked for in a unit, one entry a stage."""
        return self.unit_steps.get(unit) or (self.video_steps if unit else self.steps)

    @cached_property
    def _steps_before(self) -> list[int]:
        """The steps that are taken before each unit from the first sampled one on, and before the end."""
        counts = (sum(self.counts(unit)) for unit in range(self.known, self.units))
        return list(accumulate(counts, initial=0))

    def steps_before(self, unit: int, stage: int = 0) -> int:
        """How many steps are taken before a stage of a unit."""
        return self._steps_before[unit - self.known] + sum(self.counts(unit)[:stage])

    def wants_preview(self, step: int, count: int) -> bool:
        """Whether a step of a stage of `count` steps carries a denoised estimate."""
        return self.preview_every > 0 and ((step + 1) % self.preview_every == 0 or step + 1 == count)


# ----------------------------------------------------------------------------------------------------------
# The run


def sample(model: Model | None, noise: Noise, run: Sampling) -> Iterator[Preview | Unit]:
    """Sample the units of a run, one after the other, each from its coarsest stage to its finest.

    Latents are float32 throughout. Once `run.stop` is set the generator ends, and the units that it has
    yielded are whole. Without units to sample no model is needed. Raises FloatingPointError for a unit that
    is not finite.
    """
    stages = make_stages(len(run.steps))
    past = [latents.float() for latents in [*run.given, *run.finished]]
    for unit, latents in enumerate(past):
        yield Unit(unit, run.units, latents, given=unit < len(run.given))
    reference = past[1] if len(past) > 1 else None
    known = len(past)
    past = past[-run.history_units :]
    for unit in range(known, run.units):
        assert model is not None, "units to sample need a model"
        begun = run.begun_of(unit)
        x = (noise.initial(unit, len(stages)) if begun is None else begun.latents).to(model.device)
        for stage in stages[0 if begun is None else begun.stage + 1 :]:
            finished = yield from sample_stage(model, noise, run, past, x, stage, unit)
            if finished is None:
                return
            x = finished
        if not torch.isfinite(x).all():
            raise FloatingPointError(f"Unit {unit} is not finite: use bfloat16 or float32.")
        if run.correct and unit > 0:
            x = x if reference is None else matched(x, reference)
            reference = x if reference is None else reference
        past.append(x)
        yield Unit(unit, run.units, x)
        past = past[-run.history_units :]  # all of them where that is 0


def sample_coarse(model: Model | None, noise: Noise, run: Sampling) -> Iterator[Preview | Unit]:
    """As `sample`, of each sampled unit the coarsest stage alone: a draft of the run.

    A unit is its denoised estimate at that stage's resolution, and that is all that later units see of it:
    they depart from those of the run. The stage of the first one is the run's own.
    """
    run = replace(run, preview_every=run.preview_every or 1 + max(*run.steps, *run.video_steps))
    stages = make_stages(len(run.steps))
    past = [latents.float() for latents in [*run.given, *run.finished]]
    for unit, latents in enumerate(past):
        yield Unit(unit, run.units, pyramid(latents, len(stages))[0], given=unit < len(run.given))
    for unit in range(len(past), run.units):
        assert model is not None, "units to sample need a model"
        x = noise.initial(unit, len(stages)).to(model.device)
        clean: Tensor | None = None
        for event in sample_stage(model, noise, run, past[-run.history_units :], x, stages[0], unit):
            clean = event.clean
            yield event
        if clean is None or run.stopped:
            return
        yield Unit(unit, run.units, clean)
        for _ in stages[1:]:  # in the size of the others; of which the coarsest stage sees what is here now
            clean = up(clean)
        past.append(clean)


def matched(x: Tensor, reference: Tensor) -> Tensor:
    """Latents (b, c, 1, h, w) with the mean and the spread that each channel has in `reference`."""
    axes = (2, 3, 4)
    spread = x.std(axes, keepdim=True).clamp(min=1e-6)
    share = reference.std(axes, keepdim=True) / spread
    return (x - x.mean(axes, keepdim=True)) * share + reference.mean(axes, keepdim=True)


def sample_stage(
    model: Model, noise: Noise, run: Sampling, past: Sequence[Tensor], x: Tensor, stage: Stage, unit: int
) -> Generator[Preview, None, Tensor | None]:
    """The steps of a unit at one stage, from `x` as the stage before left it; it sees the units `past`.

    Returns the latents at the end of the stage, or None after a stop.
    """
    crossing = Crossing.of(run.sampler, stage, run.wanted(unit)[stage.index])
    before: Tensor | None = None
    if stage.index > 0:
        finer = (*x.shape[:3], 2 * x.shape[3], 2 * x.shape[4])
        x = jump(x, stage, noise.jump(unit, stage.index, finer).to(x.device))
    velocity_of = model.stage(unit, stage.index, history(past, stage.index, len(run.steps)), x)
    for step, timestep in enumerate(crossing.timesteps):
        if run.stopped:
            return None
        velocity = velocity_of(x, timestep)
        x = crossing.step(step, x, velocity, before)
        before = velocity
        if run.on_step_end is not None:
            replaced = run.on_step_end(unit, stage.index, step, timestep, x)
            x = x if replaced is None else replaced.float()
        clean = None
        if run.wants_preview(step, len(crossing.timesteps)):
            clean = denoised_estimate(x, velocity, crossing.levels[step + 1], stage)
        last = step + 1 == len(crossing.timesteps)
        yield replace(_preview(run, unit, stage.index, step), clean=clean, latents=x if last else None)
    return x


def _preview(run: Sampling, unit: int, stage: int, step: int) -> Preview:
    done = run.steps_before(unit, stage) + step + 1
    total = run.steps_before(run.units)
    count = run.counts(unit)[stage]
    return Preview(unit, run.units, stage, len(run.steps), step, count, None, done, total)
