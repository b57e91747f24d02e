"""Training on clips: the published batches, exact resume, processes that agree, LoRAs, what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import SD3Transformer2DModel
from helpers import ROOT
from PIL import Image
from safetensors.torch import load_file
from tiny import make_checkpoint, make_transformer

from pyramid.commands import cli
from pyramid.generate.latents import normalize
from pyramid.generate.lora import read_lora
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.schedule import make_stages
from pyramid.hub.checkpoints import find
from pyramid.media.video import VideoWriter
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.models.vae import CausalVideoVAE
from pyramid.training import clip_dit
from pyramid.training.clip_dit import (
    Run,
    Stepper,
    is_sd3,
    load_parts,
    make_loop,
    read_recipe,
    sample_of,
    together,
    train_on_clips,
)
from pyramid.training.clip_plan import in_all, plan_of, stage_tokens
from pyramid.training.clips.batches import Order, generator_for
from pyramid.training.clips.cache import (
    Cache,
    Entry,
    Stored,
    Text,
    check_broken,
    fill_cache,
    reference_latent,
    reference_text,
)
from pyramid.training.clips.lists import open_list
from pyramid.training.clips.recipe import ClipRecipe, DataRecipe, TrainRecipe, load_clip_recipe
from pyramid.training.clips.sample import BrokenItem
from pyramid.training.loop import TrainingFailed, begin_processes
from pyramid.training.sharding import check_sharded
from pyramid.wording import in_digits

RECIPE = """
name = "mine"
[data]
width = 64
height = 64
fps = 8
frames = 17
images = 0.25
[network]
parts = "{parts}"
variant = "64p"
layers = 1
single_layers = 1
heads = 2
head_dim = 16
[train]
batch = 4
steps = {steps}
warm_up = 2
precision = "no"
learning_rate = 1e-3
save_every = 3
log_every = 1
worst_loss = 50
gradient_checkpointing = false
[lora]
rank = 2
alpha = 4
targets = ["to_q", "to_v"]
"""


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """accelerate keeps its state for a whole process; each run here is one of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_checkpoint) -> Path:
    """A folder of five clips and a picture, a recipe, and a cache of them that every run takes over."""
    home = tmp_path_factory.mktemp("home")
    clips = home / "clips"
    clips.mkdir()
    rng = np.random.default_rng(0)
    for number, frames in enumerate((17, 17, 17, 9, 9)):
        with VideoWriter(clips / f"{number}.mp4", 8, (64, 64), keep="none") as writer:
            start = rng.integers(0, 40, 3)
            for at in range(frames):
                frame = np.full((64, 64, 3), 90 + start, np.uint8)
                frame[8:24, 2 * at : 16 + 2 * at] = 220
                writer.write(frame)
        (clips / f"{number}.txt").write_text(f"a red ball moves {'right' * (number % 2)}")
    Image.new("RGB", (80, 64), "teal").save(clips / "p.png")
    (clips / "p.txt").write_text("teal")
    (home / "recipe.toml").write_text(RECIPE.format(parts=tiny_checkpoint, steps=20))
    return home


def train(home: Path, output: Path, **changes) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    told = {"kind": "dit", "data": str(home / "clips"), "config": str(home / "recipe.toml")}
    return train_on_clips(Run(**told | {"output": str(output)} | changes))


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory) -> Path:
    """A run of 20 steps that nothing disturbed."""
    return train(home, tmp_path_factory.mktemp("whole") / "run").parent


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "dit" / "checkpoint" / "model.safetensors")


def losses(run: Path) -> list[float]:
    """Of each step."""
    lines = [json.loads(line) for line in (run / "dit" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, len(lines) + 1)]
    return [line["loss"] for line in lines]


# -- the whole
def test_from_raw_clips_to_a_checkpoint_that_is_found_and_runs(whole):
    checkpoint = find(whole / "checkpoint")
    assert (checkpoint.variant, checkpoint.defaults.units, checkpoint.name) == ("64p", 3, "mine")
    pipe = PyramidFlowPipeline.from_pretrained(whole / "checkpoint")
    assert len(pipe("a red ball", seed=1, num_frames=9, num_inference_steps=1).frames[0]) == 9
    assert len(losses(whole)) == 20 and min(losses(whole)) > 0


