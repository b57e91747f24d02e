"""The timeline: what is told to the clip of the form from which unit on, as tracks over its units.

line = build_line(app)                            # inside gr.Blocks
line.wire(page, form)                              # it reads and writes the form's field `timeline`

A click on a unit opens what is set there. The field holds the same as text, as does a file for `--timeline`.
"""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from pyramid.settings import Settings, SettingsError, check_value, is_whole
from pyramid.timeline import LONGEST_EASE, Cue, UnitPlan, read_timeline, write_timeline
from pyramid.ui import AS_SENT, App, follow
from pyramid.ui.art import about, control, number, slider, text
from pyramid.ui.asked import LOOK, asked_of, number_of, numbers_of
from pyramid.ui.errors import shown_error, shown_words
from pyramid.ui.form import Form

INTRO = about(
    "tracks",
    "Change what is told from any unit on: words, guidance, steps and seed, at once or eased over several. "
    "Generate makes it.",
)
TRACKS = {"prompt": "Words", "guidance": "Guidance", "steps": "Steps", "seed": "Seed"}
MOTION = (
    '<p class="note">Unit 1 is the first frame: its seed composes the picture. A seed at unit 2 draws the '
    "motion anew and keeps the picture.</p>"
)
MOST_SHOWN = 64  # units that are drawn


class Line:
    """The tracks, and what is set at one unit."""

    tracks: gr.HTML
    editor: gr.HTML
    unit: gr.State  # that is opened; -1: none
    form: Form

    def __init__(self, app: App):
        self.app = app

    def wire(self, page: gr.Blocks, form: Form) -> None:
        self.form = form
        fields = [form.fields[name] for name in ("timeline", "seconds", "fps", "mode", "prompt", "stages")]
        values = form.components
        field = form.fields["timeline"]
        outputs = [self.unit, self.tracks, self.editor]
        self.tracks.click(self.open, [self.unit, *values], outputs, **AS_SENT)
        self.editor.click(self.put, [self.unit, *values], [field, *outputs], **AS_SENT)
        events = [page.load, *(each.change for each in fields)]
        follow(events, self.look, [self.unit, *values], self.tracks, preprocess=False)

    # -- what buttons do

    def open(self, unit: int, event: gr.EventData, *values) -> list:
        """Another unit is opened, or none."""
        unit = -1 if event.act == "close" else int(event.index)
        return [unit, self.look(unit, *values), self.editor_html(unit, *values)]

    def put(self, unit: int, event: gr.EventData, *values) -> list:
        """What the editor says of its unit, into the field."""
        try:
            cues = read_timeline(self.form.values(*values)["timeline"])
            kept = [cue for cue in cues if cue.start != unit]
            if event.act == "put":
                cue = cue_of(asked_of(event), unit)
                kept += [cue] if cue.says else []
            new = cues if event.act == "close" else sorted(kept, key=lambda cue: cue.start)
            told = str(check_value("timeline", write_timeline(new)))
        except Exception as error:
            raise shown_error(self.app, error, "Timeline") from error
        v = self.form.values(*values) | {"timeline": told}
        return [told, -1, self.look(-1, *v.values()), ""]

    # -- what is shown

    def look(self, unit: int, *values) -> str:
        unit = unit if is_whole(unit) else 0
        try:
            settings = self.form.basis(*values)
            settings.check_shape()
        except SettingsError as error:
            return f'{INTRO}<p class="problem">{escape(shown_words(self.app, error))}</p>'
        if settings.num_frames == 1:
            return f'{INTRO}<p class="note">A still has no timeline.</p>'
        return INTRO + tracks_html(settings, unit)

    def editor_html(self, unit: int, *values) -> str:
        """The fields of a unit, with what is set there."""
        if unit < 0:
            return ""
        try:
            settings = self.form.basis(*values)
            plan = settings.plan_of(unit)
        except SettingsError:
            return ""
        cue = next((cue for cue in settings.cues if cue.start == unit), Cue(unit))
        return editor_html(settings, cue, [words for words, _ in plan.words if words])


def cue_of(asked: dict[str, str], unit: int) -> Cue:
    """The table that the editor's fields say. SettingsError for what is no number."""
    words = asked.get("prompt", "").strip() or None
    guidance = numbers_of(asked, "guidance", float)
    steps = numbers_of(asked, "steps", int)
    ease = number_of(asked, "ease", int) if words or guidance else 1
    return Cue(unit, words, guidance, steps, number_of(asked, "seed", int), ease or 1)


