"""Recipes of training on clips: TOML files, read strictly, one table for each subject.

    recipe = load_clip_recipe("presets/training/clips-384p.toml")
    recipe.data.sizes, recipe.train.stage_shares

The defaults are the published values of the video phases (arXiv 2410.05954, appendix B) where there are any.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pyramid.settings import TRAINED_STAGES, frames_of, size_grid, units_of
from pyramid.training.clips.buckets import BUCKETS, Size
from pyramid.training.clips.reading import RATES, Wanted
from pyramid.training.limits import (
    BelowOne,
    Count,
    Limit,
    Name,
    NotNegative,
    OneOf,
    Positive,
    Share,
    Whole,
)
from pyramid.training.recipe import recipe_of


@dataclass(frozen=True)
class DataRecipe:
    """What clips are brought to. `buckets` names the published sizes; `width` and `height` stand for one size
    of one's own. `images`: the share of steps that are on pictures, where the list has any. `most_broken`:
    the share of items that may be unusable before the run is refused.
    """

    buckets: Annotated[str, OneOf(tuple(BUCKETS))] = "384p"
    width: Whole = 0
    height: Whole = 0
    fps: Positive = 24.0
    frames: Count = 121
    images: Share = 0.125
    cuts: bool = True
    most_broken: Share = 0.1

    @property
    def sizes(self) -> tuple[Size, ...]:
        """(width, height) of each bucket, in pixels."""
        return ((self.width, self.height),) if self.width else BUCKETS[self.buckets]

    @property
    def wanted(self) -> Wanted:
        """How samples are read."""
        return Wanted(self.fps, self.frames, self.sizes, cuts=self.cuts)


@dataclass(frozen=True)
class NetworkRecipe:
    """The transformer of a training from nothing, `parts`: the checkpoint whose autoencoder and text encoders
    are used (those of `--from` when it is empty), `vae`: an autoencoder in place of its own, such as `train
    vae` makes, and the variant's name of what comes out.
    """

    family: Annotated[str, OneOf(("miniflux", "sd3"))] = "miniflux"
    parts: str = ""
    vae: str = ""
    variant: Name = "384p"
    layers: Whole = 8
    single_layers: Whole = 16
    heads: Count = 30
    head_dim: Count = 64


@dataclass(frozen=True)
class TrainRecipe:
    """How it is trained. `batch` counts samples of a step over all processes, `micro` those of one forward.

    `stage_shares` are samples of each stage, coarsest first (1:2:1 as the reference has it, the paper says
    even). `temporal_pyramid` off: all units are denoised at once, with no history and no causality.
    `spatial_pyramid` off: one stage, at full resolution. A step whose loss is `worst_loss` or more, or no
    number, is skipped; three in a row end the run. `update`: how AdamW goes through the weights: all in one
    kernel, in a few for all, or one weight after the other. `sharding` over several processes: "full" cuts
    weights, gradients, optimizer and average; "gradients" too, but weights that were put together for a
    forward stay so until the backward, which is faster. `trackers`: tensorboard, wandb, trackio.
    """

    steps: Count = 100_000
    batch: Count = 64
    micro: Count = 4
    stage_shares: tuple[Whole, ...] = (1, 2, 1)
    temporal_pyramid: bool = True
    spatial_pyramid: bool = True
    history_noise: Share = 1 / 3
    text_dropout: Share = 0.1
    optimizer: Annotated[str, OneOf(("adamw", "adamw8bit"))] = "adamw"
    update: Annotated[str, OneOf(("fused", "foreach", "plain"))] = "fused"
    sharding: Annotated[str, OneOf(("none", "gradients", "full"))] = "none"
    learning_rate: Positive = 1e-4
    betas: tuple[BelowOne, ...] = (0.9, 0.95)
    eps: NotNegative = 1e-6
    weight_decay: NotNegative = 1e-4
    clip: Limit = 1.0
    warm_up: Whole = 1000
    ema_decay: BelowOne = 0.999
    worst_loss: Limit = 2.0
    precision: Annotated[str, OneOf(("no", "bf16"))] = "bf16"
    gradient_checkpointing: bool = True
    save_every: Whole = 500
    log_every: Count = 20
    sample_every: Whole = 0
    trackers: tuple[str, ...] = ("tensorboard",)


@dataclass(frozen=True)
class LoraRecipe:
    """The LoRA of `train lora`: its rank, alpha, and the layers by the ends of their names."""

    rank: Count = 16
    alpha: Count = 16
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")


@dataclass(frozen=True)
class ClipRecipe:
    """Everything that a training on clips needs."""

    name: Name
    seed: Whole = 42
    data: DataRecipe = field(default_factory=DataRecipe)
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    lora: LoraRecipe = field(default_factory=LoraRecipe)

    @property
    def stages(self) -> int:
        """Resolutions of the pyramid."""
        return TRAINED_STAGES if self.train.spatial_pyramid else 1


def load_clip_recipe(path: str | Path) -> ClipRecipe:
    """Read a recipe. ValueError names the file, the key, and what is allowed there."""
    recipe: ClipRecipe = recipe_of(ClipRecipe, path)
    if problem := _problem(recipe):
        raise ValueError(f"{path}: {problem}")
    return recipe


def _problem(recipe: ClipRecipe) -> str:
    """What cannot work in a recipe, "" when all can."""
    data = recipe.data
    train = recipe.train
    grid = size_grid(recipe.stages)
    checks: list[tuple[bool, str, Any]] = [
        (bool(data.width) == bool(data.height), "[data] give width and height, or neither", data.width),
        (
            not (data.width % grid or data.height % grid),
            f"[data] sizes must be multiples of {grid}",
            data.width,
        ),
        (data.frames == frames_of(units_of(data.frames)) >= 1, "[data] frames must be 1 + 8k", data.frames),
        (RATES[0] <= data.fps <= RATES[1], "[data] fps must be {} to {}".format(*RATES), data.fps),
        (
            train.sharding == "none" or train.optimizer == "adamw",
            "[train] sharding goes with optimizer adamw",
            train.optimizer,
        ),
        (len(train.betas) == 2, "[train] betas are two numbers", train.betas),
        (
            recipe.stages == 1 or (len(train.stage_shares) == recipe.stages and sum(train.stage_shares) > 0),
            f"[train] stage_shares needs {recipe.stages} numbers",
            train.stage_shares,
        ),
        (bool(recipe.lora.targets), "[lora] targets: one or more", recipe.lora.targets),
    ]
    return next((f"{words}, not {value!r}" for good, words, value in checks if not good), "")
