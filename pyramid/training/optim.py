"""Optimizers: Muon for the weight matrices, AdamW for the rest, both from torch; the average of weights.

Muon (orthogonalized momentum) takes two-dimensional parameters only. A convolution's weight is a matrix too,
`out × (in · kernel)`, so it is given to Muon as a flat alias that shares the storage of the weight.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class FlatMuon(torch.optim.Muon):
    """`torch.optim.Muon` over parameters of two or more dimensions, each seen as the matrix `(out,
    all else)`.
    """

    def __init__(self, parameters, **options):
        self._weights = list(parameters)
        self._aliases = [nn.Parameter(weight.data.flatten(1)) for weight in self._weights]
        super().__init__(self._aliases, adjust_lr_fn="match_rms_adamw", **options)

    @torch.no_grad()
    def step(self, closure=None):
        for alias, weight in zip(self._aliases, self._weights, strict=True):
            assert alias.data_ptr() == weight.data_ptr(), "a weight was moved after its optimizer was made"
            alias.grad = None if weight.grad is None else weight.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for alias, weight in zip(self._aliases, self._weights, strict=True):
            alias.grad = weight.grad = None


class Average(EMAModel):
    """diffusers' average of trained weights, brought up to date in one pass over them instead of several."""

    @torch.no_grad()
    def step(self, parameters: Iterable[Tensor]) -> None:
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        get_ema_multi_avg_fn(self.cur_decay_value)(self.shadow_params, list(parameters), None)


def make_optimizers(model: nn.Module, learning_rate: float, *, matrices: str) -> list[torch.optim.Optimizer]:
    """Muon for the weights of two or more dimensions whose name contains one of the words in `matrices`,
    AdamW else.

    `matrices` is a space-separated list, such as "blocks conv"; embeddings and output layers are better left
    to AdamW.
    """
    words = matrices.split()
    muon: list[nn.Parameter] = []
    adamw: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.dim() >= 2 and any(word in name for word in words)
            (muon if is_matrix else adamw).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        optimizers.append(FlatMuon(muon, lr=learning_rate, weight_decay=0.01))
    if adamw:
        optimizers.append(torch.optim.AdamW(adamw, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0))
    return optimizers
