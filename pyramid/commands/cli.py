"""The command line: parse, call, print.

    python -m pyramid generate --prompt "a red ball moves to the right over a green meadow"
    python -m pyramid generate --prompt "a red ball moves to the right" --image ball.png --seed 7
    python -m pyramid inspect outputs/a-red-ball.mp4

Exit codes: 0 done; 2 bad input, told in one line on stderr that begins with `error:`, nothing written; 1
something else went wrong; 130 stopped by Ctrl-C. The result's path is all that goes to stdout; progress goes
to stderr.
"""

import argparse
import importlib
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyramid.media.files import PATTERN, file_name
from pyramid.presets import Preset, load_preset, preset_names
from pyramid.settings import DTYPES, FITS, MODELS, Settings, frames_for_seconds

ELSEWHERE = {  # command -> the module with its `add_arguments(parser)` and `run(args)`, and what it does
    "train": ("pyramid.training.cli", "train the autoencoder, the transformer, or the whole embedded model"),
    "evaluate": ("pyramid.training.evaluate", "measure a model on words and photographs it has not seen"),
    "resume": ("pyramid.commands.resume", "finish a video that a crash or a power cut has ended"),
    "batch": ("pyramid.commands.batch", "make many videos from a list, here or on a Ray cluster"),
    "export": ("pyramid.media.export", "make a webm, a gif, pictures or a smaller mp4 of a result"),
    "plan": ("pyramid.commands.plan", "show how models fit this machine's memory, estimated and measured"),
    "doctor": ("pyramid.commands.doctor", "look at this machine and say what to mend"),
    "bench": ("pyramid.commands.bench", "measure this machine: seconds a step, a unit, a video"),
}
FLAGS = {  # settings that have a flag of their own name, or of the one given here
    "negative_prompt": None,
    "prompt_suffix": None,
    "image": None,
    "video": None,
    "fit": None,
    "num_frames": None,
    "fps": None,
    "width": None,
    "height": None,
    "num_inference_steps": "steps",
    "video_num_inference_steps": "video_steps",
    "guidance_scale": "guidance",
    "video_guidance_scale": "video_guidance",
    "guidance_decay": None,
    "min_guidance_scale": "min_guidance",
    "seed": None,
    "dtype": None,
    "quantize": None,
    "device": None,
}


