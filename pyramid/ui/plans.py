"""Where the model's parts live while it works: the choice of a plan, what it needs, and why it was chosen.

plan = build_plan(app); plan.wire(page, form, pulse)     # inside gr.Blocks
plan_of(app, settings)                                   # of a run; None while the model loads
"""

from dataclasses import replace
from html import escape

import gradio as gr

from pyramid.memory.plan import NAMES, Plan, describe, make_plan
from pyramid.settings import QUANTIZE, Settings, SettingsError
from pyramid.ui import LATEST, App, follow
from pyramid.ui.form import Form
from pyramid.ui.markup import html, say, warn, words_of

WORDS = {
    "auto": "Automatic: the fastest that fits",
    "max": "Max: everything on the GPU",
    "balanced": "Balanced: text encoders only while needed",
    "low": "Low: one model at a time on the GPU",
    "tiny": "Tiny: one layer at a time on the GPU",
    "cpu": "CPU: no GPU",
}
BITS = {
    "none": "Not quantized",
    "int8": "8-bit: T5, and the transformer on CUDA",
    "nf4": "4-bit (NF4): T5, and the transformer on CUDA",
    "fp8": "FP8 storage of the transformer",
}


def plan_of(app: App, settings: Settings) -> Plan | None:
    """The plan of a run. Raises SettingsError where the chosen one cannot be followed here."""
    worker = app.worker
    if not worker.loaded.is_set() or worker.error:
        return None  # torch is still on its way, and a page does not wait for it
    return make_plan(worker.checkpoint, settings, wanted=worker.memory)


def plan_words(app: App, settings: Settings) -> str:
    """What the plan needs and why it is this one, as HTML."""
    try:
        plan = plan_of(app, settings)
    except SettingsError as error:
        return f'<p class="problem">{escape(words_of(error))}</p>'
    if plan is None:
        return '<p class="note">The model is loading</p>'
    words = describe(plan)
    short = "" if plan.fits else '<p class="problem">This is more memory than is free now.</p>'
    return f'<p class="note">{escape(words[0].upper() + words[1:])}</p>{short}'


class PlanPart:
    """The choice, for the owner of the machine, and what it means, for everybody."""

    def __init__(self, app: App):
        self.app = app
        self.words: gr.HTML
        self.choice: gr.Dropdown | None = None
        self.quantize: gr.Dropdown | None = None

    def wire(self, page: gr.Blocks, form: Form, pulse: gr.Textbox) -> None:
        """Apart from the rest of the form: what is free is measured each time,
        and the form does not wait for it.
        """

        def look(*values) -> str:
            try:
                settings = form.basis(*values)
                settings.check_shape()
            except SettingsError:
                return gr.skip()  # the form says what is wrong
            return plan_words(self.app, settings)

        decisive = [
            form.fields[name].change for name in ("mode", "seconds", "size", "width", "height", "stages")
        ]
        events = [page.load, pulse.change, *decisive]
        follow(events, look, form.components, self.words, preprocess=False)
        if self.choice is not None and self.quantize is not None:
            both = [self.choice, self.quantize]
            follow([page.load, pulse.change], self.chosen, None, both)
            self.choice.input(self.choose, self.choice, both, **LATEST)
            self.quantize.input(lambda kind: self.choose(quantize=kind), self.quantize, both, **LATEST)

    def chosen(self) -> tuple[str, str]:
        """What holds now, whoever chose it."""
        return self.app.worker.memory, self.app.worker.start_from.quantize

    def choose(self, name: str | None = None, quantize: str | None = None) -> tuple[str, str]:
        """Load the model anew by another plan; the running job ends first, by the one that it began with.

        What is not given stays as it is, whatever an open page shows. Returns what holds then: a choice that
        this machine cannot follow is taken back, and it is said why.
        """
        app = self.app
        before = self.chosen()
        name = name or before[0]
        quantize = quantize or before[1]
        start = replace(app.worker.start_from, quantize=quantize)
        if (name, quantize) == before:
            return before  # a choice can be told twice
        try:
            make_plan(app.worker.checkpoint, start, wanted=name)
            app.worker.switch(start.model, start.variant, memory=name, quantize=quantize)
        except ValueError as error:
            warn(words_of(error), "The memory plan was not changed")
            return before
        say(f"The model reloads{' as soon as the running job has ended' * app.worker.busy}.", "Memory")
        return name, quantize


def build_plan(app: App) -> PlanPart:
    part = PlanPart(app)
    if app.local:
        choices = [(WORDS[name], name) for name in ("auto", *NAMES)]
        part.choice = gr.Dropdown(
            choices, value=app.worker.memory, label="Memory", filterable=False, elem_id="memory"
        )
        kinds = [(BITS[name], name) for name in QUANTIZE]
        part.quantize = gr.Dropdown(
            kinds,
            value=app.worker.start_from.quantize,
            label="Quantization",
            filterable=False,
            elem_id="quantize",
        )
    part.words = html("", elem_id="plan")
    return part
