"""VBench: its videos made under its names, judged by its own command line, its results put together.

    evaluate vbench --make miniflux:384p --vbench venv-vbench              # all of it
    evaluate vbench --make embedded --suite VBench_full_info.json          # the videos alone
    evaluate vbench --aggregate outputs/vbench/results --json vbench.json  # the figures

The prompts are VBench's, and are read from where it is installed or from a folder that `--suite` names. Its
command line needs CUDA, an environment of its own, and the weights of its judges, which it fetches itself.
Whatever ends early goes on at the next call: videos by the journal of `batch`, dimensions by their results.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyramid.commands import evaluate_videos
from pyramid.commands.engine import say
from pyramid.commands.evaluate_videos import System, Wanted
from pyramid.commands.flags import check_output
from pyramid.commands.terminal import screen
from pyramid.disk import link, write_json
from pyramid.settings import at_home

FLICKERING = "temporal_flickering"
MORE = 5  # times as many samples of its prompts: VBench keeps those that stand still, and takes five
VIDEOS = "videos"  # folders of --output-dir
STILL = "flickering"
RESULTS = "results"
MADE = "made"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `evaluate vbench`."""
    add = parser.add_argument
    put = "put the result files of a folder together, and do nothing else"
    add("--aggregate", type=at_home, metavar="DIR", help=put)
    add("--json", type=at_home, metavar="FILE", help="write quality, semantic, total and dimensions to it")
    add("--make", metavar="WHAT", help="make the videos of a model, MODEL:VARIANT, a preset or a LoRA")
    suite = "VBench's prompts: VBench_full_info.json, or a folder with it or with prompts_per_dimension"
    add("--suite", type=at_home, metavar="PLACE", help=f"{suite} (default: those of --vbench)")
    environment = "the environment that VBench is installed in: run it there (it needs CUDA and its weights)"
    add("--vbench", type=at_home, metavar="VENV", help=environment)
    add("--dimensions", metavar="NAMES", help="some of them, as scene,color (default: all sixteen)")
    add(
        "--samples", type=int, default=5, metavar="N", help="videos of each prompt (default: 5, as published)"
    )
    place = Path("outputs") / "vbench"
    add("--output-dir", type=at_home, default=place, metavar="DIR", help=f"for all of it (default: {place})")
    evaluate_videos.add_making_flags(add)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """What was asked for, up to the figures; returns the exit code, 1 where VBench failed."""
    check_output(args.json, "--json")
    if args.aggregate:
        tell(args.aggregate, args.json)
        return 0
    if not args.make and not args.vbench:
        raise ValueError(
            "nothing to do: --aggregate DIR, --make WHAT to make the videos, --vbench VENV to run it"
        )
    if not 1 <= args.samples <= 100:
        raise ValueError(f"--samples {args.samples}: 1 to 100")
    dimensions = dimensions_of(args.dimensions)
    if args.make:
        make(args, dimensions)
    if not args.vbench:
        say(
            "VBench judges them by its own command line, which needs CUDA, an environment of its own and the "
            "weights of its judges: install it there, and give --vbench VENV"
        )
        print(args.output_dir / VIDEOS)
        return 0
    failed = judge(args.vbench, args.output_dir, dimensions, args.suite)
    if failed != dimensions or any((args.output_dir / RESULTS).glob("*.json")):
        tell(args.output_dir / RESULTS, args.json)
    return 1 if failed else 0


def dimensions_of(text: str | None) -> list[str]:
    """The dimensions that are asked for. ValueError for an unknown one."""
    from pyramid.evaluation.vbench import RANGES

    asked = [name.strip() for name in text.split(",")] if text else list(RANGES)
    if unknown := [name for name in asked if name not in RANGES]:
        raise ValueError(f"--dimensions: {unknown[0]!r} is none of {', '.join(RANGES)}")
    return list(dict.fromkeys(asked))


# -- the videos
def make(args: argparse.Namespace, dimensions: Sequence[str]) -> None:
    """Make all videos that are not there, and give them VBench's names: `PROMPT-0.mp4`, …"""
    from pyramid.evaluation.vbench import read_suite

    if not (place := args.suite or args.vbench):
        raise ValueError("the prompts are VBench's: say where they are, by --suite PLACE or --vbench VENV")
    system = evaluate_videos.system_of(args.make, args.model)
    if system.folder is not None:
        raise ValueError(f"--make {args.make} is a folder: give what makes videos, or --aggregate")
    suite = read_suite(place)
    prompts = [prompt for prompt, of in suite.items() if set(of) & set(dimensions)]
    told = set().union(*suite.values())
    if lacking := ", ".join(name for name in dimensions if name not in told):
        words = f"{place} has no prompt of {lacking}: name a place with all of VBench's by --suite"
        if not prompts:
            raise ValueError(words)
        say(words)
    still = [prompt for prompt in prompts if FLICKERING in suite[prompt] and FLICKERING in dimensions]
    counts = {prompt: args.samples * (MORE if prompt in still else 1) for prompt in prompts}
    wanted = wanted_of(counts, args.seed)
    check_ending(system, wanted[0], args)
    made = evaluate_videos.make_videos(system, wanted, args.output_dir / MADE, args)
    for prompt, count in counts.items():
        for number in range(count):
            name = f"{prompt}-{number}.mp4"
            if number < args.samples:
                give_name(made[f"{prompt}-{number}"], args.output_dir / VIDEOS / name)
            if prompt in still:
                give_name(made[f"{prompt}-{number}"], args.output_dir / STILL / name)
    say(f"{len(prompts)} prompts, {len(made)} videos under VBench's names in {args.output_dir / VIDEOS}")


