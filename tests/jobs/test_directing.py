"""Clips that are directed, as jobs of the page: drafts of many seeds, and what goes on from them.

python -m pytest tests/jobs/test_directing.py
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import finish, until
from PIL import Image
from safetensors.torch import load_file

from pyramid.jobs.directing import branch, edit, endless, explore, refine, vary
from pyramid.jobs.drafting import draft_picture
from pyramid.jobs.editing import Edit
from pyramid.jobs.queue import JobStore, State
from pyramid.jobs.recovery import UnitsFolder
from pyramid.jobs.remaking import seam_picture
from pyramid.jobs.worker import Worker
from pyramid.media import files
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_frames
from pyramid.settings import SettingsError, frames_of
from pyramid.timeline import Cue

PROMPT = "a red ball moves to the right"


@pytest.fixture(scope="module")
def asked(worker):
    return replace(worker.start_from, prompt=PROMPT, num_frames=17)


def made(worker: Worker, settings):
    """The clip of some settings, made in one go."""
    return finish(worker, worker.store.add(settings, owner="local"))


def frames(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def units(worker: Worker, job) -> list[bytes]:
    """The latents of a job's units, to the bit."""
    files = sorted(worker.store.units_of(job).glob("unit-*"))
    return [load_file(path)["latents"].numpy().tobytes() for path in files]


# ------------------------------------------------------------------------------------------------------------
# Drafts


@pytest.fixture(scope="module")
def wall(worker, asked):
    return finish(worker, explore(worker.store, replace(asked, seed=5), owner="local"))


def test_a_wall_shows_nine_seeds_and_is_no_clip(worker, wall):
    assert (wall.state, wall.kind, wall.path, wall.error) == (State.DONE, "drafts", None, "")
    assert wall.directed.seeds == tuple(range(5, 14))
    pictures = [Image.open(draft_picture(worker.store, wall, index)) for index in range(9)]
    assert all(picture.size == (192, 192) and picture.n_frames == 1 for picture in pictures)
    assert wall not in worker.store.history("local") and wall in worker.store.history("local", drafts=True)
    again = JobStore(worker.store.folder)
    assert again.get(wall.id) == wall
    again.close()


def test_a_draft_is_refined_to_the_clip_of_its_seed(worker, wall, asked):
    clip = finish(worker, refine(worker.store, wall.id, "local", 3))
    assert clip.settings == replace(wall.settings, seed=8) and clip.state is State.DONE
    straight = made(worker, replace(asked, seed=8))
    assert units(worker, clip) == units(worker, straight)
    assert np.array_equal(frames(clip.path), frames(straight.path))
    assert read_metadata(clip.path)["settings"] == read_metadata(straight.path)["settings"]


def test_variations_of_a_draft_are_refined_alike(worker, wall, asked):
    varied = finish(worker, vary(worker.store, wall.id, "local", 2, strength=0.4))
    assert varied.directed.variations == tuple(range(1, 10)) and varied.settings.seed == 7
    clip = finish(worker, refine(worker.store, varied.id, "local", 8))
    asked = replace(asked, seed=7, variation_seed=9, variation_strength=0.4)
    assert clip.settings == asked and units(worker, clip) == units(worker, made(worker, asked))


def test_whole_drafts_move_and_say_how_far_the_clip_departs(worker, asked):
    wall = finish(worker, explore(worker.store, replace(asked, seed=1), owner="local", whole=True))
    with Image.open(draft_picture(worker.store, wall, 0)) as picture:
        assert picture.n_frames > 1
    clip = finish(worker, refine(worker.store, wall.id, "local", 0))
    assert any("departs from its draft, unit by unit" in note for note in clip.notes)
    assert units(worker, clip) == units(worker, made(worker, replace(asked, seed=1)))


def test_what_cannot_be_drafted_is_said(worker, wall, asked):
    with pytest.raises(SettingsError, match="9 or 16"):
        explore(worker.store, asked, owner="local", count=3)
    with pytest.raises(ValueError, match="not there any more"):
        refine(worker.store, wall.id, "local", 9)
    with pytest.raises(KeyError):
        refine(worker.store, wall.id, "visitor:other", 0)


# ------------------------------------------------------------------------------------------------------------
# Branches


@pytest.fixture(scope="module")
def clip(worker, asked):
    return made(worker, replace(asked, seed=4, num_frames=25))


