"""The device thread: it loads the model and works through the queue, one job at a time, whoever is watching.

    worker = Worker(store, model="embedded")  # loads in the background; CheckpointError when it is not there
    job = store.add(replace(worker.start_from, prompt="a red ball moves to the right"), owner="local")
    while not store.get(job.id).over:
        store.wait(store.version, 1)
    worker.live                                       # what is being made, or was last: a snapshot, from any
    thread worker.stop(job.id)                               # within a step; what is finished becomes a video
    worker.close()

A job brings its own model: where that is another one than the last job's, the old one is freed and it is
loaded.
"""

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress

from pyramid.failures import sentence
from pyramid.generate.loaded import Loaded, ModelHolder
from pyramid.hub.checkpoints import find
from pyramid.hub.loras import named_lora
from pyramid.jobs.drafting import DraftRun
from pyramid.jobs.endless import EndlessRun
from pyramid.jobs.queue import Job, JobStore, State
from pyramid.jobs.run import Live, Run
from pyramid.jobs.speed import Speeds
from pyramid.media.files import hold, let_go, sweep
from pyramid.media.measure import Drift
from pyramid.settings import MACHINE, Settings, check_choice, frames_of, loras_of

__all__ = ["Live", "Worker"]
log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds that closing waits for a step, or for a model that is being loaded
RUNS: dict[str, Callable[[Job, JobStore, Speeds], Run]] = {
    "video": Run,
    "drafts": DraftRun,
    "endless": EndlessRun,
}
PARTS = ("stage", "unit")  # after which a clip can be paused
PLAYED = 4  # jobs whose growing clips stay for a while: a slow page may ask for them
ASKED_EVERY = 1.0  # seconds: what another process put into the queue is found no later


