"""Visitors against each other and against the server: how much each may ask for, whose jobs are whose, what
leaves by which address, and logging in.
"""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from security_helpers import SLOW, Told


def stop_all(*visitors) -> None:
    for visitor in visitors:
        for job in visitor.jobs:
            visitor.call("stop", job_id=job["id"])
            visitor.ended(job)


# -- totals


def test_made_up_tokens_count_by_address_and_all_together(public):
    """At most 6 jobs of an address and 12 of all, though a token may have 5 and tokens cost nothing."""
    eve, others = public.visitor(), [public.visitor() for _ in range(3)]

    def flood(visitor, number: int) -> str:
        token = f"{visitor.token}-{number}"
        try:
            visitor.jobs.append(visitor.generate(settings=SLOW, token=token) | {"token": token})
        except Told as told:
            return str(told)
        return ""

    try:
        with ThreadPoolExecutor(8) as at_once:
            said = [words for words in at_once.map(lambda number: flood(eve, number), range(30)) if words]
        assert len(eve.jobs) == 6 and len(said) == 24
        refusals = [words for words in said if "being worked on" not in words]
        assert all("from your address wait or run, 6 may" in words for words in refusals)
        said = [flood(visitor, number) for visitor in others for number in range(5)]
        assert sum(len(visitor.jobs) for visitor in others) == 6
        assert "12 jobs wait or run here, 12 may" in said[-1]
    finally:
        for visitor in (eve, *others):
            for job in visitor.jobs:
                visitor.call("stop", job_id=job["id"], token=job["token"])


def test_a_flood_of_requests_is_told_when_to_come_again_and_others_are_served(public):
    eve, ana = public.visitor(), public.visitor()
    answers = (eve.http.get("gradio_api/app_id") for _ in range(3000))
    number, refused = next(pair for pair in enumerate(answers) if pair[1].status_code == 429)
    assert number >= 900 and 1 <= int(refused.headers["retry-after"]) <= 60
    assert "At most 900 requests a minute from one address" in refused.json()["detail"]
    pages = (eve.http.get("", headers={"Accept": "text/html"}) for _ in range(100))  # 15 a second are let in
    page = next(page for page in pages if page.status_code == 429)
    assert "<p>At most 900 requests" in page.text
    assert ana.http.get("gradio_api/app_id").status_code == 200


def test_bodies_are_bounded_before_they_are_parsed(public):
    eve = public.visitor()
    large = {"data": ["a" * 1_100_000], "fn_index": 0, "session_hash": "abc"}
    for path in ("queue/join", "call/generate", "call/v2/generate", "cancel"):
        answer = eve.http.post(f"gradio_api/{path}", json=large)
        assert answer.status_code == 413 and "at most 1.0 MB" in answer.json()["detail"], path
    assert eve.http.post("login", data={"username": "a" * 1_100_000}).status_code == 413

    def endless():  # without a Content-Length
        for _ in range(30):
            yield b" " * 100_000

    assert eve.http.post("gradio_api/queue/join", content=endless()).status_code == 413


def test_many_files_in_one_upload_count_together(public):
    eve = public.visitor()
    files = [("files", (f"{number}.png", bytes(6_000_000))) for number in range(4)]
    answer = eve.http.post("gradio_api/upload", files=files)
    assert answer.status_code == 413 and "at most 20.1 MB" in answer.json()["detail"]
    assert not list(public.uploads.glob("*/0.png"))


def test_uploads_take_no_more_disk_than_they_may(public):
    eve, ana = public.visitor(), public.visitor()
    kept = ana.upload("kept.png", b"ana's")["path"]
    for number in range(6):
        eve.upload(f"{number}.bin", bytes([number]) * 14_000_000)
    size = sum(path.stat().st_size for path in public.uploads.rglob("*") if path.is_file())
    assert size < 60e6 and len(list(public.uploads.glob("*/[0-5].bin"))) == 1
    assert ana.http.get(f"gradio_api/file={quote(kept)}").content == b"ana's"
    many = [("files", (f"{number}.txt", f"{number}".encode())) for number in range(101)]
    answer = ana.http.post("gradio_api/upload", files=many)
    assert answer.status_code == 413 and "101 files came" in answer.json()["detail"]
    assert not list(public.uploads.glob("*/*.txt"))


