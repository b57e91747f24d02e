"""Training of the transformer, or of a LoRA of it, on clips: `python -m pyramid train dit --data LIST …`.

    made = train_on_clips(Run(kind="dit", data=…, config=…, output=…, source="miniflux"))

Autoregressive with both pyramids as published (arXiv 2410.05954): each sample of a batch is at one stage, by
fixed shares, and trains the last unit of a prefix of its clip, whose history grows coarser into the past and
carries noise. With a pyramid off in the recipe, the same code trains on whole clips at once, or at full
resolution alone. Autoencoder and text encoders are frozen, so their work is done once, before the first step.

All that is random in a step is drawn from (seed, step, place in the batch): so several processes make the
step that one would make, and a run that was killed goes on bit for bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

from pyramid.disk import link, write_json
from pyramid.generate.latents import normalize
from pyramid.generate.lora import new_lora, save_lora
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.schedule import Stage, make_stages
from pyramid.hub.checkpoints import Checkpoint, find, fingerprint, weight_files
from pyramid.hub.families import FAMILIES, GRID, LatentScales, family_of
from pyramid.media.video import VideoWriter
from pyramid.models import transformer_class
from pyramid.models.mmdit import PyramidDiffusionMMDiT
from pyramid.models.sd3 import measure_gains
from pyramid.models.vae import CausalVideoVAE
from pyramid.settings import frames_of
from pyramid.text.encoders import TextEncoders
from pyramid.training.clips.batches import Order, Step, generator_for
from pyramid.training.clips.cache import (
    Cache,
    Stored,
    Text,
    check_broken,
    fill_cache,
    reference_latent,
    reference_text,
)
from pyramid.training.clips.lists import open_list
from pyramid.training.clips.reading import read_clip
from pyramid.training.clips.recipe import ClipRecipe, load_clip_recipe
from pyramid.training.clips.sample import Sample
from pyramid.training.data import to_video
from pyramid.training.loop import Budget, Loop, begin_processes
from pyramid.training.noising import corrupted_history, noised_stage
from pyramid.training.recipe import keys_of
from pyramid.training.trackers import check as check_trackers
from pyramid.training.trackers import flat
from pyramid.training.vae import vae_of

SD3_FILES = ("sd3-medium",)
GAIN_STEPS = 4
GAIN_ROWS = 8


@dataclass(frozen=True)
class Run:
    """What was asked for: `kind` is "dit" or "lora", `source` what the transformer starts from, nothing when
    None, `steps` stand in place of the recipe's.
    """

    kind: str
    data: str
    config: str
    output: str | None = None
    source: str | None = None
    variant: str | None = None
    root: str | None = None
    steps: int | None = None

    def absolute(self) -> Run:
        """The same with files by their full names, for a process that was started elsewhere."""
        names = ("data", "config", "output", "root", "source")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        there: dict[str, Any] = {
            name: str(Path(path).absolute()) for name, path in given.items() if Path(path).exists()
        }
        return replace(self, **there)


# -- what a run needs
@dataclass(frozen=True)
class Parts:
    """A checkpoint's frozen parts, the family's latent scales, and a name for the weights that made them."""

    checkpoint: Checkpoint
    scales: LatentScales
    vae_folder: Path
    vae: CausalVideoVAE
    text: TextEncoders
    about: dict[str, str]


def read_recipe(run: Run) -> ClipRecipe:
    """The recipe with what the command says in place of it. ValueError for it, and for the list."""
    open_list(run.data, run.root)
    recipe = load_clip_recipe(run.config)
    if run.steps is not None:
        recipe = replace(recipe, train=replace(recipe.train, steps=run.steps))
    if run.kind == "lora" and run.source is None:
        raise ValueError("train lora needs --from: the checkpoint that the LoRA is for")
    if run.kind == "lora" and is_sd3(str(run.source)):
        raise ValueError(
            f"--from {run.source}: Stable Diffusion 3 makes no videos, so no LoRA is trained for it: train "
            "dit makes a checkpoint of it, which a LoRA can be for"
        )
    return recipe


def source_checkpoint(run: Run, recipe: ClipRecipe) -> tuple[Checkpoint | None, Checkpoint]:
    """The checkpoint to start from, None for Stable Diffusion 3 and for nothing, and the one that lends its
    autoencoder and text encoders. Raises ValueError.
    """
    own = None if run.source is None or is_sd3(run.source) else find(run.source, run.variant)
    if recipe.network.parts:
        return own, find(recipe.network.parts)
    if own is None:
        raise ValueError(
            f"{run.config}: [network] parts is empty: name the checkpoint that lends autoencoder and text "
            "encoders, such as miniflux"
        )
    return own, own


def is_sd3(source: str) -> bool:
    """Whether a source is Stable Diffusion 3's, in one of its layouts, and not a checkpoint of ours."""
    path = Path(source)
    known = source in SD3_FILES or source.startswith("stabilityai/")
    return known or path.suffix in (".safetensors", ".ckpt") or _has_sd3(path)


