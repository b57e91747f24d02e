"""What a preference study says: `python -m pyramid evaluate study --answers FILE.csv --export FILE`."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

from pyramid.commands.terminal import screen
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate study`."""
    add = parser.add_argument
    columns = "a csv with the columns rater,prompt,left,right,question,choice (left, right or tie)"
    add("--answers", type=at_home, metavar="FILE", required=True, help=columns)
    add("--export", type=at_home, metavar="FILE", help="write the report, as .json, or its pairs as .csv")
    add("--draws", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report, and write it; returns the exit code."""
    from pyramid.training.study import evaluate_study, read_answers

    if args.export and args.export.suffix.lower() not in (".json", ".csv"):
        raise ValueError(f"--export {args.export}: use a name that ends in .json or .csv")
    if not 1 <= args.draws <= 100_000:
        raise ValueError(f"--draws {args.draws}: 1 to 100000")
    report = evaluate_study(read_answers(args.answers), args.draws)
    for table in tables_of(report):
        screen().print(table)
    if args.export:
        args.export.parent.mkdir(parents=True, exist_ok=True)
        as_csv = args.export.suffix.lower() == ".csv"
        text = pairs_as_csv(report) if as_csv else json.dumps(report, indent=2) + "\n"
        Path(args.export).write_text(text, encoding="utf-8")
    return 0


def pairs_as_csv(report: dict[str, Any]) -> str:
    """A line for each question and pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("question", "first", "second", "wins", "losses", "ties", "share", "low", "high"))
    for question, told in report["questions"].items():
        for pair in told["pairs"]:
            share = pair["share of first"]
            counts = (pair[name] for name in ("first", "second", "wins", "losses", "ties"))
            writer.writerow((question, *counts, share["share"], *share["interval"]))
    return text.getvalue()


def tables_of(report: dict[str, Any]) -> list[Any]:
    """The strengths of each question, as tables of rich."""
    from rich.table import Table

    tables = []
    for question, told in report["questions"].items():
        alpha = told["agreement"]
        agreed = "not known" if alpha is None else f"{alpha:.2f}"
        table = Table(title=f"{question}: {report['raters']} raters, agreement {agreed}")
        for name in ("system", "strength", "95 %"):
            table.add_column(name)
        rows = sorted(told["bradley_terry"].items(), key=lambda row: -row[1]["strength"])
        for name, row in rows:
            low, high = row["interval"]
            table.add_row(name, f"{row['strength']:+.2f}", f"{low:+.2f} to {high:+.2f}")
        tables.append(table)
    return tables
