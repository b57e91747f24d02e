"""Lists of prompts: strict reading, a journal that survives anything, retries,
and a local Ray of two workers.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pyramid.commands import batch, cli
from pyramid.commands.batch import Journal, Outcome, Stopped
from pyramid.commands.prompt_list import Item, ListError, digest, read_list
from pyramid.events import Frames, Notice, Preview, Status
from pyramid.generate.loaded import Loaded
from pyramid.jobs.recorder import source as source_of
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames, read_given
from pyramid.memory import ladder
from pyramid.settings import Settings

ROOT = Path(__file__).parent.parent.parent
QUICK = dict(
    num_frames=9,
    num_inference_steps=[1, 1, 1],
    video_num_inference_steps=[1, 1, 1],
    guidance_scale=1,
    video_guidance_scale=1,
)


@pytest.fixture
def listed(tiny_checkpoint, tmp_path):
    """Writes a list: tables get the tiny model and few steps, texts go in as they are."""

    def write(*lines, name="list.jsonl"):
        tables = [
            {"model": str(tiny_checkpoint)} | QUICK | line if isinstance(line, dict) else line
            for line in lines
        ]
        path = tmp_path / name
        path.write_text(
            "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in tables)
        )
        return path

    return write


@pytest.fixture
def run(tmp_path, capfd):
    """Runs `batch`: exit code, stdout's lines, stderr."""

    def call(path, *flags, folder=tmp_path / "out"):
        capfd.readouterr()
        code = cli.main(["batch", str(path), "--output-dir", str(folder), *map(str, flags)])
        said = capfd.readouterr()
        return code, said.out.splitlines(), said.err

    return call


def test_a_seed_that_is_flagged_makes_nothing_of_the_list(run, listed, tmp_path):
    code, out, err = run(listed({"prompt": "a", "seed": -3}, {"prompt": "b", "seed": 10**22}))
    assert code == 2 and not out and not (tmp_path / "out").exists()
    assert "line 1: seed = -3 is outside" in err and "line 2: seed = 10000000000000000000000 is" in err


def events(folder):
    return [json.loads(line) for line in (folder / batch.STATE).read_text().splitlines()]


def pixels(path):
    return [frame.tobytes() for frame in read_frames(path)]


