"""What can be made of an opened clip without a model: larger and smoother, joined to another, a loop.

    finishing_html(app, job, view)                     # three forms; a look at it first, side by side
    FINISHES["finish"](app, job, view, value)          # what their buttons do

The files are listed under "Export"; the original stays as it is.
"""

import json
import threading
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from pyramid.jobs.queue import Job
from pyramid.media.finish import Finish, finish, preview
from pyramid.media.join import join_clips
from pyramid.media.loop import HOWS, loop
from pyramid.ui import App
from pyramid.ui.addresses import address_of_export
from pyramid.ui.cards import LOOK, exports_of, room_for, wrong_html
from pyramid.ui.compare import PLAYABLE
from pyramid.ui.view import View

OTHERS = 50  # results that can be joined to one
LARGER = {1: "as it is", 2: "twice as wide and high", 4: "four times"}
SMOOTHER = {1: "as they are", 2: "twice as many", 4: "four times"}
PICTURES = {  # of 40 × 16, what a form does
    "finish": '<rect x="1" y="5" width="9" height="6"/><path d="M13 8h6m-2-2l2 2-2 2"/>'
    '<rect x="22" y="2" width="17" height="12"/>',
    "join": '<rect x="1" y="4" width="15" height="8"/><rect x="17" y="4" width="15" height="8"/>'
    '<path d="M16.500 1v14"/>',
    "loop": '<path d="M8 12a5 5 0 0 1 0-9h22a5 5 0 0 1 0 9H14m3-3l-3 3 3 3"/>',
}
one_at_a_time = threading.Lock()  # an encoder takes all processors, and the model needs some too


# ------------------------------------------------------------------------------------------------------------
# As HTML


def finishing_html(app: App, job: Job, view: View) -> str:
    """The forms of a clip; nothing for a picture."""
    if job.path is None or job.path.suffix.lower() not in PLAYABLE or not job.path.is_file():
        return ""
    return _finish(app, job, view) + _join(app, job, view) + _loop(job, view)


def _form(job: Job, view: View, name: str, words: tuple[str, str], inside: str) -> str:
    """One form: `words` are its title and a sentence on what it does."""
    title, about = words
    touched = view.form == name
    picture = f'<svg viewBox="0 0 40 16" aria-hidden="true">{PICTURES[name]}</svg>'
    said = f'<p class="why" role="status">{escape(view.said)}</p>' if touched and view.said else ""
    return (
        f'<details class="finishing"{" open" if touched else ""} data-tries="{view.tries}">'
        f"<summary>{title}</summary><p>{picture}{about}</p><form>{inside}</form>"
        f"{wrong_html(view, name)}{said}</details>"
    )


def _button(job: Job, action: str, words: str) -> str:
    return f'<button type="button" data-action="{action}" data-job="{job.id}">{words}</button>'


def _choice(name: str, label: str, options: dict[Any, str], now: Any = None) -> str:
    inside = "".join(
        f'<option value="{escape(str(value), quote=True)}"{" selected" * (value == now)}>'
        f"{escape(text)}</option>"
        for value, text in options.items()
    )
    return f'<label>{label}<select name="{name}">{inside}</select></label>'


def _finish(app: App, job: Job, view: View) -> str:
    upscale, smooth = view.finish
    words = (
        "Finish: larger, smoother",
        "Lanczos enlarges, motion compensation makes frames between; neither adds what was not there.",
    )
    inside = _choice("upscale", "Size", LARGER, upscale) + _choice(
        "smooth", "Frames a second", SMOOTHER, smooth
    )
    inside += _button(job, "look", "Look at a second of it first") + _button(job, "finish", "Make the file")
    path = look_of(app, job, Finish(upscale, smooth)) if upscale * smooth > 1 else None
    if path and path.is_file() and view.form == "finish":
        source = escape(address_of_export(job, path), quote=True)
        inside += (
            f'<video class="look wide" src="{source}" autoplay loop muted playsinline controls '
            'aria-label="A second as it is on the left, finished on the right"></video>'
        )
    return _form(job, view, "finish", words, inside)


