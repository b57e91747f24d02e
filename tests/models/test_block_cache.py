"""The cache of blocks: what it leaves out, and that it ends with its stage; without it nothing changes."""

import pytest
import torch

from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.models.block_cache import BlockCache
from pyramid.models.flux import FluxNetwork


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = FluxNetwork(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 6, 6),
    )
    for weight in network.parameters():  # nothing is the identity
        torch.nn.init.normal_(weight, std=0.2)
    return network.eval().requires_grad_(False)


def inputs(model):
    generator = torch.Generator().manual_seed(1)
    past, x = torch.randn(2, 4, 1, 8, 8, generator=generator).split(1)
    text = torch.randn(1, 3, 8, generator=generator)
    return model.prepare([past], x.shape[2:], text), x, torch.randn(1, 8, generator=generator)


def test_it_leaves_the_blocks_out_where_the_first_changes_little(model):
    context, x, pooled = inputs(model)
    exact = [model.denoise(x, torch.tensor([time]), pooled, context) for time in (900.0, 899.9, 100.0)]
    cache = BlockCache(0.05)
    cached = [
        model.denoise(x, torch.tensor([time]), pooled, context, cache) for time in (900.0, 899.9, 100.0)
    ]
    assert cache.skipped == 1
    assert torch.equal(cached[0], exact[0]) and torch.equal(cached[2], exact[2])
    assert not torch.equal(cached[1], exact[1])
    assert torch.allclose(cached[1], exact[1], atol=0.05 * exact[1].abs().max())


def test_the_same_step_again_is_the_same(model):
    context, x, pooled = inputs(model)
    cache, time = BlockCache(1e-6), torch.tensor([500.0])
    first, again = (model.denoise(x, time, pooled, context, cache) for _ in range(2))
    assert cache.skipped == 1 and torch.allclose(first, again, atol=1e-5)


def test_each_stage_and_text_has_a_cache_of_its_own(model):
    prompt = Prompt(torch.randn(1, 3, 8), torch.ones(1, 3), torch.randn(1, 8))
    x = torch.randn(1, 4, 1, 8, 8)
    made = {}
    for threshold in (0.0, 1e-9, 0.9):
        guided = GuidedModel(model, prompt, prompt, Guidance(3.0, 3.0), split=True, block_cache=threshold)
        velocity = guided.stage(0, 2, [], x)
        made[threshold] = [velocity(x * (1 + 0.01 * step), 900.0 - step) for step in range(3)]
        anew = guided.stage(0, 2, [], x)(x, 900.0)
        assert torch.equal(anew, made[threshold][0])
    assert all(torch.equal(a, b) for a, b in zip(made[0.0], made[1e-9], strict=True))
    assert torch.equal(made[0.9][0], made[0.0][0]) and not torch.equal(made[0.9][1], made[0.0][1])
