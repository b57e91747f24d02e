"""Causal 3-D building blocks of the video VAE: convolutions that never look ahead, and what is made of them.

Every block takes and returns `(b, c, t, h, w)` and works in two ways with one code path. With `cache=None`
the tensor is a whole video and time is padded with zeros in front. With a `FrameCache` the tensor is the next
piece of a video: each convolution keeps the frames that the piece after it will look back on, so piece by
piece gives what the whole gives. Parameter names are those of the released checkpoints (`conv.weight` inside
each convolution).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from pyramid.models.layers import convolve


class FrameCache(dict):
    """What a stream remembers between pieces: for each convolution, the last frames of its padded input.

    A convolution that is not in the cache yet is at the start of its video. One cache belongs to one stream
    (with tiles: to one tile) and grows with the size of a frame, not with the length of the video.
    """

    def past(self, conv: CausalConv3d, x: Tensor) -> Tensor | None:
        """What a convolution looks back on before `x`, None at the start of a video."""
        return self.get(conv)

    def keep(self, conv: CausalConv3d, frames: Tensor) -> None:
        """Remember what the convolution will look back on."""
        self[conv] = frames


class CausalConv3d(nn.Module):
    """A 3-D convolution whose output at frame t depends on frames ≤ t (zeros stand before the first
    frame).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
    ):
        super().__init__()
        self.look_back = kernel_size - 1
        self.conv = nn.Conv3d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(0, kernel_size // 2, kernel_size // 2),
        )

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        if self.look_back == 0:
            return self._convolve(x)
        past = cache.past(self, x) if cache is not None else None
        if past is None and x.shape[2] == 1 and not self._hooked:
            y = self._first_frame(x)
        else:
            if past is None:
                past = x.new_zeros(x.shape[0], x.shape[1], self.look_back, *x.shape[3:])
            y = self._convolve(torch.cat([past, x], dim=2))
        if cache is not None:
            cache.keep(self, self._remember(x, past))
        return y

    @property
    def _hooked(self) -> bool:
        """Whether it has to be called as a module: its weights may be elsewhere until then."""
        conv = self.conv
        hooks = conv._forward_hooks or conv._forward_pre_hooks
        return type(conv) is not nn.Conv3d or "forward" in vars(conv) or bool(hooks)

    def _convolve(self, x: Tensor) -> Tensor:
        return self.conv(x) if self._hooked else convolve(self.conv, x, self.conv.weight)

    @property
    def remembered(self) -> int:
        """Frames that the next piece looks back on: two, or one where time is halved (its windows step by
        two).
        """
        return self.look_back + 1 - self.conv.stride[0]

    def _first_frame(self, x: Tensor) -> Tensor:
        """One frame with nothing before it meets only the last time tap: a third of the work, the same
        result. A stride in time does not matter to it.
        """
        return convolve(self.conv, x, self.conv.weight[:, :, -1:])

    def _remember(self, x: Tensor, past: Tensor | None) -> Tensor:
        """The frames the next piece looks back on."""
        keep = self.remembered
        if x.shape[2] >= keep:
            return x[:, :, -keep:].clone()
        if past is None:
            past = x.new_zeros(x.shape[0], x.shape[1], self.look_back, *x.shape[3:])
        return torch.cat([past, x], dim=2)[:, :, -keep:].clone()


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of each frame by itself, so that no frame's statistics leak into another's."""

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[2]
        x = super().forward(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(x, "(b t) c h w -> b c t h w", t=t)


class CausalResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = FrameGroupNorm(groups, in_channels, eps=1e-6)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = FrameGroupNorm(groups, out_channels, eps=1e-6)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = (
            CausalConv3d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)), cache)
        y = self.conv2(F.silu(self.norm2(y)), cache)
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class FrameAttention(nn.Module):
    """Single-head self-attention within each frame, around a shortcut."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels), nn.Dropout(0.0)])

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        tokens = rearrange(
            self.group_norm(rearrange(x, "b c t h w -> (b t) c h w")), "n c h w -> n 1 (h w) c"
        )
        y = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        y = rearrange(self.to_out[0](y), "(b t) 1 (h w) c -> b c t h w", b=b, t=t, h=h, w=w)
        return x + y


class MidBlock(nn.Module):
    """Residual block, attention within frames, residual block, at the coarsest resolution."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList([CausalResnetBlock(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([FrameAttention(channels, groups)])

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, cache))
        return self.resnets[1](x, cache)


class Downsample(nn.Module):
    """Halves height and width, or time (1 + 2k frames become 1 + k: the first frame stands alone)."""

    def __init__(self, channels: int, *, time: bool):
        super().__init__()
        self.conv = CausalConv3d(channels, channels, stride=(2, 1, 1) if time else (1, 2, 2))

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        return self.conv(x, cache)


class SpatialUpsample(nn.Module):
    """Doubles height and width: four times the channels, moved into space."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = CausalConv3d(channels, channels * 4)

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        return rearrange(self.conv(x, cache), "b (c p q) t h w -> b c t (h p) (w q)", p=2, q=2)


class TemporalUpsample(nn.Module):
    """Doubles time; at the start of a video the frame that would precede the first one is dropped."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = CausalConv3d(channels, channels * 2)

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        at_start = cache is None or self.conv not in cache
        x = rearrange(self.conv(x, cache), "b (c p) t h w -> b c (t p) h w", p=2)
        return x[:, :, 1:] if at_start else x


def _resnets(in_channels: int, out_channels: int, layers: int, groups: int) -> nn.ModuleList:
    """`layers` residual blocks, the first of which changes the number of channels."""
    return nn.ModuleList(
        CausalResnetBlock(out_channels if i else in_channels, out_channels, groups) for i in range(layers)
    )


class DownBlock(nn.Module):
    """Residual blocks, then halving in space, then in time, as configured."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, *, space: bool, time: bool
    ):
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, layers, groups)
        self.downsamplers = nn.ModuleList([Downsample(out_channels, time=False)] if space else [])
        self.temporal_downsamplers = nn.ModuleList([Downsample(out_channels, time=True)] if time else [])

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        for block in (*self.resnets, *self.downsamplers, *self.temporal_downsamplers):
            x = block(x, cache)
        return x


class UpBlock(nn.Module):
    """Residual blocks, then doubling in space, then in time, as configured."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, *, space: bool, time: bool
    ):
        super().__init__()
        self.resnets = _resnets(in_channels, out_channels, layers, groups)
        self.upsamplers = nn.ModuleList([SpatialUpsample(out_channels)] if space else [])
        self.temporal_upsamplers = nn.ModuleList([TemporalUpsample(out_channels)] if time else [])

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        for block in (*self.resnets, *self.upsamplers, *self.temporal_upsamplers):
            x = block(x, cache)
        return x