def test_samples_are_made_with_the_guidance_of_the_result(
    home, whole, tiny_checkpoint, tmp_path, monkeypatch
):
    asked = {}

    def call(self, **arguments):
        asked.update(arguments)
        return SimpleNamespace(frames=[np.zeros((17, 64, 64, 3), np.float32)])

    monkeypatch.setattr(PyramidFlowPipeline, "__call__", call)
    model = PyramidFluxTransformer.from_pretrained(whole / "checkpoint" / "diffusion_transformer_64p")
    parts = load_parts(find(tiny_checkpoint))
    cache = Cache.open(whole / "cache", {})
    cache.entries()
    recipe = load_clip_recipe(home / "recipe.toml")
    clip_dit.Sampler(lambda: model, cache, recipe, parts).save(tmp_path / "s.png")
    written = json.loads((whole / "checkpoint" / "pyramid.json").read_text())
    assert all(asked[name] == written[name] for name in ("guidance_scale", "video_guidance_scale"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_run_that_was_killed_goes_on_bit_for_bit(home, whole, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pyramid", "train", "dit", "--data", str(home / "clips")]
    command += ["--config", str(home / "recipe.toml"), "--output", str(run)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        late = time.monotonic() + 300
        while not (run / "dit" / "checkpoint").exists() and time.monotonic() < late:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (run / "checkpoint").exists(), "it was over before it was killed"
    train(home, run)
    mine, theirs = weights(run), weights(whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    made = [load_file(path / "checkpoint" / "diffusion_transformer_64p" / FILE) for path in (run, whole)]
    assert all(torch.equal(made[0][name], value) for name, value in made[1].items())


FILE = "diffusion_pytorch_model.safetensors"


def by_two(home: Path, run: Path, *, config: Path | None = None, steps: int = 20, processes: int = 2) -> str:
    """Train with two processes, or another number of them, that gloo connects; what they said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes)]
    command += ["-m", "pyramid", "train", "dit", "--data", str(home / "clips"), "--steps", str(steps)]
    command += ["--config", str(config or home / "recipe.toml"), "--output", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_processes_make_what_one_makes(home, whole, tmp_path):
    run = tmp_path / "run"
    by_two(home, run)
    assert len(list((run / "cache").glob("index-*.jsonl"))) == 2
    mine, theirs = weights(run), weights(whole)
    assert max((mine[name] - theirs[name]).abs().max().item() for name in theirs) <= 1e-5
    assert losses(run) == pytest.approx(losses(whole), abs=1e-5)


def test_two_sharded_processes_make_what_one_makes_also_when_they_go_on(home, whole, tmp_path):
    run, config = tmp_path / "run", tmp_path / "sharded.toml"
    text = (home / "recipe.toml").read_text()
    config.write_text(text.replace("[train]", '[train]\nsharding = "full"\nsample_every = 6\n'))
    (run / "cache").parent.mkdir()
    shutil.copytree(whole / "cache", run / "cache")
    by_two(home, run, config=config, steps=6)
    assert len(list((run / "dit" / "checkpoint" / "shards").glob("*.distcp"))) == 2
    assert (run / "dit" / "samples" / "000006.mp4").stat().st_size > 0
    by_two(home, run, config=config, processes=4)  # cut anew
    mine, theirs = (
        load_file(path / "checkpoint" / "diffusion_transformer_64p" / FILE) for path in (run, whole)
    )
    # written as bfloat16, and so rounded to the left or to the right of it
    assert max((mine[name].float() - theirs[name].float()).abs().max().item() for name in theirs) <= 2e-4
    assert losses(run) == pytest.approx(losses(whole), abs=1e-5)
    with pytest.raises(ValueError, match="written with sharding"):
        train(home, run)
    with pytest.raises(ValueError, match="needs two processes"):
        train(home, tmp_path / "alone", config=str(config))


def test_weights_that_are_whole_are_no_sharded_run():
    with pytest.raises(RuntimeError, match="2 weights are not sharded, weight the first"):
        check_sharded(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "told, why",
    [
        ({"MASTER_ADDR": "127.0.0.1", "ACCELERATE_MIXED_PRECISION": "no"}, "one process only"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP of accelerate launch is not used here"),
    ],
)
def test_processes_that_would_train_alone_are_told(monkeypatch, told, why):
    for name in ("WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=why):
        begin_processes()


def test_several_processes_for_the_work_of_one_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "r.toml").write_text('name = "alone"')
    for kind in ("distill", "vae"):
        assert cli.main(["train", kind, "--config", str(tmp_path / "r.toml"), "--output", str(tmp_path)]) == 2
        assert "2 processes were started, and" in capsys.readouterr().err


def test_a_lora_is_trained_saved_and_loaded(home, whole, tiny_checkpoint, tmp_path):
    changes = {"kind": "lora", "source": str(tiny_checkpoint), "steps": 4}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cache").symlink_to(whole / "cache")
    made = train(home, tmp_path / "run", **changes)
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint)
    lora = read_lora(made, pipe.transformer)
    assert len(lora) == 2 * 2 * 2 and all(value.abs().sum() > 0 for value in lora.values())
    pipe.load_lora_weights(made)
    for old, new, why in (
        ("rank = 2", "rank = 8", r"\[lora\] rank = 2, not 8: go on as it was begun, or give another"),
        ("alpha = 4", "alpha = 8", r"\[lora\] alpha = 4, not 8"),
        ('"to_v"]', '"to_k"]', r"\[lora\] targets = \['to_q', 'to_v'\], not \['to_q', 'to_k'\]"),
    ):
        (tmp_path / "r.toml").write_text((home / "recipe.toml").read_text().replace(old, new))
        with pytest.raises(ValueError, match=why):
            train(home, tmp_path / "run", **changes | {"steps": 5, "config": str(tmp_path / "r.toml")})
    with pytest.raises(ValueError, match="needs --from"):
        train(home, tmp_path / "run", kind="lora")
    with pytest.raises(ValueError, match="Stable Diffusion 3 makes no videos"):
        train(home, tmp_path / "run", kind="lora", source="sd3-medium")


def test_stable_diffusion_3_becomes_a_checkpoint_of_ours(home, tmp_path):
    sd3 = SD3Transformer2DModel(
        sample_size=32,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=24,
    )
    sd3.save_pretrained(tmp_path / "medium" / "transformer")
    parts = make_checkpoint(tmp_path / "parts", "sd3", "384p")
    old = next(line for line in (home / "recipe.toml").read_text().splitlines() if line.startswith("parts"))
    text = (home / "recipe.toml").read_text().replace(old, f'parts = "{parts}"')
    (tmp_path / "r.toml").write_text(text)
    config, source = str(tmp_path / "r.toml"), str(tmp_path / "medium")
    made = train(home, tmp_path / "run", config=config, source=source, steps=2)
    checkpoint = find(made)
    assert (checkpoint.family.name, checkpoint.variant) == ("sd3", "64p")
    gains = PyramidFlowPipeline.from_pretrained(made).transformer.transformer_blocks[0].attn.norm_q.weight
    assert abs(gains[0].item() - 1) > 1e-3


def test_an_autoencoder_is_trained_on_clips_from_nothing_and_from_another(home, tiny_checkpoint, tmp_path):
    path = tmp_path / "vae.toml"
    path.write_text(VAE)
    run = ["train", "vae", "--data", str(home / "clips"), "--config", str(path), "--steps", "2", "--output"]
    assert cli.main([*run, str(tmp_path / "a")]) == 0
    made = CausalVideoVAE.from_pretrained(tmp_path / "a" / "checkpoint" / "causal_video_vae")
    assert made.config.image_scale > 0
    AcceleratorState._reset_state(reset_partial_state=True)
    config = tmp_path / "dit.toml"
    text = (home / "recipe.toml").read_text()
    config.write_text(text.replace("[network]", f"[network]\nvae = '{tmp_path}/a/checkpoint'"))
    taken = load_parts(
        find(tiny_checkpoint), read_recipe(Run("dit", str(home / "clips"), str(config))).network.vae
    )
    assert torch.equal(taken.vae.decoder.conv_in.conv.weight, made.decoder.conv_in.conv.weight)
    assert cli.main([*run, str(tmp_path / "b"), "--from", str(tmp_path / "a" / "checkpoint")]) == 0
    again = CausalVideoVAE.from_pretrained(tmp_path / "b" / "checkpoint" / "causal_video_vae")
    assert again.config.image_scale == made.config.image_scale
    assert not torch.equal(again.decoder.conv_in.conv.weight, made.decoder.conv_in.conv.weight)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert cli.main([*run, str(tmp_path / "c"), "--from", str(tiny_checkpoint)]) == 0
    whole = find(tmp_path / "c" / "checkpoint")
    assert whole.has_text and whole.variant == find(tiny_checkpoint).variant
    assert not same_bytes(whole.vae / FILE, find(tiny_checkpoint).vae / FILE)


def same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


VAE = """
name = "vae"
[world]
fps = 8
[vae]
channels = [4, 4, 4, 4]
steps = 2
[[vae.phases]]
share = 1.0
size = 32
frames = 9
batch = 2
photos = 0.2
pictures = 0.3
"""


# -- a step
def recipe_of(**train_changes) -> ClipRecipe:
    data = DataRecipe(width=64, height=64, fps=8, frames=17, images=0.25)
    changes = {"batch": 4, "micro": 2, "precision": "no", "gradient_checkpointing": False} | train_changes
    return ClipRecipe("tiny", data=data, train=TrainRecipe(**changes))


@pytest.mark.parametrize("family", ["miniflux", "sd3"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temporal_pyramid": False},
        {"spatial_pyramid": False},
        {"spatial_pyramid": False, "temporal_pyramid": False},
    ],
    ids=["both pyramids", "full sequence", "full resolution", "neither"],
)
def test_both_families_train_with_each_pyramid_on_and_off(whole, tmp_path, family, changes):
    recipe = recipe_of(**changes)
    model = make_transformer(family)
    model.register_to_config(use_temporal_causal=recipe.train.temporal_pyramid)
    clip_dit.freeze_unused(model)
    loop = make_loop(tmp_path, model.train(), recipe)
    cache = Cache(whole / "cache")
    stepper = Stepper(loop, cache, recipe, find(whole / "checkpoint").family.scales)
    if family == "sd3":
        stepper.nothing = wide(stepper.nothing)
        cache.read = lambda entry, read=cache.read: replace(
            read(entry), texts=tuple(map(wide, read(entry).texts))
        )
    loop.step = 1
    losses = [part()["loss"] for part in stepper(0)]
    sum(losses).backward()
    assert len(losses) == (3 if recipe.stages == 3 else 2)
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def wide(text: Text) -> Text:
    """With the pooled vector of two encoders, as SD3 has it."""
    return Text(text.states, torch.cat([text.pooled, text.pooled]))


def test_a_start_from_sd3_measures_its_gains_on_the_first_batches(whole, tmp_path):
    model = make_transformer("sd3")
    cache = Cache(whole / "cache")
    cache.read = lambda entry, read=cache.read: replace(
        read(entry), texts=tuple(map(wide, read(entry).texts))
    )
    scales = find(whole / "checkpoint").family.scales
    loop = make_loop(tmp_path, model.train(), recipe_of())
    Stepper(loop, cache, recipe_of(), scales).measure_gains(2)
    gains = [block.attn.norm_k.weight for block in model.transformer_blocks]
    assert all(gain.unique().numel() == 1 and gain[0] != 1 for gain in gains)
    assert all(map(torch.equal, loop.ema.shadow_params, loop.trained))


def test_what_a_sample_is_follows_the_pyramids():
    clip, stages = torch.randn(1, 16, 4, 8, 8), make_stages(3)
    history, noisy, target, timestep = sample_of(clip, 2, stages, recipe_of(), generator_for(0, 0, 0))
    assert [tuple(c.shape[2:]) for c in history] == [(1, 2, 2), (1, 4, 4), (1, 8, 8)]
    assert noisy.shape == target.shape == (1, 16, 1, 8, 8) and timestep.shape == (1,)
    again = sample_of(clip, 2, stages, recipe_of(), generator_for(0, 0, 0))
    assert torch.equal(noisy, again[1])
    full = recipe_of(temporal_pyramid=False)
    history, noisy, *_ = sample_of(clip, 0, stages, full, generator_for(0, 0, 0))
    assert history == [] and noisy.shape == (1, 16, 4, 2, 2)
    one = recipe_of(spatial_pyramid=False)
    history, noisy, *_ = sample_of(clip, 0, make_stages(1), one, generator_for(0, 0, 0))
    assert [tuple(c.shape[2:]) for c in history] == [(3, 8, 8)] and noisy.shape[-1] == 8


def entries(**counts: int) -> list[Entry]:
    """So many items of each length in units: u3=8 are eight of three."""
    return [
        Entry(f"{name}-{n}", "s", "0", "video", (int(name[1:]), 8, 8), 1)
        for name, count in counts.items()
        for n in range(count)
    ]


def test_batches_are_a_function_of_the_step_and_mix_as_published():
    order, again = (Order(entries(u1=10, u3=8, u2=5), recipe_of()) for _ in range(2))
    steps = [order.step(number) for number in range(40)]
    assert steps[::-1] == [again.step(number) for number in reversed(range(40))]
    assert sum(step.entries[0].shape[0] == 1 for step in steps) == 10  # a quarter are pictures
    assert all(len({entry.shape for entry in step.entries}) == 1 for step in steps)
    assert all(sorted(step.stages) == [0, 1, 1, 2] for step in steps)
    longest = [step for step in steps if step.entries[0].shape[0] == 3]
    for step in longest:
        by_stage = dict(zip(step.stages, step.prefixes, strict=True))
        assert by_stage[0] == by_stage[1] == 4 - by_stage[2]
    assert {step.prefixes[step.stages.index(2)] for step in longest} == {1, 2, 3}
    odd = Order(entries(u2=9), recipe_of(batch=3))
    stages = [stage for number in range(8) for stage in odd.step(number).stages]
    assert [stages.count(stage) for stage in range(3)] == [6, 12, 6]


def test_every_item_comes_once_an_epoch():
    order = Order(entries(u2=8, u3=4), recipe_of())
    names = [[entry.name for entry in order.step(number).entries] for number in range(6)]
    assert len({name for batch in names[:3] for name in batch}) == 12
    assert names[:3] != names[3:]
    with pytest.raises(ValueError, match="nothing to train on"):
        Order([], recipe_of())


def test_a_bad_step_is_skipped_and_three_in_a_row_end_the_run(tmp_path):
    model = torch.nn.Linear(2, 1)
    loop = make_loop(tmp_path, model, recipe_of(steps=8, worst_loss=2.0))
    before = model.weight.detach().clone()

    def losses(bad):
        return lambda _: {
            "loss": model(torch.ones(2)).sum() * 0 + (float("nan") if loop.step in bad else 1.0)
        }

    loop.run(losses({2, 3, 6}))
    assert (loop.skipped, loop.step) == (3, 8) and torch.isfinite(model.weight).all()
    assert torch.allclose(model.weight, before, atol=1e-3)
    AcceleratorState._reset_state(reset_partial_state=True)
    loop = make_loop(tmp_path / "again", model, recipe_of(steps=8, worst_loss=2.0))
    with pytest.raises(TrainingFailed, match="3 steps in a row"):
        loop.run(lambda _: {"loss": model(torch.ones(2)).sum() * 0 + 2.0})


def test_eight_bits_of_an_optimizer_train_on_a_processor_too(home):
    recipe = load_clip_recipe(home / "recipe.toml")
    eight = replace(recipe, train=replace(recipe.train, optimizer="adamw8bit"))
    model = torch.nn.Linear(64, 64, bias=False)
    before = model.weight.detach().clone()
    (optimizer,) = clip_dit.make_optimizer(model, eight)
    model(torch.ones(1, 64)).square().sum().backward()
    optimizer.step()
    assert (model.weight - before).abs().max() > 0
    assert optimizer.state[model.weight]["state1"].dtype == torch.uint8


def test_an_end_while_a_checkpoint_takes_its_name_leaves_the_one_before(tmp_path):
    model = torch.nn.Linear(2, 1)
    loop = make_loop(tmp_path, model, recipe_of(steps=2))
    loop.run(lambda _: {"loss": model(torch.ones(2)).square().sum()})
    os.replace(tmp_path / "checkpoint", tmp_path / "checkpoint.before")
    AcceleratorState._reset_state(reset_partial_state=True)
    assert make_loop(tmp_path, model, recipe_of(steps=2)).step == 2


def test_a_disk_that_is_full_is_told_and_what_was_begun_goes(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, torch.nn.Linear(2, 1), recipe_of(steps=2))

    def full(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 89920 vs 89808")

    monkeypatch.setattr(loop, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        loop.save()
    assert not (tmp_path / "checkpoint.part").exists()


def test_texts_of_several_lengths_are_padded():
    made = together([Text(torch.ones(2, 4), torch.ones(3)), Text(torch.ones(5, 4), torch.ones(3))])
    assert made["encoder_hidden_states"].shape == (2, 5, 4)
    assert made["encoder_attention_mask"].sum(1).tolist() == [2, 5]


# -- the cache
def test_the_cache_is_made_once_and_read_by_name(home, whole, tmp_path, monkeypatch):
    cache = Cache(whole / "cache")
    shapes = {entry.name: entry.shape for entry in cache.entries()}
    assert shapes["0.mp4"] == (3, 8, 8) and shapes["p.png"] == (1, 8, 8) and len(shapes) == 6
    stored = cache.read(cache.entries()[0])
    assert stored.mean.shape == stored.deviation.shape == (16, 3, 8, 8)
    assert torch.isfinite(normalize(stored.mean[None], find(whole / "checkpoint").family.scales)).all()
    fill_cache(cache, open_list(home / "clips"), lambda _: pytest.fail("made again"), lambda: None)
    with pytest.raises(ValueError, match="made with another fps"):
        Cache.open(whole / "cache", {"fps": 24})


def test_broken_items_are_told_counted_and_too_many_end_the_run(home, tmp_path):
    clips = tmp_path / "list.jsonl"
    names = ["0.mp4", "gone.mp4", "1.mp4"]
    clips.write_text("\n".join(json.dumps({"video": name, "text": "x"}) for name in names))
    told = []

    def encode(sample):
        with sample.source.path():
            return Stored(torch.zeros(16, 2, 8, 8), None, (Text(torch.zeros(2, 4), torch.zeros(3)),))

    cache = Cache.open(tmp_path / "cache", {})
    nothing = Text(torch.zeros(1, 4), torch.zeros(3))
    fill_cache(cache, open_list(clips, home / "clips"), encode, lambda: nothing, say=told.append)
    check_broken(cache, 0.5)
    assert told == ["skipped: gone.mp4: missing"] and len(cache.entries()) == 2
    with pytest.raises(ValueError, match=r"1 of 3 items cannot be used \(missing 1\)"):
        check_broken(cache, 0.1)


def test_the_references_files_are_read_by_tensors_only(tmp_path):
    torch.save(torch.ones(1, 16, 2, 4, 4, dtype=torch.bfloat16), tmp_path / "latent.pt")
    table = {"prompt_embed": torch.ones(1, 128, 8), "prompt_attention_mask": torch.zeros(1, 128).long()}
    table["prompt_attention_mask"][0, :5] = 1
    torch.save(table | {"pooled_prompt_embed": torch.ones(1, 3)}, tmp_path / "text.pt")
    assert reference_latent(tmp_path / "latent.pt").shape == (16, 2, 4, 4)
    assert reference_text(tmp_path / "text.pt").states.shape == (5, 8)
    torch.save(Path, tmp_path / "program.pt")
    for path, why in ((tmp_path / "program.pt", "damaged"), (tmp_path / "gone.pt", "not there")):
        with pytest.raises(BrokenItem, match=why):
            reference_latent(path)


# -- what is asked for
def test_a_plan_counts_weights_and_tokens(home, whole, tiny_checkpoint):
    told = {"data": str(home / "clips"), "config": str(home / "recipe.toml"), "output": None}
    cost = plan_of(Run("dit", **told))
    model = PyramidFluxTransformer.from_pretrained(whole / "checkpoint" / "diffusion_transformer_64p")
    assert cost.weights == cost.trained == sum(weight.numel() for weight in model.parameters())
    # 64 pixels: 1, 4, 16 tokens a unit; prefixes of 1 to 3 units; 1, 2, 1 samples of each stage
    assert stage_tokens(load_clip_recipe(home / "recipe.toml")) == [[1, 2, 3], [4, 8, 9], [16, 32, 36]]
    assert cost.tokens == pytest.approx(2 + 2 * 7 + 28) and cost.full_tokens == 4 * 3 * 16
    assert (in_all(2.5), in_all(0.25), in_all(0.01)) == ("2.5 days", "6 hours", "14 minutes")
    assert (in_all(4940.2), in_digits(2130.4), in_digits(0.02134)) == ("4,940 days", "2,130", "0.0213")
    assert (in_digits(0), in_digits(12345678.0)) == ("0", "12,300,000")
    assert cost.days > 0 and cost.state_bytes == 20 * cost.weights
    lora = plan_of(Run("lora", source=str(tiny_checkpoint), **told))
    assert lora.trained == 4 * 2 * (32 + 32)
    command = ["train", "dit", "--config", str(home / "recipe.toml"), "--plan", "--data"]
    assert cli.main([*command, str(home / "clips")]) == 0 and cli.main([*command, "gone.csv"]) == 2


@pytest.mark.parametrize(
    "path", sorted((ROOT / "presets" / "training").glob("*clips*.toml")), ids=lambda p: p.stem
)
def test_shipped_recipes_for_clips_load(path):
    recipe = load_clip_recipe(path)
    assert recipe.name == path.stem and recipe.train.stage_shares == (1, 2, 1)


@pytest.mark.parametrize(
    "old, new, why",
    [
        ("width = 64", "width = 65", "multiples of 64"),
        ("frames = 17", "frames = 16", r"1 \+ 8k"),
        ("batch = 4", "batch = 0", r"\[train\]: batch = 0: 1 or more is expected"),
        ("images = 0.25", "images = 2", r"\[data\]: images = 2: 0 to 1 is expected"),
        ("width = 64\nheight = 64", "width = -128\nheight = -128", "width = -128: 0 or more is expected"),
        ("learning_rate = 1e-3", "learning_rate = -1.0", "learning_rate = -1: above 0 is expected"),
        ("learning_rate = 1e-3", "learning_rate = nan", "learning_rate = nan: above 0 is expected"),
        (
            "learning_rate = 1e-3",
            "betas = [0.9, 1.5]",
            r"betas = \(0.9, 1.5\): 0 or more, below 1 is expected",
        ),
        ("learning_rate = 1e-3", "ema_decay = 5.0", "ema_decay = 5: 0 or more, below 1 is expected"),
        ("learning_rate = 1e-3", "clip = -1.0", "clip = -1: above 0 is expected"),
        ("learning_rate = 1e-3", "text_dropout = 3.0", "text_dropout = 3: 0 to 1 is expected"),
        ("learning_rate = 1e-3", "history_noise = 7.0", "history_noise = 7: 0 to 1 is expected"),
        ("learning_rate = 1e-3", "stage_shares = [-1, 3, 1]", r"stage_shares = \(-1, 3, 1\): 0 or more is"),
        ("learning_rate = 1e-3", "sample_every = -1", "sample_every = -1: 0 or more is expected"),
        ("worst_loss = 50", "worst_loss = 0.0", "worst_loss = 0: above 0 is expected"),
        ("alpha = 4", "alpha = 0", r"\[lora\]: alpha = 0: 1 or more is expected"),
        ('name = "mine"', 'name = "../../evil"', "name = '../../evil': a name without / "),
        ('name = "mine"', 'name = ".."', "name = '..': a name without / "),
        ('variant = "64p"', "variant = 'a\\b'", "a name without / "),
        ('precision = "no"', 'precision = "fp8"', "precision = 'fp8': no or bf16 is expected"),
        ("rank = 2", "ranks = 2", "unknown key"),
    ],
)
def test_recipes_are_read_strictly(home, tmp_path, old, new, why):
    path = tmp_path / "r.toml"
    path.write_text((home / "recipe.toml").read_text().replace(old, new))
    with pytest.raises(ValueError, match=why):
        load_clip_recipe(path)


def test_where_to_start_from_is_told_apart(home, tmp_path, tiny_checkpoint):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    assert is_sd3("sd3-medium") and is_sd3("x/sd3.safetensors") and is_sd3(str(tmp_path))
    assert not is_sd3("miniflux") and not is_sd3(str(tiny_checkpoint))
    text = (home / "recipe.toml").read_text().replace(str(tiny_checkpoint), "")
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ValueError, match="parts is empty"):
        train(home, tmp_path / "run", config=str(tmp_path / "r.toml"))
    sd3 = make_checkpoint(tmp_path / "sd3", "sd3")
    (tmp_path / "r.toml").write_text(
        (home / "recipe.toml").read_text().replace(str(tiny_checkpoint), str(sd3))
    )
    with pytest.raises(ValueError, match="give alike"):
        recipe = load_clip_recipe(tmp_path / "r.toml")
        clip_dit.from_nothing(recipe, find(sd3))
