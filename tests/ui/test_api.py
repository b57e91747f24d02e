"""The interface for programs, used as programs use it: through `gradio_client`,
and through plain HTTP for what is not meant to work.
"""

import ast
import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from serving import QUICK, SLOW, TOKENS, close, serve, wait

from pyramid.jobs.queue import Limits
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import inspect, read_frames
from pyramid.settings import SettingsError
from pyramid.ui.api import ENDPOINTS
from pyramid.ui.guards import check
from pyramid.ui.security.accounts import Accounts, hashed_line


@pytest.fixture(scope="module")
def home(tiny_checkpoint, tmp_path_factory):
    """A server for its own machine."""
    page, app = serve(tmp_path_factory.mktemp("home"), tiny_checkpoint, local=True)
    yield page, app
    close(page, app)


@pytest.fixture(scope="module")
def open_house(tiny_checkpoint, tmp_path_factory):
    """A server that everybody may use, within limits."""
    limits = Limits(max_upload_mb=0.1, max_seconds=1.5, max_queue_per_owner=2, max_pixels=64 * 64)
    page, app = serve(tmp_path_factory.mktemp("open"), tiny_checkpoint, local=False, limits=limits)
    yield page, app
    close(page, app)


@pytest.fixture(scope="module")
def client(home, tmp_path_factory):
    return Client(home[0].local_url, verbose=False, download_files=tmp_path_factory.mktemp("fetched"))


def test_the_endpoints_are_all_there_is_and_are_described(home, client):
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {f"/{name}" for name in ENDPOINTS}
    assert {p["parameter_name"] for p in named["/status"]["parameters"]} == {"job_id", "token"}


def test_a_sentence_becomes_a_file_on_the_clients_side(client):
    job = client.predict("a red ball", seed=7, settings=QUICK, api_name="/generate")
    assert job["state"] in ("queued", "running") and job["seed"] == 7
    done = wait(client, job)
    assert done["state"] == "done" and done["units_done"] == done["units"] == 2
    settings = read_metadata(Path(done["result"]))["settings"]
    assert (settings["prompt"], settings["seed"], settings["num_frames"]) == ("a red ball", 7, 9)
    listed = client.predict(search="red", api_name="/history")
    assert [job["id"] for job in listed] == [done["id"]]
    assert client.predict(search="green", api_name="/history") == []


def test_a_clip_is_edited_finished_joined_and_looped_and_stays_as_it_is(client):
    job = client.predict("a red ball", seed=8, settings=QUICK, api_name="/generate")
    done = wait(client, job)
    before = Path(done["result"]).read_bytes()
    other = wait(client, client.predict(done["id"], 1, "a blue star", 5, 2, True, api_name="/edit"))
    assert other["id"] != done["id"] and other["state"] == "done"
    assert "Frames 1 to 8 (unit 1) were made anew" in other["notes"][-1]
    assert read_metadata(Path(other["result"]))["edit"]["prompt"] == "a blue star"
    large = client.predict(done["id"], 2, 2, api_name="/finish")
    assert inspect(Path(large["file"])).width == 2 * done["settings"]["width"] and large["notes"] == []
    both = client.predict(done["id"], other["id"], api_name="/join")
    assert "from frame to frame" in both["notes"][0] and len(list(read_frames(Path(both["file"])))) == 18
    turned = client.predict(done["id"], "back", api_name="/loop")
    assert turned["notes"][0].startswith("Where the end meets the beginning: from frame to frame")
    again = client.predict(done["id"], api_name="/status")
    assert Path(again["result"]).read_bytes() == before
    for name, asked, words in (
        ("/edit", [done["id"], 2], "unit 2 is not in this clip: choose 1 to 1"),
        ("/edit", [done["id"], 1, None, None, 10**9], "1 to 16 can be tried"),
        ("/edit", [done["id"], 1, None, -3], "seed"),
        ("/edit", [done["id"], 1.5], "a whole number"),
        ("/edit", [done["id"], 1, []], "text is expected"),
        ("/edit", [done["id"], 1, None, None, 1, "yes"], "true or false is expected"),
        ("/finish", [done["id"], 3, 1], "choose from 1, 2, 4"),
        ("/finish", [done["id"], True, 1], "a whole number is expected"),
        ("/loop", [done["id"], "fade"], "too few for a dissolve"),
        ("/loop", [done["id"], [None]], "unknown loop"),
        ("/join", [done["id"], "nowhere"], "there is no job"),
    ):
        with pytest.raises(AppError, match=words):
            client.predict(*asked, api_name=name)
    asked = httpx.post(
        f"{client.src}gradio_api/call/v2/status", json={"job_id": done["id"], "owner": "local"}
    )
    assert asked.status_code == 400 and "'owner' is no argument here" in asked.json()["detail"]


