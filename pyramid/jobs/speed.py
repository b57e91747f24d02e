"""How fast this machine is: seconds by step, measured while jobs run,
kept in a file for the estimates of the next.

    speeds = Speeds(folder / "speed.json")
    speeds.step("embedded/128p cpu float32", tokens=400, seconds=0.02)      # one step took so long
    speeds.estimate("embedded/128p cpu float32", settings)                  # seconds of a whole run, or None

A step costs what its tokens cost: the text, the unit in work and its history (arXiv 2410.05954, section 3.2),
twice with guidance. Seconds are a line through what was measured: a fixed part for each step and one for each
token.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyramid.disk import whole
from pyramid.events import Preview
from pyramid.generate.scales import Guidance
from pyramid.hub.families import GRID, TEXT_TOKENS
from pyramid.settings import Settings

LONGEST = 1e9  # seconds of a step, or tokens: more is no measurement
REMEMBERED = 50  # steps of one size: an older machine's figures fade as new ones come


def step_tokens(settings: Settings, unit: int, stage: int) -> int:
    """Tokens of one row of one step: text, the unit in work, and its history, coarser the older it is."""
    past = min(unit, settings.history_units or unit)
    seen = GRID.tokens(settings.width, settings.height, settings.stages, stage=stage, past=past)
    return TEXT_TOKENS + seen


def rows(settings: Settings, unit: int, stage: int = 0) -> int:
    """2 where guidance runs the negative prompt beside the prompt, else 1."""
    return Guidance.of(settings).rows(unit, stage)


def steps_of(settings: Settings, given: int = 0) -> list[tuple[int, int]]:
    """Of each step of a run in turn, (unit, stage); the first `given` units are not sampled."""
    return [(unit, stage) for unit, stage, steps in counted(settings, given) for _ in range(steps)]


def counted(settings: Settings, given: int = 0) -> list[tuple[int, int, int]]:
    """(unit, stage, how many steps) in turn: short, however many steps are asked for."""
    return [
        (unit, stage, steps)
        for unit in range(given, settings.units)
        for stage, steps in enumerate(settings.evaluations(unit))
    ]


def cost(settings: Settings, unit: int, stage: int) -> int:
    """Tokens of one step, over all its rows."""
    return rows(settings, unit, stage) * step_tokens(settings, unit, stage)


class Progress:
    """How much of a run's work is done, by what its steps cost; the first step that comes says what is left.

    `weigh`: the seconds of a step over so many tokens, where they are known (`Speeds.step_seconds`).
    """

    def __init__(self, settings: Settings, weigh: Callable[[int], float | None] = lambda tokens: None):
        self.settings = settings
        self._weigh = weigh
        self.whole = 0.0  # 0 before the first step
        self.done = 0.0

    def step(self, event: Preview) -> float:
        """A step was taken: what it weighs."""
        if not self.whole:
            self._plan(counted(self.settings, given=event.unit))  # units before it are not sampled
        weight = self._weights[event.unit, event.stage]
        self.done += weight
        return weight

    def _plan(self, steps: list[tuple[int, int, int]]) -> None:
        self._weights: dict[tuple[int, int], float] = {}
        for unit, stage, _ in steps:
            tokens = cost(self.settings, unit, stage)
            self._weights[unit, stage] = self._weigh(tokens) or tokens
        self.whole = sum(count * self._weights[unit, stage] for unit, stage, count in steps)


class Speeds:
    """What was measured, by model and device. Written and read by any thread."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()  # of who writes
        try:
            self._known = _checked(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self._known = {}  # nothing was measured yet, or the file is damaged: it is measured again

    def step(self, key: str, tokens: int, seconds: float) -> None:
        """A step over so many tokens took so long."""
        self._note(key, "steps", str(tokens), seconds)

    def decoded(self, key: str, pixels: int, seconds: float) -> None:
        """So many pixels of frames were decoded in so many seconds."""
        self._note(key, "decode", "pixel", seconds / pixels)

    def began(self, key: str, seconds: float) -> None:
        """What came before the first step: the text, and what was given."""
        self._note(key, "start", "run", seconds)

    def _note(self, key: str, kind: str, name: str, value: float) -> None:
        with self._lock:
            table = {entry: list(pair) for entry, pair in self._known.get(key, {}).get(kind, {}).items()}
            count, mean = table.get(name, (0, 0.0))
            count = min(count + 1, REMEMBERED)
            table[name] = [count, mean + (value - mean) / count]
            # Readers see old or new, whole.
            self._known = self._known | {key: self._known.get(key, {}) | {kind: table}}

    def step_seconds(self, key: str, tokens: int) -> float | None:
        """Seconds of a step over so many tokens; None before any was measured."""
        table = self._known.get(key, {}).get("steps")
        if not table:
            return None
        fixed, each = _line(table)
        return fixed + each * tokens

    def estimate(self, key: str, settings: Settings, given: int = 0) -> float | None:
        """Seconds of a run; None before any was measured."""
        known = self._known.get(key, {})
        if not known.get("steps"):
            return None
        fixed, each = _line(known["steps"])
        steps = sum(
            count * (fixed + each * cost(settings, unit, stage))
            for unit, stage, count in counted(settings, given)
        )
        pixel = known.get("decode", {}).get("pixel", (0, 0.0))[1]
        start = known.get("start", {}).get("run", (0, 0.0))[1]
        return start + steps + pixel * settings.width * settings.height * settings.num_frames

    def save(self) -> None:
        with self._lock, whole(self.path) as part:
            part.write_text(json.dumps(self._known), encoding="utf-8")


def _checked(known: dict[str, dict[str, dict[str, list]]]) -> dict[str, dict[str, dict[str, list]]]:
    """What a file holds, if it was written here. ValueError, TypeError or AttributeError."""
    for kinds in known.values():
        for kind, table in kinds.items():
            for name, (count, mean) in table.items():
                size = float(name) if kind == "steps" else 1.0
                if not (0 < count <= REMEMBERED and 0 <= mean < LONGEST and 0 < size < LONGEST):
                    raise ValueError(f"{name!r}: {count} times {mean} s is nothing that was measured")
    return known


def _line(table: dict[str, list]) -> tuple[float, float]:
    """Seconds of a step: a fixed part and one a token, neither below 0, by least squares."""
    tokens = np.array([float(name) for name in table])
    weights, seconds = np.array(list(table.values()), dtype=float).T
    if len(tokens) > 1:
        each, fixed = np.polyfit(tokens, seconds, 1, w=np.sqrt(weights))
        if each >= 0 and fixed >= 0:
            return float(fixed), float(each)
    return 0.0, float((weights * seconds * tokens).sum() / (weights * tokens**2).sum())
