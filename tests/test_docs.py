"""The documentation stays true: commands parse, examples run on the embedded model and against a running
page, links and paths exist, and the tree of files is the one that is there.
"""

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from helpers import program

import app
from pyramid.commands import cli
from pyramid.commands.prompt_list import read_list
from pyramid.presets import load_preset
from pyramid.timeline import load_timeline
from pyramid.training.recipe import load_recipe

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
EMBEDDED = ROOT / "assets" / "embedded"
ADDRESS = "http://127.0.0.1:7860"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
needs_model = pytest.mark.skipif(not EMBEDDED.is_dir(), reason="assets/embedded is not there")


class Block(NamedTuple):
    """Something between three backticks: its page, its kind and its text."""

    page: str
    kind: str
    text: str


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(kind: str) -> list[Block]:
    found = [(page, *re.findall(r"^```(\w*)\n(.*?)^```", read(page), re.M | re.S)) for page in PAGES]
    named = [Block(page.name, *block) for page, *inside in found for block in inside]
    return [block for block in named if block.kind == kind]


COMMANDS = [(block.page, line) for block in blocks("sh") for line in block.text.splitlines()]
EXAMPLES = [block for block in blocks("python") if "gradio_client" not in block.text]
CLIENTS = [block for block in blocks("python") if "gradio_client" in block.text]


# -- commands


@pytest.mark.parametrize("page, command", COMMANDS)
def test_every_command_is_understood(page, command):
    program, *arguments = shlex.split(command)
    check = {
        "python": python_command,
        ".venv/bin/python": python_command,
        "pyramid-flow": pyramid_command,
        "torchrun": lambda words: pyramid_command(words[words.index("pyramid") + 1 :]),
        "docker": docker_command,
    }.get(program)
    if check:
        check(arguments)
    else:
        assert program in ("curl", "git", "pre-commit", "ray"), f"{program} is nothing that a test knows"


def python_command(words: list[str]) -> None:
    """What follows `python`: launch.py, app.py, a tool, or a module."""
    program, *rest = words
    if program == "-m":
        module, *rest = rest
        assert module in ("pyramid", "pip", "ruff", "pytest", "mypy")
        if module == "pyramid":
            pyramid_command(rest)
        elif module == "pip":
            pip_command(rest)
    elif program == "launch.py" and rest and rest[0] in ("setup", "test"):
        assert all((ROOT / word).exists() for word in rest if "/" in word)
    elif program == "launch.py" and rest and not rest[0].startswith("-") and rest[0] != "app":
        assert f'"{rest[0]}"' in read(ROOT / "launch.py"), f"launch.py has no command {rest[0]}"
        pyramid_command(rest)
    elif program in ("launch.py", "app.py"):
        parse(app.parse, [word for word in rest if word != "app"])
    else:
        assert (ROOT / program).is_file(), f"{program} is not there"


def pyramid_command(words: list[str]) -> None:
    parsed = parse(cli.parser(words[0]).parse_args, words)
    for value in (getattr(parsed, "config", None), getattr(parsed, "preset", None)):
        names = [ROOT / str(value), ROOT / "presets" / f"{value}.toml"]
        assert value is None or any(name.is_file() for name in names), f"{value} is not there"


def parse(parser, words: list[str]):
    """What a parser makes of the words; None where they ask for help."""
    try:
        return parser(words)
    except SystemExit as end:
        assert end.code == 0, words


def pip_command(words: list[str]) -> None:
    """`pip install` of something that the project declares, with extras that it has."""
    assert words[0] == "install"
    declared = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    known = {re.split(r"[<>=]", name)[0] for name in declared}
    for word in words[1:]:
        name, _, extras = word.rstrip("]").partition("[")
        if name == ".":
            assert set(filter(None, extras.split(","))) <= set(PROJECT["optional-dependencies"])
        else:
            assert word in known or word == "-e", word


def docker_command(words: list[str]) -> None:
    """`docker build`, or `docker run` with what app.py is given after the image."""
    assert words[0] in ("build", "run")
    if words[0] == "run" and "--entrypoint" not in words:
        image = next(index for index, word in enumerate(words) if re.fullmatch(r"pyramid-flow(:\w+)?", word))
        parse(app.parse, ["--listen", *words[image + 1 :]])


