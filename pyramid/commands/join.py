"""Clips one after the other in one: `python -m pyramid join morning.mp4 evening.mp4 --output day.mp4`."""

import argparse
import sys

from pyramid.media.files import KEEPS
from pyramid.media.join import join_clips
from pyramid.media.video import QUALITY
from pyramid.settings import FITS, at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `join`."""
    add = parser.add_argument
    add("files", type=at_home, nargs="+", metavar="FILE", help="two clips or more, in their order")
    add("--output", type=at_home, required=True, metavar="FILE", help="the new file: .mp4, .webm or .gif")
    add("--fit", default="crop", choices=FITS, help="how clips come to the first one's size (default: crop)")
    add("--quality", type=int, default=QUALITY, metavar="CRF", help="1 to 51: 17 looks like the originals")
    add("--metadata", default="embed", choices=KEEPS, help="where the settings go (default: into the file)")


def run(args: argparse.Namespace) -> int:
    """Make the file; its path goes to stdout, how far the pictures jump at each seam to stderr."""
    options = {"fit": args.fit, "quality": args.quality, "keep": args.metadata}
    print(join_clips(args.files, args.output, tell=note, **options))
    return 0


def note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)
