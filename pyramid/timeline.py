"""A timeline: what is told to a clip from which unit on. Standard library only.

    [[unit]]                       # a table for each change, in a .toml file; in JSON a list of such tables
    from = 3                       # unit 0 is the first frame, each later one 8 frames: here frames 17 to 24
    prompt = "it grows"
    ease = 2                       # the words come over two units; 1, at once, where it is left out
    guidance = 5                   # or one number a stage
    steps = [10, 10, 5]            # or one for all stages
    seed = 7                       # of the noise from here on

    cues = read_timeline(text)                           # of JSON; ValueError says which table is wrong
    plan = plan_unit(cues, UnitPlan.plain(guidance=4.0, steps=(10, 10, 10)), unit=3)
    plan.words                                           # ((None, 0.5), ("it grows", 0.5))

What a table leaves out goes on as before. A setting holds a timeline as JSON text, always written alike.
"""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pyramid.wording import briefly

KEYS = ("from", "prompt", "guidance", "steps", "seed", "ease")
TOLD = ("prompt", "guidance", "steps", "seed")  # what a table may change
MOST = 256  # tables
LONGEST_EASE = 64
LARGEST = 1_000_000  # bytes of a file


@dataclass(frozen=True)
class Cue:
    """One table: what changes at a unit."""

    start: int  # the unit
    prompt: str | None = None
    guidance: tuple[float, ...] = ()  # one for all stages, or one each; () leaves it as it is
    steps: tuple[int, ...] = ()  # the same
    seed: int | None = None
    ease: int = 1  # units until words and guidance have fully come

    def arrived(self, unit: int) -> float:
        """How far words and guidance have come at a unit: from 0 to 1, slowly at both ends."""
        share = min(1.0, (unit - self.start + 1) / self.ease)
        return share * share * (3 - 2 * share) if share < 1 else 1.0

    @property
    def says(self) -> bool:
        """Whether it changes anything."""
        return any(getattr(self, name) not in (None, ()) for name in TOLD)

    def table(self) -> dict[str, Any]:
        """As it is written."""
        values: dict[str, Any] = {"from": self.start, "prompt": self.prompt, "seed": self.seed}
        values |= {"guidance": _short(self.guidance), "steps": _short(self.steps)}
        values["ease"] = self.ease if self.ease > 1 else None
        return {name: values[name] for name in KEYS if values[name] is not None}


@dataclass(frozen=True)
class UnitPlan:
    """What one unit is made by."""

    words: tuple[
        tuple[str | None, float], ...
    ]  # (prompt, weight), weights add up to 1; None is the clip's own
    guidance: tuple[float, ...]  # one a stage
    steps: tuple[int, ...]  # one a stage
    seed: int | None = None  # None is the clip's own

    @classmethod
    def plain(cls, guidance: float, steps: Sequence[int], guided: int = 0) -> Self:
        """What a clip without a timeline tells a unit; `guided`: stages that have guidance, 0 all."""
        scales = tuple(guidance if not guided or stage < guided else 1.0 for stage in range(len(steps)))
        return cls(((None, 1.0),), scales, tuple(steps))


def plan_unit(cues: Sequence[Cue], plan: UnitPlan, unit: int) -> UnitPlan:
    """The plan of a unit, where `plan` is what it is without a timeline."""
    words = dict(plan.words)
    guidance = plan.guidance
    steps = plan.steps
    seed = plan.seed
    for cue in cues:
        if cue.start > unit:
            break
        share = cue.arrived(unit)
        if cue.prompt is not None:
            words = {text: weight * (1 - share) for text, weight in words.items() if share < 1}
            words[cue.prompt] = words.get(cue.prompt, 0.0) + share
        if cue.guidance:
            wanted = _each(cue.guidance, len(guidance))
            guidance = tuple(a + share * (b - a) for a, b in zip(guidance, wanted, strict=True))
            guidance = wanted if share == 1 else guidance
        steps = _each(cue.steps, len(steps)) if cue.steps else steps
        seed = cue.seed if cue.seed is not None else seed
    return UnitPlan(tuple(words.items()), guidance, steps, seed)


def branched(cues: Sequence[Cue], new: Cue) -> tuple[Cue, ...]:
    """A timeline in which what `new` says holds from its unit on, whatever later tables said of that."""
    kept = [cue for cue in cues if cue.start < new.start]
    here = next((cue for cue in cues if cue.start == new.start), Cue(new.start))
    changes: dict[str, Any] = {
        name: getattr(new, name) for name in TOLD if getattr(new, name) not in (None, ())
    }
    eased: dict[str, Any] = {"ease": new.ease} if {"prompt", "guidance"} & changes.keys() else {}
    nothing: dict[str, Any] = {"prompt": None, "seed": None, "guidance": (), "steps": ()}
    gone = {name: nothing[name] for name in changes}
    later = [replace(cue, **gone) for cue in cues if cue.start > new.start]
    found = [*kept, replace(here, **changes, **eased), *later]
    return tuple(cue for cue in found if cue.says)


def _each(values: tuple, stages: int) -> tuple:
    return values * stages if len(values) == 1 else values


