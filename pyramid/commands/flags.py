"""The flags of settings, from their table: one for each, with its help.

add_settings(parser)                       # --prompt, --steps, --guidance, …
changes = asked_for(args)                  # the settings that were given, for `presets.resolve`
leave_out(args, ("preset",), "--from-draft", "the draft has its settings")     # or ValueError
command_of(settings)                       # the command that makes the same again
"""

import argparse
import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyramid.disk import unwritable
from pyramid.media.files import MAX_NAME
from pyramid.presets import preset_names
from pyramid.settings import GROUPS, MODELS, SPEEDS, STEPS, TABLE, Settings, Spec, default_words, flag_of
from pyramid.timeline import load_timeline

NUMBERS = {int: int, int | None: int, float: float}
SPEED_HELP = (
    "sampler and steps by one word: quick is the model's fast variant, or half of the steps, balanced five "
    "eighths of them, with another sampler; reference the model's own"
)
REPEATED = ("lora",)  # may be given several times, for as many entries
ASKED = (*TABLE, "seconds", "speed")  # what `add_settings` adds, by name


class Joined(argparse.Action):
    """One entry more each time a flag is given."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, f"{before}, {values}" if before else values)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting, by groups, `--seconds` in place of `--num-frames`, and `--speed`."""
    for name, title in GROUPS.items():
        group = parser.add_argument_group(title)
        for spec in TABLE.values():
            if spec.group != name:
                continue
            if spec.name == "sampler":
                group.add_argument("--speed", choices=tuple(SPEEDS), help=SPEED_HELP)
            if spec.name == "num_frames":
                length = group.add_mutually_exclusive_group()
                length.add_argument("--seconds", type=float, help="length, to the nearest 8 frames")
                add_setting(length, spec)
            else:
                add_setting(group, spec)


def add_setting(group: Any, spec: Spec) -> None:
    """The flag of one setting, None where it is left out, and its former names, which --help leaves out."""
    options: dict[str, Any]
    if spec.kind is bool:
        options = {"action": argparse.BooleanOptionalAction, "default": None}
    else:
        metavar = spec.metavar or spec.option.removeprefix("--").replace("-", "_").upper()
        text = TEXTS.get(spec.name, str)
        kind = counts if spec.kind == STEPS else NUMBERS.get(spec.kind, text)
        options = {"type": kind, "metavar": metavar}
    if spec.name in REPEATED:
        options["action"] = Joined
    group.add_argument(spec.option, dest=spec.name, help=help_of(spec), **options)
    hidden = options | {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    for former in spec.former:
        group.add_argument(f"--{former.replace('_', '-')}", dest=spec.name, **hidden)


def help_of(spec: Spec) -> str:
    """What --help says of a setting."""
    text = f"{spec.help}, in {spec.unit}" if spec.unit else spec.help
    choices = preset_names() if spec.name == "preset" else spec.choices
    if choices:
        text += f": {', '.join(choices)}"
    default = default_words(spec)
    return f"{text} (default: {default})" if default else text


def timeline_text(text: str) -> str:
    """A timeline as JSON: the text itself, or what is in the file that it names."""
    if text.lstrip().startswith(("[", "{")) or not text.strip():
        return text
    try:
        return load_timeline(Path(text).expanduser())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file_text(text: str) -> str:
    """The whole path of a file: what a result says that it began with is found from anywhere."""
    return os.path.abspath(os.path.expanduser(text)) if text else text


def model_text(text: str) -> str:
    """The whole path of a model that is a folder; else its name."""
    folder = text not in MODELS and os.path.isdir(os.path.expanduser(text))
    return file_text(text) if folder else text


TEXTS: dict[str, Callable[[str], str]] = {
    "model": model_text,
    "image": file_text,
    "video": file_text,
    "preset": os.path.expanduser,
    "timeline": timeline_text,
}


def counts(text: str) -> int | tuple[int, ...]:
    """ "20" -> 20, for all stages; "20,20,10" -> (20, 20, 10); "20," -> (20,), a single stage."""
    try:
        numbers = tuple(int(part) for part in text.removesuffix(",").split(","))
    except ValueError:
        message = f"{text!r}: whole numbers are expected, such as 20 or 20,20,10"
        raise argparse.ArgumentTypeError(message) from None
    return numbers if "," in text else numbers[0]


def asked_for(args: argparse.Namespace) -> dict[str, Any]:
    """The settings whose flags were given, but for model and preset, which say what the rest starts from."""
    names = [name for name in TABLE if name not in ("model", "preset")]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def check_output(path: Path | None, flag: str = "--output", *, picture: bool = False) -> None:
    """ValueError for a file of a flag that could not be written: its name is too long, it is a folder, or its
    folder is none for it; and, for a `picture`, its name does not end as that of one. None is none.
    """
    if path is None:
        return
    if (length := len(os.fsencode(path.name))) > MAX_NAME:
        raise ValueError(f"{flag} {path}: the name has {length} bytes, more than {MAX_NAME}: shorten it")
    if why := unwritable(path.parent):
        raise ValueError(f"{flag} {path}: {why}")
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder: name a file")
    if picture:
        from PIL import Image

        if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
            raise ValueError(f"{flag} {path}: a picture's name is expected, such as sheet.png")


def leave_out(args: argparse.Namespace, names: Iterable[str], beside: str, why: str) -> None:
    """ValueError for the first of these flags that was given beside another, under which it would do nothing.

    `names`: what argparse calls them; their default is None or False.
    """
    for flag in given(args, names):
        raise ValueError(f"{flag} with {beside}: {why}, so leave it out")


def only_with(args: argparse.Namespace, names: Iterable[str], other: str) -> None:
    """ValueError for the first of these flags that was given without the `other` that it is for."""
    for flag in given(args, names):
        raise ValueError(f"{flag}: it is for {other}, so give that too or leave it out")


def given(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Those of these flags that were given, in the order of their names."""
    values = {name: getattr(args, name) for name in sorted(names)}
    return [flag_of(name) for name, value in values.items() if value is not None and value is not False]


def command_of(settings: Settings) -> str:
    """The command that makes the same again, also when the model's own defaults have changed meanwhile."""
    words = ["python", "-m", "pyramid", "generate"]
    for spec in TABLE.values():
        value = getattr(settings, spec.name)
        if spec.name == "preset" or value in (None, "auto"):
            continue
        if spec.kind is bool:
            words.append(spec.option if value else spec.option.replace("--", "--no-", 1))
        else:
            words.append(f"{spec.option}={_text(value)}")
    return shlex.join(words)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) + "," * (len(value) == 1)
    return str(value)
