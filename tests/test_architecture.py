"""The house rules that a machine can check: who may import whom, what each file says of itself, and ruff.

The table below is the architecture: what each room of `pyramid` may import from the others, from the ground
floor up.
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

ROOMS = {  # room -> what it may import from other rooms
    "wording": set(),
    "timeline": {"wording"},
    "settings": {"timeline", "wording"},
    "events": set(),
    "disk": set(),
    "failures": {"settings"},
    "models": {"disk"},
    "hub": {"settings", "disk", "wording"},
    "media": {"settings", "disk"},
    "presets": {"settings", "hub", "disk", "media"},
    "text": {"settings", "hub", "disk"},
    "memory": {"settings", "events", "hub", "models", "text", "disk"},
    "generate": {"timeline", "settings", "events", "models", "text", "memory", "hub", "media", "disk"}
    | {"wording"},
    "jobs": {"settings", "failures", "events", "models", "text", "memory", "hub", "media", "generate"}
    | {"timeline", "disk", "wording"},
    "study": {"settings", "media", "jobs"},
    "training": {"settings", "events", "models", "text", "memory", "hub", "generate", "media", "disk"}
    | {"wording"},
}
ROOMS["evaluation"] = ROOMS["training"] | {"training"}
ROOMS["ui"] = ROOMS["jobs"] | {"presets", "jobs", "study"}
ROOMS["commands"] = ROOMS["ui"] | {"training", "evaluation"}
PURE = {  # room or module -> the only packages from elsewhere it may import
    "wording": set(),
    "timeline": set(),
    "settings": set(),
    "disk": set(),
    "events": {"torch", "numpy"},
    "models": {"torch", "einops", "safetensors", "diffusers"},
    "generate/schedule": {"torch"},
    "generate/latents": {"torch"},
    "generate/sampler": {"torch"},
}
DOORS = {"__init__", "__main__"}  # they only lead into the rooms


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
def test_a_module_imports_only_what_its_room_allows(path):
    place = path.relative_to(PACKAGE).with_suffix("")
    room = place.parts[0]
    if room in DOORS:
        return
    assert room in ROOMS, f"{room} is no room of the architecture: {', '.join(ROOMS)}"
    pure = PURE.get(place.as_posix(), PURE.get(room))
    for imported in imports(path):
        top, *inner = imported.split(".")
        if top == "pyramid":
            assert inner and inner[0] in ROOMS[room] | {room}, (
                f"{room} imports {imported}, and may {ROOMS[room]}"
            )
        elif pure is not None and top not in sys.stdlib_module_names:
            assert top in pure, f"{place} imports {top}, and may {sorted(pure)}"


def test_no_arrow_runs_up_and_there_is_no_circle():
    floors = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(floors.index(other) < floors.index(room) for other in below), room


def test_no_modules_of_a_room_import_each_other_in_a_circle():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in modules()}
    below = {name: imports(path) & names.keys() - {name} for name, path in names.items()}
    while leaves := {name for name, its in below.items() if not its}:
        below = {name: its - leaves for name, its in below.items() if name not in leaves}
    assert not below


def test_every_room_says_what_lives_there():
    for room in ROOMS:
        if (PACKAGE / room).is_dir():
            assert ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())), room


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


@pytest.mark.parametrize("path", [*modules(), *ROOT.glob("*.py"), *ROOT.glob("t*/**/*.py")], ids=str)
def test_files_say_what_they_are(path):
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} opens without saying what it is"


@pytest.mark.parametrize("folder", ["pyramid", "tools", "tests", "."])
def test_no_function_is_longer_than_forty_lines(folder):
    """From its `def` to its end, docstring included."""
    long = []
    for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                long += [f"{path.relative_to(ROOT)}: {node.name} has {lines}"] if lines > 40 else []
    assert not long


def test_no_conditional_expression_stands_in_another():
    for path in [*modules(), *ROOT.glob("*.py"), *(ROOT / "tools").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.IfExp):
                parts = (node.test, node.body, node.orelse)
                assert not any(isinstance(part, ast.IfExp) for part in parts), f"{path}:{node.lineno}"


def test_attributes_are_set_one_at_a_time():
    for path in [*modules(), *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                targets = [part for target in node.targets for part in getattr(target, "elts", ())]
                assert not any(isinstance(part, ast.Attribute) for part in targets), f"{path}:{node.lineno}"


def test_private_operations_of_torch_stand_in_one_adapter():
    """Where the public way is slower: each says why, and a test compares it with the public way."""
    private = re.compile(r"\btorch(?:\.\w+)*\._[a-z]\w+")
    found = {path: private.findall(path.read_text(encoding="utf-8")) for path in modules()}
    assert {path.name: uses for path, uses in found.items() if uses} == {
        "layers.py": ["torch.ops.mkldnn._linear_pointwise"]
    }


def test_no_test_imports_another_so_that_each_runs_alone():
    for path in (ROOT / "tests").rglob("test_*.py"):
        assert not [name for name in imports(path) if name.startswith("test_")], path


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
    optional = {
        "ray",
        "pillow_heif",
        "pyarrow",
        "tensorboard",
        "sr_vulkan",
    }  # extras, imported where they are needed
    imported -= {"pyramid", *optional, *sys.stdlib_module_names}
    owners = {name: {owner.lower().replace("_", "-") for owner in known.get(name, [])} for name in imported}
    assert {name for name, owner in owners.items() if not owner & wanted} == set()
    unseen = {
        "protobuf": "sentencepiece's model format is read through it",
        "scikit-learn": "its photographs are read as files",
        "tensorboard": "a training goes on without it",
    }
    assert wanted - set().union(*owners.values()) == set(unseen)
