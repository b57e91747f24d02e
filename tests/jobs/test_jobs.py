"""The store of jobs: kept over restarts, each owner's own, claimed once, in order."""

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from pyramid.jobs.database import Database
from pyramid.jobs.queue import SCHEMA, Beginning, Job, JobStore, Limits, Output, State
from pyramid.media.files import PATTERN
from pyramid.media.video import VideoWriter
from pyramid.settings import Settings, SettingsError

ASKED = Settings(prompt="a red ball moves to the right", num_frames=17, width=64, height=64)


@pytest.fixture
def store(tmp_path):
    with_it = JobStore(tmp_path / "out")
    yield with_it
    with_it.close()


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "a photo.png"
    Image.new("RGB", (90, 80), "red").save(path)
    return path


def prompts(jobs: list[Job]) -> list[str]:
    return [job.settings.prompt for job in jobs]


def queue_of(store: JobStore, *names: str, owner: str = "ana") -> list[Job]:
    return [store.add(replace(ASKED, prompt=name), owner=owner) for name in names]


def ended(store: JobStore, name: str, state: State = State.DONE, owner: str = "ana", **more) -> Job:
    queue_of(store, name, owner=owner)
    return store.finish(store.claim().id, state, **more)


# ------------------------------------------------------------------------------------------------------------
# What is kept


def test_a_job_is_kept_with_the_seed_that_will_be_used_and_comes_back_after_a_restart(store, picture):
    output = Output(format="webm", quality=30, metadata="sidecar", pattern="{date}/{prompt}", previews=False)
    job = store.add(ASKED, owner="ana", output=output, image=picture)
    assert job.state is State.QUEUED and job.settings.seed is not None and job.output == output
    assert job.settings.image == "a photo.png"  # a name, never a path
    picture.unlink()  # an upload may vanish: the store has its own copy
    store.close()
    again = JobStore(store.folder)
    assert again.queue() == [job]
    assert Image.open(again.input_of(job)).size == (90, 80)
    assert again.version > 0
    again.close()


def test_what_cannot_be_run_is_refused_and_leaves_nothing(store, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    for wanted, message in [
        (lambda: store.add(replace(ASKED, prompt=" "), owner="ana"), "the prompt is empty"),
        (lambda: store.add(ASKED, owner="ana", image=text), "the picture 'text.png' is not a picture"),
        (lambda: store.add(ASKED, owner="ana", image=b"nothing"), "not a picture"),
        (lambda: store.add(ASKED, owner="ana", video=text), "text.png.* is not a video"),
        (lambda: store.add(ASKED, owner="ana", image=b"1", video=b"2"), "both a picture and a video"),
        (lambda: store.add(replace(ASKED, image="/etc/passwd"), owner="ana"), "'passwd' is not here"),
        (lambda: store.add(replace(ASKED, num_frames=1), owner="ana", image=text), "leaves nothing to make"),
    ]:
        with pytest.raises(SettingsError, match=message) as caught:
            wanted()
        assert str(tmp_path) not in str(caught.value)
    assert store.queue() == [] and not list((store.private / "inputs").iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": "avi"}, "unknown format"),
        ({"metadata": "?"}, "unknown metadata"),
        ({"quality": 0}, "1 to 51"),
        ({"quality": 17.5}, "quality"),
        ({"pattern": "{nothing}"}, "nothing"),
        ({"pattern": "../{seed}"}, "pattern"),
    ],
)
def test_an_output_that_cannot_be_made_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        Output(**values)
    assert Output().pattern == PATTERN


def test_a_clip_to_continue_is_copied_too(store, tmp_path):
    import numpy as np

    with VideoWriter(tmp_path / "clip.mp4", 8, (64, 64)) as writer:
        writer.write(np.zeros((9, 64, 64, 3), np.uint8))
    job = store.add(replace(ASKED, video="C:\\clips\\my clip?.mp4"), owner="ana", video=writer.path)
    assert (
        job.settings.video == "my clip_.mp4" and store.input_of(job).read_bytes() == writer.path.read_bytes()
    )


