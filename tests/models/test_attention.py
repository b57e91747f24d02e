"""Prefix attention against attention with a dense mask, rotary embedding, and the fast paths of the layers.

Run: python -m pytest tests/models/test_attention.py
"""

import math
import pathlib

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from torch.nn import functional as F

from pyramid.models import layers
from pyramid.models.attention import prefix_attention, rotary_table, rotate, sequence_layout
from pyramid.models.flux import PyramidFluxTransformer, positions
from pyramid.models.layers import Linear, RMSNorm, TimestepTextEmbedding, gelu_linear, in_chunks, modulate

GOLDEN = pathlib.Path(__file__).parent.parent / "data" / "goldens" / "miniflux" / "diffusion_transformer_384p"
UNITS = [3, 3, 4, 6]  # tokens of each unit, the last one current


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(query, key, value, mask, units, causal):
    """Reference: padded sequences and the mask time_i ≥ time_j, key not padding. All (b, l + n, heads, d)."""
    image_time = torch.arange(len(units)).repeat_interleave(torch.tensor(units))
    time = torch.cat([torch.zeros(mask.shape[1]), image_time])
    seen = (time[:, None] >= time[None]) if causal else torch.ones(len(time), len(time), dtype=torch.bool)
    real = torch.cat([mask.bool(), torch.ones(len(mask), sum(units), dtype=torch.bool)], dim=1)
    allowed = seen & real[:, None, None]  # b 1 l+n l+n
    out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)), attn_mask=allowed)
    return out.transpose(1, 2)


@pytest.mark.parametrize("lengths", [[5, 5], [2, 5], [5, 2, 5, 2], [0, 4], [3]])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("current_only", [True, False])
def test_prefixes_equal_the_dense_mask(lengths, causal, current_only):
    batch, most, history = len(lengths), 5, sum(UNITS[:3])
    mask = (torch.arange(most) < torch.tensor(lengths)[:, None]).long()
    layout = sequence_layout(mask, UNITS, 3, causal)
    whole = [random(batch, most + sum(UNITS), 2, 8, seed=seed) for seed in range(3)]

    def pair(x):
        x = layout.sort(x)
        return x[:, :most][layout.sort(mask).bool()], x[:, most:]

    query, key, value = map(pair, whole)
    expected = dense(*whole, mask, UNITS, causal)
    if current_only:
        text, image = prefix_attention((None, query[1][:, history:]), key, value, layout)
        assert text is None
        assert torch.allclose(layout.unsort(image), expected[:, most + history :], atol=1e-6)
    else:
        text, image = prefix_attention(query, key, value, layout)
        assert torch.allclose(layout.unsort(image), expected[:, most:], atol=1e-6)
        assert torch.allclose(text, layout.sort(expected)[:, :most][layout.sort(mask).bool()], atol=1e-6)


def test_equal_lengths_share_one_bucket():
    same = sequence_layout(torch.ones(6, 4), UNITS, 3)
    assert len(same.buckets) == 1 and same.order is None
    mixed = sequence_layout(torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]]), UNITS, 3)
    assert [bucket.length for bucket in mixed.buckets] == [1, 2]
    assert torch.equal(mixed.unsort(mixed.sort(torch.arange(4))), torch.arange(4))


def test_rotation_keeps_lengths_and_depends_on_the_distance_only():
    table = rotary_table(torch.tensor([[0.0], [3.0], [10.0], [13.0]]), (16,))
    x, y = random(1, 1, 2, 16), random(1, 1, 2, 16, seed=1)
    turned_x, turned_y = (rotate(v.expand(1, 4, 2, 16), table) for v in (x, y))
    assert torch.equal(turned_x[:, 0], x[:, 0])  # position 0, as text has it, turns nothing
    assert torch.allclose(turned_x.norm(dim=-1), x.norm(dim=-1).expand(1, 4, 2), atol=1e-5)
    near, far = (turned_x[:, 0] * turned_y[:, 1]).sum(-1), (turned_x[:, 2] * turned_y[:, 3]).sum(-1)
    assert torch.allclose(near, far, atol=1e-5)


def test_positions_of_a_pyramid():
    """The coarse clip spans the fine one's rows and columns: half of an even grid lies between its places."""
    where = positions([(2, 1, 2), (1, 2, 4)])
    assert where[:4].tolist() == [[0, 0.5, 0.5], [0, 0.5, 2.5], [1, 0.5, 0.5], [1, 0.5, 2.5]]
    assert where[4:].tolist() == [[2, row, column] for row in range(2) for column in range(4)]


def test_attention_backends_can_be_switched():
    model = PyramidFluxTransformer.from_pretrained(GOLDEN)
    inputs = {
        "clips": [random(1, 4, 1, 4, 4), random(1, 4, 1, 8, 8)],
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": random(1, 3, 24),
        "pooled_projections": random(1, 12),
    }
    with torch.no_grad(), attention_backend("native"):  # restores the process-wide backend
        native = model(**inputs)
        model.set_attention_backend("_native_math")
        assert {block.attn.processor._attention_backend for block in model.blocks} == {
            AttentionBackendName._NATIVE_MATH
        }
        assert torch.allclose(model(**inputs), native, atol=1e-5)


def test_fast_linear_layers_equal_torch(monkeypatch):
    linear, x = Linear(24, 40), random(2, 7, 24)[:, 1:]  # not contiguous
    plain = F.linear(x, linear.weight, linear.bias)
    assert torch.allclose(linear(x), plain, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(linear(x), plain, atol=1e-6)
        assert torch.allclose(gelu_linear(linear, x), F.gelu(plain, approximate="tanh"), atol=1e-6)
        assert layers.fused(linear, x) is layers.ONEDNN
        monkeypatch.setattr(layers, "ONEDNN", False)  # a torch that has it no more
        assert torch.equal(linear(x), plain)
        assert torch.equal(gelu_linear(linear, x), F.gelu(plain, approximate="tanh"))
        monkeypatch.undo()
        assert linear(x[:, :0]).shape == (2, 0, 40)
        linear.register_forward_hook(lambda module, args, output: output + 1)  # as offloading or LoRA do
        assert torch.allclose(gelu_linear(linear, x), F.gelu(plain + 1, approximate="tanh"), atol=1e-6)


@torch.no_grad()
def test_chunks_equal_the_whole():
    x, y = random(3, 50, 8), random(3, 50, 8, seed=1)
    seen = []

    def function(x, y):
        seen.append(x.shape[1])
        return x * y + 1

    assert torch.equal(in_chunks(function, x, y, rows=45), x * y + 1)
    assert seen == [15, 15, 15, 5]


def test_norms():
    x, norm = random(5, 8) * 3, RMSNorm(8, 1e-6)
    assert torch.allclose(norm(x), F.rms_norm(x, (8,), eps=1e-6), atol=1e-6)
    shift, scale = random(1, 8), random(1, 8, seed=1)
    expected = F.layer_norm(x, (8,), eps=1e-6) * (1 + scale) + shift
    assert torch.allclose(modulate(x, shift, scale), expected, atol=1e-6)


def test_the_sinusoids_of_the_timestep():
    embedding = TimestepTextEmbedding(pooled_dim=4, dim=256)
    captured = []
    embedding.timestep_embedder.linear_1.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    embedding(torch.tensor([386.5]), torch.zeros(1, 4))
    expected = [math.cos(386.5 * 10000 ** (-i / 128)) for i in range(128)]
    assert torch.allclose(captured[0][0, :128], torch.tensor(expected), atol=1e-4)
