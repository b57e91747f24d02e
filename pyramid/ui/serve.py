"""Who may come in, and which files leave: accounts, what may be served, and the guard in front of the page.

    accounts = read_accounts(Path("accounts.txt"))       # ValueError names the line that is wrong
    page.launch(auth=accounts.check, app_kwargs={"middleware": [guard(app)]}, …)
    print(hashed_line("ana", "a password"))              # a line for the file that does not show the password

The accounts' file has a line `name:password` for each person, or `name:scrypt$…` as `hashed_line` makes it;
empty lines and those that begin with # are left out. Results leave by an address that names the job, not the
machine's
folders: `results/<job id>/<file name>`; the guard finds the file. Job ids cannot be guessed.
"""

import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from pyramid.ui import App

SCRYPT = {"n": 2**14, "r": 8, "p": 1}  # 16 MB and some 50 ms a try
HASHED = re.compile(r"scrypt\$(\d+)\$(\d+)\$(\d+)\$([0-9a-f]{16,})\$([0-9a-f]{32,})")
TRIES = 5  # wrong passwords from one address before it has to wait
FIRST_WAIT, LONGEST_WAIT = 30.0, 900.0  # seconds; doubled with each further one
FILE = "/file="  # what the address of a file begins with, in Gradio's interface
LOCAL = ("127.0.0.1", "::1")


# -- accounts


class Accounts:
    """Names and passwords."""

    def __init__(self, passwords: dict[str, str]):
        self.passwords = passwords

    async def check(self, name: str, password: str) -> bool:
        """Whether the password is this name's. Hashing takes a while, so another thread does it."""
        return await asyncio.to_thread(self.matches, name, password)

    def matches(self, name: str, password: str) -> bool:
        kept = self.passwords.get(name)
        # An unknown name takes as long as a known one, or the time would tell who is known.
        right = same_password(kept if kept is not None else UNKNOWN, password)
        return right and kept is not None


def read_accounts(path: Path) -> Accounts:
    """The accounts of a file. Raises ValueError, with the number of the line, for what is no account."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ValueError(f"--auth-file {path} cannot be read: {reason}") from None
    passwords: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, password = line.partition(":")
        name = name.strip()
        wrong = None
        if not colon or not name or not password.strip():
            wrong = "is not name:password"
        elif name in passwords:
            wrong = f"names {name!r} a second time"
        elif password.startswith("scrypt$") and not HASHED.fullmatch(password.strip()):
            wrong = "holds a damaged hash: make it again with --hash-password"
        if wrong:
            raise ValueError(f"--auth-file {path}: line {number} {wrong}")
        passwords[name] = password.strip() if HASHED.fullmatch(password.strip()) else password
    if not passwords:
        raise ValueError(f"--auth-file {path} holds no account: give a line name:password for each person")
    return Accounts(passwords)


def same_password(kept: str, password: str) -> bool:
    """Whether `password` is the one kept, as it is or as a hash."""
    if not (parts := HASHED.fullmatch(kept)):
        return hmac.compare_digest(kept.encode(), password.encode())
    n, r, p = map(int, parts.groups()[:3])
    salt, digest = bytes.fromhex(parts[4]), bytes.fromhex(parts[5])
    made = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=len(digest))
    return hmac.compare_digest(made, digest)


def hashed_line(name: str, password: str) -> str:
    """A line of the accounts' file. Raises ValueError for a name or password that cannot be one."""
    if not name.strip() or ":" in name or name.startswith("#"):
        raise ValueError(f"{name!r} cannot be a name: use letters and digits, and no colon")
    if not password.strip():
        raise ValueError("the password is empty")
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(
        password.encode(), salt=salt, maxmem=256 * SCRYPT["n"] * SCRYPT["r"], dklen=32, **SCRYPT
    )
    cost = "$".join(map(str, SCRYPT.values()))
    return f"{name.strip()}:scrypt${cost}${salt.hex()}${digest.hex()}"


UNKNOWN = f"scrypt${'$'.join(map(str, SCRYPT.values()))}${'00' * 16}${'00' * 32}"


# -- doors


def check_door(listen: str, *, share: bool, public: bool, auth_file: Path | None) -> bool:
    """Whether others can come in. Raises ValueError when they could and nobody said who."""
    open_by = "--share" if share else "--listen" if not is_local(listen) else ""
    if public and auth_file:
        raise ValueError("--public lets everybody in and --auth-file only some: give one of them")
    if public and not open_by:
        raise ValueError("--public says who may come in by --share or --listen: give one of those too")
    if open_by and not public and not auth_file:
        raise ValueError(
            f"{open_by} lets others reach this page, and whoever finds "
            "its address could use this machine: give "
            "--auth-file FILE, with a line name:password for each person, "
            "or --public if everybody may come in"
        )
    return bool(open_by)


def is_local(address: str) -> bool:
    """Whether an address to listen at is reached from this machine only."""
    return address in ("localhost", "::1") or address.startswith("127.")


def doors(app: App, accounts: Accounts | None) -> dict:
    """What `launch` is told about who comes in and what leaves, beside the address."""
    limit = app.limits.max_upload_mb
    return {
        "auth": accounts.check if accounts else None,
        "allowed_paths": [str(app.folder)],
        "blocked_paths": [
            str(app.store.private / name) for name in ("jobs.sqlite", "jobs.sqlite-wal", "units")
        ],
        "max_file_size": int(limit * 1e6) if limit is not None else None,
        "app_kwargs": {"middleware": [(Guard, (), {"app_of_page": app})]},
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "strict_cors": True,
        "show_error": False,
    }


