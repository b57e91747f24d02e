"""What a hostile visitor tries against a really started server, and which of Gradio's routes are open."""

import json
import re
import socket
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from pyramid.jobs.queue import JobStore, Limits
from pyramid.jobs.worker import Worker
from pyramid.ui import App
from pyramid.ui.addresses import uploads_folder
from pyramid.ui.api import register_api
from pyramid.ui.errors import Telling
from pyramid.ui.security.guard import doors
from pyramid.ui.security.routes import file_of, is_host, is_normal, is_open

QUICK = {"num_inference_steps": (1, 1, 1), "video_num_inference_steps": (1, 1, 1), "num_frames": 1}
CLOSED = {  # Gradio's routes that this page has no use for
    "/gradio_api/token",
    "/gradio_api/token/",
    "/gradio_api/component_server",
    "/gradio_api/component_server/",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/{key}",
    "/gradio_api/deep_link",
    "/gradio_api/dev/reload",
    *("/gradio_api/run/{api_name}", "/gradio_api/run/{api_name}/"),  # `call` is the one door of programs
    *("/gradio_api/api/{api_name}", "/gradio_api/api/{api_name}/"),
    "/gradio_api/runs/",
    "/gradio_api/runs",
    "/gradio_api/run-history/connect",
    "/gradio_api/run-history/buckets",
    "/gradio_api/run-history/records",
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}",
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    "/gradio_api/proxy={url_path:path}",
    "/gradio_api/file/{path:path}",
    "/gradio_api/stream/{event_id}",
    "/gradio_api/stream/{event_id}/close",
    "/gradio_api/process_recording",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
    "/gradio_api/vibe-edit",
    "/gradio_api/vibe-edit/",
    "/gradio_api/undo-vibe-edit",
    "/gradio_api/undo-vibe-edit/",
    "/gradio_api/vibe-code",
    "/gradio_api/vibe-code/",
    "/gradio_api/vibe-starter-queries",
    "/gradio_api/vibe-starter-queries/",
}


def start(folder: Path, checkpoint: Path, *, local: bool):
    store = JobStore(folder, Limits())
    app = App(store, Worker(store, model=str(checkpoint)), store.folder, store.limits, local)
    with Telling(app, analytics_enabled=False) as page:
        register_api(app)
    page.launch(prevent_thread_lock=True, quiet=True, **doors(app, None))
    return page, app


@pytest.fixture(scope="module", params=[True, False], ids=["local", "public"])
def server(request, tiny_checkpoint, tmp_path_factory):
    """A page with one finished result: (page, app, the job)."""
    page, app = start(tmp_path_factory.mktemp("served"), tiny_checkpoint, local=request.param)
    asked = replace(app.worker.start_from, prompt="a red ball", **QUICK)
    job = app.store.add(asked, owner="local" if request.param else "visitor:somebody-else")
    while not app.store.get(job.id).over:
        app.store.wait(app.store.version, 1)
    yield page, app, app.store.get(job.id)
    page.close(verbose=False)
    app.worker.close()
    app.store.close()


def raw(page, target: str, host: str | None = None) -> int:
    """The status of a request whose address is sent as it is written."""
    with socket.create_connection(("127.0.0.1", page.server_port), timeout=30) as line:
        name = host or f"127.0.0.1:{page.server_port}"
        line.sendall(f"GET {target} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        return int(line.makefile("rb").readline().split()[1])


def routes_of(routes):
    for route in routes:
        if hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes)
        else:
            yield route.path


def test_each_of_gradios_routes_is_open_on_purpose_or_closed(server):
    page, _, _ = server
    for path in set(routes_of(page.app.routes)):
        sample = (
            path.replace("{path:path}", "a/b").replace("{path_or_url:path}", "/a").replace("{size}", "192")
        )
        for name in ("session_hash", "api_name", "event_id"):
            sample = sample.replace("{" + name + "}", "abc")
        served = is_open(sample) or file_of(sample) is not None
        assert served != (path in CLOSED), f"{path}: is it to be open? see routes.OPEN, and CLOSED here"


