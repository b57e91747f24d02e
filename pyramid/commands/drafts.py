"""Look at many seeds at the coarsest stage, then make a video of the one you like.

    python -m pyramid drafts --prompt "a red ball moves to the right" --seeds 1,2,3 --output-dir drafts
    python -m pyramid generate --from-draft drafts/draft-2.safetensors      # bit for bit what --seed 2 makes
    python -m pyramid drafts --vary drafts/draft-2.safetensors --count 9    # relatives of the second one

Each draft is a file of latents and a small picture, or an animation with `--units all`; `sheet` shows all
of them. The paths of the drafts go to stdout.
"""

import argparse
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.commands.flags import ASKED, add_settings, asked_for, leave_out
from pyramid.disk import unwritable
from pyramid.presets import load_preset, resolve
from pyramid.settings import MAX_DRAFTS, MAX_SEED, Settings, SettingsError, at_home, flag_of

if TYPE_CHECKING:
    from pyramid.generate.drafts import Draft

USUAL = 9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `drafts`: those of a video, and which seeds."""
    add_settings(parser)
    add = parser.add_argument_group("Drafts").add_argument
    add("--seeds", type=numbers, metavar="N,N,…", help="a draft of each")
    many = f"how many seeds, from --seed on or drawn (default: {USUAL})"
    add("--count", type=int, metavar="N", help=many)
    whole = "first: the unit that a video can go on from; all: a preview of the whole clip (default: first)"
    add("--units", choices=("first", "all"), default="first", help=whole)
    vary = "a draft of which variations are made, with second seeds: see --variation-strength"
    add("--vary", type=at_home, metavar="FILE", help=vary)
    add(
        "--output-dir",
        type=at_home,
        default=Path("drafts"),
        metavar="DIR",
        help="where they go (default: drafts)",
    )
    add("--memory", default="auto", metavar="PLAN", help="see the command plan")


def numbers(text: str) -> list[int]:
    """ "1,2,3" -> [1, 2, 3]"""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: seeds are whole numbers, such as 1,2,3") from None
    if strange := [seed for seed in seeds if not 0 <= seed <= MAX_SEED]:
        raise argparse.ArgumentTypeError(f"{strange[0]} is outside 0 to {MAX_SEED}")
    return seeds


def run(args: argparse.Namespace) -> int:
    """Make them; returns the exit code."""
    from pyramid.generate.loaded import load_for
    from pyramid.hub.checkpoints import find, verify
    from pyramid.hub.loras import find_loras

    check_flags(args)
    settings, seeds, variations = asked(args)
    verify(find(settings.model, settings.variant))
    find_loras(settings.lora)
    from pyramid.generate.drafts import Drafting, wanted_drafts
    from pyramid.media.video_reader import read_given

    wanted = wanted_drafts(settings, seeds, variations)
    given = read_given(settings)
    print("Loading the model", file=sys.stderr, flush=True)
    pipe = load_for(settings, args.memory)
    args.output_dir.mkdir(parents=True, exist_ok=True)  # not where something was refused
    return make(Drafting(pipe, wanted, whole=args.units == "all", inputs=inputs_of(given)), args)


def check_flags(args: argparse.Namespace) -> None:
    """ValueError for flags that say nothing together, for too many drafts, and for a folder that is none."""
    seed = "variation_seed" if args.vary else "seed"
    if args.vary:
        leave_out(
            args, set(ASKED) - {"variation_seed", "variation_strength"}, "--vary", "it has its settings"
        )
    if args.seeds:
        leave_out(args, ("count", seed), "--seeds", "those are all")
    if args.count is not None and not 1 <= args.count <= MAX_DRAFTS:
        raise ValueError(f"--count {args.count}: 1 to {MAX_DRAFTS} are made at once")
    if why := unwritable(args.output_dir):
        raise ValueError(f"--output-dir {args.output_dir}: {why}")


def inputs_of(given: dict[str, Any]):
    from pyramid.generate.request import Inputs

    return Inputs(**given)


def asked(args: argparse.Namespace) -> tuple[Settings, list[int], list[int]]:
    """The settings of all, the seeds, and the second seeds. A ValueError calls a setting by its flag."""
    try:
        if args.vary:
            return _varied(args)
        preset = None if args.preset is None else load_preset(args.preset)
        settings = resolve(args.model, preset, asked_for(args), seconds=args.seconds, speed=args.speed)
        first = settings.seed if settings.seed is not None else secrets.randbelow(2**31)
        seeds = args.seeds or list(range(first, first + (args.count or USUAL)))
        return replace(settings, seed=seeds[0]).validate(), seeds, []
    except SettingsError as error:
        raise ValueError(error.told(flag_of)) from error


def _varied(args: argparse.Namespace) -> tuple[Settings, list[int], list[int]]:
    from pyramid.generate.drafts import Draft

    settings = Draft.load(args.vary).settings
    changes = asked_for(args)
    first = changes.get("variation_seed", 1)
    seeds = args.seeds or list(range(first, first + (args.count or USUAL)))
    return replace(settings, **{**changes, "variation_seed": seeds[0]}).validate(), [], seeds


def make(drafting: Any, args: argparse.Namespace) -> int:
    """Make the drafts, write what there is to see, and tell where."""
    from pyramid.events import Notice, Status
    from pyramid.media.sheet import contact_sheet, save_moving

    for event in drafting:
        if isinstance(event, Status | Notice):
            print(event.message, file=sys.stderr, flush=True)
    drafts = drafting.drafts
    for draft in drafts:
        print(save(draft, args.output_dir))
    if drafts:
        frames = contact_sheet([draft.frames for draft in drafts], [word_of(draft) for draft in drafts])
        sheet = save_moving(frames, args.output_dir / "sheet.png", drafts[0].settings.fps)
        print(f"All of them: {sheet}", file=sys.stderr)
        if drafts[0].whole:
            print(
                "These are previews: in a video later units see a finer past. How far one departs from its "
                "draft is said when it is made",
                file=sys.stderr,
            )
    return 0


def word_of(draft: "Draft") -> str:
    """What is under a draft on the sheet."""
    s = draft.settings
    second = "" if s.variation_seed is None else f" + {s.variation_seed} ({s.variation_strength:g})"
    return f"seed {s.seed}{second}"


def save(draft: "Draft", folder: Path) -> Path:
    """The draft, and a picture of the same name beside it; its path."""
    from pyramid.media.files import unique_path
    from pyramid.media.sheet import enlarged, save_moving

    s = draft.settings
    second = "" if s.variation_seed is None else f"-{s.variation_seed}"
    path = draft.save(unique_path(folder / f"draft-{s.seed}{second}.safetensors"))
    save_moving([enlarged(frame) for frame in draft.frames], path, s.fps)
    return path
