"""The README's picture of the page, made by running it: python tools/screenshots.py

Starts the app on the embedded model in a folder of its own, makes two videos, and writes what a browser shows
in the middle of the second to assets/readme/page-running.webp. (Films of all else: tools/films.py.)
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "assets" / "readme" / "page-running.webp"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
HALF_WAY = """() => document.querySelectorAll("#units .unit.done").length >= 2
  && /stage [23] of 3/.test(document.querySelector("#status").textContent)"""
CLIPS_ARE_SEEN = """() => [...document.querySelectorAll("#large video, .media video")]
  .every((clip) => clip.readyState >= 2)"""
MINUTES = 10 * 60_000  # milliseconds: a slow machine is waited for


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, browsing(folder, "--variant", "128p") as (browser, server):
        shoot(browser, address_of(server))


@contextmanager
def browsing(folder: str, *more: str) -> Iterator[tuple[Browser, subprocess.Popen]]:
    """A browser that waits for slow machines, and the program at work in `folder`, started with `more`."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        sys.exit("no Chromium was found; on Debian and Ubuntu: apt-get install chromium")
    expect.set_options(timeout=MINUTES)
    with serve(folder, *more) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield browser, server
        finally:
            browser.close()
            server.terminate()


def serve(folder: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-u", str(ROOT / "app.py"), "--output-dir", folder, *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def address_of(server: subprocess.Popen) -> str:
    for printed in server.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", printed):
            return found[0]
    sys.exit("app.py ended without serving a page")


def shoot(browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme="light")
    page.set_default_timeout(MINUTES)
    page.goto(address)
    expect(page.locator("#model.good")).to_be_visible()
    make(page, "a yellow star falls in front of the night sky", seed=3)
    expect(page.locator("#used-seed")).to_have_text("3")
    make(page, "a red ball moves to the right over a meadow", seed=7)
    page.wait_for_function(HALF_WAY)
    save(page)


def make(page: Page, prompt: str, seed: int) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("#random input").uncheck()
    page.locator("#seed input").fill(str(seed))
    page.locator("#seed input").blur()
    page.click("#generate")


def save(page: Page) -> None:
    """A picture of the page as it is seen, once its clips can be seen; PNG in few colors would hide the
    previews.
    """
    page.wait_for_function(CLIPS_ARE_SEEN)
    with Image.open(io.BytesIO(page.screenshot(animations="disabled"))) as picture:
        picture.save(PICTURE, quality=88)
    print(PICTURE)


if __name__ == "__main__":
    main()
