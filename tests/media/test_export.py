"""Exports: every format from one result, where its settings go, name patterns;
nothing overwritten or half-written.
"""

import io
import json
from datetime import datetime
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from pyramid.commands.cli import main
from pyramid.media.export import KINDS, OF_SOME, export, frames_of_result, open_writer
from pyramid.media.files import KEEPS, check_pattern, describe, file_name, read_metadata, reserve, sidecar_of
from pyramid.media.pictures import write_picture
from pyramid.media.preview import load_estimates, save_estimate
from pyramid.media.result import pace_of
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import probe
from pyramid.settings import Settings, SettingsError

SETTINGS = Settings(prompt='größer = "Welt"; # 100 % \\ \n🎈', seed=7, fps=24)
METADATA = describe(SETTINGS, {"identity": "embedded/128p"}, timings={"total": 1.5})


def moving(frames=17, width=64, height=48):
    """A smooth ramp with a bright bar that walks to the right."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.linspace(0, 255, width, dtype=np.uint8)
    video[..., 1] = np.linspace(0, 255, height, dtype=np.uint8)[:, None]
    for number, frame in enumerate(video):
        frame[:, 2 * number : 2 * number + 8] = 230, 60, 40
    return video


def plain(shade):
    """A small PNG of one gray."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade,) * 3).save(buffer, format="PNG")
    return buffer.getvalue()


