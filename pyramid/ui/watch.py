"""Keeping open pages up to date with the store and the worker.

    watcher = Watcher(app, live, queue)
    gr.on([page.load, timer.tick], watcher.watch, visitor, watcher.outputs(...), postprocess=False)

One generator for each open page. It may be cut at any time without harm: jobs are the server's, and the
page's timer begins it anew.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import gradio as gr

from pyramid.jobs.queue import JobStore
from pyramid.jobs.run import Live
from pyramid.ui import App
from pyramid.ui.live import GLYPH, LivePart
from pyramid.ui.queue import Queue

PAGE_EVERY = 0.25  # seconds between two updates of a page: more often costs bandwidth and shows no more
IDLE_EVERY = 0.1  # seconds between two looks for what has begun
FIRST_EVERY = 0.04  # and for its first picture
WORDS_EVERY = 0.5  # seconds between two sentences before that: a browser is busy with each for a tenth of one
LOOKS = 60  # a second, over all open pages, where a look mostly shows nothing new
UPDATES = 6  # a second, over all open pages: many who watch see a job less often, and do not slow it
BESIDE = 6  # words that `Watcher.beside` gives
HALF_MOON = (
    '<svg viewBox="0 0 16 16" aria-hidden="true">'
    '<path d="M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.8v10.4a5.2 5.2 0 0 1 0-10.4z"/></svg>'
)


@dataclass(frozen=True)
class Moment:
    """What decides how a page looks. A run is another `Live` at each step."""

    version: int  # of the store
    loaded: bool  # whether the model is
    runs: tuple[Live, ...]

    @property
    def busy(self) -> bool:
        return any(run.busy for run in self.runs)

    @property
    def begins(self) -> bool:
        """Whether there is nothing to be seen yet of a run at work."""
        return any(run.busy and not run.estimates and not run.frames for run in self.runs)

    def same_lists(self, other: "Moment") -> bool:
        """Whether everything beside the run is as it was."""
        return (self.version, self.loaded) == (other.version, other.loaded)


@dataclass(frozen=True)
class Drawn:
    """What an owner's pages show, of which moment it is, and when it was drawn (time.monotonic)."""

    moment: Moment
    parts: list[str] = field(repr=False)
    at: float = 0.0

    def holds(self, now: Moment) -> bool:
        """Whether it can be shown again: for a while, where a run is busy; else until something changes."""
        if not self.moment.same_lists(now):
            return False
        if now.busy:
            every = FIRST_EVERY if self.moment.begins else PAGE_EVERY
            return time.monotonic() - self.at < every / 2
        return self.moment.runs == now.runs


