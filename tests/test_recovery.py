"""What outlives a run that ends early: its finished units, and from them the same video.

    python -m pytest tests/test_recovery.py
    python -m pytest tests/test_recovery.py -m slow     # kill -9 at twenty random moments
"""

import numpy as np
import pytest
import torch

from pyramid.events import Finished, Frames, Preview, Unit
from pyramid.pipeline import PyramidFlowPipeline

PROMPT = "a red ball moves to the right"
QUICK = dict(num_frames=25, num_inference_steps=[1, 1, 1], video_num_inference_steps=[1, 1, 1], seed=5)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return PyramidFlowPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def picture():
    return np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)


def units_of(events):
    return [event for event in events if isinstance(event, Unit)]


def frames_of(events):
    return [event for event in events if isinstance(event, Frames)]


# ------------------------------------------------------------------------------------------------------------
# From the finished units the rest is what it would have been


@pytest.mark.parametrize(("start", "done", "steps"), [
    ("words", 1, 9), ("words", 3, 3), ("words", 4, 0), ("picture", 1, 9), ("picture", 2, 6), ("clip", 3, 3)])
def test_a_resumed_run_equals_an_uninterrupted_one(pipe, picture, start, done, steps):
    given = {"words": {}, "picture": {"image": picture}, "clip": {"video": [picture] * 9}}[start]
    whole = list(pipe.stream(PROMPT, **QUICK, **given))
    finished = units_of(whole)[:done]
    rest = list(pipe.stream(PROMPT, **QUICK, finished=finished))  # the picture itself is not needed
    assert [(u.index, u.given) for u in units_of(rest)] == [(u.index, u.given) for u in units_of(whole)]
    assert torch.equal(rest[-1].latents, whole[-1].latents) and not rest[-1].stopped
    assert sum(isinstance(event, Preview) for event in rest) == steps
    for ours, theirs in zip(frames_of(rest), frames_of(whole), strict=True):
        assert ours.given == theirs.given and np.array_equal(ours.video, theirs.video)


def test_with_the_picture_finished_may_be_the_sampled_units_alone(pipe, picture):
    *_, whole = pipe.stream(PROMPT, **QUICK, image=picture)
    tensors = list(whole.latents.split(1, dim=2))[1:3]
    *_, rest = pipe.stream(PROMPT, **QUICK, image=picture, finished=tensors)
    assert torch.equal(rest.latents, whole.latents)


def test_given_noise_and_a_batch_go_on_too(pipe):
    noise = torch.randn(2, 16, 4, 8, 8)
    jumps = [torch.randn(2, 16, 1, side, side) for _ in range(4) for side in (4, 8)]
    request = QUICK | dict(prompt=[PROMPT, "a blue star"], latents=noise, block_noise=jumps)
    *_, whole = pipe.stream(**request)
    *_, rest = pipe.stream(**request, finished=list(whole.latents.split(1, dim=2))[:2])
    assert torch.equal(rest.latents, whole.latents)


def test_finished_units_alone_are_decoded_without_reading_the_prompt(pipe):
    *_, whole = pipe.stream(PROMPT, **QUICK)
    finished = list(whole.latents.split(1, dim=2))[:2]
    events = list(pipe.stream("a prompt that no cache holds", **QUICK | {"num_frames": 9}, finished=finished))
    assert isinstance(events[-1], Finished) and torch.equal(events[-1].latents, whole.latents[:, :, :2])
    assert [len(event.video) for event in frames_of(events)] == [1, 8] and "text" not in events[-1].timings


UNIT = torch.zeros(1, 16, 1, 8, 8)


@pytest.mark.parametrize("request_, message", [
    (dict(finished=[UNIT] * 5), "finished has 5 units.*25 are only 4"),
    (dict(finished=[UNIT[..., :4]]), r"finished unit 0 has shape \(1, 16, 1, 8, 4\).*\(1, 16, 1, 8, 8\)"),
    (dict(finished=[UNIT, UNIT / 0]), "finished unit 1 is not finite"),
    (dict(finished=[Unit(0, 4, UNIT), Unit(1, 4, UNIT, given=True)]), "given units come first"),
    (dict(finished=[Unit(0, 4, UNIT, given=True)] * 2, image=np.zeros((64, 64, 3))), "finished has 2 given.*makes 1"),
])
def test_units_of_another_run_are_refused(pipe, request_, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(PROMPT, **QUICK, **request_)
