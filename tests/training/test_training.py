"""The trainers' parts: noising on the path that sampling walks, optimisers, recipes, the loop's resume."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from pyramid.generate.latents import denoised_estimate, down, jump, noise_pyramid, pyramid
from pyramid.generate.schedule import make_stages
from pyramid.hub.checkpoints import find
from pyramid.memory.device import device_of
from pyramid.memory.threads import Threads
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.build import build, describe, with_steps
from pyramid.training.critic import Adversary, Critic, balance, hinge
from pyramid.training.decoder import noisy_latents, train_decoder
from pyramid.training.loop import Budget, Clock, Loop, learning_rate_factor
from pyramid.training.noising import corrupted_history, noised_stage, prefix_length, stage_ends
from pyramid.training.optim import make_optimizers
from pyramid.training.recipe import DecoderRecipe, Phase, Recipe, VAERecipe, load_recipe
from pyramid.training.vae import current_phase, initialize, make_vae, reconstruction_loss, vae_losses, whiten
from pyramid.training.world import World


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps one precision for a whole process; each test may have its own."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, 1, 16, 16)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_exact_velocity_walks_from_noise_to_the_clean_latents(batch, count):
    clean, noise = batch
    stages = make_stages(count)
    for stage in range(count):
        start, end = stage_ends(clean, noise, stages, stage)
        index = torch.tensor([0, 999])
        noisy, target, timestep = noised_stage(clean, noise, stages, stage, index)
        assert torch.allclose(noisy[0], start[0])
        assert torch.equal(timestep, stages[stage].timesteps[index])
        r = (1 - index / 1000).view(-1, 1, 1, 1, 1)
        assert torch.allclose(noisy - r * target, end, atol=1e-5)
        level = pyramid(clean, count)[stage]
        assert torch.allclose(denoised_estimate(noisy, target, r, stages[stage]), level, atol=1e-3)
    assert torch.allclose(end, clean)


def test_the_path_joins_up_at_the_jumps(batch):
    """The mean of the jump equals the training path's start, up to noise:
    1 - start = keep·(1 - end before).
    """
    clean, noise = batch
    stages = make_stages(3)
    for stage in (1, 2):
        _, end = stage_ends(clean, 0 * noise, stages, stage - 1)
        start, _ = stage_ends(clean, 0 * noise, stages, stage)
        assert torch.allclose(jump(end, stages[stage], torch.zeros_like(start)), start, atol=1e-5)


def test_history_noise_is_bounded_and_one_level_a_sample():
    units = [torch.zeros(3, 4, 1, 16, 16) for _ in range(3)]
    generator = torch.Generator().manual_seed(1)
    clips = corrupted_history(units, 2, 3, strongest=1 / 3, generator=generator)
    assert [tuple(clip.shape[2:]) for clip in clips] == [(1, 4, 4), (1, 8, 8), (1, 16, 16)]
    levels = clips[-1].flatten(1).std(1)
    assert (levels < 0.35).all() and levels.unique().numel() == 3
    assert torch.allclose(clips[1].flatten(1).std(1), levels, rtol=0.3)
    assert corrupted_history([], 2, 3, strongest=1, generator=generator) == []


def test_long_prefixes_at_one_stage_are_short_at_the_others():
    pairs = [(prefix_length(i, 4, finest=True), prefix_length(i, 4, finest=False)) for i in range(8)]
    assert pairs == [(1, 4), (2, 3), (3, 2), (4, 1)] * 2


def test_muon_takes_convolutions_as_matrices_and_adamw_the_rest():
    model = nn.Sequential(nn.Conv3d(4, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2))
    muon, adamw = make_optimizers(model, 1e-2, matrices="0. 1.")
    before = model[0].weight.detach().clone()
    (model[0](torch.ones(1, 4, 3, 3, 3)).sum() + model[1](torch.ones(8)).sum()).backward()
    muon.step()
    adamw.step()
    muon.zero_grad()
    assert not torch.equal(before, model[0].weight) and model[0].weight.grad is None
    names = {id(p): n for n, p in model.named_parameters()}
    assert {names[id(p)] for g in adamw.param_groups for p in g["params"]} == {
        "0.bias",
        "1.bias",
        "2.weight",
        "2.bias",
    }


def test_learning_rate_warms_up_holds_and_ends_at_zero():
    factors = [learning_rate_factor(p, constant_share=0.5) for p in (0.0, 0.3, 0.75, 1.0)]
    assert (
        factors[0] < 0.2
        and factors[1] == 1
        and factors[2] == pytest.approx(0.5)
        and factors[3] == pytest.approx(0)
    )


def _loop(folder, steps, **more):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    return model, Loop(
        folder,
        model,
        lambda m: [torch.optim.SGD(m.parameters(), lr=0.1)],
        budget=Budget(steps=steps),
        ema_decay=0.9,
        constant_share=1.0,
        mixed_precision="no",
        **more,
    )


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    x = torch.tensor([[1.0, 2.0, 3.0]])

    def stepper(model):
        return lambda progress: {"loss": (model(x) - 1).square().mean()}

    model, loop = _loop(tmp_path / "whole", 10)
    loop.run(stepper(model))
    first, loop = _loop(tmp_path / "parts", 10)
    loop.budget = Budget(steps=4)
    loop.run(stepper(first))
    again, loop = _loop(tmp_path / "parts", 10)
    assert loop.step == 4
    loop.run(stepper(again))
    assert torch.allclose(again.weight, model.weight, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10]  # a short run has a line too, of its end


def test_a_run_goes_on_with_what_it_was_begun_with(tmp_path):
    model, loop = _loop(tmp_path, 2, fixed={"[vae] channels": (4, 8)})
    loop.run(lambda progress: {"loss": model.weight.square().mean()})
    assert _loop(tmp_path, 4, fixed={"[vae] channels": (4, 8), "[vae] groups": 2})[1].step == 2
    with pytest.raises(ValueError, match=r"made with \[vae\] channels = \[4, 8\], not \[4, 16\]: go on"):
        _loop(tmp_path, 4, fixed={"[vae] channels": (4, 16)})
    (tmp_path / "checkpoint" / "fixed.json").unlink()  # as runs had it before
    assert _loop(tmp_path, 4, fixed={"[vae] channels": (4, 16)})[1].step == 2


def test_each_step_has_the_threads_that_the_load_allows(tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(Threads, "adapt", lambda self: told.append(f"adapt {self.adapts}"))
    monkeypatch.setattr(Threads, "restore", lambda self: told.append("restore"))
    model, loop = _loop(tmp_path, 2)

    def step(progress):
        told.append("step")
        if progress:
            raise RuntimeError("out of memory, say")
        return {"loss": model.weight.square().mean()}

    with pytest.raises(RuntimeError):
        loop.run(step)
    adapts = not device_of(loop.accelerator.device).is_card
    assert told == [f"adapt {adapts}", "step"] * 2 + ["restore"]


def test_time_in_which_a_run_was_stopped_does_not_count(monkeypatch):
    time = 100.0
    monkeypatch.setattr("pyramid.training.loop.time.perf_counter", lambda: time)
    monkeypatch.setattr(Clock, "beat", 3600.0)  # asked here alone
    clock = Clock()
    began = clock.now()
    time += 3.0
    assert clock.now() - began == 3.0
    time += 60.0
    assert clock.now() - began == 3.0
    time += 2.0
    assert clock.now() - began == 5.0
    clock.close()


def test_a_budget_is_minutes_or_steps():
    with pytest.raises(ValueError, match="not both"):
        Budget(minutes=1, steps=1)


def test_recipes_are_read_strictly(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\n[vae]\nminuets = 3\n')
    with pytest.raises(ValueError, match="minuets"):
        load_recipe(path)
    path.write_text("seed = 3\n")
    with pytest.raises(ValueError, match="'name' is missing"):
        load_recipe(path)
    with pytest.raises(ValueError, match="no recipe"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "text, why",
    [
        ('name = "a/b"', "name = 'a/b': a name without / "),
        ('name = "x"\nseed = -1', "seed = -1: 0 or more is expected"),
        ('name = "x"\n[dit]\nlearning_rate = 0.0', r"\[dit\]: learning_rate = 0: above 0 is expected"),
        ('name = "x"\n[dit]\nbatch = [8, -8, 8]', r"batch = \(8, -8, 8\): 0 or more is expected"),
        ('name = "x"\n[vae]\nsteps = 0', r"\[vae\]: steps = 0: 1 or more is expected"),
        ('name = "x"\n[vae]\nlosses = "mine"', "losses = 'mine': own or published is expected"),
        ('name = "x"\n[distill]\nema_decay = 1.0', "ema_decay = 1: 0 or more, below 1 is expected"),
        ('name = "x"\n[decoder]\n[[decoder.phases]]\nphotos = 2.0', "photos = 2: 0 to 1 is expected"),
    ],
)
def test_values_that_cannot_work_are_refused_with_their_limits(tmp_path, text, why):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match=why):
        load_recipe(tmp_path / "r.toml")


def test_recipes_with_the_former_spelling_are_read(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\n[world]\ncolours = ["red", "blue"]\n')
    assert load_recipe(path).world.colors == ("red", "blue")
    assert describe(load_recipe(path))["trained_on"]["colours"] == ("red", "blue")


def test_steps_take_the_place_of_a_recipes_minutes():
    recipe = load_recipe("presets/training/embedded-cpu.toml")
    short = with_steps(recipe, "vae", 7)
    assert (short.vae.steps, short.vae.minutes) == (7, None) and short.dit == recipe.dit
    assert with_steps(recipe, "text", 7).text.steps == 7


@pytest.mark.parametrize("path", ["embedded-cpu.toml", "embedded-gpu.toml", "decoder-photos.toml"])
def test_shipped_recipes_load(path):
    recipe = load_recipe(f"presets/training/{path}")
    assert recipe.vae.phases or recipe.decoder.start
    assert recipe.decoder.phases and recipe.world.scenes()


def test_vae_losses_train_every_weight():
    recipe = load_recipe("presets/training/embedded-cpu.toml")
    model = make_vae(recipe)
    losses = vae_losses(model, torch.rand(1, 3, 9, 64, 64) * 2 - 1, recipe)
    losses["loss"].backward()
    assert set(losses) == {"loss", "pixels", "kl", "half_size"}
    for name, weight in model.named_parameters():
        if "to_k.bias" not in name:  # a shift of all keys changes no attention
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_reconstruction_loss_of_a_perfect_video_is_zero():
    video = torch.rand(1, 3, 2, 8, 8)
    assert (
        reconstruction_loss(video, video)
        == 0
        < reconstruction_loss(video, down(down(video)).mean() + 0 * video)
    )


@torch.no_grad()
def test_whitening_changes_latents_and_not_the_pictures():
    torch.manual_seed(0)
    model = make_vae(Recipe(name="tiny")).eval()
    initialize(model)
    video = torch.rand(8, 3, 9, 32, 32) * 2 - 1
    before = model.encode(video).latent_dist.mode()
    picture = model.decode(before).sample
    flat = before.movedim(1, -1)
    scales = whiten(model, (flat[:, 0].reshape(-1, 16), flat[:, 1].reshape(-1, 16)))
    after = model.encode(video).latent_dist.mode()
    assert torch.allclose(model.decode(after).sample, picture, atol=1e-3)
    covariance = torch.cov(after.movedim(1, 0).flatten(1))
    assert covariance.diag().max() < 1.6 and (covariance - covariance.diag().diag()).abs().max() < 0.2
    assert set(scales) == {"image_shift", "image_scale", "video_shift", "video_scale"}


def test_phases_follow_their_shares():
    phases = load_recipe("presets/training/embedded-cpu.toml").vae.phases
    assert current_phase(phases, 0.0) is phases[0] and current_phase(phases, 0.999) is phases[-1]


def test_noise_is_shared_by_all_resolutions(batch):
    _, noise = batch
    levels = noise_pyramid(noise, 3)
    assert torch.allclose(levels[0], down(levels[1]) * 2)


def test_the_critic_scores_patches_of_pictures_and_clips_alike():
    critic = Critic(width=4)
    for frames in (1, 5):
        score, features = critic(torch.zeros(2, 3, frames, 32, 48))
        assert score.shape == (2, 1, frames, 4, 6) and len(features) == 3
    assert hinge(torch.full((2,), 2.0), torch.full((2,), -2.0)) == 0
    assert hinge(torch.zeros(2), torch.zeros(2)) == 1


def test_the_balance_makes_both_gradients_equally_long():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    pixels, adversarial = weight.sum(), 0.1 * weight.square().sum()
    factor = balance(pixels, adversarial, weight)
    one, two = (
        torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (pixels, factor * adversarial)
    )
    assert torch.allclose(one.norm(), two.norm(), rtol=1e-3)


def test_an_adversary_learns_and_the_decoder_answers_to_it():
    """It tells stripes from gray within a few steps, and its losses reach the decoder and never its own
    weights.
    """
    torch.manual_seed(0)
    recipe = Recipe("tiny", vae=VAERecipe(channels=(4, 4, 4, 4), adversarial_weight=0.1, feature_weight=0.1))
    adversary = Adversary(Critic(4), learning_rate=1e-2)
    stripes = torch.ones(2, 3, 1, 32, 32)
    stripes[..., ::2] = -1
    losses = [adversary.learn(0 * stripes, stripes) for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    model = make_vae(recipe)
    parts = vae_losses(model, stripes, recipe, adversary)
    parts["loss"].backward()
    assert {"adversarial", "features", "critic"} <= set(parts)
    assert model.decoder.conv_in.conv.weight.grad.abs().sum() > 0
    again = Adversary(Critic(4), learning_rate=1e-2)
    again.load_state_dict(adversary.state_dict())
    assert torch.equal(again.critic(stripes)[0], adversary.critic(stripes)[0])


def test_a_decoder_that_is_trained_on_keeps_the_latents(tmp_path):
    """Every weight of the decoder moves, none of the encoder; what was trained before is not written over."""
    torch.manual_seed(0)
    phases = (Phase(share=1, size=32, frames=9, batch=1, photos=0.2),)
    recipe = Recipe(
        "tiny",
        world=World(size=32, frames=9),
        vae=VAERecipe(channels=(4, 4, 4, 4), clips=3),
        decoder=DecoderRecipe(steps=2, latent_noise=0.5, phases=phases),
    )
    make_vae(recipe).save_pretrained(tmp_path / "before")
    made = train_decoder(recipe, tmp_path / "decoder", tmp_path / "before")
    before, after = (
        CausalVideoVAE.from_pretrained(path).state_dict() for path in (tmp_path / "before", made)
    )
    same = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    latents = {name for name in before if name.startswith(("encoder.", "quant_conv."))}
    assert latents <= same and all("to_k.bias" in name for name in same - latents)


def test_a_decoder_can_be_that_of_another_checkpoint(tmp_path, monkeypatch):
    seen = []

    def train(recipe, folder, finished):
        seen.append(finished)
        return finished

    monkeypatch.setattr("pyramid.training.decoder.train_decoder", train)
    path = tmp_path / "decoder.toml"
    path.write_text('name = "decoder"\n[decoder]\nstart = "embedded"\nsteps = 1\n')
    made = build("vae", str(path), str(tmp_path / "run"))
    assert seen == [find("embedded").vae] and (made / "causal_video_vae" / "config.json").is_file()


def test_the_noise_on_latents_has_a_strength_a_sample():
    vae = make_vae(Recipe("tiny", vae=VAERecipe(channels=(4, 4, 4, 4)))).eval()
    video = torch.rand(3, 3, 1, 32, 32) * 2 - 1
    clean = noisy_latents(vae, video, 0.0)
    strengths = (noisy_latents(vae, video, 0.5) - clean).flatten(1).std(1)
    assert (strengths < 0.8).all() and strengths.unique().numel() == 3
    assert torch.equal(clean, noisy_latents(vae, video, 0.0))