def test_progress_is_told_and_a_stop_keeps_what_is_finished(client):
    many = SLOW | {"video_num_inference_steps": [200] * 3, "num_inference_steps": [1, 1, 1], "num_frames": 17}
    job = client.predict("a green box", settings=many, api_name="/generate")
    at = wait(client, job, lambda job: job["units_done"] >= 1 and job.get("unit") == 1)
    assert at["state"] == "running" and 0 < at["progress"] < 1 and at["steps"] == 200
    client.predict(job["id"], api_name="/stop")
    over = wait(client, job)
    assert over["state"] == "partial" and over["units_done"] == 1 and Path(over["result"]).is_file()


def test_a_picture_is_uploaded_and_becomes_the_first_frame(client, tmp_path):
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "sea.png")
    job = client.predict(
        "waves", image=handle_file(tmp_path / "sea.png"), settings=QUICK, api_name="/generate"
    )
    assert job["settings"]["image"] == "sea.png"
    assert wait(client, job)["state"] == "done"


def test_a_path_of_the_server_is_no_upload(home):
    secret = home[1].folder / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    for path in (str(secret), "/etc/passwd", "../secret.png", "http://127.0.0.1/picture.png"):
        for given in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"path": path}, path):
            answer = call(home[0], "generate", ["waves", given, None, None, None, None, QUICK, ""])
            assert "event: error" in answer or "paths on the server are not taken" in answer, answer
        assert "upload a file" in answer and "was not uploaded" in call(
            home[0], "generate", ["waves", {"path": path}, None, None, None, None, QUICK, ""]
        )
    for name in ("image", "video", "model", "device"):
        answer = call(home[0], "generate", ["waves", None, None, None, None, None, {name: str(secret)}, ""])
        assert f"{name} is no setting of this call" in answer, answer
    assert not home[1].store.queue()


