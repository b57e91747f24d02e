"""Weights, gradients, optimizer and average cut over all processes (FSDP2): `[train] sharding` in a recipe.

    shard(model, device, keep_whole=False, compute=torch.bfloat16)   # in place, block by block
    Shards(model, optimizers, ema).save(folder, {"step": 500})       # each process its part
    weights = gathered(model)                                        # whole, on the first process

accelerate does not shard on a CPU and says nothing, so torch's `fully_shard` is called over a device mesh of
our own, the same on a CPU (gloo) and on cards, and `check_sharded` looks at the weights before the first
step. A checkpoint can be read by another number of processes than wrote it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

FOLDER = "shards"  # of a checkpoint


def shard(model: Any, device: torch.device, *, keep_whole: bool, compute: torch.dtype) -> None:
    """Cut a transformer's weights over all processes, in place: each block by itself, then what is left.

    keep_whole: a block that was put together stays so until its gradient is there (ZeRO 2: faster, more
    memory), instead of going after its forward (ZeRO 3). compute: the dtype in which weights are exchanged
    and multiplied; they stay float32 where they lie, and gradients are added up in float32. Inputs are not
    cast: bfloat16 cannot tell neighboring timesteps apart. Raises ValueError for one process.
    """
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if processes < 2:
        raise ValueError(
            '[train] sharding needs two processes or more (torchrun --nproc_per_node 2 …): "none" is for one'
        )
    # What a block gives is a view; it would matter where it is written into.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (processes,)),
        "mp_policy": MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False),
        "reshard_after_forward": not keep_whole,
    }
    for block in model.blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)
    check_sharded(model)


def check_sharded(model: nn.Module) -> None:
    """RuntimeError, with their names, where weights are whole on each process."""
    whole = [name for name, weight in model.named_parameters() if not isinstance(weight, DTensor)]
    if whole:
        raise RuntimeError(
            f"{len(whole)} weights are not sharded, {whole[0]} the first: each process would train alone"
        )


def local(weights: Iterable[Tensor]) -> list[Tensor]:
    """What this process has of weights: the same memory, as plain tensors; all of those that are not cut."""
    with torch.enable_grad():  # EMAModel asks whether they are trained
        return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """All weights, whole, on the main memory of the first process; nothing on the others. All call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(model, options=options))  # type: ignore[arg-type]  # tensors alone


class Shards:
    """What a checkpoint of a sharded run holds, and how it is written and read, by all processes together."""

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], ema: EMAModel):
        self.model = model
        self.optimizers = optimizers
        self.ema = ema
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]

    def save(self, folder: Path, counters: dict[str, Any]) -> None:
        """Write `folder/shards`: each process its part, and the run's counters."""
        dcp.save(self._state(counters), checkpoint_id=folder / FOLDER)

    def load(self, folder: Path, counters: dict[str, Any]) -> dict[str, Any]:
        """Read what `save` has written, cut anew where there are other processes; the counters, of which
        `counters` has the names.
        """
        state = self._state(counters)
        dcp.load(state, checkpoint_id=folder / FOLDER)
        set_state_dict(
            self.model,
            self.optimizers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizers"],
        )
        shadow = [state["average"][str(index)] for index in range(len(self.trained))]
        self.ema.load_state_dict(state["ema"] | {"shadow_params": [part.detach() for part in local(shadow)]})
        return state["counters"]

    def _state(self, counters: dict[str, Any]) -> dict[str, Any]:
        weights, optimizers = get_state_dict(self.model, self.optimizers)
        ema = self.ema.state_dict()
        shadow = ema.pop("shadow_params")
        average = {str(index): _like(weight, shadow[index]) for index, weight in enumerate(self.trained)}
        made = {"model": weights, "optimizers": optimizers, "average": average}
        return made | {"ema": ema, "counters": counters}


def _like(weight: Tensor, part: Tensor) -> Tensor:
    """A tensor cut as `weight` is, of which `part` is this process's."""
    assert isinstance(weight, DTensor)
    return DTensor.from_local(
        part, weight.device_mesh, weight.placements, shape=weight.shape, stride=weight.stride()
    )
