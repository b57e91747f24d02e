"""What the form's values mean together, said before anything is started.

    look = Look(app, form)
    look.outputs, look(*values)        # counts under the prompt, the length, the drawing, the verdict

Nothing is corrected: what cannot run is said in the words of the error that it would be, and what the weights
were not trained for is marked.
"""

import re
import threading
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from pyramid.hub.checkpoints import Checkpoint
from pyramid.media.looks import is_drawn_file
from pyramid.settings import MAX_PROMPT, MAX_STAGES, Settings, SettingsError, most_given
from pyramid.text.vocabulary import Vocabulary
from pyramid.ui import App
from pyramid.ui.errors import problem
from pyramid.ui.form import OTHER, Form
from pyramid.ui.pyramid_view import clock, drawing
from pyramid.ui.variants import checkpoint_of, mover, photograph_words, speed_here, speeds_here

MOST_UNKNOWN = 6  # words that are listed
CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-word]");
  if (button) trigger("click", {word: button.dataset.word, known: button.dataset.known});
});"""

if TYPE_CHECKING:
    from pyramid.text.encoders import TextEncoders


class Counter:
    """Tokens of a text by encoder, with the tokenizers of the model that is loaded. Nothing before it is."""

    def __init__(self, app: App):
        self.app = app
        self._of: Path | None = None  # the folder whose tokenizers these are
        self._encoders: TextEncoders | None = None
        self._lock = threading.Lock()

    def measure(self, text: str) -> dict[str, tuple[int, int, str]]:
        """{encoder: (tokens, how many it reads, what is cut)};
        empty while the model loads or without encoders.
        """
        worker = self.app.worker
        if not worker.loaded.is_set() or worker.error or not worker.checkpoint.has_text:
            return {}
        if len(text) > MAX_PROMPT:  # it is refused, and counting a million characters would hold others up
            return {}
        with self._lock:
            if self._encoders is None or self._of != worker.checkpoint.folder:
                from pyramid.text.encoders import TextEncoders  # torch is there by now

                self._of = worker.checkpoint.folder
                self._encoders = TextEncoders.from_folder(self._of)
            return self._encoders.measure(text)

    def html(self, text: str) -> str:
        """Where a text is too long: the counts as a line, and what an encoder does not read."""
        measured = self.measure(text)
        counts = " · ".join(
            f'<span class="over">{label} {tokens}/{limit} tokens</span>'
            for label, (tokens, limit, cut) in measured.items()
            if cut
        )
        cuts = [
            f"{label} does not read “{escape(short(cut))}”" for label, (_, _, cut) in measured.items() if cut
        ]
        said = f'<p class="counts">{counts}</p>' if counts else ""
        return said + "".join(f'<p class="cut">{words}</p>' for words in cuts)


def unknown_words(checkpoint: Checkpoint, prompt: str) -> str:
    """The words of a prompt that a model was not trained with, each with the nearest it knows, which
    a click puts in its place. Nothing where the model says nothing of its words.
    """
    vocabulary = Vocabulary.of(checkpoint.details)
    if vocabulary is None or len(prompt) > MAX_PROMPT:
        return ""
    items = []
    for word in vocabulary.unknown(prompt)[:MOST_UNKNOWN]:
        offers = "".join(
            f'<button type="button" data-word="{escape(word)}" data-known="{escape(known)}" '
            f'aria-label="Write {escape(known)} in place of {escape(word)}">{escape(known)}</button>'
            for known in vocabulary.nearest(word)
        )
        items.append(f"<li><s>{escape(word)}</s>{offers}</li>")
    if not items:
        return ""
    title = "This model was not trained with:"
    return f'<div class="unknown" role="status"><span>{title}</span><ul>{"".join(items)}</ul></div>'


def in_place(prompt: str, word: str, known: str) -> str:
    """A prompt with a known word in place of an unknown one, wherever it stands; in place of all of it where
    no word is named.
    """
    if not word:
        return known
    return re.sub(rf"\b{re.escape(word)}\b", lambda _: known, prompt, flags=re.IGNORECASE)


def short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Look:
    """Looks at all fields after each change. `outputs`: the parts it renews, built by `build_*` here."""

    counts: gr.HTML
    negative_counts: gr.HTML
    length: gr.HTML
    drawing: gr.HTML
    verdict: gr.HTML

    def __init__(self, app: App, form: Form):
        self.app = app
        self.form = form
        self.counter = Counter(app)

    @property
    def outputs(self) -> list:
        f = self.form.fields
        steps = [f[f"{which}{n}"] for which in ("first", "rest") for n in range(MAX_STAGES)]
        return [
            self.counts,
            self.negative_counts,
            self.length,
            self.drawing,
            self.verdict,
            self.form.other_size,
            f["picture"],
            f["clip"],
            f["fit"],
            f["seconds"],
            self.form.speed,
            *steps,
        ]

    def __call__(self, *values) -> list:
        v = self.form.values(*values)
        mode = v["mode"]
        still = v["mode"] == "still"
        suffix = v["prompt_suffix"] if v["use_suffix"] else ""
        settings, verdict = self.judge(*values)
        shown = [gr.update(visible=n < int(v["stages"])) for _ in range(2) for n in range(MAX_STAGES)]
        return [
            self.words(settings, v["prompt"], suffix),
            self.counter.html(v["negative_prompt"]),
            length_words(settings) if settings else gr.skip(),
            self.draw(settings) if settings else gr.skip(),
            verdict,
            gr.update(visible=v["size"] == OTHER),
            gr.update(visible=mode == "image"),
            gr.update(visible=mode == "video"),
            gr.update(visible=mode in ("image", "video")),
            gr.update(interactive=not still),
            self.speed(settings),
            *shown,
        ]

    def words(self, settings: Settings | None, prompt: str, suffix: str) -> str:
        """What is to be said of the prompt, as HTML: its length, its words, and those for a photograph."""
        app = self.app
        unknown = unknown_words(checkpoint_of(app, settings), prompt)
        camera = photograph_words(app, settings) if settings else ""
        return self.counter.html(prompt + suffix) + unknown + camera

    def speed(self, settings: Settings | None) -> dict:
        """The speeds of the loaded model, and which of them these settings have. The variant that moves
        photographs has but its own.
        """
        moved = mover(self.app)
        if settings and moved and settings.variant == moved.variant:
            return gr.skip()
        choices = [(name.capitalize(), name) for name in speeds_here(self.app)]
        return gr.update(choices=choices, value=settings and speed_here(self.app, settings))

    def start(self) -> list:
        """What the parts show before anything was changed: the settings that the model starts with."""
        settings = self.app.worker.start_from
        return [
            self.counter.html(""),
            length_words(settings),
            self.draw(settings),
            ready_words(self.app, settings),
        ]

    def draw(self, settings: Settings) -> str:
        return drawing(settings, self.app.worker.estimate(settings), given=1 if settings.image else 0)

    def judge(self, *values) -> tuple[Settings | None, str]:
        """The settings, where a drawing can be made of them, and what is to be said of them as HTML."""
        settings = None
        try:
            settings = self.form.read(*values)
            # Without a word yet, as every page opens, the rest is judged all the same.
            check(self.app, settings, skip=() if settings.prompt.strip() else ("prompt",))
        except SettingsError as error:
            shown = settings if settings and drawable(settings) else None
            return shown, problem(self.app, error)
        source = next(filter(None, self.form.sources(*values)), None)
        return settings, ready_words(self.app, settings, source)


def drawable(settings: Settings) -> bool:
    """Whether what is drawn and counted is within the limits, whatever else is wrong:
    beyond them it costs too much.
    """
    try:
        settings.check_shape()
    except SettingsError:
        return False
    return True


def check(app: App, settings: Settings, skip: tuple[str, ...] = ()) -> None:
    """Raises SettingsError for what cannot run, or not for this visitor; `skip` as in `validate`."""
    settings.validate(skip=skip)
    app.limits.check(settings)


def length_words(settings: Settings) -> str:
    """The length in every unit that people count in."""
    if settings.num_frames == 1:
        return '<p class="note">One picture</p>'
    given = ""
    if settings.video:
        most = most_given(settings.units)
        given = f", {f'up to {most} frames' if most > 1 else 'one frame'} of them from the clip"
    return (
        f'<p class="note"><b>{settings.seconds:g} s</b> · {settings.num_frames} '
        f"frames at {settings.fps} a second · "
        f"{settings.units} units{given}</p>"
    )


def ready_words(app: App, settings: Settings, source: str | None = None) -> str:
    """How long it will take, in how much memory, and what lies outside of what the weights were trained
    for.
    """
    seconds = app.worker.estimate(settings)
    drawn = source is not None and source != "" and is_drawn_file(source, app.worker.start_from.model)
    if app.worker.error:
        return f'<p class="problem">{escape(app.shown(app.worker.error))}</p>'
    if seconds is not None:
        words = f"about {clock(seconds)} on this machine"
    else:
        words = (
            "The first run measures this machine" if app.worker.loaded.is_set() else "The model is loading"
        )
    marks = "".join(
        f'<p class="mark">Not trained: {escape(note)}</p>'
        for note in settings.experimental(checkpoint_of(app, settings).defaults, drawn=drawn)
    )
    return f'<p class="ready">{words}</p>{marks}'
