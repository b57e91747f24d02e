"""Look at data to train on, before it costs anything; and encode it, before a training begins.

    python -m pyramid data doctor clips/list.csv --root clips --json report.json --sheet sheet.png
    python -m pyramid data cache clips/list.csv --config presets/training/clips-384p.toml --processes 4

Exit code 0 when the list could be read, whatever is wrong with its items; 2, with one line, when not.
"""

import argparse
import os
import shlex
from collections import Counter
from os.path import expanduser
from pathlib import Path
from typing import Any

from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import write_json
from pyramid.jobs.cluster import connect, need_ray
from pyramid.settings import at_home, flag_of

MOST_NAME = 120  # characters of a name in the table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `data`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "say which clips of a list can be trained on, and why the others cannot"
    doctor = actions.add_parser("doctor", help=text, description=text, allow_abbrev=False)
    doctor.set_defaults(act=examine_list)
    text = "make the latents and text features that a training starts with, by several workers"
    cache = actions.add_parser("cache", help=text, description=text, allow_abbrev=False)
    cache.set_defaults(act=fill_cache)
    add_cache(cache)
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
    add("--no-captions", action="store_true", help="items need none, as for train vae")
    add("--tokenizer", type=at_home, metavar="DIR", help="a T5 tokenizer, to count captions' tokens by")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="clips at a time")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The flags of `cache`: those of `train dit` that it depends on, and who does the work."""
    add = parser.add_argument
    add("list", type=expanduser, metavar="LIST", help="as data doctor and train dit --data take it")
    add("--config", required=True, type=expanduser, help="the recipe of the training that comes after")
    add("--output", type=expanduser, help="of that training (default: runs/NAME of the recipe)")
    add("--root", type=expanduser, metavar="DIR", help="where the names in the list start")
    add("--from", dest="source", type=expanduser, metavar="MODEL", help="what the training starts from")
    add("--variant", help="which of its transformers: one may have an autoencoder of its own")
    add("--processes", type=int, metavar="N", help="so many processes of this machine (default: 1)")
    text = "do it on a Ray cluster with a common disk (default: one that is started here)"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=text)
    add("--workers", type=int, metavar="N", help="with --ray: how many workers (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code."""
    return args.act(args)


def fill_cache(args: argparse.Namespace) -> int:
    """Encode the items of a list, on one machine or several."""
    for name in ("processes", "workers"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"--{name} {value}: at least 1 is expected")
    if args.ray is None and args.workers is not None:
        raise ValueError(f"--workers {args.workers}: only with --ray; --processes is for this machine")
    if args.ray is not None and args.processes is not None:
        raise ValueError("--processes is for this machine, --ray for a cluster: give one of them")
    if args.ray is not None:
        need_ray()
    from pyramid.training.clip_dit import Run
    from pyramid.training.clips import workers
    from pyramid.training.clips.recipe import load_clip_recipe

    asked = Run("dit", args.list, args.config, args.output, args.source, args.variant, args.root)
    folder = Path(args.output or Path("runs") / load_clip_recipe(args.config).name) / "cache"
    if args.ray is None:
        cache = workers.fill_by_processes(asked, folder, args.processes or 1)
    else:
        import ray

        connect(ray, args.ray, args.workers or 2)
        try:
            cache = workers.fill_by_ray(asked.absolute(), folder.absolute(), ray, args.workers or 2)
        finally:
            ray.shutdown()
    print(f"{len(cache.entries())} items in {folder}, {len(cache.broken)} could not be used")
    return 0


