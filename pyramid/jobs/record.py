"""What is known of a generation that was asked for: the record that the store keeps and the page shows."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pyramid.media.files import KEEPS, PATTERN, check_pattern
from pyramid.settings import (
    TABLE,
    Settings,
    SettingsError,
    check_choice,
    label_of,
    renamed,
    seconds_of,
    typed,
    variant_of,
)
from pyramid.wording import briefly

FORMATS = ("mp4", "webm", "gif", "png")  # of a result, see `export.open_writer`; png is a zip of pictures


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    PARTIAL = "partial"  # stopped, and what was finished is a video
    STOPPED = "stopped"  # stopped, and nothing was kept
    FAILED = "failed"  # `error` says why; `path` holds what was finished, if anything was
    INTERRUPTED = "interrupted"  # the program ended in the middle
    PAUSED = "paused"  # held after a stage or a unit: what is finished is kept, no video is made of it


ENDED = tuple(state for state in State if state not in (State.QUEUED, State.RUNNING))


@dataclass(frozen=True)
class Output:
    """How a result becomes a file. Raises SettingsError.

    `quality` is H.264's CRF, 1 to 51; `pattern` is the file's name, see `files.file_name`; `previews`: clean
    estimates are shown while it is made.
    """

    format: str = "mp4"
    quality: int = 17
    metadata: str = "embed"
    pattern: str = PATTERN
    previews: bool = True
    random: bool = False  # the seed was left to chance: what an edit of the waiting job begins with
    group: str = ""  # of jobs that differ in their seeds, of which one is to be kept

    def __post_init__(self):
        for name, choices in (("format", FORMATS), ("metadata", KEEPS)):
            if (value := getattr(self, name)) not in choices:
                raise SettingsError(name, f"unknown {name} {value!r}: choose from {', '.join(choices)}")
        if type(self.quality) is not int or not 1 <= self.quality <= 51:
            raise SettingsError("quality", f"quality = {self.quality!r}: 1 to 51, where 17 shows no loss")
        for name in ("previews", "random"):
            _check_type(name, getattr(self, name), bool)
        _check_type("group", self.group, str)
        check_pattern(self.pattern)


KINDS = ("video", "drafts", "endless", "edit")  # what a job makes


@dataclass(frozen=True)
class Directed:
    """What is directed beside the settings. Raises SettingsError.

    `kind`: a video; a wall of drafts of `seeds`, or of `variations` of the settings' own seed; a clip that
    goes on until it is stopped; or a clip of which one `unit` is made anew, with `prompt` and the best of
    `seeds`, and perhaps the old one's `composition`. `whole`: drafts show all units. `at_unit`: the first
    unit that is not its parent's, of a clip that branches off.
    """

    kind: str = "video"
    seeds: tuple[int, ...] = ()
    variations: tuple[int, ...] = ()
    whole: bool = False
    at_unit: int | None = None
    unit: int | None = None
    prompt: str | None = None
    composition: bool = False

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        for name in ("seeds", "variations"):  # JSON has lists
            _check_type(name, getattr(self, name), list, tuple)
            for value in getattr(self, name):
                _check_type(name, value, int)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("whole", "composition"):
            _check_type(name, getattr(self, name), bool)
        for name in ("at_unit", "unit"):
            _check_type(name, getattr(self, name), int, type(None))
        _check_type("prompt", self.prompt, str, type(None))


def _check_type(name: str, value: Any, *kinds: type) -> None:
    """Raises SettingsError for a value of another type than is written."""
    if type(value) not in kinds:
        raise SettingsError(name, f"{name} = {briefly(value)}: {kinds[0].__name__} is expected")


@dataclass(frozen=True)
class Job:
    """One generation. `path` is the result on the server: people are shown `path.name`."""

    id: str
    owner: str
    settings: Settings
    output: Output
    state: State
    position: float
    created: float  # seconds since 1970, as are the other times
    started: float | None = None
    ended: float | None = None
    path: Path | None = None
    error: str = ""
    notes: tuple[str, ...] = ()  # what was changed on the way, a sentence each
    units_done: int = 0
    favourite: bool = False
    timings: dict[str, float] = field(default_factory=dict)  # seconds by phase
    parent: str | None = None  # the job it was made from
    decode_only: bool = False  # makes a video of the units that are saved, and no new ones
    directed: Directed = Directed()
    damaged: str = ""  # which parts of its record cannot be read: it is shown, and does not run

    @property
    def kind(self) -> str:
        return self.directed.kind

    @property
    def result(self) -> Path:
        """`path`, of a job that has one."""
        assert self.path is not None, "only a job with a result is asked for it"
        return self.path

    @property
    def waiting(self) -> bool:
        return self.state is State.QUEUED

    @property
    def over(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Limits:
    """What a visitor may ask for; None is no limit."""

    max_upload_mb: float | None = None
    max_seconds: float | None = None  # of video
    max_queue_per_owner: int | None = None  # jobs waiting or running
    max_pixels: int | None = None  # of a frame: width × height
    max_steps: int | None = None  # of a stage
    max_queue_total: int | None = None  # jobs waiting or running, of all owners together
    max_queue_address: int | None = None  # of all owners that one address goes by
    max_requests: int | None = None  # a minute, of one address
    max_traffic_mb: float | None = None  # a minute, with one address, in both directions
    max_uploads_mb: float | None = None  # of disk that uploads take: the oldest go first
    max_disk_mb: float | None = None  # of disk that results and all beside them take: nothing new above it

    def check(self, settings: Settings) -> None:
        """Raises SettingsError for settings that ask for more work than is allowed."""
        s = settings
        # Many frames shown quickly are as much work as a long video.
        seconds = seconds_of(s.num_frames, min(s.fps, variant_of(s.variant).fps))
        if self.max_seconds is not None and seconds > self.max_seconds:
            raise SettingsError(
                "num_frames", f"{seconds:g} s of video: at most {self.max_seconds:g} s are allowed"
            )
        if self.max_pixels is not None and s.width * s.height > self.max_pixels:
            raise SettingsError(
                "width",
                f"{s.width}×{s.height} are {s.width * s.height:,} pixels: at most {self.max_pixels:,} are "
                "allowed, so choose a smaller size",
            )
        for name in ("num_inference_steps", "video_num_inference_steps"):
            told = [count for cue in s.cues for count in cue.steps]
            if self.max_steps is not None and (most := max((*getattr(s, name), *told))) > self.max_steps:
                raise SettingsError(
                    name,
                    f"= {most}: at most {self.max_steps} steps a stage are allowed, so ask for fewer",
                    named=True,
                )


def readable(values: dict[str, Any]) -> tuple[Settings, list[str]]:
    """Settings from a record, and a sentence on each thing in it that this version of the program does not
    know, which is left out. Raises SettingsError where the whole has another form.
    """
    values = renamed(values)
    notes = []
    known = {key: value for key, value in values.items() if key in TABLE}
    if extra := sorted(str(key) for key in values if key not in TABLE and key != "version"):
        notes.append(f"Unknown to this version of the program, and left out: {', '.join(extra)}.")
    for key in list(known):
        try:
            typed(TABLE[key], known[key])
        except SettingsError as error:
            notes.append(f"Left out: {error.told(label_of)}.")
            del known[key]
    return Settings.from_dict({"version": values.get("version", 1)} | known), notes


def job_of(row: Mapping[str, Any], folder: Path) -> Job:
    """A job from the record that the store keeps, whose result lies in `folder`. What cannot be read of it is
    as in a new one and named in `damaged`, so that no damage of one record hides the others.
    """
    damaged: list[str] = []

    def read(name: str, make: Callable[[Any], Any], otherwise: Any) -> Any:
        try:
            return make(row[name])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            damaged.append(name)
            return otherwise

    settings, left_out = read("settings", lambda text: readable(json.loads(text)), (Settings(), []))
    notes = read("notes", lambda text: [_text(note) for note in json.loads(text)], [])
    job = Job(
        id=row["id"],
        owner=row["owner"],
        settings=settings,
        output=read("output", lambda text: Output(**_known(Output, text)), Output()),
        directed=read("directed", lambda text: Directed(**_known(Directed, text)), Directed()),
        state=read("state", State, State.FAILED),
        position=read("position", _number, 0.0),
        created=read("created", _number, 0.0),
        started=read("started", _time, None),
        ended=read("ended", _time, None),
        path=read("path", lambda path: folder / path if path else None, None),
        error=read("error", _text, ""),
        notes=(*notes, *left_out),
        units_done=read("units_done", lambda number: max(0, int(_number(number))), 0),
        favourite=bool(row["favourite"]),
        timings=read("timings", lambda text: {k: _number(v) for k, v in json.loads(text).items()}, {}),
        parent=read("parent", lambda parent: None if parent is None else _text(parent), None),
        decode_only=bool(row["decode_only"]),
    )
    if not damaged:
        return job
    told = f"Damaged in its record, and left out: {', '.join(damaged)}."
    return replace(job, damaged=", ".join(damaged), notes=(*job.notes, told))


def _known(kind: type, text: str) -> dict[str, Any]:
    """The fields of a table that this version of the program knows."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in json.loads(text).items() if name in names}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is no number")
    return value


def _time(value: Any) -> float | None:
    return None if value is None else _number(value)


def search_words(settings: Settings) -> str:
    """What a search looks through; SQLite itself knows small and capital letters only of ASCII."""
    s = settings
    words = s.prompt, s.seed, s.model, s.variant, s.preset or "", s.image or s.video or ""
    return " ".join(map(str, words)).casefold()
