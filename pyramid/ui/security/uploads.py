"""The disk that uploads take: no more than a bound, the oldest go first. Results are never touched.

    uploads = Uploads(folder, megabytes=2000)
    uploads.check(size)                        # Refused: 507 where the disk itself is full
    uploads.made("1.2.3.4", [path, …])         # counted, and what is too much is deleted

A visitor's uploads may take a quarter of it: who sends much loses their own first, and nobody else's. What a
job starts from has been copied by then (`pyramid.jobs.sources`). A file counts for more than its content, so
that many small ones are bounded too.
"""

import os
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pyramid.disk import nearest
from pyramid.jobs.queue import MAX_MANY
from pyramid.jobs.space import LEFT_FREE
from pyramid.ui.security.traffic import Refused

SHARE = 4  # a visitor's part of the whole
ABANDONED = 60.0  # seconds after which an upload that is not written to was cut
AT_ONCE = 8  # uploads of one visitor that are under way
ALL_AT_ONCE = 32
MOST_FILES = MAX_MANY  # of one upload: the page takes as many pictures at once
OVERHEAD = 100_000  # bytes that a file counts for beside its content: blocks, a folder, and the looks at it
AGAIN = 10.0  # seconds for which a look at all files holds


class Uploads:
    """What lies in the folder of uploads. Without a bound nothing is deleted."""

    def __init__(self, folder: Path, megabytes: float | None):
        self.folder = folder
        self.most = None if megabytes is None else int(megabytes * 1e6)
        self.whose: dict[Path, str] = {}
        self.under_way: dict[str, int] = {}
        self._files: dict[Path, tuple[float, int]] = {}  # all files: when they came, and what they count for
        self._looked = -AGAIN  # when that was
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
        """Files of a visitor came; the oldest go where they are too many. Raises Refused, and deletes them,
        where they are too many for one upload.
        """
        if self.most is None:
            return
        with self._lock:
            if len(paths) > MOST_FILES:
                for path in paths:
                    self._delete(path)
                raise Refused(413, f"{len(paths)} files came in one upload, {MOST_FILES} may: send fewer.")
            self._look(paths, self.most)
            self.whose |= dict.fromkeys(paths, who)
            self.whose = {path: owner for path, owner in self.whose.items() if path in self._files}
            own = {path: self._files[path] for path, owner in self.whose.items() if owner == who}
            for files, most in ((own, self.most // SHARE), (self._files, self.most)):
                for path in self._too_many(files, most, keep=set(paths)):
                    self._delete(path)

    def _look(self, paths: Sequence[Path], most: int) -> None:
        """Look at files that came; now and then, and before any goes for the sake of all, at every one:
        Gradio keeps copies of results beside them, and renames what came.
        """
        for path in paths:
            with suppress(OSError):  # another visitor's upload pushed it out
                self._files[path] = counted(path.lstat())
        now = time.monotonic()
        if now - self._looked > AGAIN or size_of(self._files) > most:
            self._files = self._all()
            self._looked = now

    def _all(self) -> dict[Path, tuple[float, int]]:
        """All files. What is left of uploads that were cut, and folders without a file, are deleted."""
        found = {}
        old = time.time() - ABANDONED
        for top in entries(self.folder):
            within = entries(top)
            for entry in within or [top]:
                with suppress(OSError):  # it is gone, or in use after all
                    stat = entry.stat(follow_symlinks=False)
                    if entry is top and stat.st_mtime < old:
                        (os.rmdir if top.is_dir(follow_symlinks=False) else os.unlink)(top)
                    elif entry.is_file(follow_symlinks=False):
                        found[Path(entry.path)] = counted(stat)
        return found

    @staticmethod
    def _too_many(files: dict[Path, tuple[float, int]], most: int, keep: set[Path]) -> list[Path]:
        """The oldest, as many as it takes until the rest has at most `most` bytes."""
        size = size_of(files)
        gone: list[Path] = []
        if size <= most:
            return gone
        for path in sorted(files, key=lambda path: files[path][0]):
            if size <= most:
                break
            if path not in keep:
                gone.append(path)
                size -= files[path][1]
        return gone

    def _delete(self, path: Path) -> None:
        self._files.pop(path, None)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds others
            path.parent.rmdir()


def entries(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing in one that is gone, or in a file."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def counted(stat: os.stat_result) -> tuple[float, int]:
    """When a file came, and the bytes that it counts for."""
    return stat.st_mtime, stat.st_size + OVERHEAD


def size_of(files: dict[Path, tuple[float, int]]) -> int:
    return sum(size for _, size in files.values())
