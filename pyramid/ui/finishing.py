"""What can be made of an opened clip without a model: larger and smoother, joined to another, a loop.

    finishing_html(app, job, view)                     # three forms; a look at it first, side by side
    FINISHES["finish"](app, job, view, value)          # what their buttons do
    finished_file(app, job, Finish(2, 1))               # the same for programs: see `pyramid.ui.api`

The files are listed under "Export"; the original stays as it is.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from pyramid.jobs.queue import Job
from pyramid.media import learned
from pyramid.media.finish import Finish, finish, preview
from pyramid.media.join import join_clips
from pyramid.media.join import meeting as meeting_of_clips
from pyramid.media.loop import HOWS, loop
from pyramid.media.loop import meeting as meeting_of_ends
from pyramid.media.seam import Seam
from pyramid.ui import App
from pyramid.ui.addresses import address_of_export
from pyramid.ui.asked import table_of
from pyramid.ui.cards import LOOK, exports_of, room_for, wrong_html
from pyramid.ui.compare import PLAYABLE
from pyramid.ui.view import View

OTHERS = 50  # results that can be joined to one
ORDERS = {"after": "the other one follows", "before": "the other one comes first"}
TIMES = {1: "as now", 2: "twice", 4: "four times"}
BY = {"lanczos": "Lanczos: invents nothing", "learned": "learned: sharper, which is invented"}
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
    return _finish(app, job, view) + _join(app, job, view) + _loop(app, job, view)


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
    wide = ' class="wide"' * (options is not TIMES)  # words need more room than numbers
    return f'<label{wide}>{label}<select name="{name}">{inside}</select></label>'


def _finish(app: App, job: Job, view: View) -> str:
    asked = view.finish
    words = (
        "Finish: larger, smoother",
        "Lanczos enlarges, motion compensation makes frames between; neither adds what was not there.",
    )
    inside = _choice("upscale", "Width and height", TIMES, asked.upscale)
    inside += _choice("smooth", "Frames a second", TIMES, asked.smooth)
    if learned.missing() is None:
        inside += _choice("by", "How it is enlarged", BY, asked.by)
    inside += _button(job, "look", "Look at it first") + _button(job, "finish", "Make the file")
    path = look_of(app, job, asked)
    if path.is_file() and view.form == "finish":
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
    asked = view.asked if view.form == "join" else {}
    inside = _choice("other", "The other clip", others, asked.get("other"))
    inside += _choice("order", "Where", ORDERS, asked.get("order"))
    inside += _button(job, "look-join", "Look at it first") + _button(job, "join", "Join")
    return _form(job, view, "join", words, inside + _seam(app, job, view, "join"))


def _loop(app: App, job: Job, view: View) -> str:
    words = (
        "Loop: the end meets the beginning",
        "Made of the frames that are there: a model that sees only the past cannot plan its way back.",
    )
    asked = view.asked if view.form == "loop" else {}
    inside = _choice("how", "How", HOWS, asked.get("how"))
    inside += _button(job, "look-loop", "Look at it first") + _button(job, "loop", "Make the loop")
    return _form(job, view, "loop", words, inside + _seam(app, job, view, "loop"))


def _seam(app: App, job: Job, view: View, form: str) -> str:
    """The last frames and the first ones of a seam that was looked at, side by side."""
    path = exports_of(app, job) / view.looked
    if view.form != form or not view.looked or not path.is_file():
        return ""
    source = escape(address_of_export(job, path), quote=True)
    return f'<img class="look wide" src="{source}" alt="The frames before the seam, and those after it">'


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


def asked_of(view: View) -> Finish:
    """What the form of finishing asks for. ValueError."""
    upscale, smooth = (_factor(view.asked.get(name, "1")) for name in ("upscale", "smooth"))
    return Finish(upscale, smooth, view.asked.get("by", "lanczos"))


def _factor(text: str) -> Any:
    """A whole number; what is none as it is, for `Finish` to tell of."""
    return int(text) if text.isdecimal() else text


def look(app: App, job: Job, view: View) -> View:
    """A second of the clip, as it is beside what it becomes."""
    asked = asked_of(view)
    path = look_of(app, job, asked)
    if not path.is_file():
        with one_at_a_time:
            preview(job.result, path, asked)
    return view.finishing(asked)


def finished_file(app: App, job: Job, asked: Finish) -> Path:
    """The clip larger and smoother, among its exports. ValueError."""
    target = exports_of(app, job) / f"{job.result.stem}-{asked.name}.mp4"
    room_for(app, job)
    with one_at_a_time:
        return finish(job.result, asked, target)


def make_finished(app: App, job: Job, view: View) -> View:
    asked = asked_of(view)
    made = finished_file(app, job, asked)
    return view.finishing(asked, f"{made.name} is under Export.")


def both(app: App, job: Job, view: View) -> list[Path]:
    """The clips that the form of joining names, in their order. ValueError."""
    other = next((each for each in joinable(app, job) if each.id == view.asked.get("other")), None)
    if other is None:
        raise ValueError("The other clip no longer exists.")
    paths = [job.result, other.result]
    return paths[::-1] if view.asked.get("order") == "before" else paths


def joined_file(app: App, job: Job, paths: list[Path]) -> tuple[Path, list[str]]:
    """The clips as one in the size of `job`, among its exports, and what is to be said of it. ValueError."""
    told: list[str] = []
    room_for(app, job)
    target = exports_of(app, job) / f"{job.result.stem}-joined.mp4"
    with one_at_a_time:
        made = join_clips(paths, target, like=job.result, tell=told.append)
    return made, [_sentence(words) for words in told]


def make_joined(app: App, job: Job, view: View) -> View:
    made, told = joined_file(app, job, both(app, job, view))
    return view.told("join", " ".join([f"{made.name} is under Export.", *told]))


def look_at_joined(app: App, job: Job, view: View) -> View:
    """Where the clips would meet."""
    paths = both(app, job, view)
    with one_at_a_time:
        met, picture = meeting_of_clips(*paths, like=job.result)
    return seen(app, job, view, "join", met, picture)


def looped_file(app: App, job: Job, how: str) -> tuple[Path, list[str]]:
    """The clip as a loop, among its exports, and what is to be said of it. ValueError."""
    told: list[str] = []
    room_for(app, job)
    target = exports_of(app, job) / f"{job.result.stem}-loop.mp4"
    with one_at_a_time:
        made, met = loop(job.result, how, target, tell=told.append)
    return made, [f"Where the end meets the beginning: {met}.", *map(_sentence, told)]


def make_loop(app: App, job: Job, view: View) -> View:
    made, told = looped_file(app, job, str(view.asked.get("how")))
    return view.told("loop", " ".join([f"{made.name} is under Export.", *told]))


def look_at_loop(app: App, job: Job, view: View) -> View:
    """Where the end of the loop would meet its beginning."""
    with one_at_a_time:
        met, picture = meeting_of_ends(job.result, str(view.asked.get("how")))
    return seen(app, job, view, "loop", met, picture)


def seen(app: App, job: Job, view: View, form: str, met: Seam, picture: Image.Image) -> View:
    """With the picture of a seam, whose name is new each time, as browsers keep what they have."""
    folder = exports_of(app, job)
    folder.mkdir(parents=True, exist_ok=True)
    for before in folder.glob(f"{LOOK}{form}-*.webp"):
        before.unlink(missing_ok=True)
    name = f"{LOOK}{form}-{view.tries}.webp"
    picture.save(folder / name, "WEBP", quality=88)
    return replace(view.told(form, f"{_sentence(str(met))} The bar stands where they meet."), looked=name)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def tried(form: str, make: Callable[[App, Job, View], View]) -> Callable[[App, Job, View, str], View]:
    """The same from what a form sends, with what went wrong shown in it."""

    def safely(app: App, job: Job, view: View, value: str) -> View:
        view = replace(view.told(form, ""), looked="")
        try:
            view = replace(view, asked=table_of(value))
            if job.path is None or not job.path.is_file():
                raise ValueError("This result has no file.")
            return make(app, job, view)
        except (ValueError, TypeError, OSError) as error:
            return view.tried(form, error)

    return safely


FINISHES = {
    "look": tried("finish", look),
    "finish": tried("finish", make_finished),
    "look-join": tried("join", look_at_joined),
    "join": tried("join", make_joined),
    "look-loop": tried("loop", look_at_loop),
    "loop": tried("loop", make_loop),
}
