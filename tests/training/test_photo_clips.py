"""Photographs as latents, and a transformer that goes on from a finished one to learn to move them."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers.models import attention_dispatch
from safetensors.torch import load_file

from pyramid.generate.schedule import make_stages
from pyramid.hub.checkpoints import find
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.training import photo_clips as shards
from pyramid.training.build import build
from pyramid.training.data import encode, to_video
from pyramid.training.dit import scales_of, stage_loss
from pyramid.training.photo_clips import moves_of, photo_clips, phrases_of
from pyramid.training.photos import STILL
from pyramid.training.recipe import DiTRecipe, Recipe, load_recipe

RECIPE = """
name = "tiny"
[world]
shapes = ["ball"]
colors = ["red"]
backgrounds = ["sea"]
motions = ["left", "right"]
photo_cameras = ["pan left", "zoom in"]
frames = 17
[dit]
start = "embedded"
start_variant = "128p-photos"
clips_per_scene = 1
photo_clips = 4
photo_share = 0.6
keep = 0.5
keep_variant = "128p"
own_past = 0.5
start_share = 0.25
learning_rate = 1e-4
batch = [2, 2, 1]
steps = 2
"""


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one precision for a whole process; each test may have its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD", 3)
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_a_transformer_goes_on_from_a_finished_one(recipe_file, tmp_path):
    others = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    made = build("dit", str(recipe_file), str(tmp_path / "run"))
    assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == others
    before = PyramidFluxTransformer.from_pretrained(find("embedded", "128p-photos").transformer).state_dict()
    after = PyramidFluxTransformer.from_pretrained(made / "diffusion_transformer_128p").state_dict()
    change = sum((after[name] - before[name]).abs().max() > 0 for name in before)
    assert change > 0.8 * len(before)
    assert all(torch.allclose(after[name], before[name], atol=0.05) for name in before)
    told = json.loads((made / "pyramid.json").read_text())
    assert told["trained_on"]["cameras"] == ["pan left", "zoom in"] and "camera" in told["words"]
    assert find(made).has_text and find(made).variant == "128p"
    folder = tmp_path / "run" / "dit"
    own = load_file(folder / "own-photographs.safetensors")["latents"]
    clips = [load_file(path)["latents"] for path in sorted((folder / "photographs").iterdir())]
    assert torch.equal(own[:, :, :1], torch.cat(clips)[:, :, :1])  # the photograph itself is given
    assert load_file(folder / "own.safetensors")["latents"].shape == (1, 16, 3, 16, 16)
    assert sorted(path.name for path in (folder / "photographs").iterdir()) == [
        "00000.safetensors",
        "00001.safetensors",
    ]


def test_what_another_variant_knows_of_the_world_is_learned_as_far_as_it_is_to_be_kept():
    def velocity(value):
        return lambda clips, **text: torch.full_like(clips[-1], value)

    own, other = velocity(0.0), velocity(1.0)
    accelerator = SimpleNamespace(device="cpu", autocast=nullcontext)
    loop = SimpleNamespace(accelerator=accelerator, model=own)
    clips = torch.randn(2, 16, 2, 16, 16, generator=torch.Generator().manual_seed(0))

    def loss(keep, kept):
        recipe = Recipe("tiny", dit=DiTRecipe(keep=keep))
        drawn = torch.Generator().manual_seed(1)
        return float(stage_loss(loop, clips, {}, make_stages(3), 2, recipe, drawn, kept=kept))

    assert loss(1.0, other) == 1.0
    assert loss(0.0, other) == loss(0.0, None) == loss(1.0, None) > 0
    assert loss(0.5, other) < max(loss(1.0, other), loss(0.0, None))


def test_shards_depend_on_their_number_alone_and_are_made_once(recipe_file, tmp_path):
    from pyramid.models.vae import CausalVideoVAE

    recipe = load_recipe(recipe_file)
    vae = CausalVideoVAE.from_pretrained(find("embedded").vae).eval()
    whole = photo_clips(recipe, tmp_path / "a", vae, scales_of(vae))
    assert whole.latents.shape == (6, 16, 3, 16, 16)
    (tmp_path / "a" / "00001.safetensors").unlink()
    kept = (tmp_path / "a" / "00000.safetensors").stat().st_mtime_ns
    again = photo_clips(recipe, tmp_path / "a", vae, scales_of(vae))
    assert torch.equal(whole.latents, again.latents) and torch.equal(whole.move, again.move)
    assert (tmp_path / "a" / "00000.safetensors").stat().st_mtime_ns == kept
    assert moves_of(recipe) == ("pan left", "zoom in", STILL)
    assert all("camera" not in text and "zoom" not in text for text in phrases_of(STILL))


def test_a_picture_alone_has_the_first_latents_of_its_clip():
    """What is given to image-to-video is what training saw of the past."""
    vae = find("embedded").vae
    from pyramid.models.vae import CausalVideoVAE

    model = CausalVideoVAE.from_pretrained(vae).eval()
    clip = np.random.default_rng(0).integers(0, 256, (1, 9, 64, 64, 3)).astype(np.uint8)
    whole = encode(model, scales_of(model), to_video(clip))
    alone = encode(model, scales_of(model), to_video(clip[:, :1]))
    assert torch.allclose(whole[:, :, :1], alone, atol=1e-4)
