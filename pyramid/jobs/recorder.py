"""The recorder of a run: from its events come saved units, a clip that grows, the result and what that says.

    recorder = Recorder(Recording(settings, path, loaded.identity, units=UnitsFolder(folder)), listener)
    recorder.record(lambda units: loaded.stream(settings, Inputs(finished=units, stop=stop)))
    recorder.path, recorder.notes, recorder.timings, recorder.units_done        # or Nothing was made

The page, the commands and the workers of a cluster differ in where the news of a run goes, which is what a
`Listener` is for, and in nothing else. What is finished outlives a stop and an error: as units to go on from
and, where the listener wants it, as a shorter result.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from pyramid.events import Finished, Frames, Notice, Preview, Unit
from pyramid.hub.checkpoints import fingerprint
from pyramid.jobs.place import Place
from pyramid.jobs.record import Output
from pyramid.jobs.recovery import UnitsFolder, beside
from pyramid.media import files
from pyramid.media.export import open_writer
from pyramid.media.growing import GrowingClip, StreamedClip
from pyramid.media.pictures import write_picture
from pyramid.memory.device import device_of
from pyramid.settings import Settings, at_home, frames_of

if TYPE_CHECKING:
    from pyramid.generate.pipeline import Event


class Nothing(Exception):
    """The run ended early, and nothing of it is to be kept as a result."""


class Unwritten(Exception):
    """The result could not be written, as `error` says, which is not the run's."""

    def __init__(self, error: OSError):
        self.error = error


class Listener:
    """Where the news of a run goes. This one keeps silent, and keeps what is finished."""

    recorder: "Recorder"  # whose news these are: it says so itself

    def event(self, event: "Event", seconds: float) -> None:
        """An event came, after so many seconds; what is to be kept of it is kept already."""

    def note(self, sentence: str) -> None:
        """Something that belongs into the result's notes, once each."""

    def unsaved(self, why: str) -> None:
        """Units cannot be saved from here on: the run goes on, and could not be resumed. Told once."""

    def waiting(self, why: str) -> None:
        """Nothing can be written: the run waits for it, and then begins again with its finished units."""

    def stopping(self) -> bool:
        """Whether the run was stopped: nobody waits any more then."""
        return False

    def again(self) -> None:
        """What was finished comes again from here on, as its file was lost."""

    def grown(self, path: Path) -> None:
        """A longer clip of the finished units is there. Comes from another thread."""

    def ended_early(self, error: BaseException | None) -> None:
        """A stop or an error ended the run; the recorder's `path` and `units`, if any, stay."""

    def told(self) -> dict[str, Any]:
        """What else the result is to say of itself."""
        return {}

    def wants(self, early: bool) -> bool:
        """Whether what is finished becomes a result; `early`: it is less than was asked for."""
        return True


@dataclass(frozen=True)
class Recording:
    """What is to be made, and what of it is to be kept where."""

    settings: Settings  # what is made
    path: Path  # the wanted name of the result; its ending says what it becomes, and .png is a still
    identity: dict[str, Any]  # of the weights
    asked: Settings | None = None  # what the result says it was asked for, where that is not `settings`
    marks: dict[str, Any] = field(default_factory=dict)  # what it says besides: run, source, batch
    output: Output = Output()
    units: UnitsFolder | None = None  # a folder of its own for the finished units, or of the run to finish
    beside: bool = False  # or one beside the result of a video, named as that
    more_units: bool = True  # whether units are made and saved: not, where those that are there are shown
    units_stay: bool = False  # also once the whole result is there
    partial: bool = False  # the result is a part, even where all units are there
    endless: bool = False  # it is whole whenever it is stopped, and says how long it became
    growing: Path | None = None  # a folder for a clip that can be played while it is made
    root: Path | None = (
        None  # the folder that is waited for, should it go away; the result's, if none is named
    )

    @property
    def still(self) -> bool:
        return self.path.suffix == ".png"

    @property
    def metadata(self) -> dict[str, Any]:
        """What the result says of itself, as far as it is known at the beginning."""
        return files.describe(self.asked or self.settings, self.identity) | self.marks


