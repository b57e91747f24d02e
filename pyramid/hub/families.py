"""What a model family is, once: its networks by name, its latents, its tokens, and what a forward costs.

    family = FAMILIES["miniflux"]                      # or MINIFLUX; the embedded model is of this family too
    family.scales, family.grid.latent_size(640, 384)   # the law of its latents; (80, 48)
    family.forward_flops(family.dimensions(config), tokens)     # `config`: the transformer's config.json

Everything here is data and arithmetic, without torch: `pyramid.models.transformer_class` makes the network of
a family's `transformer_class`, `pyramid.text.encoders` its text encoders. Settings are checked before a
checkpoint is looked at, so all families share `GRID`, which `pyramid.settings` checks sizes and lengths by.

Sources: the published configurations; arXiv 2410.05954, section 3.3, for what a step sees of the past.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

from pyramid.settings import FRAMES_PER_UNIT, MODELS, PIXELS_PER_PATCH, TRAINED_STAGES

TEXT_TOKENS = 128  # that T5 reads of a prompt, in all families
RGB = 3  # colors of a pixel


# -- text encoders
@dataclass(frozen=True)
class EncoderKind:
    """A kind of text encoder: what messages call it, the class in transformers that loads it, and the classes
    that checkpoints say they are of (T5's encoder may come with its decoder).
    """

    label: str
    class_name: str
    stored_as: tuple[str, ...]


CLIP = EncoderKind("CLIP", "CLIPTextModel", ("CLIPTextModel",))
CLIP_PROJECTED = EncoderKind("CLIP", "CLIPTextModelWithProjection", ("CLIPTextModelWithProjection",))
T5 = EncoderKind("T5", "T5EncoderModel", ("T5EncoderModel", "T5ForConditionalGeneration", "T5Model"))
ENCODER_KINDS = {name: kind for kind in (CLIP, CLIP_PROJECTED, T5) for name in kind.stored_as}


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder of a family, by its folders in a checkpoint."""

    folder: str
    tokenizer: str
    kind: EncoderKind


# -- latents and tokens
@dataclass(frozen=True)
class LatentScales:
    """`latents = (vae_latents - shift) * scale`; a clip's first frame is an image and has its own pair."""

    image_shift: float
    image_scale: float
    video_shift: float
    video_scale: float

    @classmethod
    def stated(cls, config: Any) -> Self | None:
        """Those that an autoencoder's configuration states; None unless it states all of them."""
        names = [spec.name for spec in fields(cls)]
        values = [value for name in names if (value := getattr(config, name, None)) is not None]
        return cls(*values) if len(values) == len(names) else None


@dataclass(frozen=True)
class Grid:
    """How pixels and frames become latents, and latents tokens."""

    unit_frames: int = FRAMES_PER_UNIT  # of all units but the first, which has 1
    downsampling: int = 8  # pixels a side that the autoencoder makes one latent
    patch: int = 2  # latents a side that the transformer makes one token
    channels: int = 16  # of a latent

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a frame's latents."""
        return width // self.downsampling, height // self.downsampling

    def latent_shape(self, width: int, height: int) -> tuple[int, int]:
        """Height and width, as tensors have them."""
        return height // self.downsampling, width // self.downsampling

    def stage_tokens(self, width: int, height: int, stages: int) -> list[int]:
        """Tokens of one unit at each stage, coarsest first; sizes in pixels."""
        finest = width * height // (self.downsampling * self.patch) ** 2
        return [finest >> 2 * (stages - 1 - stage) for stage in range(stages)]

    def tokens(self, width: int, height: int, stages: int, *, stage: int, past: int) -> int:
        """Tokens that one row of a step at `stage` sees beside the text: its unit's and those of `past` units
        before, each a stage coarser than the one after it, down to stage 0 (arXiv 2410.05954, section 3.3).
        """
        at = self.stage_tokens(width, height, stages)
        return at[stage] + sum(at[max(0, stage - back)] for back in range(past))


GRID = Grid()
assert GRID.downsampling * GRID.patch == PIXELS_PER_PATCH, "settings are checked by another grid"


# -- families
@dataclass(frozen=True)
class Dimensions:
    """How large a transformer is: its width, that of an attention head, and its blocks of all kinds."""

    width: int
    head: int
    layers: int


@dataclass(frozen=True)
class Family:
    """What all checkpoints of one architecture share.

    `mark` is a key that only this family's transformer has in a configuration without a class name.
    `defaults` are the published values of what `dimensions` reads. `peak_chunked` and `peak_whole` are how
    many tensors of (rows, tokens, width) a forward has alive at once: where tokens go piece by piece, as on a
    processor, and where they go at once.
    """

    name: str
    transformer_class: str
    mark: str
    text: tuple[TextEncoder, ...]
    scales: LatentScales
    defaults: dict[str, int]
    models: tuple[str, ...]  # short names in `settings.MODELS`
    grid: Grid = GRID
    text_tokens: int = TEXT_TOKENS
    stages: int = TRAINED_STAGES
    peak_chunked: float = 12.0
    peak_whole: float = 17.0

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that its models have, each once."""
        return tuple(dict.fromkeys(variant for model in self.models for variant in MODELS[model]))

    def config(self, *, layers: int, single_layers: int, heads: int, head_dim: int) -> dict[str, Any]:
        """The configuration of a transformer of these sizes, without what its text encoders decide."""
        sizes: dict[str, Any] = {
            "num_layers": layers,
            "attention_head_dim": head_dim,
            "num_attention_heads": heads,
        }
        if "num_single_layers" not in self.defaults:  # double blocks only, positions added to the tokens
            return sizes | {"caption_projection_dim": heads * head_dim}
        time, space = head_dim // 4, 3 * head_dim // 8
        return sizes | {"num_single_layers": single_layers, "axes_dims_rope": (time, space, space)}

    def dimensions(self, config: dict[str, Any]) -> Dimensions:
        """Of the transformer that `config`, its config.json, describes."""
        known = self.defaults | {key: config[key] for key in self.defaults if key in config}
        head = known["attention_head_dim"]
        layers = known["num_layers"] + known.get("num_single_layers", 0)
        return Dimensions(known["num_attention_heads"] * head, head, layers)

    def forward_flops(self, size: Dimensions, tokens: int) -> float:
        """Floating point operations of one forward of one row over `tokens`, text included.

        A block has 12 weights for each pair of channels; attention to prefixes is half of full attention.
        """
        return float(size.layers * (24 * tokens * size.width**2 + 2 * tokens**2 * size.width))

    def forward_bytes(
        self, size: Dimensions, *, tokens: int, history: int, rows: int, bytes_each: int, chunked: bool
    ) -> int:
        """Most bytes of activations alive in a forward, with what is kept for it from step to step.

        `tokens` of a row, `history` of them before the current unit; texts count as long as they can be.
        """
        one = rows * (tokens + self.text_tokens) * size.width * bytes_each
        kept = rows * history * size.width * bytes_each + tokens * size.head * 4  # history, rotations
        # In bfloat16 queries and keys pass through float32 and complex64 on the way: two tensors of twice the
        # size.
        wide = (self.peak_chunked if chunked else self.peak_whole) + (1 if bytes_each == 2 else -1)
        return int(one * wide + kept)


MINIFLUX = Family(
    "miniflux",
    "PyramidFluxTransformer",
    mark="axes_dims_rope",
    text=(
        TextEncoder("text_encoder", "tokenizer", CLIP),
        TextEncoder("text_encoder_2", "tokenizer_2", T5),
    ),
    scales=LatentScales(-0.04, 1 / 1.8726, -0.2343, 1 / 3.0986),
    defaults={
        "num_attention_heads": 30,
        "attention_head_dim": 64,
        "num_layers": 8,
        "num_single_layers": 16,
    },
    models=("embedded", "miniflux"),
)
SD3 = Family(
    "sd3",
    "PyramidDiffusionMMDiT",
    mark="pos_embed_max_size",
    text=(
        TextEncoder("text_encoder", "tokenizer", CLIP_PROJECTED),
        TextEncoder("text_encoder_2", "tokenizer_2", CLIP_PROJECTED),
        TextEncoder("text_encoder_3", "tokenizer_3", T5),
    ),
    scales=LatentScales(0.1490, 1 / 1.8415, -0.2343, 1 / 3.0986),
    defaults={"num_attention_heads": 24, "attention_head_dim": 64, "num_layers": 24},
    models=("sd3",),
)
FAMILIES = {family.name: family for family in (MINIFLUX, SD3)}


def family_of(transformer_class: str) -> Family:
    """The family whose transformer is of that class; KeyError for a class of none."""
    return {family.transformer_class: family for family in FAMILIES.values()}[transformer_class]


# -- what is published
@dataclass(frozen=True)
class Release:
    """A published model."""

    name: str
    family: str
    repository: str
    licence: str

    @property
    def variants(self) -> tuple[str, ...]:
        return MODELS[self.name]


RELEASES = {
    release.name: release
    for release in (
        Release(
            "miniflux",
            MINIFLUX.name,
            "rain1011/pyramid-flow-miniflux",
            "see the model card at https://huggingface.co/rain1011/pyramid-flow-miniflux",
        ),
        Release(
            "sd3",
            SD3.name,
            "rain1011/pyramid-flow-sd3",
            "see the model card at https://huggingface.co/rain1011/pyramid-flow-sd3 "
            "(trained from Stable Diffusion 3 Medium)",
        ),
    )
}
