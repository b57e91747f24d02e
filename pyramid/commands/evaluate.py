"""Measure a model of the synthetic world on what it has never seen: `python -m pyramid evaluate`.

Exit code 0 whatever the figures are: they are for reading, and for deciding whether new weights are better.
"""

import argparse
import json
from os.path import expanduser
from pathlib import Path
from typing import Any

from pyramid.settings import DTYPES, Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate`."""
    add = parser.add_argument
    add("--model", default="embedded", help="a checkpoint folder (default: the embedded model)")
    add("--variant", help="the transformer, where there are several")
    add("--videos", type=int, default=108, help="text-to-video clips to judge (default: 108)")
    add("--pictures", type=int, default=36, help="image-to-video clips to judge (default: 36)")
    add("--seed", type=int, default=1000, help="of the first video; the others count up from it")
    add("--out", type=expanduser, help="write the results as JSON to this file")
    add("--sheet", type=expanduser, help="write a contact sheet of the first 12 clips to this picture")
    add("--dtype", choices=DTYPES, default="auto", help="precision (default: what suits the device)")
    add("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write what was asked for; returns the exit code."""
    if args.videos < 1 or args.pictures < 1:
        raise ValueError(f"--videos {args.videos} and --pictures {args.pictures}: at least 1 of each")
    from rich.console import Console

    from pyramid.generate.loaded import load_for
    from pyramid.hub.checkpoints import find
    from pyramid.training import evaluate

    checkpoint = find(args.model, args.variant)
    where = {"dtype": args.dtype, "device": args.device}
    pipe = load_for(Settings.for_model(args.model, checkpoint.variant, checkpoint.defaults, **where))
    pipe.set_progress_bar_config(disable=True)
    world = evaluate.world_of(pipe)
    results, clips = evaluate.evaluate_videos(pipe, world, args.videos, args.seed)
    results |= evaluate.evaluate_pictures(pipe, world, args.pictures, args.seed)
    results |= evaluate.evaluate_vae(pipe, world, min(args.videos, 36), args.seed)
    title = f"{args.model}: {args.videos} videos of held-out words, seeds from {args.seed}"
    Console().print(evaluate.as_table(results, title))
    if args.out:
        asked = {name: getattr(args, name) for name in ("model", "videos", "pictures", "seed")}
        asked |= {"dtype": str(pipe.transformer.dtype).removeprefix("torch."), "device": pipe.device.type}
        write_json(Path(args.out), asked, {name: evaluate.as_plain(each) for name, each in results.items()})
    if args.sheet:
        Path(args.sheet).parent.mkdir(parents=True, exist_ok=True)
        evaluate.contact_sheet(clips[:12]).save(args.sheet)
    return 0


def write_json(path: Path, asked: dict[str, Any], results: dict[str, Any]) -> None:
    """The results, and what was asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked": asked, "results": results}, indent=2) + "\n")
