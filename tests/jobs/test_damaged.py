"""What the program wrote and reads back, with each of its fields gone, empty, huge or of another type: a
sentence or what is left, and nothing else is lost.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pyramid.commands.batch import Journal
from pyramid.commands.prompt_list import Item
from pyramid.events import Unit
from pyramid.failures import known
from pyramid.generate.drafts import Draft
from pyramid.jobs.queue import JobStore, State
from pyramid.jobs.record import Directed, Output, job_of
from pyramid.jobs.recovery import STAGE, UnitsFolder, abandoned
from pyramid.jobs.speed import Speeds
from pyramid.presets import PRESET_FIELDS, load_preset
from pyramid.settings import Settings, SettingsError

ODD: tuple[Any, ...] = (None, True, -1, 1e308, "", "\ud800", [None], {})
FILES = (b"", b"null", b"5", b'"x"', b"[]", b"{}", b"[" * 100_000, b"\xff\xfe", b"\0" * 100)
ASKED = Settings(prompt="a red ball", num_frames=17, width=64, height=64, seed=7)


def damaged(table: Any) -> Iterator[Any]:
    """Copies of what JSON can say, each with one thing in it replaced or gone."""
    for place in places(table):
        for value in (*ODD, KeyError):
            other = copy.deepcopy(table)
            inside = other
            for name in place[:-1]:
                inside = inside[name]
            if value is KeyError:
                del inside[place[-1]]
            else:
                inside[place[-1]] = value
            yield other


def places(table: Any, above: tuple = ()) -> Iterator[tuple]:
    for name in table if isinstance(table, dict) else range(len(table)):
        yield (*above, name)
        if isinstance(table[name], dict | list):
            yield from places(table[name], (*above, name))


def told(read, *arguments) -> Any:
    """What is read, or None after an error that has a sentence."""
    try:
        return read(*arguments)
    except ValueError as error:
        words = known(error)
        assert words and "\n" not in words and len(words) < 1000, repr(error)
        return None


@pytest.fixture
def folder(tmp_path):
    units = UnitsFolder(tmp_path / ".ball.units")
    inputs = {"result": "ball.mp4", "run": "abc", "edits": [{"unit": 1, "seed": 3}]}
    units.begin(ASKED, {"identity": "tiny/128p", "weights": {"vae": ["a"]}}, inputs)
    units.save(Unit(0, 3, torch.randn(1, 16, 1, 8, 8), False))
    units.close()
    return units


def test_a_run_s_own_account(folder):
    whole = folder.about()
    few = {name: whole["settings"][name] for name in ("version", "prompt", "seed", "num_frames")}
    files = [json.dumps(each).encode() for each in damaged(whole | {"settings": few})]
    for content in (*files, *FILES):
        (folder.path / "run.json").write_bytes(content)
        for read in (folder.load, folder.result, lambda: folder.edits, folder.about):
            told(read)
        told(folder.left_for, ASKED, whole["model"])
    (folder.path / "run.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(whole).encode())  # as editors save it
    assert len(folder.load()[1]) == 1 and [each.path for each in abandoned(folder.path.parent)] == [
        folder.path
    ]


def test_a_run_without_its_inputs_is_told(folder):
    (folder.path / "run.json").write_text(json.dumps(folder.about() | {"inputs": None}))
    with pytest.raises(ValueError, match="inputs = None, where a table is expected.*make the video anew"):
        folder.load()
    assert (folder.path / "unit-000.safetensors").is_file()


def test_units_and_stages_of_others(folder):
    file = folder.path / "unit-000.safetensors"
    whole = {"index": "0", "count": "3", "given": "0", "crc": "1"}
    for words in ({}, *({**whole, name: value} for name in whole for value in ("", "x", "1e9", "9" * 5000))):
        save_file({"latents": torch.zeros(1)}, file, words)
        save_file({"latents": torch.zeros(1)}, folder.path / STAGE, {"unit": "0", "stage": "0", **words})
        assert folder.load()[1] == [] and folder.load_stage() is None
    for content in FILES:
        file.write_bytes(content)
        (folder.path / STAGE).write_bytes(content)
        assert folder.load()[1] == [] and folder.load_stage() is None


def record(**changes: Any) -> dict[str, Any]:
    row = {"id": "a", "owner": "ana", "state": "done", "position": 1.0, "created": 1.0, "started": 2.0}
    row |= {"ended": 3.0, "path": "ball.mp4", "error": "", "units_done": 3, "favourite": 0, "parent": None}
    row |= {"settings": ASKED.to_dict(), "output": asdict(Output()), "directed": asdict(Directed())}
    row |= {"notes": ["a note"], "timings": {"total": 1.5}, "decode_only": 0}
    tables = "settings", "output", "directed", "notes", "timings"
    row |= {name: json.dumps(row[name]) for name in tables}
    return row | changes


def test_a_record_of_a_job(tmp_path):
    """What is damaged is left out and named; all else of the job is there."""
    whole = job_of(record(), tmp_path)
    assert not whole.damaged and whole.settings == ASKED and whole.timings == {"total": 1.5}
    for name in ("settings", "output", "directed", "notes", "timings"):
        texts = [json.dumps(each) for each in damaged(json.loads(record()[name]))]
        for text in (*texts, None, 5, *(file.decode("latin-1") for file in FILES)):
            job = job_of(record(**{name: text}), tmp_path)
            assert (job.id, job.path, job.units_done) == ("a", tmp_path / "ball.mp4", 3)
            assert job.damaged in ("", name) and all(isinstance(note, str) for note in job.notes)
            job.settings.to_dict(), f"{sum(job.timings.values())}", sorted(job.directed.seeds)
    for name in ("state", "position", "created", "started", "ended", "path", "error", "units_done", "parent"):
        for value in (*ODD, 10**30, "a\0b", b"\xff", float("inf")):
            job = job_of(record(**{name: value}), tmp_path)
            assert job.settings == ASKED and f"{job.created:g} {job.ended or 0:g} {job.error} {job.parent}"


def test_a_newer_field_of_a_record_is_left_alone(tmp_path):
    changes = {name: json.dumps(json.loads(record()[name]) | {"newer": 1}) for name in ("output", "directed")}
    assert not job_of(record(**changes), tmp_path).damaged


def test_a_damaged_job_does_not_run_and_hides_no_other(tmp_path):
    store = JobStore(tmp_path)
    try:
        first, second = (store.add(replace(ASKED, seed=seed), owner="ana") for seed in (1, 2))
        with store.change() as db:
            db.execute("UPDATE jobs SET directed = ? WHERE id = ?", ['{"seeds": null}', first.id])
        assert [job.id for job in store.queue()] == [first.id, second.id]
        assert store.claim().id == second.id and store.claim() is None
        failed = store.get(first.id)
        assert failed.state is State.FAILED and "record of this job is damaged (directed)" in failed.error
        store.delete(first.id, "ana")
    finally:
        store.close()


def test_the_journal_of_a_batch(tmp_path):
    line = {"event": "begun", "key": "a", "seed": 7, "asked": "b", "attempt": 1}
    item = Item("a", 1, ASKED, "b")
    files = [json.dumps(each).encode() + b"\n" for each in damaged(line)]
    for content in (*files, *(file + b"\n" for file in FILES[1:])):
        (tmp_path / ".pyramid").mkdir(exist_ok=True)
        path = tmp_path / ".pyramid" / "batch.jsonl"
        path.write_bytes(content)

        def read() -> list[Item]:
            with Journal(tmp_path) as journal:
                return journal.left([item])

        told(read)
        assert path.read_bytes() == content


def test_measured_speeds(tmp_path):
    path = tmp_path / "speed.json"
    known_ = {
        "tiny cpu": {"steps": {"400": [2, 0.1]}, "decode": {"pixel": [1, 1e-8]}, "start": {"run": [1, 0.5]}}
    }
    files = [json.dumps(each).encode() for each in damaged(known_)]
    for content in (*files, *FILES):
        path.write_bytes(content)
        speeds = Speeds(path)
        speeds.estimate("tiny cpu", ASKED), speeds.step_seconds("tiny cpu", 100)
        speeds.step("tiny cpu", 400, 0.1)
        assert speeds.estimate("tiny cpu", ASKED) is not None


def test_presets(tmp_path):
    values = ("[[]]", "{}", "nan", "-1", "1e308", '""', "true", "1979-05-27")
    path = tmp_path / "own.toml"
    for name in (*PRESET_FIELDS, "description"):
        for value in (*values, "9" * 5000):
            path.write_text(
                f'description = "mine"\n{name} = {value}\n' if name != "description" else f"{name} = {value}"
            )
            told(load_preset, str(path))
    deep = b"a" + b".a" * 50_000 + b" = 1"  # which takes Python minutes
    for content in (*FILES, deep):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"own\.toml"):
            load_preset(str(path))
    path.write_bytes(b'\xef\xbb\xbfdescription = "as Windows saves it"\r\nfps = 8\r\n')
    assert load_preset(str(path)).values == {"fps": 8}


def test_drafts(tmp_path):
    few = {name: value for name, value in ASKED.to_dict().items() if name in ("version", "prompt", "seed")}
    whole = {"settings": few, "model": {"identity": "tiny"}, "version": 1}
    path = tmp_path / "draft.safetensors"
    tensors = {"latents": torch.zeros(1), "clean": torch.zeros(1)}
    for each in ({}, [], None, *damaged(whole)):
        save_file(tensors, path, {"draft": json.dumps(each)})
        told(Draft.load, path)
    for content in FILES:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no draft"):
            Draft.load(path)
