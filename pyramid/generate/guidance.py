"""Classifier-free guidance: from a transformer and its texts to the one velocity that a step needs.

    model = GuidedModel(transformer, prompt, negative, Guidance.of(settings))
    velocity = model.stage(unit, stage, history, x)        # once a stage: all that its steps share
    velocity(x, timestep)                                   # negative + scale * (positive - negative),
    float32

`transformer` needs two methods, as those in `pyramid.models` have them: `prepare(history, shape,
encoder_hidden_states, encoder_attention_mask)` computes what the steps of a stage share, and
`denoise(current, timestep, pooled_projections, context)` returns the velocity.

Source: Ho and Salimans, arXiv 2207.12598; the scales of first and later units as in the released models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid.generate.scales import Guidance
from pyramid.models.block_cache import BlockCache

# The velocity at latents (b, c, 1, h, w) float32 and a timestep, as float32.
Velocity = Callable[[Tensor, float], Tensor]


class Model(Protocol):
    """What the sampler asks of a model."""

    @property
    def device(self) -> torch.device: ...

    def stage(self, unit: int, stage: int, history: Sequence[Tensor], x: Tensor) -> Velocity: ...


@dataclass(frozen=True, eq=False)
class Prompt:
    """A text as the transformer reads it. The model's inputs take the dtype and device of `embeds`."""

    embeds: Tensor  # (b, l, d)
    mask: Tensor  # (b, l), 0 where text is padding
    pooled: Tensor  # (b, p)

    def to(self, dtype: torch.dtype) -> Self:
        """The same text in another dtype."""
        return type(self)(self.embeds.to(dtype), self.mask, self.pooled.to(dtype))


def blend(texts: Sequence[tuple[Prompt, float]]) -> Prompt:
    """Texts crossfaded by weights that add up to 1: their embeddings' weighted sum; one alone stays as it is.

    Where a text has ended and another goes on, its last token stands for it.
    """
    if len(texts) == 1:
        return texts[0][0]
    length = max(text.embeds.shape[1] for text, _ in texts)
    embeds = []
    masks = []
    for text, weight in texts:
        last = (text.mask != 0).sum(dim=1, keepdim=True).clamp(min=1) - 1  # b 1
        places = torch.arange(length, device=last.device).expand(len(last), -1).minimum(last)  # b l
        whole = text.embeds.gather(1, places[..., None].expand(-1, -1, text.embeds.shape[2]))  # b l d
        embeds.append(weight * whole.float())
        masks.append(F.pad(text.mask, (0, length - text.mask.shape[1])))
    first = texts[0][0]
    pooled = sum(
        (weight * text.pooled.float() for text, weight in texts), torch.zeros(()).to(first.pooled.device)
    )
    mask = torch.stack(masks).amax(dim=0)
    return Prompt(torch.stack(embeds).sum(dim=0).to(first.embeds.dtype), mask, pooled.to(first.pooled.dtype))


@dataclass(eq=False)
class Control:
    """What may be changed of a run that is under way: it holds from the next step on. None: as it began."""

    scale: float | None = None  # of guidance, for all units; 1 and less turn it off
    prompt: Prompt | None = None
    negative: Prompt | None = None

    @property
    def state(self) -> tuple[float | None, Prompt | None, Prompt | None]:
        """What tells whether anything was changed since."""
        return self.scale, self.prompt, self.negative


def step_of(transformer: Any) -> Callable[..., Tensor]:
    """A transformer's `denoise`, by way of its own call where it was compiled (by `torch.compile(model)` or
    `model.compile()`): nothing but that call is compiled then.
    """
    whole = getattr(transformer, "_orig_mod", transformer)  # of what `torch.compile` wrapped
    if whole is transformer and getattr(transformer, "_compiled_call_impl", None) is None:
        return transformer.denoise
    return lambda current, timesteps, pooled, context, **cache: transformer(
        [current], timestep=timesteps, pooled_projections=pooled, context=context, **cache
    )


