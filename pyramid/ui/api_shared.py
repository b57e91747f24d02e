"""What the endpoints for programs share: whose jobs a caller sees, what may be asked, how a job is told.

class Endpoints(Serving):                    # `pyramid.ui.api`, `pyramid.ui.api_direct`
    def status(self, job_id: str, token: str = "", request: gr.Request = None) -> dict:
        return self.describe(self.job(job_id, token, request))
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr

from pyramid.jobs.drafting import draft_picture, draft_settings
from pyramid.jobs.queue import Job, State
from pyramid.jobs.run import Live
from pyramid.media.measure import Drift
from pyramid.presets import find_preset, preset_names, resolve
from pyramid.settings import MACHINE, STEPS, TABLE, Settings, Spec, is_whole, values_of
from pyramid.ui import LONGEST_TOKEN, App
from pyramid.ui.addresses import address_of, uploads_folder
from pyramid.ui.errors import shown_words
from pyramid.ui.models import title_of
from pyramid.ui.variants import for_request
from pyramid.wording import briefly

SHORTEST_TOKEN = 16
OURS_ALONE = ("model", "variant", *MACHINE)  # settings that only the machine's owner may choose
UPLOADS = ("image", "video")  # settings that are files
OWN_ARGUMENTS = (*UPLOADS, "prompt", "seed", "preset")  # of `generate`
OTHERS = tuple(name for name in TABLE if name not in (*OWN_ARGUMENTS, *OURS_ALONE))
Upload = tuple[Path, str] | None  # a file, and the name that it had


def asked_table() -> Any:
    """The `settings` of `generate` as a type, of which Gradio makes the schema of endpoint and tool."""
    kinds: dict[str, Any] = {name: schema_type(TABLE[name]) for name in OTHERS}
    return TypedDict("AskedSettings", kinds, total=False)  # type: ignore[operator]  # a table made at run time


def schema_type(spec: Spec) -> Any:
    """The type of a setting's value in JSON."""
    if spec.choices:
        return Literal[spec.choices]
    if spec.tables:
        return str | list[dict[str, Any]]
    return int | list[int] if spec.kind == STEPS else spec.kind


def documented(endpoint: Callable) -> Callable:
    """`endpoint` with the settings in its docstring, from which Gradio takes what it tells programs."""
    told = "; ".join(f"{name} ({values_of(TABLE[name])}): {TABLE[name].help}" for name in OTHERS)
    endpoint.__doc__ = str(endpoint.__doc__).replace("SETTINGS", told)
    return endpoint


ASKED_SETTINGS: Any = asked_table()


