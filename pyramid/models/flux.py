"""The miniFLUX transformer, with the published parameter names, and the frame of both families.

One forward is one stage of one unit: clips (history coarse to fine, the current clip last) and a prompt in,
the velocity of the current clip out. `prepare` does what is constant within a stage, `denoise` the rest;
`forward` is both. Only the current clip's velocity is asked for, so the last block computes text and history
no further than the keys and values they lend.

Source: arXiv 2410.05954, sections 3.2 and 3.3; double and single stream blocks after FLUX.1.
Run: `python -m pytest tests/models/test_flux.py`
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from pyramid.models.attention import Attention, Kept, Layout, join, rotary_table, sequence_layout
from pyramid.models.layers import (
    FeedForward,
    Linear,
    Modulation,
    TimestepTextEmbedding,
    gelu_linear,
    in_chunks,
    modulate,
    start_as_identity,
)
from pyramid.models.network import Network, diffusers_model, keeps_config

PATCH = 2  # latent pixels a side of a token; the published config's `patch_size` of 1 is a leftover


@dataclass(frozen=True)
class StageContext:
    """What does not change while one stage of one unit is denoised; rows sorted as `layout` says."""

    text: torch.Tensor  # (T, dim) projected, padding dropped
    history: torch.Tensor | None  # (b, m, dim) embedded patches of the clean past
    table: torch.Tensor  # (m + n, 1, head_dim/2) complex rotations
    layout: Layout
    kept: list[Kept] = field(default_factory=list)  # of each block, where a network keeps them for a stage


def check_clips(shape, clips, channels, batch):
    """ValueError unless a current clip of `shape` (t, h, w) and the history fit the patches and the batch."""
    if shape[1] % PATCH or shape[2] % PATCH:
        raise ValueError(f"the current clip is {shape[1]}×{shape[2]} latent pixels; use multiples of {PATCH}")
    for clip in clips:
        fits = clip.ndim == 5 and clip.shape[:2] == (batch, channels)
        if not fits or clip.shape[3] % PATCH or clip.shape[4] % PATCH:
            raise ValueError(
                f"a history clip is {[*clip.shape]}, not ({batch}, {channels}, t, h, w) with "
                f"one row a prompt and multiples of {PATCH} as h and w"
            )


def unit_sizes(clips, shape):
    """Tokens of each unit, oldest first, and how many units are history."""
    sizes = [(c.shape[3] // PATCH) * (c.shape[4] // PATCH) for c in clips for _ in range(c.shape[2])]
    return sizes + [(shape[1] // PATCH) * (shape[2] // PATCH)] * shape[0], len(sizes)


def positions(grids):
    """Time, row and column of every token: grids [(t, h, w), …] in patches, the current clip last -> (n, 3).

    A coarser clip spans the current clip's rows and columns, resized linearly with half-pixel centers.
    """

    def axis(full, size):
        where = torch.arange(full, dtype=torch.float32)[None, None]
        return where[0, 0] if size == full else F.interpolate(where, size, mode="linear")[0, 0]

    blocks = []
    time = 0
    for t, h, w in grids:
        axes = torch.arange(time, time + t).float(), axis(grids[-1][1], h), axis(grids[-1][2], w)
        blocks.append(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2))  # t·h·w 3
        time += t
    return torch.cat(blocks)


class DoubleBlock(nn.Module):
    """Text and image keep their own weights and meet in attention.

    text_ends: the block never updates the text (the last one of SD3), and lacks the weights for it.
    """

    def __init__(
        self,
        heads,
        head_dim,
        *,
        eps=1e-6,
        text_norms=("norm_added_q", "norm_added_k"),
        text_ends=False,
        attention=Attention,
    ):
        super().__init__()
        dim = heads * head_dim
        self.text_ends = text_ends
        self.norm1 = Modulation(dim, 6)
        self.norm1_context = Modulation(dim, 2 if text_ends else 6)
        self.attn = attention(heads, head_dim, eps=eps, text_norms=text_norms, text_out=not text_ends)
        self.ff = FeedForward(dim)
        if not text_ends:
            self.ff_context = FeedForward(dim)

    def forward(self, text, image, condition, table, layout, current_only=False, past=None, keep=None):  # noqa: PLR0913
        """text (T, dim), image (b, n, dim), condition (b, dim) -> text and image of the same shapes.

        current_only: -> (None, the current clip's tokens); text and history lend keys and values, and end.
        past, keep: as in `Attention.forward`; with a past, text is passed on as it is.
        """
        vectors = [v[:, None] for v in self.norm1(condition)]  # b 1 dim
        if past is not None:
            _, attended = self.attn(None, modulate(image, *vectors[:2]), table, layout, past=past)
            image = torch.addcmul(image, vectors[2], self.attn.to_out[0](attended))
            return text, self.ff.residual(image, *vectors[3:])
        text_vectors = [v.index_select(0, layout.text_rows) for v in self.norm1_context(condition)]  # T dim
        shift, scale = text_vectors[::-1] if self.text_ends else text_vectors[:2]  # sic: scale first
        text_normed = modulate(text, shift, scale)
        normed = modulate(image, *vectors[:2])
        text_out, image_out = self.attn(
            text_normed, normed, table, layout, current_only=current_only, keep=keep
        )
        image = image[:, layout.history :] if current_only else image
        image = torch.addcmul(image, vectors[2], self.attn.to_out[0](image_out))
        image = self.ff.residual(image, *vectors[3:])
        if current_only:
            return None, image
        text = torch.addcmul(text, text_vectors[2], self.attn.to_add_out(text_out))
        return self.ff_context.residual(text, *text_vectors[3:]), image


class SingleBlock(nn.Module):
    """One set of weights for text and image, attention and feed-forward side by side."""

    def __init__(self, heads, head_dim, attention=Attention):
        super().__init__()
        dim = heads * head_dim
        self.norm = Modulation(dim, 3)
        self.proj_mlp = Linear(dim, 4 * dim)
        self.proj_out = Linear(5 * dim, dim)
        self.attn = attention(heads, head_dim)

    def forward(self, text, image, condition, table, layout, current_only=False, past=None, keep=None):  # noqa: PLR0913
        """As DoubleBlock."""
        conditions = self.norm(condition)
        vectors = [v[:, None] for v in conditions]  # b 1 dim
        if past is not None:
            normed = modulate(image, *vectors[:2])
            _, attended = self.attn(None, normed, table, layout, past=past)
            return text, self.residual(image, normed, attended, vectors[2])
        text_vectors = [v.index_select(0, layout.text_rows) for v in conditions]  # T dim
        text_normed = modulate(text, *text_vectors[:2])
        normed = modulate(image, *vectors[:2])
        text_out, image_out = self.attn(
            text_normed, normed, table, layout, current_only=current_only, keep=keep
        )
        if current_only:
            image = image[:, layout.history :]
            normed = normed[:, layout.history :]
        else:
            text = self.residual(text, text_normed, text_out, text_vectors[2])
        return None if current_only else text, self.residual(image, normed, image_out, vectors[2])

    def residual(self, x, normed, attended, gate):
        """x + gate · proj_out(attended beside the feed-forward of normed), all (…, dim)."""

        def piece(x, normed, attended):
            wide = torch.cat([attended, gelu_linear(self.proj_mlp, normed)], dim=-1)  # … 5·dim
            return torch.addcmul(x, gate, self.proj_out(wide))

        return in_chunks(piece, x, normed, attended)


class StageNetwork(Network):
    """What both families do: a stage's context once, then velocities.

    A family has `time_text_embed`, `context_embedder`, `norm_out`, `proj_out`, and these four. attention: the
    class that the blocks make theirs of.
    """

    gradient_checkpointing = False
    fixed_past = False  # whether text and history are the same for all steps of a stage
    attention = Attention

    time_text_embed: nn.Module
    context_embedder: nn.Module
    norm_out: nn.Module
    proj_out: nn.Module
    latent_channels: int  # of the clips
    rotary_axes: tuple[int, ...]  # head dimensions for time, or for time, rows and columns

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """All blocks, in order."""
        raise NotImplementedError

    def embed(self, clip, grid):
        """Tokens (b, n, dim) of a clip (b, c, t, h, w); grid: (h, w) of the current clip in patches."""
        raise NotImplementedError

    def prepare(self, history, shape_of_current, encoder_hidden_states, encoder_attention_mask=None):
        """Everything that is constant within a stage, as a StageContext.

        history: clean clips (b, c, t, h, w), oldest and coarsest first, may be empty. shape_of_current:
        (t, h, w) of the clip to denoise, in latent pixels. encoder_hidden_states (b, l, d); its mask (b, l)
        is nonzero where text is real (None: everywhere). ValueError when the shapes cannot go together.
        """
        text = encoder_hidden_states
        mask = encoder_attention_mask
        current = tuple(shape_of_current)
        check_clips(current, history, self.latent_channels, len(text))
        mask = text.new_ones(text.shape[:2]) if mask is None else mask
        tokens, units = unit_sizes(history, current)
        layout = sequence_layout(mask, tokens, units, causal=self.config.use_temporal_causal)
        grids = [(t, h // PATCH, w // PATCH) for t, h, w in [*(c.shape[2:] for c in history), current]]
        past = [self.embed(layout.sort(clip), grids[-1][1:]) for clip in history]
        return StageContext(
            text=self.context_embedder(layout.sort(text)[layout.sort(mask) != 0]),  # T dim
            history=join(past, 1) if past else None,  # b m dim
            table=rotary_table(positions(grids), self.rotary_axes).to(text.device),
            layout=layout,
        )

    def checkpointed(self, block: nn.Module, *inputs):
        """What a block gives, computed again on the way back; `enable_gradient_checkpointing` asks for it."""
        from torch.utils.checkpoint import checkpoint

        return checkpoint(block, *inputs, use_reentrant=False)

    def denoise(self, current, timestep, pooled_projections, context, cache=None):
        """Velocity of `current` (b, c, t, h, w) at timestep (b,) in 0…1000, of its shape and dtype.

        cache: a BlockCache of this stage, which may leave out all blocks but the first.
        """
        layout = context.layout
        grid = current.shape[3] // PATCH, current.shape[4] // PATCH
        timestep = layout.sort(timestep)
        pooled_projections = layout.sort(pooled_projections)
        condition = F.silu(self.time_text_embed(timestep, pooled_projections))  # b dim
        image = self.embed(layout.sort(current), grid)  # b n dim
        past = None
        if context.history is not None and self.fixed_past:
            past = self._past(context, pooled_projections)
        elif context.history is not None:
            image = torch.cat([context.history, image], dim=1)  # b m+n dim
        image = self._through_blocks(image, condition, context, cache, past)
        scale, shift = self.norm_out(condition)
        velocity = self.proj_out(modulate(image, shift[:, None], scale[:, None]))  # b n c·4
        return layout.unsort(
            rearrange(
                velocity,
                "b (t h w) (p q c) -> b c t (h p) (w q)",
                t=current.shape[2],
                h=grid[0],
                w=grid[1],
                p=PATCH,
                q=PATCH,
            )
        )

    def _past(self, context, pooled):
        """Keys and values of text and history in each block, at timestep 0: made at a stage's first step."""
        if not context.kept:
            layout = context.layout.past
            condition = F.silu(
                self.time_text_embed(pooled.new_zeros(len(pooled), dtype=torch.float32), pooled)
            )
            text = context.text
            image = context.history
            table = context.table[: context.layout.history]
            for block in self.blocks:
                text, image = block(text, image, condition, table, layout, False, None, context.kept)
        return context.kept

    def _through_blocks(self, image, condition, context, cache, past):
        """The current clip's tokens behind all blocks, or behind those that the cache does not stand for."""
        text = context.text
        layout = context.layout
        last = len(self.blocks) - 1
        history = 0 if past else layout.history
        start = first = image[:, history:]
        cache = cache if last > 0 else None
        for index, block in enumerate(self.blocks):
            inputs = text, image, condition, context.table, layout, index == last, past and past[index]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                text, image = self.checkpointed(block, *inputs)
            else:
                text, image = block(*inputs)
            if cache is not None and index == 0:
                first = image[:, history:]
                others = cache.recall(first - start)
                if others is not None:
                    return first + others
        if cache is not None:
            cache.keep(image - first)
        return image

    def forward(
        self,
        clips,
        *,
        timestep,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        pooled_projections,
        context=None,
        cache=None,
    ):
        """Velocity of the last clip, (b, c, t, h, w).

        clips: list of (b, c, t, h, w), history oldest and coarsest first, the current clip last. timestep
        (b,), encoder_hidden_states (b, l, d), encoder_attention_mask (b, l), pooled_projections (b, p).
        context: what `prepare` made of text and history before, in their place. cache: as in `denoise`.
        """
        if context is None:
            shape = clips[-1].shape[2:]
            context = self.prepare(clips[:-1], shape, encoder_hidden_states, encoder_attention_mask)
        return self.denoise(clips[-1], timestep, pooled_projections, context, cache)


def check_config(config):
    """ValueError for a configuration of miniFLUX that cannot be."""
    axes = config.axes_dims_rope
    if sum(axes) != config.attention_head_dim or any(dim % 2 for dim in axes):
        raise ValueError(
            f"axes_dims_rope {list(axes)} must be even numbers that add up to "
            f"attention_head_dim ({config.attention_head_dim})"
        )
    if config.in_channels % PATCH**2 or config.num_layers + config.num_single_layers < 1:
        raise ValueError(
            f"in_channels ({config.in_channels}) must be a multiple of {PATCH**2} (the patch), the "
            f"layers ({config.num_layers} + {config.num_single_layers}) at least one"
        )
    if config.fixed_past and not config.use_temporal_causal:
        raise ValueError(
            "fixed_past: the past must not depend on the present, so use_temporal_causal is needed"
        )


class FluxNetwork(StageNetwork):
    """Double blocks, then single blocks; 3-axis rotary positions.

    use_temporal_causal: a unit sees the text and units up to itself (False: everything sees everything, for
    training on whole clips at once). fixed_past: text and history are modulated at timestep 0 wherever there
    is a history, so their keys and values are made once a stage; such a model is trained so.
    """

    published = "PyramidFluxTransformer"
    _leftover_config_keys = (
        "patch_size",
        "interp_condition_pos",
        "use_flash_attn",
        "use_gradient_checkpointing",
        "gradient_checkpointing_ratio",
    )

    @keeps_config
    def __init__(  # noqa: PLR0913 - the keys of the published configuration
        self,
        in_channels: int = 64,
        num_layers: int = 8,
        num_single_layers: int = 16,
        attention_head_dim: int = 64,
        num_attention_heads: int = 30,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        axes_dims_rope: tuple[int, ...] = (16, 24, 24),
        use_temporal_causal: bool = True,
        fixed_past: bool = False,
    ):
        super().__init__()
        check_config(self.config)
        self.fixed_past = fixed_past
        dim = num_attention_heads * attention_head_dim
        self.latent_channels = in_channels // PATCH**2
        self.rotary_axes = tuple(axes_dims_rope)
        self.time_text_embed = TimestepTextEmbedding(pooled_projection_dim, dim)
        self.context_embedder = Linear(joint_attention_dim, dim)
        self.x_embedder = Linear(in_channels, dim)
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(num_attention_heads, attention_head_dim, attention=self.attention)
            for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            SingleBlock(num_attention_heads, attention_head_dim, self.attention)
            for _ in range(num_single_layers)
        )
        self.norm_out = Modulation(dim, 2)
        self.proj_out = Linear(dim, in_channels)
        start_as_identity(self)

    @property
    def blocks(self):
        return [*self.transformer_blocks, *self.single_transformer_blocks]

    def embed(self, clip, grid):
        return self.x_embedder(rearrange(clip, "b c t (h p) (w q) -> b (t h w) (p q c)", p=PATCH, q=PATCH))


def __getattr__(name: str):
    """PyramidFluxTransformer, the same as one of diffusers' models: loaded when it is asked for."""
    return diffusers_model(__name__, name)
