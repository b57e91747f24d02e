"""CausalVideoVAE: pixels to latents and back, 8× smaller in height, width and time, causal in time.

    vae = CausalVideoVAE.from_pretrained("…/causal_video_vae")
    latents = vae.encode(video).latent_dist.mode()  # (b, 3, 1 + 8k, h, w) in [-1, 1] -> (b, 16, 1 + k, h/8,
    w/8) video = vae.decode(latents).sample                 # and back
    stream = vae.stream()                              # unit by unit: 1 frame, then 8 frames each
    frames = stream(latents[:, :, :1])

Decoding always runs unit by unit (arXiv 2410.05954, section 3.4: a causal VAE), so `decode` and `stream` are
one computation and the peak memory of a decode does not grow with the length of the video. With tiles,
`stream` keeps the caches of all of them, `decode` one: it takes all units of a tile before the next, and its
frames wait on the CPU. The latents are those of the VAE; `pyramid.generate.latents` holds the law between
them and what the transformer sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyramid.models.causal import CausalConv3d, DownBlock, FrameCache, FrameGroupNorm, MidBlock, UpBlock
from pyramid.models.network import Network, diffusers_model, keeps_config


class Posterior:
    """The normal distribution of a video's latents; `parameters` (b, 2·c, t, h, w): means, log variances."""

    def __init__(self, parameters: Tensor):
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        where = generator.device if generator else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=where, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)


class Encoded(NamedTuple):
    """What `encode` returns: a tuple too, whatever `return_dict` is."""

    latent_dist: Posterior


class Decoded(NamedTuple):
    """What `decode` returns, a tuple too, whatever `return_dict` is; sample (b, 3, f, h, w)."""

    sample: Tensor


class Encoder(nn.Module):
    """`(b, 3, 1 + 8k, h, w)` -> `(b, 2·latent channels, 1 + k, h/8, w/8)`."""

    def __init__(self, config):
        super().__init__()
        channels = config.encoder_block_out_channels
        groups = config.encoder_norm_num_groups
        self.conv_in = CausalConv3d(config.encoder_in_channels, channels[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(channels[max(i - 1, 0)], channels[i], layers, groups, space=space, time=time)
            for i, (layers, space, time) in enumerate(
                zip(
                    config.encoder_layers_per_block,
                    config.encoder_spatial_down_sample,
                    config.encoder_temporal_down_sample,
                    strict=True,
                )
            )
        )
        self.mid_block = MidBlock(channels[-1], groups)
        self.conv_norm_out = FrameGroupNorm(groups, channels[-1], eps=1e-6)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.encoder_out_channels)

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        x = self.conv_in(x, cache)
        for block in self.down_blocks:
            x = block(x, cache)
        x = self.mid_block(x, cache)
        return self.conv_out(F.silu(self.conv_norm_out(x)), cache)


class Decoder(nn.Module):
    """`(b, latent channels, 1 + k, h/8, w/8)` -> `(b, 3, 1 + 8k, h, w)`."""

    def __init__(self, config):
        super().__init__()
        channels = config.decoder_block_out_channels[::-1]
        groups = config.decoder_norm_num_groups
        self.conv_in = CausalConv3d(config.decoder_in_channels, channels[0])
        self.mid_block = MidBlock(channels[0], groups)
        self.up_blocks = nn.ModuleList(
            UpBlock(channels[max(i - 1, 0)], channels[i], layers, groups, space=space, time=time)
            for i, (layers, space, time) in enumerate(
                zip(
                    config.decoder_layers_per_block,
                    config.decoder_spatial_up_sample,
                    config.decoder_temporal_up_sample,
                    strict=True,
                )
            )
        )
        self.conv_norm_out = FrameGroupNorm(groups, channels[-1], eps=1e-6)
        self.conv_out = CausalConv3d(channels[-1], config.decoder_out_channels)

    def forward(self, x: Tensor, cache: FrameCache | None = None) -> Tensor:
        x = self.mid_block(self.conv_in(x, cache), cache)
        for block in self.up_blocks:
            x = block(x, cache)
        return self.conv_out(F.silu(self.conv_norm_out(x)), cache)


