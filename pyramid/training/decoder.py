"""Trains the decoder of a finished VAE on, with the latents as they are:
the end of `python -m pyramid train vae`.

The encoder, and so every transformer trained on its latents, stays what it was. The decoder learns on whole
frames, and on latents with a little noise added, because those that a transformer samples are not quite those
of any clip either (noise-augmented decoding, arXiv 2510.11690).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pyramid.models.vae import CausalVideoVAE
from pyramid.training.data import ClipPool
from pyramid.training.loop import Budget, Loop
from pyramid.training.optim import make_optimizers
from pyramid.training.recipe import Recipe
from pyramid.training.vae import current_phase, draw, reconstruction_loss, save_samples


def train_decoder(recipe: Recipe, folder: Path, finished: Path) -> Path:
    """Train the decoder of the VAE in `finished` on (or go on from the last checkpoint in `folder`).

    Writes the VAE with the new decoder to `folder/causal_video_vae`, and returns that path.
    """
    settings = recipe.decoder
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    vae = CausalVideoVAE.from_pretrained(finished)
    pool = ClipPool(recipe.world, recipe.vae.clips, rng, photo_folders=recipe.vae.photo_folders)
    loop = Loop(
        folder,
        nn.Sequential(vae.post_quant_conv, vae.decoder).train(),
        lambda m: make_optimizers(m, settings.learning_rate, matrices="conv to_"),
        budget=Budget(settings.minutes, settings.steps),
        ema_decay=settings.ema_decay,
        constant_share=settings.constant_share,
    )
    vae.to(loop.accelerator.device)

    def step(progress: float) -> dict[str, Tensor]:
        video = draw(pool, current_phase(settings.phases, progress), rng).to(vae.device)
        made = loop.model(noisy_latents(vae, video, settings.latent_noise))
        return {"loss": reconstruction_loss(made.float(), video)}

    loop.run(step, lambda path: save_samples(vae, pool, path))
    vae.eval().save_pretrained(folder / "causal_video_vae")
    save_samples(vae, pool, folder / "samples" / "final.png")
    return folder / "causal_video_vae"


@torch.no_grad()
def noisy_latents(vae: CausalVideoVAE, video: Tensor, strongest: float) -> Tensor:
    """The latents of `video`, each sample's with noise of its own strength, drawn from 0 to `strongest`."""
    with torch.autocast(video.device.type, torch.bfloat16):
        latents = vae.encode(video).latent_dist.mode().float()
    strength = strongest * torch.rand(len(latents), 1, 1, 1, 1, device=latents.device)
    return latents + strength * torch.randn_like(latents)
