"""Measure this machine: how fast it runs a transformer of a given shape.

    python -m pyramid bench --width 512 --layers 4,8 --size 640x384 --units 0,4,15

What the tables say is told in `pyramid.generate.benchmark`.
"""

import argparse
import re

from pyramid.hub.families import MINIFLUX, TEXT_TOKENS
from pyramid.memory.device import MAIN, CudaCard
from pyramid.settings import MAX_SIZE, MAX_STEPS, MAX_UNITS, flag_of, size_grid

HEAD = MINIFLUX.defaults["attention_head_dim"]
MOST = {  # what is measured in a day, and fits into memory
    "width": 8192,
    "layers": 100,
    "size": MAX_SIZE,
    "units": MAX_UNITS - 1,
    "repeats": 1000,
    "steps": MAX_STEPS,
    "clip_units": MAX_UNITS,
    "vae": 1024,
}


def numbers(text):
    """ "1,2,3" -> [1, 2, 3]; argparse names the option when it is not that."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text}: numbers of 0 and more")
    return values


def size(text):
    """ "640x384" -> (640, 384)."""
    width, height = (int(part) for part in text.lower().split("x"))
    return width, height


def add_arguments(parser):
    """The options of `python -m pyramid bench`."""
    parser.add_argument("--width", type=int, default=512, help=f"of the transformer, a multiple of {HEAD}")
    parser.add_argument("--layers", type=numbers, default=[4, 8], help="double blocks, single blocks")
    parser.add_argument("--size", type=size, default=(640, 384), help="width x height in pixels")
    parser.add_argument("--units", type=numbers, default=[0, 4, 15], help="units whose forwards are timed")
    parser.add_argument("--stages", type=int, default=MINIFLUX.stages, help="resolutions of the pyramid")
    parser.add_argument(
        "--text", type=numbers, default=[40, 30], help=f"real tokens of each row's text, of {TEXT_TOKENS}"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed forwards of each kind")
    parser.add_argument("--steps", type=int, default=2, help="steps a stage of the whole generation")
    parser.add_argument("--clip-units", type=int, default=4, help="units of the whole generation, 0 for none")
    parser.add_argument(
        "--vae",
        type=numbers,
        default=[32, 64, 128, 128],
        help="channels of the decoder (published: 128,256,512,512)",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a CUDA card where there is one)"
    )


def check(args):
    """ValueError for a shape, or a device, that does not exist."""
    from pyramid.memory.machine import Machine

    if not re.fullmatch(r"cpu|mps|xpu|cuda(:\d+)?", args.device):
        raise ValueError(f"--device {args.device}: use cpu, cuda, cuda:1, mps or xpu")
    Machine.here(args.device)
    grid = size_grid(args.stages)
    if args.width < HEAD or args.width % HEAD:
        raise ValueError(f"--width {args.width} must be a positive multiple of {HEAD}")
    if not 1 <= args.stages <= 4:
        raise ValueError(f"--stages {args.stages} must be 1 to 4")
    if min(args.size) < grid or args.size[0] % grid or args.size[1] % grid:
        raise ValueError(
            f"--size {args.size[0]}x{args.size[1]}: with {args.stages} stages both sides must be "
            f"multiples of {grid}"
        )
    if len(args.layers) != 2 or sum(args.layers) < 1:
        raise ValueError(f"--layers {args.layers} must be two numbers, double and single blocks, such as 4,8")
    if len(args.vae) != 4 or any(channels < 32 or channels % 32 for channels in args.vae):
        raise ValueError(f"--vae {args.vae} must be four multiples of 32")
    if not 1 <= max(args.text) <= TEXT_TOKENS:
        raise ValueError(f"--text {args.text} must be 1 to {TEXT_TOKENS} tokens a row")
    if args.repeats < 1 or args.steps < 1 or args.clip_units < 0:
        raise ValueError("--repeats and --steps must be at least 1, --clip-units at least 0")


def check_counts(args):
    """ValueError for a number that is too large to be measured."""
    for name, most in MOST.items():
        value = getattr(args, name)
        largest = value if isinstance(value, int) else max(value)
        if largest > most:
            raise ValueError(f"{flag_of(name)} {largest}: at most {most}, so give less")


def run(args):
    """Measure what the arguments ask for and print the tables. ValueError for shapes that do not exist."""
    if args.device == "auto":
        args.device = "cuda" if CudaCard.count() else MAIN
    check_counts(args)
    check(args)
    from pyramid.generate.benchmark import measure

    measure(args)
    return 0