def _short(values: tuple) -> Any:
    if len(values) == 1:
        return values[0]
    return list(values) or None


# -- reading and writing
def load_timeline(path: Path) -> str:
    """The timeline in a .toml or .json file, as JSON text. ValueError for what cannot be read."""
    try:
        text = _text_of(path)
        tables = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"the timeline {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise ValueError(f"the timeline {path.name} cannot be read: it is nested too deeply") from None
    except ValueError as error:  # neither text nor TOML nor JSON
        raise ValueError(f"the timeline {path.name} cannot be read: {error}") from None
    try:
        if isinstance(tables, dict):
            if unknown := sorted(set(tables) - {"unit"}):
                raise ValueError(f"{briefly(unknown[0])} is unknown; a timeline has [[unit]] tables only")
            tables = tables.get("unit", [])
        return write_timeline(_cues(tables))
    except ValueError as error:
        raise ValueError(f"the timeline {path.name}: {error}") from None


def _text_of(path: Path) -> str:
    """The text of a file. OSError, and ValueError for what is no timeline by its size or its bytes."""
    if path.exists() and not path.is_file():  # what it says may never come, or never end
        raise ValueError("it is no file, but a folder, a pipe or a device")
    with path.open("rb") as file:
        read = file.read(LARGEST + 1)
    if len(read) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    try:
        return read.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None


def write_timeline(cues: Sequence[Cue]) -> str:
    """The one way to write these tables as JSON; "" for none."""
    return json.dumps([cue.table() for cue in cues], ensure_ascii=False) if cues else ""


@lru_cache(maxsize=64)
def read_timeline(text: str) -> tuple[Cue, ...]:
    """The tables of JSON text in the order of their units. ValueError with what is wrong, and where."""
    if not text.strip():
        return ()
    try:
        tables = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise ValueError(f"it is no JSON ({where}): a list such as {_EXAMPLE} is expected") from None
    except RecursionError:
        raise ValueError(f"its lists lie too deep in each other: {_EXAMPLE} is expected") from None
    except ValueError:  # a number of thousands of digits
        raise ValueError(f"a number in it has too many digits: {_EXAMPLE} is expected") from None
    return _cues(tables["unit"] if isinstance(tables, dict) and set(tables) == {"unit"} else tables)


_EXAMPLE = '[{"from": 3, "prompt": "it grows"}]'


def _cues(tables: Any) -> tuple[Cue, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ValueError(f"a list of tables is expected, such as {_EXAMPLE}")
    if len(tables) > MOST:
        raise ValueError(f"it has {len(tables)} tables: at most {MOST}")
    cues = sorted((_cue(table, n) for n, table in enumerate(tables, 1)), key=lambda cue: cue.start)
    for before, after in zip(cues, cues[1:], strict=False):
        if before.start == after.start:
            raise ValueError(f"two tables begin at unit {after.start}: put them together")
    return tuple(cues)


def _cue(table: dict[str, Any], number: int) -> Cue:
    """A table as it was written. Limits of the values are the settings'."""
    which = f"table {number}"
    if unknown := sorted(str(name) for name in set(table) - set(KEYS)):
        raise ValueError(f"{which}: {briefly(unknown[0])} is unknown; known are {', '.join(KEYS)}")
    if "from" not in table:
        raise ValueError(f"{which} does not say from which unit on: from = 3")
    prompt = table.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"{which}, prompt = {briefly(prompt)}: text is expected")
    return Cue(
        _whole(table, "from", which, 0, 10**6) or 0,
        prompt,
        tuple(float(value) for value in _numbers(table, "guidance", which, (int, float))),
        tuple(_numbers(table, "steps", which, (int,))),
        _whole(table, "seed", which, 0, 2**53 - 1),
        _whole(table, "ease", which, 1, LONGEST_EASE) or 1,
    )


def _whole(table: dict[str, Any], name: str, which: str, low: int, high: int) -> int | None:
    value = table.get(name)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"{which}, {name} = {briefly(value)}: a whole number from {low} to {high} is expected"
        )
    return value


def _numbers(table: dict[str, Any], name: str, which: str, kinds: tuple[type, ...]) -> list:
    """One number or several, as a list; [] where there are none."""
    value = table.get(name, [])
    values = value if isinstance(value, list) else [value]
    if not all(type(each) in kinds and abs(each) < 10**300 for each in values):  # a float holds no more
        expected = "a number is expected, or a list of one a stage"
        raise ValueError(f"{which}, {name} = {briefly(value)}: {expected}")
    return values


def told(cues: Sequence[Cue]) -> str:
    """A timeline as people read it, a line a table."""
    lines = []
    for cue in cues:
        parts = [repr(cue.prompt)] if cue.prompt is not None else []
        for name in ("guidance", "steps"):
            if values := getattr(cue, name):
                parts.append(f"{name} {', '.join(f'{value:g}' for value in values)}")
        parts += [f"seed {cue.seed}"] if cue.seed is not None else []
        eased = f", over {cue.ease} units" if cue.ease > 1 else ""
        lines.append(f"from unit {cue.start}{eased}: {', '.join(parts) or 'nothing new'}")
    return "\n".join(lines)