def tracks_html(settings: Settings, unit: int) -> str:
    """The units as blocks, and under them a track for each thing that can be told."""
    units = min(settings.units, MOST_SHOWN)
    cues = settings.cues
    blocks = "".join(
        f'<button type="button" class="u{" chosen" * (n == unit)}" data-act="open" data-index="{n}" '
        f'aria-label="Unit {n + 1}: what is told here">{n + 1}'
        f"<small>{beginning(n, settings.fps)}</small></button>"
        for n in range(units)
    )
    own: dict[str, Any] = {
        "prompt": settings.prompt or "the prompt",
        "guidance": "as set",
        "steps": "as set",
        "seed": "the seed" if settings.seed is None else settings.seed,
    }
    lines = "".join(
        f'<p class="name">{title}</p><div class="units track">{segments(cues, name, own[name], units)}</div>'
        for name, title in TRACKS.items()
        if name == "prompt" or any(getattr(cue, name) not in (None, ()) for cue in cues)
    )
    hidden = settings.units - units
    more = f'<p class="note">{hidden} more units are not drawn.</p>' if hidden else ""
    return (
        f'<div class="tracks" style="--columns: {units}"><p class="name">Units</p>'
        f'<div class="units">{blocks}</div>{lines}</div>{more}{MOTION}{file_html(cues)}'
    )


def beginning(unit: int, fps: int) -> str:
    """When a unit begins, for people: the first one is a single frame."""
    return f"{8 * (unit - 1) / fps:.3g} s" if unit else "start"


def segments(cues: Sequence[Cue], name: str, own: Any, units: int) -> str:
    """One track: from each change to the next, with a ramp where it comes over several units."""
    changes = [(0, own, 1)]
    for cue in cues:
        value = getattr(cue, name)
        if value in (None, ()) or cue.start >= units:
            continue
        ease = cue.ease if name in ("prompt", "guidance") else 1
        said = ", ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else value
        changes = [change for change in changes if change[0] != cue.start] + [(cue.start, said, ease)]
    found = []
    for (start, said, ease), after in zip(changes, [*changes[1:], (units, "", 1)], strict=True):
        width = after[0] - start
        ramp = min(1.0, ease / width) if ease > 1 else 0
        kind = "own" if start == 0 and said == own else "new"
        found.append(
            f'<span class="{kind}" style="grid-column: {start + 1} / span {width}; --ramp: {ramp:.0%}" '
            f'title="{escape(str(said), quote=True)}">{escape(str(said))}</span>'
        )
    return "".join(found)


def editor_html(settings: Settings, cue: Cue, words: list[str]) -> str:
    """What is set at one unit; what is left empty goes on as before."""
    unit = cue.start
    seed = "Composes the picture" if unit == 0 else "Draws the motion from here on"
    guidance, steps = hints(settings.plan_of(unit))
    return (
        f'<form class="tool editor"><header class="wide"><h3>From unit {unit + 1} on'
        "<span>What is left empty goes on as before.</span></h3></header>"
        + control(
            "words",
            "Words",
            "What is to be seen from here on.",
            text("prompt", cue.prompt or "", hint=words[-1] if words else settings.prompt),
            wide=True,
        )
        + control(
            "ease",
            "Over so many units",
            "Words and guidance are crossfaded, slowly at both ends.",
            slider("ease", 1, min(LONGEST_EASE, 8), 1, cue.ease),
        )
        + control(
            "guidance",
            "Guidance",
            "How closely the words are followed: one number, or one a stage.",
            text("guidance", joined(cue.guidance), hint=guidance),
        )
        + control(
            "steps",
            "Steps",
            "How often it is refined: one number, or one a stage.",
            text("steps", joined(cue.steps), hint=steps),
        )
        + control("seeds", "Seed", f"{seed}.", number("seed", cue.seed, hint="as before"))
        + '<div class="buttons wide"><button type="button" class="first" data-act="put">Set</button>'
        + '<button type="button" data-act="drop">Remove</button>' * cue.says
        + '<button type="button" data-act="close">Cancel</button></div></form>'
    )


def hints(plan: UnitPlan) -> list[str]:
    """The guidance and the steps of a unit in short: one number where all stages have the same."""
    return [joined(tuple(dict.fromkeys(values))) for values in (plan.guidance, plan.steps)]


def joined(values: tuple) -> str:
    return ", ".join(f"{value:g}" for value in values)


def file_html(cues: Sequence[Cue]) -> str:
    """The same as a file for the command line."""
    if not cues:
        return ""
    told = "\n\n".join(toml_of(cue) for cue in cues)
    return (
        "<details><summary>As a file for the command line: generate --timeline clip.toml</summary>"
        f"<pre>{escape(told)}</pre></details>"
    )


def toml_of(cue: Cue) -> str:
    """A table as TOML, in which JSON's texts, numbers and lists are what they are."""
    rows = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in cue.table().items()]
    return "\n".join(["[[unit]]", *rows])


def build_line(app: App) -> Line:
    part = Line(app)
    part.tracks = gr.HTML(INTRO, elem_id="tracks", **LOOK)
    part.editor = gr.HTML("", elem_id="cue", **LOOK)
    part.unit = gr.State(-1)
    return part
