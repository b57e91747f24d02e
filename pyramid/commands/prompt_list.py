"""A list of videos to make, read strictly: a JSON table a line.

    items = read_list(Path("prompts.jsonl"), preset="quick", seeds=2)  # or ListError

    {"prompt": "a red ball moves to the right", "seed": 7}
    {"id": "rise", "prompt": "a blue square rises", "image": "square.png", "num_frames": 17}

A line has `prompt`, any other field of `Settings`, and perhaps an `id`. What it leaves out comes from its
preset, then from its model. `image` and `video` are paths, seen from the list's folder.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pyramid.presets import load_preset, resolve
from pyramid.settings import MAX_SEED, TABLE, Settings, check_known, renamed, typed

SHOWN_PROBLEMS = 20


class ListError(ValueError):
    """What is wrong with a list: all of it, a line of text each."""


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
    from pyramid.media.files import PATTERN, file_name

    return (
        folder / f"{file_name(PATTERN, item.settings)}{'.png' if item.settings.num_frames == 1 else '.mp4'}"
    )


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
    for number, text in _lines(path):
        try:
            table = _table(text)
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
        except ValueError as error:
            problems.append(f"{path.name}, line {number}: {' '.join(str(error).split())}")
        except RecursionError:  # from reading it, or from telling what is wrong with it
            problems.append(
                f"{path.name}, line {number}: lists or tables lie too deep in each other; a line is a "
                'table such as {"prompt": "a red ball stays still"}'
            )
    if not items and not problems:
        problems.append(
            f'{path.name} has no lines: each is a table such as {{"prompt": "a red ball stays still"}}'
        )
    _check_problems(problems)
    first = {item.model: at for at, item in reversed(list(enumerate(items)))}
    return sorted(items, key=lambda item: first[item.model])  # each model is loaded once


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ListError(f"the list {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ListError(f"{path.name}, line {line}: this is not UTF-8 text; save the list as UTF-8") from None
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def _check_problems(problems: list[str]) -> None:
    """ListError with the first problems, if there are any."""
    more = len(problems) - SHOWN_PROBLEMS
    if problems:
        raise ListError("\n".join(problems[:SHOWN_PROBLEMS] + [f"… and {more} more"] * (more > 0)))


def _table(text: str) -> dict[str, Any]:
    """A line as a table. ValueError for other JSON, a name that is there twice, and numbers that are none."""

    def pairs(found):
        twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice")
        return dict(found)

    def refuse(word):
        raise ValueError(f"{word} is not a number that can be used")

    try:
        table = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno}): a line is a table such as "
            '{"prompt": "a red ball stays still"}'
        ) from None
    if not isinstance(table, dict):
        raise ValueError(f'a table such as {{"prompt": …}} is expected, not {type(table).__name__}')
    return table


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

    asked_for, table = table, renamed(table)
    check_known(table, "setting")
    named = typed(TABLE["preset"], table.pop("preset", None)) or preset
    asked = load_preset(named) if named else None
    short = digest({"line": asked_for, "preset": asked.values if asked else {}})
    for name in ("image", "video"):
        if isinstance(table.get(name), str):
            table[name] = str(folder.resolve() / table[name])
    settings = resolve(table.pop("model", None), asked, table)
    checkpoint_of(settings.model, settings.variant)
    read_given(settings.validate())
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
