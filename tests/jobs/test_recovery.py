"""What outlives a run that ends early: its finished units, and from them the same video.

python -m pytest tests/jobs/test_recovery.py
python -m pytest tests/jobs/test_recovery.py -m slow     # kill -9 at twenty random moments
"""

import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import start

from pyramid.commands import cli
from pyramid.commands.console import Generation
from pyramid.events import Finished, Frames, Preview, Unit
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.hub.checkpoints import find
from pyramid.jobs.recovery import UnitsFolder, abandoned, beside
from pyramid.media import files
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_video
from pyramid.settings import Settings

PROMPT = "a red ball moves to the right"
QUICK = dict(num_frames=25, num_inference_steps=[1, 1, 1], video_num_inference_steps=[1, 1, 1], seed=5)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return PyramidFlowPipeline.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def picture():
    return np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)


def units_of(events):
    return [event for event in events if isinstance(event, Unit)]


def frames_of(events):
    return [event for event in events if isinstance(event, Frames)]


# ------------------------------------------------------------------------------------------------------------
# From the finished units the rest is what it would have been


@pytest.mark.parametrize(
    ("start", "done", "steps"),
    [("words", 1, 9), ("words", 3, 3), ("words", 4, 0), ("picture", 1, 9), ("picture", 2, 6), ("clip", 3, 3)],
)
def test_a_resumed_run_equals_an_uninterrupted_one(pipe, picture, start, done, steps):
    given = {"words": {}, "picture": {"image": picture}, "clip": {"video": [picture] * 9}}[start]
    whole = list(pipe.stream(*pipe.request(PROMPT, **QUICK, **given)))
    finished = units_of(whole)[:done]
    # the picture itself is not needed
    rest = list(pipe.stream(*pipe.request(PROMPT, **QUICK, finished=finished)))
    assert [(u.index, u.given) for u in units_of(rest)] == [(u.index, u.given) for u in units_of(whole)]
    assert torch.equal(rest[-1].latents, whole[-1].latents) and not rest[-1].stopped
    assert sum(isinstance(event, Preview) for event in rest) == steps
    for ours, theirs in zip(frames_of(rest), frames_of(whole), strict=True):
        assert ours.given == theirs.given and np.array_equal(ours.video, theirs.video)


def test_with_the_picture_finished_may_be_the_sampled_units_alone(pipe, picture):
    *_, whole = pipe.stream(*pipe.request(PROMPT, **QUICK, image=picture))
    tensors = list(whole.latents.split(1, dim=2))[1:3]
    *_, rest = pipe.stream(*pipe.request(PROMPT, **QUICK, image=picture, finished=tensors))
    assert torch.equal(rest.latents, whole.latents)


def test_given_noise_and_a_batch_go_on_too(pipe):
    noise = torch.randn(2, 16, 4, 8, 8)
    jumps = [torch.randn(2, 16, 1, side, side) for _ in range(4) for side in (4, 8)]
    request = QUICK | dict(prompt=[PROMPT, "a blue star"], latents=noise, block_noise=jumps)
    *_, whole = pipe.stream(*pipe.request(**request))
    *_, rest = pipe.stream(*pipe.request(**request, finished=list(whole.latents.split(1, dim=2))[:2]))
    assert torch.equal(rest.latents, whole.latents)


def test_finished_units_alone_are_decoded_without_reading_the_prompt(pipe):
    *_, whole = pipe.stream(*pipe.request(PROMPT, **QUICK))
    finished = list(whole.latents.split(1, dim=2))[:2]
    events = list(
        pipe.stream(
            *pipe.request("a prompt that no cache holds", **QUICK | {"num_frames": 9}, finished=finished)
        )
    )
    assert isinstance(events[-1], Finished) and torch.equal(events[-1].latents, whole.latents[:, :, :2])
    assert [len(event.video) for event in frames_of(events)] == [1, 8] and "text" not in events[-1].timings


