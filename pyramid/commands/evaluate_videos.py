"""What is compared, by one word each: a folder of videos, a model, a preset, a LoRA; and its videos, made.

    system = system_of("steps=fast.toml", "embedded")      # System("steps", preset="fast.toml")
    system_of("outputs/theirs", "embedded")                # System("theirs", folder=…): whoever made them
    paths = make_videos(system, [Wanted("rise-0", "a red ball rises", 7)], folder, making)

Videos are made as `batch` makes them: by its journal, so the same command goes on where it ended, and by its
engines, here or on a Ray cluster.
"""

import argparse
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyramid.commands.batch import Journal, check_flags, check_folder, engine_of, work
from pyramid.commands.engine import Stopped, say
from pyramid.commands.interrupts import Halted, interruptible
from pyramid.commands.prompt_list import Item, checkpoint_of, digest, name_of
from pyramid.disk import check_file
from pyramid.memory.plan import NAMES
from pyramid.presets import load_preset, preset_names, resolve
from pyramid.settings import DTYPES, MAX_SEED, Settings, at_home

KINDS = "a folder of videos, a model, MODEL:VARIANT, a preset or its .toml, or a LoRA's .safetensors"


@dataclass(frozen=True)
class System:
    """One of those that are compared: videos that are there, or what makes them."""

    name: str
    folder: Path | None = None
    model: str | None = None
    variant: str | None = None
    preset: str | None = None
    lora: str = ""

    def settings(self, prompt: str, seed: int, machine: dict[str, Any]) -> Settings:
        """Of one video. SettingsError for what cannot be run."""
        preset = load_preset(self.preset) if self.preset else None
        changes: dict[str, Any] = {"prompt": prompt, "seed": seed} | machine
        changes |= {"variant": self.variant} if self.variant else {}
        changes |= {"lora": self.lora} if self.lora else {}
        return resolve(self.model, preset, changes).validate()


@dataclass(frozen=True)
class Wanted:
    """A video to make. `key` names it in the journal."""

    key: str
    prompt: str
    seed: int


def system_of(text: str, model: str) -> System:
    """What `NAME=WHAT` or `WHAT` stands for; a LoRA is one of `model`. ValueError for none of KINDS."""
    name, equals, what = text.partition("=")
    what = what if equals else text
    path = at_home(what)
    short = name.strip() if equals else path.name
    if not short:
        raise ValueError(f"{text!r}: give NAME=WHAT, or WHAT alone")
    if path.is_dir() and not any(path.glob("diffusion_transformer_*")):
        return System(short, folder=path)
    if path.suffix == ".toml" or what in preset_names():
        return System(short, preset=str(path) if path.suffix == ".toml" else what)
    if ".safetensors" in what:
        return System(short, model=model, lora=what)
    known, _, variant = what.partition(":") if not path.exists() else (what, "", "")
    try:
        checkpoint_of(known, variant or None)
    except ValueError as error:
        raise ValueError(f"{text!r} is not {KINDS}: {error}") from None
    return System(short, model=known, variant=variant or None)


