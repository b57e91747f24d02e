"""Long clips: a bounded history, and what is let go.

python -m pytest tests/generate/test_endless.py
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyramid.commands import cli
from pyramid.events import Finished, Frames
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.request import Inputs
from pyramid.generate.sampler import matched
from pyramid.jobs.speed import step_tokens
from pyramid.media.files import read_metadata
from pyramid.media.measure import Drift, Look
from pyramid.settings import Settings, frames_of


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return PyramidFlowPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def settings(tiny_checkpoint, pipe):
    more = {"prompt": "a red ball", "num_frames": frames_of(6), "seed": 3, "num_inference_steps": (1, 1, 1)}
    more["video_num_inference_steps"] = (1, 1, 1)
    return Settings.for_model(str(tiny_checkpoint), "128p", pipe.defaults, **more)


def made(pipe, settings, **inputs) -> torch.Tensor:
    *_, last = pipe.stream(settings, Inputs(output_type="latent", **inputs))
    return last.latents


def test_a_history_that_holds_all_units_changes_nothing_and_a_shorter_one_does(pipe, settings):
    whole, bounded = made(pipe, settings), made(pipe, replace(settings, history_units=2))
    assert torch.equal(made(pipe, replace(settings, history_units=5)), whole)
    assert torch.equal(bounded[:, :, :3], whole[:, :, :3]) and not torch.equal(
        bounded[:, :, 3], whole[:, :, 3]
    )
    begun = made(pipe, replace(settings, history_units=2), finished=list(bounded.split(1, dim=2))[:4])
    assert torch.equal(begun, bounded)


def test_units_are_let_go_and_every_frame_is_there(pipe, settings):
    events = list(pipe.stream(replace(settings, history_units=2), Inputs()))
    frames = np.concatenate([event.video for event in events if isinstance(event, Frames)])
    whole = pipe.stream(replace(settings, history_units=2), Inputs(output_type="latent"))
    assert isinstance(events[-1], Finished) and events[-1].latents is None and not events[-1].stopped
    assert len(frames) == frames_of(6) and [*whole][-1].latents.shape[2] == 6


def test_the_correction_keeps_statistics_and_is_off_by_default(pipe, settings):
    x, reference = torch.randn(2, 3, 1, 8, 8) * 3 + 1, torch.randn(2, 3, 1, 8, 8)
    y = matched(x, reference)
    assert torch.allclose(y.mean((2, 3, 4)), reference.mean((2, 3, 4)), atol=1e-5)
    assert torch.allclose(y.std((2, 3, 4)), reference.std((2, 3, 4)), atol=1e-5)
    latents = made(pipe, replace(settings, drift_correction="statistics"))
    assert torch.allclose(latents[:, :, 5].std((2, 3)), latents[:, :, 1].std((2, 3)), atol=1e-4)
    assert torch.equal(latents[:, :, :2], made(pipe, settings)[:, :, :2])


def test_a_step_costs_no_more_however_long_the_clip_is(settings):
    bounded = replace(settings, history_units=3, num_frames=frames_of(5000)).validate()
    assert step_tokens(bounded, 4000, 2) == step_tokens(settings, 3, 2)


def test_drift_is_told_against_the_first_units():
    drift, frames = Drift(), np.random.default_rng(0).integers(0, 200, (8, 16, 16, 3)).astype(np.uint8)
    drift.add(frames[:1])
    for _ in range(4):
        drift.add(frames)
    assert np.allclose(drift.table(), 0) and "+0 %" in str(drift).replace("%", " %").replace("  ", " ")
    drift.add(frames + 50)
    assert drift.at(4)[0] == pytest.approx(50) and Look.of(frames).sharpness > 1


def test_the_command_ends_at_its_units_and_says_how_far_it_drifted(tiny_checkpoint, tmp_path, capfd):
    run = [
        "generate",
        "--prompt",
        "a red ball",
        "--model",
        str(tiny_checkpoint),
        "--steps",
        "1",
        "--seed",
        "1",
    ]
    out = str(tmp_path / "a.mp4")
    assert cli.main([*run, "--video-steps", "1", "--endless", "--max-units", "6", "--output", out]) == 0
    metadata = read_metadata(out)
    assert metadata["settings"]["num_frames"] == frames_of(6) and metadata["settings"]["history_units"] == 3
    assert len(metadata["drift"]) == 5 and "partial" not in metadata
    for refused in (["--max-units", "6"], ["--endless", "--max-units", "1"], ["--endless", "--seconds", "2"]):
        assert cli.main([*run, *refused]) == 2
    capfd.readouterr()
