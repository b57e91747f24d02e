"""The films in docs/direct.md and docs/evaluation.md, made by using what they show: python tools/films.py

Starts the app on the embedded model's fast variant, uses each tool in a browser, and writes what is seen to
docs/pictures/: a moving picture of a small screen by day, and a row of pictures of a phone by night.
`--only explore,finish` makes some of them.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Locator, Page, expect
from screenshots import MINUTES, ROOT, address_of, browsing

PICTURES = ROOT / "docs" / "pictures"
SMALL = 1280, 720
PHONE = 390, 844
WIDTH = {SMALL: 860, PHONE: 280}  # of a screen: of its picture
CAPTION = 34  # pixels
SHOWN = 2400  # milliseconds that a picture stays
DAY = (42, 38, 30), (247, 241, 228)  # ink and ground of captions
NIGHT = (240, 236, 228), (20, 19, 15)
BALL = "a red ball moves to the right over a green meadow"
SYSTEMS = "ours=embedded:128p", "fast=embedded:128p-fast"
PROMPTS = "a blue star rises over the sea", "a yellow triangle rises before a sunset", "a white heart grows"
REPORT = "compare.html"
LEFT = "a red ball moves to the left over a green meadow"
SEEN = """() => [...document.querySelectorAll("img")].every((img) => img.complete || !img.offsetParent)"""
TO_THE_TOP = "(element) => element.scrollIntoView({block: 'start'})"
DARK = "(dark) => document.body.classList.toggle('dark', dark)"


class Film:
    """The pictures of one tool on both screens, each with a few words under it."""

    def __init__(self, page: Page):
        self.page = page
        self.small: list[Image.Image] = []
        self.phone: list[Image.Image] = []

    def take(self, words: str, what: str = "#direct", *, pause: int = 500) -> None:
        """What is seen now, with `what` at the top."""
        self.page.wait_for_function(SEEN)
        self.small.append(captioned(self._shot(SMALL, what, pause), SMALL, words, *DAY))
        self.night(True)
        self.phone.append(captioned(self._shot(PHONE, what, pause), PHONE, words, *NIGHT))
        self.night(False)
        self.page.set_viewport_size({"width": SMALL[0], "height": SMALL[1]})

    def night(self, dark: bool) -> None:
        """The page's own switch, and the system's for pages that have none."""
        self.page.evaluate(DARK, dark)
        self.page.emulate_media(color_scheme="dark" if dark else "light")

    def _shot(self, size: tuple[int, int], what: str, pause: int) -> Image.Image:
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.wait_for_timeout(pause)
        self.page.locator(what).first.evaluate(TO_THE_TOP)
        self.page.wait_for_timeout(pause)
        return Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")

    def save(self, name: str) -> None:
        """The small screen as a moving picture, the phone side by side."""
        first, *others = self.small
        moving = {"save_all": True, "append_images": others, "duration": SHOWN, "loop": 0}
        paths = [PICTURES / f"{name}-{where}.webp" for where in ("small", "phone")]
        first.save(paths[0], quality=70, method=4, **moving)
        beside(self.phone, NIGHT[1]).save(paths[1], quality=80, method=4)
        for path in paths:
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def captioned(
    picture: Image.Image, screen: tuple[int, int], words: str, ink: tuple, ground: tuple
) -> Image.Image:
    """A screen in the size of its picture, with the words under it."""
    width = WIDTH[screen]
    height = round(screen[1] * width / screen[0])
    whole = Image.new("RGB", (width, height + CAPTION), ground)
    whole.paste(picture.resize((width, height), Image.Resampling.LANCZOS))
    font = ImageFont.load_default(15 if screen == SMALL else 11)
    ImageDraw.Draw(whole).text((8, height + CAPTION / 2), words, ink, font, anchor="lm")
    return whole


def beside(frames: list[Image.Image], ground: tuple, gap: int = 10) -> Image.Image:
    """Pictures of one size in a row."""
    width, height = frames[0].size
    sheet = Image.new("RGB", (len(frames) * (width + gap) - gap, height), ground)
    for n, frame in enumerate(frames):
        sheet.paste(frame, (n * (width + gap), 0))
    return sheet


# ------------------------------------------------------------------------------------------------------------
# The tools


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def explore(page: Page, film: Film) -> None:
    film.take("Explore: how many seeds, and how much of each")
    page.click("#explore [data-act=explore]")
    expect(page.locator("#wall figure")).to_have_count(9)
    film.take("Nine seeds, in about the time of one clip", "#wall")
    seed = page.locator("#wall figcaption span").nth(4).inner_text()
    page.locator("#wall .look").nth(4).click()
    expect(page.locator("#used-seed")).to_have_text(seed)
    film.take("A click: the clip goes on from that draft", "#show")
    page.locator("#wall input[name=strength]").fill("0.4")
    page.locator("#wall [data-act=vary]").nth(4).click()
    expect(page.locator("#wall h3")).to_contain_text("variations of seed")
    film.take("Vary: relatives of one draft", "#wall")
    page.locator("#explore select[name=units]").select_option("all")
    page.click("#explore [data-act=explore]")
    expect(page.locator("#wall h3")).to_contain_text("whole clips")
    film.take("Whole clips move: a preview of each", "#wall")


def branch(page: Page, film: Film) -> None:
    tab(page, "Pause and branch")
    steps(page, 120)
    page.click("#generate")
    page.locator("#tree [data-act=pause-stage]").wait_for()
    page.locator("#units .unit.done").first.wait_for()
    film.take("While it is made: hold it after a stage or a unit")
    page.click("#tree [data-act=pause-stage]")
    page.locator("#tree [data-act=resume]").wait_for()
    film.take("Held: go on, change, or drop it")
    page.click("#tree [data-act=resume]")
    page.locator("#tree .u").nth(3).wait_for()
    page.locator("#tree .u").nth(1).click()
    page.locator("#branch input[name=prompt]").fill(LEFT)
    film.take("A click on a unit: another way after it")
    page.click("#branch [data-act=branch]")
    page.locator("#tree .way").nth(1).locator(".u").nth(1).wait_for()
    page.locator("#tree .u").nth(0).click()
    page.locator("#branch input[name=seed]").fill("5")
    page.click("#branch [data-act=branch]")
    page.locator("#tree .way").nth(2).locator(".u").nth(2).wait_for()
    film.take("The tree: what ways share is made once")


def timeline(page: Page, film: Film) -> None:
    tab(page, "Timeline")
    film.take("The units of the clip that the form asks for")
    page.locator("#tracks .u").nth(2).click()
    page.locator("#cue input[name=prompt]").fill(LEFT)
    page.locator("#cue input[name=ease]").fill("2")
    film.take("From unit 3: other words, over two units")
    page.click("#cue [data-act=put]")
    expect(page.locator("#tracks .new")).to_have_count(1)
    page.locator("#tracks .u").nth(1).click()
    page.locator("#cue input[name=steps]").fill("4, 4, 2")
    page.locator("#cue input[name=seed]").fill("7")
    page.click("#cue [data-act=put]")
    expect(page.locator("#tracks .new")).to_have_count(3)
    page.locator("#tracks summary").click()
    film.take("The tracks, and the same as a file")
    generated(page)
    film.take("Generate makes it: the ball turns round", "#show")


def endless(page: Page, film: Film) -> None:
    tab(page, "Endless")
    steps(page, 60)  # so that it is still at work when it has been looked at
    film.take("Endless: where it ends by itself, and a correction")
    page.click("#endless [data-act=begin]")
    page.wait_for_function("() => document.querySelector('#large video[data-stream]')?.currentTime > 2")
    film.take("It streams while it is made", "#show")
    page.locator("#tell input[name=prompt]").fill("a red ball falls over a green meadow")
    page.click("#tell [data-act=tell]")
    expect(page.locator("#drift li").last).to_contain_text("falls")
    page.wait_for_function("() => parseInt(document.querySelector('#drift p b').textContent) >= 6")
    film.take("Other words act on the next unit; the drift meter", "#drift")
    page.click("#stop")
    expect(page.locator("#large video[src*=results]")).to_be_visible()
    film.take("Stop and keep: all of it is there", "#show")


def finish(page: Page, film: Film) -> None:
    page.locator("#random input").uncheck()
    page.locator("#seed input").fill("7")
    page.locator("#seed input").blur()
    generated(page)
    page.locator(".card .media").first.click()
    edit = form(page, "Edit")
    edit.locator("input[name=unit]").nth(2).check(force=True)
    edit.locator("input[name=prompt]").fill("a red ball falls over a green meadow")
    edit.locator("input[name=composition]").uncheck()
    edit.locator("select[name=tries]").select_option("4")
    film.take("Edit: eight frames are made anew, the others stay", OPENED)
    made = page.locator(".card").count()
    edit.locator("[data-action=edit]").click()
    page.locator(".card").nth(made).wait_for()
    page.locator(".card .media").first.click()
    page.locator(".detail .seams img").first.wait_for()
    film.take("How the new frames meet those before them", ".detail .seams")
    for title, button, words in (
        ("Finish", "look", "Finish: larger and smoother, a look first"),
        ("Join", "look-join", "Join: a look at the seam, which is measured"),
        ("Loop", "look-loop", "Loop: where the end meets the beginning"),
    ):
        opened = form(page, title)
        opened.locator(f"[data-action={button}]").click()
        form(page, title).locator(".look").wait_for()
        film.take(words, OPENED)
    page.locator(".detail [data-action=close]").click()


OPENED = ".detail details[open].finishing"


def form(page: Page, title: str) -> Locator:
    """One of the forms of an opened result, open."""
    summary = page.locator("summary", has_text=title)
    found = page.locator(".detail details.finishing").filter(has=summary)
    if found.get_attribute("open") is None:
        for other in page.locator(".detail details[open].finishing > summary").all():
            other.click()
        found.locator("summary").click()
    return found


def generated(page: Page) -> None:
    """A clip more."""
    cards = page.locator(".card").count()
    page.click("#generate")
    page.locator(".card").nth(cards).wait_for()
    expect(page.locator("#status .busy")).to_have_count(0)


def steps(page: Page, count: int) -> None:
    for stage in (1, 2, 3):
        page.locator(f"#rest-{stage} input").fill(str(count))
    page.locator("#rest-3 input").blur()


def watch(page: Page, film: Film) -> None:
    """With two workers."""
    steps(page, 100)
    page.click("#generate")
    page.get_by_label("Prompt", exact=True).fill(LEFT)
    page.click("#generate")
    page.locator(".queue [data-act=watch]").wait_for()
    page.locator("#units .unit.done").nth(1).wait_for()
    film.take("Two clips at once: one is shown", "#show")
    film.take("The other has a button: Watch", ".queue")
    page.click(".queue [data-act=watch]")
    page.locator("#units .unit.done").nth(1).wait_for()
    film.take("Now the other one is shown", "#show")


def study(page: Page, film: Film) -> None:
    """As a rater, by a link."""
    buttons = page.locator("#questions button")
    page.wait_for_function("() => document.querySelector('#a').currentTime > 1")
    film.take("A rater's link: two clips of one prompt, in step", "body")
    expect(buttons.first).to_be_enabled()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    film.take("Seen to the end: three questions, by keys or touch", "body")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text("2 of")
    expect(buttons.first).to_be_enabled()
    film.take("The next pair; sides are drawn anew", "body")


def compare(page: Page, film: Film) -> None:
    film.take("What the judge and the measures say of both", "body")
    film.take("A dot for each video", "figure")
    film.take("The same prompts, side by side", "h2:last-of-type")


# ------------------------------------------------------------------------------------------------------------
# Where they begin


def nothing(folder: Path) -> Sequence[str]:
    return ()


def two_workers(folder: Path) -> Sequence[str]:
    return "--workers", "cpu,cpu"


def kept_study(folder: Path) -> Sequence[str]:
    """Of both variants of the embedded model, for one rater, without attention checks."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    asked = ("--prompts", prompts, "--raters", "ana", "--checks", "0", "--study", folder / "study")
    evaluated("study", "--make", *SYSTEMS, *asked)
    return "--study", str(folder / "study")


