"""A result in another form: `python -m pyramid export outputs/a-ball-7.mp4 --format gif`.

Larger, and with frames between: `--upscale 2 --smooth 2`; `--look` shows a second of that first.
"""

import argparse
import sys
from pathlib import Path

from pyramid.commands.flags import leave_out, only_with
from pyramid.commands.several import alone, each
from pyramid.hub.checkpoints import fingerprint
from pyramid.media.export import KINDS, export
from pyramid.media.files import KEEPS, beside
from pyramid.media.finish import BYS, SMOOTHS, UPSCALES, Finish, finish, preview
from pyramid.media.preview import load_estimates, stages_of
from pyramid.media.result import metadata_of
from pyramid.media.video import QUALITY
from pyramid.settings import at_home

WITH_QUALITY = ("mp4", "webm", "joined")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    add = parser.add_argument
    add("files", type=at_home, nargs="+", metavar="FILE", help="results of this program, or other videos")
    add("--format", default="mp4", choices=list(KINDS), help="what it becomes (default: mp4)")
    add("--quality", type=int, metavar="CRF", help="1 to 51: 17 looks like the original, more is smaller")
    add("--metadata", default="embed", choices=KEEPS, help="where the settings go (default: into the file)")
    add("--stages-from", type=at_home, metavar="FOLDER", help="for stages: where they are, if not beside it")
    add("--source", type=at_home, metavar="FILE", help="for joined: the clip that the result continues")
    add("--upscale", type=int, default=1, choices=UPSCALES, help="so many times the size")
    by = "what enlarges: lanczos invents nothing, learned is a model (the extra `upscale`) and sharper"
    add("--upscale-by", choices=BYS, help=f"{by} (default: {BYS[0]})")
    add("--smooth", type=int, default=1, choices=SMOOTHS, help="so many times the frames, by ffmpeg's motion")
    look = "with those two: only a second of it, as it is beside what it becomes"
    add("--look", action="store_true", help=look)
    add("--output", type=at_home, metavar="FILE", help="the new file (default: beside the result)")


def note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def not_the_source(result: Path, source: Path) -> str:
    """A word where `result` says that it began with another file than `source`; "" where it does not."""
    recorded = metadata_of(result).get("source")
    if not isinstance(recorded, dict) or not source.is_file():
        return ""
    if recorded.get("hash") == fingerprint(source)[:16]:
        return ""
    return f"{result.name} was made from another file than {source.name}: they may not fit together"


def finished(args: argparse.Namespace, file: Path) -> Path:
    """The clip larger or smoother, or a look at that. ValueError for a format that is no video's."""
    asked = Finish(args.upscale, args.smooth, args.upscale_by or BYS[0])
    ending, _ = KINDS[args.format]
    if args.format not in ("mp4", "webm", "gif") or (args.look and args.format != "mp4"):
        raise ValueError(f"--format {args.format} with --upscale or --smooth: use mp4, webm or gif")
    target = args.output or beside(file, f"-{asked.name}{'-look' * args.look}{ending}")
    if args.look:
        return preview(file, target, asked)
    options = {"quality": QUALITY if args.quality is None else args.quality, "keep": args.metadata}
    return finish(file, asked, target, tell=note, **options)


def exported(args: argparse.Namespace, file: Path) -> Path:
    """One file in another form. ValueError."""
    if args.look or args.upscale * args.smooth > 1:
        return finished(args, file)
    estimates = load_estimates(args.stages_from or stages_of(file))
    options = {"quality": args.quality, "keep": args.metadata, "estimates": estimates, "before": args.source}
    if args.source and (strange := not_the_source(file, args.source)):
        note(strange)
    return export(file, args.format, args.output, tell=note, **options)


def check_flags(args: argparse.Namespace) -> None:
    """ValueError for flags that would do nothing with the others, and a format without what it needs."""
    if args.format == "joined" and args.source is None:
        raise ValueError("--format joined needs --source FILE: the clip that the result continues")
    for name, kind in (("source", "joined"), ("stages_from", "stages")):
        if args.format != kind:
            only_with(args, [name], f"--format {kind}")
    if args.upscale == 1:
        only_with(args, ["upscale_by"], "--upscale")
    if args.format not in WITH_QUALITY:
        leave_out(args, ["quality"], f"--format {args.format}", "it has no choice of quality")
    if args.look:
        leave_out(args, ["quality"], "--look", "it has its own")


def run(args: argparse.Namespace) -> int:
    """Make the files; their paths go to stdout."""
    check_flags(args)
    of_one = (("--output", args.output), ("--source", args.source), ("--stages-from", args.stages_from))
    for flag, value in of_one:
        alone(args.files, flag, value)
    return each(args.files, lambda file: exported(args, file))
