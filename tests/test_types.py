"""The type checker: mypy finds nothing in the package, the page's program and the launcher.

A cache in the repository's `.mypy_cache` makes the second run a matter of seconds.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_types_agree():
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
