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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from pyramid.settings import Settings

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


@dataclass(frozen=True)
class Guidance:
    """How far to go from the negative prompt's velocity to the prompt's, and past it. 1: the prompt alone."""

    first: float = 7.0  # unit 0
    video: float = 5.0  # the later units
    minimum: float = 2.0  # where the linear schedule stops
    decay: float = 0.0  # above 0, unit u gets `max(scale - decay * u, minimum)`

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The guidance that settings ask for."""
        return cls(
            settings.guidance_scale,
            settings.video_guidance_scale,
            settings.min_guidance_scale,
            settings.guidance_decay,
        )

    def at(self, unit: int) -> float:
        """The guidance scale of a unit."""
        scale = self.video if unit else self.first
        return max(scale - self.decay * unit, self.minimum) if self.decay > 0 else scale


@dataclass(frozen=True, eq=False)
class GuidedModel:
    """A transformer that is told the prompt and the negative prompt.

    `split`: the two go through the transformer one after the other, which halves the memory of a step.
    """

    transformer: Any
    prompt: Prompt
    negative: Prompt | None = None
    guidance: Guidance = Guidance()
    split: bool = False

    @property
    def device(self) -> torch.device:
        return self.prompt.embeds.device

    def stage(self, unit: int, stage: int, history: Sequence[Tensor], x: Tensor) -> Velocity:
        """The velocity of a unit's stage, where it depends on the history (clips coarse to fine) alone.

        Raises ValueError where the transformer cannot take such shapes.
        """
        scale = self.guidance.at(unit)
        texts = self._texts(scale)
        contexts = [self._prepare(text, history, x) for text in texts]
        return lambda x, timestep: self._velocity(texts, contexts, scale, x, timestep)

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
    def _prepare(self, text: Prompt, history: Sequence[Tensor], x: Tensor) -> Any:
        copies = len(text.embeds) // len(x)
        clips = [clip.to(text.embeds.dtype).repeat(copies, 1, 1, 1, 1) for clip in history]
        return self.transformer.prepare(clips, tuple(x.shape[2:]), text.embeds, text.mask)

    @torch.no_grad()
    def _velocity(
        self, texts: list[Prompt], contexts: list[Any], scale: float, x: Tensor, timestep: float
    ) -> Tensor:
        parts: list[Tensor] = []
        for text, context in zip(texts, contexts, strict=True):
            copies = len(text.embeds) // len(x)
            current = x.to(text.embeds.dtype).repeat(copies, 1, 1, 1, 1)
            timesteps = torch.full((len(current),), timestep, dtype=torch.float32, device=x.device)
            velocity = self.transformer.denoise(current, timesteps, text.pooled, context)
            parts += velocity.float().chunk(copies)
        if len(parts) == 1:
            return parts[0]
        negative, positive = parts
        return negative + scale * (positive - negative)
