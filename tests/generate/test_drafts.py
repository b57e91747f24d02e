"""Drafts: what they go on to is the video of their seed, bit for bit.

python -m pytest tests/generate/test_drafts.py
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid.events import Finished, Frames, Notice
from pyramid.generate import drafts as module
from pyramid.generate.drafts import Draft, compared, departure, glance, make_drafts
from pyramid.generate.latents import pyramid
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.request import Inputs
from pyramid.generate.sampler import Noise, Variation
from pyramid.settings import Settings

PROMPT = "a red ball moves to the right"


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def settings(tiny_checkpoint, pipe):
    return Settings.for_model(str(tiny_checkpoint), "128p", pipe.defaults, prompt=PROMPT, num_frames=9)


def finished(pipe, settings, **inputs) -> torch.Tensor:
    *_, last = pipe.stream(settings, Inputs(output_type="latent", **inputs))
    return last.latents


@pytest.fixture(scope="module")
def drafts(pipe, settings):
    return make_drafts(pipe, settings, [1, 2, 3])


def test_a_draft_goes_on_to_the_video_of_its_seed(pipe, settings, drafts, tmp_path):
    path = drafts[1].save(tmp_path / "draft.safetensors")
    draft = Draft.load(path)
    assert draft.settings.seed == 2 and not draft.whole and drafts[1].frames.shape == (1, 64, 64, 3)
    begun = finished(pipe, draft.settings, draft=draft.latents)
    assert torch.equal(begun, finished(pipe, replace(settings, seed=2)))
    assert not torch.equal(begun, finished(pipe, replace(settings, seed=2), draft=drafts[0].latents))


def test_a_draft_of_a_longer_video_with_other_later_steps_is_the_same(pipe, settings, drafts):
    longer = replace(settings, num_frames=17, seed=2, num_inference_steps=(2, 1, 3), fps=24)
    begun = finished(pipe, longer, draft=drafts[1].with_settings(longer).latents)
    assert torch.equal(begun, finished(pipe, longer))


@pytest.mark.parametrize(
    "changes",
    [dict(prompt="a blue star"), dict(seed=9), dict(guidance_scale=2.0), dict(num_inference_steps=(1, 2, 2))],
)
def test_what_a_draft_depends_on_cannot_be_changed(settings, drafts, changes):
    with pytest.raises(ValueError, match="draft was made with"):
        drafts[1].with_settings(replace(drafts[1].settings, **changes))


def test_with_a_picture_the_draft_is_of_the_first_unit_that_moves(pipe, settings):
    inputs = {"image": Image.linear_gradient("L").resize((64, 64))}
    given = replace(settings, image="given")
    [_, draft] = make_drafts(pipe, given, [1, 2], inputs=Inputs(**inputs))
    assert draft.frames.shape[0] == 8
    begun = finished(pipe, draft.settings, draft=draft.latents, **inputs)
    assert torch.equal(begun, finished(pipe, replace(given, seed=2), **inputs))


def test_a_glance_takes_few_steps_and_is_the_first_frame_where_the_video_takes_no_more(pipe, settings):
    told = replace(settings, timeline='[{"from": 0, "steps": [4, 9, 1], "seed": 3}]')
    shown = glance(told, 0)
    assert shown.plan_of(0) == replace(told.plan_of(0), steps=(4, 2, 1)) and shown.sampler == "even"
    quick = replace(settings, num_inference_steps=(3, 2, 1))
    [draft] = make_drafts(pipe, quick, [2])
    first = next(e for e in pipe.stream(draft.settings, Inputs()) if isinstance(e, Frames))
    assert np.array_equal(draft.frames, first.video)


def test_large_glances_go_through_the_model_a_few_at_a_time(pipe, settings, drafts, monkeypatch):
    monkeypatch.setattr(module, "GLANCE_TOKENS", 40)  # of 16 a picture: two, then one
    again = make_drafts(pipe, settings, [1, 2, 3])
    assert all(np.abs(a.frames - b.frames.astype(int)).max() <= 1 for a, b in zip(again, drafts, strict=True))


def test_a_device_that_rounds_a_batch_otherwise_makes_each_alone(pipe, settings, drafts, monkeypatch):
    monkeypatch.setattr(module._Batch, "is_exact", lambda self: False)
    alone = make_drafts(pipe, settings, [1, 2, 3])
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(alone, drafts, strict=True))


def test_a_draft_of_all_units_begins_as_the_video_does_and_says_how_far_it_departs(pipe, settings, drafts):
    [draft] = make_drafts(pipe, settings, [2], whole=True)
    assert draft.whole and draft.frames.shape == (9, 16, 16, 3)
    assert torch.equal(draft.latents, drafts[1].latents)
    events = list(compared(pipe.stream(draft.settings, draft.inputs()), draft))
    notices = [event for event in events if isinstance(event, Notice) and event.kind == "draft"]
    assert len(notices) == 1 and "departs" in notices[0].message and isinstance(events[-1], Finished)
    assert departure(pyramid(torch.ones(1, 2, 1, 8, 8), 3)[0], torch.ones(1, 2, 1, 8, 8)) == 0


def test_variations_are_of_unit_variance_and_start_at_the_seeds_own(pipe, settings, drafts):
    noise = [Noise((16, 64, 64), [1], variation=Variation([5], strength)) for strength in (0, 0.3, 1)]
    start, some, other = (each.initial(0, 1) for each in noise)
    assert torch.equal(start, Noise((16, 64, 64), [1]).initial(0, 1))
    assert abs(some.std() - 1) < 0.02 and (some - start).norm() < (other - start).norm()
    assert torch.allclose(other, Noise((16, 64, 64), [5]).initial(0, 1), atol=1e-6)
    varied = make_drafts(pipe, replace(settings, seed=1), variations=[5, 6])
    own = finished(pipe, varied[1].settings)
    assert torch.equal(finished(pipe, varied[1].settings, draft=varied[1].latents), own)
    assert varied[1].settings.variation_seed == 6


def test_what_is_no_draft_is_said(tmp_path, settings, pipe):
    with pytest.raises(ValueError, match="is not there"):
        Draft.load(tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="is no draft"):
        Draft.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="one of the two"):
        make_drafts(pipe, settings)
    with pytest.raises(ValueError, match="draft has shape"):
        finished(pipe, replace(settings, seed=1), draft=torch.zeros(1, 16, 1, 8, 8))
    assert np.isclose(Variation([1], 1.0).blend(torch.ones(1), torch.ones(1)).item(), 1)
