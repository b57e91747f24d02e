"""Checkpoints are found by name or folder, and what is wrong with one is said before anything is loaded."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from tiny import VAE, make_checkpoint

from pyramid.hub.checkpoints import (
    CheckpointError,
    _read_ahead,
    detect_family,
    find,
    identity,
    list_variants,
    page_variant,
    verify,
    weight_files,
)
from pyramid.hub.families import FAMILIES
from pyramid.models.vae import CausalVideoVAE

TRANSFORMER = "diffusion_transformer_128p"
WEIGHTS = f"{TRANSFORMER}/diffusion_pytorch_model.safetensors"


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_checkpoint_is_found_and_verified(tiny_checkpoint):
    checkpoint = find(tiny_checkpoint)
    verify(checkpoint)
    assert checkpoint.identity == "tiny/128p" and checkpoint.has_text and checkpoint.licence == "Apache-2.0"
    assert checkpoint.transformer_class == "PyramidFluxTransformer" and checkpoint.transformer.is_dir()
    assert checkpoint.defaults.sizes == ((64, 64),) and checkpoint.defaults.steps == (2, 2, 2)
    assert checkpoint.defaults.units == 4 and checkpoint.defaults.guidance_scale == 4.0


def test_weights_are_read_ahead_as_far_as_there_is_room(tiny_checkpoint, monkeypatch):
    checkpoint = find(str(tiny_checkpoint))
    room = SimpleNamespace(available=10**10)
    asked: list[int] = []
    monkeypatch.setattr("psutil.virtual_memory", lambda: room)

    def advise(number, *_) -> None:
        asked.append(os.fstat(number).st_size)

    monkeypatch.setattr("os.posix_fadvise", advise, raising=False)
    monkeypatch.setattr("os.POSIX_FADV_WILLNEED", 3, raising=False)
    _read_ahead(checkpoint)
    folders = [checkpoint.transformer, checkpoint.vae, *sorted(checkpoint.folder.glob("text_encoder*"))]
    assert sorted(asked) == sorted(weight_files(folder)[0].stat().st_size for folder in folders)
    room.available = asked[0]  # of which half may be taken
    asked.clear()
    _read_ahead(checkpoint)
    assert asked == []


def test_sd3_is_told_by_its_transformer(tmp_path):
    checkpoint = find(make_checkpoint(tmp_path, "sd3", "384p"))
    verify(checkpoint)
    assert checkpoint.family is FAMILIES["sd3"] and checkpoint.variant == "384p"


def test_the_family_is_told_without_a_class_name(copy):
    path = copy / TRANSFORMER / "config.json"
    config = json.loads(path.read_text())
    del config["_class_name"]
    path.write_text(json.dumps(config))
    assert detect_family(copy / TRANSFORMER).name == "miniflux"
    path.write_text(json.dumps({"_class_name": "SD3Transformer2DModel"}))
    with pytest.raises(CheckpointError, match="SD3Transformer2DModel"):
        find(copy)


def test_published_defaults_hold_without_pyramid_json(copy):
    (copy / "pyramid.json").unlink()
    (copy / TRANSFORMER).rename(copy / "diffusion_transformer_768p")
    shutil.copytree(copy / "diffusion_transformer_768p", copy / "diffusion_transformer_384p")
    assert list_variants(copy) == ["384p", "768p"] and find(copy).variant == "384p"
    checkpoint = find(copy, "768p")
    assert checkpoint.defaults.sizes == ((1280, 768),) and checkpoint.defaults.units == 31
    assert checkpoint.defaults.fps == 24 and "hyper quality" in checkpoint.defaults.prompt_suffix
    with pytest.raises(CheckpointError, match="no variant 'image', only 384p, 768p"):
        find(copy, "image")


@pytest.mark.parametrize(
    "changes",
    [
        {"fps": "fast"},
        {"sizes": [64, 64]},
        {"sizes": [[64]]},
        {"sizes": []},
        {"num_inference_steps": []},
        {"num_inference_steps": [2.5, 2, 2]},
    ],
)
def test_values_of_the_wrong_kind_in_pyramid_json_are_refused(copy, changes):
    edit_json(copy / "pyramid.json", **changes)
    with pytest.raises(CheckpointError, match="wrong kind"):
        find(copy)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("/no/such/folder", "neither a folder nor a model"),
        ("minifluxx", "give a folder or one of embedded, miniflux, sd3"),
        ("miniflux", "python -m pyramid download miniflux"),
        ("someone/finetune", "python -m pyramid download someone/finetune"),
    ],
)
def test_what_cannot_be_found_says_the_way_out(model, says, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=says):
        find(model)


def test_a_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is not a Pyramid Flow checkpoint"):
        find(tmp_path)


def test_a_download_in_the_hubs_cache_is_found_by_name(tiny_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789012345678901234567890123456789"
    storage = tmp_path / "models--rain1011--pyramid-flow-miniflux"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_checkpoint, storage / "snapshots" / commit)
    for name in ("miniflux", "rain1011/pyramid-flow-miniflux"):
        assert find(name).folder.name == commit
    with pytest.raises(CheckpointError, match="download miniflux --variant 768p"):
        find("miniflux", "768p")


# -- verifying


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def spoil_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:16] = b"\xff" * 8
    path.write_bytes(data)


DAMAGES = {
    "no transformer weights": (lambda c: (c / WEIGHTS).unlink(), "has no weights"),
    "truncated": (lambda c: truncate(c / WEIGHTS, 99_000), r"truncated: 99,000 of \d\d\d,\d\d\d bytes"),
    "truncated in its header": (lambda c: truncate(c / WEIGHTS, 50), "truncated"),
    "empty": (lambda c: truncate(c / WEIGHTS, 0), "truncated"),
    "one byte too many": (lambda c: (c / WEIGHTS).open("ab").write(b"x"), "damaged"),
    "spoilt header": (lambda c: spoil_header(c / WEIGHTS), "header cannot be read"),
    "pointer": (
        lambda c: (c / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git lfs pull",
    ),
    "no vae": (lambda c: shutil.rmtree(c / "causal_video_vae"), "folder causal_video_vae is missing"),
    "no config": (lambda c: (c / "causal_video_vae/config.json").unlink(), "config.json is missing"),
    "no JSON": (lambda c: (c / "causal_video_vae/config.json").write_text("{"), "config.json cannot be read"),
    "other VAE": (
        lambda c: edit_json(c / "causal_video_vae/config.json", _class_name="AutoencoderKL"),
        "AutoencoderKL, where a CausalVideoVAE",
    ),
    "no tokenizer": (lambda c: shutil.rmtree(c / "tokenizer_2"), "folder tokenizer_2 is missing"),
    "no vocabulary": (lambda c: (c / "tokenizer/tokenizer.json").unlink(), "tokenizer has none of"),
    "spoilt tokenizer": (
        lambda c: truncate(c / "tokenizer/tokenizer.json", 99),
        "tokenizer.json cannot be read",
    ),
    "SD3's texts": (
        lambda c: edit_json(c / "text_encoder_2/config.json", architectures=["CLIPTextModelWithProjection"]),
        "CLIPTextModelWithProjection, where a T5EncoderModel",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_before_loading(damage, copy):
    break_it, says = DAMAGES[damage]
    break_it(copy)
    with pytest.raises(CheckpointError, match=says):
        verify(find(copy))


def test_all_problems_are_told_at_once(copy):
    (copy / WEIGHTS).unlink()
    shutil.rmtree(copy / "tokenizer")
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(CheckpointError) as caught:
        verify(find(copy))
    assert len(caught.value.problems) == 3 and "\n" not in str(caught.value)


def test_texts_may_be_missing_when_they_are_not_wanted(copy):
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(CheckpointError, match="text_encoder is missing"):
        verify(find(copy), text=find(copy).has_text)
    shutil.rmtree(copy / "text_encoder_2")
    checkpoint = find(copy)
    assert not checkpoint.has_text
    verify(checkpoint, text=checkpoint.has_text)
    with pytest.raises(CheckpointError, match="text_encoder is missing"):
        verify(checkpoint)


def test_shards_are_checked_one_by_one(copy):
    vae = copy / "causal_video_vae"
    model = CausalVideoVAE.from_pretrained(vae)
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    model.save_pretrained(vae, max_shard_size="100KB")
    shards = weight_files(vae)
    assert len(shards) > 1
    verify(find(copy))
    truncate(shards[0], 1000)
    shards[1].unlink()
    with pytest.raises(CheckpointError) as caught:
        verify(find(copy))
    assert len(caught.value.problems) == 2 and shards[1].name in str(caught.value)


def test_bin_files_are_verified_too(copy):
    path = copy / WEIGHTS
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    verify(find(copy))
    truncate(path.with_suffix(".bin"), 5000)
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        verify(find(copy))


def test_a_variant_may_decode_otherwise(tmp_path):
    folder = make_checkpoint(tmp_path)
    shutil.copytree(folder / "diffusion_transformer_128p", folder / "diffusion_transformer_128p-photos")
    own = folder / "causal_video_vae_128p-photos"
    CausalVideoVAE(**VAE).save_pretrained(own)
    assert [find(folder, name).vae.name for name in ("128p", "128p-photos")] == ["causal_video_vae", own.name]
    kinds = [identity(find(folder, name))["weights"] for name in ("128p", "128p-photos")]
    assert kinds[0]["transformer"] == kinds[1]["transformer"] and kinds[0]["vae"] != kinds[1]["vae"]
    truncate(own / "diffusion_pytorch_model.safetensors", 500)
    verify(find(folder))
    with pytest.raises(CheckpointError, match="128p-photos/diffusion_pytorch_model.safetensors is truncated"):
        verify(find(folder, "128p-photos"))


def test_a_variant_may_differ_from_the_rest_and_a_page_may_start_with_it(tmp_path):
    folder = make_checkpoint(tmp_path)
    assert page_variant(folder) == "128p"
    shutil.copytree(folder / "diffusion_transformer_128p", folder / "diffusion_transformer_128p-fast")
    details = json.loads((folder / "pyramid.json").read_text())
    details["variants"] = {"128p-fast": {"num_inference_steps": [2, 2, 1], "sampler": "even"}}
    (folder / "pyramid.json").write_text(json.dumps(details))
    usual, fast = find(folder), find(folder, "128p-fast")
    assert (usual.variant, usual.defaults.steps, usual.defaults.sampler) == ("128p", (2, 2, 2), "reference")
    assert (fast.defaults.steps, fast.defaults.video_steps, fast.defaults.sampler) == (
        (2, 2, 1),
        (2, 2, 2),
        "even",
    )
    assert page_variant(folder) == "128p"
    (folder / "pyramid.json").write_text(json.dumps(details | {"page": "128p-fast"}))
    assert page_variant(folder) == "128p-fast"
    (folder / "pyramid.json").write_text(json.dumps(details | {"variants": [1]}))
    with pytest.raises(CheckpointError, match="no table"):
        find(folder)
