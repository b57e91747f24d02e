"""The page's interface for programs: named endpoints, over HTTP, through `gradio_client`, and as MCP tools.

    from gradio_client import Client, handle_file
    client = Client("http://127.0.0.1:7860")  # auth=("ana", "a password") where there are accounts
    job = client.predict("a red ball moves to the right", api_name="/generate")
    client.predict(job["id"], api_name="/status")["result"]     # the file, fetched, once state is "done"

`generate`, `edit`, `status`, `stop`, `resume`, `finish`, `join`, `loop`, `history`, `presets`, `models`, and
those that direct a clip (`pyramid.ui.api_direct`). A picture or video to begin with is uploaded
(`handle_file`); a path on the server is never taken. Everybody sees their own jobs only: by their login, or,
on a page without accounts, by `token`, a secret of 16 to 128 characters that a program makes up and sends
each time.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from pyramid.failures import sentence
from pyramid.jobs.directing import edit
from pyramid.jobs.editing import Edit, seeds_from
from pyramid.jobs.queue import Job
from pyramid.media.finish import Finish
from pyramid.presets import find_preset
from pyramid.settings import SettingsError
from pyramid.ui import App
from pyramid.ui.addresses import address_of_export
from pyramid.ui.api_direct import DIRECTING, Directing
from pyramid.ui.api_shared import (
    ASKED_SETTINGS,
    Serving,
    documented,
    file_data,
    whole_number,
    words_or_nothing,
    yes_or_no,
)
from pyramid.ui.compare import PLAYABLE
from pyramid.ui.errors import told
from pyramid.ui.finishing import finished_file, joined_file, looped_file
from pyramid.ui.models import entries
from pyramid.wording import briefly

OWN = (
    *("generate", "edit", "status", "stop", "resume"),
    *("finish", "join", "loop"),
    *("history", "presets", "models"),
)
ENDPOINTS = (*OWN, *DIRECTING)
MOST = 2**53 - 1  # jobs that may be left out: what JSON can count to


def register_api(app: App) -> None:
    """Add the endpoints to the page that is being built."""
    for endpoints, names in ((Endpoints(app), OWN), (Directing(app), DIRECTING)):
        for name in names:
            endpoint = told(app, getattr(endpoints, name), program=True)
            gr.api(endpoint, api_name=name, concurrency_limit=None)


class Endpoints(Serving):
    """What programs may ask. Each raises gr.Error, with one sentence, for what cannot be done."""

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
            asked = self.settings(prompt, seed, seconds, preset, settings)
            asked, picture, clip = self.started(asked, image, video)
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
            unit = whole_number("unit", unit)
            seeds = seeds_from(job.settings, seed, whole_number("tries", tries))
            wanted = Edit(
                unit, words_or_nothing("prompt", prompt), seeds, yes_or_no("composition", composition)
            )
            with self.app.adding(request, job.owner):
                made = edit(self.app.store, job.id, job.owner, wanted)
        except ValueError as error:
            raise self.told(error) from error
        return self.describe(made)

    def finish(
        self,
        job_id: str,
        upscale: int = 2,
        smooth: int = 1,
        token: str = "",
        by: Literal["lanczos", "learned"] = "lanczos",
        request: gr.Request = None,
    ) -> dict:
        """Make a larger and smoother file of a clip; the clip stays as it is.

        Args:
            job_id: the "id" that `generate` returned.
            upscale: times the width and height: 1, 2 or 4.
            smooth: times the frames a second: 1, 2 or 4.
            token: your secret, where there are no accounts.
            by: lanczos (invents nothing), or learned (a model, where the server has its packages).
        """

        def make(job: Job) -> tuple[Path, list[str]]:
            asked = Finish(whole_number("upscale", upscale), whole_number("smooth", smooth), by)
            return finished_file(self.app, job, asked), []

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
                told = f"limit = {briefly(limit)} and offset = {briefly(offset)}"
                raise ValueError(f"{told}: 1 to 100, and 0 or more")
            if not isinstance(search, str):
                raise ValueError(f"search = {briefly(search)}: text is expected")
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


def clip_of(job: Job) -> Path:
    """The clip that a job made. ValueError where there is none."""
    if job.path is None or job.path.suffix.lower() not in PLAYABLE or not job.path.is_file():
        raise ValueError(f"the job {job.id!r} is {job.state} and has no clip that could be used")
    return job.path
