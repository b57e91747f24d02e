"""Distillation: the teacher's rollouts, a student that learns them, both families, exact resumption."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny import make_checkpoint

from pyramid.commands.cli import main
from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.sampler import Noise, Sampling, Unit, sample
from pyramid.generate.schedule import make_stages
from pyramid.hub.checkpoints import find
from pyramid.training import distill
from pyramid.training.recipe import DistillRecipe, Recipe

QUICK = dict(units=2, batch=2, first_rollouts=1, steps_a_rollout=2, kept_rollouts=2, teacher_steps=(2, 1, 2))
RECIPE = """
name = "tiny"
[distill]
units = 2
batch = 2
first_rollouts = 1
steps_a_rollout = 2
kept_rollouts = 2
own_from = 0.5
own = 1.0
muon = false
steps = 4
"""


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one precision for a whole process; each test may have its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    return PyramidFlowPipeline.from_pretrained(make_checkpoint(tmp_path_factory.mktemp("teacher")))


def guided(pipe, scale=1.0):
    embeds = pipe.text.encode(["a red ball", "a blue star"])
    nothing = pipe.text.encode(["", ""])
    texts = (Prompt(e.prompt_embeds, e.attention_mask, e.pooled) for e in (embeds, nothing))
    return GuidedModel(pipe.transformer, *texts, Guidance(scale, scale))


def test_a_rollout_ends_where_the_sampler_comes_to(pipe):
    """With as many steps as the student has levels the nodes are the sampler's own, the guidance in them."""
    settings = DistillRecipe(teacher_steps=(1, 1, 1))
    teacher, noise = guided(pipe, 3.0), Noise((16, 8, 8), [1, 2])
    units, nodes = distill.roll_out(teacher, None, noise, settings, units=2)
    run = Sampling(units=2, steps=(2, 2, 1), video_steps=(2, 2, 1), sampler="multistep")
    made = [event.latents for event in sample(teacher, noise, run) if isinstance(event, Unit)]
    torch.testing.assert_close(units, made)
    assert [len(row) for row in nodes[1]] == [3, 3, 2] and torch.equal(nodes[1][2][-1], units[1])


def test_a_perfect_student_has_no_loss(pipe):
    """The target is the velocity that leads from level to level: the teacher's own, where it takes no more
    steps and no guidance.
    """
    settings = DistillRecipe(stage_steps=(1, 1, 1), teacher_steps=(1, 1, 1))
    model = guided(pipe)
    units, nodes = distill.roll_out(model, None, Noise((16, 8, 8), [1, 2]), settings, units=2)
    lengths = model.prompt.mask.sum(1).tolist()
    assert lengths[0] == lengths[1]
    rollout = distill.Rollout(model.prompt.embeds[:, : lengths[0]], model.prompt.pooled, units, nodes)
    for stage in make_stages(3):
        loss = distill.stage_loss(pipe.transformer, rollout, 1, stage, 0.0, torch.Generator())
        assert loss < 1e-9
        assert distill.stage_loss(pipe.transformer, rollout, 1, stage, 0.3, torch.Generator()) > 1e-7


def test_an_own_rollout_begins_each_stage_where_the_student_came_to(pipe):
    settings = DistillRecipe(**QUICK)
    teacher, student = guided(pipe, 3.0), guided(pipe)
    noise = Noise((16, 8, 8), [1, 2])
    units, nodes = distill.roll_out(teacher, student, noise, settings, units=2)
    run = Sampling(units=2, steps=(2, 2, 1), video_steps=(2, 2, 1), sampler="even")
    made = [event.latents for event in sample(student, noise, run) if isinstance(event, Unit)]
    torch.testing.assert_close(units, made)
    assert not torch.allclose(nodes[0][2][-1], units[0])  # the teacher's end, not the student's


