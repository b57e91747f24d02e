"""launch.py: what it chooses for which machine, what it runs, and that a second start installs nothing.

The environments here are real, but borrow the packages of the one that runs the tests: nothing is downloaded.
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
launch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launch)


@pytest.mark.parametrize(
    "version, card, kept",
    [
        ("2.13.0+cpu", False, True),
        ("2.13.0+cpu", True, False),
        ("2.13.0+cu130", True, True),
        ("2.13.0+cu130", False, True),
        ("2.8.1", True, sys.platform == "linux"),
        ("2.7.1+cu126", True, False),
        ("2.10.0+cpu", False, True),
    ],
)
def test_a_torch_is_kept_when_it_suits_the_machine(version, card, kept):
    assert launch.suits(version, card) is kept


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one build for all")
def test_the_newest_build_that_the_driver_runs_is_tried_first_and_pips_own_sources_before_the_index():
    builds = launch.torch_candidates((12, 9))
    assert [build for build, _ in builds] == ["+cu128", "+cu126", "+cu128", "+cu126", ""]
    assert [bool(options) for _, options in builds] == [False, False, True, True, False]
    builds = [build for build, _ in launch.torch_candidates((12, 4))]  # runs every build of its major version
    assert builds[:2] == ["+cu126", "+cu128"] and launch.torch_candidates((11, 8)) == [("", [])]
    assert [build for build, _ in launch.torch_candidates(None)] == ["+cpu", "+cpu", ""]


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for nvidia-smi is a shell script")
@pytest.mark.parametrize(
    "script, driver",
    [
        ("echo '| NVIDIA-SMI 580.82  Driver Version: 580.82  CUDA Version: 13.0 |'", (13, 0)),
        ("echo '| NVIDIA-SMI 600.10  KMD Version: 600.10  CUDA UMD Version: 13.2 |'", (13, 2)),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None),
        ("echo '| NVIDIA-SMI 470.82  Driver Version: 470.82  CUDA Version: N/A |'", (12, 6)),
    ],
)
def test_the_card_is_what_nvidia_smi_says(tmp_path, monkeypatch, capsys, script, driver):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.nvidia_driver() == driver
    assert ("nvidia-smi does not say" in capsys.readouterr().out) == ("N/A" in script)


def test_without_nvidia_smi_there_is_no_card(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.nvidia_driver() is None


@pytest.fixture
def house(tmp_path):
    """A folder with launch.py, a `.venv` of borrowed packages, one requirement, and a package that echoes."""
    (tmp_path / "launch.py").write_bytes((ROOT / "launch.py").read_bytes())
    (tmp_path / "requirements.txt").write_text("einops>=0.8\n")
    (tmp_path / "pyramid").mkdir()
    (tmp_path / "pyramid" / "__init__.py").touch()  # a package without one yields to any other of its name
    (tmp_path / "pyramid" / "__main__.py").write_text("import os, sys; print(sys.argv[1:], os.getcwd())\n")
    (tmp_path / "app.py").write_text("import sys; print('page', sys.argv[1:])\n")
    venv.create(tmp_path / ".venv", with_pip=False, symlinks=os.name != "nt")
    scheme = "nt_venv" if os.name == "nt" else "posix_venv"
    folder = Path(sysconfig.get_path("purelib", scheme, vars={"base": str(tmp_path / ".venv")}))
    (folder / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return tmp_path


def start(house: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    # No package source at all: whatever is not there already cannot be had.
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    command = [sys.executable, str(house / "launch.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd or house, env=environment)


def test_the_second_start_installs_nothing_and_commands_run_where_the_user_stands(house, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    first = start(house, "generate", "--prompt", "a red ball", cwd=elsewhere)
    assert first.returncode == 0, first.stderr
    assert "launch: keeping torch" in first.stdout
    assert f"['generate', '--prompt', 'a red ball'] {elsewhere}" in first.stdout
    second = start(house, "inspect", "a.mp4", cwd=elsewhere)
    assert second.stdout.strip() == f"['inspect', 'a.mp4'] {elsewhere}"
    assert start(house, "--port", "8000").stdout.strip() == "page ['--port', '8000']"


def test_what_cannot_be_installed_is_one_clear_line_and_is_tried_again(house):
    (house / "requirements.txt").write_text("einops>=99\n")
    for _ in range(2):
        done = start(house, "setup")
        assert done.returncode == 1
        assert done.stderr.startswith("error: pip install failed: Could not find a version that satisfies")
        assert len(done.stderr.splitlines()) == 1


def test_an_unknown_command_is_an_error_and_installs_nothing(tmp_path):
    (tmp_path / "launch.py").write_bytes((ROOT / "launch.py").read_bytes())
    done = start(tmp_path, "genrate")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no command 'genrate'")
    assert not (tmp_path / ".venv").exists()


def test_help_needs_no_installation(tmp_path):
    (tmp_path / "launch.py").write_bytes((ROOT / "launch.py").read_bytes())
    done = start(tmp_path, "--help")
    assert done.returncode == 0
    assert "python launch.py generate" in done.stdout
