"""The models panel: which models there are, what they are good for, which are here; fetch one, use another.

    build_models(app)                     # inside gr.Blocks
    entries(app)                          # the list, for programs

A download belongs to the server: it goes on when the page is closed, and every page shows it. Visitors see
the list; to fetch, add and switch is for the owner of the machine, at the machine.
"""

import json
import os
import re
import threading
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from pyramid.disk import whole
from pyramid.hub.checkpoints import CheckpointError, find, list_variants, locate, release_of, verify
from pyramid.hub.download import (
    Cancelled,
    Download,
    Listing,
    check_space,
    look_up,
    needed_files,
    size_text,
)
from pyramid.hub.families import RELEASES
from pyramid.settings import MODELS
from pyramid.ui import QUIET, App, follow
from pyramid.ui.markup import failure, html, say

POLL = 0.5  # seconds between two looks at a download
WEIGHTS = {  # model -> billions of weights: transformer, autoencoder, text encoders
    "miniflux": 1.97 + 0.34 + 4.88,
    "sd3": 2.03 + 0.34 + 5.58,
}
SHAPES = "Trying everything out in seconds, on any machine: plain shapes and motions, 128 × 128."
GOOD_FOR = {
    ("embedded", "128p"): SHAPES,
    ("embedded", "128p-fast"): "The same in a ninth of the work, taught by it: 2, 2 and 1 steps a stage.",
    (
        "embedded",
        "128p-photos",
    ): "A camera that pans, tilts or zooms over a photograph. Stars are the worse for it.",
    ("miniflux", "384p"): "Video at 640 × 384, up to 5 s. The place to start.",
    ("miniflux", "768p"): "Video at 1280 × 768, up to 10 s. Four times the pixels of 384p.",
    ("miniflux", "image"): "Still images at 1024 × 1024 and at the video's size.",
    ("sd3", "384p"): "Video at 640 × 384, up to 5 s. The earlier model, based on Stable Diffusion 3 Medium.",
    ("sd3", "768p"): "Video at 1280 × 768, up to 10 s. The earlier model.",
}


# -- the list


@dataclass(frozen=True)
class Entry:
    """One variant of a model. `model` is what `find` takes, and may be a folder: people are shown `title`."""

    model: str
    variant: str
    title: str
    good_for: str
    license: str
    size: str
    here: bool
    loaded: bool = False
    problem: str = ""  # why it cannot be used though it is here

    @property
    def key(self) -> str:
        return f"{self.model}\n{self.variant}"


def entries(app: App) -> list[Entry]:
    """The embedded model, the published ones, and the folders that were added;
    also the one that is loaded.
    """
    names = [*MODELS, *read_folders(app)]
    now = app.worker.start_from
    release = release_of(now.model)
    if now.model not in names and not (release and release.name in names):
        names.append(now.model)
    return [entry(app, model, variant) for model in names for variant in variants_of(model)]


def variants_of(model: str) -> list[str]:
    """The variants that a model has: as published, or as there are folders."""
    if model in MODELS:
        return list(MODELS[model])
    try:
        return list_variants(locate(model))
    except CheckpointError:
        return []


def entry(app: App, model: str, variant: str) -> Entry:
    release = RELEASES.get(model)
    now = (app.worker.start_from.model, app.worker.start_from.variant)
    names = {model, release.repository} if release else {model}
    loaded = now in {(name, variant) for name in names}
    license_text = release.licence if release else ""
    good_for = GOOD_FOR.get((model, variant), "Your own model.")
    size = f"{WEIGHTS[model]:.1f} billion weights" if model in WEIGHTS else ""
    split = " · " if size else ""
    try:
        checkpoint = find(model, variant)
    except CheckpointError:
        return Entry(model, variant, title_of(model), good_for, license_text, size, here=False)
    problem = ""
    try:
        verify(checkpoint, text=checkpoint.has_text)
    except CheckpointError as error:
        problem = "; ".join(error.problems) or str(error)
    return Entry(
        model,
        variant,
        title_of(model),
        good_for,
        checkpoint.licence or license_text,
        f"{size_text(size_of(checkpoint))} on disk{split}{size}",
        here=not problem,
        loaded=loaded,
        problem=problem,
    )


def title_of(model: str) -> str:
    """A model's name for people: of a folder only its last part."""
    return model if model in MODELS or release_of(model) else Path(model).name or model


def size_of(checkpoint) -> int:
    """Bytes of what a variant needs."""
    folder = checkpoint.folder
    paths = [path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.is_file()]
    try:
        needed = needed_files(paths, checkpoint.family, checkpoint.variant)
    except CheckpointError:
        folders = (f"{checkpoint.transformer.name}/", f"{checkpoint.vae.name}/")
        needed = [path for path in paths if path.startswith(folders)]
    return sum((folder / path).stat().st_size for path in needed)


