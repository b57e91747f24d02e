"""Where training gets its clips: a pool rendered once, and the same clips as latents with their captions.

Rendering is cheap beside training, so clips are drawn anew for each run from its seed and nothing is stored
on disk.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from pyramid.generate.latents import normalize
from pyramid.hub.families import LatentScales
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.photos import camera_clip, crop, photographs
from pyramid.training.world import World


def to_video(clips: np.ndarray) -> Tensor:
    """Clips uint8 `(b, t, h, w, 3)` to a video `(b, 3, t, h, w)` in [-1, 1], channels last in memory."""
    video = rearrange(torch.from_numpy(np.ascontiguousarray(clips)), "b t h w c -> b c t h w")
    return (video.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last_3d)


@torch.no_grad()
def encode(vae: CausalVideoVAE, scales: LatentScales, video: Tensor) -> Tensor:
    """Video `(b, 3, t, h, w)` to latents in the transformer's space, float32 on the CPU."""
    parameter = next(vae.parameters())
    latents = vae.encode(video.to(parameter)).latent_dist.mode().float().cpu()
    return normalize(latents, scales)


def psnr(made: np.ndarray | Tensor, wanted: np.ndarray | Tensor, peak: float) -> float:
    """Peak signal-to-noise ratio in dB."""
    error = float(((made - wanted) ** 2).mean())
    return 10 * math.log10(peak**2 / max(error, 1e-12))


class ClipPool:
    """Clips of the synthetic world and of photographs seen by a moving camera, to train the VAE on.

    Single frames of photographs are fresh crops at all scales.
    """

    def __init__(self, world: World, clips: int, rng: np.random.Generator, *, photo_folders=()):
        self.world = world
        scenes = world.training_scenes()
        chosen = rng.integers(len(scenes), size=clips)
        self.toys = [world.render(scenes[i], rng) for i in chosen]
        self.photos = photographs("train", extra=photo_folders)
        cameras = [(photo, camera) for photo in self.photos for camera in world.photo_cameras]
        picked = rng.permutation(len(cameras))[: clips // 3]
        self.moving = [
            self._camera_clip(photo, camera, rng) for photo, camera in (cameras[i] for i in picked)
        ]

    def _camera_clip(self, photo, camera: str, rng: np.random.Generator) -> np.ndarray:
        return camera_clip(photo, camera, rng, size=self.world.size, frames=self.world.frames)

    def batch(self, count: int, size: int, frames: int, rng: np.random.Generator, *, photos: float) -> Tensor:
        """`(count, 3, frames, size, size)` in [-1, 1]: random windows in time and space of random clips.

        Each is a photograph's with probability `photos`.
        """
        return to_video(np.stack([self._one(size, frames, rng, photos) for _ in range(count)]))

    def _one(self, size: int, frames: int, rng: np.random.Generator, photos: float) -> np.ndarray:
        if rng.random() < photos:
            if frames == 1:
                return crop(self.photos[rng.integers(len(self.photos))], rng, size)[None]
            source = self.moving
        else:
            source = self.toys
        clip = source[rng.integers(len(source))]
        length, height, width = clip.shape[:3]
        start = rng.integers(length - frames + 1)
        top = rng.integers(height - size + 1)
        left = rng.integers(width - size + 1)
        return clip[start : start + frames, top : top + size, left : left + size]

    def held_out_videos(self, count: int = 12) -> dict[str, Tensor]:
        """Whole clips that training never sees, always the same:
        `toy`, `photo` (camera moves) and `still`.
        """
        rng = np.random.default_rng(0)
        scenes = self.world.held_out_scenes()
        toys = [self.world.render(scenes[i], rng) for i in rng.permutation(len(scenes))[:count]]
        photos = photographs("held_out")
        cameras = self.world.photo_cameras or ("zoom in",)
        moving = [self._camera_clip(p, cameras[i % len(cameras)], rng) for i, p in enumerate(photos[:count])]
        return {
            "toy": to_video(np.stack(toys)),
            "photo": to_video(np.stack(moving)),
            "still": to_video(np.stack([clip[:1] for clip in moving])),
        }

    @torch.no_grad()
    def latents_of(self, vae: CausalVideoVAE, rng: np.random.Generator, videos: int) -> tuple[Tensor, Tensor]:
        """VAE latents of whole clips, as samples `(n, 16)` of first units and of later units."""
        device = next(vae.parameters()).device
        first, later = [], []
        for _ in range(videos // 4):
            video = self.batch(4, self.world.size, self.world.frames, rng, photos=0.2).to(device)
            latents = vae.encode(video).latent_dist.mode().float().cpu()
            first.append(rearrange(latents[:, :, :1], "b c t h w -> (b t h w) c"))
            later.append(rearrange(latents[:, :, 1:], "b c t h w -> (b t h w) c"))
        return torch.cat(first), torch.cat(later)