def test_a_branch_shares_units_and_is_what_its_settings_make(worker, clip):
    cue = Cue(2, "a blue star falls", guidance=(2.0,), steps=(1, 2, 1), seed=9)
    other = finish(worker, branch(worker.store, clip.id, "local", 2, cue))
    assert (other.state, other.error, other.parent, other.directed.at_unit) == (State.DONE, "", clip.id, 2)
    first, own, latents = units(worker, clip), units(worker, other), worker.store.units_of
    assert own[:2] == first[:2] and own[2] != first[2] and own[3] != first[3] and len(own) == 4
    shared = [(latents(job) / "unit-001.safetensors").stat().st_ino for job in (clip, other)]
    assert shared[0] == shared[1]  # it lies on the disk once
    assert units(worker, made(worker, other.settings)) == own
    longer = finish(worker, branch(worker.store, other.id, "local", 3, Cue(3, seed=1), 33))
    assert units(worker, longer)[:3] == own[:3] and longer.settings.cues[0].prompt == "a blue star falls"
    assert longer.settings.cues[1].table() == {"from": 3, "seed": 1} and longer.units_done == 5
    for job in (clip, other, longer):
        assert [each.id for each in worker.store.family(job)] == [clip.id, other.id, longer.id]


def test_a_branch_begins_where_a_unit_is_kept(worker, clip):
    for unit, frames_asked, message in (
        (0, 25, "1 to that many"),
        (9, 99, "kept"),
        (3, 25 - 8, "ask for more"),
    ):
        with pytest.raises(ValueError, match=message):
            branch(worker.store, clip.id, "local", unit, Cue(unit, seed=1), frames_asked)
    with pytest.raises(KeyError):
        branch(worker.store, clip.id, "visitor:other", 2, Cue(2, seed=1))


def test_a_running_clip_has_branches_too_and_outlives_the_first(worker, asked):
    settings = replace(asked, seed=6, video_num_inference_steps=(60, 60, 60))
    job = worker.store.add(settings, owner="local")
    until(worker, lambda: worker.store.get(job.id).units_done >= 2)
    other = branch(worker.store, job.id, "local", 1, Cue(1, "a blue star", steps=(1,)))
    worker.stop(job.id)
    finish(worker, job)
    worker.store.delete(job.id, "local")
    other = finish(worker, other)
    assert other.state is State.DONE and worker.store.family(other) == [other]


# ------------------------------------------------------------------------------------------------------------
# Pauses


@pytest.mark.parametrize("part", ["stage", "unit"])
def test_a_paused_clip_goes_on_to_the_very_same(worker, asked, part):
    settings = replace(asked, seed=3, video_num_inference_steps=(60, 60, 60))
    job = worker.store.add(settings, owner="local")
    until(worker, lambda: (live := worker.live) and live.job.id == job.id and live.at and live.at.unit == 1)
    worker.pause(job.id, part, owner="local")
    held = finish(worker, job)
    assert (held.state, held.path, held.error) == (State.PAUSED, None, "")
    stage = UnitsFolder(worker.store.units_of(job)).load_stage()
    assert (held.units_done, stage is None) in ((1, False), (2, True))
    assert (part == "stage") == (stage is not None)
    other = made(worker, replace(asked, seed=9))  # others have their turn
    assert other.state is State.DONE
    worker.resume(job.id, owner="local")
    done = finish(worker, job)
    assert (done.state, done.units_done) == (State.DONE, 3)
    taken = worker.live.at.total
    assert taken == {"stage": 60 * (5 - stage[1]) if stage else 0, "unit": 180}[part]
    assert units(worker, done) == units(worker, made(worker, settings))


def test_what_does_not_run_cannot_be_paused(worker, clip):
    with pytest.raises(ValueError, match="only a clip that is being made"):
        worker.pause(clip.id, "unit")
    with pytest.raises(SettingsError, match="choose from stage, unit"):
        worker.pause(clip.id, "step")


# ------------------------------------------------------------------------------------------------------------
# A unit in the middle made anew


@pytest.fixture(scope="module")
def edited(worker, clip):
    """The clip with its unit 1 made anew: the best of two seeds."""
    return finish(worker, edit(worker.store, clip.id, "local", Edit(1, "a blue star", (5, 6), True)))


def test_an_edit_is_another_clip_and_the_one_that_was_edited_stays(worker, clip, edited):
    before, after = units(worker, clip), units(worker, edited)
    assert (edited.state, edited.kind, edited.units_done, edited.parent) == (State.DONE, "edit", 4, clip.id)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    assert before == units(worker, made(worker, clip.settings)) and clip.path.is_file()
    told = read_metadata(edited.path)
    assert told["settings"] == files.told(clip.settings) and told["run"] == edited.id
    assert told["edit"]["unit"] == 1 and told["edit"]["seams"].keys() == {"left", "right"}
    assert set(told["edit"]["tried"]) == {"5", "6"} and "before" not in told["edit"]
    assert edited.notes[-1].startswith("Frames 1 to 8 (unit 1) were made anew with seed ")
    assert len(frames(edited.path)) == 25 and edited.path.name.endswith("-unit1.mp4")
    for side in ("left", "right"):
        with Image.open(seam_picture(worker.store, edited, side)) as picture:
            assert picture.height <= 120 and picture.width > 4 * picture.height


