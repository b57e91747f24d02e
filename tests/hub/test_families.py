"""What a family says of itself, held to the networks, the settings and the sampler's own history."""

import inspect
import subprocess
import sys

import pytest
import torch

from pyramid.generate.latents import history
from pyramid.hub.families import ENCODER_KINDS, FAMILIES, GRID, MINIFLUX, RELEASES, family_of
from pyramid.models import transformer_class
from pyramid.models.flux import PATCH
from pyramid.models.vae import CausalVideoVAE
from pyramid.settings import MODELS, PIXELS_PER_PATCH, VARIANTS, units_of

BOTH = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)


@BOTH
def test_a_family_is_found_by_its_transformer_and_has_its_published_defaults(family):
    cls = transformer_class(family.transformer_class)
    assert family_of(cls.__name__) is family
    published = inspect.signature(cls.__init__).parameters
    assert family.mark in published
    assert {name: published[name].default for name in family.defaults} == family.defaults
    assert not any(other.mark in published for other in FAMILIES.values() if other is not family)
    size = family.dimensions({})
    assert size.width == published["num_attention_heads"].default * size.head


@BOTH
def test_a_familys_grid_is_that_of_its_networks_and_of_the_settings(family):
    grid, vae = family.grid, inspect.signature(CausalVideoVAE.__init__).parameters
    assert grid.patch == PATCH and grid.patch * grid.downsampling == PIXELS_PER_PATCH
    assert grid.downsampling == vae["downsample_scale"].default
    assert grid.channels == vae["decoder_in_channels"].default
    assert units_of(1 + 3 * grid.unit_frames) == 4


@BOTH
def test_every_model_is_of_one_family_and_every_variant_is_known(family):
    assert {name.partition("-")[0] for name in family.variants} <= set(VARIANTS)
    assert sum(name in family.models for name in RELEASES) == 1
    assert all(ENCODER_KINDS[name] is part.kind for part in family.text for name in part.kind.stored_as)


def test_the_families_models_are_those_of_the_settings():
    named = [name for family in FAMILIES.values() for name in family.models]
    assert sorted(named) == sorted(MODELS)
    assert [RELEASES[name].family for name in RELEASES] == list(FAMILIES)


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("past", [0, 1, 2, 5])
def test_tokens_are_those_that_the_sampler_shows_the_model(stage, past):
    width, height = 640, 384
    columns, rows = GRID.latent_size(width, height)
    units = [torch.zeros(1, 1, 1, rows, columns) for _ in range(past)]
    clips = history(units, stage, 3) if units else []
    scale = 2 ** (2 - stage)
    sizes = [clip.shape[2:] for clip in clips] + [(1, rows // scale, columns // scale)]
    seen = sum(t * (h // GRID.patch) * (w // GRID.patch) for t, h, w in sizes)
    assert GRID.tokens(width, height, 3, stage=stage, past=past) == seen


def test_a_forward_costs_more_with_each_token_and_each_layer():
    size = MINIFLUX.dimensions({})
    assert MINIFLUX.forward_flops(size, 2000) > 2 * MINIFLUX.forward_flops(size, 1000)
    small = MINIFLUX.dimensions({"num_layers": 4, "num_single_layers": 8})
    assert 2 * MINIFLUX.forward_flops(small, 1000) == MINIFLUX.forward_flops(size, 1000)
    asked = {"tokens": 2000, "history": 500, "rows": 2, "bytes_each": 2}
    whole, chunked = (MINIFLUX.forward_bytes(size, chunked=way, **asked) for way in (False, True))
    assert whole > chunked


def test_families_load_no_torch():
    code = "import sys, pyramid.hub.families; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
