"""Who may come in, what leaves, and what the program says when it refuses to start."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from app import check_listen, check_reachable, limits_of, main, notices, parse
from pyramid.jobs.queue import Limits
from pyramid.jobs.space import Space
from pyramid.settings import Settings, SettingsError
from pyramid.ui.security.accounts import hashed_line, read_accounts
from pyramid.ui.security.bodies import Upload, whole
from pyramid.ui.security.login import (
    LONGEST_WAIT,
    NAME_TRIES,
    TRIES,
    Tries,
    WrongPasswords,
    check_door,
    is_local,
)
from pyramid.ui.security.proxies import Proxies
from pyramid.ui.security.traffic import Refused, Traffic
from pyramid.ui.security.uploads import Uploads
from pyramid.ui.visitors import visitor_of
from pyramid.ui.watch import Drawn, Moment, Watcher

ROOT = Path(__file__).parent.parent.parent


def run_app(*arguments: str, typed: str = "", folder: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "app.py"), *arguments]
    return subprocess.run(
        command, input=typed, capture_output=True, text=True, timeout=120, cwd=folder or ROOT
    )


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What the program says on stderr to flags that it refuses, in this process."""

    def call(*flags: str) -> str:
        monkeypatch.chdir(tmp_path)
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = main([*flags])
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGTERM, before)
        said = capsys.readouterr()
        assert code == 2 and not said.out, said.err
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        return said.err

    return call


def accounts_file(folder: Path, text: str) -> Path:
    path = folder / "accounts.txt"
    path.write_text(text, encoding="utf-8")
    return path


# -- doors


@pytest.mark.parametrize("address", ["nonsense.invalid", "127.0.0.1:8000", "::zz", "192.0.2.1", "a" * 300])
def test_an_address_that_is_none_is_told_at_once(address, capsys):
    public = ["--public"] if address == "192.0.2.1" else []  # another machine's
    assert main(["--listen", address, *public, "--output-dir", "/nowhere"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --listen") and "0.0.0.0" in err and err.count("\n") == 1


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "[::1]", "::"])
def test_addresses_of_this_machine_are_taken(address):
    if ":" in address and not ipv6():
        pytest.skip("this machine has no IPv6")
    check_reachable(address, *check_listen(address))


def ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("flags", [["--share"], ["--listen"], ["--listen", "192.168.0.7"]])
def test_nobody_is_let_in_without_a_word_on_who(flags, refused, tmp_path):
    said = refused(*flags)
    assert said.startswith(f"error: {flags[0]} lets others reach this page")
    assert "--auth-file" in said and "--public" in said
    assert not any(tmp_path.iterdir()), "nothing is begun"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--public"], "--public says who may come in"),
        (["--public", "--share", "--auth-file", "a"], "give one of them"),
        (["--auth-file", "none.txt"], "none.txt cannot be read: No such file"),
        (["--model", "minifluxx"], "neither a folder nor a model 'minifluxx'"),
        (["--variant", "768p"], "no variant '768p', only 128p"),
        (["--max-seconds", "0"], "--max-seconds 0"),
        (["--max-pixels", "0"], "--max-pixels 0"),
        (["--prot", "8000"], "--prot"),
        (["--port", "99999"], "--port 99999: give 1 to 65535"),
        (["--port", "0"], "--port 0: give 1 to 65535"),
        (["--memory", "foo"], "--memory = 'foo' is unknown; choose from auto, max, balanced, low, tiny, cpu"),
        (["--device", "foo"], "--device = 'foo': use auto, cpu, mps, xpu, cuda"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(flags, says, refused):
    assert says in refused(*flags)


@pytest.mark.skipif(bool(__import__("importlib").util.find_spec("mcp")), reason="the extra is installed here")
def test_mcp_without_its_extra_says_how_to_get_it(refused):
    assert "gradio[mcp]" in refused("--mcp")


def test_visitors_have_limits_and_the_owner_of_the_machine_those_that_are_given():
    assert limits_of(parse([]), True) == Limits()
    assert limits_of(parse(["--max-steps", "20", "--max-queue", "3"]), True) == Limits(
        max_steps=20, max_queue_per_owner=3
    )
    limits = limits_of(parse([]), False)
    assert limits == Limits(
        50.0,
        10.0,
        5,
        max_pixels=128 * 128,
        max_steps=50,
        max_queue_address=20,
        max_queue_total=100,
        max_requests=3000,
        max_traffic_mb=1000.0,
        max_uploads_mb=2000.0,
        max_disk_mb=20_000.0,
    )
    assert limits_of(parse(["--max-pixels", "4096"]), False).max_pixels == 4096
    start = Settings.for_model("embedded")
    limits.check(replace(start, num_inference_steps=(50, 50, 50)))
    for asked, says in (
        (
            {"num_inference_steps": (10, 51, 10)},
            "num_inference_steps = 51: at most 50 steps a stage are allowed",
        ),
        (
            {"video_num_inference_steps": (200,) * 3},
            "video_num_inference_steps = 200: at most 50 steps a stage",
        ),
        ({"width": 192}, "192×128 are 24,576 pixels: at most 16,384 are allowed, so choose a smaller size"),
        ({"num_frames": 89, "fps": 60}, "11 s of video: at most 10 s are allowed"),
    ):
        with pytest.raises(SettingsError, match=says):
            limits.check(replace(start, **asked))


def test_doors():
    assert not check_door("127.0.0.1", share=False, public=False, auth_file=None)
    assert check_door("127.0.0.1", share=True, public=True, auth_file=None)
    assert check_door("0.0.0.0", share=False, public=False, auth_file=Path("a"))
    assert [
        is_local(a) for a in ("127.0.0.1", "127.1.2.3", "localhost", "::1", "0.0.0.0", "10.0.0.1", "::")
    ] == [True, True, True, True, False, False, False]


def test_a_share_link_that_fails_is_a_notice():
    lines = notices("http://127.0.0.1:7860/", None, share=True, listen="127.0.0.1")
    assert "http://127.0.0.1:7860/" in lines[0] and lines[1].startswith("note: there is no public link")
    assert len(notices("http://127.0.0.1:7860/", None, share=False, listen="127.0.0.1")) == 1


# -- accounts


def test_accounts_with_words_and_with_hashes(tmp_path):
    lines = ["# who may come in", "", "ana: a river ", hashed_line("ben", "stone:bridge"), "zoë:münze"]
    accounts = read_accounts(accounts_file(tmp_path, "\n".join(lines)))
    right = [("ana", " a river "), ("ben", "stone:bridge"), ("zoë", "münze")]
    wrong = [("ana", "a river"), ("ben", "stone"), ("ben", lines[3].partition(":")[2]), ("eve", ""), ("", "")]
    assert all(accounts.matches(*pair) for pair in right) and not any(
        accounts.matches(*pair) for pair in wrong
    )
    assert asyncio.run(accounts.check("ben", "stone:bridge"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no account"),
        ("# nobody\n", "holds no account"),
        ("ana:river\nben\n", "line 2 is not name:password"),
        (":river", "line 1 is not name:password"),
        ("ana: ", "line 1 is not name:password"),
        ("ana:river\nana:stone", "line 2 names 'ana' a second time"),
        ("ana:scrypt$16384$8$1$00$11", "line 1 holds a damaged hash"),
    ],
)
def test_lines_that_are_no_accounts_are_told_by_number(text, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        read_accounts(accounts_file(tmp_path, text))


def test_the_same_password_has_another_line_each_time_and_no_line_shows_it():
    lines = {hashed_line("ana", "a river") for _ in range(2)}
    assert len(lines) == 2 and not any("river" in line for line in lines)
    for name, password in (("", "x"), ("a:b", "x"), ("#a", "x"), ("ana", " ")):
        with pytest.raises(ValueError):
            hashed_line(name, password)


def test_a_line_is_made_by_the_command(tmp_path):
    done = run_app("--hash-password", "ana", typed="a river\n", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_accounts(accounts_file(tmp_path, done.stdout)).matches("ana", "a river")


# -- wrong passwords


def test_who_gives_wrong_passwords_has_to_wait_longer_each_time():
    now = [100.0]
    wrong = WrongPasswords(lambda: now[0])
    waits = []
    for _ in range(TRIES + 8):
        wrong.wrong("eve")
        waits.append(wrong.wait("eve"))
        now[0] += waits[-1]
    assert waits[: TRIES - 1] == [0] * (TRIES - 1)
    assert waits[TRIES - 1 : TRIES + 2] == [30, 60, 120] and max(waits) == waits[-1] == LONGEST_WAIT
    assert wrong.wait("ana") == 0
    now[0] += 1
    assert wrong.wait("eve") == 0
    wrong.right("eve")
    wrong.wrong("eve")
    assert wrong.wait("eve") == 0, "the right password ends it"
    wrong.wrong("old")
    now[0] += 2 * LONGEST_WAIT
    wrong.wrong("new")
    assert set(wrong.tries) == {"new"}, "who stays away is forgotten"


def test_trying_a_name_from_many_places_is_slow_and_does_not_lock_its_owner_out():
    now = [100.0]
    tries = Tries(lambda: now[0])
    tries.right("home", "ana")
    for number in range(200):
        if not tries.wait(f"place {number}", "ana"):
            tries.begin(f"place {number}", "ana")
    assert len(tries.names.tries["ana"]) == NAME_TRIES, "the others were refused unchecked"
    assert tries.wait("home", "ana") == 0 < tries.wait("elsewhere", "ana") <= 60
    assert tries.wait("elsewhere", "ben") == 0
    now[0] += 60
    assert tries.wait("elsewhere", "ana") == 0, "who is new at a place waits a minute at most"


def test_a_right_password_takes_back_the_tries_of_its_own_name_alone():
    now = [100.0]
    tries = Tries(lambda: now[0])
    tries.right("home", "bob")  # whose home ana shares
    checked = 0
    for number in range(40):
        if not tries.wait("home", "bob"):
            tries.begin("home", "bob")
            checked += 1
        if number % 4 == 3 and not tries.wait("home", "ana"):
            tries.begin("home", "ana")
            tries.right("home", "ana")
    assert checked == TRIES and tries.wait("home", "bob") == 30
    now[0] += 30
    tries.begin("home", "ana")
    tries.begin("home", "bob")
    assert tries.wait("home", "bob") == 120, "both count until it is known what came of them"
    tries.right("home", "ana")
    assert tries.wait("home", "bob") == 60
    now[0] += 60
    tries.begin("home", "bob")
    tries.right("home", "bob")
    assert not tries.addresses.tries and not tries.names.tries, "who mistook a key is at once let in again"


def test_only_a_named_proxy_may_say_for_whom_it_asks():
    told = {b"x-forwarded-for": b"1.2.3.4, 5.6.7.8:99, 10.0.0.9", b"x-forwarded-proto": b"https"}
    told |= {b"x-forwarded-host": b"name.example", b"host": b"inner", b"x-gradio-server": b"http://evil"}
    scope = {"client": ("10.0.0.7", 5), "scheme": "http", "headers": [*told.items()]}
    seen = Proxies(["10.0.0.0/8"]).behind(scope)
    assert seen["client"][0] == "5.6.7.8" and seen["scheme"] == "https"
    assert seen["headers"] == [(b"host", b"name.example")]
    seen = Proxies(["127.0.0.1", "::1"]).behind(scope)
    assert seen["client"][0] == "10.0.0.7" and seen["scheme"] == "http"
    assert seen["headers"] == [(b"host", b"inner")]
    with pytest.raises(ValueError, match="--trusted-proxy name.example: give the address"):
        Proxies(["name.example"])


def test_a_home_with_a_whole_network_is_one_visitor():
    assert visitor_of("2001:db8:1:2::5") == visitor_of("2001:db8:1:2:ffff::9") != visitor_of("2001:db8:1:3::")
    assert visitor_of("::ffff:1.2.3.4") == visitor_of("1.2.3.4") == "1.2.3.4"


def test_a_rate_is_taken_at_once_or_evenly_and_comes_back():
    now = [0.0]
    traffic = Traffic(requests=60, megabytes=1, clock=lambda: now[0])
    for _ in range(60):
        with traffic.visit("eve"):
            pass
    with pytest.raises(Refused, match="At most 60 requests a minute") as refused, traffic.visit("eve"):
        pass
    assert refused.value.status == 429 and refused.value.again == pytest.approx(1)
    now[0] += 1.1
    with traffic.visit("eve"), traffic.visit("ana"):
        traffic.count_bytes("ana", 3_000_000)
    with pytest.raises(Refused, match="At most 1 MB a minute"), traffic.visit("ana"):
        pass


def test_the_oldest_uploads_go_first_and_who_sends_much_loses_their_own(tmp_path):
    uploads = Uploads(tmp_path, megabytes=4)  # of which each file takes 0.1 beside its content

    def upload(name: str, size: int, age: int, who: str) -> Path:
        path = tmp_path / f"{name}-hash" / name
        path.parent.mkdir()
        path.write_bytes(bytes(size))
        os.utime(path, (path.stat().st_mtime - age,) * 2)
        uploads.made(who, [path])
        return path

    old = upload("old", 800_000, 90, "ana")
    floods = [upload(f"flood-{number}", 500_000, 50 - number, "eve") for number in range(9)]
    assert old.is_file() and [path.is_file() for path in floods] == [False] * 8 + [True]
    others = [upload(name, 800_000, 20, name) for name in ("ben", "cy", "dee")]
    assert not old.exists() and all(path.is_file() for path in others)


def test_many_small_uploads_are_bounded_and_leave_no_folders(tmp_path, monkeypatch):
    uploads = Uploads(tmp_path, megabytes=4)
    looks = []
    look = Uploads._all
    monkeypatch.setattr(Uploads, "_all", lambda self: looks.append(1) or look(self))

    def upload(*names: str) -> list[Path]:
        paths = [tmp_path / f"{name}-hash" / name for name in names]
        for path in paths:
            path.parent.mkdir()
            path.write_bytes(b"8 bytes.")
        uploads.made("eve", paths)
        return paths

    for number in range(30):
        upload(f"{number}")
    assert len([*tmp_path.iterdir()]) == 9, "1 MB is an address's part, and nine take 0.9 MB"
    assert len(looks) == 1, "no upload looks at all the others"
    with pytest.raises(Refused, match="101 files came in one upload, 100 may"):
        upload(*(f"at-once-{number}" for number in range(101)))
    assert len([*tmp_path.iterdir()]) == 9
    (tmp_path / "tmpcut").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()  # a file is about to come
    for name in ("tmpcut", "empty"):
        os.utime(tmp_path / name, (0, 0))
    monkeypatch.setattr("pyramid.ui.security.uploads.AGAIN", 0)
    upload("last")
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{number}-hash" for number in range(22, 30)),
        "last-hash",
        "new",
    }


def test_uploads_and_jobs_leave_some_of_the_disk_free(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 600_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    uploads, space = Uploads(tmp_path / "not there yet", 100), Space(tmp_path, 0.001)
    uploads.check(1000)
    space.check()
    with pytest.raises(Refused, match="600 MB free, and 500 MB stay") as refused:
        uploads.check(200_000_000)
    assert refused.value.status == 507
    usage.free = 400_000_000
    with pytest.raises(SettingsError, match="400 MB free"):
        space.check()
    (tmp_path / "result.mp4").write_bytes(bytes(2_000_000))
    with pytest.raises(SettingsError, match="results take 2 MB here, 0 MB may"):
        Space(tmp_path, 0.1).check()
    Space(tmp_path, None).check()


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("pyramid.ui.security.bodies.PATIENCE", 0.05)
    scope = {"headers": [(b"content-length", b"10")]}

    async def stalls():
        await asyncio.sleep(60)

    with pytest.raises(Refused) as refused:
        asyncio.run(whole(scope, stalls, 100))
    assert refused.value.status == 408
    counted = []
    upload = Upload(scope, stalls, 100, counted.append)
    assert asyncio.run(upload.receive()) == {"type": "http.disconnect"} and upload.refused.status == 408

    async def drips():
        await asyncio.sleep(0.06)
        return {"type": "http.request", "body": b"x", "more_body": True}

    monkeypatch.setattr("pyramid.ui.security.bodies.PATIENCE", 0.1)
    upload = Upload(scope, drips, 100, counted.append)

    async def read():
        while (await upload.receive())["type"] != "http.disconnect":
            pass

    asyncio.run(read())
    assert upload.refused.status == 408 and "kB a second" in upload.refused.words and sum(counted) <= 3


def test_who_left_is_not_remembered():
    """Made-up tokens that look at the page once would fill the memory with what they saw."""
    moment = SimpleNamespace(version=1, lives=(), loaded=threading.Event())
    app = SimpleNamespace(owner=lambda request, token: token, store=moment, worker=moment)
    watcher = Watcher(app, SimpleNamespace(outputs=[], show=lambda owner: []), None)
    watcher.beside = lambda owner: [owner]

    async def look(number: int) -> None:
        pages = [watcher.watch(f"token-{number}", None) for _ in range(2)]
        assert [await anext(page) for page in pages] == [[f"token-{number}"]] * 2
        await pages[0].aclose()
        assert list(watcher.drawn) == [f"token-{number}"]
        await pages[1].aclose()

    for number in range(3):
        asyncio.run(look(number))
    assert not watcher.drawn and not watcher.pages


def test_what_begins_is_looked_for_more_often_than_what_goes_on():
    watcher = Watcher(SimpleNamespace(store=None), SimpleNamespace(outputs=[]), None)
    idle = Moment(1, True, ())
    begins = Moment(1, True, (SimpleNamespace(busy=True, estimates={}, frames=()),))
    goes_on = Moment(1, True, (SimpleNamespace(busy=True, estimates={(0, 0): "a picture"}, frames=()),))
    watcher.pages = {1: "ana"}
    assert watcher.every(begins) < watcher.every(idle) < watcher.every(goes_on)
    watcher.pages = dict.fromkeys(range(600), "ana")  # looks cost something, drawings more
    assert 1 < watcher.every(begins) < watcher.every(goes_on)
    drawn = Drawn(begins, [], time.monotonic() - 0.07)
    assert not drawn.holds(begins) and Drawn(goes_on, [], drawn.at).holds(goes_on)


def test_sentences_do_not_hold_up_the_first_picture(monkeypatch):
    """A browser takes a tenth of a second for each that it is told."""
    told = iter(["idle", "waits", "reads", "reads on", "a picture", "another"])
    monkeypatch.setattr("pyramid.ui.watch.FIRST_EVERY", 0.001)
    monkeypatch.setattr("pyramid.ui.watch.PAGE_EVERY", 0.001)
    monkeypatch.setattr("pyramid.ui.watch.IDLE_EVERY", 0.001)
    watcher = Watcher(SimpleNamespace(store=None), SimpleNamespace(outputs=[]), None)
    moment = Moment(1, True, ())
    watcher.moment = lambda: moment

    def parts(owner: str, now: Moment) -> list[str]:
        nonlocal moment
        words = next(told)
        estimates = {(0, 0): words} if words in ("reads on", "a picture") else {}
        moment = Moment(1, True, (SimpleNamespace(busy=True, estimates=estimates, frames=()),))
        return [words]

    watcher.parts = parts

    async def seen(count: int) -> list[str]:
        updates = watcher.updates("ana")
        return [(await anext(updates))[0] for _ in range(count)]

    assert asyncio.run(seen(4)) == ["idle", "waits", "a picture", "another"]


# -- the program


def test_a_second_program_at_the_same_folder_is_told(tiny_checkpoint, tmp_path):
    from pyramid.jobs.queue import JobStore
    from pyramid.jobs.worker import Worker

    store = JobStore(tmp_path / "outputs")
    worker = Worker(store, model=str(tiny_checkpoint))
    try:
        done = run_app("--model", str(tiny_checkpoint), "--output-dir", str(store.folder))
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    finally:
        worker.close()
        store.close()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="everything can be written by root")
def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    tmp_path.chmod(0o500)
    done = run_app("--output-dir", str(tmp_path / "outputs"))
    assert done.returncode == 2 and done.stderr.startswith("error: nothing can be written")
