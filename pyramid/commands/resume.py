"""Finish a video that a crash, a power cut or a full disk has ended, or decode what there is of it.

    python -m pyramid resume                                     # the latest in outputs
    python -m pyramid resume outputs/.a-red-ball-7.units         # that one
    python -m pyramid resume latest --decode  # a video of the finished units; the rest may follow

`generate` saves each unit beside the result until the video is there. The finished video is the one that the
run would have made: see `recovery`.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from pyramid.settings import DTYPES, at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", nargs="?", default="latest", help="a folder that ends in .units, or: latest (default)")
    add("--decode", action="store_true", help="make a video of the finished units; they stay for later")
    add(
        "--output",
        type=at_home,
        default=Path("outputs"),
        metavar="FOLDER",
        help="where to look for the latest",
    )
    add("--dtype", choices=DTYPES, help="precision of what is still to be made (default: as it was)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: as it was)")
    add(
        "--memory",
        default="auto",
        metavar="PLAN",
        help="auto, max, balanced, low, tiny or cpu: see the command plan",
    )


def run(args: argparse.Namespace) -> int:
    """Exit codes are those of `generate`."""
    units = chosen(args.folder, args.output)
    if "result" not in units.about()["inputs"]:
        raise ValueError(f"{units.path.name} belongs to a job of the page, which goes on with it")
    units.hold()
    try:
        if done := units.result():
            units.remove()
            print("It had been finished: what was left of its making is removed", file=sys.stderr)
            print(done)
            return 0
        return go_on(units, args)
    finally:
        units.close()


def go_on(units, args: argparse.Namespace) -> int:
    """Make what is still missing, or with --decode show what there is."""
    from pyramid.commands.console import Generation
    from pyramid.hub.checkpoints import find, identity, verify
    from pyramid.jobs.recovery import what_there_is
    from pyramid.media.files import ending_of
    from pyramid.media.video_reader import read_given

    settings, finished = units.load()
    about = units.about()
    changes = {name: value for name in ("dtype", "device") if (value := getattr(args, name))}
    settings = replace(settings, **changes)
    checkpoint = find(settings.model, settings.variant)
    verify(checkpoint)
    if identity(checkpoint) != about["model"]:
        raise ValueError(
            f"{units.path.name} was begun with other weights than {settings.model} has now: the rest would "
            "not fit to it"
        )
    if args.decode:
        settings = replace(settings, **what_there_is(settings, finished))
    print(f"{len(finished)} units are finished", file=sys.stderr)
    given = {} if finished else read_given(settings)
    path = units.path.with_name(about["inputs"]["result"])
    path = path.with_suffix(ending_of(settings, path.suffix))  # a picture, where one unit was finished
    return Generation(
        settings, checkpoint, given, path, units=units, partial=args.decode, memory=args.memory
    ).run()


def chosen(folder: str, output: Path):
    """The folder of units that is meant. ValueError when there is none."""
    from pyramid.jobs.recovery import UnitsFolder, abandoned

    if folder != "latest":
        return UnitsFolder(at_home(folder))
    found = abandoned(output)
    if not found:
        raise ValueError(
            f"there is nothing to resume in {output}: give the folder of another output with --output"
        )
    return found[0]
