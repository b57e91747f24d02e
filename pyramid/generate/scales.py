"""The scale of guidance by unit: for the sampler, and for who says how long a run will take. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from pyramid.settings import Settings


@dataclass(frozen=True)
class Guidance:
    """How far to go from the negative prompt's velocity to the prompt's, and past it. 1: the prompt alone."""

    first: float = 7.0  # unit 0
    video: float = 5.0  # the later units
    minimum: float = 2.0  # where the linear schedule stops
    decay: float = 0.0  # above 0, unit u gets `max(scale - decay * u, minimum)`
    units: Mapping[int, Sequence[float]] = field(default_factory=dict)  # one a stage, for these units instead

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The guidance that settings ask for."""
        directed = range(settings.units) if settings.cues else ()
        return cls(
            settings.guidance_scale,
            settings.video_guidance_scale,
            settings.min_guidance_scale,
            settings.guidance_decay,
            {unit: settings.plan_of(unit).guidance for unit in directed},
        )

    def at(self, unit: int, stage: int = 0) -> float:
        """The guidance scale of a unit's stage."""
        if unit in self.units:
            return self.units[unit][stage]
        scale = self.video if unit else self.first
        return max(scale - self.decay * unit, self.minimum) if self.decay > 0 else scale
