"""Who may come in: nobody but this machine unless it is said who, and wrong passwords have to wait.

others = check_door("0.0.0.0", share=False, public=False, auth_file=Path("accounts.txt"))
wrong = WrongPasswords(); wrong.tell(address, wrong=True); wrong.wait(address)        # seconds
"""

import time
from collections.abc import Callable
from pathlib import Path

TRIES = 5  # wrong passwords from one address before it has to wait
FIRST_WAIT = 30.0  # seconds; doubled with each further one
LONGEST_WAIT = 900.0
LOCAL = ("127.0.0.1", "::1")


def check_door(listen: str, *, share: bool, public: bool, auth_file: Path | None) -> bool:
    """Whether others can come in. Raises ValueError when they could and nobody said who."""
    open_by = ""
    if share:
        open_by = "--share"
    elif not is_local(listen):
        open_by = "--listen"
    if public and auth_file:
        raise ValueError("--public lets everybody in and --auth-file only some: give one of them")
    if public and not open_by:
        raise ValueError("--public says who may come in by --share or --listen: give one of those too")
    if open_by and not public and not auth_file:
        raise ValueError(
            f"{open_by} lets others reach this page, and whoever finds its address could use this machine: "
            "give --auth-file FILE, with a line name:password for each person, or --public if everybody may "
            "come in"
        )
    return bool(open_by)


def is_local(address: str) -> bool:
    """Whether an address to listen at is reached from this machine only."""
    return address.strip("[]") in ("localhost", "::1") or address.startswith("127.")


class WrongPasswords:
    """How often each address gave a wrong password, and how long it has to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.tries: dict[str, tuple[int, float]] = {}  # address -> (how many in a row, until when it waits)

    def wait(self, address: str) -> float:
        """Seconds that an address has yet to wait; 0 when it may try."""
        return max(0.0, self.tries.get(address, (0, 0.0))[1] - self.clock())

    def tell(self, address: str, *, wrong: bool) -> None:
        """What came of a try."""
        if not wrong:
            self.tries.pop(address, None)
            return
        count = self.tries.get(address, (0, 0.0))[0] + 1
        now = self.clock()
        pause = min(FIRST_WAIT * 2 ** min(count - TRIES, 20), LONGEST_WAIT) if count >= TRIES else 0.0
        # Who has waited the longest time possible without another try is forgotten.
        self.tries = {key: value for key, value in self.tries.items() if now - value[1] < LONGEST_WAIT}
        self.tries[address] = (count, now + pause)


def address_behind(scope) -> str:
    """Who asks. Only a program on this machine (the share link's) is believed when it says for whom it
    asks.
    """
    peer = (scope.get("client") or ("unknown",))[0]
    forwarded = dict(scope["headers"]).get(b"x-forwarded-for", b"").decode("latin-1")
    return forwarded.split(",")[-1].strip() if peer in LOCAL and forwarded else peer
