"""What was made: a history that plays when pointed at, and what can be done with each result.

    results = build_results(app)                      # inside gr.Blocks
    results.wire(page, visitor, pulse, form)          # `pulse` changes when the owner's results do

A visitor sees and touches only their own: each action asks the store as its owner. Files are served by an
address that names the job, never a folder (`addresses.address_of`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from pyramid.jobs.queue import Job
from pyramid.media.export import KINDS, export
from pyramid.media.files import file_name
from pyramid.media.preview import load_estimates
from pyramid.settings import SettingsError, frames_of
from pyramid.ui import QUIET, App, follow
from pyramid.ui.asked import number_of, table_of
from pyramid.ui.cards import (
    can_grow,
    detail_html,
    exports_of,
    grid_html,
    notes_html,
    room_for,
    variations_html,
)
from pyramid.ui.compare import ASSETS, CSS, STEP, comparable, compare_html
from pyramid.ui.edit import edit_html, make_edit, seams_html
from pyramid.ui.errors import shown_error, shown_words
from pyramid.ui.finishing import FINISHES, finishing_html, one_at_a_time
from pyramid.ui.form import Form
from pyramid.ui.markup import failure, say, words_of
from pyramid.ui.queue import kept_as
from pyramid.ui.restore import STAYS, Restored, of_job, restore
from pyramid.ui.view import SHOWN, View

GONE = "This result no longer exists."
RESTORABLE = [".mp4", ".webm", ".gif", ".png", ".zip", ".json", ".toml"]
GRID_JS, GRID_CSS = ((ASSETS / name).read_text(encoding="utf-8") for name in ("results.js", "results.css"))


class Results:
    """The part of the page; its components are made by `build_results`."""

    search: gr.Textbox
    favorites: gr.Checkbox
    file: gr.File
    notes: gr.HTML
    four: gr.HTML
    compare: gr.HTML
    detail: gr.HTML
    grid: gr.HTML
    view: gr.State
    sent: gr.State

    def __init__(self, app: App):
        self.app = app

    # -- what is shown

    def show(self, owner: str, view: View) -> list[str]:
        """The opened result, the two that are compared, the grid."""
        store = self.app.store
        jobs = store.history(owner, search=view.search, favourites=view.favorites, limit=view.limit + 1)
        opened = self.find(view.opened, owner)
        pair = [job for job in (self.find(job_id, owner) for job_id in view.pair) if job and comparable(job)]
        grid = grid_html(jobs[: view.limit], view, more=len(jobs) > view.limit)
        detail = ""
        if opened:
            detail = detail_html(self.app, opened, view, forms_html(self.app, opened, view))
        return [
            detail,
            compare_html(*pair) if len(pair) == 2 else "",
            grid,
            variations_html(self.group(owner)),
        ]

    def group(self, owner: str, of: str = "") -> list[Job]:
        """The jobs of an owner's latest variations, or of those of the group `of`; none where one is left."""
        jobs = [*self.app.store.queue(owner), *self.app.store.history(owner, limit=50)]
        jobs = [job for job in jobs if job.output.group and job.output.group == (of or job.output.group)]
        latest = max(jobs, key=lambda job: job.created, default=None)
        found = [job for job in jobs if latest and job.output.group == latest.output.group]
        return sorted(found, key=lambda job: job.settings.seed or 0) if len(found) > 1 else []

    def find(self, job_id: str, owner: str) -> Job | None:
        """An ended job of the owner's; None when there is none."""
        try:
            job = self.app.store.get(job_id, owner)
        except KeyError:
            return None
        return job if job.over else None

    def updates(self, owner: str, view: View, sent: list | None) -> list:
        """What changed since `sent`, then the view and what is shown now: players that stay go on playing."""
        now = self.show(owner, view)
        old = sent or [None] * len(now)
        return [
            *(value if value != before else gr.skip() for value, before in zip(now, old, strict=True)),
            view,
            now,
        ]

    # -- what can be done

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, pulse: gr.Textbox, form: Form) -> None:
        self.form = form
        shown = [self.detail, self.compare, self.grid, self.four, self.view, self.sent]
        state = [visitor, self.view, self.sent]
        events = [page.load, visitor.change, pulse.change, self.search.change, self.favorites.change]
        follow(events, self.look, [*state, self.search, self.favorites], shown)
        gr.on(
            [part.click for part in (self.grid, self.detail, self.compare, self.notes, self.four)],
            self.act_on_result,
            state,
            [*shown, self.notes, *form.components, *form.extras],
            **QUIET,
        )
        restored = [self.file, self.notes, *form.components]
        self.file.upload(self.drop, [self.file, visitor], restored, **QUIET)
        pattern = form.extra["pattern"]
        follow(
            [page.load, pattern.change],
            lambda words, *values: gr.update(info=name_words(form, words, *values)),
            [pattern, *form.components],
            pattern,
            preprocess=False,
        )

    def look(
        self, token: str | None, view: View, sent, words: str | None, favorites: bool, request: gr.Request
    ) -> list:
        """The results as the search and the history now are."""
        search = words or ""  # a page that is not quite there yet sends None
        favorites = favorites is True
        if (search, favorites) != (view.search, view.favorites):
            view = replace(view, search=search, favorites=favorites, limit=SHOWN)
        return self.updates(self.app.owner(request, token), view, sent)

    def act_on_result(
        self, token: str | None, view: View, sent, request: gr.Request, event: gr.EventData
    ) -> list:
        """What a button of a result does: to the view, to the form, or to the result."""
        owner = self.app.owner(request, token)
        action = event.action
        job_id = str(event.job)
        notes = gr.skip()
        filled = [gr.skip() for _ in self.form.components]
        output = [gr.skip() for _ in self.form.extras]
        with words_for_people(self.app, "Results"):
            if action in LOOKS:
                view = LOOKS[action](view, job_id)
            elif action in FORM:
                job = self.own(job_id, owner)
                filled, found = FORM[action](self, self.form, job)
                if action == "reuse":
                    output = kept_as(self.form, job.output)
                view = view.opening("")
                notes = notes_html(SAID[action], found.notes)
                say(SAID[action], "Results")
            elif action in ADDS:
                with self.app.adding(request, owner):
                    view = ADDS[action](self, self.own(job_id, owner), view, str(event.value))
            elif action in FINISHES:
                with self.app.working(request):
                    view = FINISHES[action](self.app, self.own(job_id, owner), view, str(event.value))
            elif action == "export":
                with self.app.working(request):
                    view = write_export(self, self.own(job_id, owner), view, str(event.value))
            else:
                view = DEEDS[action](self, self.own(job_id, owner), view, str(event.value)) or view
        return [*self.updates(owner, view, sent), notes, *filled, *output]

    def drop(self, path: str | None, token: str | None, request: gr.Request) -> list:
        """The settings of a file that was dropped, in the form, or why there are none."""
        nothing = [gr.skip() for _ in self.form.components]
        if not path:
            return [gr.skip(), gr.skip(), *nothing]
        try:
            with self.app.working(request):
                found = restore(path, self.app, self.app.owner(request, token))
        except Exception as error:
            return [None, notes_html(shown_words(self.app, error), (), bad=True), *nothing]
        words = f"The settings of {Path(path).name} are in the form."
        return [None, notes_html(words, (*found.notes, STAYS)), *fill(self.form, found)]

    def own(self, job_id: str, owner: str) -> Job:
        """The owner's ended job; ValueError when there is none."""
        if job := self.find(job_id, owner):
            return job
        raise ValueError(GONE)


