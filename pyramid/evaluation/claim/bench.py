"""What the claim is tested on: clips of the toy world and of photographs moved by a camera, as latents.

    bench = Bench()
    clips = make_clips(bench, folder)          # encoded once, by the embedded model's parts; resumable

The world is a small one, so that a network which two cores train in minutes can learn its words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from pyramid.generate.latents import normalize
from pyramid.hub.checkpoints import Checkpoint, find
from pyramid.hub.families import LatentScales
from pyramid.models.vae import CausalVideoVAE
from pyramid.text.encoders import TextEncoders
from pyramid.training.clips.cache import NOTHING, Cache, Entry, ShardWriter, Stored, Text
from pyramid.training.data import to_video
from pyramid.training.photos import Photo, camera_clip, photographs
from pyramid.training.world import CAMERA_WORDS, CAMERAS, Scene, World, canonical_caption

PARTS = "embedded"  # whose autoencoder and text encoders are used
WORLD = World(
    shapes=("square", "star", "heart"),
    colors=("red", "yellow", "blue", "green"),
    backgrounds=("meadow", "desert"),
    motions=("right", "left", "up", "down"),
    size=64,
    frames=17,
)
SHRUNK = (4, 2)  # by how much the coarser levels are, the coarsest first
WRITTEN = 16  # clips at a time: what an interruption costs


@dataclass(frozen=True)
class Bench:
    """The sizes of the test; the defaults are those of docs/claim.md.

    `flops` is what a run may spend in all, `points` the shares of it after which quality is measured,
    `tokens` what an optimizer's step sees, in every way of training. `evaluations` of the network make a unit
    (or a whole clip) when sampled.
    """

    copies: int = 3  # clips of each scene
    photo_clips: int = 36
    real_toys: int = 80  # held-out clips, to compare with
    real_photos: int = 18
    layers: int = 2
    single_layers: int = 2
    heads: int = 3
    head_dim: int = 32
    tokens: int = 430
    learning_rate: float = 2e-3
    warm_up: int = 20
    ema_decay: float = 0.99
    flops: float = 2e12
    points: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75, 1.0)
    toys: int = 34  # clips that are made for a measurement: each held-out scene twice
    photos: int = 8
    judged: int = 34  # of the toys: decoded, and given to the judge
    evaluations: int = 15
    guidance: float = 3.0

    @property
    def world(self) -> World:
        """The toy world."""
        return WORLD


@dataclass(frozen=True)
class Item:
    """One clip to be made: a scene, or a photograph and its camera."""

    name: str
    scene: Scene | None = None
    photo: int = 0
    camera: str = ""

    @property
    def held_out(self) -> bool:
        """Whether it is to compare with, and never trained on."""
        return self.name.startswith("real")

    def rng(self) -> np.random.Generator:
        """What everything random of this clip is drawn from."""
        return np.random.default_rng(list(hashlib.sha256(self.name.encode()).digest()[:8]))


def items_of(bench: Bench) -> Iterator[Item]:
    """All clips, those for training first."""
    world = bench.world
    for number, scene in enumerate(world.training_scenes()):
        for copy in range(bench.copies):
            yield Item(f"train toy {number:04d} {copy}", scene)
    for number in range(bench.photo_clips):
        yield Item(
            f"train photo {number:04d}", photo=number // len(CAMERAS), camera=CAMERAS[number % len(CAMERAS)]
        )
    held_out = world.held_out_scenes()
    for number in range(bench.real_toys):
        yield Item(f"real toy {number:04d}", held_out[number % len(held_out)])
    for number in range(bench.real_photos):
        yield Item(
            f"real photo {number:04d}", photo=number // len(CAMERAS), camera=CAMERAS[number % len(CAMERAS)]
        )


def labels_of(world: World, scene: Scene | None, camera: str = "") -> list[int]:
    """Shape, color, background, motion as numbers; a photograph is a shape, and its camera a motion."""
    if scene is None:
        return [len(world.shapes), -1, -1, len(world.motions) + CAMERAS.index(camera)]
    return [
        world.shapes.index(scene.shape),
        world.colors.index(scene.color),
        world.backgrounds.index(scene.background),
        world.motions.index(scene.motion),
    ]


def answers_of(world: World) -> list[int]:
    """How many answers each question of `labels_of` has."""
    return [
        len(world.shapes) + 1,
        len(world.colors),
        len(world.backgrounds),
        len(world.motions) + len(CAMERAS),
    ]


# -- making them
class Parts:
    """The frozen autoencoder and text encoders."""

    def __init__(self) -> None:
        self.checkpoint: Checkpoint = find(PARTS)
        self.vae = CausalVideoVAE.from_pretrained(self.checkpoint.vae, torch_dtype=torch.bfloat16).eval()
        self.vae.to(memory_format=torch.channels_last_3d)
        self.scales = LatentScales.stated(self.vae.config) or self.checkpoint.family.scales

    @cached_property
    def text(self) -> TextEncoders:
        """Loaded when a caption is to be read."""
        return TextEncoders.from_folder(self.checkpoint.folder, device="cpu", cache=False, keep=True)

    def texts(self, captions: Sequence[str]) -> list[Text]:
        """Captions as the transformer reads them."""
        embeds = self.text.encode(list(captions))
        rows = zip(embeds.prompt_embeds, embeds.attention_mask, embeds.pooled, strict=True)
        return [Text(states[mask.bool()].float(), pooled.float()) for states, mask, pooled in rows]

    @torch.no_grad()
    def encode(self, clips: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the posterior of clips uint8 `(b, f, h, w, 3)`."""
        posterior = self.vae.encode(to_video(clips).to(torch.bfloat16)).latent_dist
        return posterior.mean.float(), posterior.std.float()