def _has_sd3(path: Path) -> bool:
    """Whether a folder has diffusers' configuration of SD3's transformer."""
    for config in (path / "config.json", path / "transformer" / "config.json"):
        if config.is_file():
            return (
                json.loads(config.read_text(encoding="utf-8")).get("_class_name") == "SD3Transformer2DModel"
            )
    return False


def load_parts(checkpoint: Checkpoint, other_vae: str = "") -> Parts:
    """The frozen parts, on this process's device, perhaps with another autoencoder. ValueError where text
    encoders are missing.
    """
    if not checkpoint.has_text:
        raise ValueError(f"{checkpoint.folder} has no text encoders, which captions need")
    device = PartialState().device
    vae_folder = vae_of(other_vae) if other_vae else checkpoint.vae
    vae = CausalVideoVAE.from_pretrained(vae_folder, torch_dtype=torch.float32).eval().to(device)
    text = TextEncoders.from_folder(checkpoint.folder, device=device, cache=False, keep=True)
    scales = LatentScales.stated(vae.config) or checkpoint.family.scales
    weights = [fingerprint(path)[:16] for path in weight_files(vae_folder)]
    return Parts(
        checkpoint, scales, vae_folder, vae, text, {"vae": " ".join(weights), "text": text.identity[:16]}
    )


def fill(run: Run, recipe: ClipRecipe, parts: Parts, folder: Path) -> Cache:
    """The cache of the run's list, complete. Raises ValueError where too much of the list is broken."""
    state = PartialState()
    cache = fill_share(run, recipe, parts, folder, (state.process_index, state.num_processes))
    state.wait_for_everyone()
    check_broken(cache, recipe.data.most_broken)
    return cache


def fill_share(
    run: Run, recipe: ClipRecipe, parts: Parts, folder: Path, share: tuple[int, int], say=print
) -> Cache:
    """The cache in a folder, with one share of the run's list in it: `(which, of how many)`."""
    data = recipe.data
    about: dict[str, Any] = {"space": "of the autoencoder", **parts.about, "fps": data.fps}
    about |= {"frames": data.frames, "sizes": data.sizes, "cuts": data.cuts}
    cache = Cache.open(folder, about)
    listing = open_list(run.data, run.root)

    def encode(sample: Sample) -> Stored:
        mean, deviation = _latents(sample, recipe, parts)
        return Stored(mean, deviation, _texts(sample, parts))

    def nothing() -> Text:
        return _text_of([""], parts)[0]

    try:
        fill_cache(cache, listing, encode, nothing, share=share, say=say)
    finally:
        parts.text.free()
    return cache


@torch.no_grad()
def _latents(sample: Sample, recipe: ClipRecipe, parts: Parts) -> tuple[Tensor, Tensor | None]:
    if sample.latent is not None:
        return reference_latent(sample.latent), None
    video = to_video(read_clip(sample, recipe.data.wanted)[None]).to(parts.vae.device)
    posterior = parts.vae.encode(video).latent_dist
    return posterior.mean[0].float().cpu(), posterior.std[0].float().cpu()


def _texts(sample: Sample, parts: Parts) -> tuple[Text, ...]:
    if sample.text_features is not None:
        return (reference_text(sample.text_features),)
    return tuple(_text_of(list(sample.captions), parts))


def _text_of(captions: list[str], parts: Parts) -> list[Text]:
    embeds = parts.text.encode(captions)
    rows = zip(embeds.prompt_embeds, embeds.attention_mask, embeds.pooled, strict=True)
    return [Text(states[mask.bool()].float(), pooled.float()) for states, mask, pooled in rows]