class Worker:
    """One thread that owns the device.

    Raises CheckpointError (a ValueError) for a model that is not there, ValueError while another program
    works through the same queue.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        model: str = "embedded",
        variant: str | None = None,
        dtype: str = "auto",
        quantize: str = "none",
        device: str = "auto",
        memory: str = "auto",
        begin: threading.Event | None = None,
    ):
        self.store = store
        self.speeds = Speeds(store.private / "speed.json")
        self.loaded = threading.Event()
        self.error = ""
        # Two workers would take each other's job for interrupted.
        self._lock_file = store.private / "worker.lock"
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._wanted = threading.Event()
        self._holder = ModelHolder()
        self._said = ""  # of what keeps the queue from being read
        self._played: list[str] = []  # the jobs that ended last, whose growing clips are still there
        self._run: Run | None = None
        self._last: Live | None = None
        self._begin = (
            begin  # until it is set nothing is loaded: importing torch would hold up the page's start
        )
        self._aim(model, variant, {"dtype": dtype, "quantize": quantize, "device": device, "memory": memory})
        if not hold(self._lock_file):
            raise ValueError(
                f"another program makes videos into {store.folder} already: use that one, or choose another "
                "folder with --output-dir"
            )
        store.recover()
        store.take_up()
        sweep(store.folder)
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    # -- from any thread

    @property
    def live(self) -> Live | None:
        """What is to be seen of the job that runs, or ran last."""
        run = self._run
        return run.live if run else self._last

    @property
    def memory(self) -> str:
        """The plan that was asked for: auto, or one of `memory.NAMES`."""
        return self._options["memory"]

    def stop(self, job_id: str, *, owner: str | None = None, keep: bool = True) -> None:
        """End a job within a step. Finished units become a PARTIAL result, unless `keep` is False.

        One that still waits becomes STOPPED. KeyError when it is not there, or not `owner`'s.
        """
        with self._lock:
            job = self.store.get(job_id, owner)
            if self._run and self._run.job.id == job_id:
                self._run.end(keep=keep)
            elif job.waiting:
                self.store.finish(job_id, State.STOPPED)

    def pause(self, job_id: str, after: str, *, owner: str | None = None) -> None:
        """Hold a running clip after the stage, or the unit, that is made now: it is PAUSED then, others have
        their turn, and `resume` lets it go on from there. ValueError for one that does not run.
        """
        check_choice("after", after, PARTS)
        with self._lock:
            job = self.store.get(job_id, owner)
            if not self._run or self._run.job.id != job_id or job.kind == "drafts":
                raise ValueError(f"this job is {job.state}: only a clip that is being made can be paused")
            self._run.pause(after)

    def tell(self, job_id: str, prompt: str, ease: int = 1, *, owner: str | None = None) -> None:
        """Other words from the next unit on, for a clip without an end that runs. SettingsError, and
        ValueError for one that does not.
        """
        with self._lock:
            job = self.store.get(job_id, owner)
            if not isinstance(run := self._run, EndlessRun) or run.job.id != job_id:
                raise ValueError(f"this job is {job.state}: only a clip without an end can be told more")
            run.tell(prompt, ease)

    def drift_of(self, job_id: str) -> Drift | None:
        """How far a clip without an end that runs has drifted."""
        run = self._run
        return run.drift if isinstance(run, EndlessRun) and run.job.id == job_id else None

    def forget(self, job_id: str) -> None:
        """A job that was deleted is not shown any more."""
        with self._lock:
            if self._last and self._last.job.id == job_id:
                self._last = None
                self.store.touch()

    def resume(self, job_id: str, *, owner: str | None = None) -> Job:
        """Let a job that ended early go on from its finished units: see `JobStore.resume`."""
        return self.store.resume(job_id, owner)

    def decode_finished(self, job_id: str, *, owner: str | None = None) -> Job:
        """Make a video of the finished units of a job that ended early: see `JobStore.decode_finished`."""
        return self.store.decode_finished(job_id, owner)

    def switch(self, model: str, variant: str | None = None, **options: str) -> None:
        """Start from another model: it is loaded when the running job has ended, after the old one is freed.

        `options`: dtype, quantize, device, memory. Raises CheckpointError at once when it is not there.
        """
        self._aim(model, variant, self._options | options)
        self.store.touch()

    def estimate(self, settings: Settings) -> float | None:
        """Seconds that a run would take on this machine; None before anything was measured."""
        loaded = self._holder.loaded
        return self.speeds.estimate(loaded.speed_key, settings) if loaded else None

    @property
    def step_seconds(self) -> float | None:
        """Seconds of one step of the present model for each token it reads;
        None before anything was measured.
        """
        loaded = self._holder.loaded
        seconds = self.speeds.step_seconds(loaded.speed_key, 10_000) if loaded else None
        return None if seconds is None else seconds / 10_000

    def close(self, patience: float = PATIENCE) -> bool:
        """End the running job within a step, as interrupted, and the thread. Whether that was done in time:
        else it is found as interrupted at the next start.
        """
        self._closing.set()
        with self._lock:
            if self._run:
                self._run.end(closing=True)
        self.store.touch()
        self._thread.join(patience)
        let_go(self._lock_file)
        return not self._thread.is_alive()

    # -- on the device thread

    def _aim(self, model: str, variant: str | None, options: dict[str, str]) -> None:
        """What is to be loaded, and what a form starts from."""
        checkpoint = find(model, variant)
        machine = {name: options[name] for name in MACHINE}
        start = Settings.for_model(model, checkpoint.variant, expects=checkpoint.defaults, **machine)
        with self._lock:
            self.checkpoint = checkpoint
            self.start_from = start
            self._options = options
            self.longest = frames_of(checkpoint.defaults.units)
            self.error = ""
            self.loaded.clear()
            self._wanted.set()

    def _work(self) -> None:
        while self._begin and not self._begin.wait(0.1) and not self._closing.is_set():
            pass
        while not self._closing.is_set():
            if self._wanted.is_set():
                self._prepare()
            version = self.store.version
            if run := self._next():
                self._do(run)
            else:
                self.store.wait(version, ASKED_EVERY)

    def _next(self) -> Run | None:
        """The run of the first job in the queue, if one waits."""
        with self._lock:  # a stop finds the job waiting, or its run
            try:
                job = None if self._closing.is_set() else self.store.claim()
            except (sqlite3.Error, OSError) as error:  # as on a full disk: it is tried again
                if (words := sentence(error)) != self._said:
                    log.warning("the queue waits: %s", words)
                self._said = words
                return None
            self._said = ""
            self._run = RUNS[job.kind](job, self.store, self.speeds) if job else None
            return self._run

    def _do(self, run: Run) -> None:
        """One job. Whatever happens, the thread lives on for the next."""
        clips = self.store.private / "live"
        shutil.rmtree(clips / run.job.id, ignore_errors=True)  # of an earlier attempt
        try:
            run.work(self._bring_for)
            with suppress(OSError):  # it is measured again
                self.speeds.save()
        except Exception:  # the program ends while the store cannot be written
            log.exception("what became of job %s could not be stored", run.job.id)
        with self._lock:
            self._last = run.live
            self._run = None
        # A player may still read the clip that grew: it goes when some more have ended (no paused one).
        self._played = [job_id for job_id in self._played if job_id != run.job.id]
        self._played += [] if run.paused else [run.job.id]
        for job_id in self._played[:-PLAYED]:
            shutil.rmtree(clips / job_id, ignore_errors=True)
        self._played = self._played[-PLAYED:]

    def _prepare(self) -> None:
        """Load what was asked for; what goes wrong is kept in `error`,
        for the page and the jobs that need it.
        """
        self._wanted.clear()
        try:
            self._bring(self.start_from, log.info)
        except ValueError as error:
            self.error = str(error)
        except Exception as error:
            log.exception("the model could not be loaded")
            self.error = f"The model could not be loaded: {error}"
        finally:
            self.loaded.set()
            self.store.touch()

    def _bring_for(self, job: Job, say: Callable[[str], None]) -> Loaded:
        """The model of a job. Its LoRAs are named, not given as files: visitors may not open those."""
        for name, _ in loras_of(job.settings.lora):
            named_lora(name)
        return self._bring(job.settings, say)

    def _bring(self, settings: Settings, say: Callable[[str], None]) -> Loaded:
        """The model of `settings`, and the colors of its latents, before anything is made with it."""
        loaded = self._holder.bring(settings, self.memory, say)
        _ = loaded.colors
        return loaded