def test_connections_of_one_address_are_bounded(public):
    eve, ana = public.visitor(), public.visitor()
    lines = []
    head = "GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {}\r\n\r\n"
    try:
        for _ in range(101):
            line = socket.create_connection(("127.0.0.1", int(public.url.rstrip("/").rpartition(":")[2])))
            line.sendall(head.format(eve.http.headers["X-Forwarded-For"]).encode())
            lines.append(line)
            first = line.recv(12)
        assert first == b"HTTP/1.1 429"
        assert eve.http.get("gradio_api/app_id").status_code == 429
        assert ana.http.get("gradio_api/app_id").status_code == 200
    finally:
        for line in lines:
            line.close()


# -- whose is whose


def test_nobody_touches_the_job_of_another(public):
    ana, eve = public.visitor(), public.visitor()
    job = ana.ended(ana.generate("the secret of ana"))
    waiting = ana.generate("a slow secret", settings=SLOW)
    ana.jobs.append(waiting)
    before = json.dumps(ana.call("history"))
    for name in ("status", "stop"):
        for one in (job, waiting):
            with pytest.raises(Told, match="there is no job"):
                eve.call(name, job_id=one["id"])
    for action in (
        "delete",
        "favorite",
        "export",
        "longer",
        "resume",
        "decode",
        "continue",
        "animate",
        "reuse",
    ):
        value = json.dumps({"kind": "png", "keep": "none", "pattern": "x", "units": 2, "prompt": "x"})
        with pytest.raises(Told, match=r"no longer"):
            eve.event("act_on_result", {"action": action, "job": job["id"], "value": value})
    for action in ("open", "compare"):
        shown = eve.event("act_on_result", {"action": action, "job": job["id"], "value": ""})
        assert "the secret of ana" not in json.dumps(shown)
    for action in ("up", "down", "edit", "copy", "remove"):
        with pytest.raises(Told, match=r"no longer"):
            eve.event("act_on_queue", {"act": action, "job": waiting["id"]})
    assert json.dumps(ana.call("history")) == before and public.jobs_of(eve) == 0
    stop_all(ana)


def test_what_a_button_cannot_send_is_told_and_changes_nothing(public):
    eve = public.visitor()
    for sent in (
        {},
        {"action": None, "job": None},
        {"action": "__class__", "job": "x"},
        {"action": [1], "job": {}},
    ):
        with pytest.raises(Told) as told:
            eve.event("act_on_result", sent)
        assert "not foreseen" not in str(told.value) and str(public.folder) not in str(told.value)
    for event in ("known_word", "take", "act_on_queue", "act_on_tree", "act_on_wall"):
        with pytest.raises(Told, match="What this button sent cannot be read"):
            eve.event(event, {})
    for index in (None, "x", [1]):
        with pytest.raises(Told, match="What this button sent cannot be read"):
            eve.event("act_on_tree", {"act": "at", "job": "x", "index": index})


def test_a_preset_is_a_name_and_never_a_path(public):
    eve = public.visitor()
    (public.folder.parent / "x.toml").write_text('description = "a secret"\n')
    for name in (
        "x",
        "x.toml",
        "./x.toml",
        "../x",
        str(public.folder.parent / "x.toml"),
        "/etc/passwd",
        "\0",
    ):
        with pytest.raises(Told, match="there is no preset") as told:
            eve.generate(preset=name)
        assert "a secret" not in str(told.value)
    settings = b'model = "/etc"\nvariant = "x"\n[settings]\nmodel = "/etc/passwd"\n'
    assert "root:" not in json.dumps(eve.event("drop", restore=eve.upload("evil.toml", settings)))


# -- what leaves


