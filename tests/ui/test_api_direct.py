"""The endpoints that direct a clip, used as programs use them, and by those whom a job is not.

python -m pytest tests/ui/test_api_direct.py
"""

from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from serving import QUICK, SLOW, TOKENS, close, serve, wait

from pyramid.jobs.queue import Limits
from pyramid.media.files import read_metadata

MINE, OTHER = ({"token": token} for token in TOKENS)
ASKED = QUICK | {"num_frames": 17}


@pytest.fixture(scope="module")
def house(tiny_checkpoint, tmp_path_factory):
    limits = Limits(max_seconds=30, max_queue_per_owner=3)
    page, app = serve(tmp_path_factory.mktemp("direct"), tiny_checkpoint, local=False, limits=limits)
    yield page, app
    close(page, app)


@pytest.fixture(scope="module")
def client(house, tmp_path_factory):
    return Client(house[0].local_url, verbose=False, download_files=tmp_path_factory.mktemp("fetched"))


@pytest.fixture(scope="module")
def wall(client):
    job = client.predict("a red ball", seed=5, settings=ASKED, api_name="/drafts", **MINE)
    assert job["kind"] == "drafts" and [draft["picture"] for draft in job["drafts"]] == [None] * 9
    return wait(client, job, **MINE)


def test_a_wall_is_fetched_one_draft_refined_and_varied(client, wall):
    assert [draft["seed"] for draft in wall["drafts"]] == list(range(5, 14)) and wall["state"] == "done"
    assert Image.open(wall["drafts"][8]["picture"]).format == "WEBP"
    clip = wait(client, client.predict(wall["id"], 2, api_name="/refine", **MINE), **MINE)
    assert (clip["state"], clip["seed"], clip["parent"]) == ("done", 7, wall["id"])
    varied = client.predict(wall["id"], 2, strength=0.5, api_name="/vary", **MINE)
    assert [draft["variation_seed"] for draft in varied["drafts"]] == list(range(1, 10))
    assert varied["settings"]["variation_strength"] == 0.5
    wait(client, varied, **MINE)


def test_a_clip_is_held_goes_on_and_is_left_by_a_branch(client):
    many = SLOW | {"num_inference_steps": [1, 1, 1], "num_frames": 17}
    job = client.predict("a green box", seed=1, settings=many, api_name="/generate", **MINE)
    wait(client, job, lambda job: job["units_done"] >= 1 and job.get("unit") == 1, **MINE)
    client.predict(job["id"], "stage", api_name="/pause", **MINE)
    held = wait(client, job, lambda job: job["state"] == "paused", **MINE)
    assert held["units_done"] == 1 and held["result"] is None
    told = {"prompt": "it grows", "steps": 1, "guidance": [2, 2, 1], "ease": 2}
    other = wait(client, client.predict(job["id"], 1, **told, api_name="/branch", **MINE), **MINE)
    assert (other["state"], other["parent"], other["at_unit"]) == ("done", job["id"], 1)
    said = read_metadata(Path(other["result"]))["settings"]["timeline"]
    assert '"from": 1' in said and "it grows" in said
    assert client.predict(job["id"], api_name="/resume", **MINE)["state"] == "queued"
    client.predict(job["id"], api_name="/stop", **MINE)
    wait(client, job, **MINE)


def test_a_clip_without_an_end_is_told_and_stopped(client):
    slow = ASKED | {"video_num_inference_steps": [20] * 3}
    job = client.predict("a red ball", settings=slow, units=20, api_name="/endless", **MINE)
    wait(client, job, lambda job: job["units_done"] >= 2 and job.get("drift"), **MINE)
    client.predict(job["id"], "it falls", ease=2, api_name="/tell", **MINE)
    at = wait(client, job, lambda job: "it falls" in job["settings"]["timeline"], **MINE)
    assert set(at["drift"]) == {"color", "contrast", "sharpness"}
    client.predict(job["id"], api_name="/stop", **MINE)
    over = wait(client, job, **MINE)
    assert over["state"] == "done" and over["settings"]["num_frames"] == 1 + 8 * (over["units_done"] - 1)


def test_a_job_of_another_is_not_there(client, wall):
    for name, arguments in (
        ("refine", [0]),
        ("vary", [0]),
        ("pause", []),
        ("branch", [1, "it grows"]),
        ("tell", ["it grows"]),
    ):
        with pytest.raises(AppError, match="there is no job"):
            client.predict(wall["id"], *arguments, api_name=f"/{name}", **OTHER)
        with pytest.raises(AppError, match="token: give a secret"):
            client.predict(wall["id"], *arguments, api_name=f"/{name}")
    for name in ("drafts", "endless"):
        with pytest.raises(AppError, match="token: give a secret"):
            client.predict("a red ball", api_name=f"/{name}")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("refine", {"index": 9}, "not there any more"),
        ("refine", {"index": "x"}, "index = 'x': a whole number"),
        ("vary", {"index": 0, "strength": 7}, "variation_strength = 7"),
        ("vary", {"index": 0, "strength": "x"}, "variation_strength = 'x': a number"),
        ("pause", {"after": "unit"}, "only a clip that is being made"),
        ("pause", {"after": "../x"}, "after"),
        ("branch", {"at_unit": 0, "prompt": "x"}, "at_unit = 0: 1 or more"),
        ("branch", {"at_unit": True, "prompt": "x"}, "at_unit = True: a whole number"),
        ("branch", {"at_unit": 1}, "say what is to be different"),
        ("branch", {"at_unit": 1, "prompt": ["x"]}, "text is expected"),
        ("branch", {"at_unit": 1, "guidance": [[2]]}, "guidance = .*a number is expected"),
        ("branch", {"at_unit": 1, "seed": -1}, "seed = -1: a whole number from 0"),
        ("branch", {"at_unit": 1, "seed": 1, "ease": 65}, "ease = 65: a whole number from 1 to 64"),
        ("branch", {"at_unit": 1, "seconds": "long"}, "seconds = 'long': a number"),
        ("branch", {"at_unit": 1, "seed": 1}, "0 units of this clip are kept"),
        ("tell", {"prompt": "x"}, "only a clip without an end"),
    ],
)
def test_what_is_wrong_with_a_job_is_said(client, wall, name, arguments, says):
    with pytest.raises(AppError, match=says):
        client.predict(wall["id"], **arguments, api_name=f"/{name}", **MINE)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("drafts", {"count": 3}, "a wall has 9 or 16"),
        ("drafts", {"count": "9"}, "count = '9': a whole number"),
        ("drafts", {"whole": "yes"}, "whole = 'yes': true or false"),
        ("drafts", {"seed": 2**53 - 2}, "start lower"),
        ("endless", {"units": 1}, "2 to 10000"),
        ("endless", {"units": 60}, "at most 30 s"),
        ("endless", {"settings": {"timeline": [{"from": 1, "ease": 0}]}}, "ease = 0: a whole number"),
    ],
)
def test_what_is_wrong_with_a_beginning_is_said(client, name, arguments, says):
    settings = QUICK | arguments.pop("settings", {})
    with pytest.raises(AppError, match=says):
        client.predict("a red ball", settings=settings, **arguments, api_name=f"/{name}", **MINE)
