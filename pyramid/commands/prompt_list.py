"""A list of videos to make, read strictly: a JSON table a line, a JSON array of tables, or a CSV.

    items = read_list(Path("prompts.jsonl"), preset="quick", seeds=2)  # or ListError

    {"prompt": "a red ball moves to the right", "seed": 7}
    {"id": "rise", "prompt": "a blue square rises", "image": "square.png", "num_frames": 17}

A line has `prompt`, any other field of `Settings`, perhaps `seconds` in place of `num_frames`, and perhaps
an `id`. One step count stands for all stages. What a line leaves out comes from its preset, then from its
model. `image` and `video` are paths, seen from the list's folder.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pyramid.commands.list_files import EXAMPLE, ListError, rows
from pyramid.failures import sentence
from pyramid.hub.loras import find_loras
from pyramid.presets import load_preset, resolve
from pyramid.settings import (
    FIELDS,
    MAX_SEED,
    TABLE,
    Settings,
    SettingsError,
    at_home,
    check_known,
    renamed,
    typed,
)

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Item:
    """One video to make. `key` names it in the journal: by its id, or by what its line says (`asked`)."""

    key: str
    line: int
    settings: Settings
    asked: str = ""
    attempts: int = 0

    @property
    def model(self) -> tuple[str, ...]:
        s = self.settings
        return s.model, s.variant, s.dtype, s.quantize, s.device


def result_path(folder: Path, item: Item) -> Path:
    """The name of an item's result, before a number is added where it is taken."""
    from pyramid.media.files import PATTERN, ending_of, file_name

    return folder / f"{file_name(PATTERN, item.settings)}{ending_of(item.settings)}"


def name_of(item: Item) -> str:
    """An item as people see it."""
    prompt = item.settings.prompt if len(item.settings.prompt) <= 40 else item.settings.prompt[:39] + "…"
    return f'line {item.line} "{prompt}", seed {item.settings.seed}'


def read_list(path: Path, preset: str | None = None, seeds: int = 1) -> list[Item]:
    """The items of a list, `seeds` of each line (its seed, the next one, …), those of one model together.

    Raises ListError with everything that is wrong, and where.
    """
    items: list[Item] = []
    problems: list[str] = []
    ids: dict[str, int] = {}  # of the lines
    seen: Counter[str] = Counter()  # lines without an id, by what they ask for
    keys: dict[str, int] = {}  # of the videos
    for number, read in rows(path):
        try:
            table = read()
            name = _id_of(table, ids, number)
            settings, asked = _settings(table, path.parent, preset)
            key = name if name is not None else _numbered(asked, seen)
            named = [f"{key}#{index + 1}" if index else key for index in range(seeds)]
            if taken := next((each for each in named if each in keys), None):
                raise ValueError(
                    f"{taken!r} names a video of line {keys[taken]} too: change the id of one of the two"
                )
            keys |= dict.fromkeys(named, number)
            items += [
                Item(each, number, _with_seed(settings, index), asked) for index, each in enumerate(named)
            ]
        except (ValueError, RecursionError, OverflowError) as error:
            problems.append(f"{path.name}, line {number}: {sentence(error)}")
    if not items and not problems:
        problems.append(f"{path.name} has no lines: each is a table such as {EXAMPLE}")
    _check_problems(problems)
    first = {item.model: at for at, item in reversed(list(enumerate(items)))}
    return sorted(items, key=lambda item: first[item.model])  # each model is loaded once


def _check_problems(problems: list[str]) -> None:
    """ListError with the first problems, if there are any."""
    more = len(problems) - SHOWN_PROBLEMS
    if problems:
        raise ListError("\n".join(problems[:SHOWN_PROBLEMS] + [f"… and {more} more"] * (more > 0)))


def _id_of(table: dict[str, Any], ids: dict[str, int], line: int) -> str | None:
    """The id, taken out of the table."""
    name = table.pop("id", None)
    if name is None:
        return None
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        raise ValueError(f"id = {name!r}: a text or a whole number is expected")
    if str(name) in ids:
        raise ValueError(f"id {str(name)!r} is that of line {ids[str(name)]} too: each needs its own")
    ids[str(name)] = line
    return str(name)


def _settings(table: dict[str, Any], folder: Path, preset: str | None) -> tuple[Settings, str]:
    """The settings of a line: its model's own, then the preset's, then the line's;
    and what was asked for, in short.

    Files that it names are opened.
    """
    from pyramid.media.video_reader import read_given

    asked_for = table
    table = renamed(table)
    check_known(table, "setting", (*FIELDS, "seconds"))
    seconds = table.pop("seconds", None)
    if seconds is not None and table.get("num_frames") is not None:
        raise SettingsError("seconds", "both seconds and num_frames are given: leave one out")
    own = typed(TABLE["preset"], table.pop("preset", None))
    named = preset if own is None else own
    asked = None if named is None else load_preset(named)
    short = digest({"line": asked_for, "preset": asked.values if asked else {}})
    for name in ("image", "video"):
        if isinstance(table.get(name), str):
            table[name] = str(folder.resolve() / at_home(table[name]))
    settings = resolve(table.pop("model", None), asked, table, seconds=seconds)
    checkpoint_of(settings.model, settings.variant)
    read_given(settings.validate())
    find_loras(settings.lora)
    return settings, short


@cache
def checkpoint_of(model: str, variant: str | None):
    """A checkpoint that is there and whole. ValueError."""
    from pyramid.hub.checkpoints import find, verify

    checkpoint = find(model, variant)
    verify(checkpoint)
    return checkpoint


def _with_seed(settings: Settings, index: int) -> Settings:
    """The settings of a line's `index`-th video: seeds in a row, or one drawn for each."""
    if settings.seed is None:
        return settings
    if settings.seed + index > MAX_SEED:
        raise ValueError(f"seed = {settings.seed + index} is outside 0 to {MAX_SEED}: start lower")
    return replace(settings, seed=settings.seed + index)


def _numbered(asked: str, seen: Counter) -> str:
    """The key of a line without an id: lines that say the same are told apart by number."""
    seen[asked] += 1
    return f"{asked}.{seen[asked]}" if seen[asked] > 1 else asked


def digest(values: Any) -> str:
    """A short name for what JSON can say."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
