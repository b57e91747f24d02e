"""The page's interface for programs: seven named endpoints, over HTTP, through `gradio_client`,
and as MCP tools.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")  # auth=("ana", "a password") where there are accounts
    job = client.predict("a red ball moves to the right", api_name="/generate")
    client.predict(job["id"], api_name="/status")["result"]     # the file, fetched, once state is "done"

`generate`, `status`, `stop`, `resume`, `history`, `presets`, `models`. A picture or video to begin with is
uploaded (`handle_file`); a path on the server is never taken. Everybody sees their own jobs only: by their
login, or, on a page without accounts, by `token`, a secret of at least 16 characters that a program makes up
and sends each time.
"""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr

from pyramid.jobs.queue import Job, State
from pyramid.presets import find_preset, preset_names, resolve
from pyramid.settings import MACHINE, STEPS, TABLE, Settings, SettingsError, Spec, values_of
from pyramid.ui import App
from pyramid.ui.addresses import address_of, uploads_folder
from pyramid.ui.errors import shown_words, told
from pyramid.ui.models import entries, title_of

SHORTEST_TOKEN = 16
MOST = 2**53 - 1  # jobs that may be left out: what JSON can count to
OURS_ALONE = ("model", "variant", *MACHINE)  # settings that only the machine's owner may choose
UPLOADS = ("image", "video")  # settings that are files
OWN_ARGUMENTS = (*UPLOADS, "prompt", "seed", "preset")  # of `generate`
OTHERS = tuple(name for name in TABLE if name not in (*OWN_ARGUMENTS, *OURS_ALONE))


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


def register_api(app: App) -> None:
    """Add the endpoints to the page that is being built."""
    endpoints = Endpoints(app)
    for name in ("generate", "status", "stop", "resume", "history", "presets", "models"):
        endpoint = told(app, getattr(endpoints, name), program=True)
        gr.api(endpoint, api_name=name, concurrency_limit=None)


ASKED_SETTINGS: Any = asked_table()


