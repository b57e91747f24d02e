"""Which files leave, and how the server is told: the guard in front of everything that is served.

    page.launch(**doors(app, accounts), ...)

Results leave by an address that names the job, not the machine's folders: `results/<job id>/<file name>`; the
guard finds the file. Job ids cannot be guessed.
"""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote, urlsplit

from pyramid.ui import App
from pyramid.ui.addresses import FILE, uploads_folder
from pyramid.ui.errors import Answers
from pyramid.ui.security.accounts import Accounts
from pyramid.ui.security.login import WrongPasswords, address_behind
from pyramid.ui.security.routes import API, file_of, is_host, is_open

LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])
POLICY = "; ".join(  # Gradio's page writes its own scripts and styles into itself
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


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
        "app_kwargs": {
            "middleware": [(Guard, (), {"app_of_page": app}), (Answers, (), {"app_of_page": app})]
        },
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "strict_cors": True,
        "show_error": False,
    }


class Guard:
    """In front of everything that is served, as an ASGI application around another:
    lets open addresses through and no others, finds results by their job, and makes an address that gives
    wrong passwords wait.

    A page for this machine alone answers to the names of this machine only, as a page of somebody else's
    could otherwise reach it by a name of its own (DNS rebinding). By its path a result is served to the owner
    of the machine only; the app's own records are to nobody.
    """

    def __init__(self, inner: Callable[..., Awaitable[None]], app_of_page: App):
        self.inner = inner
        self.page = app_of_page
        self.wrong = WrongPasswords()
        self.hosts = LOCAL_NAMES | frozenset(name.lower() for name in app_of_page.allowed_hosts)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":  # Gradio opens no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        send = with_headers(send)
        path = scope["path"]
        if not self.is_ours(scope):
            await refuse(send, 403, "this server does not go by that name: start it with --allowed-host NAME")
        elif path.rstrip("/") == "/login" and scope["method"] == "POST":
            await self.login(scope, receive, send)
        elif wanted := file_of(path):
            await self.file(wanted, scope, receive, send)
        elif is_open(path):
            await self.inner(scope, receive, send)
        else:
            await refuse(send, 404, "there is nothing at this address")

    def is_ours(self, scope) -> bool:
        """Whether a request was made to a name of this server, and by a page of this server or by none."""
        if not self.page.local:
            return True
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        names = [headers.get(b"host", "")]
        if b"origin" in headers:
            names.append(urlsplit(headers[b"origin"]).netloc)
        return all(is_host(name, self.hosts) for name in names)

    async def file(self, wanted: str, scope, receive, send) -> None:
        """A file's address: a result is looked up, any other file has to be one that may leave."""
        found: Path | None
        if wanted.startswith(("results/", "live/")):
            kind, *parts = wanted.split("/")
            found = self.result(parts) if kind == "results" else self.growing(parts)
            if found is None:
                await refuse(send, 404, "there is no such result")
                return
        else:
            found = self.may_leave(wanted)
            if found is None:
                await refuse(send, 403, "this file is not served")
                return
        path = f"{API}{FILE}{found}"
        await self.inner(scope | {"path": path, "raw_path": quote(path).encode()}, receive, send)

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
        return path if live and path and parts == [live.job.id, path.name] and path.is_file() else None

    def may_leave(self, wanted: str) -> Path | None:
        """The file of a path, if it may be served: one that Gradio keeps for the page (uploads, copies), or,
        to the owner of the machine, one of the output folder that is not the app's own.
        """
        if "\0" in wanted:
            return None
        path = Path(os.path.realpath(wanted))
        if inside(path, uploads_folder()) is not None:
            return path
        within = inside(path, self.page.folder)
        if self.page.local and within is not None and not any(part.startswith(".") for part in within):
            return path
        return None

    async def login(self, scope, receive, send) -> None:
        """A try to log in; refused unread while its address has to wait."""
        address = address_behind(scope)
        if wait := self.wrong.wait(address):
            await refuse(send, 429, f"Too many wrong passwords: try again in {wait:.0f} seconds.")
            return

        self.wrong.tell(address, wrong=True)  # before it is checked: others may be tried beside it

        async def watch(message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 400:
                self.wrong.tell(address, wrong=False)
            await send(message)

        await self.inner(scope, receive, watch)


def inside(path: Path, folder: Path) -> list[str] | None:
    """The parts of a real path below a folder, in lower case; None when it is not below it."""
    parts = [part.casefold() for part in path.parts]
    above = [part.casefold() for part in Path(os.path.realpath(folder)).parts]
    return parts[len(above) :] if parts[: len(above)] == above and len(parts) > len(above) else None


def with_headers(send):
    """`send`, with the headers that tell a browser what a page of this server may do."""

    async def send_with(message) -> None:
        if message["type"] == "http.response.start":
            told = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name, value) for name, value in HEADERS if name not in told]
            message = message | {"headers": [*message.get("headers", ()), *more]}
        await send(message)

    return send_with


async def refuse(send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
