"""What latents look like: a small picture from a clean estimate, by one matrix product.

    colours = latent_colours(pipe.vae)                       # once a model: from its config, or fitted
    latent_preview(vae_latents, colours)                     # uint8 (…, t, h, w, 3), one pixel a latent
    save_estimate(folder, unit, stage, picture)              # of a finished stage, for `export` to show later
    load_estimates(folder)[unit, stage]
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class LatentColours:
    """What the channels of an autoencoder's latents look like: rgb in [-1, 1] = latents @ factors + bias."""

    factors: np.ndarray   # (channels, 3)
    bias: np.ndarray      # (3,)


def latent_preview(vae_latents, colours: LatentColours) -> np.ndarray:
    """Latents (…, c, t, h, w) in the autoencoder's space, tensor or array, as uint8 pictures (…, t, h, w, 3).

    One small matrix product, so that a preview costs nothing beside a step.
    """
    if hasattr(vae_latents, "detach"):
        vae_latents = vae_latents.detach().float().cpu().numpy()
    rgb = np.moveaxis(vae_latents, -4, -1) @ colours.factors + colours.bias               # … t h w 3
    return (rgb * 127.5 + 127.5).round().clip(0, 255).astype(np.uint8)


def fit_latent_colours(vae_latents: np.ndarray, pictures: np.ndarray) -> LatentColours:
    """Least squares from latents (n, c, h, w) to the mean colours of pictures (n, 3, h·s, w·s) in ±1."""
    n, channels, h, w = vae_latents.shape
    s = pictures.shape[-1] // w
    right = pictures.reshape(n, 3, h, s, w, s).mean((3, 5)).transpose(0, 2, 3, 1).reshape(-1, 3)  # (n h w) 3
    left = vae_latents.transpose(0, 2, 3, 1).reshape(-1, channels)                        # (n h w) c
    solution = np.linalg.lstsq(np.pad(left, ((0, 0), (0, 1)), constant_values=1), right, rcond=1e-5)[0]
    return LatentColours(solution[:-1], solution[-1])


def latent_colours(vae, pictures: int = 16, side: int = 64) -> LatentColours:
    """The colours of a CausalVideoVAE's latents: from its config, or fitted on random pictures it encodes.

    The config may hold `latent_rgb_factors` (16 rows of 3) and, with it, `latent_rgb_bias` (3 numbers).
    """
    factors = getattr(vae.config, "latent_rgb_factors", None)
    if factors is not None:
        return LatentColours(np.array(factors, np.float32), np.array(vae.config.latent_rgb_bias, np.float32))
    import torch  # only who has an autoencoder gets here

    made = random_pictures(pictures, side)
    video = torch.from_numpy(made)[:, :, None].to(vae.device, vae.dtype)                  # n 3 1 h w
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()[:, :, 0].float().cpu().numpy()     # n c h/8 w/8
    return fit_latent_colours(latents, made)


def random_pictures(number: int, side: int) -> np.ndarray:
    """Smooth fields of colour with rectangles: float32 (n, 3, side, side) in [-1, 1], the same each time."""
    random = np.random.default_rng(0)
    pictures = np.empty((number, 3, side, side), np.float32)
    for picture in pictures:
        few = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        values = np.array(few.resize((side, side), Image.Resampling.BICUBIC))
        for _ in range(6):
            x, y, w, h = random.integers(0, side, 4)
            values[y:y + h // 2 + 4, x:x + w // 2 + 4] = random.integers(0, 256, 3)
        picture[:] = values.transpose(2, 0, 1) / 127.5 - 1
    return pictures


# ------------------------------------------------------------------------------------- estimates kept on disk
def save_estimate(folder: Path, unit: int, stage: int, picture: Image.Image) -> Path:
    """Keep the last clean estimate of a unit's stage, one pixel a latent: a PNG of at most a few kB."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"estimate-{unit:03d}-{stage}.png"
    part = path.with_suffix(".part")
    picture.save(part, format="PNG")
    os.replace(part, path)
    return path


def load_estimates(folder: Path) -> dict[tuple[int, int], Image.Image]:
    """The clean estimates that lie in `folder`, by unit and stage; those that cannot be read are left out."""
    found = {}
    for path in sorted(folder.glob("estimate-*-*.png")) if folder.is_dir() else []:
        try:
            unit, stage = map(int, path.stem.split("-")[1:])
            with Image.open(path) as image:
                found[unit, stage] = image.convert("RGB")
        except (OSError, ValueError, SyntaxError):
            continue  # a crash may have left half of one: there is nothing to show of it
    return found