def test_a_newer_or_damaged_file_is_refused_in_a_sentence(tmp_path):
    JobStore(tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer" / ".pyramid" / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="newer version of this program"):
        JobStore(tmp_path / "newer")
    older = tmp_path / "older" / ".pyramid"
    older.mkdir(parents=True)
    with sqlite3.connect(older / "jobs.sqlite") as db:  # of before the versions were counted
        db.execute("CREATE TABLE jobs (name TEXT)")
    with pytest.raises(ValueError, match="move it away, and a new one is made"):
        JobStore(tmp_path / "older")
    damaged = tmp_path / "damaged" / ".pyramid"
    damaged.mkdir(parents=True)
    (damaged / "jobs.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(ValueError, match="move it away"):
        JobStore(tmp_path / "damaged")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="nothing can be written"):
        JobStore(tmp_path / "file")


@pytest.mark.parametrize("version", range(len(SCHEMA)))
def test_a_file_of_each_earlier_version_is_brought_to_this_one(tmp_path, version):
    (tmp_path / ".pyramid").mkdir()
    with sqlite3.connect(tmp_path / ".pyramid" / "jobs.sqlite") as db:
        for script in SCHEMA[:version]:
            db.executescript(script)
        db.execute(f"PRAGMA user_version = {version}")
    store = JobStore(tmp_path)
    assert store.add(ASKED, owner="ana").waiting
    store.close()


def test_a_file_that_another_program_has_locked_is_told(tmp_path, monkeypatch):
    JobStore(tmp_path).close()
    with sqlite3.connect(tmp_path / ".pyramid" / "jobs.sqlite", isolation_level=None) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr("pyramid.jobs.database.PATIENCE", 0.01)
        with pytest.raises(ValueError, match="another program has it open: close that one"):
            JobStore(tmp_path)


# ------------------------------------------------------------------------------------------------------------
# The queue


def test_waiting_jobs_can_be_moved_changed_doubled_and_removed(store):
    first, second, third = queue_of(store, "one", "two", "three")
    store.move(third.id, "ana", -2)
    assert prompts(store.queue()) == ["three", "one", "two"]
    store.move(third.id, "ana", 1)
    store.move(second.id, "ana", 99)
    assert prompts(store.queue()) == ["one", "three", "two"]
    changed = store.edit(first.id, "ana", replace(first.settings, prompt="uno"), output=Output(quality=20))
    assert (changed.id, changed.settings.seed, changed.output.quality) == (first.id, first.settings.seed, 20)
    with pytest.raises(SettingsError, match="prompt is empty"):
        store.edit(first.id, "ana", replace(first.settings, prompt=""))
    copy = store.duplicate(second.id, "ana", seed=None)
    assert copy.parent == second.id and copy.settings.seed != second.settings.seed
    assert store.duplicate(second.id, "ana").settings == second.settings
    store.remove(third.id, "ana")
    assert prompts(store.queue()) == ["uno", "two", "two", "two"]


def test_what_has_begun_cannot_be_changed(store):
    (job,) = queue_of(store, "one")
    assert store.claim().state is State.RUNNING and store.claim() is None
    for change in (
        lambda: store.remove(job.id, "ana"),
        lambda: store.move(job.id, "ana", 1),
        lambda: store.edit(job.id, "ana", ASKED),
        lambda: store.delete(job.id, "ana"),
        lambda: store.resume(job.id, "ana"),
        lambda: store.decode_finished(job.id, "ana"),
    ):
        with pytest.raises(ValueError, match="running"):
            change()


def test_the_picture_goes_along_with_a_copy_and_leaves_with_its_name(store, picture):
    job = store.add(ASKED, owner="ana", image=picture)
    copy = store.duplicate(job.id, "ana")
    store.remove(job.id, "ana")
    assert not (store.private / "inputs" / job.id).exists()
    assert store.input_of(copy).read_bytes() == picture.read_bytes()
    kept = store.edit(copy.id, "ana", replace(copy.settings, seed=1))
    assert store.input_of(kept).read_bytes() == picture.read_bytes()
    without = store.edit(copy.id, "ana", replace(copy.settings, image=None))
    assert store.input_of(without) is None and not (store.private / "inputs" / copy.id).exists()


def test_several_seeds_of_several_pictures_are_several_jobs_or_none(store, picture):
    data = picture.read_bytes()
    jobs = store.add_many(
        replace(ASKED, seed=7), owner="ana", count=2, images=[("a.png", data), ("b.png", data)]
    )
    assert [(job.settings.image, job.settings.seed) for job in jobs] == [
        ("a.png", 7),
        ("a.png", 8),
        ("b.png", 7),
        ("b.png", 8),
    ]
    assert store.queue() == jobs
    first, *others = [job.settings.seed for job in store.add_many(ASKED, owner="ana", count=3)]
    assert others == [first + 1, first + 2]
    with pytest.raises(SettingsError, match="not a picture"):
        store.add_many(ASKED, owner="ana", images=[("a.png", data), ("b.png", b"nothing")])
    assert len(store.queue()) == 7
    with pytest.raises(SettingsError, match="1 to 100"):
        store.add_many(ASKED, owner="ana", count=101)


def test_what_a_job_starts_from_is_read_once_and_while_others_go_on(store, picture, monkeypatch):
    checks = []

    def check(source, settings, limit):
        free = threading.Event()
        thread = threading.Thread(target=lambda: (store.queue(), free.set()), daemon=True)
        thread.start()
        checks.append(free.wait(10))

    monkeypatch.setattr("pyramid.jobs.queue.Source.check", check)
    jobs = store.add_many(ASKED, owner="ana", count=3, images=[(picture.name, picture)])
    store.edit(jobs[0].id, "ana", ASKED, image=picture)
    assert checks == [True, True] and len(store.queue("ana")) == 3


def test_owners_take_turns_where_several_devices_work(store):
    queue_of(store, "a1", "a2", "a3")
    queue_of(store, "b1", "b2", owner="bob")
    queue_of(store, "c1", owner="cid")
    assert prompts(store.queue()) == ["a1", "a2", "a3", "b1", "b2", "c1"]  # one device: who asked first
    store.fair = True
    assert prompts(store.queue()) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert prompts(store.queue("ana")) == ["a1", "a2", "a3"]
    assert prompts([store.claim(), store.claim()]) == ["a1", "b1"]
    late = queue_of(store, "d1", owner="dan")[0]
    assert prompts(store.queue()) == ["a1", "b1", "c1", "d1", "a2", "b2", "a3"]
    assert store.place(late.id) == 3
    first = store.queue("ana")[0]
    store.give_back(first.id)  # where it was, and as it was
    again = store.claim(but=[first.id])
    assert again.settings.prompt == "c1" and store.claim().id == first.id
    assert store.get(first.id).state is State.RUNNING


def test_every_job_is_claimed_once_in_order_by_whoever_asks(store):
    jobs = queue_of(store, *map(str, range(8)))
    other = JobStore(store.folder)  # another connection, as of another process
    claimed, lock = [], threading.Lock()

    def claim(source: JobStore) -> None:
        while job := source.claim():
            with lock:
                claimed.append(job.id)

    threads = [threading.Thread(target=claim, args=[source]) for source in (store, other, store)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(job.id for job in jobs)
    other.close()
    (job,) = queue_of(store, "last")
    assert store.claim().id == job.id


def test_who_waits_for_news_is_told(store):
    before, told = store.version, []
    waiting = threading.Thread(target=lambda: told.append(store.wait(before, 60)))
    waiting.start()
    queue_of(store, "one")
    waiting.join(30)
    assert told and told[0] > before
    assert store.claim() and store.claim() is None
    now = store.version
    assert store.claim() is None and store.version == now  # nothing changed, nobody is woken


# ------------------------------------------------------------------------------------------------------------
# Owners and limits


def test_owners_see_and_change_their_own_jobs_only(store):
    (hers,) = queue_of(store, "hers", owner="ana")
    (his,) = queue_of(store, "his", owner="bob")
    assert prompts(store.queue("bob")) == ["his"] and store.place(his.id) == 1
    for call in (
        lambda: store.get(hers.id, "bob"),
        lambda: store.remove(hers.id, "bob"),
        lambda: store.move(hers.id, "bob", 1),
        lambda: store.edit(hers.id, "bob", ASKED),
        lambda: store.duplicate(hers.id, "bob"),
        lambda: store.favourite(hers.id, "bob"),
        lambda: store.delete(hers.id, "bob"),
        lambda: store.resume(hers.id, "bob"),
        lambda: store.decode_finished(hers.id, "bob"),
        lambda: store.add(replace(ASKED, image="x.png"), owner="bob", parent=hers.id),
        lambda: store.get("nothing"),
    ):
        with pytest.raises(KeyError, match="there is no job"):
            call()
    store.move(his.id, "bob", -5)  # nobody overtakes another
    assert prompts(store.queue()) == ["hers", "his"]
    store.finish(store.claim().id, State.DONE)
    assert store.history("bob") == [] and prompts(store.history("ana")) == ["hers"]


def test_visitors_have_limits(tmp_path, picture):
    store = JobStore(tmp_path / "out", Limits(max_upload_mb=0.00001, max_seconds=2, max_queue_per_owner=2))
    with pytest.raises(SettingsError, match="at most 2 s are allowed"):
        store.add(replace(ASKED, num_frames=25), owner="ana")
    with pytest.raises(SettingsError, match="a photo.png has .* MB: at most 1e-05 MB"):
        store.add(ASKED, owner="ana", image=picture)
    queue_of(store, "one", "two")
    store.claim()  # what runs counts
    with pytest.raises(SettingsError, match="2 of your jobs wait or run, 2 may"):
        queue_of(store, "three")
    with pytest.raises(SettingsError, match="0 of your jobs"):
        store.add_many(ASKED, owner="bob", count=3)
    assert len(store.queue()) == 2 and queue_of(store, "his", owner="bob")
    store.close()


def test_what_is_put_into_the_queue_again_has_limits_too(tmp_path, monkeypatch):
    store = JobStore(tmp_path / "out", Limits(max_queue_per_owner=1, max_disk_mb=1))
    stopped = [ended(store, name, State.STOPPED, units_done=1) for name in ("one", "two")]
    queue_of(store, "waits")
    for again in (store.resume, store.decode_finished):
        with pytest.raises(SettingsError, match="1 of your jobs wait or run, 1 may"):
            again(stopped[0].id, "ana")
    store.remove(store.queue()[0].id, "ana")
    monkeypatch.setattr(store.space, "used", lambda: 2_000_000)
    for again in (store.resume, store.decode_finished):
        with pytest.raises(SettingsError, match="results take 2 MB here, 1 MB may"):
            again(stopped[0].id, "ana")
    assert not store.queue()
    store.close()


def test_a_picture_by_the_name_of_a_draft_is_none(store, picture):
    named = store.add(ASKED, owner="ana", image=picture, image_name="draft.safetensors")
    assert named.settings.image == "draft.safetensors" and store.draft_of(named) is None
    hidden = store.add(ASKED, owner="ana", image=picture, image_name=".draft.safetensors")
    assert hidden.settings.image == "draft.safetensors", "no upload is called as drafts are"
    draft = picture.with_name("latents")
    draft.write_bytes(b"latents")
    begin = Beginning(draft=draft)
    both = store.direct(named.settings, owner="ana", begin=begin, parent=named.id)
    assert store.input_of(both).read_bytes() == picture.read_bytes()
    assert store.draft_of(both).read_bytes() == b"latents"
    plain = store.direct(ASKED, owner="ana", begin=begin)
    path = store.draft_of(plain)
    path.rename(path.with_name("draft.safetensors"))  # as earlier versions called it
    assert store.draft_of(plain).read_bytes() == b"latents"


# ------------------------------------------------------------------------------------------------------------
# The history


def test_the_history_is_searched_by_words_and_marked(store):
    ended(store, "a red ball over a Straße")
    star = ended(store, "a blue STAR falls", State.STOPPED)
    queue_of(store, "a red ball that waits")
    assert prompts(store.history("ana")) == [
        "a blue STAR falls",
        "a red ball over a Straße",
    ]  # the latest first
    assert prompts(store.history("ana", search="RED strasse")) == ["a red ball over a Straße"]
    assert prompts(store.history("ana", search="star red")) == []
    assert prompts(store.history("ana", search=str(star.settings.seed))) == ["a blue STAR falls"]
    assert prompts(store.history("ana", limit=1, offset=1)) == ["a red ball over a Straße"]
    store.favourite(star.id, "ana")
    assert prompts(store.history("ana", favourites=True)) == ["a blue STAR falls"]
    store.favourite(star.id, "ana", False)
    assert store.history("ana", favourites=True) == []


def test_a_result_moves_with_its_folder_and_is_deleted_with_all_that_belongs_to_it(store, picture):
    job = store.add(ASKED, owner="ana", image=picture)
    result, beside = store.folder / "day" / "ball.mp4", store.folder / "day" / "ball.mp4.json"
    result.parent.mkdir()
    result.write_text("video")
    beside.write_text("{}")
    store.claim()
    done = store.finish(
        job.id, State.DONE, path=result, notes=["smaller tiles"], timings={"total": 1.5}, units_done=3
    )
    assert (done.path, done.notes, done.timings, done.units_done) == (
        result,
        ("smaller tiles",),
        {"total": 1.5},
        3,
    )
    store.close()
    moved = store.folder.rename(store.folder.with_name("elsewhere"))
    again = JobStore(moved)
    assert again.get(job.id).path == moved / "day" / "ball.mp4"
    again.delete(job.id, "ana")
    assert again.history("ana") == [] and not list(moved.glob("day/*"))
    assert not (again.private / "inputs" / job.id).exists()
    again.close()


def test_a_file_elsewhere_is_never_deleted(store, tmp_path):
    elsewhere = tmp_path / "mine.mp4"
    elsewhere.write_text("video")
    job = ended(store, "one", path=elsewhere)
    store.delete(job.id, "ana")
    assert elsewhere.exists() and store.history("ana") == []


# ------------------------------------------------------------------------------------------------------------
# After the program ended


def test_what_the_end_of_the_program_cut_off_is_taken_up_once_without_progress(store):
    first = ended(store, "one", State.INTERRUPTED, units_done=2)
    ended(store, "two", State.STOPPED, units_done=1)
    waiting = store.add(Settings(prompt="three", seed=1), owner="ana")
    (taken,) = store.take_up()
    assert (taken.id, taken.state, taken.error, taken.units_done) == (first.id, State.QUEUED, "", 2)
    assert [job.id for job in store.queue()] == [first.id, waiting.id]
    assert store.take_up() == []
    assert store.claim().id == first.id
    assert [job.id for job in store.recover()] == [first.id] and store.take_up() == []  # no further: it stays
    store.resume(first.id, "ana")
    while store.claim().id != first.id:
        pass
    store.finish(first.id, State.INTERRUPTED, units_done=3)
    assert [job.id for job in store.take_up()] == [first.id]


def test_at_a_start_what_ran_is_interrupted_what_waits_waits_and_litter_goes(store):
    ran, waits = queue_of(store, "ran", "waits")
    store.claim()
    store.progress(ran.id, 2)
    for name in ("inputs/nobody", f"live/{ran.id}", f"units/{ran.id}"):
        (store.private / name).mkdir()
    store.close()
    again = JobStore(store.folder)
    (marked,) = again.recover()
    assert (marked.id, marked.state, marked.units_done) == (ran.id, State.INTERRUPTED, 2)
    assert "program ended" in marked.error and again.recover() == []
    assert again.queue() == [waits] and prompts(again.history("ana")) == ["ran"]
    left = sorted(path.relative_to(again.private).as_posix() for path in again.private.glob("*/*"))
    assert left == [f"units/{ran.id}"]
    again.close()


def test_an_ended_job_goes_on_and_keeps_what_it_has(store):
    interrupted = ended(store, "one", State.INTERRUPTED, units_done=2)
    waiting = store.resume(interrupted.id, "ana")
    assert (waiting.id, waiting.state, waiting.units_done) == (interrupted.id, State.QUEUED, 2)
    store.finish(store.claim().id, State.INTERRUPTED, units_done=2)
    assert store.decode_finished(interrupted.id, "ana").decode_only and store.claim().decode_only
    store.finish(interrupted.id, State.PARTIAL, path=store.folder / "x-partial.mp4", units_done=2)
    units = store.units_of(interrupted)
    units.mkdir()
    (units / "unit-000.safetensors").write_text("latents")
    copy = store.resume(interrupted.id, "ana")  # the partial video stays in the history
    assert copy.id != interrupted.id and copy.parent == interrupted.id and not copy.decode_only
    shared = store.units_of(copy) / "unit-000.safetensors"
    assert copy.settings == interrupted.settings and shared.read_text() == "latents"
    with pytest.raises(ValueError, match="ended without a file"):
        store.decode_finished(interrupted.id, "ana")
    with pytest.raises(ValueError, match="only one that ended early"):
        store.resume(ended(store, "done").id if store.claim() else "", "ana")
    with pytest.raises(ValueError, match="no unit of this job was finished"):
        store.decode_finished(ended(store, "stopped", State.STOPPED).id, "ana")


def test_a_transaction_that_fails_at_its_end_leaves_the_file_usable(tmp_path):
    """As on a full disk: the error is told, and the next change works."""
    tables = "CREATE TABLE a (id PRIMARY KEY); CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
    database = Database(tmp_path / "db.sqlite", [tables])
    database.rows("PRAGMA foreign_keys = ON")
    with pytest.raises(sqlite3.IntegrityError), database.change() as db:
        db.execute("INSERT INTO b VALUES (1)")  # refused at COMMIT only
    with database.change() as db:
        db.execute("INSERT INTO a VALUES (2)")
    assert [tuple(row) for row in database.rows("SELECT * FROM a")] == [(2,)] and not database.rows(
        "SELECT * FROM b"
    )
    database.close()
