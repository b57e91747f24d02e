"""The paper's claim in the small, made again by one command: the runs, their figures, the pictures.

    python tools/claim.py                              # all that docs/claim.md shows; goes on where it was
    python tools/claim.py --arms pyramid full-sequence --seeds 0 --minutes 9      # a piece of it
    python tools/claim.py --side                       # the smaller tests too
    python tools/claim.py --report                     # figures and pictures of what is there, without a run

Three ways to train one small network on the same clips, at equal counted operations: see docs/claim.md.
Everything lies in `runs/claim`: clips as latents, for each run its state and `results.json`, `summary.json`
with all figures, and the pictures. The autoencoder and the text encoders are the embedded model's.
"""

import argparse
import json
import sys
import time
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pyramid.evaluation.claim.arms import ARMS, MAIN, ArmRun  # noqa: E402
from pyramid.evaluation.claim.bench import Bench, Parts, add_shrunken, make_clips  # noqa: E402
from pyramid.evaluation.claim.measure import Ruler, measure  # noqa: E402
from pyramid.evaluation.claim.pictures import draw_curves, draw_frames  # noqa: E402
from pyramid.evaluation.claim.report import METRICS, WAYS, read_points, summarize  # noqa: E402

SAVE = 60  # seconds between two saved states


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Test the paper's claim in the small.")
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / "runs" / "claim", help="where everything lies")
    add("--arms", nargs="+", choices=sorted(ARMS), help="the ways to train (default: the three main ones)")
    add("--side", action="store_true", help="all ways, the smaller tests too")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--minutes", type=float, help="stop after so long; the same command goes on")
    add("--report", action="store_true", help="only figures and pictures of what is there")
    for field in fields(Bench):
        if field.type in ("int", "float"):
            kind = int if field.type == "int" else float
            name = f"--{field.name.replace('_', '-')}"
            add(name, type=kind, default=field.default, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def bench_of(args: argparse.Namespace) -> Bench:
    """The bench with what the command changes of it."""
    given = {f.name: getattr(args, f.name) for f in fields(Bench) if hasattr(args, f.name)}
    return replace(Bench(), **given)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    if not args.report:
        finished = train_all(args, bench_of(args))
        if not finished:
            print("there is more to do: the same command goes on")
    return report(args.out)


def train_all(args: argparse.Namespace, bench: Bench) -> bool:
    """All runs that are asked for, seed by seed; False where the time was over before."""
    end = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    clips, parts = make_clips(bench, args.out / "clips"), Parts()
    ruler = Ruler.of(clips)
    (args.out / "ruler.json").write_text(json.dumps(ruler.right_of_real, indent=2) + "\n")
    names = list(ARMS) if args.side else args.arms or [arm.name for arm in MAIN]
    if any(ARMS[name].shrunken for name in names):
        add_shrunken(clips, parts, args.out / "shrunken.pt")
    for seed in args.seeds:
        for name in names:
            run = ArmRun(ARMS[name], seed, clips, args.out / "runs" / name / str(seed))
            if not train_one(run, ruler, parts, end):
                return False
    return True


def train_one(run: ArmRun, ruler: Ruler, parts: Parts, end: float) -> bool:
    """One run to its end, measured at its points; False where the time was over before."""
    path = run.folder / "results.json"
    points = json.loads(path.read_text()) if path.exists() else []
    bench = run.clips.bench
    for share in bench.points[len(points) :]:
        saved = time.monotonic()
        while run.train(until=share * bench.flops):
            now = time.monotonic()
            if now > end or now - saved > SAVE:
                run.save()
                saved = now
            if now > end:
                return False
        run.save()
        points.append(measure(run, ruler, parts))
        path.write_text(json.dumps(points, indent=1) + "\n")
        point = points[-1]
        shown = f"judge {point['judge']['mean']:.2f}, Fréchet {point['frechet']:.3f}"
        print(
            f"{run.arm.name} {run.seed}: {run.flops / 1e12:.2f} TFLOP, step {run.step}: {shown}", flush=True
        )
    return True


def report(folder: Path) -> int:
    """Write summary.json and the pictures; says what came out."""
    points = read_points(folder / "runs")
    if not points:
        print(f"{folder} holds no results yet")
        return 1
    labels = {name: arm.label for name, arm in ARMS.items()}
    summary = summarize(points)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw_curves(summary, labels, [arm.name for arm in MAIN]).save(folder / "claim-curves.png", optimize=True)
    shown = {
        labels[arm]: folder / "runs" / arm / str(min(runs)) / "frames.npz" for arm, runs in points.items()
    }
    draw_frames(shown).save(folder / "claim-frames.webp", quality=85)
    for name, metric, arm in product(WAYS, METRICS, summary["factors"]["judge"]):
        found = summary[name][metric][arm]
        ends = found["interval"]
        between = f"95 %: {ends[0]:.2f} to {ends[1]:.2f}" if ends else "one seed, no interval"
        print(f"{name}, {metric}: {labels[arm]} needs {found['factor']:.2f} times ({between})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
