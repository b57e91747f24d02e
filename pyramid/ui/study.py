"""The pages of a blind study: a rater's link opens them, and nothing else.

    rating = Rating(study, who)               # an ASGI application, behind the guard
    /study/TOKEN/                             the page: two clips, three questions, the next pair
    /study/TOKEN/state, item/0, clip/0/a, answer/0
    /study/                                   with an account: leads to one's own link

No address and no answer has the name of a system, of a file or of another rater. What is not listed here is
not there, and an unknown token sees the same as an address that does not exist.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from pyramid.study.kept import Study
from pyramid.ui.security.traffic import Refused

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PATHS = re.compile(
    r"/study(?:/(?:(?P<token>[\w-]{8,64})(?:/(?P<what>state|study\.css|study\.js"
    r"|(?:item|answer)/(?P<place>\d{1,6})|clip/(?P<clip>\d{1,6})/(?P<side>[ab]))?)?)?)?"
)
POLICY = "; ".join(  # the page has no script or style but its two files; clips are shown from memory
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "media-src blob:",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
KEPT_NOWHERE = (b"cache-control", b"no-store")
PIECE = 2**18  # bytes of a clip that are sent at once


def is_study(path: str) -> bool:
    """Whether an address is one of a study's pages. `path` as it was decoded once."""
    return PATHS.fullmatch(path) is not None


class Rating:
    """Answers requests of raters. `who` tells the account that a request comes with, "" for none."""

    def __init__(self, study: Study, who: Callable[[Any], Awaitable[str]]):
        self.study = study
        self.who = who

    async def __call__(self, scope, receive, send) -> None:
        """Raises Refused for what is not there, and for an answer that is none."""
        found = PATHS.fullmatch(scope["path"])
        posted = found is not None and (found["what"] or "").startswith("answer")
        if found is None or scope["method"] != ("POST" if posted else "GET"):
            raise Refused(404, "there is nothing at this address")
        if not found["token"]:
            await self._lead(scope, send)
            return
        if not await asyncio.to_thread(self.study.knows, found["token"]):
            raise Refused(404, "there is nothing at this address")
        try:
            await self._answer(found, receive, send)
        except KeyError:
            raise Refused(404, "there is nothing at this address") from None
        except ValueError as error:
            raise Refused(400, str(error)) from None

    async def _lead(self, scope, send) -> None:
        """From /study to the link of who has logged in."""
        if not (name := await self.who(scope)):
            raise Refused(404, "a study is opened by the link that you were sent")
        token = await asyncio.to_thread(self.study.token_of_account, name)
        beside = "" if scope["path"].endswith("/") else "study/"
        headers = [(b"location", f"{beside}{token}/".encode()), (b"content-length", b"0"), KEPT_NOWHERE]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body"})

    async def _answer(self, found: re.Match, receive, send) -> None:
        token = found["token"]
        what = found["what"]
        if what is None:
            await self._file(send, "study.html", b"text/html; charset=utf-8")
        elif what.endswith((".css", ".js")):
            kind = b"text/css" if what.endswith(".css") else b"text/javascript"
            await self._file(send, what, kind + b"; charset=utf-8")
        elif what.startswith("clip"):
            path = await asyncio.to_thread(self.study.sent, token, int(found["clip"]), found["side"])
            await self._clip(send, path)
        elif what.startswith("answer"):
            await asyncio.to_thread(self._keep, token, int(found["place"]), await body_of(receive))
            await self._json(send, await asyncio.to_thread(self.study.state, token))
        elif what.startswith("item"):
            await self._json(send, await asyncio.to_thread(self.study.item, token, int(found["place"])))
        else:
            await self._json(send, await asyncio.to_thread(self.study.state, token))

    def _keep(self, token: str, place: int, body: bytes) -> None:
        """An answer as it came. ValueError for what is none."""
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise ValueError("an answer is a JSON object")
        seconds = given.pop("seconds", 0.0)
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e6
        took = self.study.check_sent(token, place, float(seconds) if number else 0.0)
        self.study.answer(token, place, given, took)

    async def _json(self, send, told: dict[str, Any]) -> None:
        await respond(send, json.dumps(told).encode(), b"application/json")

    async def _file(self, send, name: str, kind: bytes) -> None:
        await respond(send, await asyncio.to_thread((ASSETS / name).read_bytes), kind)

    async def _clip(self, send, path: Path) -> None:
        """A clip, piece by piece, without its name."""
        size = path.stat().st_size
        headers = [(b"content-type", b"video/mp4"), (b"content-length", str(size).encode()), KEPT_NOWHERE]
        with path.open("rb") as file:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while piece := await asyncio.to_thread(file.read, PIECE):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})


async def respond(send, body: bytes, kind: bytes) -> None:
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"content-security-policy", POLICY.encode()),
        KEPT_NOWHERE,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive) -> bytes:
    """The body that the guard has read and bounded."""
    message = await receive()
    return message.get("body", b"") if message["type"] == "http.request" else b""
