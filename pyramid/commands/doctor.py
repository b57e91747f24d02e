"""What this machine can do for this program, and what to fix: `python -m pyramid doctor`.

Each line is green (well), amber (works, but …) or red (cannot work), and where it is not green says what to
do. `--json` prints the same for programs. Exit code 1 when anything is red, else 0.
"""

import argparse
import json
import platform
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from pyramid.commands.terminal import screen
from pyramid.disk import nearest, unwritable
from pyramid.memory.device import FIRST_WITH_BFLOAT16, MAIN, AppleGraphics, CudaCard, Processor, runs_on
from pyramid.settings import MODELS, Settings, at_home

GREEN = "green"
AMBER = "amber"
RED = "red"
LOW_DISK = 2e9  # bytes below which results and caches are at risk
LARGE_DISK = 30e9  # what a published model and its results take


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, its color, what was found, what to do about it."""

    name: str
    state: str
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pyramid doctor`."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--output", type=at_home, default=Path("outputs"), help="the folder that results go to"
    )


def run(args: argparse.Namespace) -> int:
    """Look at everything and print it."""
    findings = examine(args.output)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        show(findings)
    return int(any(finding.state == RED for finding in findings))


def show(findings: list[Finding]) -> None:
    from rich.table import Table

    table = Table(show_header=False)
    for _ in ("name", "state"):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path is read to its end
    colors = {GREEN: "green", AMBER: "yellow", RED: "red"}
    words = {GREEN: "ok", AMBER: "note", RED: "fix"}
    for finding in findings:
        text = f"{finding.found}\n→ {finding.advice}" if finding.advice else finding.found
        table.add_row(finding.name, f"[{colors[finding.state]}]{words[finding.state]}[/]", text)
    screen().print(table)


def examine(output: Path) -> list[Finding]:
    """All findings, most important first."""
    return [
        python_and_torch(),
        nvidia_card(),
        *memory(),
        disk(output),
        writable(output),
        ffmpeg(),
        bitsandbytes(),
        *models(),
    ]


# -- the findings


def python_and_torch() -> Finding:
    import torch

    found = (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{platform.system()} {platform.machine()}"
    )
    return Finding("software", GREEN, found)


def nvidia_driver() -> dict[str, str] | None:
    """Driver and name of the first NVIDIA card by the driver's own tool; None where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        asked = [tool, "--query-gpu=driver_version,name,compute_cap", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return driver_of(done.stdout) if done.returncode == 0 and done.stdout.strip() else None


def driver_of(said: str) -> dict[str, str]:
    """The first card of what nvidia-smi says. ValueError for anything else than a card's line."""
    line = said.strip().splitlines()[0]
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)+)\s*,\s*(.+?)\s*,\s*(\d+\.\d+|\[?N/A\]?)\s*", line)
    if found is None:
        raise ValueError(f"nvidia-smi says {line[:80]!r}, where driver, name and capability are expected")
    return dict(zip(("driver", "name", "capability"), found.groups(), strict=True))


def nvidia_card() -> Finding:
    """The graphics card; a tool of its driver that cannot be understood is a finding too."""
    try:
        return card(nvidia_driver())
    except ValueError as error:
        return Finding("card", AMBER, str(error), "run nvidia-smi by hand: the driver may be damaged")


def card(driver: dict[str, str] | None) -> Finding:
    """The graphics card, and whether this torch can use it. `driver`: what `nvidia_driver` found."""
    import torch

    if not CudaCard.count():
        return without_cuda(driver, torch.version.cuda, AppleGraphics.count() > 0)
    found = CudaCard.asked()
    version = (driver or {}).get("driver", "unknown")
    assert found.capability
    return with_cuda(found.label, found.capability, CudaCard.built_for(), version)


def without_cuda(driver: dict[str, str] | None, built_for: str | None, mps: bool) -> Finding:
    """No CUDA in torch: is there a card all the same? `built_for`:
    the CUDA version of torch, None for a CPU build.
    """
    if driver and built_for is None:
        return Finding(
            "device",
            RED,
            f"{driver['name']} is there, but this torch is built for processors only",
            "python launch.py setup installs the one that suits the card into .venv",
        )
    if driver:
        return Finding(
            "device",
            RED,
            f"{driver['name']} is there, but CUDA {built_for} does not start with driver {driver['driver']}",
            "install a newer driver from https://www.nvidia.com/drivers and restart",
        )
    if mps:
        return Finding("device", AMBER, "Apple's graphics (mps)", "use --device mps; it is not tested")
    return Finding(
        "device",
        AMBER,
        "no graphics card: everything runs on the processor",
        "the embedded model takes seconds, the published ones hours",
    )


