"""Jobs that belong to the server: what was asked for, by whom, and what became of it,
kept in one SQLite file.

    store = JobStore(Path("outputs"))                       # outputs/.pyramid/jobs.sqlite
    job = store.add(settings, owner="local")                # validated, the seed drawn, the picture copied
    job = store.claim()                                     # the first in the queue now runs
    store.finish(job.id, State.DONE, path=path)
    store.history("local", search="red ball")

The queue and the history outlive the program: `recover()` marks what was running when it died.
`worker.Worker` does the work. A store may be used by any thread; `version` grows with every change, so
looking for news costs nothing.

Owners see and change only their own jobs: for another's, as for one that is not there, KeyError is raised. No
path is kept in a job's settings: its picture or video lies in `.pyramid/inputs/<id>/` (`input_of`), there is
only its name.
"""

import json
import shutil
import sqlite3
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pyramid.jobs.database import Database
from pyramid.jobs.record import ENDED, Directed, Job, Limits, Output, State, job_of, search_words
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.sources import Source
from pyramid.jobs.space import Space
from pyramid.media.files import file_name, result_of, sidecar_of
from pyramid.settings import MAX_SEED, Settings, SettingsError, check_value

__all__ = ["ENDED", "Job", "JobStore", "Limits", "Output", "State"]
PRIVATE = ".pyramid"  # folder inside the output folder: the store, inputs, finished units, clips that grow
WEEK = 7 * 86_400.0  # seconds
MAX_WORDS = 100  # of a search
MAX_MANY = 100  # jobs that one click may add
TURN = (  # of a waiting job: how many of its owner's run, or wait before it
    "(SELECT count(*) FROM jobs AS other WHERE other.owner = jobs.owner AND (other.state = 'running' OR "
    "other.state = 'queued' AND other.position < jobs.position))"
)
SCHEMA = (  # one script a version: a file of version n gets those from n on
    """
    CREATE TABLE jobs (
        id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, position REAL NOT NULL,
        settings TEXT NOT NULL, output TEXT NOT NULL, words TEXT NOT NULL,
        created REAL NOT NULL, started REAL, ended REAL, path TEXT, error TEXT NOT NULL DEFAULT '',
        notes TEXT NOT NULL DEFAULT '[]', units_done INTEGER NOT NULL DEFAULT 0,
        favourite INTEGER NOT NULL DEFAULT 0,
        timings TEXT NOT NULL DEFAULT '{}', parent TEXT, decode_only INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX by_state ON jobs (state, position);
    CREATE INDEX by_owner ON jobs (owner, ended);
    """,
    """
    ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'video';
    ALTER TABLE jobs ADD COLUMN directed TEXT NOT NULL DEFAULT '{}';
    """,
)
DRAFT = ".draft.safetensors"  # beside what a job starts from, which is never called so: what it goes on from
FORMER_DRAFT = "draft.safetensors"  # of earlier versions


@dataclass(frozen=True)
class Beginning:
    """What a new job begins with, beside its settings and its picture or clip."""

    directed: Directed = Directed()
    units: Path | None = None  # a folder of finished units, which become its own
    most: int | None = None  # so many of them; None: all
    draft: Path | None = None  # what the first unit goes on from


