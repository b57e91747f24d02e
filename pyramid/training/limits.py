"""Limits of a recipe's keys, in their types: `steps: Count`, `betas: tuple[BelowOne, ...]`.

    limit_problem(hints["text_dropout"], 3.0)           # "0 to 1 is expected", "" where the value is within

`recipe.read_table` asks for every key that a file has.
"""

import math
import re
import sys
import typing
from dataclasses import dataclass
from typing import Annotated, Any

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, with their ends unless they are `open`. Never nan."""

    low: float
    high: float = LARGEST
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is in it."""
        if value in (self.low, self.high):
            return not (self.low_open if value == self.low else self.high_open)
        return self.low < value < self.high

    @property
    def words(self) -> str:
        """It as people say it."""
        low = f"above {self.low:g}" if self.low_open else f"{self.low:g} or more"
        if self.high >= LARGEST:
            return low
        return f"{low}, below {self.high:g}" if self.high_open else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class OneOf:
    """Some words."""

    known: tuple[str, ...]

    def holds(self, value: str) -> bool:
        """Whether a word is one of them."""
        return value in self.known

    @property
    def words(self) -> str:
        """They as people say them."""
        return " or ".join(self.known)


@dataclass(frozen=True)
class PlainName:
    """What a file or folder can be called everywhere, inside of the folder where it is written."""

    words = "a name without / \\ : and the like"

    def holds(self, value: str) -> bool:
        """Whether it is such a name."""
        return bool(re.fullmatch(r"(?!\.+$)[^\x00-\x1f\\/:*?\"<>|]{1,100}", value))


Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, high_open=True)]
Positive = Annotated[float, Range(0, low_open=True)]
Limit = Annotated[float, Range(0, math.inf, low_open=True)]  # inf: there is none
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Name = Annotated[str, PlainName()]


def limit_problem(hint: Any, value: Any) -> str:
    """What a value of the right type has to be and is not, "" where it is within its limits."""
    inside = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return "" if inside[1].holds(value) else f"{inside[1].words} is expected"
    if isinstance(value, tuple) and typing.get_origin(hint) is tuple:
        problems = (limit_problem(inside[0], each) for each in value)
    else:
        problems = (limit_problem(each, value) for each in inside if value is not None)
    return next(filter(None, problems), "")
