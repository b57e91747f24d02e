"""What a message tells to do exists in the program that prints it: each flag named is one of its own."""

import argparse
import ast
import re
from pathlib import Path

import pytest

import app
from pyramid.commands import cli

ROOT = Path(__file__).parent.parent.parent
FLAG = re.compile(r"(?<![\w(-])--[a-z][a-z0-9_-]+")
# Of ray, pip and torchrun, which are named too, and of the style sheet.
OF_OTHERS = {
    "--head",
    "--force-reinstall",
    "--nproc-per-node",
    "--nproc_per_node",
    "--num_processes",
    "--ratio",
    "--line",
    "--columns",
    "--ramp",
}
OF_THE_PAGE = {"ui", "app.py"}
SHARED = {"jobs", "memory", "generate", "media", "hub", "text", "models"}  # what both programs print


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    found = set()
    for action in parser._actions:
        found |= {*action.option_strings}
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                found |= flags_of(sub)
    return found


def messages(path: Path):
    """(line, text) of each string of a module that is no docstring and no flag itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""  # a docstring
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def flags_of_the_page(monkeypatch) -> set[str]:
    seen = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, *_: seen.append(self))
    app.parse([])
    return flags_of(seen[0])


@pytest.fixture
def known(monkeypatch):
    return {
        "page": flags_of_the_page(monkeypatch) | OF_OTHERS,
        "commands": set().union(*(flags_of(cli.parser(name)) for name in cli.COMMANDS)) | OF_OTHERS,
    }


def programs_of(path: Path) -> list[str]:
    """Which programs print what a module says."""
    room = path.relative_to(ROOT / "pyramid").parts[0] if path.is_relative_to(ROOT / "pyramid") else path.name
    if room in OF_THE_PAGE:
        return ["page"]
    return ["page"] if room in SHARED else ["commands"]


def test_each_flag_that_a_message_names_is_one_of_the_program(known):
    strange = []
    for path in [*sorted((ROOT / "pyramid").rglob("*.py")), ROOT / "app.py"]:
        for line, text in messages(path):
            flags = {flag.rstrip("-") for flag in FLAG.findall(text)}
            # `generate --help` is a program of its own: what is named with it is its own flag
            other = re.search(rf"\b({'|'.join(cli.COMMANDS)})( \w+)? --", text)
            for program in ["commands"] if other else programs_of(path):
                strange += [f"{path.name}:{line}: {flag}" for flag in flags - known[program]]
    assert not strange


def test_what_the_page_and_the_commands_share_has_the_same_flags(known):
    both = known["page"] & known["commands"]
    assert {"--device", "--dtype", "--memory", "--quantize", "--model", "--variant"} <= both
