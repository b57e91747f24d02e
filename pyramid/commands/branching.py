"""Another way from a unit of a clip: what `generate --branch RESULT --at-unit N` makes.

    settings, units = read_branch(args)             # of the clip until that unit, then of the flags
    ...
    keep(recorder.units, recorder.path)             # `generate --keep-units`: for a branch later

A branch is a table more in the clip's timeline, so its settings alone make the same. The units that both
share are taken from where they are kept: by the page, or beside the result. Without them they are made again.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.jobs.recovery import UnitsFolder
from pyramid.media.files import read_metadata
from pyramid.settings import Settings, SettingsError, flag_of, frames_for_seconds
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
    """What flags change from the unit on, and what may change of the whole. ValueError for all else."""
    told: dict[str, Any] = {}
    free = {name: value for name, value in asked.items() if name in FREE}
    for name, value in asked.items():
        if name in free:
            continue
        if name not in OF_CUE:
            raise SettingsError(
                name, f"{flag_of(name)} with --branch: the clip has its settings, so leave it out"
            )
        several = OF_CUE[name] in ("guidance", "steps") and not isinstance(value, tuple)
        told[OF_CUE[name]] = (value,) if several else value
    return told, free


def shared_units(result: Path, metadata: dict[str, Any], count: int) -> "list[Unit]":
    """The first units of a result, where they are kept and its weights are what they were; else none."""
    from pyramid.hub.checkpoints import find, identity

    run = str(metadata.get("run", ""))
    places = [result.with_name(f".{result.stem}{KEPT}")]
    if run.isalnum():
        places += [folder / ".pyramid" / "units" / run for folder in result.absolute().parents]
    for place in places:
        if not (place / "run.json").is_file():
            continue
        folder = UnitsFolder(place)
        before, units = folder.load()
        if folder.about()["model"] == identity(find(before.model, before.variant)) and len(units) >= count:
            return units[:count]
    print("Its units are not kept: what both share is made again (--keep-units keeps them)", file=sys.stderr)
    return []


def keep(units: UnitsFolder | None, result: Path | None) -> None:
    """Have the finished units of a whole result stay beside it, for a branch."""
    if units is None or result is None or not units.path.is_dir():
        return
    units.close()
    units.path.rename(result.with_name(f".{result.stem}{KEPT}"))
