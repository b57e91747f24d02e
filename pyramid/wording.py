"""Values in sentences for people.

briefly([1, 2, 3] * 100)                  # "[1, 2, 3, 1, …", of any size and depth
in_digits(2130.4)                         # "2,130"
"""

from typing import Any

MOST_SHOWN = 60  # characters of a value


def briefly(value: Any) -> str:
    """A value of any size and depth in a message: its beginning, where it is long."""
    try:
        text = f"{value:g}" if isinstance(value, float) else repr(value).replace("\n", " ")  # of arrays
    except (ValueError, RecursionError):  # a number of thousands of digits, lists deep in each other
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def in_digits(value: float, digits: int = 3) -> str:
    """A figure in so many digits that count, without an exponent: 2,130 and 0.0213."""
    return f"{float(f'{value:.{digits}g}'):,.12f}".rstrip("0").rstrip(".")