@contextmanager
def words_for_people(app: App, title: str) -> Iterator[None]:
    """What a user causes is shown as a message, with no trace and no path."""
    try:
        yield
    except KeyError as error:
        raise failure(GONE, title) from error
    except Exception as error:
        raise error if isinstance(error, gr.Error) else shown_error(app, error, title) from error


def forms_html(app: App, job: Job, view: View) -> str:
    """The forms of an opened clip, and what is to be seen of the seams of one that was edited."""
    return seams_html(app, job) + edit_html(app, job, view) + finishing_html(app, job, view)


def has_file(job: Job) -> bool:
    return job.path is not None and job.path.is_file()


# ------------------------------------------------------------------------------------------------------------
# Into the form


def name_words(form: Form, pattern: str, *values) -> str:
    """What the name pattern makes of the form's settings, or what is wrong with it."""
    try:
        return f"As in {file_name(pattern, form.basis(*values))}"
    except SettingsError as error:
        return words_of(error)


def fill(form: Form, found: Restored) -> list[dict]:
    return form.fill(found.settings, picture=found.picture, video=found.video)


def reuse(results: Results, form: Form, job: Job) -> tuple[list, Restored]:
    found = of_job(job, results.app)
    return fill(form, found), found


def reuse_seed(results: Results, form: Form, job: Job) -> tuple[list, Restored]:
    """Only the seed; everything else in the form stays."""
    new = {"seed": gr.update(value=job.settings.seed), "random": gr.update(value=False)}
    return [new.get(name, gr.skip()) for name in form.fields], Restored(job.settings)


