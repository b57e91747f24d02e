"""Fréchet distances where they are known, features of tiny random models, and CLIP's similarity.

python -m pytest tests/training/test_frechet.py
"""

import json

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, VideoMAEConfig, VideoMAEModel

from pyramid.commands import cli
from pyramid.evaluation.frechet import JUDGE, Clip, distance, frechet, load_features
from pyramid.evaluation.judge import features, judge
from pyramid.media.video import VideoWriter
from pyramid.training.text import build_clip_tokenizer
from pyramid.training.world import World

SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP with random weights and a real tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = build_clip_tokenizer(["red", "ball", "blue", "square"])
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    text = SMALL | ends | dict(vocab_size=len(tokenizer), max_position_embeddings=77)
    vision = SMALL | dict(image_size=32, patch_size=16)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def noise(seed: int, frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)


def test_the_distance_is_that_of_known_normal_distributions():
    """Of diagonal ones: the sum of (μ − μ')² + (σ − σ')². Zero for a set and itself, whatever its size."""
    draw = np.random.default_rng(0)
    mean, first, second = np.array([1.0, 0, 2]), np.array([1.0, 2, 0.5]), np.array([2.0, 2, 1.5])
    a = draw.normal(size=(60_000, 3)) * first
    b = draw.normal(size=(50_000, 3)) * second + mean
    assert frechet(a, b) == pytest.approx(5 + 2, rel=0.02)
    assert frechet(a[:40], a[:40]) == pytest.approx(0, abs=1e-8)
    few = [row for row in draw.normal(size=(2, 10))]
    assert distance(few, few).value == pytest.approx(0, abs=1e-8) and "note" in distance(few, few).told()
    with pytest.raises(ValueError, match="two videos or more"):
        distance(few[:1], few)


def test_the_judges_features_tell_scenes_apart_and_sets_of_one_kind_are_near():
    world, draw = World(), np.random.default_rng(1)
    scenes = world.held_out_scenes()
    of = load_features(JUDGE, world)
    one, two = ([of(world.render(scene, draw)) for scene in scenes[n : n + 16 : 2]] for n in (0, 1))
    still = [of(np.repeat(world.render(scene, draw)[:1], 9, 0)) for scene in scenes[:8]]
    assert distance(one, two).value < distance(one, still).value
    assert not features(np.zeros((4, 64, 64, 3), np.uint8), world).any()
    assert judge(world.render(scenes[0], draw), world).present == 1


def test_a_video_model_of_a_folder_gives_features(tmp_path):
    config = VideoMAEConfig(**SMALL, image_size=32, patch_size=16, num_frames=4, tubelet_size=2)
    VideoMAEModel(config).save_pretrained(tmp_path)
    of = load_features(tmp_path)
    first, again, other = of(noise(0)), of(noise(0)), of(noise(1, frames=3))
    assert first.shape == (16,) and (first == again).all() and (first != other).any()


class Detector(torch.nn.Module):
    """As the programs that published distances use are called."""

    def forward(self, x: torch.Tensor, rescale: bool = False, return_features: bool = False) -> torch.Tensor:
        return x.mean((3, 4)).flatten(1)[:, :7] if rescale and return_features else x[:, :0, 0, 0, 0]


def test_a_torchscript_file_gives_features_and_what_is_none_is_told(tmp_path):
    path = tmp_path / "i3d.pt"
    torch.jit.script(Detector()).save(str(path))
    assert load_features(path)(noise(0)).shape == (7,)
    (tmp_path / "no.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no TorchScript"):
        load_features(tmp_path / "no.pt")
    with pytest.raises(ValueError, match="give judge, a folder"):
        load_features(tmp_path / "none")


def test_clip_says_how_near_frames_and_words_are(clip_folder, tmp_path):
    clip = Clip(clip_folder)
    near = clip.similarity(noise(0), "red ball")
    assert -1 <= near <= 1 and near == clip.similarity(noise(0), "red ball")
    assert near != clip.similarity(noise(0), "blue square")
    assert -1 <= clip.similarity(noise(1, frames=1), "red " * 200) <= 1  # longer than it reads
    with pytest.raises(ValueError, match="cannot be loaded"):
        Clip(tmp_path)


def test_offline_tells_of_both_where_models_are_given(clip_folder, tmp_path, capfd):
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            path = tmp_path / folder / f"red ball-{number}.mp4"
            with VideoWriter(path, 8, (64, 48)) as writer:
                writer.write(noise(number))
    out, run = tmp_path / "out.json", ["evaluate", "offline", str(tmp_path / "ours")]
    more = ["--features", "judge", "--reference", str(tmp_path / "theirs"), "--clip", str(clip_folder)]
    assert cli.main([*run, *more, "--json", str(out)]) == 0
    told = json.loads(out.read_text())
    assert told["frechet"]["judge"]["distance"] == pytest.approx(0, abs=1e-6)
    assert -1 <= told["videos"]["red ball-1.mp4"]["clip similarity"] <= 1
    assert cli.main([*run, "--features", "judge"]) == 2 and "needs both" in capfd.readouterr().err