@pytest.mark.parametrize("family", ["miniflux", "sd3"])
def test_the_command_makes_a_variant_that_generates(family, tmp_path, capsys):
    teacher = make_checkpoint(tmp_path / "teacher", family, variant="384p")
    (teacher / "causal_video_vae").rename(teacher / "causal_video_vae_384p")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "prompts.txt").write_text("a red ball\n\na blue star\n")
    words = f"train distill --config {tmp_path}/tiny.toml --from {teacher} --data {tmp_path}/prompts.txt"
    assert main([*words.split(), "--output", str(tmp_path / "run")]) == 0
    assert "checkpoint" in capsys.readouterr().out
    made = find(tmp_path / "run" / "checkpoint", "384p-fast")
    assert made.defaults.sampler == "even" and made.defaults.steps == made.defaults.video_steps == (2, 2, 1)
    assert made.defaults.guidance_scale == made.defaults.video_guidance_scale == 1
    assert made.vae.name == "causal_video_vae_384p-fast"
    assert find(tmp_path / "run" / "checkpoint").defaults.sampler == "reference"
    student = PyramidFlowPipeline.from_pretrained(tmp_path / "run" / "checkpoint", "384p-fast")
    student.set_progress_bar_config(disable=True)
    assert len(student("a red ball", num_frames=9, seed=1).frames[0]) == 9


@pytest.mark.parametrize("family", ["miniflux", "sd3"])
def test_a_lora_is_trained_alone_and_is_in_the_weights_at_the_end(family, tmp_path):
    teacher = make_checkpoint(tmp_path / "teacher", family, variant="384p")
    pipe = PyramidFlowPipeline.from_pretrained(teacher)
    prompts = distill.Prompts(pipe, ["a red ball"], "")
    recipe = Recipe("tiny", distill=DistillRecipe(**QUICK, steps=2, lora_rank=2, learning_rate=0.1))
    run = distill.Distillation(recipe, pipe, prompts, tmp_path / "run")
    trained = {name.rsplit(".", 3)[0] for name, p in run.student.named_parameters() if p.requires_grad}
    assert all("blocks" in name for name in trained) and len(trained) > 10
    run.loop.run(run.step)
    made = run.finished(tmp_path / "run").state_dict()
    before = pipe.transformer.state_dict()
    assert made.keys() == before.keys() and (tmp_path / "run" / "pytorch_lora_weights.safetensors").is_file()
    changed = {name for name, value in made.items() if not torch.equal(value, before[name])}
    assert changed and all("blocks" in name and name.endswith("weight") for name in changed)


def test_a_run_that_was_interrupted_ends_where_a_whole_one_does(tmp_path):
    teacher = make_checkpoint(tmp_path / "teacher")
    settings = DistillRecipe(**QUICK, own_from=0.5, own=1.0, muon=False, steps=4)
    recipe = Recipe("tiny", distill=settings)
    (tmp_path / "prompts.txt").write_text("a red ball\na blue star")

    def weights(folder, end=None):
        pipe = PyramidFlowPipeline.from_pretrained(teacher)
        prompts = distill.Prompts(pipe, ["a red ball", "a blue star"], "")
        run = distill.Distillation(recipe, pipe, prompts, folder)
        if end is not None:  # as if the power failed after a checkpoint
            run.rollouts.at(run.loop.step)
            for _ in range(end):
                run.loop._set_rates()
                run.loop._take(run.step(0))
                run.loop.step += 1
            run.loop.accelerator.save_state(folder / "distill" / "checkpoint")
            run.step(0)
        else:
            run.loop.run(run.step)
        AcceleratorState._reset_state(reset_partial_state=True)
        return run.student.state_dict()

    whole = weights(tmp_path / "whole")
    weights(tmp_path / "cut", end=2)
    resumed = weights(tmp_path / "cut")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    start = PyramidFlowPipeline.from_pretrained(teacher).transformer.state_dict()
    assert any(not torch.equal(start[name], value) for name, value in whole.items())


def test_prompts_come_from_a_file_or_from_the_world(tmp_path):
    lines = [{"text": "a cat"}, {"caption": "a dog"}, {"video": "x.mp4"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert distill.read_prompts(str(tmp_path / "data.jsonl"), Recipe("x")) == ["a cat", "a dog"]
    assert len(distill.read_prompts(None, Recipe("x"))) > 1000
    (tmp_path / "empty.txt").write_text("\n")
    for name in ("empty.txt", "none.txt"):
        with pytest.raises(ValueError, match=f"--data .*{name}"):
            distill.read_prompts(str(tmp_path / name), Recipe("x"))


def test_recipes_that_cannot_be_run_are_refused():
    with pytest.raises(ValueError, match="one number a stage"):
        distill.check(DistillRecipe(teacher_steps=(1, 1)))
    with pytest.raises(ValueError, match="kept_rollouts"):
        distill.check(DistillRecipe(first_rollouts=9, kept_rollouts=2))
