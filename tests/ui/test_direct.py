"""The panel "Direct" in a real browser, on a tiny random model: explore, pause, branch, tell, go on.

python -m pytest tests/ui/test_direct.py
"""

import json
from dataclasses import replace

import pytest
from helpers import CALM, SLOW_APP, idle_app, program, slowly_in
from playwright.sync_api import Page, expect

from pyramid.jobs.directing import explore
from pyramid.jobs.queue import State
from pyramid.settings import SettingsError
from pyramid.timeline import Cue, load_timeline, read_timeline
from pyramid.ui.art import PICTURES
from pyramid.ui.asked import number_of, numbers_of
from pyramid.ui.branch import Branching
from pyramid.ui.explore import Explore
from pyramid.ui.timeline import toml_of, tracks_html

BALL = "a red ball moves to the right"
expect.set_options(timeout=120_000)


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    with program(folder, "--model", str(tiny_checkpoint), forked=True, script=SLOW_APP) as (_, address, _):
        yield address, folder


@pytest.fixture
def slowly(server):
    """What runs meanwhile waits at each step."""
    with slowly_in(server[1]):
        yield


@pytest.fixture
def page(browser, server):
    """A page with the panel open, and a prompt in the form."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, **CALM)
    context.set_default_timeout(120_000)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server[0])
    expect(page.locator("#model.good")).to_be_visible()
    expect(page.locator("#verdict .ready")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill(BALL)
    steps(page, 2)
    page.locator("#direct > button").click()
    yield page
    assert errors == []
    context.close()


def steps(page: Page, count: int) -> None:
    for stage in (1, 2, 3):
        page.locator(f"#rest-{stage} input").fill(str(count))
    page.locator("#rest-3 input").blur()


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


# ------------------------------------------------------------------------------------------------------------
# In the browser


@pytest.mark.browser
def test_the_first_page_stays_prompt_picture_generate(browser, server):
    page = browser.new_page(**CALM)
    page.goto(server[0])
    expect(page.locator("#model.good")).to_be_visible()
    expect(page.locator("#direct")).to_be_visible()
    assert page.locator("#explore, #tree, #tracks, #endless").filter(visible=True).count() == 0
    page.close()


@pytest.mark.browser
def test_a_wall_is_made_a_draft_refined_and_varied(page):
    page.click("#explore [data-act=explore]")
    expect(page.locator("#wall figure")).to_have_count(9)
    page.wait_for_function(
        "() => [...document.querySelectorAll('#wall img')].every((img) => img.naturalWidth > 100)"
    )
    seed = page.locator("#wall figcaption span").nth(3).inner_text()
    page.locator("#wall .look").nth(3).click()
    expect(page.locator("#used-seed")).to_have_text(seed)
    expect(page.locator("#wall figure.made")).to_contain_text(seed)
    page.locator("#wall input[name=strength]").fill("0.5")
    page.locator("#wall [data-act=vary]").nth(3).click()
    expect(page.locator("#wall h3")).to_contain_text(f"9 variations of seed {seed}, strength 0.5")
    page.get_by_label("The wall before this one").click()
    expect(page.locator("#wall h3")).to_contain_text("9 seeds")
    page.locator("#wall [data-act=delete]").click()
    page.locator("#wall [data-act=delete]").click()
    expect(page.locator("#wall h3")).to_contain_text("variations")


@pytest.mark.browser
def test_a_clip_is_held_goes_on_and_is_left_by_a_branch(page, slowly):
    tab(page, "Pause and branch")
    steps(page, 10)
    page.locator("#seconds input[type=number]").fill("7")
    page.locator("#seconds input[type=number]").blur()
    page.click("#generate")
    page.locator("#tree [data-act=pause-stage]").click()
    expect(page.locator("#tree .paused")).to_have_text("paused")
    expect(page.locator("#status")).to_contain_text("Paused")
    page.click("#tree [data-act=resume]")
    page.locator("#tree [data-act=at]").nth(1).wait_for()
    page.click("#stop")
    expect(page.locator("#tree .partial")).to_be_visible()
    page.locator("#tree .u").nth(0).click()
    expect(page.locator("#branch h3")).to_contain_text("Another way after unit 1")
    page.click("#branch [data-act=branch]")
    expect(page.locator(".toast-body")).to_contain_text("Say what is to be different")
    page.locator("#branch input[name=prompt]").fill("a blue star falls")
    page.click("#branch [data-act=branch]")
    expect(page.locator("#tree .way")).to_have_count(2)
    expect(page.locator("#tree .way").nth(1)).to_contain_text("a blue star falls")
    page.click("#stop")
    expect(page.locator("#generate")).to_have_text("Generate")
    page.reload()
    page.locator("#direct > button").click()
    tab(page, "Pause and branch")
    expect(page.locator("#tree .way")).to_have_count(2)


@pytest.mark.browser
def test_a_timeline_is_set_unit_by_unit_and_made(page):
    tab(page, "Timeline")
    page.locator("#tracks .u").nth(2).click()
    page.locator("#cue input[name=prompt]").fill('it "grows"')
    page.locator("#cue input[name=guidance]").fill("3, 3, 2")
    page.click("#cue [data-act=put]")
    expect(page.locator("#tracks .new")).to_have_count(2)
    page.locator("#tracks .u").nth(1).click()
    page.locator("#cue input[name=seed]").fill("5")
    page.click("#cue [data-act=put]")
    expect(page.locator("#tracks pre")).to_contain_text("seed = 5")
    page.click("#generate")
    expect(page.locator("#status")).to_contain_text("17 frames")
    page.locator("#tracks .u").nth(1).click()
    page.click("#cue [data-act=drop]")
    expect(page.locator("#tracks pre")).not_to_contain_text("seed")


@pytest.mark.browser
def test_an_endless_clip_streams_hears_words_and_is_stopped(page, slowly):
    tab(page, "Endless")
    steps(page, 3)
    page.click("#endless [data-act=begin]")
    video = page.locator("#large video[data-stream]")
    expect(video).to_be_visible()
    page.wait_for_function("() => document.querySelector('#large video[data-stream]').currentTime > 1.5")
    page.locator("#tell input[name=prompt]").fill("a blue star falls")
    page.click("#tell [data-act=tell]")
    expect(page.locator("#drift li")).to_contain_text("a blue star falls")
    expect(page.locator("#drift dd")).to_have_count(3)
    page.click("#stop")
    expect(page.locator("#large video[src*=results]")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("frames")


# ------------------------------------------------------------------------------------------------------------
# Without one


def test_others_see_and_touch_nothing(tiny_checkpoint, tmp_path):
    with idle_app(tiny_checkpoint, tmp_path) as app:
        asked = replace(app.worker.start_from, prompt=BALL)
        wall = explore(app.store, asked, owner="visitor:ana")
        app.store.finish(app.store.claim().id, State.DONE)
        assert "9 seeds" in Explore(app).wall_html("visitor:ana", "")
        assert Explore(app).wall_html("visitor:bob", wall.id) == ""
        clip = app.store.add(asked, owner="visitor:ana")
        assert clip.settings.prompt in Branching(app).tree_html("visitor:ana", (clip.id, -1))
        assert "no clip yet" in Branching(app).tree_html("visitor:bob", (clip.id, -1))


def test_the_tracks_show_what_is_told_and_the_file_says_the_same(tiny_checkpoint, tmp_path):
    with idle_app(tiny_checkpoint, tmp_path) as app:
        told = json.dumps([{"from": 1, "seed": 7}, {"from": 2, "prompt": '<b>"x"\n', "ease": 2}])
        html = tracks_html(replace(app.worker.start_from, timeline=told), 2)
    assert "<b>" not in html and "&lt;b&gt;" in html and "--ramp: 100%" in html
    path = tmp_path / "clip.toml"
    path.write_text("\n\n".join(toml_of(cue) for cue in read_timeline(told)))
    assert read_timeline(load_timeline(path)) == read_timeline(told)


def test_what_a_browser_sends_is_read_with_care():
    assert numbers_of({"steps": "4, 3;2"}, "steps", int) == (4, 3, 2)
    assert number_of({"seed": " "}, "seed", int) is None
    with pytest.raises(SettingsError, match="whole number"):
        number_of({"seed": "2.5"}, "seed", int)
    assert Branching.cue({"prompt": "", "guidance": "", "seed": "3", "ease": "4"}, 2) == Cue(2, seed=3)


def test_every_control_has_a_picture_of_ours():
    assert all(drawn.startswith("<") and "href" not in drawn for drawn in PICTURES.values())
