"""Recipes: the TOML files in presets/training, read strictly.

A recipe holds the world, and one table for each thing that is trained: `[text]`, `[vae]`, `[decoder]`,
`[dit]`, `[distill]`. Budgets are in minutes (on a shared or slow machine) or in steps (to repeat a run
exactly); give one of the two.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pyramid.disk import check_file
from pyramid.training.limits import (
    BelowOne,
    Count,
    Name,
    NotNegative,
    OneOf,
    Positive,
    Share,
    Whole,
    limit_problem,
)
from pyramid.training.world import World
from pyramid.wording import briefly

CRITIC_SIZE = 64  # pixels that the published critic needs
FORMER_KEYS = {"colours": "colors"}  # as recipes had them before


@dataclass(frozen=True)
class TextRecipe:
    """Settings of `pyramid.training.text.train_text`."""

    steps: Count | None = None


@dataclass(frozen=True)
class Phase:
    """A part of the VAE's training: clips of `frames` (1: pictures) at `size` pixels, `batch` at a time.

    A share `photos` of them is photographs, the rest is the synthetic world. A share `pictures` of the steps
    trains on single pictures instead, half as many as the clips have frames and mostly photographs: without
    them, clips crowd out what the model had learned of photographs.
    """

    share: Positive
    size: Count
    frames: Count
    batch: Count
    photos: Share
    pictures: Share = 0.0


@dataclass(frozen=True)
class VAERecipe:
    """The VAE and how it is trained. `phases` divide the budget by their shares, in order.

    `adversarial_weight` or `feature_weight` above 0 brings in a critic (`pyramid.training.critic`) after the
    share `adversary_from` of the run: sharper textures, at the price of some PSNR.

    `losses`: "own" is the embedded model's, "published" the paper's: squared error times `pixel_weight`, a
    perceptual distance times `perceptual_weight`, KL as a sum over a latent, a critic of single frames.
    `perceptual`: files with the weights of LPIPS, none for the stand-in (`pyramid.training.perceptual`).
    `optimizer`: "muon" for matrices beside AdamW, or "adamw" alone with `weight_decay`. `warm_up`: steps to
    the full rate, after which a cosine leads to the share `final_rate` of it; None: as `constant_share` has
    it. `decoder_layers`: of each of its blocks, 0 for as many as the encoder's. `context`: so many processes
    share the frames of each clip (`pyramid.training.context`), with the published losses.

    `clips`: so many are rendered of the world, or taken from a list (0: all of it). Of a list, `pool_mb`
    megabytes of clips are in memory of each process at a time; `fresh` are read anew a step where there are
    more, and more than the share `most_broken` of unusable ones ends the run (`pyramid.training.clips.pool`).
    """

    channels: tuple[Count, ...] = (16, 32, 64, 64)
    layers: Count = 1
    decoder_layers: Whole = 0
    groups: Count = 1
    minutes: Positive | None = None
    steps: Count | None = None
    learning_rate: Positive = 1e-3
    constant_share: Share = 0.35
    ema_decay: BelowOne = 0.99
    kl_weight: NotNegative = 3e-4
    half_size_weight: NotNegative = 0.25
    adversarial_weight: NotNegative = 0.0
    feature_weight: NotNegative = 0.0
    adversary_from: BelowOne = 0.5
    adversary_width: Count = 32
    losses: Annotated[str, OneOf(("own", "published"))] = "own"
    pixel_weight: NotNegative = 10.0
    perceptual_weight: NotNegative = 1.0
    perceptual: tuple[str, ...] = ()
    optimizer: Annotated[str, OneOf(("muon", "adamw"))] = "muon"
    weight_decay: NotNegative = 1e-3
    warm_up: Whole | None = None
    final_rate: Share = 0.1
    context: Count = 1
    clips: Whole = 600
    pool_mb: Count = 2000
    fresh: NotNegative = 1.0
    most_broken: Share = 0.1
    photo_folders: tuple[str, ...] = ()
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class DecoderRecipe:
    """How the decoder of the finished VAE is trained on, its latents as they are; without a budget it is not.

    `start` is a checkpoint whose autoencoder is trained on, in place of the recipe's own, and
    `latent_noise` is the strongest noise on the latents, which have unit variance.
    """

    start: str = ""
    minutes: Positive | None = None
    steps: Count | None = None
    learning_rate: Positive = 1e-3
    constant_share: Share = 0.35
    ema_decay: BelowOne = 0.99
    latent_noise: NotNegative = 0.15
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class DiTRecipe:
    """The transformer and how it is trained. `batch` is the number of samples a step for each stage,
    0 first.

    `start` is a checkpoint to go on from, and `start_variant` one of its transformers, its first where that
    is not said; the recipe must have its sizes, and takes its text encoders and autoencoder over too. With
    `photo_clips`, a share `photo_share` of the steps is on photographs moved by a camera, and a share
    `texture_share` of these clips on pictures that nobody took. On the world's steps, a share `keep` of what
    is learned is the velocity that the variant `keep_variant` of `start` has there (learning without
    forgetting, arXiv 1606.09282): it has less noise than that of a clip, so what that variant knows of the
    world costs few steps to keep. `fixed_past`: see `models.flux.FluxNetwork`. A share `own_past` of the
    samples see as their past what the model of `start` makes of the clip (`training.own_past`). In the end
    the weights are a mean of those of `start`, by a share `start_share`, and of those that were trained,
    which knows more than either (arXiv 2109.01903).
    """

    start: str = ""
    start_variant: str = ""
    keep: Share = 0.0
    keep_variant: str = ""
    own_past: Share = 0.0
    start_share: Share = 0.0
    fixed_past: bool = False

    layers: Whole = 2
    single_layers: Whole = 6
    heads: Count = 3
    head_dim: Count = 64
    minutes: Positive | None = None
    steps: Count | None = None
    learning_rate: Positive = 1.5e-3
    constant_share: Share = 0.4
    ema_decay: BelowOne = 0.99
    batch: tuple[Whole, ...] = (48, 48, 24)
    text_dropout: Share = 0.1
    history_noise: Share = 1 / 3
    clips_per_scene: Count = 2
    captions_per_scene: Count = 8
    photo_clips: Whole = 0
    photo_share: Share = 0.3
    texture_share: Share = 0.35
    sample_steps: tuple[Count, ...] = (8, 8, 8)
    sample_guidance: NotNegative = 4.0


@dataclass(frozen=True)
class DistillRecipe:
    """How a student learns to cross each stage in few steps, without guidance (`training.distill`).

    It takes `stage_steps` of them, and the teacher `teacher_steps` for each, with its own guidance where
    `guidance` is 0. A rollout is `batch` clips of `units` units, 0: as many as the model was trained for.
    `first_rollouts` are made before the first step, one more every `steps_a_rollout`, and the last
    `kept_rollouts` are trained on. From the share `own_from` of the run on, a share `own` of the new ones
    goes on from where the student came to. `history_noise` is the strongest noise on what is past. A
    `lora_rank` above 0 trains a LoRA of the blocks, 0 all weights.
    """

    stage_steps: tuple[Count, ...] = (2, 2, 1)
    teacher_steps: tuple[Count, ...] = (3, 3, 5)
    guidance: NotNegative = 0.0
    units: Whole = 0
    suffix: Name = "fast"
    minutes: Positive | None = None
    steps: Count | None = None
    learning_rate: Positive = 8e-4
    muon: bool = True
    lora_rank: Whole = 0
    constant_share: Share = 0.3
    ema_decay: BelowOne = 0.99
    batch: Count = 24
    captions_per_scene: Count = 1
    first_rollouts: Count = 5
    steps_a_rollout: Count = 40
    kept_rollouts: Count = 48
    own_from: Share = 0.4
    own: Share = 0.75
    history_noise: Share = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything one training command needs."""

    name: Name
    seed: Whole = 0
    world: World = field(default_factory=World)
    text: TextRecipe = field(default_factory=TextRecipe)
    vae: VAERecipe = field(default_factory=VAERecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    dit: DiTRecipe = field(default_factory=DiTRecipe)
    distill: DistillRecipe = field(default_factory=DistillRecipe)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. ValueError names the file, the key and what is allowed there."""
    recipe: Recipe = recipe_of(Recipe, path)
    vae = recipe.vae
    smallest = min((phase.size for phase in vae.phases), default=CRITIC_SIZE)
    checks: list[tuple[bool, str, Any]] = [
        (vae.context == 1 or vae.losses == "published", "context goes with losses = published", vae.context),
        (
            vae.losses == "own" or not vae.adversarial_weight or smallest >= CRITIC_SIZE,
            f"the published critic needs phases of {CRITIC_SIZE} pixels or more",
            smallest,
        ),
    ]
    if wrong := next((f"{words}, not {value!r}" for good, words, value in checks if not good), ""):
        raise ValueError(f"{path}: [vae] {wrong}")
    dit = recipe.dit
    for key, share in (("keep", dit.keep), ("own_past", dit.own_past), ("start_share", dit.start_share)):
        if share and not dit.start:
            raise ValueError(f"{path}: [dit] {key} = {share} goes with start: the model that it is asked of.")
    return recipe


def keys_of(table: str, settings: Any, *names: str) -> dict[str, Any]:
    """Some keys of a recipe's table as people know them, with their values: `Loop(fixed=…)` takes them."""
    return {f"[{table}] {name}": getattr(settings, name) for name in names}


def recipe_of(kind: type, path: str | Path) -> Any:
    """A recipe of that `kind`. ValueError names the file, the key and what is allowed there."""
    path = Path(path)
    try:
        check_file(path)
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"There is no recipe {path}: {error.strerror}. Recipes are in presets/training."
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    return read_table(kind, table, str(path))


def read_table(kind: type, table: dict, where: str) -> Any:
    """A dataclass from a table, checking every key and turning lists into tuples, tables into dataclasses."""
    if not isinstance(table, dict):
        raise ValueError(f"{where} = {briefly(table)}: a table of keys is expected.")
    known = typing.get_type_hints(kind, include_extras=True)
    table = {FORMER_KEYS.get(key, key): value for key, value in table.items()}
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key '{key}'. Known keys: {', '.join(known)}.")
    values = {}
    for key, value in table.items():
        values[key] = _value_of(known[key], key, value, where)
    for needed in dataclasses.fields(kind):
        if needed.name not in values and needed.default is needed.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}: the key '{needed.name}' is missing.")
    return kind(**values)


def _value_of(hint: Any, key: str, value: Any, where: str) -> Any:
    """A value of a table as the key's type. ValueError for one of another type."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return read_table(hint, value, f"{where} [{key}]")
    if key == "phases" and isinstance(value, list):
        return tuple(read_table(Phase, phase, f"{where} [[phases]]") for phase in value)
    value = tuple(value) if isinstance(value, list) else value
    if not _fits(hint, value):
        raise ValueError(f"{where}: {key} = {briefly(value)} is of another type than the key has.")
    if problem := limit_problem(hint, value):
        raise ValueError(f"{where}: {key} = {briefly(value)}: {problem}.")
    return value


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the type that a key has."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        return _fits(inside[0], value)
    if typing.get_origin(hint) is tuple:
        each = inside[:1] * len(value) if isinstance(value, tuple) and inside[-1:] == (...,) else inside
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, each, value))
    if typing.get_origin(hint) is typing.Literal:
        return value in inside
    if inside:
        return any(_fits(each, value) for each in inside)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in (int, str, bool) else isinstance(value, hint)
