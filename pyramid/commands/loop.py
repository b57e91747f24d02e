"""A clip whose end meets its beginning: `python -m pyramid loop outputs/a-ball-7.mp4 --how fade`.

Of the frames that are there: "fade" dissolves the end into the beginning, "back" turns round at both ends.
"""

import argparse
import sys
from pathlib import Path

from pyramid.commands.several import alone, each
from pyramid.media.files import KEEPS
from pyramid.media.loop import FRAMES, HOWS, loop
from pyramid.media.video import QUALITY
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `loop`."""
    add = parser.add_argument
    hows = "; ".join(f"{how}: {words}" for how, words in HOWS.items())
    add("files", type=at_home, nargs="+", metavar="FILE", help="results of this program, or other videos")
    add("--how", default="fade", choices=list(HOWS), help=f"{hows} (default: fade)")
    add("--frames", type=int, default=FRAMES, metavar="N", help=f"of the dissolve (default: {FRAMES})")
    add("--output", type=at_home, metavar="FILE", help="the new file (default: beside the clip, as mp4)")
    add("--quality", type=int, default=QUALITY, metavar="CRF", help="1 to 51: 17 looks like the original")
    add("--metadata", default="embed", choices=KEEPS, help="where the settings go (default: into the file)")


def run(args: argparse.Namespace) -> int:
    """Make the files; their paths go to stdout, how each one's end meets its beginning to stderr."""
    alone(args.files, "--output", args.output)
    return each(args.files, lambda file: looped(args, file))


def looped(args: argparse.Namespace, file: Path) -> Path:
    """The loop of one clip. ValueError."""
    options = {"frames": args.frames, "quality": args.quality, "keep": args.metadata}
    path, met = loop(file, args.how, args.output, tell=note, **options)
    note(f"{path.name}: where the end meets the beginning, {met}")
    return path


def note(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)