class Recorder:
    """Records one run."""

    def __init__(self, recording: Recording, listener: Listener | None = None, notes: Sequence[str] = ()):
        """`notes`: what the result has to say before anything was made."""
        self.recording = recording
        self.listener = listener or Listener()
        self.listener.recorder = self
        self.units = recording.units
        self.notes = list(notes)
        self.timings: dict[str, float] = {}  # seconds by phase
        self.path: Path | None = None  # the result, once it is there
        self.units_done = 0
        self._saved = 0  # units that lie in the folder already
        self._saves = recording.more_units
        self._unsaved = False
        self._kept: list[Unit] = []  # that are finished, whether or not they could be saved
        self._mark: dict[str, Any] = {}  # of the run, where its units lie beside the result
        self._made = 0  # frames that were not given
        self._given = 0  # and those that were
        self._stopped = False  # the run ended early, if only while it was decoded
        self._failed: BaseException | None = None  # what went wrong in the run itself
        self._about: tuple[Any, ...] = ()  # what the folder of units was begun with
        self._clip: GrowingClip | None = None
        self.place = Place(_there(recording.root or recording.path.parent))

    # -- units

    def _begin(self) -> list[Unit]:
        """Claim the folder of units: those that an earlier attempt left in it, if they fit to this one."""
        r = self.recording
        folder = self.units
        if folder is None:
            return []
        if not r.more_units:
            return folder.load()[1]
        units, why = folder.left_for(r.settings, r.identity)
        if why:
            self.note(why)
        self._saved = len(units)
        self._about = (r.settings, r.identity, folder.about()["inputs"] if units or folder.held else {})
        if units or folder.held:
            folder.hold()
        else:
            self._about = (r.settings, r.identity)
            self.saving(lambda: folder.begin(*self._about))
        return units

    def _begin_beside(self, result: Path) -> dict[str, Any]:
        """A folder for the units beside the result, which says so by a mark; no mark where there is none."""
        r = self.recording
        folder = beside(result)
        mark = {"run": uuid4().hex}
        if (
            self._mark
            and self.units
            and folder.path == self.units.path
            and (folder.path / "run.json").is_file()
        ):
            return self._mark  # a file was lost, its units were not
        inputs = r.marks | mark | {"result": result.name}
        self._about = (r.settings, r.identity, inputs)
        self.saving(lambda: folder.begin(*self._about))
        if self._unsaved:
            folder.remove()
            return {}
        self.units = folder
        self._mark = mark
        return mark

    def saving(self, save: Callable[[], Any]) -> None:
        """Save something, once it can be. What fails for another reason than the folder ends no run: it is
        only not to be resumed.
        """
        while True:
            try:
                save()
                return
            except (OSError, sqlite3.Error) as error:
                if self._waits(error):
                    continue
                if not self._unsaved:
                    self._unsaved = True
                    self.listener.unsaved(getattr(error, "strerror", None) or str(error))
                return

    def _waits(self, error: Exception | None) -> bool:
        """Wait until the folder of results can be written again; False where it could be all along."""
        return self.place.wait(error, self.listener.waiting, self.listener.stopping)

    def _keep(self, unit: Unit) -> None:
        """What is lost of a run that dies is its last unit."""
        folder = self.units
        if not self.recording.endless:  # whose memory stays as it is
            self._kept[unit.index :] = [unit]
        if folder and self._saves and unit.index >= self._saved:
            self.saving(lambda: self._save(folder, unit))
            self._saves = not self._unsaved  # those after one that is missing are of no use

    def _save(self, folder: UnitsFolder, unit: Unit) -> None:
        """Into its folder, which may have been removed meanwhile with all that was in it."""
        if (folder.path / "run.json").is_file() or not self._about:
            folder.save(unit)
            return
        folder.begin(*self._about)
        for kept in self._kept:
            folder.save(kept)

    def _leave_units(self, early: bool) -> None:
        """The folder goes with the whole result. Else it stays, if anything in it is worth it."""
        if self.units is None or not self.units.held:
            return
        if not self.recording.units_stay:
            try:
                worth = early and self.units.load()[1]
            except ValueError:  # it has vanished meanwhile: what went wrong is told by the run's own error
                worth = False
            if not worth:
                self.units.remove()
                self.units = None
                return
        self.units.close()

    # -- the result

    def record(self, start: "Callable[[list[Unit]], Iterator[Event]]") -> Path:
        """Take all events of the run that `start` begins from the units that are there already.

        Returns the result's path. An error keeps what is finished, as a stop does, and is raised after that.
        Raises Nothing after a stop that left nothing to keep.
        """
        error: BaseException | None = None
        try:
            return self._until_written(start)
        except BaseException as caught:
            error = caught
            raise
        finally:
            early = error is not None or self.short
            self._leave_units(early)
            if early:
                self.listener.ended_early(error)

    def _until_written(self, start: "Callable[[list[Unit]], Iterator[Event]]") -> Path:
        """The result. A file that is lost, as its disk is full or was taken away, is written again from the
        finished units, once that is possible.
        """
        units = self._begin()
        patient = True  # once, where nothing is wrong with the folder
        while True:
            try:
                return self._write(start(units))
            except Unwritten as lost:
                waited = self._waits(lost.error)
                if self.listener.stopping():
                    raise Nothing from lost.error
                if not (waited or patient):
                    raise lost.error from None
                patient = waited
            units = self._begin_again()

    def _begin_again(self) -> list[Unit]:
        """What is finished, from memory: the folder may have lost it."""
        self._saved = self._made = self._given = self.units_done = 0
        self.listener.again()
        return list(self._kept) if any(not unit.given for unit in self._kept) else []

    @property
    def short(self) -> bool:
        """Whether less was made than was asked for."""
        return self._stopped or self.units_done < self.recording.settings.units

    def _write(self, events: "Iterator[Event]") -> Path:
        write = self._write_still if self.recording.still else self._write_video
        self.path, error = write(events)
        if error:
            raise error
        return self.path

    def _write_video(self, events: "Iterator[Event]") -> tuple[Path, Exception | None]:
        r = self.recording
        s = self.recording.settings
        size = (s.width, s.height)
        output = r.output
        options: dict[str, Any] = {"quality": output.quality, "keep": output.metadata}
        with (
            self._growing(),
            self._file(),
            open_writer(r.path, s.fps, size, r.metadata, **options) as writer,
        ):
            if r.beside:
                writer.metadata |= self._begin_beside(writer.path)
            error = self._consume(events, writer.write)
            self._check(error)
            writer.partial = bool(error) or r.partial or self._less_than_asked
            writer.metadata |= self._outcome()
        return writer.path, error

    @contextmanager
    def _file(self) -> Iterator[None]:
        """Around the making of the file: an error of its own, and not the run's, is Unwritten."""
        try:
            yield
        except OSError as error:
            if error is self._failed:
                raise
            raise Unwritten(error) from error

    @contextmanager
    def _growing(self) -> Iterator[None]:
        r = self.recording
        s = self.recording.settings
        if r.growing is None:
            yield
            return
        kind = StreamedClip if r.endless else GrowingClip
        with kind(r.growing, s.fps, (s.width, s.height), self.listener.grown) as self._clip:
            yield

    def _write_still(self, events: "Iterator[Event]") -> tuple[Path, Exception | None]:
        r = self.recording
        frames: list[np.ndarray] = []
        error = self._consume(events, frames.append)
        self._check(error)
        metadata = r.metadata | self._outcome()
        with self._file():
            return write_picture(r.path, frames[0][0], metadata, keep=r.output.metadata), error

    def _check(self, error: Exception | None) -> None:
        """Nothing becomes a file that nobody wants."""
        if not self._made or not self.listener.wants(early=bool(error) or self.short):
            self._failed = error
            raise error or Nothing

    @property
    def _less_than_asked(self) -> bool:
        r = self.recording
        less = self._stopped or self.units_done < (r.asked or r.settings).units
        return less and not r.endless

    def _outcome(self) -> dict[str, Any]:
        """What is known at the end only."""
        timings = {phase: round(seconds, 3) for phase, seconds in self.timings.items()}
        r = self.recording
        told: dict[str, Any] = {"timings": timings} | ({"notes": list(self.notes)} if self.notes else {})
        if self._given:
            told["given_frames"] = self._given
        if r.endless and self.short:
            told["settings"] = files.told(replace(r.settings, num_frames=frames_of(self.units_done)))
        return told | self.listener.told()

    # -- events

    def note(self, sentence: str) -> None:
        """Something that the result has to say, and the listener."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            self.listener.note(sentence)

    def _consume(self, events: "Iterator[Event]", write: Callable[[np.ndarray], None]) -> Exception | None:
        """Take all events. What goes wrong is returned: it does not undo what is finished."""
        try:
            before = time.perf_counter()
            while (event := next(events, None)) is not None:
                _settle(event)
                self._take(event, time.perf_counter() - before, write)
                before = time.perf_counter()
        except Unwritten as lost:
            raise lost.error from None
        except Exception as error:
            return error
        return None

    def _take(self, event: "Event", seconds: float, write: Callable[[np.ndarray], None]) -> None:
        """Keep what an event, which took so long to come, brings, and pass it on."""
        if self.place.looks_wrong():
            self._waits(None)
        match event:
            case Notice():
                self.note(event.message)
            case Unit():
                self._keep(event)
                self.units_done = event.index + 1
            case Frames():
                try:
                    write(event.video)
                except OSError as error:
                    raise Unwritten(error) from error
                if self._clip:
                    self._clip.add(event.video)
                self._made += 0 if event.given else len(event.video)
                self._given += len(event.video) if event.given else 0
            case Finished():
                self.timings = dict(event.timings)
                self._stopped = event.stopped and not self.recording.endless
        self.listener.event(event, seconds)


def _settle(event: "Event") -> None:
    """Wait for a graphics card to finish a step that is about to be shown:
    its time is the step's, not the preview's.

    Where nothing is shown nobody waits, and what a step took is not known.
    """
    if isinstance(event, Preview) and event.clean is not None:
        device_of(event.clean.device).synchronize()


def _there(folder: Path) -> Path:
    """The folder itself, or the first above it that is there: what is still to be made is not waited for."""
    return next((place for place in (folder, *folder.absolute().parents) if place.is_dir()), folder)


def source(settings: Settings, path: Path | None = None) -> dict[str, Any]:
    """Which picture or video a result started from, so that it can be told apart from another of that name.

    `path`: where it lies, when not where the settings say.
    """
    path = path or at_home(settings.image or settings.video or "")
    return {"source": {"name": path.name, "hash": fingerprint(path)[:16]}} if path.name else {}
