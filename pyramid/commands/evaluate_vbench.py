"""Put VBench's results together: `python -m pyramid evaluate vbench --aggregate DIR --json FILE`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pyramid.commands.terminal import screen
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate vbench`."""
    add = parser.add_argument
    add("--aggregate", type=at_home, metavar="DIR", required=True, help="a folder of VBench's result files")
    add("--json", type=at_home, metavar="FILE", help="write quality, semantic, total and dimensions to it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the figures beside published ones, and write them; returns the exit code."""
    from pyramid.training.vbench import PUBLISHED, aggregate, read_results

    figures = aggregate(read_results(args.aggregate))
    rows = {str(args.aggregate): tuple(figures[name] for name in ("total", "quality", "semantic"))}
    screen().print(table_of(rows | PUBLISHED, figures))
    if figures["missing"]:
        print(
            f"missing, so what they belong to is not known: {', '.join(figures['missing'])}", file=sys.stderr
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def table_of(rows: dict[str, tuple], figures: dict[str, Any]):
    """Total, quality and semantic of each row, then the dimensions of the first, as a table of rich."""
    from rich.table import Table

    table = Table(title="VBench, percent")
    for name in ("", "total", "quality", "semantic"):
        table.add_column(name, justify="right" if name else "left")
    for name, values in rows.items():
        table.add_row(name, *("not known" if value is None else f"{value:.2f}" for value in values))
    table.add_section()
    for name, value in figures["dimensions"].items():
        table.add_row(name.replace("_", " "), f"{value:.2f}")
    return table
