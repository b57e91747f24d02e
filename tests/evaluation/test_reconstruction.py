"""What becomes of clips of a list in an autoencoder: PSNR, SSIM, how they look, and a Fréchet distance."""

import json

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from pyramid.commands import cli
from pyramid.evaluation.reconstruction import clip_features, clips_of, ssim
from pyramid.media.video import VideoWriter
from pyramid.training.clips.lists import open_list
from pyramid.training.clips.reading import Wanted


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        with VideoWriter(tmp_path / f"{number}.mp4", 8, (64, 64), keep="none") as writer:
            for at in range(9):
                frame = np.full((64, 64, 3), 40 + 60 * number, np.uint8)
                frame[10:30, 2 * at : 20 + 2 * at] = rng.integers(0, 255, 3)
                writer.write(frame)
        (tmp_path / f"{number}.txt").write_text("a square moves")
    (tmp_path / "3.mp4").write_bytes(b"broken")
    return tmp_path


def test_an_autoencoder_is_measured_on_clips(clips, tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / "figures.json"
    command = ["evaluate", "vae", "--data", str(clips), "--model", str(tiny_checkpoint), "--size", "64"]
    command += ["--frames", "9", "--fps", "8", "--json", str(out)]
    assert cli.main(command) == 0
    told = json.loads(out.read_text())
    assert told["items"] == 3 and set(told["clips"]) == {"0.mp4", "1.mp4", "2.mp4"}
    assert told["psnr"] == pytest.approx(np.mean([row["psnr"] for row in told["clips"].values()]))
    assert told["psnr"] > 3 and -1 <= told["ssim"] <= 1 and told["perceptual"] > 0
    assert told["frechet"]["distance"] > 0 and told["frechet"]["videos"] == [3, 3]
    printed = capsys.readouterr().out
    assert "skipped: 3.mp4" in printed and "the stand-in's" in printed
    assert cli.main([*command, "--frames", "10"]) == 2


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "1e9"])
def test_a_rate_that_is_none_is_refused_before_anything_is_read(rate, capsys):
    assert cli.main(["evaluate", "vae", "--data", "none", "--fps", rate]) == 2
    assert f"--fps {float(rate):g}: 1 to 120 frames a second" in capsys.readouterr().err


def test_frames_that_are_the_same_are_similar_and_noise_is_told(clips):
    wanted = Wanted(8, 9, ((64, 64),))
    name, clip = next(clips_of(open_list(clips), wanted, 1))
    assert (name, clip.shape) == ("0.mp4", (9, 64, 64, 3)) and ssim(clip, clip) == 1
    noisy = np.clip(clip + np.random.default_rng(0).normal(0, 20, clip.shape), 0, 255).astype(np.uint8)
    gray = (x[0] @ np.array((0.299, 0.587, 0.114), np.float32) for x in (noisy, clip))
    one = structural_similarity(*gray, data_range=255, gaussian_weights=True)
    assert ssim(noisy, clip) == pytest.approx(one, abs=0.1) and ssim(noisy, clip) < 0.9


def test_features_of_changes_see_what_those_of_frames_do_not():
    rng = np.random.default_rng(0)
    still = np.repeat(rng.integers(60, 190, (1, 64, 64, 3), dtype=np.uint8), 9, axis=0)
    flicker = (still + 20 * (np.arange(9) % 2)[:, None, None, None]).astype(np.uint8)
    noisy = (still + rng.integers(0, 20, still.shape)).astype(np.uint8)
    apart = [np.abs(clip_features(clip) - clip_features(still)) for clip in (flicker, noisy)]
    assert clip_features(still).shape == (120,) and apart[1].max() > 1
    assert apart[0][:60].max() < 0.1 and apart[1][60:].mean() > apart[1][:60].mean()
