"""What comes with a request, bounded before anything is made of it: its size, and the time that it takes.

    body = await whole(scope, receive, MAX_BODY)        # Refused: 413 too large, 408 too slow
    check_json(body, check_file)                        # Refused: 400
    await inner(scope, replay(body, receive), send)

Gradio and FastAPI read a body of any size into memory, and JSON becomes some twenty times as large there.
"""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pyramid.ui.security.traffic import Refused
from pyramid.wording import briefly

Receive = Callable[[], Awaitable[dict[str, Any]]]
MAX_BODY = 1_000_000  # bytes of a body that is no upload: the page sends some thousands
MAX_FORM = 20_000  # of the form to log in, which has a name and a password
PATIENCE = 20.0  # seconds for such a body, and for the next piece of an upload
MOST_VALUES = 20_000  # numbers, texts and tables in JSON: each takes some hundred bytes of memory
SLOWEST = 20_000  # bytes a second of an upload, on average, once it has begun
MOST_DRAINED = 512_000_000  # bytes of a body that is refused: who sends it hears why only after sending it
LONGEST = 4096  # characters of a path: the time to follow one grows with their square
UPLOADS = ("image", "video")  # arguments of endpoints that are files
ELSEWHERE = ("http://", "https://")
SESSION = re.compile(r"[\w-]{1,64}")


def length_of(scope) -> int:
    """What a request says of the length of its body; 0 where it says nothing."""
    told = dict(scope["headers"]).get(b"content-length", b"0")
    return int(told) if told.isdigit() else 0


async def whole(scope, receive: Receive, most: int) -> bytes:
    """All of a body. Raises Refused where it is larger than `most` bytes, or takes too long."""
    if length_of(scope) > most:
        await drain(scope, receive)
        raise too_large(length_of(scope), most)
    parts: list[bytes] = []
    size = 0
    end = time.monotonic() + PATIENCE
    while True:
        message = await in_time(receive, end - time.monotonic())
        if message["type"] != "http.request":
            raise Refused(400, "the request was not sent to its end")
        size += len(message.get("body", b""))
        if size > most:
            await drain(scope, receive)
            raise too_large(size, most)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def in_time(receive: Receive, seconds: float) -> dict[str, Any]:
    """The next piece. Raises Refused where it does not come."""
    try:
        return await asyncio.wait_for(receive(), max(0.0, seconds))
    except TimeoutError:
        raise Refused(408, f"nothing came for {PATIENCE:.0f} seconds, or too little: send it again") from None


async def drain(scope, receive: Receive) -> None:
    """Read the rest of a body that is refused, up to a bound, and keep nothing of it: an answer before its
    end would be lost to most programs. Who asks first whether to send it (Expect) is told at once.
    """
    if b"expect" in dict(scope["headers"]):
        return
    left = MOST_DRAINED
    end = time.monotonic() + PATIENCE
    while left > 0:
        try:
            message = await in_time(receive, end - time.monotonic())
        except Refused:
            return
        left -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def too_large(size: int, most: int) -> Refused:
    return Refused(
        413,
        f"This request brings at least {in_words(size)}: at most {in_words(most)} are taken at "
        "once, so send less, or fewer files at a time.",
    )


def in_words(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.0f} kB"


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` for a body that was read already; then what comes after it, which is the end."""
    sent = False

    async def again() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def check_json(body: bytes, check_file: Callable[[str], None] = lambda name: None) -> None:
    """Raises Refused for what is no JSON in UTF-8, or would have Gradio keep a name of any length for a
    session, and what `check_file` raises for each file that it names.

    Gradio would read UTF-16 and UTF-32 too, in which the words that are looked for here are other bytes.
    """
    if not body:
        return
    try:
        found = json.loads(body.decode("utf-8-sig"))
    except RecursionError:
        raise Refused(400, "this JSON is nested too deeply to be read") from None
    except ValueError:
        raise Refused(400, "this is no JSON in UTF-8 that can be read") from None
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES and is_more(found, MOST_VALUES):
        raise Refused(400, f"this JSON holds more than {MOST_VALUES:,} values: send fewer")
    session = found.get("session_hash") if isinstance(found, dict) else None
    if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
        raise Refused(400, "session_hash: 1 to 64 letters and digits are expected")
    if any(word in body for word in (b"path", b"http", b"\\u")):  # else nothing is named
        for name in files_in(found):
            check_file(name)


def is_more(found: Any, most: int) -> bool:
    """Whether JSON holds more than `most` values."""
    left, number = [found], 0
    while left and number <= most:
        one = left.pop()
        number += 1
        if isinstance(one, (dict, list)):
            left += one.values() if isinstance(one, dict) else one
    return number > most


def files_in(found: Any) -> Iterator[str]:
    """What JSON names for Gradio to open or to fetch: files as its clients write them, addresses as MCP
    does; and paths that are too long to be any.
    """
    left = [found]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            meta = one.get("meta")
            path = one.get("path")
            if isinstance(path, str) and "meta" in one and not isinstance(meta, dict):
                raise Refused(400, f"meta = {briefly(meta)}, beside a path: a table is expected")
            of_gradio = isinstance(meta, dict) and meta.get("_type") == "gradio.FileData"
            if isinstance(path, str) and (of_gradio or len(path) > LONGEST):
                yield path
            named = (one.get(key) for key in UPLOADS)
            yield from (each for each in named if isinstance(each, str) and each.startswith(ELSEWHERE))
            left += one.values()
        elif isinstance(one, list):
            left += one


class Upload:
    """The body of an upload on its way to the disk, counted and timed."""

    def __init__(self, scope, receive: Receive, most: int | None, count: Callable[[int], None]):
        self.scope = scope
        self.inner = receive
        self.most = most
        self.count = count
        self.size = 0
        self.began = time.monotonic()
        self.refused: Refused | None = None

    async def receive(self) -> dict[str, Any]:
        """The next piece; where it is too much or too slow, the server reads that the visitor has left."""
        if self.refused:
            return {"type": "http.disconnect"}
        try:
            message = await in_time(self.inner, PATIENCE)
            self._look(message)
        except Refused as refused:
            if refused.status == 413:
                await drain(self.scope, self.inner)
            self.refused = refused
            return {"type": "http.disconnect"}
        return message

    def _look(self, message: dict[str, Any]) -> None:
        self.size += len(message.get("body", b""))
        self.count(len(message.get("body", b"")))
        if self.most is not None and self.size > self.most:
            raise too_large(self.size, self.most)
        seconds = time.monotonic() - self.began
        if message.get("more_body") and seconds > PATIENCE and self.size < SLOWEST * seconds:
            raise Refused(408, f"the upload came with less than {SLOWEST // 1000} kB a second: send it again")