UNIT = torch.zeros(1, 16, 1, 8, 8)


@pytest.mark.parametrize(
    "request_, message",
    [
        (dict(finished=[UNIT] * 5), "finished has 5 units.*25 are only 4"),
        (dict(finished=[UNIT[..., :4]]), r"finished unit 0 has shape \(1, 16, 1, 8, 4\).*\(1, 16, 1, 8, 8\)"),
        (dict(finished=[UNIT, UNIT / 0]), "finished unit 1 is not finite"),
        (dict(finished=[Unit(0, 4, UNIT), Unit(1, 4, UNIT, given=True)]), "given units come first"),
        (
            dict(finished=[Unit(0, 4, UNIT, given=True)] * 2, image=np.zeros((64, 64, 3))),
            "finished has 2 given.*makes 1",
        ),
    ],
)
def test_units_of_another_run_are_refused(pipe, request_, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(*pipe.request(PROMPT, **QUICK, **request_))


# ------------------------------------------------------------------------------------------------------------
# The folder


@pytest.fixture
def folder(tmp_path):
    folder = UnitsFolder(tmp_path / "out" / ".ball.units")
    folder.begin(Settings(prompt="größer", seed=7), {"identity": "tiny/128p"}, {"result": "ball.mp4"})
    return folder


def unit(index, given=False, **shape):
    return Unit(index, 4, torch.randn(1, 16, 1, shape.get("height", 8), shape.get("width", 8)), given)


def test_what_is_saved_is_read_again_exactly(folder):
    units = [unit(0), unit(1), unit(2)]
    for each in units:
        folder.save(each)
    settings, read = UnitsFolder(folder.path).load()
    assert settings == Settings(prompt="größer", seed=7) and folder.about()["model"] == {
        "identity": "tiny/128p"
    }
    assert [(u.index, u.count, u.given) for u in read] == [(i, 4, False) for i in range(3)]
    assert all(torch.equal(ours.latents, theirs.latents) for ours, theirs in zip(units, read, strict=True))
    assert not list(folder.path.glob("*.part"))


def test_a_unit_of_1280_by_768_takes_less_than_a_megabyte(folder):
    folder.save(unit(0, height=96, width=160))
    assert (folder.path / "unit-000.safetensors").stat().st_size < 1e6


def test_given_units_count_once_a_sampled_one_follows(folder):
    folder.save(unit(0, given=True))
    assert folder.load()[1] == []
    folder.save(unit(1))
    assert [u.given for u in folder.load()[1]] == [True, False]


def test_units_of_other_settings_or_weights_are_not_used(folder):
    assert folder.left_for(Settings(prompt="größer", seed=7), {"identity": "tiny/128p"}) == ([], "")
    folder.save(unit(0))
    same = Settings(prompt="größer", seed=7, dtype="bfloat16", device="cpu")
    assert len(folder.left_for(same, {"identity": "tiny/128p"})[0]) == 1
    for settings, weights, what in (
        (replace(same, seed=8), {"identity": "tiny/128p"}, "The settings"),
        (same, {"identity": "other"}, "The model's weights"),
    ):
        units, why = folder.left_for(settings, weights)
        assert units == [] and why.startswith(what) and "made anew" in why


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x55"),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["truncated", "changed", "empty", "missing"],
)
def test_a_damaged_unit_and_those_after_it_are_made_again(folder, harm):
    for index in range(3):
        folder.save(unit(index))
    harm(folder.path / "unit-001.safetensors")
    assert [u.index for u in folder.load()[1]] == [0]


