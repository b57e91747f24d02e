"""The disk that results and all that belongs to them take, against a bound.

    space = Space(folder, megabytes=20_000)
    space.check()                                 # SettingsError: nothing new is begun

Nothing is deleted here: results go when their owners delete them.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pyramid.settings import SettingsError

AGAIN = 10.0  # seconds for which what was counted holds
LEFT_FREE = 500_000_000  # bytes of the disk that stay free


class Space:
    """A folder and what it may take; without a bound nothing is checked."""

    def __init__(self, folder: Path, megabytes: float | None):
        self.folder = folder
        self.most = megabytes
        self._counted = (0.0, 0)
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises SettingsError where there is no room for another result."""
        if self.most is None:
            return
        used = self.used()
        if used / 1e6 > self.most:
            raise SettingsError(
                "disk",
                f"results take {used / 1e6:,.0f} MB here, {self.most:,.0f} MB may (--max-disk-mb): delete "
                "some of yours, or ask who runs this page for room",
            )
        free = shutil.disk_usage(self.folder).free
        if free < LEFT_FREE:
            raise SettingsError(
                "disk",
                f"the disk has {free / 1e6:,.0f} MB free, and {LEFT_FREE / 1e6:,.0f} MB stay free: nothing "
                "new is begun until there is room",
            )

    def used(self) -> int:
        """Bytes of all files, counted anew every AGAIN seconds."""
        with self._lock:
            when = self._counted[0]
            if not when or time.monotonic() - when > AGAIN:
                self._counted = time.monotonic(), sum(_sizes(self.folder))
            return self._counted[1]


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.lstat(os.path.join(place, name)).st_size
            except OSError:  # gone meanwhile
                continue
