"""One generation in a terminal: loads the model, shows how far it is, writes frames as they come.

    exit_code = Generation(settings, checkpoint, given, Path("outputs/a-red-ball-7.mp4")).run()

Progress and messages go to stderr; the result's path alone goes to stdout. Ctrl-C ends a run within one step
and keeps what is finished.
"""

import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyramid.commands.branching import settle
from pyramid.commands.interrupts import Halted, interruptible
from pyramid.commands.terminal import screen
from pyramid.events import Frames, Notice, Preview, Status, Unit
from pyramid.generate.loaded import Loaded, ModelHolder
from pyramid.hub.checkpoints import read_ahead
from pyramid.jobs.recorder import Listener, Nothing, Recorder, Recording, source
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.speed import Progress as Steps
from pyramid.media.measure import Drift
from pyramid.media.preview import save_estimate, stages_of
from pyramid.settings import Settings, SettingsError, frames_of

if TYPE_CHECKING:
    from pyramid.generate.drafts import Draft


LAST_STEP = 10**6  # steps from one preview to the next: a stage has one at its last step anyway
EVERY = 20  # units, after which an endless clip says how far it has drifted


class Generation:
    """One run: loads the model, shows how far it is, writes frames as they come, keeps what is finished."""

    def __init__(
        self,
        settings: Settings,
        checkpoint,
        given: dict[str, Any],
        path: Path,
        *,
        units: UnitsFolder | None = None,
        partial: bool = False,
        memory: str = "auto",
        draft: "Draft | None" = None,
    ):
        """`given`: the picture or the video that was read. `units`: the folder of the run that this one
        finishes, where it is one; with `partial` it shows what there is, and the folder stays. `memory`: the
        plan, see `pyramid.memory.plan`. `draft`: what it goes on from.
        """
        self.settings = settings
        self.checkpoint = checkpoint
        self.given = given
        self.path = path
        self.units = units
        self.partial = partial
        self.memory = memory
        self.draft = draft
        self.stop = threading.Event()
        self.second_device: str | None = None
        self.shared: list[Unit] = []  # of the clip that this one branches off
        self.keep_units = False
        self.previews = False  # whether what the stages made is kept beside the result
        self.estimates: dict[tuple[int, int], Any] = {}  # their last pictures, by unit and stage

    def run(self) -> int:
        """The exit code: 0, or 130 after a stop. Raises KeyboardInterrupt when that left nothing to keep."""
        from pyramid.memory.plan import compare, make_plan

        read_ahead(self.checkpoint)
        make_plan(self.checkpoint, self.settings, wanted=self.memory)  # a refusal comes before all else
        with self.display() as display:
            loaded = self.load(display)  # Ctrl-C ends this at once: nothing is made yet
            self.prepare(loaded)
            recorder = Recorder(self.recording(loaded.identity), display, loaded.notes)
            try:
                with self.interruptible():
                    recorder.record(lambda units: self.events(loaded, finished=units))
            except Nothing:
                display.tell("Nothing was kept, as no unit was finished.")
                raise KeyboardInterrupt from None
            except Halted:
                if recorder.path is None:
                    raise KeyboardInterrupt from None
        if recorder.path and self.settings.num_frames > 1:  # a picture has none, and may be named as a clip
            settle(recorder.units, recorder.path, kept=self.keep_units and not recorder.short)
        if loaded.pipeline.plan is not None:
            print(compare(loaded.pipeline.plan), file=sys.stderr)  # memory may have run out since
        return self.report(recorder)

    def display(self) -> "Display":
        return Display(self.settings, self.stop)

    def load(self, display: "Display") -> Loaded:
        from pyramid.memory.plan import describe

        loaded = ModelHolder().bring(self.settings, self.memory, display.phase)
        if loaded.pipeline.plan is not None:
            display.tell(describe(loaded.pipeline.plan))
        if loaded.note:
            display.tell(loaded.note)
        return loaded

    def prepare(self, loaded: Loaded) -> None:
        """Other devices and processes that work on it too."""
        if self.second_device:
            loaded.spread(self.second_device)

    def events(self, loaded: Loaded, **inputs: Any) -> Iterator[Any]:
        from pyramid.generate.request import Inputs

        inputs["finished"] = inputs.get("finished") or self.shared
        if self.previews:
            inputs["preview_every"] = LAST_STEP
        if self.draft is None:
            events = loaded.stream(self.settings, Inputs(stop=self.stop, **self.given, **inputs))
        else:
            from pyramid.generate.drafts import compared

            begun = self.draft.inputs(stop=self.stop, **self.given, **inputs)
            events = compared(loaded.stream(self.settings, begun), self.draft)
        return self.previewed(events, loaded) if self.previews else events

    def previewed(self, events: Iterator[Any], loaded: Loaded) -> Iterator[Any]:
        """The events; what each stage of a unit made in the end is kept."""
        for event in events:
            if isinstance(event, Preview) and event.clean is not None:
                self.estimates[event.unit, event.stage] = loaded.picture(event)
            yield event

    def recording(self, identity: dict[str, Any]) -> Recording:
        """What is to be kept, and where: beside the result, or in the folder of a run that this finishes."""
        still = self.settings.num_frames == 1
        if self.units is None:
            marks = source(self.settings)
            stay = self.keep_units
            return Recording(
                self.settings, self.path, identity, marks=marks, beside=not still, units_stay=stay
            )
        begun = self.units.about()["inputs"]  # the picture may have gone since
        named = ("source",) if still else ("source", "run")
        return Recording(
            self.settings,
            self.path,
            identity,
            asked=self.units.load()[0] if self.partial else None,
            marks={name: value for name, value in begun.items() if name in named},
            units=self.units,
            more_units=not self.partial,
            units_stay=self.partial,
            partial=self.partial,
        )

    def report(self, recorder: Recorder) -> int:
        """Say what was made; the path alone goes to stdout."""
        s = self.settings
        seconds = [f"{phase} {took:.1f} s" for phase, took in recorder.timings.items() if took >= 0.05]
        what = "a picture" if s.num_frames == 1 else f"{s.num_frames} frames, {s.seconds:g} s"
        if stopped := recorder.units_done < s.units:
            what = f"stopped: {recorder.units_done} of {s.units} units"
        if recorder.path and self.estimates:
            folder = stages_of(recorder.path)
            for (unit, stage), picture in self.estimates.items():
                save_estimate(folder, unit, stage, picture)
            print(f"what the stages made: {folder}", file=sys.stderr)
        print(f"{what}, {s.width}×{s.height}, seed {s.seed} ({', '.join(seconds)})", file=sys.stderr)
        print(recorder.path)
        return 130 if stopped else 0

    def interruptible(self) -> AbstractContextManager[None]:
        return interruptible(self.stop)


