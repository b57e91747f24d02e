"""The small parts that the transformers share.

Precision, stated once for all of `pyramid.models`: weights, linear layers, attention and the residual
stream run in the model's dtype (float32 or bfloat16; float16 overflows with the published weights). Float32
whatever that dtype: the statistics of layer norms and RMS norms, the sinusoids of the timestep and the
rotation of queries and keys; the angles of the rotary table are float64 until their sine is taken. The model
returns its dtype; the Euler update around it is the sampler's and is float32.

Run: `python -m pytest tests/models/test_flux.py tests/models/test_mmdit.py`
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pyramid.models.way_back import applies

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

MANY = 512  # rows from which on oneDNN is faster in training, weights being laid out anew for each product

ONEDNN_CONVOLUTION = torch.backends.mkldnn.is_available() and hasattr(torch, "mkldnn_convolution")


def fused(linear, x):
    """Whether `onednn` may stand in for `linear(x)`: float32 on a CPU, no autograd, a plain layer.

    A layer that something has wrapped or hooked (LoRA, quantization, offloading) must be called as a module.
    """
    plain = type(linear) is Linear and type(linear.weight) is nn.Parameter and "forward" not in vars(linear)
    return (
        ONEDNN
        and plain
        and x.device.type == "cpu"
        and x.dtype == torch.float32 == linear.weight.dtype
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def trained(linear, x):
    """Whether `OnednnLinear` may stand in for `linear(x)`: as `fused`, with gradients, and with MANY rows."""
    plain = type(linear) is Linear and linear.weight.dtype == torch.float32
    return ONEDNN and plain and x.numel() >= MANY * x.shape[-1] and applies(x)


def onednn(x, weight, bias, *, gelu=False):
    """F.linear, and its tanh GELU with `gelu`, by oneDNN: the only place that asks torch for a private op.

    Public are F.linear and F.gelu, which give the same within rounding (a test compares them) and are taken
    where this torch has no such op: see `ONEDNN`. But steps on a processor spend their time here, and the
    public way takes 1.0 to 1.2 times as long for a layer alone and 1.2 to 1.5 times for one with a GELU
    (measured in turns, widths of 192 to 1920, one thread of a processor with AVX-512).
    """
    kind, form = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, kind, [], form)


class OnednnLinear(torch.autograd.Function):
    """F.linear by oneDNN, on the way there and to the input; the weight's gradient is torch's product, which
    is the faster one there (98 and 96 against 76 and 82, 78 against 85 GFLOP/s at 2460 rows of 1024 to 256,
    one thread of a processor with AVX-512).
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        flat = gradient.flatten(0, -2)
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = onednn(gradient, weight.t().contiguous(), None)
        if ctx.needs_input_grad[1]:
            to_weight = flat.t() @ x.flatten(0, -2)
        if ctx.needs_input_grad[2]:
            to_bias = flat.sum(0)
        return to_x, to_weight, to_bias


class Linear(nn.Linear):
    """nn.Linear that computes by oneDNN where `fused` allows, or `trained` does."""

    def forward(self, x):
        if fused(self, x):
            return onednn(x, self.weight, self.bias)
        return OnednnLinear.apply(x, self.weight, self.bias) if trained(self, x) else super().forward(x)


def gelu_linear(linear, x):
    """The tanh GELU of linear(x)."""
    if fused(linear, x) and not linear._forward_hooks and not linear._forward_pre_hooks:
        return onednn(x, linear.weight, linear.bias, gelu=True)
    return F.gelu(linear(x), approximate="tanh")


def convolve(conv, x, weight):
    """conv(x) with `weight`, all of its own or some of its time taps.

    For small frames in float32 torch takes a convolution that lays out each window in memory: three times as
    slow as oneDNN's, many times as large, and with a result that depends on the number of threads. So oneDNN
    is asked for by name where torch would not take it, and gives what torch gives within rounding; where
    torch takes it too, as for large frames and in bfloat16, it is the same to the bit.
    """
    plain = (
        ONEDNN_CONVOLUTION
        and x.device.type == "cpu"
        and x.dtype == torch.float32 == weight.dtype
        and x.numel() > 0
    )
    if not plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return F.conv3d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return torch.mkldnn_convolution(
        x, weight, conv.bias, conv.padding, conv.stride, conv.dilation, conv.groups
    )


