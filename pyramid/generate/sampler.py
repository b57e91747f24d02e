"""The sampler: steps in stages in units, as a generator of events. It calls the model it is given.

    for event in sample(model, prompt, negative, noise=Noise((16, 48, 80), seeds=[7]), units=16,
                        steps=(20, 20, 20), video_steps=(10, 10, 10), guidance=Guidance(7.0, 5.0)):
        ...                                      # Preview, one a step; Unit, one a unit

`model` needs two methods, as the transformers in `pyramid.models` have them: `prepare(history, shape,
encoder_hidden_states, encoder_attention_mask)` computes once a stage all that its steps share, and
`denoise(current, timestep, pooled_projections, context)` returns the velocity.

Source: arXiv 2410.05954, sections 3.2 (inference with renoising) and 3.3 (autoregression over units).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pyramid.events import Preview, Status, Unit
from pyramid.generate.latents import block_noise, clean_estimate, history, jump, noise_pyramid
from pyramid.generate.schedule import make_stages

# ------------------------------------------------------------------------------------------------------------
# What a run is given


@dataclass(frozen=True, eq=False)
class Prompt:
    """A text as the transformer reads it. The model's inputs take the dtype and device of `embeds`."""

    embeds: Tensor  # (b, l, d)
    mask: Tensor  # (b, l), 0 where text is padding
    pooled: Tensor  # (b, p)


@dataclass(frozen=True)
class Guidance:
    """How far to go from the negative prompt's velocity to the prompt's, and past it. 1: the prompt alone."""

    first: float = 7.0  # unit 0
    video: float = 5.0  # the later units
    minimum: float = 2.0  # where the linear schedule stops
    decay: float = 0.0  # above 0, unit u gets `max(scale - decay * u, minimum)`

    def at(self, unit: int) -> float:
        """The guidance scale of a unit."""
        scale = self.video if unit else self.first
        return max(scale - self.decay * unit, self.minimum) if self.decay > 0 else scale


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
    ):
        """`shape`: channels, height, width of the latents; `seeds`: one for each sample of the batch.

        `latents` (b, c, t, h, w): the initial noise at full resolution, one frame for each unit to sample,
        where `first` is the index of the first of them. `jumps`: the block noise of all jumps in order of
        use.
        """
        self.shape, self.seeds, self.first = shape, list(seeds), first
        self.latents = latents
        self._jumps = iter(jumps) if jumps is not None else None

    def initial(self, unit: int, stages: int) -> Tensor:
        """Where a unit starts: (b, c, 1, h, w) at stage 0's resolution."""
        if self.latents is not None:
            index = unit - self.first
            full = self.latents[:, :, index : index + 1].float()
        else:
            role = "motion" if unit else "composition"
            shape = (1, self.shape[0], 1, *self.shape[1:])
            full = torch.cat([torch.randn(shape, generator=g) for g in self._generators(role, unit, 0)])
        return noise_pyramid(full, stages)[0]  # b c 1 h0 w0

    def jump(self, unit: int, stage: int, shape: Sequence[int]) -> Tensor:
        """The block noise of the jump into `stage`: `shape` (b, c, 1, h, w) there."""
        if self._jumps is not None:
            return next(self._jumps).float()
        generators = self._generators("detail", unit, stage)
        return torch.cat([block_noise((1, *shape[1:]), generator=g) for g in generators])

    def _generators(self, role: str, unit: int, stage: int) -> list[torch.Generator]:
        return [derive(seed, role, unit, stage) for seed in self.seeds]


