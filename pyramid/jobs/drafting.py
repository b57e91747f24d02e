"""A wall of drafts at work: many seeds at the coarsest stage, kept as files to go on from and to look at.

run = DraftRun(job, store, speeds)
draft_file(store, job, 3), draft_picture(store, job, 3)        # of the fourth; they may not be there
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyramid.events import Notice, Preview, Status
from pyramid.jobs.queue import Job, JobStore
from pyramid.jobs.recorder import Nothing
from pyramid.jobs.run import CountedRun
from pyramid.media.sheet import enlarged
from pyramid.settings import Settings

SHOWN = 192  # pixels: the longer side of a draft's picture, at least


def draft_file(store: JobStore, job: Job, index: int) -> Path:
    """Where a draft of a wall lies, for a run to go on from."""
    return store.units_of(job) / f"draft-{index:02}.safetensors"


def draft_picture(store: JobStore, job: Job, index: int) -> Path:
    """What is to be seen of it: a WebP, which moves where it has several frames."""
    return store.private / "exports" / job.id / f"draft-{index:02}.webp"


def draft_settings(job: Job) -> list[Settings]:
    """The settings of the clip that each draft of a wall is of."""
    directed = job.directed
    if directed.seeds:
        return [replace(job.settings, seed=seed) for seed in directed.seeds]
    return [replace(job.settings, variation_seed=seed) for seed in directed.variations]


class DraftRun(CountedRun):
    """The work on a wall of drafts. It makes no clip: what it makes lies beside the job."""

    @property
    def ended_short(self) -> bool:
        return False

    def _record(self) -> None:
        from pyramid.generate.request import Inputs

        if self.stop.is_set():
            raise Nothing
        job = self.job
        self._show(notes=self._loaded.notes)
        inputs = Inputs(**self._given(), stop=self.stop, preview_every=int(job.output.previews))
        wanted = draft_settings(job)
        whole = job.directed.whole
        drafting = self._loaded.drafting(wanted, whole, inputs)
        self._all = self._steps() + (0 if whole else self._glance())
        began = time.monotonic()
        for event in drafting:
            self._take(event, len(wanted), began)
        if len(drafting.drafts) < len(wanted):
            raise Nothing
        self._keep(drafting.drafts)

    def _steps(self) -> int:
        """The steps of one draft, or of a batch."""
        s = self.job.settings
        first = 1 if s.image else 0
        units = range(first, s.units) if self.job.directed.whole else range(first, first + 1)
        return sum(s.evaluations(unit)[0] for unit in units)

    def _glance(self) -> int:
        """The steps in which a wall of first units is shown."""
        from pyramid.generate.drafts import glance

        s = self.job.settings
        first = 1 if s.image else 0
        return sum(glance(s, first).evaluations(first)[1:])

    def _take(self, event: Any, count: int, began: float) -> None:
        match event:
            case Status():
                self._show(phase=f"{count} drafts: {event.message.lower()}")
            case Notice():
                self.note(event.message)
                if event.kind == "drafts":
                    self._all += count * self._steps()
            case Preview():
                self._look(event, began)

    def _keep(self, drafts: list[Any]) -> None:
        """The drafts as files, and their pictures; those of an earlier attempt go."""
        for folder in (self.store.units_of(self.job), self.store.private / "exports" / self.job.id):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for index, draft in enumerate(drafts):
            draft.save(draft_file(self.store, self.job, index))
            first, *others = [enlarged(frame, SHOWN) for frame in draft.frames]
            moving = {"save_all": True, "append_images": others, "loop": 0} if others else {}
            rate = {"duration": round(1000 / draft.settings.fps)} if others else {}
            first.save(draft_picture(self.store, self.job, index), "WEBP", quality=82, **moving, **rate)