def reported(folder: Path) -> Sequence[str]:
    evaluated("compare", *SYSTEMS, "--videos", "6", "--work", folder, "--out", folder / REPORT)
    return ()


def evaluated(*words: object) -> None:
    command = [sys.executable, "-m", "pyramid", "evaluate", *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def on_the_panel(page: Page, address: str, folder: Path) -> None:
    page.goto(address)
    expect(page.locator("#model.good")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill(BALL)
    page.locator("#direct > button").click()


def by_the_link(page: Page, address: str, folder: Path) -> None:
    links = folder / "study" / "links.txt"
    while not links.is_file() or not links.stat().st_size:  # written once the program knows its address
        page.wait_for_timeout(100)
    page.goto(links.read_text(encoding="utf-8").partition(": ")[2].strip())


def in_the_report(page: Page, address: str, folder: Path) -> None:
    page.goto((folder / REPORT).as_uri())


@dataclass(frozen=True)
class Tool:
    """One film: what uses the tool, the program's flags (once what they need is there), where it begins, and
    what the film's name begins with.
    """

    use: Callable[[Page, Film], None]
    flags: Callable[[Path], Sequence[str]] = nothing
    begin: Callable[[Page, str, Path], None] = on_the_panel
    of: str = "direct"


TOOLS = {
    "explore": Tool(explore),
    "branch": Tool(branch),
    "timeline": Tool(timeline),
    "endless": Tool(endless),
    "finish": Tool(finish),
    "watch": Tool(watch, two_workers, of="queue"),
    "study": Tool(study, kept_study, by_the_link, "evaluation"),
    "compare": Tool(compare, reported, in_the_report, "evaluation"),
}


def filmed(name: str, variant: str) -> None:
    """One film, with a program of its own."""
    tool = TOOLS[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        flags = ("--variant", variant, *tool.flags(folder))
        with browsing(str(folder / "outputs"), *flags) as (browser, server):
            page = browser.new_page(viewport={"width": SMALL[0], "height": SMALL[1]}, color_scheme="light")
            page.set_default_timeout(MINUTES)
            tool.begin(page, address_of(server), folder)
            film = Film(page)
            tool.use(page, film)
            film.save(f"{tool.of}-{name}")


# ------------------------------------------------------------------------------------------------------------
# The program


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(TOOLS), help="some of the tools, between commas")
    parser.add_argument("--variant", default="128p-fast", help="of the embedded model")
    args = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    for name in args.only.split(","):
        filmed(name, args.variant)


if __name__ == "__main__":
    main()
