"""The page in a real browser, on a tiny random model: what a user does, and what then has to be seen.

Every test waits for states, never for time. Skipped where there is no Chromium.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from pyramid.video import read_metadata

ROOT = Path(__file__).parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# Remembers every different picture that a tile and the large screen have shown.
WATCH = """() => {
  window.seen = {};
  const look = () => document.querySelectorAll(".pane img, .screen > img").forEach((img) => {
    const name = img.alt;
    (window.seen[name] ??= new Set()).add(img.src);
  });
  new MutationObserver(look).observe(document.querySelector("#show"), {subtree: true, childList: true});
}"""
SEEN = "() => Object.fromEntries(Object.entries(window.seen).map(([name, all]) => [name, all.size]))"

pytestmark = pytest.mark.browser
expect.set_options(timeout=180_000)


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    """The address of app.py, running on the tiny checkpoint, and the folder its videos go to."""
    folder = tmp_path_factory.mktemp("outputs")
    command = [sys.executable, "-u", str(ROOT / "app.py"), "--model", str(tiny_checkpoint), "--output-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            for printed in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", printed):
                    yield found[0], folder
                    break
            else:
                pytest.fail("app.py ended without serving a page")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium was found; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A fresh visitor's page, ready to use."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    context.set_default_timeout(180_000)
    page = context.new_page()
    page.goto(server[0])
    expect(status(page)).to_have_text("Ready")
    yield page
    if page.locator("#stop").is_enabled():
        page.click("#stop")
        expect(page.locator("#generate")).to_be_enabled()
    context.close()


def ask(page: Page, prompt: str = "a red ball moves to the right", steps: str = "2, 2, 2", seed: str = "") -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Steps per stage").fill(steps)
    page.get_by_label("… after the first frame").fill(steps)
    page.get_by_label("Seed").fill(seed)
    page.click("#generate")


def status(page: Page):
    return page.locator("#status p")


def toast(page: Page):
    return page.locator(".toast-body")


def test_a_sentence_becomes_a_video_and_every_stage_is_seen_at_work(page, server):
    page.evaluate(WATCH)
    ask(page, steps="40, 40, 40", seed="7")
    expect(page.locator("#generate")).to_be_disabled()
    expect(status(page)).to_contain_text("17 frames")
    seen = page.evaluate(SEEN)
    assert all(seen[f"Stage {stage}"] >= 2 for stage in (1, 2, 3)), seen
    assert seen["The clip so far"] >= 2, seen
    video = page.locator("#video video")
    expect(video).to_be_visible()
    page.wait_for_function("() => document.querySelector('#video video').readyState >= 2")
    assert video.evaluate("video => video.duration") == pytest.approx(17 / 8, abs=0.1)
    assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [64, 64]
    expect(page.locator("#used-seed")).to_have_text("7")
    with page.expect_download() as download:
        page.click("#download")
    settings = read_metadata(download.value.path())["settings"]
    assert (settings["seed"], settings["prompt"]) == (7, "a red ball moves to the right")
    assert settings["num_inference_steps"] == [40, 40, 40]
    assert len(list(server[1].glob("a-red-ball-moves-to-the-right-7*.mp4"))) == 1


def test_stop_ends_the_run_and_the_next_one_works(page):
    ask(page, steps="200, 200, 200")
    expect(status(page)).to_contain_text("Unit 1")
    page.click("#stop")
    expect(status(page)).to_contain_text("Stopped: ")
    ask(page)
    expect(status(page)).to_contain_text("17 frames")


def test_a_page_that_comes_back_finds_its_run_and_another_visitor_is_told_to_wait(page, browser, server):
    ask(page, steps="200, 200, 200")
    expect(status(page)).to_contain_text("Unit 1")
    page.reload()
    expect(status(page)).to_contain_text("Unit ")
    expect(page.locator("#stop")).to_be_enabled()
    other = browser.new_page()
    other.goto(server[0])
    expect(status(other)).to_have_text("Ready")
    ask(other)
    expect(toast(other)).to_contain_text("another video is being made")
    expect(status(other)).to_have_text("Ready")
    other.close()


@pytest.mark.parametrize(
    "form, words",
    [
        ({"steps": "ten"}, "steps: 'ten' is not a whole number"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"seed": "-1"}, "seed = -1 is outside 0"),
    ],
)
def test_what_is_wrong_with_the_form_is_said_and_nothing_starts(page, form, words):
    ask(page, **form)
    expect(toast(page)).to_contain_text(words)
    expect(status(page)).to_have_text("Ready")
    expect(page.locator("#generate")).to_be_enabled()


def test_a_picture_that_cannot_be_read_is_said_without_a_trace(page, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("not a picture")
    with page.expect_response("**/upload*"):
        page.set_input_files("#picture input[type=file]", broken)
    expect(page.get_by_label("Remove Image").or_(page.get_by_label("Clear"))).to_be_visible()
    ask(page)
    expect(toast(page)).to_contain_text("is not a picture")
    assert "Traceback" not in page.content()


def test_a_picture_is_the_first_frame(page, tmp_path):
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), "teal").save(photo)
    with page.expect_response("**/upload*"):
        page.set_input_files("#picture input[type=file]", photo)
    expect(page.locator("#picture img")).to_be_visible()
    ask(page)
    expect(status(page)).to_contain_text("17 frames")


@pytest.mark.parametrize("size", [(1280, 720), (390, 844)], ids=["desktop", "phone"])
def test_the_page_fits(page, size):
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    width, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert width <= size[0]
    if size[0] > 800:
        assert height <= size[1]