def derive(seed: int, role: str, unit: int, stage: int) -> torch.Generator:
    """A CPU generator for one role in one place; by a hash, so that seeds 1 and 2 give unrelated noise."""
    digest = hashlib.sha256(f"{seed} {role} {unit} {stage}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # 63 bits: fits int64


class Stop(Protocol):
    """What can stop a run: a `threading.Event`, or anything that answers `is_set`."""

    def is_set(self) -> bool: ...


# Called after each step with (unit, stage, step, timestep, x); may return other latents to go on with.
StepCallback = Callable[[int, int, int, float, Tensor], Tensor | None]
# Brings the model into a wider type while it is entered, which it returns; None where there is no wider one.
Widen = Callable[[], AbstractContextManager[torch.dtype | None]]

# ------------------------------------------------------------------------------------------------------------
# The run


def sample(  # noqa: PLR0913
    model,
    prompt: Prompt | None,
    negative: Prompt | None = None,
    *,
    noise: Noise,
    units: int,
    steps: Sequence[int],
    video_steps: Sequence[int],
    guidance: Guidance,
    given: Sequence[Tensor] = (),
    finished: Sequence[Tensor] = (),
    stop: Stop | None = None,
    preview_every: int = 0,
    on_step_end: StepCallback | None = None,
    split: bool = False,
    widen: Widen = lambda: nullcontext(None),
) -> Iterator[Preview | Status | Unit]:
    """Sample `units` units, the first `len(given)` of which are given as clean latents (b, c, 1, h, w).

    `finished`: the units after those as an earlier run yielded them. They are yielded again and not sampled:
    as a unit depends on the seed's roles and on the units before it only, the rest is what that run would
    have made. Where nothing is left to sample, `prompt` may be None.

    `steps` (unit 0) and `video_steps` (later units) have one entry a stage: their length is the number of
    stages. `preview_every` n > 0: each n-th step of a stage, and its last, carries a clean estimate. Latents
    are float32 throughout; the model gets them in the dtype of `prompt.embeds`. `stop` is looked at before
    each step: once it is set the generator ends, and the units it has yielded are whole. `split`: the prompt
    and the negative one go through the model one after the other, which halves the memory of a step. A step
    that comes out with a NaN or an infinity is taken again in the wider type that `widen` gives, and a Status
    tells it; FloatingPointError where that does not help.
    """
    stages = make_stages(len(steps))
    assert len(video_steps) == len(stages) and len(given) + len(finished) <= units
    past = [unit.float() for unit in [*given, *finished]]
    for index, latents in enumerate(past):
        yield Unit(index, units, latents, given=index < len(given))
    total = sum(sum(video_steps if unit else steps) for unit in range(len(past), units))
    done = 0

    for unit in range(len(past), units):
        counts, scale = (video_steps if unit else steps), guidance.at(unit)
        texts = _branches(prompt, negative, scale, split)
        x = noise.initial(unit, len(stages)).to(prompt.embeds.device)
        for stage, count in zip(stages, counts, strict=True):
            if stage.index > 0:
                finer = (*x.shape[:3], 2 * x.shape[3], 2 * x.shape[4])
                x = jump(x, stage, noise.jump(unit, stage.index, finer).to(x.device))
            clips = history(past, stage.index, len(stages))
            contexts = [_prepare(model, text, clips, x) for text in texts]
            timesteps, sigmas = (values.tolist() for values in stage.inference(count))
            for step in range(count):
                if stop is not None and stop.is_set():
                    return
                velocity = _velocity(model, texts, contexts, x, timesteps[step], scale)
                if not torch.isfinite(velocity).all():
                    where = f"Unit {unit + 1}, stage {stage.index + 1}, step {step + 1}"
                    velocity, told = _retry(model, texts, clips, x, timesteps[step], scale, widen)
                    yield Status("precision", f"{where}: {told}.")
                x = x + (sigmas[step + 1] - sigmas[step]) * velocity
                if on_step_end is not None:
                    replaced = on_step_end(unit, stage.index, step, timesteps[step], x)
                    x = x if replaced is None else replaced.float()
                done += 1
                wanted = preview_every > 0 and ((step + 1) % preview_every == 0 or step + 1 == count)
                clean = clean_estimate(x, velocity, sigmas[step + 1], stage) if wanted else None
                yield Preview(unit, units, stage.index, len(stages), step, count, clean, done, total)
        if not torch.isfinite(x).all():
            raise FloatingPointError(f"Unit {unit} is not finite: use bfloat16 or float32.")
        past.append(x)
        yield Unit(unit, units, x)


def _branches(prompt: Prompt, negative: Prompt | None, scale: float, split: bool) -> list[Prompt]:
    """The batches that a step runs: both texts in one, negative first, or one after the other;
    the prompt alone where the negative's weight would be 0.
    """
    if scale == 1:
        return [prompt]
    assert negative is not None, "guidance needs a negative prompt"
    if split:
        return [negative, prompt]
    return [
        Prompt(
            torch.cat([negative.embeds, prompt.embeds]),  # 2b l d
            torch.cat([negative.mask, prompt.mask]),  # 2b l
            torch.cat([negative.pooled, prompt.pooled]),  # 2b p
        )
    ]


# Gradient modes belong to a thread, and a consumer may resume a generator on another one: so each call to the
# model enters and leaves its own, and none encloses a `yield`.


@torch.no_grad()
def _prepare(model, text: Prompt, past: list[Tensor], x: Tensor):
    """What all steps of a stage share."""
    copies = len(text.embeds) // len(x)
    clips = [clip.to(text.embeds.dtype).repeat(copies, 1, 1, 1, 1) for clip in past]
    return model.prepare(clips, tuple(x.shape[2:]), text.embeds, text.mask)


@torch.no_grad()
def _velocity(model, texts: list[Prompt], contexts: list, x: Tensor, timestep: float, scale: float) -> Tensor:
    """The guided velocity in float32: `negative + scale * (positive - negative)`."""
    parts = []
    for text, context in zip(texts, contexts, strict=True):
        copies = len(text.embeds) // len(x)
        current = x.to(text.embeds.dtype).repeat(copies, 1, 1, 1, 1)
        timesteps = torch.full((len(current),), timestep, dtype=torch.float32, device=x.device)
        parts += model.denoise(current, timesteps, text.pooled, context).float().chunk(copies)
    if len(parts) == 1:
        return parts[0]
    negative, positive = parts
    return negative + scale * (positive - negative)


def _retry(
    model, texts: list[Prompt], clips: list[Tensor], x: Tensor, timestep: float, scale: float, widen: Widen
) -> tuple[Tensor, str]:
    """A velocity that overflowed, once more in a wider type, and a sentence on it.
    FloatingPointError if in vain.
    """
    narrow = str(texts[0].embeds.dtype).removeprefix("torch.")
    with widen() as dtype:
        if dtype is None:
            raise FloatingPointError(f"The model overflows in {narrow}: use bfloat16 or float32.")
        texts = [replace(t, embeds=t.embeds.to(dtype), pooled=t.pooled.to(dtype)) for t in texts]
        contexts = [_prepare(model, text, clips, x) for text in texts]
        velocity = _velocity(model, texts, contexts, x, timestep, scale)
    wide = str(dtype).removeprefix("torch.")
    if not torch.isfinite(velocity).all():
        raise FloatingPointError(
            f"The model overflows in {narrow} and in {wide} too: its weights are damaged."
        )
    return velocity, f"{narrow} overflowed, so this step was taken in {wide}"


@contextmanager
def in_float32(model) -> Iterator[torch.dtype | None]:
    """The model in float32 while this lasts, and exactly as it was after it.
    None where that cannot be done: it is in float32 already, or its weights are moved about, or packed, by
    others.
    """
    narrow = model.dtype
    moved = any(
        getattr(part, "_diffusers_hook", None) and part._diffusers_hook.hooks for part in model.modules()
    )
    if narrow == torch.float32 or moved or getattr(model, "is_quantized", False):
        yield None
        return
    try:
        yield torch.nn.Module.to(model, torch.float32).dtype  # diffusers' own warns of what is meant here
    finally:
        torch.nn.Module.to(model, narrow)
