"""What several tests do: run the program as a user does, and end it."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@contextmanager
def program(folder: Path, *arguments: str, **environment: str):
    """app.py at work: (process, address of the page, the lines that it printed until it was there)."""
    command = [sys.executable, "-u", str(ROOT / "app.py"), "--output-dir", str(folder / "outputs")]
    values = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, *arguments], env=values, cwd=folder, **streams) as process:
        try:
            printed = []
            for line in process.stdout:
                printed.append(line)
                if found := re.search(r"The page is at (\S+)", line):
                    yield process, found[1], printed
                    break
            else:
                pytest.fail("app.py ended without serving a page: " + "".join(printed))
        finally:
            process.kill()


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> str:
    """End it as a system does, or by another signal; the rest of what it printed."""
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(120) in (0, 130)
    return rest