def results(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


# -- the list
def test_items_have_their_models_settings_the_presets_and_their_own(listed, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    path = listed({"prompt": "one", "id": "a", "seed": 3}, "", {"prompt": "two", "image": "red.png"})
    items = read_list(path, preset="quick", seeds=2)
    assert [(item.key.split("#")[0] == "a", item.line, item.settings.seed) for item in items] == [
        (True, 1, 3),
        (True, 1, 4),
        (False, 3, None),
        (False, 3, None),
    ]
    assert items[0].settings.width == 64 and items[0].settings.guidance_scale == 1
    assert items[0].settings.preset == "quick"
    assert items[2].settings.image == str(tmp_path / "red.png")
    assert len({item.key for item in items}) == 4


def test_lines_that_say_the_same_are_two_items_and_models_stay_together(listed, tiny_checkpoint):
    other = {"prompt": "x", "model": "embedded"}
    items = read_list(listed({"prompt": "x"}, other, {"prompt": "x"}))
    assert len({item.key for item in items}) == 3
    assert [item.line for item in items] == [1, 3, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "x", "promt": 1}, "did you mean 'prompt'"),
        ({"prompt": "x", "num_frames": 10}, "num_frames = 10"),
        ({"prompt": "x", "seed": "7"}, "seed = '7'"),
        ({"prompt": "x", "image": "nowhere.png"}, "nowhere.png"),
        ({"prompt": "x", "model": "/nowhere"}, "nowhere"),
        ({"prompt": "x", "model": 3}, "model = 3"),
        ({"prompt": "x", "id": ""}, "id = ''"),
        ({"prompt": "x", "id": [1]}, "id = [1]"),
        ({"prompt": "x", "preset": "qick"}, "did you mean 'quick'"),
        ({"prompt": "x", "preset": 7}, "preset = 7"),
        ({"prompt": "x", "preset": ["quick"]}, "preset = ['quick']"),
        ({"prompt": "x", "preset": False}, "preset = False"),
        ({"prompt": "x", "variant": ["128p"]}, "variant = ['128p']"),
        ("[" * 100_000, "too deep"),
        ("a red ball", "not JSON"),
        ("[1]", "table"),
        ('{"prompt": "x", "prompt": "y"}', "given twice"),
        ('{"prompt": "x", "fps": NaN}', "NaN"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_before_anything_runs(listed, run, tmp_path, line, words):
    code, out, err = run(listed({"prompt": "fine", "id": 1}, line))
    assert code == 2 and out == [] and not (tmp_path / "out").exists()
    assert err.startswith("error: list.jsonl, line 2: ") and words in err and err.count("\n") == 1


def test_all_that_is_wrong_is_told_at_once(listed, run, tmp_path):
    code, _, err = run(listed({"prompt": "x", "id": 1}, {"prompt": "y", "id": "1"}, *["{"] * 30))
    lines = err.splitlines()
    assert (
        code == 2 and "line 2: id '1' is that of line 1" in lines[0] and lines[-1] == "error: … and 11 more"
    )
    assert run(listed(name="empty.jsonl"))[2].startswith("error: empty.jsonl has no lines")
    assert "cannot be read" in run(tmp_path / "none.jsonl")[2]
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "x"}\n{"prompt": "\xe9"}')
    assert "latin.jsonl, line 2: this is not UTF-8" in run(tmp_path / "latin.jsonl")[2]


def test_an_id_that_another_lines_seeds_need_is_refused(listed, run, tmp_path):
    lines = {"prompt": "x", "id": "a"}, {"prompt": "y", "id": "a#2"}
    for path in (listed(*lines, name="one.jsonl"), listed(*reversed(lines), name="two.jsonl")):
        assert len(read_list(path)) == 2
        code, _, err = run(path, "--seeds", 2)
        assert code == 2 and "line 2: 'a#2' names a video of line 1 too" in err and err.count("\n") == 1


def test_flags_and_folders_are_checked(listed, run, tmp_path):
    path = listed({"prompt": "x"})
    assert "--seeds 0" in run(path, "--seeds", 0)[2]
    assert "--workers 2: only with --ray" in run(path, "--workers", 2)[2]
    (tmp_path / "file").touch()
    code, _, err = run(path, folder=tmp_path / "file" / "in")
    assert code == 2 and "nothing can be written" in err


# -- the journal
def item(key="k", **changes):
    return Item(key, 1, Settings(prompt="x", **changes), digest(changes))


def test_a_journal_remembers_seeds_and_what_is_done(tmp_path):
    with Journal(tmp_path) as journal:
        first, second = journal.left([item("a"), item("b")])
        journal.write("begun", first)
        journal.write("begun", second)
        journal.write("done", first, file="a.mp4")
        with pytest.raises(ValueError, match="another batch"):
            Journal(tmp_path).__enter__()
    with (tmp_path / batch.STATE).open("a") as file:
        file.write('{"event": "done", "key": "b", "se')  # the power went
    with Journal(tmp_path) as journal:
        assert journal.left([item("a"), item("b")]) == [second]
        with pytest.raises(ListError, match="line 1: item 'a' was begun with other settings"):
            journal.left([item("a", guidance_scale=2)])
        journal.write("done", second, file="b.mp4")
    assert [event["event"] for event in events(tmp_path)] == ["begun", "begun", "done", "done"]
    (tmp_path / batch.STATE).write_text("nonsense\n")
    with pytest.raises(ValueError, match="line 1, is damaged"):
        Journal(tmp_path).__enter__()


class Script:
    """An engine whose attempts end as a script says: an error's text, or a file's name."""

    def __init__(self, *script, capacity=1):
        self.script, self.capacity, self.items, self.most = list(script), capacity, [], 0

    def submit(self, item):
        self.items.append(item)
        self.most = max(self.most, len(self.items))

    def next(self):
        end = self.script.pop(0)
        path = Path(end) if end.endswith(".mp4") else None
        return Outcome(self.items.pop(0), path, "" if path else end, again=end != "bad")


def test_failures_are_tried_again_as_often_as_asked_and_end_the_batch_or_not(tmp_path):
    items = [item(key, seed=1) for key in "abc"]
    with Journal(tmp_path / "1") as journal:
        ended = batch.work(items, Script("e", "e", "a.mp4", "bad"), journal, retries=2)
    assert [outcome.path and outcome.path.name for outcome in ended] == ["a.mp4", None]
    assert [e["event"] for e in events(tmp_path / "1")] == [
        "begun",
        "failed",
        "begun",
        "failed",
        "begun",
        "done",
        "begun",
        "failed",
    ]
    with Journal(tmp_path / "2") as journal:
        ended = batch.work(
            items, Script("e", "b.mp4", "e", "c.mp4", capacity=2), journal, retries=0, continue_on_error=True
        )
    assert [bool(outcome.path) for outcome in ended] == [False, True, False]


# -- whole runs
def test_a_batch_makes_what_is_listed_once(listed, run, tmp_path):
    path = listed(
        {"prompt": "a red ball", "seed": 5},
        {"prompt": "a red ball", "seed": 5, "id": "same"},
        {"prompt": "still", "num_frames": 1, "seed": 5},
    )
    code, out, err = run(path)
    assert code == 0 and "3 made, 0 done before, 0 failed" in err
    assert [Path(line).name for line in out] == ["a-red-ball-5.mp4", "a-red-ball-5-2.mp4", "still-5.png"]
    assert read_metadata(out[1])["batch"] == "same" and read_metadata(out[1])["settings"]["seed"] == 5
    code, out, err = run(path)
    assert code == 0 and out == [] and "3 done before, 0 to do" in err and len(results(tmp_path / "out")) == 3
    changed = listed({"prompt": "a red ball", "seed": 6, "id": "same"}, name="changed.jsonl")
    code, out, err = run(changed)
    assert code == 2 and out == [] and "line 1: item 'same' was begun with other settings" in err


def test_a_result_without_its_line_in_the_journal_counts(listed, run, tmp_path):
    path = listed({"prompt": "a", "seed": 5}, {"prompt": "b"})
    assert run(path)[0] == 0
    journal = tmp_path / "out" / batch.STATE
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"done"' not in line))  # as if it died just before
    before = results(tmp_path / "out")
    code, out, err = run(path)
    assert code == 0 and out == [] and "2 done before" in err and results(tmp_path / "out") == before


def test_after_kill_9_it_goes_on_and_nothing_is_made_twice(listed, run, tmp_path):
    path = listed(*({"prompt": f"ball {n}"} for n in range(4)))
    folder = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "pyramid", "batch", path, "--output-dir", folder],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process.stdout.readline()  # the first result is there, the second in the making
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    first = {event["key"]: event["seed"] for event in events(folder)}
    code, out, err = run(path)
    assert code == 0 and len(results(folder)) == 4 and 1 <= len(out) <= 3
    done = [event for event in events(folder) if event["event"] == "done"]
    assert len(done) == len({event["key"] for event in done}) == 4
    assert {event["key"]: event["seed"] for event in done}.items() >= first.items()


