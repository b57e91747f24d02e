"""What a page gives back after a reload, what an edit brings back, and variations of which one is kept."""

from dataclasses import replace

import gradio as gr
import pytest
from helpers import idle_app, left_of

from pyramid.jobs.queue import Output, State
from pyramid.ui.cards import facts, variations_html
from pyramid.ui.guards import in_place, unknown_words
from pyramid.ui.kept import given_back
from pyramid.ui.results import Results, keep
from pyramid.ui.view import View


@pytest.fixture(scope="module")
def app(tiny_checkpoint, tmp_path_factory):
    with idle_app(tiny_checkpoint, tmp_path_factory.mktemp("outputs")) as app:
        yield app


@pytest.fixture(scope="module")
def left(app):
    return left_of(app)


def typed(left, **changes) -> dict:
    held = {name: part.value for name, part in left.form.fields.items()} | {"prompt": "a red ball"} | changes
    extras = {name: part.value for name, part in left.form.extra.items()}
    return held | extras


def test_a_reload_brings_back_all_that_was_typed(left, app):
    asked = typed(left, seconds=3, stages=2, seed=7, random=False, size="other", width=192)
    kept = {"model": app.worker.checkpoint.identity, "values": list(asked.values())}
    given = dict(zip([*left.form.fields, *left.form.extra], given_back(left.form, kept), strict=True))
    values = {name: update.get("value") for name, update in given.items() if "value" in update}
    assert (
        values.items()
        >= {"prompt": "a red ball", "seconds": 3, "stages": 2, "seed": 7, "size": "other"}.items()
    )
    assert values["width"] == 192 and "picture" not in values and "pattern" in values


@pytest.mark.parametrize("kept", [None, {}, {"values": [1]}, "odd", {"model": "x", "values": None}])
def test_what_no_page_of_this_version_kept_changes_nothing(left, kept):
    assert not any("value" in update for update in given_back(left.form, kept))


def test_another_model_gets_the_words_alone_and_no_file_of_this_machine(left, app):
    elsewhere = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    kept = {"model": "another", "values": list(typed(left, seconds=3, picture=elsewhere).values())}
    given = dict(zip([*left.form.fields, *left.form.extra], given_back(left.form, kept), strict=True))
    assert given["prompt"]["value"] == "a red ball" and "value" not in given["seconds"]
    assert "value" not in given["picture"]


def test_an_edit_brings_back_the_random_seed_and_says_what_was_saved(left, app, monkeypatch):
    told = []
    monkeypatch.setattr("pyramid.ui.page.say", lambda *words: told.append(words))
    values, extras = list(typed(left).values())[: len(left.form.fields)], [p.value for p in left.form.extras]
    left.begin("t", gr.Request(), *values, *extras)
    (job,) = app.store.queue()
    assert job.output.random
    _, _, _, *filled = left.queue.edit(left.form, job.id, "local")
    updates = dict(zip(left.form.fields, filled, strict=False))
    assert updates["random"]["value"] is True
    changed = list(typed(left, prompt="a blue star").values())[: len(left.form.fields)]
    left.change(job.id, "t", gr.Request(), *changed, *extras)
    saved = app.store.get(job.id)
    assert told == [(f"Saved: a blue star · {facts(saved)}", "The change was saved")]
    app.store.remove(job.id, "local")


def test_of_four_variations_one_is_kept(left, app):
    values, extras = list(typed(left).values())[: len(left.form.fields)], [p.value for p in left.form.extras]
    left.vary("t", gr.Request(), *values, *extras)
    results = Results(app)
    four = results.group("local")
    assert len(four) == 4 and len({job.settings.seed for job in four}) == 4
    assert variations_html(four).count('data-action="keep"') == 4 == variations_html(four).count("disabled")
    first = app.store.claim()
    app.store.finish(first.id, State.DONE, units_done=first.settings.units)
    keep(results, app.store.get(first.id), View(), "")
    assert not app.store.queue() and not results.group("local") and variations_html([]) == ""
    app.store.delete(first.id, "local")


def test_a_stopped_clip_states_the_length_that_it_has(app, tmp_path):
    job = app.store.add(replace(app.worker.start_from, prompt="x", seed=1), owner="local", output=Output())
    app.store.claim()
    ended = app.store.finish(job.id, State.PARTIAL, path=tmp_path / "a.mp4", units_done=2)
    assert facts(ended).startswith("1 s · ") and facts(replace(ended, state=State.DONE)).startswith("2 s · ")
    nothing = replace(ended, state=State.STOPPED, path=None, units_done=0)
    assert facts(nothing).startswith("no video · ")
    app.store.delete(job.id, "local")


def test_unknown_words_are_offered_the_nearest_known_ones(app, monkeypatch):
    assert unknown_words(app.worker.checkpoint, "a cat") == ""  # a model that says nothing of its words
    known = replace(
        app.worker.checkpoint, details=app.worker.checkpoint.details | {"words": ["a", "ball", "red"]}
    )
    monkeypatch.setattr(app.worker, "checkpoint", known)
    said = unknown_words(app.worker.checkpoint, "a red cat <b>")
    assert "<s>cat</s>" in said and 'data-known="ball"' in said and "<s>red</s>" not in said
    assert in_place("A Cat, a cat; a catalog", "cat", "ball") == "A ball, a ball; a catalog"
    assert in_place("A cat", "", "zoom out") == "zoom out"
