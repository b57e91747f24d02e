"""The house rules that a machine can check: who may import whom, file sizes, and ruff.

The table below is the architecture: what each module of `pyramid` may import from `pyramid`. Imports of the
standard library are free; third-party imports are limited only where the table of `OUTSIDE` says so.
"""

import ast
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pyramid"

INSIDE = {  # module -> the modules of ours it may import; a folder stands for all that is in it
    "events": set(),
    "settings": set(),
    "presets": {"settings"},
    "schedule": set(),
    "latents": {"schedule"},
    "models": {"models"},
    "text": {"settings", "checkpoints"},
    "checkpoints": {"settings"},
    "download": {"settings", "checkpoints"},
    "files": {"settings"},
    "preview": set(),
    "video": {"files", "settings"},
    "export": {"files", "preview", "settings", "video"},
    "estimate": {"settings", "checkpoints"},
    "loading": {"models", "text"},
    "machine": {"settings"},
    "memory": {"settings", "checkpoints", "estimate", "loading", "machine", "pipeline"},
    "doctor": {"settings", "checkpoints", "machine", "memory"},
    "measure": {"settings", "checkpoints", "machine", "memory", "loading", "estimate", "pipeline", "events"},
    "sampler": {"schedule", "latents", "events"},
    "request": {"settings", "sampler", "text", "video", "events"},
    "pipeline": {"request", "sampler", "text", "models", "loading", "checkpoints", "video", "settings", "events"}
    | {"schedule", "latents"},
    "recovery": {"events", "files", "settings"},
    "ladder": {"events", "checkpoints", "loading", "memory", "models"},
    "parallel": {"models", "loading"},
    "database": set(),
    "record": {"files", "settings"},
    "sources": {"settings", "video"},
    "jobs": {"database", "files", "record", "settings", "sources"},
    "speed": {"settings"},
    "growing": {"files", "video"},
    "run": {"jobs", "speed", "growing", "recovery", "ladder", "export", "files", "video", "preview", "events"}
    | {"checkpoints", "latents", "settings"},
    "worker": {"jobs", "run", "speed", "files", "settings", "checkpoints", "memory", "loading", "ladder", "preview"},
    "bench": {"machine", "models", "schedule", "latents", "sampler", "pipeline", "settings", "events", "video"},
    "training": {"training", "models", "schedule", "latents", "text", "video", "checkpoints"}
    | {"machine"},
    "ui": {"ui", "jobs", "worker", "run", "record", "settings", "files", "preview", "video", "export", "checkpoints"}
    | {"download", "memory", "presets", "text", "speed"},
}
OUTSIDE = {  # module -> the only packages from elsewhere it may import
    "events": {"torch", "numpy"},
    "settings": set(),
    "schedule": {"torch"},
    "latents": {"torch"},
    "sampler": {"torch"},
    "models": {"torch", "einops", "diffusers"},
}
# The front doors: they only bring the rest together.
FREE = {"__init__", "__main__", "cli", "console", "resume", "batch", "cluster", "prompt_list"}
# Judging a trained model needs the whole pipeline; the trainer's own samples come from the same sampler.
EXTRA = {
    "training/evaluate": {"pipeline", "settings", "events", "memory"},
    "training/dit": {"sampler", "events"},
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in it, with relative imports resolved."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            # `from . import latents` names a module, `from .latents import down` a thing in one.
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "pyramid" else {module}
    return names


@pytest.mark.parametrize("path", modules(), ids=str)
def test_a_module_imports_only_what_its_place_allows(path):
    inside = path.relative_to(PACKAGE).with_suffix("")
    name = inside.parts[0]
    if name in FREE:
        return
    assert name in INSIDE, f"{name} has no place in the architecture yet: add it to INSIDE"
    allowed = INSIDE[name] | EXTRA.get(inside.as_posix(), set())
    for imported in imports(path):
        top, *inner = imported.split(".")
        if top == "pyramid":
            assert inner and inner[0] in allowed, f"{name} imports {imported}, and may {sorted(allowed)}"
        elif name in OUTSIDE and top not in sys.stdlib_module_names:
            assert top in OUTSIDE[name], f"{name} imports {top}, and may {sorted(OUTSIDE[name])}"


def test_only_the_page_imports_gradio_and_only_the_app_imports_the_page():
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] != "ui":
            names = imports(path)
            assert not {"gradio", "app"} & {name.split(".")[0] for name in names}, path
            assert not any(name.startswith("pyramid.ui") for name in names), path


def test_the_page_imports_gradio_and_pyramid_only():
    outside = {name.split(".")[0] for name in imports(ROOT / "app.py")} - sys.stdlib_module_names
    assert outside <= {"gradio", "pyramid", "numpy", "PIL"}, outside


def test_launch_needs_the_standard_library_only():
    assert {name.split(".")[0] for name in imports(ROOT / "launch.py")} <= sys.stdlib_module_names


def test_importing_the_package_needs_no_card_and_no_page():
    code = "import sys, pyramid; assert 'gradio' not in sys.modules and 'moviepy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [*modules(), *ROOT.glob("*.py"), *ROOT.glob("tests/*.py")], ids=str)
def test_files_say_what_they_are_and_stay_short(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} opens without saying what it is"
    assert len(text.splitlines()) <= 400, f"{path} has {len(text.splitlines())} lines"


def test_ruff_is_content():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    assert ruff, "ruff is missing: python launch.py test installs it"
    done = subprocess.run([ruff, "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def declared(file: str) -> set[str]:
    lines = (ROOT / file).read_text().splitlines()
    return {re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")}


def test_every_package_that_is_imported_is_in_the_requirements_and_the_other_way_round():
    known, wanted = metadata.packages_distributions(), declared("requirements.txt")
    imported = {name.split(".")[0] for path in [*modules(), ROOT / "app.py"] for name in imports(path)}
    imported -= {"pyramid", "ray", *sys.stdlib_module_names}  # ray is for a cluster, and asked for by name
    owners = {name: {owner.lower().replace("_", "-") for owner in known.get(name, [])} for name in imported}
    assert {name for name, owner in owners.items() if not owner & wanted} == set()
    unseen = {
        "bitsandbytes": "transformers and diffusers load weights in 8 and 4 bit through it",
        "protobuf": "sentencepiece's model format is read through it",
        "scikit-image": "its photographs are read as files",
        "scikit-learn": "its photographs are read as files",
    }
    assert wanted - set().union(*owners.values()) == set(unseen)
