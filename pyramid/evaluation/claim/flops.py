"""Floating-point operations, counted while they are done: products, attention, and what is elementwise.

    cost = count_operations(lambda: loss(model, row), list(model.parameters()))     # forward and backward

Products are counted by PyTorch's own counter, two for each multiply and add; of other work one for each
number that it makes, which takes in norms, activations, the noising of a sample and its coarse latents.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pyramid.models.way_back import plainly

ARITHMETIC = ("add", "sub", "rsub", "mul", "div", "neg", "pow", "rsqrt", "exp", "sum", "mean", "cos", "sin")
ACTIVATIONS = ("gelu", "gelu_backward", "silu", "silu_backward", "_softmax", "_softmax_backward_data")
NORMS = ("native_layer_norm", "native_layer_norm_backward", "_fused_rms_norm", "_fused_rms_norm_backward")
RESIZING = ("avg_pool2d", "avg_pool2d_backward", "upsample_nearest2d", "upsample_bilinear2d")
OTHERS = ("randn", "mse_loss", "mse_loss_backward")
ELEMENTWISE = (*ARITHMETIC, *ACTIVATIONS, *NORMS, *RESIZING, *OTHERS)


def count_operations(work: Callable[[], Tensor], weights: Sequence[Tensor] = ()) -> int:
    """The operations of `work` and, where `weights` are given, of the gradient of its result by them.

    Attention is done as plain products meanwhile, which the counter sees. No gradient is left behind.
    """
    names = (name for name in ELEMENTWISE if hasattr(torch.ops.aten, name))
    mapping: dict[Any, Any] = {getattr(torch.ops.aten, name): _numbers for name in names}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, sdpa_kernel(SDPBackend.MATH), plainly():
        result = work()
        if weights:
            torch.autograd.grad(
                result, [weight for weight in weights if weight.requires_grad], allow_unused=True
            )
    return int(counter.get_total_flops())


def _numbers(*_: Any, out_shape: Any = None, **__: Any) -> int:
    """How many numbers an operation makes."""
    if not isinstance(out_shape, tuple | list):
        return 0
    if all(isinstance(side, int) for side in out_shape):
        return math.prod(out_shape)
    return sum(_numbers(out_shape=shape) for shape in out_shape)
