"""A result in another form: `python -m pyramid export outputs/a-ball-7.mp4 --format gif`."""

import argparse
import sys

from pyramid.media.export import KINDS, export
from pyramid.media.files import KEEPS
from pyramid.media.preview import load_estimates
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `export`."""
    add = parser.add_argument
    add("file", type=at_home, help="a result of this program, or another video")
    add("--format", default="mp4", choices=list(KINDS), help="what it becomes (default: mp4)")
    add("--quality", type=int, metavar="CRF", help="1 to 51: 17 looks like the original, more is smaller")
    add("--metadata", default="embed", choices=KEEPS, help="where the settings go (default: into the file)")
    add("--stages-from", type=at_home, metavar="FOLDER", help="for stages: the folder of a result's units")
    add("--output", type=at_home, metavar="FILE", help="the new file (default: beside the result)")


def note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def run(args: argparse.Namespace) -> int:
    """Make the file; its path goes to stdout."""
    estimates = load_estimates(args.stages_from) if args.stages_from else None
    options = {"quality": args.quality, "keep": args.metadata, "estimates": estimates}
    print(export(args.file, args.format, args.output, tell=note, **options))
    return 0
