"""A clip that is directed: what a timeline tells its units.

python -m pytest tests/generate/test_directed.py
"""

from dataclasses import replace

import pytest
import torch

from pyramid.events import Preview
from pyramid.generate.guidance import Prompt, blend
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.request import Inputs
from pyramid.settings import Settings

PROMPT = "a red ball moves to the right"


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return PyramidFlowPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def settings(tiny_checkpoint, pipe):
    more = {"prompt": PROMPT, "num_frames": 17, "seed": 3}
    return Settings.for_model(str(tiny_checkpoint), "128p", pipe.defaults, **more)


def made(pipe, settings, **inputs) -> torch.Tensor:
    *_, last = pipe.stream(settings, Inputs(output_type="latent", **inputs))
    return last.latents


@pytest.fixture(scope="module")
def plain(pipe, settings):
    return made(pipe, settings)


@pytest.mark.parametrize(
    "table",
    [
        {"from": 0, "prompt": PROMPT},
        {"from": 1, "guidance": 3.0},
        {"from": 0, "seed": 3},
        {"from": 0, "steps": 2},
    ],
)
def test_a_timeline_that_says_what_holds_anyway_is_the_plain_run(pipe, settings, plain, table):
    assert torch.equal(made(pipe, replace(settings, timeline=[table])), plain)


@pytest.mark.parametrize(
    "more", [{"prompt": "a blue star"}, {"guidance": [2, 3, 1]}, {"seed": 4}, {"steps": [1, 2, 2]}]
)
def test_a_table_changes_its_unit_and_later_ones_and_none_before(pipe, settings, plain, more):
    directed = replace(settings, timeline=[{"from": 1, **more}])
    latents = made(pipe, directed)
    assert torch.equal(latents[:, :, :1], plain[:, :, :1])
    assert all(not torch.equal(latents[:, :, unit], plain[:, :, unit]) for unit in (1, 2))
    assert torch.equal(made(pipe, directed), latents)


def test_a_prompt_from_the_first_unit_on_is_that_prompt(pipe, settings):
    other = "a blue star"
    told = replace(settings, timeline=[{"from": 0, "prompt": other}])
    assert torch.equal(made(pipe, told), made(pipe, replace(settings, prompt=other)))


def test_motion_and_composition_have_seeds_apart(pipe, settings, plain):
    other = made(pipe, replace(settings, seed=8))
    apart = made(pipe, replace(settings, timeline=[{"from": 0, "seed": 8}, {"from": 1, "seed": 3}]))
    assert torch.equal(apart[:, :, :1], other[:, :, :1]) and not torch.equal(apart[:, :, 1], other[:, :, 1])


def test_a_run_that_goes_on_is_told_what_the_whole_one_was(pipe, settings):
    directed = replace(settings, timeline=[{"from": 1, "prompt": "it grows", "ease": 2, "seed": 5}])
    whole = made(pipe, directed)
    finished = list(whole.split(1, dim=2))[:2]
    assert torch.equal(made(pipe, directed, finished=finished), whole)


def test_steps_are_counted_as_they_are_told(pipe, settings):
    directed = replace(settings, timeline=[{"from": 1, "steps": [1, 3, 2]}])
    previews = [e for e in pipe.stream(directed, Inputs(output_type="latent")) if isinstance(e, Preview)]
    assert previews[-1].done == previews[-1].total == len(previews) == 6 + 2 * 6
    assert [e.steps for e in previews if (e.unit, e.step) == (1, 0)] == [1, 3, 2]


def test_a_blend_is_between_its_texts_and_one_alone_is_itself():
    a = Prompt(torch.ones(1, 4, 2), torch.tensor([[1, 1, 0, 0]]), torch.ones(1, 3))
    b = Prompt(torch.zeros(1, 4, 2), torch.tensor([[1, 1, 1, 0]]), torch.zeros(1, 3))
    assert blend([(a, 1.0)]) is a
    mixed = blend([(a, 0.25), (b, 0.75)])
    assert mixed.mask.tolist() == [[1, 1, 1, 0]] and mixed.pooled.tolist() == [[0.25] * 3]
    assert mixed.embeds[0, :3].tolist() == [[0.25, 0.25]] * 3  # where `a` has ended its last token stands
