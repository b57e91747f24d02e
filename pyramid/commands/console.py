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
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from pyramid.settings import Settings, SettingsError


class Generation:
    """One run: loads the model, shows how far it is, writes frames as they come, keeps what is finished."""

    def __init__(
        self,
        settings: Settings,
        checkpoint,
        given: dict[str, Any],
        path: Path,
        *,
        units=None,
        partial: bool = False,
        memory: str = "auto",
    ):
        """`units`: the folder of the run that this one finishes (`recovery.UnitsFolder`), where it is one;
        with `partial` it shows what there is, and the folder stays. `memory`: the plan, see
        `pyramid.memory.plan`.
        """
        self.settings, self.checkpoint, self.given, self.path = settings, checkpoint, given, path
        self.units, self.partial, self.notes = units, partial, []
        self.memory, self.plan, self.room = memory, None, True
        self.stop, self.second_device = threading.Event(), None

    def run(self) -> int:
        from pyramid.generate.loaded import load_for
        from pyramid.memory import ladder
        from pyramid.memory.plan import compare, describe, make_plan

        make_plan(
            self.checkpoint, self.settings, wanted=self.memory
        )  # a refusal comes before anything is shown
        with self.interruptible(), Display(self.settings) as display:
            display.phase("Loading the model")
            pipeline, note = ladder.load(load_for, self.settings, self.memory)
            self.plan = getattr(pipeline, "plan", None)
            if self.plan is not None:
                display.tell(describe(self.plan))
            if note:
                display.tell(note)
                self.notes.append(note)
            if self.stop.is_set():
                raise KeyboardInterrupt
            path, finished = self.write(self.events(pipeline), display)
        if self.plan is not None:
            print(compare(pipeline.plan), file=sys.stderr)  # memory may have run out since
        return self.report(path, finished)

    def events(self, pipeline) -> Iterator[Any]:
        if self.second_device:
            from pyramid.memory.parallel import place

            here = pipeline.plan.transformer.device if pipeline.plan else pipeline.transformer.device
            place(pipeline, here, self.second_device)
        from pyramid.generate.request import Inputs

        return self.stream(pipeline, Inputs(stop=self.stop, **self.given))

    def stream(self, pipeline, inputs) -> Iterator[Any]:
        from pyramid.memory.ladder import stream

        return stream(pipeline, self.settings, inputs)

    def write(self, events: Iterator[Any], display: "Display") -> tuple[Path, Any]:
        """The events as a file: its path, and the last event."""
        write = self.write_still if self.settings.num_frames == 1 else self.write_video
        try:
            path, finished = write(events, display)
        except BaseException as error:
            self.end(error)
            raise
        self.end(None, stopped=finished.stopped)
        return path, finished

    def write_video(self, events: Iterator[Any], display: "Display") -> tuple[Path, Any]:
        """The events' frames as a video. An error keeps what is finished, as a stop does.

        Raises KeyboardInterrupt after a stop before anything was made.
        """
        from pyramid.events import Finished, Frames
        from pyramid.media.video import VideoWriter

        s, error, made, finished = self.settings, None, 0, None
        with VideoWriter(self.path, s.fps, (s.width, s.height), self.metadata()) as file:
            self.begin(file)
            try:
                for event in events:
                    display.show(event)
                    self.keep(event)
                    if isinstance(event, Frames):
                        file.write(event.video)
                        made += not event.given
                    elif isinstance(event, Finished):
                        finished = event
            except Exception as caught:
                error = caught
            if error and not made:
                raise error
            if not made:
                raise KeyboardInterrupt
            file.partial = bool(error) or finished.stopped or self.partial
            file.metadata |= {"timings": {} if error else rounded(finished.timings)}
            file.metadata |= {"notes": self.notes} if self.notes else {}
        if error:
            print(f"What was finished before the error is in {file.path}", file=sys.stderr)
            raise error
        return file.path, finished

    # -- so that nothing is lost: see `recovery`

    def begin(self, file) -> None:
        """A folder for the finished units beside the result."""
        from pyramid.hub.checkpoints import identity
        from pyramid.jobs.recovery import beside

        if self.units is None:
            self.units = beside(file.path)
            inputs = source(self.settings) | {"result": file.path.name, "run": uuid4().hex}
            if not self.saving(lambda: self.units.begin(self.settings, identity(self.checkpoint), inputs)):
                self.units.remove()
                self.units = None
                return
        file.metadata |= {name: mark for name, mark in self.units.about()["inputs"].items() if name == "run"}

    def keep(self, event) -> None:
        """Units to the disk, and what was changed on the way to the notes."""
        from pyramid.events import Notice, Unit

        if isinstance(event, Unit) and self.units and self.room and not self.partial:
            self.room = self.saving(lambda: self.units.save(event))
        elif isinstance(event, Notice):
            self.notes.append(event.message)

    def saving(self, write) -> bool:
        """Units that cannot be saved are no reason to end a run:
        they are only lost in a crash, which is told.
        """
        try:
            write()
            return True
        except OSError as error:
            print(
                f"note: finished units cannot be saved from here on ({error.strerror or error})",
                file=sys.stderr,
            )
            return False

    def end(self, error: BaseException | None, stopped: bool = False) -> None:
        """The folder goes with the whole video. After an error or a stop it stays,
        if anything in it is worth it.
        """
        if self.units is None or self.partial:
            return
        try:
            worth = (error or stopped) and self.units.load()[1]
        except ValueError:  # it has vanished meanwhile: what went wrong is told by `error`
            worth = False
        if not worth:
            self.units.remove()
            return
        self.units.close()
        command = shlex.join(["python", "-m", "pyramid", "resume", str(self.units.path)])
        print(f"To go on from the last finished unit: {command}", file=sys.stderr)

    def metadata(self) -> dict[str, Any]:
        """What the result says of itself, as far as it is known at the beginning."""
        from pyramid.hub.checkpoints import identity
        from pyramid.media.video import describe

        if self.units is None:
            return describe(self.settings, identity(self.checkpoint)) | source(self.settings)
        begun = self.units.about()["inputs"]  # the picture may have gone since
        asked = self.units.load()[0] if self.partial else self.settings
        return describe(asked, identity(self.checkpoint)) | {k: v for k, v in begun.items() if k == "source"}

    def write_still(self, events: Iterator[Any], display: "Display") -> tuple[Path, Any]:
        """The only frame as a PNG."""
        from pyramid.events import Finished, Frames
        from pyramid.media.video import write_picture

        frame = finished = None
        for event in events:
            display.show(event)
            self.keep(event)
            frame = event.video[0] if isinstance(event, Frames) else frame
            finished = event if isinstance(event, Finished) else finished
        if frame is None:
            raise KeyboardInterrupt
        outcome = {"timings": rounded(finished.timings)} | ({"notes": self.notes} if self.notes else {})
        return write_picture(self.path, frame, self.metadata() | outcome), finished

    def report(self, path: Path, finished) -> int:
        """Say what was made; the path alone goes to stdout."""
        s, seconds = self.settings, {k: f"{k} {t:.1f} s" for k, t in finished.timings.items() if t >= 0.05}
        what = "a picture" if s.num_frames == 1 else f"{s.num_frames} frames, {s.seconds:g} s"
        if finished.stopped:
            what = f"stopped: {finished.latents.shape[2]} of {s.units} units"
        print(f"{what}, {s.width}×{s.height}, seed {s.seed} ({', '.join(seconds.values())})", file=sys.stderr)
        print(path)
        return 130 if finished.stopped else 0

    @contextmanager
    def interruptible(self):
        """Ctrl-C sets `stop`, which ends the run within a step; a second one ends the program."""

        def interrupt(number, frame):
            if self.stop.is_set():
                raise KeyboardInterrupt
            self.stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class JointGeneration(Generation):
    """A run by several processes that a launcher started: rank 0 shows and writes, the others only work."""

    def run(self) -> int:
        from pyramid.generate.loaded import load_for
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
                self.given |= {"output_type": "latent"}
                stopped = [event for event in self.events(load_for(self.settings, self.memory))][-1].stopped
            return 130 if stopped else 0
        finally:
            parallel.end()

    def stream(self, pipeline, inputs) -> Iterator[Any]:
        from pyramid.memory.parallel import join

        # No ladder: one process cannot do something else alone.
        return join(pipeline).stream(self.settings, inputs)

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