class JobStore(Database):
    """All jobs of one output folder. Raises ValueError when the folder or its file cannot be used."""

    def __init__(self, folder: str | Path, limits: Limits | None = None):
        self.folder = Path(folder).resolve()
        self.limits = limits or Limits()
        self.private = self.folder / PRIVATE
        self.fair = False  # whether owners take turns; else who asked first is served first
        self.space = Space(self.folder, self.limits.max_disk_mb)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.make_folders()
        except OSError as error:
            raise ValueError(f"nothing can be written in {self.folder}: {error.strerror}") from error
        super().__init__(self.private / "jobs.sqlite", SCHEMA)

    def make_folders(self) -> None:
        if not self.folder.is_dir():
            raise sqlite3.OperationalError(f"unable to open: the folder {self.folder.name} is gone")
        for name in ("inputs", "units", "live"):
            (self.private / name).mkdir(parents=True, exist_ok=True)

    # -- what an owner asks for

    def add(
        self,
        settings: Settings,
        *,
        owner: str,
        output: Output | None = None,
        image: bytes | Path | None = None,
        image_name: str = "",
        video: bytes | Path | None = None,
        parent: str | None = None,
    ) -> Job:
        """Put a job at the end of the queue. Raises SettingsError.

        `image`, or `video`, is what it starts from; it is copied. Without either, one that the settings name
        is taken from the job `parent`, which must be the owner's.
        """
        source = self._source(settings, owner, image, image_name, video, parent)
        return self._add_all([settings], [source], owner, output, parent)[0]

    def add_many(
        self,
        settings: Settings,
        *,
        owner: str,
        count: int = 1,
        images: Sequence[tuple[str, bytes | Path]] = (),
        output: Output | None = None,
        video: bytes | Path | None = None,
        parent: str | None = None,
    ) -> list[Job]:
        """`count` seeds of each picture (name, content), all or none of them. Raises SettingsError.

        The seeds are the settings', or one that is drawn, and those that follow it.
        """
        total = count * max(1, len(images))
        if not count >= 1 or total > MAX_MANY:
            raise SettingsError("count", f"{total} jobs at once: 1 to {MAX_MANY} can be added")
        first = check_value("seed", settings.resolved().seed)  # before it is counted on
        if first + count - 1 > MAX_SEED:
            problem = f"= {first} and the {count - 1} after it go beyond {MAX_SEED}: start lower"
            raise SettingsError("seed", problem, named=True)
        seeded = [replace(settings, seed=first + step) for step in range(count)]
        sources = [
            self._source(settings, owner, content, name, video, parent)
            for name, content in images or (("", None),)
        ]
        return self._add_all(seeded, sources, owner, output, parent)

    def _add_all(
        self,
        asked: Sequence[Settings],
        sources: "Sequence[Source | None]",
        owner: str,
        output: Output | None,
        parent: str | None,
        begin: Beginning = Beginning(),
    ) -> list[Job]:
        """A job for each of the settings with each of the sources, all or none.

        What they start from is read and copied before the lock is taken: that may take seconds, in which
        others go on. Room is looked for before anything is read, and again when there is no way back.
        """
        self.space.check()
        self._check_room(owner, len(asked) * len(sources))
        rows: list[dict[str, Any]] = []
        try:
            for source in sources:
                for settings in self._checked(asked, source):
                    row = self._row(settings, owner, output, parent, begin.directed)
                    rows.append(row)
                    if source:
                        source.write(self.private / "inputs" / row["id"])
                    self._begin_with(begin, row["id"], settings)
            with self.lock:
                self._check_room(owner, len(rows))
                self._append(rows)
        except BaseException:
            for row in rows:
                self._remove_files(row["id"])
            raise
        return [self.get(row["id"]) for row in rows]

    def _begin_with(self, begin: Beginning, job_id: str, settings: Settings) -> None:
        """Finished units and a draft as a new job's own."""
        if begin.units and begin.units.is_dir():
            folder = UnitsFolder(self.private / "units" / job_id)
            folder.share(begin.units, begin.most)
            if (folder.path / "run.json").is_file():
                folder.continue_as(settings)
        if begin.draft:
            inputs = self.private / "inputs" / job_id
            inputs.mkdir(exist_ok=True)
            shutil.copyfile(begin.draft, inputs / DRAFT)

    @staticmethod
    def _row(
        settings: Settings, owner: str, output: Output | None, parent: str | None, directed: Directed
    ) -> dict[str, Any]:
        """A new job as the file keeps it, all but its place in the queue."""
        return {
            "id": uuid.uuid4().hex,
            "owner": owner,
            "state": State.QUEUED,
            "settings": _json(settings.to_dict()),
            "output": _json(asdict(output or Output())),
            "words": search_words(settings),
            "created": time.time(),
            "parent": parent,
            "kind": directed.kind,
            "directed": _json(asdict(directed)),
        }

    def edit(
        self,
        job_id: str,
        owner: str,
        settings: Settings,
        *,
        output: Output | None = None,
        image: bytes | Path | None = None,
        image_name: str = "",
        video: bytes | Path | None = None,
    ) -> Job:
        """Change what a waiting job will make. What it starts from stays, where the settings still name it.

        Raises SettingsError, and ValueError once it has begun.
        """
        source = self._source(settings, owner, image, image_name, video, job_id)
        settings = self._checked([settings], source)[0]
        folder = self.private / "inputs" / job_id
        fresh = folder.with_name(f"{job_id}.new")
        other = source is not None and source.path != self.input_of(self.get(job_id, owner))
        try:
            if source and other:
                source.write(fresh)  # what is large is copied before the lock is taken
            with self.lock:
                job = self._waiting(job_id, owner)
                if other or not source:
                    shutil.rmtree(folder, ignore_errors=True)
                if other:
                    fresh.rename(folder)
                values = (
                    _json(settings.to_dict()),
                    _json(asdict(output or job.output)),
                    search_words(settings),
                    job_id,
                )
                with self.change() as db:
                    db.execute("UPDATE jobs SET settings = ?, output = ?, words = ? WHERE id = ?", values)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return self.get(job_id)

    def duplicate(self, job_id: str, owner: str, **changes: Any) -> Job:
        """The same again at the end of the queue, with `changes` of its settings;
        `seed=None` draws a new seed.
        """
        job = self.get(job_id, owner)
        return self.add(replace(job.settings, **changes), owner=owner, output=job.output, parent=job_id)

    def extend(self, job_id: str, owner: str, **changes: Any) -> Job:
        """The same with `changes`, as a new job that begins with copies of this one's finished units."""
        job = self.get(job_id, owner)
        settings = replace(job.settings, **changes)
        source = self._source(settings, owner, None, "", None, job_id)
        directed = Directed() if job.kind == "edit" else job.directed  # an edit is done with
        begin = Beginning(replace(directed, at_unit=job.units_done), self.units_of(job))
        return self._add_all([settings], [source], owner, job.output, job_id, begin)[0]

    def direct(
        self,
        settings: Settings,
        *,
        owner: str,
        begin: Beginning,
        output: Output | None = None,
        parent: str | None = None,
        image: Path | None = None,
        video: Path | None = None,
    ) -> Job:
        """A job that is directed, see `pyramid.jobs.directing`, at the end of the queue.

        What it starts from is given, or taken from the job `parent`. Raises SettingsError.
        """
        source = self._source(settings, owner, image, image.name if image else "", video, parent)
        return self._add_all([settings], [source], owner, output, parent, begin)[0]

    def move(self, job_id: str, owner: str, by: int) -> None:
        """Move a waiting job by so many places, up (negative) or down, among its owner's:
        no other's turn changes.
        """
        with self.lock:
            self._waiting(job_id, owner)
            own = [job for job in self.queue(owner) if job.waiting]
            ids, places = [job.id for job in own], [job.position for job in own]
            at = ids.index(job_id)
            ids.insert(min(max(at + by, 0), len(ids) - 1), ids.pop(at))
            with self.change() as db:
                db.executemany(
                    "UPDATE jobs SET position = ? WHERE id = ?", list(zip(places, ids, strict=True))
                )

    def remove(self, job_id: str, owner: str) -> None:
        """Take a waiting job out of the queue. ValueError once it has begun."""
        with self.lock:
            self._waiting(job_id, owner)
            self._forget(job_id)
        self._remove_files(job_id)

    def favourite(self, job_id: str, owner: str, on: bool = True) -> None:
        with self.lock:
            self.get(job_id, owner)
            self._set(job_id, favourite=int(on))

    def delete(self, job_id: str, owner: str) -> None:
        """Delete an ended job: the result, what lies beside it, its inputs and units.
        ValueError while it runs.
        """
        with self.lock:
            job = self.get(job_id, owner)
            if job.state is State.RUNNING:
                raise ValueError("this job is running: stop it first")
            self._forget(job_id)
        if job.path and job.path.is_relative_to(self.folder):
            if job.path.is_dir():
                shutil.rmtree(job.path, ignore_errors=True)
            else:
                job.path.unlink(missing_ok=True)
            sidecar_of(job.path).unlink(missing_ok=True)
        self._remove_files(job_id)

    # -- what is there

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job. KeyError when it is not there, or not `owner`'s."""
        found = self._jobs("id = ?", [job_id])
        if not found or owner not in (None, found[0].owner):
            raise KeyError(f"there is no job {job_id!r}")
        return found[0]

    def queue(self, owner: str | None = None) -> list[Job]:
        """What runs, then what waits, in order; all owners', or one's."""
        where = "state IN ('running', 'queued')" + " AND owner = ?" * (owner is not None)
        order = f"ORDER BY state = 'queued', {self._turn}, position"
        return self._jobs(where, [] if owner is None else [owner], order)

    @property
    def _turn(self) -> str:
        """What waiting jobs are ordered by before their places: where owners take turns, how many of the same
        owner run or come before.
        """
        return f"CASE state WHEN 'queued' THEN {TURN} ELSE 0 END" if self.fair else "position"

    def open_jobs(self) -> dict[str, int]:
        """How many jobs of each owner wait or run; owners with none are left out."""
        where = "state IN ('running', 'queued')"
        found = self.rows(f"SELECT owner, count(*) AS number FROM jobs WHERE {where} GROUP BY owner")
        return {row["owner"]: row["number"] for row in found}

    def place(self, job_id: str) -> int:
        """How many jobs, anybody's, come before this one; 0 when it runs, is next with nothing running,
        or is over.
        """
        ids = [job.id for job in self.queue()]
        return ids.index(job_id) if job_id in ids else 0

    def history(
        self,
        owner: str,
        *,
        search: str = "",
        favourites: bool = False,
        limit: int = 50,
        offset: int = 0,
        drafts: bool = False,
    ) -> list[Job]:
        """The owner's ended jobs, the latest first, in which all words of `search` occur: clips, or walls of
        drafts.
        """
        where = "owner = ? AND ended IS NOT NULL AND state NOT IN ('running', 'queued')"
        values = [owner]
        words = dict.fromkeys(search.casefold().split())
        if len(words) > MAX_WORDS:
            raise SettingsError(
                "search", f"has {len(words)} words: at most {MAX_WORDS} can be given", named=True
            )
        for word in words:
            where += " AND instr(words || coalesce(path, ''), ?)"
            values.append(word)
        where += " AND favourite" * favourites + f" AND kind {'=' if drafts else '!='} 'drafts'"
        return self._jobs(
            where, [*values, limit, offset], "ORDER BY ended DESC, position DESC LIMIT ? OFFSET ?"
        )

    def input_of(self, job: Job) -> Path | None:
        """The picture or video that a job starts from."""
        name = job.settings.image or job.settings.video
        path = self.private / "inputs" / job.id / name if name else None
        return path if path and path.is_file() else None

    def draft_of(self, job: Job) -> Path | None:
        """The draft that a job goes on from."""
        folder = self.private / "inputs" / job.id
        found = [folder / name for name in (DRAFT, FORMER_DRAFT) if (folder / name).is_file()]
        return next((path for path in found if path != self.input_of(job)), None)

    def family(self, job: Job) -> list[Job]:
        """All the owner's clips that share units with this one, the oldest first: a branch follows the clip
        that it left.
        """
        root = job
        with suppress(KeyError):
            while root.parent and root.directed.at_unit is not None:
                root = self.get(root.parent, job.owner)
        found = [root]
        new = [root.id]
        while new:
            places = ", ".join("?" * len(new))
            born = self._jobs(f"owner = ? AND parent IN ({places})", [job.owner, *new], "ORDER BY created")
            born = [each for each in born if each.directed.at_unit is not None]
            found += born
            new = [each.id for each in born]
        return found

    def made_of(self, wall: Job) -> list[Job]:
        """The owner's clips that go on from the drafts of a wall, the oldest first."""
        where = "owner = ? AND parent = ? AND kind = 'video'"
        return self._jobs(where, [wall.owner, wall.id], "ORDER BY created")

    def units_of(self, job: Job) -> Path:
        """The folder of a job's finished units (`pyramid.jobs.recovery`) and denoised estimates;
        it may not exist.
        """
        return self.private / "units" / job.id

    def target_of(self, job: Job) -> Path:
        """What a job's result is to be called, without the ending; the next free name is taken."""
        when = datetime.fromtimestamp(job.created)
        return self.folder / file_name(job.output.pattern, job.settings, index=int(job.position), when=when)

    # -- what the worker does

    def claim(self, but: Sequence[str] = ()) -> Job | None:
        """The first waiting job, which runs from now on; None when none waits.
        No two callers get the same. `but`: jobs that are not to be taken yet.
        """
        waits = f"state = 'queued' AND id NOT IN ({', '.join('?' * len(but))})"
        while self._jobs(waits, but, "LIMIT 1"):  # else nothing changes, and nobody is told so
            with self.change() as db:
                row = db.execute(
                    "UPDATE jobs SET state = 'running', started = ?, ended = NULL, error = '' WHERE id = ("
                    f"SELECT id FROM jobs WHERE {waits} ORDER BY {self._turn}, position LIMIT 1) RETURNING *",
                    [time.time(), *but],
                ).fetchone()
            job = self._job(row) if row else None
            if job is None or not job.damaged:
                return job
            why = f"The record of this job is damaged ({job.damaged}), so it was not made: ask for it again."
            self.finish(job.id, State.FAILED, error=why)
        return None

    def give_back(self, job_id: str) -> None:
        """A running job waits again where it was: whoever takes it goes on from its finished units."""
        self._set(job_id, state=State.QUEUED, started=None)

    def progress(self, job_id: str, units_done: int) -> None:
        self._set(job_id, units_done=units_done)

    def revise(self, job_id: str, settings: Settings) -> None:
        """Other settings of a job that runs: what it is told was changed, or its length is known now."""
        self._set(job_id, settings=_json(settings.to_dict()), words=search_words(settings))

    def finish(
        self,
        job_id: str,
        state: State,
        *,
        path: Path | None = None,
        error: str = "",
        notes: Sequence[str] = (),
        timings: dict[str, float] | None = None,
        units_done: int | None = None,
    ) -> Job:
        """A job ended."""
        if path is not None and path.is_relative_to(self.folder):
            path = path.relative_to(self.folder)  # so the folder may be moved
        values = {"state": state, "ended": time.time(), "path": str(path) if path else None, "error": error}
        values |= {"notes": _json(list(notes)), "timings": _json(timings or {})}
        values |= {} if units_done is None else {"units_done": units_done}
        with self.lock:
            self._set(job_id, **values)
            return self.get(job_id)

    def resume(self, job_id: str, owner: str | None = None) -> Job:
        """Put a job that ended early at the end of the queue again: it goes on from its saved units.

        One that has a video of its finished units keeps it, and a copy goes on. ValueError for one that is
        complete.
        """
        job = self.get(job_id, owner)
        if not job.over or job.state is State.DONE:
            raise ValueError(f"this job is {job.state}: only one that ended early can be resumed")
        if job.path is not None:
            return self.extend(job_id, job.owner)
        self.space.check()
        with self.lock:
            if not self.get(job_id, owner).over:
                raise ValueError("this job is in the queue again already")
            self._check_room(job.owner, 1)
            return self._requeue(job_id)

    def decode_finished(self, job_id: str, owner: str | None = None) -> Job:
        """Put a job that ended early at the end of the queue:
        its finished units become a video, no new ones are made.

        ValueError when it has a video, or no unit was finished.
        """
        self.space.check()
        with self.lock:
            job = self.get(job_id, owner)
            if not job.over or job.path is not None:
                raise ValueError(
                    f"this job is {job.state}: only one that ended without a file can be decoded"
                )
            if not job.units_done:
                raise ValueError("no unit of this job was finished: resume it to make them")
            self._check_room(job.owner, 1)
            return self._requeue(job_id, decode_only=True)

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        """New rows at the end of the queue, all or none."""
        with self.change() as db:
            last = db.execute("SELECT max(position) FROM jobs").fetchone()[0] or 0
            for place, row in enumerate(rows, 1):
                values = {**row, "position": last + place}
                places = ", ".join("?" * len(values))
                db.execute(f"INSERT INTO jobs ({', '.join(values)}) VALUES ({places})", [*values.values()])

    def _requeue(self, job_id: str, *, decode_only: bool = False) -> Job:
        with self.change() as db:
            last = db.execute("SELECT max(position) FROM jobs").fetchone()[0]
            db.execute(
                "UPDATE jobs SET state = 'queued', position = ?, ended = NULL, path = NULL, error = '', "
                "decode_only = ? WHERE id = ?",
                (last + 1, int(decode_only), job_id),
            )
        return self.get(job_id)

    def recover(self) -> list[Job]:
        """At the start: what was running when the program ended is INTERRUPTED. Returns those jobs.

        One whose result had just been published has that. Folders of no job, and clips that were growing, are
        removed.
        """
        with self.change() as db:
            rows = db.execute(
                "UPDATE jobs SET state = 'interrupted', ended = ?, error = ? WHERE state = 'running' "
                "RETURNING *",
                (time.time(), "The program ended while this was being made."),
            ).fetchall()
            known = {row["id"] for row in db.execute("SELECT id FROM jobs")}
        for name in ("inputs", "units", "live"):
            for folder in (self.private / name).iterdir():
                if name == "live" or folder.name not in known:
                    shutil.rmtree(folder, ignore_errors=True)
        return [self._published(self._job(row)) for row in rows]

    def take_up(self) -> list[Job]:
        """At the start, after `recover`: what the end of the program cut off is in the queue again, before
        what waited behind it, and goes on from its finished units. Returns those jobs.

        One that got no further since it was last taken up stays as it is: it may be what ends the program.
        So does what was cut off more than a week ago.
        """
        mark = self.private / "taken-up.json"
        try:
            before = json.loads(mark.read_text(encoding="utf-8"))
            before = before if isinstance(before, dict) else {}
        except (OSError, ValueError, RecursionError):
            before = {}
        with self.change() as db:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state = 'interrupted' AND path IS NULL AND ended > ?",
                (time.time() - WEEK,),
            ).fetchall()
            taken = [row for row in rows if before.get(row["id"]) != row["units_done"]]
            for row in taken:
                db.execute(
                    "UPDATE jobs SET state = 'queued', ended = NULL, error = '' WHERE id = ?", (row["id"],)
                )
        if taken:
            marks = {row["id"]: row["units_done"] for row in taken}
            with suppress(OSError):
                mark.write_text(json.dumps(before | marks), encoding="utf-8")
        return [self.get(row["id"]) for row in taken]

    # -- inside

    def _published(self, job: Job) -> Job:
        """A job that ended with the program: with its result, should that be there."""
        found = result_of(job.id, self.target_of(job))
        if not found:
            return job
        path, told = found
        state, done = (
            (State.PARTIAL, job.units_done) if told.get("partial") else (State.DONE, job.settings.units)
        )
        return self.finish(
            job.id,
            state,
            path=path,
            notes=told.get("notes", ()),
            timings=told.get("timings"),
            units_done=done,
        )

    def _set(self, job_id: str, **values: Any) -> None:
        with self.change() as db:
            columns = ", ".join(f"{name} = ?" for name in values)
            db.execute(f"UPDATE jobs SET {columns} WHERE id = ?", [*values.values(), job_id])

    def _jobs(self, where: str, values: Sequence[Any] = (), order: str = "") -> list[Job]:
        return [self._job(row) for row in self.rows(f"SELECT * FROM jobs WHERE {where} {order}", values)]

    def _job(self, row: sqlite3.Row) -> Job:
        return job_of(dict(row), self.folder)

    def _waiting(self, job_id: str, owner: str) -> Job:
        job = self.get(job_id, owner)
        if not job.waiting:
            raise ValueError(f"this job is {job.state} already: only one that waits can be changed")
        return job

    def _forget(self, job_id: str) -> None:
        with self.change() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", [job_id])

    def _remove_files(self, job_id: str) -> None:
        for name in ("inputs", "units", "live", "exports"):
            shutil.rmtree(self.private / name / job_id, ignore_errors=True)

    def _check_room(self, owner: str, number: int) -> None:
        open_jobs = self.open_jobs()
        limit = self.limits.max_queue_per_owner
        waiting = open_jobs.get(owner, 0)
        if limit is not None and waiting + number > limit:
            raise SettingsError(
                "queue",
                f"{waiting} of your jobs wait or run, {limit} may: wait for one to end, or remove one",
            )
        limit = self.limits.max_queue_total
        waiting = sum(open_jobs.values())
        if limit is not None and waiting + number > limit:
            raise SettingsError(
                "queue", f"{waiting} jobs wait or run here, {limit} may (--max-queue-total): try again later"
            )

    def _checked(self, asked: Sequence[Settings], source: "Source | None") -> list[Settings]:
        """Settings that differ in their seeds, with the source's name and a seed, if they can be run and what
        they start from can be read, which is tried once.
        """
        names: dict[str, Any] = {"image": None, "video": None}
        if source:
            names[source.kind] = source.name
        checked = [replace(settings, **names).validate() for settings in asked]
        for settings in checked:
            self.limits.check(settings)
        if source:
            source.check(checked[0], self.limits.max_upload_mb)
        return [settings.resolved() for settings in checked]

    def _source(self, settings, owner, image, image_name, video, parent) -> "Source | None":
        if image is not None and video is not None:
            raise SettingsError(
                "image", "both a picture and a video are given: a clip starts from one of them"
            )
        if image is not None:
            return Source.of("image", image, image_name or settings.image)
        if video is not None:
            return Source.of("video", video, settings.video)
        name = settings.image or settings.video
        if name is None:
            return None
        kind = "image" if settings.image else "video"
        before = self.get(parent, owner) if parent else None
        path = (
            self.input_of(before)
            if before and name in (before.settings.image, before.settings.video)
            else None
        )
        if path is None:
            raise SettingsError(kind, f"the {kind} {Path(name).name!r} is not here: give it again")
        return Source(kind, path.name, path)


# ------------------------------------------------------------------------------------------------------------
# Small parts of the above


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