class UsageError(ValueError):
    """Arguments that argparse does not understand."""


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error in place of the whole usage."""

    def error(self, message: str):
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Of no use to who asked for a video: which optional kernels a library looked for, which keys it ignores.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        args = parser(next((word for word in argv if not word.startswith("-")), "")).parse_args(argv)
        return args.run(args) or 0
    except ValueError as error:  # what a user causes: settings, files, checkpoints
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        from pyramid.memory.ladder import is_out_of_memory

        if is_out_of_memory(error):
            print("error: memory ran out; ask for a smaller size, or close other programs", file=sys.stderr)
        elif isinstance(error, (OSError, FloatingPointError)):  # a disk that is full, a drive that is gone
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
        else:
            raise
        return 1


def parser(command: str) -> Parser:
    """The parser of all commands. Of those that live elsewhere only `command` is imported,
    so that --help is fast.
    """
    top = Parser(
        prog="python -m pyramid",
        description="Pyramid Flow: a sentence or a picture becomes a video.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    add = commands.add_parser
    _generate_arguments(add("generate", help="make a video or a picture", allow_abbrev=False))
    inspect = add("inspect", help="show the settings that a result was made with", allow_abbrev=False)
    inspect.add_argument("file", type=Path)
    inspect.add_argument("--json", action="store_true", help="print them as JSON")
    inspect.set_defaults(run=run_inspect)
    download = add("download", help="fetch a published model", allow_abbrev=False)
    download.add_argument("model", help="miniflux, sd3, or a repository")
    download.add_argument("--variant", help="384p, 768p or image")
    download.set_defaults(run=run_download)
    for name, (module, text) in ELSEWHERE.items():
        sub = add(name, help=text, allow_abbrev=False)
        if name == command:
            there = importlib.import_module(module)
            there.add_arguments(sub)
            sub.set_defaults(run=there.run)
    return top


# -- generate
def _generate_arguments(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--prompt", default="", help="what should be seen")
    add("--image", metavar="FILE", help="a picture that becomes the first frame")
    add("--video", metavar="FILE", help="a video that is continued")
    add("--negative-prompt", metavar="TEXT", help="what should not be seen (default: the model's)")
    add("--prompt-suffix", metavar="TEXT", help="added to the prompt (default: the model's)")
    add("--seed", type=int, help="the same seed makes the same video (default: random)")
    length = sub.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help="length, to the nearest 8 frames")
    length.add_argument("--num-frames", type=int, help="length as 1 + 8k frames; 1 makes a picture")
    add("--width", type=int, help="pixels, a multiple of 64")
    add("--height", type=int, help="pixels, a multiple of 64")
    add("--fps", type=int, help="frames a second of the file (default: as trained)")
    add(
        "--fit",
        metavar="HOW",
        help=f"how a given picture comes to the size: {', '.join(FITS)} (default: crop)",
    )
    add(
        "--steps",
        type=_counts,
        metavar="N,N,N",
        help="steps of each stage for the first frame; N for all alike",
    )
    add("--video-steps", type=_counts, metavar="N,N,N", help="the same for the frames after it")
    add("--guidance", type=float, help="how closely the first frame follows the prompt; 1 is off")
    add("--video-guidance", type=float, help="the same for the frames after it")
    add("--guidance-decay", type=float, help="how much guidance falls with each unit of 8 frames")
    add("--min-guidance", type=float, help="where falling guidance ends")
    add("--preset", help=f"settings with a name: {', '.join(preset_names())}, or a .toml file")
    add("--model", help=f"{', '.join(MODELS)}, a folder, or a repository (default: embedded)")
    add("--variant", help="which of the model's transformers, such as 384p (default: its first)")
    add("--dtype", help=f"precision: {', '.join(DTYPES)} (default: what suits the device)")
    add(
        "--quantize",
        metavar="HOW",
        help="weights in fewer bits: int8 or nf4 (bitsandbytes: T5 where it is loaded "
        "whole, on a CUDA card the transformer), fp8 (storage of the transformer), "
        "none (default)",
    )
    add("--quantise", dest="quantize", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--device", help="cpu, cuda, cuda:1, mps (default: the fastest there is)")
    add(
        "--second-device",
        metavar="DEVICE",
        help="reads prompts and makes frames, such as cuda:1 beside cuda:0",
    )
    add(
        "--memory",
        default="auto",
        metavar="PLAN",
        help="auto, max, balanced, low, tiny or cpu: see the command plan",
    )
    add(
        "--output",
        type=Path,
        default=Path("outputs"),
        metavar="PATH",
        help="a folder, or a file .mp4 or .png",
    )
    sub.set_defaults(run=run_generate)


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: whole numbers are expected, such as 20 or 20,20,10"
        ) from None


def run_generate(args: argparse.Namespace) -> int:
    """Make what was asked for. Everything that can be checked is checked before the model is loaded."""
    from pyramid.commands.console import Generation, JointGeneration, check_device, launched
    from pyramid.hub.checkpoints import find, verify
    from pyramid.media.video import read_given

    preset = load_preset(args.preset) if args.preset else None
    asked = preset.values if preset else {}
    model = args.model or asked.get("model", "embedded")
    # A preset's variant is one of its own model's: with another model it says nothing.
    variant = args.variant or (asked.get("variant") if model == asked.get("model", model) else None)
    checkpoint = find(model, variant)
    verify(checkpoint)
    start = Settings.for_model(model, checkpoint.variant, expects=checkpoint.defaults)
    settings = settings_of(args, start, preset).resolved().validate()
    given = read_given(settings)
    path = output_path(args.output, settings)
    for note in settings.experimental(checkpoint.defaults):
        print(f"note: {note}", file=sys.stderr)
    kind = JointGeneration if launched() else Generation
    generation = kind(settings, checkpoint, given, path, memory=args.memory)
    generation.second_device = check_device(args.second_device)
    return generation.run()


def settings_of(args: argparse.Namespace, start: Settings, preset: Preset | None) -> Settings:
    """`start`, changed by the preset, changed by the flags. One step count stands for all stages."""
    if preset:
        values = {name: value for name, value in preset.values.items() if name not in ("model", "variant")}
        start = replace(preset, values=values).apply(start)
    changes = {
        name: value for name, flag in FLAGS.items() if (value := getattr(args, flag or name)) is not None
    }
    names = ("num_inference_steps", "video_num_inference_steps")
    stages = next((len(changes[name]) for name in names if len(changes.get(name, ())) > 1), start.stages)
    for name in names:
        if len(changes.get(name, ())) == 1:
            changes[name] = changes[name] * stages
    steps = changes.get("num_inference_steps", start.num_inference_steps)
    if (
        len(steps) != start.stages
    ):  # another number of stages: without a word on later frames, the same for those
        changes.setdefault("video_num_inference_steps", steps)
    if args.seconds is not None:
        changes["num_frames"] = frames_for_seconds(args.seconds, changes.get("fps", start.fps))
    return replace(start, prompt=args.prompt, **changes)


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
    try:
        with tempfile.TemporaryFile(
            dir=folder
        ) as file:  # rights alone do not tell: it may be full, or read-only
            file.write(b"\0")
    except OSError as error:
        raise ValueError(f"--output {asked}: nothing can be written in {folder}: {error.strerror}") from None
    return asked


# -- other commands
def run_inspect(args: argparse.Namespace) -> int:
    """Print what a result says of itself, and the command that makes it again."""
    from pyramid.media.video import read_metadata

    metadata = read_metadata(args.file)
    if args.json:
        print(json.dumps(metadata, indent=2))
        return 0
    settings = Settings.from_dict(metadata.get("settings", {}))
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(args.file), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in settings.to_dict().items():
        if value not in (None, "") and name != "version":
            table.add_row(name, _shown(value))
    for name in ("model", "source", "timings"):
        for key, value in metadata.get(name, {}).items():
            table.add_row(f"{name}: {key}", _shown(value))
    if metadata.get("partial"):
        table.add_row("partial", "stopped before its end")
    Console().print(table)
    print(f"Again: {command_of(settings)}")
    return 0


def _shown(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, dict):
        return escape(", ".join(f"{key} {_plain(item)}" for key, item in value.items()))
    return escape(_plain(value))


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def command_of(settings: Settings) -> str:
    """The command that makes the same again, also when the model's own defaults have changed meanwhile."""
    words = ["python", "-m", "pyramid", "generate"]
    for name, flag in {"prompt": None, "model": None, "variant": None, **FLAGS}.items():
        value = getattr(settings, name)
        if value not in (None, "auto"):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{(flag or name).replace('_', '-')}={text}")
    return shlex.join(words)


def run_download(args: argparse.Namespace) -> int:
    """Fetch what a variant needs; the folder goes to stdout."""
    from pyramid.hub.download import download

    print(download(args.model, args.variant, log=lambda text: print(text, file=sys.stderr)).folder)
    return 0