SPELLINGS = (
    "/gradio_api/file={}",
    "/gradio_api/file/{}",
    "/gradio_api/file%3D{}",
    "/gradio_api//file={}",
    "//gradio_api/file={}",
    "/gradio_api/./file={}",
    "/gradio_api/x/../file={}",
    "/GRADIO_API/FILE={}",
    "/gradio_api/file=/./{}",
    "/gradio_api/file=//{}",
    "/gradio_api/file={}%00",
    "/gradio_api/proxy=file://{}",
    "/file={}",
    "/file/{}",
    "/gradio_api/%66ile={}",
    "/gradio_api/%2566ile={}",
    "/gradio_api\\file={}",
    "/static/..%2f..{}",
    "/assets/../..{}",
    "/svelte/%2e%2e/%2e%2e{}",
    "/gradio_api/file=results/{}",
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_path_gets_out_what_is_not_served(server, spelling):
    page, app, job = server
    private = [app.store.private / "jobs.sqlite", Path("/etc/passwd"), Path(__file__)]
    for path in private + ([] if app.local else [job.path]):
        for written in (quote(str(path)), quote(str(path), safe=""), str(path).replace("/.", "/%2e")):
            assert raw(page, spelling.format(written)) in (400, 403, 404, 405), written


def test_a_result_leaves_by_its_job_and_to_the_owner_of_the_machine_by_its_path(server):
    page, app, job = server
    assert raw(page, f"/gradio_api/file=results/{job.id}/{quote(job.path.name)}") == 200
    assert raw(page, f"/gradio_api/file={quote(str(job.path))}") == (200 if app.local else 403)
    assert raw(page, f"/gradio_api/file=results/{job.id}/..%2f{quote(job.path.name)}") == 404


def test_a_local_page_answers_to_names_of_this_machine_only(server):
    page, app, _ = server
    for host, ours in (
        ("localhost:7860", True),
        ("127.0.0.1", True),
        ("[::1]:7860", True),
        ("evil.example", False),
    ):
        assert (raw(page, "/config", host) == 200) == (ours or not app.local), host
    foreign = httpx.get(f"{page.local_url}config", headers={"Origin": "http://evil.example"})
    assert (foreign.status_code == 200) == (not app.local)


def test_every_answer_tells_the_browser_what_a_page_may_do(server):
    page, _, _ = server
    for path in ("", "config", "nothing/here", "gradio_api/file=/etc/passwd"):
        headers = httpx.get(page.local_url + path).headers
        assert "frame-ancestors 'self'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/a//b", "/a/../b", "/a/.", "/a\\b", "/a\0b", "/a\nb", "/a\x7fb"])
def test_paths_with_several_spellings_are_not_normal(path):
    assert not is_normal(path) and not is_open(path)


@pytest.mark.parametrize("address", ["gradio_api/file=a%00b", "gradio_api/file=results/%00/a.mp4", "a%00"])
def test_a_nul_in_an_address_is_answered_in_a_sentence(server, address):
    answer = httpx.get(f"{server[0].local_url}{address}")
    assert answer.status_code in (403, 404) and answer.json()["detail"].count(" ") > 2


def test_a_name_that_no_file_can_have_is_not_there(server):
    page, _, job = server
    for name in (f"results/{job.id}/exports/{'a' * 300}", f"results/{job.id}/{'a' * 300}"):
        assert raw(page, f"/gradio_api/file={name}") == 404
    assert raw(page, f"/gradio_api/file=live/{job.id}/clip-{'0' * 300}.mp4") == 404


def test_what_the_guard_did_not_foresee_has_an_id(server, monkeypatch):
    page, app, _ = server
    monkeypatch.setattr(app.store, "get", lambda *_: [][0])
    answer = httpx.get(f"{page.local_url}gradio_api/file=results/a/b.mp4")
    assert answer.status_code == 500 and re.search(
        r"not foreseen .* error [0-9a-f]{8}", answer.json()["detail"]
    )
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_pages_of_other_sites_read_nothing_and_ask_for_nothing(server):
    page, app, _ = server
    for origin in ("http://evil.example", "null", "http://[", "http://localhost.evil:80"):
        answer = httpx.get(f"{page.local_url}config", headers={"Origin": origin})
        assert answer.status_code == (403 if app.local else 200)
    asked = {"data": [], "session_hash": "abc", "fn_index": 0}
    for site, foreign in (("cross-site", True), ("same-site", True), ("same-origin", False), ("none", False)):
        headers = {"Sec-Fetch-Site": site}
        answer = httpx.post(f"{page.local_url}gradio_api/queue/join", json=asked, headers=headers)
        assert (answer.status_code == 403) == foreign, answer.text
        assert httpx.get(page.local_url, headers=headers).status_code == 200, "a link leads here"
        read = httpx.get(f"{page.local_url}config", headers=headers | {"Origin": "http://localhost:80"})
        assert (read.status_code == 403) == foreign