def wanted_of(counts: Mapping[str, int], seed: int) -> list[Wanted]:
    """Every sample of every prompt, each with a seed of its own, whichever dimensions are asked for later:
    seeds follow from the words and the number of the sample.
    """
    return [
        Wanted(f"{prompt}-{number}", prompt, seed_of(prompt, number, seed))
        for prompt, count in counts.items()
        for number in range(count)
    ]


def seed_of(prompt: str, number: int, seed: int) -> int:
    """A seed below 2**31 from the words, the number of the sample, and the seed of all."""
    from pyramid.commands.prompt_list import digest

    return int(digest([prompt, number, seed]), 16) % 2**31


def check_ending(system: System, first: Wanted, args: argparse.Namespace) -> None:
    """ValueError where results would be no mp4, which VBench reads."""
    from pyramid.media.files import ending_of

    settings = system.settings(first.prompt, first.seed, {"dtype": args.dtype, "device": args.device})
    if ending_of(settings) != ".mp4":
        raise ValueError(
            f"{system.name} makes {ending_of(settings)}: VBench reads mp4, so ask for several frames"
        )


def give_name(path: Path, name: Path) -> None:
    """The same file under a second name; a copy where the disk has no such thing."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.exists():
        link(path, name)


# -- its command line
def judge(venv: Path, folder: Path, dimensions: Sequence[str], suite: Path | None) -> list[str]:
    """Run VBench for each dimension that has no result yet; those that failed. ValueError where it is not
    installed, or there are no videos.
    """
    program = next(
        (p for p in (venv / "bin" / "vbench", venv / "Scripts" / "vbench.exe") if p.is_file()), None
    )
    if program is None:
        raise ValueError(
            f"--vbench {venv} has no VBench: make an environment of its own and install `vbench` there, as "
            "its own page says; it needs CUDA, and fetches the weights of its judges itself"
        )
    if not any((folder / VIDEOS).glob("*.mp4")):
        raise ValueError(f"{folder / VIDEOS} has no videos: make them by --make WHAT")
    info = info_of(venv, suite)
    (folder / RESULTS).mkdir(exist_ok=True)
    failed = []
    for name in dimensions:
        target = folder / RESULTS / f"{name}.json"
        if target.is_file():
            say(f"{name}: judged before")
        elif words := judged(program, folder, name, info, target):
            say(f"{name}: VBench failed: {words}")
            failed.append(name)
        else:
            say(f"{name}: judged")
    if failed:
        say("Its command line needs CUDA and the weights of its judges. The same command tries those again.")
    return failed


def info_of(venv: Path, suite: Path | None) -> Path:
    """VBench's file of prompts, which its command line wants to be told. ValueError where there is none."""
    from pyramid.evaluation.vbench import INFO

    places = [suite, suite / INFO, suite / "vbench" / INFO] if suite else []
    found = [path for path in (*places, *sorted(venv.glob(f"**/vbench/{INFO}"))) if path.is_file()]
    if not found or found[0].suffix != ".json":
        raise ValueError(f"{venv} has no {INFO}: name it by --suite")
    return found[0].resolve()


def judged(program: Path, folder: Path, name: str, info: Path, target: Path) -> str:
    """Judge one dimension, and keep its result as `target`; "" or what went wrong."""
    videos = (folder / VIDEOS).resolve()
    work = (folder / "work" / name).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if name == FLICKERING and (folder / STILL).is_dir():
        still = str((folder / STILL).resolve())
        if words := called(program, "static_filter", "--videos_path", still, "--result_path", str(work)):
            return words
        videos = work / "filtered_videos"
    asked = ("--videos_path", str(videos), "--dimension", name, "--output_path", str(work))
    if words := called(program, "evaluate", *asked, "--full_json_dir", str(info)):
        return words
    found = sorted(work.glob("*_eval_results.json"))
    if not found:
        return "it ended without a result file"
    found[-1].replace(target)
    return ""


def called(program: Path, *words: str) -> str:
    """Run a command of VBench, its output on stderr; "" or how it ended."""
    command = [str(program.absolute()), *words]
    done = subprocess.run(command, stdout=2, stderr=2, check=False)  # stdout is for results
    return f"exit code {done.returncode}, see above" if done.returncode else ""


# -- the figures
def tell(folder: Path, target: Path | None) -> None:
    """Print the figures beside published ones, and write them."""
    from pyramid.evaluation.vbench import PUBLISHED, aggregate, read_results

    figures = aggregate(read_results(folder, lambda words: print(f"note: {words}", file=sys.stderr)))
    rows = {str(folder): tuple(figures[name] for name in ("total", "quality", "semantic"))}
    screen().print(table_of(rows | PUBLISHED, figures))
    if figures["missing"]:
        missing = ", ".join(figures["missing"])
        print(f"missing, so what they belong to is not known: {missing}", file=sys.stderr)
    if target:
        write_json(target, figures)


def table_of(rows: dict[str, tuple], figures: dict[str, Any]):
    """Total, quality and semantic of each row, then the dimensions of the first, as a table of rich."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="VBench, percent")
    for name in ("", "total", "quality", "semantic"):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for name, values in rows.items():
        table.add_row(escape(name), *("not known" if value is None else f"{value:.2f}" for value in values))
    table.add_section()
    for name, value in figures["dimensions"].items():
        table.add_row(escape(name.replace("_", " ")), f"{value:.2f}")
    return table