def raw(server, target: bytes, **headers: str) -> bytes:
    """The answer to an address that is sent as it is written."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    with socket.create_connection(("127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2]))) as line:
        line.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n")
        return line.makefile("rb").read()


def test_nothing_but_uploads_and_ones_own_results_leaves(public):
    ana = public.visitor()
    job = ana.ended(ana.generate())
    made = next(public.folder.glob("*.png"))
    (public.uploads / "link").symlink_to("/etc/passwd")
    for path in (made, public.folder / ".pyramid" / "jobs.sqlite", "/etc/passwd", public.uploads / "link"):
        for address in (
            "file={}",
            "file/{}",
            "file=/.{}",
            "file={}%00",
            "file%3D{}",
            "proxy=file://{}",
            "FILE={}",
        ):
            for written in (quote(str(path)), quote(str(path), safe=""), quote(quote(str(path), safe=""))):
                status = raw(public, f"/gradio_api/{address.format(written)}".encode()).split()[1]
                assert status in (b"400", b"403", b"404", b"405"), (address, written)
    assert ana.http.get(job["address"]).status_code == 200
    name = made.name
    for wrong in (
        "../x",
        f"{name}/../{name}",
        "%2e%2e",
        f"{name}%00",
        f"{name}/x",
        "exports/..%2fjobs.sqlite",
    ):
        status = raw(public, f"/gradio_api/file=results/{job['id']}/{wrong}".encode()).split()[1]
        assert status in (b"400", b"403", b"404"), wrong


def test_names_of_uploads_lead_nowhere_and_end_no_header(public):
    eve = public.visitor()
    for name in (
        "../../x.png",
        "/etc/x.png",
        "a\r\nSet-Cookie: a=b\r\n.png",
        "a\0b.png",
        "..",
        ".",
        "x" * 5000,
        "con",
    ):
        body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="' + name.encode()
        body += b'"\r\nContent-Type: image/png\r\n\r\nharmless\r\n--b--\r\n'
        answer = eve.http.post(
            "gradio_api/upload",
            content=body,
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        if answer.status_code == 200:
            path = answer.json()[0]
            assert path.startswith(f"{public.uploads}/") and ".." not in path
            fetched = eve.http.get(f"gradio_api/file={quote(path)}")
            assert "set-cookie" not in fetched.headers
    assert not list(public.folder.parent.glob("x.png"))


@pytest.mark.parametrize("name", ["page.html", "drawing.svg", "script.js", "page.xhtml", "feed.xml"])
def test_an_upload_is_never_a_page(public, name):
    eve = public.visitor()
    path = eve.upload(name, b"<script>alert(1)</script>")["path"]
    headers = eve.http.get(f"gradio_api/file={quote(path)}").headers
    assert headers["content-disposition"].startswith("attachment")
    assert (
        headers["content-type"] == "application/octet-stream"
        and headers["x-content-type-options"] == "nosniff"
    )


def test_no_redirect_leads_away(public, members):
    for server in (public, members):
        for target in (
            "//evil.example/",
            "/login?next=//evil.example",
            "/logout",
            "/login",
            "/%2f%2fevil.example",
        ):
            answer = raw(server, target.encode(), **{"X-Gradio-Server": "http://evil.example"})
            assert not re.search(rb"(?i)location: \S*evil", answer), target
    stranger = httpx.get(
        members.url, headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-For": "10.9.9.9"}
    )
    assert stranger.status_code == 200


def test_every_answer_tells_the_browser_what_a_page_may_do(public, members):
    for server in (public, members):
        for path in ("", "config", "nothing/here", "gradio_api/file=/etc/passwd", "login"):
            headers = httpx.get(server.url + path).headers
            assert "frame-ancestors 'self'" in headers["content-security-policy"], path
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["x-frame-options"] == "SAMEORIGIN" and headers["referrer-policy"] == "same-origin"


# -- logging in


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def log_in(visitor, name: str, password: str, **headers: str) -> httpx.Response:
    return visitor.http.post("login", data={"username": name, "password": password}, headers=headers)


def test_tries_at_once_are_counted_before_they_are_checked(members):
    eve = members.visitor()
    ready = threading.Barrier(20)

    def attempt(number: int) -> int:
        ready.wait()
        return log_in(eve, f"somebody {number}", "wrong").status_code

    with ThreadPoolExecutor(20) as at_once:
        answers = list(at_once.map(attempt, range(20)))
    assert answers.count(400) == 5 and answers.count(429) == 15
    refused = log_in(eve, "ana", "a river")
    assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 900


def test_a_form_that_is_none_does_not_end_the_count(members):
    eve = members.visitor()
    for _ in range(3):
        assert log_in(eve, "nobody", "wrong").status_code == 400
    assert eve.http.post("login", data={"username": "nobody"}).status_code == 422
    twice = eve.http.post("login", content="username=a&username=ana&password=b", headers=FORM)
    assert twice.status_code == 400 and "one username" in twice.text, "whose try would it be?"
    assert log_in(eve, "nobody", "wrong").status_code == 400
    assert log_in(eve, "nobody", "wrong").status_code == 429


def test_a_name_that_is_tried_from_everywhere_waits_and_its_owner_does_not(members):
    ana = members.visitor()
    assert log_in(ana, "ana", "a river").status_code == 200
    answers = [log_in(members.visitor(), "ana", f"guess {number}").status_code for number in range(25)]
    assert answers == [400] * 20 + [429] * 5
    assert log_in(ana, "ana", "a river").status_code == 200
    assert log_in(members.visitor(), "eve", "a stone").status_code == 200


def test_a_name_in_another_charset_is_the_same_name(members):
    """In UTF-7 "bo+AGI-" is bob, so each spelling of him would have had tries of its own."""
    disposition = 'Content-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'

    def form(name: str, password: str, charset: str) -> tuple[bytes, dict]:
        parts = (disposition % pair for pair in (("username", name), ("password", password)))
        body = "".join(f"--XX\r\n{part}" for part in parts) + "--XX--\r\n"
        return body.encode(), {"Content-Type": f"multipart/form-data; charset={charset}; boundary=XX"}

    for name, charset in (("+AGU-ve", "utf-7"), ("eve", "utf-8"), ("eve", "no-charset")):
        body, headers = form(name, "a stone", charset)
        assert members.visitor().http.post("login", content=body, headers=headers).status_code == 200
    answers = []
    for number in range(22):
        body, headers = form("bo+AGI-" if number % 2 else "+AGI-ob", "wrong", "utf-7")
        answers.append(members.visitor().http.post("login", content=body, headers=headers).status_code)
    assert answers == [400] * 20 + [429] * 2
    assert log_in(members.visitor(), "bob", "wrong").status_code == 429


def test_whose_own_password_is_right_may_not_try_anothers_for_ever(members):
    eve = members.visitor()
    answers = []
    for _ in range(3):
        answers += [log_in(eve, "somebody else", "wrong").status_code for _ in range(4)]
        answers.append(log_in(eve, "eve", "a stone").status_code)
    assert answers == [400] * 4 + [200] + [400] + [429] * 9


def test_cookies_are_for_this_site_and_no_script(members):
    for scheme, secure in (("http", False), ("https", True)):
        ana = members.visitor()
        answer = log_in(ana, "eve", "a stone", **{"X-Forwarded-Proto": scheme})
        cookies = answer.headers.get_list("set-cookie")
        assert len(cookies) == 2
        for cookie in cookies:
            parts = [part.strip().lower() for part in cookie.split(";")]
            assert "httponly" in parts and "samesite=lax" in parts and ("secure" in parts) == secure
    assert ana.http.get("gradio_api/token").status_code == 404, "which would tell scripts the cookie"


def test_with_accounts_nothing_is_there_without_a_login(members):
    eve = members.visitor()
    for path in (
        "config",
        "gradio_api/info",
        "gradio_api/queue/status",
        "gradio_api/queue/data?session_hash=a",
    ):
        assert eve.http.get(path).status_code == 401, path
    for path in (
        "gradio_api/queue/join",
        "gradio_api/call/history",
        "gradio_api/upload",
        "gradio_api/call/v2/history",
    ):
        assert eve.http.post(path, json={"data": [], "session_hash": "abc"}).status_code in (401, 400, 422), (
            path
        )
    for path in ("gradio_api/cancel", "gradio_api/reset"):
        asked = {"session_hash": "abc", "fn_index": 0, "event_id": "a"}
        assert eve.http.post(path, json=asked).status_code == 401, path
    assert eve.http.get("gradio_api/heartbeat/abc").status_code == 401
    assert b"a red ball" not in eve.http.get("").content