@dataclass(frozen=True, eq=False)
class GuidedModel:
    """A transformer that is told the prompt and the negative prompt.

    `split`: the two go through the transformer one after the other, which halves the memory of a step.
    `control` may change text and guidance between two steps. Each stage has a `block_cache` of its own.
    """

    transformer: Any
    prompt: Prompt
    negative: Prompt | None = None
    guidance: Guidance = Guidance()
    split: bool = False
    control: Control | None = None
    told: Mapping[int, Prompt] = field(default_factory=dict)  # other prompts, by unit
    block_cache: float = 0.0  # the threshold of a `BlockCache`; 0: none

    @property
    def device(self) -> torch.device:
        return self.prompt.embeds.device

    def stage(self, unit: int, stage: int, history: Sequence[Tensor], x: Tensor) -> Velocity:
        """The velocity of a unit's stage, where it depends on the history (clips coarse to fine) alone.

        Raises ValueError where the transformer cannot take such shapes.
        """
        if unit in self.told:
            return self.of(unit).stage(unit, stage, history, x)
        control = self.control or Control()

        def texts_now() -> tuple[Any, float, list[Told]]:
            changed = None if control.scale is None else max(control.scale, 1.0)
            scale = self.guidance.at(unit, stage, changed)
            texts = self._with(control)._texts(scale)
            return control.state, scale, [self._told(text, history, x) for text in texts]

        state, scale, told = texts_now()

        def velocity(x: Tensor, timestep: float) -> Tensor:
            nonlocal state, scale, told
            if control.state != state:
                state, scale, told = texts_now()
            return self._velocity(told, scale, x, timestep)

        return velocity

    def of(self, unit: int) -> Self:
        """This model with what it is told in a unit."""
        return replace(self, prompt=self.told.get(unit, self.prompt), told={}) if self.told else self

    def _with(self, control: Control) -> Self:
        """This model with the texts of a control, in its own dtype."""
        if control.prompt is None and control.negative is None:
            return self
        dtype = self.prompt.embeds.dtype
        told = (control.prompt, control.negative)
        prompt, negative = (text and text.to(dtype) for text in told)
        return replace(self, prompt=prompt or self.prompt, negative=negative or self.negative)

    def _texts(self, scale: float) -> list[Prompt]:
        """The batches that a step runs: both texts in one, negative first, or one after the other; the prompt
        alone where the negative's weight would be 0.
        """
        if scale == 1:
            return [self.prompt]
        assert self.negative is not None, "guidance needs a negative prompt"
        if self.split:
            return [self.negative, self.prompt]
        both = self.negative, self.prompt
        return [
            Prompt(
                torch.cat([text.embeds for text in both]),  # 2b l d
                torch.cat([text.mask for text in both]),  # 2b l
                torch.cat([text.pooled for text in both]),  # 2b p
            )
        ]

    # Gradient modes belong to a thread, and a consumer may resume a generator on another one: so each call to
    # the transformer enters and leaves its own, and none encloses a `yield`.

    @torch.no_grad()
    def _told(self, text: Prompt, history: Sequence[Tensor], x: Tensor) -> "Told":
        copies = len(text.embeds) // len(x)
        clips = [clip.to(text.embeds.dtype).repeat(copies, 1, 1, 1, 1) for clip in history]
        context = self.transformer.prepare(clips, tuple(x.shape[2:]), text.embeds, text.mask)
        return Told(text, context, {"cache": BlockCache(self.block_cache)} if self.block_cache else {})

    @torch.no_grad()
    def _velocity(self, told: "list[Told]", scale: float, x: Tensor, timestep: float) -> Tensor:
        parts: list[Tensor] = []
        for each in told:
            text = each.text
            copies = len(text.embeds) // len(x)
            current = x.to(text.embeds.dtype).repeat(copies, 1, 1, 1, 1)
            timesteps = torch.full((len(current),), timestep, dtype=torch.float32, device=x.device)
            step = step_of(self.transformer)
            velocity = step(current, timesteps, text.pooled, each.context, **each.cache)
            parts += velocity.float().chunk(copies)
        if len(parts) == 1:
            return parts[0]
        negative, positive = parts
        return negative + scale * (positive - negative)


@dataclass(frozen=True, eq=False)
class Told:
    """A batch of texts at one stage: what the transformer made of them, and the arguments of a cache."""

    text: Prompt
    context: Any
    cache: Mapping[str, BlockCache]
