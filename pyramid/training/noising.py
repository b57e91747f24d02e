"""What the transformer is trained on: noisy inputs, targets, corrupted history (arXiv 2410.05954,
section 3 and B).

    noisy, target, timestep = noised_stage(units, noise, stages, stage=1, generator=g)
    past = corrupted_history(previous_units, stage=1, stages=3, strongest=1/3, generator=g)

Pure functions of tensors `(b, c, t, h, w)` in the transformer's space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyramid.generate.latents import history, noise_pyramid, pyramid, up
from pyramid.generate.schedule import Stage


def stage_ends(
    clean: Tensor, noise: Tensor, stages: Sequence[Stage], stage: int, coarse: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """Both ends of a stage's path, `(start, end)` at its resolution, for full-size clean latents and noise.

    One noise field is shared by all resolutions, so the stages join up to one flow. `coarse`: the coarser
    levels, coarsest first; without them they are averages of the full size.
    """
    levels = [*coarse, clean] if coarse else pyramid(clean, len(stages))
    noises = noise_pyramid(noise, len(stages))
    here = stages[stage]
    end = here.end * noises[stage] + (1 - here.end) * levels[stage]
    if stage == 0:
        return noises[0], end
    return here.start * noises[stage] + (1 - here.start) * up(levels[stage - 1]), end


def noised_stage(
    clean: Tensor,
    noise: Tensor,
    stages: Sequence[Stage],
    stage: int,
    index: Tensor,
    coarse: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """`(noisy, target velocity, timestep)` of a batch at one stage.

    `index (b,)` are integers in 0…999, the places on the stage's path, 0 at its start. `coarse`: as in
    `stage_ends`.
    """
    start, end = stage_ends(clean, noise, stages, stage, coarse)
    steps = stages[stage].timesteps
    r = (1 - index / len(steps)).to(clean).view(-1, 1, 1, 1, 1)
    return r * start + (1 - r) * end, start - end, steps.to(clean.device)[index]


def corrupted_history(
    units: Sequence[Tensor], stage: int, stages: int, *, strongest: float, generator: torch.Generator
) -> list[Tensor]:
    """The history clips of `pyramid.generate.latents.history` with Gaussian noise on them.

    One level a sample, uniform in [0, strongest], fresh noise for each clip: the model learns to bear the
    errors of the units it made itself.
    """
    if not units:
        return []
    level = torch.rand(units[0].shape[0], 1, 1, 1, 1, generator=generator).to(units[0]) * strongest
    clips = history(units, stage, stages)
    return [clip + level * torch.randn(clip.shape, generator=generator).to(clip) for clip in clips]


def prefix_length(step: int, longest: int, *, finest: bool) -> int:
    """Units of the clip that a step trains on: the finest stage sweeps 1…longest,
    the others take what is left.

    So a step costs about the same whatever the length (the reference's balancing of long and short prefixes).
    """
    length = step % longest + 1
    return length if finest else 1 + longest - length
