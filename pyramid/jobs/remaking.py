"""A clip at work of which one unit is made anew: see `pyramid.jobs.editing`. Its result is another clip.

run = EditRun(job, store, speeds)
seam_picture(store, job, "left")                # what is to be seen where the unit meets what is before it

The job begins with all units of the clip that it was made from, and that clip stays as it is. Once the
result is there the new unit takes its place among the job's own: so it may be edited again, branched, or made
longer. What was edited is kept beside the units, and each result of them says so.
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from pyramid.events import Notice, Preview, Status, Unit
from pyramid.jobs.editing import Choice, Edit, chosen, remade, sentence_of, told_of
from pyramid.jobs.queue import Job, JobStore, State
from pyramid.jobs.recorder import Nothing, Recorder
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.run import CountedRun
from pyramid.jobs.speed import Progress
from pyramid.media.preview import save_estimate
from pyramid.settings import frames_of

if TYPE_CHECKING:
    from pyramid.generate.pipeline import Event

SIDES = ("left", "right")


def seam_picture(store: JobStore, job: Job, side: str) -> Path:
    """Where the picture of a seam lies; it may not be there."""
    return store.private / "exports" / job.id / f"~look-seam-{side}.webp"


class EditRun(CountedRun):
    """The work on an edit: the unit with each seed, then the clip with the one that meets best."""

    _words = ""  # which seed it is at

    @property
    def edit(self) -> Edit:
        asked = self.job.directed
        assert asked.unit is not None, "an edit is of a unit"
        return Edit(asked.unit, asked.prompt, asked.seeds, asked.composition)

    def _record(self) -> None:
        if self.stop.is_set():
            raise Nothing
        folder = UnitsFolder(self.store.units_of(self.job))
        units = self._units(folder)
        self._show(notes=(*self.notes, *self._loaded.notes))
        self._progress = Progress(
            self.job.settings, partial(self.speeds.step_seconds, self._loaded.speed_key)
        )
        edit = self.edit
        counts = self.job.settings.evaluations(edit.unit)
        steps = sum(counts[1:] if edit.composition else counts)  # with it the coarsest stage is there
        self._all = max(1, steps * len(edit.seeds))
        self._looks: list[dict[tuple[int, int], Image.Image]] = []
        choice = self._chosen(units)
        if choice is None or (self.stop.is_set() and not self.keep):
            raise Nothing
        self._write(folder, units, choice)

    def _units(self, folder: UnitsFolder) -> list[Unit]:
        """All units of the clip. ValueError where they are not there, or other weights made them."""
        settings = self.job.settings
        units = folder.load()[1]
        if len(units) < settings.units:
            raise ValueError(
                "the latents of this clip are not there any more: make the clip anew, then edit it"
            )
        if folder.about()["model"] != self._loaded.identity:
            raise ValueError("this clip was made with other weights than the model has now: make it anew")
        return units[: settings.units]

    def _chosen(self, units: list[Unit]) -> Choice | None:
        """The clip with the best of the units; None after a stop before there was one."""
        making = remade(self._loaded.stream, self.job.settings, units, self.edit, self.stop)
        began = time.monotonic()
        return chosen(making, lambda event: self._take(event, began))

    def _take(self, event: "Event", began: float) -> None:
        match event:
            case Status(phase="edit"):
                self._words = event.message
                self._looks.append({})
                self._show(phase=event.message, estimates={})
            case Status():
                self._show(phase=f"{self._words}: {event.message.lower()}")
            case Notice():
                self.note(event.message)
            case Preview():
                self._look(event, began)

    def _look(self, event: Preview, began: float) -> None:
        super()._look(event, began)
        self._looks[-1] = dict(self.live.estimates)

    def _write(self, folder: UnitsFolder, units: list[Unit], choice: Choice) -> None:
        """The result; then the unit among the job's own, and what its seams look like."""
        from pyramid.generate.request import Inputs

        edit = self.edit
        job = self.job
        said = sentence_of(edit, choice)
        self._show(notes=(*self.live.notes, said), at=None, phase="Writing the clip")
        base = self._recording(job.settings, folder)
        edits = [*folder.edits, choice.table(edit)]
        marks = base.marks | told_of(edits) | given_of(units)
        # It was asked for and is made: a stop that comes now is too late.
        inputs = Inputs(finished=choice.units)
        plain = replace(job.settings, image=None, video=None)
        path = base.path.with_name(f"{base.path.stem}-unit{edit.unit}{base.path.suffix}")
        recording = replace(base, path=path, units=None, marks=marks)
        recorder = Recorder(recording, self, self.live.notes)
        recorder.record(lambda _: self._watched(self._loaded.stream(plain, inputs)))
        folder.save(choice.units[edit.unit])
        folder.edited(edits)
        looks = self._looks[edit.seeds.index(choice.seed)]
        for (unit, stage), picture in looks.items():
            save_estimate(folder.path, unit, stage, picture)
        for side, picture in choice.pictures.items():
            path = seam_picture(self.store, job, side)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, "WEBP", quality=88)

    def _unit(self, index: int) -> None:
        """A unit is written."""
        self._show(units_done=index + 1)

    def wants(self, early: bool) -> bool:
        """A part of an edited clip is no result."""
        return not self.died and not early

    def _finish(self, state: State, error: str) -> Job:
        if state is not State.DONE:  # what there is are the units of the clip before it
            self._show(units_done=0)
        return super()._finish(state, error)


def given_of(units: list[Unit]) -> dict[str, int]:
    """How many frames of a clip were its source's, as other results say it."""
    given = sum(unit.given for unit in units)
    return {"given_frames": frames_of(given)} if given else {}
