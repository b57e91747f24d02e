"""What runs and what waits: a list in which jobs are moved, changed, copied and taken out.

queue = Queue(app); build_queue(queue)       # inside gr.Blocks
queue.rows(owner, shown)                     # the list as HTML, for one owner, who sees one that runs
queue.wire(form, visitor)                    # its buttons; "Edit" brings a job's settings into the form
"""

from collections.abc import Callable
from dataclasses import fields, replace
from html import escape

import gradio as gr

from pyramid.jobs.queue import Job, Output
from pyramid.ui import QUIET, App
from pyramid.ui.errors import shown_error
from pyramid.ui.form import Form
from pyramid.ui.markup import html, say

CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) trigger("click", {act: button.dataset.act, job: button.dataset.job});
});"""
ICONS = {  # name: (label, path of a 16 × 16 picture)
    "up": ("Move up", "M8 3l5 5-1.2 1.2L8.9 6.3V13H7.1V6.3L4.2 9.2 3 8z"),
    "down": ("Move down", "M8 13L3 8l1.2-1.2 2.9 2.9V3h1.8v6.7l2.9-2.9L13 8z"),
    "edit": ("Edit", "M11.3 2.3l2.4 2.4L5.6 12.8 2.5 13.5l.7-3.1zM10 5.2L4.8 10.4l-.2 1 1-.2L10.8 6z"),
    "copy": ("Duplicate", "M5 2h8v9h-2v3H3V5h2zm1.5 1.5V9.5h5v-6zM4.5 6.5v6h5V11H5V6.5z"),
    "remove": ("Remove", "M4.2 3L8 6.8 11.8 3 13 4.2 9.2 8l3.8 3.8-1.2 1.2L8 9.2 4.2 13 3 11.8 6.8 8 3 4.2z"),
}


def row(job: Job, place: int, count: int, shown: bool = True) -> str:
    """One job: its prompt, what it is, and its buttons. `shown`: it runs, and is what the page shows."""
    s = job.settings
    kind = "still" if s.num_frames == 1 else f"{s.seconds:g} s"
    source = ""
    if s.image:
        source = " · from a picture"
    elif s.video:
        source = " · continues a clip"
    if job.kind == "drafts":
        kind = f"{len(job.directed.seeds or job.directed.variations)} drafts"
    elif job.kind == "endless":
        kind = "endless"
    elif job.kind == "edit":
        kind = f"unit {(job.directed.unit or 0) + 1} of {s.units} anew"
    facts = f"{kind} · {s.width} × {s.height} · seed {s.seed}{source}"
    if not job.waiting and shown:
        buttons = '<span class="tag">now</span>'
    elif not job.waiting:
        buttons = (
            f'<button type="button" class="tag" data-act="watch" data-job="{job.id}" '
            f'aria-label="Watch: {escape(s.prompt[:60])}" title="Show this one">Watch</button>'
        )
    else:
        off = {"up": place == 0, "down": place == count - 1}
        buttons = "".join(
            f'<button type="button" data-act="{act}" data-job="{job.id}" title="{label}" '
            f'aria-label="{label}: {escape(s.prompt[:60])}" {"disabled" if off.get(act) else ""}>'
            '<svg viewBox="0 0 16 16" aria-hidden="true">'
            f'<path fill-rule="evenodd" d="{path}"/></svg></button>'
            for act, (label, path) in ICONS.items()
            if job.kind == "video" or act not in ("edit", "copy")  # what is directed is changed in its panel
        )
    return (
        f'<li class="{"" if job.waiting else "now"}"><div><p>{escape(s.prompt)}</p>'
        f'<p class="facts">{facts}</p></div><div class="buttons">{buttons}</div></li>'
    )


class Queue:
    """The list, and the job that is being changed in the form."""

    list: gr.HTML
    editing: gr.State
    banner: gr.Row
    words: gr.HTML
    save: gr.Button
    cancel: gr.Button

    watch: Callable[[str, str], None]  # (owner, id of a job that runs): show it

    def __init__(self, app: App):
        self.app = app

    def rows(self, owner: str, shown: str = "") -> str:
        """The list; empty where it would say no more than the page does. `shown`: the id of what it shows."""
        jobs = self.app.store.queue(owner)
        waiting = [job for job in jobs if job.waiting]
        if not waiting and len(jobs) < 2:
            return ""
        items = [
            row(job, waiting.index(job) if job.waiting else -1, len(waiting), job.id == shown) for job in jobs
        ]
        title, count = ("Queue", len(waiting)) if waiting else ("Being made", len(jobs))
        return (
            f'<section class="queue"><h2>{title} <span>{count}</span></h2><ol>{"".join(items)}</ol></section>'
        )

    def wire(self, form: Form, visitor: gr.BrowserState) -> None:
        """`editing` holds the id of the job that is changed in the form; `banner` says so."""
        nothing = [gr.skip() for _ in form.components + form.extras]

        def act_on_queue(token: str | None, editing: str, request: gr.Request, event: gr.EventData) -> list:
            owner = self.app.owner(request, token)
            job_id = str(event.job)
            try:
                if event.act == "edit":
                    return self.edit(form, job_id, owner)
                if event.act == "watch":
                    self.watch(owner, job_id)
                elif event.act == "copy":
                    with self.app.working(request), self.app.adding(request, owner):
                        self.do(event.act, job_id, owner)
                else:
                    self.do(event.act, job_id, owner)
            except Exception as error:
                raise shown_error(self.app, error, "Queue") from error
            if event.act == "remove" and job_id == editing:
                return ["", gr.update(visible=False), gr.skip(), *nothing]
            return [gr.skip(), gr.skip(), gr.skip(), *nothing]

        outputs = [self.editing, self.banner, self.words, *form.components, *form.extras]
        self.list.click(act_on_queue, [visitor, self.editing], outputs, **QUIET)
        self.cancel.click(lambda: ("", gr.update(visible=False)), None, [self.editing, self.banner], **QUIET)

    def do(self, act: str, job_id: str, owner: str) -> None:
        """What a button does that leaves the form alone. KeyError: there is no such job of the owner's."""
        store = self.app.store
        match act:
            case "up":
                store.move(job_id, owner, -1)
            case "down":
                store.move(job_id, owner, 1)
            case "copy":
                store.duplicate(job_id, owner, seed=None)
                say("A copy with a new seed was added to the end of the queue.", "Duplicated")
            case "remove":
                store.remove(job_id, owner)

    def edit(self, form: Form, job_id: str, owner: str) -> list:
        """The updates that bring a waiting job into the form. ValueError: it no longer waits."""
        job = self.app.store.get(job_id, owner)
        if not job.waiting:
            raise ValueError("This job has already started.")
        return [job_id, gr.update(visible=True), banner_words(job), *self.into_form(form, job)]

    def into_form(self, form: Form, job: Job) -> list[dict]:
        """An update for each of the form's components and extras."""
        s = job.settings
        path = self.app.store.input_of(job)
        if job.output.random:
            s = replace(s, seed=None)
        filled = form.fill(s, picture=path if s.image else None, video=path if s.video else None)
        return [*filled, *kept_as(form, job.output)]


def kept_as(form: Form, output: Output) -> list[dict]:
    """What brings a job's format, name pattern and the like into the form,
    an update for each of its extras.
    """
    known = {field.name for field in fields(output)}
    return [gr.update(value=getattr(output, name)) if name in known else gr.skip() for name in form.extra]


def banner_words(job: Job) -> str:
    return f'<p class="note">Editing a queued job: <b>{escape(job.settings.prompt[:60])}</b></p>'


def build_queue(part: Queue) -> None:
    part.list = html("", elem_id="queue", js_on_load=CLICKS)


def build_banner(part: Queue) -> None:
    """What is over Generate while a waiting job is changed in the form."""
    part.editing = gr.State("")
    with gr.Row(visible=False, elem_id="editing") as part.banner:
        part.words = html("")
        part.save = gr.Button("Save the change", variant="primary", elem_id="edit-save")
        part.cancel = gr.Button("Cancel", scale=0, min_width=0, elem_id="edit-cancel")
