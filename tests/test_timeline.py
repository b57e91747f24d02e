"""Timelines: how they are written, and what they tell a unit.

python -m pytest tests/test_timeline.py
"""

import json

import pytest

from pyramid.settings import Settings, SettingsError
from pyramid.timeline import Cue, UnitPlan, branched, load_timeline, plan_unit, read_timeline, told

PLAIN = UnitPlan.plain(4.0, (8, 8, 8))
TOML = """
[[unit]]
from = 3
prompt = "it grows"
ease = 2
guidance = [5, 4, 3]

[[unit]]
from = 1
steps = 2
seed = 9
"""


def test_a_file_becomes_the_same_text_as_json(tmp_path):
    (tmp_path / "a.toml").write_text(TOML)
    text = load_timeline(tmp_path / "a.toml")
    assert [table["from"] for table in json.loads(text)] == [1, 3]
    (tmp_path / "a.json").write_text(text)
    assert load_timeline(tmp_path / "a.json") == text
    settings = Settings(prompt="a ball", timeline=json.loads(text)).validate()
    assert settings.timeline == text and Settings.from_dict(settings.to_dict()) == settings
    assert "from unit 3, over 2 units: 'it grows'" in told(settings.cues)


def test_what_a_table_leaves_out_goes_on_and_words_come_slowly(tmp_path):
    (tmp_path / "a.toml").write_text(TOML)
    cues = read_timeline(load_timeline(tmp_path / "a.toml"))
    plans = [plan_unit(cues, PLAIN, unit) for unit in range(6)]
    assert plans[0] == PLAIN
    assert plans[2] == UnitPlan(((None, 1.0),), (4.0, 4.0, 4.0), (2, 2, 2), 9)
    assert plans[3].words == ((None, 0.5), ("it grows", 0.5)) and plans[3].guidance == (4.5, 4.0, 3.5)
    assert plans[4] == plans[5] == UnitPlan((("it grows", 1.0),), (5.0, 4.0, 3.0), (2, 2, 2), 9)


@pytest.mark.parametrize(
    "timeline, words",
    [
        ("no", "no JSON"),
        ("[" * 100_000, "lie too deep in each other"),
        ('[{"from": ' + "9" * 5000 + "}]", "too many digits"),
        ("\ufeff[1]", "list of tables"),
        ("{}", "list of tables"),
        ([{"prompt": "a"}], "from which unit"),
        ([{"from": -1}], "0 to"),
        ([{"from": 1, "word": "a"}], "'word' is unknown"),
        ([{"from": 1, "guidance": "5"}], "number is expected"),
        ([{"from": 1, "guidance": 99}], "1 to 30"),
        ([{"from": 1, "steps": 0}], "1 to 200"),
        ([{"from": 1, "steps": [1, 2]}], "give 1 or 3"),
        ([{"from": 1, "prompt": "x" * 2001}], "2000"),
        ([{"from": 1}, {"from": 1}], "put them together"),
    ],
)
def test_what_cannot_be_used_is_told(timeline, words):
    with pytest.raises(SettingsError, match="timeline") as caught:
        Settings(prompt="a ball", timeline=timeline).validate()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.toml", b"x = " + b"[" * 20_000, "nested too deeply"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.toml", b"\xff\xfe", "no text in UTF-8"),
        ("a.json", b" " * 1_000_001, "more than 1,000,000 bytes"),
        ("a.json", b'[{"from": 1, "guidance": 1' + b"0" * 400 + b"}]", "0…: a number is expected"),
        ("a.toml", b"[[unit]]\nfrom = 1\nguidance = nan", "a number is expected"),
        ("a.toml", b"[[units]]\nfrom = 1", "'units' is unknown; a timeline has [[unit]] tables only"),
        ("a.toml", b"[unit]\nfrom = 1", "a list of tables"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_told(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_timeline(tmp_path / name)
    assert str(caught.value).startswith(f"the timeline {name}") and words in str(caught.value)


def test_a_unit_that_is_not_there_is_noted():
    settings = Settings(prompt="a ball", timeline=[{"from": 9, "prompt": "it grows"}]).validate()
    assert any("unit 9" in note for note in settings.experimental())


def test_a_branch_says_what_holds_from_its_unit_on():
    before = read_timeline(
        '[{"from": 1, "prompt": "a", "seed": 2}, {"from": 4, "prompt": "b", "guidance": 3}]'
    )
    after = branched(before, Cue(2, "c", ease=2))
    assert [cue.table() for cue in after] == [
        {"from": 1, "prompt": "a", "seed": 2},
        {"from": 2, "prompt": "c", "ease": 2},
        {"from": 4, "guidance": 3.0},
    ]
    assert branched(before, Cue(4, guidance=(5.0,)))[1].table() == {"from": 4, "prompt": "b", "guidance": 5.0}
    assert (
        branched(before[1:], Cue(2, "c", guidance=(1.0,)))[-1].start == 2
    )  # the later one says nothing more


def test_a_timelines_guidance_is_taken_as_it_is_where_stages_have_none():
    plain = UnitPlan.plain(4.0, (8, 8, 8), 1)
    assert plain.guidance == (4.0, 1.0, 1.0)
    cue = Cue(2, guidance=(3.0,))
    assert plan_unit([cue], plain, 1).guidance == (4.0, 1.0, 1.0)
    assert plan_unit([cue], plain, 2).guidance == (3.0, 3.0, 3.0)
