"""Lists of videos as people have them: JSON lines, a JSON array, a CSV of a spreadsheet."""

import json
import re

import pytest

from pyramid.commands.list_files import ListError
from pyramid.commands.prompt_list import read_list


@pytest.fixture
def read(tmp_path):
    """The settings of a list with this content."""

    def call(text: str, name: str = "list.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return read_list(path, **options)

    return call


LINES = '{"prompt": "one", "seed": 3, "num_inference_steps": 4}\n{"prompt": "two, red", "seconds": 2}\n'
ARRAY = (
    '[\n{"prompt": "one", "seed": 3, "num_inference_steps": 4},\n  {"prompt": "two, red", "seconds": 2}]\n'
)
CSV = 'prompt,seed,num_inference_steps,seconds\r\none,3,4,\r\n"two, red",,,2\r\n'
SHEET = "\ufeffprompt;seed;num_inference_steps;seconds\none;3;4;\n\n two, red ;;;2\n"
TABS = "seed\tseconds\tnum_inference_steps\tprompt\n3\t\t4\tone\n\t2\t\ttwo, red\n"


def test_tables_of_other_programs_are_read(tmp_path):
    """Headed in capitals; whole numbers as pandas writes them; lines that end as on an old Mac."""
    path = tmp_path / "list.csv"
    path.write_text("Prompt,Seed,Num Frames\na ball,7.0,\na cube,,25.0\n")
    assert [(i.settings.prompt, i.settings.seed, i.settings.num_frames) for i in read_list(path)] == [
        ("a ball", 7, 25),
        ("a cube", None, 25),
    ]
    path.write_bytes(b'{"prompt": "a"}\r{"prompt": "b"}\r')
    assert [item.settings.prompt for item in read_list(path)] == ["a", "b"]
    path.write_text('[{"prompt": "a", "seed": 7.0}]')
    assert [item.settings.seed for item in read_list(path)] == [7]
    path.write_text("Caption,Seed\na ball,7\n")
    with pytest.raises(ListError, match="unknown column 'caption', did you mean 'prompt'"):
        read_list(path)
    path.write_text("prompt,seed\na ball,7.5\n")
    with pytest.raises(ListError, match=r"seed = '7\.5': a whole number"):
        read_list(path)


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\r\nprompt;seed;guidance_scale\r\none;3;4,5\r\n",
        "\ufeffPrompt;Seed;Guidance Scale;;\r\none;3;4,5;;\r\n".encode(),
        "prompt\tseed\tguidance_scale\r\none\t3\t4,5\r\n".encode("utf-16"),
        "prompt,seed,guidance_scale,\r\none,3.0,4.5,\r\n".encode("utf-16"),
    ],
    ids=["Excel's own line", "columns that were emptied", "Unicode text", "from PowerShell"],
)
def test_tables_of_office_programs_are_read(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    (item,) = read_list(tmp_path / "list.csv")
    assert (item.settings.prompt, item.settings.seed, item.settings.guidance_scale) == ("one", 3, 4.5)


def test_a_workbook_is_told_as_such_and_lines_count_from_the_first(tmp_path):
    (tmp_path / "list.xlsx").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(ListError, match=r"list\.xlsx is a workbook or a zip: save it as CSV in UTF-8"):
        read_list(tmp_path / "list.xlsx")
    (tmp_path / "list.csv").write_text("sep=;\nprompt;seed\none;x\n")
    with pytest.raises(ListError, match="line 3: seed = 'x'"):
        read_list(tmp_path / "list.csv")


@pytest.mark.parametrize(
    "text", [LINES, ARRAY, CSV, SHEET, TABS], ids=["lines", "array", "csv", "sheet", "tabs"]
)
@pytest.mark.parametrize("name", ["list.jsonl", "list.csv"])
def test_a_list_says_the_same_in_every_form(read, text, name):
    one, two = read(text, name)
    assert (one.settings.prompt, two.settings.prompt) == ("one", "two, red")
    assert one.settings.seed == 3 and two.settings.seed is None
    assert one.settings.num_inference_steps == (4, 4, 4)
    assert one.settings.num_frames == 25 and two.settings.num_frames == 17


def test_the_journal_knows_an_item_in_every_form(read):
    assert len({tuple(item.key for item in read(text)) for text in (LINES, ARRAY, CSV, SHEET, TABS)}) == 1


def test_steps_of_each_stage_and_texts_of_several_lines_are_cells_too(read):
    (item,) = read('id,prompt,steps\n7,"a red\nball","10, 5,2"\n'.replace("steps", "num_inference_steps"))
    assert item.settings.num_inference_steps == (10, 5, 2)
    assert item.settings.prompt == "a red\nball" and item.key == "7"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[{"prompt": "x"},\n{"prompt": "y", "fps": "8"}]', 2, "fps = '8': a whole number is expected"),
        ('[{"prompt": "x"}\n{"prompt": "y"}]', 2, "a comma or ] is expected"),
        ('[{"prompt": "x"},\n\n{"prompt": }]', 3, "not JSON"),
        ('[{"prompt": "x"}]\nmore', 2, "after the end of the array"),
        ('[{"prompt": "x"},\n"y"]', 2, "a table such as"),
        ('[{"prompt": "x", "color": "red"}]', 1, "unknown setting 'color'; known are prompt"),
        ('[{"prompt": "x", "seed": 7.5}]', 1, "seed = 7.5: a whole number is expected"),
        ("prompt,sede\nx,1\n", 1, "unknown column 'sede', did you mean 'seed'?"),
        ("prompt,seed,seed\nx,1,2\n", 1, "'seed' is given twice"),
        ("prompt,seed\nx,1\na ball, red,2\n", 3, "3 cells under a header of 2"),
        ('prompt,seed\n"x,1\n', 2, "check its quotes"),
        ("prompt,seed\nx,seven\n", 2, "seed = 'seven': a whole number is expected"),
        ("prompt,seconds\nx,long\n", 2, "seconds = 'long': a number is expected"),
        ("prompt,num_inference_steps\nx,ten\n", 2, "num_inference_steps = 'ten': a list of whole numbers"),
        ('{"prompt": "x", "seconds": 2, "num_frames": 9}', 1, "both seconds and num_frames"),
        ('{"prompt": "x", "seconds": 0}', 1, "must be greater than 0"),
        ('{"prompt": "x", "seed": ' + "9" * 5000 + "}", 1, "of 5000 digits (99999999…)"),
        ("prompt,seed\nx," + "9" * 5000 + "\n", 2, "seed = "),
        ('{"prompt": "x", "duration": 3}', 1, "did you mean 'seconds'?"),
        ('{"prompt": "x", "cfg": 3}', 1, "did you mean 'guidance_scale'?"),
        ('{"prompt": "x", "zoom": 3}', 1, "unknown setting 'zoom'; known are"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(read, text, line, words):
    with pytest.raises(ListError) as told:
        read(text)
    assert f"list.jsonl, line {line}: " in str(told.value) and words in str(told.value)
    assert "set_int_max_str_digits" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("promt;seed\nx;1\n", "unknown column 'promt', did you mean 'prompt'?"),
        ("a red ball\na blue cube\n", "unknown column 'a_red_ball'; known are prompt"),
        ("p\0r\0o\0m\0p\0t\0\n\0", "this is not UTF-8 text"),
        ("seed\n1\n", "the first line names the columns, and has no prompt among them"),
    ],
)
def test_what_is_a_table_by_its_name_is_told_as_one(read, text, words):
    with pytest.raises(ListError, match=re.escape(f"list.csv, line 1: {words}")):
        read(text, "list.csv")


def test_an_empty_array_has_no_lines(read):
    with pytest.raises(ListError, match="has no lines"):
        read(" [ ] ")


def test_a_tilde_in_a_list_is_the_home_folder(read, tmp_path, monkeypatch):
    from PIL import Image

    home = tmp_path / "home"
    home.mkdir()
    Image.new("RGB", (64, 64)).save(home / "x.png")
    (home / "own.toml").write_text('description = "short"\nnum_frames = 9\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    (item,) = read(json.dumps({"prompt": "x", "image": "~/x.png", "preset": "~/own.toml"}))
    assert item.settings.image == str(home / "x.png") and item.settings.num_frames == 9
