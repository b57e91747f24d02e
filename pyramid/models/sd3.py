"""Stable Diffusion 3 Medium's transformer as a start of training: its weights and sizes, from either layout.

    config, weights = read_sd3("stabilityai/stable-diffusion-3-medium-diffusers")  # a repository
    config, weights = read_sd3("sd3-medium/transformer")                           # diffusers' folder
    config, weights = read_sd3("sd3_medium.safetensors")                           # the original single file

The names and shapes are those of `PyramidDiffusionMMDiT`, which has the gains of its q/k norms besides
(`PyramidDiffusionMMDiT.from_sd3`, and `measure_gains` for what they should be).
Run: `python -m pytest tests/models/test_sd3.py`
"""

import math
import re
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from diffusers.models.model_loading_utils import load_state_dict
from torch import Tensor, nn

SHORT_NAMES = {"sd3-medium": "stabilityai/stable-diffusion-3-medium-diffusers"}
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")  # owner/name: no other word is asked for on the Hub
SOURCES = (
    "give a folder or a repository (owner/name) in diffusers' layout, a .safetensors file, or sd3-medium"
)
HEAD_DIM = 64  # of every SD3: a single file does not say it
GAINS = ("norm_q", "norm_k", "norm_add_q", "norm_add_k")  # of each block
OTHER_SD3 = (
    "this is Stable Diffusion 3.5, which Pyramid Flow's transformer cannot start from: it has q/k norms of "
    "its own, its Medium a second attention in half of the blocks, its Large another width and depth. Give "
    "Stable Diffusion 3 Medium"
)


def read_sd3(source: "SD3Transformer2DModel | str | Path") -> tuple[dict, dict[str, Tensor]]:
    """The arguments of a `PyramidDiffusionMMDiT` and the weights that it shares with SD3 Medium.

    source: a model, a folder or repository of diffusers' (of the pipeline or of the transformer), a single
    .safetensors file, or "sd3-medium". Raises ValueError for SD3.5, and for what is none of these.
    """
    if isinstance(source, SD3Transformer2DModel):
        return _of_model(source)
    if not isinstance(source, str | Path):
        raise ValueError(f"{source!r} is no source of weights: {SOURCES}")
    path = Path(source)
    if path.is_file():
        return _of_file(path)
    return _of_model(_load(str(source)))


def _load(source: str) -> SD3Transformer2DModel:
    """A folder or repository of diffusers' layout."""
    name = SHORT_NAMES.get(source, source)
    if not (name and Path(name).is_dir()) and not REPOSITORY.fullmatch(name):
        raise ValueError(f"there is neither a file nor a folder {source!r}: {SOURCES}")
    whole = not (Path(name) / "config.json").is_file()  # else it is the transformer's own folder
    try:
        return SD3Transformer2DModel.from_pretrained(name, subfolder="transformer" if whole else None)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]  # diffusers' advice goes on for lines
        raise ValueError(f"{source!r} holds no transformer of Stable Diffusion 3: {reason}") from None


def _of_model(model: SD3Transformer2DModel) -> tuple[dict, dict[str, Tensor]]:
    config = model.config
    if config.qk_norm is not None or config.dual_attention_layers:
        raise ValueError(OTHER_SD3)
    return _checked(model.state_dict(), config.attention_head_dim, config.sample_size)


def _of_file(path: Path) -> tuple[dict, dict[str, Tensor]]:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name}: a single file must be .safetensors, others can run programs")
    weights = load_state_dict(path)
    if not any("joint_blocks." in name for name in weights):
        raise ValueError(f"{path.name} holds no transformer of Stable Diffusion 3 (no joint_blocks in it)")
    if any("ln_q" in name or "attn2" in name for name in weights):
        raise ValueError(OTHER_SD3)
    return _checked(convert_sd3_transformer_checkpoint_to_diffusers(weights), HEAD_DIM, 128)


def _checked(weights: dict[str, Tensor], head_dim: int, sample_size: int) -> tuple[dict, dict[str, Tensor]]:
    """The sizes of weights in diffusers' layout."""
    dim, channels = weights["pos_embed.proj.weight"].shape[:2]
    return {
        "sample_size": sample_size,
        "in_channels": channels,
        "num_layers": len({name.split(".")[1] for name in weights if name.startswith("transformer_blocks.")}),
        "attention_head_dim": head_dim,
        "num_attention_heads": dim // head_dim,
        "caption_projection_dim": dim,
        "joint_attention_dim": weights["context_embedder.weight"].shape[1],
        "pooled_projection_dim": weights["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "pos_embed_max_size": math.isqrt(weights["pos_embed.pos_embed"].shape[1]),
    }, weights


def fill(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """SD3's weights in a transformer of ours; the gains of the q/k norms stay 1 where SD3 has none.

    ValueError, listing them, where a tensor is missing, left over or of another shape.
    """
    own = model.state_dict()
    new = {name for name in own if name.split(".")[-2] in GAINS}
    missing = sorted(own.keys() - weights.keys() - new)
    left = sorted(weights.keys() - own.keys())
    shapes = sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    lines = [
        f"{what}: {', '.join(names[:5])}"
        for what, names in (("missing", missing), ("left over", left), ("of another shape", shapes))
        if names
    ]
    if lines:
        raise ValueError("these are not the weights of Stable Diffusion 3 Medium; " + "; ".join(lines))
    model.load_state_dict(weights, strict=False)
    return model


@torch.no_grad()
def measure_gains(model: nn.Module, batches) -> None:
    """Set the gains of the q/k norms, in place, to the size that queries and keys have on some batches.

    SD3 does not normalize them, so a gain of 1 changes its function. The root mean square of each, layer by
    layer behind the layers before it, is the gain that changes it least. batches: arguments of the model.
    """
    sums: dict[nn.Module, list[float]] = {}

    def set_gain(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        power = sums.setdefault(norm, [])
        power.append(inputs[0].float().square().mean().item())
        norm.weight.fill_(math.sqrt(sum(power) / len(power)))  # type: ignore[operator]  # a parameter, not a module

    norms = [module for name, module in model.named_modules() if name.rpartition(".")[2] in GAINS]
    hooks = [norm.register_forward_pre_hook(set_gain) for norm in norms]
    try:
        for batch in batches:
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
