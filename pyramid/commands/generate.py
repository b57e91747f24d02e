"""Make a video or a picture.

    python -m pyramid generate --prompt "a red ball moves to the right over a green meadow"
    python -m pyramid generate --prompt "a red ball moves to the right" --image ball.png --seed 7
    python -m pyramid generate --from-draft drafts/draft-2.safetensors
    python -m pyramid generate --branch ball.mp4 --at-unit 2 --prompt "a red ball moves to the left"

Everything that can be checked is checked before the model is loaded.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyramid.commands.flags import add_settings, asked_for, check_output, leave_out, only_with
from pyramid.media.files import PATTERN, check_ffmpeg, ending_of, file_name
from pyramid.presets import load_preset, resolve, speed_words, spelled_out
from pyramid.settings import (
    ENDLESS_UNITS,
    PHOTOS,
    Settings,
    SettingsError,
    at_home,
    flag_of,
    frames_for_seconds,
    frames_of,
)

if TYPE_CHECKING:
    from pyramid.hub.checkpoints import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, and where the work is done and the result goes."""
    add_settings(parser)
    add = parser.add_argument_group("A clip that is directed").add_argument
    add("--from-draft", type=at_home, metavar="FILE", help="go on from a draft that the command drafts made")
    other = "a result, of which another way is made from --at-unit on, by the flags that follow"
    add("--branch", type=at_home, metavar="RESULT", help=other)
    add("--at-unit", type=int, metavar="N", help="the first unit that is another; 0 is the first frame")
    kept = "keep the finished units beside the result, for --branch"
    add("--keep-units", action="store_true", help=kept)
    endless = "unit by unit until Ctrl-C, in constant memory: the history is bounded as in training"
    add("--endless", action="store_true", help=endless)
    add("--max-units", type=int, metavar="N", help="where an endless clip ends by itself")
    add = parser.add_argument_group("Machine and result").add_argument
    second = "reads prompts and makes frames, such as cuda:1 beside cuda:0"
    add("--second-device", metavar="DEVICE", help=second)
    plans = "auto, max, balanced, low, tiny or cpu: see the command plan"
    add("--memory", default="auto", metavar="PLAN", help=plans)
    add("--previews", action="store_true", help="keep what the stages made, for export --format stages")
    where = "a folder, or a file .mp4 or .png"
    add("--output", type=at_home, default=Path("outputs"), metavar="PATH", help=where)


def run(args: argparse.Namespace) -> int:
    """Make what was asked for; returns the exit code."""
    from pyramid.commands.console import (
        EndlessGeneration,
        Generation,
        JointGeneration,
        check_device,
        launched,
    )
    from pyramid.hub.checkpoints import find, identity, verify
    from pyramid.hub.loras import find_loras
    from pyramid.media.video_reader import read_given

    settings, draft, shared = begun(args)
    checkpoint = find(settings.model, settings.variant)
    verify(checkpoint)
    find_loras(settings.lora)
    settings = unbounded(settings, args, checkpoint.defaults.units)
    if settings.num_frames == 1:
        leave_out(args, ["keep_units"], "one frame", "a picture has no units to branch from")
    if draft and draft.identity != identity(checkpoint):
        raise ValueError(f"{args.from_draft} was made with other weights than {settings.model} has now")
    given = {} if any(unit.given for unit in shared) else read_given(settings)
    path = output_path(args.output, settings)
    say_notes(args, settings, checkpoint)
    kind = EndlessGeneration if args.endless else Generation
    if launched():
        kind = JointGeneration
    generation = kind(settings, checkpoint, given, path, memory=args.memory, draft=draft)
    generation.shared = shared
    generation.keep_units = args.keep_units
    generation.second_device = check_device(args.second_device)
    generation.previews = args.previews
    return generation.run()


