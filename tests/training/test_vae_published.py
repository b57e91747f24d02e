"""The published losses of the autoencoder: their terms, LPIPS by files, the stand-in, from raw clips."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from forks import joined
from helpers import ROOT
from PIL import Image

from pyramid.commands import cli
from pyramid.media.video import VideoWriter
from pyramid.models.vae import CausalVideoVAE
from pyramid.training.clips.lists import open_list
from pyramid.training.clips.pool import ListPool, readers
from pyramid.training.context import Context
from pyramid.training.critic import Adversary, PatchCritic
from pyramid.training.perceptual import LAYERS, make_perceptual
from pyramid.training.recipe import Phase, Recipe, VAERecipe, load_recipe
from pyramid.training.vae import make_vae, note_inflated, published_losses, was_inflated

RECIPE = """
name = "tiny"
[world]
fps = 8
[vae]
channels = [4, 4, 4, 4]
losses = "published"
optimizer = "adamw"
kl_weight = 1e-12
adversarial_weight = 0.5
adversary_width = 4
adversary_from = 0.5
steps = 4
warm_up = 2
[[vae.phases]]
share = 1.0
size = 64
frames = 9
batch = 1
photos = 0.0
pictures = 0.3
"""


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def lpips_weights() -> tuple[dict, dict]:
    """As torchvision and the package lpips name them, with small values."""
    torch.manual_seed(0)
    vgg = {}
    before = 3
    place = 0
    for widths in LAYERS:
        for width in widths:
            vgg[f"features.{place}.weight"] = torch.randn(width, before, 3, 3) / (3 * before**0.5)
            vgg[f"features.{place}.bias"] = torch.zeros(width)
            before = width
            place += 2
        place += 1
    return vgg, {f"lin{i}.model.1.weight": torch.rand(1, w[0], 1, 1) for i, w in enumerate(LAYERS)}


def test_lpips_is_read_from_the_files_of_others_and_needs_all_of_them(tmp_path):
    vgg, lin = lpips_weights()
    torch.save(vgg, tmp_path / "vgg.pth")
    torch.save(lin, tmp_path / "lin.pth")
    slices = {4: 1, 9: 2, 16: 3, 23: 4, 30: 5}
    one = {}
    for name, value in vgg.items():
        place = int(name.split(".")[1])
        part = next(number for end, number in slices.items() if place < end)
        one[name.replace("features", f"net.slice{part}")] = value
    torch.save(one | lin, tmp_path / "one.pth")
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    two = make_perceptual((str(tmp_path / "vgg.pth"), str(tmp_path / "lin.pth")))
    distance = two(a, b)
    assert distance.shape == (2,) and (distance > 0).all() and two(a, a).abs().max() == 0
    assert torch.equal(make_perceptual((str(tmp_path / "one.pth"),))(a, b), distance)
    with pytest.raises(ValueError, match="LPIPS's .* are missing"):
        make_perceptual((str(tmp_path / "vgg.pth"),))
    with pytest.raises(ValueError, match="no file"):
        make_perceptual((str(tmp_path / "gone.pth"),))
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    torch.save({"lin0": Path("program")}, tmp_path / "more.pth")
    for name in ("bad.pth", "more.pth"):
        with pytest.raises(ValueError, match=rf"cannot be read: {name} is damaged, or .*safetensors$"):
            make_perceptual((str(tmp_path / name),))
    torch.save(lin | {"lin1.model.1.weight": torch.rand(1, 192, 1, 1)}, tmp_path / "alex.pth")
    with pytest.raises(ValueError, match="another network, lin.1 the first"):
        make_perceptual((str(tmp_path / "vgg.pth"), str(tmp_path / "alex.pth")))


def test_the_stand_in_minds_lost_texture_more_than_contrast():
    torch.manual_seed(0)
    distance = make_perceptual(())
    smooth = torch.linspace(-0.5, 0.5, 64).expand(1, 3, 64, 64)
    picture = smooth + 0.1 * torch.randn(1, 3, 64, 64)
    assert distance(picture, picture).item() == 0
    assert distance(smooth, picture).item() > 3 * distance(0.9 * picture, picture).item() > 0
    made = smooth.clone().requires_grad_()
    distance(made, picture).sum().backward()
    assert torch.isfinite(made.grad).all() and made.grad.abs().sum() > 0


def test_the_loss_is_the_sum_of_the_published_terms():
    torch.manual_seed(0)
    settings = VAERecipe(channels=(4, 4, 4, 4), losses="published", kl_weight=1e-3, adversarial_weight=0.5)
    recipe = Recipe("tiny", vae=settings)
    model, video = make_vae(recipe), torch.rand(2, 3, 9, 64, 64) * 2 - 1
    adversary = Adversary(PatchCritic(4), learning_rate=1e-3)
    parts = published_losses(model, video, recipe, adversary, make_perceptual(()))
    told = 10 * parts["pixels"] + parts["perceptual"] + 1e-3 * parts["kl"] + 0.5 * parts["adversarial"]
    assert torch.allclose(parts["loss"], told)
    posterior = model.encode(video).latent_dist
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.std), torch.distributions.Normal(0.0, 1.0)
    )
    assert torch.allclose(parts["kl"], divergence.sum((2, 3, 4)).mean(), rtol=1e-4)
    parts["loss"].backward()
    assert model.encoder.conv_in.conv.weight.grad.abs().sum() > 0
    scores, features = adversary.critic(torch.zeros(2, 3, 9, 64, 64))
    assert scores.shape == (18, 1, 2, 2) and features == []


def test_two_stages_from_raw_clips_with_a_critic_whose_start_is_reached(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "clips").mkdir()
    for number in range(3):
        with VideoWriter(tmp_path / "clips" / f"{number}.mp4", 8, (64, 64), keep="none") as writer:
            for _ in range(9):
                writer.write(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        (tmp_path / "clips" / f"{number}.txt").write_text("noise")
    (tmp_path / "r.toml").write_text(RECIPE)
    command = ["train", "vae", "--data", str(tmp_path / "clips"), "--config", str(tmp_path / "r.toml")]
    assert cli.main([*command, "--output", str(tmp_path / "one")]) == 0
    assert (tmp_path / "one" / "vae" / "checkpoint" / "custom_checkpoint_2.pkl").exists()  # the critic
    AcceleratorState._reset_state(reset_partial_state=True)
    start = str(tmp_path / "one" / "checkpoint")
    assert cli.main([*command, "--output", str(tmp_path / "two"), "--from", start]) == 0
    made = [
        CausalVideoVAE.from_pretrained(tmp_path / n / "checkpoint" / "causal_video_vae")
        for n in ("one", "two")
    ]
    assert made[0].config.image_scale == made[1].config.image_scale
    assert not torch.equal(made[0].decoder.conv_in.conv.weight, made[1].decoder.conv_in.conv.weight)


def test_a_run_that_goes_back_behind_its_first_clip_begins_clips_anew(tmp_path):
    assert not was_inflated(tmp_path, 0)
    note_inflated(tmp_path, 5)
    assert [was_inflated(tmp_path, step) for step in (0, 5, 6)] == [False, False, True]
    (tmp_path / "inflated").write_text("")  # as it was written before
    assert was_inflated(tmp_path, 0)


@pytest.mark.parametrize("stage", [1, 2])
def test_shipped_recipes_have_the_published_numbers(stage):
    recipe = load_recipe(ROOT / "presets" / "training" / f"vae-{stage}.toml").vae
    assert (recipe.pixel_weight, recipe.perceptual_weight, recipe.adversarial_weight) == (10, 1, 0.5)
    assert (recipe.kl_weight, recipe.learning_rate, recipe.weight_decay) == (1e-12, 1e-4, 1e-3)
    assert recipe.phases[0].frames == (17, 33)[stage - 1]


def test_a_critic_that_would_never_start_is_refused(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("adversary_from = 0.5", "adversary_from = 1.25"))
    with pytest.raises(ValueError, match="adversary_from = 1.25: 0 or more, below 1 is expected"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text(RECIPE.replace('"published"', '"both"'))
    with pytest.raises(ValueError, match="losses = 'both': own or published is expected"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text(RECIPE.replace("size = 64", "size = 32"))
    with pytest.raises(ValueError, match="needs phases of 64 pixels or more, not 32"):
        load_recipe(tmp_path / "r.toml")


TWO = """
import torch, torch.distributed as dist
from pyramid.training.context import Context
from pyramid.training.perceptual import make_perceptual
from pyramid.training.recipe import Recipe, VAERecipe
from pyramid.training.vae import make_vae, published_losses

