"""The README stays true: its commands parse, what it names exists,
and its examples run on the embedded model.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pyramid.commands.cli import parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
TREE = next(text for kind, text in BLOCKS if not kind)
EMBEDDED = ROOT / "assets" / "embedded"
needs_model = pytest.mark.skipif(not EMBEDDED.is_dir(), reason="assets/embedded is not there")


def tree() -> list[str]:
    """The paths of the file tree, two spaces a level."""
    paths, folders = [], []
    for line in TREE.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        paths.append("".join(folders[:depth]) + name)
        folders[depth:] = [name]
    return paths


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command):
    python, program, *arguments = shlex.split(command)
    assert (python, program) == ("python", "launch.py")
    if arguments and not arguments[0].startswith("-"):
        launch = (ROOT / "launch.py").read_text()
        assert f'"{arguments[0]}"' in launch, f"launch.py has no command {arguments[0]}"
        parsed = parser(arguments[0]).parse_args(arguments)
        for value in (getattr(parsed, "config", None), getattr(parsed, "preset", None)):
            names = [ROOT / str(value), ROOT / "presets" / f"{value}.toml"]
            assert value is None or any(name.is_file() for name in names), f"{value} is not there"
    else:
        from app import parse

        parse(arguments)


def test_all_that_the_tree_names_is_there_and_all_rooms_are_in_the_tree():
    named = tree()
    assert [path for path in named if not (ROOT / path).exists()] == []
    rooms = {f"pyramid/{path.parent.name}/" for path in (ROOT / "pyramid").glob("*/__init__.py")}
    assert rooms - set(named) == set()


def test_pictures_and_links_into_the_repository_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README)
    local = [a or b for a, b in targets if not (a or b).startswith("http")]
    assert local and [path for path in local if not (ROOT / path).exists()] == []


@needs_model
def test_the_first_commands_do_what_they_say(tmp_path):
    said = ""
    for command in [line for line in COMMANDS if "ball.mp4" in line]:
        arguments = ["-m", "pyramid", *shlex.split(command)[2:]]
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, env=here()
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout
    assert "a red ball moves to the right" in said
    assert (tmp_path / "ball.mp4").stat().st_size > 1000 and (tmp_path / "ball.gif").stat().st_size > 1000


@needs_model
def test_the_python_example_runs(tmp_path):
    code = next(text for kind, text in BLOCKS if kind == "python" and "PyramidFlowPipeline" in text)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=here()
    )
    assert done.returncode == 0, done.stderr
    assert "(8, 128, 128, 3)" in done.stdout


def here() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
