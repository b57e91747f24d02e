"""A kept study: nothing that a rater gets tells a system, and twenty raters of known taste are found out.

python -m pytest tests/study/test_study_kept.py
"""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from pyramid.commands import cli
from pyramid.media.files import read_metadata
from pyramid.media.video import VideoWriter
from pyramid.study.clips import prompt_of, videos_by_prompt
from pyramid.study.kept import CHOICES, QUESTIONS, Plan, Study
from pyramid.study.statistics import COLUMNS

PROMPTS = ["a red ball rises", "a blue ring stays", "a white star falls", "a gray cat"]
GREEN, RED = (20, 200, 40), (200, 30, 30)


def folder_of(folder, color, frames: int = 4, size: int = 32):
    """A video of each prompt in one color, as others' programs name them."""
    folder.mkdir()
    for prompt in PROMPTS:
        clip = np.zeros((frames, size, size, 3), np.uint8) + np.array(color, np.uint8)
        about = {"settings": {"prompt": prompt}, "system": "secret-name"}
        with VideoWriter(folder / f"{prompt}-0.mp4", 8, (size, size), about) as writer:
            writer.write(clip)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("systems")
    return {"green": folder_of(root / "green", GREEN), "red": folder_of(root / "red", RED)}


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """A study that the command made: 20 raters, 4 prompts, 2 checks; nobody has answered."""
    folder = tmp_path_factory.mktemp("study") / "kept"
    asked = ["--make", str(folders["green"]), f"other={folders['red']}", "--checks", "2", "--raters", "20"]
    assert cli.main(["evaluate", "study", "--study", str(folder), *asked]) == 0
    return folder


@pytest.fixture(scope="module")
def study(made):
    study = Study(made)
    yield study
    study.close()


def system_at(study: Study, token: str, place: int) -> list[tuple[str, int]]:
    """The truth: (system, whether ruined) of both sides."""
    clips = {row["id"]: (row["system"], row["ruined"]) for row in study.db.rows("SELECT * FROM clips")}
    return [clips[study.clip(token, place, side).stem] for side in "ab"]


def test_a_rater_is_told_nothing_that_names_a_system(study):
    token = study.links()["rater 3"]
    state = study.state(token)
    told = json.dumps([state, *(study.item(token, place) for place in range(state["of"]))])
    assert state["of"] == 6 and state["done"] == 0 and set(state["questions"]) == set(QUESTIONS)
    assert not any(word in told for word in ("green", "other", "system", ".mp4", "check", "ruin", "rater"))
    for place in range(state["of"]):
        for side in "ab":
            path = study.clip(token, place, side)
            assert path.parent.name == "clips" and len(path.stem) == 24
            assert b"secret-name" not in path.read_bytes() and PROMPTS[0].encode() not in path.read_bytes()
            with pytest.raises(ValueError):
                read_metadata(path)
    with pytest.raises(KeyError):
        study.state("another-token")
    with pytest.raises(KeyError):
        study.clip(token, 6, "a")


def test_sides_and_order_are_drawn_for_each_rater_and_balanced(study):
    orders, sides = set(), Counter()
    for token in study.links().values():
        orders.add(tuple(study.item(token, place)["prompt"] for place in range(6)))
        lefts = [system_at(study, token, place) for place in range(6)]
        pairs = [left[0] for left, right in lefts if left[0] != right[0]]
        sides.update(pairs)
        assert len(pairs) == 4 and pairs.count("green") == 2  # half on either side
        assert sum(left[1] for left, right in lefts) == 1 and sum(right[1] for left, right in lefts) == 1
    assert len(orders) > 15


def test_an_answer_needs_both_clips_and_takes_no_longer_than_there_was_time(study, made):
    token = study.links()["rater 19"]
    with pytest.raises(ValueError, match="after both clips"):
        study.check_sent(token, 0, 60)
    for side in ("a", "b", "a"):
        assert study.sent(token, 0, side) == study.clip(token, 0, side)
    assert study.check_sent(token, 0, 60) < 5  # whatever the browser says
    for name in ("nobody", token + "x"):
        with pytest.raises(KeyError):
            study.sent(name, 0, "a")
    with pytest.raises(KeyError):
        study.check_sent(token, 999, 1)


def test_answers_are_kept_replaced_and_resumed(study, made):
    token = study.links()["rater 20"]
    study.answer(token, 0, dict.fromkeys(QUESTIONS, "a"), 3.5)
    again = Study(made)  # a program that was started anew
    assert again.state(token)["done"] == 1 and again.item(token, 0)["given"] == dict.fromkeys(QUESTIONS, "a")
    again.answer(token, 0, dict.fromkeys(QUESTIONS, "tie"))
    assert study.item(token, 0)["given"]["motion"] == "tie"
    for wrong in ({}, {"motion": "a"}, dict.fromkeys(QUESTIONS, "c"), dict.fromkeys(QUESTIONS, ["a"])):
        with pytest.raises(ValueError, match="an answer to each"):
            study.answer(token, 1, wrong)
    with study.db.change() as db:
        db.execute("DELETE FROM answers")
    again.close()


