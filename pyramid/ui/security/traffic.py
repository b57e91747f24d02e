"""How much visitors may ask for in a minute, each and all together: requests, bytes, connections at once.

    traffic = Traffic(requests=3000, megabytes=1000)
    with traffic.visit("1.2.3.4"):                # Refused: 429, and in how many seconds to come again
        traffic.count_bytes("1.2.3.4", 10_000)    # in either direction

A visitor is an address. None is no limit: the owner of the machine has none.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ALL = 10  # times what one visitor may, all together may
CONNECTIONS = 100  # requests of a visitor that are answered at once; an open page holds two
ALL_CONNECTIONS = 1000
MOST_KNOWN = 20_000  # visitors that are remembered
MINUTE = 60.0


@dataclass
class Refused(Exception):
    """A request that is not served, with its status, a sentence, and in how many seconds it would be."""

    status: int
    words: str
    again: float | None = None


class Rate:
    """So much a minute for each of many, all of it at once if need be."""

    def __init__(self, most: float | None, clock: Callable[[], float] = time.monotonic):
        self.most = most
        self.clock = clock
        self.left: dict[str, tuple[float, float]] = {}  # what each may still take, and when that was so

    def take(self, who: str, amount: float) -> None:
        """Count an amount, which may be more than what is left."""
        if self.most is None:
            return
        if len(self.left) > MOST_KNOWN and who not in self.left:
            self.left = {name: at for name, at in self.left.items() if self._now(name) < self.most}
        self.left[who] = (self._now(who) - amount, self.clock())

    def wait(self, who: str) -> float:
        """Seconds until something is left; 0 when there is."""
        if self.most is None or (now := self._now(who)) > 0:
            return 0.0
        return max(1.0, (1 - now) * MINUTE / self.most)

    def _now(self, who: str) -> float:
        assert self.most is not None
        left, when = self.left.get(who, (self.most, 0.0))
        return min(self.most, left + (self.clock() - when) * self.most / MINUTE)


class Traffic:
    """What all visitors ask for."""

    def __init__(
        self,
        requests: int | None = None,
        megabytes: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        limits = (requests, megabytes * 1e6 if megabytes is not None else None)
        self.requests, self.bytes = (Rate(limit, clock) for limit in limits)
        self.all_requests, self.all_bytes = (Rate(limit and limit * ALL, clock) for limit in limits)
        self.limited = requests is not None
        self.open: Counter[str] = Counter()

    @contextmanager
    def visit(self, who: str, *, free: bool = False) -> Iterator[None]:
        """One request, from its beginning to the end of its answer; `free`: not counted as a request."""
        self._check(who)
        if not free:
            self.requests.take(who, 1)
            self.all_requests.take("", 1)
        self.open[who] += 1
        try:
            yield
        finally:
            self.open[who] -= 1
            if not self.open[who]:
                del self.open[who]

    def count_bytes(self, who: str, number: int) -> None:
        self.bytes.take(who, number)
        self.all_bytes.take("", number)

    def _check(self, who: str) -> None:
        for rate, name, what in (
            (self.requests, who, "requests a minute from one address"),
            (self.all_requests, "", "requests a minute from everybody"),
            (self.bytes, who, "MB a minute with one address"),
            (self.all_bytes, "", "MB a minute with everybody"),
        ):
            if wait := rate.wait(name):
                most = (rate.most or 0) / (1e6 if "MB" in what else 1)
                raise Refused(
                    429, f"At most {most:,.0f} {what} are served: try again in {wait:.0f} seconds.", wait
                )
        if not self.limited:
            return
        if self.open[who] >= CONNECTIONS:
            raise Refused(
                429, f"At most {CONNECTIONS} connections from one address are served: close some.", 5
            )
        if self.open.total() >= ALL_CONNECTIONS:
            raise Refused(429, f"At most {ALL_CONNECTIONS} connections are served: try again later.", 30)
