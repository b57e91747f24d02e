"""Latents: pyramids, block noise, history, the two latent scales, denoised estimates.
Pure functions of tensors.

    python -m pytest tests/generate/test_latents.py

Latents are `(b, c, t, h, w)`: batch, channels, latent frames (one a unit), height, width. Two spaces of equal
shape: `vae_latents` are what the autoencoder makes and reads, `latents` what the transformer sees.
`normalize` goes from the first to the second and `denormalize` back; nothing else crosses, and nothing here
works in place.

Source: arXiv 2410.05954, sections 3.2 (spatial pyramid, renoising) and 3.3 (temporal pyramid).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid.generate.schedule import Stage, check_gamma
from pyramid.hub.families import LatentScales

# ------------------------------------------------------------------------------------------------------------
# The two latent scales


def normalize(vae_latents: Tensor, scales: LatentScales, first: bool = True) -> Tensor:
    """VAE space to transformer space. `first`: the first latent frame is the clip's image frame (unit 0)."""
    shift, scale = _per_frame(vae_latents, scales, first)
    return (vae_latents - shift) * scale


def denormalize(latents: Tensor, scales: LatentScales, first: bool = True) -> Tensor:
    """Transformer space to VAE space: the inverse of `normalize`."""
    shift, scale = _per_frame(latents, scales, first)
    return latents / scale + shift


def _per_frame(latents: Tensor, scales: LatentScales, first: bool) -> tuple[Tensor, Tensor]:
    frames = latents.shape[2]
    image = int(first and frames > 0)
    shift = latents.new_tensor([scales.image_shift] * image + [scales.video_shift] * (frames - image))
    scale = latents.new_tensor([scales.image_scale] * image + [scales.video_scale] * (frames - image))
    return shift.view(1, 1, -1, 1, 1), scale.view(1, 1, -1, 1, 1)


# ------------------------------------------------------------------------------------------------------------
# Resolutions


def down(x: Tensor) -> Tensor:
    """Half the height and width, bilinear: for even sizes the mean of each 2x2 block. `(b c t h w)`."""
    b, c, t, h, w = x.shape
    y = F.interpolate(x.reshape(b, c * t, h, w), size=(h // 2, w // 2), mode="bilinear")
    return y.view(b, c, t, h // 2, w // 2)


def up(x: Tensor) -> Tensor:
    """Twice the height and width, nearest: every value becomes a 2x2 block. `(b c t h w)`."""
    b, c, t, h, w = x.shape
    blocks = x[..., :, None, :, None].expand(b, c, t, h, 2, w, 2)
    return blocks.reshape(b, c, t, 2 * h, 2 * w)


def pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """`levels` resolutions of clean latents, coarsest first; the last is `x` itself."""
    resolutions = [x]
    for _ in range(levels - 1):
        resolutions.append(down(resolutions[-1]))
    return resolutions[::-1]


def noise_pyramid(noise: Tensor, levels: int) -> list[Tensor]:
    """`levels` resolutions of one noise field, coarsest first, each of unit variance.

    A mean of four independent values halves the deviation; `* 2` restores it.
    """
    resolutions = [noise]
    for _ in range(levels - 1):
        resolutions.append(down(resolutions[-1]) * 2)
    return resolutions[::-1]


def history(units: Sequence[Tensor], stage: int, stages: int) -> list[Tensor]:
    """The clean past as the model sees it at `stage` (the temporal pyramid): clips coarse to fine, in order.

    `units`: unit 0 … u-1, each `(b c 1 h w)` at the finest resolution. The last unit comes at `stage`'s
    resolution, the one before at the next coarser, all that is left as one clip at stage 0's: at most
    `stage + 1` clips.
    """
    assert 0 <= stage < stages
    fine = min(stage, len(units))  # so many of the last units get a resolution above stage 0's
    older = units[: len(units) - fine]
    clips = [_at_stage(torch.cat(list(older), dim=2), 0, stages)] if older else []  # b c (u-fine) h0 w0
    for back in range(fine, 0, -1):
        clips.append(_at_stage(units[-back], stage - back + 1, stages))
    return clips


def _at_stage(x: Tensor, stage: int, stages: int) -> Tensor:
    for _ in range(stages - 1 - stage):
        x = down(x)
    return x


# ------------------------------------------------------------------------------------------------------------
# Jumps and noise


def block_noise(
    shape: Sequence[int], gamma: float = 1 / 3, generator: torch.Generator | None = None, **factory
) -> Tensor:
    """Gaussian noise of covariance `(1 + gamma) I - gamma J` in each 2x2 block of height x width.

    The negative correlation undoes what nearest upsampling put in: with it a jump has the covariance of the
    training path. At gamma = 1/3 the covariance is singular (each block sums to zero), so there is no
    Cholesky factor; instead `sqrt(1 + gamma) * (e - c * mean(e))` with `c = 1 - sqrt((1 - 3 gamma) / (1 +
    gamma))`, for any gamma in (0, 1/3]. `factory`: dtype and device of `torch.randn`. Raises ValueError for
    another gamma or an odd height or width.
    """
    check_gamma(gamma)
    if shape[-1] % 2 or shape[-2] % 2:
        raise ValueError(f"Block noise needs an even height and width, got {shape[-2]}x{shape[-1]}.")
    noise = torch.randn(tuple(shape), generator=generator, **factory)
    share = 1 - math.sqrt(max(0.0, 1 - 3 * gamma) / (1 + gamma))
    return math.sqrt(1 + gamma) * (noise - share * up(down(noise)))


def jump(x: Tensor, stage: Stage, noise: Tensor) -> Tensor:
    """Latents at the end of one stage to the start of the next finer one, `stage`: upsample and renoise."""
    assert stage.index > 0, "nothing jumps into stage 0"
    return stage.keep * up(x) + stage.renoise * noise  # b c t 2h 2w


# ------------------------------------------------------------------------------------------------------------
# Denoised estimates


def denoised_estimate(x: Tensor, velocity: Tensor, r: float | Tensor, stage: Stage) -> Tensor:
    """What the clean latents at this resolution would be if `velocity` held to the end: for previews.

    A latent on the way is mostly noise (two thirds at the end of stage 0 of 3), so showing it as it is would
    show little. Both ends of the stage follow from `x` and `velocity`; both carry the same noise, the start
    over the upsampled coarser latents and the end over these, which is enough to solve for the noise. Exact
    on the training path. `r` in [0, 1] is the stage-local noise level of `x`: a number, or a tensor that
    broadcasts.
    """
    end = x - r * velocity
    if stage.end == 0:
        return end
    start = x + (1 - r) * velocity
    if stage.index == 0:
        noise = start
    else:
        s = stage.start
        e = stage.end
        coarse = (s * down(end) - e * down(start)) / (s * (1 - e) - e * (1 - s))
        noise = (start - (1 - s) * up(coarse)) / s
    return (end - stage.end * noise) / (1 - stage.end)
