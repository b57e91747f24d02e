"""Measure the videos of a folder: `python -m pyramid evaluate offline DIR --json FILE`.

What needs no model is always measured. `--features WHAT --reference FOLDER` adds the Fréchet distance to
other videos, `--clip FOLDER` the similarity with the prompt that a video's record or name has.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.commands.engine import say
from pyramid.commands.evaluate_compare import add_model_flags, tools_of
from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import write_json
from pyramid.settings import at_home

if TYPE_CHECKING:
    import numpy as np

    from pyramid.evaluation.compare import Tools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate offline`."""
    parser.add_argument("folder", type=at_home, help="a folder of videos, ours or others'")
    parser.add_argument("--json", type=at_home, metavar="FILE", help="write the figures to it")
    add_model_flags(parser.add_argument)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a row for each video and their means, and write them; returns the exit code: 1 where some could
    not be read, which are named.
    """
    from rich.markup import escape

    from pyramid.evaluation.compare import reference_of
    from pyramid.evaluation.offline import mean_of, measure_folder
    from pyramid.media.files import of_file

    if bool(args.features) != bool(args.reference):
        raise ValueError("a Fréchet distance needs both: --features WHAT and --reference FOLDER")
    check_counts(args)
    check_output(args.json, "--json")
    tools = tools_of(args, None)
    references = {kind: reference_of(tools, kind) for kind in tools.features}
    unread: dict[str, str] = {}
    rows = measure_folder(args.folder, unread)
    for name, words in unread.items():
        say(f"left out: {of_file(name, words)}")
    figures: dict[str, Any] = {"videos": {name: row.told() for name, row in rows.items()}}
    figures["mean"] = mean_of(list(rows.values())).told()
    paths = [args.folder / name for name in rows]
    if similar := similarities(tools, paths):
        for name, value in similar.items():
            figures["videos"][name]["clip similarity"] = value
        figures["mean"]["clip similarity"] = sum(similar.values()) / len(similar)
    if unread:
        figures["unread"] = unread
    show(figures)
    if tools.features:
        figures["frechet"] = distances(tools, paths, references)
        for kind, told in figures["frechet"].items():
            note = f" ({told['note']})" if "note" in told else ""
            screen().print(f"Fréchet distance in {escape(kind)}: {told['distance']:.4g}{note}")
    if args.json:
        write_json(args.json, figures)
    return 1 if unread else 0


def check_counts(args: argparse.Namespace) -> None:
    """ValueError where a Fréchet distance is asked for, and a folder has too few videos."""
    from pyramid.media.files import videos_in

    for folder in (args.folder, args.reference) if args.features else ():
        if len(videos_in(folder)) < 2:
            raise ValueError(f"{folder} has one video: a Fréchet distance takes two videos or more each")


def show(figures: dict[str, Any]) -> None:
    """A table of all videos and their means."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{len(figures['videos'])} videos")
    for name in ("video", *figures["mean"]):
        table.add_column(name, justify="left" if name == "video" else "right", overflow="fold")
    for name, told in {**figures["videos"], "mean": figures["mean"]}.items():
        table.add_row(escape(name), *(f"{value:.3g}" for value in told.values()))
    screen().print(table)


def similarities(tools: "Tools", paths: list[Path]) -> dict[str, float]:
    """Of each of the videos, by name, with its own prompt; {} where no CLIP is given."""
    if not tools.clip:
        return {}
    from pyramid.evaluation.offline import read_clip
    from pyramid.study.clips import prompt_of

    return {path.name: tools.clip.similarity(read_clip(path), prompt_of(path)) for path in paths}


def distances(tools: "Tools", paths: list[Path], references: "dict[str, list[np.ndarray]]") -> dict[str, Any]:
    """The Fréchet distance of the videos to `references`, in each kind of features."""
    from pyramid.evaluation.frechet import distance
    from pyramid.evaluation.offline import read_clip

    told = {}
    for kind, features in tools.features.items():
        own = [features(read_clip(path)) for path in paths]
        told[kind] = distance(own, references[kind]).told()
    return told
