"""A photograph goes to the variant that moves photographs, where the loaded one knows drawn scenes alone.

settings = for_photograph(app, settings, source)     # of the variant that moves it, or as they were
checkpoint_of(app, settings)                         # whose words and trained sizes hold for them

Whoever drops a photo need not know of variants, and may be a visitor, who cannot load another: a job brings
its own, and the page says which one and what it understands.
"""

from dataclasses import fields, replace
from html import escape
from pathlib import Path

from pyramid.hub.checkpoints import Checkpoint, CheckpointError, find, list_variants
from pyramid.media.looks import is_drawn_file
from pyramid.settings import MACHINE, PHOTOS, Settings
from pyramid.text.vocabulary import Vocabulary
from pyramid.ui import App

CAMERAS = (
    "the camera pans left",
    "the camera pans right",
    "the camera tilts up",
    "the camera tilts down",
    "slowly zoom in",
    "zoom out",
)


def mover(app: App) -> Checkpoint | None:
    """The variant of the loaded model that moves photographs, where the loaded one does not."""
    now = app.worker.checkpoint
    if now.defaults.photographs:
        return None
    name = next((name for name in list_variants(now.folder) if name.endswith(PHOTOS)), None)
    try:
        return find(app.worker.start_from.model, name) if name else None
    except CheckpointError:  # its files are damaged: the models panel says so
        return None


def for_photograph(app: App, settings: Settings, source: str | Path | None) -> Settings:
    """The settings of a clip that begins with `source`, for the variant that moves it where that is a
    photograph: what nobody changed is as that variant starts with.
    """
    start = app.worker.start_from
    if not source or settings.num_frames == 1 or (to := mover(app)) is None:
        return settings
    if is_drawn_file(source, start.model):
        return settings
    machine = {name: getattr(start, name) for name in MACHINE}
    there = Settings.for_model(start.model, to.variant, expects=to.defaults, **machine)
    names = [spec.name for spec in fields(Settings)]
    left = [name for name in names if getattr(settings, name) == getattr(start, name)]
    return replace(settings, **{name: getattr(there, name) for name in left})


def checkpoint_of(app: App, settings: Settings | None) -> Checkpoint:
    """The checkpoint that makes the settings: the loaded one, or the variant that moves photographs."""
    now = app.worker.checkpoint
    if settings is None or settings.variant == app.worker.start_from.variant:
        return now
    to = mover(app)
    return to if to is not None and to.variant == settings.variant else now


def photograph_words(app: App, settings: Settings) -> str:
    """What becomes of a photograph, as HTML, with words for the camera that a click writes; "" where the
    loaded variant makes it.
    """
    to = checkpoint_of(app, settings)
    if to is app.worker.checkpoint:
        return ""
    vocabulary = Vocabulary.of(to.details)
    offers = "".join(
        f'<button type="button" data-word="" data-known="{escape(words)}">{escape(words)}</button>'
        for words in CAMERAS
        if vocabulary is None or not vocabulary.unknown(words)
    )
    title = f"A photograph: {to.variant} makes this clip. It moves the camera, not what is on the photo:"
    return (
        f'<div class="unknown photograph" role="status"><span>{escape(title)}</span>'
        f"<ul><li>{offers}</li></ul></div>"
    )
