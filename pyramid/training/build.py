"""The parts of a checkpoint, trained one after the other, and put together.

    build("embedded", "presets/training/embedded-cpu.toml")        # runs/NAME/checkpoint

A part that is finished is not trained again.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from pyramid.disk import write_json
from pyramid.hub.checkpoints import find
from pyramid.hub.families import MINIFLUX
from pyramid.settings import units_of
from pyramid.training.prompts import all_words
from pyramid.training.recipe import Recipe, load_recipe

TEXT_FOLDERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def build(part: str, config: str, output: str | None = None, steps: int | None = None) -> Path:
    """Train `part` (text, vae, dit, or embedded: all of them) by a recipe's file; the folder of the parts.

    output: where runs and the checkpoint are written, runs/NAME of the recipe when None. steps: the budget of
    the part, in place of the recipe's. ValueError where several processes were started.
    """
    from pyramid.training.loop import begin_alone

    recipe = load_recipe(config)
    begin_alone("training on the synthetic world")
    if steps is not None:
        recipe = with_steps(recipe, part, steps)
    folder = Path(output or Path("runs") / recipe.name)
    parts = folder / "checkpoint"
    parts.mkdir(parents=True, exist_ok=True)
    if part in ("text", "embedded"):
        _text(recipe, parts)
    if part in ("vae", "embedded"):
        _vae(recipe, folder, parts)
    if part in ("dit", "embedded"):
        _dit(recipe, folder, parts)
    if part == "embedded":
        write_json(parts / "pyramid.json", describe(recipe))
    return parts


def with_steps(recipe: Recipe, part: str, steps: int) -> Recipe:
    """The recipe with another budget for one part."""
    table = getattr(recipe, part)
    budget = {"steps": steps, "minutes": None} if hasattr(table, "minutes") else {"steps": steps}
    return dataclasses.replace(recipe, **{part: dataclasses.replace(table, **budget)})


def _text(recipe: Recipe, parts: Path) -> None:
    from pyramid.training.text import train_text

    if not all((parts / name).exists() for name in TEXT_FOLDERS):
        train_text(recipe.text, parts, recipe.seed)


def _vae(recipe: Recipe, folder: Path, parts: Path) -> None:
    from pyramid.training.decoder import train_decoder
    from pyramid.training.vae import train_vae

    if not (parts / "causal_video_vae").exists():
        start = recipe.decoder.start
        finished = find(start).vae if start else train_vae(recipe, folder / "vae")
        if recipe.decoder.minutes or recipe.decoder.steps:
            finished = train_decoder(recipe, folder / "decoder", finished)
        shutil.copytree(finished, parts / "causal_video_vae")


def _dit(recipe: Recipe, folder: Path, parts: Path) -> None:
    from pyramid.training.dit import train_dit

    if recipe.dit.start:
        _take_over(recipe, parts)
    missing = [name for name in ("causal_video_vae", *TEXT_FOLDERS) if not (parts / name).exists()]
    if missing:
        raise ValueError(
            f"{parts} lacks {', '.join(missing)}: train text and vae first, with the same --output."
        )
    name = f"diffusion_transformer_{recipe.world.size}p"
    if not (parts / name).exists():
        shutil.copytree(train_dit(recipe, folder / "dit", parts=parts), parts / name)
    if recipe.dit.start and not (parts / "pyramid.json").exists():
        write_json(parts / "pyramid.json", describe(recipe))


def _take_over(recipe: Recipe, parts: Path) -> None:
    """Copy what the recipe's `start` has beside its transformer."""
    start = find(recipe.dit.start, recipe.dit.start_variant or None)
    sources = {"causal_video_vae": start.vae} | {name: start.folder / name for name in TEXT_FOLDERS}
    for name, source in sources.items():
        if not (parts / name).exists():
            shutil.copytree(source, parts / name)


def describe(recipe: Recipe) -> dict:
    """What `pyramid.json` says of the finished checkpoint: the sizes it was trained for and how to run it."""
    world = recipe.world
    settings = recipe.dit
    return {
        "name": recipe.name,
        "family": MINIFLUX.name,
        "variant": f"{world.size}p",
        "sizes": [[world.size, world.size]],
        "max_units": units_of(world.frames),
        "num_frames": world.frames,
        "fps": world.fps,
        "num_inference_steps": list(settings.sample_steps),
        "video_num_inference_steps": list(settings.sample_steps),
        "guidance_scale": settings.sample_guidance,
        "video_guidance_scale": settings.sample_guidance,
        "negative_prompt": "",
        "prompt_suffix": "",
        "licence": "Apache-2.0",
        "words": all_words(world),
        "trained_on": {
            "shapes": world.shapes,
            "colours": world.colors,
            "backgrounds": world.backgrounds,
            "motions": world.motions,
            "cameras": world.photo_cameras if settings.photo_clips else (),
        },
    }
