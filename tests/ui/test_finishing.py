"""The forms of an opened clip: a look first, the finished file, a join with its seam, a loop."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import idle_app

from pyramid.jobs.queue import Job, State
from pyramid.media.finish import Finish
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import inspect
from pyramid.ui import App
from pyramid.ui.cards import detail_html, exports_of, written
from pyramid.ui.finishing import FINISHES, finishing_html, look_of
from pyramid.ui.view import View


@pytest.fixture(scope="module")
def app(tiny_checkpoint, tmp_path_factory):
    with idle_app(tiny_checkpoint, tmp_path_factory.mktemp("finishing") / "outputs") as app:
        yield app


def made(app: App, prompt: str, owner: str = "local", frames: int = 9) -> Job:
    """A finished job with a clip of its own."""
    job = app.store.add(replace(app.worker.start_from, prompt=prompt, num_frames=frames), owner=owner)
    assert app.store.claim().id == job.id
    about = {"program": "pyramid", "settings": job.settings.to_dict()}
    with VideoWriter(app.store.folder / f"{prompt}.mp4", job.settings.fps, (64, 64), about) as writer:
        for shade in range(frames):
            writer.write(np.full((64, 64, 3), 20 * shade, np.uint8))
    return app.store.finish(job.id, State.DONE, path=writer.path)


@pytest.fixture(scope="module")
def jobs(app):
    return [made(app, "one"), made(app, "two"), made(app, "of another", owner="ana")]


def press(app: App, job: Job, action: str, view: View | None = None, **asked) -> View:
    return FINISHES[action](app, job, view or View(), json.dumps(asked))


def test_a_look_comes_first_and_the_file_is_listed(app, jobs):
    view = press(app, jobs[0], "look", upscale="4", smooth="1")
    assert look_of(app, jobs[0], Finish(4, 1)).is_file() and written(app, jobs[0]) == []
    html = finishing_html(app, jobs[0], view)
    assert 'class="look wide"' in html and "~look-x4.mp4" in html and html.count(" open") == 1
    assert '<option value="4" selected>four times</option>' in html
    view = press(app, jobs[0], "finish", view, upscale="2", smooth="2")
    assert view.said == "one-x2-smooth2.mp4 is under Export." and view.finish == Finish(2, 2)
    file = exports_of(app, jobs[0]) / "one-x2-smooth2.mp4"
    info = inspect(file)
    assert (info.width, info.height, info.fps) == (128, 128, 2 * jobs[0].settings.fps)
    assert file.name in detail_html(app, jobs[0], view, finishing_html(app, jobs[0], view))


def test_only_the_owners_clips_can_be_joined_and_the_seam_is_told(app, jobs):
    html = finishing_html(app, jobs[0], View())
    assert jobs[1].id in html and jobs[2].id not in html
    view = press(app, jobs[0], "join", other=jobs[1].id, order="before")
    assert view.said.startswith("one-joined.mp4 is under Export. Where one.mp4 begins, from frame to frame")
    assert not view.wrong and "Where one.mp4 begins" in finishing_html(app, jobs[0], view)
    view = press(app, jobs[0], "join", other=jobs[2].id, order="after")
    assert view.wrong == "The other clip no longer exists." and view.wrong in finishing_html(
        app, jobs[0], view
    )


def test_a_seam_is_looked_at_before_anything_is_made_and_the_choice_stays(app, jobs):
    view = press(app, jobs[0], "look-join", other=jobs[1].id, order="before")
    html = finishing_html(app, jobs[0], view)
    assert view.said.startswith("From frame to frame") and view.looked in html
    assert '<option value="before" selected>' in html and f'<option value="{jobs[1].id}" selected>' in html
    assert view.looked not in [path.name for path in written(app, jobs[0])]
    first = exports_of(app, jobs[0]) / view.looked
    view = press(app, jobs[0], "look-join", view, other=jobs[1].id, order="after")
    assert not first.exists() and (exports_of(app, jobs[0]) / view.looked).is_file()
    view = press(app, jobs[0], "look-loop", view, how="back")
    assert '<option value="back" selected>' in finishing_html(app, jobs[0], view)
    view = press(app, jobs[0], "look-loop", view, how="fade")
    assert "too few" in view.wrong and view.looked == ""
    view = press(app, jobs[0], "look-join", other=jobs[2].id)
    assert view.wrong == "The other clip no longer exists."


def test_a_loop_and_what_cannot_be_made(app, jobs):
    assert "one-loop.mp4 is under Export" in press(app, jobs[0], "loop", how="back").said
    for action, asked, words in (
        ("loop", {"how": "fade"}, "9 frames are too few for a dissolve of 8"),
        ("loop", {"how": "up"}, "unknown loop 'up'"),
        ("finish", {"upscale": "1", "smooth": "1"}, "neither larger nor smoother"),
        ("finish", {"upscale": "x"}, "choose from 1, 2, 4"),
        ("look", {"upscale": "3"}, "choose from 1, 2, 4"),
    ):
        view = press(app, jobs[0], action, **asked)
        assert words in view.wrong and not view.said
    gone = replace(jobs[1], path=app.store.folder / "gone.mp4")
    assert finishing_html(app, gone, View()) == ""
    assert press(app, gone, "finish", upscale="2").wrong == "This result has no file."
