"""Small pictures that explain a control, and the controls that they stand beside. All are drawn here, as SVG.

control("seeds", "Seeds", "How many beginnings stand side by side.", choice("count", {"9": "9", "16": "16"}))

A picture is 54 × 36 units; `f` is filled with the accent, `s` is drawn soft, `w` is a pale ground.
"""

from collections.abc import Mapping
from html import escape


def _boxes(*places: tuple[float, float, float, float, str]) -> str:
    return "".join(
        f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="2" class="{kind}"/>'
        for x, y, w, h, kind in places
    )


def _row(y: float, kinds: str, x: float = 3, side: float = 9, gap: float = 4) -> str:
    """Units side by side: `f` filled, `o` an outline, `s` a soft outline."""
    return _boxes(*((x + n * (side + gap), y, side, side, kind) for n, kind in enumerate(kinds)))


PICTURES = {
    "wall": _boxes(
        *(
            (8 + 13 * c, 2 + 11.5 * r, 11, 9.5, "f" if (c, r) == (1, 1) else "s")
            for r in range(3)
            for c in range(3)
        )
    ),
    "seeds": '<circle cx="14" cy="11" r="3" class="f"/><circle cx="27" cy="24" r="3" class="f"/>'
    '<circle cx="40" cy="11" r="3" class="f"/><path d="M14 16v6M27 29v5M40 16v6" class="s"/>',
    "first": _row(13, "fsss"),
    "strength": '<path d="M8 30A34 34 0 0 1 42 6" class="s"/><path d="M8 30L40 30M8 30L34 12"/>'
    '<circle cx="34" cy="12" r="3.2" class="f"/>',
    "tracks": _row(3, "ffoo", 3, 9) + _boxes((3, 17, 22, 5, "f"), (29, 17, 22, 5, "s"), (3, 27, 48, 5, "s")),
    "steps": '<path d="M5 31h9v-8h9v-8h9V7h16"/>',
    "endless": '<path d="M27 18c-5-7-9-10-14-10a10 10 0 0 0 0 20c5 0 9-3 14-10s9-10 14-10a10 10 0 0 1 0 20'
    'c-5 0-9-3-14-10"/>',
    "units": _row(13, "fffs"),
    "drift": '<path d="M4 18h46" class="s"/><path d="M4 18c12 0 16-1 22-5s14-7 24-7"/>',
    "tree": _row(4, "ffoo", 3, 9) + '<path d="M24 13v13h5"/>' + _row(22, "oo", 29, 9),
    "paused": '<circle cx="27" cy="18" r="13"/><path d="M23 12v12M31 12v12"/>',
    "pause-stage": _boxes((22, 3, 10, 8, "f"), (16, 14, 22, 8, "f"), (8, 25, 38, 8, "s")),
    "pause-unit": _row(13, "ffss"),
    "words": '<path d="M5 8h26M5 16h18"/><path d="M5 27h20" class="s"/><path d="M38 10l9 9-9 9" class="s"/>',
    "ease": '<path d="M4 29C20 29 30 7 50 7"/><path d="M4 7h10M40 29h10" class="s"/>',
    "guidance": '<path d="M5 28L48 10"/><path d="M5 28q18 2 30-4t13-14" class="s"/>'
    '<circle cx="48" cy="10" r="3" class="f"/>',
    "length": '<path d="M4 18h46M4 12v12M50 12v12"/><path d="M35 12v12" class="s"/>',
    "explore": _boxes((3, 12, 12, 12, "f"), (21, 3, 12, 12, "s"), (21, 21, 12, 12, "s"), (39, 3, 12, 12, "s"))
    + '<path d="M15 18h4M33 9h4M33 27h10" class="s"/>',
}


def art(name: str) -> str:
    """A picture, which says nothing to who listens: the words beside it do."""
    return f'<svg class="art" viewBox="0 0 54 36" aria-hidden="true">{PICTURES[name]}</svg>'


def about(name: str, words: str) -> str:
    """What a tool is for, at its top."""
    return f'<p class="about">{art(name)}<span>{words}</span></p>'


def control(name: str, title: str, words: str, field: str, *, wide: bool = False) -> str:
    """A field with its picture and one sentence; `field` is HTML of our own."""
    return (
        f'<label class="control{" wide" * wide}">{art(name)}<span class="what"><b>{escape(title)}</b>'
        f'{escape(words)}</span><span class="field">{field}</span></label>'
    )


def choice(name: str, choices: Mapping[str, str], chosen: str = "") -> str:
    """A list of {value: words}."""
    options = "".join(
        f'<option value="{escape(value, quote=True)}"{" selected" * (value == chosen)}>'
        f"{escape(words)}</option>"
        for value, words in choices.items()
    )
    return f'<select name="{name}">{options}</select>'


def slider(name: str, low: float, high: float, step: float, value: float) -> str:
    """A range with its value beside it."""
    return (
        f'<input type="range" name="{name}" min="{low:g}" max="{high:g}" step="{step:g}" value="{value:g}">'
        f"<output>{value:g}</output>"
    )


def number(name: str, value: object = "", *, low: float = 0, step: float = 1, hint: str = "") -> str:
    """A number, which may be left empty."""
    shown = "" if value is None else escape(str(value), quote=True)
    return (
        f'<input type="number" name="{name}" min="{low:g}" step="{step:g}" value="{shown}" '
        f'placeholder="{escape(hint, quote=True)}" inputmode="decimal">'
    )


def text(name: str, value: str = "", *, hint: str = "", most: int = 2000) -> str:
    """A line of text."""
    return (
        f'<input type="text" name="{name}" maxlength="{most}" value="{escape(value, quote=True)}" '
        f'placeholder="{escape(hint, quote=True)}">'
    )