def test_what_is_no_such_folder_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="holds no run"):
        UnitsFolder(tmp_path / "nothing").load()
    (folder.path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        folder.load()


def test_a_folder_in_use_is_left_alone(folder, capsys):
    assert abandoned(folder.path.parent) == []
    assert cli.main(["resume", str(folder.path)]) == 2
    assert "is in use" in capsys.readouterr().err
    folder.close()
    assert [found.path for found in abandoned(folder.path.parent)] == [folder.path]


# ------------------------------------------------------------------------------------------------------------
# kill -9


STEPS = ["--num-frames", "25", "--steps", "2", "--video-steps", "2"]


def generating(checkpoint, output):
    """A process of its own that makes a video, in a new session so that its ffmpeg can be killed with it."""
    words = [
        "generate",
        "--prompt",
        PROMPT,
        "--model",
        str(checkpoint),
        "--seed",
        "5",
        "--output",
        str(output),
    ]
    return start("-m", "pyramid", *words, *STEPS, quiet=True)


@pytest.fixture(scope="module")
def whole(tiny_checkpoint, tmp_path_factory):
    """The video that nobody interrupts."""
    path = tmp_path_factory.mktemp("whole") / "ball.mp4"
    words = [
        "generate",
        "--prompt",
        PROMPT,
        "--model",
        str(tiny_checkpoint),
        "--seed",
        "5",
        "--output",
        str(path),
    ]
    assert cli.main([*words, *STEPS]) == 0
    return path


def pixels(path):
    return read_video(path, 64, 64, fps=8, num_frames=99)


def wait_for(process, there):
    while process.poll() is None and not there():
        time.sleep(0.002)


def check_that_it_goes_on(output, whole, capsys):
    """What a killed process left can be resumed, and becomes the same video; nothing else stays."""
    assert not output.exists()
    found = abandoned(output.parent)
    if not found:  # killed before it began to write
        assert not list(output.parent.glob("*.mp4"))
        return 0
    before = len(found[0].load()[1])
    assert cli.main(["resume", "latest", "--output", str(output.parent)]) == 0
    assert f"{before} units are finished" in capsys.readouterr().err
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    np.testing.assert_array_equal(pixels(output), pixels(whole))
    ours, theirs = (read_metadata(path) for path in (output, whole))
    assert ours["settings"] == theirs["settings"] and ours["model"] == theirs["model"]
    return before


def test_after_kill_9_a_run_is_finished_or_shown_as_far_as_it_is(tiny_checkpoint, whole, tmp_path, capsys):
    output = tmp_path / "out" / "ball.mp4"
    units = output.parent / ".ball.units"
    process = generating(tiny_checkpoint, output)
    wait_for(process, lambda: (units / "unit-001.safetensors").exists())
    process.kill()
    assert process.wait() == -9 and (output.parent / ".ball.part.mp4").exists()

    assert cli.main(["resume", str(units), "--decode"]) == 0
    shown = Path(capsys.readouterr().out.strip())
    assert shown.name == "ball-partial.mp4" and read_metadata(shown)["partial"] and units.is_dir()
    assert read_metadata(shown)["settings"] == read_metadata(whole)["settings"]  # which make the whole again
    made = pixels(shown)
    assert len(made) in (9, 17)
    # A shorter video is compressed differently: the same pictures, not the same bytes.
    assert np.abs(made.astype(int) - pixels(whole)[: len(made)]).mean() < 6
    shown.unlink()
    assert check_that_it_goes_on(output, whole, capsys) in (2, 3)


def test_a_run_knows_its_picture_when_that_is_gone(tiny_checkpoint, tmp_path):
    settings = Settings.for_model(
        str(tiny_checkpoint), "128p", prompt="x", image=str(tmp_path / "gone.png"), seed=1
    )
    units, mark = beside(tmp_path / "a.mp4"), {"name": "gone.png", "hash": "0123"}
    units.begin(settings, {}, {"result": "a.mp4", "run": "1", "source": mark})
    for partial in (False, True):
        shorter = replace(settings, image=None, num_frames=9) if partial else settings
        run = Generation(shorter, find(tiny_checkpoint), {}, tmp_path / "a.mp4", units=units, partial=partial)
        told = run.recording({}).metadata
        assert told["source"] == mark and told["settings"]["image"] and told["settings"]["num_frames"] == 25
    units.remove()


@pytest.mark.slow
def test_kill_9_at_twenty_random_moments(tiny_checkpoint, whole, tmp_path, capsys):
    counts, chance = [], random.Random(7)
    for number in range(20):
        output = tmp_path / str(number) / "ball.mp4"
        run = output.parent / ".ball.units" / "run.json"
        process = generating(tiny_checkpoint, output)
        wait_for(process, run.exists)
        began, wanted = time.monotonic(), chance.random()
        if number == 0:  # how long the rest takes: it tells where the random moments are
            last = output.parent / ".ball.units" / "unit-003.safetensors"
            wait_for(process, last.exists)
            length = 1.2 * (time.monotonic() - began)
        else:
            wait_for(process, lambda: time.monotonic() > began + wanted * length)  # noqa: B023
        process.kill()
        process.wait()
        if output.exists():  # it was faster: a name that is there is of a whole video
            np.testing.assert_array_equal(pixels(output), pixels(whole))
            counts.append("done")
        else:
            counts.append(check_that_it_goes_on(output, whole, capsys))
        shutil.rmtree(output.parent)
    with capsys.disabled():
        print(f"\nunits finished when killed: {counts}")
    assert len(set(counts)) > 2


def test_resume_says_what_is_wrong(tmp_path, folder, capsys):
    assert cli.main(["resume", "--output", str(tmp_path / "none")]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    folder.close()
    folder.begin(Settings(prompt="a", seed=1), {"identity": "another"}, {"result": "ball.mp4"})
    folder.close()
    assert cli.main(["resume", str(folder.path)]) == 2
    assert "other weights" in capsys.readouterr().err


def test_killed_after_publishing_nothing_is_made_twice(tiny_checkpoint, tmp_path, capsys):
    """A kill between the video's name and the removal of its units:
    the process ends where `remove` is called.
    """
    output = tmp_path / "ball [1].mp4"
    output.write_text("somebody else's")  # the name becomes the next free one
    program = (
        "import os, sys\nfrom pyramid.commands import cli\nfrom pyramid.jobs import recovery\n"
        "recovery.UnitsFolder.remove = lambda units: os.kill(os.getpid(), "
        "9)\nsys.exit(cli.main(sys.argv[1:]))"
    )
    words = [
        "generate",
        "--prompt",
        PROMPT,
        "--model",
        str(tiny_checkpoint),
        "--seed",
        "5",
        "--output",
        str(output),
    ]
    words += ["--num-frames", "9", "--steps", "1", "--video-steps", "1"]
    with start("-c", program, *words) as killed:
        killed.communicate()
    made = tmp_path / "ball [1]-2.mp4"
    assert killed.returncode == -9 and (tmp_path / ".ball [1]-2.units" / "unit-001.safetensors").exists()
    before = made.read_bytes()

    assert cli.main(["resume", "--output", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(made) and "had been finished" in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.name, output.name]
    assert made.read_bytes() == before


def test_a_folder_that_is_no_run_is_not_touched(tmp_path, folder, capsys):
    (tmp_path / "photos").mkdir()
    assert cli.main(["resume", str(tmp_path / "photos")]) == 2
    assert "holds no run" in capsys.readouterr().err and not list((tmp_path / "photos").iterdir())
    folder.close()
    folder.begin(Settings(prompt="a", seed=1), {"identity": "tiny/128p"})  # as the page's jobs do
    folder.close()
    assert cli.main(["resume", str(folder.path)]) == 2
    assert "belongs to a job" in capsys.readouterr().err


def test_without_locks_no_file_stays_open(folder, monkeypatch):
    """As on Windows, where an open file can be neither renamed nor deleted."""
    monkeypatch.setattr(files, "fcntl", None)
    part, path = files.reserve(folder.path / "clip.mp4")
    assert part not in files._held and files.publish(part, path).exists() and not part.exists()