def test_a_stop_keeps_what_is_done_and_drops_what_is_not(listed, tmp_path, monkeypatch):
    items = read_list(listed({"prompt": "a", "seed": 1}))
    stop = batch.threading.Event()
    stop.set()
    engine = batch.Here(tmp_path, stop)
    engine.submit(items[0])
    with pytest.raises(Stopped):
        engine.next()
    assert results(tmp_path) == ["list.jsonl"]


def test_an_item_that_was_stopped_goes_on_from_its_finished_units(listed, tmp_path, monkeypatch):
    made = read_list(listed({"prompt": "a", "seed": 1, "num_frames": 25}))[0]
    stop, sampled, stream = batch.threading.Event(), [], Loaded.stream

    def watched(self, settings, inputs):
        for event in stream(self, settings, inputs):
            yield event
            if isinstance(event, Preview):
                sampled.append(event.unit)
            elif isinstance(event, Frames) and event.unit == 1 and 1 in sampled:
                stop.set()

    monkeypatch.setattr(Loaded, "stream", watched)
    engine = batch.Here(tmp_path / "out", stop)
    engine.submit(made)
    with pytest.raises(Stopped):
        engine.next()
    assert results(tmp_path / "out") == [] and set(sampled) == {0, 1}
    stop.clear()
    sampled.clear()
    engine.submit(made)
    path = engine.next().path
    assert set(sampled) == {2, 3} and not list((tmp_path / "out" / batch.UNITS).iterdir())
    monkeypatch.undo()
    whole = batch.Here(tmp_path / "whole", stop)
    whole.submit(made)
    assert pixels(path) == pixels(whole.next().path)