def test_twenty_raters_prefer_green_and_the_study_finds_it(study, made, tmp_path, capfd):
    """Nine of ten choices of 17 raters are green, whatever the side; three press the left side all the
    time, which the checks find out. The prompt's words decide nothing.
    """
    random = np.random.default_rng(5)
    for number, token in enumerate(study.links().values()):
        for place in range(study.state(token)["of"]):
            (left, ruined), (_, also_ruined) = system_at(study, token, place)
            if ruined or also_ruined:
                side = "b" if ruined else "a"
            else:
                green = "a" if left == "green" else "b"
                side = green if random.random() < 0.9 else {"a": "b", "b": "a"}[green]
            tied = "tie" if not (ruined or also_ruined) else side
            given = {"aesthetics": side, "motion": side, "prompt": tied}
            study.answer(token, place, given if number > 2 else dict.fromkeys(QUESTIONS, "a"), 4.0)
    out, answers = tmp_path / "report.json", tmp_path / "answers.csv"
    run = ["evaluate", "study", "--study", str(made), "--draws", "200"]
    assert cli.main([*run, "--export", str(out), "--export-answers", str(answers)]) == 0
    report = json.loads(out.read_text())
    assert report["raters"] == 17 and "rater 1, rater 2, rater 3" in capfd.readouterr().err
    found = report["questions"]["motion"]["bradley_terry"]
    assert found["green"]["interval"][0] > 0 > found["other"]["interval"][1]
    share = report["questions"]["motion"]["pairs"][0]["share of first"]
    assert share["interval"][0] < 0.9 < share["interval"][1]
    assert report["questions"]["prompt"]["pairs"][0]["ties"] == 17 * 4
    assert report["blind"]["differences that can be seen"] == [] and report["study"]["checks"] == 2
    assert [row["counted"] for row in report["rated"]] == [False] * 3 + [True] * 17
    with answers.open() as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 1 + 17 * 4 * 3
    assert (
        cli.main(["evaluate", "study", "--answers", str(answers), "--export", str(tmp_path / "p.csv")]) == 0
    )


def test_raters_who_see_a_part_see_all_pairs_about_as_often(folders, tmp_path):
    systems = {name: {p: paths[0] for p, paths in videos_by_prompt(f).items()} for name, f in folders.items()}
    study = Study.make(tmp_path / "s", systems, Plan(tuple("abcdef"), items=2, checks=0, seed=3))
    seen = Counter()
    for token in study.links().values():
        mine = [study.item(token, place)["prompt"] for place in range(study.state(token)["of"])]
        assert len(set(mine)) == len(mine) == 2
        seen.update(mine)
    assert sorted(seen.values()) == [3, 3, 3, 3]
    assert study.token_of_account("ana") == study.token_of_account("ana") != study.links()["a"]
    study.close()
    with pytest.raises(ValueError, match="a study already"):
        Study.make(tmp_path / "s", systems, Plan(("a",)))


def test_sizes_rates_and_lengths_that_differ_are_told(folders, tmp_path):
    other = folder_of(tmp_path / "other", RED, frames=6, size=48)
    systems = {
        name: {p: paths[0] for p, paths in videos_by_prompt(f).items()}
        for name, f in (("green", folders["green"]), ("large", other))
    }
    study = Study.make(tmp_path / "s", systems, Plan(("a",), checks=0))
    told = " ".join(study.blindness()["differences that can be seen"])
    assert "sizes differ: green [(32, 32)]; large [(48, 48)]" in told and "numbers of frames differ" in told
    study.close()


def test_prompts_are_found_in_records_and_in_names(folders, tmp_path):
    assert prompt_of(folders["green"] / f"{PROMPTS[0]}-0.mp4") == PROMPTS[0]
    bare = tmp_path / "a gray cat-3.mp4"
    with VideoWriter(bare, 8, (16, 16), keep="none") as writer:
        writer.write(np.zeros((1, 16, 16, 3), np.uint8))
    assert videos_by_prompt(tmp_path, ["A  gray cat"]) == {"A  gray cat": [bare]}
    with pytest.raises(ValueError, match="no video for 1 of 2 prompts"):
        videos_by_prompt(tmp_path, ["a gray cat", "a dog"])


@pytest.mark.parametrize(
    "asked, words",
    [
        (["--make", "{green}"], "two systems or more"),
        (["--make", "{green}", "green={red}"], "two are called 'green'"),
        (["--make", "{green}", "nothing-here"], "is not a folder of videos, a model"),
        (["--make", "{green}", "{red}", "--checks", "3"], "an even number"),
        (["--make", "{green}", "{red}", "--raters", "ana,ana"], "a name that no other has"),
        (
            ["--make", "{green}", "{red}", "--raters", "-1"],
            "--raters -1: how many, 1 to 1000",
        ),
        (["--make", "{green}", "{red}", "--raters", "99999999999"], "1 to 1000"),
        (["--make", "{green}", "{red}", "--raters", "2.5"], "1 to 1000"),
        (["--make", "{green}", "{red}", "--items", "9"], "1 to 4"),
        ([], "holds no study"),
    ],
)
def test_what_cannot_be_a_study_is_told(folders, tmp_path, capfd, asked, words):
    asked = [word.format(**folders) for word in asked]
    assert cli.main(["evaluate", "study", "--study", str(tmp_path / "none"), *asked]) == 2
    assert words in capfd.readouterr().err
    assert set(CHOICES.values()) == {"left", "right", "tie"}
