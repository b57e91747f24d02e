"""Measure the videos of a folder: `python -m pyramid evaluate offline DIR --json FILE`.

What needs no model is always measured. `--features WHAT --reference FOLDER` adds the Fréchet distance to
other videos, `--clip FOLDER` the similarity with the prompt that a video's record or name has.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pyramid.commands.evaluate_compare import add_model_flags
from pyramid.commands.terminal import screen
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate offline`."""
    parser.add_argument("folder", type=at_home, help="a folder of videos, ours or others'")
    parser.add_argument("--json", type=at_home, metavar="FILE", help="write the figures to it")
    add_model_flags(parser.add_argument)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a row for each video and their means, and write them; returns the exit code."""
    from rich.markup import escape
    from rich.table import Table

    from pyramid.evaluation.offline import NAMES, mean_of, measure_folder

    if bool(args.features) != bool(args.reference):
        raise ValueError("a Fréchet distance needs both: --features WHAT and --reference FOLDER")
    rows = measure_folder(args.folder)
    similar = similarities(args)
    table = Table(title=f"{len(rows)} videos")
    for name in ("video", *NAMES, *(["clip similarity"] if similar else [])):
        table.add_column(name, justify="left" if name == "video" else "right", overflow="fold")
    figures: dict[str, Any] = {"videos": {name: row.told() for name, row in rows.items()}}
    figures["mean"] = mean_of(list(rows.values())).told()
    for name, value in similar.items():
        figures["videos"][name]["clip similarity"] = value
    if similar:
        figures["mean"]["clip similarity"] = sum(similar.values()) / len(similar)
    for name, told in {**figures["videos"], "mean": figures["mean"]}.items():
        table.add_row(escape(name), *(f"{value:.3g}" for value in told.values()))
    screen().print(table)
    if args.features:
        figures["frechet"] = distances(args)
        for kind, told in figures["frechet"].items():
            screen().print(
                f"Fréchet distance in {escape(kind)}: {told['distance']:.4g} {told.get('note', '')}"
            )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def similarities(args: argparse.Namespace) -> dict[str, float]:
    """Of each video, by name, with its own prompt; {} where no CLIP is given."""
    if not args.clip:
        return {}
    from pyramid.evaluation.frechet import Clip
    from pyramid.evaluation.offline import read_clip
    from pyramid.media.files import videos_in
    from pyramid.study.clips import prompt_of

    clip = Clip(args.clip)
    return {path.name: clip.similarity(read_clip(path), prompt_of(path)) for path in videos_in(args.folder)}


def distances(args: argparse.Namespace) -> dict[str, Any]:
    """The Fréchet distance of the folder to the reference, by the features that were asked for."""
    from pyramid.evaluation.frechet import distance, load_features
    from pyramid.evaluation.offline import read_clip
    from pyramid.media.files import videos_in

    told = {}
    for kind in args.features:
        features = load_features(kind)
        sets = [[features(read_clip(p)) for p in videos_in(each)] for each in (args.folder, args.reference)]
        told[Path(kind).name] = distance(*sets).told()
    return told
