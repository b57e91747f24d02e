"""The page as Gradio blocks: the parts, side by side, and what each tells the others.

build(app).launch(css_paths=STYLE, …)
"""

import uuid
from dataclasses import replace
from pathlib import Path

import gradio as gr

from pyramid.settings import SettingsError
from pyramid.ui import AS_SENT, QUIET, App, follow
from pyramid.ui.api import register_api
from pyramid.ui.cards import facts
from pyramid.ui.direct import build_direct
from pyramid.ui.errors import Telling, guard_events, problem
from pyramid.ui.form import (
    Form,
    build_advanced,
    build_extras,
    build_form,
    build_seed,
    build_size,
    build_sources,
    build_steps,
)
from pyramid.ui.guards import CLICKS as KNOWN_WORDS
from pyramid.ui.guards import Look, in_place
from pyramid.ui.kept import wire_reload
from pyramid.ui.live import build_live
from pyramid.ui.markup import html, say
from pyramid.ui.models import build_models
from pyramid.ui.plans import PlanPart, build_plan
from pyramid.ui.presets import (
    build_examples,
    build_presets,
    build_save,
    wire_examples,
    wire_presets,
    wire_speed,
)
from pyramid.ui.queue import Queue, build_banner, build_queue
from pyramid.ui.results import build_results, build_variations
from pyramid.ui.sight import build_sight, wire_sight
from pyramid.ui.watch import Watcher, head_words

STYLE = Path(__file__).resolve().parent.parent.parent / "assets" / "style.css"
KEPT = (3600, 86400)  # seconds: how often Gradio's copies of uploads are checked, and how old they may get
VARIATIONS = 4  # seeds of one click
AGAIN_EVERY = 1.0  # seconds until a page whose watcher was cut asks for a new one
NEW_VISITOR = """(token) => token ||
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"))
    .join("")"""
TO_THE_VIDEO = """() => {
  if (innerWidth < 900 && !document.querySelector("#verdict .problem"))
    document.querySelector("#show").scrollIntoView({behavior: "smooth"});
}"""
HEAD = (STYLE.parent / "page.js").read_text(encoding="utf-8")


def build(app: App) -> gr.Blocks:
    """The whole page; nothing is served yet.

    Parts that others plug in: `visitor` (gr.BrowserState, pass it to `app.owner` as the token) and `pulse`
    (hidden gr.Textbox whose `change` says that the owner's results changed).
    """
    with Telling(app, title="Pyramid", analytics_enabled=False, fill_width=True, delete_cache=KEPT) as page:
        endpoints = build_endpoints(app)  # first, or an event of the page would take the name of one
        visitor = gr.BrowserState(None, storage_key="pyramid-visitor", secret="pyramid")
        with gr.Column(elem_id="unseen"):  # words whose change is an event of its own
            pulse = gr.Textbox(visible="hidden", elem_id="pulse", label="pulse")
            identity = app.worker.checkpoint.identity
            model = gr.Textbox(identity, visible="hidden", elem_id="model-loaded", label="model")
            news = gr.Textbox(visible="hidden", elem_id="news", label="news")
            timer = gr.Timer(AGAIN_EVERY)
        head = html(head_words(app), js_on_load=HEAD, elem_id="head")
        with gr.Column(elem_id="models", min_width=0):
            build_models(app, page, pulse)
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="form", scale=0, min_width=0):
                left = build_left(app)
            with gr.Column(elem_id="show", min_width=0):
                live = build_live(app)
                left.queue.watch = live.watch
                direct = build_direct(app, news)
                four = build_variations()
            with gr.Column(elem_id="side", scale=0, min_width=0):
                build_queue(left.queue)
                results = build_results(app, four)
        left.wire(page, visitor, pulse, model)
        live.wire(visitor)
        direct.wire(page, visitor, pulse, left)
        results.wire(page, visitor, pulse, left.form)
        watch = Watcher(app, live, left.queue).watch
        shown = [*live.outputs, left.queue.list, left.generate, head, pulse, model, news]
        page.load(None, visitor, visitor, js=NEW_VISITOR, api_visibility="private")
        gr.on([page.load, timer.tick], watch, visitor, shown, trigger_mode="once", postprocess=False, **QUIET)
        endpoints.render()
        guard_events(page, app)
    return page


def build_endpoints(app: App) -> gr.Column:
    """What programs may ask, unseen. It is rendered behind all else: for each value that changes, a browser
    looks through all parts from the first on, and these are a hundred.
    """
    with gr.Column(visible=False) as endpoints:
        register_api(app)
    endpoints.unrender()
    return endpoints


# ------------------------------------------------------------------------------------------------------------
# The left side: what to make


