"""Which files leave, and how the server is told: the guard in front of everything that is served.

    page.launch(**doors(app, accounts), ...)

Results leave by an address that names the job, not the machine's folders: `results/<job id>/<file name>`; the
guard finds the file. Job ids cannot be guessed.
"""

import asyncio
import json
import math
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from html import escape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlsplit

from gradio.routes import fastapi

from pyramid.ui import App
from pyramid.ui.addresses import FILE, uploads_folder
from pyramid.ui.errors import Answers, status_and_words, unreadable
from pyramid.ui.opening import Opening
from pyramid.ui.security.accounts import Accounts
from pyramid.ui.security.bodies import (
    ELSEWHERE,
    LONGEST,
    MAX_BODY,
    MAX_FORM,
    Upload,
    check_json,
    drain,
    length_of,
    replay,
    too_large,
    whole,
)
from pyramid.ui.security.login import Tries
from pyramid.ui.security.proxies import Proxies
from pyramid.ui.security.routes import (
    API,
    OF_SESSIONS,
    UPLOAD,
    call_of,
    file_of,
    is_free,
    is_host,
    is_open,
)
from pyramid.ui.security.traffic import Refused, Traffic
from pyramid.ui.security.uploads import Uploads
from pyramid.ui.study import Rating, is_study
from pyramid.ui.visitors import visitor_of
from pyramid.wording import briefly

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


CLIP = re.compile(r"clip-\d{3,}\.mp4")  # that grows, see `media.growing`
PIECE = re.compile(r"unit-\d{6}\.mp4")  # of a clip without an end, see `media.growing`
RANGE = re.compile(rb"bytes=\d{0,15}-\d{0,15}")  # of a file; any other is left out, so all of it comes
OF_REQUESTS = (b"cookie", b"authorization")  # which Gradio repeats in the answer to a range
SESSIONS = 500  # whose state Gradio keeps; the oldest go
READS = ("GET", "HEAD", "OPTIONS")
ROOM = 65536  # bytes of an upload's body beside its file


def doors(app: App, accounts: Accounts | None, trusted_proxies: Sequence[str] = ()) -> dict:
    """What `launch` is told about who comes in and what leaves, beside the address."""
    limit = app.limits.max_upload_mb
    guard = {"app_of_page": app, "trusted_proxies": trusted_proxies, "closed": accounts is not None}
    return {
        "auth": accounts.check if accounts else None,
        "allowed_paths": [str(app.folder)],
        "blocked_paths": [
            str(app.store.private / name) for name in ("jobs.sqlite", "jobs.sqlite-wal", "units")
        ],
        "max_file_size": int(limit * 1e6) if limit is not None else None,
        "app_kwargs": {
            "exception_handlers": {fastapi.exceptions.RequestValidationError: unreadable},
            "middleware": [(Guard, (), guard), (Answers, (), {"app_of_page": app}), (Opening, (), {})],
        },
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "strict_cors": True,
        "show_error": False,
        "state_session_capacity": SESSIONS,
    }


