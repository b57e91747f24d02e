"""The SD3 transformer against the goldens, and its identities.

Run: python -m pytest tests/test_mmdit.py
"""

import pathlib

import pytest
import torch
from safetensors.torch import load_file

from pyramid.models.mmdit import PyramidDiffusionMMDiT

GOLDENS = pathlib.Path(__file__).parent / "data" / "goldens"
PROMPT = ("encoder_hidden_states", "encoder_attention_mask", "pooled_projections")


@pytest.fixture(scope="module")
def golden():
    values = load_file(GOLDENS / "golden.safetensors")
    return {name.removeprefix("sd3."): v for name, v in values.items() if name.startswith("sd3.")}


@pytest.fixture(scope="module")
def model():
    return PyramidDiffusionMMDiT.from_pretrained(GOLDENS / "sd3" / "diffusion_transformer_384p")


def error(result, golden):
    return ((result - golden).abs().max() / golden.abs().max()).item()


@torch.no_grad()
def test_forward_with_history_and_two_text_lengths(model, golden):
    clips = [golden[f"clip{i}"] for i in range(4)]
    velocity = model(clips, timestep=golden["timestep"], **{name: golden[name] for name in PROMPT})
    assert error(velocity, golden["velocity"]) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("stage, clips", [(0, 2), (1, 3), (2, 1)])
def test_each_stage_of_the_packed_batch(model, golden, stage, clips):
    velocity = model(
        [golden[f"packed.stage{stage}.clip{i}"] for i in range(clips)],
        timestep=golden["packed.timestep"][stage:stage + 1],
        **{name: golden[f"packed.{name}"][stage:stage + 1] for name in PROMPT})
    assert error(velocity, golden[f"packed.stage{stage}.velocity"]) < 1e-4