def go_on(results: Results, form: Form, job: Job) -> tuple[list, Restored]:
    """Its end becomes the beginning of a new clip, with a new seed."""
    return begin_with(results, form, job, "video")


def animate(results: Results, form: Form, job: Job) -> tuple[list, Restored]:
    """Its picture becomes the first frame of a clip."""
    return begin_with(results, form, job, "image")


def begin_with(results: Results, form: Form, job: Job, kind: str) -> tuple[list, Restored]:
    if not has_file(job):
        raise ValueError("This result has no file to start from.")
    found = of_job(replace(job, settings=replace(job.settings, image=None, video=None)), results.app)
    start = results.app.worker.start_from
    frames = start.num_frames if found.settings.num_frames == 1 else found.settings.num_frames
    if frames == 1:
        raise ValueError("The loaded model makes still images only: load another one under Models.")
    named: dict[str, Any] = {kind: job.result.name, "num_frames": frames, "seed": None}
    files: dict[str, Any] = {"picture" if kind == "image" else "video": job.result}
    found = replace(found, settings=replace(found.settings, **named), **files)
    return fill(form, found), found


# ------------------------------------------------------------------------------------------------------------
# To the result: each takes (results, job, view, value) and may return another view


def favorite(results: Results, job: Job, view: View, value: str) -> None:
    results.app.store.favourite(job.id, job.owner, not job.favourite)


def delete(results: Results, job: Job, view: View, value: str) -> View:
    results.app.store.delete(job.id, job.owner)
    results.app.worker.forget(job.id)
    return view.without(job.id)


def keep(results: Results, job: Job, view: View, value: str) -> None:
    """One of the variations stays: the others are taken out of the queue, or deleted."""
    for other in results.group(job.owner, job.output.group):
        if other.id == job.id:
            continue
        if other.waiting:
            results.app.store.remove(other.id, other.owner)
        elif other.over:
            delete(results, other, view, value)
        else:
            results.app.worker.stop(other.id, owner=other.owner, keep=False)


def resume(results: Results, job: Job, view: View, value: str) -> View:
    results.app.worker.resume(job.id, owner=job.owner)
    say("It continues from its finished units when its turn comes.", "Added to the queue")
    return view.without(job.id)


def decode(results: Results, job: Job, view: View, value: str) -> View:
    results.app.worker.decode_finished(job.id, owner=job.owner)
    say("Its finished units become a video when its turn comes.", "Added to the queue")
    return view.without(job.id)


def write_export(results: Results, job: Job, view: View, value: str) -> View:
    """Make the file that the export form asks for; it is listed there, ready to be fetched,
    or what is wrong is.
    """
    try:
        make_export(results.app, job, table_of(value))
    except (ValueError, OSError) as error:
        return view.tried("export", error)
    return view.tried("export")


def make_export(app: App, job: Job, asked: dict[str, str]) -> Path:
    """What a form asks for: kind, keep, quality and pattern. Raises ValueError."""
    kind = asked.get("kind", "")
    given = number_of(asked, "quality", int)
    quality = job.output.quality if given is None else given
    if kind not in KINDS:
        raise SettingsError("format", f"unknown format {kind!r}: choose from {', '.join(KINDS)}")
    if not has_file(job):
        raise ValueError("This result has no file to export.")
    name = file_name(asked.get("pattern", ""), job.settings, index=int(job.position))
    if "/" in name:
        raise SettingsError(
            "pattern", "this file goes to your downloads, so its name cannot contain folders: leave out /"
        )
    room_for(app, job)
    as_it_is = kind == "mp4" and job.result.suffix == ".mp4" and quality <= job.output.quality
    with one_at_a_time:
        return export(
            job.result,
            kind,
            exports_of(app, job) / f"{name}{KINDS[kind][0]}",
            keep=asked.get("keep", ""),
            quality=None if as_it_is else quality,
            estimates=load_estimates(app.store.units_of(job)),
            before=app.store.input_of(job),
        )


