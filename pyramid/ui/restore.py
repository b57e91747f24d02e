"""From a file that this program made back to the settings it was made with,
and what could not be brought back.

    found = restore(Path("a-ball-7.mp4"), app, owner)  # a result, its .json, a settings .json or a preset
    .toml found.settings, found.picture, found.video            # for `form.fill`
    found.notes                                           # a sentence for each thing that is not as it was

Nothing is guessed: what is unknown, not here, or not of the loaded model is named in the notes.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyramid.failures import known
from pyramid.hub.checkpoints import identity
from pyramid.jobs.queue import Job
from pyramid.jobs.record import readable
from pyramid.jobs.recovery import UnitsFolder
from pyramid.media.files import read_metadata, told
from pyramid.presets import load_preset, preset_names
from pyramid.settings import MACHINE, Settings, SettingsError, flag_of, label_of
from pyramid.ui import App
from pyramid.ui.variants import checkpoint_of

MAX_PRESET = 100_000  # bytes of a preset
MAX_TEXT = 5_000_000  # bytes of a settings file
EDITED = "A unit of this clip was made anew afterwards: these settings make it as it was before."
STAYS = "Format and name pattern are not in a file: they stay as the form has them."


@dataclass(frozen=True)
class Restored:
    """Settings for the form, the files that they began with where those are here,
    and what is not as it was.
    """

    settings: Settings
    notes: tuple[str, ...] = ()
    picture: Path | None = None
    video: Path | None = None


def restore(path: str | Path, app: App, owner: str) -> Restored:
    """What the file `path` says of how it was made, for the model that is loaded.

    Raises ValueError, which names the file and no folder, when this program made no such file.
    """
    path = Path(path)
    if path.suffix.lower() == ".toml":
        return _from_preset(path, app)
    metadata = _read(path)
    notes: list[str] = []
    settings = _settings_of(metadata.get("settings"), notes, path.name)
    settings, picture, video = _source(settings, metadata, app, owner, notes)
    settings = _for_loaded(settings, metadata, app, notes)
    settings = _preset(settings, app, notes)
    if metadata.get("partial"):
        notes.append("The result was stopped before its end: these settings make the whole of it.")
    if metadata.get("edit"):
        notes.append(EDITED)
    return Restored(settings, tuple(notes), picture, video)


def of_job(job: Job, app: App) -> Restored:
    """The settings of a result in the history."""
    notes: list[str] = []
    path = app.store.input_of(job)
    if path is None and (name := job.settings.image or job.settings.video):
        notes.append(f"{name}, which it began with, is not here any more: give it again.")
    settings = job.settings if path else replace(job.settings, image=None, video=None)
    settings = _preset(_for_loaded(settings, {}, app, notes), app, notes)
    if UnitsFolder(app.store.units_of(job)).edits:
        notes.append(EDITED)
    return Restored(
        settings, tuple(notes), path if settings.image else None, path if settings.video else None
    )


# ------------------------------------------------------------------------------------------------------------
# Reading


def _read(path: Path) -> dict[str, Any]:
    """The metadata in a file; plain settings (`Settings.to_dict`) count too."""
    if path.suffix.lower() == ".json" and path.is_file():
        if path.stat().st_size > MAX_TEXT:
            raise ValueError(f"{path.name} is too large to be settings")
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name}: {known(error)}") from None
        if isinstance(found, dict) and "program" not in found and "version" in found and "prompt" in found:
            return {"settings": found}
    try:
        return read_metadata(path)
    except ValueError as error:
        if "encrypted" in str(error):
            raise
        raise ValueError(
            f"{path.name} holds no settings of this program: they may have been left out when it was "
            "exported, or taken out by a site that it was sent through"
        ) from None


def _settings_of(values: Any, notes: list[str], name: str) -> Settings:
    """Settings from a file's table; what is unknown or of another type is left out, and said."""
    if not isinstance(values, dict):
        raise ValueError(f"{name} holds no settings")
    try:
        settings, left_out = readable(values)
    except SettingsError as error:
        raise ValueError(f"{name}: {error}") from error
    notes += left_out
    return settings


def _from_preset(path: Path, app: App) -> Restored:
    """A preset's file, applied to the loaded model's own settings; it has neither prompt nor seed."""
    if path.stat().st_size > MAX_PRESET:
        raise ValueError(
            f"{path.name} has {path.stat().st_size:,} bytes: a preset has {MAX_PRESET:,} at most"
        )
    try:
        preset = load_preset(str(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: {known(error)}".replace(str(path), path.name)) from error
    notes = ["A preset holds no prompt and no seed."]
    settings = replace(preset.apply(app.worker.start_from), preset=None)
    settings = _for_loaded(settings, {}, app, notes)
    return Restored(settings, tuple(notes))


# ------------------------------------------------------------------------------------------------------------
# What is not as it was


def _for_loaded(settings: Settings, metadata: dict[str, Any], app: App, notes: list[str]) -> Settings:
    """The settings for the model that is loaded; what is another one than the file's is said."""
    start = app.worker.start_from
    made = _named(settings)
    here = _named(start)
    stands_in = checkpoint_of(app, settings) is not app.worker.checkpoint  # as it did before
    if made != here and not (stands_in and settings.model == start.model):
        notes.append(
            f"It was made with the model {made}; {here} is loaded, so the same settings make something "
            "else. Other models are under Models."
        )
    elif made == here:
        before = metadata.get("model")
        before = before.get("weights") if isinstance(before, dict) else None
        if before and before != identity(app.worker.checkpoint)["weights"]:
            notes.append(f"It was made with other weights of {here}: the result will look different.")
    for name in MACHINE:
        value = getattr(settings, name)
        if value not in ("auto", getattr(start, name)):  # the form does not ask for it
            notes.append(
                f"{label_of(name)} = {value} is chosen when the program starts ({flag_of(name)}): it is "
                f"{getattr(start, name)} now."
            )
    kept = {name: getattr(start, name) for name in ("model", "variant", *MACHINE)}
    return replace(settings, **kept)


def _named(settings: Settings) -> str:
    """The model and its variant, without the folder it may lie in."""
    return f"{Path(settings.model).name} {settings.variant}"


def _preset(settings: Settings, app: App, notes: list[str]) -> Settings:
    known = {*preset_names(), *preset_names(app.presets_folder)}
    if settings.preset is None or settings.preset in known:
        return settings
    notes.append(f"There is no preset {settings.preset!r} here; the values it set are restored all the same.")
    return replace(settings, preset=None)


def _source(
    settings: Settings, metadata: dict[str, Any], app: App, owner: str, notes: list[str]
) -> tuple[Settings, Path | None, Path | None]:
    """The picture or video that it began with, if one of the owner's own jobs has it;
    else the note says so.
    """
    if not (name := settings.image or settings.video):
        return settings, None, None
    kind = "picture" if settings.image else "video"
    wanted = told(replace(settings, image=None, video=None))
    for job in app.store.history(owner, search=str(settings.seed), limit=200):
        same = told(replace(job.settings, image=None, video=None)) == wanted
        if same and (path := app.store.input_of(job)) and path.name == Path(name).name:
            return settings, path if settings.image else None, path if settings.video else None
    source = metadata.get("source")
    name = source.get("name", name) if isinstance(source, dict) else name
    notes.append(f"The {kind} it began with ({Path(str(name)).name}) is not in the file: give it again.")
    return replace(settings, image=None, video=None), None, None
