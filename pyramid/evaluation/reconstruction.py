"""How well an autoencoder gives back clips of a list: `python -m pyramid evaluate vae --data LIST`.

    figures = measure(vae, clips_of(open_list("clips"), wanted, 64), make_perceptual(()))
    figures.psnr, figures.ssim, figures.perceptual           # means over the clips, with all of them by name

PSNR in dB and SSIM (of lightness, per frame) come from all frames of a clip, the perceptual distance too:
LPIPS with weights of one's own, else the stand-in (`pyramid.training.perceptual`). A Fréchet distance between
the clips and what came back is what rFVD is, in features that need no weights: how strong edges, corners and
blobs are in the frames of a clip, and in the differences of neighboring frames, which is where flicker and
smeared motion show; or in those of a video model. It depends on how many clips and on their size: compare
like with like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyramid.evaluation.frechet import Distance, Features, distance
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.clips.lists import Listing
from pyramid.training.clips.reading import Wanted, read_clip
from pyramid.training.clips.sample import BrokenItem, Sample
from pyramid.training.data import psnr, to_video
from pyramid.training.perceptual import StandIn

FRAMES_AT_ONCE = 8  # that the perceptual distance looks at


@dataclass(frozen=True)
class Figures:
    """Means over clips, and each clip's by its name: psnr (dB), ssim (0 to 1), perceptual (0 is the same)."""

    clips: dict[str, dict[str, float]]
    frechet: Distance | None  # None for a single clip

    def mean(self, name: str) -> float:
        return float(np.mean([row[name] for row in self.clips.values()]))

    def told(self) -> dict[str, Any]:
        """For a JSON file."""
        names = next(iter(self.clips.values()))
        means = {name: self.mean(name) for name in names}
        apart = None if self.frechet is None else self.frechet.told()
        return {"items": len(self.clips), **means, "frechet": apart, "clips": self.clips}


def clips_of(listing: Listing, wanted: Wanted, most: int) -> Iterator[tuple[str, np.ndarray]]:
    """The first clips of a list, uint8 `(f, h, w, 3)`, by name; broken ones are told and left out."""
    left = most
    for sample in listing:
        if left == 0 or not isinstance(sample, Sample):
            continue
        try:
            yield sample.name, read_clip(sample, wanted)
            left -= 1
        except BrokenItem as error:
            print(f"skipped: {sample.name}: {error.reason}")


@torch.no_grad()
def measure(
    vae: CausalVideoVAE,
    clips: Iterable[tuple[str, np.ndarray]],
    perceptual: nn.Module,
    features: Features | None = None,
) -> Figures:
    """What becomes of clips that are encoded and decoded; `features` of a model, those here without. Raises
    ValueError where there is no clip.
    """
    features = features or clip_features
    rows: dict[str, dict[str, float]] = {}
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    for name, clip in clips:
        made = reconstruct(vae, clip)
        rows[name] = {
            "psnr": psnr(made / 255.0, clip / 255.0, 1.0),
            "ssim": ssim(made, clip),
            "perceptual": _looks(perceptual, to_video(made[None]), to_video(clip[None])),
        }
        before.append(features(clip))
        after.append(features(made))
    if not rows:
        raise ValueError("the list has no clip that can be read: data doctor says why")
    return Figures(rows, distance(before, after) if len(rows) > 1 else None)


def clip_features(clip: np.ndarray) -> np.ndarray:
    """How strong what the stand-in looks for is in a clip, uint8 `(f, h, w, 3)`, and in its changes: `(120,)`
    logarithms, 0 for the changes of a picture. 32 pixels a side or more.
    """
    frames = to_video(clip[None])[0].transpose(0, 1)
    changes = frames.diff(dim=0) if len(frames) > 1 else frames.new_zeros(1, *frames.shape[1:])
    look = StandIn()
    found = [(x.square().mean((0, 2, 3)) + 1e-6).log() for y in (frames, changes) for x in look.features(y)]
    return torch.cat(found).double().numpy()


def reconstruct(vae: CausalVideoVAE, clip: np.ndarray) -> np.ndarray:
    """A clip, uint8 `(f, h, w, 3)`, through the autoencoder and back."""
    video = to_video(clip[None]).to(vae.device)
    made = vae.decode(vae.encode(video).latent_dist.mode()).sample[0].float().cpu()
    return ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def ssim(made: np.ndarray, wanted: np.ndarray) -> float:
    """Structural similarity of the lightness of frames (Wang et al., 2004), their mean."""
    from skimage.metrics import structural_similarity

    weights = np.array((0.299, 0.587, 0.114), np.float32)
    pairs = zip(made @ weights, wanted @ weights, strict=True)
    return float(
        np.mean([structural_similarity(a, b, data_range=255, gaussian_weights=True) for a, b in pairs])
    )


def _looks(perceptual: nn.Module, made: Tensor, wanted: Tensor) -> float:
    pairs = zip(
        *(video[0].transpose(0, 1).split(FRAMES_AT_ONCE) for video in (made, wanted)),
        strict=True,
    )
    return float(torch.cat([perceptual(a, b) for a, b in pairs]).mean())
