"""The folder that results go to, while a run is at work: whether it can be written, and waiting until it can.

    place = Place(Path("outputs"))
    place.trouble()                              # "" or a sentence: it is gone, read-only, full
    place.wait(error, say, stopping)             # False where the folder was not what was wrong

A drive that was unplugged, a folder that was removed, a disk that is full: each passes, and a run that took
an hour is worth waiting for.
"""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyramid.failures import known

LOOKS_EVERY = 1.0  # seconds between two looks at the folder
ASKS_EVERY = 0.25  # while it is waited for
ENOUGH = 2**18  # bytes: less is as good as none
MORE = 2**19  # bytes that have to come free before a file is tried again that found the disk full


class Place:
    """A folder that is there when this is made, and may go away and come back."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._looked = 0.0

    def looks_wrong(self) -> str:
        """`trouble`, looked for at most each LOOKS_EVERY seconds: after each step of a run, say."""
        if time.monotonic() - self._looked < LOOKS_EVERY:
            return ""
        self._looked = time.monotonic()
        return self.trouble(write=False)

    def trouble(self, *, write: bool = True) -> str:
        """Why nothing can be written there; "" where all is well. `write`: find out by doing it."""
        if not self.folder.is_dir():
            return f"the folder {self.folder.name} is gone: bring it back, or make it anew"
        try:
            if not os.access(self.folder, os.W_OK):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self.folder))
            if shutil.disk_usage(self.folder).free < ENOUGH:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
            if write:
                with tempfile.TemporaryFile(dir=self.folder) as file:
                    file.write(b"\0" * 4096)
        except OSError as error:
            return known(error) or str(error)
        return ""

    def wait(self, error: Exception | None, say: Callable[[str], None], stopping: Callable[[], bool]) -> bool:
        """Wait until the folder can be written again, after `error`, or as it looked wrong. It is said once.

        False where the folder was not what was wrong, or where `stopping` says that nobody waits any more.
        """
        why = self.trouble()
        needed = 0
        if error is not None and _is_full(error):
            needed = self._free() + MORE  # what was begun has been removed: so much was not enough
            why = why or f"{self.folder.name}: No space left on device: free some space there"
        if not why:
            return False
        say(f"Waiting, as nothing can be written: {why}. It goes on by itself then")
        while self.trouble() or self._free() < needed:
            if stopping():
                return False
            time.sleep(ASKS_EVERY)
        return True

    def _free(self) -> int:
        try:
            return shutil.disk_usage(self.folder).free
        except OSError:
            return 0


def _is_full(error: Exception) -> bool:
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
