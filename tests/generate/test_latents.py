"""Pyramids, block noise, history, scales and denoised estimates: each as the identity that defines it.

python -m pytest tests/generate/test_latents.py
"""

import math

import pytest
import torch
import torch.nn.functional as F

from pyramid.generate import latents as L
from pyramid.generate.schedule import make_stages
from pyramid.hub.families import MINIFLUX, SD3


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def blocks(x):
    """(b c t h w) to (number of 2x2 blocks, 4)."""
    return F.unfold(x.flatten(0, 2)[:, None], 2, stride=2).transpose(1, 2).reshape(-1, 4)


@pytest.mark.parametrize("scales", [MINIFLUX.scales, SD3.scales])
@pytest.mark.parametrize("first", [True, False])
def test_scales_invert_each_other_and_touch_nothing(scales, first):
    vae_latents = randn(2, 4, 3, 2, 2)
    before = vae_latents.clone()
    latents = L.normalize(vae_latents, scales, first)
    torch.testing.assert_close(L.denormalize(latents, scales, first), vae_latents)
    assert torch.equal(vae_latents, before)


def test_only_the_first_frame_is_an_image():
    latents = L.normalize(torch.ones(1, 1, 3, 1, 1), SD3.scales).flatten()
    image, video = (1 - 0.1490) / 1.8415, (1 + 0.2343) / 3.0986
    torch.testing.assert_close(latents, torch.tensor([image, video, video]))
    later = L.normalize(torch.ones(1, 1, 1, 1, 1), SD3.scales, first=False)
    assert later.item() == pytest.approx(video)


def test_units_normalised_one_by_one_equal_the_whole():
    x = randn(1, 2, 3, 4, 4)
    one_by_one = [L.normalize(x[:, :, u : u + 1], MINIFLUX.scales, first=u == 0) for u in range(3)]
    assert torch.equal(torch.cat(one_by_one, dim=2), L.normalize(x, MINIFLUX.scales))


