"""Two systems in one report: `python -m pyramid evaluate compare A B --prompts FILE --out compare.html`.

    evaluate compare embedded:128p embedded:128p-fast                      # on words it has not seen
    evaluate compare few=few.toml many=many.toml --prompts prompts.txt     # two samplers, as presets
    evaluate compare before after.safetensors … --clip clip-vit-base-patch32 --features videomae

The report is one HTML file with pictures and plots, which needs nothing beside it.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.commands import evaluate_videos
from pyramid.commands.evaluate_videos import System
from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import write_json
from pyramid.settings import at_home

if TYPE_CHECKING:
    from pyramid.evaluation.compare import Tools, Truth

WORK = Path("outputs") / "compare"  # where videos are made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate compare`."""
    add = parser.add_argument
    add("systems", nargs=2, metavar="WHAT", help=f"two, each {evaluate_videos.KINDS}, perhaps as NAME=WHAT")
    add("--prompts", type=at_home, metavar="FILE", help="one a line (default: what both folders have)")
    add("--videos", type=int, default=24, metavar="N", help="held-out scenes where no prompts are given")
    add("--out", type=at_home, default=Path("compare.html"), metavar="FILE", help="the report")
    add("--json", type=at_home, metavar="FILE", help="write the figures to it")
    add("--work", type=at_home, default=WORK, metavar="FOLDER", help=f"for videos (default: {WORK})")
    add_model_flags(add)
    evaluate_videos.add_making_flags(add)
    parser.set_defaults(run=run)


def add_model_flags(add) -> None:
    """The flags of models that judge."""
    kinds = "Fréchet distance in its features: judge (our own), a folder of transformers, a TorchScript file"
    more = f"{kinds}; may be repeated"
    add("--features", type=os.path.expanduser, action="append", default=[], metavar="WHAT", help=more)
    add("--reference", type=at_home, metavar="FOLDER", help="videos that the distance is measured to")
    add("--clip", type=at_home, metavar="FOLDER", help="a CLIP model, for the similarity with the prompt")


def run(args: argparse.Namespace) -> int:
    """Find or make the videos, measure them, write the report; returns the exit code."""
    from pyramid.commands.evaluate_report import report, table_of
    from pyramid.evaluation.compare import compare

    if args.out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {args.out}: use a name that ends in .html")
    check_output(args.out, "--out")
    check_output(args.json, "--json")
    evaluate_videos.seed_at(args.seed, 0)
    systems = evaluate_videos.systems_of(args.systems, args.model)
    truth = truth_of(systems, args)
    tools = tools_of(args, truth)
    prompts = list(truth.scenes) if truth else evaluate_videos.prompts_of(systems, args.prompts)
    videos = {each.name: evaluate_videos.videos_of(each, prompts, args.work, args) for each in systems}
    found = compare(videos, tools, args.seed)
    for table in table_of(found):
        screen().print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    Path(args.out).write_text(report(found, videos, args.systems), encoding="utf-8")
    if args.json:
        write_json(args.json, found)
    print(args.out)
    return 0


def tools_of(args: argparse.Namespace, truth: "Truth | None") -> "Tools":
    """What is measured. ValueError for a model or a folder that is none."""
    from pyramid.evaluation.compare import Tools
    from pyramid.evaluation.frechet import JUDGE, Clip, load_features
    from pyramid.media.files import videos_in

    kinds = [JUDGE] if truth and JUDGE not in args.features else []
    world = truth.world if truth else None
    return Tools(
        {Path(kind).name: load_features(kind, world) for kind in (*kinds, *args.features)},
        videos_in(args.reference) if args.reference else (),
        Clip(args.clip) if args.clip else None,
        truth,
    )


def truth_of(systems: Sequence[System], args: argparse.Namespace) -> "Truth | None":
    """Scenes that the models have not seen, with their words as prompts, where no prompts are given and both
    are models of the synthetic world; else None.
    """
    if args.prompts or any(system.folder for system in systems):
        return None
    if args.videos < 2:
        raise ValueError(f"--videos {args.videos}: 2 or more")
    from pyramid.evaluation.compare import Truth
    from pyramid.evaluation.evaluate import choose_scenes
    from pyramid.training.world import canonical_caption

    worlds = [world_of(system, args) for system in systems]
    if worlds[0] != worlds[1]:
        raise ValueError("the two models know different worlds: say what to compare, by --prompts FILE")
    scenes = choose_scenes(worlds[0], min(args.videos, len(worlds[0].held_out_scenes())), args.seed)
    return Truth(worlds[0], {canonical_caption(scene): scene for scene in scenes})


def world_of(system: System, args: argparse.Namespace) -> Any:
    """The world that a system's model was trained on."""
    from pyramid.evaluation.evaluate import world_in
    from pyramid.hub.checkpoints import find

    settings = system.settings("any words", 0, {"dtype": args.dtype, "device": args.device})
    checkpoint = find(settings.model, settings.variant)
    try:
        return world_in(checkpoint.details, checkpoint.defaults)
    except ValueError as error:
        raise ValueError(f"say of which prompts, by --prompts FILE. {error}") from None