def test_an_edited_clip_is_edited_again_branched_and_made_longer_and_says_so(worker, clip, edited):
    again = finish(worker, edit(worker.store, edited.id, "local", Edit(2, seeds=(8,))))
    after = units(worker, again)
    assert after[:2] == units(worker, edited)[:2] and after[2] != units(worker, edited)[2]
    told = read_metadata(again.path)["edit"]
    assert told["unit"] == 2 and [each["unit"] for each in told["before"]] == [1]
    longer = finish(worker, worker.store.extend(edited.id, "local", num_frames=33))
    assert (longer.kind, units(worker, longer)[:4]) == ("video", units(worker, edited))
    assert read_metadata(longer.path)["edit"]["unit"] == 1
    other = finish(worker, branch(worker.store, edited.id, "local", 1, Cue(1, seed=9)))
    assert "edit" not in read_metadata(other.path)  # it shares none of what was edited
    assert units(worker, other)[0] == units(worker, clip)[0]


def test_a_stop_before_anything_was_made_leaves_the_clip_and_goes_on_to_the_same(worker, clip, edited):
    slow = made(worker, replace(clip.settings, video_num_inference_steps=(60, 60, 60)))
    job = edit(worker.store, slow.id, "local", Edit(1, seeds=(5,)))
    until(worker, lambda: (live := worker.live) and live.job.id == job.id and live.at)
    with pytest.raises(ValueError, match="can be paused"):
        worker.pause(job.id, "unit", owner="local")
    assert worker.live.at.unit == 1 and worker.live.at.total == 180
    worker.stop(job.id)
    held = finish(worker, job)
    assert (held.state, held.path, held.units_done) == (State.STOPPED, None, 0)
    worker.resume(job.id)
    done = finish(worker, job)
    assert done.state is State.DONE and units(worker, done)[2] == units(worker, slow)[2]


def test_only_whole_clips_of_ones_own_can_be_edited(worker, clip, asked):
    store = worker.store
    with pytest.raises(KeyError):
        edit(store, clip.id, "user:ana", Edit(1))
    for unit in (0, 4, -1):
        with pytest.raises(SettingsError, match="choose 1 to 3, or make the clip anew"):
            edit(store, clip.id, "local", Edit(unit))
    for wrong in ({"seeds": ()}, {"seeds": (-1,)}, {"prompt": ""}, {"seeds": tuple(range(17))}):
        with pytest.raises(SettingsError):
            Edit(1, **wrong)
    still = made(worker, replace(asked, num_frames=1, seed=4))
    with pytest.raises(ValueError, match="one unit, its first frame"):
        edit(store, still.id, "local", Edit(1))
    for path in store.units_of(still).glob("*"):
        path.unlink()
    with pytest.raises(ValueError, match="not kept any more"):
        edit(store, still.id, "local", Edit(1))


# ------------------------------------------------------------------------------------------------------------
# Clips without an end


def test_an_endless_clip_hears_new_words_and_is_what_its_settings_make(worker, asked):
    slow = replace(asked, seed=2, video_num_inference_steps=(20, 20, 20))
    job = endless(worker.store, slow, owner="local", units=200, trained=4)
    until(worker, lambda: worker.store.get(job.id).units_done >= 3)
    pieces = worker.live.growing.parent
    assert list(pieces.glob("unit-*.mp4")) and len(worker.live.frames) <= 8
    assert len(worker.live.estimates) <= 3 and worker.drift_of(job.id).looks
    worker.tell(job.id, "a blue star falls", 2, owner="local")
    until(worker, lambda: worker.store.get(job.id).settings.cues)
    heard = worker.store.get(job.id).settings.cues[0]
    until(worker, lambda: worker.store.get(job.id).units_done > heard.start + 2)
    worker.stop(job.id)
    done = finish(worker, job)
    assert (done.state, done.error, heard.prompt, heard.ease) == (State.DONE, "", "a blue star falls", 2)
    assert done.settings.num_frames == frames_of(done.units_done) and done.settings.history_units == 3
    metadata = read_metadata(done.path)
    assert metadata["settings"] == files.told(done.settings) and len(metadata["drift"]) == done.units_done - 1
    assert len(frames(done.path)) == done.settings.num_frames and "partial" not in metadata
    assert units(worker, done) == units(worker, made(worker, done.settings))


def test_only_an_endless_clip_that_runs_can_be_told_more(worker, clip, asked):
    with pytest.raises(ValueError, match="only a clip without an end"):
        worker.tell(clip.id, "it grows")
    with pytest.raises(SettingsError, match="2 to"):
        endless(worker.store, asked, owner="local", units=1, trained=4)
