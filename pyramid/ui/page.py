"""The page as Gradio blocks: the parts, side by side, and what each tells the others.

    build(app).launch(css_paths=STYLE, …)

One generator, `watch`, keeps an open page up to date with the store and the worker. It may be cut at any time
without harm: jobs are the server's, and the page's timer begins it anew.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from html import escape
from pathlib import Path

import gradio as gr

from pyramid.jobs.queue import JobStore
from pyramid.settings import SettingsError
from pyramid.ui import AS_SENT, QUIET, App
from pyramid.ui.api import register_api
from pyramid.ui.form import (
    build_advanced,
    build_extras,
    build_form,
    build_seed,
    build_size,
    build_sources,
    build_steps,
)
from pyramid.ui.guards import Look
from pyramid.ui.live import GLYPH, LivePart, build_live
from pyramid.ui.markup import html, words_of
from pyramid.ui.models import build_models
from pyramid.ui.plans import build_plan
from pyramid.ui.presets import build_examples, build_presets, build_save, wire_examples, wire_presets
from pyramid.ui.queue import Queue, build_banner, build_queue
from pyramid.ui.results import build_results
from pyramid.ui.sight import build_sight, wire_sight

STYLE = Path(__file__).resolve().parent.parent.parent / "assets" / "style.css"
PAGE_EVERY = 0.25  # seconds between two updates of a page: more often costs bandwidth and shows no more
KEPT = (
    3600,
    86400,
)  # seconds: how often Gradio's copies of uploads are looked through, and how old they may get
UPDATES = 6  # a second, over all open pages: many who watch see a job less often, and do not slow it
AGAIN_EVERY = 1.0  # seconds until a page whose watcher was cut asks for a new one
NEW_VISITOR = """(token) => token ||
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"))
    .join("")"""
TO_THE_VIDEO = """(...all) => {
  if (innerWidth < 900) document.querySelector("#show").scrollIntoView({behavior: "smooth"});
  return all;
}"""
HEAD = """
const kept = localStorage.getItem("pyramid-theme");
if (kept) document.body.classList.toggle("dark", kept === "dark");
const models = () => document.querySelector("#models");
const tell = () => element.querySelector("#model")?.setAttribute("aria-expanded",
  Boolean(models()?.classList.contains("open")));
