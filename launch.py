"""The only file you need to start: installs what this machine needs into `.venv`, then runs what you ask for.

    python launch.py                      the page, at http://127.0.0.1:7860
    python launch.py --port 8000 --share  the page, with options (`python launch.py app --help` lists them)
    python launch.py generate --prompt "a red ball moves to the right over a green meadow"
    python launch.py drafts | resume | batch | inspect | export | download | doctor | plan | train | …
    python launch.py setup                install (or check and repair the installation), and run nothing
    python launch.py test                 install the test tools too, and run the tests (`test -k vae`: some)

Standard library only; Linux, Windows and macOS; Python 3.11 or newer. A torch that suits the machine is kept
where there is one, in `.venv` or in the Python that runs this file; otherwise the build with CUDA is
installed where there is an NVIDIA card, and the much smaller one without CUDA where there is not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TORCH = "2.13.0"
OLDEST_TORCH = (2, 8)  # an older one that is already there is replaced
TORCH_INDEX = "https://download.pytorch.org/whl/"
CUDA_BUILDS = ((13, 0), (12, 8), (12, 6))  # newest first; one that torch's index lacks is passed over
# pytest's, where it runs all: two processes share the files, in the order of tests/conftest.py.
TWO_AT_ONCE = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
COMMANDS = (
    "generate",
    "drafts",
    "resume",
    "batch",
    "inspect",
    "export",
    "edit",
    "join",
    "loop",
    "download",
    "doctor",
    "plan",
    "bench",
    "data",
    "train",
    "evaluate",
)


class Failure(Exception):
    """Something the user has to know, in one line."""


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - this file also runs under the Python it complains of
        raise Failure(f"Python 3.11 or newer is needed; {sys.executable} is {platform.python_version()}")
    command = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0
    if command not in (None, "app", "setup", "test", *COMMANDS):
        raise Failure(f"there is no command {command!r}; there are app, setup, test, {', '.join(COMMANDS)}")
    rest = arguments[1:] if command else arguments
    install(tests=command == "test", check=command == "setup")
    if command == "setup":
        return 0
    if command == "test":
        os.chdir(ROOT)
        return run("-m", "pytest", "-q", *TWO_AT_ONCE, *rest)
    if command in COMMANDS:
        return run("-m", "pyramid", command, *rest)
    return run(str(ROOT / "app.py"), *(rest or browser_option()))


def run(*arguments: str) -> int:
    """Run the environment's Python where the user stands, as this very process where the system allows it."""
    command = [str(venv_python()), *arguments]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.stdout.flush()
    if os.name == "posix":
        os.execv(command[0], command)
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 130


def browser_option() -> list[str]:
    """Open the page in a browser where there is a screen to open it on."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["--inbrowser"] if screen or sys.platform in ("win32", "darwin") else []


def install(tests: bool, check: bool) -> None:
    """Make `.venv` hold torch and the requirements; immediate when it already does and `check` is off."""
    lists = [ROOT / "requirements.txt"] + [ROOT / "tests" / "requirements.txt"] * tests
    mark = VENV / "installed.txt"
    done = set(mark.read_text().split()) if mark.is_file() else set()
    if not check and {state(file) for file in lists} <= done and venv_python().exists():
        return
    if not venv_python().exists():
        make_environment()
    elif subprocess.run([str(venv_python()), "-m", "pip", "--version"], capture_output=True).returncode:
        # A first start was interrupted, or the environment was made by a tool that leaves pip out.
        subprocess.run([str(venv_python()), "-m", "ensurepip"])
    install_torch()
    say(f"installing what {' and '.join(str(file.relative_to(ROOT)) for file in lists)} ask for")
    pip("install", *[part for file in lists for part in ("-r", str(file))])
    mark.write_text("\n".join(done | {state(file) for file in lists}))
    say("ready")


def state(requirements: Path) -> str:
    """A mark of what was installed: another list, another Python in `.venv` or another torch changes it."""
    environment = VENV / "pyvenv.cfg"
    python = environment.read_bytes() if environment.is_file() else b""
    return hashlib.sha256(b"\0".join([requirements.read_bytes(), python, TORCH.encode()])).hexdigest()


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment() -> None:
    """Create `.venv`, which sees this Python's packages when a torch that suits the machine is among them."""
    own = torch_here() if sys.prefix == sys.base_prefix else None
    share = own is not None and suits(own, nvidia_driver() is not None)
    say(f"making .venv with Python {platform.python_version()}" + (f", keeping torch {own}" if share else ""))
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)] + ["--system-site-packages"] * share
    if subprocess.run(command).returncode:
        hint = "; Debian and Ubuntu need `sudo apt install python3-venv`" if sys.platform == "linux" else ""
        raise Failure(f"could not make the environment {VENV}{hint}")


