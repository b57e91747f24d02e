"""Whatever goes wrong behind the page is told there in a sentence, by one function around every handler.

    guard_events(page, app)              # once all events are wired
    told(app, endpoint, program=True)    # an endpoint that raises nothing but gr.Error
    problem(app, error)                  # what is wrong with the form, near the button

`Answers` does the same for what fails before or after a handler, such as a request that cannot be read.
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

from pyramid.failures import sentence
from pyramid.settings import SettingsError, label_of
from pyramid.ui import App
from pyramid.ui.markup import failure

INFO = "/gradio_api/info"
NO_EVENT = "what this button sent cannot be read: load the page anew"
OF_EVENTS = re.compile(  # what Python says where an event of the page was made up
    r"'EventData' object has no attribute|unhashable type|int\(\) argument must be|invalid literal for int"
)
NO_JOB = "This job is no longer in the queue."
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


def status_and_words(app: App, error: Exception) -> tuple[int, str]:
    """How a request that failed is answered: 400 where it is what was asked for, else 500."""
    if found := re.match(r"Parameter `(.{1,100})` is not a valid key-word", str(error), re.DOTALL):
        return 400, f"{found[1]!r} is no argument here: {INFO} lists those that there are"
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

        async def watch(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.inner(scope, receive, watch)
        except Exception as error:
            status, words = status_and_words(self.page, error)
            if begun:  # half of an answer is on its way: it ends here
                return
            body = json.dumps({"detail": words}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