def say_notes(args: argparse.Namespace, settings: Settings, checkpoint: "Checkpoint") -> None:
    """What there is to know of these settings before they are used."""
    from pyramid.media.looks import is_drawn_file

    if args.speed:
        print(f"{args.speed}: {speed_words(args.speed, settings)}", file=sys.stderr)
    drawn = is_drawn_file(settings.image or settings.video or "", settings.model)
    if args.variant is None and settings.variant.endswith(PHOTOS) and not drawn:
        told = f"a photograph: {settings.variant} moves a camera over it"
        other = settings.variant.removesuffix(PHOTOS)
        print(f"note: {told}. --variant {other} keeps it as the first frame.", file=sys.stderr)
    for note in settings.experimental(checkpoint.defaults, drawn=drawn):
        print(f"note: {note}", file=sys.stderr)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the flags ask for, with a seed. A ValueError calls a setting by its flag."""
    try:
        preset = None if args.preset is None else load_preset(args.preset)
        settings = resolve(args.model, preset, asked_for(args), seconds=args.seconds, speed=args.speed)
        return settings.resolved().validate()
    except SettingsError as error:
        raise ValueError(error.told(flag_of)) from error


def unbounded(settings: Settings, args: argparse.Namespace, trained: int) -> Settings:
    """With --endless, the settings of as many units as are asked for, each seeing what it saw in training."""
    if not args.endless:
        only_with(args, ["max_units"], "--endless")
        return settings
    leave_out(args, ("seconds", "num_frames"), "--endless", "a length of it is --max-units")
    leave_out(args, ("previews", "keep_units"), "--endless", "it has no last unit, so none is kept")
    most = ENDLESS_UNITS if args.max_units is None else args.max_units
    if not 2 <= most <= ENDLESS_UNITS:
        raise ValueError(f"--max-units {most}: 2 to {ENDLESS_UNITS}")
    seen = settings.history_units or max(1, trained - 1)
    return replace(settings, num_frames=frames_of(most), history_units=seen).validate()


def read_draft(args: argparse.Namespace):
    """The draft that --from-draft names, for a video with its settings and what else the flags ask for."""
    from pyramid.generate.drafts import Draft

    draft = Draft.load(args.from_draft)
    try:
        return draft.with_settings(changed(draft.settings, args).validate())
    except SettingsError as error:
        raise ValueError(error.told(flag_of)) from error


def begun(args: argparse.Namespace):
    """The settings, the draft that it goes on from, and the units that it shares. ValueError."""
    if args.branch and (args.from_draft or args.endless):
        raise ValueError("--branch with --from-draft or --endless: choose one of them")
    if args.branch:
        settings, shared = branch_of(args)
        return settings, None, shared
    only_with(args, ["at_unit"], "--branch")
    draft = read_draft(args) if args.from_draft else None
    return draft.settings if draft else settings_of(args), draft, []


def branch_of(args: argparse.Namespace):
    """The settings of what --branch asks for, and the units that it shares. A ValueError calls a setting by
    its flag.
    """
    from pyramid.commands.branching import read_branch

    try:
        return read_branch(args, asked_for(args))
    except SettingsError as error:
        raise ValueError(error.told(flag_of)) from error


def changed(settings: Settings, args: argparse.Namespace) -> Settings:
    """Settings with what the flags ask for in their place."""
    leave_out(args, ("preset", "speed"), "--from-draft", "the draft has its settings")
    asked = asked_for(args) | ({} if args.model is None else {"model": args.model})
    settings = replace(settings, **asked | spelled_out(asked, settings.stages))
    if args.seconds is None:
        return settings
    return replace(settings, num_frames=frames_for_seconds(args.seconds, settings.fps))


def output_path(asked: Path, settings: Settings) -> Path:
    """Where the result goes: `asked`, or a name made of the prompt and the seed in the folder `asked`."""
    ending = ending_of(settings)
    if asked.suffix.lower() not in (".png", ".mp4"):
        if asked.suffix and not asked.is_dir():
            raise ValueError(f"--output {asked}: use a folder, or a file that ends in {ending}")
        asked = asked / f"{file_name(PATTERN, settings)}{ending}"
    if asked.suffix.lower() != ending:
        what = "a picture (1 frame)" if ending == ".png" else f"a video of {settings.num_frames} frames"
        raise ValueError(f"--output {asked}: {what} needs a name that ends in {ending}")
    check_output(asked)
    if ending == ".mp4":
        check_ffmpeg()
    return asked
