"""Photographs and textures seen by a moving camera, as latents: made once, and kept in shards.

    clips = photo_clips(recipe, folder, vae, scales)         # PhotoClips, made as far as they are not there

The autoencoder takes longer over a clip than the transformer over a step with it, so what it made is kept. A
shard depends on the recipe and on its number alone: whoever was interrupted goes on, and several programs
may each make some of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from pyramid.disk import whole
from pyramid.hub.families import LatentScales
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.data import encode, to_video
from pyramid.training.photos import STILL, Photo, photographs, varied_clip
from pyramid.training.recipe import Recipe
from pyramid.training.textures import draw_texture
from pyramid.training.world import CAMERA_WORDS

SHARD = 60  # clips
AT_ONCE = 4  # clips that the autoencoder takes
STILL_WORDS = ("a photograph", "a photo", "a beautiful photo", "a nice photograph", "a high quality photo")
OTHER_WORDS = (  # what people write of their photos: not understood, and moved as without words
    "waves on the beach",
    "a dog runs through the garden",
    "my cat sleeps",
    "people in a street of Venice",
    "mountains behind a lake at dawn",
    "she smiles and turns her head",
    "leaves move in the wind",
    "a portrait of an old man",
)


@dataclass(frozen=True, eq=False)
class PhotoClips:
    """Latents `(n, c, units, h, w)` in the transformer's space, and which move each clip shows, `(n,)`."""

    latents: Tensor
    move: Tensor


def moves_of(recipe: Recipe) -> tuple[str, ...]:
    """What a camera may do in a recipe's clips: the cameras of its world, and nothing."""
    return (*recipe.world.photo_cameras, STILL)


def phrases_of(move: str) -> tuple[str, ...]:
    """What is said of such a clip."""
    return STILL_WORDS + OTHER_WORDS if move == STILL else CAMERA_WORDS[move]


def photo_clips(recipe: Recipe, folder: Path, vae: CausalVideoVAE, scales: LatentScales) -> PhotoClips:
    """The recipe's `photo_clips` clips, rounded up to whole shards, from `folder` or made and written there.
    ValueError where no photographs are installed.
    """
    count = -(-recipe.dit.photo_clips // SHARD)
    paths = [folder / f"{index:05d}.safetensors" for index in range(count)]
    photos: list[Photo] = []
    for index, path in enumerate(tqdm(paths, desc="photographs to latents")):
        if not path.exists():
            photos = photos or photographs("train", extra=recipe.vae.photo_folders)
            write_shard(recipe, index, path, photos, vae, scales)
    parts = [load_file(path) for path in paths]
    latents = torch.cat([part["latents"].float() for part in parts])
    return PhotoClips(latents, torch.cat([part["move"] for part in parts]))


def write_shard(  # noqa: PLR0913 - what is made of, with what, and where it goes
    recipe: Recipe,
    index: int,
    path: Path,
    photos: list[Photo],
    vae: CausalVideoVAE,
    scales: LatentScales,
) -> None:
    """Make the shard of a number, and write it whole or not at all; float16 is exact to three digits."""
    rng = np.random.default_rng([recipe.seed, 20, index])
    moves = moves_of(recipe)
    chosen = rng.permutation(np.arange(SHARD) % len(moves))
    latents = []
    for start in range(0, SHARD, AT_ONCE):
        clips = [_clip(recipe, moves[move], photos, rng) for move in chosen[start : start + AT_ONCE]]
        latents.append(encode(vae, scales, to_video(np.stack(clips))))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        save_file({"latents": torch.cat(latents).half().contiguous(), "move": torch.from_numpy(chosen)}, part)


def _clip(recipe: Recipe, move: str, photos: list[Photo], rng: np.random.Generator) -> np.ndarray:
    world = recipe.world
    if rng.random() < recipe.dit.texture_share:
        photo = Photo("texture", "", "", draw_texture(rng, 2 * world.size))
    else:
        photo = photos[rng.integers(len(photos))]
    return varied_clip(photo, move, rng, size=world.size, frames=world.frames)
