"""Distillation: a student that crosses each stage in one or two steps, without guidance.

    python -m pyramid train distill --from embedded --config presets/training/distill-cpu.toml
    python -m pyramid generate --model runs/distill-cpu/checkpoint --variant 128p-fast --prompt "…"

A stage is a path between two ends that are both known once the teacher has walked it: with the same start,
the same history and the same text the teacher always arrives at the same end. So the student, which begins as
the teacher's copy, is told the straight way from each of its few levels to the next, `(x_a - x_b) / (a - b)`,
and learns it by regression, each stage by itself. What the teacher adds by guidance is in that way already.

Later a share of the rollouts goes on from the student's own ends: the teacher then says how it would have
crossed a stage from where the student is, with the student's past. So the student learns what to do about its
own errors.

Rollouts are made as training goes and kept in `distill/rollouts`, each written before it is used: a run that
was interrupted goes on with exactly what it would have had.

Source: arXiv 2410.05954 for the stages; regression on the trajectories of a teacher after Luhman and Luhman,
arXiv 2101.02388; own rollouts after Ross et al., arXiv 1011.0686.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyramid.disk import check_file, link, whole, write_json
from pyramid.generate.guidance import Guidance, GuidedModel, Prompt
from pyramid.generate.latents import history, jump
from pyramid.generate.lora import new_lora, save_lora
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.generate.sampler import Crossing, Noise
from pyramid.generate.schedule import Stage, make_stages
from pyramid.hub.checkpoints import PREFIX, VAE, Checkpoint
from pyramid.hub.families import GRID
from pyramid.models.for_diffusers import StageTransformer
from pyramid.training.loop import Budget, Loop, begin_alone
from pyramid.training.optim import make_optimizers
from pyramid.training.recipe import DistillRecipe, Recipe, keys_of, load_recipe
from pyramid.training.world import caption

BLOCK_LAYERS = (  # a pattern, as peft takes it: in both families
    r".*transformer_blocks\.\d+\.(attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|proj_mlp|proj_out|(ff|ff_context)\.net\.(0\.proj|2))"
)
TEXT_KEYS = ("text", "caption", "prompt")  # of the lines of a .jsonl file

# ----------------------------------------------------------------------------------------------------------
# Texts


def read_prompts(data: str | None, recipe: Recipe) -> list[str]:
    """The prompts to distill on, each once.

    data: a .txt file, a prompt a line, or a .jsonl file with "text", "caption" or "prompt" in each; None:
    captions of the synthetic world's training scenes. Raises ValueError for a file without any.
    """
    if data is None:
        rng = np.random.default_rng(recipe.seed)
        scenes = recipe.world.training_scenes()
        return sorted({caption(s, rng) for s in scenes for _ in range(recipe.distill.captions_per_scene)})
    path = Path(data)
    try:
        check_file(path)
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if path.suffix == ".jsonl":
            lines = [_text_of(json.loads(line)) for line in lines]
    except (OSError, ValueError) as error:
        raise ValueError(f"--data {data} cannot be read: {error}") from None
    prompts = sorted({line.strip() for line in lines} - {""})
    if not prompts:
        raise ValueError(f"--data {data} holds no prompt: give one a line, or .jsonl with {TEXT_KEYS[0]!r}.")
    return prompts


def _text_of(row: object) -> str:
    known = [row[key] for key in TEXT_KEYS if isinstance(row, dict) and isinstance(row.get(key), str)]
    return known[0] if known else ""


class Prompts:
    """Prompts as embeddings, grouped by their length: rows of one length share each attention call."""

    def __init__(self, pipe: PyramidFlowPipeline, texts: Sequence[str], negative: str):
        self.groups: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for text in texts:
            states, pooled = _encoded(pipe, text)
            self.groups.setdefault(states.shape[0], []).append((states, pooled))
        self.negative = _encoded(pipe, negative)
        sizes = np.array([len(group) for group in self.groups.values()], dtype=float)
        self.shares = sizes / sizes.sum()

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`count` prompts of one length: "states" (b, l, d) and "pooled" (b, p)."""
        group = self.groups[list(self.groups)[rng.choice(len(self.groups), p=self.shares)]]
        rows = [group[i] for i in rng.integers(len(group), size=count)]
        return {"states": torch.stack([r[0] for r in rows]), "pooled": torch.stack([r[1] for r in rows])}

    def unwanted(self, count: int, length: int) -> Prompt:
        """The negative prompt, `count` times, padded (or cut) to `length` tokens."""
        states, pooled = self.negative
        mask = (torch.arange(length) < len(states)).long().expand(count, -1)
        states = F.pad(states[:length], (0, 0, 0, max(length - len(states), 0)))
        return Prompt(states.expand(count, -1, -1), mask, pooled.expand(count, -1))


