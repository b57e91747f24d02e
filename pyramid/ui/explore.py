"""Explore: a wall of drafts on the page. Many seeds at the coarsest stage, of which some become clips.

explore = build_explore(app)                      # inside gr.Blocks
explore.wire(page, visitor, pulse, left)           # `left`: the form with all around it

The wall is a job like any other (`pyramid.jobs.directing`): it waits its turn, is the owner's alone, and is
still there after a restart.
"""

from html import escape
from typing import Any

import gradio as gr

from pyramid.jobs.directing import explore, refine, vary
from pyramid.jobs.drafting import draft_picture, draft_settings
from pyramid.jobs.queue import Job, State
from pyramid.settings import Settings
from pyramid.ui import AS_SENT, QUIET, App, follow
from pyramid.ui.addresses import address_of_export
from pyramid.ui.art import about, choice, control, slider
from pyramid.ui.asked import LOOK, Asking, asked_of, number_of
from pyramid.ui.errors import problem, shown_error
from pyramid.ui.live import ratio
from pyramid.ui.markup import html, say

KEPT = 20  # walls that can be looked at again
CONTROLS = (
    about(
        "wall",
        "Look before you pay: many seeds at the coarsest stage, in about the time of one clip. Click the one "
        "you like, and it goes on from there.",
    )
    + '<form class="tool">'
    + control(
        "seeds",
        "Seeds",
        "How many beginnings stand side by side.",
        choice("count", {"9": "9 seeds", "16": "16 seeds"}),
    )
    + control(
        "first",
        "What is drafted",
        "The first frame is nearly the clip's own; whole clips move, coarsely, in colors that may be wrong.",
        choice("units", {"first": "The first frame", "all": "The whole clip"}),
    )
    + '<div class="buttons wide"><button type="button" class="first" data-act="explore">Explore</button>'
    + "</div></form>"
)


