"""One job of the page at work: its recorder keeps what is made, and here is what is to be seen of it.

run = Run(job, store, speeds)
run.work(bring)                     # on a device thread; `bring(job, say)` gives the loaded model
run.live                            # any thread, at any time: a snapshot that never changes
run.end(keep=True)                  # any thread: it ends within a step, finished units become a video
"""

import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pyramid.events import Finished, Frames, Preview, Status, Unit
from pyramid.failures import sentence
from pyramid.jobs.editing import told_of
from pyramid.jobs.elsewhere import Died, Model
from pyramid.jobs.place import ASKS_EVERY
from pyramid.jobs.queue import Job, JobStore, State
from pyramid.jobs.recorder import Listener, Nothing, Recorder, Recording, source
from pyramid.jobs.recovery import UnitsFolder, what_there_is
from pyramid.jobs.speed import Progress, Speeds, cost
from pyramid.media.export import KINDS
from pyramid.media.files import ending_of
from pyramid.media.preview import save_estimate
from pyramid.media.video_reader import read_given
from pyramid.memory.device import device_of
from pyramid.settings import Settings

if TYPE_CHECKING:
    from pyramid.generate.pipeline import Event
    from pyramid.generate.request import Inputs

log = logging.getLogger(__name__)
SHOWN_SIDE = 512  # pixels: frames that are held for showing are no larger
PREVIEW_BUDGET = 0.02  # of a run's time; above it, only each stage's last step is shown


