"""What the training of an autoencoder on clips will cost, before it begins: `train vae --data LIST … --plan`.

    plan = vae_plan(recipe, None)                   # VAECost: memory, clips, seconds, days
    print(vae_table(plan))

Operations, and what a forward keeps for its backward, are counted on tensors without contents, in the phase
that is largest; seconds follow from this machine's rate of matrix products, as `training.clip_plan` has it.
The perceptual distance and latents at half their size are not counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pyramid.memory.device import MAIN, CudaCard
from pyramid.memory.loading import matmul_rate
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.clip_plan import BUSY, in_all, tabled
from pyramid.training.clips.pool import largest, places
from pyramid.training.critic import PatchCritic
from pyramid.training.recipe import Phase, Recipe
from pyramid.training.vae import make_vae, vae_of
from pyramid.wording import in_digits

STATE = {"adamw": 20, "muon": 16}  # bytes a weight: itself, gradient, moments, average
CRITIC_PASSES = 8  # forwards' worth of what it judges and learns in a step


@dataclass(frozen=True)
class VAECost:
    """The figures, of each device where they are not of the whole."""

    weights: int
    devices: int
    state_bytes: int
    activation_bytes: int
    pool_bytes: int  # at most, of clips in memory
    places: int  # clips in memory, where the list has so many
    fresh: float  # clips that are read anew for a step
    frames: int  # of a step, all devices together
    seconds: float  # of a step
    days: float | None  # None: the budget is in minutes


def vae_plan(recipe: Recipe, source: str | None) -> VAECost:
    """The cost of a run in its largest phase. ValueError as the run itself raises."""
    settings = recipe.vae
    _, frames = largest(settings)
    phase = max(settings.phases, key=lambda one: one.batch * one.frames * one.size**2)
    model = _network(recipe, source)
    flops, kept = _counted(model, phase)
    weights = sum(weight.numel() for weight in model.parameters())
    critic_flops, critic_weights = _critic(recipe, phase)
    devices = max(CudaCard.count(), 1)
    rate = BUSY * matmul_rate("cuda" if CudaCard.count() else MAIN, "bfloat16")
    seconds = (flops + critic_flops) / settings.context / rate
    return VAECost(
        weights=weights,
        devices=devices,
        state_bytes=STATE[settings.optimizer] * weights + 16 * critic_weights,
        activation_bytes=kept // settings.context,
        pool_bytes=settings.pool_mb * 2**20,
        places=places(settings, frames),
        fresh=settings.fresh,
        frames=max(devices // settings.context, 1) * phase.batch * phase.frames,
        seconds=seconds,
        days=None if settings.steps is None else seconds * settings.steps / 86400,
    )


def _network(recipe: Recipe, source: str | None) -> CausalVideoVAE:
    """The autoencoder without its weights."""
    with torch.device("meta"):
        if source is None:
            return make_vae(recipe)
        config = json.loads((vae_of(source) / "config.json").read_text(encoding="utf-8"))
        return CausalVideoVAE.from_config(config).train()


def _counted(model: CausalVideoVAE, phase: Phase) -> tuple[int, int]:
    """Operations of a forward and a backward, and bytes kept between them in bfloat16, each tensor once."""
    video = torch.empty(phase.batch, 3, phase.frames, phase.size, phase.size, device="meta")
    mine = {id(weight) for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(tensor) not in mine:
            kept[id(storage)] = storage
        return tensor

    kept_by = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter, kept_by:
        model(video)
    return 3 * counter.get_total_flops(), sum(storage.nbytes() for storage in kept.values()) // 2


def _critic(recipe: Recipe, phase: Phase) -> tuple[int, int]:
    """Operations of the published critic in a step, and its weights; none of each without it."""
    settings = recipe.vae
    if settings.adversarial_weight <= 0 or settings.losses != "published":
        return 0, 0
    with torch.device("meta"):
        critic = PatchCritic(settings.adversary_width)
        video = torch.empty(phase.batch, 3, phase.frames, phase.size, phase.size)
    with FlopCounterMode(display=False) as counter:
        critic(video)
    weights = sum(weight.numel() for weight in critic.parameters())
    return CRITIC_PASSES * counter.get_total_flops(), weights


def vae_table(cost: VAECost) -> Any:
    """The plan for people."""
    rows = [
        ("million weights", f"{cost.weights / 1e6:,.1f}"),
        ("devices", str(cost.devices)),
        ("memory of each: weights and optimizer", f"{cost.state_bytes / 2**30:.2f} GiB"),
        ("memory of each: activations", f"{cost.activation_bytes / 2**30:.2f} GiB"),
        (
            "the machine's, for each process: clips",
            f"{cost.pool_bytes / 2**30:.2f} GiB at most, {cost.places:,} clips at a time",
        ),
        ("clips read anew a step", f"{cost.fresh:g}, of each process"),
        ("frames a step", f"{cost.frames:,}"),
        ("seconds a step", in_digits(cost.seconds)),
    ]
    if cost.days is not None:
        rows.append(("in all", in_all(cost.days)))
    return tabled(rows)
