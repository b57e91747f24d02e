"""Several devices for one video: a second one for text and VAE, or one process each for the transformer.

    torchrun --nproc-per-node 2 -m pyramid generate --prompt "a red ball moves to the right"

    place(pipe, "cuda:0", "cuda:1")   # one process: the transformer here, text encoders and VAE there
    join(pipe)                        # each of several processes, after begin(): they make one video together

Joined processes share the transformer's tokens by diffusers' context parallelism (Ulysses, arXiv 2309.14509:
the ranks hold a part of the tokens each, and inside attention a part of the heads each). Prefix attention
calls it once a unit, so the parts are of every unit and of every text, not of the whole sequence: each rank
then runs the model as it is on a layout of its own parts. Keys arrive ordered by rank, which attention
without a mask does not notice. Weights are not split: every card holds the transformer. Rank 0 alone reads
the prompt and given pictures, decodes and writes.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist

from pyramid.memory import loading
from pyramid.memory.device import MAIN, CudaCard, check_there, device_of
from pyramid.memory.loading import as_it_is
from pyramid.memory.placement import BITSANDBYTES, elsewhere
from pyramid.models.attention import Bucket, Layout
from pyramid.models.flux import PATCH, StageContext, unit_sizes


# -- one process, two devices
def place(pipe, transformer: str | torch.device, others: str | torch.device):
    """The transformer on one device, text encoders and VAE on another, to stay there; returns `pipe`.

    What goes between them is small: embeddings, and a unit's latents. ValueError for a device that is not
    there.
    """
    check_there(transformer)
    check_there(others)
    now = as_it_is(pipe)
    there = str(others)
    fixed = now.transformer.quantized in BITSANDBYTES  # which has put it there already
    moved = now.transformer if fixed else replace(now.transformer, device=str(transformer), offload="")
    vae = replace(now.vae, device=there, offload="")
    loading.place(pipe, replace(now, text=elsewhere(now.text, there), transformer=moved, vae=vae))
    return pipe


# -- several processes
def begin(device: str = "auto") -> str:
    """Meet the other processes that the launcher started; returns this one's device,
    such as "cuda:1" or "cpu".

    ValueError where there are more processes here than cards, or a card is asked for by its number.
    """
    count = 0 if device == MAIN else CudaCard.count()
    needed = {"auto": 0, MAIN: 0, "cuda": 1}  # cards, for what may be asked for
    if device not in needed or count < needed[device]:
        raise ValueError(
            f"device = {device!r} with several processes: each takes the card of its number; use auto, "
            "cuda (where there are cards) or cpu"
        )
    here = int(os.environ.get("LOCAL_RANK", 0))
    if 0 < count <= here:
        raise ValueError(
            f"process {here + 1} of this machine has no card: there are {count}; "
            f"start with --nproc-per-node {count}"
        )
    own = device_of(f"cuda:{here}" if count else MAIN)
    own.make_current()
    if not dist.is_initialized():
        talking = {place.kind: place.process_group for place in (device_of(MAIN), own)}
        dist.init_process_group(",".join(f"{kind}:{group}" for kind, group in talking.items()))
    return own.name


def is_first() -> bool:
    """Whether this process is the one that shows and writes."""
    return dist.get_rank() == 0


def end() -> None:
    """Part from the other processes."""
    dist.destroy_process_group()


def agreed(value: Any) -> Any:
    """Rank 0's `value`, on all ranks."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def join(pipe):
    """Make `pipe` one of the joined processes' pipelines, after `begin`; returns it.

    All of them must then be asked for the same, with the same seed; those that are not rank 0 best with
    `output_type="latent"`. ValueError where the heads cannot be shared by so many.
    """
    if pipe.transformer.fixed_past:
        raise ValueError("several processes cannot share a transformer that keeps its past: use one process")
    share_transformer(pipe.transformer)
    pipe.executor = Joined()
    return pipe


class Joined:
    """The executor of a pipeline that makes one video together with those of other processes."""

    def once(self, function: Callable, *arguments: Any) -> Any:
        """The result of `function`, computed on rank 0 alone, on all ranks; tensors of a list on the CPU."""
        result = function(*arguments) if is_first() else None
        if isinstance(result, list):
            result = [tensor.cpu() for tensor in result]
        return agreed(result)

    def stop(self, stop):
        """What ends the run of all ranks at the same step."""
        return AnyStop(stop)


