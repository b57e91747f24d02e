"""A model of the synthetic world, measured on what it has never seen.

Videos of held-out combinations of words with fixed seeds are judged by `pyramid.evaluation.judge`; the VAE is
measured on held-out clips and photographs, image-to-video on how well it keeps its first frame. Shares come
with 95 % intervals (Wilson).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from rich.table import Table
from rich.text import Text
from scipy import ndimage

from pyramid.evaluation.judge import Verdict, judge
from pyramid.evaluation.registration import register
from pyramid.settings import frames_of
from pyramid.training.data import psnr, to_video
from pyramid.training.photos import camera_clip, photographs
from pyramid.training.world import Scene, World, camera_caption, canonical_caption, caption

STILL = ("stay", "spin")  # the motions that leave an object where it is
TRAINED_ON = {  # a key of pyramid.json -> the field of `World`
    "shapes": "shapes",
    "colours": "colors",
    "backgrounds": "backgrounds",
    "motions": "motions",
}


@dataclass(frozen=True)
class Share:
    """How many of how many were right."""

    right: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the share, both ends in [0, 1]."""
        n = max(self.total, 1)
        p = self.right / max(self.total, 1)
        z = 1.96
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        share = self.right / max(self.total, 1)
        return f"{share:.1%}  ({self.right} of {self.total}; 95 %: {low:.0%} to {high:.0%})"


def score(verdicts: list[Verdict], scenes: list[Scene]) -> dict[str, Share]:
    """What was right in judged clips of known scenes."""
    pairs = list(zip(verdicts, scenes, strict=True))
    moving = [(v, s) for v, s in pairs if s.motion not in STILL]

    def share(pairs, test) -> Share:
        return Share(sum(bool(test(v, s)) for v, s in pairs), len(pairs))

    return {
        "colour right": share(pairs, lambda v, s: v.color == s.color),
        "shape right": share(pairs, lambda v, s: v.shape == s.shape),
        "object present throughout": share(pairs, lambda v, s: v.present == 1),
        "motion right, all kinds": share(pairs, lambda v, s: v.motion == s.motion),
        "motion right, kinds that move": share(moving, lambda v, s: v.motion == s.motion),
    }


def world_of(pipe) -> World:
    """The world that a pipeline's checkpoint was trained on, see `world_in`."""
    return world_in(pipe.checkpoint.details if pipe.checkpoint else {}, pipe.defaults)


def world_in(details: dict, defaults) -> World:
    """The world a checkpoint was trained on, as its pyramid.json says (`details`), in the size, length and
    rate of a variant's defaults; ValueError when it says nothing usable.
    """
    trained = details.get("trained_on")
    if not isinstance(trained, dict):
        raise ValueError(
            "This model's pyramid.json does not say which world it was trained on (trained_on): "
            "only models made by `python -m pyramid train` can be evaluated."
        )
    missing = [key for key in TRAINED_ON if key not in trained]
    if missing:
        raise ValueError(
            f"This model's pyramid.json lacks {', '.join(missing)} under trained_on: train it again."
        )
    names = {field: tuple(trained[key]) for key, field in TRAINED_ON.items()}
    return World(
        **names,
        size=defaults.sizes[0][0],
        frames=frames_of(defaults.units),
        fps=defaults.fps,
        photo_cameras=tuple(trained.get("cameras", ())),
    )


def choose_scenes(world: World, count: int, seed: int) -> list[Scene]:
    """`count` held-out scenes, each as often as the others, in an order fixed by the seed.

    ValueError for a world so small that no combination of it is held out.
    """
    scenes = world.held_out_scenes()
    if not scenes:
        raise ValueError(
            f"None of this world's {len(world.scenes())} combinations is held out: take a larger world."
        )
    order = np.random.default_rng(seed).permutation(len(scenes))
    return [scenes[order[i % len(order)]] for i in range(count)]


def evaluate_videos(pipe, world: World, count: int, seed: int) -> tuple[dict, np.ndarray]:
    """Text to video on held-out scenes: the scores, and the clips, uint8 `(count, f, h, w, 3)`."""
    rng = np.random.default_rng(seed)
    scenes = choose_scenes(world, count, seed)
    clips = []
    seconds = []
    for index, scene in enumerate(track(scenes, description="text to video", transient=True)):
        began = time.perf_counter()
        frames = pipe(caption(scene, rng), seed=seed + index, **_size(world)).frames[0]
        seconds.append(time.perf_counter() - began)
        clips.append(_bytes(frames))
    results: dict = dict(score([judge(clip, world) for clip in clips], scenes))
    results["seconds per video (median)"] = float(np.median(seconds))
    return results, np.stack(clips)


