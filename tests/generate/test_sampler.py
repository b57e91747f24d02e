"""The sampler with an oracle for a model: it knows the clean video, so every number has a right answer.

python -m pytest tests/generate/test_sampler.py
"""

import math
import threading

import pytest
import torch

from pyramid.events import Preview, Unit
from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.generate.latents import history, noise_pyramid, pyramid
from pyramid.generate.sampler import Noise, Sampling, derive, sample
from pyramid.generate.schedule import make_stages
from pyramid.settings import SAMPLERS, evaluations

SHAPE = (2, 32, 16)  # channels, height, width of the latents
STEPS = {1: (4,), 2: (2, 3), 3: (3, 2, 4), 4: (2, 1, 3, 2)}


class Oracle:
    """The exact velocity of the training path whose clean end is known for each row of the batch.

    `rows` maps the first value of a row's text to its video, a list of units (1 c 1 h w). From the current
    latents and r it solves for the noise they must hold, so nothing of the sampler's own state leaks in.
    """

    def __init__(self, rows: dict[float, list], stages: int):
        self.rows, self.stages, self.count = rows, make_stages(stages), stages
        self.pasts, self.noises, self.calls = [], [], 0

    def prepare(self, clips, shape, encoder_hidden_states, encoder_attention_mask):
        fine_height = SHAPE[1]
        stage = self.count - 1 - (fine_height // shape[1]).bit_length() + 1
        self.pasts.append(clips)
        unit = sum(clip.shape[2] for clip in clips)
        return stage, unit, [row[0, 0].item() for row in encoder_hidden_states]

    def denoise(self, current, timestep, pooled, context):
        self.calls += 1
        index, unit, texts = context
        stage = self.stages[index]
        first, last = stage.first_timestep, stage.last_timestep
        r = 1 - (first - timestep[0].item()) / (first - last) * 0.999
        clean = torch.cat([pyramid(self.rows[text][unit], self.count)[index] for text in texts])
        start_clean, end_clean = torch.zeros_like(clean), (1 - stage.end) * clean
        if index:
            coarse = torch.cat([pyramid(self.rows[text][unit], self.count)[index - 1] for text in texts])
            start_clean = (1 - stage.start) * coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
        noise = (current - r * start_clean - (1 - r) * end_clean) / (r * stage.start + (1 - r) * stage.end)
        self.noises.append((index, noise))
        return (stage.start - stage.end) * noise + start_clean - end_clean


def video(seed, units=4):
    return list(
        torch.randn(1, units, *SHAPE, generator=torch.Generator().manual_seed(seed))[:, :, :, None]
        .transpose(1, 0)
        .unbind()
    )


def text(*values, length=3):
    embeds = torch.tensor(values)[:, None, None].expand(-1, length, 5).float()
    return Prompt(embeds, torch.ones(len(values), length), torch.zeros(len(values), 4))


def run(model, prompt, negative=None, *, stages=3, units=4, seeds=(0,), guidance=None, **more):
    guided = GuidedModel(model, prompt, negative, guidance or Guidance(1.0, 1.0))
    more = {"steps": STEPS[stages], "video_steps": STEPS[stages]} | more
    return list(sample(guided, Noise(SHAPE, seeds), Sampling(units=units, **more)))


def result(events):
    return torch.cat([event.latents for event in events if isinstance(event, Unit)], dim=2)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_the_oracle_video_comes_out_exactly(stages):
    clean = video(1)
    events = run(Oracle({1.0: clean}, stages), text(1.0), stages=stages)
    torch.testing.assert_close(result(events), torch.cat(clean, dim=2), rtol=0, atol=2e-5)


def test_every_preview_is_the_clean_latents_of_its_stage():
    clean = video(2)
    events = run(Oracle({1.0: clean}, 3), text(1.0), preview_every=1)
    previews = [event for event in events if isinstance(event, Preview)]
    assert len(previews) == 4 * sum(STEPS[3])
    for preview in previews:
        expected = pyramid(clean[preview.unit], 3)[preview.stage]
        torch.testing.assert_close(preview.clean, expected, rtol=0, atol=2e-4)


def test_the_noise_a_stage_starts_with_is_white():
    """Jumps bring in the noise the model was trained on: unit variance, no pattern in the 2x2 blocks."""
    model = Oracle({1.0: video(3)}, 3)
    run(model, text(1.0))
    by_stage = [torch.cat([noise.flatten() for index, noise in model.noises if index == k]) for k in range(3)]
    for k, values in enumerate(by_stage):
        assert values.var().item() == pytest.approx(1, abs=0.15), k
        assert values.mean().item() == pytest.approx(0, abs=0.1), k
    fine = [noise for index, noise in model.noises if index == 2]
    neighbours = torch.stack(
        [torch.cat([n[..., 0::2].flatten() for n in fine]), torch.cat([n[..., 1::2].flatten() for n in fine])]
    )
    assert abs(neighbours.corrcoef()[0, 1].item()) < 0.06


def test_previews_come_as_often_as_wanted():
    def clean_steps(every):
        events = run(Oracle({1.0: video(1)}, 3), text(1.0), units=1, preview_every=every)
        return [(e.stage, e.step) for e in events if isinstance(e, Preview) and e.clean is not None]

    assert clean_steps(0) == []
    assert clean_steps(3) == [(0, 2), (1, 1), (2, 2), (2, 3)]  # each third of a stage, and its last
    steps = [e for e in run(Oracle({1.0: video(1)}, 3), text(1.0), units=1) if isinstance(e, Preview)]
    assert [e.done for e in steps] == list(range(1, 10)) and steps[-1].fraction == 1


@pytest.mark.parametrize("guidance", [Guidance(7.0, 5.0), Guidance(5.0, 3.0, minimum=2.0, decay=0.6)])
def test_guidance_extrapolates_between_the_two_videos(guidance):
    """The oracle is linear in its video, so guidance must end at `negative + scale (positive - negative)`."""
    wanted, unwanted = video(4), video(5)
    events = run(Oracle({1.0: wanted, 2.0: unwanted}, 3), text(1.0), text(2.0), guidance=guidance)
    scales = [guidance.at(unit) for unit in range(4)]
    assert scales == ([7.0, 5.0, 5.0, 5.0] if guidance.decay == 0 else pytest.approx([5.0, 2.4, 2.0, 2.0]))
    expected = [n + g * (p - n) for p, n, g in zip(wanted, unwanted, scales, strict=True)]
    torch.testing.assert_close(result(events), torch.cat(expected, dim=2), rtol=0, atol=2e-4)


def test_guidance_of_one_runs_a_single_branch():
    model = Oracle({1.0: video(1)}, 2)
    run(model, text(1.0), text(2.0), stages=2, guidance=Guidance(1.0, 1.0))
    assert all(len(noise) == 1 for _, noise in model.noises)
    both = Oracle({1.0: video(1), 2.0: video(2)}, 2)
    run(both, text(1.0), text(2.0), stages=2, guidance=Guidance(1.0, 0.5))  # below 1 both count
    assert {len(noise) for _, noise in both.noises} == {1, 2}


def test_finer_stages_may_run_without_guidance():
    model = Oracle({1.0: video(1), 2.0: video(2)}, 3)
    run(model, text(1.0), text(2.0), guidance=Guidance(3.0, 3.0, stages=1))
    sizes: dict[int, set[int]] = {}
    for _, noise in model.noises:
        sizes.setdefault(noise.shape[-1], set()).add(len(noise))
    assert [sizes[side] for side in sorted(sizes)] == [{2}, {1}, {1}]
    guidance = Guidance(3.0, 2.0, stages=1)  # a change meanwhile holds where there is guidance
    assert [guidance.at(1, stage, 5.0) for stage in range(3)] == [5.0, 1.0, 1.0]


def test_history_is_the_clean_past_for_both_branches():
    model = Oracle({1.0: video(6), 2.0: video(7)}, 3)
    units = [
        e.latents
        for e in run(model, text(1.0), text(2.0), guidance=Guidance(2.0, 2.0))
        if isinstance(e, Unit)
    ]
    for unit in range(4):
        for stage in range(3):
            expected = history(units[:unit], stage, 3)
            seen = model.pasts[unit * 3 + stage]
            assert len(seen) == len(expected)
            for clip, past in zip(seen, expected, strict=True):
                torch.testing.assert_close(clip, torch.cat([past, past]))


def test_given_units_stay_as_they_are():
    clean = video(8)
    model = Oracle({1.0: clean}, 3)
    events = run(model, text(1.0), given=clean[:2])
    units = [event for event in events if isinstance(event, Unit)]
    assert [unit.given for unit in units] == [True, True, False, False]
    assert all(torch.equal(units[u].latents, clean[u]) for u in range(2))
    torch.testing.assert_close(result(events), torch.cat(clean, dim=2), rtol=0, atol=2e-5)
    assert [e.done for e in events if isinstance(e, Preview)][-1] == 2 * sum(STEPS[3])


def noise_seen(units=4, seeds=(11,), **more):
    """The oracle's reading of the noise: equal only if all draws were."""
    names = [float(i) for i in range(len(seeds))]
    model = Oracle({name: video(9) for name in names}, 3)
    run(model, text(*names), units=units, seeds=seeds, **more)
    return torch.cat([noise.flatten(1) for _, noise in model.noises], dim=1)


def test_noise_depends_on_the_seed_and_the_place_alone():
    four = noise_seen(4)
    torch.manual_seed(123)
    torch.randn(7)
    assert torch.equal(noise_seen(4), four)
    two = noise_seen(2)
    assert torch.equal(two, four[:, : two.shape[1]])  # unit u does not depend on how many units follow
    assert not torch.equal(noise_seen(2, seeds=(12,)), two)
    together = noise_seen(2, seeds=(12, 11))
    torch.testing.assert_close(together[1:], two)  # nor a sample on the others of its batch


def test_each_role_and_place_has_a_generator_of_its_own():
    places = [
        (role, unit, stage)
        for role in ("composition", "motion", "detail")
        for unit in range(3)
        for stage in range(3)
    ]
    draws = {torch.randn(1, generator=derive(seed, *place)).item() for seed in (0, 1) for place in places}
    assert len(draws) == 2 * len(places)


def test_given_noise_is_used_in_order():
    latents = torch.randn(1, SHAPE[0], 2, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    jumps = [
        torch.full((1, SHAPE[0], 1, SHAPE[1] // k, SHAPE[2] // k), float(i))
        for i, k in enumerate((2, 1, 2, 1))
    ]
    noise = Noise(SHAPE, [0], latents=latents, jumps=jumps, first=1)
    assert torch.equal(noise.initial(2, 3), noise_pyramid(latents[:, :, 1:], 3)[0])
    for i, (unit, stage) in enumerate([(1, 1), (1, 2), (2, 1), (2, 2)]):
        assert torch.equal(noise.jump(unit, stage, jumps[i].shape), jumps[i])


def test_a_stop_from_another_thread_takes_hold_within_one_step():
    stop, inside, go = threading.Event(), threading.Event(), threading.Event()

    class Slow(Oracle):
        def denoise(self, *args):
            if self.calls == 13:  # in the second unit
                inside.set()
                assert go.wait(5)
            return super().denoise(*args)

    model, events = Slow({1.0: video(1)}, 3), []
    worker = threading.Thread(target=lambda: events.extend(run(model, text(1.0), stop=stop)))
    worker.start()
    assert inside.wait(5)
    stop.set()
    go.set()
    worker.join(5)
    assert not worker.is_alive()
    assert model.calls == 14  # the step in progress, and none after it
    assert [event.index for event in events if isinstance(event, Unit)] == [0]


def test_a_callback_sees_each_step_and_may_replace_the_latents():
    seen = []

    def callback(unit, stage, step, timestep, x):
        seen.append((unit, stage, step))
        return torch.zeros_like(x) if (stage, step) == (2, 3) else None

    events = run(Oracle({1.0: video(1)}, 3), text(1.0), units=2, on_step_end=callback)
    assert seen == [(u, s, i) for u in range(2) for s in range(3) for i in range(STEPS[3][s])]
    assert not result(events).any()


def test_no_gradient_mode_survives_a_yield():
    model = GuidedModel(Oracle({1.0: video(1)}, 3), text(1.0), guidance=Guidance(1.0, 1.0))
    run_ = sample(model, Noise(SHAPE, [0]), Sampling(units=1, steps=(1, 1, 1), video_steps=(1, 1, 1)))
    for _ in run_:
        assert torch.is_grad_enabled()


def test_overflow_is_an_error_that_says_what_to_do():
    class Overflowing(Oracle):
        def denoise(self, *args):
            return super().denoise(*args) * float("inf")

    with pytest.raises(FloatingPointError, match="bfloat16 or float32"):
        run(Overflowing({1.0: video(1)}, 3), text(1.0))


class Curved:
    """A flow that is no straight line: dx/dr = cos(3 r) x, so that every step makes an error."""

    device = torch.device("cpu")

    def __init__(self):
        self.calls = 0

    def stage(self, unit, stage, history, x):
        here = make_stages(3)[stage]

        def velocity(x, timestep):
            self.calls += 1
            way = (here.first_timestep - timestep) / (here.first_timestep - here.last_timestep)
            return math.cos(3 * (1 - 0.999 * way)) * x

        return velocity


def crossed(sampler, steps):
    """The latents and how often the model was asked, for 4 units."""
    model = Curved()
    run = Sampling(units=4, steps=(steps,) * 3, video_steps=(steps,) * 3, sampler=sampler)
    events = list(sample(model, Noise(SHAPE, [3]), run))
    previews = [event for event in events if isinstance(event, Preview)]
    assert previews[-1].done == previews[-1].total == len(previews) == model.calls
    return result(events), model.calls


def test_a_better_sampler_makes_less_error_and_asks_less():
    exact, _ = crossed("reference", 400)
    latents, calls = zip(*(crossed(sampler, 8) for sampler in SAMPLERS), strict=True)
    assert calls == (96, 84, 84)
    reference, even, multistep = ((x - exact).norm() / exact.norm() for x in latents)
    assert even <= 1.001 * reference and multistep < even / 2


def test_one_and_two_steps_are_what_they_say():
    """There a last step over a thousandth of the stage would be half of all work."""
    assert [evaluations("even", [n])[0] for n in (1, 2, 3, 4)] == [1, 2, 2, 3]
    assert evaluations("reference", [1, 2, 3]) == (1, 2, 3)
    _, calls = crossed("multistep", 1)
    assert calls == 12
