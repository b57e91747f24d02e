"""Seconds that a run will take, from the steps that were measured."""

from dataclasses import replace

import pytest

from pyramid.jobs.speed import Speeds, cost, rows, steps_of
from pyramid.settings import Settings


def test_seconds_follow_what_was_measured(tmp_path, tiny_checkpoint):
    speeds, settings = Speeds(tmp_path / "speed.json"), Settings(prompt="x", num_frames=25)
    assert speeds.estimate("here", settings) is None and speeds.step_seconds("here", 100) is None
    for unit, stage in steps_of(settings):
        speeds.step("here", tokens := cost(settings, unit, stage), 0.01 + 1e-5 * tokens)
    speeds.decoded("here", 128 * 128, 0.1)
    speeds.began("here", 2.0)
    assert speeds.step_seconds("here", 5000) == pytest.approx(0.06)
    steps = sum(0.01 + 1e-5 * cost(settings, *step) for step in steps_of(settings))
    assert speeds.estimate("here", settings) == pytest.approx(2 + steps + 25 * 0.1)
    assert speeds.estimate("elsewhere", settings) is None
    endless = replace(settings, num_inference_steps=(10**12,) * 3)
    assert speeds.estimate("here", endless) > 10**10  # counted, and no list is made of the steps
    speeds.save()
    assert Speeds(speeds.path).step_seconds("here", 5000) == pytest.approx(0.06)
    speeds.path.write_text("{damaged")
    assert Speeds(speeds.path).estimate("here", settings) is None


def test_guidance_doubles_a_step_and_given_units_cost_none():
    s = Settings(
        prompt="x",
        num_frames=25,
        guidance_scale=1.0,
        video_guidance_scale=4.0,
        guidance_decay=1.0,
        min_guidance_scale=1.0,
    )
    assert [rows(replace(s, guidance_decay=0.0), unit) for unit in range(4)] == [1, 2, 2, 2]
    assert [rows(s, unit) for unit in range(4)] == [1, 2, 2, 1]
    assert len(steps_of(s)) == 120 and len(steps_of(s, given=1)) == 90 and steps_of(s, 3)[0] == (3, 0)


def test_stages_without_guidance_take_half():
    s = Settings(guidance_scale=4.0, video_guidance_scale=3.0, guided_stages=2)
    assert [[rows(s, unit, stage) for stage in range(3)] for unit in (0, 1)] == [[2, 2, 1]] * 2
    assert [rows(replace(s, guided_stages=count), 1, 2) for count in (0, 3, 4)] == [2, 2, 2]
