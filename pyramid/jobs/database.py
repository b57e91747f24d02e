"""A SQLite file that threads share and that tells them when something changed.

    db = Database(path, schema)               # one script for each version of the file
    with db.change() as connection:           # one transaction: all of it or nothing
        connection.execute("UPDATE …")
    db.wait(version, timeout=1)               # sleeps until `db.version` is another one

Through the standard library. One connection, one lock: what a program does with its own jobs is small.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 5.0  # seconds that a change waits for another program's


class Database:
    """An open file. Raises ValueError when it cannot be used, or was written by a newer program."""

    def __init__(self, path: Path, schema: Sequence[str]):
        self.path = path
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._version = int(time.time() * 1000)  # after a restart, too, larger than what a page may remember
        try:
            self._schema = schema
            self._connection = _open(path, schema)
            self._place = _place_of(path)
        except sqlite3.Error as error:
            way_out = "move it away, and a new one is made"
            if "locked" in str(error):
                way_out = "another program has it open: close that one, or use another folder"
            raise ValueError(f"{path} cannot be used ({error}): {way_out}") from error

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    def touch(self) -> None:
        """Wake all who wait for a change: something beside the file is new."""
        with self.changed:
            self._version += 1
            self.changed.notify_all()

    def wait(self, version: int, timeout: float) -> int:
        """Until something has changed since `version`, or `timeout` seconds; the version then."""
        with self.changed:
            self.changed.wait_for(lambda: self._version != version, timeout)
            return self._version

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction; then who waits for changes is told."""
        with self.lock:
            self._stay()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")  # may fail, too, where the disk is full
            except BaseException:
                if self._connection.in_transaction:  # SQLite itself may have rolled back
                    self._connection.execute("ROLLBACK")
                raise
            self.touch()

    def _stay(self) -> None:
        """Where the file was deleted or replaced while it is open: what it held is written anew, or the other
        one is opened. sqlite3.Error while its folder is gone.
        """
        try:
            there: os.stat_result | None = self.path.stat()
        except OSError:
            there = None
        if there is not None and (there.st_dev, there.st_ino) == self._place:
            return
        if there is None:
            self.make_folders()
        fresh = _open(self.path, self._schema)
        if there is None:
            self._connection.backup(fresh)
            fresh.execute("PRAGMA journal_mode = WAL")
        self._connection.close()
        self._connection = fresh
        self._place = _place_of(self.path)

    def make_folders(self) -> None:
        """Make what the file lies in anew. sqlite3.OperationalError where that is not to be."""
        if not self.path.parent.is_dir():
            raise sqlite3.OperationalError(f"unable to open: the folder {self.path.parent.name} is gone")

    def rows(self, query: str, values: Sequence = ()) -> list[sqlite3.Row]:
        with self.lock:
            return self._connection.execute(query, values).fetchall()

    def close(self) -> None:
        with self.lock:
            self._connection.close()


def _place_of(path: Path) -> tuple[int, int]:
    """Which file it is, whatever its name."""
    there = path.stat()
    return there.st_dev, there.st_ino


def _open(path: Path, schema: Sequence[str]) -> sqlite3.Connection:
    """The file, brought to the newest version."""
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=PATIENCE)
    try:
        db.row_factory = sqlite3.Row
        db.execute(
            "PRAGMA journal_mode = WAL"
        )  # who reads does not wait for who writes; a crash destroys nothing
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(schema):
            raise ValueError(
                f"{path} was written by a newer version of this program: update it, or use another folder"
            )
        for number in range(version, len(schema)):
            db.executescript(f"BEGIN; {schema[number]} PRAGMA user_version = {number + 1}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db
