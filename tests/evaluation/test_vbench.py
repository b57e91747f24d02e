"""VBench's arithmetic against published figures.

python -m pytest tests/training/test_vbench.py
"""

import json
import sys

import pytest

from pyramid.commands import cli
from pyramid.evaluation.vbench import RANGES, aggregate, read_results, read_suite
from pyramid.media.files import read_metadata

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
    "text, words",
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"scene": ["no"]}', "no score"),
        ('{"scene": [true, []]}', "no score"),
        ('{"scene": {"score": 0.4}}', "no score"),
        ('{"scene": [Infinity, []]}', "no score"),
        ('{"scene": [430, []]}', "no score"),
        ('{"a": 1}', "no result"),
        ('{"scene": 43.2, "color": 82.9, "dynamic_degree": 0.5}', "dynamic_degree = 0.5 may be either"),
    ],
)
def test_what_is_no_result_is_told(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_results(tmp_path)


@pytest.mark.parametrize("empty", ["NaN", "null", "[]", '"nan"', "[NaN, []]", "[null]", "[[]]"])
def test_a_dimension_without_a_number_is_missing_and_told(tmp_path, capfd, empty):
    others = json.dumps({name: [score, []] for name, score in scores(PAPER).items() if name != "scene"})
    (tmp_path / "a.json").write_text(f'{others[:-1]}, "scene": {empty}}}')
    out = tmp_path / "figures.txt"
    assert cli.main(["evaluate", "vbench", "--aggregate", str(tmp_path), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["missing"] == ["scene"] and figures["semantic"] is figures["total"] is None
    assert figures["quality"] == pytest.approx(84.74, abs=0.01)
    assert "a.json has no number for scene" in capfd.readouterr().err


def test_odd_names_nested_lists_and_percent_come_to_the_same(tmp_path):
    share, files = scores(PAPER), {}
    files["Ergebnisse (1).JSON"] = {
        n.replace("_", " ").title(): [[s, []]] for n, s in list(share.items())[:5]
    }
    files["deep/er/b.json"] = {n.replace("_", "-"): str(s) for n, s in list(share.items())[5:8]}
    files["percent.json"] = {n: [100 * s, []] for n, s in list(share.items())[8:]}
    files["imaging.json"] = {"scene": share["scene"], "imaging_quality": 100 * share["imaging_quality"]}
    for name, table in files.items():
        (path := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(table).encode())
    (tmp_path / "._percent.json").write_bytes(b"\x00\x05\x16\x07")
    told = []
    found = read_results(tmp_path, told.append)
    assert found == pytest.approx(share, abs=1e-9)
    assert aggregate(found)["total"] == pytest.approx(81.72, abs=0.01)
    assert any("taken as percent" in words for words in told)
    assert read_results(tmp_path / "percent.json").keys() == set(list(share)[8:])
    with pytest.raises(ValueError, match="is not there"):
        read_results(tmp_path / "gone")


def test_two_files_that_disagree_are_told(tmp_path):
    for name, score in (("a", 0.5), ("b", 0.6)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"scene": [score, []]}))
    with pytest.raises(ValueError, match="keep one"):
        read_results(tmp_path)


# -- the videos and VBench's own command line

INFO = [
    {"prompt_en": "a red ball", "dimension": ["scene", "background_consistency"]},
    {"prompt_en": "a still blue square", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a red ball", "dimension": ["color"], "auxiliary_info": {}},
]
PROGRAM = """#!{python}
import json, sys
from pathlib import Path
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
videos = sorted(path.name for path in Path(words["--videos_path"]).glob("*.mp4"))
if sys.argv[1] == "static_filter":
    kept = Path(words["--result_path"], "filtered_videos")
    kept.mkdir(parents=True)
    for name in videos[:2]:
        (kept / name).write_bytes(b"")
    sys.exit()
name = words["--dimension"]
assert Path(words["--full_json_dir"]).name == "VBench_full_info.json"
if name == "color":
    sys.exit("CUDA is not available")
out = Path(words["--output_path"], f"results_now_eval_results.json")
out.write_text(json.dumps({{name: [len(videos) / 10, [dict(video_path=name) for name in videos]]}}))
"""


@pytest.fixture
def venv(tmp_path):
    """What an environment with VBench looks like, with a program that has its flags and its files."""
    folder = tmp_path / "venv" / "lib" / "python3.10" / "site-packages" / "vbench"
    folder.mkdir(parents=True)
    (folder / "VBench_full_info.json").write_text(json.dumps(INFO))
    program = tmp_path / "venv" / "bin" / "vbench"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path / "venv"


@pytest.mark.skipif(sys.platform == "win32", reason="the program of this test is a script")
def test_videos_get_vbenchs_names_and_its_command_line_judges_them(venv, tiny_checkpoint, tmp_path, capfd):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    short = (
        f'description = "short"\nmodel = "{tiny_checkpoint}"\nnum_frames = 9\nnum_inference_steps = [1, 1, 1]'
    )
    (tmp_path / "short.toml").write_text(short)
    run = [
        "evaluate",
        "vbench",
        "--make",
        str(tmp_path / "short.toml"),
        "--samples",
        "1",
        "--output-dir",
        str(out),
    ]
    asked = ["--dimensions", "scene,temporal_flickering,color", "--vbench", str(venv), "--json", str(figures)]
    assert cli.main([*run, *asked]) == 1  # color failed
    told = capfd.readouterr().err
    assert (
        "6 videos, 0 made before" in told and "color: VBench failed: exit code 1" in told and "CUDA" in told
    )
    names = sorted(path.name for path in (out / "videos").iterdir())
    assert names == ["a red ball-0.mp4", "a still blue square-0.mp4"]
    assert len(list((out / "flickering").iterdir())) == 5
    seeds = [read_metadata(path)["settings"]["seed"] for path in (out / "flickering").iterdir()]
    assert len(set(seeds)) == 5
    dimensions = json.loads(figures.read_text())["dimensions"]
    assert dimensions == {"temporal_flickering": 20.0, "scene": 20.0}  # two kept videos; two videos in all
    assert cli.main([*run, *asked]) == 1
    told = capfd.readouterr().err
    assert "6 made before, 0 to make" in told and "scene: judged before" in told


def test_the_suite_is_read_from_where_it_lies(venv, tmp_path):
    suite = {
        "a red ball": ["scene", "background_consistency", "color"],
        "a still blue square": ["temporal_flickering"],
    }
    info = next(venv.glob("**/VBench_full_info.json"))
    assert read_suite(venv) == read_suite(info) == read_suite(info.parent) == suite
    lists = tmp_path / "vbench" / "prompts" / "prompts_per_dimension"
    lists.mkdir(parents=True)
    (lists / "scene.txt").write_text("a barn\n\nan alley\n")
    (lists / "subject_consistency.txt").write_text("a cat\n")
    found = read_suite(tmp_path / "vbench")
    assert found["a barn"] == ["background_consistency", "scene"]
    assert found["a cat"] == ["subject_consistency", "motion_smoothness", "dynamic_degree"]
    (lists / "scene.txt").write_text("either/or\n")
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        read_suite(lists)


@pytest.mark.parametrize(
    "asked, words",
    [
        ([], "nothing to do"),
        (["--make", "embedded"], "say where they are"),
        (["--make", "embedded", "--suite", "{0}"], "has no prompts of VBench"),
        (["--vbench", "{0}"], "has no VBench"),
        (["--make", "embedded", "--dimensions", "beauty"], "is none of"),
        (["--make", "embedded", "--samples", "0"], "1 to 100"),
    ],
)
def test_what_is_missing_is_told_before_any_work(tmp_path, capfd, asked, words):
    assert cli.main(["evaluate", "vbench", *(word.format(tmp_path) for word in asked)]) == 2
    assert words in capfd.readouterr().err


def test_dimensions_without_a_prompt_in_the_suite_are_named(tmp_path, capfd):
    suite = tmp_path / "suite.json"
    suite.write_text(json.dumps([{"prompt_en": "a barn", "dimension": ["scene"]}]))
    run = ["evaluate", "vbench", "--make", "embedded", "--suite", str(suite), "--dimensions"]
    assert cli.main([*run, "color,human_action"]) == 2
    assert f"error: {suite} has no prompt of color, human_action: " in capfd.readouterr().err
