"""The device threads: each keeps a model loaded and works through the queue, one job at a time, whoever is
watching. Mostly there is one, whose model is in this process.

    worker = Worker(store, model="embedded")  # loads in the background; CheckpointError when it is not there
    job = store.add(replace(worker.start_from, prompt="a red ball moves to the right"), owner="local")
    while not store.get(job.id).over:
        store.wait(store.version, 1)
    worker.live                                       # what is being made, or was last: a snapshot, from any
    thread worker.stop(job.id)                               # within a step; what is finished becomes a video
    worker.close()

    Worker(store, holders=processes(["cuda:0", "cuda:1"]))      # several at once: `lives`, `live_of(job.id)`

A job brings its own model: where that is another one than the last job's, the old one is freed and it is
loaded. Several threads share one queue, in which the owners take turns. A process that dies gives its job
back to the queue, and whoever takes it goes on from the last finished unit.
"""

import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from pyramid.failures import sentence
from pyramid.generate.loaded import Loaded
from pyramid.hub.checkpoints import find, read_ahead
from pyramid.hub.loras import named_lora
from pyramid.jobs.drafting import DraftRun
from pyramid.jobs.elsewhere import Died, Here, Holder, Model
from pyramid.jobs.endless import EndlessRun
from pyramid.jobs.queue import Job, JobStore, State
from pyramid.jobs.remaking import EditRun
from pyramid.jobs.run import Live, Run
from pyramid.jobs.speed import Speeds
from pyramid.media.files import hold, let_go, sweep
from pyramid.media.measure import Drift
from pyramid.media.video import load_writer
from pyramid.settings import MACHINE, Settings, check_choice, frames_of, loras_of

__all__ = ["Live", "Worker"]
log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds that closing waits for a step, or for a model that is being loaded
RUNS: dict[str, Callable[..., Run]] = {
    "video": Run,
    "drafts": DraftRun,
    "endless": EndlessRun,
    "edit": EditRun,
}
PARTS = ("stage", "unit")  # after which a clip can be paused
PLAYED = 4  # jobs whose growing clips stay for a while: a slow page may ask for them
OPTIONS = {"dtype": "auto", "quantize": "none", "device": "auto", "memory": "auto"}
RESTS = 2.0  # seconds that a device rests after its process died, twice as long each time
RESTS_MOST = 60.0
ASKED_EVERY = 1.0  # seconds: what another process put into the queue is found no later


@dataclass(eq=False)
class Hand:
    """A device thread, and what it has in hand."""

    holder: Holder
    wanted: threading.Event = field(default_factory=threading.Event)  # another model than the last
    run: Run | None = None
    last: Live | None = None
    error: str = ""  # of loading
    deaths: int = 0  # of its process, since it made anything
    rests: float = 0.0  # time.monotonic() until which it is given nothing
    thread: threading.Thread | None = None

    @property
    def live(self) -> Live | None:
        """What is to be seen of the job that runs, or ran last."""
        run = self.run
        return run.live if run else self.last

    @property
    def able(self) -> bool:
        """Whether it is to be given work, where others could do it: its model could be loaded, and it did
        not die just now.
        """
        return not self.error and time.monotonic() >= self.rests

    def died(self) -> None:
        """Let it rest, longer each time: what it dies of may be its machine."""
        self.deaths += 1
        self.rests = time.monotonic() + min(RESTS_MOST, RESTS * 2 ** (self.deaths - 1))


@dataclass(frozen=True, eq=False)
class Death:
    """Processes died while they made a job, and it got no further meanwhile."""

    units: int  # that were finished then
    notes: tuple[str, ...]  # what the result has to say of it, and of those before
    hands: tuple[Hand, ...]  # whose processes they were, one for each death