@dataclass
class Clips:
    """All clips in memory: latents as the autoencoder makes them, and captions."""

    bench: Bench
    scales: LatentScales
    entries: list[Entry]  # for training
    stored: dict[str, Stored]
    items: dict[str, Item]
    nothing: Text
    coarse: dict[str, list[Tensor]] = field(default_factory=dict)  # levels from shrunken pixels, if asked for

    def latents(self, held_out: bool) -> tuple[Tensor, Tensor]:
        """Latents `(n, c, t, h, w)` in the transformer's space, and labels `(n, 4)`."""
        chosen = [item for item in self.items.values() if item.held_out == held_out]
        means = torch.stack([self.stored[item.name].mean for item in chosen])
        labels = [labels_of(self.bench.world, item.scene, item.camera) for item in chosen]
        return normalize(means, self.scales), torch.tensor(labels)


def make_clips(bench: Bench, folder: Path) -> Clips:
    """Render, encode and keep the clips of a bench in `folder`; what is there is not made again."""
    parts, items = Parts(), list(items_of(bench))
    # Only what the clips depend on: another network or another budget can be tested on the same ones.
    wanted = ("copies", "photo_clips", "real_toys", "real_photos")
    about = {name: asdict(bench)[name] for name in wanted} | {"world": asdict(bench.world)}
    cache = Cache.open(folder, about)
    writer = ShardWriter(cache, 0)
    if not cache.knows(NOTHING):
        writer.add(NOTHING, "text", Stored(torch.zeros(1, 0, 0, 0), None, tuple(parts.texts([""]))))
        writer.write()
    missing = [item for item in items if not cache.knows(item.name)]
    pictures = {split: photographs(split) for split in ("train", "held_out")}
    for start in track(range(0, len(missing), WRITTEN), description="clips to latents", transient=True):
        _write(bench, parts, writer, missing[start : start + WRITTEN], pictures)
    entries = {entry.name: entry for entry in cache.entries()}
    stored = {item.name: cache.read(entries[item.name]) for item in items}
    trained = [entries[item.name] for item in items if not item.held_out]
    words = max(len(item.texts[0].states) for item in stored.values())
    stored = {name: replace(item, texts=(padded(item.texts[0], words),)) for name, item in stored.items()}
    by_name = {item.name: item for item in items}
    return Clips(bench, parts.scales, trained, stored, by_name, padded(cache.nothing(), words))


def add_shrunken(clips: Clips, parts: Parts, path: Path) -> None:
    """Fill `clips.coarse`: the coarser levels of the clips for training, coarsest first, encoded from pixels
    that were shrunk. Kept in `path`.
    """
    if not path.exists():
        pictures = photographs("train")
        made: dict[str, list[Tensor]] = {}
        for entry in track(clips.entries, description="shrunken clips to latents", transient=True):
            clip = _render(clips.bench, clips.items[entry.name], pictures)
            made[entry.name] = [parts.encode(shrunk(clip, factor)[None])[0][0] for factor in SHRUNK]
        torch.save(made, path)
    clips.coarse = torch.load(path, weights_only=True)


def shrunk(clip: np.ndarray, factor: int) -> np.ndarray:
    """A clip `(f, h, w, 3)` of fewer pixels, each the mean of a square of so many a side."""
    frames, height, width, channels = clip.shape
    squares = clip.reshape(frames, height // factor, factor, width // factor, factor, channels)
    return squares.mean((2, 4)).round().astype(np.uint8)


def padded(text: Text, words: int) -> Text:
    """A text of so many words: zeros follow, which the network sees.

    Captions of one length cost the same, and rows of a batch share each call.
    """
    return Text(F.pad(text.states, (0, 0, 0, words - len(text.states))), text.pooled)


def _write(
    bench: Bench, parts: Parts, writer: ShardWriter, items: list[Item], pictures: dict[str, list[Photo]]
) -> None:
    """Bring some clips into the cache."""
    clips = [_render(bench, item, pictures["held_out" if item.held_out else "train"]) for item in items]
    means, deviations = parts.encode(np.stack(clips))
    texts = parts.texts([caption_of(item) for item in items])
    for item, mean, deviation, text in zip(items, means, deviations, texts, strict=True):
        writer.add(item.name, "video", Stored(mean, deviation, (text,)))
    writer.write()


def _render(bench: Bench, item: Item, photos: list[Photo]) -> np.ndarray:
    world, rng = bench.world, item.rng()
    if item.scene is not None:
        return world.render(item.scene, rng)
    photo = photos[item.photo % len(photos)]
    return camera_clip(photo, item.camera, rng, size=world.size, frames=world.frames)


def caption_of(item: Item) -> str:
    """The one wording that is used of a clip."""
    return CAMERA_WORDS[item.camera][0] if item.scene is None else canonical_caption(item.scene)
