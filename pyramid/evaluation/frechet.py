"""The Fréchet distance between two sets of videos, in the features of a model, and CLIP's view of a prompt.

    features = load_features(Path("videomae"))        # a transformers folder, or a TorchScript file (I3D)
    frechet(np.stack([features(clip) for clip in ours]), np.stack([features(clip) for clip in theirs]))
    clip = Clip(Path("clip-vit-base-patch32")); clip.similarity(frames, "a red ball")      # -1 … 1

Nothing is downloaded: models are given by their paths. Distances depend on the features, on the number of
videos and on their size, so only those that were measured alike can be compared; with fewer videos than
features they come out too large, which `Distance` tells.

Sources: Dowson and Landau 1982 (the distance of two normal distributions); Unterthiner et al., arXiv
1812.01717 (on features of videos); Radford et al., arXiv 2103.00020 (CLIP).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pyramid.evaluation.judge import features as judge_features
from pyramid.training.world import World

Features = Callable[[np.ndarray], np.ndarray]
JUDGE = "judge"  # our own classifier's features, of the synthetic world
SIDE = 224  # pixels that a model is shown where it does not say its own number
FRAMES = 16  # and frames
CLIP_FRAMES = 8
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Distance:
    """A Fréchet distance, of how many videos each, in how many features."""

    value: float
    first: int
    second: int
    features: int

    def told(self) -> dict[str, Any]:
        few = min(self.first, self.second) <= self.features
        note = "fewer videos than features: too large, compare only with as many" if few else ""
        return {"distance": self.value, "videos": [self.first, self.second], "features": self.features} | (
            {"note": note} if note else {}
        )


def distance(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Distance:
    """Between two sets of feature vectors (d,). ValueError for a set of fewer than two."""
    if min(len(first), len(second)) < 2:
        raise ValueError(f"a Fréchet distance takes two videos or more each: {len(first)} and {len(second)}")
    value = frechet(np.stack(first), np.stack(second))
    return Distance(value, len(first), len(second), len(first[0]))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """‖μa − μb‖² + tr(Ca + Cb − 2 √(Ca Cb)) of two sets of features, (n, d) and (m, d)."""
    apart = a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)
    # √(Ca Cb) has the singular values of √Ca √Cb as its eigenvalues; so have the sets' triangular factors.
    first: Any = np.linalg.qr(_centered(a), mode="r")
    second: Any = np.linalg.qr(_centered(b), mode="r")
    shared = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(max(apart @ apart + (first**2).sum() + (second**2).sum() - 2 * shared, 0.0))


def _centered(x: np.ndarray) -> np.ndarray:
    """Features (n, d) without their mean, so that their products are the covariance."""
    return (x - x.mean(0, dtype=np.float64)) / np.sqrt(max(len(x) - 1, 1))


def load_features(path: str | Path, world: World | None = None) -> Features:
    """From a clip, uint8 (f, h, w, 3), to a vector (d,): `JUDGE`, a folder of a transformers model that is
    shown frames (VideoMAE, TimeSformer, ViViT), or a TorchScript file.

    ValueError for what is none of them.
    """
    if str(path) == JUDGE:
        return partial(judge_features, world=world or World())
    path = Path(path)
    if path.is_dir():
        return _of_transformers(path)
    if path.is_file():
        return _of_torchscript(path)
    raise ValueError(f"--features {path}: give {JUDGE}, a folder of a video model, or a TorchScript file")


def _of_transformers(path: Path) -> Features:
    import torch
    from transformers import AutoModel

    model: Any = _from_folder(AutoModel, path, "--features")
    config = model.config
    side = getattr(config, "image_size", SIDE)
    side = side if isinstance(side, int) else side[0]
    count = getattr(config, "num_frames", FRAMES)
    normalization = _normalization(path, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    @torch.no_grad()
    def features(clip: np.ndarray) -> np.ndarray:
        shown = _as_pixels(_evenly(clip, count), side, *normalization)  # f 3 h w
        return model(pixel_values=torch.from_numpy(shown)[None]).last_hidden_state[0].mean(0).numpy()

    return features


def _of_torchscript(path: Path) -> Features:
    """A program of torch's own, such as the I3D that published distances use: it is given (1, 3, f, 224, 224)
    in 0 … 255, and asked for features where it can be.
    """
    import torch

    try:
        model: Any = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--features {path} is no TorchScript file: {str(error).splitlines()[0]}") from None
    names = [argument.name for argument in model.forward.schema.arguments]
    how = {name: True for name in ("rescale", "resize", "return_features") if name in names}

    @torch.no_grad()
    def features(clip: np.ndarray) -> np.ndarray:
        shown = _resized(_evenly(clip, max(FRAMES, min(len(clip), 64))), SIDE).astype(np.float32)
        video = torch.from_numpy(shown).permute(3, 0, 1, 2)[None]  # 1 3 f h w
        return model(video, **how)[0].flatten().float().numpy()

    return features


class Clip:
    """A CLIP model of a folder. ValueError where there is none."""

    def __init__(self, path: Path):
        from transformers import AutoTokenizer, CLIPModel

        self.model: Any = _from_folder(CLIPModel, path, "--clip")
        self.tokenizer: Any = _from_folder(AutoTokenizer, path, "--clip")
        self.side = self.model.config.vision_config.image_size
        self.normalization = _normalization(path, CLIP_MEAN, CLIP_STD)

    def similarity(self, clip: np.ndarray, prompt: str) -> float:
        """The mean cosine of `CLIP_FRAMES` frames, of a clip uint8 (f, h, w, 3), with the words."""
        import torch

        words = self.tokenizer(
            [prompt],
            return_tensors="pt",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
        )
        pixels = _as_pixels(_evenly(clip, CLIP_FRAMES), self.side, *self.normalization)
        with torch.no_grad():
            made = self.model(**words, pixel_values=torch.from_numpy(pixels))
        return float(torch.nn.functional.cosine_similarity(made.image_embeds, made.text_embeds).mean())


def _from_folder(kind: Any, path: Path, flag: str) -> Any:
    """A model or tokenizer of a folder, from safetensors alone where it is a model. ValueError."""
    given = {} if "Tokenizer" in kind.__name__ else {"use_safetensors": True}
    if not path.is_dir():
        raise ValueError(f"{flag} {path}: give the folder of a model, with its config.json")
    try:
        found = kind.from_pretrained(str(path), local_files_only=True, **given)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{flag} {path} cannot be loaded by transformers: {first}") from None
    return found.eval() if hasattr(found, "eval") else found


def _normalization(path: Path, mean: Sequence[float], std: Sequence[float]) -> tuple:
    """The mean and spread of pixels that a model wants, as its folder says, or as given here."""
    try:
        told = json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))
        return tuple(told["image_mean"]), tuple(told["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        return tuple(mean), tuple(std)


def _evenly(clip: np.ndarray, count: int) -> np.ndarray:
    """So many frames of a clip, evenly spaced; some twice where it has fewer."""
    return clip[np.linspace(0, len(clip) - 1, count).round().astype(int)]


def _resized(clip: np.ndarray, side: int) -> np.ndarray:
    """Frames as squares of `side` pixels, uint8 (f, side, side, 3): the whole picture."""
    size = (side, side)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in clip])


def _as_pixels(clip: np.ndarray, side: int, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Frames as a vision model takes them: float32 (f, 3, side, side)."""
    pixels = _resized(clip, side).astype(np.float32) / 255
    pixels = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
