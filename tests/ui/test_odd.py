"""Odd input at the page's own doors: what it says, and that nothing else happens."""

import asyncio
import json
import sqlite3
from dataclasses import replace

import gradio as gr
import pytest
from helpers import idle_app, left_of

from pyramid.ui import QUIET
from pyramid.ui.errors import Telling, told
from pyramid.ui.opening import SCRIPT, Opening
from pyramid.ui.results import Results
from pyramid.ui.view import View


@pytest.fixture
def app(tiny_checkpoint, tmp_path):
    with idle_app(tiny_checkpoint, tmp_path) as app:
        yield app


def test_a_search_of_thousands_of_words_is_told(app):
    look = told(app, Results(app).look)
    with pytest.raises(gr.Error, match="Search has 3000 words: at most 100 can be given"):
        look("t", View(), None, " ".join(f"word{n}" for n in range(3000)), False, gr.Request())


def test_a_seed_of_a_restored_file_is_shown_as_it_is_and_does_not_run(app, tmp_path):
    left, part = left_of(app), Results(app)
    part.form = left.form
    settings = replace(app.worker.start_from, prompt="a red ball").to_dict() | {"seed": -3}
    (tmp_path / "asked.json").write_text(json.dumps(settings))
    _, said, *filled = part.drop(str(tmp_path / "asked.json"), "t", gr.Request())
    assert "are in the form" in said
    fields = [part.value for part in left.form.fields.values()]
    fields = [update.get("value", old) for update, old in zip(filled, fields, strict=True)]
    given = dict(zip(left.form.fields, fields, strict=True))
    assert (given["seed"], given["random"], given["prompt"]) == (-3, False, "a red ball")
    _, verdict = left.begin("t", gr.Request(), *fields, *[part.value for part in left.form.extras])
    assert "Seed = -3 is outside 0 to 9007199254740991" in verdict and not app.store.queue()


def test_a_list_of_jobs_that_another_program_has_locked_is_told_near_the_button(app):
    left = left_of(app)
    app.store._connection.execute("PRAGMA busy_timeout = 10")  # else it is waited for, five seconds
    fields = [part.value for part in left.form.fields.values()]
    fields[list(left.form.fields).index("prompt")] = "a red ball"
    with sqlite3.connect(app.store.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        _, verdict = left.begin("t", gr.Request(), *fields, *[part.value for part in left.form.extras])
    assert "The list of jobs is locked by another program: close that one, and try again" in verdict
    assert 'role="alert"' in verdict and not app.store.queue()


def test_gradios_own_words_about_what_was_sent_are_text_and_fill_no_terminal(app):
    with Telling(app, analytics_enabled=False) as page:
        choice = gr.Dropdown(["a"])
        gr.on([choice.change], lambda value: None, choice, None, **QUIET)
    (event,) = page.fns.values()
    for sent, words in (("<img src=x>", "&lt;img"), ({"path": {}}, "kind|read|list of choices")):
        with pytest.raises(gr.Error, match=words) as told:
            asyncio.run(page.preprocess_data(event, [sent], None))
        assert "<" not in told.value.message and not told.value.print_exception
    with pytest.raises(gr.Error, match="What this button sent cannot be read"):
        asyncio.run(page.preprocess_data(event, [], None))


def test_a_file_that_a_program_describes_wrongly_is_told_with_what_is_wrong(app):
    def take(file: gr.FileData) -> str:
        return ""

    with Telling(app, analytics_enabled=False) as page:
        gr.api(take, api_name="take")
    (event,) = page.fns.values()
    file = {"path": __file__, "size": "x", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(
        gr.Error, match="take: size: input should be a valid integer.*; /gradio_api/info lists"
    ):
        asyncio.run(page.preprocess_data(event, [file], None))


@pytest.mark.parametrize(
    ("kind", "pieces", "whole"),
    [
        (b"text/html; charset=utf-8", [b"<html><head><title>"], b"<html><head>" + SCRIPT + b"<title>"),
        (b"text/html", [b"<html><he", b"ad>"], b"<html><head>"),
        (b"application/json", [b'"<head>"'], b'"<head>"'),
    ],
)
def test_the_page_begins_with_a_word_of_ours_and_nothing_else_does(kind, pieces, whole):
    async def inner(scope, receive, send):
        headers = [(b"content-type", kind), (b"content-length", str(sum(map(len, pieces))).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces, 1):
            await send({"type": "http.response.body", "body": piece, "more_body": number < len(pieces)})

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Opening(inner)({"type": "http"}, None, send))
    body = b"".join(message["body"] for message in sent[1:])
    assert body == whole and dict(sent[0]["headers"])[b"content-length"] == str(len(body)).encode()
