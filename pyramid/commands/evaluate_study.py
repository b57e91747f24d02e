"""A blind preference study: made, and told: `python -m pyramid evaluate study --export FILE`.

    evaluate study --make ours theirs --prompts prompts.txt --raters 20     # folders, models, presets, LoRAs
    python launch.py --study                                                # raters come to the page
    evaluate study --export report.json                                     # what they answered

The study that is kept is the one in `pyramid.study.FOLDER`, unless `--study` names another; `--answers` reads
those of a study elsewhere.
"""

import argparse
import csv
import io
import secrets
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.commands import evaluate_videos
from pyramid.commands.engine import say
from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import as_json
from pyramid.settings import at_home
from pyramid.study import FOLDER

if TYPE_CHECKING:
    from pyramid.study.statistics import Answer

MADE = "made"  # the folder of videos that were made for a study, inside it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate study`."""
    add = parser.add_argument
    kept = f"the study that is made or told (default: {FOLDER})"
    columns = "tell of a csv with the columns rater,prompt,left,right,question,choice (left, right or tie)"
    add("--study", type=at_home, default=FOLDER, metavar="FOLDER", help=kept)
    add(
        "--make", nargs="+", metavar="WHAT", help=f"make a study of two or more: each {evaluate_videos.KINDS}"
    )
    add("--prompts", type=at_home, metavar="FILE", help="of --make: the prompts, one a line")
    add(
        "--raters",
        default="20",
        metavar="N",
        help="of --make: how many, or their names: ana,ben (default: 20)",
    )
    add("--items", type=int, metavar="N", help="of --make: pairs for each rater (default: all of them)")
    add("--checks", type=int, default=4, metavar="N", help="of --make: attention checks a rater (default: 4)")
    add("--title", default="Which video is better?", help="of --make: what raters read on top")
    add("--answers", type=at_home, metavar="FILE", help=columns)
    add("--export", type=at_home, metavar="FILE", help="write the report, as .json, or its pairs as .csv")
    add("--export-answers", type=at_home, metavar="FILE", help="write all answers that count as a csv")
    add("--draws", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)")
    evaluate_videos.add_making_flags(add)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make a study, or print the report of one, and write it; returns the exit code."""
    if args.export and args.export.suffix.lower() not in (".json", ".csv"):
        raise ValueError(f"--export {args.export}: use a name that ends in .json or .csv")
    check_output(args.export, "--export")
    check_output(args.export_answers, "--export-answers")
    if not 1 <= args.draws <= 100_000:
        raise ValueError(f"--draws {args.draws}: 1 to 100000")
    if args.make:
        make(args)
        return 0
    from pyramid.study.statistics import evaluate_study, read_answers

    if args.answers:
        answers = read_answers(args.answers)
        more: dict[str, Any] = {}
    else:
        answers, more = kept_answers(args.study)
    report = evaluate_study(answers, args.draws) | more
    for table in tables_of(report):
        screen().print(table)
    for note in notes_of(report):
        say(note)
    write(args, report, answers)
    return 0


# -- making one
def make(args: argparse.Namespace) -> None:
    """Find or make the videos, and the study of them. ValueError for what cannot be one."""
    from pyramid.study.kept import FILE, Plan, Study

    if args.answers or args.export or args.export_answers:
        raise ValueError("--make makes a study: ask for its answers and its report once raters were there")
    if (args.study / FILE).exists():
        raise ValueError(f"{args.study} holds a study already: name another folder by --study")
    systems = evaluate_videos.systems_of(args.make, args.model)
    prompts = evaluate_videos.prompts_of(systems, args.prompts)
    names = raters_of(args.raters)
    plan = Plan(names, args.items, args.checks, secrets.randbits(48), args.title)
    plan.check(len(prompts) * len(systems) * (len(systems) - 1) // 2)
    folder = args.study / MADE
    videos = {each.name: evaluate_videos.videos_of(each, prompts, folder, args) for each in systems}
    study = Study.make(args.study, videos, plan)
    state = study.state(next(iter(study.links().values())))
    study.close()
    say(
        f"{len(names)} raters see {state['of']} pairs each, {args.checks} of them attention checks. "
        "They come to the page by links, once it is started with --study:"
    )
    print(args.study)


def raters_of(text: str) -> tuple[str, ...]:
    """The names that `--raters` gives, or that many numbers. ValueError for a number that cannot be one."""
    from pyramid.study.kept import MOST_RATERS

    if "," in text or any(map(str.isalpha, text)):
        return tuple(name.strip() for name in text.split(","))
    count = int(text) if text.strip().isdecimal() and len(text) < 10 else 0
    if not 1 <= count <= MOST_RATERS:
        raise ValueError(f"--raters {text}: how many, 1 to {MOST_RATERS}, or their names, as ana,ben")
    return tuple(f"rater {number}" for number in range(1, count + 1))


# -- telling of one
def kept_answers(folder: Path) -> "tuple[list[Answer], dict[str, Any]]":
    """The answers of a kept study that count, and what its report has beside the figures."""
    from pyramid.study.kept import Study

    study = Study(folder)
    try:
        answers = study.answers()
        raters = study.raters()
        if not answers:
            failed = any(row["pairs"] for row in raters)
            why = "every rater failed more attention checks than not" if failed else "nobody has answered yet"
            raise ValueError(f"{folder}: {why}, so there is nothing to tell")
        about = {name: study.told[name] for name in ("title", "systems", "items", "checks", "seed")}
        return answers, {"study": about, "rated": raters, "blind": study.blindness()}
    finally:
        study.close()


def write(args: argparse.Namespace, report: dict[str, Any], answers: "list[Answer]") -> None:
    """The files that were asked for."""
    from pyramid.study.statistics import COLUMNS

    if args.export:
        args.export.parent.mkdir(parents=True, exist_ok=True)
        as_csv = args.export.suffix.lower() == ".csv"
        text = pairs_as_csv(report) if as_csv else as_json(report) + "\n"
        Path(args.export).write_text(text, encoding="utf-8")
    if args.export_answers:
        args.export_answers.parent.mkdir(parents=True, exist_ok=True)
        with Path(args.export_answers).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(astuple, answers)])


def notes_of(report: dict[str, Any]) -> list[str]:
    """What a reader of the figures has to know, in sentences."""
    notes = []
    out = [row["name"] for row in report.get("rated", ()) if row["pairs"] and not row["counted"]]
    if out:
        notes.append(f"left out, as more attention checks failed than not: {', '.join(out)}")
    hasty = [
        row["name"]
        for row in report.get("rated", ())
        if 2 * row["answered before the clips ended"] > row["pairs"] > 0
    ]
    if hasty:
        notes.append(
            f"answered most pairs before the clips ended, and counted all the same: {', '.join(hasty)}"
        )
    notes += [
        f"not wholly blind: {words}"
        for words in report.get("blind", {}).get("differences that can be seen", ())
    ]
    return notes


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
    from rich.markup import escape
    from rich.table import Table

    tables = []
    for question, told in report["questions"].items():
        alpha = told["agreement"]
        agreed = "not known" if alpha is None else f"{alpha:.2f}"
        table = Table(title=f"{escape(question)}: {report['raters']} raters, agreement {agreed}")
        for name in ("system", "strength", "95 %"):
            table.add_column(name, overflow="fold")
        rows = sorted(told["bradley_terry"].items(), key=lambda row: -row[1]["strength"])
        for name, row in rows:
            interval = row["interval"]
            within = "not known" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
            table.add_row(escape(name), f"{row['strength']:+.2f}", within)
        tables.append(table)
    return tables
