"""Whatever goes wrong behind the page is told there in a sentence, by one function around every handler.

    with Telling(app) as page: ...       # gr.Blocks, with what goes wrong before and after a handler
    guard_events(page, app)              # once all events are wired
    told(app, endpoint, program=True)    # an endpoint that raises nothing but gr.Error
    problem(app, error)                  # what is wrong with the form, near the button

`Answers` and `unreadable` do the same for a request that comes to no event at all.
"""

import functools
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from functools import partial
from html import escape
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from gradio.routes import HTTPException, JSONResponse

from pyramid.failures import printable, sentence, unforeseen
from pyramid.settings import SettingsError, label_of
from pyramid.ui import App
from pyramid.ui.markup import failure
from pyramid.ui.security.routes import UPLOAD
from pyramid.wording import briefly

INFO = "/gradio_api/info"
NO_EVENT = "what this button sent cannot be read: load the page anew"
OF_EVENTS = re.compile(  # what Python says where an event of the page was made up
    r"'EventData' object has no attribute|unhashable type|int\(\) argument must be|invalid literal for int"
    r"|argument of type 'NoneType' is not iterable"
)
NO_ENDPOINT = re.compile(r"(?:Could not infer function index for API name: |'/)(\w{1,100})'?$")
NO_JOB = "This job is no longer in the queue."
NO_FORM = "this form with files cannot be read: send each file in a field of its own, named files"
NO_CALL = b'data: "404: Not Found"', b'data: "there is no such call, or it was answered: call again"'
PLACE = re.compile(r"'?(?:[A-Za-z]:)?[/\\][^\s']*[/\\]([^\s'/\\]+)'?")  # the path of a file


def shown_words(app: App, error: Exception, name_of: Callable[[str], str] = label_of) -> str:
    """The sentence of an error. Files are called by their names: where they lie is not told."""
    if isinstance(error, KeyError) and "there is no job" in str(error):
        said = NO_JOB
    elif name_of is not str and OF_EVENTS.search(str(error)):
        said = NO_EVENT
    else:
        said = sentence(error, name_of)
    words = app.shown(PLACE.sub(r"\1", said))
    as_it_is = (
        name_of is str or "." in words.partition(" ")[0]
    )  # a program reads it, or it begins with a file
    return words if as_it_is else words[:1].upper() + words[1:]


def shown_error(app: App, error: Exception, title: str = "Error") -> gr.Error:
    """The message of an error for the page, where Gradio would take it for markup."""
    return failure(shown_words(app, error), title)


def problem(app: App, error: Exception) -> str:
    """What is wrong, as HTML near the button: it names the field, which is marked by it (assets/page.js)."""
    words = shown_words(app, error)
    if not isinstance(error, SettingsError):
        return f'<p class="problem" role="alert">{escape(words)}</p>'
    short = error.problem.removeprefix("= ") if error.named else words
    at = f'data-field="{escape(error.field)}" data-part="{escape(error.part)}" data-say="{escape(short)}"'
    return f'<p class="problem" role="alert" {at}>{escape(words)}</p>'