def folders_file(app: App) -> Path:
    return app.store.private / "models.json"


def read_folders(app: App) -> list[str]:
    """The folders that were added and are still there."""
    try:
        kept = json.loads(folders_file(app).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):  # none was added, or it is damaged: the folders are not
        return []
    named = kept if isinstance(kept, list) else []
    return [path for path in named if isinstance(path, str) and os.path.isdir(path)]


def path_of(typed: str) -> Path:
    """The folder that was typed, or pasted with quotes around it."""
    return Path(typed.strip().strip("\"'")).expanduser()


def add_folder(app: App, typed: str) -> str:
    """Remember a folder of one's own. Its name, for people. CheckpointError when it holds no usable model."""
    if not typed.strip():
        raise CheckpointError("enter the folder that holds causal_video_vae and a diffusion_transformer_…")
    path = path_of(typed)
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {typed.strip()!r}")
    checkpoint = find(path)
    verify(checkpoint, text=checkpoint.has_text)
    folders = read_folders(app)
    if str(path.resolve()) not in folders:
        folders_file(app).parent.mkdir(parents=True, exist_ok=True)
        with whole(folders_file(app)) as part:
            part.write_text(json.dumps([*folders, str(path.resolve())]))
    return checkpoint.name


# -- downloads


class Downloads:
    """The download that is on, or was last: one at a time, in a thread of its own."""

    def __init__(self):
        self.listing: Listing | None = None
        self.job: Download | None = None
        self.error = ""
        self.thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def start(self, model: str, variant: str) -> None:
        """Look a variant up and fetch it in the background. CheckpointError at once for what can be known at
        once.
        """
        with self._lock:
            if self.busy:
                raise CheckpointError("another model is being downloaded: wait for it or cancel it first")
            listing = look_up(model, variant)
            check_space(listing.storage, listing.missing)
            self.listing = listing
            self.job = job = Download(listing)
            self.error = ""
            self.thread = threading.Thread(target=self._run, args=[job], name="download", daemon=True)
            self.thread.start()

    def _run(self, job: Download) -> None:
        try:
            job.run()
        except Cancelled:
            self.error = "Canceled. What was downloaded is kept: the next download continues from there."
        except CheckpointError as error:
            self.error = str(error)

    def cancel(self) -> None:
        if self.job:
            self.job.stop.set()

    def line(self) -> str:
        """Where it stands, as HTML; empty when nothing was downloaded."""
        job = self.job
        if job is None:
            return ""
        name = f"{escape(title_of(job.listing.model))} {escape(job.listing.variant)}"
        share = job.done / max(job.total, 1)
        if self.busy:
            state = "busy"
            said = f"{escape(job.now)} · {size_text(job.done)} of {size_text(job.total)}"
        elif self.error:
            state = "failed"
            said = escape(self.error)
        else:
            state = "done"
            said = f"complete, {size_text(job.total)}, all hashes verified"
        return (
            f'<div class="download {state}"><progress max="1" value="{share:.4f}" aria-label="Download">'
            f'</progress><p role="status"><b>{name}</b>: {said}</p></div>'
        )


# -- the panel


def build_models(app: App, page: gr.Blocks, pulse: gr.Textbox | None = None) -> None:
    """The panel, inside `page`. That another model was chosen, others see by `app.worker.checkpoint`.

    `pulse` changes when another model is chosen, on whichever page.
    """
    table = html(table_of(app), elem_id="models-table")
    seen = gr.State(None)
    events = [page.load, *([pulse.change] if pulse else [])]
    if not app.local:
        follow(events, lambda before: news(app, before)[:2], seen, [seen, table])
        return
    panel = Panel(app, table)
    follow(events, lambda *now: news(app, *now), [seen, panel.choice], [seen, table, panel.choice])
    panel.wire(page)


