"""What is written out for training on a processor against what autograd makes of the plain parts.

Run: python -m pytest tests/models/test_way_back.py
"""

import pathlib
from unittest import mock

import pytest
import torch

from pyramid.models import layers
from pyramid.models.attention import rotated
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.layers import OnednnLinear
from pyramid.models.mmdit import PyramidDiffusionMMDiT
from pyramid.models.way_back import Prefixes, RotatedNorm, applies, plainly, prefixes

GOLDENS = pathlib.Path(__file__).parent.parent / "data" / "goldens"


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("network", "folder"),
    [(PyramidFluxTransformer, "miniflux"), (PyramidDiffusionMMDiT, "sd3")],
)
def test_velocity_and_all_gradients_are_those_of_autograd(network, folder, monkeypatch):
    monkeypatch.setattr(layers, "MANY", 1)
    model = network.from_pretrained(GOLDENS / folder / "diffusion_transformer_384p").train()
    config = model.config
    inputs = {
        "clips": [random(3, model.latent_channels, 1, side, side, seed=side) for side in (4, 8, 8)],
        "timestep": torch.tensor([500.0, 20.0, 900.0]),
        "encoder_hidden_states": random(3, 5, config.joint_attention_dim),
        "encoder_attention_mask": (torch.arange(5) < torch.tensor([[5], [2], [5]])).long(),
        "pooled_projections": random(3, config.pooled_projection_dim),
    }

    def gradients():
        model.zero_grad()
        velocity = model(**inputs)
        velocity.square().mean().backward()
        given = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return [velocity.detach(), *given]

    taken = (OnednnLinear, RotatedNorm, Prefixes)
    calls = [mock.patch.object(part, "apply", wraps=part.apply) for part in taken]
    spies = [call.start() for call in calls]
    written = gradients()
    assert all(spy.called for spy in spies)
    mock.patch.stopall()
    with plainly():
        plain = gradients()
    assert len(written) == len(plain)
    for one, other in zip(written, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_norms_in_bfloat16_are_autograds_within_its_rounding():
    norm = layers.RMSNorm(8, 1e-6)
    torch.nn.init.normal_(norm.weight, mean=1.0, std=0.2)
    table = torch.polar(torch.ones(5, 1, 4), random(5, 1, 4))
    given = random(2, 5, 3, 8).bfloat16()
    towards = random(2, 5, 3, 8, seed=1).bfloat16()

    def made():
        x = given.clone().requires_grad_()
        norm.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = rotated(norm, x, table)
        y.backward(towards)
        assert y.dtype == x.grad.dtype == torch.bfloat16
        return y.detach(), x.grad, norm.weight.grad.clone()

    with mock.patch.object(RotatedNorm, "apply", wraps=RotatedNorm.apply) as spy:
        written = made()
    assert spy.called
    with plainly():
        plain = made()
    for one, other in zip(written, plain, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=2**-7, atol=2**-7)


def test_prefixes_give_their_gradients_back_where_they_lie():
    x = random(2, 6, 3).requires_grad_()
    first, _, whole = prefixes(x, [2, 5, 6])  # nothing asks for the second
    (first.sum() + 2 * whole.sum()).backward()
    assert torch.equal(x.grad, torch.tensor([3.0, 3, 2, 2, 2, 2])[None, :, None].expand(2, 6, 3))
    x.grad = None
    prefixes(x, [2, 6])[0].sum().backward()  # nor for the last
    assert torch.equal(x.grad[:, :, 0], torch.tensor([[1.0, 1, 0, 0, 0, 0]]).expand(2, 6))


def test_plain_parts_elsewhere():
    x = random(2, 3)
    assert applies(x) and not applies(x.double()) and not applies(x[:0])
    with torch.no_grad():
        assert not applies(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not applies(x)
    with plainly():
        assert not applies(x)
