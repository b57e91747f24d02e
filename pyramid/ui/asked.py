"""What a button of the panel "Direct" brings along: the fields of the form around it, as text from a browser.

asked = asked_of(event)                       # {"count": "9", "units": "first"}
number_of(asked, "count", int)                # 9; None where it is empty; SettingsError for anything else
numbers_of(asked, "steps", int)               # (10, 10, 5) of "10, 10, 5"
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import gradio as gr

from pyramid.settings import SettingsError
from pyramid.ui.form import Form
from pyramid.wording import briefly

ASSETS = Path(__file__).resolve().parent.parent.parent / "assets"
LOOK: dict[str, Any] = {  # of every gr.HTML in the panel
    "js_on_load": (ASSETS / "direct.js").read_text(encoding="utf-8"),
    "css_template": (ASSETS / "direct.css").read_text(encoding="utf-8"),
    "apply_default_css": False,
}
Number = TypeVar("Number", int, float)


class Asking(Protocol):
    """The form with all around it, as far as the tools need it: see `pyramid.ui.page.Left`."""

    form: Form

    def split(self, values: tuple) -> tuple[tuple, tuple]: ...

    def given(self, *fields: Any) -> dict[str, Path | None]: ...

    def owner(self, request: gr.Request, token: str | None) -> str: ...


def asked_of(event: gr.EventData) -> dict[str, str]:
    """The fields by name. ValueError for what is no table of texts."""
    return table_of(str(event.value))


def table_of(value: str) -> dict[str, str]:
    """The same of a value as the page sends it; numbers as text too."""
    try:
        table = json.loads(value)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(type(each) in (str, int, float) for each in table.values()):
        raise ValueError("The form could not be read: reload the page.")
    return {name: str(each) for name, each in table.items()}


def number_of(asked: dict[str, str], name: str, kind: Callable[[str], Number]) -> Number | None:
    """A field as a number of that kind; None where it is empty. SettingsError."""
    text = asked.get(name, "").strip()
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        problem = f"= {briefly(text)}: a {'whole ' * (kind is int)}number is expected"
        raise SettingsError(name, problem, named=True) from None


def numbers_of(asked: dict[str, str], name: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """A field as numbers between commas; () where it is empty. SettingsError."""
    parts = [part for part in asked.get(name, "").replace(";", ",").split(",") if part.strip()]
    found = [number_of({name: part}, name, kind) for part in parts]
    return tuple(value for value in found if value is not None)
