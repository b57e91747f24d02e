"""Checkpoints of trainers and of old torch: loaded, or refused with the true reason."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from pyramid.disk import file_variant
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.checkpoints import CheckpointError, find, verify, weight_files
from pyramid.models.network import shared_prefix

TRANSFORMER = "diffusion_transformer_128p/diffusion_pytorch_model.safetensors"
VAE = "causal_video_vae/diffusion_pytorch_model.safetensors"
SHORT = dict(num_frames=1, num_inference_steps=1, guidance_scale=1.0, seed=3)


def make(folder, output_type="latent"):
    pipe = PyramidFlowPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a red ball", **SHORT, output_type=output_type).frames


@pytest.fixture(scope="module")
def usual(tiny_checkpoint):
    return make(tiny_checkpoint)


@pytest.mark.parametrize("legacy", [True, False])
def test_weights_of_torch_are_read_in_its_old_form_too(copy, usual, legacy, caplog):
    for file in (TRANSFORMER, VAE):
        path = copy / file
        torch.save(load_file(path), path.with_suffix(".bin"), _use_new_zipfile_serialization=not legacy)
        path.unlink()
    assert torch.equal(make(copy), usual)
    assert "An error occurred" not in caplog.text


@pytest.mark.parametrize("prefix", ["module.", "model.", "dit.", "_orig_mod.", "model.diffusion_model."])
def test_a_prefix_that_all_names_have_is_left_out_and_told(copy, usual, prefix, caplog):
    for file in (TRANSFORMER, VAE):
        path = copy / file
        save_file({prefix + name: value for name, value in load_file(path).items()}, path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(make(copy), usual)
    assert caplog.text.count(f"begin with {prefix!r}, which is left out") == 2


def test_a_prefix_of_some_names_is_an_error_that_lists_them(copy):
    path = copy / TRANSFORMER
    weights = load_file(path)
    first = min(weights)
    save_file(weights | {f"module.{first}": weights[first].clone()}, path)
    with pytest.raises(ValueError, match=f"unexpected: module.{first}"):
        make(copy)
    assert shared_prefix(["a.x", "a.y"], ["x", "y"]) == "a."
    assert shared_prefix(["a.x", "b.y"], ["x", "y"]) == shared_prefix(["a.x"], ["x", "y"]) == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "diffusion_pytorch_model.pt",
            "has diffusion_pytorch_model.pt, but no weights under a name that is read",
        ),
        ("ema.safetensors", "has ema.safetensors, but no weights under a name that is read"),
    ],
)
def test_weights_under_another_name_are_named_with_the_way_out(copy, name, words):
    path = copy / TRANSFORMER
    path.rename(path.with_name(name))
    with pytest.raises(CheckpointError, match=words):
        make(copy)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_weights_of_a_variant_are_read_where_there_are_no_others(copy, usual, ending):
    """As diffusers and transformers save them with variant="fp16"."""
    files = copy.glob("*/*.safetensors") if ending == "safetensors" else [copy / TRANSFORMER, copy / VAE]
    for path in [*files]:
        name = path.with_name(f"{path.stem}.fp16.{ending}")
        torch.save(load_file(path), name) if ending == "bin" else save_file(load_file(path), name)
        path.unlink()
    verify(find(copy))
    assert file_variant(copy / "causal_video_vae") == "fp16"
    assert torch.equal(make(copy), usual)


def test_weights_without_a_variant_come_first(copy, usual):
    path = copy / TRANSFORMER
    other = {name: torch.zeros_like(value) for name, value in load_file(path).items()}
    save_file(other, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert weight_files(path.parent) == [path] and torch.equal(make(copy), usual)


@pytest.mark.parametrize(("file", "what"), [(TRANSFORMER, "transformer"), (VAE, "autoencoder")])
def test_weights_that_are_no_numbers_are_told(copy, file, what):
    path = copy / file
    weights = load_file(path)
    name = next(name for name in sorted(weights) if "proj_out" in name or "decoder.conv_in" in name)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, path)
    with pytest.raises(
        FloatingPointError, match=f"The {what}'s weights hold NaN or infinity.*{name}.*damaged"
    ):
        make(copy, "pil")