def test_a_call_without_a_session_leaves_none_behind(server):
    page, _, _ = server
    kept = page.app.state_holder.session_data
    named = {"data": [], "session_hash": "mine1"}
    for name, asked, left in (
        ("presets", {"data": []}, set()),
        ("v2/presets", {}, set()),
        ("presets", named, {"mine1"}),
    ):
        before = set(kept)
        call = httpx.post(f"{page.local_url}gradio_api/call/{name}", json=asked).json()["event_id"]
        answer = httpx.get(f"{page.local_url}gradio_api/call/{name}/{call}")
        assert answer.text.startswith("event: complete"), answer.text
        end = time.monotonic() + 10
        while set(kept) - before != left and time.monotonic() < end:  # it goes after its last word
            time.sleep(0.01)
        assert set(kept) == before | left, "those of open pages stay"


def test_calls_and_forms_that_gradio_does_not_foresee_are_told(server):
    page, _, _ = server
    for name, asked, words in (
        ("v2/vary", {}, "job_id is missing"),
        ("v2/presets", {"": 1}, "'' is no argument here"),
        ("v2/presets", {"x" * 500: 1}, "is no argument here"),
    ):
        answer = httpx.post(f"{page.local_url}gradio_api/call/{name}", json=asked)
        assert answer.status_code == 400 and words in answer.json()["detail"]
    for call in ("0", "a" * 32):
        answer = httpx.get(f"{page.local_url}gradio_api/call/presets/{call}")  # whole, not broken off
        assert answer.text.startswith("event: error") and "there is no such call" in answer.text
    text = b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\n{}\r\n--b--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx.post(f"{page.local_url}gradio_api/upload", content=text, headers=kind)
    assert answer.status_code == 400 and "each file" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../etc/passwd", "a\0b", "", "x" * 5000])
def test_a_file_that_was_not_uploaded_is_told_before_gradio_sees_it(server, name):
    page, _, _ = server
    image = {"path": name, "meta": {"_type": "gradio.FileData"}}
    for path in ("call/v2/generate", "queue/join", "call/generate"):
        answer = httpx.post(f"{page.local_url}gradio_api/{path}", json={"prompt": "a", "data": [[image]]})
        assert answer.status_code == 400 and "was not uploaded" in answer.json()["detail"]


