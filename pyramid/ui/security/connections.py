"""Connections that ask for nothing: the server waits for the head of a request as long as it takes.

    watch = Silence(server, proxies)          # uvicorn's
    watch.begin()                             # a thread of its own, as long as the server runs

Who opens some hundreds and says nothing, or a letter now and then, would leave no room for others. So a
connection has PATIENCE seconds for the head of a request, and an address MOST connections that wait for one.
Behind a named proxy all are the proxy's: there only the seconds count. What comes after the head is bounded
in `bodies` and `traffic`.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pyramid.ui.security.proxies import Proxies
from pyramid.ui.visitors import visitor_of

PATIENCE = 20.0  # seconds
MOST = 100  # connections of an address
PAUSE = 1.0  # seconds between two looks


class Silence:
    """Closes connections that ask for nothing. `server`: a uvicorn.Server that has started."""

    def __init__(
        self,
        server: Any,
        proxies: Proxies,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.server = server
        self.proxies = proxies
        self.patience = patience
        self.clock = clock
        self.since: dict[Any, tuple[Any, float]] = {}  # connection -> the last request of it, and since when

    def begin(self, pause: float = PAUSE) -> None:
        """Look again and again, until the server ends."""

        def go_on() -> None:
            while not self.server.should_exit:
                for connection in self.silent():
                    with suppress(RuntimeError):  # the server's loop has ended
                        connection.loop.call_soon_threadsafe(connection.transport.close)
                time.sleep(pause)

        threading.Thread(target=go_on, name="silence", daemon=True).start()

    def silent(self) -> list[Any]:
        """The connections that have waited for the head of a request for too long, or of too many."""
        now = self.clock()
        waiting = [one for one in [*self.server.server_state.connections] if waits(one)]
        before = self.since
        self.since = {}
        found = []
        count: Counter[str] = Counter()
        for connection in waiting:
            request, since = before.get(connection, (connection.cycle, now))
            since = since if request is connection.cycle else now
            self.since[connection] = connection.cycle, since
            address = connection.client[0] if connection.client else ""
            who = visitor_of(address)
            count[who] += 1
            too_many = count[who] > MOST and not self.proxies.trusts(address)
            if too_many or now - since > self.patience:
                found.append(connection)
        return found


def waits(connection: Any) -> bool:
    """Whether a connection of uvicorn's has no request that is being answered."""
    return connection.cycle is None or connection.cycle.response_complete
