"""Which files leave, and how the server is told: the guard in front of everything that is served.

    page.launch(**doors(app, accounts), ...)

Results leave by an address that names the job, not the machine's folders: `results/<job id>/<file name>`; the
guard finds the file. Job ids cannot be guessed.
"""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

from pyramid.ui import App
from pyramid.ui.addresses import FILE
from pyramid.ui.security.accounts import Accounts
from pyramid.ui.security.login import WrongPasswords, address_behind


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


class Guard:
    """In front of everything that is served, as an ASGI application around another: finds results by their
    job, keeps the rest of the output folder in, and makes an address that gives wrong passwords wait.

    By its path a result is served to the owner of the machine only; the app's own records are to nobody.
    """

    def __init__(self, inner: Callable[..., Awaitable[None]], app_of_page: App):
        self.inner = inner
        self.page = app_of_page
        self.wrong = WrongPasswords()

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
        path = Path(os.path.realpath(wanted))
        folder = Path(os.path.realpath(self.page.folder))
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


async def refuse(send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