def in_chunks(function, *tensors, rows=1024):
    """function(*tensors), for a function that treats every token alone; tensors (b, n, dim) or (n, dim).

    Without autograd on a CPU the tokens of (b, n, dim) go piece by piece, about `rows` at a time, so that
    what is wide in between stays in the cache (and is not paged in from the system each time).
    """
    if torch.is_grad_enabled() or tensors[0].device.type != "cpu" or tensors[0].ndim == 2:
        return function(*tensors)
    batch, n = tensors[0].shape[:2]
    size = max(rows // batch, 1)
    if n <= size:
        return function(*tensors)
    return torch.cat([function(*(t[:, at : at + size] for t in tensors)) for at in range(0, n, size)], dim=1)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the head dimension, statistics in float32."""

    def __init__(self, dim, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        """x (..., dim) -> (..., dim), same dtype."""
        wide = x.float()
        power = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1]  # one read of x
        return (wide * torch.rsqrt(power + self.eps) * self.weight.float()).to(x.dtype)


class TwoLayers(nn.Module):
    """linear_1, SiLU, linear_2: how the timestep and the pooled prompt are embedded."""

    def __init__(self, dim_in, dim):
        super().__init__()
        self.linear_1 = Linear(dim_in, dim)
        self.linear_2 = Linear(dim, dim)

    def forward(self, x):
        return self.linear_2(F.silu(self.linear_1(x)))


class TimestepTextEmbedding(nn.Module):
    """One conditioning vector a sample: embedded timestep + embedded pooled prompt."""

    frequencies = 128  # a fact of the published weights: linear_1 of the timestep reads 256 numbers

    def __init__(self, pooled_dim, dim):
        super().__init__()
        self.timestep_embedder = TwoLayers(2 * self.frequencies, dim)
        self.text_embedder = TwoLayers(pooled_dim, dim)

    def forward(self, timestep, pooled_projections):
        """timestep (b,) in 0…1000, pooled_projections (b, p) -> (b, dim)."""
        steps = torch.arange(self.frequencies, dtype=torch.float32, device=timestep.device)
        angles = timestep[:, None].float() * torch.exp(-math.log(10000) / self.frequencies * steps)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)  # b 256
        waves = waves.to(pooled_projections.dtype)
        return self.timestep_embedder(waves) + self.text_embedder(pooled_projections)


class Modulation(nn.Module):
    """The `chunks` vectors (b, dim) that an adaptive norm applies to every token of a sample."""

    def __init__(self, dim, chunks):
        super().__init__()
        self.chunks = chunks
        self.linear = Linear(dim, chunks * dim)

    def forward(self, condition):
        """condition: SiLU of the conditioning vector (b, dim); -> `chunks` tensors (b, dim)."""
        return self.linear(condition).chunk(self.chunks, dim=-1)


def modulate(x, shift, scale, eps=1e-6):
    """layer_norm(x) · (1 + scale) + shift; shift and scale broadcast against x (..., dim)."""
    if scale.ndim == 3 and applies(x):  # one vector a sample: torch's norm has both in it, and one way back
        rows = zip(x, 1 + scale[:, 0], shift[:, 0], strict=True)
        normed = [F.layer_norm(row, row.shape[-1:], weight, bias, eps) for row, weight, bias in rows]
        return normed[0][None] if len(normed) == 1 else torch.stack(normed)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


class FeedForward(nn.Module):
    """dim -> 4·dim -> dim with tanh GELU; `net.1` is the dropout place of the published names."""

    def __init__(self, dim):
        super().__init__()
        expand = nn.Module()
        expand.proj = Linear(dim, 4 * dim)
        self.net = nn.ModuleList([expand, nn.Identity(), Linear(4 * dim, dim)])

    def forward(self, x):
        return self.net[2](gelu_linear(self.net[0].proj, x))

    def residual(self, x, shift, scale, gate):
        """x + gate · forward(modulated x); the vectors are (b, 1, dim), or (n, dim) for packed x (n, dim)."""
        return in_chunks(lambda part: torch.addcmul(part, gate, self(modulate(part, shift, scale))), x)


def start_as_identity(model):
    """A start of training from nothing, in place (adaLN-Zero, arXiv 2212.09748): Xavier for linear layers,
    a small normal for what embeds the conditions, zero for modulations and the last layer, so that every
    block begins as the identity and the velocity as zero. On "meta", where there are no numbers, there
    is nothing to do.
    """
    if next(model.parameters()).is_meta:
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in (*model.time_text_embed.modules(), model.context_embedder):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
    for module in model.modules():
        if isinstance(module, Modulation):
            nn.init.zeros_(module.linear.weight)
    nn.init.zeros_(model.proj_out.weight)
