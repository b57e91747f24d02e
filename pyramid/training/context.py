"""A clip's frames cut over several processes, for the autoencoder's training on long clips.

    context = Context(processes=2)                # of those that torchrun has started
    frames = context.share(video)                 # this process's: the first has one more than 8k
    caches = context.caches()                     # for one forward
    posterior, made = vae(frames, caches=caches)
    loss = … + caches.loss                        # so that gradients come back

Each convolution looks back on two frames, or one. Those come from the process before, and their gradients go
back to it; what every process computes is then exactly what one process computes of the whole clip, and each
holds the activations of its own frames only (context parallel: arXiv 2410.05954, appendix B, the second stage
of the training).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pyramid.models.causal import CausalConv3d, FrameCache
from pyramid.settings import FRAMES_PER_UNIT


class Receive(torch.autograd.Function):
    """Frames from another process; their gradient goes back to it. `like` says dtype, size, and whether a
    gradient is wanted.
    """

    @staticmethod
    def forward(ctx: Any, like: Tensor, frames: int, source: int) -> Tensor:
        ctx.source = source
        shape = (*like.shape[:2], frames, *like.shape[3:])
        got = like.new_empty(shape).contiguous()
        dist.recv(got, source)
        return got

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dist.send(gradients[0].contiguous(), ctx.source)
        return None, None, None


class Send(torch.autograd.Function):
    """Frames to another process; a zero, which has to be part of the loss, brings their gradient back."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, target: int) -> Tensor:
        ctx.target = target
        ctx.like = frames.new_empty(()).expand(frames.shape)
        dist.send(frames.contiguous(), target)
        return frames.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        got = torch.empty_like(ctx.like, memory_format=torch.contiguous_format)
        dist.recv(got, ctx.target)
        return got, None


class SharedFrames(FrameCache):
    """What convolutions look back on in one forward of half the autoencoder, from process to process."""

    def __init__(self, before: int | None, after: int | None):
        super().__init__()
        self.before = before
        self.after = after
        self.sent: list[Tensor] = []

    def past(self, conv: CausalConv3d, x: Tensor) -> Tensor | None:
        if self.before is None:
            return None
        return Receive.apply(x, conv.remembered, self.before)

    def keep(self, conv: CausalConv3d, frames: Tensor) -> None:
        if self.after is not None:
            self.sent.append(Send.apply(frames, self.after))

    def __contains__(self, conv: object) -> bool:
        return self.before is not None


class Caches(NamedTuple):
    """For one forward of the autoencoder."""

    encoder: SharedFrames
    decoder: SharedFrames

    @property
    def loss(self) -> Tensor:
        """Zero, and how gradients come back; part of the loss."""
        return torch.stack([*self.encoder.sent, *self.decoder.sent, torch.zeros(())]).sum()


class Context:
    """So many neighboring processes share each clip. ValueError where they do not divide all processes."""

    def __init__(self, processes: int):
        world = dist.get_world_size() if dist.is_initialized() else 1
        if processes < 1 or world % processes:
            raise ValueError(f"[vae] context = {processes} does not divide the {world} processes")
        self.processes = processes
        rank = dist.get_rank() if dist.is_initialized() else 0
        self.group, self.place = divmod(rank, processes)
        self.rank = rank

    def share(self, video: Tensor) -> Tensor:
        """This process's frames of a clip `(b, c, 1 + 8k, h, w)`, as even as whole units allow. ValueError
        where there are fewer units than processes.
        """
        units = (video.shape[2] - 1) // FRAMES_PER_UNIT
        if units < self.processes:
            raise ValueError(f"{video.shape[2]} frames are too few for [vae] context = {self.processes}")
        ends = [
            1 + FRAMES_PER_UNIT * (units * place // self.processes) for place in range(self.processes + 1)
        ]
        ends[0] = 0
        return video[:, :, ends[self.place] : ends[self.place + 1]]

    def caches(self) -> Caches:
        before = self.rank - 1 if self.place else None
        after = self.rank + 1 if self.place < self.processes - 1 else None
        return Caches(SharedFrames(before, after), SharedFrames(before, after))
