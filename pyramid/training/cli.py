"""`python -m pyramid train text|vae|dit|embedded --config presets/training/….toml [--output runs/NAME]`.

`embedded` trains everything from nothing, one part after the other, and puts the finished checkpoint
together. A part that is finished is not trained again, so an interrupted command goes on where it was when it
is given again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from pyramid.training.prompts import all_words
from pyramid.training.recipe import Recipe, load_recipe

PARTS = ("text", "vae", "dit", "embedded")
TEXT_FOLDERS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    parser.add_argument("part", choices=PARTS, help="what to train; embedded: all of it, and put it together")
    parser.add_argument(
        "--config", required=True, help="a recipe, such as presets/training/embedded-cpu.toml"
    )
    parser.add_argument(
        "--output", help="where runs and the checkpoint are written (default: runs/NAME of the recipe)"
    )


def run(args: argparse.Namespace) -> int:
    """Train what was asked for; returns the exit code."""
    recipe = load_recipe(args.config)
    folder = Path(args.output or Path("runs") / recipe.name)
    parts = folder / "checkpoint"
    parts.mkdir(parents=True, exist_ok=True)
    if args.part in ("text", "embedded"):
        _text(recipe, parts)
    if args.part in ("vae", "embedded"):
        _vae(recipe, folder, parts)
    if args.part in ("dit", "embedded"):
        _dit(recipe, folder, parts)
    if args.part == "embedded":
        (parts / "pyramid.json").write_text(json.dumps(describe(recipe), indent=2) + "\n")
    print(f"Written to {parts}")
    return 0


def _text(recipe: Recipe, parts: Path) -> None:
    from pyramid.training.text import train_text

    if not all((parts / name).exists() for name in TEXT_FOLDERS):
        train_text(recipe.text, parts, recipe.seed)


def _vae(recipe: Recipe, folder: Path, parts: Path) -> None:
    from pyramid.training.decoder import train_decoder
    from pyramid.training.vae import train_vae

    if not (parts / "causal_video_vae").exists():
        finished = train_vae(recipe, folder / "vae")
        if recipe.decoder.minutes or recipe.decoder.steps:
            finished = train_decoder(recipe, folder / "decoder", finished)
        shutil.copytree(finished, parts / "causal_video_vae")


def _dit(recipe: Recipe, folder: Path, parts: Path) -> None:
    from pyramid.training.dit import train_dit

    missing = [name for name in ("causal_video_vae", *TEXT_FOLDERS) if not (parts / name).exists()]
    if missing:
        raise ValueError(
            f"{parts} lacks {', '.join(missing)}: train text and vae first, with the same --output."
        )
    name = f"diffusion_transformer_{recipe.world.size}p"
    if not (parts / name).exists():
        shutil.copytree(train_dit(recipe, folder / "dit", parts=parts), parts / name)


def describe(recipe: Recipe) -> dict:
    """What `pyramid.json` says of the finished checkpoint: the sizes it was trained for and how to run it."""
    world = recipe.world
    settings = recipe.dit
    return {
        "name": recipe.name,
        "family": "miniflux",
        "variant": f"{world.size}p",
        "sizes": [[world.size, world.size]],
        "max_units": 1 + (world.frames - 1) // 8,
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