def zip_of(path, members):
    with ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A finished mp4 with its settings inside."""
    with VideoWriter(tmp_path_factory.mktemp("results") / "walk-7.mp4", 24, (64, 48), METADATA) as writer:
        writer.write(moving())
    return writer.path


@pytest.fixture
def here(result, tmp_path):
    """The result alone in a folder of its own."""
    path = tmp_path / result.name
    path.write_bytes(result.read_bytes())
    return path


# -- formats
@pytest.mark.parametrize(
    "kind, says", [("mp4", "Video: h264"), ("webm", "Video: vp9"), ("gif", "Video: gif")]
)
def test_videos_show_every_frame_and_carry_their_settings(here, kind, says):
    path = export(here, kind)
    assert path.suffix == f".{kind}" and says in probe(path)
    assert kind == "gif" or "(tv, bt709, progressive)" in probe(path)  # matrix, primaries and transfer
    assert read_metadata(path) == METADATA
    frames = np.stack([np.asarray(frame) for frame in frames_of_result(path)])
    assert frames.shape == (17, 48, 64, 3)
    assert np.abs(frames.astype(int) - moving()).mean() < 8
    assert set(here.parent.iterdir()) == {here, path}


def test_a_gif_keeps_its_pace_and_repeats(here):
    with Image.open(export(here, "gif")) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
        assert sum(durations) == pytest.approx(1000 * 17 / 24, abs=20)
        assert image.info["loop"] == 0


@pytest.mark.parametrize(("fps", "written"), [(24, 24), (50, 50), (60, 30), (96, 48), (120, 40)])
def test_a_gif_has_no_more_frames_a_second_than_players_show(tmp_path, fps, written):
    """A delay of a hundredth is shown as a tenth by all of them: the clip would run in slow motion."""
    settings = Settings(num_frames=25, fps=min(fps, 60) if fps != 96 else 24)
    with VideoWriter(tmp_path / "a.gif", fps, (64, 48), describe(settings, {})) as writer:
        for brightness in np.linspace(0, 240, 48).astype(np.uint8):
            writer.write(np.full((48, 64, 3), brightness))
    with Image.open(writer.path) as image:
        assert image.n_frames == 48 * written // fps
        delays = []
        for number in range(image.n_frames):
            image.seek(number)
            delays.append(image.info["duration"])
    assert min(delays) >= 20 and sum(delays) == pytest.approx(1000 * 48 / fps, abs=25)
    assert pace_of(writer.path, read_metadata(writer.path))[0] == pytest.approx(written)


def test_pictures_in_a_zip_are_the_frames_as_they_are(here, tmp_path):
    with open_writer(tmp_path / "exact.zip", 24, (64, 48), METADATA) as writer:
        for frame in moving():
            writer.write(frame)
    with ZipFile(writer.path) as file:
        names = sorted(file.namelist())
        assert names == [f"{number:04d}.png" for number in range(1, 18)] + ["fps.txt", "settings.json"]
    assert np.array_equal([np.asarray(frame) for frame in frames_of_result(writer.path)], moving())
    path = export(here, "png")
    assert path.name == "walk-7.zip" and read_metadata(path) == METADATA
    again = export(path, "webm", tmp_path / "again.webm")
    assert read_metadata(again) == METADATA and "24 fps" in probe(again)


def test_a_zip_keeps_the_pace_of_a_foreign_video(here, tmp_path):
    with VideoWriter(tmp_path / "foreign.mp4", 30000 / 1001, (64, 48)) as writer:
        writer.write(moving(3))
    for keep in KEEPS:
        path = export(writer.path, "png", keep=keep)
        assert pace_of(path, {}) == (pytest.approx(30000 / 1001), None)
    assert "29.97 fps" in probe(export(path, "webm"))


def test_pictures_of_a_zip_come_in_the_order_of_their_numbers(tmp_path):
    shades = {"1.png": 10, "9.png": 20, "10.png": 30, "9999.png": 40, "10000.png": 50}
    path = zip_of(tmp_path / "foreign.zip", {name: plain(shades[name]) for name in sorted(shades)})
    assert [frame.getpixel((0, 0))[0] for frame in frames_of_result(path)] == [10, 20, 30, 40, 50]


def test_a_zip_of_pictures_that_does_not_tell_its_pace_is_told(tmp_path):
    path = zip_of(tmp_path / "foreign.zip", {"1.png": plain(10), "fps.txt": b"12.5\n"})
    assert pace_of(path, {}) == (12.5, None)
    for said in ({}, *({"fps.txt": number} for number in (b"twelve", b"0", b"1e3", b"nan", b"9" * 99))):
        path = zip_of(tmp_path / "foreign.zip", {"1.png": plain(10)} | said)
        with pytest.raises(ValueError, match="foreign.zip does not say how many frames a second.* fps.txt"):
            export(path, "gif")


def test_the_last_frame_is_a_picture_with_the_settings(here):
    path = export(here, "last")
    assert path.name == "walk-7-last.png"
    with Image.open(path) as image:
        assert np.abs(np.asarray(image).astype(int) - moving()[-1]).mean() < 4
    assert read_metadata(path)["settings"] == METADATA["settings"]


def test_a_still_is_exported_as_a_still(tmp_path):
    still = write_picture(tmp_path / "one.png", moving()[0], METADATA)
    path = export(still, "png", keep="none")
    assert path.name == "one-2.png" and np.array_equal(np.asarray(Image.open(path)), moving()[0])
    with pytest.raises(ValueError, match="one picture"):
        export(still, "mp4")


def test_quality_changes_the_size_and_without_it_nothing_is_lost(here):
    video = np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), np.uint8)
    with VideoWriter(here.with_name("noise.mp4"), 8, (64, 48), METADATA) as writer:
        writer.write(video)
    sizes = [export(writer.path, "mp4", quality=quality).stat().st_size for quality in (18, 30, 45)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[2]
    same = export(writer.path, "mp4")
    for before, after in zip(frames_of_result(writer.path), frames_of_result(same), strict=True):
        assert before.tobytes() == after.tobytes()
    for quality in (0, 52):
        with pytest.raises(SettingsError, match="1 to 51"):
            export(writer.path, "mp4", quality=quality)


def test_the_stages_are_shown_side_by_side_in_step(here, tmp_path):
    folder = tmp_path / "units"
    colours = {0: "red", 1: "lime", 2: "blue"}
    for unit in range(1, 3):  # unit 0 was given
        for stage, side in enumerate((2, 4, 8)):
            save_estimate(folder, unit, stage, Image.new("RGB", (side, side * 3 // 4 or 1), colours[stage]))
    (folder / "estimate-001-1.png").with_name("estimate-009-1.png").write_bytes(b"half")
    estimates = load_estimates(folder)
    assert sorted(estimates) == [(unit, stage) for unit in (1, 2) for stage in range(3)]
    path = export(here, "stages", estimates=estimates)
    frames = list(frames_of_result(path))
    assert len(frames) == 17 and frames[0].width > 4 * 384 and frames[0].height > 288
    middles = [frames[5].getpixel((8 + 192 + n * 392, 150)) for n in range(3)]
    assert [max(range(3), key=pixel.__getitem__) for pixel in middles] == [0, 1, 2]
    assert all(max(pixel) > 200 for pixel in middles)
    given = frames[0].getpixel((8 + 192, 150))  # a stage of the given unit shows the picture, at its size
    assert given[0] < 200
    assert read_metadata(path)["export"] == "stages"
    with pytest.raises(ValueError, match="previews"):
        export(here, "stages")


# -- metadata
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_SOME])
@pytest.mark.parametrize("keep", KEEPS)
def test_settings_lie_inside_beside_or_nowhere(here, kind, keep, capsys):
    path = export(here, kind, keep=keep)
    assert sidecar_of(path).exists() == (keep == "sidecar")
    if keep == "none":
        with pytest.raises(ValueError, match="holds no settings"):
            read_metadata(path)
        assert b"gr\\u00f6\\u00dfer" not in path.read_bytes()
        return
    assert read_metadata(path)["settings"] == METADATA["settings"]
    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 7
    if keep == "sidecar":
        assert read_metadata(sidecar_of(path))["file"] == path.name
        path.unlink()
        assert export(here, kind, keep=keep) != path  # its settings are still there: the name stays taken


def test_nothing_is_overwritten_and_nothing_stays_of_a_failure(here):
    first, second = (export(here, "gif") for _ in range(2))
    assert (first.name, second.name) == ("walk-7.gif", "walk-7-2.gif")
    before = set(here.parent.iterdir())
    for kind in ("webm", "png"):
        with (
            pytest.raises(RuntimeError),
            open_writer(here.with_name(f"bad.{'zip' if kind == 'png' else kind}"), 8, (64, 48)) as writer,
        ):
            writer.write(moving())
            raise RuntimeError
    here.with_name("text.mp4").write_text("this is text")
    for kind in ("webm", "png", "last"):
        with pytest.raises(ValueError):
            export(here.with_name("text.mp4"), kind)
    with pytest.raises(ValueError, match="not a file"):
        export(here.with_name("gone.mp4"), "gif")
    with pytest.raises(ValueError, match="unknown format"):
        export(here, "avi")
    assert set(here.parent.iterdir()) == before | {here.with_name("text.mp4")}


@pytest.mark.parametrize("stem", ["x" * 240, "红" * 83, "z" * 251], ids=["240", "characters", "251"])
def test_a_name_as_long_as_can_be_is_cut_in_what_is_made_of_it(here, stem, capsys):
    path = here.rename(here.with_name(f"{stem}.mp4"))
    for kind in ("gif", "webm", "mp4", "last"):
        assert main(["export", str(path), "--format", kind, "--metadata", "sidecar"]) == 0
        made = Path(capsys.readouterr().out.strip())
        begun = made.stem.removesuffix("-2").removesuffix("-last")
        assert made.is_file() and stem.startswith(begun) and len(begun.encode()) > 225
        assert sidecar_of(made).is_file()
    assert main(["export", str(path), "--output", str(here.with_name("short.mp4"))]) == 0
    assert main(["loop", str(path), "--frames", "2"]) == 0
    assert main(["export", str(path), "--smooth", "2"]) == 0
    assert not list(here.parent.glob(".*"))


def test_names_that_begin_alike_are_written_at_once(tmp_path):
    names = [tmp_path / f"{'y' * 245}{number}.mp4" for number in (1, 1, 2)]
    parts, paths = zip(*(reserve(name) for name in names), strict=True)
    assert len(set(parts)) == 3 and (paths[0], paths[2]) == (names[0], names[2])
    assert paths[1].name.startswith("y" * 240) and paths[1].name.endswith("-2.mp4")
    for part in parts:
        part.unlink()


# -- patterns
WHEN = datetime(2026, 11, 22, 20, 5, 9)


@pytest.mark.parametrize(
    "pattern, name",
    [
        ("{prompt}-{seed}", "größer-welt-100-7"),
        ("{date}/{time}-{index:03}", "2026-11-22/20-05-09-012"),
        ("{model}_{variant}_{width}x{height}_{frames}_{seconds:g}", "embedded_128p_128x128_25_1"),
        ("{prompt:.3}", "grö"),
        ("plain {{text}}", "plain {text}"),
    ],
)
def test_a_pattern_names_a_file(pattern, name):
    assert file_name(pattern, SETTINGS, index=12, when=WHEN) == name
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern, words",
    [
        ("{promt}", "there is no {promt}"),
        ("{}", "there is no {}"),
        ("{prompt.upper}", "there is no"),
        ("{prompt!r}", "!r is not used"),
        ("{seed:zz}", "does not work"),
        ("{seed", "for a brace"),
        ("", "is empty"),
        ("/etc/{seed}", "is empty"),
        ("../{seed}", "dot"),
        (".pyramid/{seed}", "dot"),
        ("a\\b", "cannot be in a file's name"),
        ("a:{seed}", "cannot be in a file's name"),
        ("con", "device"),
        ("x" * 201, "more than 200"),
        ("{seed:50}", "begins or ends"),
        ("{seed:500}", "at most 64"),
        ("{index:>300000000}", "at most 64"),
    ],
)
def test_a_pattern_that_makes_no_name_is_refused_with_the_reason(pattern, words):
    with pytest.raises(SettingsError, match="pattern") as caught:
        check_pattern(pattern)
    assert words in str(caught.value) and caught.value.field == "pattern"


def test_long_prompts_of_any_script_make_short_names():
    for prompt in ("word " * 500, "🎈" * 300, "字" * 2000):
        name = file_name("{prompt}-{seed}", Settings(prompt=prompt, seed=1))
        assert 0 < len(name.encode()) <= 124 and name.endswith("-1")


# -- command line
def test_the_command_line_exports_and_prints_where(here, capsys):
    assert main(["export", str(here), "--format", "gif", "--metadata", "sidecar"]) == 0
    path = here.with_suffix(".gif")
    assert capsys.readouterr().out.strip() == str(path) and read_metadata(path)["settings"]["seed"] == 7
    assert main(["export", str(here), "--output", str(here.with_name("wrong.avi")), "--quality", "20"]) == 2
    assert "must end in .mp4" in capsys.readouterr().err
    assert main(["export", str(here), "--format", "stages"]) == 2
    assert "previews" in capsys.readouterr().err
