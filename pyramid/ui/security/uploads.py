"""The disk that uploads take: no more than a bound, the oldest go first. Results are never touched.

    uploads = Uploads(folder, megabytes=2000)
    uploads.check(size)                        # Refused: 507 where the disk itself is full
    uploads.made("1.2.3.4", [path, …])         # counted, and what is too much is deleted

A visitor's uploads may take a quarter of it: who sends much loses their own first, and nobody else's. What a
job starts from has been copied by then (`pyramid.jobs.sources`).
"""

import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pyramid.disk import nearest
from pyramid.jobs.space import LEFT_FREE
from pyramid.ui.security.traffic import Refused

SHARE = 4  # a visitor's part of the whole
ABANDONED = 60.0  # seconds after which an upload that is not written to was cut
AT_ONCE = 8  # uploads of one visitor that are under way
ALL_AT_ONCE = 32


class Uploads:
    """What lies in the folder of uploads. Without a bound nothing is deleted."""

    def __init__(self, folder: Path, megabytes: float | None):
        self.folder = folder
        self.most = None if megabytes is None else int(megabytes * 1e6)
        self.whose: dict[Path, str] = {}
        self.under_way: dict[str, int] = {}
        self._lock = threading.Lock()

    def check(self, size: int) -> None:
        """Raises Refused where the disk has no room for so many bytes."""
        if self.most is None:
            return
        there = nearest(self.folder)
        free = shutil.disk_usage(there).free
        if free - size < LEFT_FREE:
            raise Refused(
                507,
                f"The disk of this server has {free / 1e6:,.0f} MB free, and {LEFT_FREE / 1e6:,.0f} MB stay "
                "free: nothing can be uploaded until its owner makes room.",
                300,
            )

    def begin(self, who: str) -> None:
        """An upload comes. Raises Refused where too many are under way; else `end` has to follow."""
        if self.most is not None:
            if self.under_way.get(who, 0) >= AT_ONCE:
                raise Refused(429, f"{AT_ONCE} uploads of yours are under way: wait for one to end.", 5)
            if sum(self.under_way.values()) >= ALL_AT_ONCE:
                raise Refused(429, f"{ALL_AT_ONCE} uploads are under way: wait for one to end.", 5)
        self.under_way[who] = self.under_way.get(who, 0) + 1

    def end(self, who: str) -> None:
        self.under_way[who] -= 1
        if not self.under_way[who]:
            del self.under_way[who]

    def made(self, who: str, paths: Sequence[Path]) -> None:
        """Files of a visitor came; the oldest go where they are too many."""
        if self.most is None:
            return
        with self._lock:
            self.whose |= dict.fromkeys(paths, who)
            files = self._files()
            self.whose = {path: owner for path, owner in self.whose.items() if path in files}
            own = {path: files[path] for path, owner in self.whose.items() if owner == who and path in files}
            for path in self._too_many(own, self.most // SHARE, keep=set(paths)):
                self._delete(path)
                files.pop(path, None)
            for path in self._too_many(files, self.most, keep=set(paths)):
                self._delete(path)

    def _files(self) -> dict[Path, tuple[float, int]]:
        """All files with their time and size; what is left of uploads that were cut is deleted."""
        found = {}
        for path in [*self.folder.glob("*"), *self.folder.glob("*/*")]:
            try:
                stat = path.lstat()
            except OSError:
                continue
            if not path.is_file():
                continue
            if path.parent == self.folder and time.time() - stat.st_mtime > ABANDONED:
                self._delete(path)
            else:
                found[path] = (stat.st_mtime, stat.st_size)
        return found

    @staticmethod
    def _too_many(files: dict[Path, tuple[float, int]], most: int, keep: set[Path]) -> list[Path]:
        """The oldest, as many as it takes until the rest has at most `most` bytes."""
        size = sum(size for _, size in files.values())
        gone = []
        for path in sorted(files, key=lambda path: files[path][0]):
            if size <= most:
                break
            if path not in keep:
                gone.append(path)
                size -= files[path][1]
        return gone

    @staticmethod
    def _delete(path: Path) -> None:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds others
            path.parent.rmdir()