def test_down_is_the_block_mean_and_undoes_up():
    x = randn(2, 3, 2, 8, 4)
    torch.testing.assert_close(L.down(x).flatten(), blocks(x).mean(1))
    torch.testing.assert_close(L.down(L.up(x)), x)
    assert torch.equal(L.up(x), F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


def test_down_is_bilinear_for_odd_sizes_too():
    x = randn(1, 2, 3, 5, 7)
    expected = torch.stack([F.interpolate(x[:, :, t], size=(2, 3), mode="bilinear") for t in range(3)], dim=2)
    torch.testing.assert_close(L.down(x), expected)


def test_pyramids_run_coarse_to_fine():
    x = randn(1, 2, 1, 16, 8)
    levels = L.pyramid(x, 3)
    assert [tuple(level.shape[-2:]) for level in levels] == [(4, 2), (8, 4), (16, 8)]
    assert torch.equal(levels[-1], x) and torch.equal(levels[0], L.down(levels[1]))


def test_noise_pyramid_keeps_unit_variance():
    for level in L.noise_pyramid(randn(1, 4, 4, 128, 128), 4):
        assert level.var().item() == pytest.approx(1, abs=0.08)  # 1024 … 262144 values


@pytest.mark.parametrize("gamma", [1 / 3, 0.2, 0.05])
def test_block_noise_has_its_covariance(gamma):
    noise = L.block_noise((1, 8, 4, 64, 64), gamma, torch.Generator().manual_seed(3), dtype=torch.float64)
    wanted = (1 + gamma) * torch.eye(4) - gamma * torch.ones(4, 4)
    torch.testing.assert_close(blocks(noise).T.cov(), wanted.double(), rtol=0, atol=0.04)
    # and independent from block to block
    pairs = torch.stack([blocks(noise)[:-1, 0], blocks(noise)[1:, 0]])
    assert abs(pairs.corrcoef()[0, 1]) < 0.02


def test_published_block_noise_sums_to_zero():
    noise = L.block_noise((1, 4, 1, 8, 16), generator=torch.Generator().manual_seed(0))
    assert blocks(noise).sum(1).abs().max() < 1e-6


def test_block_noise_follows_its_generator_only():
    torch.manual_seed(1)
    first = L.block_noise((1, 4, 1, 4, 4), generator=torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    again = L.block_noise((1, 4, 1, 4, 4), generator=torch.Generator().manual_seed(7))
    assert torch.equal(first, again)


@pytest.mark.parametrize("wrong", [dict(shape=(1, 1, 1, 3, 4)), dict(shape=(1, 1, 1, 4, 4), gamma=0.5)])
def test_block_noise_refuses(wrong):
    with pytest.raises(ValueError, match=r"3x4|0\.5"):
        L.block_noise(**wrong)


def test_a_jump_has_the_covariance_of_the_training_path():
    """The end of stage k-1, jumped, is (1 - start) up(z) + start * noise, and that noise is white."""
    for before, stage in zip(make_stages(), make_stages()[1:], strict=False):
        clean = randn(1, 8, 8, 32, 32, seed=1)
        exit_ = before.end * randn(1, 8, 8, 32, 32, seed=2) + (1 - before.end) * clean
        draw = torch.Generator().manual_seed(3)
        drawn = L.block_noise((1, 8, 8, 64, 64), generator=draw, dtype=torch.float64)
        entry = L.jump(exit_, stage, drawn)
        noise = entry - (1 - stage.start) * L.up(clean)
        white = stage.start**2 * torch.eye(4, dtype=torch.float64)
        torch.testing.assert_close(blocks(noise).T.cov(), white, rtol=0, atol=0.02)


def test_history_is_coarse_to_fine():
    units = [randn(1, 2, 1, 16, 16, seed=u) for u in range(5)]
    shapes = [[tuple(clip.shape[2:]) for clip in L.history(units, stage, 3)] for stage in range(3)]
    assert shapes == [[(5, 4, 4)], [(4, 4, 4), (1, 8, 8)], [(3, 4, 4), (1, 8, 8), (1, 16, 16)]]
    oldest, middle, last = L.history(units, 2, 3)
    assert torch.equal(last, units[4]) and torch.equal(middle, L.down(units[3]))
    torch.testing.assert_close(oldest, torch.cat([L.down(L.down(u)) for u in units[:3]], dim=2))


@pytest.mark.parametrize("past", range(5))
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_history_keeps_every_unit_once_in_order(past, stages):
    units = [torch.full((1, 1, 1, 8, 8), float(u)) for u in range(past)]  # constant: survives any resizing
    for stage in range(stages):
        clips = L.history(units, stage, stages)
        order = [clip[0, 0, t, 0, 0].item() for clip in clips for t in range(clip.shape[2])]
        assert order == list(range(past))
        assert len(clips) <= stage + 1 and all(c.shape[2] == 1 for c in clips[1:])
        if past and stage:
            assert clips[-1].shape[-1] == 8 >> (stages - 1 - stage)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_denoised_estimate_is_exact_on_the_training_path(stages):
    clean = L.pyramid(randn(2, 3, 1, 16, 16, seed=1, dtype=torch.float32), stages)
    noise = L.noise_pyramid(randn(2, 3, 1, 16, 16, seed=2, dtype=torch.float32), stages)
    for stage, z, e in zip(make_stages(stages), clean, noise, strict=True):
        coarse = L.up(clean[stage.index - 1]) if stage.index else torch.zeros_like(z)
        start = stage.start * e + (1 - stage.start) * coarse
        end = stage.end * e + (1 - stage.end) * z
        for r in (1.0, 0.6, 0.001):
            estimate = L.denoised_estimate(r * start + (1 - r) * end, start - end, r, stage)
            torch.testing.assert_close(estimate, z, rtol=0, atol=1e-5)


def test_denoised_estimate_takes_one_level_a_sample():
    stage = make_stages()[1]
    x, v = randn(2, 3, 1, 8, 8), randn(2, 3, 1, 8, 8, seed=1)
    r = torch.tensor([0.3, 0.9], dtype=torch.float64)
    together = L.denoised_estimate(x, v, r.view(-1, 1, 1, 1, 1), stage)
    alone = [L.denoised_estimate(x[i : i + 1], v[i : i + 1], r[i].item(), stage) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gamma_of_the_released_weights_needs_no_square_root():
    e = randn(1, 4, 1, 8, 8, seed=5, dtype=torch.float32)
    ours = L.block_noise((1, 4, 1, 8, 8), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(ours, math.sqrt(4 / 3) * (e - L.up(L.down(e))))
