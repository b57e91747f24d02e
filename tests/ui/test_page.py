"""The page in a real browser, on a tiny random model: what a user does, and what then has to be seen.

Every test waits for states, never for time. Skipped where there is no Chromium.
"""

import re
from pathlib import Path

import pytest
from helpers import CALM, SLOW_APP, program, slowly_in, tidy_form
from PIL import Image
from playwright.sync_api import Page, expect

from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames
from pyramid.presets import load_preset

BALL = "a red ball moves to the right"
LONG = 200  # steps, the most there may be
# Remembers every different picture that each stage's tile has shown.
WATCH = """() => {
  window.seen = {};
  const look = () => document.querySelectorAll("#strip .pane img").forEach((img) => {
    (window.seen[img.alt] ??= new Set()).add(img.src);
  });
  new MutationObserver(look).observe(document.querySelector("#strip"),
    {subtree: true, childList: true, attributes: true});
}"""
# Counts what is not there, though it was, whenever the page is drawn.
BLINKS = """() => {
  window.blinks = [];
  const there = new Set();
  const look = () => {
    document.querySelectorAll("#units img, #strip img, #results-grid .media [src]").forEach((media) => {
      const ready = media.tagName === "IMG" ? media.complete && media.naturalWidth
        : media.readyState >= 2 || media.parentElement.style.backgroundImage;
      if (ready) there.add(media.getAttribute("src"));
      else if (there.has(media.getAttribute("src"))) window.blinks.push(media.outerHTML.slice(0, 80));
    });
    requestAnimationFrame(look);
  };
  look();
}"""
SEEN = "() => Object.fromEntries(Object.entries(window.seen).map(([name, all]) => [name, all.size]))"

pytestmark = pytest.mark.browser
expect.set_options(timeout=120_000)


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    """The address of app.py, running on the tiny checkpoint, and the folder its videos go to."""
    folder = tmp_path_factory.mktemp("outputs")
    with program(folder, "--model", str(tiny_checkpoint), forked=True, script=SLOW_APP) as (_, address, _):
        yield address, folder / "outputs"


@pytest.fixture
def slowly(server):
    """What runs meanwhile waits at each step."""
    with slowly_in(server[1].parent) as mark:
        yield mark


class Visitor:
    """A browser's page at the server, ready to use."""

    def __init__(self, browser, address: str):
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 720}, accept_downloads=True, **CALM
        )
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.page.goto(address)
        ready(self.page)

    def end(self) -> None:
        """End what it started."""
        page = self.page
        waiting = page.locator("#queue [data-act=remove]")
        while count := waiting.count():
            waiting.first.click()
            page.wait_for_function(
                "count => document.querySelectorAll('#queue [data-act=remove]').length < count", arg=count
            )
        if page.locator("#stop").is_visible():
            page.click("#stop")
        expect(page.locator("#generate")).to_have_text("Generate")

    def tidy(self) -> None:
        """Bring back into the form what the next test counts on; `ask` fills in the rest."""
        self.page.evaluate("document.querySelectorAll('.toast-close').forEach((button) => button.click())")
        self.page.keyboard.press("Escape")  # an open list
        count = self.page.locator("#count input")
        if count.is_visible() and count.input_value() != "1":
            count.fill("1")
            count.blur()
        tidy_form(self.page)


def ready(page: Page) -> None:
    """Wait until the model is loaded, and the form is watched."""
    expect(page.locator("#model.good")).to_be_visible()
    expect(page.locator("#verdict .ready")).to_be_visible()


@pytest.fixture
def fresh(browser, server):
    """The page of a visitor who was never here."""
    visitor = Visitor(browser, server[0])
    yield visitor.page
    visitor.end()
    visitor.context.close()


@pytest.fixture(scope="module")
def usual(browser, server):
    """Whose page most tests use, one after another: it takes seconds to come up."""
    visitors = [Visitor(browser, server[0])]
    yield visitors
    visitors[-1].context.close()


