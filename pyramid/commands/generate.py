"""Make a video or a picture.

    python -m pyramid generate --prompt "a red ball moves to the right over a green meadow"
    python -m pyramid generate --prompt "a red ball moves to the right" --image ball.png --seed 7

Everything that can be checked is checked before the model is loaded.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from pyramid.commands.flags import add_settings, asked_for
from pyramid.media.files import PATTERN, file_name
from pyramid.presets import load_preset, resolve, speed_words
from pyramid.settings import Settings, SettingsError, at_home, flag_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, and where the work is done and the result goes."""
    add_settings(parser)
    add = parser.add_argument_group("Machine and result").add_argument
    second = "reads prompts and makes frames, such as cuda:1 beside cuda:0"
    add("--second-device", metavar="DEVICE", help=second)
    plans = "auto, max, balanced, low, tiny or cpu: see the command plan"
    add("--memory", default="auto", metavar="PLAN", help=plans)
    where = "a folder, or a file .mp4 or .png"
    add("--output", type=at_home, default=Path("outputs"), metavar="PATH", help=where)


def run(args: argparse.Namespace) -> int:
    """Make what was asked for; returns the exit code."""
    from pyramid.commands.console import Generation, JointGeneration, check_device, launched
    from pyramid.hub.checkpoints import find, verify
    from pyramid.media.video_reader import read_given

    settings = settings_of(args)
    checkpoint = find(settings.model, settings.variant)
    verify(checkpoint)
    given = read_given(settings)
    path = output_path(args.output, settings)
    if args.speed:
        print(f"{args.speed}: {speed_words(args.speed, settings)}", file=sys.stderr)
    for note in settings.experimental(checkpoint.defaults):
        print(f"note: {note}", file=sys.stderr)
    kind = JointGeneration if launched() else Generation
    generation = kind(settings, checkpoint, given, path, memory=args.memory)
    generation.second_device = check_device(args.second_device)
    return generation.run()


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings that the flags ask for, with a seed. A ValueError calls a setting by its flag."""
    try:
        preset = load_preset(args.preset) if args.preset else None
        settings = resolve(args.model, preset, asked_for(args), seconds=args.seconds, speed=args.speed)
        return settings.resolved().validate()
    except SettingsError as error:
        raise ValueError(error.told(flag_of)) from error


def output_path(asked: Path, settings: Settings) -> Path:
    """Where the result goes: `asked`, or a name made of the prompt and the seed in the folder `asked`."""
    ending = ".png" if settings.num_frames == 1 else ".mp4"
    if asked.suffix.lower() not in (".png", ".mp4"):
        if asked.suffix and not asked.is_dir():
            raise ValueError(f"--output {asked}: use a folder, or a file that ends in {ending}")
        asked = asked / f"{file_name(PATTERN, settings)}{ending}"
    if asked.suffix.lower() != ending:
        what = "a picture (1 frame)" if ending == ".png" else f"a video of {settings.num_frames} frames"
        raise ValueError(f"--output {asked}: {what} needs a name that ends in {ending}")
    folder = next(parent for parent in asked.absolute().parents if parent.exists())
    try:  # rights alone do not tell: the disk may be full, or read-only
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise ValueError(f"--output {asked}: nothing can be written in {folder}: {error.strerror}") from None
    return asked
