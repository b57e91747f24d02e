"""How a model lies on the machine, as one value that is replaced as a whole.

    pipe.placement = replace(pipe.placement, split_guidance=True)

A plan makes the first one (`pyramid.memory.loading.place`), a second device another
(`pyramid.memory.parallel.place`), and each rung of `pyramid.memory.ladder` the next. Nothing else of a
pipeline says where or how it runs.
"""

from dataclasses import dataclass, replace
from typing import Self

from pyramid.memory.plan import Plan


@dataclass(frozen=True)
class Placement:
    """Where a pipeline's models run, and in which order they work.

    plan: what it was made by; None for a pipeline that was put somewhere by hand. split_guidance: the prompt
    and the negative prompt one after the other, which halves the memory of a step. tile_first: frames are
    decoded after sampling, all units of a tile before the next tile. text_device, vae_device: by name, where
    prompts are read and where pictures become latents and back; None: where the transformer runs.
    """

    plan: Plan | None = None
    split_guidance: bool = False
    tile_first: bool = False
    text_device: str | None = None
    vae_device: str | None = None

    def told(self, change: str) -> Self:
        """The same, whose plan tells what was given up since it was made."""
        if self.plan is None:
            return self
        return replace(self, plan=replace(self.plan, changes=(*self.plan.changes, change)))