def examine_list(args: argparse.Namespace) -> int:
    """Look, print the table, write what was asked for; returns the exit code."""
    _check_counts(args)
    _check_outputs(args)
    tokenizer = _tokenizer(args.tokenizer)
    from rich.progress import Progress

    from pyramid.training.clips import doctor
    from pyramid.training.clips.lists import open_list

    listing = open_list(args.list, args.root)
    limits = doctor.Limits(
        args.min_frames, args.min_size, not args.no_captions, args.sample, workers=args.workers
    )
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
    if args.json and journal:
        write_json(args.json, report.to_dict(), ensure_ascii=False)
        journal.unlink(missing_ok=True)
    screen().print(as_table(report, _words(report, tokenizer)))
    if note := listing.note():
        print(f"note: {doctor.shown(note)}")
    if args.sheet and (sheet := doctor.contact_sheet(report)):
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(args.sheet)
    if args.clean:
        root = doctor.write_clean(report, listing.root, args.clean)
        print(f"{args.clean}: its names start from {root}, so give it with --root {shlex.quote(str(root))}")
    return 0


def _check_counts(args: argparse.Namespace) -> None:
    for name in ("sample", "min_frames", "min_size", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{flag_of(name)} {value}: at least 1 is expected")


def _check_outputs(args: argparse.Namespace) -> None:
    """ValueError for files that could not be written once the long look is over."""
    check_output(args.json, "--json")
    check_output(args.clean, "--clean")
    check_output(args.sheet, "--sheet", picture=True)
    if args.clean and args.clean.suffix.lower() != ".jsonl":
        raise ValueError(f"--clean {args.clean}: a name that ends in .jsonl is expected")


def _tokenizer(folder: Path | None) -> Any:
    """The tokenizer in a folder, None without one. ValueError where it holds none."""
    if folder is None:
        return None
    if not folder.is_dir():
        raise ValueError(f"--tokenizer {folder} is not a folder")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever transformers makes of a folder that holds something else
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--tokenizer {folder} holds no tokenizer: {reason}") from None


def _words(report: Any, tokenizer: Any) -> tuple[str, list[int]]:
    """What captions are counted in, and the count of each."""
    captions = [caption for sample, _ in report.usable for caption in sample.captions]
    if tokenizer is None:
        return "words", [len(caption.split()) for caption in captions]
    return "T5 tokens", [len(tokenizer(caption).input_ids) for caption in captions]


def as_table(report: Any, words: tuple[str, list[int]]) -> Any:
    """The report for people."""
    from rich.markup import escape
    from rich.table import Table

    from pyramid.training.clips.doctor import shown

    table = Table(
        title=f"{report.format}: {report.items} items, {len(report.usable)} usable", show_header=False
    )
    table.add_column("what", overflow="fold")
    table.add_column("how much", overflow="fold")
    if report.examined < report.items:
        table.add_row("looked at", str(report.examined))
    for reason, names in sorted(report.broken.items()):
        more = f", … ({len(names)} in all)" if len(names) > 3 else ""
        told = ", ".join(shown(name)[:MOST_NAME] for name in names[:3])
        table.add_row(escape(reason), escape(f"{len(names)}: {told}{more}"))
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
    rows = [("sizes", most_of(Counter(f"{fact.width}×{fact.height}" for fact in facts)))]
    if seconds := [fact.seconds for fact in facts if fact.seconds]:
        rows.append(("seconds", _spread(seconds)))
    if rates := Counter(f"{fact.fps:g}" for fact in facts if fact.fps):
        rows.append(("frames a second", most_of(rates)))
    for name, of in BUCKETS.items():
        shares = bucket_shares(facts, of).items()
        rows.append((f"buckets {name}", ", ".join(f"{w}×{h} {share:.0%}" for (w, h), share in shares)))
    return rows


def most_of(counts: Counter[str], shown: int = 4) -> str:
    """The most frequent of some words with their counts, and how many items have others."""
    told = [f"{word} ({count})" for word, count in counts.most_common(shown)]
    if others := counts.total() - sum(count for _, count in counts.most_common(shown)):
        told.append(f"others ({others})")
    return ", ".join(told)


def _spread(values: list) -> str:
    """The least, the middle and the most of some numbers."""
    ordered = sorted(values)
    return f"{ordered[0]:g} to {ordered[-1]:g}, half of them at most {ordered[len(ordered) // 2]:g}"
