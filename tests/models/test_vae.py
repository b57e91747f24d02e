"""The VAE: agreement with the reference, streaming, tiles, causality, memory."""

import json
from pathlib import Path

import pytest
import torch
from helpers import error

from pyramid.models import layers
from pyramid.models.causal import CausalConv3d, FrameCache
from pyramid.models.vae import CausalVideoVAE, DecoderStream, _fade

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def vae():
    return CausalVideoVAE.from_pretrained(DATA / "goldens" / "miniflux" / "causal_video_vae").eval()


def test_every_published_name_and_shape():
    published = json.loads((DATA / "parameters" / "causal_video_vae.json").read_text())
    with torch.device("meta"):
        model = CausalVideoVAE()
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == published


@torch.no_grad()
def test_encode_and_decode_agree_with_the_reference(vae, goldens):
    posterior = vae.encode(goldens["vae.video"]).latent_dist
    assert error(posterior.parameters, goldens["vae.moments"]) < 1e-4
    assert error(posterior.parameters, goldens["vae.chunk_moments"]) < 1e-4
    video = vae.decode(posterior.mode()).sample
    assert error(video, goldens["vae.decoded"]) < 1e-4
    assert error(video, goldens["vae.chunk_decoded"]) < 1e-4


def test_the_whole_at_once_as_training_runs_it(vae, goldens):
    vae.train()
    posterior, _ = vae(goldens["vae.video"], sample_posterior=False)
    assert error(posterior.parameters, goldens["vae.moments"]) < 1e-4
    assert error(vae.decode(posterior.mode()).sample, goldens["vae.decoded"]) < 1e-4


@torch.no_grad()
def test_tiles_agree_with_the_reference(vae, goldens):
    vae.enable_tiling(64)
    assert error(vae.decode(goldens["vae.tile_latent"]).sample, goldens["vae.tile_decoded"]) < 1e-4
    assert (
        error(vae.encode(goldens["vae.tile_image"]).latent_dist.parameters, goldens["vae.tile_moments"])
        < 1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1), (2, 2), (1, 3)])
def test_streaming_equals_the_whole_exactly(vae, tiled, pieces):
    if tiled:
        vae.enable_tiling(32)
    latents = torch.randn(1, 4, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    stream = vae.stream()
    frames = [stream(piece) for piece in latents.split(list(pieces), dim=2)]
    assert [f.shape[2] for f in frames] == [8 * n - 7 * (i == 0) for i, n in enumerate(pieces)]
    assert torch.equal(torch.cat(frames, dim=2), vae.decode(latents).sample)


@torch.no_grad()
def test_later_units_never_change_earlier_frames(vae):
    latents = torch.randn(1, 4, 3, 4, 4)
    changed = latents.clone()
    changed[:, :, 2] += 1
    before, after = vae.decode(latents).sample, vae.decode(changed).sample
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.allclose(before[:, :, 9:], after[:, :, 9:])


@torch.no_grad()
def test_a_stream_holds_no_more_after_many_units_than_after_two(vae):
    stream, sizes = DecoderStream(vae), []
    for _ in range(6):
        stream(torch.randn(1, 4, 1, 4, 4))
        sizes.append(
            sum(t.untyped_storage().nbytes() for cache in stream.caches.values() for t in cache.values())
        )
    assert len(set(sizes[1:])) == 1


@torch.no_grad()
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1)])
def test_a_causal_convolution_in_pieces(stride):
    conv = CausalConv3d(3, 5, stride=stride)
    video = torch.randn(2, 3, 9, 4, 4)
    cache = FrameCache()
    pieces = [conv(piece, cache) for piece in video.split([1, 2, 4, 2], dim=2)]
    assert torch.allclose(torch.cat(pieces, dim=2), conv(video), atol=1e-6)


def test_fading_a_tile_into_itself_changes_nothing():
    tile = torch.randn(1, 1, 1, 3, 8)
    assert torch.allclose(_fade(tile[..., :6], tile[..., 3:], -1, 3), tile[..., 3:])


@pytest.mark.parametrize("shape", [(1, 3, 2, 32, 32), (1, 3, 9, 30, 32), (1, 3, 8, 32, 32)])
def test_videos_off_the_grid_are_refused_with_the_limit(vae, shape):
    with pytest.raises(ValueError, match=r"1 \+ 8·k"):
        vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("tile,overlap", [(60, 0.25), (64, 1.0), (8, 0.3)])
def test_tiles_off_the_grid_are_refused(vae, tile, overlap):
    with pytest.raises(ValueError, match="multiple of 8"):
        vae.enable_tiling(tile, overlap)


@torch.no_grad()
def test_bfloat16_stays_close_to_float32(vae, goldens):
    latents = goldens["vae.moments"][:, :4]
    exact = vae.decode(latents).sample
    rough = vae.to(torch.bfloat16).decode(latents.bfloat16()).sample.float()
    assert error(rough, exact) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 1, 1), (1, 2, 2)], ids=str)
def test_a_convolution_is_that_of_torch_whatever_makes_it(monkeypatch, dtype, stride):
    conv = CausalConv3d(8, 16, stride=stride).to(dtype)
    x = torch.randn(1, 8, 5, 12, 12, dtype=dtype)
    made = [conv(x), conv(x[:, :, :1])]
    monkeypatch.setattr(layers, "ONEDNN_CONVOLUTION", False)  # a torch that has it no more
    plain = [conv(x), conv(x[:, :, :1])]
    for one, other in zip(made, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    if dtype == torch.bfloat16:
        assert all(map(torch.equal, made, plain))


@torch.no_grad()
def test_a_convolution_with_a_hook_is_called_as_a_module():
    conv, x, seen = CausalConv3d(4, 4), torch.randn(1, 4, 1, 8, 8), []
    expected = conv(x)
    conv.conv.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert torch.allclose(conv(x), expected, atol=1e-6) and len(seen) == 1
