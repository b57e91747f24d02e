"""Whether a clip without an end takes constant memory on the page: python tools/endless.py

Begins one in a browser on the panel "Direct", with few steps a unit, tells it other words at a quarter, stops
it after `--units`, and prints along the way what the server and the page hold and how far the stream is
behind. In the end the result must have all that was made, and the words. 1 is returned where memory grew or
something is missing.
"""

import argparse
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import CDPSession, Page, expect
from screenshots import MINUTES, address_of, browsing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames

BALL = "a red ball moves to the right over a green meadow"
FALLS = "a red ball falls over a green meadow"
GROWTH = 0.05  # that memory may grow by, from the first third to the last
PIECE = re.compile(r"unit-(\d+)\.mp4$")
UNITS = "() => parseInt(document.querySelector('#drift p b')?.textContent ?? '0')"
LAST = "() => Number(document.querySelector('#status [data-last]')?.dataset.last ?? -1)"
HELD = """() => { const held = document.querySelector('#large video[data-stream]')?.buffered;
  return held?.length ? held.end(held.length - 1) - held.start(0) : 0; }"""


@dataclass(frozen=True)
class Look:
    """What is held at one moment."""

    units: int
    server: float  # MB
    heap: float  # MB of the page's JavaScript, after a collection
    nodes: int  # of the page
    held: float  # seconds of video that the browser has
    behind: int  # pieces that are there, and not in the browser yet

    def __str__(self) -> str:
        return (
            f"{self.units:5} units  server {self.server:6.1f} MB  page {self.heap:5.1f} MB  "
            f"{self.nodes:6} nodes  {self.held:5.1f} s held  {self.behind:2} behind"
        )


def resident(process: int) -> float:
    """MB of a process that are no file's."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["RssAnon"].split()[0]) / 1e3


class Watch:
    """The page, its developer tools, and the pieces that it has fetched."""

    def __init__(self, page: Page, server: int):
        self.page = page
        self.server = server
        self.fetched = -1
        self.tools: CDPSession = page.context.new_cdp_session(page)
        self.tools.send("Performance.enable")
        page.on("response", self._answered)

    def _answered(self, response) -> None:
        if response.ok and (found := PIECE.search(response.url)):
            self.fetched = int(found[1])

    def look(self) -> Look:
        self.tools.send("HeapProfiler.collectGarbage")
        found = {each["name"]: each["value"] for each in self.tools.send("Performance.getMetrics")["metrics"]}
        last, held = self.page.evaluate(LAST), self.page.evaluate(HELD)
        units = self.page.evaluate(UNITS)
        heap = found["JSHeapUsedSize"] / 1e6
        return Look(
            units, resident(self.server), heap, int(found["Nodes"]), held, max(0, last - self.fetched)
        )


def run(page: Page, server: int, units: int, every: int) -> list[Look]:
    """Begin, look, tell, stop."""
    page.get_by_label("Prompt", exact=True).fill(BALL)
    for stage in (1, 2, 3):
        page.locator(f"#rest-{stage} input").fill("1")
    page.locator("#rest-3 input").blur()
    page.locator("#direct > button").click()
    page.get_by_role("tab", name="Endless").click()
    page.locator("#endless input[name=units]").fill(str(4 * units))
    watch = Watch(page, server)
    page.click("#endless [data-act=begin]")
    looks: list[Look] = []
    told = False
    while not looks or looks[-1].units < units:
        wanted = min(units, (looks[-1].units if looks else 0) + every)
        page.wait_for_function(f"() => ({UNITS})() >= {wanted}")
        looks.append(watch.look())
        print(looks[-1], flush=True)
        if not told and looks[-1].units >= units / 4:
            page.locator("#tell input[name=prompt]").fill(FALLS)
            page.click("#tell [data-act=tell]")
            expect(page.locator("#drift li").last).to_contain_text("falls")
            told = True
    page.click("#stop")
    expect(page.locator("#large video[src*=results]")).to_be_visible()
    return looks


def grown(values: list[float]) -> float:
    """From the first third, the very beginning left out, to the last third: of each the least, as what is on
    its way adds to what is held.
    """
    third = max(2, len(values) // 3)
    return min(values[-third:]) / min(values[1 : third + 1]) - 1


def kept(folder: Path, units: int) -> list[str]:
    """What is wrong with the result."""
    (path,) = folder.glob("*.mp4")
    settings = read_metadata(path)["settings"]
    frames = sum(1 for _ in read_frames(path))
    cues = [cue for cue in json.loads(settings["timeline"]) if cue.get("prompt") == FALLS]
    print(f"the result: {frames} frames, {path.stat().st_size / 1e6:.1f} MB, told: {settings['timeline']}")
    wrong = [] if frames == settings["num_frames"] >= 1 + 8 * (units - 1) else ["frames are missing"]
    return wrong + ([] if cues else ["the words are missing"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="units between two looks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browsing(folder) as (browser, server):
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(MINUTES)
        page.goto(address_of(server))
        expect(page.locator("#model.good")).to_be_visible()
        looks = run(page, server.pid, args.units, args.every)
        wrong = kept(Path(folder), args.units)
    for name, values in (
        ("server", [look.server for look in looks]),
        ("page", [look.heap for look in looks]),
        ("nodes", [float(look.nodes) for look in looks]),
    ):
        growth = grown(values)
        print(f"{name}: {growth:+.1%} from the first third to the last")
        wrong += [f"{name} grew"] if growth > GROWTH else []
    print(f"behind at most {max(look.behind for look in looks)} pieces")
    print("; ".join(wrong) or "all is kept, and memory is flat")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