class Left:
    """The form with all that stands around its fields, and the buttons that start."""

    form: Form
    look: Look
    examples: gr.HTML
    sight: gr.HTML
    plan: PlanPart
    save: tuple[gr.Textbox, gr.Button]
    generate: gr.Button
    variations: gr.Button

    def __init__(self, app: App):
        self.app = app
        self.queue = Queue(app)

    def wire(self, page: gr.Blocks, visitor: gr.BrowserState, pulse: gr.Textbox, model: gr.Textbox) -> None:
        form = self.form
        look = self.look
        self.wire_buttons([visitor, *form.components, *form.extras])
        changes = [field.change for field in form.components]
        follow([page.load, pulse.change, *changes], look, form.components, look.outputs, preprocess=False)
        model.change(form.for_model, None, form.components, **QUIET)
        of_mode = [form.extra["pictures"], form.extra["format"]]
        follow([page.load, form.fields["mode"].change], for_mode, form.fields["mode"], of_mode)
        self.plan.wire(page, form, pulse)
        prompt = form.fields["prompt"]
        look.counts.click(known_word, prompt, prompt, **QUIET)
        wire_sight(form, self.sight)
        wire_examples(form, self.examples)
        wire_presets(form, page, self.save, visitor)
        wire_speed(form)
        self.queue.wire(form, visitor)
        wire_reload(form, page, model)

    def wire_buttons(self, asked: list) -> None:
        """What the whole form is sent to: `asked` are the visitor and all fields."""
        form = self.form
        look = self.look
        gr.on(
            [self.generate.click, form.fields["prompt"].submit],
            self.begin,
            asked,
            [form.fields["seed"], look.verdict],
            **AS_SENT,
        ).then(None, js=TO_THE_VIDEO)
        outputs = [form.fields["seed"], look.verdict]
        self.variations.click(self.vary, asked, outputs, **AS_SENT).then(None, js=TO_THE_VIDEO)
        self.queue.save.click(
            self.change,
            [self.queue.editing, *asked],
            [self.queue.editing, self.queue.banner, look.verdict],
            **AS_SENT,
        )

    def vary(self, token: str | None, request: gr.Request, *values) -> list:
        """Four seeds of what the form asks for, which are shown side by side: one of them is kept then."""
        fields, extras = self.split(values)
        four = [
            VARIATIONS if name == "count" else value
            for name, value in zip(self.form.extra, extras, strict=True)
        ]
        return self.begin(token, request, *fields, *four, group=uuid.uuid4().hex)

    def begin(self, token: str | None, request: gr.Request, *values, group: str = "") -> list:
        """Put what the form asks for into the queue: the seed that will be used, or what is wrong."""
        fields, extras = self.split(values)
        try:
            output, many, more = self.form.output(*extras)
            output = replace(output, random=self.random(*fields), group=group)
            given = self.given(*fields)
            pictures = [given["image"], *map(Path, more)] if given["image"] else []
            owner = self.owner(request, token)
            with self.app.working(request):  # it looks at what is to be moved
                settings = self.form.read(*fields)
            total = many * max(1, len(pictures))
            with self.app.working(request), self.app.adding(request, owner, total):
                jobs = self.app.store.add_many(
                    settings,
                    owner=owner,
                    count=many,
                    output=output,
                    images=[(path.name, path) for path in pictures],
                    video=given["video"],
                )
        except Exception as error:
            return [gr.skip(), problem(self.app, error)]
        if len(jobs) > 1:
            say(f"{len(jobs)} videos were added to the queue.", "Queue")
        return [jobs[0].settings.seed, gr.skip()]

    def change(self, job_id: str, token: str | None, request: gr.Request, *values) -> list:
        """Write the form into the waiting job that it was filled from."""
        fields, extras = self.split(values)
        try:
            given = self.given(*fields)
            output, _, _ = self.form.output(*extras)
            output = replace(output, random=self.random(*fields))
            name = given["image"].name if given["image"] else ""
            owner = self.owner(request, token)
            with self.app.working(request):  # it looks at what is to be moved
                settings = self.form.read(*fields)
            with self.app.working(request):
                saved = self.app.store.edit(job_id, owner, settings, output=output, image_name=name, **given)
        except Exception as error:
            return [gr.skip(), gr.skip(), problem(self.app, error)]
        say(f"Saved: {saved.settings.prompt[:60]} · {facts(saved)}", "The change was saved")
        return ["", gr.update(visible=False), gr.skip()]

    def random(self, *fields) -> bool:
        """Whether the form leaves the seed to chance."""
        return bool(self.form.values(*fields)["random"])

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
            "owner", "this browser blocks this page's storage, so your videos could not be found again"
        )


def known_word(prompt: str, event: gr.EventData) -> str:
    """The prompt with the word that was clicked, in place of the one that the model does not know."""
    return in_place(prompt or "", str(event.word), str(event.known))


def for_mode(mode: str) -> list[dict]:
    """More pictures where a picture is asked for, and what a still becomes whatever the format is."""
    note = "A still is saved as PNG" if mode == "still" else ""
    return [gr.update(visible=mode == "image"), gr.update(info=note)]


def build_left(app: App) -> Left:
    left = Left(app)
    left.form = form = build_form(app)
    left.look = look = Look(app, form)
    look.counts = html(look.counter.html(""), js_on_load=KNOWN_WORDS, elem_id="counts")
    left.examples = build_examples(app)
    build_sources(form)
    left.sight = build_sight()
    build_size(form)
    look.length = html("", elem_id="length")
    with gr.Row(elem_classes="pair"):
        build_presets(form)
        build_seed(form)
    with gr.Accordion("The pyramid", open=True, elem_id="pyramid"):
        build_steps(form)
        look.drawing = html(look.draw(app.worker.start_from), elem_id="drawing")
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        build_advanced(form)
        look.negative_counts = html("")
        build_extras(form)
        left.plan = build_plan(app)
        left.save = build_save(form)
    with gr.Column(elem_id="go", min_width=0):
        look.verdict = html("", elem_id="verdict")
        build_banner(left.queue)
        with gr.Row(elem_id="begin"):
            left.generate = gr.Button("Generate", variant="primary", elem_id="generate")
            left.variations = gr.Button("Variations ×4", elem_id="variations", scale=0, min_width=0)
    return left
