"""The models panel: what it lists, folders of one's own, and a download followed in a real browser."""

import shutil
from pathlib import Path

import gradio as gr
import pytest
from helpers import idle_app
from hub_server import Hub, serving
from huggingface_hub import constants

from pyramid.hub.checkpoints import CheckpointError, find
from pyramid.hub.families import RELEASES, Release
from pyramid.ui import App
from pyramid.ui import models as panel
from pyramid.ui.models import add_folder, build_models, entries, read_folders, table_of
from pyramid.ui.security.guard import doors


@pytest.fixture
def app(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with idle_app(tiny_checkpoint, tmp_path / "outputs") as app:
        yield app


def test_what_there_is_and_what_is_here(app):
    found = {(entry.title, entry.variant): entry for entry in entries(app)}
    assert {key[0] for key in found} == {"embedded", "miniflux", "sd3", "checkpoint0"}
    embedded, released = found["embedded", "128p"], found["miniflux", "768p"]
    assert (
        embedded.here and not embedded.loaded and embedded.license == "Apache-2.0" and "MB" in embedded.size
    )
    assert not released.here and "1280 × 768" in released.good_for and "billion weights" in released.size
    assert found["checkpoint0", "128p"].loaded
    table = table_of(app)
    assert (
        table.count("<tr>") == 1 + len(found) and table.count("in use") == 1 and "/checkpoint0" not in table
    )


def test_a_damaged_model_is_shown_as_damaged(app, tiny_checkpoint, tmp_path):
    copy = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert add_folder(app, f' "{copy}" ') == "tiny" and read_folders(app) == [str(copy)]
    add_folder(app, str(copy))
    assert len(read_folders(app)) == 1, "a folder is added once"
    shutil.rmtree(copy / "tokenizer")
    entry = next(entry for entry in entries(app) if entry.title == "copy")
    assert not entry.here and "tokenizer is missing" in entry.problem and "damaged" in table_of(app)
    shutil.rmtree(copy)
    assert "copy" not in [entry.title for entry in entries(app)]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (" ", "enter the folder"),
        ("/no/such/folder", "there is no folder"),
        (".", "is not a Pyramid Flow checkpoint"),
    ],
)
def test_a_folder_without_a_model_is_told(app, typed, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=says):
        add_folder(app, typed)
    assert read_folders(app) == []


@pytest.mark.browser
def test_a_model_is_fetched_cancelled_and_taken_up_again(
    app, browser, tiny_checkpoint, tmp_path, monkeypatch
):
    """A published model, as far as the program knows; the repository is the tiny one."""
    hub = Hub(tiny_checkpoint)
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": hub.address}.items():
        monkeypatch.setattr(constants, name, value)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setitem(RELEASES, "miniflux", Release("miniflux", "miniflux", "someone/tiny", "free"))
    monkeypatch.setitem(panel.MODELS, "miniflux", ("128p",))
    with gr.Blocks(analytics_enabled=False) as page:
        build_models(app, page)
    with serving(hub):
        page.launch(prevent_thread_lock=True, quiet=True, **doors(app, None))
        try:
            follow(browser, page.local_url, hub)
        finally:
            page.close(verbose=False)
    assert find("miniflux", "128p").folder.is_relative_to(tmp_path / "cache")
    assert app.worker.start_from.model == "miniflux"


def follow(browser, address: str, hub: Hub) -> None:
    from playwright.sync_api import expect

    expect.set_options(timeout=120_000)
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    row, line = page.locator("tr", has_text="miniflux"), page.locator("#models-line")
    expect(row).to_contain_text("not downloaded")
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="miniflux").click()
    page.click("#models-use")
    expect(page.locator(".toast-body")).to_contain_text("is not on this machine")
    hub.go_on.clear()
    page.click("#models-fetch")
    expect(line).to_contain_text("Fetching")
    page.reload()
    expect(line).to_contain_text("Fetching")
    page.click("#models-cancel")
    hub.go_on.set()
    expect(line).to_contain_text("Canceled. What was downloaded is kept")
    page.get_by_label("Model", exact=True).click()
    page.get_by_role("option", name="miniflux").click()
    page.click("#models-fetch")
    expect(line).to_contain_text("all hashes verified")
    expect(row).not_to_contain_text("not downloaded")
    page.click("#models-use")
    expect(row).to_contain_text("in use")
    page.close()


def test_visitors_see_the_list_and_no_buttons(app):
    with gr.Blocks(analytics_enabled=False) as page:
        build_models(App(app.store, app.worker, Path(app.folder), local=False), page)
    kinds = {type(block).__name__ for block in page.blocks.values()}
    assert "HTML" in kinds and not kinds & {"Button", "Textbox", "Dropdown"}