# -- the network
def start_network(run: Run, recipe: ClipRecipe, own: Checkpoint | None, parts: Parts) -> nn.Module:
    """The transformer to train: of a checkpoint, of Stable Diffusion 3 Medium, or from nothing."""
    causal = recipe.train.temporal_pyramid
    if own is not None:
        load = transformer_class(own.transformer_class).from_pretrained
        model = load(own.transformer, torch_dtype=torch.float32)
    elif run.source is not None:
        model = PyramidDiffusionMMDiT.from_sd3(run.source)
    else:
        model = from_nothing(recipe, parts.checkpoint)
    model.register_to_config(use_temporal_causal=causal)
    if recipe.train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def freeze_unused(model: Any) -> None:
    """No gradient for what the last block never uses: SD3's has no text behind it, so its text asks nothing.

    Processes that exchange gradients would wait for those.
    """
    last = model.blocks[-1]
    if getattr(last, "text_ends", False):
        last.attn.add_q_proj.requires_grad_(False)
        last.attn.norm_add_q.requires_grad_(False)


def from_nothing(recipe: ClipRecipe, checkpoint: Checkpoint) -> nn.Module:
    """A fresh transformer of the recipe's size, for the texts of a checkpoint's encoders."""
    net = recipe.network
    like = json.loads((checkpoint.transformer / "config.json").read_text())
    family = FAMILIES[net.family]
    if family is not checkpoint.family:
        raise ValueError(
            f"[network] family is {net.family}, parts are of {checkpoint.family.name}: give alike"
        )
    texts = {key: like[key] for key in ("joint_attention_dim", "pooled_projection_dim") if key in like}
    sizes = family.config(
        layers=net.layers, single_layers=net.single_layers, heads=net.heads, head_dim=net.head_dim
    )
    return transformer_class(family.transformer_class)(**sizes, **texts)


def add_lora(model: Any, recipe: ClipRecipe) -> Any:
    """The transformer, frozen, with the recipe's LoRA in it; its configuration. ValueError for unknown
    layers.
    """
    lora = recipe.lora
    try:
        return new_lora(model, lora.rank, lora.alpha, list(lora.targets))
    except ValueError as error:
        raise ValueError(f"[lora] targets {', '.join(lora.targets)}: {error}") from None


def make_optimizer(model: nn.Module, recipe: ClipRecipe) -> list[torch.optim.Optimizer]:
    """AdamW; norms, biases and vectors have no weight decay. ValueError for 8 bits without bitsandbytes."""
    train = recipe.train
    groups: tuple[list, list] = ([], [])
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            groups[weight.ndim <= 1 or name.endswith(".bias")].append(weight)
    decays = (train.weight_decay, 0.0)
    tables = [{"params": g, "weight_decay": d} for g, d in zip(groups, decays, strict=True) if g]
    options: dict[str, Any] = {"lr": train.learning_rate, "betas": train.betas, "eps": train.eps}
    if train.optimizer == "adamw":
        if train.update != "plain":
            options[train.update] = True
        return [torch.optim.AdamW(tables, **options)]
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise ValueError(
            "[train] optimizer = adamw8bit takes the package bitsandbytes, which is not installed: "
            "pip install bitsandbytes, or use adamw"
        ) from None
    return [AdamW8bit(tables, **options)]


# -- a step
@dataclass(frozen=True)
class Row:
    """One sample as the transformer gets it: clips `(1, c, t, h, w)`, what it is to answer, and the text."""

    clips: list[Tensor]
    target: Tensor
    timestep: Tensor
    text: Text


