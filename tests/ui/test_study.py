"""A blind study in a real browser: a scripted rater who knows what it likes, and what a rater's link opens.

The rater reads the pixels of the page's clips and prefers green ones; of two of one color, the one that has
more detail. It knows no names, as nobody does who rates. The study finds out which system makes green clips.
"""

import json

import httpx
import numpy as np
import pytest
from helpers import program
from playwright.sync_api import Page, expect

from pyramid.commands import cli
from pyramid.media.video import VideoWriter

PROMPTS = ["a ball rises", "a ring stays", "a star falls"]
LOOK = """() => ["a", "b"].map((id) => {  // [how green, how much detail]
  const video = document.getElementById(id), canvas = document.createElement("canvas");
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
  let green = 0, detail = 0;
  for (let i = 4; i < data.length; i += 4) {
    green += data[i + 1] - data[i];
    for (const channel of [0, 1]) detail += Math.abs(data[i + channel] - data[i + channel - 4]);
  }
  return [4 * green / data.length, detail];
})"""


def clip(color: int, shift: int) -> np.ndarray:
    """A fine pattern that moves, green (1) or red (0): uint8 (8, 64, 96, 3)."""
    frames = np.zeros((8, 64, 96, 3), np.uint8)
    for n in range(8):
        y, x = np.mgrid[:64, :96]
        frames[n, ..., color] = 120 + 60 * (((x + n * 2) // 2 + (y + shift) // 2) % 2)
    return frames


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    """app.py with accounts and a study of two folders: (address, the study's folder, its links)."""
    root = tmp_path_factory.mktemp("study")
    for color, name in enumerate(("crimson", "emerald")):
        (root / name).mkdir()
        for number, prompt in enumerate(PROMPTS):
            with VideoWriter(root / name / f"{prompt}-0.mp4", 8, (96, 64)) as writer:
                writer.write(clip(color, number))
    folder = root / "kept"
    asked = [
        "--make",
        str(root / "crimson"),
        str(root / "emerald"),
        "--checks",
        "2",
        "--raters",
        "ana,ben,cem",
    ]
    assert cli.main(["evaluate", "study", "--study", str(folder), *asked]) == 0
    (root / "accounts.txt").write_text("owner:a river\n")
    flags = ["--listen", "127.0.0.1", "--auth-file", str(root / "accounts.txt"), "--study", str(folder)]
    with program(root, *flags, "--model", str(tiny_checkpoint)) as (process, address, _):
        told = process.stdout.readline()
        assert str(folder / "links.txt") in told
        lines = (folder / "links.txt").read_text().splitlines()
        yield address, folder, dict(line.split(": ", 1) for line in lines)


def rate(page: Page, place: int) -> None:
    """Look at a pair as a person does, and answer by the keys."""
    expect(page.locator("#progress")).to_have_text(f"{place + 1} of 5")
    expect(page.locator("#questions button").first).to_be_enabled()  # both were played to the end
    (green_a, detail_a), (green_b, detail_b) = page.evaluate(LOOK)
    likes_a = green_a > green_b if abs(green_a - green_b) > 20 else detail_a > detail_b
    for _ in range(2):
        page.keyboard.press("ArrowLeft" if likes_a else "ArrowRight")
    ruined = abs(green_a - green_b) <= 20
    better = "ArrowLeft" if likes_a else "ArrowRight"
    page.keyboard.press(better if ruined else "ArrowDown")
    expect(page.locator("#next")).to_be_enabled()
    page.keyboard.press("Enter")


@pytest.mark.browser
def test_a_rater_with_a_taste_is_found_out_and_comes_back_in_between(browser, server, tmp_path):
    address, folder, links = server
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(links["ana"])
    for place in (0, 1):
        rate(page, place)
    page.close()
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.on("request", lambda request: asked.append(request.url))
    page.goto(links["ana"])  # goes on where it was
    for place in (2, 3, 4):
        rate(page, place)
    expect(page.locator("#end")).to_be_visible()
    seen = page.content() + " ".join(asked)
    assert not any(word in seen for word in ("crimson", "emerald", "ben", ".mp4", "ruin"))
    out = tmp_path / "report.json"
    assert cli.main(["evaluate", "study", "--study", str(folder), "--draws", "50", "--export", str(out)]) == 0
    report = json.loads(out.read_text())
    ana = report["rated"][0]
    assert (ana["pairs"], ana["checks passed"], ana["counted"]) == (3, 2, True)
    for question, wins in (("aesthetics", 3), ("motion", 3), ("prompt", 0)):
        pair = report["questions"][question]["pairs"][0]
        assert (pair["second"], pair["losses"]) == ("emerald", wins), question
    page.close()


@pytest.mark.browser
def test_clips_play_together_and_a_phone_shows_them_with_the_questions(browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    page = context.new_page()
    page.goto(server[2]["ben"])
    expect(page.locator("#play")).to_have_text("Pause")
    apart = page.evaluate(
        """async () => {
          const [a, b] = [document.getElementById("a"), document.getElementById("b")], found = [];
          for (let n = 0; n < 12; n++) {
            await new Promise((done) => setTimeout(done, 60));
            if (a.ended || b.ended || a.seeking || b.seeking) continue;
            found.push(Math.abs(a.currentTime - b.currentTime));
          }
          return found.sort((x, y) => x - y)[Math.floor(found.length / 2)];
        }"""
    )
    assert apart < 0.15  # a frame lasts 0.125 s here
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("() => document.getElementById('a').src.startsWith('blob:')")  # here before it plays
    buttons = page.locator("#questions button")
    expect(buttons.first).to_be_enabled()
    for row in range(3):
        buttons.nth(3 * row + 1).tap()
        expect(buttons.nth(3 * row + 1)).to_have_attribute("aria-pressed", "true")
    page.locator("#next").tap()
    expect(page.locator("#progress")).to_have_text("2 of 5")
    page.locator("#back").tap()
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    context.close()


def test_a_raters_link_opens_nothing_else(server):
    address, folder, links = server
    token = links["cem"].rstrip("/").rsplit("/", 1)[1]
    with httpx.Client(base_url=address) as http:
        page = http.get(f"study/{token}/", headers={"Accept": "text/html"})
        assert page.status_code == 200 and "script-src 'self';" in page.headers["content-security-policy"]
        assert "set-cookie" not in page.headers and page.headers["cache-control"] == "no-store"
        assert http.get(f"study/{token}/state").json()["of"] == 5
        for path in (
            "config",
            "gradio_api/info",
            "gradio_api/queue/status",
            f"gradio_api/file={folder}/links.txt",
        ):
            assert http.get(path).status_code in (401, 403, 404), path
        for path in (
            "study/",
            "study",
            "study/aaaaaaaaaaaaaaaaaaaaaaaa/",
            "study/aaaaaaaaaaaaaaaaaaaaaaaa/state",
            f"study/{token}/item/5",
            f"study/{token}/clip/0/c",
            f"study/{token}/clip/0/..%2f..%2fstudy.sqlite",
            f"study/{token}/links.txt",
            f"study/{token}/study.sqlite",
            f"study/{token}/answer/0",
        ):
            assert http.get(path).status_code == 404, path
        assert http.post(f"study/{token}/state", json={}).status_code == 404
        assert http.post(f"study/{token}/answer/0", content=b"{" * 2_000_000).status_code == 413
        assert http.get(f"study/{token}/state").json()["done"] == 0


def test_answers_that_are_forged_or_come_before_the_clips_are_refused(server):
    address, _, links = server
    token = links["cem"].rstrip("/").rsplit("/", 1)[1]
    with httpx.Client(base_url=address) as http:
        every = {"aesthetics": "a", "motion": "tie", "prompt": "b"}
        unseen = http.post(f"study/{token}/answer/0", json=every)
        assert unseen.status_code == 400 and http.get(f"study/{token}/clip/0/a").status_code == 200
        assert http.post(f"study/{token}/answer/0", json=every).status_code == 400  # of one clip alone
        assert http.get(f"study/{token}/clip/0/b").status_code == 200
        for forged in (
            {"motion": "a"},
            every | {"motion": "emerald"},
            every | {"rater": "ben"},
            every | {"motion": ["a"]},
            [every],
        ):
            assert http.post(f"study/{token}/answer/0", json=forged).status_code == 400, forged
        assert http.post(f"study/{token}/answer/0", content=b"[" * 90_000).status_code == 400
        huge = json.dumps(every)[:-1] + f', "seconds": {"9" * 400}}}'
        assert (
            http.post(f"study/{token}/answer/4", content=huge.encode()).status_code == 400
        )  # not seen either
        assert http.get(f"study/{token}/state").json()["done"] == 0


def test_somebody_with_an_account_is_led_to_a_link_of_their_own(server):
    address, _, links = server
    with httpx.Client(base_url=address) as http:
        login = http.post("login", data={"username": "owner", "password": "a river"})
        assert login.status_code == 200
        led = [http.get(path) for path in ("study/", "study")]
        assert [answer.status_code for answer in led] == [303, 303]
        paths = {
            str(httpx.URL(f"{address}{path}").join(a.headers["location"]))
            for path, a in zip(("study/", "study"), led, strict=True)
        }
        assert len(paths) == 1 and not paths & set(links.values())
        assert http.get(paths.pop()).status_code == 200


def test_a_page_without_a_study_has_no_such_address(server, tiny_checkpoint, tmp_path, capfd):
    import app

    assert (
        app.main(
            ["--study", str(tmp_path), "--model", str(tiny_checkpoint), "--output-dir", str(tmp_path / "o")]
        )
        == 2
    )
    assert "holds no study" in capfd.readouterr().err
