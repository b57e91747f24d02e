"""Another way from a unit of a clip: what `generate --branch RESULT --at-unit N` makes.

    settings, units = read_branch(args)             # of the clip until that unit, then of the flags
    ...
    settle(recorder.units, recorder.path, kept=True)  # `generate --keep-units`: for a branch later

A branch is a table more in the clip's timeline, so its settings alone make the same. The units that both
share are taken from where they are kept: by the page, or beside the result. Without them they are made again.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.commands.flags import ASKED, leave_out
from pyramid.jobs.recovery import UnitsFolder
from pyramid.media.files import read_metadata
from pyramid.settings import Settings, check_value, flag_of, frames_for_seconds
from pyramid.timeline import Cue, branched, write_timeline

if TYPE_CHECKING:
    from pyramid.events import Unit

KEPT = ".kept"
OF_CUE = {  # what a flag changes from the unit on
    "prompt": "prompt",
    "seed": "seed",
    "guidance_scale": "guidance",
    "video_guidance_scale": "guidance",
    "num_inference_steps": "steps",
    "video_num_inference_steps": "steps",
}
FREE = ("num_frames", "fps", "device", "dtype", "quantize")  # what may change and leaves units as they are


def read_branch(args: argparse.Namespace, asked: dict[str, Any]) -> tuple[Settings, "list[Unit]"]:
    """The settings of the branch, and the units that it shares, if they are kept. ValueError."""
    if args.at_unit is None:
        raise ValueError("--branch needs --at-unit N: the first unit that is to be another")
    leave_out(args, set(ASKED) - {*OF_CUE, *FREE, "seconds"}, "--branch", "the clip has its settings")
    metadata = read_metadata(args.branch)
    before = Settings.from_dict(metadata["settings"])
    if not 1 <= args.at_unit < before.units:
        raise ValueError(
            f"--at-unit {args.at_unit}: 1 to {before.units - 1}, the last unit of {args.branch.name}"
        )
    told, free = _told(asked)
    if args.seconds is not None:
        free["num_frames"] = frames_for_seconds(args.seconds, before.fps)
    if not told and not free.keys() - {"device", "dtype", "quantize"}:
        raise ValueError("--branch: say what is to be different, such as --prompt or --seed")
    timeline = write_timeline(branched(before.cues, replace(Cue(args.at_unit), **told)))
    settings = replace(before, timeline=timeline, preset=None, **free).validate(skip=("image", "video"))
    if settings.units <= args.at_unit:
        raise ValueError(f"{settings.num_frames} frames end before unit {args.at_unit}: ask for more")
    return settings, shared_units(args.branch, metadata, args.at_unit)


def _told(asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What flags change from the unit on, and what may change of the whole. ValueError for what cannot be,
    and for two flags that say different things of the same.
    """
    told: dict[str, Any] = {}
    free = {name: value for name, value in asked.items() if name in FREE}
    said: dict[str, str] = {}  # what was told -> by which flag
    for name, value in asked.items():
        if name in free:
            continue
        several = OF_CUE[name] in ("guidance", "steps") and not isinstance(value, tuple)
        check_value(name, (value,) if name.endswith("steps") and several else value)
        value = (value,) if several else value
        other = said.setdefault(OF_CUE[name], flag_of(name))
        if told.setdefault(OF_CUE[name], value) != value:
            raise ValueError(
                f"{flag_of(name)} with {other}: both are for the units from --at-unit on, so give one"
            )
    return told, free


def shared_units(result: Path, metadata: dict[str, Any], count: int) -> "list[Unit]":
    """The first units of a result, where those of its very run are kept, and its weights are what they were;
    else none.
    """
    from pyramid.hub.checkpoints import find, identity

    run = str(metadata.get("run", ""))
    places = [kept_beside(result)]
    if run.isalnum():
        places += [folder / ".pyramid" / "units" / run for folder in result.absolute().parents]
    for place in places:
        if not (place / "run.json").is_file():
            continue
        folder = UnitsFolder(place)
        before, units = folder.load()
        about = folder.about()
        own = run == about["inputs"].get("run", place.name)  # the page's folders are named as their runs
        if own and about["model"] == identity(find(before.model, before.variant)) and len(units) >= count:
            return units[:count]
    print("Its units are not kept: what both share is made again (--keep-units keeps them)", file=sys.stderr)
    return []


def kept_beside(result: Path) -> Path:
    """The hidden folder for the finished units of a result."""
    return result.with_name(f".{result.stem}{KEPT}")


def settle(units: UnitsFolder | None, result: Path, *, kept: bool) -> None:
    """Have the finished units of a new result stay beside it for a branch, where they are to be `kept`.

    What is there already is of a clip that had this name before, and goes. A failure is a note: the result is
    whole without.
    """
    place = kept_beside(result)
    try:
        if place.exists():
            shutil.rmtree(place)
        if kept and units is not None and units.path.is_dir():
            units.close()
            units.path.rename(place)
    except OSError as error:
        why = error.strerror or error
        print(
            f"note: {place.name} could not be put in order ({why}): a branch makes its units again",
            file=sys.stderr,
        )