def install_torch() -> None:
    """Keep a torch that suits the machine, or install one: from pip's own sources, else PyTorch's index."""
    driver = nvidia_driver()
    there = torch_in_environment()
    if there and suits(there, driver is not None):
        say(f"keeping torch {there}")
        return
    machine = f"an NVIDIA card (driver for CUDA {driver[0]}.{driver[1]})" if driver else "no NVIDIA card"
    say(f"this machine has {machine}: installing torch {TORCH}, with{'' if driver else 'out'} CUDA")
    for build, sources in torch_candidates(driver):
        try:
            pip("install", f"torch=={TORCH}{build}", *sources)
            break
        except Failure as error:
            reason = error
    else:
        raise Failure(f"no torch {TORCH} could be installed: {reason}")
    if not suits(torch_in_environment() or "0", driver is not None):
        say("note: only a torch without CUDA could be had, so the NVIDIA card will not be used")


def torch_candidates(driver: tuple[int, int] | None) -> list[tuple[str, list[str]]]:
    """(build suffix, extra pip options) in the order to try; the last is whatever pip finds by itself."""
    if sys.platform == "darwin":
        return [("", [])]
    if driver:
        # A driver runs all builds of its major version, also newer ones: those come last, the nearest first.
        newer = [build for build in reversed(CUDA_BUILDS) if build > driver and build[0] == driver[0]]
        builds = [
            f"cu{major}{minor}"
            for major, minor in [*(build for build in CUDA_BUILDS if build <= driver), *newer]
        ]
    else:
        builds = ["cpu"]
    near: list[tuple[str, list[str]]] = [(f"+{build}", []) for build in builds]
    # An index that cannot be reached must cost seconds, not pip's five patient retries.
    index = [(f"+{build}", ["--extra-index-url", TORCH_INDEX + build, "--retries", "1"]) for build in builds]
    return [*near, *index, ("", [])]


def suits(version: str, card: bool) -> bool:
    """Whether an installed torch is recent enough and, where there is a card, built for CUDA."""
    release, _, build = version.partition("+")
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    for_cuda = build.startswith("cu") or (not build and sys.platform == "linux")  # as PyPI's own Linux build
    return numbers >= OLDEST_TORCH and (for_cuda or not card)


def nvidia_driver() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver runs, or None without a card."""
    try:
        answer = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode:
        return None
    found = re.search(r"CUDA[\w ]* Version:\s*(\d+)\.(\d+)", answer.stdout)
    if found is None:
        oldest = CUDA_BUILDS[-1]
        say(f"note: nvidia-smi does not say which CUDA its driver runs: {oldest[0]}.{oldest[1]} is taken")
        return oldest
    return int(found[1]), int(found[2])


def torch_here() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_in_environment() -> str | None:
    question = "import importlib.metadata as m; print(m.version('torch'))"
    answer = subprocess.run([str(venv_python()), "-c", question], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None


def pip(*arguments: str) -> None:
    """Run the environment's pip with its output in view; a `Failure` carries its first error line."""
    command = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
        raise Failure(f"pip {arguments[0]} failed: {(errors or lines[-1:] or ['it gave no reason'])[0]}")


def say(text: str) -> None:
    print(f"launch: {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