class Explore:
    """The controls, and the wall that was made last or is looked at."""

    controls: gr.HTML
    verdict: gr.HTML
    wall: gr.HTML
    shown: gr.State  # the id of the wall that is looked at; "": the latest
    left: Asking

    def __init__(self, app: App):
        self.app = app

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, pulse: gr.Textbox, left: Asking) -> None:
        self.left = left
        form = left.form
        self.controls.click(
            self.explore,
            [visitor, *form.components, *form.extras],
            [self.verdict, self.shown, self.wall],
            **AS_SENT,
        )
        state = [visitor, self.shown]
        self.wall.click(self.act_on_wall, state, [self.shown, self.wall], **QUIET)
        follow([page.load, visitor.change, pulse.change], self.look, state, self.wall)

    # -- what buttons do

    def explore(self, token: str | None, request: gr.Request, event: gr.EventData, *values) -> list:
        """A wall of what the form asks for; what is wrong with that is said under the button."""
        left = self.left
        asked = asked_of(event)
        fields, extras = left.split(values)
        try:
            output, _, _ = left.form.output(*extras)
            given = left.given(*fields)
            settings = left.form.read(*fields)
            owner = left.owner(request, token)
            count = number_of(asked, "count", int) or 0
            with self.app.working(request), self.app.adding(request, owner):
                whole = asked.get("units") == "all"
                options: dict[str, Any] = {"owner": owner, "count": count, "whole": whole, "output": output}
                explore(self.app.store, settings, **options | given)
        except Exception as error:
            return [problem(self.app, error), gr.skip(), gr.skip()]
        return ["", "", self.wall_html(owner, "")]

    def act_on_wall(self, token: str | None, shown: str, request: gr.Request, event: gr.EventData) -> list:
        """Of the wall: make a draft's clip, vary it, show another wall, delete this one."""
        owner = self.app.owner(request, token)
        job_id = str(event.job)
        try:
            match event.act:
                case "refine" | "vary":
                    with self.app.working(request), self.app.adding(request, owner):
                        self.go_on(event, owner)
                    shown = "" if event.act == "vary" else shown
                case "show":
                    shown = job_id
                case "delete":
                    self.app.store.delete(job_id, owner)
                    self.app.worker.forget(job_id)
                    shown = ""
        except Exception as error:
            raise shown_error(self.app, error, "Explore") from error
        return [shown, self.wall_html(owner, shown)]

    def go_on(self, event: gr.EventData, owner: str) -> None:
        store = self.app.store
        job_id = str(event.job)
        index = int(event.index)
        if event.act == "refine":
            clip = refine(store, job_id, owner, index)
            say(
                f"Seed {clip.settings.seed} goes on from its draft when its turn comes.", "Added to the queue"
            )
            return
        strength = number_of(asked_of(event), "strength", float)
        vary(store, job_id, owner, index, strength=0.3 if strength is None else strength)

    # -- what is shown

    def look(self, token: str | None, shown: str, request: gr.Request) -> str:
        return self.wall_html(self.app.owner(request, token), shown or "")

    def wall_html(self, owner: str, shown: str) -> str:
        """The wall with that id, or the latest; what is on its way before it."""
        store = self.app.store
        coming = [job for job in store.queue(owner) if job.kind == "drafts"]
        walls = store.history(owner, limit=KEPT, drafts=True)
        walls = [job for job in walls if job.state is State.DONE or job.error]
        at = next((n for n, job in enumerate(walls) if job.id == shown), 0)
        words = f"{_many(coming[0])} on the way …" if coming else ""
        waiting = f'<p class="note" role="status">{words}</p>' if words else ""
        return waiting + (self.one(walls, at) if walls else "")

    def one(self, walls: list[Job], at: int) -> str:
        wall = walls[at]
        if wall.state is not State.DONE:
            inside = f'<p class="problem">{escape(self.app.shown(wall.error))}</p>'
        else:
            inside = self.tiles(wall)
        others = ""
        if len(walls) > 1:
            turn = '<button type="button" data-act="show" data-job="{}" aria-label="{}"{}>{}</button>'
            off = " disabled"
            newer = walls[max(at - 1, 0)]
            older = walls[min(at + 1, len(walls) - 1)]
            others = (
                turn.format(newer.id, "The wall after this one", off * (at == 0), "‹")
                + f'<span class="note">{at + 1} of {len(walls)}</span>'
                + turn.format(older.id, "The wall before this one", off * (at + 1 == len(walls)), "›")
            )
        what = "whole clips, coarsely" if wall.directed.whole else "first frames, at a glance"
        notes = "".join(f'<p class="note">{escape(self.app.shown(note))}</p>' for note in wall.notes)
        return (
            f"<header><h3>{escape(wall.settings.prompt)}<span>{_many(wall)} · {what}</span></h3>{others}"
            f'<button type="button" data-act="delete" data-job="{wall.id}">Delete</button></header>'
            f"{inside}{notes}"
        )

    def tiles(self, wall: Job) -> str:
        made = {seeds_of(clip.settings) for clip in self.app.store.made_of(wall)}
        figures = "".join(
            self.tile(wall, index, seeds_of(settings), seeds_of(settings) in made)
            for index, settings in enumerate(draft_settings(wall))
        )
        strength = control(
            "strength",
            "Strength of variations",
            "How far “Vary” turns a seed's noise: 0 is itself, 1 is unrelated.",
            slider("strength", 0.05, 1, 0.05, wall.settings.variation_strength),
        )
        many = " sixteen" if len(draft_settings(wall)) > 9 else ""
        return (
            f'<form style="{ratio(wall.settings)}"><div class="wall{many}">{figures}</div>'
            f'<div class="tool" style="margin-top: 12px">{strength}</div></form>'
        )

    def tile(self, wall: Job, index: int, seeds: tuple[int | None, int | None], made: bool) -> str:
        """A draft: a click makes its clip; one that was made is marked."""
        seed, second = seeds
        picture = draft_picture(self.app.store, wall, index)
        source = escape(address_of_export(wall, picture), quote=True)
        words = str(seed) if second is None else f"{seed} + {second}"
        at = f'data-job="{wall.id}" data-index="{index}"'
        return (
            f'<figure class="{"made" * made}"><button type="button" class="look" data-act="refine" {at} '
            f'aria-label="Make seed {words}"><img src="{source}" alt="" loading="lazy">'
            f"<span>{'Make it again' if made else 'Make this one'}</span></button>"
            f'<figcaption><span title="Seed {words}">{words}</span>'
            f'<button type="button" data-act="vary" {at} aria-label="Variations of seed {words}">'
            "Vary</button></figcaption></figure>"
        )


def seeds_of(settings: Settings) -> tuple[int | None, int | None]:
    """What tells a draft from the others of its wall."""
    return settings.seed, settings.variation_seed


def _many(wall: Job) -> str:
    """How many drafts of what."""
    directed = wall.directed
    if directed.seeds:
        return f"{len(directed.seeds)} seeds"
    strength = wall.settings.variation_strength
    return f"{len(directed.variations)} variations of seed {wall.settings.seed}, strength {strength:g}"


def build_explore(app: App) -> Explore:
    part = Explore(app)
    part.controls = gr.HTML(CONTROLS, elem_id="explore", **LOOK)
    part.verdict = html("", elem_id="explore-verdict")
    part.wall = gr.HTML("", elem_id="wall", **LOOK)
    part.shown = gr.State("")
    return part
