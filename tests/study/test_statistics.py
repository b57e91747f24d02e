"""A preference study: twenty raters of known taste are found out.

python -m pytest tests/study/test_statistics.py
"""

import csv
import json
from dataclasses import astuple

import numpy as np
import pytest

from pyramid.commands import cli
from pyramid.study.statistics import COLUMNS, Answer, agreement, bradley_terry, evaluate_study

TASTE = {"ours": 0.8, "theirs": 0.0, "old": -0.8}  # strengths, as logarithms


def simulated(raters: int = 20, prompts: int = 30, ties: float = 0.1) -> list[Answer]:
    """Answers of raters who prefer by TASTE, sides at random."""
    random, names, answers = np.random.default_rng(1), list(TASTE), []
    for rater in range(raters):
        for prompt in range(prompts):
            left, right = random.permutation(names)[:2]
            prefers = 1 / (1 + np.exp(TASTE[right] - TASTE[left]))
            choice = "tie"
            if random.random() >= ties:
                choice = "left" if random.random() < prefers else "right"
            answers.append(Answer(f"r{rater}", f"p{prompt}", str(left), str(right), "motion", choice))
    return answers


@pytest.fixture(scope="module")
def answers():
    return simulated()


def test_the_taste_of_twenty_raters_is_found(answers):
    report = evaluate_study(answers, draws=200)
    found = report["questions"]["motion"]["bradley_terry"]
    assert sorted(found, key=lambda name: -found[name]["strength"]) == list(TASTE)
    for name, taste in TASTE.items():
        low, high = found[name]["interval"]
        assert low < taste * 0.95 < high and low <= found[name]["strength"] <= high  # ties draw together
    assert report["raters"] == 20 and report["prompts"] == 30
    low, high = report["sides"]["left"]["interval"]
    assert low < 0.5 < high


def test_raters_without_a_taste_show_none():
    answers = [Answer(*astuple(a)[:5], "left" if n % 2 else "right") for n, a in enumerate(simulated(8, 10))]
    report = evaluate_study(answers, draws=100)["questions"]["motion"]
    assert all(row["interval"][0] < 0 < row["interval"][1] for row in report["bradley_terry"].values())
    assert abs(report["agreement"]) < 0.2


def test_two_systems_have_the_strengths_that_their_shares_say():
    answers = [Answer(f"r{n}", "p", "a", "b", "q", "left" if n < 75 else "right") for n in range(100)]
    strengths = bradley_terry(answers, ["a", "b"])
    assert strengths[0] - strengths[1] == pytest.approx(np.log(75.5 / 25.5), abs=1e-6)
    pair = evaluate_study(answers, draws=5)["questions"]["q"]["pairs"][0]
    low, high = pair["share of first"]["interval"]
    assert (round(low, 3), round(high, 3)) == (0.657, 0.825)  # Wilson


def test_agreement_is_one_where_all_agree_and_not_known_where_nobody_saw_the_same():
    same = [
        Answer(f"r{n}", p, "a", "b", "q", c) for n in range(3) for p, c in (("p", "left"), ("q", "right"))
    ]
    assert agreement(same) == pytest.approx(1)
    assert agreement([Answer("r", "p", "a", "b", "q", "left")]) is None


def test_an_interval_that_few_answers_cannot_tell_is_not_known(tmp_path, capfd):
    one = Answer("r1", "p1", "a", "b", "q", "left")
    path, out = tmp_path / "answers.csv", tmp_path / "report.json"
    for few in ([one], [one, Answer("r2", "p2", "b", "a", "q", "right")]):  # half of the draws have none
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *map(astuple, few)])
        assert cli.main(["evaluate", "study", "--answers", str(path), "--export", str(out)]) == 0
        told = json.loads(out.read_text())["questions"]["q"]["bradley_terry"]["a"]
        assert told["strength"] == pytest.approx(np.log((len(few) + 0.5) / 0.5) / 2)
        assert told["interval"] is None and capfd.readouterr().out.count("not known") >= 2


def test_a_rare_draw_without_answers_about_a_system_leaves_the_interval_finite():
    answers = [Answer(f"r{n}", f"p{n % 4}", "a", "b", "q", "right" if n % 3 else "left") for n in range(12)]
    answers += [Answer(f"r{n}", f"p{n % 4}", "a", "c", "q", "left") for n in range(12)]
    found = evaluate_study(answers, draws=200)["questions"]["q"]["bradley_terry"]
    assert all(-5 < low <= high < 5 for low, high in (row["interval"] for row in found.values()))


def test_the_command_writes_a_report_and_tells_what_cannot_be_read(answers, tmp_path, capfd):
    path, out = tmp_path / "answers.csv", tmp_path / "report.json"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *map(astuple, answers)])
    run = ["evaluate", "study", "--answers", str(path), "--draws", "50"]
    assert cli.main([*run, "--export", str(out)]) == 0 and "ours" in capfd.readouterr().out
    assert json.loads(out.read_text())["answers"] == len(answers)
    assert cli.main([*run, "--export", str(tmp_path / "report.csv")]) == 0
    assert (tmp_path / "report.csv").read_text().startswith("question,first,second,wins")
    path.write_text(path.read_text().replace(",tie", ",both", 1))
    assert cli.main(run) == 2 and "choice = 'both'" in capfd.readouterr().err
