"""Which variant of the loaded model makes a request: it is not always the one that is loaded.

    settings = for_request(app, settings, source)        # of the variant that makes them
    checkpoint_of(app, settings)                         # whose words and trained sizes hold for them

A photograph goes to the variant that moves photographs, where the loaded one knows drawn scenes alone. More
steps than the loaded one was taught go to the one that it was taught by. A job brings its own model, for
visitors too, who cannot load another, and the page says which one it is.
"""

from dataclasses import fields, replace
from html import escape
from pathlib import Path

from pyramid.hub.checkpoints import Checkpoint, CheckpointError, find, list_variants
from pyramid.media.looks import is_drawn_file
from pyramid.presets import at_speed, mover_beside, speed_of, speeds_of
from pyramid.settings import FAST, MACHINE, SPEEDS, Settings
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
    return _variant(app, mover_beside(app.worker.checkpoint))


def teacher(app: App) -> Checkpoint | None:
    """The variant that takes any number of steps, where the loaded one was taught few by it."""
    now = app.worker.checkpoint
    slow = now.variant.removesuffix(FAST)
    return _variant(app, slow) if slow != now.variant and slow in list_variants(now.folder) else None


def _variant(app: App, name: str | None) -> Checkpoint | None:
    try:
        return find(app.worker.start_from.model, name) if name else None
    except CheckpointError:  # its files are damaged: the models panel says so
        return None


def for_request(app: App, settings: Settings, source: str | Path | None) -> Settings:
    """The settings of a clip that begins with `source`, if with anything, for the variant that makes it."""
    return for_photograph(app, for_steps(app, settings), source)


def for_steps(app: App, settings: Settings) -> Settings:
    """The settings, for the variant that takes them where the loaded one was taught fewer steps."""
    start = app.worker.start_from
    if (to := teacher(app)) is None:
        return settings
    most = max(*start.num_inference_steps, *start.video_num_inference_steps)
    asked = max(*settings.num_inference_steps, *settings.video_num_inference_steps)
    if asked <= most and settings.sampler == start.sampler:
        return settings
    return replace(settings, variant=to.variant)


def for_photograph(app: App, settings: Settings, source: str | Path | None) -> Settings:
    """The settings of a clip that begins with `source`, for the variant that moves it where that is a
    photograph: what nobody changed is as that variant starts with.
    """
    if not source or settings.num_frames == 1 or (to := mover(app)) is None:
        return settings
    if is_drawn_file(source, settings.model):
        return settings
    return _changed(settings, start_of(app, settings), _start(app, to))


def at_speed_of(app: App, speed: str, settings: Settings) -> Settings:
    """The settings at one of `speeds_here`: what nobody changed is as the variant starts with that has it."""
    if speed == "quick":
        start = app.worker.start_from
        settings = _changed(settings, start_of(app, settings), start)
    else:
        settings = for_any_steps(app, settings)
        start = start_of(app, settings)
    return replace(settings, **at_speed(speed, start))


def for_any_steps(app: App, settings: Settings) -> Settings:
    """The settings, for the variant that takes any number of steps and any guidance, if there is one."""
    slow = teacher(app)
    return _changed(settings, start_of(app, settings), _start(app, slow)) if slow else settings


def speeds_here(app: App) -> tuple[str, ...]:
    """The speeds that the loaded model has, in whichever of its variants."""
    return tuple(SPEEDS) if teacher(app) else speeds_of(app.worker.start_from)


def speed_here(app: App, settings: Settings) -> str | None:
    """The speed that has the settings' variant, sampler and steps; None where they are somebody's own."""
    speed = speed_of(settings, start_of(app, settings))
    return None if speed == "quick" and settings.variant != app.worker.start_from.variant else speed


def _changed(settings: Settings, here: Settings, there: Settings) -> Settings:
    """The settings with all that is as in `here` as it is in `there`."""
    names = [spec.name for spec in fields(Settings)]
    left = [name for name in names if getattr(settings, name) == getattr(here, name)]
    return replace(settings, **{name: getattr(there, name) for name in left})


def start_of(app: App, settings: Settings) -> Settings:
    """What the variant that makes the settings starts with."""
    return _start(app, checkpoint_of(app, settings))


def _start(app: App, checkpoint: Checkpoint) -> Settings:
    now = app.worker.start_from
    if checkpoint.variant == now.variant:
        return now
    machine = {name: getattr(now, name) for name in MACHINE}
    return Settings.for_model(now.model, checkpoint.variant, expects=checkpoint.defaults, **machine)


def checkpoint_of(app: App, settings: Settings | None) -> Checkpoint:
    """The checkpoint that makes the settings: the loaded one, or a variant that stands in for it."""
    now = app.worker.checkpoint
    if settings is None or settings.variant == app.worker.start_from.variant:
        return now
    others = (mover(app), teacher(app))
    return next((other for other in others if other and other.variant == settings.variant), now)


def photograph_words(app: App, settings: Settings) -> str:
    """What becomes of a photograph, as HTML, with words for the camera that a click writes; "" where the
    loaded variant makes it.
    """
    to = mover(app)
    if to is None or to.variant != settings.variant:
        return ""
    vocabulary = Vocabulary.of(to.details)
    offers = "".join(
        f'<button type="button" data-word="" data-known="{escape(words)}">{escape(words)}</button>'
        for words in CAMERAS
        if vocabulary is None or not vocabulary.unknown(words)
    )
    steps = "-".join(map(str, settings.video_num_inference_steps))
    makes = f"{to.variant} makes this clip, in {steps} steps"
    title = f"A photograph: {makes}. It moves the camera, not what is on the photo:"
    return (
        f'<div class="unknown photograph" role="status"><span>{escape(title)}</span>'
        f"<ul><li>{offers}</li></ul></div>"
    )
