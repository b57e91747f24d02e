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
import yaml

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
CUDA = re.compile(r"^CUDA_BUILDS = \((.+?)\)  ", re.M)


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


def test_the_changelog_tells_of_this_version():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == PROJECT["version"]


def test_python_and_torch_are_the_same_in_launch_and_in_the_project():
    launch = (ROOT / "launch.py").read_text(encoding="utf-8")
    least = PROJECT["requires-python"].removeprefix(">=").split(".")
    assert f"sys.version_info < ({', '.join(least)})" in launch
    oldest = re.search(r"OLDEST_TORCH = \((\d+), (\d+)\)", launch)
    assert f"torch>={oldest[1]}.{oldest[2]},<3" in PROJECT["dependencies"]


def test_the_image_has_the_torch_that_launch_installs():
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    launch = (ROOT / "launch.py").read_text(encoding="utf-8")
    torch = re.search(r'^TORCH = "(.+)"', launch, re.M)[1]
    assert f"torch=={torch}" in image
    builds = {f"cu{major}{minor}" for major, minor in re.findall(r"\((\d+), (\d)\)", CUDA.search(launch)[1])}
    assert set(re.findall(r"cu\d+", image)) == builds
    copied = re.findall(r"^(?:COPY|ENTRYPOINT).*?(\w+\.(?:txt|py))", image, re.M)
    assert copied == ["requirements.txt", "app.py"] and all((ROOT / name).is_file() for name in copied)


def test_the_workflow_runs_what_everybody_runs_on_three_systems():
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))["jobs"]
    matrix = jobs["tests"]["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert jobs["tests"]["steps"][-1]["run"] == "python launch.py test"
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]


def test_a_commit_is_checked_by_the_ruff_that_the_tests_have():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    assert {hook["entry"].split(" --")[0] for hook in hooks} == {"ruff check", "ruff format"}
    assert all(set(hook["additional_dependencies"]) <= set(EXTRAS["dev"]) for hook in hooks)


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