class Serving:
    """What an endpoint does around its own work. Each raises gr.Error, or ValueError for what is wrong."""

    def __init__(self, app: App):
        self.app = app

    def preset_names(self) -> list[str]:
        return sorted({*preset_names(), *preset_names(self.app.presets_folder)})

    def owner(self, request: gr.Request | None, token: str) -> str:
        """Whose jobs the caller sees. ValueError for one who gave neither a login nor a token."""
        owner = self.app.owner(
            request, token if isinstance(token, str) and len(token) >= SHORTEST_TOKEN else ""
        )
        if not owner:
            raise ValueError(
                f"token: give a secret of {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters, the same each time"
            )
        return owner

    def job(self, job_id: str, token: str, request: gr.Request | None) -> Job:
        """The caller's job of that id; gr.Error when there is none."""
        try:
            if not isinstance(job_id, str):
                raise ValueError(f"job_id = {briefly(job_id)}: text is expected")
            return self.app.store.get(job_id, self.owner(request, token))
        except KeyError:
            raise self.told(ValueError(f"there is no job {briefly(job_id)} of yours")) from None
        except ValueError as error:
            raise self.told(error) from error

    def settings(
        self,
        prompt: str,
        seed: int | None,
        seconds: float | None,
        preset: str | None,
        others: dict[str, Any] | None,
    ) -> Settings:
        """The settings that are asked for. ValueError for what is unknown, cannot be made, or is not the
        caller's to choose.
        """
        others = {} if others is None else others
        if not isinstance(others, dict):
            raise ValueError(
                f"settings: a table such as {{'fps': 8}} is expected, not {type(others).__name__}"
            )
        for name in (*UPLOADS, *OURS_ALONE):
            if name in others:
                why = "upload it, as an argument of its own" if name in UPLOADS else "the server chooses it"
                raise ValueError(f"{name} is no setting of this call: {why}")
        found = None
        if preset := words_or_nothing("preset", preset):
            if preset not in (names := self.preset_names()):  # a name, and never the path of a file
                raise ValueError(f"there is no preset {preset!r}: choose from {', '.join(names)}")
            found = find_preset(preset, self.app.presets_folder)
        changes = others | {"prompt": prompt} | ({"seed": seed} if seed is not None else {})
        return resolve(self.app.worker.start_from, found, changes, seconds=seconds).validate()

    def started(self, asked: Settings, image: Any, video: Any) -> tuple[Settings, Upload, Upload]:
        """The settings with what was uploaded to begin with, and those files."""
        picture = self.upload(image, "image")
        clip = self.upload(video, "video")
        asked = replace(asked, image=picture and picture[1], video=clip and clip[1])
        return for_request(self.app, asked, (picture or clip or (None,))[0]), picture, clip

    def upload(self, file: Any, what: str) -> Upload:
        """The file that was uploaded, and its name. ValueError for anything else,
        such as a path on this machine.
        """
        if file is None:
            return None
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str) or not path:
            raise ValueError(f"{what}: upload a file, such as with handle_file of gradio_client")
        found = Path(path).resolve()
        if not found.is_relative_to(uploads_folder()) or not found.is_file():
            raise ValueError(
                f"{what}: {Path(path).name!r} was not uploaded; paths on the server are not taken"
            )
        return found, str(file.get("orig_name") or found.name)

    def describe(self, job: Job) -> dict[str, Any]:
        """A job for its owner: JSON's types only, no path of this machine."""
        store = self.app.store
        live = self.app.worker.live_of(job.id)
        s = job.settings
        settings = s.to_dict() | {"model": title_of(s.model)}
        told = {
            "id": job.id,
            "kind": job.kind,
            "state": job.state.value,
            "prompt": s.prompt,
            "seed": s.seed,
            "settings": settings,
            "created": job.created,
            "started": job.started,
            "ended": job.ended,
            "place": store.place(job.id),
            "units": s.units,
            "units_done": job.units_done,
            "notes": [self.app.shown(note) for note in job.notes],
            "error": self.app.shown(job.error),
            "favourite": job.favourite,
            "timings": job.timings,
            "result": result(job),
            "address": address_of(job) or None,
        }
        told |= self.directed(job)
        return told | (how_far(live) if job.state is State.RUNNING and live else {})

    def directed(self, job: Job) -> dict[str, Any]:
        """What it came from, the drafts of a wall, and how far a clip without an end has drifted."""
        found: dict[str, Any] = {"parent": job.parent, "at_unit": job.directed.at_unit}
        if job.kind == "drafts":
            found["drafts"] = drafts_of(self.app, job)
        if drift := self.app.worker.drift_of(job.id):
            found["drift"] = drift_told(drift)
        return found

    def told(self, error: ValueError) -> gr.Error:
        return gr.Error(shown_words(self.app, error, str), print_exception=False)


def whole_number(name: str, value: Any) -> int:
    """A whole number as it is. ValueError for anything else."""
    if not is_whole(value):
        raise ValueError(f"{name} = {briefly(value)}: a whole number is expected")
    return int(value)


def words_or_nothing(name: str, value: Any) -> str | None:
    """A text, or None where it is empty or left out. ValueError for anything else."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} = {briefly(value)}: text is expected")
    return value or None


def yes_or_no(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {briefly(value)}: true or false is expected")
    return value


def how_far(live: Live) -> dict[str, Any]:
    """Where a job that runs stands."""
    at = live.at
    told = {
        "phase": live.phase,
        "seconds_left": live.left,
        "units_done": live.units_done,
        "progress": at.fraction if at else 0.0,
    }
    names = ("unit", "stage", "stages", "step", "steps") if at else ()
    return told | {name: getattr(at, name) for name in names}


def drafts_of(app: App, wall: Job) -> list[dict[str, Any]]:
    """The drafts of a wall, with their pictures once these are there."""
    found = []
    for index, settings in enumerate(draft_settings(wall)):
        picture = draft_picture(app.store, wall, index)
        made = wall.state is State.DONE and picture.is_file()
        seeds = {"seed": settings.seed, "variation_seed": settings.variation_seed}
        found.append({"index": index, **seeds, "picture": file_data(picture) if made else None})
    return found


def drift_told(drift: Drift) -> dict[str, float] | None:
    """How far the last unit is from the first moving ones; None before anything moves."""
    if not drift.looks:
        return None
    names = "color", "contrast", "sharpness"
    return dict(zip(names, drift.table()[-1], strict=True))


def result(job: Job) -> Any:
    """A job's file as Gradio's clients fetch it; the pictures of a folder, in order;
    None without a result.
    """
    if job.path is None or not job.path.exists():
        return None
    if job.path.is_dir():
        return [file_data(path) for path in sorted(job.path.iterdir()) if path.is_file()]
    return file_data(job.path)


def file_data(path: Path) -> dict[str, Any]:
    """A file that Gradio copies into its cache, whose address is all that a client is told of it."""
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
