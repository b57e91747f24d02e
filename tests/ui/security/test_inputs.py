"""Files that mean harm, sent to a started server: lists of other files, bombs, and what costs before it is
checked. Each is refused in a sentence, takes little memory, and holds nobody else up.
"""

import io
import json
import struct
import subprocess
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from security_helpers import QUICK, Told

from pyramid.media.files import ffmpeg

PEAK = 300  # MB over idle that a refused input may take
LISTS = {
    "list.m3u8": "#EXTM3U\n#EXTINF:1,\n{secret}\n",
    "list.mp4": "#EXTM3U\n#EXTINF:1,\nfile://{secret}\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "concat.mp4": "file '{secret}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\n",
    "dash.mpd": '<?xml version="1.0"?><MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>',
    "play.pls": "[playlist]\nFile1={secret}\n",
}
PICTURES = {
    "a.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "a.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file pop\n",
    "a.pdf": b"%PDF-1.4\n",
}


def video(*arguments: str) -> bytes:
    command = [
        ffmpeg(),
        "-v",
        "error",
        "-f",
        "lavfi",
        *arguments,
        "-preset",
        "ultrafast",
        "-f",
        "matroska",
        "-",
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(side: int) -> bytes:
    """A PNG of 16 bits a pixel, all black, made without taking the memory that it asks for."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(1 + 2 * side)) for _ in range(side)) + squeeze.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def comments(count: int) -> bytes:
    """A GIF whose comments Pillow would join one by one, for minutes."""
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "GIF")
    whole = file.getvalue()
    colors = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    return whole[:colors] + b"!\xfe\1a\0" * count + whole[colors:]


def icon(side: int) -> bytes:
    """An icon that says 256 pixels a side, and holds a PNG of many more."""
    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(1 + 4 * side)) for _ in range(side)) + squeeze.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0))
    inside = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(inside), 22) + inside


def zip_bomb() -> bytes:
    """A zip with a settings.json of 2 GB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made, made.open("settings.json", "w") as member:
        for _ in range(200):
            member.write(bytes(10_000_000))
    return file.getvalue()


def many_names() -> bytes:
    """A zip with a list of 100,000 files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for number in range(100_000):
            made.writestr(zipfile.ZipInfo(f"{number:010}"), b"")
    return file.getvalue()


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_other_files_is_refused_whatever_its_name(public, name):
    eve, ana = public.visitor(), public.visitor()
    secret = ana.upload("secret.mp4", video("-i", "testsrc=s=64x64:r=8:d=1"))["path"]
    clip = eve.upload(name, LISTS[name].format(secret=secret).encode())
    with pytest.raises(Told, match=r"refers to other files|not a video") as told:
        eve.generate(video=clip)
    assert secret not in str(told.value)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_is_a_program_is_refused(public, name):
    eve = public.visitor()
    with pytest.raises(Told, match="not a picture this program can read"):
        eve.generate(image=eve.upload(name, PICTURES[name]))


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "jobs.sqlite", "../jobs.sqlite", "http://127.0.0.1:22/", "inputs", ""]
)
def test_a_path_of_the_server_is_no_upload(public, path):
    eve = public.visitor()
    named = str(public.folder / ".pyramid" / path) if "sqlite" in path or path == "inputs" else path
    with pytest.raises(Told, match=r"upload|not taken|not fetched"):
        eve.generate(image={"path": named, "meta": {"_type": "gradio.FileData"}})


def test_no_field_of_the_form_takes_a_path_of_the_server(public):
    ana, eve = public.visitor(), public.visitor()
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    job = ana.ended(ana.generate(image=ana.upload("mine.png", buffer.getvalue()), settings=QUICK))
    mine = public.folder / ".pyramid" / "inputs" / job["id"] / "mine.png"
    assert mine.is_file()
    made = next(public.folder.glob("*.mp4"))
    for path in (mine, made):
        for given in (
            {"path": str(path), "meta": {"_type": "gradio.FileData"}},
            {"path": str(path)},
            str(path),
        ):
            for event, fields in (
                ("begin", {"prompt": "a thief", "mode": "image", "picture": given}),
                ("for_visitor", {"mode": "image", "picture": given}),
                ("drop", {"restore": given}),
            ):
                try:
                    shown = json.dumps(eve.event(event, **fields))
                except Told:
                    continue
                assert "paths on the server are not taken" in shown and "base64" not in shown
    assert public.jobs_of(eve) == 0


def test_what_costs_before_it_is_checked_holds_nobody_up(public):
    """24 frames of which the last 14 come 100,000 seconds later."""
    eve, ana = public.visitor(), public.visitor()
    gap = "setpts='PTS+if(gte(N,10),100000/TB,0)'"
    clip = video("-i", "testsrc=s=64x64:r=8:d=3", "-vf", gap, "-fps_mode", "passthrough")
    uploaded = eve.upload("gap.mkv", clip)
    with ThreadPoolExecutor(2) as others:
        asked = [others.submit(eve.generate, video=uploaded) for _ in range(2)]
        slowest = 0.0
        while not all(one.done() for one in asked):
            began = time.monotonic()
            assert ana.call("history") == []
            slowest = max(slowest, time.monotonic() - began)
    assert slowest < 10
    for one in asked:
        eve.ended(one.result())


def bombs(eve) -> dict:
    """What is sent, and how: each returns after it was refused."""

    def restore(name: str, content: bytes) -> None:
        file = eve.upload(name, content)
        shown = eve.event("drop", restore=file)
        assert "alert" in json.dumps(shown), shown

    def generate(**files) -> None:
        with pytest.raises(Told) as told:
            eve.generate(**{kind: eve.upload(*file) for kind, file in files.items()})
        assert "null" not in str(told.value)

    def post(body: bytes, status: int) -> None:
        assert eve.http.post("gradio_api/queue/join", content=body).status_code == status

    stretched = video("-i", "color=s=4096x4096:r=4:d=1", "-vf", "setsar=30/1")
    return {
        "zip of a 2 GB settings.json": lambda: restore("a.zip", zip_bomb()),
        "zip of 100,000 names": lambda: restore("a.zip", many_names()),
        "settings nested 100,000 deep": lambda: restore("a.json", b"[" * 100_000),
        "preset of 10 MB": lambda: restore("a.toml", b"a = [" + b"[]," * 3_000_000 + b"]"),
        "16-bit PNG of 13341 a side": lambda: generate(image=("a.png", deep_png(13341))),
        "GIF of 300,000 comments": lambda: generate(image=("a.gif", comments(300_000))),
        "the same, dropped for its settings": lambda: restore("a.gif", comments(300_000)),
        "icon with a picture of 10,000 a side": lambda: generate(image=("a.ico", icon(10_000))),
        "video with pixels of 30:1": lambda: generate(video=("a.mkv", stretched)),
        "body of 300 MB": lambda: post(b" " * 300_000_000, 413),
        "body nested 100,000 deep": lambda: post(b"[" * 100_000, 400),
        "body of a million lists": lambda: post(b"[" + b"[]," * 300_000 + b"[]]", 400),
        "name of a session of 900 kB": lambda: post(b'{"session_hash": "' + b"a" * 900_000 + b'"}', 400),
    }


def test_no_bomb_takes_memory(public, subtests):
    eve = public.visitor()
    for name, send in bombs(eve).items():
        with subtests.test(name):
            public.forget_peak()
            idle = public.memory("VmRSS")
            send()
            assert public.memory("VmHWM") - idle < PEAK


def test_a_video_of_60_large_frames_takes_little_more_than_a_small_one(public):
    """It is no larger than may be read, so something is made of it, a few of its frames at a time."""
    eve = public.visitor()
    peaks = []
    for size in ("64x64", "4096x4096"):
        clip = eve.upload("a.mkv", video("-i", f"color=s={size}:r=30:d=2"))
        public.forget_peak()
        assert eve.ended(eve.generate(video=clip))["state"] == "done"
        peaks.append(public.memory("VmHWM"))
    assert peaks[1] - peaks[0] < 9 * 4096 * 4096 * 3 / 1e6, "of its frames as they are shown"


def test_a_wide_pattern_and_one_that_leads_away_are_refused(public):
    ana = public.visitor()
    job = ana.ended(ana.generate())
    ana.event("act_on_result", {"action": "open", "job": job["id"], "value": ""})
    for pattern in ("{index:>300000000}", "../../x", "/etc/x", "a\0b", "x" * 100_000):
        asked = json.dumps({"kind": "png", "keep": "none", "pattern": pattern})
        shown = json.dumps(ana.event("act_on_result", {"action": "export", "job": job["id"], "value": asked}))
        assert 'role=\\"alert\\"' in shown, pattern
    for action in ("export", "longer", "edit", "finish", "join", "loop", "look-join"):
        for value in ("[]", "5", "\ud800", "[" * 50_000, '{"kind": []}', '{"kind": "mp4", "quality": "9e9"}'):
            try:
                sent = {"action": action, "job": job["id"], "value": value}
                shown = json.dumps(ana.event("act_on_result", sent))
            except (Told, UnicodeEncodeError) as told:  # which JSON cannot say
                shown = str(told)
            assert "not foreseen" not in shown and '"error": null' not in shown, (action, value[:50])
    assert not (public.folder / ".pyramid" / "exports" / job["id"]).exists()
