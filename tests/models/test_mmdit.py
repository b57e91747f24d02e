"""What only the SD3 transformer has: fixed positions, published defaults. The rest is in test_flux.py.

Run: python -m pytest tests/models/test_mmdit.py
"""

import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file

from pyramid.models.mmdit import PatchEmbed, PyramidDiffusionMMDiT, sincos_table

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "goldens" / "sd3" / "diffusion_transformer_384p"


def test_position_table_is_the_published_one():
    config = json.loads((FOLDER / "config.json").read_text())
    width = config["num_attention_heads"] * config["attention_head_dim"]
    published = load_file(FOLDER / "diffusion_pytorch_model.safetensors")["pos_embed.pos_embed"]
    table = sincos_table(width, config["pos_embed_max_size"], config["sample_size"] // config["patch_size"])
    assert table.shape == published.shape
    assert torch.allclose(table, published, atol=1e-6)


@torch.no_grad()
def test_positions_are_cropped_from_the_centre_and_resized_for_coarser_clips():
    embed = PatchEmbed(channels=1, dim=8, size=12, base=8)
    embed.proj.weight.zero_()
    embed.proj.bias.zero_()
    table = embed.pos_embed.unflatten(1, (12, 12))[0]
    fine = embed(torch.zeros(1, 1, 2, 8, 16), (4, 8)).unflatten(1, (2, 4, 8))
    assert torch.equal(fine[0, 0], table[4:8, 2:10]) and torch.equal(fine[0, 0], fine[0, 1])
    coarse = embed(torch.zeros(1, 1, 1, 4, 8), (4, 8)).unflatten(1, (2, 4))[0]
    means = table[4:8, 2:10].reshape(2, 2, 4, 2, 8).mean(dim=(1, 3))  # half of an even grid: the 2×2 mean
    assert torch.allclose(coarse, means, atol=1e-6)


def test_a_grid_larger_than_the_table_is_refused():
    with pytest.raises(ValueError, match="at most 24 latent pixels"):
        PatchEmbed(channels=1, dim=8, size=12, base=8)(torch.zeros(1, 1, 1, 8, 26), (4, 13))


@pytest.mark.parametrize(
    "key, value",
    [
        ("temp_pos_embed_type", "sincos"),
        ("pos_embed_type", "rope"),
        ("interp_condition_pos", False),
        ("patch_size", 4),
        ("qk_norm", None),
    ],
)
def test_what_the_weights_were_not_trained_with_is_refused(key, value):
    with torch.device("meta"), pytest.raises(ValueError, match=f"{key}={value!r}"):
        PyramidDiffusionMMDiT(num_layers=1, **{key: value})


def test_the_width_must_agree():
    with torch.device("meta"), pytest.raises(ValueError, match="caption_projection_dim \\(1152\\)"):
        PyramidDiffusionMMDiT(num_layers=1, caption_projection_dim=1152)
