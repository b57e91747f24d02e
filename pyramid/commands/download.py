"""Fetch a published model: `python -m pyramid download miniflux --variant 768p`."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `download`."""
    parser.add_argument("model", help="miniflux, sd3, or a repository")
    parser.add_argument("--variant", help="384p, 768p or image")


def run(args: argparse.Namespace) -> int:
    """Fetch what a variant needs; the folder goes to stdout."""
    from pyramid.hub.download import download

    print(download(args.model, args.variant, log=lambda text: print(text, file=sys.stderr)).folder)
    return 0