def rounded(timings: dict[str, float]) -> dict[str, float]:
    """Seconds by phase, to milliseconds."""
    return {phase: round(seconds, 3) for phase, seconds in timings.items()}


def source(settings: Settings) -> dict[str, Any]:
    """Which picture or video a result started from, so that it can be told apart from another of that
    name.
    """
    from pyramid.hub.checkpoints import fingerprint

    path = settings.image or settings.video
    return {"source": {"name": Path(path).name, "hash": fingerprint(Path(path))[:16]}} if path else {}


# -- display
def step_cost(settings: Settings, unit: int, stage: int) -> int:
    """Tokens that one step processes, which is what it costs:
    text, the unit in work, its history (paper, §3.2).
    """
    finest = settings.width * settings.height // 256
    at = [finest >> 2 * (settings.stages - 1 - level) for level in range(settings.stages)]
    return 128 + at[stage] + sum(at[max(0, stage - back)] for back in range(unit))


class Display:
    """Progress on stderr: phase, unit, stage, step and the time left;
    a line a phase where there is no terminal.
    """

    def __init__(self, settings: Settings):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.settings, self.console = settings, Console(stderr=True)
        self.known = False
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

    def show(self, event) -> None:
        """Show an event of the pipeline."""
        from pyramid.events import Notice, Preview, Status

        if isinstance(event, Notice):
            self.tell(event.message)
            if event.kind == "memory":  # the unit begins anew
                self.bar.reset(self.task, total=None)
                self.known = False
        elif isinstance(event, Status):
            self.phase(event.message)
        elif isinstance(event, Preview):
            s = self.settings
            if not self.known:  # the first unit that is sampled: those before it are given
                steps = [s.num_inference_steps] + [s.video_num_inference_steps] * (s.units - 1)
                total = sum(
                    n * step_cost(s, unit, stage)
                    for unit in range(event.unit, s.units)
                    for stage, n in enumerate(steps[unit])
                )
                self.bar.update(self.task, total=total)
                self.known = True
            self.bar.update(
                self.task,
                advance=step_cost(s, event.unit, event.stage),
                description=(
                    f"unit {event.unit + 1}/{event.units}  stage {event.stage + 1}/{event.stages}  "
                    f"step {event.step + 1}/{event.steps}"
                ),
            )