def test_a_failure_on_the_way_is_told_and_leaves_no_file(listed, run, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "given.png")
    path = listed({"prompt": "a", "image": "given.png", "seed": 1}, {"prompt": "b", "seed": 1})
    items = read_list(path)
    (tmp_path / "given.png").write_text("not a picture any more")
    engine = batch.Here(tmp_path / "out", batch.threading.Event())
    with Journal(tmp_path / "out") as journal:
        ended = batch.work(items, engine, journal, continue_on_error=True)
    assert [bool(outcome.path) for outcome in ended] == [False, True] and "given.png" in ended[0].error
    assert results(tmp_path / "out") == ["b-1.mp4"]
    assert batch.report(items, items, ended) == 1


@pytest.mark.parametrize("frames", [9, 1])
def test_what_was_changed_on_the_way_is_told_and_noted(listed, run, monkeypatch, frames):
    made = Loaded.stream

    def changed(self, settings, inputs):
        yield Status("text", "Reading the prompt")
        yield Notice("memory", "Memory ran out: smaller tiles.")
        yield from made(self, settings, inputs)

    monkeypatch.setattr(Loaded, "stream", changed)
    monkeypatch.setattr(ladder, "load", lambda *a, load=ladder.load: (load(*a)[0], "Loaded in bfloat16."))
    code, out, err = run(listed({"prompt": "a", "seed": 1, "num_frames": frames}))
    assert (
        code == 0 and 'line 1 "a", seed 1: Memory ran out: smaller tiles.\n' in err and "Reading" not in err
    )
    assert read_metadata(out[0])["notes"] == ["Loaded in bfloat16.", "Memory ran out: smaller tiles."]


# -- Ray
def test_a_worker_needs_no_picture_on_its_own_disk(listed, tmp_path):
    from pyramid.commands.cluster import Worker

    picture = tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    made = read_list(listed({"prompt": "a", "image": "red.png", "seed": 1}))[0]
    given, source = read_given(made.settings), source_of(made.settings)
    picture.unlink()
    content, told = Worker("auto", threads="1").make(made, given, source)
    (tmp_path / "made.mp4").write_bytes(content)
    assert told == [] and read_metadata(tmp_path / "made.mp4")["source"] == source["source"]


def test_without_ray_the_command_that_installs_it_is_named(listed, run, monkeypatch):
    from pyramid.jobs import cluster

    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    code, _, err = run(listed({"prompt": "x"}), "--ray")
    assert code == 2 and "pip install ray" in err


def test_a_local_ray_of_two_workers_makes_each_item_once_though_one_dies(listed, run, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from pyramid.commands.cluster import OnRay

    monkeypatch.setenv(
        "RAY_worker_niceness", "0"
    )  # 15 is Ray's default: on a busy machine that takes minutes
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    items = read_list(listed(*({"prompt": f"ball {n}", "seed": n, "image": "red.png"} for n in range(2))))
    folder, stop = tmp_path / "out", batch.threading.Event()
    with Journal(folder) as journal:
        engine = OnRay(folder, stop, "local", 2)
        try:
            assert engine.capacity == 2
            submit = engine.submit

            def submit_and_kill(item):
                submit(item)
                if item.key == items[1].key and not item.attempts:
                    ray.kill(next(actor for actor, its, _ in engine.running.values() if its is item))

            engine.submit = submit_and_kill
            ended = batch.work(items, engine, journal, retries=1)
        finally:
            engine.close()
    assert sorted(outcome.path.name for outcome in ended) == ["ball-0-0.mp4", "ball-1-1.mp4"]
    assert [event["key"] for event in events(folder) if event["event"] == "failed"] == [items[1].key]
    code, out, err = run(tmp_path / "list.jsonl", folder=folder)  # what Ray made, this process need not
    assert code == 0 and out == [] and "2 done before" in err
