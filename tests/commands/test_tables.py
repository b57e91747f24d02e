"""Tables are read in a terminal of 80 columns: no line is longer, and no word or number is cut off."""

import io
import re
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyramid.commands import cli, data, evaluate_report, evaluate_study, evaluate_vbench, inspect
from pyramid.commands.terminal import screen
from pyramid.evaluation import evaluate
from pyramid.evaluation.evaluate import Share
from pyramid.evaluation.few_steps import JUDGED, MOVES, as_table
from pyramid.generate.benchmark import clip_table, forward_table
from pyramid.generate.footprint import Measured
from pyramid.settings import Settings
from pyramid.training.clips.doctor import Report


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


def test_the_comparison_of_ways_and_samplers_fits(tiny_checkpoint, narrow, capsys, monkeypatch, tmp_path):
    """`plan --compare`, whose runs are not made here, of a model whose folder has an odd name."""
    from pyramid.commands import plan_tables

    clip = np.zeros((2, 8, 8, 3), np.uint8)
    runs = count()

    def measure(*_) -> Measured:
        made = next(runs)
        latents = torch.full((1, 1), 1.0 + 123.4567 * made)
        return Measured(123_456_789_012, 987_654_321_098, 0, 1234.567 * (made + 1), latents, clip + made)

    monkeypatch.setattr(plan_tables, "measure", measure)
    model = tmp_path / "[red]a model"
    model.symlink_to(tiny_checkpoint)
    more = ["--width", 1280, "--height", 768, "--seconds", 10]
    lines = lines_of(capsys, "plan", "--model", model, "--compare", "--sheet", tmp_path / "sheet.png", *more)
    tables = [line for line in lines if line.startswith(("┃", "│"))]
    assert max(map(len, tables)) <= 80 and "…" not in "".join(tables)
    assert "2, 2, 2" in "".join(tables) and "error" in "".join(tables) and "red]a model" in "".join(lines)
    assert (tmp_path / "sheet.png").is_file()


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


LONG = (
    "a-folder-with-a-name-that-is-longer-than-any-terminal-is-wide/[/b][red]checkpoint-of-the-second-run.mp4"
)


def shown(table) -> str:
    """A table in a terminal of 80 columns."""
    out = io.StringIO()
    screen(file=out, width=80).print(table)
    assert max(map(len, out.getvalue().splitlines())) <= 80
    return out.getvalue()


def column(said: str, number: int) -> str:
    """The text of a table's column, without its breaks."""
    rows = [re.split("[│┃]", line) for line in said.splitlines() if line.startswith(("│", "┃"))]
    return "".join(row[number].replace(" ", "") for row in rows)


def test_the_tables_of_bench_fit():
    forward = SimpleNamespace(unit=255, stage=3, tokens=123_456, seconds=123.456, middle=123.456, flops=1e15)
    unit = SimpleNamespace(unit=255, sampling=1234.56, decoding=1234.56)
    for table in (forward_table([forward], 1e12), clip_table([unit])):
        assert "…" not in shown(table)


def test_the_doctor_of_clips_names_files_of_any_name():
    report = Report("jsonl", items=9, examined=8, broken={f"unreadable: {LONG}": [LONG, "[/]"]})
    said = shown(data.as_table(report, ("words", [1, 2, 3])))
    assert "…" not in said and LONG in column(said, 1) and f"2:{LONG},[/]" in column(said, 2)


def test_the_results_of_a_study_fit():
    row = {"strength": 1.23, "interval": (-1.0, 2.0)}
    told = {"agreement": None, "bradley_terry": {LONG: row, "b": row}}
    (table,) = evaluate_study.tables_of({"raters": 12, "questions": {"Which moves [/b] more?": told}})
    said = shown(table)
    assert "…" not in said and LONG in column(said, 1) and "moves [/b] more" in said


def test_the_dimensions_of_vbench_fit():
    rows = {LONG: (82.123, None, 71.5)}
    said = shown(evaluate_vbench.table_of(rows, {"dimensions": {"temporal_flickering": 99.123}}))
    assert "…" not in said and LONG in column(said, 1) and "not known" in said


def test_a_comparison_of_two_checkpoints_fits():
    told = {"means": {LONG: 1.2345, "b": 12345.6}, "difference": {"mean": -1.234, "interval": (-2.0, 1.0)}}
    found = {
        "systems": [LONG, "b"],
        "prompts": ["a"],
        "measures": {"temporal consistency": told},
        "judged": {},
        "frechet": {},
    }
    (table,) = evaluate_report.table_of(found)
    said = shown(table)
    assert "…" not in said and LONG in column(said, 2)


def test_what_an_evaluation_says_fits():
    results = {"the right thing in the right color, moving the right way, of all": Share(99, 100), "b": 1.0}
    assert "…" not in shown(evaluate.as_table(results, LONG))


def test_the_settings_of_a_foreign_file_fit():
    settings = Settings(prompt=f"[/b] {LONG}", lora="a:1", seed=2**53 - 1)
    metadata = {"model": {"identity": LONG}, "source": {"name": "[/]"}, "timings": {"sample": 1.5}}
    said = shown(inspect.table_of(settings, metadata))
    assert "…" not in said and LONG in column(said, 2)
