"""VBench's arithmetic against published figures.

python -m pytest tests/training/test_vbench.py
"""

import json

import pytest

from pyramid.commands import cli
from pyramid.training.vbench import RANGES, aggregate, read_results

PAPER = "96.95 98.06 99.49 99.12 64.63 63.26 65.01 86.67 50.71 85.6 82.87 59.53 43.20 20.91 23.09 26.23"
COGVIDEOX = "96.78 96.63 98.89 97.73 59.86 60.82 61.68 83.37 62.63 98.0 79.41 69.90 51.14 24.80 24.36 26.66"


def scores(text: str) -> dict[str, float]:
    return dict(zip(RANGES, (float(value) / 100 for value in text.split()), strict=True))


@pytest.mark.parametrize(
    "text, published", [(PAPER, (84.74, 69.62, 81.72)), (COGVIDEOX, (82.18, 75.83, 80.91))]
)
def test_published_figures_come_out(text, published):
    figures = aggregate(scores(text))
    for name, value in zip(("quality", "semantic", "total"), published, strict=True):
        assert figures[name] == pytest.approx(value, abs=0.01), name
    assert figures["missing"] == [] and figures["dimensions"]["dynamic_degree"] == pytest.approx(
        float(text.split()[4])
    )


def test_files_of_some_dimensions_each_become_the_figures(tmp_path, capfd):
    for number, (name, score) in enumerate(scores(PAPER).items()):
        (tmp_path / f"results_{number}_eval_results.json").write_text(json.dumps({name: [score, [{}]]}))
    (tmp_path / "full_info.json").write_text('[{"prompt_en": "a"}]')
    out = tmp_path / "out" / "figures.json"
    assert cli.main(["evaluate", "vbench", "--aggregate", str(tmp_path), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["total"] == pytest.approx(81.72, abs=0.01) and len(figures["dimensions"]) == 16
    assert "CogVideoX-2B" in capfd.readouterr().out


def test_a_missing_dimension_is_named_and_never_counted_as_nothing(tmp_path, capfd):
    some = scores(PAPER)
    del some["scene"]
    (tmp_path / "a.json").write_text(json.dumps({name: [score, []] for name, score in some.items()}))
    out = tmp_path / "f.txt"
    assert cli.main(["evaluate", "vbench", "--aggregate", str(tmp_path), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["missing"] == ["scene"] and "scene" not in figures["dimensions"]
    assert figures["semantic"] is None and figures["total"] is None
    assert figures["quality"] == pytest.approx(84.74, abs=0.01) and "scene" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text, words", [("{", "JSON"), ('{"scene": ["no"]}', "no score"), ('{"a": 1}', "no result")]
)
def test_what_is_no_result_is_told(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_results(tmp_path)


def test_two_files_that_disagree_are_told(tmp_path):
    for name, score in (("a", 0.5), ("b", 0.6)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"scene": [score, []]}))
    with pytest.raises(ValueError, match="keep one"):
        read_results(tmp_path)