def evaluate_pictures(pipe, world: World, count: int, seed: int) -> dict:
    """Image to video from first frames of held-out scenes and from held-out photographs."""
    rng = np.random.default_rng(seed + 1)
    scenes = choose_scenes(world, count, seed + 1)
    verdicts = []
    kept: list[float] = []
    for index, scene in enumerate(track(scenes, description="image to video", transient=True)):
        picture = world.render(scene, rng)[0]
        clip = _from_picture(pipe, world, picture, canonical_caption(scene), seed + index, kept)
        verdicts.append(judge(clip, world))
    results: dict = {f"image to video: {name}": value for name, value in score(verdicts, scenes).items()}
    moves = []
    for index, photo in enumerate(photographs("held_out")):
        for camera in world.photo_cameras or ("",):
            picture = camera_clip(photo, camera or "zoom in", rng, size=world.size, frames=2)[0]
            text = camera_caption(camera, rng) if camera else canonical_caption(scenes[index % len(scenes)])
            clip = _from_picture(pipe, world, picture, text, seed + index, kept)
            moves.append(register(clip[0], clip[-1]).camera == (camera or None))
    if world.photo_cameras:
        results["photo camera moves right"] = Share(sum(moves), len(moves))
    results["first frame kept, dB to the VAE's own"] = float(np.mean(kept))
    results["first frame kept, the least"] = min(kept)
    return results


def _from_picture(
    pipe, world: World, picture: np.ndarray, text: str, seed: int, kept: list[float]
) -> np.ndarray:
    """Animate a picture; notes in `kept` how well its first frame agrees with the VAE's reconstruction."""
    frames = pipe(text, image=Image.fromarray(picture), seed=seed, **_size(world)).frames[0]
    clip = _bytes(frames)
    kept.append(
        psnr(clip[0].astype(np.float32), _bytes(reconstruct(pipe.vae, picture[None]))[0].astype(float), 255.0)
    )
    return clip


@torch.no_grad()
def reconstruct(vae, clip: np.ndarray) -> np.ndarray:
    """A clip uint8 `(f, h, w, 3)` through the VAE and back, float in [0, 1]."""
    video = to_video(clip[None]).to(vae.device, vae.dtype)
    made = vae.decode(vae.encode(video).latent_dist.mode()).sample[0]
    return (made.float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).cpu().numpy()  # f h w 3


def evaluate_vae(pipe, world: World, count: int, seed: int) -> dict[str, float]:
    """Mean PSNR in dB of the VAE's reconstructions of what it has not seen."""
    rng = np.random.default_rng(seed + 2)
    toys = [world.render(scene, rng) for scene in choose_scenes(world, count, seed + 2)]
    photos = [camera_clip(p, "zoom out", rng, size=world.size, frames=2)[:1] for p in photographs("held_out")]

    def mean(clips) -> float:
        return float(np.mean([psnr(reconstruct(pipe.vae, clip), clip / 255.0, 1.0) for clip in clips]))

    return {
        "VAE, held-out toy clips (dB)": mean(toys),
        "VAE, first frames of held-out toy clips (dB)": mean([clip[:1] for clip in toys]),
        "VAE, held-out photographs as first frames (dB)": mean(photos),
    }


def _size(world: World) -> dict:
    return {"num_frames": world.frames, "height": world.size, "width": world.size, "output_type": "np"}


def _bytes(frames: np.ndarray) -> np.ndarray:
    return (frames * 255).round().astype(np.uint8)


def sharpness(clip: np.ndarray) -> float:
    """How much detail a clip (f, h, w, 3) has: the root mean square of the Laplacian of its brightness."""
    gray = clip.astype(np.float32).mean(axis=-1)
    return float(np.sqrt(np.mean([ndimage.laplace(frame).astype(np.float64) ** 2 for frame in gray])))


def contact_sheet(clips: np.ndarray, columns: int = 7) -> Image.Image:
    """Clips as rows of `columns` frames each, evenly spaced."""
    places = np.linspace(0, clips.shape[1] - 1, columns).round().astype(int)
    rows = [np.concatenate(list(clip[places]), axis=1) for clip in clips]
    return Image.fromarray(np.concatenate(rows))


def as_table(results: dict, title: str) -> Table:
    """The results as rich prints them."""
    table = Table(title=Text(title, style="table.title"))
    table.add_column("measure")
    table.add_column("result")
    for name, value in results.items():
        table.add_row(name, str(value) if isinstance(value, Share) else f"{value:.1f}")
    return table


def as_plain(value: Share | float) -> dict | float:
    """A result as JSON holds it: a share with its interval, or the number."""
    return asdict(value) | {"interval": value.interval} if isinstance(value, Share) else value
