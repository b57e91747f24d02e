"""Flags that do nothing together, counts that are too large, files that cannot be made: each is told before a
model is loaded, by the flag's own name.
"""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
from pyramid.commands import cli
from pyramid.commands.flags import asked_for
from pyramid.commands.inspect import changes_of
from pyramid.disk import unwritable
from pyramid.generate.loaded import ModelHolder
from pyramid.hub.checkpoints import CheckpointError, find
from pyramid.hub.download import look_up
from pyramid.hub.loras import find_loras
from pyramid.media.files import describe
from pyramid.media.looks import is_drawn_file
from pyramid.media.pictures import read_picture
from pyramid.media.video import VideoWriter
from pyramid.settings import Settings

ROOT = Path(__file__).parent.parent.parent
GENERATE = ["generate", "--prompt", "x"]


@pytest.fixture
def clip(tmp_path, monkeypatch):
    """A clip of nine frames that says settings of the embedded model; the folder is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ModelHolder, "bring", lambda *_: pytest.fail("a model is loaded"))
    told = Settings(prompt="a red ball", seed=5, num_frames=9).to_dict()
    with VideoWriter(tmp_path / "b.mp4", 8, (64, 64), {"program": "pyramid", "settings": told}) as writer:
        writer.write(np.zeros((9, 64, 64, 3), np.uint8))
    return writer.path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plan", "--seconds", "1", "--num-frames", "9"], "not allowed with argument"),
        (["plan", "--compare", "--json", "--sheet", "x.txt"], "--compare with --json"),
        (["plan", "--sheet", "x.png"], "--sheet: it is for --compare"),
        (["plan", "--width", "0"], "--width = 0"),
        (["plan", "--num-frames", "0"], "--num-frames = 0"),
        (["plan", "--seconds", "0"], "--seconds = 0"),
        (["plan", "--variant", ""], "has no variant ''"),
        (["plan", "--model", ""], "the model is empty"),
        (["plan", "--memory", "foo"], "--memory = 'foo' is no plan"),
        (["export", "b.mp4", "--source", "b.mp4"], "--source: it is for --format joined"),
        (["export", "b.mp4", "--stages-from", "."], "--stages-from: it is for --format stages"),
        (["export", "b.mp4", "--upscale-by", "learned"], "--upscale-by: it is for --upscale"),
        (["export", "b.mp4", "--format", "gif", "--quality", "20"], "--quality with --format gif"),
        (["export", "b.mp4", "--format", "png", "--quality", "20"], "--quality with --format png"),
        (["export", "b.mp4", "--look", "--upscale", "2", "--quality", "20"], "--quality with --look"),
        (["export", "b.mp4", "--format", "joined"], "--format joined needs --source FILE"),
        (["export", ""], "'.' is not a file"),
        (["loop", ""], "'.' is not a file"),
        (["edit", "b.mp4", "--unit", "0"], "unit 0 is the first frame"),
        (["edit", "b.mp4", "--unit", "2"], "unit 2 is not in this clip: choose 1 to 1"),
        (["edit", "b.mp4", "--unit", "1", "--output", "x.txt"], "must end in .mp4, .webm or .gif"),
        (["edit", "b.mp4", "--unit", "1", "--output", "b.mp4/x.mp4"], "nothing can be written"),
        (["edit", "b.mp4", "--unit", "1", "--units", "nofolder"], "nofolder holds no run"),
        (["edit", "b.mp4", "--unit", "1"], "was made with other weights"),
        ([*GENERATE, "--lora", "foo"], "there is no LoRA 'foo'"),
        ([*GENERATE, "--output", "x" * 300 + ".mp4"], "304 bytes, more than 200"),
        ([*GENERATE, "--output", "x" * 300], "File name too long"),
        ([*GENERATE, "--preset", ""], "--preset = '' is unknown"),
        ([*GENERATE, "--variant", ""], "has no variant ''"),
        ([*GENERATE, "--model", ""], "the model is empty"),
        ([*GENERATE, "--memory", "foo"], "--memory = 'foo' is no plan"),
        ([*GENERATE, "--at-unit", "1"], "--at-unit: it is for --branch"),
        ([*GENERATE, "--max-units", "3"], "--max-units: it is for --endless"),
        ([*GENERATE, "--endless", "--seconds", "3"], "--seconds with --endless"),
        ([*GENERATE, "--num-frames", "1", "--keep-units"], "--keep-units with one frame"),
        ([*GENERATE, "--endless", "--keep-units"], "--keep-units with --endless"),
        (["batch", "list.jsonl", "--output-dir", "o", "--seeds", "1000000000"], "--seeds 1000000000: 10000"),
        (["batch", "list.jsonl", "--output-dir", "o", "--preset", ""], "'' is unknown"),
        (["evaluate", "--out", "."], "--out . is a folder: name a file"),
        (["evaluate", "--out", "b.mp4/x.json"], "--out b.mp4/x.json: nothing can be written"),
        (["evaluate", "--sheet", "sheet.txt"], "--sheet sheet.txt: a picture's name is expected"),
        (["evaluate", "vae", "--data", ".", "--model", "m", "--json", "."], "--json . is a folder"),
        (["evaluate", "offline", ".", "--json", "b.mp4/x"], "--json b.mp4/x: nothing can be written"),
        (["evaluate", "compare", "a", "b", "--json", "x" * 201], "201 bytes, more than 200"),
        (["evaluate", "vbench", "--aggregate", ".", "--json", "."], "--json . is a folder"),
        (["evaluate", "study", "--export-answers", "."], "--export-answers . is a folder"),
        (["bench", "--units", "9999999999"], "--units 9999999999: at most 255"),
        (["bench", "--clip-units", "9999999999"], "--clip-units 9999999999: at most 256"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_it_is_told_in_one_line_and_nothing_is_made(words, says, clip, capsys):
    Path("list.jsonl").write_text('{"prompt": "x"}\n')
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert says in said.err and said.out == "" and said.err.count("\n") == 1, said.err
    assert sorted(path.name for path in Path().iterdir()) == ["b.mp4", "list.jsonl"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"prompt": "x", "lora": "foo"}, "list.jsonl, line 1: there is no LoRA 'foo'"),
        ({"prompt": "x", "device": "cuda:63"}, "cuda:63"),
    ],
)
def test_a_list_is_checked_for_what_this_machine_lacks(line, says, clip, capsys):
    Path("list.jsonl").write_text(json.dumps(line))
    assert cli.main(["batch", "list.jsonl", "--output-dir", "o"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "line 1: " in said and says in said


def test_a_variant_that_is_not_published_asks_no_network(monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.HfApi.model_info", lambda *_, **__: pytest.fail("the network is asked")
    )
    for variant in ("foo", ""):
        with pytest.raises(
            CheckpointError, match=f"miniflux has no variant '{variant}', only 384p, 768p, image"
        ):
            look_up("miniflux", variant)


def test_the_page_calls_its_flags_by_their_names(capsys, monkeypatch):
    assert app.main(["--memory", "foo"]) == 2
    assert "error: --memory = 'foo' is unknown" in capsys.readouterr().err
    monkeypatch.setattr(app, "serve", lambda options: pytest.fail("the page starts"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert app.main(["--hash-password", ""]) == 2
    assert "'' cannot be a name" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    assert unwritable(tmp_path / "new" / "one") == ""
    assert "File name too long" in unwritable(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    assert "nothing can be written" in unwritable(tmp_path / "file")


def test_files_and_folders_of_models_are_named_so_that_they_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    words = ["generate", "--prompt", "x", "--image", "a.png", "--model", "mine"]
    args = cli.parser("generate").parse_args(words)
    assert asked_for(args)["image"] == str(tmp_path / "a.png") and args.model == str(tmp_path / "mine")
    args = cli.parser("generate").parse_args(["generate", "--image", "", "--model", "embedded"])
    assert asked_for(args)["image"] == "" and args.model == "embedded"


def test_what_a_result_was_made_of_is_told(clip, capsys):
    assert cli.main(["inspect", "b.mp4"]) == 0
    assert "\nAgain: python -m pyramid generate '--prompt=a red ball'" in capsys.readouterr().out
    assert cli.main(["loop", "b.mp4", "--how", "back"]) == 0
    assert cli.main(["join", "b.mp4", "b-loop.mp4", "--output", "both.mp4"]) == 0
    for name, says in (("b-loop", "Made of b.mp4 by loop"), ("both", "Made of b.mp4, b-loop.mp4 by join")):
        capsys.readouterr()
        assert cli.main(["inspect", f"{name}.mp4"]) == 0
        out = capsys.readouterr().out
        assert f"\n{says}\nThe clip it was made of: python -m pyramid generate" in out and "Again:" not in out
    finished = {"export": "finished", "finish": {"smooth": {"factor": 2}}, "source_file": "b.mp4"}
    assert changes_of(finished) == ["Made of b.mp4 by export --smooth 2"]
    first = {"unit": 1, "seed": 3, "prompt": None, "composition": True}
    made = {"unit": 2, "seed": 4, "prompt": "a blue ball", "composition": False, "before": [first]}
    assert changes_of({"edit": made}) == [
        "Unit 1 was made anew with seed 3, its composition kept",
        "Unit 2 was made anew with seed 4, 'a blue ball'",
    ]
    assert changes_of({"edit": "x", "joined": 5, "export": ["?"]}) == ["Made of another clip by export"]


@pytest.mark.parametrize("columns", ["0", "20"])
def test_tables_keep_their_columns_in_a_narrow_terminal(columns, capsys, monkeypatch):
    from pyramid.commands.terminal import screen

    monkeypatch.setenv("COLUMNS", columns)
    assert screen().width == 60
    monkeypatch.setenv("COLUMNS", "90")
    assert screen().width == 90


def test_ctrl_c_while_the_program_is_read_is_no_traceback():
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pyramid.commands.cli':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('pyramid', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


def test_a_result_does_not_tell_whose_home_folder_it_was_made_in(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    home = str(tmp_path)
    asked = Settings(
        model=f"{home}/mine",
        image=f"{home}/my pictures/a.png",
        lora=f"{home}/a.safetensors:0.5, slow, {home}/b.safetensors,{home}/c.safetensors",
    )
    about = describe(asked, {})
    assert home not in json.dumps(about)
    again = Settings.from_dict(about["settings"])
    assert (again.model, again.image) == ("~/mine", "~/my pictures/a.png")
    assert again.lora == "~/a.safetensors:0.5, slow, ~/b.safetensors,~/c.safetensors"
    other = Settings(model=f"/mnt{home}/mine", image="/srv/a.png", lora=f"/mnt{home}/a.safetensors")
    assert describe(other, {})["settings"] == other.to_dict()
    for name in ("/", ""):
        monkeypatch.setenv("HOME", name)
        assert describe(other, {})["settings"] == other.to_dict()


def test_what_lies_in_the_home_folder_is_found_by_what_a_result_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copytree(find("embedded").folder, tmp_path / "mine")
    (tmp_path / "a.safetensors").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = Settings(model=str(tmp_path / "mine"), image=str(tmp_path / "a.png"))
    told = Settings.from_dict(describe(asked, {})["settings"])
    assert told.model == "~/mine" and find(told.model).folder == tmp_path / "mine"
    assert read_picture(told.image).size == (8, 8)
    assert find_loras("~/a.safetensors") == [tmp_path / "a.safetensors"]
    with VideoWriter(tmp_path / "c.mp4", 8, (64, 64), describe(replace(told, image=None), {})) as writer:
        writer.write(np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8))
    assert is_drawn_file(tmp_path / "c.mp4", asked.model) and not is_drawn_file("~/c.mp4", "embedded")
