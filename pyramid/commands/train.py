"""Train a model: a subcommand for each thing that can be trained, an entry in PARTS.

    python -m pyramid train text|vae|dit|embedded --config presets/training/….toml [--output runs/NAME]
    python -m pyramid train distill --from embedded --config presets/training/distill-cpu.toml

`embedded` trains everything from nothing, one part after the other, and puts the finished checkpoint
together. `distill` teaches a copy of a finished model to take few steps. A part that is finished is not
trained again, so an interrupted command goes on where it was when it is given again.
"""

import argparse
from collections.abc import Callable
from os.path import expanduser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands of `train`, each with flags of its own."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, (text, add, run_part) in PARTS.items():
        sub = parts.add_parser(name, help=text, description=text, allow_abbrev=False)
        add(sub)
        sub.set_defaults(run_part=run_part)


def run(args: argparse.Namespace) -> int:
    """Train what was asked for; returns the exit code."""
    return args.run_part(args)


# -- the embedded model and its parts
def add_recipe(parser: argparse.ArgumentParser, *, steps: bool = True) -> None:
    """The flags of whatever follows a recipe."""
    add = parser.add_argument
    add(
        "--config",
        required=True,
        type=expanduser,
        help="a recipe, such as presets/training/embedded-cpu.toml",
    )
    add(
        "--output",
        type=expanduser,
        help="where runs and the checkpoint are written (default: runs/NAME of the recipe)",
    )
    if steps:
        add("--steps", type=int, metavar="N", help="so many steps, in place of the recipe's budget")


def add_whole(parser: argparse.ArgumentParser) -> None:
    """The flags of `embedded`: each of its parts has a budget of its own, in the recipe."""
    add_recipe(parser, steps=False)


def build_part(args: argparse.Namespace) -> int:
    """Train a part of the embedded model on its synthetic world."""
    steps = getattr(args, "steps", None)
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: at least 1 is expected")
    from pyramid.training.build import build

    print(f"Written to {build(args.part, args.config, args.output, steps)}")
    return 0


# -- few steps
def add_distill(parser: argparse.ArgumentParser) -> None:
    """The flags of `distill`."""
    add_recipe(parser)
    add = parser.add_argument
    add("--from", dest="source", default="embedded", help="the teacher: a model's short name or folder")
    add("--variant", help="which of the teacher's transformers (default: its first)")
    add("--data", help="prompts, one a line, or .jsonl with text (default: the synthetic world's captions)")


def distill_part(args: argparse.Namespace) -> int:
    """Train a student that takes few steps without guidance."""
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps {args.steps}: at least 1 is expected")
    from pyramid.training.distill import distill

    made = distill(args.config, args.source, args.variant, args.data, args.output, args.steps)
    print(f"Written to {made}")
    return 0


Part = tuple[
    str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]
]  # what it is, its flags, what it does
PARTS: dict[str, Part] = {
    "text": ("the text encoders of the embedded model", add_recipe, build_part),
    "vae": ("an autoencoder", add_recipe, build_part),
    "dit": ("a transformer", add_recipe, build_part),
    "embedded": ("the embedded model: all of it, put together", add_whole, build_part),
    "distill": ("a student that takes few steps without guidance", add_distill, distill_part),
}