def with_cuda(name: str, capability: tuple[int, int], built: list[str], driver: str) -> Finding:
    """A CUDA card: whether torch has kernels for it. `built`: see `CudaCard.built_for`."""
    own = f"{capability[0]}{capability[1]}"
    found = f"{name}, capability {capability[0]}.{capability[1]}, driver {driver}"
    if not runs_on(capability, built):
        newer = all(int(own) > int(arch[3:].rstrip("af")) for arch in built if arch.startswith("sm_"))
        advice = (
            "a newer torch is needed: https://pytorch.org/get-started/locally has the command"
            if newer
            else "this card is older than what this torch is built for: use --device cpu, or an older torch"
        )
        return Finding("device", RED, f"{found}; this torch is built for {', '.join(built)}", advice)
    if capability < FIRST_WITH_BFLOAT16:
        return Finding(
            "device",
            AMBER,
            f"{found}; no bfloat16",
            "float16 is used, every step checked for overflow; --dtype float32 is slower and safe",
        )
    return Finding("device", GREEN, f"{found}; bfloat16")


def _main_memory(free: int, found: str) -> Finding:
    if free < 1.2e9:
        return Finding("main memory", RED, found, "close other programs")
    if free < 12e9:
        enough = "enough for the embedded model; T5-XXL of the published ones wants 12 GB"
        return Finding("main memory", AMBER, found, enough)
    return Finding("main memory", GREEN, found, "")


def memory() -> list[Finding]:
    """Free graphics and main memory, and the plan that the embedded model gets."""
    from pyramid.hub.checkpoints import find
    from pyramid.memory.machine import Machine
    from pyramid.memory.plan import describe, make_plan

    machine = Machine.here()
    dtype = Processor.here(MAIN).best_dtype()
    found = (
        f"{machine.free_ram / 1e9:.1f} of {machine.total_ram / 1e9:.1f} "
        f"GB free; the processor computes in {dtype}"
    )
    findings = [_main_memory(machine.free_ram, found)]
    if machine.free_vram:
        little = machine.free_vram < 6e9
        findings.append(
            Finding(
                "graphics memory",
                AMBER if little else GREEN,
                f"{machine.free_vram / 1e9:.1f} of {machine.total_vram / 1e9:.1f} GB free",
                "close other programs that use the card; see python -m pyramid plan" * little,
            )
        )
    try:
        plan = make_plan(find("embedded"), Settings(), machine)
        findings.append(Finding("plan", GREEN if plan.fits else RED, describe(plan)))
    except ValueError as error:
        findings.append(Finding("plan", RED, str(error)))
    return findings


def disk(output: Path) -> Finding:
    """Room where results and downloaded models go."""
    from huggingface_hub import constants

    places = {"results": output, "models": Path(constants.HF_HUB_CACHE)}
    free = {name: shutil.disk_usage(nearest(path.expanduser())).free for name, path in places.items()}
    found = ", ".join(f"{size / 1e9:.0f} GB free for {name}" for name, size in free.items())
    if min(free.values()) < LOW_DISK:
        return Finding("disk", RED, found, "make room, or choose another disk with --output and HF_HOME")
    if free["models"] < LARGE_DISK:
        return Finding(
            "disk", AMBER, found, "a published model takes 16 to 30 GB: set HF_HOME to a larger disk first"
        )
    return Finding("disk", GREEN, found)


def writable(output: Path) -> Finding:
    if why := unwritable(output.expanduser()):
        return Finding("results", RED, why, "choose another folder with --output")
    return Finding("results", GREEN, f"go to {output}")


def ffmpeg() -> Finding:
    """The encoder of videos: run once, as a binary that is there may still not start."""
    import imageio_ffmpeg

    fix = (
        "python -m pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to another ffmpeg"
    )
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        done = subprocess.run([path, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=60)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        return Finding("ffmpeg", RED, f"cannot be run: {error}", fix)
    if done.returncode or "libx264" not in done.stdout:
        return Finding("ffmpeg", RED, f"{path} has no libx264", fix)
    return Finding("ffmpeg", GREEN, f"version {imageio_ffmpeg.get_ffmpeg_version()}")


def bitsandbytes() -> Finding:
    """Optional: 8 and 4 bit weights."""
    from importlib import metadata

    try:
        return Finding("8 and 4 bit", GREEN, f"bitsandbytes {metadata.version('bitsandbytes')}")
    except metadata.PackageNotFoundError:
        return Finding(
            "8 and 4 bit",
            AMBER,
            "bitsandbytes is not installed: T5 stays in 16 bit",
            "python -m pip install bitsandbytes",
        )


def models() -> list[Finding]:
    """Which models are here, and whether they are whole."""
    from pyramid.hub.checkpoints import find, verify

    findings = []
    for name in MODELS:
        try:
            checkpoint = find(name)
            verify(checkpoint)
            findings.append(Finding(name, GREEN, f"variant {checkpoint.variant}, complete"))
        except ValueError as error:
            needed = name == "embedded"
            advice = "" if needed else f"python -m pyramid download {name}"
            findings.append(Finding(name, RED if needed else AMBER, str(error), advice))
    return findings
