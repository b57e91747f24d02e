"""What visitors have open at once, each and all together: jobs, and files that are being read or written.

    with visitors.adding(store, address, owner, count, most):      # SettingsError: too many
        store.add(...)
    with visitors.working(address):                                # ValueError: too much at once
        read_picture(...)

An owner is a login, or a random key that a browser or a program makes up. Who makes up many keys is still one
address, so jobs count by that too. Which addresses the owners came from is kept in memory only: after a
restart the bounds by owner and of all together hold at once, that by address from the next job on.
"""

import ipaddress
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pyramid.jobs.queue import JobStore
from pyramid.settings import SettingsError

EACH = 3  # files that are read or written for one visitor at once
MOST = 12  # for all: Gradio has 40 threads, and the others have to be there for the page


class Visitors:
    """Counted by address."""

    def __init__(self) -> None:
        self._owners: dict[str, set[str]] = {}  # address -> the owners with open jobs that it went by
        self._coming: Counter[str] = Counter()  # address -> jobs that are being added
        self._working: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def adding(
        self, store: JobStore, address: str, owner: str, count: int, most: int | None
    ) -> Iterator[None]:
        """While jobs are added; what is being added beside them counts. `most`: open jobs of an address."""
        if most is None:
            yield
            return
        with self._lock:
            open_jobs = store.open_jobs()
            known = {
                place: left for place, names in self._owners.items() if (left := names & open_jobs.keys())
            }
            self._owners = known
            number = sum(open_jobs[name] for name in known.get(address, ())) + self._coming[address]
            if number + count > most:
                raise SettingsError(
                    "queue",
                    f"{number} jobs from your address wait or run, {most} may (--max-queue-address): wait "
                    "for one to end, or remove one",
                )
            self._coming[address] += count
        try:
            yield
        finally:
            with self._lock:
                self._coming[address] -= count
                if not self._coming[address]:
                    del self._coming[address]
                self._owners.setdefault(address, set()).add(owner)

    @contextmanager
    def working(self, address: str, *, each: int = EACH) -> Iterator[None]:
        """While a file is read or written, which may take minutes. ValueError at once where too many are:
        who waited would hold a thread that others need.
        """
        with self._lock:
            if self._working[address] >= each:
                raise ValueError(f"{each} of your files are being worked on: try again in a moment")
            if self._working.total() >= MOST:
                raise ValueError(f"{MOST} files are being worked on: try again in a moment")
            self._working[address] += 1
        try:
            yield
        finally:
            with self._lock:
                self._working[address] -= 1
                if not self._working[address]:
                    del self._working[address]


def visitor_of(address: str) -> str:
    """Whom an address stands for: a home has a whole network of IPv6 addresses, so that counts as one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return address