class Stepper:
    """What `Loop.run` calls for each step: the parts of its loss that this process works on."""

    def __init__(self, loop: Loop, cache: Cache, recipe: ClipRecipe, scales: LatentScales):
        self.loop = loop
        self.cache = cache
        self.recipe = recipe
        self.scales = scales
        self.order = Order(cache.entries(), recipe)
        self.stages = make_stages(recipe.stages)
        self.nothing = cache.nothing()
        processes = loop.accelerator.num_processes
        if recipe.train.batch % processes:
            raise ValueError(
                f"[train] batch = {recipe.train.batch} is no multiple of the {processes} processes"
            )

    def __call__(self, _: float) -> Sequence[Callable[[], dict[str, Tensor]]]:
        """The parts of the next step: places of one stage that go through the model together."""
        step = self.order.step(self.loop.step)
        accelerator = self.loop.accelerator
        size = len(step.entries)
        taken = self.places_of(step, accelerator.process_index)
        # The exchange takes the mean over processes: of sums, each times the number of processes.
        weights = [len(places) * accelerator.num_processes / size for places in taken]
        if self.loop.sharded:  # all put the weights together equally often, or they wait for one another
            most = max(len(self.places_of(step, index)) for index in range(accelerator.num_processes))
            weights += [0.0] * (most - len(taken))
            taken += taken[:1] * (most - len(taken))
        return [partial(self.part, step, *part) for part in zip(taken, weights, strict=True)]

    def places_of(self, step: Step, process: int) -> list[list[int]]:
        """For each forward of a process the places of the batch that go through it."""
        share = len(step.entries) // self.loop.accelerator.num_processes
        first = process * share
        micro = self.recipe.train.micro
        found = []
        for stage in range(len(self.stages)):
            places = [place for place in range(first, first + share) if step.stages[place] == stage]
            found += [places[at : at + micro] for at in range(0, len(places), micro)]
        return found

    @torch.no_grad()
    def measure_gains(self, steps: int = GAIN_STEPS) -> None:
        """Set the gains of the q/k norms by what the first steps see: Stable Diffusion 3 has none to start
        from (`models.sd3.measure_gains`). Each process sees the same.
        """
        chosen = [self.order.step(number) for number in range(steps)]
        places = ((step, place) for step in chosen for place in range(len(step.entries))[:GAIN_ROWS])
        batches = (self.arguments(step, [place])[0] for step, place in places)
        measure_gains(self.loop.accelerator.unwrap_model(self.loop.model), batches)
        self.loop.restart_average()

    def part(self, step: Step, places: Sequence[int], weight: float) -> dict[str, Tensor]:
        """The loss of some places of one stage, as much of the whole as they are."""
        arguments, target = self.arguments(step, places)
        velocity = self.loop.model(**arguments)
        return {"loss": F.mse_loss(velocity.float(), target) * weight}

    def arguments(self, step: Step, places: Sequence[int]) -> tuple[dict[str, Any], Tensor]:
        """What the transformer gets of some places of one stage, and what it is to answer."""
        rows = [self.row(step, place) for place in places]
        device = self.loop.accelerator.device
        clips = [torch.cat(clips).to(device) for clips in zip(*(row.clips for row in rows), strict=True)]
        texts = {name: value.to(device) for name, value in together([row.text for row in rows]).items()}
        timestep = torch.cat([row.timestep for row in rows]).to(device)
        target = torch.cat([row.target for row in rows]).to(device)
        return {"clips": clips, "timestep": timestep, **texts}, target

    def row(self, step: Step, place: int) -> Row:
        """The sample at one place of the batch: all that is random is drawn here, in this order."""
        train = self.recipe.train
        stage = step.stages[place]
        generator = generator_for(self.recipe.seed, step.number, place)
        stored = self.cache.read(step.entries[place])
        chosen = int(torch.randint(len(stored.texts), (1,), generator=generator))
        dropped = bool(torch.rand(1, generator=generator) < train.text_dropout)
        latents = stored.mean
        if stored.deviation is not None:
            latents = latents + stored.deviation * torch.randn(latents.shape, generator=generator)
        clip = normalize(latents[None], self.scales)[:, :, : step.prefixes[place]]
        history, noisy, target, timestep = sample_of(clip, stage, self.stages, self.recipe, generator)
        text = self.nothing if dropped else stored.texts[chosen]
        return Row([*history, noisy], target, timestep, text)


