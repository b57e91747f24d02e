"""What reaches the terminal, in any encoding, without control characters of others; Ctrl-C ends in time."""

import argparse
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import ROOT
from PIL import Image

from pyramid.commands import cli, terminal
from pyramid.commands.interrupts import Halted, interruptible
from pyramid.commands.terminal import Steady, screen, steady_output, visible
from pyramid.disk import whole
from pyramid.media.files import describe
from pyramid.media.pictures import write_picture
from pyramid.settings import Settings

EVIL = "a\x1b[2J\x07\x9b31m\u202eball\r"


def program(*arguments, cwd, **environment):
    values = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "pyramid", *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=values, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A result with a prompt in Chinese, under such a name."""
    import numpy as np

    settings = Settings(prompt="红球 😀", seed=7, num_frames=1)
    path = tmp_path_factory.mktemp("still") / "红球-7.png"
    return write_picture(path, np.zeros((64, 64, 3), np.uint8), describe(settings, {"identity": "×"}))


# -- encodings


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_no_encoding_turns_success_into_an_error(still, encoding):
    out, err = program("inspect", still, cwd=still.parent, PYTHONIOENCODING=encoding).communicate()
    shown = out.decode(encoding)
    assert "-7.png" in shown and "Again: python -m pyramid" in shown and err == b""
    assert ("红球" in shown) == (encoding == "utf-8") and ("\\u7ea2" in shown) == (encoding != "utf-8")


def test_a_video_made_under_a_narrow_encoding_is_told(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
    asked = ["--prompt", "红球 😀", "--num-frames", "1", "--model", str(tiny_checkpoint), "--output", "out"]
    assert cli.main(["generate", *asked, "--seed", "7"]) == 0 and (tmp_path / "out" / "红球-7.png").is_file()
    assert written.getvalue().decode("cp1252").strip() == os.path.join("out", "\\u7ea2\\u7403-7.png")


@pytest.mark.parametrize("closed", ["reader gone", "stdout closed", "stderr closed"])
def test_nobody_has_to_read(still, closed):
    redirect = {"reader gone": "| true", "stdout closed": ">&-", "stderr closed": "2>&-"}[closed]
    line = f'"{sys.executable}" -m pyramid inspect "{still}" {redirect}; echo "${{PIPESTATUS[0]}}" >&2'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
    assert done.stderr == "0\n"


def test_output_that_nobody_reads_any_more_goes_nowhere():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        steady = Steady(stream)
        for _ in range(3):
            steady.write("x" * 100_000)
            steady.flush()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no disk that is full by nature")
def test_a_full_disk_fails_the_result_and_not_the_words_beside_it(monkeypatch):
    with pytest.raises(OSError, match="No space"), open("/dev/full", "w") as stream:
        Steady(stream).write("x" * 100_000)
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(terminal, "STDERR", stream.fileno())
        Steady(stream).write("x" * 100_000)
        Steady(stream).flush()


# -- control characters


def test_control_characters_become_visible_and_all_else_stays():
    assert visible(EVIL) == r"a\x1b[2J\x07\x9b31m\u202eball\r"
    plain = "Zwölf Bälle\n\tשלום ×½ 红球 😀"
    assert visible(plain) == plain


def test_prints_and_tables_show_them_and_progress_bars_pass(capsys):
    with steady_output():
        print(EVIL)
        sys.stderr.write("\r50 %|####")
        screen().print(f"[b]title[/b] {EVIL}", EVIL)
        screen(force_terminal=True, stderr=True).print("[red]red[/red]")
    out, err = capsys.readouterr()
    assert r"\x1b[2J" in out and not set(out) & set("\x1b\x07\x9b\u202e\r")
    assert err.startswith("\r50 %|####") and "\x1b[31mred" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", f"{EVIL}.png"],
        ["export", f"{EVIL}.mp4"],
        ["generate", "--prompt", "x", "--image", EVIL],
        ["generate", "--prompt", "x", "--device", EVIL],
        ["generate", "--prompt", "x", "--seed", EVIL],
        ["batch", f"{EVIL}.jsonl", "--output-dir", "out"],
        ["resume", EVIL],
        [EVIL],
    ],
    ids=lambda arguments: arguments[0],
)
def test_names_of_others_are_told_without_their_control_characters(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and r"\x1b" in err
    assert not set(err) & set("\x1b\x07\x9b\u202e\r")


def test_settings_of_others_are_shown_without_their_control_characters(tmp_path, capsys):
    import numpy as np

    settings = Settings(prompt=EVIL, negative_prompt="[red]not red[/red]", num_frames=1, preset="x\x1by")
    about = describe(settings, {"identity": EVIL, EVIL: "[bold]x"}, source={"name": EVIL})
    path = write_picture(tmp_path / "\x1b[1mnot bold.png", np.zeros((64, 64, 3), np.uint8), about)
    for arguments in (["inspect", str(path)], ["inspect", "--json", str(path)]):
        assert cli.main(arguments) == 0
        out = capsys.readouterr().out
        assert "[red]not red[/red]" in out and not set(out) & set("\x1b\x07\x9b\u202e\r")


def test_captions_and_lists_of_others_are_told_without_them(tmp_path, capsys):
    path = tmp_path / "list.jsonl"
    path.write_text('{"prompt": "x", "\\u001b[2J": 1}\n')
    assert cli.main(["batch", str(path), "--output-dir", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert r"\x1b" in err and "\x1b" not in err


# -- Ctrl-C


def test_what_looks_at_the_stop_ends_by_itself():
    stop = threading.Event()
    with interruptible(stop):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(1)
    time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_does_not_is_halted_and_keeps_what_is_finished(monkeypatch, number):
    monkeypatch.setattr("pyramid.commands.interrupts.GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(Halted), interruptible(threading.Event()):
        os.kill(os.getpid(), getattr(signal, number))
        time.sleep(60)
    assert time.monotonic() - began < 30


def test_what_catches_that_is_interrupted(monkeypatch):
    monkeypatch.setattr("pyramid.commands.interrupts.GRACE", 0.1)
    with pytest.raises(KeyboardInterrupt), interruptible(threading.Event()):
        os.kill(os.getpid(), signal.SIGINT)
        try:
            time.sleep(10)
        except Exception:
            time.sleep(10)


def test_the_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), interruptible(threading.Event()):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_every_command_is_ended_as_by_ctrl_c(monkeypatch, capsys, tmp_path, number):
    """By `kill`, as a system does it, or by closing its terminal: what is half written goes."""

    def run(_) -> None:
        with whole(tmp_path / "made.mp4") as part:
            part.write_bytes(b"half")
            os.kill(os.getpid(), getattr(signal, number))
            time.sleep(60)

    monkeypatch.setattr("pyramid.commands.export.run", run)
    before = signal.getsignal(signal.SIGTERM)
    assert cli.main(["export", "clip.mp4"]) == 130
    assert "Stopped." in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


SLOW = """
import sys, time
import pyramid.generate.loaded as loaded
from pyramid.commands import cli, terminal
loaded.ladder.load = lambda *_: (print("at it", file=sys.stderr, flush=True), time.sleep(60))
sys.exit(cli.main(["generate", "--prompt", "x", "--model", sys.argv[1]]))
"""


def test_ctrl_c_while_the_model_loads_ends_within_three_seconds(tiny_checkpoint, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tiny_checkpoint)],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "at it" in line:
            break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(10) == 130 and time.monotonic() - began < 30  # it would have slept for a minute
    assert "Stopped." in rest and "Traceback" not in rest


def test_a_closed_terminal_leaves_no_empty_file(tiny_checkpoint, tmp_path):
    """SIGHUP: what was begun can be resumed, and no hidden file stays."""
    asked = [
        "--prompt",
        "x",
        "--model",
        tiny_checkpoint,
        "--num-frames",
        "25",
        "--steps",
        "60",
        "--output",
        "out",
    ]
    process = program("generate", *asked, cwd=tmp_path)
    for line in io.TextIOWrapper(process.stderr):
        if "Sampling" in line:
            break
    process.send_signal(signal.SIGHUP)
    process.stdout.read()
    assert process.wait(10) == 130
    assert not list((tmp_path / "out").glob(".*.part*"))


# -- paths


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_every_flag_of_a_path_knows_the_home_folder(command):
    """A shell replaces `~` only at the beginning of a word, not after "=": whoever adds such a flag reads it
    with `settings.at_home`, or expands it as that does.
    """
    paths = {"FILE", "FOLDER", "PATH"}

    def actions(parser):
        for action in parser._actions:
            if isinstance(getattr(action, "choices", None), dict):
                for sub in action.choices.values():
                    yield from actions(sub) if hasattr(sub, "_actions") else ()
            yield action

    for action in actions(cli.parser(command)):
        if action.metavar in paths or getattr(action.type, "__name__", "") == "Path":
            assert action.type is not None, action
            try:
                read = str(action.type("~/x"))
            except argparse.ArgumentTypeError as error:  # it is read at once
                read = str(error)
            assert os.path.expanduser("~/x") in read, action


def test_a_tilde_after_an_equals_sign_is_the_home_folder(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    asked = ["generate", "--prompt=x", f"--model={tiny_checkpoint}", "--num-frames=9", "--image=~/x.png"]
    assert cli.main([*asked, "--output=~/clips/x.mp4"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "clips" / "x.mp4")
    assert not (tmp_path / "~").exists()
