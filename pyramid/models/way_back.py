"""Parts of the transformers with their way back written out: training on a processor.

There, what autograd works out by itself costs passes over memory that a formula does not need. Values and
gradients are autograd's within rounding, which tests hold. Elsewhere, on cards and, but for norms, in
bfloat16, the plain parts are taken: `applies` says where. `layers.OnednnLinear` is one more of them.

Run: `python -m pytest tests/models/test_way_back.py`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_wanted = True


@contextmanager
def plainly() -> Iterator[None]:
    """The plain parts everywhere meanwhile: to compare, and for counters, which know torch's operations."""
    global _wanted
    before = _wanted
    _wanted = False
    try:
        yield
    finally:
        _wanted = before


def applies(x: Tensor) -> bool:
    """Whether these parts may stand in for the plain ones: float32, on a processor, with gradients."""
    return trains_here(x) and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def trains_here(x: Tensor) -> bool:
    """The same for a part that takes bfloat16, too."""
    return _wanted and torch.is_grad_enabled() and x.device.type == "cpu" and x.numel() > 0


class RotatedNorm(torch.autograd.Function):
    """`rotate(rms_norm(x) · weight, table)` of x (b, n, heads, d), weight (d,), table (n, 1, d/2) complex.
    In float32 within, whatever x is in.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, table: Tensor, eps: float) -> Tensor:
        wide = x.float()
        power = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        rate = power.add_(eps).rsqrt_()  # b n heads 1
        y = (wide * rate).mul_(weight)
        torch.view_as_complex(y.unflatten(-1, (-1, 2))).mul_(table)
        ctx.save_for_backward(x, weight, table, rate)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, table, rate = ctx.saved_tensors
        turned = torch.view_as_complex(gradients[0].float().contiguous().unflatten(-1, (-1, 2)))
        back = torch.view_as_real(turned * table.conj()).flatten(-2)  # of what was rotated
        normed = x.float() * rate
        for_weight = None
        if ctx.needs_input_grad[1]:
            for_weight = (back * normed).flatten(0, -2).sum(0)
        back.mul_(weight)
        along = (back * normed).mean(-1, keepdim=True)  # the part that only makes x longer
        to_x = torch.addcmul(back, normed, along, value=-1).mul_(rate)
        return to_x.to(x.dtype), for_weight, None, None


class Prefixes(torch.autograd.Function):
    """The first `ends[0]`, `ends[1]`, … tokens of x (b, n, …), all of them views; ends grow, the last is n.

    Their gradients are added where they lie: a slice would make a whole tensor of zeros for each.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, ends: Sequence[int]) -> tuple[Tensor, ...]:
        ctx.ends = ends
        ctx.like = x.new_empty(()).expand(x.shape)
        ctx.set_materialize_grads(False)
        return tuple(x[:, :end] for end in ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        whole = gradients[-1]
        if whole is None:
            total = torch.zeros_like(ctx.like, memory_format=torch.contiguous_format)
        else:
            total = whole.clone()
        for end, gradient in zip(ctx.ends[:-1], gradients[:-1], strict=True):
            if gradient is not None:
                total[:, :end] += gradient
        return total, None


def prefixes(x: Tensor, ends: Sequence[int]) -> tuple[Tensor, ...]:
    """x (b, n, …) up to each of `ends`, which grow; the last is n."""
    if torch.is_grad_enabled() and x.requires_grad and len(ends) > 1:
        return Prefixes.apply(x, ends)
    return tuple(x[:, :end] for end in ends)