@dataclass(frozen=True, eq=False)
class Live:
    """What is to be seen of a run at one moment. Never changed: the next moment is another one."""

    job: Job
    phase: str = ""  # for people
    at: Preview | None = None  # the last step that was taken, without its estimate
    estimates: dict[tuple[int, int], Image.Image] = field(default_factory=dict)  # by unit and stage
    frames: tuple[
        np.ndarray, ...
    ] = ()  # uint8 (h, w, 3), sides up to SHOWN_SIDE; the files have them in full
    growing: Path | None = None  # an mp4 of the finished units; the next one has another name
    units_done: int = 0
    notes: tuple[str, ...] = ()
    memory_bytes: int = 0
    preview_share: float = 0.0  # of the run's time, what the denoised estimates took
    began: float = 0.0  # time.monotonic()
    ended: float | None = None
    due: float | None = None  # when it will end, as far as is known

    @property
    def busy(self) -> bool:
        return self.ended is None

    @property
    def elapsed(self) -> float:
        """Seconds since it began, or that it took."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def left(self) -> float | None:
        """Seconds to go, as far as is known."""
        return max(0.0, self.due - time.monotonic()) if self.due is not None and self.busy else None

    @property
    def shares(self) -> list[float]:
        """How much of each unit is done, in [0, 1]."""
        now = (self.at.stage + (self.at.step + 1) / self.at.steps) / self.at.stages if self.at else 0.0
        unit = self.at.unit if self.at else -1
        done = self.units_done
        shares = [float(i < done) for i in range(self.job.settings.units)]
        if unit >= done:
            shares[unit] = now
        return shares


class Run(Listener):
    """The work on one job. Its recorder's news become snapshots, and what the store remembers."""

    _loaded: Model  # while it works
    _progress: Progress

    def __init__(self, job: Job, store: JobStore, speeds: Speeds, notes: tuple[str, ...] = ()):
        """`notes`: what the result has to say of earlier attempts."""
        self.job = job
        self.store = store
        self.speeds = speeds
        self.notes = notes
        self.died = False  # the process that made it
        self.stop = threading.Event()
        self.keep = True
        self.closing = False
        self.pausing = ""  # after which part it is to be held: stage or unit
        self.paused = False
        self.live = Live(job, "Waiting for the model", began=time.monotonic())
        self._lock = threading.Lock()
        self._previews = self._sampling = 0.0  # seconds spent on previews; when sampling began

    def end(self, *, keep: bool = True, closing: bool = False) -> None:
        """End before the next step. `keep`: finished units become a video; `closing`: the program ends."""
        self.keep = keep and not closing
        self.closing = closing
        self.stop.set()
        self._show(phase="Stopping after this step")

    def pause(self, after: str) -> None:
        """Hold it after the stage or the unit that is made now: it ends, and may go on from there."""
        self.pausing = after
        self._show(phase=f"Pausing after this {after}")

    def work(self, bring: Callable[[Job, Callable[[str], None]], Model]) -> Job:
        """To the end, to a stop or to an error; the job as it was stored then. Raises Died where the process
        that made it has ended: nothing is stored then.
        """
        state = State.DONE
        error = ""
        try:
            self._loaded = bring(self.job, lambda phase: self._show(phase=phase))
            try:
                self._record()
            finally:
                del self._loaded  # it may have to make room for another one
            if self.ended_short:
                state = State.PARTIAL
        except Nothing:
            state = State.INTERRUPTED if self.closing else State.STOPPED
            state = State.PAUSED if self.paused else state
            error = "The program was closed while this was being made." if self.closing else ""
        except Died as caught:
            if not self.stop.is_set():
                raise
            state = State.INTERRUPTED if self.closing else State.STOPPED
            error = self._sentence(caught)
        except Exception as caught:
            state = State.FAILED
            error = self._sentence(caught)
        return self._finish(state, error)

    @property
    def ended_short(self) -> bool:
        """Whether less was made than was asked for."""
        return self.live.units_done < self.job.settings.units or self.recorder.short

    def _finish(self, state: State, error: str) -> Job:
        """Store what became of the job, and show it."""
        job = replace(self.job, state=state, error=error)
        live = self.live
        recorder = getattr(self, "recorder", None)  # none where the model could not be brought
        made = {"path": recorder.path, "timings": recorder.timings} if recorder else {}
        told = {"error": error, "notes": live.notes, "units_done": live.units_done} | made
        try:
            job = self._stored(state, told)
        finally:
            growing = self.live.growing if state is State.PAUSED else None  # it is to be looked at
            self._show(job=job, phase="", ended=time.monotonic(), growing=growing)
        return job

    def _stored(self, state: State, told: dict[str, Any]) -> Job:
        """The job as the store keeps it, once that can be written: the result itself is there already."""
        said = ""
        while True:
            try:
                return self.store.finish(self.job.id, state, **told)
            except (sqlite3.Error, OSError) as error:
                if self.closing:
                    raise
                why = f"Waiting to store the result: {sentence(error)}"
                if why != said:
                    log.warning("%s", why)
                    self._show(phase=why)
                said = why
                time.sleep(ASKS_EVERY)

    # -- what is made

    def _record(self) -> None:
        """From the units of an earlier attempt, and what it started from where they lack that.

        A job that only decodes asks for no more than its units.
        """
        from pyramid.generate.request import Inputs
        from pyramid.generate.sampler import Begun

        if self.stop.is_set():
            raise Nothing
        loaded = self._loaded
        job = self.job
        settings = self.job.settings
        units = UnitsFolder(self.store.units_of(job))
        if job.decode_only:
            settings = replace(settings, **what_there_is(settings, units.load()[1]))
        self._progress = Progress(settings, partial(self.speeds.step_seconds, loaded.speed_key))
        notes = (*self.notes, *loaded.notes)
        self._show(notes=notes)
        shutil.rmtree(self.store.private / "live" / job.id, ignore_errors=True)  # of before a pause

        def start(finished: list[Unit]) -> Iterator[Any]:
            given = {} if job.decode_only or any(unit.given for unit in finished) else self._given()
            previews = int(job.output.previews)
            inputs = Inputs(**given, finished=finished, stop=self.stop, preview_every=previews)
            if stage := units.load_stage():
                inputs = replace(inputs, begun=Begun(*stage))
            return self._watched(self._stream(settings, inputs))

        Recorder(self._recording(settings, units), self, notes).record(start)

    def _watched(self, events: "Iterator[Event]") -> "Iterator[Event]":
        """What a dead process leaves is gone on from, and becomes no result."""
        try:
            yield from events
        except Died:
            self.died = True
            raise

    def _stream(self, settings: Settings, inputs: "Inputs") -> Iterator[Any]:
        """The events of the run, which goes on from a draft where there is one."""
        path = self.store.draft_of(self.job)
        if path is None:
            return self._loaded.stream(settings, inputs)
        from pyramid.generate.drafts import Draft, compared

        draft = Draft.load(path).with_settings(settings)
        if draft.identity != self._loaded.identity:
            raise ValueError("the draft was made with other weights than the model has now: make new drafts")
        return compared(self._loaded.stream(settings, replace(inputs, draft=draft.latents)), draft)

    def _recording(self, settings: Settings, units: UnitsFolder) -> Recording:
        job = self.job
        target = self.store.target_of(self.job)
        ending = ending_of(job.settings, KINDS[job.output.format][0])
        path = self.store.input_of(job)
        asked = job.settings
        if job.owner != "local" and Path(asked.model).is_dir():
            asked = replace(asked, model=Path(asked.model).name)  # where models lie is nobody else's business
        return Recording(
            settings,
            target.with_name(f"{target.name}{ending}"),
            self._loaded.identity,
            asked=asked,
            marks={"run": job.id} | (source(asked, path) if path else {}) | self._edited(units),
            output=job.output,
            units=units,
            more_units=not job.decode_only,
            units_stay=True,  # with the denoised estimates, which the page shows and exports
            growing=self.store.private / "live" / job.id,
            root=self.store.folder,
        )

    def _edited(self, units: UnitsFolder) -> dict[str, Any]:
        """What the result says of units that were edited in the clip that it goes on from."""
        shared = self.job.directed.at_unit
        return told_of([edit for edit in units.edits if shared is None or edit["unit"] < shared])

    def _given(self) -> dict[str, Any]:
        """The picture, or the end of the video, that the job starts from."""
        s = self.job.settings
        path = self.store.input_of(self.job)
        if path is None and (s.image or s.video):
            raise ValueError(f"{s.image or s.video}, which this starts from, is not here any more")
        return read_given(s, path)

    # -- what is to be seen of it

    def event(self, event: Any, seconds: float) -> None:
        match event:
            case Status():
                self._show(phase=event.message)
            case Preview():
                self._step(event, seconds)
            case Unit():
                self._unit(event.index)
            case Frames():
                self._show(frames=self.live.frames + tuple(small(frame) for frame in event.video))
                if not event.given:
                    self.speeds.decoded(self._loaded.speed_key, event.video[..., 0].size, seconds)
            case Finished() if self._previews:
                self.recorder.timings["previews"] = self._previews

    def note(self, sentence: str) -> None:
        self._show(notes=(*self.live.notes, sentence))

    def unsaved(self, why: str) -> None:
        self.recorder.note(f"Finished units could not be saved ({why}): this could not be resumed.")

    def waiting(self, why: str) -> None:
        log.warning("%s", why)
        self._show(phase=why)

    def stopping(self) -> bool:
        return self.stop.is_set()

    def again(self) -> None:
        s = self._progress.settings
        self._progress = Progress(s, partial(self.speeds.step_seconds, self._loaded.speed_key))
        self._show(frames=(), units_done=0, phase="Writing what is finished again")

    def grown(self, path: Path) -> None:
        self._show(growing=path)

    def wants(self, early: bool) -> bool:
        return not self.died and (self.keep or not self.stop.is_set())

    def _unit(self, index: int) -> None:
        """A unit is finished: what its stages looked like is kept beside it."""
        folder = self.store.units_of(self.job)
        saving = self.recorder.saving
        for (unit, stage), picture in self.live.estimates.items():
            if unit == index:
                saving(partial(save_estimate, folder, unit, stage, picture))
        self._show(units_done=index + 1)
        if self.pausing and index + 1 < self.job.settings.units:
            self._hold()
        try:
            self.store.progress(self.job.id, index + 1)
        except (sqlite3.Error, OSError) as error:  # it is stored at the end, too
            log.warning("how far job %s is could not be stored: %s", self.job.id, sentence(error))

    def _hold(self) -> None:
        """End here, to go on from here: no video is made of what is finished."""
        self.paused = True
        self.keep = False
        self.stop.set()

    def _step(self, event: Preview, seconds: float) -> None:
        key = self._loaded.speed_key
        progress = self._progress
        now = time.monotonic()
        if not self._sampling:
            self._sampling = now - seconds
            self.speeds.began(key, self._sampling - self.live.began)
        progress.step(event)
        # Else nobody waited for the step, and what it took is not known.
        if event.clean is not None or not device_of(self._loaded.device).waits:
            self.speeds.step(key, cost(progress.settings, event.unit, event.stage), seconds)
        due = now + (now - self._sampling) * (progress.whole - progress.done) / progress.done
        shown = {} if event.clean is None else self._estimate(event)
        share = self._previews / max(time.monotonic() - self.live.began, 1e-9)
        if self.pausing == "stage" and event.latents is not None and event.stage + 1 < event.stages:
            place = event.unit, event.stage, event.latents
            assert self.recorder.units is not None, "a job has a folder of its own"
            self.recorder.saving(partial(self.recorder.units.save_stage, *place))
            self._hold()
        phase = self.live.phase if self.stop.is_set() or self.pausing else ""
        shown |= {"phase": phase, "at": replace(event, clean=None, latents=None), "due": due}
        self._show(memory_bytes=self._loaded.memory_bytes, preview_share=share, **shown)

    def _estimate(self, event: Preview) -> dict[str, Any]:
        """The denoised estimate as a picture, unless previews took too much of the time already."""
        began = time.perf_counter()
        last = event.step + 1 == event.steps
        if not last and self._previews > PREVIEW_BUDGET * (time.monotonic() - self._sampling):
            return {}
        picture = self._loaded.picture(event)
        shown = {"estimates": self.live.estimates | {(event.unit, event.stage): picture}}
        self._previews += time.perf_counter() - began
        return shown

    def _show(self, **changes: Any) -> None:
        with self._lock:  # the growing clip's thread has news too
            self.live = replace(self.live, **changes)

    def _sentence(self, error: Exception) -> str:
        """What went wrong, for people: no traceback, no path of this machine."""
        words = sentence(error).replace(f"{self.store.folder}{os.sep}", "")
        return words if isinstance(error, ValueError) else f"The generation failed: {words}"


class CountedRun(Run):
    """A run that makes several things one after the other: it counts its steps over all of them."""

    _taken = 0  # steps
    _all = 1  # as far as is known

    def _look(self, event: Preview, began: float) -> None:
        """How far it is, and what is to be seen of a step; `began`: time.monotonic() of the first one."""
        self._sampling = self._sampling or began
        self._taken += 1
        self._all = max(self._all, self._taken)
        now = time.monotonic()
        shown = {} if event.clean is None else self._estimate(event)
        at = replace(event, clean=None, latents=None, done=self._taken, total=self._all)
        due = now + (now - began) * (self._all - self._taken) / self._taken
        phase = self.live.phase if self.stop.is_set() else ""
        self._show(memory_bytes=self._loaded.memory_bytes, at=at, due=due, phase=phase, **shown)


def small(frame: np.ndarray) -> np.ndarray:
    """A frame for showing: no side above SHOWN_SIDE."""
    picture = Image.fromarray(frame)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), reducing_gap=2.0)
    return np.asarray(picture)