class Watcher:
    """Yields what is shown, when it changed, while a page is open: every PAGE_EVERY seconds at most, and
    sooner until there is a first picture.

    Each part is a word, and all are yielded each time: Gradio sends only those that are others than the last
    time. For a `gr.update` or `gr.skip` it would make the part anew, in Python, for every page: that slows a
    job that is watched.
    """

    def __init__(self, app: App, live: LivePart, queue: Queue):
        self.app = app
        self.live = live
        self.queue = queue
        self.ended = Ended(app.store)
        self.pages: dict[object, str] = {}  # that are open, and whose they are
        self.drawn: dict[str, Drawn] = {}  # by owner, while one has a page: all of them share a drawing

    async def watch(self, token: str | None, request: gr.Request) -> AsyncIterator[list]:
        owner = self.app.owner(request, token)
        if not owner:  # the browser's token is still on its way: the timer asks again
            yield [gr.skip()] * (len(self.live.outputs) + BESIDE)
            return
        page = object()
        self.pages[page] = owner
        try:
            async for update in self.updates(owner):
                yield update
        finally:
            del self.pages[page]
            if owner not in self.pages.values():
                self.drawn.pop(owner, None)

    async def updates(self, owner: str) -> AsyncIterator[list]:
        before: Moment | None = None
        shown: list[str] = []
        sent: list[str] | None = None
        begun = -WORDS_EVERY  # when it was last told that something has begun (time.monotonic)
        while True:
            # What the store says is read again when it changed; a run shows something new at any time.
            now = self.moment()
            if now != before or now.busy:
                shown = self.parts(owner, now)
                before = now
            awaited = now.begins and time.monotonic() - begun < WORDS_EVERY
            if shown != sent and not awaited:
                yield list(shown)
                sent = shown
                begun = time.monotonic() if now.begins else -WORDS_EVERY
            every = self.every(now)
            # All pages wake together, so that one drawing does for all.
            await asyncio.sleep(every - time.monotonic() % every)

    def every(self, now: Moment) -> float:
        """Seconds until the next look: what has begun is to be seen at once, what goes on can wait."""
        if now.begins:
            return max(FIRST_EVERY, len(self.pages) / LOOKS)
        if now.busy:
            return max(PAGE_EVERY, len(self.pages) / UPDATES)
        return max(IDLE_EVERY, len(self.pages) / LOOKS)

    def moment(self) -> Moment:
        worker = self.app.worker
        return Moment(self.app.store.version, worker.loaded.is_set(), worker.lives)

    def parts(self, owner: str, now: Moment) -> list[str]:
        """What an owner's pages show: drawn once for all of them."""
        last = self.drawn.get(owner)
        if last and last.holds(now):
            return last.parts
        if last and last.moment.same_lists(now):
            beside = last.parts[len(self.live.outputs) :]
        else:
            beside = self.beside(owner)
        parts = [*self.live.show(owner), *beside]
        self.drawn[owner] = Drawn(now, parts, time.monotonic())
        return parts

    def beside(self, owner: str) -> list[str]:
        """What a run does not change: the queue, the button, the head, and words that tell of changes."""
        worker = self.app.worker
        start = worker.start_from
        open_jobs = self.app.store.queue(owner) if owner else []
        ended = self.ended.key(owner)
        further = [(job.id, job.state, job.units_done) for job in open_jobs]
        model = hash((start.model, start.variant))  # the model may be a folder, which is not shown
        loaded = f"{worker.loaded.is_set()} {worker.memory} {start.quantize} {model} {worker.error}"
        return [
            self.queue.rows(owner, self.live.shown_id(owner)),
            "Add to queue" if open_jobs else "Generate",
            head_words(self.app),
            f"{ended} {loaded}",
            worker.checkpoint.identity,
            f"{ended} {hash(tuple(further))}",
        ]


def head_words(app: App) -> str:
    """The program's mark, the model that is loaded, and light or dark."""
    start = app.worker.start_from
    if app.worker.error:
        kind, state = "bad", "unavailable"
    elif app.worker.loaded.is_set():
        kind, state = "good", "ready"
    else:
        kind, state = "busy", "loading …"
    name = f"{Path(start.model).name} {start.variant}"
    return (
        f'<header><h1 id="mark">{GLYPH}Pyramid</h1>'
        f'<button type="button" id="model" class="{kind}" aria-controls="models" title="Models">'
        f"<i></i>{escape(name)} · {state}</button>"
        f'<button type="button" id="theme" aria-label="Light or dark">{HALF_MOON}</button></header>'
    )


class Ended:
    """A word that is another one whenever an owner's ended jobs are others; read once for each version of
    the store.
    """

    def __init__(self, store: JobStore):
        self.store = store
        self.version = -1
        self.keys: dict[str, str] = {}

    def key(self, owner: str) -> str:
        if self.version != self.store.version:
            self.version = self.store.version
            self.keys = {}
        if owner not in self.keys:
            ended = self.store.history(owner, limit=50) if owner else []
            ended += self.store.history(owner, limit=20, drafts=True) if owner else []
            self.keys[owner] = str(
                hash(tuple((job.id, job.state, job.ended, job.favourite) for job in ended))
            )
        return self.keys[owner]
