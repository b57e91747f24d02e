"""Endless: a clip that goes on until it is stopped, and hears new words while it is made.

going = build_endless(app)                        # inside gr.Blocks
going.wire(page, visitor, news, left)

It streams into the large screen (`pyramid.ui.live`), and into a file as every clip does.
"""

from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from pyramid.jobs.directing import endless
from pyramid.jobs.queue import Job, State
from pyramid.media.measure import Drift
from pyramid.settings import frames_of, seconds_of, units_of
from pyramid.ui import AS_SENT, QUIET, App, follow
from pyramid.ui.art import about, art, choice, control, number, slider, text
from pyramid.ui.asked import LOOK, Asking, asked_of, number_of
from pyramid.ui.errors import problem, shown_error
from pyramid.ui.markup import html, say

MOST = 100  # units, unless another number is given
FULL = (64.0, 1.0, 1.0)  # where the drift's bars are full: levels, shares
INTRO = about(
    "endless",
    "A clip that goes on, eight frames at a time, until you press Stop. New words act on the next unit.",
)


class Endless:
    """What it begins with, what it is told while it runs, and how far it has drifted."""

    start: gr.HTML
    verdict: gr.HTML
    going: gr.HTML
    meter: gr.HTML
    left: Asking

    def __init__(self, app: App):
        self.app = app

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, news: gr.Textbox, left: Asking) -> None:
        self.left = left
        form = left.form
        asked = [visitor, *form.components, *form.extras]
        self.start.click(self.begin, asked, self.verdict, **AS_SENT)
        self.going.click(self.tell, visitor, self.meter, **QUIET)
        follow([page.load, visitor.change, news.change], self.look, visitor, self.meter)

    def begin(self, token: str | None, request: gr.Request, event: gr.EventData, *values) -> str:
        """Put a clip without an end into the queue; what is wrong is said under the button."""
        app = self.app
        left = self.left
        fields, extras = left.split(values)
        try:
            asked = asked_of(event)
            output, _, _ = left.form.output(*extras)
            settings = replace(left.form.read(*fields), drift_correction=asked.get("correction", "none"))
            owner = left.owner(request, token)
            units = number_of(asked, "units", int) or most_units(app)
            trained = app.worker.checkpoint.defaults.units
            options: dict[str, Any] = {"owner": owner, "units": units, "trained": trained, "output": output}
            with app.working(request), app.adding(request, owner):
                endless(app.store, settings, **options | left.given(*fields))
        except Exception as error:
            return problem(app, error)
        return ""

    def tell(self, token: str | None, request: gr.Request, event: gr.EventData) -> str:
        """Other words for the clip that runs."""
        app = self.app
        owner = self.app.owner(request, token)
        try:
            asked = asked_of(event)
            words = asked.get("prompt", "").strip()
            job = self.running(owner)
            if job is None:
                raise ValueError("No clip without an end is being made: begin one.")
            app.worker.tell(job.id, words, number_of(asked, "ease", int) or 1, owner=owner)
        except Exception as error:
            raise shown_error(app, error, "Endless") from error
        say(f"From the next unit on: {words}", "Told")
        return self.meter_html(owner)

    def running(self, owner: str) -> Job | None:
        """The owner's clip without an end that is being made."""
        jobs = self.app.store.queue(owner)
        return next((job for job in jobs if job.kind == "endless" and job.state is State.RUNNING), None)

    def look(self, token: str | None, request: gr.Request) -> str:
        return self.meter_html(self.app.owner(request, token))

    def meter_html(self, owner: str) -> str:
        """How long the running clip is, and how far it has drifted from its first units."""
        job = self.running(owner) if owner else None
        drift = self.app.worker.drift_of(job.id) if job else None
        if job is None or drift is None:
            return '<p class="note">Nothing is going on. How far a clip drifts is shown here.</p>'
        done = job.units_done
        seconds = seconds_of(frames_of(max(1, done)), job.settings.fps)
        heard = "".join(
            f"<li>unit {cue.start + 1}: {escape(cue.prompt)}</li>" for cue in job.settings.cues if cue.prompt
        )
        return (
            f'<p class="note" role="status"><b>{done} unit{"s" * (done != 1)}, {seconds:g} s so far.</b> '
            f"{escape(job.settings.prompt)}</p>{drift_html(drift)}"
            + (f'<ul class="note">{heard}</ul>' if heard else "")
        )


def most_units(app: App) -> int:
    """Units where no number is given, within what a visitor may ask for."""
    limit = app.limits.max_seconds
    fps = app.worker.start_from.fps
    return MOST if limit is None else max(2, min(MOST, units_of(1 + int(limit * fps) // 8 * 8)))


def drift_html(drift: Drift) -> str:
    """Three bars: color, contrast and sharpness against the first moving units."""
    if not drift.looks:
        return '<p class="note">Nothing moves yet.</p>'
    found = drift.at(len(drift.looks) - 1)
    words = f"{found[0]:.1f} levels", f"{found[1]:+.0%}", f"{found[2]:+.0%}"
    bars = "".join(
        f'<dt>{name}</dt><dd><span class="bar"><b style="width: {min(1.0, abs(value) / full):.0%}"></b>'
        f"</span>{said}</dd>"
        for name, value, full, said in zip(
            ("Color", "Contrast", "Sharpness"), found, FULL, words, strict=True
        )
    )
    return f'<div class="about">{art("drift")}<dl class="drift" aria-label="Drift">{bars}</dl></div>'


def start_html() -> str:
    return (
        INTRO
        + '<form class="tool">'
        + control(
            "units",
            "At most, units",
            f"Where it ends by itself; left empty, after {MOST} units or what is allowed here.",
            number("units", "", low=2, hint=str(MOST)),
        )
        + control(
            "drift",
            "Drift correction",
            "Off leaves the clip as it is made; statistics hold color and contrast at those of unit 2.",
            choice("correction", {"none": "Off", "statistics": "Statistics"}),
        )
        + '<div class="buttons wide"><button type="button" class="first" data-act="begin">Begin</button>'
        "</div></form>"
    )


def going_html() -> str:
    return (
        '<form class="tool">'
        + control(
            "words",
            "Other words",
            "What happens from the next unit on.",
            text("prompt", hint="it grows"),
            wide=True,
        )
        + control("ease", "Over so many units", "How slowly the new words come.", slider("ease", 1, 8, 1, 1))
        + '<div class="buttons wide"><button type="button" data-act="tell">Tell it</button></div></form>'
    )


def build_endless(app: App) -> Endless:
    part = Endless(app)
    part.start = gr.HTML(start_html(), elem_id="endless", **LOOK)
    part.verdict = html("", elem_id="endless-verdict")
    part.meter = gr.HTML("", elem_id="drift", **LOOK)
    part.going = gr.HTML(going_html(), elem_id="tell", **LOOK)
    return part