def _encoded(pipe: PyramidFlowPipeline, text: str) -> tuple[Tensor, Tensor]:
    """(l, d) without padding, and (p,)."""
    embeds = pipe.text.encode([text])
    length = int(embeds.attention_mask.sum())
    return embeds.prompt_embeds[0, :length].float(), embeds.pooled[0].float()


# ----------------------------------------------------------------------------------------------------------
# Rollouts


@dataclass(frozen=True, eq=False)
class Rollout:
    """Where the teacher went, on clips of one text length.

    `nodes[unit][stage]` are the latents at the student's levels, first to last, (k + 1, b, c, 1, h, w);
    `units` the clean units that later ones saw as their past, each (b, c, 1, h, w).
    """

    states: Tensor
    pooled: Tensor
    units: list[Tensor]
    nodes: list[list[Tensor]]

    def save(self, path: Path) -> None:
        """Write the rollout, whole or not at all. float16 is exact to three digits, and half as large."""
        tensors = {"states": self.states, "pooled": self.pooled}
        tensors |= {f"unit.{u}": x for u, x in enumerate(self.units)}
        tensors |= {f"node.{u}.{s}": x for u, row in enumerate(self.nodes) for s, x in enumerate(row)}
        with whole(path) as part:
            save_file({name: x.half().contiguous() for name, x in tensors.items()}, part)

    @classmethod
    def load(cls, path: Path) -> Rollout:
        """Read one that was written."""
        tensors = {name: x.float() for name, x in load_file(path).items()}
        count = sum(name.startswith("unit.") for name in tensors)
        stages = sum(name.startswith("node.0.") for name in tensors)
        nodes = [[tensors[f"node.{u}.{s}"] for s in range(stages)] for u in range(count)]
        units = [tensors[f"unit.{u}"] for u in range(count)]
        return cls(tensors["states"], tensors["pooled"], units, nodes)


def cross(model: GuidedModel, crossing: Crossing, unit: int, stage: Stage, past: list[Tensor], x: Tensor):
    """The latents before and after each step of a stage, `len(levels)` of them, from `x` on."""
    velocity_of = model.stage(unit, stage.index, past, x)
    path = [x]
    before = None
    for index, timestep in enumerate(crossing.timesteps):
        velocity = velocity_of(path[-1], timestep)
        path.append(crossing.step(index, path[-1], velocity, before))
        before = velocity
    return path