# -- addresses


def address_of(job) -> str | None:
    """Where a job's result is fetched, below the page's own address; None without one. It shows no folder."""
    return f"gradio_api{FILE}results/{job.id}/{quote(job.path.name)}" if job.path else None


def address_of_growing(live) -> str:
    """Where the clip of a run's finished units is fetched, while it runs."""
    return f"gradio_api{FILE}live/{live.job.id}/{quote(live.growing.name)}"


def notices(local: str, public: str | None, *, share: bool, listen: str) -> list[str]:
    """What the terminal says of where the page is."""
    lines = [f"The page is at {local}  (Ctrl-C ends the program)"]
    if public:
        lines.append(f"Public link, for a week at most: {public}")
    elif share:
        lines.append(
            "note: there is no public link, as Gradio's servers could not be reached; all else works"
        )
    if not is_local(listen):
        lines.append("Other machines reach it by this machine's name or address, and the same port")
    return lines


class Guard:
    """In front of everything that is served: finds results by their job,
    keeps the rest of the output folder in, and lets an address that gives wrong passwords wait. An ASGI
    application around another.

    By its path a result is served to the owner of the machine only; the app's own records are to nobody.
    """

    def __init__(self, inner: Callable[..., Awaitable[None]], app_of_page: App):
        self.inner, self.page, self.wrong = inner, app_of_page, WrongPasswords()

    async def __call__(self, scope, receive, send) -> None:
        path = scope.get("path", "") if scope["type"] == "http" else ""
        if path.rstrip("/").endswith("/login") and scope["method"] == "POST":
            await self.login(scope, receive, send)
        elif FILE in path:
            await self.file(scope, receive, send)
        else:
            await self.inner(scope, receive, send)

    async def file(self, scope, receive, send) -> None:
        """A file's address: a result is looked up, a private one refused."""
        before, _, wanted = scope["path"].partition(FILE)
        if wanted.startswith(("results/", "live/")):
            kind, *parts = wanted.split("/")
            found = self.result(parts) if kind == "results" else self.growing(parts)
            if found is None:
                await refuse(send, 404, "there is no such result")
                return
            path = f"{before}{FILE}{found}"
            scope = scope | {"path": path, "raw_path": quote(path).encode()}
        elif not self.may_leave(wanted):
            await refuse(send, 403, "this file is not served")
            return
        await self.inner(scope, receive, send)

    def result(self, parts: list[str]) -> Path | None:
        """The file of a job's result, of which `parts` are the id, the name, and a name inside a folder.

        After "exports", the name of a file that was exported from it.
        """
        try:
            job = self.page.store.get(parts[0])
        except KeyError:
            return None
        if parts[1:2] == ["exports"] and len(parts) == 3 and not parts[2].startswith("."):
            path = self.page.store.private / "exports" / job.id / parts[2]
            return path if path.is_file() and "\\" not in parts[2] else None
        if job.path is None or parts[1:2] != [job.path.name] or len(parts) > 3:
            return None
        path = job.path / parts[2] if len(parts) == 3 else job.path
        inside = path.parent == job.path or path == job.path
        return path if inside and path.is_file() and not (set(parts[1:]) & {"..", "."}) else None

    def growing(self, parts: list[str]) -> Path | None:
        """The clip of a running job's finished units."""
        live = self.page.worker.live
        path = live.growing if live else None
        return path if path and parts == [live.job.id, path.name] and path.is_file() else None

    def may_leave(self, wanted: str) -> bool:
        """Whether a file named by its path may be served, as far as the output folder goes;
        Gradio knows the rest.
        """
        path, folder = Path(os.path.realpath(wanted)), Path(os.path.realpath(self.page.folder))
        within = [part.casefold() for part in path.parts[: len(folder.parts)]]
        if within != [part.casefold() for part in folder.parts]:
            return True  # a file of Gradio's, or one that it refuses
        inner = [part.casefold() for part in path.parts[len(folder.parts) :]]
        return self.page.local and not any(part.startswith(".") for part in inner)

    async def login(self, scope, receive, send) -> None:
        """A try to log in; refused unread while its address has to wait."""
        address = address_behind(scope)
        if wait := self.wrong.wait(address):
            await refuse(send, 429, f"Too many wrong passwords: try again in {wait:.0f} seconds.")
            return

        async def watch(message) -> None:
            if message["type"] == "http.response.start":
                self.wrong.tell(address, wrong=message["status"] == 400)
            await send(message)

        await self.inner(scope, receive, watch)


class WrongPasswords:
    """How often each address gave a wrong password, and how long it has to wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.tries = clock, {}  # address -> (how many in a row, until when it waits)

    def wait(self, address: str) -> float:
        """Seconds that an address has yet to wait; 0 when it may try."""
        return max(0.0, self.tries.get(address, (0, 0.0))[1] - self.clock())

    def tell(self, address: str, *, wrong: bool) -> None:
        """What came of a try."""
        if not wrong:
            self.tries.pop(address, None)
            return
        count, now = self.tries.get(address, (0, 0.0))[0] + 1, self.clock()
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


async def refuse(send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
