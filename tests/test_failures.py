"""Whatever goes wrong is told in a sentence, and what nobody foresaw has an id that the log has too."""

import errno
import json
import re
import sqlite3
import zipfile
from pathlib import Path

import pytest

from pyramid import failures
from pyramid.commands import cli
from pyramid.failures import keep_log, known, printable, sentence
from pyramid.settings import Settings, SettingsError, flag_of, frames_for_seconds, label_of
from pyramid.wording import briefly


def raised(action) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        action()
    return caught.value


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: frames_for_seconds(1e308, 8), r"seconds = 1e\+308: at most 255 s at 8 frames a second"),
        (lambda: frames_for_seconds(float("inf"), 24), "seconds = inf: at most 85 s"),
        (
            lambda: Settings(prompt="x", guidance_scale=int("9" * 400)).validate(),
            "guidance_scale = inf is out",
        ),
        (
            lambda: Settings(prompt="x", seed=10**22).validate(),
            "seed = 1000+ is outside 0 to 9007199254740991",
        ),
        (lambda: Settings(prompt="x", seed=-3).validate(), "seed = -3 is outside 0 to .*: leave it out"),
        (lambda: Settings(prompt="a \ud800").validate(), "holds bytes that are no text"),
        (lambda: json.loads("[" * 100_000), "too deep in each other"),
        (lambda: json.loads('{"a": '), "not JSON .* line 1, column 7"),
        (lambda: Path("a\0b").read_text(), "NUL character"),
        (lambda: int("9" * 5000), "thousands of digits"),
        (lambda: "\ud800".encode(), "no character"),
        (lambda: b"\xff".decode(), "not UTF-8"),
        (lambda: zipfile.ZipFile(__file__), "archive is damaged"),
        (
            lambda: (_ for _ in ()).throw(RuntimeError("File 'a' is encrypted, password required")),
            "unpack it",
        ),
        (
            lambda: (_ for _ in ()).throw(RuntimeError("I/O error: No space left on device (os error 28)")),
            "^No space left on device: free some space there$",
        ),
        (lambda: float(10**400), "a number is too large"),
        (
            lambda: Path("/nowhere/at/all.png").read_text(),
            "all.png: No such file or directory: it was moved or deleted",
        ),
    ],
)
def test_what_users_cause_has_a_sentence(action, words):
    assert re.search(words, known(raised(action)) or "nothing")


def test_a_setting_is_called_by_the_word_of_the_door():
    error = raised(lambda: Settings(prompt="x", guidance_scale=99).validate())
    assert sentence(error, label_of).startswith("Guidance for the first frame = 99")
    assert sentence(error, flag_of).startswith("--guidance = 99")
    assert sentence(SettingsError("seconds", "= 0", named=True), flag_of) == "--seconds = 0"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.ELOOP])
def test_what_the_system_refuses_is_told_with_a_way_out_and_without_folders(number):
    words = sentence(OSError(number, "Refused", "/home/ana/outputs/clip.mp4"))
    assert words.startswith("clip.mp4: Refused: ") and "/home" not in words


def test_a_database_that_another_program_has_is_told(tmp_path):
    first, second = (sqlite3.connect(tmp_path / "a.sqlite", timeout=0) for _ in range(2))
    first.execute("BEGIN EXCLUSIVE")
    words = sentence(raised(lambda: second.execute("CREATE TABLE a (b)")))
    assert words == "the list of jobs is locked by another program: close that one, and try again"
    first.close()


def test_what_nobody_foresaw_has_an_id_and_the_log_has_its_traceback(tmp_path):
    keep_log(tmp_path / "log.txt", terminal=False)
    words = sentence(raised(lambda: {}["unforeseen"]))
    number = re.search(r"it is error ([0-9a-f]{8}) in the log, .*log.txt", words)[1]
    log = (tmp_path / "log.txt").read_text()
    assert f"error {number}\nTraceback" in log and "KeyError: 'unforeseen'" in log
    keep_log(tmp_path / "other.txt", terminal=False)
    assert len(failures.log.handlers) == 1


def test_a_library_s_words_are_no_sentence():
    assert known(raised(lambda: json.JSONEncoder().encode(object()))) is None
    assert known(raised(lambda: __import__("numpy").zeros(2) + __import__("numpy").zeros(3))) is not None


def test_a_sentence_is_one_line_of_any_encoding():
    line = printable("a\nb\0 \ud800" + "x" * 10_000)
    assert line.startswith("a b\\0 \\ud800xx") and len(line) == failures.MOST
    line.encode()
    assert len(briefly("x" * 10_000)) == 60 and briefly(10**5000) == "a int too large to be shown"


def test_the_command_line_tells_what_nobody_foresaw_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PYRAMID_CACHE", str(tmp_path))
    monkeypatch.setattr("pyramid.commands.doctor.run", lambda args: {}["odd"])
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: something went wrong that was not foreseen")
    number = re.search(r"error ([0-9a-f]{8}) in", said)[1]
    assert number in (tmp_path / "errors.log").read_text()


def test_seconds_without_end_are_refused_on_the_command_line(capsys):
    assert cli.main(["generate", "--prompt", "x", "--seconds", "1e308"]) == 2
    assert capsys.readouterr().err.startswith("error: --seconds = 1e+308: at most 255 s")