dist.init_process_group("gloo")
torch.manual_seed(0)
recipe = Recipe("tiny", vae=VAERecipe(channels=(4, 4, 4, 4), losses="published", kl_weight=1e-3))
model, video = make_vae(recipe), torch.rand(1, 3, 33, 32, 32) * 2 - 1
whole = model.forward
model.forward = lambda video, caches=None: whole(video, False, None, caches)  # the mean of the posterior
published_losses(model, video, recipe, None, make_perceptual(()))["loss"].backward()
one = {name: weight.grad.clone() for name, weight in model.named_parameters()}
largest = max(gradient.abs().max() for gradient in one.values())
model.zero_grad()
published_losses(model, video, recipe, None, make_perceptual(()), Context(2))["loss"].backward()
for name, weight in model.named_parameters():
    dist.all_reduce(weight.grad)
    apart = (weight.grad / 2 - one[name]).abs().max() / largest
    assert apart < 1e-4, (name, apart)
try:
    Context(2).share(video[:, :, :9])
except ValueError as error:
    assert "too few" in str(error)
else:
    raise AssertionError("8 frames were shared by two")
"""


def test_two_processes_that_share_a_clip_have_the_gradients_of_one():
    joined("-c", TWO)


def test_a_context_that_the_processes_do_not_have_is_refused():
    with pytest.raises(ValueError, match="context = 2 does not divide the 1 processes"):
        Context(2)


def test_a_long_list_is_read_on_in_bounded_memory_and_any_step_finds_the_same(tmp_path, capsys):
    for number in range(100):
        Image.new("RGB", (64, 64), (2 * number, 0, 0)).save(tmp_path / f"{number:03d}.png")
    (tmp_path / "050.png").write_bytes(b"no picture")
    phase = Phase(share=1.0, size=64, frames=1, batch=1, photos=0.0)
    settings = VAERecipe(clips=0, pool_mb=1, fresh=1.5, most_broken=0.5, phases=(phase,))
    listing, recipe = open_list(tmp_path), Recipe("tiny", seed=5, vae=settings)

    def seen(pool: ListPool) -> torch.Tensor:
        return pool.batch(4, 64, 1, np.random.default_rng(1), photos=0.0)

    with ListPool(listing, recipe) as pool:
        stream = pool.streams["image"]
        assert not stream.whole and len(pool.held) == 4
        found = {}
        for step in range(60):  # more than a round over the list
            pool.advance(step)
            found[step] = seen(pool)
            assert 64 * 64 * 3 * (len(stream.window) + 2 * readers()) <= 2**20
        assert len({float(batch.sum()) for batch in found.values()}) > 20
        count = len(stream.samples)
        order = [stream.sample(number) for number in range(count)]
    assert capsys.readouterr().out.count("skipped: 050.png: unreadable") == 1
    assert count == 96 == len({sample.name for sample in order})
    with ListPool(listing, recipe) as again:  # of a run that was killed
        again.advance(40)
        assert torch.equal(seen(again), found[40])
    two = [replace(stream, share=(which, 2)) for which in range(2)]
    assert [two[number % 2].sample(number // 2) for number in range(count)] == order
    with pytest.raises(ValueError, match="pool_mb = 0 holds too few clips of 1 frames at 64×64: give 1 or"):
        ListPool(listing, replace(recipe, vae=replace(settings, pool_mb=0)))
    with pytest.raises(ValueError, match="1 of 96 items cannot be used, more than the share 0 of"):
        ListPool(listing, replace(recipe, vae=replace(settings, pool_mb=2000, most_broken=0.0)))


def test_the_plan_of_an_autoencoder_tells_its_memory(tmp_path, capsys):
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "clip.png").touch()
    command = ["train", "vae", "--config", str(tmp_path / "r.toml"), "--plan"]
    assert cli.main([*command, "--data", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1.95 GiB at most" in said and "frames a step │ 9" in said
    assert not list(tmp_path.glob("runs")) and cli.main(command) == 2
    assert "--plan goes with --data" in capsys.readouterr().err
