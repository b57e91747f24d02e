"""Many videos from a list, on this machine or on a Ray cluster; what is finished is never made twice.

    python -m pyramid batch prompts.jsonl --output-dir outputs/list
    python -m pyramid batch prompts.jsonl --output-dir outputs/list --seeds 4 --continue-on-error
    python -m pyramid batch prompts.jsonl --output-dir outputs/list --ray            # or --ray ADDRESS

Each line of the list is a JSON object: `prompt`, any other field of `Settings`, and perhaps an `id`; `image`
and `video` are paths, seen from the list's folder. Every line is checked, its picture or video opened, before
a model is loaded. A journal in the output folder (`.pyramid/batch.jsonl`, a line an event, on the disk before
the work goes on) remembers what was done: the same command after a crash, a `kill -9` or Ctrl-C goes on where
it ended, an item that this process made from its last finished unit. A result also carries its item's key
inside, so that one which was written just before the power went is found and counted.

Exit codes: 0 all done; 1 some failed; 2 the list or an argument is wrong (nothing was begun); 130 stopped by
Ctrl-C.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import deque
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyramid.commands.engine import Engine, Maker, Outcome, Stopped, failure, say
from pyramid.commands.interrupts import Halted
from pyramid.commands.prompt_list import (
    Item,
    ListError,
    checkpoint_of,
    digest,
    name_of,
    read_list,
    result_path,
)
from pyramid.disk import unwritable
from pyramid.memory.plan import NAMES
from pyramid.presets import preset_names
from pyramid.settings import SettingsError, at_home, check_value, flag_of

STATE = Path(".pyramid") / "batch.jsonl"
MOST_SEEDS = 10_000  # videos of a line
UNITS = Path(".pyramid") / "units"  # of items that are in the making, a folder each


# -- the journal
class Journal:
    """What happened to the items, a JSON line each: begun (with its seed), failed,
    done (with the result's name).

    A context manager that holds the folder: ValueError while another batch works in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / STATE
        self.done: dict[str, dict[str, Any]] = {}  # key -> its last event
        self.begun: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "Journal":
        from pyramid.media.files import hold

        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not hold(self.path):
            raise ValueError(
                f"another batch is at work in {self.folder}: wait for it, or take another --output-dir"
            )
        whole = self._read()
        self.file = self.path.open("r+b")
        self.file.truncate(whole)  # a line that a crash cut off: what it said had not happened yet
        self.file.seek(whole)
        return self

    def __exit__(self, *error) -> None:
        from pyramid.media.files import let_go

        self.file.close()
        let_go(self.path)

    def _read(self) -> int:
        """Fill `done` and `begun`; returns how many bytes are whole lines."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                event = json.loads(line)
                check_event(event)
                {"begun": self.begun, "done": self.done, "failed": {}}[event["event"]][event["key"]] = event
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(
                    f"{self.path}, line {number}, is damaged: fix or delete that line, or take "
                    "another --output-dir"
                ) from None
        return whole

    def write(self, event: str, item: Item, **more: Any) -> None:
        """Append an event; it is on the disk when this returns."""
        about = {"event": event, "key": item.key, "seed": item.settings.seed, "asked": item.asked, **more}
        self.file.write(json.dumps(about).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        {"begun": self.begun, "done": self.done, "failed": {}}[event][item.key] = about

    def left(self, items: list[Item]) -> list[Item]:
        """What is still to be done, with the seeds of those that were begun.
        ListError when an id changed meaning.
        """
        left = []
        problems = []
        for item in items:
            before = self.done.get(item.key) or self.begun.get(item.key)
            if before is None:
                left.append(replace(item, settings=item.settings.resolved()))
            elif before["asked"] != item.asked:
                problems.append(
                    f"line {item.line}: item {item.key!r} was begun with other settings: give it "
                    "another id, or take another --output-dir"
                )
            elif item.key not in self.done:
                seeded = replace(item, settings=replace(item.settings, seed=before["seed"]))
                if path := self._made(seeded):
                    self.write("done", seeded, file=path.name)
                else:
                    left.append(seeded)
        if problems:
            raise ListError("\n".join(problems))
        return left

    def _made(self, item: Item) -> Path | None:
        """The whole result of an item that was begun, if it was written before the program died."""
        from pyramid.media.files import read_metadata

        name = result_path(self.folder, item)
        for path in sorted(self.folder.glob(f"{name.stem}*{name.suffix}")):
            try:
                metadata = read_metadata(path)
            except ValueError:  # somebody else's file
                continue
            if metadata.get("batch") == item.key and not metadata.get("partial"):
                return path
        return None


def check_event(event: Any) -> None:
    """Raises an error for a line of a journal that was not written by `write`."""
    if not isinstance(event["key"], str) or not isinstance(event["asked"], str) or event["seed"] is None:
        raise TypeError("a key and what was asked for are texts, and a seed is a number")
    check_value("seed", event["seed"])


# -- the work
class Here:
    """The engine of this process. An item that ended early goes on from its finished units."""

    capacity = 1

    def __init__(self, folder: Path, stop: threading.Event, memory: str = "auto"):
        self.folder = folder
        self.maker = Maker(stop, memory)

    def submit(self, item: Item) -> None:
        self.item = item

    def next(self) -> Outcome:
        from pyramid.jobs.recorder import source
        from pyramid.media.video_reader import read_given

        began = time.monotonic()
        settings = self.item.settings
        try:
            units = self.folder / UNITS / digest(self.item.key)
            path = self.maker.make(self.item, read_given(settings), self.folder, source(settings), units)
        except (Stopped, Halted):
            raise Stopped from None
        except Exception as error:
            return failure(self.item, error, time.monotonic() - began)
        return Outcome(self.item, path, seconds=time.monotonic() - began)

    def close(self) -> None:
        self.maker.holder.unload()


def work(
    items: list[Item],
    engine: Engine,
    journal: Journal,
    *,
    retries: int = 1,
    continue_on_error: bool = False,
    stop: threading.Event | None = None,
) -> list[Outcome]:
    """Do all items; the outcomes, one an item that ended. Raises Stopped when `stop` is set before."""
    todo = deque(items)
    running = 0
    ended = []
    while todo or running:
        while todo and running < engine.capacity:
            if stop is not None and stop.is_set():
                raise Stopped
            item = todo.popleft()
            journal.write("begun", item, attempt=item.attempts + 1)
            engine.submit(item)
            running += 1
        outcome = engine.next()
        running -= 1
        item = replace(outcome.item, attempts=outcome.item.attempts + 1)
        if outcome.path is not None:
            journal.write("done", item, file=outcome.path.name, attempts=item.attempts)
            say(f"{name_of(item)}: {outcome.path.name} ({outcome.seconds:.1f} s)")
            print(outcome.path, flush=True)
        else:
            journal.write("failed", item, error=outcome.error, attempt=item.attempts)
            if outcome.again and item.attempts <= retries:
                say(f"{name_of(item)}: {outcome.error}; trying again ({item.attempts} of {retries})")
                todo.appendleft(item)
                continue
            say(f"{name_of(item)}: failed: {outcome.error}")
            if not continue_on_error:
                todo.clear()  # what is being made elsewhere still comes to its end
        ended.append(outcome)
    return ended


# -- the command line
def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "list",
        type=at_home,
        metavar="LIST.jsonl",
        help="a JSON table a line: prompt, other settings, perhaps an id",
    )
    add(
        "--output-dir", type=at_home, required=True, metavar="FOLDER", help="where results and the journal go"
    )
    add("--preset", help=f"settings for all lines: {', '.join(preset_names())}, or a .toml file")
    add("--seeds", type=int, default=1, metavar="N", help="so many videos of each line, with seeds in a row")
    add(
        "--retries",
        type=int,
        default=1,
        metavar="N",
        help="how often an item that failed is tried again (default: 1)",
    )
    add("--continue-on-error", action="store_true", help="go on with the other items when one has failed")
    add(
        "--memory",
        default="auto",
        choices=("auto", *NAMES),
        help="plan for memory (default: the fastest that fits)",
    )
    add(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="work on a Ray cluster: its address, auto, or none for one on this machine",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help="with --ray: how many at once (default: one a card, or a machine)",
    )


def run(args: argparse.Namespace) -> int:
    """Check the list, do what is left of it, tell how it went."""
    from pyramid.commands.interrupts import interruptible

    check_flags(args)
    stop = threading.Event()
    try:
        items = read_list(args.list, args.preset, args.seeds)
        check_folder(args.output_dir)
        with Journal(args.output_dir) as journal, interruptible(stop):
            left = journal.left(items)
            if args.ray is None:
                check_plans(left, args.memory)
            say(f"{len(items)} items, {len(items) - len(left)} done before, {len(left)} to do")
            how = {"retries": args.retries, "continue_on_error": args.continue_on_error}
            ended: list[Outcome] = []
            if left:
                with closing(engine_of(args, stop)) as engine:
                    ended = work(left, engine, journal, stop=stop, **how)
    except ListError as error:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
        return 2
    except (Stopped, Halted, KeyboardInterrupt):  # the second Ctrl-C does not wait for the step's end
        say("Stopped. The same command goes on from here.")
        return 130
    return report(items, left, ended)


def check_flags(args: argparse.Namespace) -> None:
    """ValueError for a number that is none of those that work, and where Ray is missing."""
    for name, low in (("seeds", 1), ("retries", 0), ("workers", 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"--{name} {value}: {low} or more is expected")
    if args.seeds > MOST_SEEDS:
        raise ValueError(f"--seeds {args.seeds}: {MOST_SEEDS} at most; begin another batch for more")
    if args.workers is not None and args.ray is None:
        raise ValueError(
            f"--workers {args.workers}: only with --ray; without it one video is made after the other"
        )
    if args.ray is not None:
        from pyramid.jobs.cluster import need_ray

        need_ray()


def engine_of(args: argparse.Namespace, stop: threading.Event) -> Engine:
    if args.ray is None:
        return Here(args.output_dir, stop, args.memory)
    from pyramid.commands.cluster import OnRay

    return OnRay(args.output_dir, stop, args.ray, args.workers, memory=args.memory)


def check_folder(folder: Path) -> None:
    """ValueError when nothing can be written there."""
    if why := unwritable(folder):
        raise ValueError(f"--output-dir {folder}: {why}")


def check_plans(items: list[Item], memory: str) -> None:
    """ListError for the first item of each model that this machine cannot run."""
    from pyramid.memory.plan import make_plan

    problems = []
    for item in {item.model: item for item in reversed(items)}.values():
        try:
            make_plan(checkpoint_of(*item.model[:2]), item.settings, wanted=memory)
        except SettingsError as error:
            words = error.told(lambda name: flag_of(name) if name == "memory" else name)
            problems.append(f"line {item.line}: {words}")
    if problems:
        raise ListError("\n".join(problems))


def report(items: list[Item], left: list[Item], ended: list[Outcome]) -> int:
    """The summary, and the exit code."""
    failed = [outcome for outcome in ended if outcome.path is None]
    made = len(ended) - len(failed)
    skipped = len(left) - len(ended)
    say(f"{made} made, {len(items) - len(left)} done before, {len(failed)} failed, {skipped} not begun")
    for outcome in failed:
        say(f"failed: {name_of(outcome.item)}: {outcome.error}")
    if skipped:
        say("The first failure ended the batch; --continue-on-error goes on with the others.")
    return 1 if failed else 0
