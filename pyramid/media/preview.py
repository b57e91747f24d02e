"""What latents look like: a small picture from a denoised estimate, by one matrix product.

    colors = latent_colors(pipe.vae)  # once a model: fitted on pictures that it encodes
    latent_preview(vae_latents, colors, first=True)         # uint8 (…, t, 4·h, 4·w, 3): 4×4 pixels a latent
    save_estimate(folder, unit, stage, picture)              # of a finished stage, for `export` to show later
    load_estimates(folder)[unit, stage]

A latent stands for 8×8 pixels, and says where edges lie among them: seen as 4×4 a preview is as sharp as the
stage is. The latents of the first unit (one frame) and of later ones (eight frames) are read differently.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pyramid.disk import whole

PATCH = 4  # pixels a side that a preview shows for one latent
MIDDLE = 5  # of the frames 1 to 8 of a unit, the one that its preview shows
CLIP = 9  # frames: the first unit and one more


@dataclass(frozen=True)
class Colors:
    """A linear reading of latents: 4×4 pixels of rgb in [-1, 1] = latent @ factors + bias."""

    factors: np.ndarray  # (channels, 4·4·3)
    bias: np.ndarray  # (4·4·3,)


@dataclass(frozen=True)
class LatentColors:
    """What an autoencoder's latents look like, in the first unit and in later ones."""

    first: Colors
    later: Colors


def latent_preview(vae_latents, colors: LatentColors, *, first: bool) -> np.ndarray:
    """Latents (…, c, t, h, w) in the autoencoder's space, tensor or array, as uint8 pictures (…, t, 4·h,
    4·w, 3).

    first: whether they are the first unit's. One small matrix product, so that a preview costs nothing beside
    a step.
    """
    if hasattr(vae_latents, "detach"):
        vae_latents = vae_latents.detach().float().cpu().numpy()
    reading = colors.first if first else colors.later
    rgb = np.moveaxis(vae_latents, -4, -1) @ reading.factors + reading.bias  # … t h w 48
    pixels = (rgb * 127.5 + 127.5).round().clip(0, 255).astype(np.uint8)
    *before, h, w, _ = pixels.shape
    patches = pixels.reshape(*before, h, w, PATCH, PATCH, 3)
    return np.swapaxes(patches, -4, -3).reshape(*before, h * PATCH, w * PATCH, 3)


def fit_colors(vae_latents: np.ndarray, pictures: np.ndarray) -> Colors:
    """Least squares from latents (n, c, h, w) to pictures (n, 3, h·s, w·s) in ±1, s a multiple of 4."""
    n, channels, h, w = vae_latents.shape
    s = pictures.shape[-1] // w // PATCH
    small = pictures.reshape(n, 3, h * PATCH, s, w * PATCH, s).mean((3, 5))  # n 3 4·h 4·w
    right = small.reshape(n, 3, h, PATCH, w, PATCH).transpose(0, 2, 4, 3, 5, 1).reshape(n * h * w, -1)
    left = vae_latents.transpose(0, 2, 3, 1).reshape(-1, channels)  # (n h w) c
    solution = np.linalg.lstsq(np.pad(left, ((0, 0), (0, 1)), constant_values=1), right, rcond=1e-5)[0]
    return Colors(solution[:-1], solution[-1])


def latent_colors(vae, clips: int = 12, side: int = 64) -> LatentColors:
    """The colors of a CausalVideoVAE's latents, fitted on `clips` made-up clips of `side` pixels that it
    encodes.
    """
    import torch  # only who has an autoencoder gets here

    if getattr(vae, "_hf_hook", None) is not None:  # under model offload: it runs where it will decode
        vae._hf_hook.pre_forward(vae)
    made = random_clips(clips, side)
    latents = []
    for clip in torch.from_numpy(made).split(4):
        with torch.no_grad():
            encoded = vae.encode(clip.to(vae.device, vae.dtype)).latent_dist.mode()  # n c 2 h/8 w/8
        latents.append(encoded.float().cpu().numpy())
    first, later = np.moveaxis(np.concatenate(latents), 2, 0)
    return LatentColors(fit_colors(first, made[:, :, 0]), fit_colors(later, made[:, :, MIDDLE]))


def random_clips(number: int, side: int) -> np.ndarray:
    """A window that wanders over made-up pictures, in every third clip it rests:
    float32 (n, 3, 9, side, side) in ±1, the same each time."""
    random = np.random.default_rng(0)
    clips = np.empty((number, 3, CLIP, side, side), np.float32)
    for index, picture in enumerate(random_pictures(number, 2 * side)):
        start = random.integers(0, side, 2)
        speed = random.integers(-3, 4, 2) * bool(index % 3)
        for frame in range(CLIP):
            y, x = (start + speed * frame).clip(0, side)
            clips[index, :, frame] = picture[:, y : y + side, x : x + side]
    return clips


def random_pictures(number: int, side: int) -> np.ndarray:
    """Smooth fields of color with rectangles: float32 (n, 3, side, side) in [-1, 1], the same each time."""
    random = np.random.default_rng(0)
    pictures = np.empty((number, 3, side, side), np.float32)
    for picture in pictures:
        few = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
        values = np.array(few.resize((side, side), Image.Resampling.BICUBIC))
        for _ in range(6):
            x, y, w, h = random.integers(0, side, 4)
            values[y : y + h // 2 + 4, x : x + w // 2 + 4] = random.integers(0, 256, 3)
        picture[:] = values.transpose(2, 0, 1) / 127.5 - 1
    return pictures


# -- estimates kept on disk
def save_estimate(folder: Path, unit: int, stage: int, picture: Image.Image) -> Path:
    """Keep the last denoised estimate of a unit's stage: a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"estimate-{unit:03d}-{stage}.png"
    with whole(path) as part:
        picture.save(part, format="PNG")
    return path


def stages_of(result: Path) -> Path:
    """The folder beside a result that says what its stages made; it may not exist."""
    return result.with_name(f"{result.stem}.stages")


def load_estimates(folder: Path) -> dict[tuple[int, int], Image.Image]:
    """The denoised estimates that lie in `folder`, by unit and stage;
    those that cannot be read are left out.
    """
    found = {}
    there = os.path.isdir(folder)  # no error where its name would be too long
    for path in sorted(folder.glob("estimate-*-*.png")) if there else []:
        try:
            unit, stage = map(int, path.stem.split("-")[1:])
            with Image.open(path) as image:
                found[unit, stage] = image.convert("RGB")
        except (OSError, ValueError, SyntaxError):
            continue  # a crash may have left half of one: there is nothing to show of it
    return found
