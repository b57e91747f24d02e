"""The README's pictures of the page, made by running it: python tools/screenshots.py

Starts the app on the embedded model in a folder of its own, makes two videos, and writes what a browser shows
to assets/readme/: at both sizes of screens and on a phone, by day and by night, and in the middle of a run.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "assets" / "readme"
SIZES = {"small": (1280, 720), "large": (2560, 1440), "phone": (390, 844)}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
CLIPS_ARE_SEEN = """() => [...document.querySelectorAll("#large video, .media video")]
  .every((clip) => clip.readyState >= 2)"""
MINUTES = 10 * 60_000  # milliseconds: a slow machine is waited for


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
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
    expect(page.locator("#units .unit.done")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("stage 3 of 3")
    save(page, "page-running")
    expect(page.locator("#used-seed")).to_have_text("7")
    expect(page.locator(".card")).to_have_count(2)
    for name, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for theme in ("light", "dark"):
            wanted = theme == "dark"
            if page.evaluate("document.body.classList.contains('dark')") != wanted:
                page.click("#theme")
            page.evaluate("scrollTo(0, 0)")
            save(page, f"page-{name}-{theme}")


def make(page: Page, prompt: str, seed: int) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.locator("#random input").uncheck()
    page.locator("#seed input").fill(str(seed))
    page.locator("#seed input").blur()
    page.click("#generate")


def save(page: Page, name: str) -> None:
    """A picture of the page as it is seen, once its clips can be seen; PNG in few colors would hide the
    previews.
    """
    page.wait_for_function(CLIPS_ARE_SEEN)
    page.screenshot(animations="disabled", path=PICTURES / f"{name}.webp.png")
    from PIL import Image

    with Image.open(PICTURES / f"{name}.webp.png") as picture:
        picture.save(PICTURES / f"{name}.webp", quality=88)
    (PICTURES / f"{name}.webp.png").unlink()
    print(PICTURES / f"{name}.webp")


if __name__ == "__main__":
    main()