class AnyStop:
    """Set once it is set on any rank: asked before each step by all of them,
    so that all end at the same step.
    """

    def __init__(self, own):
        self.own = own

    def is_set(self) -> bool:
        wanted = torch.tensor(int(self.own is not None and self.own.is_set()))
        dist.all_reduce(wanted, dist.ReduceOp.MAX)
        return bool(wanted)


# -- the transformer, shared
def share_transformer(transformer) -> None:
    """Let the joined processes share each call of `transformer`: diffusers' hooks, and contexts of parts.

    Its clips must then have one unit each, as the sampler's current clip has. Raises ValueError, see `join`.
    """
    from diffusers import ContextParallelConfig
    from diffusers.hooks import apply_context_parallel
    from diffusers.models._modeling_parallel import (
        ContextParallelInput,
        ContextParallelOutput,
        ParallelConfig,
    )

    world = dist.get_world_size()
    heads = transformer.config.num_attention_heads
    if -heads % world >= -(-heads // world):  # what diffusers' padding of heads cannot do
        raise ValueError(
            f"{world} processes cannot share {heads} attention heads: start {_fitting(heads, world)}"
        )
    device = transformer.device
    mesh = dist.init_device_mesh(device.type, (1, world), mesh_dim_names=("ring", "ulysses"))
    config = ParallelConfig(ContextParallelConfig(ulysses_degree=world, ulysses_anything=True, mesh=mesh))
    # `enable_parallelism` (0.42.1) would do these lines, but only for an accelerator: it fails on processors.
    config.setup(dist.get_rank(), world, device, mesh=mesh)
    transformer._parallel_config = config
    for module in transformer.modules():
        if hasattr(module, "processor"):
            module.processor._parallel_config = config
    embedder = "pos_embed" if hasattr(transformer, "pos_embed") else "x_embedder"
    apply_context_parallel(
        transformer,
        config.context_parallel_config,
        {
            embedder: {0: ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)},
            "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
        },
    )
    transformer.prepare = _prepare_part(transformer.prepare, dist.get_rank(), world)


def _fitting(heads: int, limit: int) -> int:
    """The most processes, up to `limit`, that have an equal share of the heads."""
    return max(n for n in range(1, limit + 1) if heads % n == 0)


def _prepare_part(prepare: Callable, rank: int, world: int) -> Callable:
    @wraps(prepare)
    def prepare_part(history, shape, *text):
        history = [
            unit for clip in history for unit in clip.split(1, dim=2)
        ]  # a hook shares each clip's tokens
        sizes, _ = unit_sizes(history, shape)
        uneven = sizes[-1] % world and device_of(text[0].device).even
        if shape[0] != 1 or min(sizes) < world or uneven:
            raise ValueError(
                f"{world} processes cannot share {sizes[-1]} tokens (a stage of {shape[2] // PATCH}×"
                f"{shape[1] // PATCH} patches): use another size or fewer processes"
            )
        return part_of(prepare(history, shape, *text), sizes, rank, world)

    return prepare_part


def part_of(context: StageContext, sizes: list[int], rank: int, world: int) -> StageContext:
    """A rank's part of a context whose history is a part already: of each text, and of each unit's positions.

    `sizes`: tokens of each unit. Which part is what `Tensor.tensor_split` gives, as in diffusers' hooks.
    """

    def part(size: int) -> slice:
        return slice(*(min(size % world, at) + size // world * at for at in (rank, rank + 1)))

    layout = context.layout
    buckets: list[Bucket] = []
    token = 0
    texts: list[torch.Tensor] = []
    rows: list[torch.Tensor] = []
    for bucket in layout.buckets:
        of = part(bucket.length)
        count = bucket.rows.stop - bucket.rows.start
        length = of.stop - of.start
        buckets.append(Bucket(bucket.rows, slice(token, token + count * length), length))
        token += count * length
        for packed, parts in ((context.text, texts), (layout.text_rows, rows)):
            parts.append(packed[bucket.text].unflatten(0, (count, bucket.length))[:, of].flatten(0, 1))
    ends = {0: 0}
    tables: list[torch.Tensor] = []
    first = 0
    for size in sizes:
        of = part(size)
        tables.append(context.table[first : first + size][of])
        ends[first + size] = ends[first] + of.stop - of.start
        first += size
    groups = tuple((ends[start], ends[stop]) for start, stop in layout.groups)
    own = Layout(layout.order, layout.inverse, tuple(buckets), torch.cat(rows), groups, ends[layout.history])
    return replace(context, text=torch.cat(texts), table=torch.cat(tables), layout=own)