watch("value", tell);
tell();
element.addEventListener("click", (event) => {
  if (event.target.closest("#model")) { models().classList.toggle("open"); tell(); }
  if (!event.target.closest("#theme")) return;
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("pyramid-theme", dark ? "dark" : "light");
});"""
HALF_MOON = (
    '<svg viewBox="0 0 16 16" aria-hidden="true">'
    '<path d="M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 1.8v10.4a5.2 5.2 0 0 1 0-10.4z"/></svg>'
)


def build(app: App) -> gr.Blocks:
    """The whole page; nothing is served yet.

    Parts that others plug in: `visitor` (gr.BrowserState, pass it to `app.owner` as the token) and `pulse`
    (hidden gr.Textbox whose `change` says that the owner's results changed).
    """
    with gr.Blocks(title="Pyramid", analytics_enabled=False, fill_width=True, delete_cache=KEPT) as page:
        register_api(app)  # before all else, or an event of the page would take the name of an endpoint
        visitor = gr.BrowserState(None, storage_key="pyramid-visitor", secret="pyramid")
        with gr.Column(elem_id="unseen"):  # words whose change is an event of its own
            pulse = gr.Textbox(visible="hidden", elem_id="pulse", label="pulse")
            model = gr.Textbox(
                app.worker.checkpoint.identity, visible="hidden", elem_id="model-loaded", label="model"
            )
            timer = gr.Timer(AGAIN_EVERY)
        head = html(head_words(app), js_on_load=HEAD, elem_id="head")
        with gr.Column(elem_id="models", min_width=0):
            build_models(app, pulse)
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="form", scale=0, min_width=0):
                left = build_left(app)
            with gr.Column(elem_id="show", min_width=0):
                live = build_live(app)
            with gr.Column(elem_id="side", scale=0, min_width=0):
                build_queue(left.queue)
                results = build_results(app)
        left.wire(page, visitor, pulse, model)
        live.wire(visitor)
        results.wire(page, visitor, pulse, left.form)
        watch = watcher(app, live, left.queue)
        shown = [*live.outputs, left.queue.list, left.generate, head, pulse, model]
        page.load(None, visitor, visitor, js=NEW_VISITOR, api_visibility="private")
        gr.on([page.load, timer.tick], watch, visitor, shown, trigger_mode="once", postprocess=False, **QUIET)
    return page


# ------------------------------------------------------------------------------------------------------------
# Keeping an open page up to date


def head_words(app: App) -> str:
    """The program's mark, the model that is loaded, and light or dark."""
    start, worker = app.worker.start_from, app.worker
    state = "cannot be used" if worker.error else "ready" if worker.loaded.is_set() else "loading …"
    kind = "bad" if worker.error else "good" if worker.loaded.is_set() else "busy"
    name = f"{Path(start.model).name} {start.variant}"
    return (
        f'<header><h1 id="mark">{GLYPH}Pyramid</h1>'
        f'<button type="button" id="model" class="{kind}" aria-controls="models" title="Models">'
        f"<i></i>{escape(name)} · {state}</button>"
        f'<button type="button" id="theme" aria-label="Light or dark">{HALF_MOON}</button></header>'
    )


def watcher(app: App, live: LivePart, queue: Queue):  # noqa: C901
    """The generator that yields what is shown, when it changed, at most every PAGE_EVERY seconds,
    while a page is open.

    Each part is a word, and all are yielded each time: Gradio sends only those that are others than the last
    time. For a `gr.update` or `gr.skip` it would make the part anew, in Python, for every page: that slows a
    job that is watched.
    """
    ended, count = Ended(app.store), len(live.outputs) + 5
    pages: set[object] = set()  # that are open
    drawn: dict[str, tuple[float, tuple, list[str]]] = {}  # for an owner, when, and of what moment

    def parts(owner: str, moment: tuple) -> list[str]:
        """What an owner's pages show: drawn once for all of them.
        A run is another at each step, so while one is busy a drawing is good for a while.
        """
        at, of, shown = drawn.get(owner, (0.0, (None, None, None), []))
        same, run = of[:2] == moment[:2], moment[2]
        recent = time.monotonic() - at < PAGE_EVERY / 2
        if not same or not (recent if run and run.busy else of[2] is run):
            still = shown[len(live.outputs) :] if same else beside(owner)
            shown = [*live.show(owner), *still]
            drawn[owner] = time.monotonic(), moment, shown
        return shown

    def beside(owner: str) -> list[str]:
        """What a run does not change."""
        busy = bool(app.store.queue(owner)) if owner else False
        worker = app.worker
        model = hash(
            (worker.start_from.model, worker.start_from.variant)
        )  # may be a folder, which is not shown
        loaded = (
            f"{worker.loaded.is_set()} {worker.memory} {worker.start_from.quantize} {model} {worker.error}"
        )
        return [
            queue.rows(owner),
            "Add to the queue" if busy else "Generate",
            head_words(app),
            f"{ended.key(owner)} {loaded}",
            app.worker.checkpoint.identity,
        ]

    async def watch(token: str | None, request: gr.Request) -> AsyncIterator[list]:
        owner = app.owner(request, token)
        if not owner:  # the browser's token is still on its way: the timer asks again
            yield [gr.skip()] * count
            return
        pages.add(page := object())
        try:
            async for update in updates(owner):
                yield update
        finally:
            pages.discard(page)

    async def updates(owner: str) -> AsyncIterator[list]:
        version, sent, now = None, None, None
        while True:
            # What the store says is read again when it changed; a run shows something new at any time.
            moment = app.store.version, app.worker.loaded.is_set(), app.worker.live
            busy = bool(moment[2] and moment[2].busy)
            if moment != version or busy:
                now, version = parts(owner, moment), moment
            if now != sent:
                yield list(now)
                sent = now
            every = max(PAGE_EVERY, len(pages) / UPDATES) if busy else PAGE_EVERY
            await asyncio.sleep(
                every - time.monotonic() % every
            )  # all pages together, so that one drawing does

    return watch


class Ended:
    """A word that is another one whenever an owner's ended jobs are others;
    read once for each version of the store.
    """

    def __init__(self, store: JobStore):
        self.store, self.version, self.keys = store, -1, {}

    def key(self, owner: str) -> str:
        if self.version != self.store.version:
            self.version, self.keys = self.store.version, {}
        if owner not in self.keys:
            ended = self.store.history(owner, limit=50) if owner else []
            self.keys[owner] = str(
                hash(tuple((job.id, job.state, job.ended, job.favourite) for job in ended))
            )
        return self.keys[owner]


def refusal(error: Exception, title: str) -> gr.Error:
    """What went wrong with what a visitor asked for, without the folders of this machine."""
    if isinstance(error, KeyError):
        words = "It is not in the queue any more."
    else:
        words = (isinstance(error, OSError) and error.strerror) or words_of(error)
    words = re.sub(r"'?(?:[A-Za-z]:)?[/\\\\][^\s']*[/\\\\]([^\s'/\\\\]+)'?", r"\1", words)
    return gr.Error(words, title=title, print_exception=False)


# ------------------------------------------------------------------------------------------------------------
# The left side: what to make


class Left:
    """The form with all that stands around its fields, and the buttons that start."""

    def __init__(self, app: App):
        self.app, self.queue = app, Queue(app)

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, pulse: gr.Textbox, model: gr.Textbox) -> None:
        form, look = self.form, self.look
        asked = [visitor, *form.components, *form.extras]
        gr.on(
            [self.generate.click, form.fields["prompt"].submit],
            self.begin,
            asked,
            form.fields["seed"],
            js=TO_THE_VIDEO,
            **AS_SENT,
        )
        changes = [field.change for field in form.components]
        gr.on(
            [page.load, pulse.change, *changes],
            look,
            form.components,
            look.outputs,
            trigger_mode="always_last",
            **AS_SENT,
        )
        model.change(form.for_model, None, form.components, **QUIET)
        gr.on(
            [page.load, form.fields["mode"].change],
            for_mode,
            form.fields["mode"],
            [form.extra["pictures"], form.extra["format"]],
            trigger_mode="always_last",
            **QUIET,
        )
        self.plan.wire(page, form, pulse)
        wire_sight(form, self.sight)
        wire_examples(form, self.examples)
        wire_presets(form, page, *self.save, visitor)
        self.queue.wire(form, visitor)
        self.queue.save.click(
            self.change, [self.queue.editing, *asked], [self.queue.editing, self.queue.banner], **AS_SENT
        )

    def begin(self, token: str | None, request: gr.Request, *values) -> int:
        """Put what the form asks for into the queue; the seed that will be used."""
        fields, extras = self.split(values)
        try:
            output, many, more = self.form.output(*extras)
            given = self.given(*fields)
            pictures = [given["image"], *map(Path, more)] if given["image"] else []
            jobs = self.app.store.add_many(
                self.form.read(*fields),
                owner=self.owner(request, token),
                count=many,
                output=output,
                images=[(path.name, path) for path in pictures],
                video=given["video"],
            )
        except (ValueError, OSError) as error:
            raise refusal(error, "Nothing was started") from error
        if len(jobs) > 1:
            gr.Info(f"{len(jobs)} videos are in the queue.", title="Queue")
        return jobs[0].settings.seed

    def change(self, job_id: str, token: str | None, request: gr.Request, *values) -> tuple:
        """Write the form into the waiting job that it was filled from."""
        fields, extras = self.split(values)
        try:
            given, output = self.given(*fields), self.form.output(*extras)[0]
            name = given["image"].name if given["image"] else ""
            owner, settings = self.owner(request, token), self.form.read(*fields)
            self.app.store.edit(job_id, owner, settings, output=output, image_name=name, **given)
        except (KeyError, ValueError, OSError) as error:
            raise refusal(error, "Nothing was changed") from error
        return "", gr.update(visible=False)

    def split(self, values: tuple) -> tuple[tuple, tuple]:
        count = len(self.form.components)
        return values[:count], values[count:]

    def given(self, *fields) -> dict[str, Path | None]:
        picture, clip = self.form.sources(*fields)
        return {"image": Path(picture) if picture else None, "video": Path(clip) if clip else None}

    def owner(self, request: gr.Request, token: str | None) -> str:
        """Whose job it becomes. SettingsError for a browser that keeps no token,
        and so could not find it again.
        """
        if owner := self.app.owner(request, token):
            return owner
        raise SettingsError(
            "owner", "this browser keeps nothing of this page, so its videos could not be found again"
        )


def for_mode(mode: str) -> list[dict]:
    """More pictures where a picture is asked for, and what a still becomes whatever the format is."""
    note = "A still becomes a PNG picture" if mode == "still" else ""
    return [gr.update(visible=mode == "image"), gr.update(info=note)]


def build_left(app: App) -> Left:
    left = Left(app)
    left.form = form = build_form(app)
    left.look = look = Look(app, form)
    look.counts = html(look.counter.html(""), elem_id="counts")
    left.examples = build_examples(app)
    build_sources(form)
    left.sight = build_sight()
    build_size(form)
    look.length = html("", elem_id="length")
    with gr.Row(elem_classes="pair"):
        build_presets(form)
        build_seed(form)
    with gr.Accordion("The pyramid", open=True, elem_id="pyramid"):
        look.drawing = html(look.draw(app.worker.start_from), elem_id="drawing")
        build_steps(form)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        build_advanced(form)
        look.negative_counts = html("")
        build_extras(form)
        left.plan = build_plan(app)
        left.save = build_save(form)
    with gr.Column(elem_id="go", min_width=0):
        look.verdict = html("", elem_id="verdict")
        build_banner(left.queue)
        left.generate = gr.Button("Generate", variant="primary", elem_id="generate")
    return left
