"""The rows of a list of videos, in the three forms in which people have them.

    for line, read in rows(Path("prompts.csv")):       # the line's number in the file
        table = read()                                 # or ValueError: what is wrong with this row

    {"prompt": "a red ball stays still", "seed": 7}    # a JSON table a line
    [{"prompt": "a red ball stays still"}, …]          # a JSON array of tables
    prompt,seed,steps                                  # a CSV with a header: by commas, semicolons or tabs
    a red ball stays still,7,"10,10,10"

What a file is, its content tells. The cells of a CSV are read as the command line reads the same settings; an
empty one is left out.
"""

import codecs
import csv
import io
import json
import re
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from pyramid.commands.flags import NUMBERS, counts
from pyramid.disk import check_file
from pyramid.settings import ELSEWHERE, EXPECTED, FIELDS, STEPS, TABLE, SettingsError, check_known, renamed

Row = tuple[int, Callable[[], dict[str, Any]]]
BESIDE = ("id", "seconds")  # what a row may have beside the fields of `Settings`
EXAMPLE = '{"prompt": "a red ball stays still"}'
NO_TEXT = "this is not UTF-8 text; save the list as UTF-8"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as office programs and PowerShell begin a text
SEPARATOR = re.compile(r"(?:sep=.\r?\n)?", re.IGNORECASE)  # what Excel writes before the header
MAX_BYTES = 100_000_000  # of a list: some hundred thousand lines
MAX_DIGITS = 30  # of a whole number: those of settings have 16 at most


class ListError(ValueError):
    """What is wrong with a list: all of it, a line of text each."""


def rows(path: Path) -> Iterator[Row]:
    """The rows that are not blank, with their lines. Raises ListError for what is no text in UTF-8,
    ValueError for what is no file.
    """
    try:
        check_file(path)
        if path.stat().st_size > MAX_BYTES:
            raise ListError(f"{path.name} has more than {MAX_BYTES / 1e6:.0f} MB: cut it into several lists")
        data = path.read_bytes()
        if data.startswith(b"PK\x03\x04"):
            raise ListError(f"{path.name} is a workbook or a zip: save it as CSV in UTF-8")
        text = data.decode("utf-16" if data[:2] in UTF16 else "utf-8-sig")
    except OSError as error:
        raise ListError(f"the list {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ListError(f"{path.name}, line {line}: {NO_TEXT}") from None
    if "\0" in text[:4]:
        raise ListError(f"{path.name}, line 1: {NO_TEXT}")
    if text.lstrip().startswith("["):
        return _of_array(text)
    if delimiter := _delimiter(text, certain=path.suffix.lower() in (".csv", ".tsv")):
        return _of_csv(text, delimiter)
    lines = enumerate(re.split("\r\n?|\n", text), 1)
    return ((number, partial(table_of, line)) for number, line in lines if line.strip())


# -- JSON


def table_of(text: str) -> dict[str, Any]:
    """A line as a table. ValueError for other JSON, a name that is there twice, and numbers that are none."""
    try:
        return _checked(_decoder().decode(text))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not JSON ({error.msg} at column {error.colno}): a line is a table such as {EXAMPLE}"
        ) from None


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_pairs, parse_constant=_no_number, parse_int=_whole, parse_float=_number
    )


def _pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice")
    return dict(found)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number that can be used")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(
            f"a whole number of {len(digits)} digits ({digits[:8]}…) is more than any setting takes"
        )
    return int(digits)


def _number(written: str) -> float | int:
    """A number; 7.0 is how pandas writes 7 where some are missing."""
    return _whole(written.partition(".")[0]) if re.fullmatch(r"-?\d+\.0", written) else float(written)


def _checked(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f'a table such as {{"prompt": …}} is expected, not {type(value).__name__}')
    return value


def _of_array(text: str) -> Iterator[Row]:
    """The tables of a JSON array, read one by one, so that each has a line; the first that is broken ends
    it.
    """
    decoder = _decoder()
    at = text.index("[") + 1
    separator = "["
    while True:
        at = _after_blanks(text, at)
        line = text.count("\n", 0, at) + 1
        if text[at : at + 1] == "]" and separator == "[":
            break  # an empty array
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            yield error.lineno, partial(_refuse, f"not JSON ({error.msg} at column {error.colno})")
            return
        except (ValueError, RecursionError) as error:
            yield line, partial(_raise, error)
            return
        yield line, partial(_checked, value)
        at = _after_blanks(text, at)
        separator = text[at : at + 1]
        if separator == "]":
            break
        if separator != ",":
            yield (
                text.count("\n", 0, at) + 1,
                partial(_refuse, "not JSON (a comma or ] is expected after a table)"),
            )
            return
        at += 1
    if text[at + 1 :].strip():
        line = text.count("\n", 0, _after_blanks(text, at + 1)) + 1
        yield (
            line,
            partial(
                _refuse, "something comes after the end of the array: a list is one array, or a table a line"
            ),
        )