def _join(app: App, job: Job, view: View) -> str:
    others = {other.id: _title(other) for other in joinable(app, job)}
    if not others:
        return ""
    words = (
        "Join it to another clip",
        "Both become one file in this one’s size; how far the pictures jump at the seam is measured.",
    )
    inside = _choice(
        "order", "Where", {"after": "the other one follows", "before": "the other one comes first"}
    )
    inside += _choice("other", "The other clip", others) + _button(job, "join", "Join")
    return _form(job, view, "join", words, inside)


def _loop(job: Job, view: View) -> str:
    words = (
        "Loop: the end meets the beginning",
        "Made of the frames that are there: a model that sees only the past cannot plan its way back.",
    )
    inside = _choice("how", "How", HOWS) + _button(job, "loop", "Make the loop")
    return _form(job, view, "loop", words, inside)


def _title(job: Job) -> str:
    return f"{job.settings.prompt[:48]} · seed {job.settings.seed}"


def joinable(app: App, job: Job) -> list[Job]:
    """The owner's other clips, the latest first."""
    others = app.store.history(job.owner, limit=OTHERS)
    return [
        other
        for other in others
        if other.id != job.id
        and other.path
        and other.path.suffix.lower() in PLAYABLE
        and other.path.is_file()
    ]


# ------------------------------------------------------------------------------------------------------------
# What the buttons do: each takes (app, job, view, value) and returns the view after it


def look_of(app: App, job: Job, asked: Finish) -> Path:
    """The file of a look at a finished clip."""
    return exports_of(app, job) / f"{LOOK}{asked.name}.mp4"


def asked_of(value: str) -> Finish:
    """What the form of finishing asks for. ValueError."""
    asked = json.loads(value)
    upscale, smooth = (asked.get(name, "1") for name in ("upscale", "smooth"))
    return Finish(*(int(factor) if str(factor).isdecimal() else factor for factor in (upscale, smooth)))


def look(app: App, job: Job, view: View, value: str) -> View:
    """A second of the clip, as it is beside what it becomes."""
    asked = asked_of(value)
    path = look_of(app, job, asked)
    if not path.is_file():
        with one_at_a_time:
            preview(job.result, path, upscale=asked.upscale, smooth=asked.smooth)
    return view.finishing(asked.upscale, asked.smooth)


def make_finished(app: App, job: Job, view: View, value: str) -> View:
    asked = asked_of(value)
    target = exports_of(app, job) / f"{job.result.stem}-{asked.name}.mp4"
    room_for(app, job)
    with one_at_a_time:
        made = finish(job.result, target, upscale=asked.upscale, smooth=asked.smooth)
    return view.finishing(asked.upscale, asked.smooth, f"{made.name} is under Export.")


def make_joined(app: App, job: Job, view: View, value: str) -> View:
    asked = json.loads(value)
    other = next((each for each in joinable(app, job) if each.id == asked.get("other")), None)
    if other is None:
        raise ValueError("The other clip no longer exists.")
    paths = [job.result, other.result]
    if asked.get("order") == "before":
        paths.reverse()
    told: list[str] = []
    room_for(app, job)
    target = exports_of(app, job) / f"{job.result.stem}-joined.mp4"
    with one_at_a_time:
        made = join_clips(paths, target, like=job.result, tell=told.append)
    return view.told("join", " ".join([f"{made.name} is under Export.", *map(_sentence, told)]))


def make_loop(app: App, job: Job, view: View, value: str) -> View:
    told: list[str] = []
    room_for(app, job)
    target = exports_of(app, job) / f"{job.result.stem}-loop.mp4"
    with one_at_a_time:
        made, met = loop(job.result, str(json.loads(value).get("how")), target, tell=told.append)
    words = [f"{made.name} is under Export. Where the end meets the beginning: {met}.", *map(_sentence, told)]
    return view.told("loop", " ".join(words))


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def tried(form: str, make: Callable[[App, Job, View, str], View]) -> Callable[[App, Job, View, str], View]:
    """The same, with what went wrong shown in its form."""

    def safely(app: App, job: Job, view: View, value: str) -> View:
        try:
            if job.path is None or not job.path.is_file():
                raise ValueError("This result has no file.")
            return make(app, job, view.told(form, ""), value)
        except (ValueError, TypeError, OSError) as error:
            return view.told(form, "").tried(form, error)

    return safely


FINISHES = {
    "look": tried("finish", look),
    "finish": tried("finish", make_finished),
    "join": tried("join", make_joined),
    "loop": tried("loop", make_loop),
}