@needs_model
@pytest.mark.parametrize("page", ["README.md", "command-line.md"])
def test_the_commands_do_what_they_say(page, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets", target_is_directory=True)
    (tmp_path / "prompts.jsonl").write_text(blocks("jsonl")[0].text)
    lists = 0
    for _, command in [pair for pair in COMMANDS if pair[0] == page]:
        _, program, *words = shlex.split(command)
        lists += words[:1] == ["batch"]
        runs = words[:1] in (["generate"], ["drafts"], ["inspect"], ["export"]) or (
            words[:1] == ["batch"] and lists == 1
        )
        if program == "launch.py" and runs and "miniflux" not in words:
            if "--prompt" in words and not {"--steps", "--preset"} & set(words):
                words += ["--steps", "2", "--video-steps", "2"]  # the commands are tried, not the pictures
            assert cli.main(words) == 0, f"{command}: {capfd.readouterr().err}"
    assert "a red ball moves to the right" in capfd.readouterr().out
    assert (tmp_path / "ball.mp4").stat().st_size > 1000 and (tmp_path / "ball.gif").stat().st_size > 1000


# -- examples


@needs_model
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: block.page)
def test_the_python_examples_run(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(example.text, example.page, "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert said and ("stream" not in example.text or "(8, 128, 128, 3)" in said)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[str]:
    """The address of the page, started as a user starts it."""
    with program(tmp_path_factory.mktemp("page")) as (_, address, _):
        yield address.rstrip("/")


@needs_model
@pytest.mark.parametrize("example", CLIENTS, ids=lambda block: block.page)
def test_the_client_examples_run_against_the_page(example, page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert ADDRESS in example.text
    exec(compile(example.text.replace(ADDRESS, page), example.page, "exec"), {"__name__": "__main__"})
    assert "done" in capsys.readouterr().out


@needs_model
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not there")
def test_the_page_answers_what_curl_asks(page):
    event = ""
    for _, command in [pair for pair in COMMANDS if pair[1].startswith("curl")]:
        words = shlex.split(command.replace(ADDRESS, page).replace("EVENT_ID", event))
        answer = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
        event = json.loads(answer)["event_id"] if answer.startswith("{") else event
    assert "event: complete" in answer and "quick" in answer


def test_what_is_written_as_a_file_is_read_as_one(tmp_path):
    path = tmp_path / "list.jsonl"
    for block in blocks("jsonl"):
        path.write_text(block.text)
        assert len(read_list(path)) == len(block.text.splitlines())
    for number, block in enumerate(blocks("toml")):
        path = tmp_path / f"example-{number}.toml"
        path.write_text(block.text)
        if "[[unit]]" in block.text:
            assert load_timeline(path) == load_timeline(ROOT / "assets" / "examples" / "turn.toml")
        else:
            (load_preset if "description" in block.text else load_recipe)(str(path))
    assert all(json.loads(block.text) for block in blocks("json"))
    assert all(yaml.safe_load(block.text.strip("-\n")) for block in blocks("yaml"))


# -- what is named is there


def anchors(text: str) -> set[str]:
    """The names by which a page's headings are linked to, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, EMBEDDED / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    if not page.is_file():
        pytest.skip("not in this checkout")
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name} links to {target}"
            assert not anchor or anchor in anchors(read(file)), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_text_exist(page):
    """As `pyramid/settings.py`, seen from the package `generate/sampler.py`, or with a name after a colon."""
    text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
    for path, name in re.findall(r"`([\w.-]+/[\w./-]*|\w+\.(?:py|toml|txt|md))(?::([\w.]+))?`", text):
        found = [place / path for place in (ROOT, ROOT / "pyramid") if (place / path).exists()]
        top = path.split("/")[0]
        if not found and top not in ("pyramid", "tests", "tools", "presets", "assets", "docs"):
            assert not (ROOT / "pyramid" / top).exists() and not name, f"{page.name} names {path}"
            continue  # a path of somebody else's, such as outputs/
        assert found, f"{page.name} names {path}"
        assert not name or name in names(found[0]), f"{page.name} names {name} of {path}"


def names(path: Path) -> set[str]:
    """What a module defines: functions, classes, their methods as Class.method, and variables."""
    found = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def tree() -> list[str]:
    """The paths of the tree of files, two spaces a level."""
    paths, folders = [], []
    for line in blocks("")[0].text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        paths.append("".join(folders[:depth]) + name)
        folders[depth:] = [name]
    return paths


def test_all_that_the_tree_names_is_there_and_all_rooms_are_in_the_tree():
    named = tree()
    assert [path for path in named if not (ROOT / path).exists()] == []
    rooms = {path.parent.relative_to(ROOT) for path in (ROOT / "pyramid").rglob("__init__.py")}
    assert {f"{room.as_posix()}/" for room in rooms} - set(named) == set()
