"""What a training on clips will cost, before it begins: `train dit|lora … --plan`.

    plan = plan_of(Run(…))                          # Cost: memory, tokens, seconds, days
    print(as_table(plan))

Counted, not measured: weights by name, tokens by the rule of prefixes over one sweep, operations by
`hub.families.Family.forward_flops`, three times for a step, four with gradient checkpointing. Seconds follow
from this machine's rate of matrix products, of which a training reaches about BUSY.
"""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyramid.hub.checkpoints import Checkpoint
from pyramid.hub.families import GRID, TEXT_TOKENS, Family, family_of
from pyramid.memory.device import MAIN, CudaCard
from pyramid.memory.loading import matmul_rate
from pyramid.models import transformer_class
from pyramid.models.mmdit import PyramidDiffusionMMDiT
from pyramid.settings import units_of
from pyramid.training.clip_dit import Run, from_nothing, is_sd3, read_recipe, source_checkpoint
from pyramid.training.clips.recipe import ClipRecipe
from pyramid.wording import in_digits

BUSY = 0.4  # share of the rate of matrix products that a training step reaches, about
SAVED = (
    34  # tensors of (tokens, width) that a block keeps for its backward (arXiv 2205.05198, without attention)
)


@dataclass(frozen=True)
class Cost:
    """The figures, for each device where they are not of the whole."""

    weights: int
    trained: int
    devices: int
    state_bytes: int  # weights, gradients, optimizer and average
    activation_bytes: int  # most of them at once
    tokens: float  # of a step, all devices together, over one sweep of the prefixes
    full_tokens: int  # of the same clips at full resolution, all units at once
    seconds: float  # of a step
    days: float


def plan_of(run: Run) -> Cost:
    """The cost of a run at the longest clips and the first bucket. ValueError as the run itself raises."""
    recipe = read_recipe(run)
    own, parts = source_checkpoint(run, recipe)
    with torch.device("meta"):
        model = _network(run, recipe, own, parts)
    config = model.config
    family = family_of(type(model).__name__)
    total = sum(weight.numel() for weight in model.parameters())
    trained = _lora_weights(model, recipe) if run.kind == "lora" else total
    by_stage = stage_tokens(recipe)
    shares = recipe.train.stage_shares if recipe.stages > 1 else (1,)
    samples = [recipe.train.batch * share / sum(shares) for share in shares]
    tokens = sum(count * sum(counts) / len(counts) for count, counts in zip(samples, by_stage, strict=True))
    size = family.dimensions(config)
    passes = 4 if recipe.train.gradient_checkpointing else 3
    flops = passes * sum(
        count * sum(family.forward_flops(size, n + TEXT_TOKENS) for n in counts) / len(counts)
        for count, counts in zip(samples, by_stage, strict=True)
    )
    devices = max(CudaCard.count(), 1)
    seconds = flops / (devices * BUSY * matmul_rate(*_rate_of(recipe)))
    width, height = recipe.data.sizes[0]
    full = units_of(recipe.data.frames) * GRID.stage_tokens(width, height, 1)[0]
    return Cost(
        weights=total,
        trained=trained,
        devices=devices,
        state_bytes=4 * total + trained * (4 + 4 + (2 if recipe.train.optimizer == "adamw8bit" else 8)),
        activation_bytes=_activations(recipe, family, size, max(map(max, by_stage))),
        tokens=tokens,
        full_tokens=recipe.train.batch * full,
        seconds=seconds,
        days=seconds * recipe.train.steps / 86400,
    )


def _rate_of(recipe: ClipRecipe) -> tuple[str, str]:
    """The device and the dtype whose rate counts."""
    device = "cuda" if CudaCard.count() else MAIN
    return device, "float32" if recipe.train.precision == "no" else "bfloat16"


def _network(run: Run, recipe: ClipRecipe, own: Checkpoint | None, parts: Checkpoint) -> Any:
    """The transformer without its weights."""
    if own is not None:
        config = json.loads((Path(own.transformer) / "config.json").read_text(encoding="utf-8"))
        return transformer_class(own.transformer_class).from_config(config)
    if run.source is not None and is_sd3(run.source):
        return PyramidDiffusionMMDiT()
    return from_nothing(recipe, parts)


def _lora_weights(model: torch.nn.Module, recipe: ClipRecipe) -> int:
    """Weights of a LoRA on the layers that the recipe names."""
    ends = [f"*.{target}" for target in recipe.lora.targets]
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(fnmatch.fnmatch(f".{name}", end) for end in ends)
    ]
    return recipe.lora.rank * sum(layer.in_features + layer.out_features for layer in layers)


def stage_tokens(recipe: ClipRecipe) -> list[list[int]]:
    """For each stage the tokens of a sample at each length of the prefix, of the longest clips."""
    units = units_of(recipe.data.frames)
    stages = recipe.stages
    width, height = recipe.data.sizes[0]
    if not recipe.train.temporal_pyramid:
        return [[units * each] for each in GRID.stage_tokens(width, height, stages)]
    return [
        [GRID.tokens(width, height, stages, stage=stage, past=past) for past in range(units)]
        for stage in range(stages)
    ]


def _activations(recipe: ClipRecipe, family: Family, size: Any, tokens: int) -> int:
    """Most bytes of activations, of the longest sequence: two bytes a number in bfloat16."""
    each = 4 if recipe.train.precision == "no" else 2
    one = recipe.train.micro * (tokens + family.text_tokens) * size.width * each
    return one * (size.layers + SAVED) if recipe.train.gradient_checkpointing else one * size.layers * SAVED


def in_all(days: float) -> str:
    """Days as people say them, in hours or minutes where they are short."""
    for unit, each in (("days", 1.0), ("hours", 1 / 24)):
        if days >= each:
            return f"{in_digits(days / each)} {unit}"
    return f"{in_digits(days * 1440, 2)} minutes"


def as_table(cost: Cost) -> Any:
    """The plan for people."""
    times = cost.full_tokens / cost.tokens
    rows = [
        (
            "million weights, those trained",
            f"{cost.weights / 1e6:,.1f} and {cost.trained / 1e6:,.1f}",
        ),
        ("devices", str(cost.devices)),
        ("memory of each: weights and optimizer", f"{cost.state_bytes / 2**30:.2f} GiB"),
        ("memory of each: activations", f"{cost.activation_bytes / 2**30:.2f} GiB"),
        ("tokens a step", f"{cost.tokens:,.0f}"),
        (
            "at full resolution, all units at once",
            f"{cost.full_tokens:,} ({times:.1f} times)",
        ),
        ("seconds a step", in_digits(cost.seconds)),
        ("in all", in_all(cost.days)),
    ]
    return tabled(rows)


def tabled(rows: list[tuple[str, str]]) -> Any:
    """Figures of a plan for people: what, and how much."""
    from rich.table import Table

    table = Table(title="Before anything is trained (estimated)", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table