class Guard:
    """In front of everything that is served, as an ASGI application around another:
    lets open addresses through and no others, bounds what a visitor may send and ask for, finds results by
    their job, and makes who gives wrong passwords wait.

    A page for this machine alone answers to the names of this machine only, as a page of somebody else's
    could otherwise reach it by a name of its own (DNS rebinding). By its path a result is served to the owner
    of the machine only; the app's own records are to nobody.
    """

    def __init__(
        self,
        inner: Callable[..., Awaitable[None]],
        app_of_page: App,
        trusted_proxies: Sequence[str] = (),
        *,
        closed: bool = False,
    ):
        limits = app_of_page.limits
        self.inner = inner
        self.page = app_of_page
        self.closed = closed  # to those without an account
        self.tries = Tries()
        self.proxies = Proxies(trusted_proxies)
        self.traffic = Traffic(limits.max_requests, limits.max_traffic_mb)
        self.uploads = Uploads(uploads_folder(), limits.max_uploads_mb)
        self.rating = Rating(app_of_page.study, self.account) if app_of_page.study else None
        self.hosts = LOCAL_NAMES | frozenset(name.lower() for name in app_of_page.allowed_hosts)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":  # Gradio opens no web socket
            await send({"type": "websocket.close", "code": 1008})
            return
        scope = self.proxies.behind(scope)
        visitor = visitor_of(scope["client"][0])
        send = with_headers(send, secure=scope["scheme"] == "https")
        begun = False

        async def watched(message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            with self.traffic.visit(visitor, free=is_free(scope["path"])):
                await self.route(scope, receive, self.counted(watched, visitor), visitor)
        except Refused as refused:
            await refuse(scope, send, refused)
        except Exception as error:
            failed = Refused(*status_and_words(self.page, error))
            if not begun:  # else half of an answer is on its way: it ends here
                await refuse(scope, send, failed)

    async def route(self, scope, receive, send, visitor: str) -> None:
        """To what a request is for. Raises Refused."""
        path = scope["path"]
        if not self.is_ours(scope):
            raise Refused(403, "this server does not go by that name: start it with --allowed-host NAME")
        if is_foreign(scope):
            raise Refused(403, "this was asked for by a page of another site, which may not")
        if path == UPLOAD and scope["method"] not in READS:
            await self.upload(scope, receive, send, visitor)
            return
        wanted = file_of(path)
        rating = self.rating if is_study(path) else None
        if wanted is None and rating is None and not is_open(path):
            raise Refused(404, "there is nothing at this address")
        if self.closed and OF_SESSIONS.fullmatch(path) and not await self.account(scope):
            raise Refused(401, "log in first")
        if scope["method"] not in READS:
            form = path.rstrip("/") == "/login"
            body = await whole(scope, receive, MAX_FORM if form else MAX_BODY)
            self.traffic.count_bytes(visitor, len(body))
            receive = replay(body, receive)
            if form:
                await self.login(scope, body, receive, send, visitor)
                return
            check_json(body, self.check_named)
        if wanted is not None:
            scope = self.file(wanted, scope)
        try:
            await (rating or self.inner)(scope, receive, send)
        finally:
            if scope["method"] == "GET" and (call := call_of(path)) is not None:
                forget_session(scope["app"], call)

    def check_named(self, name: str) -> None:
        """Raises Refused for a file that a request names and that was not uploaded. Gradio would fetch what
        lies at an address, of any size: for the owner of the machine alone it does.
        """
        if name.startswith(ELSEWHERE):
            if not self.page.local:
                raise Refused(400, "files at other addresses are not fetched: upload the picture or video")
            return
        try:
            known = len(name) <= LONGEST and inside(Path(os.path.realpath(name)), uploads_folder())
        except ValueError:  # a NUL in it
            known = None
        if not known:
            told = briefly(name[-LONGEST:].rpartition("/")[2])
            raise Refused(400, f"{told} was not uploaded; paths on the server are not taken")

    async def account(self, scope) -> str:
        """The account that a request comes with, as Gradio knows it; "" for none."""
        answer: list[dict] = []

        async def hold(message) -> None:
            answer.append(message)

        async def nothing() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        path = f"{API}/user"
        await self.inner(scope | {"path": path, "raw_path": path.encode(), "method": "GET"}, nothing, hold)
        found = json.loads(b"".join(message.get("body", b"") for message in answer[1:]) or b"null")
        return found if answer[0]["status"] == 200 and isinstance(found, str) else ""

    def counted(self, send, visitor: str):
        async def send_counted(message) -> None:
            self.traffic.count_bytes(visitor, len(message.get("body", b"")))
            await send(message)

        return send_counted

    async def upload(self, scope, receive, send, visitor: str) -> None:
        """Files on their way in: so many bytes, so fast, so many at once, and where there is room."""
        limit = self.page.limits.max_upload_mb
        most = None if limit is None else int(limit * 1e6) + ROOM
        size = length_of(scope)
        self.uploads.check(size)
        if most is not None and size > most:
            await drain(scope, receive)
            raise too_large(size, most)
        came = Upload(scope, receive, most, lambda number: self.traffic.count_bytes(visitor, number))
        answer: list[dict] = []

        async def hold_back(message) -> None:
            answer.append(message)

        self.uploads.begin(visitor)
        try:
            await self.inner(scope, came.receive, hold_back)
        except Exception:
            if not came.refused:  # else it is how the server takes a body that ended early
                raise
        finally:
            self.uploads.end(visitor)
            await asyncio.to_thread(self.uploads.made, visitor, uploaded(answer))
        if came.refused:
            raise came.refused
        for message in answer:
            await send(message)

    def is_ours(self, scope) -> bool:
        """Whether a request was made to a name of this server, and by a page of this server or by none."""
        if not self.page.local:
            return True
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        names = [headers.get(b"host", "")]
        if b"origin" in headers:
            names.append(host_of(headers[b"origin"]))
        return all(is_host(name, self.hosts) for name in names)

    def file(self, wanted: str, scope) -> dict:
        """The request for a file's address: a result is looked up, any other file has to be one that may
        leave. Raises Refused.
        """
        found: Path | None
        if wanted.startswith(("results/", "live/")):
            kind, *parts = wanted.split("/")
            found = self.result(parts) if kind == "results" else self.growing(parts)
            if found is None:
                raise Refused(404, "there is no such result")
        else:
            found = self.may_leave(wanted)
            if found is None:
                raise Refused(403, "this file is not served")
        path = f"{API}{FILE}{found}"
        headers = [
            (name, value) for name, value in scope["headers"] if name != b"range" or RANGE.fullmatch(value)
        ]
        return scope | {"path": path, "raw_path": quote(path).encode(), "headers": headers}

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
            return path if os.path.isfile(path) and "\\" not in parts[2] else None
        if job.path is None or parts[1:2] != [job.path.name] or len(parts) > 3:
            return None
        path = job.path / parts[2] if len(parts) == 3 else job.path
        inside = path.parent == job.path or path == job.path
        return path if inside and os.path.isfile(path) and not (set(parts[1:]) & {"..", "."}) else None

    def growing(self, parts: list[str]) -> Path | None:
        """The clip of a job's finished units, or one before it, which a player may still read; or a piece of
        one that has no end.
        """
        if len(parts) != 2 or not (CLIP.fullmatch(parts[1]) or PIECE.fullmatch(parts[1])):
            return None
        try:
            job = self.page.store.get(parts[0])
        except KeyError:
            return None
        path = self.page.store.private / "live" / job.id / parts[1]
        return path if os.path.isfile(path) else None

    def may_leave(self, wanted: str) -> Path | None:
        """The file of a path, if it may be served: one that Gradio keeps for the page (uploads, copies), or,
        to the owner of the machine, one of the output folder that is not the app's own.
        """
        if "\0" in wanted or len(wanted) > LONGEST:
            return None
        path = Path(os.path.realpath(wanted))
        if inside(path, uploads_folder()) is not None:
            return path
        within = inside(path, self.page.folder)
        if self.page.local and within is not None and not any(part.startswith(".") for part in within):
            return path
        return None

    async def login(self, scope, body: bytes, receive, send, visitor: str) -> None:
        """A try to log in; refused unchecked while its address or its name has to wait."""
        name = await name_in(scope, body)
        if wait := self.tries.wait(visitor, name):
            raise Refused(429, f"Too many wrong passwords: try again in {wait:.0f} seconds.", wait)
        self.tries.begin(visitor, name)

        async def watch(message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                self.tries.right(visitor, name)
            await send(message)

        await self.inner(scope, receive, watch)


def forget_session(app, call: str) -> None:
    """Let go what Gradio keeps (0.4 MB here) for a call that named no session, once it was answered: its
    session goes by the call's own id, and nobody asks in it again. `app`: Gradio's, with its sessions.

    Kept, such sessions would grow to hundreds of megabytes and push those of open pages out.
    """
    sessions = app.state_holder
    with sessions.lock:
        sessions.session_data.pop(call, None)
        sessions.time_last_used.pop(call, None)


def is_foreign(scope) -> bool:
    """Whether a browser says that a page from elsewhere asks, to change something or to read the answer. A
    link to this page, or a picture of it, is none of these.
    """
    headers = dict(scope["headers"])
    elsewhere = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")  # same-site: another port
    return elsewhere and (scope["method"] not in READS or b"origin" in headers)


def host_of(origin: str) -> str:
    """The host of an Origin; "", which is none of ours, for what is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


async def name_in(scope, body: bytes) -> str:
    """The name that a form to log in gives, read as Gradio will read it: with the same function, so that no
    charset or spelling makes it another name there. Raises Refused where it gives none, or several.
    """

    async def ended() -> dict:
        return {"type": "http.disconnect"}

    try:
        async with fastapi.Request(scope, replay(body, ended)).form() as form:
            given = form.getlist("username")
    except (fastapi.exceptions.StarletteHTTPException, ValueError):  # it is broken
        given = []
    name = given[0] if len(given) == 1 else None
    if not isinstance(name, str):
        raise Refused(400, "a form with one username and one password is expected")
    return name.strip()


def uploaded(answer: Sequence[dict]) -> list[Path]:
    """The files that Gradio's answer to an upload names."""
    if not answer or answer[0].get("status") != 200:
        return []
    try:
        named = json.loads(b"".join(message.get("body", b"") for message in answer[1:]))
    except ValueError:
        return []
    return [Path(path) for path in named if isinstance(path, str)] if isinstance(named, list) else []


def inside(path: Path, folder: Path) -> list[str] | None:
    """The parts of a real path below a folder, in lower case; None when it is not below it."""
    parts = [part.casefold() for part in path.parts]
    above = [part.casefold() for part in Path(os.path.realpath(folder)).parts]
    return parts[len(above) :] if parts[: len(above)] == above and len(parts) > len(above) else None


def with_headers(send, *, secure: bool):
    """`send`, with the headers that tell a browser what a page of this server may do, and cookies that no
    script and no other site gets; `secure`: the visitor came by https.
    """

    async def send_with(message) -> None:
        if message["type"] == "http.response.start":
            given = [
                (name, cookie(value, secure=secure) if name.lower() == b"set-cookie" else value)
                for name, value in message.get("headers", ())
                if name.lower() not in OF_REQUESTS
            ]
            told = {name.lower() for name, _ in given}
            message = message | {
                "headers": given + [(name, value) for name, value in HEADERS if name not in told]
            }
        await send(message)

    return send_with


def cookie(value: bytes, *, secure: bool) -> bytes:
    """A Set-Cookie with HttpOnly, SameSite=Lax and, for https, Secure."""
    first, *others = [part.strip() for part in value.split(b";")]
    names = (b"httponly", b"secure", b"samesite")
    kept = [part for part in others if part.split(b"=")[0].strip().lower() not in names]
    return b"; ".join([first, *kept, b"HttpOnly", b"SameSite=Lax", *([b"Secure"] if secure else [])])


async def refuse(scope, send, refused: Refused) -> None:
    """Why a request is not served: a page for who reads, JSON for programs."""
    accepts = dict(scope["headers"]).get(b"accept", b"")
    if b"text/html" in accepts:
        kind = b"text/html; charset=utf-8"
        title = HTTPStatus(refused.status).phrase
        text = f"<!doctype html><title>{title}</title><h1>{title}</h1><p>{escape(refused.words)}</p>"
    else:
        kind = b"application/json"
        text = json.dumps({"detail": refused.words})
    body = text.encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if refused.again is not None:
        headers.append((b"retry-after", str(math.ceil(refused.again)).encode()))
    if refused.status in (408, 413):
        headers.append((b"connection", b"close"))  # something of the body may still be on its way
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
