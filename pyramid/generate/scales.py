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
    stages: int = 0  # above 0, the stages behind so many have none

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
            settings.guided_stages,
        )

    def at(self, unit: int, stage: int = 0, scale: float | None = None) -> float:
        """The guidance scale of a unit's stage; `scale` is what all units have now, if that was changed."""
        if unit in self.units and scale is None:
            return self.units[unit][stage]
        if 0 < self.stages <= stage:
            return 1.0
        if scale is not None:
            return scale
        scale = self.video if unit else self.first
        return max(scale - self.decay * unit, self.minimum) if self.decay > 0 else scale

    def rows(self, unit: int, stage: int = 0) -> int:
        """Rows that a step runs for each sample: 2 where the negative prompt goes beside the prompt."""
        return 1 if self.at(unit, stage) == 1 else 2