class Panel:
    """What the owner of the machine does with models: use one, download one, add a folder."""

    def __init__(self, app: App, table: gr.HTML):
        self.app = app
        self.table = table
        self.downloads = Downloads()
        with gr.Row(elem_id="models-choice"):
            self.choice = gr.Dropdown(
                choices_of(app), label="Model", value=chosen(app), elem_id="models-pick", scale=3
            )
            self.use = gr.Button("Load", elem_id="models-use", scale=1)
            self.fetch = gr.Button("Download", elem_id="models-fetch", scale=1)
            self.cancel = gr.Button("Cancel", elem_id="models-cancel", visible=False, scale=1)
        self.line = gr.HTML(elem_id="models-line")
        with gr.Row(elem_id="models-own"):
            self.folder = gr.Textbox(
                label="Add a model from a folder",
                max_lines=1,
                scale=3,
                elem_id="models-folder",
                placeholder="/path/to/model, the folder that contains causal_video_vae",
            )
            self.add = gr.Button("Add", elem_id="models-add", scale=1)
        self.timer = gr.Timer(POLL, active=False)

    def wire(self, page: gr.Blocks) -> None:
        line = [self.line, self.timer, self.cancel, self.fetch]
        shown = [*line, self.table, self.choice]
        added = [self.choice, self.table, self.folder]
        self.fetch.click(self.start, self.choice, shown, **QUIET)
        self.timer.tick(self.progress, None, shown, **QUIET)
        self.cancel.click(self.stop, None, shown, **QUIET)
        self.use.click(self.switch, self.choice, self.table, **QUIET)
        gr.on([self.add.click, self.folder.submit], self.add_typed, self.folder, added, **QUIET)
        page.load(lambda: self.progress()[: len(line)], None, line, **QUIET)

    def progress(self) -> list:
        """The line; the rest of the panel only when a download has just ended."""
        busy = self.downloads.busy
        rest = [gr.skip()] * 2 if busy else [table_of(self.app), gr.update(choices=choices_of(self.app))]
        return [
            self.downloads.line(),
            gr.Timer(active=busy),
            gr.update(visible=busy),
            gr.update(visible=not busy),
            *rest,
        ]

    def start(self, key: str) -> list:
        told(lambda: self.downloads.start(*key.split("\n")))
        return self.progress()

    def stop(self) -> list:
        self.downloads.cancel()
        return self.progress()

    def switch(self, key: str) -> str:
        told(lambda: self.app.worker.switch(*key.split("\n")))
        say(
            "The model loads as soon as the running job has ended. The previous one is unloaded first.",
            "Models",
        )
        return table_of(self.app)

    def add_typed(self, typed: str) -> list:
        told(lambda: add_folder(self.app, typed))
        name = title_of(str(path_of(typed).resolve()))
        say(f"{name} was added: choose it under Model.", "Models")
        return [gr.update(choices=choices_of(self.app)), table_of(self.app), ""]


def news(app: App, seen: tuple | None, picked: str | None = None) -> list:
    """What an open page shows of the models: all of it when they are others than it has seen,
    or another is in use.

    What was picked stays where it is the one in use: the list may be open already.
    """
    start = app.worker.start_from
    now = start.model, start.variant, *read_folders(app)
    if now == seen:
        return [gr.skip()] * 3
    value = {} if (loaded := chosen(app)) == picked else {"value": loaded}
    return [now, table_of(app), gr.update(choices=choices_of(app), **value)]


def told(act):
    """What `act` returns; what is wrong becomes a message on the page."""
    try:
        return act()
    except ValueError as error:
        raise failure(str(error), "Models") from error


def choices_of(app: App) -> list[tuple[str, str]]:
    missing = " (not downloaded)"
    return [(f"{e.title} · {e.variant}{'' if e.here else missing}", e.key) for e in entries(app)]


def chosen(app: App) -> str | None:
    """The entry that is loaded."""
    return next((e.key for e in entries(app) if e.loaded), None)


def table_of(app: App) -> str:
    """The list as a table."""
    rows = "".join(
        f"<tr><th scope=row>{escape(e.title)}</th><td>{escape(e.variant)}</td><td>{escape(e.good_for)}</td>"
        f"<td>{escape(e.size)}</td><td>{license_of(e)}</td><td>{state_of(e)}</td></tr>"
        for e in entries(app)
    )
    head = "".join(
        f"<th scope=col>{name}</th>" for name in ("Model", "Variant", "Good for", "Size", "License", "")
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    # it scrolls on phones
    return f'<div class="models" role="region" aria-label="Models" tabindex="0">{table}</div>'


def license_of(e: Entry) -> str:
    """The license, or a link to where it is."""
    link = r'<a href="\2" target="_blank" rel="noopener">\1</a>'
    return re.sub(r"(model card) at (https://[^\s)]+)", link, escape(e.license))


def state_of(e: Entry) -> str:
    """Whether a model is in use, here, or damaged; what is wrong is said when it is pointed at."""
    if e.problem:
        return f'<span title="{escape(e.problem, quote=True)}">damaged</span>'
    if e.loaded:
        return "<b>in use</b>"
    return "downloaded" if e.here else "not downloaded"