def longer(results: Results, job: Job, view: View, value: str) -> View:
    """The same and more, as a new job that begins with this one's finished units: see `recovery`."""
    store = results.app.store
    try:
        asked = table_of(value)
        if not can_grow(results.app, job):
            raise ValueError("The latents of this result no longer exist: continue from its video instead.")
        frames = frames_of(job.settings.units + (number_of(asked, "units", int) or 0))
        if frames <= job.settings.num_frames:
            raise ValueError("Choose at least one more unit.")
        store.extend(job.id, job.owner, num_frames=frames, prompt=asked.get("prompt", ""))
    except (ValueError, OSError) as error:
        return view.tried("longer", error)
    say("It continues when its turn comes.", "Added to the queue")
    return view.opening("")


def edited(results: Results, job: Job, view: View, value: str) -> View:
    """Another clip of which one unit is made anew, as a new job."""
    try:
        view = replace(view, asked=table_of(value))
        make_edit(results.app, job, dict(view.asked))
    except (ValueError, OSError) as error:
        return view.tried("edit", error)
    say("It is made when its turn comes. This clip stays as it is.", "Added to the queue")
    return view.opening("")


LOOKS = {
    "open": lambda view, job_id: view.opening("" if view.opened == job_id else job_id),
    "close": lambda view, job_id: view.opening(""),
    "compare": lambda view, job_id: view.toggled(job_id),
    "uncompare": lambda view, job_id: replace(view, pair=()),
    "more": lambda view, job_id: replace(view, limit=view.limit + SHOWN),
}
SAID = {
    "reuse": "The settings are in the form.",
    "seed": "The seed is in the form.",
    "continue": "The form continues from the end of this clip: describe what happens next.",
    "animate": "The form starts from this image: describe what moves.",
}
FORM = {"reuse": reuse, "seed": reuse_seed, "continue": go_on, "animate": animate}
ADDS = {
    "resume": resume,
    "decode": decode,
    "longer": longer,
    "edit": edited,
}  # each puts a job into the queue
DEEDS = {"keep": keep, "favorite": favorite, "delete": delete}


# ------------------------------------------------------------------------------------------------------------
# Building


def build_variations() -> gr.HTML:
    """The seeds of the last variations, side by side; it is `build_results`' to fill."""
    look = {"js_on_load": GRID_JS, "css_template": GRID_CSS, "apply_default_css": False}
    return gr.HTML("", elem_id="results-four", **look)


def build_results(app: App, four: gr.HTML | None = None) -> Results:
    """`four`: where variations are shown, when not here."""
    part = Results(app)
    part.four = four or build_variations()
    with gr.Column(elem_id="results", min_width=0):
        gr.HTML("<h2>Results</h2>", elem_id="results-title", apply_default_css=False)
        with gr.Row(elem_id="results-head"):
            part.search = gr.Textbox(
                label="Search results",
                show_label=False,
                placeholder="Search",
                max_lines=1,
                min_width=120,
                scale=2,
                elem_id="results-search",
            )
            part.favorites = gr.Checkbox(
                False, label="Favorites", min_width=110, scale=1, elem_id="results-favorites"
            )
        part.file = gr.File(
            label="Restore settings from a file",
            file_types=RESTORABLE,
            height=56,
            elem_id="restore",
        )
        look = {"js_on_load": GRID_JS, "css_template": GRID_CSS, "apply_default_css": False}
        part.notes = gr.HTML("", elem_id="results-notes", **look)
        part.compare = gr.HTML(
            "", elem_id="results-compare", js_on_load=STEP, css_template=CSS, apply_default_css=False
        )
        part.detail = gr.HTML("", elem_id="results-detail", **look)
        part.grid = gr.HTML(grid_html([], View(), more=False), elem_id="results-grid", **look)
        part.view = gr.State(View())
        part.sent = gr.State(None)
    return part
