"""A unit in the middle of a clip made anew, with both sides kept, and how it meets them measured.

    python -m pyramid edit outputs/a-ball-7.mp4 --unit 2 --prompt "the ball is blue" --tries 4
    python -m pyramid edit outputs/a-ball-7.mp4 --unit 2 --composition --units outputs/.pyramid/units/JOB
    python -m pyramid edit outputs/*.mp4 --unit 2 --prompt "the ball is blue"      # one after the other

The latents of the clip are made again from its settings, which takes as long as the clip did, or read from a
folder of finished units, as the page keeps them.
"""

import argparse
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyramid.commands.flags import check_output
from pyramid.settings import Settings, at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `edit`."""
    add = parser.add_argument
    add("files", type=at_home, nargs="+", metavar="FILE", help="videos that this program made")
    add("--unit", type=int, required=True, metavar="N", help="which unit, from 1 on: frames 8N-7 to 8N")
    add("--prompt", help="other words for this unit (default: its own)")
    add("--seed", type=int, help="of its noise (default: one that is drawn)")
    add("--tries", type=int, default=1, metavar="N", help="seeds to try: the one that meets best stays")
    add(
        "--composition",
        action="store_true",
        help="keep where things are: only the finer stages are made anew",
    )
    add("--units", type=at_home, metavar="FOLDER", help="the clip's finished units, else they are made again")
    add("--output", type=at_home, metavar="FILE", help="the new file (default: beside the clip)")
    add("--memory", default="auto", metavar="PLAN", help="auto, max, balanced, low, tiny or cpu")


def run(args: argparse.Namespace) -> int:
    """Make the files; their paths go to stdout. Of several, one that cannot be edited is told of, and the
    exit code is 1; 130 after Ctrl-C.
    """
    from pyramid.commands.interrupts import Halted, interruptible
    from pyramid.commands.several import alone, each
    from pyramid.generate.loaded import ModelHolder

    for flag, value in (("--units", args.units), ("--output", args.output)):
        alone(args.files, flag, value)
    stop = threading.Event()
    holder = ModelHolder()

    def make(file: Path) -> Path:
        made = edited(args, file, holder, stop)
        if made is None:
            raise Halted
        return made

    try:
        with interruptible(stop):
            return each(args.files, make)
    except Halted:
        say("Nothing was kept of what was being made: it was stopped before the unit was there.")
        return 130


def edited(args: argparse.Namespace, file: Path, holder: Any, stop: threading.Event) -> Path | None:
    """The clip with its unit made anew; None after a stop that came before. ValueError."""
    from pyramid.hub.checkpoints import find, identity
    from pyramid.hub.loras import find_loras
    from pyramid.jobs.editing import Edit, chosen, remade, seeds_from

    settings, weights = told_by(file)
    edit = Edit(args.unit, args.prompt, seeds_from(settings, args.seed, args.tries), args.composition)
    edit.check(settings.units)
    target = target_of(args, file)
    units = units_in(args.units, file, settings) if args.units else []
    checkpoint = find(settings.model, settings.variant)
    if not units and weights != identity(checkpoint):
        raise ValueError(f"{file.name} was made with other weights than {settings.model} has now")
    find_loras(settings.lora)
    loaded = holder.bring(settings, args.memory, say)
    units = units or made_again(settings, loaded, stop)
    choice = chosen(remade(loaded.stream, settings, units, edit, stop), say_event) if units else None
    if choice is None:
        return None
    return written(target, settings, loaded, edit, choice, file.name)


def told_by(path: Path) -> tuple[Settings, dict[str, Any]]:
    """The settings of a clip that this program made, and its weights. ValueError for another clip."""
    from pyramid.jobs.record import readable
    from pyramid.media.files import read_metadata

    told = read_metadata(path)
    if told.get("export") or told.get("edit"):
        raise ValueError(f"{path.name} was made of another clip: edit that one, whose latents are known")
    settings, notes = readable(told.get("settings", {}))
    for note in notes:
        say(f"note: {note}")
    if told.get("partial"):
        raise ValueError(f"{path.name} is a part of a clip: finish it first")
    return settings, told.get("model", {})


def target_of(args: argparse.Namespace, file: Path) -> Path:
    """Where the edited clip goes. ValueError for what is no name of a video, or cannot be written."""
    from pyramid.media.files import beside
    from pyramid.media.video import QUALITY, encoding

    target = args.output or beside(file, f"-unit{args.unit}{file.suffix}")
    encoding(target.suffix, QUALITY)
    check_output(target)
    return target


def units_in(folder: Path, file: Path, settings: Settings) -> list[Any]:
    """The units of a clip from a folder of finished ones. ValueError where those are of another."""
    from pyramid.jobs.recovery import UnitsFolder

    before, units = UnitsFolder(folder).load()
    if len(units) < settings.units or before.seed != settings.seed:
        raise ValueError(f"--units {folder}: these {len(units)} units are not those of {file.name}")
    return units[: settings.units]


def made_again(settings: Settings, loaded: Any, stop: threading.Event) -> list[Any]:
    """All units of the clip, made from its settings; none after a stop."""
    from pyramid.events import Unit
    from pyramid.generate.request import Inputs

    say("Making the clip's latents again, from its settings")
    inputs = Inputs(stop=stop, output_type="latent")
    units = [event for event in loaded.stream(settings, inputs) if isinstance(event, Unit)]
    return units if len(units) == settings.units else []


def say_event(event: Any) -> None:
    """What a run tells on its way goes to stderr."""
    from pyramid.events import Notice, Preview, Status

    match event:
        case Status() | Notice():
            say(event.message)
        case Preview() if event.step + 1 == event.steps:
            say(f"Unit {event.unit}: stage {event.stage + 1} of {event.stages}")


def written(  # noqa: PLR0913 - what the clip has to say of itself
    target: Path, settings: Settings, loaded: Any, edit: Any, choice: Any, source: str
) -> Path:
    """The clip with the unit in it, which says how it came there. `source`: the name of the old one."""
    from pyramid.generate.request import Inputs
    from pyramid.jobs.editing import sentence_of
    from pyramid.jobs.recorder import Recorder, Recording

    note = sentence_of(edit, choice)
    say(note)
    marks = {"edit": choice.table(edit), "source_file": source}
    recording = Recording(settings, target, loaded.identity, marks=marks)
    plain = replace(settings, image=None, video=None)
    recorder = Recorder(recording, notes=(note,))
    return recorder.record(lambda _: loaded.stream(plain, Inputs(finished=choice.units)))


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
