"""A clip without an end at work: unit by unit until it is stopped, in constant memory.

run = EndlessRun(job, store, speeds)
run.tell("a blue star falls", ease=2)            # any thread: words that act from the next unit on
run.drift, run.live                              # how far it has drifted; what is to be seen

Words that are told while it runs become tables of its timeline: so what comes out is, bit for bit, what the
settings make that the result names. Units are saved as they come, and after a restart it goes on from them.
"""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyramid.events import Frames, Preview
from pyramid.jobs.queue import Job, JobStore
from pyramid.jobs.recorder import Recording
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.run import Run, small
from pyramid.jobs.speed import Speeds
from pyramid.media import files
from pyramid.media.measure import Drift
from pyramid.settings import Settings, check_value, frames_of
from pyramid.timeline import Cue, branched, write_timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyramid.generate.request import Inputs, Words


class EndlessRun(Run):
    """The work on a clip that ends when it is stopped, or at its last unit."""

    def __init__(self, job: Job, store: JobStore, speeds: Speeds, notes: tuple[str, ...] = ()):
        super().__init__(job, store, speeds, notes)
        self.drift = Drift()
        self.settings = job.settings  # with what it was told since it began
        self.told_last = ""
        self._next: tuple[str, int] | None = None  # words that wait for the next unit, over how many units
        self._telling = threading.Lock()

    def tell(self, prompt: str, ease: int = 1) -> None:
        """Other words from the next unit on. ValueError."""
        check_value("prompt", prompt)
        with self._telling:
            told = [cue.table() for cue in self.settings.cues]
            unit = told[-1]["from"] + 1 if told else 1
            new = {"from": unit, "prompt": prompt, "ease": ease}
            check_value("timeline", [*told, new])  # no run ends by what it is told
            self._next = prompt, ease
            self.told_last = prompt

    @property
    def ended_short(self) -> bool:
        return False

    def _stream(self, settings: Settings, inputs: "Inputs") -> "Iterator[Any]":
        return super()._stream(settings, replace(inputs, words=self._words))

    def _words(self, unit: int) -> "Words":
        """What a unit is told; what waited for it is in the timeline from here on."""
        with self._telling:
            told = self._next
            self._next = None
        if told is not None:
            cues = branched(self.settings.cues, Cue(unit, told[0], ease=told[1]))
            self._revise(replace(self.settings, timeline=write_timeline(cues)))
        return self.settings.plan_of(unit).words

    def _revise(self, settings: Settings) -> None:
        """Have the job, and what it would go on from, say what it is."""
        self.settings = settings
        self._show(job=replace(self.live.job, settings=settings))
        self.recorder.saving(lambda: self.store.revise(self.job.id, settings))
        folder = UnitsFolder(self.store.units_of(self.job))
        self.recorder.saving(lambda: folder.continue_as(settings))

    def _recording(self, settings: Settings, units: UnitsFolder) -> Recording:
        return replace(super()._recording(settings, units), endless=True)

    def event(self, event: Any, seconds: float) -> None:
        match event:
            case Frames():
                self.drift.add(event.video)
                shown = tuple(small(frame) for frame in event.video)
                self._show(frames=shown)  # the last unit's alone
            case Preview():
                super().event(event, seconds)
                now = {at: picture for at, picture in self.live.estimates.items() if at[0] == event.unit}
                self._show(estimates=now)
            case _:
                super().event(event, seconds)

    def told(self) -> dict[str, Any]:
        """The result names the settings that make it again, and how far it drifted."""
        made = replace(self.settings, num_frames=frames_of(self.recorder.units_done))
        self._revise(made)
        return {"settings": files.told(made), "drift": self.drift.table()}
