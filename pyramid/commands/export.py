"""A result in another form: `python -m pyramid export outputs/a-ball-7.mp4 --format gif`."""

import argparse
import sys
from pathlib import Path

from pyramid.hub.checkpoints import fingerprint
from pyramid.media.export import KINDS, export
from pyramid.media.files import KEEPS
from pyramid.media.preview import load_estimates, stages_of
from pyramid.media.result import metadata_of
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    add = parser.add_argument
    add("file", type=at_home, help="a result of this program, or another video")
    add("--format", default="mp4", choices=list(KINDS), help="what it becomes (default: mp4)")
    add("--quality", type=int, metavar="CRF", help="1 to 51: 17 looks like the original, more is smaller")
    add("--metadata", default="embed", choices=KEEPS, help="where the settings go (default: into the file)")
    add("--stages-from", type=at_home, metavar="FOLDER", help="for stages: where they are, if not beside it")
    add("--source", type=at_home, metavar="FILE", help="for joined: the clip that the result continues")
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


def run(args: argparse.Namespace) -> int:
    """Make the file; its path goes to stdout."""
    estimates = load_estimates(args.stages_from or stages_of(args.file))
    options = {"quality": args.quality, "keep": args.metadata, "estimates": estimates, "before": args.source}
    if args.source and (strange := not_the_source(args.file, args.source)):
        note(strange)
    print(export(args.file, args.format, args.output, tell=note, **options))
    return 0
