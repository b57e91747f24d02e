"""Measure a model of the synthetic world on what it has never seen: `python -m pyramid evaluate`.

Exit code 0 whatever the figures are: they are for reading, and for deciding whether new weights are better.
"""

import argparse
from os.path import expanduser
from typing import TYPE_CHECKING, Any

from pyramid.commands import (
    evaluate_compare,
    evaluate_offline,
    evaluate_study,
    evaluate_vae,
    evaluate_vbench,
    evaluate_videos,
)
from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import write_json
from pyramid.settings import DTYPES, Settings, at_home

if TYPE_CHECKING:
    from pyramid.generate.pipeline import PyramidFlowPipeline
    from pyramid.hub.checkpoints import Checkpoint
    from pyramid.training.photos import Photo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate`, and its parts that need no model."""
    parts = parser.add_subparsers(metavar="PART", parser_class=type(parser))
    told = "make the videos of VBench, run it, put its result files together"
    evaluate_vbench.add_arguments(parts.add_parser("vbench", help=told, allow_abbrev=False))
    told = "two checkpoints, samplers, LoRAs or folders in one report with pictures and plots"
    evaluate_compare.add_arguments(parts.add_parser("compare", help=told, allow_abbrev=False))
    told = "a blind preference study: make it, and say what raters answered"
    evaluate_study.add_arguments(parts.add_parser("study", help=told, allow_abbrev=False))
    told = "measure the videos of a folder: motion, flicker, consistency, sharpness, distances"
    evaluate_offline.add_arguments(parts.add_parser("offline", help=told, allow_abbrev=False))
    told = "measure an autoencoder on clips of a list: PSNR, SSIM, LPIPS or a stand-in, a Fréchet distance"
    evaluate_vae.add_arguments(parts.add_parser("vae", help=told, allow_abbrev=False))
    add = parser.add_argument
    add("--model", default="embedded", help="a checkpoint folder (default: the embedded model)")
    add("--variant", help="the transformer, where there are several")
    add("--videos", type=int, default=108, help="text-to-video clips to judge (default: 108)")
    add("--pictures", type=int, default=36, help="image-to-video clips to judge (default: 36)")
    add("--seed", type=int, default=1000, help="of the first video; the others count up from it")
    add("--out", type=at_home, help="write the results as JSON to this file")
    add("--sheet", type=at_home, help="write a contact sheet of the first 12 clips to this picture")
    add(
        "--compare",
        action="store_true",
        help="a table of samplers and steps, and of the model's other variants",
    )
    add("--photographs", type=int, default=0, metavar="N", help="held-out photographs to move by each camera")
    add("--photo-folder", type=expanduser, metavar="DIR", help="more of them: all pictures of a folder")
    add("--dtype", choices=DTYPES, default="auto", help="precision (default: what suits the device)")
    add("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    if args.videos < 1 or args.pictures < 1:
        raise ValueError(f"--videos {args.videos} and --pictures {args.pictures}: at least 1 of each")
    if args.photographs < 0:
        raise ValueError(f"--photographs {args.photographs}: 0 for none, or more")
    check_output(args.out, "--out")
    check_output(args.sheet, "--sheet", picture=True)
    for index in (0, max(args.videos, args.pictures) - 1):
        evaluate_videos.seed_at(args.seed, index)

    from pyramid.evaluation import evaluate
    from pyramid.hub.checkpoints import find
    from pyramid.memory.placement import dtype_name

    checkpoint = find(args.model, args.variant)
    pipe = load(args, checkpoint.variant)
    world = evaluate.world_of(pipe)
    results, clips = evaluate.evaluate_videos(pipe, world, args.videos, args.seed)
    results |= evaluate.evaluate_pictures(pipe, world, args.pictures, args.seed)
    results |= evaluate.evaluate_vae(pipe, world, min(args.videos, 36), args.seed)
    if args.photographs or args.photo_folder:
        results |= moves(args, pipe)
    title = f"{args.model}: {args.videos} videos of held-out words, seeds from {args.seed}"
    screen().print(evaluate.as_table(results, title))
    rows = compare(args, checkpoint) if args.compare else []
    if args.out:
        asked = {name: getattr(args, name) for name in ("model", "videos", "pictures", "seed")}
        asked |= {"dtype": dtype_name(pipe.transformer.dtype), "device": pipe.device.type}
        asked["variant"] = checkpoint.variant
        plain = {name: evaluate.as_plain(each) for name, each in results.items()}
        told = {"asked": asked, "results": plain} | ({"compared": rows} if rows else {})
        write_json(args.out, told)
    if args.sheet:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        evaluate.contact_sheet(clips[:12]).save(args.sheet)
    return 0


def load(args: argparse.Namespace, variant: str) -> "PyramidFlowPipeline":
    """The pipeline of a variant, as the flags want it."""
    from pyramid.generate.loaded import load_for
    from pyramid.hub.checkpoints import find

    where = {"dtype": args.dtype, "device": args.device}
    settings = Settings.for_model(args.model, variant, find(args.model, variant).defaults, **where)
    pipe = load_for(settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def moves(args: argparse.Namespace, pipe: "PyramidFlowPipeline") -> dict[str, Any]:
    """How well photographs are moved by a camera, as the words say."""
    from pyramid.evaluation.moves import PANS_AND_ZOOMS, measure_moves

    return measure_moves(pipe, photos_of(args), PANS_AND_ZOOMS, args.seed)


def photos_of(args: argparse.Namespace) -> "list[Photo]":
    """The photographs that are asked for; none where none are."""
    from pyramid.training.photos import photographs, photographs_in

    if not (args.photographs or args.photo_folder):
        return []
    photos = photographs("held_out")
    photos += photographs_in(args.photo_folder) if args.photo_folder else []
    return photos[: args.photographs or None]


def compare(args: argparse.Namespace, checkpoint: "Checkpoint") -> list[dict[str, Any]]:
    """Print the table of samplers, steps and fast variants; its rows as JSON holds them."""

    from pyramid.evaluation import few_steps

    asked = few_steps.Asked(args.videos, args.seed, photos=photos_of(args))
    rows = few_steps.measure(lambda variant: load(args, variant), few_steps.ways_of(checkpoint), asked)
    title = f"{args.model}: {args.videos} videos each, seeds from {args.seed}"
    screen().print(few_steps.as_table(rows, title))
    return [row.plain() for row in rows]
