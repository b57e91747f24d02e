"""The SD3 transformer of Pyramid Flow, with the published parameter names.

It differs from miniFLUX (see `flux.py`, which has the frame of both) in that all blocks are double blocks,
rows and columns come from a fixed sine-cosine table added to the patches, and only time is rotary.

Source: arXiv 2410.05954, sections 3.2 and 3.3; blocks after Stable Diffusion 3 (arXiv 2403.03206).
Run: `python -m pytest tests/models/test_mmdit.py`
"""

from typing import Self

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from pyramid.models.flux import PATCH, DoubleBlock, StageNetwork
from pyramid.models.layers import Linear, Modulation, TimestepTextEmbedding, start_as_identity
from pyramid.models.network import diffusers_model, keeps_config

PUBLISHED = {
    "patch_size": PATCH,
    "qk_norm": "rms_norm",
    "pos_embed_type": "sincos",
    "use_t5_mask": True,
    "temp_pos_embed_type": "rope",
    "add_temp_pos_embed": True,
    "interp_condition_pos": True,
}


def sincos_table(dim, size, base):
    """Fixed positions of a `size` × `size` grid that spans `base` units: (1, size², dim), columns then rows,
    sines then cosines of each (arXiv 2212.09748, after MAE)."""
    where = torch.arange(size, dtype=torch.float32) / (size / base)
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angle = where[:, None].double() * frequency  # size dim/4
    axis = torch.cat([angle.sin(), angle.cos()], dim=-1).float()  # size dim/2
    columns = axis[None].expand(size, -1, -1)
    rows = axis[:, None].expand(-1, size, -1)
    return torch.cat([columns, rows], dim=-1).reshape(1, size * size, dim)


class PatchEmbed(nn.Module):
    """Patches by a convolution, plus where they stand in the current clip's grid."""

    def __init__(self, channels, dim, size, base):
        super().__init__()
        self.size = size
        self.proj = nn.Conv2d(channels, dim, PATCH, stride=PATCH)
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sincos_table(dim, size, base))  # a part of the checkpoint

    def forward(self, clip, grid):
        """clip (b, c, t, h, w), grid (rows, columns) of the current clip -> (b, t·h/2·w/2, dim)."""
        if max(grid) > self.size:
            raise ValueError(
                f"a grid of {grid[0]}×{grid[1]} patches is larger than the position table "
                f"({self.size}×{self.size}); use at most {self.size * PATCH} latent pixels"
            )
        top = (self.size - grid[0]) // 2
        left = (self.size - grid[1]) // 2
        table = self.pos_embed.unflatten(1, (self.size, self.size))[
            :, top : top + grid[0], left : left + grid[1]
        ]
        size = clip.shape[3] // PATCH, clip.shape[4] // PATCH
        if size != tuple(grid):  # a coarser clip: the current grid's positions, resized
            table = F.interpolate(table.float().movedim(-1, 1), size, mode="bilinear").movedim(1, -1)
        patches = rearrange(self.proj(rearrange(clip, "b c t h w -> (b t) c h w")), "n d h w -> n h w d")
        return rearrange((patches + table).to(patches.dtype), "(b t) h w d -> b (t h w) d", t=clip.shape[2])


def check_config(config):
    """ValueError for what no published weights were trained with, and for widths that do not fit together."""
    for key, value in PUBLISHED.items():
        if config[key] != value:
            raise ValueError(f"{key}={config[key]!r}: only {value!r}, as published, is supported")
    width = config["caption_projection_dim"]
    head_dim = config["attention_head_dim"]
    dim = config["num_attention_heads"] * head_dim
    if width != dim or dim % 4 or head_dim % 2:
        raise ValueError(
            f"caption_projection_dim ({width}) must be the width, heads × "
            f"head_dim = {dim}, a multiple of 4 with an even head_dim ({head_dim})"
        )


class MMDiTNetwork(StageNetwork):
    """Double blocks only; the last one lets the text end.

    The published config lacks four keys; their defaults here are what the weights were trained with. What the
    weights were never trained with is refused. use_temporal_causal: as in FluxNetwork.
    """

    published = "PyramidDiffusionMMDiT"
    _leftover_config_keys = (
        "max_num_frames",
        "use_flash_attn",
        "use_gradient_checkpointing",
        "gradient_checkpointing_ratio",
    )

    @keeps_config
    def __init__(  # noqa: PLR0913 - the keys of the published configuration
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        caption_projection_dim: int = 1536,
        pooled_projection_dim: int = 2048,
        pos_embed_max_size: int = 192,
        qk_norm: str = "rms_norm",
        pos_embed_type: str = "sincos",
        temp_pos_embed_type: str = "rope",
        joint_attention_dim: int = 4096,
        use_temporal_causal: bool = True,
        use_t5_mask: bool = True,
        add_temp_pos_embed: bool = True,
        interp_condition_pos: bool = True,
    ):
        super().__init__()
        check_config(self.config)
        dim = caption_projection_dim  # the width, heads × head_dim
        self.latent_channels = in_channels
        self.rotary_axes = (attention_head_dim,)
        self.pos_embed = PatchEmbed(in_channels, dim, pos_embed_max_size, sample_size // PATCH)
        self.time_text_embed = TimestepTextEmbedding(pooled_projection_dim, dim)
        self.context_embedder = Linear(joint_attention_dim, dim)
        block = {"text_norms": ("norm_add_q", "norm_add_k"), "eps": 1e-5, "attention": self.attention}
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(num_attention_heads, attention_head_dim, text_ends=index == num_layers - 1, **block)
            for index in range(num_layers)
        )
        self.norm_out = Modulation(dim, 2)
        self.proj_out = Linear(dim, PATCH**2 * in_channels)
        start_as_identity(self)

    @classmethod
    def from_sd3(cls, model_or_path) -> Self:
        """A transformer that starts from Stable Diffusion 3 Medium: see `pyramid.models.sd3.read_sd3`.

        The gains of the q/k norms, which SD3 Medium lacks, are 1; `sd3.measure_gains` finds better ones.
        Raises ValueError for Stable Diffusion 3.5 and for other weights.
        """
        from pyramid.models.sd3 import fill, read_sd3

        config, weights = read_sd3(model_or_path)
        model = cls(**config)
        fill(model, weights)
        return model

    @property
    def blocks(self):
        return self.transformer_blocks

    def embed(self, clip, grid):
        return self.pos_embed(clip, grid)


def __getattr__(name: str):
    """PyramidDiffusionMMDiT, the same as one of diffusers' models: loaded when it is asked for."""
    return diffusers_model(__name__, name)