def roll_out(
    teacher: GuidedModel, student: GuidedModel | None, noise: Noise, settings: DistillRecipe, units: int
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """`units` and `nodes` of a `Rollout`: the teacher's path through each stage of each unit.

    With a student each stage begins where the student came to, and what is past is what the student made.
    """
    stages = make_stages(len(settings.stage_steps))
    past: list[Tensor] = []
    nodes: list[list[Tensor]] = []
    for unit in range(units):
        x = noise.initial(unit, len(stages)).to(teacher.device)
        nodes.append([])
        for stage in stages:
            if stage.index:
                finer = (*x.shape[:3], 2 * x.shape[3], 2 * x.shape[4])
                x = jump(x, stage, noise.jump(unit, stage.index, finer).to(x.device))
            clips = history(past, stage.index, len(stages))
            steps = settings.stage_steps[stage.index]
            between = settings.teacher_steps[stage.index]
            fine = Crossing(*_even(stage, steps * between), multistep=True)
            path = cross(teacher, fine, unit, stage, clips, x)
            nodes[-1].append(torch.stack(path[::between]))
            x = path[-1]
            if student is not None:
                few = Crossing(*_even(stage, steps))
                x = cross(student, few, unit, stage, clips, path[0])[-1]
        past.append(x)
    return past, nodes


def _even(stage: Stage, steps: int) -> tuple[list[float], list[float]]:
    timesteps, levels = stage.even(steps)
    return timesteps.tolist(), levels.tolist()


class Rollouts:
    """The rollouts that a run trains on: the last `kept`, a new one every so many steps.

    `make(index)` makes the one of that number. Which of them there are at a step depends on the step alone.
    """

    def __init__(self, folder: Path, settings: DistillRecipe, make: Callable[[int], Rollout]):
        self.folder = folder
        self.settings = settings
        self.make = make
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held: dict[int, Rollout] = {}

    def at(self, step: int) -> list[Rollout]:
        """The rollouts to draw from at a step."""
        newest = self.settings.first_rollouts - 1 + step // self.settings.steps_a_rollout
        wanted = range(max(0, newest + 1 - self.settings.kept_rollouts), newest + 1)
        for index in [index for index in self._held if index not in wanted]:
            del self._held[index]
        self._path(wanted[0] - self.settings.kept_rollouts - 1).unlink(missing_ok=True)
        for index in wanted:
            if index not in self._held:
                self._held[index] = self._read_or_make(index)
        return list(self._held.values())

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"

    def _read_or_make(self, index: int) -> Rollout:
        path = self._path(index)
        if not path.exists():
            self.make(index).save(path)
        return Rollout.load(path)  # as a run that goes on later would have it


# ----------------------------------------------------------------------------------------------------------
# Training


def stage_loss(student, rollout: Rollout, unit: int, stage: Stage, corruption: float, generator) -> Tensor:
    """Mean squared error of the student's velocity at all of its levels of one unit's stage.

    corruption: the strongest noise on the past, one level a sample, as in the training of the model itself.
    """
    nodes = rollout.nodes[unit][stage.index]
    steps = len(nodes) - 1
    rows = nodes.shape[1]
    device = next(student.parameters()).device
    timesteps = stage.even(steps)[0].repeat_interleave(rows)
    target = steps * (nodes[:-1] - nodes[1:])  # all intervals are 1 / steps
    clips = history(rollout.units[:unit], stage.index, len(rollout.nodes[unit]))
    if clips and corruption:
        strength = corruption * torch.rand(rows, 1, 1, 1, 1, generator=generator)
        clips = [clip + strength * torch.randn(clip.shape, generator=generator) for clip in clips]
    clips = [clip.repeat(steps, 1, 1, 1, 1) for clip in clips] + [nodes[:-1].flatten(0, 1)]
    velocity = student(
        [clip.to(device) for clip in clips],
        timestep=timesteps.to(device),
        encoder_hidden_states=rollout.states.repeat(steps, 1, 1).to(device),
        encoder_attention_mask=torch.ones(steps * rows, rollout.states.shape[1], device=device),
        pooled_projections=rollout.pooled.repeat(steps, 1).to(device),
    )
    return F.mse_loss(velocity.float(), target.flatten(0, 1).to(device))


class Distillation:
    """A teacher, its student, and the loop that trains it."""

    def __init__(self, recipe: Recipe, pipe: PyramidFlowPipeline, prompts: Prompts, folder: Path):
        settings = recipe.distill
        self.recipe = recipe
        self.settings = settings
        self.pipe = pipe
        self.prompts = prompts
        self.stages = make_stages(len(settings.stage_steps))
        student = copy.deepcopy(pipe.transformer).float().train().requires_grad_(not settings.lora_rank)
        rank = settings.lora_rank
        self.lora = new_lora(student, rank, rank, BLOCK_LAYERS) if rank else None
        matrices = "blocks" if settings.muon and self.lora is None else ""
        self.loop = Loop(
            folder / "distill",
            student,
            lambda m: make_optimizers(m, settings.learning_rate, matrices=matrices),
            budget=Budget(settings.minutes, settings.steps),
            ema_decay=settings.ema_decay,
            constant_share=settings.constant_share,
            fixed=keys_of("distill", settings, "lora_rank", "muon"),
        )
        pipe.transformer.to(self.loop.accelerator.device).requires_grad_(False)
        self.rollouts = Rollouts(folder / "distill" / "rollouts", settings, self.make_rollout)

    @property
    def student(self) -> StageTransformer:
        """The network that is trained, by itself."""
        return self.loop.accelerator.unwrap_model(self.loop.model)

    def finished(self, folder: Path) -> StageTransformer:
        """The student, a LoRA's learning in its weights; the LoRA itself goes to `folder` too."""
        student: Any = self.student.eval()  # diffusers' mixins are not typed
        if self.lora is not None:
            save_lora(student, folder, self.lora)
            student.fuse_lora()
            student.unload_lora()
        return student

    @property
    def units(self) -> int:
        """Of the clips that are trained on."""
        return self.settings.units or self.pipe.defaults.units

    def make_rollout(self, index: int) -> Rollout:
        """The rollout of a number: what is drawn for it depends on nothing else."""
        settings = self.settings
        defaults = self.pipe.defaults
        rng = np.random.default_rng([self.recipe.seed, 1, index])
        text = self.prompts.draw(settings.batch, rng)
        seeds = rng.integers(2**31, size=settings.batch).tolist()
        own = self.loop.progress >= settings.own_from and rng.random() < settings.own
        transformer = self.pipe.transformer
        mask = torch.ones(text["states"].shape[:2], dtype=torch.long)
        wanted = Prompt(text["states"], mask, text["pooled"])
        unwanted = self.prompts.unwanted(*mask.shape)
        guidance = Guidance(
            settings.guidance or defaults.guidance_scale,
            settings.guidance or defaults.video_guidance_scale,
            stages=defaults.guided_stages,
        )
        teacher = GuidedModel(transformer, _on(wanted, transformer), _on(unwanted, transformer), guidance)
        student = None
        if own:
            student = GuidedModel(self.student, _on(wanted, self.student), guidance=Guidance(1.0, 1.0))
        size = GRID.latent_shape(defaults.width, defaults.height)
        noise = Noise((transformer.latent_channels, *size), seeds)
        units, nodes = roll_out(teacher, student, noise, settings, self.units)
        units = [x.cpu() for x in units]
        nodes = [[x.cpu() for x in row] for row in nodes]
        return Rollout(text["states"], text["pooled"], units, nodes)

    def step(self, _: float) -> dict[str, Tensor]:
        """The losses of a step: each stage at one unit of one rollout, drawn by the step's number."""
        loop = self.loop
        rng = np.random.default_rng([self.recipe.seed, 2, self.loop.step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        held = self.rollouts.at(loop.step)
        losses: dict[str, Tensor] = {}
        for stage in self.stages:
            rollout = held[rng.integers(len(held))]
            unit = int(rng.integers(self.units))
            noise = self.settings.history_noise
            losses[f"stage{stage.index}"] = stage_loss(loop.model, rollout, unit, stage, noise, generator)
        return {"loss": sum(losses.values(), start=torch.zeros(())) / len(self.stages)} | losses


def _on(prompt: Prompt, model: StageTransformer) -> Prompt:
    """A prompt where a model is, in its dtype."""
    return Prompt(
        prompt.embeds.to(model.device, model.dtype),
        prompt.mask.to(model.device),
        prompt.pooled.to(model.device, model.dtype),
    )


def distill(  # noqa: PLR0913 - what the command has
    config: str,
    source: str,
    variant: str | None = None,
    data: str | None = None,
    output: str | None = None,
    steps: int | None = None,
) -> Path:
    """`train_distill` by a recipe's file, in `output`, or runs/NAME of the recipe.

    steps: so many of training, in place of the recipe's budget.
    """
    recipe = load_recipe(config)
    if steps is not None:
        recipe = replace(recipe, distill=replace(recipe.distill, steps=steps, minutes=None))
    return train_distill(recipe, source, variant, data, Path(output or Path("runs") / recipe.name))


def train_distill(recipe: Recipe, source: str, variant: str | None, data: str | None, folder: Path) -> Path:
    """Distill a variant of the checkpoint `source`, or go on from the last state in `folder`.

    Writes `folder/checkpoint`: the checkpoint with one variant more, by the name of the teacher's and the
    recipe's suffix. Returns it; a LoRA is beside it too. Raises ValueError for a recipe, data or a checkpoint
    that cannot be used.
    """
    check(recipe.distill)
    begin_alone("distillation")
    torch.manual_seed(recipe.seed)
    pipe = PyramidFlowPipeline.from_pretrained(source, variant, dtype=torch.bfloat16)
    pipe.text.cache = folder / "distill" / "prompts"
    prompts = Prompts(pipe, read_prompts(data, recipe), pipe.defaults.negative_prompt)
    pipe.text.free()
    run = Distillation(recipe, pipe, prompts, folder)
    run.loop.run(run.step)
    return save(run.finished(folder), pipe.checkpoint, recipe.distill, folder / "checkpoint")


def check(settings: DistillRecipe) -> None:
    """Raises ValueError for a [distill] that cannot be run."""
    counts = *settings.stage_steps, *settings.teacher_steps
    if len(settings.stage_steps) != len(settings.teacher_steps) or min(counts, default=0) < 1:
        raise ValueError(
            f"[distill] stage_steps = {list(settings.stage_steps)} and teacher_steps = "
            f"{list(settings.teacher_steps)}: one number a stage in each, 1 or more"
        )
    if settings.first_rollouts < 1 or settings.kept_rollouts < settings.first_rollouts:
        raise ValueError(
            f"[distill] first_rollouts = {settings.first_rollouts} must be 1 or more, and kept_rollouts = "
            f"{settings.kept_rollouts} at least as many"
        )


def save(student: Any, teacher: Checkpoint, settings: DistillRecipe, folder: Path) -> Path:
    """The teacher's checkpoint with the student as one variant more, in `folder`; what is large is linked."""
    name = f"{teacher.variant}-{settings.suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    for part in teacher.folder.iterdir():
        if part.is_dir() and not (folder / part.name).exists():
            shutil.copytree(part, folder / part.name, copy_function=link)
    if teacher.vae.name != VAE:  # its own, which the student decodes with, too
        shutil.copytree(teacher.vae, folder / f"{VAE}_{name}", copy_function=link, dirs_exist_ok=True)
    student.to(torch.bfloat16).save_pretrained(folder / (PREFIX + name))
    details = dict(teacher.details)
    details["variants"] = details.get("variants", {}) | {name: described(settings)}
    write_json(folder / "pyramid.json", details)
    return folder


def described(settings: DistillRecipe) -> dict:
    """How a student is run, as `variants` of a pyramid.json has it."""
    steps = list(settings.stage_steps)
    return {
        "num_inference_steps": steps,
        "video_num_inference_steps": steps,
        "sampler": "even",
        "guidance_scale": 1.0,
        "video_guidance_scale": 1.0,
    }