def sample_of(
    clip: Tensor,
    stage: int,
    stages: Sequence[Stage],
    recipe: ClipRecipe,
    generator: torch.Generator,
    coarse: Sequence[Tensor] = (),
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """(history, noisy, target, timestep) of a clip `(1, c, t, h, w)`: its last unit is denoised behind the
    others, or, without the temporal pyramid, all of it. `coarse`: the clip's coarser levels, where they are
    not averages of it (`noising.stage_ends`).
    """
    past = clip[:, :, :0]
    clean = clip
    if recipe.train.temporal_pyramid:
        past = clip[:, :, :-1]
        clean = clip[:, :, -1:]
        coarse = [level[:, :, -1:] for level in coarse]
    noise = torch.randn(clean.shape, generator=generator)
    index = torch.randint(len(stages[stage].timesteps), (1,), generator=generator)
    noisy, target, timestep = noised_stage(clean, noise, stages, stage, index, coarse)
    units = past.split(1, dim=2) if past.shape[2] else ()
    strongest = recipe.train.history_noise
    history = corrupted_history(units, stage, len(stages), strongest=strongest, generator=generator)
    return history, noisy, target, timestep


def together(texts: Sequence[Text]) -> dict[str, Tensor]:
    """Texts of several lengths as the transformer takes them, padded, with their mask."""
    longest = max(len(text.states) for text in texts)
    states = torch.stack([F.pad(text.states, (0, 0, 0, longest - len(text.states))) for text in texts])
    lengths = torch.tensor([len(text.states) for text in texts])
    return {
        "encoder_hidden_states": states,
        "encoder_attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "pooled_projections": torch.stack([text.pooled for text in texts]),
    }


# -- the whole
def train_on_clips(run: Run) -> Path:
    """Train (or go on from the last checkpoint), and write what the app reads: a checkpoint or a LoRA.

    Returns its folder. Raises ValueError for whatever in the list, the recipe or the source cannot be used,
    TrainingFailed (one too) where steps fail in a row.
    """
    recipe = read_recipe(run)
    check_trackers(recipe.train.trackers)
    begin_processes()
    folder = Path(run.output or Path("runs") / recipe.name)
    own, checkpoint = source_checkpoint(run, recipe)
    torch.manual_seed(recipe.seed)
    parts = load_parts(checkpoint, recipe.network.vae)
    cache = fill(run, recipe, parts, folder / "cache")
    parts.vae.to("cpu")
    model = start_network(run, recipe, own, parts)
    lora = add_lora(model, recipe) if run.kind == "lora" else None
    freeze_unused(model)
    loop = make_loop(folder / run.kind, model, recipe, fixed_of(run, recipe))
    loop.about = flat(recipe)
    stepper = Stepper(loop, cache, recipe, parts.scales)
    if own is None and run.source is not None and loop.step == 0:
        stepper.measure_gains()
    whole = partial(whole_model, loop, lora)
    loop.run(stepper, Sampler(whole, cache, recipe, parts).save if recipe.train.sample_every else None)
    trained = whole()
    if not loop.accelerator.is_main_process:
        return folder
    if lora is not None:
        return save_lora(trained, folder / recipe.name, lora).parent
    return save_checkpoint(trained, folder / "checkpoint", recipe, parts, cache)


def whole_model(loop: Loop, lora: Any = None) -> Any:
    """The model of a loop as one process can run and save it. Of a sharded run a copy, put together in main
    memory: all processes call it, and the first has the weights.
    """
    model = loop.accelerator.unwrap_model(loop.model)
    if not loop.sharded:
        return model.eval()
    weights = loop.whole_weights()
    with torch.device("meta"):
        copy: Any = transformer_class(model.published).from_config(model.config)
    if lora is not None:
        copy.add_adapter(lora)
    if loop.accelerator.is_main_process:
        copy.load_state_dict(weights, assign=True)
    return copy.eval()


def fixed_of(run: Run, recipe: ClipRecipe) -> dict[str, Any]:
    """What has to stay as it is while a run goes on: what is trained, and by which optimizer."""
    fixed = keys_of("train", recipe.train, "optimizer")
    if run.kind == "lora":
        return fixed | keys_of("lora", recipe.lora, "rank", "alpha", "targets")
    if run.source is not None:
        return fixed  # the source has the sizes
    return fixed | keys_of(
        "network", recipe.network, "family", "layers", "single_layers", "heads", "head_dim"
    )


def make_loop(
    folder: Path, model: nn.Module, recipe: ClipRecipe, fixed: dict[str, Any] | None = None
) -> Loop:
    """The loop as the recipe has it. `fixed`: see `fixed_of`."""
    train = recipe.train
    loop = Loop(
        folder,
        model,
        lambda m: make_optimizer(m, recipe),
        budget=Budget(steps=train.steps),
        ema_decay=train.ema_decay,
        constant_share=1.0,
        mixed_precision=train.precision,
        sharding=train.sharding,
        fixed=fixed,
    )
    loop.trackers = train.trackers
    loop.run_name = recipe.name
    loop.log_every = train.log_every
    loop.warm_up = train.warm_up
    loop.clip_norm = train.clip
    loop.worst_loss = train.worst_loss
    loop.save_steps = train.save_every
    loop.sample_steps = train.sample_every or None
    return loop


class Sampler:
    """Makes a video of a caption of the list meanwhile: what the model can do so far."""

    steps = 10

    def __init__(self, whole: Callable[[], Any], cache: Cache, recipe: ClipRecipe, parts: Parts):
        self.whole = whole
        self.recipe = recipe
        self.parts = parts
        self.entry = max(cache.entries(), key=lambda entry: entry.shape[0])
        self.text = cache.read(self.entry).texts[0]
        self.nothing = cache.nothing()

    def save(self, path: Path) -> None:
        """A video beside `path`, by the first process."""
        model = self.whole()
        state = PartialState()
        if not state.is_main_process:
            return
        pipe = PyramidFlowPipeline(model.to(state.device), self.parts.vae)
        pipe.vae.to(state.device)
        pipe.set_progress_bar_config(disable=True)
        defaults = self.parts.checkpoint.defaults  # the guidance that the result will be used with
        units, *shape = self.entry.shape
        height, width = (GRID.downsampling * side for side in shape)
        both = together([self.text, self.nothing])
        names = {"encoder_hidden_states": "prompt_embeds", "encoder_attention_mask": "prompt_attention_mask"}
        names["pooled_projections"] = "pooled_prompt_embeds"
        embeds: dict[str, Any] = {new: both[old][:1] for old, new in names.items()}
        embeds |= {f"negative_{new}": both[old][1:] for old, new in names.items()}
        output: Any = pipe(
            num_frames=frames_of(units),
            width=width,
            height=height,
            num_inference_steps=(self.steps,) * self.recipe.stages,
            video_num_inference_steps=(self.steps,) * self.recipe.stages,
            guidance_scale=defaults.guidance_scale,
            video_guidance_scale=defaults.video_guidance_scale,
            seed=self.recipe.seed,
            output_type="np",
            **embeds,
        )
        frames = output.frames[0]
        with VideoWriter(path.with_suffix(".mp4"), self.recipe.data.fps, (width, height)) as writer:
            writer.write((frames * 255).round().astype("uint8"))


def save_checkpoint(model: Any, folder: Path, recipe: ClipRecipe, parts: Parts, cache: Cache) -> Path:
    """A checkpoint in the published layout, which the app lists and runs: the transformer, the parts beside
    it (linked where the disk allows that), and what it was trained for.
    """
    variant = recipe.network.variant
    model.to(torch.bfloat16).save_pretrained(folder / f"diffusion_transformer_{variant}")
    source = parts.checkpoint.folder
    names = [encoder.folder for encoder in parts.checkpoint.family.text]
    names += [encoder.tokenizer for encoder in parts.checkpoint.family.text]
    folders = {"causal_video_vae": parts.vae_folder} | {name: source / name for name in names}
    for name, there in folders.items():
        shutil.copytree(there, folder / name, copy_function=link, dirs_exist_ok=True)
    write_json(folder / "pyramid.json", describe(type(model).__name__, recipe, parts, cache))
    return folder


def describe(name: str, recipe: ClipRecipe, parts: Parts, cache: Cache) -> dict[str, Any]:
    """What `pyramid.json` says of the checkpoint: what was trained, and what to start from."""
    shapes = {entry.shape for entry in cache.entries()}
    units = max(shape[0] for shape in shapes)
    there = {shape[1:] for shape in shapes}
    used = [size for size in recipe.data.sizes if GRID.latent_shape(*size) in there]
    before = parts.checkpoint.defaults
    steps = [*before.steps][: recipe.stages]
    return {
        "name": recipe.name,
        "family": family_of(name).name,
        "variant": recipe.network.variant,
        "sizes": [list(size) for size in used],
        "max_units": units,
        "num_frames": frames_of(units),
        "fps": round(recipe.data.fps),
        "num_inference_steps": steps,
        "video_num_inference_steps": [*before.video_steps][: recipe.stages],
        "guidance_scale": before.guidance_scale,
        "video_guidance_scale": before.video_guidance_scale,
        "negative_prompt": before.negative_prompt,
        "prompt_suffix": before.prompt_suffix,
        "licence": parts.checkpoint.licence,
    }
