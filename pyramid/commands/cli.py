"""The command line: a file a command, each with `add_arguments(parser)` and `run(args)`, called from here.

    python -m pyramid generate --prompt "a red ball moves to the right over a green meadow"
    python -m pyramid inspect outputs/a-red-ball.mp4

Exit codes: 0 done; 2 bad input, told in one line on stderr that begins with `error:`, nothing written; 1
something else went wrong; 130 stopped by Ctrl-C. The result's path is all that goes to stdout; progress goes
to stderr.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pyramid.commands.interrupts import as_by_ctrl_c
from pyramid.commands.terminal import steady_output
from pyramid.memory.threads import wait_asleep, wait_briefly
from pyramid.settings import flag_of

COMMANDS = {  # name, which is that of its module here, and what it does
    "generate": "make a video or a picture",
    "drafts": "look at many seeds at the coarsest stage, before one of them becomes a video",
    "inspect": "show the settings that a result was made with",
    "download": "fetch a published model",
    "data": "look at clips to train on, and say which can be used",
    "train": "train the autoencoder, the transformer, or the whole embedded model",
    "evaluate": "measure a model on words and photographs it has not seen",
    "resume": "finish a video that a crash or a power cut has ended",
    "batch": "make many videos from a list, here or on a Ray cluster",
    "export": "make a webm, a gif, pictures or a smaller mp4 of a result",
    "edit": "make a unit in the middle of a clip anew, and keep both sides",
    "join": "put clips one after the other, and measure how they meet",
    "loop": "let a clip's end meet its beginning",
    "plan": "show how models fit this machine's memory, estimated and measured",
    "doctor": "look at this machine and say what to fix",
    "bench": "measure this machine: seconds a step, a unit, a video",
}


class UsageError(ValueError):
    """Arguments that argparse does not understand."""


class Parser(argparse.ArgumentParser):
    """argparse with one line for an error in place of the whole usage."""

    def error(self, message: str):
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    with steady_output():
        return run(argv)


def run(argv: Sequence[str] | None) -> int:
    """A command; whatever goes wrong becomes one line and an exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Of no use to who asked for a video: which keys a library ignores.
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    try:
        command = next((word for word in argv if not word.startswith("-")), "")
        (wait_asleep if command == "train" else wait_briefly)()
        args = parser(command).parse_args(argv)
        with as_by_ctrl_c():
            return args.run(args) or 0
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        return told(error)


def told(error: Exception) -> int:
    """Say in one line what went wrong; what has no words goes into a log. Returns the exit code: 2 for what a
    user causes (settings, files, checkpoints), 1 for all else.
    """
    from pyramid.failures import keep_log, known, printable, sentence

    words = known(error, flag_of)
    code = 2 if words is not None and isinstance(error, (ValueError, RecursionError, OverflowError)) else 1
    if words is None:
        from pyramid.text.cache import cache_folder

        keep_log(cache_folder() / "errors.log", terminal=False)
        words = sentence(error, flag_of)
    print(f"error: {printable(words)}", file=sys.stderr)
    return code


def parser(command: str) -> Parser:
    """The parser of all commands. Only `command` is imported, so that --help is fast."""
    top = Parser(
        prog="python -m pyramid",
        description="Pyramid Flow: a sentence or a picture becomes a video.",
        allow_abbrev=False,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, allow_abbrev=False)
        if name == command:
            module = importlib.import_module(f"pyramid.commands.{name}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return top
