"""Previews: a linear reading is found back, and says more of a trained autoencoder's latents than their
mean.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid.media.preview import (
    CLIP,
    MIDDLE,
    PATCH,
    LatentColors,
    fit_colors,
    latent_colors,
    latent_preview,
    load_estimates,
    random_clips,
    save_estimate,
)
from pyramid.models.vae import CausalVideoVAE

EMBEDDED = Path(__file__).parent.parent.parent / "assets" / "embedded" / "causal_video_vae"


def test_colors_are_found_back_where_the_autoencoder_is_linear():
    random = np.random.default_rng(1)
    factors, bias = random.normal(size=(16, 48)) / 16, random.normal(size=48) / 10
    latents = random.normal(size=(4, 16, 6, 5))
    patches = (np.einsum("nchw,cd->nhwd", latents, factors) + bias).reshape(4, 6, 5, PATCH, PATCH, 3)
    pictures = patches.transpose(0, 5, 1, 3, 2, 4).reshape(4, 3, 6 * PATCH, 5 * PATCH)
    found = fit_colors(latents, pictures.repeat(2, 2).repeat(2, 3))
    assert np.allclose(found.factors, factors) and np.allclose(found.bias, bias)
    nothing = fit_colors(latents, np.zeros((4, 3, 48, 40)))
    for first, colors in ((True, LatentColors(found, nothing)), (False, LatentColors(nothing, found))):
        preview = latent_preview(torch.from_numpy(latents[:, :, None]), colors, first=first)  # n t 4h 4w 3
        assert preview.shape == (4, 1, 24, 20, 3) and preview.dtype == np.uint8
        expected = (np.moveaxis(pictures, 1, -1) * 127.5 + 127.5).clip(0, 255)
        assert np.abs(preview[:, 0] - expected).max() <= 0.51


def test_clips_move_or_rest_and_are_the_same_each_time():
    clips = random_clips(6, 32)
    assert clips.shape == (6, 3, CLIP, 32, 32) and np.abs(clips).max() <= 1
    assert np.array_equal(clips, random_clips(6, 32))
    moves = [not np.array_equal(clip[:, 0], clip[:, -1]) for clip in clips]
    assert not moves[0] and not moves[3] and any(moves)


@pytest.mark.skipif(not EMBEDDED.is_dir(), reason="assets/embedded is not there")
def test_a_preview_shows_what_the_latents_hold():
    vae = CausalVideoVAE.from_pretrained(EMBEDDED)
    colors, clips = latent_colors(vae), random_clips(16, 64)[12:]  # not those of the fit
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(clips)).latent_dist.mode()
    for unit, frame in ((0, 0), (1, MIDDLE)):
        preview = latent_preview(latents[:, :, unit : unit + 1], colors, first=unit == 0)[:, 0] / 127.5 - 1
        small = clips[:, :, frame].reshape(4, 3, 32, 2, 32, 2).mean((3, 5)).transpose(0, 2, 3, 1)
        assert np.square(preview - small).mean() < 0.2 * small.var((0, 1, 2)).mean()


def test_estimates_are_kept_and_half_of_one_is_left_out(tmp_path):
    save_estimate(tmp_path, 2, 1, Image.new("RGB", (8, 4), "red"))
    (tmp_path / "estimate-003-0.png").write_bytes(b"half")
    (tmp_path / "estimate-x-0.png").write_bytes(b"")
    found = load_estimates(tmp_path)
    assert (
        list(found) == [(2, 1)] and found[2, 1].size == (8, 4) and found[2, 1].getpixel((0, 0)) == (255, 0, 0)
    )
    assert load_estimates(tmp_path / "none") == {}
