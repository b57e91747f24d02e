"""The stages of a pyramid flow as data: noise levels, timesteps, jumps. Sampler and training read the same.

    python -m pytest tests/generate/test_schedule.py
    stages = make_stages(3); timesteps, sigmas = stages[0].inference(20)

Source: Jin et al., "Pyramidal Flow Matching for Efficient Video Generative Modeling", arXiv 2410.05954,
section 3.2 (the flow of one stage) and its appendix on the renoising between stages; the tables are those of
the released weights.

A stage is a piece of the flow at one resolution, 0 the coarsest. Inside it a stage-local `r` runs from 1
(entry) to 0 (exit), and a sample on the path is `r * x_start + (1 - r) * x_end`, where `x_start` holds a
share `start` of noise and `x_end` a share `end`. The model predicts `x_start - x_end`, so an Euler step is
`x + (r_next - r) * velocity`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_STAGES = 4


@dataclass(frozen=True, eq=False)  # no ==: two tensors have no truth value
class Stage:
    """One resolution of the pyramid. Every number is a plain float, computed in float64."""

    index: int  # 0 = coarsest
    start: float  # share of noise on entry, after the correction for the jump; 1 at stage 0
    end: float  # share of noise on exit; 0 at the last stage
    keep: float  # jump: factor of the upsampled latents; 0 at stage 0, which nothing precedes
    renoise: float  # jump: factor of the block noise; 1 at stage 0
    timesteps: Tensor  # (num_train_timesteps,) float32, falling: what the model is told at r = 1 … 1/N
    first_timestep: float  # timesteps[0]
    last_timestep: float  # timesteps[-1]

    def inference(self, steps: int) -> tuple[Tensor, Tensor]:
        """Timesteps `(steps,)` to tell the model and stage-local noise levels `(steps + 1,)`, both float32.

        The levels run from 1 to 1/N in equal steps and then to 0, so the last step of a stage is a short one.
        Raises ValueError when `steps` is not at least 1.
        """
        if steps < 1:
            raise ValueError(f"A stage needs at least 1 step, got {steps}.")
        timesteps = torch.linspace(self.first_timestep, self.last_timestep, steps, dtype=torch.float64)
        sigmas = torch.linspace(1.0, 1.0 / len(self.timesteps), steps, dtype=torch.float64)
        return timesteps.float(), torch.cat([sigmas, sigmas.new_zeros(1)]).float()  # (steps,), (steps + 1,)

    def even(self, steps: int) -> tuple[Tensor, Tensor]:
        """The same for levels that run from 1 to 0 in equal steps, with the timesteps that belong to them.

        Raises ValueError when `steps` is not at least 1.
        """
        if steps < 1:
            raise ValueError(f"A stage needs at least 1 step, got {steps}.")
        sigmas = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
        last = 1.0 / len(self.timesteps)  # the level that `last_timestep` belongs to
        way = (1 - sigmas[:-1]) / (1 - last)  # (steps,), of the way from the first timestep to the last
        timesteps = self.first_timestep + (self.last_timestep - self.first_timestep) * way
        return timesteps.float(), sigmas.float()


def make_stages(
    count: int = 3, gamma: float = 1 / 3, shift: float = 1.0, num_train_timesteps: int = 1000
) -> tuple[Stage, ...]:
    """The `count` stages, coarsest first, over equal ranges of the training timesteps.

    `gamma` sets the correlation of the block noise (`latents.block_noise`) and with it how far a jump has to
    go back towards noise; `shift` moves all noise levels as in Stable Diffusion 3. The released weights: 3,
    1/3, 1.0, 1000. Raises ValueError for a count outside 1…4 or a gamma outside (0, 1/3].
    """
    if not 1 <= count <= MAX_STAGES:
        raise ValueError(
            f"The number of stages must be 1 to {MAX_STAGES}, got {count}: "
            "give that many entries in the step counts."
        )
    check_gamma(gamma)
    sigma = _noise_levels(shift, num_train_timesteps)
    nominal = [sigma[k * num_train_timesteps // count] for k in range(count)]
    ends = [*nominal[1:], 0.0]
    jumps = [(0.0, 1.0), *(_jump(start, gamma) for start in nominal[1:])]
    starts = [1 - keep * (1 - start) for (keep, _), start in zip(jumps, nominal, strict=True)]

    # The timesteps told to the model are shared out by the length of each stage's own path, which overlap
    # after the correction: so neighbouring stages get ranges that touch and do not overlap.
    lengths = [start - end for start, end in zip(starts, ends, strict=True)]
    shares = [sum(lengths[:k]) / sum(lengths) for k in range(count)] + [1.0]
    stages = []
    for k in range(count):
        bounds = [
            min(int(share * num_train_timesteps), num_train_timesteps - 1) for share in shares[k : k + 2]
        ]
        first, last = (num_train_timesteps * sigma[i] for i in bounds)
        timesteps = torch.linspace(first, last, num_train_timesteps + 1, dtype=torch.float64)[:-1]
        stages.append(
            Stage(
                k, starts[k], ends[k], *jumps[k], timesteps.float(), timesteps[0].item(), timesteps[-1].item()
            )
        )
    return tuple(stages)


def check_gamma(gamma: float) -> None:
    """ValueError unless `(1 + gamma) I - gamma J` over a 2x2 block is a covariance: 0 < gamma <= 1/3."""
    if not 0 < gamma <= 1 / 3:
        raise ValueError(f"gamma must lie in (0, 1/3], got {gamma}: above it block noise has no covariance.")


def _noise_levels(shift: float, count: int) -> list[float]:
    """sigma(i) for i in 0…count-1, falling from 1, shifted as in Stable Diffusion 3."""
    plain = [(count - i) / count for i in range(count)]
    return [shift * s / (1 + (shift - 1) * s) for s in plain]


def _jump(nominal_start: float, gamma: float) -> tuple[float, float]:
    """(keep, renoise) of the jump into a stage whose nominal noise share is `nominal_start`.

    Chosen so that upsampled latents plus block noise have the mean and the covariance of the training path at
    the stage's corrected start (arXiv 2410.05954, the renoising rule for block-correlated noise).
    """
    clean = 1 - nominal_start
    keep = 1 / (math.sqrt(1 + 1 / gamma) * (1 - clean) + clean)
    return keep, keep * (1 - clean) / math.sqrt(gamma)
