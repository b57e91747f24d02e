"""A complete checkpoint in the released layout, with tiny random weights and real tokenizers, for all tests.

make_checkpoint(tmp_path)                       # miniFLUX, variant 128p: a megabyte, a tenth of a second
make_checkpoint(tmp_path, family="sd3", variant="384p")
"""

import json
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.prompts import all_words
from pyramid.training.text import build_clip_tokenizer, build_text_side
from pyramid.training.world import World

WIDTH = 32  # of the text encoders, and of the transformers' text inputs
FLUX = dict(
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    axes_dims_rope=(4, 6, 6),
    joint_attention_dim=WIDTH,
    pooled_projection_dim=WIDTH,
)
MMDIT = dict(
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    caption_projection_dim=32,
    joint_attention_dim=WIDTH,
    pooled_projection_dim=2 * WIDTH,
)
HALF = dict(layers_per_block=(1,) * 4, block_out_channels=(8,) * 4, norm_num_groups=2)
VAE = {f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in HALF.items()}
DETAILS = dict(
    name="tiny",
    variant="128p",
    licence="Apache-2.0",
    sizes=[[64, 64]],
    max_units=4,
    num_frames=17,
    fps=8,
    num_inference_steps=[2, 2, 2],
    video_num_inference_steps=[2, 2, 2],
    guidance_scale=4.0,
    video_guidance_scale=3.0,
    negative_prompt="",
    prompt_suffix="",
)


def make_checkpoint(folder: Path, family: str = "miniflux", variant: str = "128p", seed: int = 0) -> Path:
    """Writes all folders and pyramid.json; returns `folder`. The same seed makes the same files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        randomize(make_transformer(family)).save_pretrained(folder / f"diffusion_transformer_{variant}")
        randomize(CausalVideoVAE(**VAE), 1.0).save_pretrained(folder / "causal_video_vae")
        save_text(folder, family)
    (folder / "pyramid.json").write_text(json.dumps(DETAILS | {"variant": variant}))
    return folder


def make_transformer(family: str) -> torch.nn.Module:
    if family == "miniflux":
        return PyramidFluxTransformer(**FLUX)
    from pyramid.models.mmdit import PyramidDiffusionMMDiT

    return PyramidDiffusionMMDiT(**MMDIT)


@torch.no_grad()
def randomize(model: torch.nn.Module, scale: float = 0.5) -> torch.nn.Module:
    """Matrices and kernels of gain `scale`: a fresh model's zero-initialised parts would hide errors."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(std=scale / weight[0].numel() ** 0.5)
    return model.eval()


def save_text(folder: Path, family: str) -> None:
    """The text encoders and tokenizers of a family, in the order of its folders."""
    words = all_words(World())
    side = build_text_side(words, width=WIDTH, layers=1, heads=2)
    if family == "miniflux":
        side.save(folder)
        return
    tokenizer = build_clip_tokenizer(words)
    for number in ("", "_2"):
        config = CLIPTextConfig(**side.text_encoder.config.to_dict() | {"architectures": None})
        CLIPTextModelWithProjection(config).save_pretrained(folder / f"text_encoder{number}")
        tokenizer.save_pretrained(folder / f"tokenizer{number}")
    side.text_encoder_2.save_pretrained(folder / "text_encoder_3")
    side.tokenizer_2.save_pretrained(folder / "tokenizer_3")
