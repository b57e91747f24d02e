"""The type checker: mypy finds nothing in the files and rooms below, which are those that it reads so far.

A cache in the repository's `.mypy_cache` makes the second run a matter of seconds.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKED = (
    "launch.py",
    "pyramid/settings.py",
    "pyramid/events.py",
    "pyramid/presets.py",
    "pyramid/models",
    "pyramid/hub",
    "pyramid/text",
    "pyramid/memory",
    "pyramid/generate",
    "pyramid/media",
    "pyramid/training",
    "pyramid/jobs",
    "pyramid/commands",
    "pyramid/ui",
    "app.py",
)


@pytest.fixture(scope="module")
def errors() -> list[str]:
    """What mypy says of the whole project, as pyproject.toml sets it up: file:line: error: …"""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr + done.stdout
    return [line.replace("\\", "/") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("place", CHECKED)
def test_the_types_of_a_room_agree(place, errors):
    assert (ROOT / place).exists()
    assert [line for line in errors if line.startswith((f"{place}:", f"{place}/"))] == []