class Worker:
    """The threads that own the devices. `holders`: what keeps the model of each; else this process does.

    Raises CheckpointError (a ValueError) for a model that is not there, ValueError while another program
    works through the same queue.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        model: str = "embedded",
        variant: str | None = None,
        begin: threading.Event | None = None,
        holders: Sequence[Holder] = (),
        **options: str,
    ):
        """`options`: dtype, quantize, device and memory, where they are not OPTIONS."""
        self.store = store
        self.speeds = Speeds(store.private / "speed.json")
        self.loaded = threading.Event()  # whether a device is ready, or none will be
        self.hands = [Hand(holder) for holder in holders or [Here()]]
        store.fair = len(self.hands) > 1
        # Two workers would take each other's job for interrupted.
        self._lock_file = store.private / "worker.lock"
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._said = ""  # of what keeps the queue from being read
        self._played: list[str] = []  # the jobs that ended last, whose growing clips are still there
        self._deaths: dict[str, Death] = {}  # by job, the last one
        self._begin = (
            begin  # until it is set nothing is loaded: importing torch would hold up the page's start
        )
        self._aim(model, variant, OPTIONS | options)
        if not hold(self._lock_file):
            raise ValueError(
                f"another program makes videos into {store.folder} already: use that one, or choose another "
                "folder with --output-dir"
            )
        store.recover()
        store.take_up()
        sweep(store.folder)
        for hand in self.hands:
            hand.thread = threading.Thread(target=self._work, args=(hand,), name="device", daemon=True)
            hand.thread.start()

    # -- from any thread

    @property
    def lives(self) -> tuple[Live, ...]:
        """What is to be seen of each device's job: of those that run, the first begun first, then of those
        that ran last, the latest first.
        """
        lives = [live for hand in self.hands if (live := hand.live)]
        return tuple(
            sorted(lives, key=lambda live: (live.began, 0) if live.ended is None else (inf, -live.ended))
        )

    @property
    def live(self) -> Live | None:
        """The first of `lives`: with one device, the job that runs, or ran last."""
        return next(iter(self.lives), None)

    def live_of(self, job_id: str) -> Live | None:
        """What is to be seen of a job that runs, or was a device's last."""
        return next((live for live in self.lives if live.job.id == job_id), None)

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return any(live.busy for live in self.lives)

    @property
    def error(self) -> str:
        """Why no device has a model; "" while one has, or may come to have one."""
        errors = [hand.error for hand in self.hands]
        return errors[0] if all(errors) else ""

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
            run = self._run_of(job_id)
            if run:
                run.end(keep=keep)
            elif job.waiting:
                self.store.finish(job_id, State.STOPPED)

    def pause(self, job_id: str, after: str, *, owner: str | None = None) -> None:
        """Hold a running clip after the stage, or the unit, that is made now: it is PAUSED then, others have
        their turn, and `resume` lets it go on from there. ValueError for one that does not run.
        """
        check_choice("after", after, PARTS)
        with self._lock:
            job = self.store.get(job_id, owner)
            run = self._run_of(job_id)
            if not run or job.kind in ("drafts", "edit"):
                raise ValueError(f"this job is {job.state}: only a clip that is being made can be paused")
            run.pause(after)

    def tell(self, job_id: str, prompt: str, ease: int = 1, *, owner: str | None = None) -> None:
        """Other words from the next unit on, for a clip without an end that runs. SettingsError, and
        ValueError for one that does not.
        """
        with self._lock:
            job = self.store.get(job_id, owner)
            if not isinstance(run := self._run_of(job_id), EndlessRun):
                raise ValueError(f"this job is {job.state}: only a clip without an end can be told more")
            run.tell(prompt, ease)

    def drift_of(self, job_id: str) -> Drift | None:
        """How far a clip without an end that runs has drifted."""
        run = self._run_of(job_id)
        return run.drift if isinstance(run, EndlessRun) else None

    def _run_of(self, job_id: str) -> Run | None:
        """The run of a job, while it is at work."""
        return next((run for hand in self.hands if (run := hand.run) and run.job.id == job_id), None)

    def forget(self, job_id: str) -> None:
        """A job that was deleted is not shown any more."""
        with self._lock:
            for hand in self.hands:
                if hand.last and hand.last.job.id == job_id:
                    hand.last = None
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
        loaded = self._model
        return self.speeds.estimate(loaded.speed_key, settings) if loaded else None

    @property
    def step_seconds(self) -> float | None:
        """Seconds of one step of the present model for each token it reads;
        None before anything was measured.
        """
        loaded = self._model
        seconds = self.speeds.step_seconds(loaded.speed_key, 10_000) if loaded else None
        return None if seconds is None else seconds / 10_000

    @property
    def _model(self) -> Model | None:
        """The model of the first device that has one."""
        return next((loaded for hand in self.hands if (loaded := hand.holder.loaded)), None)

    def close(self, patience: float = PATIENCE) -> bool:
        """End the running jobs within a step, as interrupted, and the threads. Whether that was done in time:
        else they are found as interrupted at the next start.
        """
        self._closing.set()
        with self._lock:
            for hand in self.hands:
                if hand.run:
                    hand.run.end(closing=True)
        self.store.touch()
        until = time.monotonic() + patience
        threads = [hand.thread for hand in self.hands if hand.thread]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        for hand in self.hands:
            hand.holder.close()
        let_go(self._lock_file)
        return not any(thread.is_alive() for thread in threads)

    # -- on the device threads

    def _aim(self, model: str, variant: str | None, options: dict[str, str]) -> None:
        """What is to be loaded, and what a form starts from."""
        checkpoint = find(model, variant)
        read_ahead(checkpoint)
        machine = {name: options[name] for name in MACHINE}
        start = Settings.for_model(model, checkpoint.variant, expects=checkpoint.defaults, **machine)
        with self._lock:
            self.checkpoint = checkpoint
            self.start_from = start
            self._options = options
            self.longest = frames_of(checkpoint.defaults.units)
            self.loaded.clear()
            for hand in self.hands:
                hand.error = ""
                hand.wanted.set()

    def _work(self, hand: Hand) -> None:
        while self._begin and not self._begin.wait(0.1) and not self._closing.is_set():
            pass
        while not self._closing.is_set():
            version = self.store.version
            ready = hand.holder.ready()
            if not ready and hand.holder.trouble not in ("", hand.error):
                self._told(hand, hand.holder.trouble)
            if ready and hand.wanted.is_set() and time.monotonic() >= hand.rests:
                self._prepare(hand)
            if ready and (run := self._next(hand)):
                self._do(hand, run)
            else:
                self.store.wait(version, ASKED_EVERY)

    def _next(self, hand: Hand) -> Run | None:
        """The run of the first job in the queue, if one waits."""
        with self._lock:  # a stop finds the job waiting, or its run
            if self._closing.is_set() or (not hand.able and self._others(hand)):
                return None
            try:
                job = self.store.claim(self._not_for(hand))
            except (sqlite3.Error, OSError) as error:  # as on a full disk: it is tried again
                if (words := sentence(error)) != self._said:
                    log.warning("the queue waits: %s", words)
                self._said = words
                return None
            self._said = ""
            if job is None:
                return None
            death = self._deaths.get(job.id)
            notes = death.notes if death else ()
            hand.run = RUNS[job.kind](job, self.store, self.speeds, notes)
            return hand.run

    def _others(self, hand: Hand) -> list[Hand]:
        """The other devices that could do what this one does not."""
        return [other for other in self.hands if other is not hand and other.able]

    def _not_for(self, hand: Hand) -> list[str]:
        """Jobs that a device is not to take: whose folder another one has not left yet, and those that its
        process died of twice, where there is another one.
        """
        found = [other.run.job.id for other in self.hands if other.run]
        if self._others(hand):
            found += [job_id for job_id, death in self._deaths.items() if death.hands.count(hand) > 1]
        return found

    def _do(self, hand: Hand, run: Run) -> None:
        """One job. Whatever happens, the thread lives on for the next."""
        clips = self.store.private / "live"
        shutil.rmtree(clips / run.job.id, ignore_errors=True)  # of an earlier attempt
        death: Died | None = None
        try:
            run.work(lambda job, say: self._bring_for(hand, job, say))
            with suppress(OSError):  # it is measured again
                self.speeds.save()
        except Died as error:
            death = error
        except Exception:  # the program ends while the store cannot be written
            log.exception("what became of job %s could not be stored", run.job.id)
        if death:
            hand.died()
            self._give_back(hand, run, death)
        else:
            hand.deaths = 0
            self._deaths.pop(run.job.id, None)
        with self._lock:
            hand.last = hand.last if death else run.live
            hand.run = None
            self._clean(run)
        if death:
            self.store.touch()  # only now it is taken up

    def _clean(self, run: Run) -> None:
        """A player may still read the clip that grew: it goes when some more have ended (no paused one)."""
        self._played = [job_id for job_id in self._played if job_id != run.job.id]
        self._played += [] if run.paused else [run.job.id]
        at_work = [hand.run.job.id for hand in self.hands if hand.run]
        for job_id in self._played[:-PLAYED]:
            if job_id not in at_work:
                shutil.rmtree(self.store.private / "live" / job_id, ignore_errors=True)
        self._played = self._played[-PLAYED:]

    def _give_back(self, hand: Hand, run: Run, death: Died) -> None:
        """Let another device go on with a job. One that got no further has failed when two devices died of
        it, or one of them twice, where there is no other: it may be what processes die of.
        """
        job_id = run.job.id
        done = self.store.get(job_id).units_done
        last = self._deaths.get(job_id)
        further = last is None or done > last.units
        notes = last.notes if last else ()
        hands = (hand,) if last is None or further else (*last.hands, hand)
        log.warning("%s while it made unit %d of job %s", death, done + 1, job_id)
        if len(set(hands)) > 1 or (len(hands) > 1 and not self._others(hand)):
            self._deaths.pop(job_id)
            times = "twice" if len(hands) == 2 else f"{len(hands)} times"
            again = f"{death}, {times} at unit {done + 1}: memory may have run out. Resume tries again"
            self.store.finish(job_id, State.FAILED, error=again, notes=notes, units_done=done)
            return
        note = f"{death} while it made unit {done + 1}; another one went on from what was finished."
        self._deaths[job_id] = Death(done, (*notes, note[0].upper() + note[1:]), hands)
        self.store.give_back(job_id)

    def _prepare(self, hand: Hand) -> None:
        """Load what was asked for; what goes wrong is kept in `error`,
        for the page and the jobs that need it.
        """
        hand.wanted.clear()
        try:
            self._bring(hand, self.start_from, log.info)
            self._warm_up(hand)
            if not hand.wanted.is_set():  # else another one has been asked for meanwhile
                self.loaded.set()
        except ValueError as error:
            self._told(hand, str(error))
        except Died as error:
            hand.died()
            self._told(hand, f"The model could not be loaded: {error}")
            hand.wanted.set()  # once more, after a rest
        except Exception as error:
            log.exception("the model could not be loaded")
            self._told(hand, f"The model could not be loaded: {error}")
        finally:
            self.store.touch()

    def _told(self, hand: Hand, error: str) -> None:
        """Why a device makes nothing now, or that it does again ("")."""
        if error and error != hand.error and len(self.hands) > 1:
            log.warning(
                "worker %d of %d makes no videos: %s", self.hands.index(hand) + 1, len(self.hands), error
            )
        hand.error = error
        if self.error:
            self.loaded.set()
        self.store.touch()

    def _warm_up(self, hand: Hand) -> None:
        """What the first clip would wait for comes with the model, where that is in this process."""
        load_writer()
        loaded = hand.holder.loaded
        if isinstance(loaded, Loaded):
            try:
                loaded.warm_up(self.start_from)
            except Exception as error:  # it is told to who asks for a clip
                log.info("the model could not take a step yet: %s", error)

    def _bring_for(self, hand: Hand, job: Job, say: Callable[[str], None]) -> Model:
        """The model of a job. Its LoRAs are named, not given as files: visitors may not open those."""
        for name, _ in loras_of(job.settings.lora):
            named_lora(name)
        return self._bring(hand, job.settings, say)

    def _bring(self, hand: Hand, settings: Settings, say: Callable[[str], None]) -> Model:
        """The model of `settings`, and the colors of its latents, before anything is made with it."""
        loaded = hand.holder.bring(settings, self.memory, say)
        _ = loaded.colors
        start = self.start_from
        if (settings.model, settings.variant) == (start.model, start.variant):
            hand.error = ""  # it may have been mended
        return loaded