class EndlessGeneration(Generation):
    """A clip that goes on until it is stopped, which is how it ends: what is there then is the result."""

    def recording(self, identity: dict[str, Any]) -> Recording:
        return Recording(self.settings, self.path, identity, marks=source(self.settings), endless=True)

    def display(self) -> "Display":
        return EndlessDisplay(self.settings, self.stop)

    def report(self, recorder: Recorder) -> int:
        self.settings = replace(self.settings, num_frames=frames_of(recorder.units_done))
        return super().report(recorder)


class JointGeneration(Generation):
    """A run by several processes that a launcher started: rank 0 shows and writes, the others only work."""

    def run(self) -> int:
        from pyramid.memory import parallel
        from pyramid.memory.plan import make_plan

        device = parallel.begin(self.settings.device)
        self.settings, self.path = parallel.agreed(
            (self.settings, self.path)
        )  # rank 0's seed, if one was drawn
        self.settings = replace(self.settings, device=device)
        try:
            self.memory = make_plan(self.checkpoint, self.settings, wanted=self.memory, resident=True).name
            if parallel.is_first():
                return super().run()
            with self.interruptible():
                loaded = ModelHolder().bring(self.settings, self.memory)
                self.prepare(loaded)
                *_, finished = self.events(loaded, output_type="latent")
            return 130 if finished.stopped else 0
        finally:
            parallel.end()

    def prepare(self, loaded: Loaded) -> None:
        loaded.join()

    @contextmanager
    def interruptible(self):
        """Ctrl-C reaches every process, and again through the launcher,
        which ends what does not end by itself.
        """
        numbers = signal.SIGINT, signal.SIGTERM
        before = [signal.signal(number, lambda *_: self.stop.set()) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def check_device(name: str | None) -> str | None:
    """A second device, if it can be one: SettingsError."""
    if name is not None and (launched() or not re.fullmatch(r"cpu|cuda:\d+", name)):
        raise SettingsError("device", f"--second-device {name}: use cuda:1 or cpu, and start one process")
    return name


def launched() -> bool:
    """Whether torchrun, `accelerate launch` or the like started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


# -- display
class Display(Listener):
    """Progress on stderr: phase, unit, stage, step and the time left;
    a line a phase where there is no terminal.
    """

    def __init__(self, settings: Settings, stop: threading.Event | None = None):
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.settings = settings
        self.stop = stop
        self.console = screen(stderr=True)
        self.progress = Steps(settings)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def phase(self, message: str) -> None:
        self.bar.update(self.task, description=message)
        if not self.console.is_terminal:
            print(message, file=sys.stderr, flush=True)

    def tell(self, message: str) -> None:
        """Something that has to stay in sight."""
        self.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def event(self, event: Any, seconds: float) -> None:
        self.show(event)

    def show(self, event: Any) -> None:
        """Show an event of the pipeline."""
        match event:
            case Notice(kind="memory"):  # the unit begins anew
                self.bar.reset(self.task, total=None)
                self.progress = Steps(self.settings)
            case Status():
                self.phase(event.message)
            case Preview():
                self.step(event)

    def step(self, event: Preview) -> None:
        weight = self.progress.step(event)
        where = (
            f"unit {event.unit + 1}/{event.units}  stage {event.stage + 1}/{event.stages}  "
            f"step {event.step + 1}/{event.steps}"
        )
        self.bar.update(self.task, total=self.progress.whole, advance=weight, description=where)

    def note(self, sentence: str) -> None:
        self.tell(sentence)

    def waiting(self, why: str) -> None:
        self.tell(f"{why}; Ctrl-C ends it")

    def stopping(self) -> bool:
        return self.stop is not None and self.stop.is_set()

    def again(self) -> None:
        self.bar.reset(self.task, total=None)
        self.progress = Steps(self.settings)

    def unsaved(self, why: str) -> None:
        self.tell(f"note: finished units cannot be saved from here on ({why})")

    def ended_early(self, error: BaseException | None) -> None:
        recorder = self.recorder
        if error and recorder.path and not isinstance(error, Halted):
            print(f"What was finished before the error is in {recorder.path}", file=sys.stderr)
        stay = recorder.recording.units_stay and not recorder.recording.beside  # as they did before this run
        if recorder.units and not stay:
            command = shlex.join(["python", "-m", "pyramid", "resume", str(recorder.units.path)])
            print(f"To go on from the last finished unit: {command}", file=sys.stderr)


class EndlessDisplay(Display):
    """Shows also how far the clip has drifted from its first units, and has the result say so."""

    def __init__(self, settings: Settings, stop: threading.Event):
        super().__init__(settings, stop)
        self.drift = Drift()

    def event(self, event: Any, seconds: float) -> None:
        super().event(event, seconds)
        if isinstance(event, Frames):
            self.drift.add(event.video)
            if event.unit and event.unit % EVERY == 0:
                self.tell(f"unit {event.unit}: {self.drift}")

    def told(self) -> dict[str, Any]:
        return {"drift": self.drift.table()}