@pytest.fixture
def page(browser, server, usual, request):
    """A page that is ready to use, and that others have used before."""
    failed = request.session.testsfailed
    yield usual[-1].page
    usual[-1].end()
    if request.session.testsfailed > failed:  # who knows what it left
        usual.pop().context.close()
        usual.append(Visitor(browser, server[0]))
    else:
        usual[-1].tidy()


@pytest.fixture(scope="module")
def shown(browser, server):
    """A page for tests that only look at it."""
    visitor = Visitor(browser, server[0])
    yield visitor.page
    visitor.context.close()


def ask(
    page: Page,
    prompt: str = BALL,
    first: int = 2,
    rest: int = 2,
    seed: int | None = None,
    count: int | None = None,
    key: str = "",
) -> None:
    """Fill the form, and press Generate, or a key in the prompt that does the same."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    fill_steps(page, first, rest)
    page.locator("#random input").set_checked(seed is None)
    if seed is not None:
        page.locator("#seed input").fill(str(seed))
    page.locator("#seed input").blur()
    if count is not None:  # last: what is filled in while the parts of Advanced still come up may be lost
        page.locator("#count input").fill(str(count))
        page.locator("#count input").blur()
    if key:
        page.get_by_label("Prompt", exact=True).press(key)
    else:
        page.click("#generate")


def fill_steps(page: Page, first: int, rest: int) -> None:
    for stage in (1, 2, 3):
        page.locator(f"#first-{stage} input").fill(str(first))
        page.locator(f"#rest-{stage} input").fill(str(rest))


def outlasting(page: Page) -> None:
    """Ask for a clip so long that, made slowly, it still runs when all else is done."""
    page.locator("#seconds input[type=number]").fill("6")


def status(page: Page):
    return page.locator("#status p[role]")


def toast(page: Page):
    return page.locator(".toast-body")


def put_picture(page: Page, path: Path) -> None:
    page.locator("#mode").get_by_label("Picture").check(force=True)
    with page.expect_response("**/upload*"):
        page.set_input_files("#picture input[type=file]", path)


# ------------------------------------------------------------------------------------------------------------
# From words to a video


def test_a_sentence_becomes_a_video_and_every_stage_is_seen_at_work(fresh, server, slowly):
    page = fresh
    page.evaluate(WATCH)
    page.evaluate(BLINKS)
    ask(page, first=10, rest=5, seed=7)
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#used-seed")).to_have_text("7")
    expect(status(page)).to_contain_text("17 frames")
    assert page.evaluate("() => window.blinks") == []
    seen = page.evaluate(SEEN)
    assert all(seen[f"Stage {stage}"] >= 2 for stage in (1, 2, 3)), seen
    page.wait_for_function("() => document.querySelector('#large video').readyState >= 2")
    size = page.locator("#large video").evaluate(
        "video => [video.videoWidth, video.videoHeight, video.duration]"
    )
    assert size[:2] == [64, 64] and size[2] == pytest.approx(17 / 8, abs=0.1)
    expect(page.locator("#used-seed")).to_have_text("7")
    with page.expect_download() as download:
        page.click("#download")
    settings = read_metadata(download.value.path())["settings"]
    assert (settings["seed"], settings["prompt"]) == (7, BALL)
    assert settings["num_inference_steps"] == [10, 10, 10]
    assert len(list(server[1].glob("a-red-ball-moves-to-the-right-7*.mp4"))) == 1


def test_the_title_says_how_far_it_is_and_a_notification_asked_for_once_tells_the_end(fresh, slowly):
    page = fresh
    page.evaluate("""() => {
      window.told = [];
      window.asked = 0;
      window.Notification = class {
        static permission = "default";
        static requestPermission() { window.asked += 1; Notification.permission = "granted"; }
        constructor(title, {body}) { window.told.push(`${title}: ${body}`); }
      };
      Object.defineProperty(document, "hidden", {get: () => true, configurable: true});
    }""")
    ask(page, first=10, rest=10, seed=71)
    page.wait_for_function("() => /^\\d+ % · Pyramid$/.test(document.title)")
    expect(page.locator("#used-seed")).to_have_text("71")
    expect(page).to_have_title("Done · Pyramid")
    assert page.evaluate("() => [window.told, window.asked]") == [["Pyramid: Done"], 1]
    page.evaluate("() => { Notification.permission = 'default'; }")
    ask(page, seed=72)
    expect(page.locator("#used-seed")).to_have_text("72")
    assert page.evaluate("() => window.asked") == 1
    page.evaluate("""() => {
      Object.defineProperty(document, "hidden", {get: () => false, configurable: true});
      document.dispatchEvent(new Event("visibilitychange"));
    }""")
    expect(page).to_have_title("Pyramid")


def test_a_notification_that_was_allowed_is_shown_by_the_system(fresh, server):
    page = fresh
    page.context.grant_permissions(["notifications"], origin=server[0])
    page.evaluate("""() => {
      window.shown = [];
      const System = Notification;
      window.Notification = class extends System {
        constructor(title, options) {
          super(title, options);
          this.onshow = () => window.shown.push(`${this.title}: ${this.body}`);
        }
      };
      Object.defineProperty(document, "hidden", {get: () => true, configurable: true});
    }""")
    assert page.evaluate("() => Notification.permission") == "granted"
    ask(page, seed=73)
    page.wait_for_function("() => window.shown.length")
    assert page.evaluate("() => window.shown") == ["Pyramid: Done"]


def test_a_finished_unit_shows_its_stages(page):
    ask(page, seed=12)
    expect(page.locator("#used-seed")).to_have_text("12")
    expect(page.locator("#units .unit.done")).to_have_count(3)
    page.click("#units .unit.done >> nth=1")
    expect(page.locator("#inspector h3")).to_have_text("Unit 2")
    expect(page.locator("#inspector figure")).to_have_count(4)  # three stages, and what was decoded
    page.get_by_label("Close").click()
    expect(page.locator("#inspector section")).to_have_count(0)


def test_a_random_seed_is_shown_and_kept(page):
    page.locator("#seed input").fill("999999999999")  # larger than those that are drawn
    ask(page, key="Control+Enter")
    expect(page.locator("#seed input")).not_to_have_value("999999999999")
    expect(page.locator("#used-seed")).to_have_text(page.locator("#seed input").input_value())


def test_a_still_is_one_picture(page, server):
    page.locator("#mode").get_by_label("Still").check(force=True)
    expect(page.locator("#length")).to_have_text("One picture")
    ask(page, seed=11)
    expect(page.locator("#used-seed")).to_have_text("11")
    expect(status(page)).to_contain_text("1 frame ·")
    expect(page.locator("#large .made img")).to_be_visible()
    assert list(server[1].glob("*-11*.png"))


# ------------------------------------------------------------------------------------------------------------
# From a picture or a clip


def test_a_picture_is_the_first_frame_and_what_the_model_sees_is_shown(page, server, tmp_path):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), "teal").save(photo)
    put_picture(page, photo)
    expect(page.locator(".sight")).to_contain_text("64 × 64 px")
    cropped = page.locator(".sight img").get_attribute("src")
    page.locator("#fit").get_by_label("Pad").check(force=True)
    expect(page.locator(".sight img")).not_to_have_attribute("src", cropped)
    ask(page, seed=21)
    expect(page.locator("#used-seed")).to_have_text("21")
    (made,) = server[1].glob("*-21.mp4")
    settings = read_metadata(made)["settings"]
    assert (settings["image"], settings["fit"]) == ("photo.png", "pad")


def test_a_clip_goes_on(page, server):
    ask(page, seed=31)
    expect(page.locator("#used-seed")).to_have_text("31")
    (made,) = server[1].glob("*-31.mp4")
    page.locator("#mode").get_by_label("Continue").check(force=True)
    with page.expect_response("**/upload*"):
        page.set_input_files("#clip input[type=file]", made)
    expect(page.locator(".sight")).to_contain_text("the video continues from here")
    ask(page, seed=32)
    expect(page.locator("#used-seed")).to_have_text("32")
    (longer,) = server[1].glob("*-32.mp4")
    assert read_metadata(longer)["settings"]["video"] == made.name


# ------------------------------------------------------------------------------------------------------------
# While it runs


def test_stop_keeps_what_is_finished(page, server, slowly):
    ask(page, rest=LONG, seed=41)
    expect(page.locator("#units .unit.now")).to_be_visible()
    expect(page.locator("#units .unit.done").first).to_be_visible()
    page.click("#stop")
    expect(status(page)).to_contain_text("Stopped and kept: ")
    (kept,) = server[1].glob("*-41*-partial.mp4")
    assert read_metadata(kept)["partial"] is True


def test_a_reload_keeps_what_was_typed_and_reports_nothing(fresh):
    page = fresh
    told = []
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.get_by_label("Prompt", exact=True).fill(BALL)
    page.locator("#seconds input[type=number]").fill("3")
    page.locator("#first-2 input").fill("5")
    page.locator("#rest-3 input").fill("4")
    page.locator("#random input").set_checked(False)
    page.locator("#seed input").fill("77")
    page.locator("#seed input").blur()
    expect(page.locator("#length")).to_contain_text("3 s")
    page.wait_for_function("() => localStorage.getItem('pyramid-form')?.length > 10")
    page.wait_for_timeout(500)  # the last change is on its way to what the browser keeps
    for _ in range(2):
        page.reload()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value(BALL)
        expect(page.locator("#seed input")).to_have_value("77")
        expect(page.locator("#first-2 input")).to_have_value("5")
        expect(page.locator("#rest-3 input")).to_have_value("4")
        expect(page.locator("#random input")).not_to_be_checked()
        expect(page.locator("#seconds input[type=number]")).to_have_value("3")
        expect(page.locator("#verdict .ready")).to_be_visible()
    assert not told


def test_a_reload_and_a_second_browser_find_the_run(page, browser, server, slowly):
    outlasting(page)
    ask(page, rest=LONG)
    expect(status(page)).to_contain_text("Unit ")
    expect(page.locator("#generate")).to_have_text("Add to queue")
    for waiting in range(3):  # should the first end before the second browser is there
        page.click("#generate")
        expect(page.locator("#queue li:not(.now)")).to_have_count(waiting + 1)
    page.reload()
    expect(status(page)).to_contain_text("Unit ")
    expect(page.locator("#stop")).to_be_visible()
    other = browser.new_page(**CALM)
    other.goto(server[0])
    expect(status(other)).to_contain_text("Unit ")
    other.click("#stop")
    expect(page.locator(".tag", has_text="stopped early").first).to_be_visible()
    other.close()


def test_a_queue_of_three_is_moved_changed_and_worked_through(page, slowly):
    open_advanced(page)
    expect(page.locator("#previews")).to_be_visible()
    outlasting(page)
    ask(page, first=LONG, rest=LONG, seed=100, count=3)
    expect(toast(page)).to_contain_text("3 videos were added to the queue")
    rows = page.locator("#queue li")
    waiting = page.locator("#queue li:not(.now)")
    expect(page.locator("#queue li.now")).to_contain_text("seed 100")
    expect(waiting).to_contain_text(["seed 101", "seed 102"])
    act(page, "seed 102", "up")
    expect(waiting).to_contain_text(["seed 102", "seed 101"])
    act(page, "seed 101", "remove")
    expect(waiting).to_contain_text(["seed 102"])
    act(page, "seed 102", "copy")
    expect(rows).to_have_count(3)
    expect(waiting.nth(0)).to_contain_text("seed 102")
    expect(waiting.nth(1)).not_to_contain_text("seed 102")
    act(page, "seed 102", "edit")
    expect(page.locator("#editing")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("a blue star grows")
    fill_steps(page, 1, 1)
    expect(page.locator("#edit-save.primary")).to_have_text("Save the change")
    expect(page.locator("#generate")).to_be_hidden()
    page.click("#edit-save")
    expect(waiting.nth(0)).to_contain_text("a blue star grows")
    expect(page.locator("#queue li.now")).to_contain_text("seed 100")
    act(page, BALL, "remove")  # the copy
    expect(rows).to_have_count(2)
    slowly.unlink()
    page.click("#stop")
    expect(page.locator("#used-seed")).to_have_text("102")
    expect(rows).to_have_count(0)


def act(page: Page, words: str, deed: str) -> None:
    """Press a button of the job in the queue that has these words, wherever it stands."""
    page.locator("#queue li:not(.now)", has_text=words).locator(f"[data-act={deed}]").click()


def test_what_a_power_cut_left_goes_on_at_the_next_start(browser, tiny_checkpoint, tmp_path):
    (tmp_path / "slowly").touch()
    start, slow = ["--model", str(tiny_checkpoint)], {"forked": True, "script": SLOW_APP}
    with program(tmp_path, *start, **slow) as (process, address, _):
        page = browser.new_page(**CALM)
        page.goto(address)
        expect(page.locator("#verdict .ready")).to_be_visible()
        outlasting(page)
        ask(page, rest=10, seed=51)
        expect(page.locator("#units .unit.done")).to_have_count(2)
        process.kill()
    page.close()
    assert not list((tmp_path / "outputs").glob("[!.]*-51*"))
    with program(tmp_path, *start, **slow) as (_, address, _):
        page = browser.new_page(**CALM)
        page.goto(address)
        card = page.locator(".card", has_text=BALL)
        expect(status(page)).to_contain_text(re.compile("Unit [3-9]"))  # it goes on by itself
        page.click("#stop")
        expect(card.locator("video")).to_be_visible()
        expect(card.locator(".tag")).to_have_text("stopped early")
        (kept,) = (tmp_path / "outputs").glob("[!.]*-51*.mp4")
        assert read_metadata(kept)["partial"] is True and 9 <= len(list(read_frames(kept))) < 49
        page.close()


# ------------------------------------------------------------------------------------------------------------
# Presets, the pyramid, and what is wrong


def open_advanced(page: Page) -> None:
    """Open what only some want to see, where it is closed."""
    if not page.locator("#previews").is_visible():
        page.click("#advanced > button")


def choose(page: Page, field: str, words: str) -> None:
    page.locator(f"{field} input").click()
    page.get_by_role("option", name=words, exact=True).click()


def test_a_plan_and_fewer_bits_are_chosen(page, server):
    open_advanced(page)
    choose(page, "#memory", "Max: everything on the GPU")
    expect(toast(page)).to_contain_text("choose auto or cpu")
    expect(page.locator("#memory input")).to_have_value("Automatic: the fastest that fits")
    choose(page, "#memory", "CPU: no GPU")
    expect(page.locator("#plan")).to_contain_text("asked for")
    choose(page, "#quantize", "FP8 storage of the transformer")
    expect(page.locator("#plan")).to_contain_text("the transformer in fp8")
    ask(page, seed=61)
    expect(page.locator("#used-seed")).to_have_text("61")
    (video,) = server[1].glob("*-61.mp4")
    assert read_metadata(video)["settings"]["quantize"] == "fp8"
    choose(page, "#quantize", "Not quantized")
    choose(page, "#memory", "Automatic: the fastest that fits")
    expect(page.locator("#plan")).not_to_contain_text("fp8")


def test_presets_fill_the_form_and_are_saved(page, server):
    choose(page, "#preset", "quick")
    expect(page.locator("#first-1 input")).to_have_value("5")
    expect(page.locator("#rest-3 input")).to_have_value("4")
    page.locator("#rest-3 input").fill("9")
    open_advanced(page)
    page.locator("#preset-name textarea, #preset-name input").fill("mine")
    page.click("#preset-save")
    expect(toast(page)).to_contain_text("mine")
    preset = load_preset("mine", server[1] / "presets")
    assert preset.values["video_num_inference_steps"] == [4, 4, 9]
    page.reload()
    ready(page)
    choose(page, "#preset", "mine")
    expect(page.locator("#rest-3 input")).to_have_value("9")


def test_a_preset_for_another_model_is_not_offered(shown):
    shown.locator("#preset input").click()
    expect(shown.get_by_role("option", name="quick")).to_be_visible()
    expect(shown.get_by_role("option", name="released-384p")).to_have_count(0)
    shown.keyboard.press("Escape")


def test_the_pyramid_follows_its_controls(page):
    expect(page.locator(".drawing .plane")).to_have_count(3)
    two = page.locator("#stages").get_by_label("2")
    two.evaluate("radio => radio.scrollIntoView({block: 'center'})")  # from under the buttons
    two.check(force=True)
    expect(page.locator(".drawing .plane")).to_have_count(2)
    expect(page.locator("#first-3")).to_have_count(0)
    expect(page.locator("#verdict")).to_contain_text("Not trained: 2 stages")
    page.locator("#stages").get_by_label("3").check(force=True)
    expect(page.locator(".drawing .plane")).to_have_count(3)


def test_tokens_are_counted_and_what_is_cut_is_shown(page):
    page.get_by_label("Prompt", exact=True).fill(BALL)
    expect(page.locator("#counts")).not_to_contain_text("/77")
    page.get_by_label("Prompt", exact=True).fill("ball " * 100)
    expect(page.locator("#counts .cut").first).to_contain_text("does not read")
    expect(page.locator("#counts .over").first).to_contain_text("/77 tokens")


@pytest.mark.parametrize(
    "form, words",
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"first": 500}, "Steps for the first frame, stage 1 = 500 is outside 1 to 200"),
    ],
)
def test_what_is_wrong_with_the_form_is_said_and_nothing_starts(page, form, words):
    ask(page, **form)
    expect(page.locator("#verdict .problem")).to_contain_text(words)
    expect(toast(page)).to_have_count(0)  # it is said once
    expect(page.locator("#stop")).to_be_hidden()
    fill_steps(page, 2, 2)


def test_what_cannot_run_is_said_before_anything_is_pressed(page):
    page.get_by_label("Prompt", exact=True).fill(BALL)
    choose(page, "#size", "Another size …")
    page.get_by_label("Width").fill("100")
    expect(page.locator("#verdict .problem")).to_contain_text("Width = 100 is not a multiple of 64")
    page.get_by_label("Width").fill("128")
    expect(page.locator("#verdict .mark")).to_contain_text("128×64")
    choose(page, "#size", "64 × 64")


def test_a_picture_that_cannot_be_read_is_said_without_a_trace(fresh, tmp_path):
    page = fresh
    broken = tmp_path / "broken.png"
    broken.write_text("not a picture")
    put_picture(page, broken)
    expect(page.locator("#sight .problem")).to_contain_text("is not a picture")
    ask(page)
    expect(page.locator("#verdict .problem")).to_contain_text("is not a picture")
    assert "Traceback" not in page.content()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 720), (2560, 1440), (390, 844)], ids=["small", "large", "phone"])
def test_the_page_fits(shown, size, theme):
    shown.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    dark = shown.evaluate("document.body.classList.contains('dark')")
    if dark != (theme == "dark"):
        shown.click("#theme")
    width, height = shown.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    )
    assert width <= size[0]
    if size[0] > 800:
        assert height <= size[1]
        expect(shown.locator("#first-1")).to_be_in_viewport(ratio=1)  # the steps, without scrolling
        box = shown.locator("#large").bounding_box()
        assert box and box["width"] > size[0] * 0.4  # the pictures' area grows with the window
    expect(shown.locator("#generate")).to_be_visible()
    cut = "chips => chips.filter(chip => chip.scrollWidth > chip.clientWidth).length"
    assert shown.locator("#examples .chip, #examples .chip span").evaluate_all(cut) == 0
