"""Look at data to train on, before it costs anything.

    python -m pyramid data doctor clips/list.csv --root clips --json report.json --sheet sheet.png

Exit code 0 when the list could be read, whatever is wrong with its items; 2, with one line, when not.
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from pyramid.commands.terminal import screen
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `data`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "say which clips of a list can be trained on, and why the others cannot"
    doctor = actions.add_parser("doctor", help=text, description=text, allow_abbrev=False)
    add = doctor.add_argument
    add(
        "list",
        type=at_home,
        metavar="LIST",
        help="csv, json, jsonl, txt, tar, or a folder: the format is found",
    )
    add("--root", type=at_home, metavar="DIR", help="where the names in the list start (default: beside it)")
    add("--json", type=at_home, metavar="FILE", help="write the report there; an interrupted look goes on")
    add("--clean", type=at_home, metavar="FILE.jsonl", help="write a list of the usable items there")
    add("--sheet", type=at_home, metavar="FILE.png", help="write a picture of the first items there")
    add("--sample", type=int, metavar="N", help="look at N items, chosen by chance (default: all)")
    add("--min-frames", type=int, default=9, metavar="N", help="a shorter video is too short (default: 9)")
    add("--min-size", type=int, default=64, metavar="N", help="a shorter side is too small (default: 64)")
    add("--tokenizer", type=at_home, metavar="DIR", help="a T5 tokenizer, to count captions' tokens by")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="clips at a time")


def run(args: argparse.Namespace) -> int:
    """Look, print the table, write what was asked for; returns the exit code."""
    for name, low in (("sample", 1), ("min_frames", 1), ("min_size", 1), ("workers", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least {low} is expected")
    from rich.progress import Progress

    from pyramid.training.clips import doctor
    from pyramid.training.clips.lists import open_list

    listing = open_list(args.list, args.root)
    limits = doctor.Limits(args.min_frames, args.min_size, args.sample, workers=args.workers)
    journal = args.json.with_name(args.json.name + ".progress") if args.json else None
    console = screen(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("looking", total=None)
        report = doctor.examine(
            listing,
            limits,
            journal=journal,
            sheet=args.sheet is not None,
            say=lambda done: progress.update(task, completed=done),
        )
    screen().print(as_table(report, _words(report, args.tokenizer)))
    if args.clean:
        doctor.write_clean(report, listing.root, args.clean)
    if args.sheet and (sheet := doctor.contact_sheet(report)):
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.sheet)
    if args.json and journal:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n")
        journal.unlink(missing_ok=True)
    return 0


def _words(report: Any, tokenizer: Path | None) -> tuple[str, list[int]]:
    """What captions are counted in, and the count of each."""
    captions = [caption for sample, _ in report.usable for caption in sample.captions]
    if tokenizer is None:
        return "words", [len(caption.split()) for caption in captions]
    from transformers import AutoTokenizer

    if not tokenizer.is_dir():
        raise ValueError(f"--tokenizer {tokenizer} is not a folder")
    encode = AutoTokenizer.from_pretrained(tokenizer)
    return "T5 tokens", [len(encode(caption).input_ids) for caption in captions]


def as_table(report: Any, words: tuple[str, list[int]]) -> Any:
    """The report for people."""
    from rich.table import Table

    table = Table(
        title=f"{report.format}: {report.items} items, {len(report.usable)} usable", show_header=False
    )
    table.add_column("what")
    table.add_column("how much", overflow="fold")
    if report.examined < report.items:
        table.add_row("looked at", str(report.examined))
    for reason, names in sorted(report.broken.items()):
        more = f", … ({len(names)} in all)" if len(names) > 3 else ""
        table.add_row(reason, f"{len(names)}: {', '.join(names[:3])}{more}")
    for title, values in _figures(report):
        table.add_row(title, values)
    unit, counts = words
    if counts:
        table.add_row(f"captions, in {unit}", _spread(counts))
    return table


def _figures(report: Any) -> list[tuple[str, str]]:
    """Sizes, lengths, rates and buckets of what is usable."""
    from pyramid.training.clips.buckets import BUCKETS
    from pyramid.training.clips.reading import bucket_shares

    facts = report.facts()
    if not facts:
        return []
    sizes = Counter(f"{fact.width}×{fact.height}" for fact in facts).most_common(4)
    rows = [("sizes", ", ".join(f"{size} ({count})" for size, count in sizes))]
    if seconds := [fact.seconds for fact in facts if fact.seconds]:
        rows.append(("seconds", _spread(seconds)))
    if rates := Counter(f"{fact.fps:g}" for fact in facts if fact.fps).most_common(4):
        rows.append(("frames a second", ", ".join(f"{rate} ({count})" for rate, count in rates)))
    for name, of in BUCKETS.items():
        shares = bucket_shares(facts, of).items()
        rows.append((f"buckets {name}", ", ".join(f"{w}×{h} {share:.0%}" for (w, h), share in shares)))
    return rows


def _spread(values: list) -> str:
    """The least, the middle and the most of some numbers."""
    ordered = sorted(values)
    return f"{ordered[0]:g} to {ordered[-1]:g}, half of them at most {ordered[len(ordered) // 2]:g}"