def told(app: App, function: Callable, *, program: bool = False) -> Callable:
    """`function`, which tells what goes wrong as a gr.Error; an async generator stays one.

    `program`: a program calls it, which knows settings by their names.
    """
    as_told = partial(_as_told, app, program)
    if inspect.isasyncgenfunction(function):
        return _told_generator(function, as_told)
    assert not inspect.iscoroutinefunction(function) and not inspect.isgeneratorfunction(function), function

    @functools.wraps(function)
    def calling(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise as_told(error) from error

    return calling


def _told_generator(function: Callable, as_told: Callable[[Exception], gr.Error]) -> Callable:
    @functools.wraps(function)
    async def watching(*args, **kwargs):
        try:
            async for value in function(*args, **kwargs):
                yield value
        except Exception as error:
            raise as_told(error) from error

    return watching


def _as_told(app: App, program: bool, error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if program:
        return gr.Error(shown_words(app, error, str), print_exception=False)
    return shown_error(app, error)


def guard_events(page: gr.Blocks, app: App) -> None:
    """Every event of the page tells what goes wrong in it."""
    for event in page.fns.values():
        if event.fn is not None:
            event.fn = told(app, event.fn)


class Telling(gr.Blocks):
    """Gradio's blocks, where what goes wrong around a handler is told as what goes wrong in it: values that
    are too few or of another kind, and results that cannot be written.

    Nor do they keep what was sent. Gradio remembers each session's values, of any size, for links that this
    page has none of.
    """

    def __init__(self, app_of_page: App, **options: Any):
        super().__init__(**options)
        self.app_of_page = app_of_page

    async def preprocess_data(self, block_fn, inputs, state, explicit_call=False):
        if len(inputs) < len(block_fn.inputs):
            raise self.unreadable(block_fn, f"{len(inputs)} values came, {len(block_fn.inputs)} are expected")
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error as error:  # Gradio's own words, which may repeat what was sent
            if _is_of_page(block_fn):
                raise failure(str(error.message)) from None
            raise gr.Error(str(error.message), print_exception=False) from None
        except Exception as error:  # each part of the page has its own ways to find a value wrong
            raise self.unreadable(block_fn, _why_unreadable(error)) from error

    async def process_api(self, block_fn, inputs, state=None, *args, **options):
        event = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if event.fn is None:  # the page sees to it by itself, and asks nobody
            raise self.unreadable(event, "there is nothing to be called")
        try:
            return await super().process_api(event, inputs, state, *args, **options)
        except Exception as error:
            raise _as_told(self.app_of_page, not _is_of_page(event), error) from error
        finally:
            kept = state.config_values if state else {}
            for part in (*event.inputs, *event.outputs):
                kept.get(part._id, {}).get("props", {}).pop("value", None)

    def unreadable(self, event, why: str) -> gr.Error:
        """What is told of values that the handler of an event cannot have."""
        if _is_of_page(event):
            return failure(NO_EVENT[:1].upper() + NO_EVENT[1:])
        words = printable(f"{event.api_name}: {why}; {INFO} lists what is expected")
        return gr.Error(words, print_exception=False)


def _is_of_page(event: Any) -> bool:
    return event.api_visibility != "public"


def _why_unreadable(error: Exception) -> str:
    """What is wrong with values that Gradio refused. What only we could have caused goes into the log."""
    if isinstance(error, InvalidPathError):
        return "a file that was not uploaded; paths on the server are not taken"
    if callable(getattr(error, "errors", None)):  # pydantic's
        return _first_problem(error)
    unforeseen(error)
    return "a value is of another kind than is expected"


def _first_problem(error: Any) -> str:
    """The first of what pydantic finds wrong: where, and what."""
    first = error.errors()[0]
    at = ".".join(str(part) for part in first["loc"])
    return f"{at}: {first['msg'][:1].lower()}{first['msg'][1:]}"


async def unreadable(request: Any, error: Any) -> JSONResponse:
    """The answer to a body that is none of Gradio's, by FastAPI's list of what is wrong with it."""
    return JSONResponse({"detail": printable(f"{_first_problem(error)}; {INFO} lists what is expected")}, 422)


def status_and_words(app: App, error: Exception) -> tuple[int, str]:
    """How a request that failed is answered: 400 where it is what was asked for, else 500."""
    if found := re.match(r"Parameter `(.*)` is not a valid key-word", str(error), re.DOTALL):
        return 400, f"{briefly(found[1])} is no argument here: {INFO} lists those that there are"
    if found := re.match(r"No value provided for required argument: (\w+)", str(error)):
        return 400, f"{found[1]} is missing: {INFO} lists what is expected"
    if isinstance(error, KeyError) and isinstance(error.args[0], int):  # how Gradio looks for an event
        return 404, f"there is no event {error} on this page: load it anew"
    if found := NO_ENDPOINT.match(str(error)):
        return 404, f"there is no endpoint {briefly(found[1])}: {INFO} lists those that there are"
    theirs = isinstance(error, (ValueError, RecursionError, OverflowError))
    return (400 if theirs else 500), app.shown(sentence(error))


class Answers:
    """An ASGI application around another: what fails in it is answered in JSON, with a sentence."""

    def __init__(self, inner: Callable[..., Awaitable[None]], app_of_page: App):
        self.inner = inner
        self.page = app_of_page

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        begun = False
        streams = False

        async def watch(message: dict[str, Any]) -> None:
            nonlocal begun, streams
            if message["type"] == "http.response.start":
                begun = True
                streams = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
            elif streams:
                message = message | {"body": message.get("body", b"").replace(*NO_CALL)}
            await send(message)

        try:
            await self.inner(scope, receive, watch)
        except Exception as error:
            known = begun and isinstance(error.__cause__, HTTPException)  # such as a call that nobody made
            if scope["path"] == UPLOAD and isinstance(error, (TypeError, AttributeError)):
                status, words = 400, NO_FORM
            elif not known:
                status, words = status_and_words(self.page, error)
            if begun:  # half of an answer is on its way: it ends here
                if streams:
                    await send({"type": "http.response.body", "body": b""})
                return
            body = json.dumps({"detail": words}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
