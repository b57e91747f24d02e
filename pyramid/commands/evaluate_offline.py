"""Measure the videos of a folder without any model: `python -m pyramid evaluate offline DIR --json FILE`."""

import argparse
import json
from pathlib import Path

from pyramid.commands.terminal import screen
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate offline`."""
    parser.add_argument("folder", type=at_home, help="a folder of videos, ours or others'")
    parser.add_argument("--json", type=at_home, metavar="FILE", help="write the figures to it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a row for each video and their means, and write them; returns the exit code."""
    from rich.markup import escape
    from rich.table import Table

    from pyramid.training.offline import NAMES, mean_of, measure_folder

    rows = measure_folder(args.folder)
    table = Table(title=f"{len(rows)} videos")
    for name in ("video", *NAMES):
        table.add_column(name, justify="left" if name == "video" else "right")
    mean = mean_of(list(rows.values()))
    for name, row in {**rows, "mean": mean}.items():
        table.add_row(escape(name), *(f"{value:.3g}" for value in row.told().values()))
    screen().print(table)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"videos": {name: row.told() for name, row in rows.items()}, "mean": mean.told()}
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0