def systems_of(texts: Sequence[str], model: str) -> list[System]:
    """Several. ValueError where two have one name."""
    systems = [system_of(text, model) for text in texts]
    names = [system.name for system in systems]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two are called {twice!r}: give them names, as first={texts[0]} second={texts[1]}")
    return systems


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line; empty lines and a second one of the same words are left out."""
    try:
        check_file(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"--prompts {path} cannot be read as text: {error}") from None
    prompts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not prompts:
        raise ValueError(f"--prompts {path} holds no prompt: write one a line")
    return prompts


def add_making_flags(add) -> None:
    """The flags of commands that make videos."""
    add("--model", default="embedded", help="of LoRAs that are compared (default: embedded)")
    add("--seed", type=int, default=0, metavar="N", help="of the first video; the others count up from it")
    add("--dtype", choices=DTYPES, default="auto", help="precision (default: what suits the device)")
    add("--device", default="auto", help="cpu, cuda, … (default: the fastest there is)")
    add("--memory", default="auto", choices=("auto", *NAMES), help="plan for memory")
    cluster = "make them on a Ray cluster: its address, auto, or none for one on this machine"
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help=cluster)
    add("--workers", type=int, metavar="N", help="with --ray: how many at once")


def make_videos(
    system: System, wanted: Sequence[Wanted], folder: Path, args: argparse.Namespace
) -> dict[str, Path]:
    """The file of each key, made in `folder` unless it was before. `args`: with those of `add_making_flags`.

    ValueError where one could not be made; KeyboardInterrupt when it was stopped: the next call goes on.
    """
    making = argparse.Namespace(**{**vars(args), "output_dir": folder, "seeds": 1, "retries": 1})
    check_flags(making)
    check_folder(folder)
    machine = {"dtype": args.dtype, "device": args.device}
    items = [_item(line, each, system, machine) for line, each in enumerate(wanted, 1)]
    stop = threading.Event()
    try:
        with Journal(folder) as journal, interruptible(stop):
            left = journal.left(items)
            say(
                f"{system.name}: {len(items)} videos, {len(items) - len(left)} made before, "
                f"{len(left)} to make"
            )
            failed = []
            if left:
                with closing(engine_of(making, stop)) as engine:
                    ended = work(left, engine, journal, retries=1, continue_on_error=True, stop=stop)
                failed = [outcome for outcome in ended if outcome.path is None]
            made = {key: folder / event["file"] for key, event in journal.done.items()}
    except (Stopped, Halted):
        print("The same command goes on from here.", file=sys.stderr)
        raise KeyboardInterrupt from None
    if failed:
        first = failed[0]
        raise ValueError(
            f"{system.name}: {len(failed)} of {len(items)} videos could not be made ({name_of(first.item)}: "
            f"{first.error}); the same command tries those again"
        )
    return {item.key: _there(made[item.key]) for item in items}


def _item(line: int, wanted: Wanted, system: System, machine: dict[str, Any]) -> Item:
    settings = system.settings(wanted.prompt, wanted.seed, machine)
    return Item(wanted.key, line, settings, digest(settings.to_dict()))


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} was made and is gone: delete {path.parent}, and make its videos again")
    return path


def seed_at(first: int, index: int) -> int:
    """The seed of the video with this index. ValueError for one beyond the bounds."""
    if not 0 <= first + index <= MAX_SEED:
        raise ValueError(f"--seed {first}: seeds go from 0 to {MAX_SEED}")
    return first + index


def videos_of(
    system: System, prompts: Sequence[str], folder: Path, args: argparse.Namespace
) -> dict[str, Path]:
    """One video of each prompt: found in the system's folder, or made in one of its own below `folder`.

    Of several videos of a prompt the first by name is taken.
    """
    from pyramid.study.clips import videos_by_prompt

    if system.folder is not None:
        return {prompt: paths[0] for prompt, paths in videos_by_prompt(system.folder, prompts).items()}
    if not prompts:
        raise ValueError(f"{system.name} makes its videos: say of which prompts, by --prompts FILE")
    wanted = [Wanted(prompt, prompt, seed_at(args.seed, n)) for n, prompt in enumerate(prompts)]
    made = make_videos(system, wanted, folder / digest(system.name), args)
    return {prompt: made[prompt] for prompt in prompts}


def prompts_of(systems: Sequence[System], path: Path | None) -> list[str]:
    """The prompts that are compared: those of the file, else those that all folders of videos have."""
    from pyramid.study.clips import plain, videos_by_prompt

    if path is not None:
        return read_prompts(path)
    folders = [system.folder for system in systems if system.folder is not None]
    if not folders:
        raise ValueError("models make their videos of prompts: give --prompts FILE, one a line")
    first, *others = [list(videos_by_prompt(folder)) for folder in folders]
    known = [{plain(prompt) for prompt in other} for other in others]
    shared = [prompt for prompt in first if all(plain(prompt) in other for other in known)]
    if not shared:
        raise ValueError(
            "the folders have no prompt in common: give --prompts FILE, and videos whose record or name "
            "has those words, as `a red ball-0.mp4`"
        )
    return shared
