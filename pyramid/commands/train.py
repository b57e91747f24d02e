"""Train a model.

    python -m pyramid train text|vae|dit|embedded --config presets/training/….toml [--output runs/NAME]

`embedded` trains everything from nothing, one part after the other, and puts the finished checkpoint
together. A part that is finished is not trained again, so an interrupted command goes on where it was when it
is given again.
"""

import argparse

PARTS = ("text", "vae", "dit", "embedded")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    add = parser.add_argument
    add("part", choices=PARTS, help="what to train; embedded: all of it, and put it together")
    add("--config", required=True, help="a recipe, such as presets/training/embedded-cpu.toml")
    add("--output", help="where runs and the checkpoint are written (default: runs/NAME of the recipe)")


def run(args: argparse.Namespace) -> int:
    """Train what was asked for; returns the exit code."""
    from pyramid.training.build import build

    print(f"Written to {build(args.part, args.config, args.output)}")
    return 0