FILE = '{"path": "x", "meta": 5}'


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("call/generate", '{"data": []}', 200, "generate: 0 values came, 8 are expected; /gradio_api/info"),
        ("call/v2/generate", f'{{"prompt": "x", "image": {FILE}}}', 400, "meta = 5, beside a path: a table"),
        (
            "call/v2/generate",
            '{"prompt": "x", "image": 5, "token": "0123456789abcdef"}',
            200,
            "image: upload",
        ),
        ("call/v2/status", f'{{"job_id": [{"[]," * 30000}0]}}', 400, "holds more than 20,000 values"),
        (
            "call/v2/status",
            f'{{"job_id": [{"[]," * 9000}0], "token": "0123456789abcdef"}}',
            200,
            r"job_id = \[\[.{1,200}…: text is expected",
        ),
        ("call/nothing", '{"data": []}', 404, "there is no endpoint 'nothing': /gradio_api/info lists"),
        ("call/v2/nothing", '{"data": []}', 404, "there is no endpoint 'nothing': /gradio_api/info lists"),
        ("queue/join", '{"seed": NaN}', 422, "body.data: field required; /gradio_api/info lists"),
        ("queue/join", '{"data": 1e999}', 422, "body.data: input should be a valid list"),
        ("queue/join", '{"data": [], "fn_index": -1, "session_hash": "a"}', 404, "there is no event -1"),
        ("reset", '{"event_id": "\\ud800", "x": Infinity}', 200, "success"),
        ("cancel", "[1, NaN]", 422, "body: input should be a valid dictionary"),
    ],
)
def test_what_gradio_itself_finds_wrong_is_told_in_a_sentence(server, path, body, status, words):
    page, _, _ = server
    address = f"{page.local_url}gradio_api/{path}"
    answer = httpx.post(address, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    said = answer.text
    if "event_id" in said and path.startswith("call"):
        said = httpx.get(f"{address}/{answer.json()['event_id']}").text.encode().decode("unicode_escape")
    assert re.search(words, said) and "null" not in said and "not foreseen" not in said


def test_what_is_sent_is_not_kept(server):
    """Gradio remembers the values of 500 sessions, and each may be of any size."""
    page, _, _ = server
    for number in range(3):
        asked = {"data": [f"{number}{'x' * 1000}", "0123456789abcdef"], "session_hash": f"kept{number}"}
        asked["fn_index"] = next(n for n, event in page.fns.items() if event.api_name == "status")
        httpx.post(f"{page.local_url}gradio_api/queue/join", json=asked)
        with httpx.stream(
            "GET", f"{page.local_url}gradio_api/queue/data", params={"session_hash": f"kept{number}"}
        ) as answer:
            assert "there is no job" in "".join(answer.iter_lines())
    sessions = page.state_holder.session_data
    assert "kept2" in sessions
    assert "x" * 1000 not in str([one.config_values for one in sessions.values()])


def test_a_path_that_is_too_long_is_not_followed(server):
    page, _, _ = server
    long = {"path": f"{uploads_folder()}/{'x/../' * 150_000}"}
    began = time.monotonic()
    for asked in (long, long | {"meta": {"_type": "gradio.FileData"}}):
        answer = httpx.post(f"{page.local_url}gradio_api/queue/join", json={"data": [asked]})
        assert answer.status_code == 400 and "was not uploaded" in answer.json()["detail"]
    assert time.monotonic() - began < 5
    assert raw(page, f"/gradio_api/file={uploads_folder()}/{'x/../' * 5000}") in (400, 403, 404)


def test_a_file_at_another_address_is_fetched_for_nobody_else(server):
    page, app, _ = server
    address = "http://192.0.2.1/a.png"
    named = {"path": address, "meta": {"_type": "gradio.FileData"}}
    for asked in ({"image": address}, {"params": {"arguments": {"video": address}}}, {"data": [named]}):
        text = json.dumps(asked).replace("http", "\\u0068ttp").replace("path", "p\\u0061th")
        for body in (json.dumps(asked), text):
            answer = httpx.post(f"{page.local_url}gradio_api/cancel", content=body)
            assert ("not fetched" in answer.text) == (not app.local)
    told = httpx.post(f"{page.local_url}gradio_api/cancel", json={"prompt": "see http://192.0.2.1 by image"})
    assert "not fetched" not in told.text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
def test_json_that_is_not_in_utf_8_is_read_by_nobody(server, encoding, kind):
    page, _, _ = server
    named = {"path": "http://192.0.2.1/a.png", "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": ["a", named], "prompt": "a"}).encode(encoding)
    for path in ("call/generate", "call/v2/generate", "queue/join", "cancel"):
        answer = httpx.post(
            f"{page.local_url}gradio_api/{path}", content=body, headers={"Content-Type": kind}
        )
        assert answer.status_code == 400 and "no JSON in UTF-8" in answer.json()["detail"]


def test_a_byte_order_mark_before_json_hides_no_file(server):
    page, _, _ = server
    named = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    for asked, status in (({"data": []}, 200), ({"data": [named]}, 400)):
        body = b"\xef\xbb\xbf" + json.dumps(asked).encode()
        answer = httpx.post(
            f"{page.local_url}gradio_api/call/presets",
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == status


def test_a_range_that_is_none_gets_all_of_a_file_and_repeats_no_cookie(server):
    page, _, job = server
    address = f"{page.local_url}gradio_api/file=results/{job.id}/{quote(job.path.name)}"
    size = job.path.stat().st_size
    for wanted in ("bytes=0-1,2-3", "bytes=5-x", "bytes=--", "x", "bytes=0-" + "9" * 30, "bytes=\xb2-\xb3"):
        answer = httpx.get(address, headers=[(b"Range", wanted.encode("latin-1"))])
        assert answer.status_code == 200 and len(answer.content) == size, wanted
    part = httpx.get(address, headers={"Range": "bytes=0-9", "Cookie": "a=secret"})
    assert part.status_code == 206 and len(part.content) == 10 and "cookie" not in part.headers


def test_names_of_hosts_come_with_ports_and_brackets():
    allowed = frozenset(["localhost", "::1", "name.example"])
    assert all(
        is_host(name, allowed) for name in ("LOCALHOST", "localhost:1", "[::1]", "[::1]:7860", "name.example")
    )
    assert not any(is_host(name, allowed) for name in ("", "localhost.evil", "evil", "127.0.0.1.evil:80"))
