"""The project as others install it: the lists of what it needs agree, and a wheel of it runs."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def listed(file: str) -> list[str]:
    """The requirements of a list, without its comments."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return sorted(line for line in lines if line and not line.startswith("#"))


def test_what_launch_installs_is_what_the_project_declares():
    assert listed("requirements.txt") == sorted(PROJECT["dependencies"] + EXTRAS["train"])
    assert listed("tests/requirements.txt") == sorted(EXTRAS["dev"])


def test_the_entry_point_is_a_function_and_the_license_is_there():
    for target in PROJECT["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))
    assert all((ROOT / name).is_file() for name in [*PROJECT["license-files"], PROJECT["readme"]])


def test_python_and_torch_are_the_same_in_launch_and_in_the_project():
    launch = (ROOT / "launch.py").read_text(encoding="utf-8")
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert f"sys.version_info < ({', '.join(least)})" in launch
    oldest = re.search(r"OLDEST_TORCH = \((\d+), (\d+)\)", launch)
    assert f"torch>={oldest[1]}.{oldest[2]},<3" in PROJECT["dependencies"]


@pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="a wheel is built by setuptools")
def test_a_wheel_is_built_and_its_command_line_runs(tmp_path):
    source, wheels, there = tmp_path / "source", tmp_path / "wheels", tmp_path / "there"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "pyramid", source / "pyramid", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--no-index"]
    run(*pip, "wheel", *options, "--no-build-isolation", "--wheel-dir", str(wheels), str(source))
    wheel = next(wheels.glob("pyramid_flow-*.whl"))
    run(*pip, "install", *options, "--no-compile", "--target", str(there), str(wheel))
    rooms = {path.parent.relative_to(ROOT) for path in (ROOT / "pyramid").rglob("__init__.py")}
    assert [str(room) for room in rooms if not (there / room / "__init__.py").is_file()] == []
    code = "import sys; sys.path.insert(0, sys.argv.pop()); from pyramid.__main__ import main; main()"
    assert "generate" in run(sys.executable, "-c", code, "--help", str(there), cwd=tmp_path)


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