class VideoVAENetwork(Network):
    """The causal video VAE of the released checkpoints, with their configuration keys and parameter names.

    `image_shift`, `image_scale`, `video_shift` and `video_scale` are ours: a checkpoint whose latents have
    other scales than the published models' carries them here (see `pyramid.generate.latents.LatentScales`).
    `latent_rgb_factors` (16 × 3) and `latent_rgb_bias` (3) are a linear map from latents to colors for
    previews.
    """

    published = "CausalVideoVAE"
    _leftover_config_keys = (
        *(f"{half}_{key}" for half in ("encoder", "decoder") for key in ("act_fn", "block_dropout", "type")),
        *("encoder_down_block_types", "decoder_up_block_types", "encoder_double_z"),
        *("add_post_quant_conv", "interpolate", "scaling_factor"),
    )

    @keeps_config
    def __init__(  # noqa: PLR0913 - the keys of the published configuration
        self,
        encoder_in_channels: int = 3,
        encoder_out_channels: int = 16,
        encoder_layers_per_block: tuple[int, ...] = (2, 2, 2, 2),
        encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        encoder_spatial_down_sample: tuple[bool, ...] = (True, True, True, False),
        encoder_temporal_down_sample: tuple[bool, ...] = (True, True, True, False),
        encoder_norm_num_groups: int = 32,
        decoder_in_channels: int = 16,
        decoder_out_channels: int = 3,
        decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3),
        decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        decoder_spatial_up_sample: tuple[bool, ...] = (True, True, True, False),
        decoder_temporal_up_sample: tuple[bool, ...] = (True, True, True, False),
        decoder_norm_num_groups: int = 32,
        sample_size: int = 256,
        downsample_scale: int = 8,
        image_shift: float | None = None,
        image_scale: float | None = None,
        video_shift: float | None = None,
        video_scale: float | None = None,
        latent_rgb_factors: tuple[tuple[float, ...], ...] | None = None,
        latent_rgb_bias: tuple[float, ...] | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(self.config)
        self.decoder = Decoder(self.config)
        self.quant_conv = CausalConv3d(2 * encoder_out_channels, 2 * encoder_out_channels, 1)
        self.post_quant_conv = CausalConv3d(decoder_in_channels, decoder_in_channels, 1)
        self.disable_slicing()
        self.disable_tiling()

    # -- slicing and tiling
    # ------------------------------------------------------------------------------------------------

    def enable_slicing(self) -> None:
        """Make the frames of one video of a batch after the other's."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        self.use_slicing = False

    def enable_tiling(self, tile_size: int | None = None, overlap: float = 0.25) -> None:
        """Encode and decode in square tiles of `tile_size` pixels that overlap by a share of their size.

        Tiles bound the memory by their size instead of the frame's; the overlaps are cross-faded. A frame
        that fits into one tile is not cut. `tile_size` (default: the configured `sample_size`) is a multiple
        of 8 pixels times a length that `overlap` (0 ≤ overlap < 1) divides evenly; otherwise ValueError.
        """
        tile_size = self.config.sample_size if tile_size is None else tile_size
        scale = self.config.downsample_scale
        step = tile_size * overlap / scale
        if tile_size < scale or tile_size % scale or not 0 <= overlap < 1 or step != int(step):
            raise ValueError(
                f"tile_size={tile_size} with overlap={overlap} does not fall "
                "on the latent grid: the tile must be a "
                f"multiple of {scale} pixels and tile_size·overlap too. Try tile_size=256, overlap=0.25."
            )
        self.use_tiling = True
        self.tile_size = tile_size
        self.tile_overlap = int(tile_size * overlap)

    def disable_tiling(self) -> None:
        """Encode and decode each frame whole."""
        self.use_tiling = False
        self.tile_size = self.config.sample_size
        self.tile_overlap = 0

    def _in_tiles(
        self, x: Tensor, run: Callable[[Tensor, tuple[int, int]], Tensor], *, encode: bool
    ) -> Tensor:
        """Cut the last two axes of `x` into tiles, `run(tile, key)` each, and cross-fade what comes out."""
        scale = self.config.downsample_scale
        size = self.tile_size
        fade = self.tile_overlap
        size_in, size_out = (size, size // scale) if encode else (size // scale, size)
        fade_in, fade_out = (fade, fade // scale) if encode else (fade // scale, fade)
        if not self.use_tiling or max(x.shape[-2:]) <= size_in:
            return run(x, (0, 0))
        stride, height, width = size_in - fade_in, *x.shape[-2:]
        rows: list[list[Tensor]] = []
        for top in range(0, height, stride):
            row: list[Tensor] = []
            for left in range(0, width, stride):
                tile = x[..., top : top + size_in, left : left + size_in]
                row.append(run(tile.contiguous(), (top, left)))
            rows.append(row)
        _fade_in_place(rows, fade_out)
        joined = [
            _join(rows.pop(0), -1, size_out - fade_out) for _ in range(len(rows))
        ]  # tiles go as they are joined
        return _join(joined, -2, size_out - fade_out)

    # -- pixels to latents
    # -------------------------------------------------------------------------------------

    def encode(self, video: Tensor, return_dict: bool = True) -> Encoded:
        """Video `(b, 3, 1 + 8k, h, w)` in [-1, 1] to the posterior of its latents `(b, 16, 1 + k, h/8, w/8)`.

        The first frame stands alone, then each 8 frames make one unit; a picture is a video of one frame.
        Runs unit by unit unless gradients are asked for. ValueError for a frame count or size off the grid.
        """
        frames = video.shape[2]
        (height, width) = video.shape[-2:]
        scale = self.config.downsample_scale
        if (frames - 1) % scale or height % scale or width % scale:
            raise ValueError(
                f"A video of {frames} frames, {width}×{height}, does not fit "
                f"the VAE: frames must be 1 + {scale}·k "
                f"and both sides multiples of {scale}. Crop or pad it first (pyramid.media.pictures does)."
            )
        moments = self._in_tiles(video, lambda tile, _: self._encode(tile), encode=True)
        return Encoded(Posterior(moments))

    def _encode(self, video: Tensor) -> Tensor:
        if torch.is_grad_enabled() and self.training:
            return self.quant_conv(self.encoder(video))
        cache = FrameCache()
        scale = self.config.downsample_scale
        pieces = [video[:, :, :1], *video[:, :, 1:].split(scale, dim=2)] if video.shape[2] > 1 else [video]
        return torch.cat([self.quant_conv(self.encoder(piece, cache)) for piece in pieces], dim=2)

    # -- latents to pixels
    # -------------------------------------------------------------------------------------

    def decode(self, latents: Tensor, return_dict: bool = True) -> Decoded:
        """Latents `(b, 16, 1 + k, h, w)` of the VAE to video `(b, 3, 1 + 8k, 8h, 8w)`, about [-1, 1],
        not clamped.
        """
        if torch.is_grad_enabled() and self.training:
            video = self.decoder(self.post_quant_conv(latents))
        else:
            video = self._in_tiles(latents, self._decode_tile, encode=False)
        return Decoded(video)

    def _decode_tile(self, latents: Tensor, _key: tuple[int, int]) -> Tensor:
        """All units of one tile before the next tile: one cache at a time,
        which for large frames outweighs the rest.

        Finished tiles of several wait in main memory.
        """
        cache = FrameCache()
        tiled = self.use_tiling
        frames = [self.decoder(self.post_quant_conv(unit), cache) for unit in latents.split(1, dim=2)]
        return torch.cat([piece.cpu() if tiled else piece for piece in frames], dim=2)

    def stream(self) -> DecoderStream:
        """A decoder for one video that is fed unit by unit; see `DecoderStream`."""
        return DecoderStream(self)

    def forward(
        self,
        video: Tensor,
        sample_posterior: bool = True,
        generator=None,
        caches: tuple[FrameCache, FrameCache] | None = None,
    ) -> tuple:
        """Encode and decode; returns `(posterior, reconstruction)`, which is what training needs. `caches`,
        of the encoder and of the decoder: what `video` goes on from, then of any 8 frames a unit.
        """
        if caches is None:
            posterior = self.encode(video).latent_dist
        else:
            posterior = Posterior(self.quant_conv(self.encoder(video, caches[0])))
        latents = posterior.sample(generator) if sample_posterior else posterior.mode()
        if caches is None:
            return posterior, self.decode(latents).sample
        return posterior, self.decoder(self.post_quant_conv(latents), caches[1])


class DecoderStream:
    """Decodes one video as its units come: `(b, 16, n, h, w)` in, the new frames `(b, 3, ·, 8h, 8w)` out.

    The first unit gives 1 frame, each later one 8. Every unit is decoded once; with tiling each tile has its
    own cache. Feeding units one by one or several at a time gives the same frames.
    """

    def __init__(self, vae: VideoVAENetwork):
        self.vae = vae
        self.caches: dict[tuple[int, int], FrameCache] = {}

    def __call__(self, units: Tensor) -> Tensor:
        return torch.cat([self._decode_unit(unit) for unit in units.split(1, dim=2)], dim=2)

    def _decode_unit(self, unit: Tensor) -> Tensor:
        def run(tile: Tensor, key: tuple[int, int]) -> Tensor:
            cache = self.caches.setdefault(key, FrameCache())
            return self.vae.decoder(self.vae.post_quant_conv(tile), cache)

        return self.vae._in_tiles(unit, run, encode=False)


def _fade(before: Tensor, after: Tensor, dim: int, width: int) -> Tensor:
    """`after` with its first `width` places along `dim` faded in over the last ones of `before`."""
    width = min(width, before.shape[dim], after.shape[dim])
    if width == 0:
        return after
    shape = [1] * after.dim()
    shape[dim] = width
    ramp = (torch.arange(width, device=after.device, dtype=after.dtype) / width).view(shape)
    old = before.narrow(dim, before.shape[dim] - width, width)
    new, rest = after.split([width, after.shape[dim] - width], dim=dim)
    return torch.cat([torch.lerp(old, new, ramp), rest], dim=dim)


def _fade_in_place(rows: list[list[Tensor]], width: int) -> None:
    """Fade each tile in over the one above it, then over its left neighbour (each already faded itself)."""
    for i, row in enumerate(rows):
        for j in range(len(row)):
            if i > 0:
                row[j] = _fade(rows[i - 1][j], row[j], -2, width)
            if j > 0:
                row[j] = _fade(row[j - 1], row[j], -1, width)


def _join(tiles: list[Tensor], dim: int, stride: int) -> Tensor:
    """Concatenate tiles along `dim`, each but the last without the part that its successor has faded over."""
    return torch.cat([tile.narrow(dim, 0, stride) for tile in tiles[:-1]] + tiles[-1:], dim=dim)


def __getattr__(name: str):
    """CausalVideoVAE, the same as one of diffusers' models: loaded when it is asked for."""
    return diffusers_model(__name__, name)