def _after_blanks(text: str, at: int) -> int:
    found = re.compile(r"\s*").match(text, at)
    return found.end() if found else at


def _raise(error: Exception) -> NoReturn:
    raise error


def _refuse(words: str) -> NoReturn:
    raise ValueError(f"{words}: the list is an array of tables such as {EXAMPLE}")


# -- CSV


def _delimiter(text: str, *, certain: bool = False) -> str | None:
    """What parts the cells of a CSV, told by its header; None where the first line is no header. `certain`:
    its name says that it is one, so what is wrong with its header is told.
    """
    lines = text[_begins(text) :].splitlines()
    header = next((line for line in lines if line.strip()), "")
    for delimiter in ",;\t":
        names = [_name(cell.strip().strip('"')) for cell in header.split(delimiter)]
        if "prompt" in names or "prompt" in map(ELSEWHERE.get, names):
            return delimiter
    is_table = certain and header and not header.lstrip().startswith("{")
    return max(",;\t", key=header.count) if is_table else None


def _begins(text: str) -> int:
    """Where a CSV's header begins: after the line that tells Excel its separator."""
    found = SEPARATOR.match(text)
    return found.end() if found else 0


def _of_csv(text: str, delimiter: str) -> Iterator[Row]:
    before = _begins(text)
    reader = csv.reader(io.StringIO(text[before:], newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    above = bool(before)  # lines before the header
    line = 1 + above
    while True:
        begins = line
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield (
                begins,
                partial(_raise, ValueError(f"this row of a CSV cannot be read ({error}): check its quotes")),
            )
            return
        line = reader.line_num + 1 + above
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if names:
            yield begins, partial(_table_of_cells, names, cells, delimiter)
            continue
        names = [_name(cell) for cell in cells]
        while not names[-1]:  # columns that were emptied, which office programs write all the same
            names.pop()
        try:
            _check_header(names)
        except ValueError as error:
            yield begins, partial(_raise, error)
            return


def _name(cell: str) -> str:
    """A column's name as settings have it: tables are often headed "Prompt", "Num Frames"."""
    return cell.strip().lower().replace(" ", "_").replace("-", "_")


def _check_header(names: list[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{twice[0]!r} is given twice" if twice[0] else "two columns have no name")
    check_known(renamed(dict.fromkeys(names)), "column", (*FIELDS, *BESIDE))
    if "prompt" not in renamed(dict.fromkeys(names)):
        raise ValueError("the first line names the columns, and has no prompt among them")


def _table_of_cells(names: list[str], cells: list[str], delimiter: str) -> dict[str, Any]:
    """A row of a CSV as a table. ValueError for cells without a column, and for what is no number."""
    if any(cell.strip() for cell in cells[len(names) :]):
        raise ValueError(
            f"{len(cells)} cells under a header of {len(names)}: a text that holds the separator is put "
            'between quotes, as "a ball, red"'
        )
    given = {name: cell.strip() for name, cell in zip(names, cells, strict=False) if cell.strip()}
    return {name: _value(name, cell, comma=delimiter != ",") for name, cell in given.items()}


def _value(name: str, cell: str, *, comma: bool) -> Any:
    """What a cell says, in the type of its setting. `comma`: fractions may have one, as where cells are
    parted by semicolons.
    """
    setting = next(iter(renamed({name: None})))
    kind: Any = TABLE[setting].kind if setting in TABLE else str
    if name == "seconds":
        kind = float
    if kind is float and comma:
        cell = re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell)
    if kind is bool:
        if cell.lower() not in ("true", "false"):
            raise SettingsError(name, f"= {cell!r}: true or false is expected", named=True)
        return cell.lower() == "true"
    try:
        if kind in (int, int | None):
            cell = re.sub(r"\.0+$", "", cell)  # as pandas writes whole numbers where some are missing
        if kind in (int, int | None) or cell.isdecimal() and kind is float:
            return _whole(cell) if len(cell) > MAX_DIGITS else int(cell)
        value = counts(cell) if kind == STEPS else NUMBERS.get(kind, str)(cell)
        return list(value) if isinstance(value, tuple) else value
    except (ValueError, ArgumentTypeError):
        raise SettingsError(name, f"= {cell!r}: {EXPECTED[kind]} is expected", named=True) from None
