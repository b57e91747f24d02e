"""Rows of a csv or a jsonl, as far as they can be read.

for number, row in csv_rows(path): ...           # row by column; None for a damaged line
for number, row in json_rows(path): ...          # a table a line; None for what is none
"""

import codecs
import csv
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST_FIELD = 2**24  # characters of a field of a csv
MOST_LINE = 2**24  # characters of a line of a jsonl: a caption, and names of files


def open_text(path: Path):
    """A text, open, its lines as they end in it. ValueError where it cannot be opened."""
    try:
        with path.open("rb") as file:
            encoding = encoding_of(file.read(4))
        return path.open(encoding=encoding, errors="replace", newline="")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def encoding_of(start: bytes) -> str:
    """How a text is written that begins so: UTF-8, unless a mark says UTF-16."""
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def plain(name: str) -> str:
    """The name of a column, however it is spelled."""
    return name.strip().lower().replace("_", " ")


def columns_of(path: Path, spelled: Callable[[str], str] = plain) -> list[str]:
    """The columns of a csv. ValueError where its first line is none of one."""
    csv.field_size_limit(MOST_FIELD)
    with open_text(path) as file:
        try:
            return [spelled(name) for name in next(csv.reader(file), [])]
        except csv.Error as error:
            raise ValueError(f"{path.name} is not a csv: {error}") from None


class _Lines:
    """The lines of a file for a csv reader, of which those of the row at hand can be read once more."""

    def __init__(self, file: Iterator[str]):
        self.file = file
        self.number = 0  # of the line that was read last
        self.row: list[str] = []
        self.again: deque[str] = deque()
        self.ended = False  # whether more was asked for than there is

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.file, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.number += 1
        self.row.append(line)
        return line

    def take_back(self) -> None:
        """Stand behind the first line of the row at hand."""
        self.again.extendleft(reversed(self.row[1:]))
        self.number -= len(self.row) - 1
        self.ended = False


def csv_rows(
    path: Path, spelled: Callable[[str], str] = plain
) -> Iterator[tuple[int, dict[str, str] | None]]:
    """(line, row by column) of a csv; a row that cannot be read is None.

    A quote that nothing closes damages its own line alone: what it took is read once more.
    """
    csv.field_size_limit(MOST_FIELD)
    with open_text(path) as file:
        lines = _Lines(file)
        reader = csv.reader(lines)
        columns = [spelled(name) for name in next(reader, [])]
        while True:
            lines.row.clear()
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                values = None
            if values is None or lines.ended:
                lines.take_back()
                reader = csv.reader(lines)
                yield lines.number, None
            elif values:
                whole = len(values) == len(columns)
                yield lines.number, dict(zip(columns, values, strict=True)) if whole else None


def json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(line, table) of a jsonl; a line that is no table is None, an empty one or `null` is passed over."""
    with open_text(path) as file:
        for number in itertools.count(1):
            try:
                line = whole_line = file.readline(MOST_LINE)
                while len(whole_line) == MOST_LINE and not whole_line.endswith("\n"):
                    whole_line = file.readline(MOST_LINE)  # the rest of a line that is too long: of one item
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                yield number, None
                continue
            if not line:
                return
            if row is not None:
                yield number, row if isinstance(row, dict) else None
