"""Results in a browser: history, search, favourites, comparing, deleting, reusing, exporting,
restoring from a file.

The page is served in this process over a folder of ready results, so that nothing has to be generated first.
"""

import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from helpers import tidy_form
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect

from pyramid.hub.checkpoints import find, identity
from pyramid.jobs.queue import JobStore, Output, State
from pyramid.jobs.worker import Worker
from pyramid.media.files import describe, read_metadata
from pyramid.media.pictures import write_picture
from pyramid.media.preview import save_estimate
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import read_frames
from pyramid.settings import Settings
from pyramid.ui import App
from pyramid.ui.cards import card as card_html
from pyramid.ui.models import news
from pyramid.ui.page import STYLE, build, build_left, for_mode
from pyramid.ui.plans import PlanPart
from pyramid.ui.queue import kept_as
from pyramid.ui.restore import restore
from pyramid.ui.results import Results
from pyramid.ui.security.guard import doors
from pyramid.ui.view import View

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)
NASTY = 'a "quoted" <b>star</b> ${1+1} {{value}} & more'


def frames(colour: str, count: int = 17, side: int = 64) -> np.ndarray:
    """A disc that moves to the right: uint8 (f, h, w, 3)."""
    pictures = []
    for number in range(count):
        picture = Image.new("RGB", (side, side), (40, 60, 90))
        left = side * number // count
        ImageDraw.Draw(picture).ellipse((left, side // 3, left + side // 4, side // 3 + side // 4), colour)
        pictures.append(np.asarray(picture))
    return np.stack(pictures)


def add_result(
    store: JobStore,
    settings: Settings,
    *,
    owner: str = "local",
    state: State = State.DONE,
    colour: str = "red",
    file: bool = True,
    **more,
):
    """A finished job with a real file, as the worker leaves it."""
    job = store.add(settings, owner=owner, **more)
    assert store.claim().id == job.id
    settings, path = job.settings, None
    if file:
        name = store.folder / f"{colour}-{settings.seed}"
        metadata = describe(settings, identity(find(settings.model, settings.variant)))
        if settings.num_frames == 1:
            path = write_picture(name.with_suffix(".png"), frames(colour, 1)[0], metadata)
        else:
            with VideoWriter(name.with_suffix(".mp4"), settings.fps, (64, 64), metadata) as writer:
                writer.write(frames(colour, settings.num_frames))
                writer.partial = state is State.PARTIAL
            path = writer.path
    return store.finish(
        job.id,
        state,
        path=path,
        units_done=settings.units if state is State.DONE else 1,
        timings={"total": 2.5},
    )


class Served:
    """The page over a folder of results."""

    def __init__(self, folder: Path, checkpoint: Path):
        self.store = JobStore(folder)
        self.worker = Worker(self.store, model=str(checkpoint))
        self.start = self.worker.start_from
        self.app = App(self.store, self.worker, self.store.folder)
        self.blocks = build(self.app)
        _, self.url, _ = self.blocks.launch(
            prevent_thread_lock=True, quiet=True, css_paths=STYLE, **doors(self.app, None)
        )

    def fill(self) -> None:
        """The same results for each test."""
        for owner in ("local", "visitor:other"):
            for job in self.store.history(owner, limit=100):
                self.store.delete(job.id, owner)
        store, start = self.store, self.start
        with store.lock:  # the worker takes none of them
            cut = store.add(replace(start, prompt="cut off in the middle", seed=17), owner="local")
            store.finish(
                store.claim().id, State.INTERRUPTED, error="The program ended while this was being made."
            )
            red = add_result(store, replace(start, prompt="a red ball rolls over a meadow", seed=11))
            blue = replace(start, prompt="a blue ball falls into the sea", seed=12, num_frames=25)
            add_result(store, blue, colour="blue")
            add_result(store, replace(start, prompt=NASTY, seed=13), colour="lime", state=State.PARTIAL)
            still = replace(start, prompt="a still of a house", seed=14, num_frames=1)
            add_result(store, still, colour="orange")
            add_result(store, replace(start, prompt="it went wrong", seed=15), state=State.FAILED, file=False)
            kite = replace(start, prompt="somebody else's kite", seed=16)
            add_result(store, kite, owner="visitor:other", colour="pink")
            assert not cut.over and not store.queue()
        for unit in range(3):
            for stage in range(3):
                picture = Image.new("RGB", (2 << stage, 2 << stage), "red")
                save_estimate(store.units_of(red), unit, stage, picture)

    def close(self) -> None:
        self.blocks.close(verbose=False)
        self.worker.close()
        self.store.close()


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("outputs"), tiny_checkpoint)
    yield served
    served.close()


@pytest.fixture
def served(server):
    server.fill()
    return server


@pytest.fixture(scope="module")
def pages(browser, server):
    """Opens pages, all of one visitor's browser."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(60_000)

    def another() -> Page:
        page = context.new_page()
        page.goto(server.url)
        return page

    yield [another(), another]
    context.close()


@pytest.fixture
def page(pages, served, request):
    """A page of six results, that tests before have used: it takes seconds to come up."""
    page, another = pages
    expect(page.locator("#verdict .ready")).to_be_visible()
    newest = served.store.history("local")[0].id
    expect(page.locator(f'.card [data-job="{newest}"]').first).to_be_attached()
    expect(page.locator(".card")).to_have_count(6)
    failed = request.session.testsfailed
    yield page
    if request.session.testsfailed > failed:  # who knows what it left
        page.close()
        pages[0] = another()
    else:
        tidy(page)


def tidy(page: Page) -> None:
    """Bring the page back to what the next test counts on."""
    page.mouse.move(2, 2)
    if page.locator("dialog").count():
        page.keyboard.press("Escape")
        expect(page.locator("dialog")).to_have_count(0)
    if page.get_by_label("Search results").input_value():
        page.get_by_label("Search results").fill("")
    tidy_form(page)


def card(page: Page, words: str):
    return page.locator(".card", has_text=words)


def open_result(page: Page, words: str):
    card(page, words).get_by_role("button", name="Open").click()
    expect(page.locator(".detail h3")).to_contain_text(words)
    return page.locator(".detail")


# -- history
def test_the_history_shows_the_owners_jobs_as_they_ended_and_plays_what_is_pointed_at(page, served):
    expect(page.get_by_text("somebody else's kite")).to_have_count(0)
    for words, tag in (("quoted", "stopped early"), ("went wrong", "failed"), ("cut off", "interrupted")):
        expect(card(page, words).locator(".tag")).to_have_text(tag)
    expect(card(page, "quoted").locator(".prompt")).to_have_text(NASTY)
    expect(card(page, "a still of a house").locator("img")).to_be_visible()
    video = card(page, "red ball").locator("video")
    page.wait_for_function("(video) => video.readyState >= 1", arg=video.element_handle())
    card(page, "red ball").locator(".media").hover()
    page.wait_for_function("(video) => !video.paused && video.currentTime > 0", arg=video.element_handle())
    page.mouse.move(2, 2)
    page.wait_for_function("(video) => video.paused && video.currentTime === 0", arg=video.element_handle())
    assert str(served.store.folder) not in page.content()


def test_search_and_favourites_find_results_again(page, served):
    card(page, "blue ball").get_by_role("button", name="Favorite").click()
    expect(card(page, "blue ball").get_by_role("button", name="Favorite")).to_have_attribute(
        "aria-pressed", "true"
    )
    page.get_by_label("Favorites").check()
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_label("Favorites").uncheck()
    expect(page.locator(".card")).to_have_count(6)
    page.get_by_label("Search results").fill("RED ball")
    expect(page.locator(".card")).to_have_count(1)
    page.get_by_label("Search results").fill("no such thing")
    expect(page.locator(".empty")).to_have_text("No results match.")
    page.reload()
    expect(card(page, "blue ball").get_by_role("button", name="Favorite")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_delete_asks_once_more_and_removes_the_file(page, served):
    path = served.store.history("local", search="red")[0].path
    button = card(page, "red ball").get_by_role("button", name="Delete")
    button.click()
    expect(card(page, "red ball").get_by_text("Delete?")).to_be_visible()
    assert path.is_file()
    card(page, "red ball").get_by_text("Delete?").click()
    expect(page.locator(".card")).to_have_count(5)
    assert not path.exists() and not served.store.history("local", search="red")


def test_the_opened_result_shows_its_settings_and_closes_by_key(page):
    detail = open_result(page, "blue ball")
    expect(detail.locator("dt", has_text="Seed")).to_be_visible()
    names, values = (detail.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
    told = dict(zip(names, values, strict=True))
    shown = {"Frames": "25", "Seed": "12", "Steps for the first frame": "2 · 2 · 2"}
    assert told.items() >= shown.items(), told
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(card(page, "blue ball").locator(".media")).to_be_focused()


def test_two_results_play_in_step(page):
    for words in ("red ball", "blue ball"):
        compare = card(page, words).get_by_role("button", name="Compare")
        compare.click()
        expect(compare).to_have_attribute("aria-pressed", "true")
    part = page.locator("#results-compare")
    expect(part.locator("video")).to_have_count(2)
    moving = "(part) => [...part.querySelectorAll('video')].every((video) => video.currentTime > 0.3)"
    page.wait_for_function(moving, arg=part.element_handle())
    part.get_by_role("button", name="Pause").click()
    expect(part.get_by_role("button", name="Play")).to_be_visible()
    part.get_by_label("Where both are").fill("0.5")
    at = (
        "(part, t) => [...part.querySelectorAll('video')].every((video) "
        "=> Math.abs(video.currentTime - t) < 0.07)"
    )
    page.wait_for_function(f"(part) => ({at})(part, 25 / 8 / 2)", arg=part.element_handle())
    part.get_by_role("button", name="One frame on").click()
    page.wait_for_function(f"(part) => ({at})(part, 25 / 8 / 2 + 1 / 8)", arg=part.element_handle())
    part.get_by_label("Where both are").fill("1")  # the shorter one waits on its last frame
    ended = (
        "(part) => { const [a, b] = part.querySelectorAll('video'); return Math.min(a.currentTime, 2) === 2"
    )
    page.wait_for_function(f"{ended} && b.currentTime > 3; }}", arg=part.element_handle())
    rows = part.locator("tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["Prompt", "Frames", "Seed"], rows
    part.get_by_role("button", name="Over each other").click()
    part.get_by_label("Where the two are divided").fill("20")
    clip = part.locator("video").nth(1).evaluate("(video) => getComputedStyle(video).clipPath")
    assert "20%" in clip, clip
    page.keyboard.press("Escape")
    expect(card(page, "blue ball").get_by_role("button", name="Compare")).to_be_focused()


# -- into the form
def test_settings_come_back_into_the_form_or_only_the_seed(page):
    open_result(page, "blue ball").get_by_role("button", name="Use the seed only").click()
    expect(page.locator("#results-notes")).to_contain_text("The seed is in the form.")
    expect(page.locator("#seed input")).to_have_value("12")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("")
    expect(page.locator(".detail")).to_have_count(0)  # a click is not heard while the one before is at work
    open_result(page, "blue ball").get_by_role("button", name="Use all settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue ball falls into the sea")
    expect(page.locator("#random input")).not_to_be_checked()


def test_a_clip_goes_on_and_a_picture_begins_to_move(page, served):
    open_result(page, "red ball").get_by_role("button", name="Continue from the last frame").click()
    expect(page.locator("#clip video")).to_be_visible()
    expect(page.locator("#mode input:checked")).to_have_value("video")
    open_result(page, "a still of a house").get_by_role("button", name="Animate this image").click()
    expect(page.locator("#picture img")).to_be_visible()
    expect(page.locator("#mode input:checked")).to_have_value("image")
    page.click("#generate")
    expect(page.locator(".card")).to_have_count(7, timeout=120_000)
    job = served.store.history("local")[0]
    assert job.state is State.DONE and job.settings.image and job.settings.num_frames == 17


def test_a_continued_clip_says_what_it_knows_and_is_joined_to_its_source(page, served):
    detail = open_result(page, "blue ball")
    expect(detail.locator(".ways")).to_contain_text("knows nothing but those pictures: the cut may show")
    detail.get_by_role("button", name="Continue from the last frames only").click()
    expect(page.locator("#clip video")).to_be_visible()
    expect(page.locator("#length")).to_contain_text("frames of them from the clip")
    page.get_by_label("Prompt", exact=True).fill("it comes back")
    page.click("#generate")
    expect(card(page, "it comes back").locator("video")).to_be_visible(timeout=120_000)
    detail = open_result(page, "it comes back")
    expect(detail.locator(".ways")).to_contain_text("Make it longer is seamless")
    detail.get_by_role("button", name="Join to its source").click()
    with page.expect_download() as download:
        detail.get_by_role("link", name="-joined.mp4").click()
    job = served.store.history("local", search="comes back")[0]
    given = read_metadata(job.path)["given_frames"]
    assert 1 <= given < job.settings.num_frames
    source = len(list(read_frames(served.store.input_of(job))))
    joined = len(list(read_frames(download.value.path())))
    assert joined == source + job.settings.num_frames - given


def test_a_clip_becomes_longer_from_its_own_latents(page, served):
    job = served.store.add(replace(served.start, prompt="a kite climbs", seed=3, num_frames=9), owner="local")
    expect(card(page, "a kite climbs").locator("video")).to_be_visible(timeout=120_000)
    detail = open_result(page, "a kite climbs")
    detail.locator("summary", has_text="Make it longer").click()
    detail.get_by_label("What happens next").fill("")
    detail.get_by_role("button", name="Extend").click()
    expect(detail.get_by_role("alert")).to_contain_text("the prompt is empty")
    detail.get_by_label("What happens next").fill("a kite falls")
    detail.get_by_label("Extend by").select_option("1")
    detail.get_by_role("button", name="Extend").click()
    expect(card(page, "a kite falls").locator("video")).to_be_visible(timeout=120_000)
    more, first = served.store.history("local", search="kite")[0], served.store.get(job.id)
    assert more.settings.num_frames == 17 and more.state is State.DONE
    before, after = (
        [np.asarray(frame, int) for frame in read_frames(path)] for path in (first.path, more.path)
    )
    assert len(before) == 9 and len(after) == 17
    assert np.abs(np.subtract(before, after[:9])).mean() < 3  # only the encoder's rounding differs


def test_what_was_cut_off_goes_on(page, served):
    open_result(page, "cut off").get_by_role("button", name="Resume").click()
    expect(card(page, "cut off").locator("video")).to_be_visible(timeout=120_000)
    expect(card(page, "cut off").locator(".tag")).to_have_count(0)
    assert served.store.history("local", search="cut off")[0].state is State.DONE


# -- exports
def test_exports_are_made_and_fetched(page, served):
    detail = open_result(page, "red ball")
    detail.locator("summary", has_text="Export").click()
    expect(detail.get_by_label("Name")).to_have_value("a-red-ball-rolls-over-a-meadow-11")
    detail.get_by_label("Name").fill("{prompt:.5}_{nothing}")
    detail.get_by_role("button", name="Export").click()
    expect(detail.get_by_role("alert")).to_contain_text("there is no {nothing}")
    for kind, keep, name in (
        ("gif", "embed", "a-red.gif"),
        ("mp4", "none", "a-red.mp4"),
        ("png", "embed", "a-red.zip"),
        ("stages", "embed", "a-red-stages.mp4"),
        ("gif", "embed", "a-red-2.gif"),
    ):
        detail.get_by_label("Name").fill("{prompt:.5}")
        detail.get_by_label("Format").select_option(kind)
        detail.get_by_label("Metadata").select_option(keep)
        detail.get_by_role("button", name="Export").click()
        with page.expect_download() as download:
            detail.get_by_role("link", name=name, exact=True).click()
        assert download.value.suggested_filename == name
        path = Path(download.value.path())
        path = path.rename(path.with_name(name))
        if keep == "embed":
            assert read_metadata(path)["settings"]["seed"] == 11
        else:
            with pytest.raises(ValueError, match="holds no settings"):
                read_metadata(path)
    with page.expect_download() as download:
        detail.get_by_role("link", name="Download").click()
    assert (
        Path(download.value.path()).read_bytes()
        == served.store.history("local", search="red")[0].path.read_bytes()
    )


def test_the_name_pattern_says_what_it_makes(page):
    page.locator("#advanced > button").click()
    pattern = page.locator("#pattern")
    expect(pattern).to_contain_text("As in video-random")
    pattern.locator("input, textarea").fill("{model}/{frames}")
    expect(pattern).to_contain_text("/17")
    pattern.locator("input, textarea").fill("{sed}")
    expect(pattern).to_contain_text("there is no {sed}")


# -- restore
def drop(page: Page, *paths: Path) -> None:
    page.set_input_files("#restore input[type=file]", paths)


def test_a_dropped_file_brings_its_settings_back_and_says_what_it_cannot(page, served, tmp_path):
    drop(page, served.store.history("local", search="blue")[0].path)
    notes = page.locator("#results-notes")
    expect(notes).to_contain_text("The settings of blue-12.mp4 are in the form.")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a blue ball falls into the sea")
    settings = replace(
        served.start,
        prompt="as if by magic",
        seed=99,
        image="gone.png",
        preset="mine",
        model="miniflux",
        variant="384p",
    )
    (tmp_path / "settings.json").write_text(json.dumps(settings.to_dict()))
    drop(page, tmp_path / "settings.json")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("as if by magic")
    for words in ("gone.png", "no preset 'mine'", "miniflux 384p"):
        expect(notes).to_contain_text(words)
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    drop(page, tmp_path / "holiday.png")
    expect(notes).to_contain_text("holiday.png holds no settings of this program")
    assert str(tmp_path) not in notes.inner_html() and "Traceback" not in page.content()


@pytest.mark.parametrize("at_home", [False, True])
def test_restoring_names_each_thing_that_is_not_as_it_was(served, tmp_path, monkeypatch, at_home):
    monkeypatch.setenv("HOME", str(tmp_path.parents[1] if at_home else tmp_path / "other"))
    app, start = served.app, served.start
    picture = tmp_path / "cat.png"
    Image.new("RGB", (64, 64), "teal").save(picture)
    job = served.store.add(
        replace(start, prompt="a cat", seed=5, image="cat.png"), owner="local", image=picture
    )
    while not served.store.get(job.id).over:
        served.store.wait(served.store.version, 1)
    job = served.store.get(job.id)
    found = restore(job.path, app, "local")
    assert found.settings == job.settings and found.picture == served.store.input_of(job) and not found.notes
    other = restore(job.path, app, "visitor:other")  # whose picture it is not
    assert other.picture is None and other.settings.image is None and "cat.png" in other.notes[0]
    metadata = read_metadata(job.path)
    metadata["model"]["weights"]["vae"] = ["0" * 16]
    metadata["settings"] |= {"colour": "red", "fps": "many", "dtype": "bfloat16"}
    (tmp_path / "old.json").write_text(json.dumps(metadata))
    notes = " ".join(restore(tmp_path / "old.json", app, "local").notes)
    for words in ("colour", "Frames a second = 'many'", "other weights", "Precision = bfloat16"):
        assert words in notes, notes
    (tmp_path / "mine.toml").write_text('description = "quick"\nnum_frames = 9\n')
    assert restore(tmp_path / "mine.toml", app, "local").settings.num_frames == 9
    for name, text in (
        ("a.json", "{"),
        ("b.json", '{"program": "other"}'),
        ("c.toml", "no = 1"),
        ("d.mp4", "text"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name) as caught:
            restore(tmp_path / name, app, "local")
        assert str(tmp_path) not in str(caught.value)


def test_a_reloaded_page_shows_the_plan_and_the_model_in_use(served, monkeypatch):
    part, told = PlanPart(served.app), {}
    monkeypatch.setattr(served.worker, "switch", lambda *_, **options: told.update(options))
    monkeypatch.setattr(served.worker, "_options", served.worker._options | {"memory": "cpu"})
    assert part.chosen() == ("cpu", "none") and part.choose(quantize="fp8") == ("cpu", "fp8") == tuple(
        told.values()
    )
    seen, _, choice = news(served.app, None, "another")
    assert f"{served.start.model}\n{served.start.variant}" == choice["value"] == choice["choices"][-1][1]
    assert "value" not in news(served.app, None, choice["value"])[2], "an open list is left alone"
    assert news(served.app, seen, "another")[2] == gr.skip()


def test_a_result_that_cannot_play_in_step_is_not_compared(served, tmp_path):
    for name, can in (("a.gif", False), ("a.zip", False), ("a.mp4", True), ("a.png", True)):
        (tmp_path / name).touch()
        job = replace(served.store.history("local")[0], path=tmp_path / name)
        assert ('data-action="compare"' in card_html(job, View())) == can


def test_the_output_settings_of_a_job_come_into_the_form(served):
    with gr.Blocks():
        form = build_left(served.app).form
    kept = dict(zip(form.extra, kept_as(form, Output(format="gif", pattern="mine-{seed}")), strict=True))
    assert kept["format"]["value"] == "gif" and kept["pattern"]["value"] == "mine-{seed}"
    assert kept["count"] == kept["pictures"] == gr.skip() and for_mode("still")[1]["info"]


# -- visitors
def test_an_owner_reaches_only_their_own_results(served):
    results, kite = Results(served.app), served.store.history("visitor:other")[0]
    opened = View(opened=kite.id, pair=(kite.id, kite.id))
    assert "kite" in "".join(results.show("visitor:other", opened))
    for owner in ("local", "visitor:me", ""):
        shown = "".join(results.show(owner, opened))
        assert "kite" not in shown and kite.id not in shown
        with pytest.raises(ValueError, match="no longer exist"):
            results.own(kite.id, owner)
