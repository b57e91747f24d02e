"""Train a model: a subcommand for each thing that can be trained, an entry in PARTS.

    python -m pyramid train text|vae|dit|embedded --config presets/training/….toml [--output runs/NAME]
    python -m pyramid train vae|dit|lora --data LIST --config presets/training/….toml [--from MODEL]
    python -m pyramid train distill --from embedded --config presets/training/distill-cpu.toml

`embedded` trains everything from nothing, one part after the other, and puts the finished checkpoint
together. With `--data`, `vae` and `dit` train on clips of one's own, and so does `lora`. `distill` teaches a
copy of a finished model to take few steps. A part that is finished is not trained again, so an interrupted
command goes on where it was when it is given again.
"""

import argparse
import os
from collections.abc import Callable
from os.path import expanduser
from pathlib import Path


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


def check_steps(steps: int | None) -> None:
    """ValueError for a run of no steps."""
    if steps is not None and steps < 1:
        raise ValueError(f"--steps {steps}: at least 1 is expected")


def say_where(made: Path) -> None:
    """The last line of a training: of several processes, the first says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"Written to {made}")


def build_part(args: argparse.Namespace) -> int:
    """Train a part of the embedded model on its synthetic world."""
    steps = getattr(args, "steps", None)
    check_steps(steps)
    from pyramid.training.build import build

    say_where(build(args.part, args.config, args.output, steps))
    return 0


# -- clips of one's own
def add_clips(parser: argparse.ArgumentParser, *, needed: bool = False) -> None:
    """The flags of what may be trained on clips, or has to be."""
    add_recipe(parser)
    add = parser.add_argument
    text = "a list of clips (see data doctor)" + ("" if needed else "; without it, the synthetic world")
    add("--data", type=expanduser, metavar="LIST", required=needed, help=text)
    add("--root", type=expanduser, metavar="DIR", help="where the names in the list start")
    text = "what to start from: a checkpoint of ours, or sd3-medium, its folder or file (default: nothing)"
    add("--from", dest="source", type=expanduser, metavar="MODEL", required=needed, help=text)
    add("--variant", help="which of its transformers (default: its first)")
    add("--plan", action="store_true", help="say what it will cost, with --data, and train nothing")


def add_vae(parser: argparse.ArgumentParser) -> None:
    """The flags of `vae`."""
    add_recipe(parser)
    add = parser.add_argument
    text = "a list of clips (see data doctor); without it, the synthetic world"
    add("--data", type=expanduser, metavar="LIST", help=text)
    add("--root", type=expanduser, metavar="DIR", help="where the names in the list start")
    text = "with --data: the checkpoint whose autoencoder is trained on (default: from nothing)"
    add("--from", dest="source", type=expanduser, metavar="MODEL", help=text)
    add("--plan", action="store_true", help="say what it will cost, with --data, and train nothing")


def vae_part(args: argparse.Namespace) -> int:
    """Train an autoencoder on clips where there is a list of them, else on the synthetic world."""
    if args.data is None:
        return clips_part(argparse.Namespace(**vars(args), variant=None))
    check_steps(args.steps)
    from pyramid.training.build import with_steps
    from pyramid.training.clips.lists import open_list
    from pyramid.training.recipe import load_recipe
    from pyramid.training.vae import train_vae_on_clips

    recipe = load_recipe(args.config)
    if args.steps is not None:
        recipe = with_steps(recipe, "vae", args.steps)
    listing = open_list(args.data, args.root)
    if args.plan:
        from rich.console import Console

        from pyramid.training.vae_plan import vae_plan, vae_table

        Console().print(vae_table(vae_plan(recipe, args.source)))
        return 0
    say_where(train_vae_on_clips(recipe, args.output, listing, args.source))
    return 0


def add_lora(parser: argparse.ArgumentParser) -> None:
    """The flags of `lora`."""
    add_clips(parser, needed=True)


def clips_part(args: argparse.Namespace) -> int:
    """Train on clips where there is a list of them, else a part of the embedded model."""
    if args.data is None:
        if odd := [flag for flag in ("root", "source", "variant") if getattr(args, flag) is not None]:
            raise ValueError(f"--{odd[0].replace('source', 'from')} goes with --data, a list of clips")
        if args.plan:
            raise ValueError("--plan goes with --data, a list of clips")
        return build_part(args)
    check_steps(args.steps)
    from pyramid.training.clip_dit import Run, train_on_clips

    names = ("data", "config", "output", "source", "variant", "root", "steps")
    asked = Run(args.part, **{name: getattr(args, name) for name in names})
    if args.plan:
        from rich.console import Console

        from pyramid.training.clip_plan import as_table, plan_of

        Console().print(as_table(plan_of(asked)))
        return 0
    say_where(train_on_clips(asked))
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
    check_steps(args.steps)
    from pyramid.training.distill import distill

    made = distill(args.config, args.source, args.variant, args.data, args.output, args.steps)
    say_where(made)
    return 0


Part = tuple[
    str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]
]  # what it is, its flags, what it does
PARTS: dict[str, Part] = {
    "text": ("the text encoders of the embedded model", add_recipe, build_part),
    "vae": ("an autoencoder", add_vae, vae_part),
    "dit": ("a transformer", add_clips, clips_part),
    "lora": ("a LoRA: a small change of a transformer", add_lora, clips_part),
    "embedded": ("the embedded model: all of it, put together", add_whole, build_part),
    "distill": ("a student that takes few steps without guidance", add_distill, distill_part),
}
