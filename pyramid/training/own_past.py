"""Clips as the model itself would have left them: the past of a later unit where nobody gives it one.

    own = own_clips(model, latents, told, nothing, settings, seed=1)       # latents (n, c, units, h, w)

A model that only ever saw the past of true clips meets its own units when it is used, and what is a little
wrong in one grows in the next. So the units of a true clip are made over by the model: from the end of the
coarsest stage on, where place and color are settled and the outline is not, and with the units made over
before as their past. What is to be learned of such a past is still the next unit of the true clip.

Source: own rollouts after Ross et al., arXiv 1011.0686; units that are noised and made over after Guo et al.,
arXiv 2512.15702, here by stages of the pyramid in place of timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyramid.events import Unit
from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.generate.sampler import Begun, Noise, Sampling, sample
from pyramid.generate.schedule import make_stages
from pyramid.training.noising import stage_ends
from pyramid.training.recipe import DiTRecipe

AT_ONCE = 32  # clips


def own_clips(  # noqa: PLR0913 - what is made over, by what, how
    model: Any,
    latents: Tensor,
    told: Prompt,
    nothing: Prompt,
    settings: DiTRecipe,
    *,
    seed: int,
    given: int = 0,
) -> Tensor:
    """`latents` (n, c, units, h, w) made over but for the first `given` units, float32.

    `told`: the captions of the clips, n rows. `nothing`: the empty one, a row of their length. Sampled with
    the recipe's guidance in half of its steps, by the multistep sampler. The noise of a clip depends on the
    seed and on its place.
    """
    guidance = Guidance(settings.sample_guidance, settings.sample_guidance)
    steps = [max(1, count // 2) for count in settings.sample_steps]
    made = []
    for first in tqdm(range(0, len(latents), AT_ONCE), desc="clips made over"):
        clips = latents[first : first + AT_ONCE]
        seeds = range(seed + first, seed + first + len(clips))
        texts = _rows(told, slice(first, first + AT_ONCE))
        guided = GuidedModel(model, texts, _rows(nothing, [0] * len(clips)), guidance)
        made.append(_made_over(guided, clips, seeds, steps, given))
    return torch.cat(made)


def _rows(prompt: Prompt, rows: slice | list[int]) -> Prompt:
    return Prompt(prompt.embeds[rows], prompt.mask[rows], prompt.pooled[rows])


def _made_over(
    model: GuidedModel, clips: Tensor, seeds: Sequence[int], steps: Sequence[int], given: int
) -> Tensor:
    stages = make_stages(len(steps))
    noise = Noise((clips.shape[1], *clips.shape[3:]), seeds)
    units = clips.split(1, dim=2)
    past = list(units[:given])
    for unit in range(given, len(units)):
        _, coarse = stage_ends(units[unit], noise.full(unit), stages, 0)
        run = Sampling(
            units=unit + 1,
            steps=steps,
            video_steps=steps,
            sampler="multistep",
            finished=past,
            begun=Begun(unit, 0, coarse),
        )
        *_, last = (event for event in sample(model, noise, run) if isinstance(event, Unit))
        past.append(last.latents)
    return torch.cat(past, dim=2).cpu()
