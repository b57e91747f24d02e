"""A folder, a pipe, a socket or a device in place of a file: told at once, and never waited for."""

import os
import re
import signal
import socket
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pyramid.commands import cli
from pyramid.commands.evaluate_videos import read_prompts
from pyramid.commands.list_files import rows
from pyramid.disk import check_file
from pyramid.generate.drafts import Draft
from pyramid.hub.checkpoints import read_json
from pyramid.hub.loras import find_lora
from pyramid.jobs.recovery import STAGE, UnitsFolder
from pyramid.media.files import read_metadata
from pyramid.media.pictures import read_picture
from pyramid.media.video_reader import read_frames
from pyramid.presets import load_preset
from pyramid.timeline import load_timeline
from pyramid.training.clips.lists import open_list
from pyramid.training.distill import read_prompts as distilled_prompts
from pyramid.training.recipe import load_recipe
from pyramid.ui.security.accounts import read_accounts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no such files")
KINDS = {"folder": "a folder", "pipe": "a pipe", "socket": "a socket", "device": "a device"}
READERS = {
    "picture.png": read_picture,
    "clip.mp4": lambda path: list(read_frames(path)),
    "result.mp4": read_metadata,
    "list.jsonl": rows,
    "prompts.txt": read_prompts,
    "distill.txt": lambda path: distilled_prompts(str(path), None),
    "cues.toml": load_timeline,
    "own.toml": lambda path: load_preset(str(path)),
    "recipe.toml": load_recipe,
    "clips.csv": open_list,
    "sketch.safetensors": find_lora,
    "draft.safetensors": Draft.load,
    "config.json": read_json,
    "accounts.txt": read_accounts,
}


@contextmanager
def at_once():
    """Fails where it is waited for something."""

    def late(*_) -> None:
        raise AssertionError("it is waited for")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 20)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make(path: Path, kind: str) -> None:
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as one, suppress(OSError):
                one.bind(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_told_wherever_a_file_is_read(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    for name, read in READERS.items():
        make(Path(name), kind)
        if not (kind == "folder" and read is open_list):  # which may be one
            with at_once(), pytest.raises(ValueError, match=re.escape(Path(name).stem)) as told:
                read(Path(name))
            words = str(told.value)
            assert KINDS[kind] in words or re.search("is not a file|is no file|there is no LoRA", words), (
                words
            )


def test_a_picture_may_be_linked_to(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    check_file(tmp_path / "link.txt")
    with pytest.raises(ValueError, match=r"loop\.png"):
        (tmp_path / "loop.png").symlink_to("loop.png")
        read_picture(tmp_path / "loop.png")


def test_pipes_among_the_units_of_a_run_are_no_units(tmp_path):
    for name in ("unit-000.safetensors", STAGE, "run.json"):
        os.mkfifo(tmp_path / name)
    with at_once():
        assert UnitsFolder(tmp_path).load_stage() is None
        with pytest.raises(ValueError, match=r"run\.json.* is a pipe"):
            UnitsFolder(tmp_path).load()


@pytest.mark.parametrize(
    "flags",
    [
        ["generate", "--prompt", "x", "--image"],
        ["generate", "--prompt", "x", "--video"],
        ["generate", "--prompt", "x", "--timeline"],
        ["generate", "--from-draft"],
        ["generate", "--prompt", "x", "--preset"],
        ["generate", "--prompt", "x", "--lora"],
        ["generate", "--prompt", "x", "--at-unit", "1", "--branch"],
        ["batch", "--output-dir", "out"],
        ["export"],
        ["inspect"],
        ["resume"],
        ["loop"],
        ["edit", "--unit", "1"],
        ["join", "--output", "c.mp4"],
    ],
    ids=lambda flags: " ".join((flags[0], flags[-1])),
)
def test_every_flag_tells_it(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    name = {"--timeline": "a.toml", "--preset": "a.toml", "--lora": "a.safetensors"}.get(flags[-1], "a.mp4")
    os.mkfifo(name)
    more = [name] if flags[0] == "join" else []
    with at_once(), suppress(SystemExit):
        assert cli.main([*flags, name, *more]) == 2
    said = capsys.readouterr().err
    assert name.partition(".")[0] in said and "Traceback" not in said and "not foreseen" not in said
    assert re.search("is a pipe|is not a file|is no file|there is no LoRA|holds no run", said), said
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []
