"""The page: what to make on the left, the making of it in the middle, the results beside it.

    app = App(store, worker, folder)                 # one for the whole server
    page.build(app).launch()                         # app.py adds the flags, the limits and who may come in

`pyramid.ui` is the only package that imports gradio, and only `app.py` imports it. A part of the page is a
function that is called inside `gr.Blocks`: `build_form`, `build_live`, `build_queue`, `build_results`, … Work
never happens in a handler: a handler writes to the store or to the worker, and every page watches those two.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyramid.jobs.queue import JobStore, Limits
from pyramid.ui.visitors import EACH, MOST, Visitors, visitor_of

if TYPE_CHECKING:
    import gradio as gr

    from pyramid.jobs.worker import Worker
    from pyramid.study.kept import Study

__all__ = ["AS_SENT", "LATEST", "QUIET", "App", "Limits", "follow"]

QUIET = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
"""For every event of the page: no endpoint of the API, no spinner over a part,
and nobody waits for another.
"""
LATEST = {**QUIET, "trigger_mode": "always_last"}
"""For what shows how things are: of many events that come at once, the last is seen to. See `follow`."""
AS_SENT = {**QUIET, "preprocess": False}
"""For an event that takes the form's fields, see `Form.values`. Gradio's own checks would refuse a number
beyond its slider, or a picture that it cannot open, before the form can say which field is wrong.
"""


def follow(events: list, *call, **options) -> None:
    """Call a function (with its inputs and outputs) whenever one of `events` comes, as `LATEST` says.

    In two steps: where Gradio has seen to one of several events, it begins all that hangs on the last of them
    anew, and two functions that hang on one keep each other at work for ever. Behind a step of its own each
    begins itself alone.
    """
    import gradio as gr

    gr.on(events, None, js="() => {}", **QUIET).then(*call, **LATEST, **options)


LONGEST_TOKEN = 128  # characters: it is kept with each job as its owner
PATH = re.compile(r"(?<![\w/])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,'\"]+[/\\])+")


@dataclass(frozen=True)
class App:
    """What all parts of the page share. `local`: served to this machine only,
    so everybody is the same owner.
    """

    store: JobStore
    worker: "Worker"
    folder: Path
    limits: Limits = field(default_factory=Limits)
    local: bool = True
    allowed_hosts: tuple[str, ...] = ()  # names of a local server beside those of every machine
    visitors: Visitors = field(default_factory=Visitors)
    study: "Study | None" = None  # that raters may come to, each by a link

    def owner(self, request: "gr.Request | None", token: str | None) -> str:
        """Whose jobs a request sees: everybody's on one machine, else those of a login or of one browser.

        `token` is the random one that the page keeps in the browser; an empty result owns nothing, and is
        that of a token that is none, or too long to be kept.
        """
        if self.local:
            return "local"
        if name := getattr(request, "username", None):
            return f"user:{name}"
        usable = isinstance(token, str) and 0 < len(token) <= LONGEST_TOKEN
        return f"visitor:{token}" if usable else ""

    @contextmanager
    def adding(self, request: "gr.Request | None", owner: str, count: int = 1) -> Iterator[None]:
        """Around what puts jobs into the queue. SettingsError where this address has too many there."""
        most = self.limits.max_queue_address
        with self.visitors.adding(self.store, address(request), owner, count, most):
            yield

    @contextmanager
    def working(self, request: "gr.Request | None") -> Iterator[None]:
        """Around what reads or writes a picture or a video. ValueError where too many are at it."""
        with self.visitors.working(address(request), each=MOST if self.local else EACH):
            yield

    def shown(self, text: str) -> str:
        """A sentence without the machine's folders, for those who are not at it."""
        return text if self.local else PATH.sub("…/", text)

    @property
    def presets_folder(self) -> Path:
        """Where "save as preset" writes: beside the results, not into the program."""
        return self.folder / "presets"


def address(request: "gr.Request | None") -> str:
    """Whom a request counts for; the guard has found out who is behind a proxy."""
    client = getattr(request, "client", None)
    return visitor_of(client.host) if client else ""