class Endpoints:
    """What programs may ask. Each raises gr.Error, with one sentence, for what cannot be done."""

    def __init__(self, app: App):
        self.app = app

    @documented
    def generate(  # noqa: PLR0913 - the arguments of the endpoint
        self,
        prompt: str,
        image: gr.FileData | None = None,
        video: gr.FileData | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        preset: str | None = None,
        settings: ASKED_SETTINGS | None = None,
        token: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Put a video, or a picture (settings {"num_frames": 1}), into the queue. Returns the job at once.

        Args:
            prompt: what should be seen.
            image: an uploaded picture that becomes the first frame.
            video: an uploaded video that is continued.
            seed: the same seed makes the same video; random when left out.
            seconds: length of the video.
            preset: settings with a name, one of those that `presets` lists.
            settings: any other settings by name, such as {"num_inference_steps": [10, 10, 10]}. SETTINGS.
            token: your secret, where there are no accounts.
        """
        try:
            owner = self.owner(request, token)
            asked = self.settings(prompt, seed, seconds, preset, settings or {})
            picture, clip = self.upload(image, "image"), self.upload(video, "video")
            asked = dataclasses.replace(asked, image=picture and picture[1], video=clip and clip[1])
            with self.app.working(request), self.app.adding(request, owner):
                job = self.app.store.add(
                    asked,
                    owner=owner,
                    image=picture and picture[0],
                    image_name=picture[1] if picture else "",
                    video=clip and clip[0],
                )
        except ValueError as error:
            raise self.told(error) from error
        return self.describe(job)

    def status(self, job_id: str, token: str = "", request: gr.Request = None) -> dict:
        """How far a job is, and its result once it is there.

        Args:
            job_id: the "id" that `generate` returned.
            token: your secret, where there are no accounts.
        """
        return self.describe(self.job(job_id, token, request))

    def stop(self, job_id: str, token: str = "", request: gr.Request = None) -> dict:
        """End a job within one step; what is finished of it becomes a video.
        Ask `status` for what came of it.

        Args:
            job_id: the "id" that `generate` returned.
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        self.app.worker.stop(job.id, owner=job.owner)
        return self.describe(self.app.store.get(job.id))

    def resume(self, job_id: str, token: str = "", request: gr.Request = None) -> dict:
        """Put a job that ended early into the queue again: it goes on from its finished units. Returns it;
        of one that has a video of those already, a copy, with an "id" of its own.

        Args:
            job_id: the "id" that `generate` returned.
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        try:
            with self.app.adding(request, job.owner):
                return self.describe(self.app.worker.resume(job.id, owner=job.owner))
        except ValueError as error:
            raise self.told(error) from error

    def history(
        self,
        search: str = "",
        favourites: bool = False,
        limit: int = 20,
        offset: int = 0,
        token: str = "",
        request: gr.Request = None,
    ) -> list[dict]:
        """Your jobs that have ended, the latest first.

        Args:
            search: words that all have to occur in the prompt or the settings.
            favourites: only your favorites.
            limit: at most so many, up to 100.
            offset: leave out so many of the latest.
            token: your secret, where there are no accounts.
        """
        try:
            if not (type(limit) is type(offset) is int and 1 <= limit <= 100 and 0 <= offset <= MOST):
                raise ValueError(f"limit = {limit!r} and offset = {offset!r}: 1 to 100, and 0 or more")
            if not isinstance(search, str):
                raise ValueError(f"search = {search!r}: text is expected")
            owner = self.owner(request, token)
        except ValueError as error:
            raise self.told(error) from error
        favorites = bool(favourites)
        jobs = self.app.store.history(owner, search=search, favourites=favorites, limit=limit, offset=offset)
        return [self.describe(job) for job in jobs]

    def presets(self) -> list[dict]:
        """Settings with a name, for the `preset` of `generate`."""
        found = []
        for name in self.preset_names():
            with suppress(SettingsError):  # not offered then; asked for by name, it says why
                found.append(find_preset(name, self.app.presets_folder))
        return [{"name": p.name, "description": p.description, "settings": p.values} for p in found]

    def models(self) -> list[dict]:
        """The models: what each is good for, its license and size, whether it is here,
        and which one is loaded.
        """
        return [
            {
                "model": entry.title,
                "variant": entry.variant,
                "good_for": entry.good_for,
                "licence": entry.license,
                "size": entry.size,
                "here": entry.here,
                "loaded": entry.loaded,
            }
            for entry in entries(self.app)
        ]

    # -- inside

    def preset_names(self) -> list[str]:
        return sorted({*preset_names(), *preset_names(self.app.presets_folder)})

    def owner(self, request: gr.Request | None, token: str) -> str:
        """Whose jobs the caller sees. ValueError for one who gave neither a login nor a token."""
        owner = self.app.owner(
            request, token if isinstance(token, str) and len(token) >= SHORTEST_TOKEN else ""
        )
        if not owner:
            raise ValueError(
                f"token: give a secret of {SHORTEST_TOKEN} characters or more, the same each time"
            )
        return owner

    def job(self, job_id: str, token: str, request: gr.Request | None) -> Job:
        """The caller's job of that id; gr.Error when there is none."""
        try:
            if not isinstance(job_id, str):
                raise ValueError(f"job_id = {job_id!r}: text is expected")
            return self.app.store.get(job_id, self.owner(request, token))
        except KeyError:
            raise self.told(ValueError(f"there is no job {job_id!r} of yours")) from None
        except ValueError as error:
            raise self.told(error) from error

    def settings(
        self, prompt: str, seed: int | None, seconds: float | None, preset: str | None, others: dict[str, Any]
    ) -> Settings:
        """The settings that are asked for. ValueError for what is unknown, or not the caller's to choose."""
        if not isinstance(others, dict):
            raise ValueError(
                f"settings: a table such as {{'fps': 8}} is expected, not {type(others).__name__}"
            )
        for name in (*UPLOADS, *OURS_ALONE):
            if name in others:
                why = "upload it, as an argument of its own" if name in UPLOADS else "the server chooses it"
                raise ValueError(f"{name} is no setting of this call: {why}")
        found = None
        if preset:
            if preset not in (names := self.preset_names()):  # a name, and never the path of a file
                raise ValueError(f"there is no preset {preset!r}: choose from {', '.join(names)}")
            found = find_preset(preset, self.app.presets_folder)
        changes = others | {"prompt": prompt} | ({"seed": seed} if seed is not None else {})
        return resolve(self.app.worker.start_from, found, changes, seconds=seconds)

    def upload(self, file: Any, what: str) -> tuple[Path, str] | None:
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
        if job.state is State.RUNNING and live:
            at = live.at
            told |= {
                "phase": live.phase,
                "seconds_left": live.left,
                "units_done": live.units_done,
                "progress": at.fraction if at else 0.0,
            }
            told |= (
                {name: getattr(at, name) for name in ("unit", "stage", "stages", "step", "steps")}
                if at
                else {}
            )
        return told

    def told(self, error: ValueError) -> gr.Error:
        return gr.Error(shown_words(self.app, error, str), print_exception=False)


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
