"""The endpoints that direct a clip: what the panel "Direct" does, for programs and as MCP tools.

    wall = client.predict("a red ball", seed=1, api_name="/drafts")                 # nine seeds, coarsely
    clip = client.predict(wall["id"], 4, api_name="/refine")                        # bit for bit seed 5's
    other = client.predict(clip["id"], 2, prompt="it grows", api_name="/branch")    # units 0 and 1 are shared
    going = client.predict("a red ball", units=100, api_name="/endless")
    client.predict(going["id"], "a red ball falls", api_name="/tell")               # from its next unit on

Each returns a job, whose "id" `status`, `stop` and `resume` take. A timeline is a setting of `generate`.
"""

import json
from typing import Any

import gradio as gr

from pyramid.jobs.directing import WALLS, branch, endless, explore, refine, vary
from pyramid.settings import frames_for_seconds
from pyramid.timeline import Cue, read_timeline
from pyramid.ui.api_shared import ASKED_SETTINGS, Serving, whole_number, yes_or_no
from pyramid.ui.endless import most_units

DIRECTING = ("drafts", "refine", "vary", "pause", "branch", "endless", "tell")


class Directing(Serving):
    """What programs may ask. What is wrong is raised as ValueError or KeyError, and told in a sentence."""

    def drafts(  # noqa: PLR0913 - the arguments of the endpoint
        self,
        prompt: str,
        image: gr.FileData | None = None,
        video: gr.FileData | None = None,
        seed: int | None = None,
        seconds: float | None = None,
        preset: str | None = None,
        settings: ASKED_SETTINGS | None = None,
        count: int = WALLS[0],
        whole: bool = False,
        token: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Look before you pay: many seeds at the coarsest stage, in about the time of one clip. Once it is
        done, "drafts" of its `status` has a seed and a picture each; `refine` makes the clip of one.

        Args:
            prompt: what should be seen.
            image: an uploaded picture that becomes the first frame.
            video: an uploaded video that is continued.
            seed: the first of the seeds, which follow each other; drawn when left out.
            seconds: length of the clips.
            preset: settings with a name, one of those that `presets` lists.
            settings: any other settings by name, as of `generate`.
            count: how many drafts, 9 or 16.
            whole: a preview of whole clips, in place of the first frame that a clip goes on from exactly.
            token: your secret, where there are no accounts.
        """
        owner = self.owner(request, token)
        asked = self.settings(prompt, seed, seconds, preset, settings)
        asked, picture, clip = self.started(asked, image, video)
        whole_number("count", count)
        given: dict[str, Any] = {"image": picture and picture[0], "video": clip and clip[0]}
        with self.app.working(request), self.app.adding(request, owner):
            job = explore(
                self.app.store, asked, owner=owner, count=count, whole=yes_or_no("whole", whole), **given
            )
        return self.describe(job)

    def refine(self, job_id: str, index: int, token: str = "", request: gr.Request = None) -> dict:
        """Make the clip of a draft: it goes on from the draft's latents, and is the clip of its seed.

        Args:
            job_id: the "id" that `drafts` or `vary` returned.
            index: which draft, counted from 0.
            token: your secret, where there are no accounts.
        """
        wall = self.job(job_id, token, request)
        whole_number("index", index)
        with self.app.working(request), self.app.adding(request, wall.owner):
            return self.describe(refine(self.app.store, wall.id, wall.owner, index))

    def vary(
        self, job_id: str, index: int, strength: float = 0.3, token: str = "", request: gr.Request = None
    ) -> dict:
        """More drafts that resemble one: its noise, turned towards that of other seeds.

        Args:
            job_id: the "id" that `drafts` or `vary` returned.
            index: which draft, counted from 0.
            strength: from 0, the draft itself, to 1, unrelated.
            token: your secret, where there are no accounts.
        """
        wall = self.job(job_id, token, request)
        whole_number("index", index)
        with self.app.working(request), self.app.adding(request, wall.owner):
            return self.describe(vary(self.app.store, wall.id, wall.owner, index, strength=strength))

    def pause(self, job_id: str, after: str = "unit", token: str = "", request: gr.Request = None) -> dict:
        """Hold a clip that is being made; `resume` lets it go on to the very same result.

        Args:
            job_id: the "id" of the clip.
            after: what is finished before: the "stage" or the "unit" that is made now.
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        self.app.worker.pause(job.id, after, owner=job.owner)
        return self.describe(self.app.store.get(job.id))

    def branch(  # noqa: PLR0913 - the arguments of the endpoint
        self,
        job_id: str,
        at_unit: int,
        prompt: str | None = None,
        guidance: float | list[float] | None = None,
        steps: int | list[int] | None = None,
        seed: int | None = None,
        ease: int = 1,
        seconds: float | None = None,
        token: str = "",
        request: gr.Request = None,
    ) -> dict:
        """Go another way from a unit of a clip: the units before it are the clip's own, and are not made
        again. What is left out stays as it is.

        Args:
            job_id: the "id" of the clip.
            at_unit: the first unit that is made anew; unit 0 is the first frame, each later one 8 frames.
            prompt: other words from there on.
            guidance: other guidance, one number or one a stage.
            steps: other steps, one number or one a stage.
            seed: another seed of the noise from there on.
            ease: over how many units words and guidance come.
            seconds: length of the whole, in place of the clip's.
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        cue = cue_of(at_unit, prompt=prompt, guidance=guidance, steps=steps, seed=seed, ease=ease)
        length = None if seconds is None else frames_for_seconds(seconds, job.settings.fps)
        if length is None and cue == Cue(at_unit):
            raise ValueError("say what is to be different: prompt, guidance, steps, seed or seconds")
        with self.app.working(request), self.app.adding(request, job.owner):
            return self.describe(branch(self.app.store, job.id, job.owner, at_unit, cue, length))

    def endless(  # noqa: PLR0913 - the arguments of the endpoint
        self,
        prompt: str,
        image: gr.FileData | None = None,
        video: gr.FileData | None = None,
        seed: int | None = None,
        preset: str | None = None,
        settings: ASKED_SETTINGS | None = None,
        units: int | None = None,
        token: str = "",
        request: gr.Request = None,
    ) -> dict:
        """A clip that goes on, 8 frames at a time, until `stop`, which keeps all of it. `tell` gives it other
        words meanwhile; "drift" of its `status` says how far it is from its first units.

        Args:
            prompt: what should be seen first.
            image: an uploaded picture that becomes the first frame.
            video: an uploaded video that is continued.
            seed: the same seed makes the same video; random when left out.
            preset: settings with a name, one of those that `presets` lists.
            settings: any others by name, as of `generate`, such as {"drift_correction": "statistics"}.
            units: where it ends by itself; when left out, after 100 or what is allowed here.
            token: your secret, where there are no accounts.
        """
        owner = self.owner(request, token)
        asked = self.settings(prompt, seed, None, preset, settings)
        asked, picture, clip = self.started(asked, image, video)
        units = most_units(self.app) if units is None else whole_number("units", units)
        trained = self.app.worker.checkpoint.defaults.units
        given: dict[str, Any] = {"image": picture and picture[0], "video": clip and clip[0]}
        with self.app.working(request), self.app.adding(request, owner):
            job = endless(self.app.store, asked, owner=owner, units=units, trained=trained, **given)
        return self.describe(job)

    def tell(
        self, job_id: str, prompt: str, ease: int = 1, token: str = "", request: gr.Request = None
    ) -> dict:
        """Other words for a clip without an end, from its next unit on.

        Args:
            job_id: the "id" that `endless` returned.
            prompt: what happens from then on.
            ease: over how many units the words come.
            token: your secret, where there are no accounts.
        """
        job = self.job(job_id, token, request)
        self.app.worker.tell(job.id, prompt, ease, owner=job.owner)
        return self.describe(self.app.store.get(job.id))


# ------------------------------------------------------------------------------------------------------------
# What a program sends, read with care


def cue_of(unit: int, **told: Any) -> Cue:
    """A table of a timeline, as the arguments of an endpoint say it. ValueError."""
    if whole_number("at_unit", unit) < 1:
        raise ValueError(f"at_unit = {unit}: 1 or more, as a branch shares the first frame at least")
    if isinstance(told["prompt"], str) and not told["prompt"].strip():
        told["prompt"] = None
    table = {"from": unit} | {name: value for name, value in told.items() if value is not None}
    return read_timeline(json.dumps([table]))[0]
