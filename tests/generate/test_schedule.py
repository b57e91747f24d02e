"""The stage tables: identities of the renoising between stages, and the reference's numbers.

python -m pytest tests/generate/test_schedule.py
"""

import pytest
import torch

from pyramid.generate.schedule import make_stages


@pytest.mark.parametrize("gamma", [1 / 3, 0.25, 0.1])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_jump_lands_on_the_training_path(count, gamma):
    stages = make_stages(count, gamma=gamma)
    assert stages[0].start == 1 and stages[-1].end == 0
    for before, stage in zip(stages, stages[1:], strict=False):
        assert stage.keep * (1 - before.end) == pytest.approx(1 - stage.start, abs=1e-12)  # the mean
        variance = stage.keep**2 * before.end**2 + stage.renoise**2
        assert variance == pytest.approx(stage.start**2, abs=1e-12)
        # covariance inside a 2x2 block: what nearest upsampling adds, block noise (-gamma) takes away
        assert stage.keep**2 * before.end**2 == pytest.approx(gamma * stage.renoise**2, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_timesteps_fall_over_all_stages(count, shift):
    stages = make_stages(count, shift=shift)
    told = torch.cat([stage.timesteps for stage in stages])
    assert told[0] == 1000 and (told.diff() < 0).all() and told[-1] > 0
    assert all(len(stage.timesteps) == 1000 and stage.start > stage.end for stage in stages)


def test_released_tables(goldens):
    stages = make_stages()
    for name, ours in (("start", [s.start for s in stages]), ("end", [s.end for s in stages])):
        assert goldens[f"schedule.{name}_sigmas"].tolist() == pytest.approx(ours, abs=1e-6)
    keep_renoise = [round(x, 5) for s in stages[1:] for x in (s.keep, s.renoise)]
    assert keep_renoise == [0.59988, 0.69303, 0.74963, 0.43366]
    for stage in stages:
        torch.testing.assert_close(
            stage.timesteps, goldens[f"schedule.stage{stage.index}.train_timesteps"], rtol=0, atol=1e-4
        )


def test_released_inference_tables(goldens):
    for stage, steps in zip(make_stages(), goldens["settings"]["num_inference_steps"], strict=True):
        timesteps, sigmas = stage.inference(steps)
        assert timesteps.dtype == sigmas.dtype == torch.float32
        name = f"schedule.stage{stage.index}"
        torch.testing.assert_close(timesteps, goldens[f"{name}.timesteps"].float(), rtol=0, atol=1e-4)
        torch.testing.assert_close(sigmas, goldens[f"{name}.sigmas"].float(), rtol=0, atol=1e-6)


def test_one_step_crosses_the_whole_stage():
    timesteps, sigmas = make_stages()[1].inference(1)
    assert timesteps.tolist() == [744.0] and sigmas.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("wrong", [dict(count=0), dict(count=5), dict(gamma=0.4), dict(gamma=0.0)])
def test_impossible_pyramids_are_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        make_stages(**wrong)


def test_a_stage_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        make_stages()[0].inference(0)


def test_an_even_grid_takes_the_timesteps_of_its_levels():
    for stage in make_stages():
        timesteps, levels = stage.even(4)
        assert levels.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
        torch.testing.assert_close(timesteps, stage.timesteps[[0, 250, 500, 750]], rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="at least 1"):
        make_stages()[0].even(0)