def call(page, name: str, data: list) -> str:
    """What a plain HTTP client is answered."""
    url = f"{page.local_url}gradio_api/call/{name}"
    joined = httpx.post(url, json={"data": data})
    if joined.status_code != 200:
        return joined.text
    return httpx.get(f"{url}/{joined.json()['event_id']}", timeout=60).text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "a", "preset": "../../etc/passwd"}, "there is no preset"),
        ({"prompt": "a", "settings": {"width": 100}}, "width = 100 is not a multiple of 64"),
        ({"prompt": "a", "settings": {"heigth": 64}}, "did you mean 'height'"),
        ({"prompt": "a", "seed": -1}, "seed = -1 is outside"),
        ({"prompt": "a", "seconds": -1.0}, "must be greater than 0"),
        ({"prompt": "a", "seconds": "abc"}, "seconds = 'abc': a number is expected"),
        ({"prompt": "a", "preset": []}, r"preset = \[\]: text is expected"),
        ({"prompt": "a", "settings": ""}, "settings: a table such as {'fps': 8} is expected, not str"),
        ({"prompt": "a", "settings": [1]}, "settings: a table such as {'fps': 8} is expected, not list"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(client, arguments, says):
    with pytest.raises(AppError, match=says):
        client.predict(**arguments, api_name="/generate")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"limit": "x"}, "limit = 'x' and offset = 0: 1 to 100"),
        ({"limit": 101}, "limit = 101"),
        ({"offset": 2**64}, "0 or more"),
        ({"search": 5}, "search = 5: text is expected"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_in_a_sentence(client, asked, says):
    with pytest.raises(AppError, match=says):
        client.predict(**asked, api_name="/history")


def test_a_job_that_is_no_text_is_told(client):
    with pytest.raises(AppError, match="text is expected"):
        client.predict([1], api_name="/status")


def test_jobs_that_are_not_there_are_told(client):
    for name in ("/status", "/stop"):
        with pytest.raises(AppError, match="there is no job 'nowhere' of yours"):
            client.predict("nowhere", api_name=name)


def test_presets_and_models_are_listed(client):
    presets = {preset["name"]: preset for preset in client.predict(api_name="/presets")}
    assert presets["quick"]["description"] and presets["quick"]["settings"]
    models = {(model["model"], model["variant"]): model for model in client.predict(api_name="/models")}
    assert models["embedded", "128p"]["here"] and models["embedded", "128p"]["licence"] == "Apache-2.0"
    assert (
        models["miniflux", "384p"]["size"] == "7.2 billion weights" and not models["miniflux", "384p"]["here"]
    )
    assert [name for name, model in models.items() if model["loaded"]] == [("checkpoint0", "128p")]


def test_a_preset_that_cannot_be_read_does_not_hide_the_others(home, client):
    own = home[1].presets_folder
    own.mkdir(exist_ok=True)
    (own / "broken.toml").write_text("width = = 5")
    try:
        names = {preset["name"] for preset in client.predict(api_name="/presets")}
        assert "quick" in names and "broken" not in names
        with pytest.raises(AppError, match="cannot be read as TOML"):
            client.predict("a", preset="broken", api_name="/generate")
    finally:
        (own / "broken.toml").unlink()


def test_language_models_use_the_same_as_tools(tiny_checkpoint, tmp_path):
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    page, app = serve(tmp_path, tiny_checkpoint, local=True, mcp=True)

    async def use() -> tuple[set[str], dict]:
        async with (
            streamablehttp_client(f"{page.local_url}gradio_api/mcp/") as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = await session.list_tools()
            asked = {"prompt": "a red ball", "seed": 7, "settings": QUICK}
            answer = await session.call_tool("generate", asked)
            assert not answer.isError, answer
            return {tool.name for tool in tools.tools}, ast.literal_eval(answer.content[0].text)

    try:
        names, job = asyncio.run(use())
        assert names == set(ENDPOINTS)
        kept = app.store.get(job["id"]).settings
        assert (kept.prompt, kept.seed, kept.num_frames) == ("a red ball", 7, QUICK["num_frames"])
    finally:
        close(page, app)


# -- visitors


def test_visitors_see_and_stop_their_own_jobs_only(open_house):
    page, app = open_house
    client, (mine, other) = Client(page.local_url, verbose=False), TOKENS
    job = client.predict("a red ball", settings=SLOW | {"num_frames": 9}, token=mine, api_name="/generate")
    for name in ("/status", "/stop"):
        with pytest.raises(AppError, match="there is no job"):
            client.predict(job["id"], token=other, api_name=name)
        for token in ("short", "a" * 129, "a" * 900_000):
            with pytest.raises(AppError, match="token: give a secret of 16 to 128 characters"):
                client.predict(job["id"], token=token, api_name=name)
    for name, more in (("/edit", [1]), ("/finish", []), ("/loop", []), ("/join", [job["id"]])):
        with pytest.raises(AppError, match="there is no job"):
            client.predict(job["id"], *more, token=other, api_name=name)
        with pytest.raises(AppError, match="has no clip|wait for its end"):
            client.predict(job["id"], *more, token=mine, api_name=name)
    assert client.predict(job["id"], token=mine, api_name="/stop")["id"] == job["id"]
    over = wait(client, job, token=mine)
    assert over["state"] in ("stopped", "partial")
    assert [j["id"] for j in client.predict(token=mine, api_name="/history")] == [job["id"]]
    assert client.predict(token=other, api_name="/history") == []
    assert app.owner(None, "a" * 128) == f"visitor:{'a' * 128}", "as long as one may be"
    assert [app.owner(None, token) for token in ("a" * 129, {"a": 1}, 5, None, "")] == [""] * 5


def test_visitors_have_limits(open_house, tmp_path):
    page, app = open_house
    client = Client(page.local_url, verbose=False)
    with pytest.raises(AppError, match=r"1\.5 s"):
        client.predict("long", settings={"num_frames": 17}, token=TOKENS[0], api_name="/generate")
    with pytest.raises(
        AppError, match="128×64 are 8,192 pixels: at most 4,096 are allowed, so choose a smaller size"
    ):
        client.predict("large", settings=QUICK | {"width": 128}, token=TOKENS[0], api_name="/generate")
    with pytest.raises(
        SettingsError, match="at most 4,096 are allowed"
    ):  # and the page says so before it is pressed
        check(app, replace(app.worker.start_from, prompt="large", num_frames=9, width=128))
    jobs = [
        client.predict("a", settings=SLOW | {"num_frames": 9}, token=TOKENS[0], api_name="/generate")
        for _ in range(2)
    ]
    with pytest.raises(AppError, match="2"):
        client.predict("a", settings=QUICK, token=TOKENS[0], api_name="/generate")
    for job in reversed(jobs):
        client.predict(job["id"], token=TOKENS[0], api_name="/stop")
        wait(client, job, token=TOKENS[0])
    (tmp_path / "large.png").write_bytes(b"\0" * 200_000)
    upload = {"files": ("large.png", (tmp_path / "large.png").read_bytes())}
    assert httpx.post(f"{page.local_url}gradio_api/upload", files=upload).status_code == 413


def test_no_folder_of_the_machine_is_told(open_house):
    page, app = open_house
    client = Client(page.local_url, verbose=False, download_files=False)
    job = client.predict("a red ball", settings=QUICK, token=TOKENS[0], api_name="/generate")
    job = wait(client, job, token=TOKENS[0])
    texts = [str(job), str(client.predict(api_name="/models"))]
    texts += [str(client.predict(token=TOKENS[0], api_name="/history"))]
    texts += [httpx.get(page.local_url + path).text for path in ("config", "gradio_api/info", "")]
    machine = (
        str(app.folder),
        str(Path(app.worker.start_from.model).parent),
        str(Path(__file__).parent.parent.parent),
    )
    assert not [path for path in machine for text in texts if path in text]
    still = client.predict(
        "a star", settings=QUICK | {"num_frames": 1}, token=TOKENS[0], api_name="/generate"
    )
    for made in job, wait(client, still, token=TOKENS[0]):
        content = httpx.get(page.local_url + made["address"]).content
        inside = read_metadata(app.store.get(made["id"]).path)
        assert inside["settings"]["model"] == Path(app.worker.start_from.model).name
        assert not [path for path in machine if path.encode() in content or path in str(inside)]
    assert app.shown(f"{app.folder}/weights.safetensors is damaged") == "…/weights.safetensors is damaged"


def test_results_leave_by_their_job_and_nothing_else_does(open_house):
    page, app = open_house
    client = Client(page.local_url, verbose=False, download_files=False)
    job = client.predict("a red ball", settings=QUICK, token=TOKENS[0], api_name="/generate")
    job = wait(client, job, token=TOKENS[0])
    result = app.store.get(job["id"]).path
    served = httpx.get(page.local_url + job["address"])
    assert served.status_code == 200 and served.content == result.read_bytes()
    part = httpx.get(page.local_url + job["address"], headers={"Range": "bytes=0-99"})
    assert part.status_code == 206 and part.content == served.content[:100]
    refused = [
        f"file={result}",
        f"file={app.store.private / 'jobs.sqlite'}",
        f"file={app.store.private}/../.pyramid/jobs.sqlite",
        f"file=results/{job['id']}/jobs.sqlite",
        f"file=results/{job['id']}/..%2F.pyramid%2Fjobs.sqlite",
        "file=results/",
        f"file=results/{'0' * 32}/{result.name}",
        "file=/etc/passwd",
        "file=live/x/y.mp4",
        f"file={Path(__file__).parent.parent.parent / 'app.py'}",
    ]
    answers = {path: httpx.get(f"{page.local_url}gradio_api/{path}").status_code for path in refused}
    assert set(answers.values()) <= {403, 404}, answers


def test_with_accounts_everybody_has_their_own(tiny_checkpoint, tmp_path):
    accounts = Accounts(dict(line.split(":", 1) for line in ("ana:river", hashed_line("ben", "stone"))))
    page, app = serve(tmp_path, tiny_checkpoint, local=False, accounts=accounts)
    try:
        ana, ben = (
            Client(page.local_url, auth=auth, verbose=False) for auth in (("ana", "river"), ("ben", "stone"))
        )
        job = ana.predict("a red ball", settings=QUICK, api_name="/generate")
        job = wait(ana, job)
        assert [j["id"] for j in ana.predict(api_name="/history")] == [job["id"]]
        assert ben.predict(api_name="/history") == []
        assert httpx.get(page.local_url + job["address"]).status_code == 401
        assert httpx.get(page.local_url + "config").status_code == 401
        for _ in range(5):
            assert log_in(page, "ana", "guess").status_code == 400
        answer = log_in(page, "ana", "river")
        assert answer.status_code == 429 and "try again in" in answer.json()["detail"]
    finally:
        close(page, app)


def log_in(page, name: str, password: str) -> httpx.Response:
    return httpx.post(page.local_url + "login", data={"username": name, "password": password})
