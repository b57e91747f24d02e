"""A past that the model made over itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyramid.generate.guidance import Prompt
from pyramid.generate.latents import jump
from pyramid.generate.sampler import Noise
from pyramid.generate.schedule import make_stages
from pyramid.hub.checkpoints import find
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.data import encode, to_video
from pyramid.training.dit import CaptionEncoder, LatentClips, mix, scales_of
from pyramid.training.noising import stage_ends
from pyramid.training.own_past import _made_over, own_clips
from pyramid.training.recipe import DiTRecipe, load_recipe
from pyramid.training.world import CPU_WORLD, Scene, canonical_caption

SCENES = [Scene("square", "red", "meadow", "right"), Scene("ball", "blue", "desert", "up")]


@pytest.fixture(scope="module")
def captions():
    return CaptionEncoder(find("embedded").folder)


@pytest.fixture(scope="module")
def data(captions):
    """Three clips of two scenes."""
    vae = CausalVideoVAE.from_pretrained(find("embedded").vae).eval()
    rng = np.random.default_rng(0)
    clips = np.stack([CPU_WORLD.render(SCENES[owner], rng) for owner in (0, 0, 1)])
    latents = encode(vae, scales_of(vae), to_video(clips))
    texts = [[canonical_caption(scene)] for scene in SCENES]
    return LatentClips(latents, torch.tensor([0, 0, 1]), texts, captions, rng)


def test_each_clip_is_told_a_caption_of_its_own_scene(data, captions):
    told, nothing = data.told()
    for row, owner in enumerate((0, 0, 1)):
        states, lengths, pooled = captions([canonical_caption(SCENES[owner])])
        assert told.mask[row].sum() == lengths[0]
        assert torch.allclose(told.embeds[row, : lengths[0]], states[0], atol=1e-5)
        assert torch.allclose(told.pooled[row], pooled[0], atol=1e-5)
    assert nothing.embeds.shape == (1, *told.embeds.shape[1:])
    assert nothing.mask.sum() == captions([""])[1][0]


def test_units_made_over_are_near_the_clip_and_the_model_s_own(data):
    model = PyramidFluxTransformer.from_pretrained(find("embedded").transformer, dtype=torch.bfloat16).eval()
    told, nothing = (text.to(model.dtype) for text in data.told())
    settings = DiTRecipe(sample_guidance=2.5)
    own = own_clips(model, data.latents, told, nothing, settings, seed=3, given=1)
    assert own.shape == data.latents.shape and own.dtype == torch.float32
    assert torch.equal(own[:, :, :1], data.latents[:, :, :1])
    error = (own - data.latents).square().mean((1, 3, 4))  # clips units
    spread = data.latents.square().mean((1, 3, 4))
    assert (error[:, 1:] > 1e-3).all() and (error[:, 1:] < 0.6 * spread[:, 1:]).all()
    alone = own_clips(model, data.latents[:1], *_row(told, nothing), settings, seed=3, given=1)
    assert torch.allclose(alone[0], own[0], atol=0.1)  # bfloat16: sums of other sizes of batches
    other = own_clips(model, data.latents[:1], *_row(told, nothing), settings, seed=4, given=1)
    assert (other[0, :, 1:] - own[0, :, 1:]).abs().max() > 0.1


def _row(told, nothing):
    return Prompt(told.embeds[:1], told.mask[:1], told.pooled[:1]), nothing


def test_a_unit_is_made_over_from_its_coarsest_stage_on_with_those_made_over_before():
    clips = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calls = []

    def stage(unit, stage, history, x):
        calls.append((unit, stage, [clip.clone() for clip in history], x.clone()))
        return lambda x, timestep: torch.ones_like(x)

    model = SimpleNamespace(device="cpu", stage=stage)
    own = _made_over(model, clips, [5], [2, 2, 2], given=1)
    assert [call[:2] for call in calls] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [tuple(call[3].shape[3:]) for call in calls] == [(8, 8), (16, 16)] * 2
    assert torch.equal(calls[1][2][-1], clips[:, :, :1])
    assert torch.equal(calls[3][2][-1], own[:, :, 1:2])
    stages = make_stages(3)
    noise = Noise((4, 16, 16), [5])
    _, coarse = stage_ends(clips[:, :, 1:2], noise.full(1), stages, 0)
    assert torch.equal(calls[0][3], jump(coarse, stages[1], noise.jump(1, 1, (1, 4, 1, 8, 8))))


def test_a_share_of_the_samples_has_its_own_past_and_a_true_last_unit(data):
    data.own = data.latents + 100
    try:
        units, _ = data.batch(64, 0.0, 3, 0.5)
        assert units.shape[2] == 3 and units[:, :, 2].abs().max() < 50
        own = units[:, :, :2].flatten(1).mean(1) > 50
        assert 16 < own.sum() < 48
        assert (units[own][:, :, :2] > 50).all() and (units[~own][:, :, :2] < 50).all()
        assert data.batch(8, 0.0, 3)[0].max() < 50  # where the recipe wants none
        assert data.batch(8, 0.0, 1, 1.0)[0].max() < 50  # the first unit has no past
        assert data.latents.abs().max() < 50  # as they were
    finally:
        data.own = None


def test_two_models_are_mixed_by_the_share_of_the_other():
    model, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    wanted = 0.75 * model.weight.detach() + 0.25 * other.weight.detach()
    before = other.weight.detach().clone()
    mix(model, other, 0.25)
    assert torch.allclose(model.weight, wanted) and torch.equal(other.weight, before)


@pytest.mark.parametrize("key", ["own_past", "keep", "start_share"])
def test_what_a_finished_model_is_asked_needs_one(tmp_path, key):
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "a"\n[dit]\n{key} = 0.5\n')
    with pytest.raises(ValueError, match=rf"\[dit\] {key} = 0.5 goes with start"):
        load_recipe(path)
