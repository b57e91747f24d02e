"""Measure an autoencoder on clips of a list: `python -m pyramid evaluate vae --data LIST --json FILE`."""

import argparse
import os

from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import write_json
from pyramid.settings import at_home


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate vae`."""
    add = parser.add_argument
    add("--data", type=at_home, metavar="LIST", required=True, help="a list of clips (see data doctor)")
    add("--root", type=at_home, metavar="DIR", help="where the names in the list start")
    add("--model", default="embedded", help="a checkpoint, or what train vae has written")
    add("--clips", type=int, default=64, metavar="N", help="so many of the list, the first (default: 64)")
    add("--size", type=int, default=256, help="pixels of a side of the square they are cut to (default: 256)")
    add("--frames", type=int, default=17, help="of each at most, 1 + 8k (default: 17)")
    add("--fps", type=float, default=24.0, help="the rate they are read at (default: 24)")
    text = "weights of VGG-16 and of LPIPS, one file or two; without them a stand-in is used"
    add("--lpips", type=at_home, nargs="+", default=(), metavar="FILE", help=text)
    text = "a video model (folder of transformers, TorchScript file) for the Fréchet distance"
    add("--features", type=os.path.expanduser, metavar="PATH", help=text)
    add("--json", type=at_home, metavar="FILE", help="write the figures to it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the means, and write them with each clip's; returns the exit code."""
    if args.clips < 1 or args.size % 8 or args.size < 32 or args.frames < 1 or args.frames % 8 != 1:
        raise ValueError(
            f"--clips {args.clips} --size {args.size} --frames {args.frames}: a clip or more, sides of 8k "
            "pixels from 32 on, 1 + 8k frames"
        )
    check_output(args.json, "--json")
    from pyramid.training.clips.reading import RATES, Wanted

    least, most = RATES
    if not least <= args.fps <= most:  # nor where it is nan
        raise ValueError(f"--fps {args.fps:g}: {least} to {most} frames a second")
    from rich.table import Table

    from pyramid.evaluation.frechet import load_features
    from pyramid.evaluation.reconstruction import clips_of, measure
    from pyramid.models.vae import CausalVideoVAE
    from pyramid.training.clips.lists import open_list
    from pyramid.training.perceptual import make_perceptual
    from pyramid.training.vae import vae_of

    wanted = Wanted(args.fps, args.frames, ((args.size, args.size),), least=1)
    perceptual = make_perceptual([str(path) for path in args.lpips])
    features = load_features(args.features) if args.features else None
    vae = CausalVideoVAE.from_pretrained(vae_of(args.model)).eval()
    clips = clips_of(open_list(args.data, args.root), wanted, args.clips)
    figures = measure(vae, clips, perceptual, features)
    looks = "LPIPS" if args.lpips else "perceptual distance (the stand-in's)"
    table = Table(
        title=f"{len(figures.clips)} clips, {args.size} pixels, {args.frames} frames", show_header=False
    )
    for name, words in (("psnr", "PSNR, dB"), ("ssim", "SSIM"), ("perceptual", looks)):
        table.add_row(words, f"{figures.mean(name):.4g}")
    if figures.frechet is not None:
        table.add_row("Fréchet distance", f"{figures.frechet.value:.4g}")
    screen().print(table)
    if args.json:
        write_json(args.json, figures.told())
    return 0
