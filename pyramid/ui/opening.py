"""The first word of the page: a script in front of Gradio's own, for what has to listen before that does.

    launch(..., app_kwargs={"middleware": [..., (Opening, (), {})]})

Gradio cuts its connections when the page is about to be left, and then reports each of them as broken: in
the console, and on the page where that stays, as after a download that looked like leaving. The browser cuts
them by itself when the page is left in truth, with nobody there to report it. Listeners of this event are
called in the order in which they came, so only one that is there before Gradio's keeps it from hearing of it.
"""

from collections.abc import Awaitable, Callable
from typing import Any

SCRIPT = b'<script>addEventListener("beforeunload", (event) => event.stopImmediatePropagation());</script>'
HEAD = b"<head>"


class Opening:
    """An ASGI application around another: its HTML begins with SCRIPT."""

    def __init__(self, inner: Callable[..., Awaitable[None]]):
        self.inner = inner

    async def __call__(self, scope, receive, send) -> None:
        start: dict[str, Any] | None = None  # of an answer in HTML, until its size is known

        async def watch(message: dict[str, Any]) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and is_html(message):
                start = message
                return
            if start is not None and not message.get("more_body"):
                message = message | {"body": message.get("body", b"").replace(HEAD, HEAD + SCRIPT, 1)}
                await send(with_length(start, len(message["body"])))
            elif start is not None:  # in pieces, which no page of Gradio's is: as it comes
                await send(start)
            start = None
            await send(message)

        await self.inner(scope, receive, watch if scope["type"] == "http" else send)


def is_html(message: dict[str, Any]) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/html")
        for name, value in message.get("headers", ())
    )


def with_length(start: dict[str, Any], length: int) -> dict[str, Any]:
    """The beginning of an answer, whose body has so many bytes."""
    others = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
    return start | {"headers": [*others, (b"content-length", str(length).encode())]}
