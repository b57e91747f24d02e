"""One job at work: the pipeline's events become a file, units that are saved, and what is to be seen of it.

run = Run(job, store)
run.work(bring)                     # on the device thread; `bring(job, say)` gives the loaded model
run.live                            # any thread, at any time: a snapshot that never changes
run.end(keep=True)                  # any thread: it ends within a step, finished units become a video
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pyramid.events import Finished, Frames, Notice, Preview, Status, Unit
from pyramid.jobs.queue import Job, JobStore, State
from pyramid.jobs.recovery import UnitsFolder, what_there_is
from pyramid.jobs.speed import Speeds, cost, steps_of
from pyramid.media.export import KINDS, open_writer
from pyramid.media.files import describe, let_go
from pyramid.media.growing import GrowingClip
from pyramid.media.preview import latent_preview, save_estimate
from pyramid.media.video import read_given, write_picture
from pyramid.memory.ladder import stream
from pyramid.settings import Settings

if TYPE_CHECKING:
    from pyramid.generate.request import Inputs

log = logging.getLogger(__name__)
SHOWN_SIDE = 512  # pixels: frames that are held for showing are no larger
PREVIEW_BUDGET = 0.02  # of a run's time; above it, only each stage's last step is shown


@dataclass(frozen=True)
class At:
    """The last step that was taken. Indices count from 0."""

    unit: int
    units: int
    stage: int
    stages: int
    step: int
    steps: int
    done: int  # steps since the run began
    total: int


@dataclass(frozen=True)
class Live:
    """What is to be seen of a run at one moment. Never changed: the next moment is another one."""

    job: Job
    phase: str = ""  # for people
    at: At | None = None
    estimates: dict[tuple[int, int], Image.Image] = field(default_factory=dict)  # by unit and stage
    frames: tuple[
        np.ndarray, ...
    ] = ()  # uint8 (h, w, 3), sides up to SHOWN_SIDE; the files have them in full
    growing: Path | None = None  # an mp4 of the finished units; the next one has another name
    units_done: int = 0
    notes: tuple[str, ...] = ()
    memory_bytes: int = 0
    preview_share: float = 0.0  # of the run's time, what the clean estimates took
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
        return [1.0 if i < done else now if i == unit else 0.0 for i in range(self.job.settings.units)]


@dataclass
class Loaded:
    """A model on its device."""

    key: tuple  # what it was loaded for, see `worker.key_of`
    plan: Any  # memory.Plan that was wanted; memory may have run out since, see `changes`
    pipeline: Any
    colors: Any  # preview.LatentColors
    identity: dict[str, Any]  # of the checkpoint, as results carry it
    changes: tuple[
        str, ...
    ] = ()  # what was given up since, because memory ran out: it holds for later jobs too

    @property
    def speed_key(self) -> str:
        p = self.pipeline
        return (
            f"{self.identity['identity']} {p._execution_device} "
            f"{str(p.transformer.dtype).removeprefix('torch.')}"
        )


class Nothing(Exception):
    """The run ended, and nothing of it is to be kept as a result."""


class Run:
    """The work on one job."""

    def __init__(self, job: Job, store: JobStore, speeds: Speeds):
        self.job, self.store, self.speeds = job, store, speeds
        self.stop, self.keep, self.closing = threading.Event(), True, False
        self.live = Live(job, "Waiting for the model", began=time.monotonic())
        self._lock = threading.Lock()
        self._clip: GrowingClip | None = None
        self._units: UnitsFolder | None = None
        self._saved = 0  # units that lie in the folder already
        self._made = 0  # frames that were not given
        self._unsaved = False
        self._previews = self._sampling = 0.0  # seconds spent on previews; when sampling began
        self._path: Path | None = None
        self._timings: dict[str, float] = {}

    def end(self, *, keep: bool = True, closing: bool = False) -> None:
        """End before the next step. `keep`: finished units become a video; `closing`: the program ends."""
        self.keep, self.closing = keep and not closing, closing
        self.stop.set()
        self._show(phase="Stopping after this step")

    def work(self, bring: Callable[[Job, Callable[[str], None]], Loaded]) -> Job:
        """To the end, to a stop or to an error; the job as it was stored then."""
        state, error = State.DONE, ""
        try:
            self._loaded = bring(self.job, lambda phase: self._show(phase=phase))
            if self.stop.is_set():
                raise Nothing
            self._make()
            if self._partial:
                state = State.PARTIAL
        except Nothing:
            state = State.INTERRUPTED if self.closing else State.STOPPED
            error = "The program was closed while this was being made." if self.closing else ""
        except Exception as caught:
            state, error = State.FAILED, self._sentence(caught)
        job, live = replace(self.job, state=state, error=error), self.live
        try:
            job = self.store.finish(
                job.id,
                state,
                path=self._path,
                error=error,
                notes=live.notes,
                timings=self._timings,
                units_done=live.units_done,
            )
        finally:
            if self._units:
                let_go(self._units.path / "lock")
            self._show(job=job, phase="", ended=time.monotonic(), growing=None)
        return job

    # -- to a file

    def _make(self) -> None:
        s, job = self.job.settings, self.job
        target = self.store.target_of(job)
        live = self.store.private / "live" / job.id
        self._show(notes=self._loaded.changes)
        self._units = UnitsFolder(self.store.units_of(job))
        settings, inputs = self._begun()
        events = stream(self._loaded.pipeline, settings, inputs)
        if s.num_frames == 1:
            self._make_still(events, target)
            return
        with GrowingClip(
            live, s.fps, (s.width, s.height), lambda path: self._show(growing=path)
        ) as self._clip:
            self._make_video(events, target)

    def _make_video(self, events: Iterator[Any], target: Path) -> None:
        """The frames as a video. An error keeps what is finished, as a stop does,
        and is raised after that.
        """
        s, output = self.job.settings, self.job.output
        path = target.with_name(target.name + KINDS[output.format][0])
        with open_writer(
            path, s.fps, (s.width, s.height), self._metadata(), quality=output.quality, keep=output.metadata
        ) as writer:
            error = self._consume(events, writer.write)
            if not self._made or (self.stop.is_set() and not self.keep):
                raise error or Nothing
            writer.partial = self._partial
            writer.metadata |= self._outcome()
        self._path = writer.path
        if error:
            raise error

    def _make_still(self, events: Iterator[Any], target: Path) -> None:
        frames: list[np.ndarray] = []
        error = self._consume(events, frames.append)
        if not frames:
            raise error or Nothing
        path, metadata = target.with_name(f"{target.name}.png"), self._metadata() | self._outcome()
        self._path = write_picture(path, frames[0][0], metadata, keep=self.job.output.metadata)

    @property
    def _partial(self) -> bool:
        return self.live.units_done < self.job.settings.units

    def _begun(self) -> tuple[Settings, "Inputs"]:
        """What a run that ended early leaves to go on from: its units,
        and what it started from where they lack that.

        A job that only decodes asks for no more than its units.
        """
        from pyramid.generate.request import Inputs

        job, units, identity = self.job, [], self._loaded.identity
        if (self._units.path / "run.json").is_file():
            units = self._units.load()[1]
            if units and not job.decode_only and self._units.about()["model"] != identity:
                self._note(
                    "The model's weights are not those that it was begun with: all of it was made anew."
                )
                units = []
        self._saved = len(units)
        more = {"finished": units, "stop": self.stop, "preview_every": int(job.output.previews)}
        if job.decode_only:
            return replace(job.settings, **what_there_is(job.settings, units)), Inputs(**more)
        if units:
            self._units.hold()
        else:
            self._saving(lambda: self._units.begin(job.settings, identity))
        given = {} if any(unit.given for unit in units) else self._given()
        return job.settings, Inputs(**given, **more)

    def _given(self) -> dict[str, Any]:
        """The picture, or the end of the video, that the job starts from."""
        s, path = self.job.settings, self.store.input_of(self.job)
        if path is None and (s.image or s.video):
            raise ValueError(f"{s.image or s.video}, which this starts from, is not here any more")
        return read_given(s, path)

    def _metadata(self) -> dict[str, Any]:
        from pyramid.hub.checkpoints import fingerprint

        s, path = self.job.settings, self.store.input_of(self.job)
        if self.job.owner != "local" and Path(s.model).is_dir():
            s = replace(s, model=Path(s.model).name)  # where models lie is nobody else's business
        more = {"source": {"name": path.name, "hash": fingerprint(path)[:16]}} if path else {}
        return describe(s, self._loaded.identity, run=self.job.id, **more)

    def _outcome(self) -> dict[str, Any]:
        """What is known at the end only."""
        timings = {phase: round(seconds, 3) for phase, seconds in self._timings.items()}
        return {"timings": timings} | ({"notes": list(self.live.notes)} if self.live.notes else {})

    # -- from events

    def _consume(self, events: Iterator[Any], write: Callable[[np.ndarray], None]) -> Exception | None:
        """Take all events. What goes wrong is returned: it does not undo what is finished."""
        try:
            before = time.perf_counter()
            while (event := next(events, None)) is not None:
                _settle(event)
                self._take(event, time.perf_counter() - before, write)
                before = time.perf_counter()
        except Exception as error:
            return error
        return None

    def _take(self, event: Any, seconds: float, write: Callable[[np.ndarray], None]) -> None:
        """Turn an event, which took so long to come, into what is to be seen and kept."""
        match event:
            case Status():
                self._show(phase=event.message)
            case Notice():
                self._notice(event)
            case Preview():
                self._step(event, seconds)
            case Unit():
                self._keep(event)
                self._show(units_done=event.index + 1)
                self._saving(lambda: self.store.progress(self.job.id, event.index + 1))
            case Frames():
                write(event.video)
                if self._clip:
                    self._clip.add(event.video)
                self._made += 0 if event.given else len(event.video)
                self._show(frames=self.live.frames + tuple(_small(frame) for frame in event.video))
                if not event.given:
                    self.speeds.decoded(self._loaded.speed_key, event.video[..., 0].size, seconds)
            case Finished():
                self._timings = event.timings | ({"previews": self._previews} if self._previews else {})

    def _notice(self, event: Notice) -> None:
        self._note(event.message)
        if event.kind == "memory":
            self._loaded.changes += (event.message,)

    def _note(self, sentence: str) -> None:
        if sentence not in self.live.notes:
            self._show(notes=(*self.live.notes, sentence))

    def _keep(self, unit: Unit) -> None:
        """Save a finished unit, and what its stages looked like:
        what is lost of a run that dies is its last unit.
        """
        if unit.index < self._saved:
            return
        self._saving(lambda: self._units.save(unit))
        for (index, stage), picture in self.live.estimates.items():
            if index == unit.index:
                self._saving(
                    lambda stage=stage, picture=picture: save_estimate(
                        self._units.path, unit.index, stage, picture
                    )
                )

    def _saving(self, save: Callable[[], Any]) -> None:
        """Save something. A disk that is full ends no run: it is only not to be resumed."""
        try:
            save()
        except (OSError, sqlite3.Error) as error:
            if not self._unsaved:
                why = getattr(error, "strerror", None) or error
                self._note(f"Finished units could not be saved ({why}): this could not be resumed.")
            self._unsaved = True

    def _step(self, event: Preview, seconds: float) -> None:
        s, key = self.job.settings, self._loaded.speed_key
        now = time.monotonic()
        if not self._sampling:
            self._sampling = now - seconds
            self.speeds.began(key, self._sampling - self.live.began)
            self._plan(event)
        if (
            event.clean is not None or self._loaded.pipeline._execution_device.type == "cpu"
        ):  # else see `_settle`
            self.speeds.step(key, cost(s, event.unit, event.stage), seconds)
        self._gone += self._weights[event.unit, event.stage]
        due = now + (now - self._sampling) * (self._whole - self._gone) / self._gone
        at = At(
            event.unit,
            event.units,
            event.stage,
            event.stages,
            event.step,
            event.steps,
            event.done,
            event.total,
        )
        shown = {} if event.clean is None else self._estimate(event)
        share = self._previews / max(time.monotonic() - self.live.began, 1e-9)
        phase = self.live.phase if self.stop.is_set() else ""
        self._show(phase=phase, at=at, due=due, memory_bytes=memory_in_use(), preview_share=share, **shown)

    def _plan(self, event: Preview) -> None:
        """At the first step: how much there is to do, by the seconds of earlier runs or by tokens."""
        s, key = self.job.settings, self._loaded.speed_key
        steps = steps_of(s, given=event.unit)
        self._weights = {
            step: self.speeds.step_seconds(key, cost(s, *step)) or cost(s, *step) for step in set(steps)
        }
        self._whole, self._gone = sum(self._weights[step] for step in steps), 0

    def _estimate(self, event: Preview) -> dict[str, Any]:
        """The clean estimate as a picture, unless previews took too much of the time already."""
        from pyramid.generate.latents import denormalize

        began = time.perf_counter()
        last = event.step + 1 == event.steps
        if not last and self._previews > PREVIEW_BUDGET * (time.monotonic() - self._sampling):
            return {}
        first = event.unit == 0
        vae_latents = denormalize(event.clean[:1], self._loaded.pipeline.scales, first=first)
        picture = Image.fromarray(latent_preview(vae_latents, self._loaded.colors, first=first)[0, 0])
        shown = {"estimates": self.live.estimates | {(event.unit, event.stage): picture}}
        self._previews += time.perf_counter() - began
        return shown

    def _show(self, **changes: Any) -> None:
        with self._lock:  # the growing clip's thread has news too
            self.live = replace(self.live, **changes)

    def _sentence(self, error: Exception) -> str:
        """What went wrong, for people: no traceback, no path of this machine."""
        if not isinstance(error, ValueError):
            log.exception("job %s failed", self.job.id, exc_info=error)
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.strerror} ({Path(error.filename).name})" if error.filename else error.strerror
        text = " ".join(text.replace(f"{self.store.folder}{os.sep}", "").split())
        return text if isinstance(error, ValueError) else f"The generation failed: {text}"


def _settle(event: Any) -> None:
    """Wait for a graphics card to finish a step that is about to be shown:
    its time is the step's, not the preview's.

    Where nothing is shown nobody waits, and what a step took is not known.
    """
    if isinstance(event, Preview) and event.clean is not None and event.clean.device.type == "cuda":
        import torch

        torch.cuda.synchronize(event.clean.device)


def _small(frame: np.ndarray) -> np.ndarray:
    """A frame for showing: no side above SHOWN_SIDE."""
    picture = Image.fromarray(frame)
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), reducing_gap=2.0)
    return np.asarray(picture)


def memory_in_use() -> int:
    """Bytes: of the graphics cards where there is one in use, else of this process."""
    import psutil  # accelerate brings it
    import torch

    on_cards = sum(torch.cuda.memory_allocated(card) for card in range(torch.cuda.device_count()))
    return on_cards or psutil.Process().memory_info().rss
