"""Tables are read in a terminal of 80 columns: no line is longer, and no word or number is cut off."""

import io
import re
from types import SimpleNamespace

import pytest

from pyramid.commands import cli
from pyramid.commands.terminal import screen
from pyramid.evaluation.evaluate import Share
from pyramid.evaluation.few_steps import JUDGED, MOVES, as_table


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def lines_of(capsys, *argv) -> list[str]:
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) in (0, 1)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_plans_fit(tiny_checkpoint, narrow, capsys, size):
    more = ["--width", 1280, "--height", 768, "--seconds", 10] if size == "large" else []
    lines = lines_of(capsys, "plan", "--model", tiny_checkpoint, *more)
    table = [line for line in lines if line.startswith(("┃", "│"))]
    assert table and max(map(len, table)) <= 80 and not re.search("…", "".join(table))
    assert any(line.startswith("cpu: text on cpu") for line in lines)


def test_what_doctor_says_fits(narrow, capsys, tmp_path):
    lines = lines_of(capsys, "doctor", "--output", tmp_path)
    assert max(map(len, lines)) <= 80 and not any("…" in line for line in lines if "│" in line)


def test_the_comparison_of_samplers_and_steps_fits():
    row = SimpleNamespace(
        way=SimpleNamespace(variant="128p-fast"),
        sampler="multistep",
        steps=(20, 20, 20),
        evaluations=1234,
        forwards=2468,
        seconds={"sample": 12.345, "decode": 12.345},
        scores=dict.fromkeys(JUDGED, Share(99, 100)),
        error=0.1234,
        sharpness=1.0,
        diversity=1.0,
        moves=dict(zip(MOVES.values(), (Share(31, 40), Share(25, 40), -12.34, 0.512), strict=True)),
    )
    out = io.StringIO()
    screen(file=out, width=80).print(as_table([row], "embedded: 100 videos each, seeds from 0"))
    said = out.getvalue()
    assert "…" not in said and max(map(len, said.splitlines())) <= 80
    assert all(
        word in said
        for word in ("128p-fast", "multistep", "20-20-20", "1234 ×2", "0.123", "31/40", "-12.3", "51%")
    )
