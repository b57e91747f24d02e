"""Who may come in: nobody but this machine unless it is said who, and wrong passwords have to wait.

others = check_door("0.0.0.0", share=False, public=False, auth_file=Path("accounts.txt"))
tries = Tries(); tries.begin(address, name); tries.wait(address, name); tries.right(address, name)  # seconds
"""

import time
from collections.abc import Callable
from pathlib import Path

TRIES = 5  # wrong passwords from one address before it has to wait
FIRST_WAIT = 30.0  # seconds; doubled with each further one
LONGEST_WAIT = 900.0
NAME_TRIES = 20  # wrong passwords for one name, from wherever, before it has to wait
NAME_WAIT = 60.0  # seconds at most: who tries another's name must not keep its owner out for long
LONGEST_NAME = 64  # characters of a name that are remembered
HOMES = 8  # addresses that a name logged in from last, and may again while others try it


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
    """How often each of many gave a wrong password, and how long it has to wait."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        tries: int = TRIES,
        longest: float = LONGEST_WAIT,
    ):
        self.clock = clock
        self.most = tries
        self.longest = longest
        self.tries: dict[str, list[tuple[str, float]]] = {}  # who -> with whom, and when, the latest last

    def wait(self, who: str) -> float:
        """Seconds that it has yet to wait; 0 when it may try."""
        return max(0.0, self._until(who) - self.clock())

    def wrong(self, who: str, with_whom: str = "") -> None:
        """A try was wrong: of an address with a name, or of a name from an address."""
        now = self.clock()
        # Who has waited the longest time possible without another try is forgotten.
        self.tries = {
            key: tries for key, tries in self.tries.items() if now - self._until(key) < LONGEST_WAIT
        }
        self.tries.setdefault(who, []).append((with_whom, now))

    def right(self, who: str, with_whom: str = "") -> None:
        """A try was right: the earlier ones of the same two are forgotten, and no others."""
        left = [one for one in self.tries.pop(who, []) if one[0] != with_whom]
        if left:
            self.tries[who] = left

    def _until(self, who: str) -> float:
        """When it may try again."""
        if not (tries := self.tries.get(who)):
            return 0.0
        further = len(tries) - self.most
        pause = min(FIRST_WAIT * 2 ** min(further, 20), self.longest) if further >= 0 else 0.0
        return tries[-1][1] + pause


class Tries:
    """Tries to log in, counted by address and by name.

    An address waits for long. A name waits a minute at most, and not at the addresses that it logged in from
    before: trying somebody's name from many places is slow, and does not lock that person out. A right
    password takes back what was tried with that name from that address. It says nothing of the other names
    that were tried there: who has an account could try theirs without end.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.addresses = WrongPasswords(clock)
        self.names = WrongPasswords(clock, tries=NAME_TRIES, longest=NAME_WAIT)
        self.homes: dict[str, list[str]] = {}  # name -> the addresses that it logged in from, the latest last

    def wait(self, address: str, name: str) -> float:
        """Seconds until this name may be tried from this address."""
        name = name[:LONGEST_NAME]
        by_name = 0.0 if address in self.homes.get(name, ()) else self.names.wait(name)
        return max(self.addresses.wait(address), by_name)

    def begin(self, address: str, name: str) -> None:
        """A try is about to be checked: it counts as wrong, as others may be tried beside it."""
        name = name[:LONGEST_NAME]
        self.addresses.wrong(address, name)
        self.names.wrong(name, address)

    def right(self, address: str, name: str) -> None:
        """It was right."""
        name = name[:LONGEST_NAME]
        self.addresses.right(address, name)
        self.names.right(name, address)
        homes = [home for home in self.homes.get(name, []) if home != address]
        self.homes[name] = [*homes, address][-HOMES:]
