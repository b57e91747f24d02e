"""The bench of the paper's claim: counted operations, equal steps, exact resume, distances, factors."""

import json
import math
from dataclasses import replace

import claim as tool
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pyramid.evaluation.claim.arms import ARMS, MAIN, ArmRun, sample_whole
from pyramid.evaluation.claim.bench import Bench, Clips, Item, answers_of, items_of, labels_of, shrunk
from pyramid.evaluation.claim.features import answers_right, train_classifier
from pyramid.evaluation.claim.flops import count_operations
from pyramid.evaluation.claim.measure import asked_of, judged
from pyramid.evaluation.claim.report import factor, factor_with_interval, flops_to, rising, summarize
from pyramid.evaluation.judge import Verdict
from pyramid.generate.sampler import derive
from pyramid.hub.families import FAMILIES
from pyramid.training.clip_plan import stage_tokens
from pyramid.training.clips.cache import Entry, Stored, Text
from pyramid.training.world import CAMERAS, Scene

SMALL = Bench(layers=1, single_layers=1, heads=1, head_dim=16, tokens=160, copies=1, photo_clips=2, toys=2)


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Latents of noise in place of a few encoded clips."""
    generator = torch.Generator().manual_seed(0)
    items = [*items_of(SMALL)][:6]
    stored = {}
    for item in items:
        mean = torch.randn(16, 3, 8, 8, generator=generator)
        text = Text(torch.randn(4, 8, generator=generator), torch.randn(6, generator=generator))
        stored[item.name] = Stored(mean, 0.1 * torch.ones_like(mean), (text,))
    entries = [Entry(item.name, "", "", "video", (3, 8, 8), 1) for item in items]
    nothing = Text(torch.zeros(4, 8), torch.zeros(6))
    scales = FAMILIES["miniflux"].scales
    return Clips(SMALL, scales, entries, stored, {item.name: item for item in items}, nothing)


# -- counting
def test_products_attention_and_gradients_are_counted():
    x, w = torch.randn(8, 16), torch.randn(32, 16, requires_grad=True)
    assert count_operations(lambda: F.linear(x, w)) == 2 * 8 * 16 * 32
    backward = count_operations(lambda: F.linear(x, w).sum(), [w]) - count_operations(
        lambda: F.linear(x, w).sum()
    )
    assert backward == 2 * 8 * 16 * 32 and w.grad is None
    q = torch.randn(1, 2, 10, 4)
    attention = count_operations(lambda: F.scaled_dot_product_attention(q, q, q))
    assert attention >= 2 * 2 * 2 * 10 * 10 * 4  # and a few for the softmax
    assert count_operations(lambda: x * 2 + 1) == 2 * x.numel()


def test_a_sample_costs_about_what_the_family_says(clips, tmp_path):
    run = ArmRun(ARMS["full-sequence"], 0, clips, tmp_path)
    run.train(1e15)
    (cost,) = run.costs.values()
    said = 3 * FAMILIES["miniflux"].forward_flops(FAMILIES["miniflux"].dimensions(run.model.config), 48 + 4)
    assert 0.5 < cost / said < 2.5


def test_steps_of_all_ways_see_as_many_tokens():
    bench = Bench()
    for arm in MAIN:
        recipe = arm.recipe(bench, 0)
        shares = recipe.train.stage_shares if recipe.stages > 1 else (1,)
        tokens = [sum(counts) / len(counts) + 12 for counts in stage_tokens(recipe)]
        each = sum(s * t for s, t in zip(shares, tokens, strict=True)) / sum(shares)
        assert 0.9 < each * recipe.train.batch / bench.tokens < 1.1


def test_coarse_levels_may_come_from_shrunken_pixels(clips, tmp_path):
    checks = np.zeros((1, 4, 4, 3), np.uint8)
    checks[:, :2, 2:] = 200
    assert shrunk(checks, 2)[0, :, :, 0].tolist() == [[0, 200], [0, 0]] and shrunk(checks, 4).max() == 50
    levels = [torch.zeros(16, 3, side, side) for side in (2, 4)]
    other = replace(clips, coarse={item: levels for item in clips.items})
    run = ArmRun(ARMS["shrunken-pixels"], 0, other, tmp_path / "a")
    usual = ArmRun(ARMS["pyramid"], 0, clips, tmp_path / "b")
    step = run.order.step(0)
    for place in range(len(step.stages)):
        mine, theirs = run._row(step, place), usual._row(step, place)
        assert all(map(torch.equal, mine.clips[:-1], theirs.clips[:-1]))  # the history stays
        assert not torch.equal(mine.target, theirs.target) and mine.target.shape == theirs.target.shape
    assert run.train(until=1)


# -- runs
@pytest.mark.parametrize("name", [arm.name for arm in MAIN])
def test_a_run_goes_on_bit_for_bit_and_makes_whole_clips(clips, tmp_path, name):
    whole, first = (ArmRun(ARMS[name], 3, clips, tmp_path / folder) for folder in ("whole", "halves"))
    for _ in range(4):
        whole.train(1e15)
    for _ in range(2):
        first.train(1e15)
    first.save()
    second = ArmRun(ARMS[name], 3, clips, tmp_path / "halves")
    while second.train(whole.flops):
        pass
    assert (second.step, second.flops) == (4, whole.flops)
    assert all(map(torch.equal, second.weights, whole.weights))
    text = next(iter(clips.stored.values())).texts[0]
    made = second.sample([text, clips.nothing], seed=5)
    assert made.shape == (2, 16, 3, 8, 8) and torch.isfinite(made).all()
    assert torch.equal(made, whole.sample([text, clips.nothing], seed=5))


def test_a_whole_clip_follows_a_straight_flow_to_its_end():
    class Straight:
        def stage(self, unit, stage, history, x):
            noise = torch.cat([torch.randn(1, 2, 3, 4, 4, generator=derive(1, "whole", 0, 0))])
            return lambda x, timestep: noise - 2.0  # to the clip that is 2 everywhere

    assert torch.allclose(
        sample_whole(Straight(), (2, 3, 4, 4), [1], 7), torch.full((1, 2, 3, 4, 4), 2.0), atol=1e-5
    )


# -- measuring
def test_the_classifier_learns_and_leaves_out_what_has_no_answer():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (60, 2), generator=generator)
    latents = torch.randn(60, 4, 2, 4, 4, generator=generator) * 0.3 + labels[:, :1, None, None, None]
    labels[:, 1] = -1
    before = torch.get_rng_state()
    net = train_classifier(latents, labels, (2, 2), seed=0, steps=40, batch=16)
    assert torch.equal(torch.get_rng_state(), before)
    right = answers_right(net, latents, labels)
    assert right[:, 0].float().mean() > 0.9 and not right[:, 1].any()
    assert torch.equal(
        train_classifier(latents, labels, (2, 2), seed=0, steps=40, batch=16)(latents)[0], net(latents)[0]
    )


def test_items_are_held_out_by_their_scene_and_labelled():
    bench = Bench()
    items, world = [*items_of(bench)], bench.world
    trained = {item.scene for item in items if item.scene and not item.held_out}
    assert trained.isdisjoint({item.scene for item in items if item.scene and item.held_out})
    assert trained.isdisjoint({item.scene for item in asked_of(bench)})
    scene = Scene(world.shapes[1], world.colors[2], world.backgrounds[0], world.motions[3])
    assert labels_of(world, scene) == [1, 2, 0, 3]
    assert labels_of(world, None, CAMERAS[1]) == [3, -1, -1, 5] and answers_of(world)[0] == 4
    assert Item("a").rng().integers(1000) == Item("a").rng().integers(1000)


def test_the_judges_shares():
    scene = Scene("star", "red", "meadow", "up")
    found = judged([Verdict("red", "up", "star", 1.0), Verdict("red", None, None, 0.5)], [scene, scene])
    assert (
        found["color"] == 1
        and found["shape"] == 0.5
        and found["all"] == 0.5
        and found["mean"] == pytest.approx(2 / 3)
    )


# -- the report
NAMES = ("color", "shape", "motion", "background")


def points(qualities, scale=1.0) -> list[dict]:
    return [
        {
            "flops": scale * 2.0**i,
            "frechet": 1 - q,
            "judge": {"mean": q},
            "classifier": dict.fromkeys(NAMES, q),
        }
        for i, q in enumerate(qualities)
    ]


def test_the_factor_is_that_of_operations_to_equal_quality():
    slow, fast = points([0.1, 0.2, 0.3, 0.4], scale=3.0), points([0.1, 0.2, 0.3, 0.4])
    assert factor([fast], [slow], "judge") == pytest.approx(3)
    assert factor([slow], [fast], "frechet") == pytest.approx(1 / 3)
    means = rising([fast], "judge")
    assert flops_to(means, 0.25) == pytest.approx(2 * math.sqrt(2)) and flops_to(means, 0.9) is None
    never = points([0.0, 0.0, 0.1, 0.15])
    assert factor([fast], [never], "judge") == pytest.approx(8 / math.sqrt(2))
    assert factor([fast], [slow], "judge", way=0.5) == pytest.approx(3)
    found = factor_with_interval({"a": {0: fast, 1: fast}, "b": {0: slow, 1: never}}, "a", "b", "judge")
    assert found["interval"][0] <= found["factor"] <= found["interval"][1]
    assert factor_with_interval({"a": {0: fast}, "b": {0: slow}}, "a", "b", "judge")["interval"] is None


def test_the_tool_reports_what_is_there(tmp_path, capsys):
    assert tool.main(["--out", str(tmp_path), "--report"]) == 1 and "no results" in capsys.readouterr().out
    for arm, scale in (("pyramid", 1.0), ("full-sequence", 2.0)):
        for seed in (0, 1):
            folder = tmp_path / "runs" / arm / str(seed)
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(points([0.2, 0.4 + 0.1 * seed], scale * 1e12)))
            np.savez(folder / "frames.npz", frames=np.zeros((3, 17, 64, 64, 3), np.uint8))
    begun = tmp_path / "runs" / "pyramid" / "2"
    begun.mkdir()
    (begun / "results.json").write_text(json.dumps(points([0.9])))
    assert tool.main(["--out", str(tmp_path), "--report"]) == 0
    assert "full sequence needs 2.00 times" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["curves"]["judge"]["pyramid"][1]["mean"] == pytest.approx(0.45)
    assert {path.name for path in tmp_path.glob("claim-*.*")} == {"claim-curves.png", "claim-frames.webp"}
    assert summarize({"pyramid": {0: points([0.2])}})["factors"]["judge"] == {}
