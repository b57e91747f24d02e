"""The page's interface for programs: named endpoints, over HTTP, through `gradio_client`, and as MCP tools.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")  # auth=("ana", "a password") where there are accounts
    job = client.predict("a red ball moves to the right", api_name="/generate")
    client.predict(job["id"], api_name="/status")["result"]     # the file, fetched, once state is "done"

`generate`, `edit`, `status`, `stop`, `resume`, `finish`, `join`, `loop`, `history`, `presets`, `models`. A
picture or video to begin with is uploaded (`handle_file`); a path on the server is never taken. Everybody
sees their own jobs only: by their login, or, on a page without accounts, by `token`, a secret of at least 16
characters that a program makes up and sends each time.
"""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr

from pyramid.failures import sentence
from pyramid.jobs.directing import edit
from pyramid.jobs.editing import Edit, seeds_from
from pyramid.jobs.queue import Job, State
from pyramid.media.finish import Finish
from pyramid.presets import find_preset, preset_names, resolve
from pyramid.settings import MACHINE, STEPS, TABLE, Settings, SettingsError, Spec, values_of
from pyramid.ui import App
from pyramid.ui.addresses import address_of, address_of_export, uploads_folder
from pyramid.ui.compare import PLAYABLE
from pyramid.ui.errors import shown_words, told
from pyramid.ui.finishing import finished_file, joined_file, looped_file
from pyramid.ui.models import entries, title_of
from pyramid.ui.photographs import for_photograph

SHORTEST_TOKEN = 16
ENDPOINTS = (
    *("generate", "edit", "status", "stop", "resume"),
    *("finish", "join", "loop"),
    *("history", "presets", "models"),
)
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
    for name in ENDPOINTS:
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
                    for_photograph(self.app, asked, (picture or clip or (None,))[0]),
                    owner=owner,
                    image=picture and picture[0],
                    image_name=picture[1] if picture else "",
                    video=clip and clip[0],
                )
        except ValueError as error:
            raise self.told(error) from error
        return self.describe(job)

    def edit(  # noqa: PLR0913 - the arguments of the endpoint
        self,
        job_id: str,
        unit: int,
        prompt: str | None = None,
        seed: int | None = None,
        tries: int = 1,
        composition: bool = False,
        token: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Make one unit of a finished clip anew and keep the others, as another clip. Returns its job.
        Its notes tell how the unit meets both sides. The clip itself stays as it is.

        Args:
            job_id: the "id" that `generate` returned.
            unit: which one: 1 is the first eight frames after frame 0, 2 the next eight.
            prompt: other words for this unit; its own when left out.
            seed: of its noise; random when left out.
            tries: so many seeds are tried, 1 to 16, and the one that meets both sides best stays.
            composition: keep where things are: only the finer stages are made anew.
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        try:
            for name, value in (("unit", unit), ("tries", tries)):
                if type(value) is not int:
                    raise ValueError(f"{name} = {value!r}: a whole number is expected")
            wanted = Edit(unit, prompt or None, seeds_from(job.settings, seed, tries), bool(composition))
            with self.app.adding(request, job.owner):
                made = edit(self.app.store, job.id, job.owner, wanted)
        except ValueError as error:
            raise self.told(error) from error
        return self.describe(made)

    def finish(
        self, job_id: str, upscale: int = 2, smooth: int = 1, token: str = "", request: gr.Request = None
    ) -> dict:
        """Make a larger and smoother file of a clip, by Lanczos and frames between; the clip stays as it is.

        Args:
            job_id: the "id" that `generate` returned.
            upscale: times the width and height: 1, 2 or 4.
            smooth: times the frames a second: 1, 2 or 4.
            token: your secret, where there are no accounts.
        """

        def make(job: Job) -> tuple[Path, list[str]]:
            return finished_file(self.app, job, Finish(upscale, smooth)), []

        return self.file_of(self.job(job_id, token, request), request, make)

    def join(self, job_id: str, other_id: str, token: str = "", request: gr.Request = None) -> dict:
        """Make one file of two of your clips, the second after the first, in the first one's size. Its notes
        tell how they meet.

        Args:
            job_id: the "id" of the first.
            other_id: the "id" of what follows.
            token: your secret, where there are no accounts.
        """
        other = self.job(other_id, token, request)
        return self.file_of(
            self.job(job_id, token, request),
            request,
            lambda job: joined_file(self.app, job, [clip_of(job), clip_of(other)]),
        )

    def loop(
        self,
        job_id: str,
        how: Literal["fade", "back"] = "fade",
        token: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Make a file of a clip whose end meets its beginning. Its notes tell how they meet.

        Args:
            job_id: the "id" that `generate` returned.
            how: fade (the end dissolves into the beginning) or back (forwards, then backwards).
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        return self.file_of(job, request, lambda job: looped_file(self.app, job, how))

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

    def file_of(
        self, job: Job, request: gr.Request | None, make: Callable[[Job], tuple[Path, list[str]]]
    ) -> dict[str, Any]:
        """A file that is made of a job's clip, and what is to be said of it. gr.Error."""
        try:
            clip_of(job)
            with self.app.working(request):
                path, notes = make(job)
        except (ValueError, OSError) as error:
            told = error if isinstance(error, ValueError) else ValueError(sentence(error))
            raise self.told(told) from error
        return {
            "id": job.id,
            "notes": [self.app.shown(note) for note in notes],
            "file": file_data(path),
            "address": address_of_export(job, path),
        }

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


def clip_of(job: Job) -> Path:
    """The clip that a job made. ValueError where there is none."""
    if job.path is None or job.path.suffix.lower() not in PLAYABLE or not job.path.is_file():
        raise ValueError(f"the job {job.id!r} is {job.state} and has no clip that could be used")
    return job.path


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
