"""Measures without a model, on clips of which they are known.

python -m pytest tests/evaluation/test_offline.py
"""

import json

import numpy as np
import pytest
from PIL import Image

from pyramid.commands import cli
from pyramid.evaluation.offline import Measures, flow, measure_folder
from pyramid.media.video import VideoWriter


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    """A smooth picture, float32 (120, 120)."""
    few = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8))
    return np.asarray(few.resize((120, 120), Image.Resampling.BICUBIC), np.float32)


def clip(texture: np.ndarray, down: int, across: int, frames: int = 5) -> np.ndarray:
    """A window of 80 pixels whose contents move so far a frame: uint8 (f, 80, 80, 3)."""
    places = [(20 - down * n, 20 - across * n) for n in range(frames)]
    return (
        np.stack([texture[y : y + 80, x : x + 80] for y, x in places])
        .astype(np.uint8)[..., None]
        .repeat(3, -1)
    )


@pytest.mark.parametrize("down, across", [(0, 0), (0, 1), (2, -1), (0, 4)])
def test_the_flow_of_a_moving_texture_is_its_motion(texture, down, across):
    light = clip(texture, down, across)[..., 0].astype(np.float32)
    found = np.median(flow(light[0], light[1])[:, 12:-12, 12:-12], axis=(1, 2))
    assert found == pytest.approx([down, across], abs=0.15)
    measures = Measures.of(clip(texture, down, across))
    assert measures.motion == pytest.approx(np.hypot(down, across), abs=0.4) and measures.consistency > 0.9


def test_flicker_noise_and_blur_are_told(texture):
    still = clip(texture, 0, 0)
    light = still // 2 + np.array([0, 40, 0, 40, 0], np.uint8)[:, None, None, None]
    noise = np.random.default_rng(1).integers(0, 256, still.shape).astype(np.uint8)
    assert Measures.of(still).flicker == 0 and Measures.of(light).flicker == pytest.approx(80, abs=1)
    assert Measures.of(noise).consistency < Measures.of(still).consistency
    assert Measures.of(noise).sharpness > Measures.of(still).sharpness
    assert Measures.of(still[:1]).motion == 0


def test_any_folder_is_measured_and_what_is_broken_is_named(texture, tmp_path, capfd):
    sizes = {
        "odd.mp4": (33, 17, 8),
        "tall.webm": (16, 64, 59.94),
        "one.mp4": (80, 80, 8),
        "small.gif": (9, 8, 10),
    }
    for name, (width, height, fps) in sizes.items():
        with VideoWriter(tmp_path / name, fps, (width, height)) as writer:
            writer.write(clip(texture, 0, 1, 1 if "one" in name else 4)[:, :height, :width])
    whole = (tmp_path / "odd.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "empty.webm").touch()
    (tmp_path / "page.mp4").write_text("<html>not here</html>")
    out = tmp_path / "figures.json"
    assert cli.main(["evaluate", "offline", str(tmp_path), "--json", str(out)]) == 1
    figures = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert set(figures["videos"]) == set(sizes) and figures["videos"]["one.mp4"]["frames"] == 1
    assert set(figures["unread"]) == {"cut.mp4", "empty.webm", "page.mp4"}
    told = capfd.readouterr().err
    assert told.count("left out: ") == 3 and all(name in told for name in figures["unread"]), told
    for name in sizes:
        (tmp_path / name).unlink()
    assert cli.main(["evaluate", "offline", str(tmp_path)]) == 2
    assert "page.mp4" in capfd.readouterr().err


def test_a_folder_becomes_a_table_and_a_file(texture, tmp_path, capfd):
    for name, across in (("a", 0), ("b", 2)):
        with VideoWriter(tmp_path / f"{name}.mp4", 8, (80, 80)) as writer:
            writer.write(clip(texture, 0, across))
    (tmp_path / "notes.txt").write_text("no video")
    out = tmp_path / "out.json"
    assert cli.main(["evaluate", "offline", str(tmp_path), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert list(figures["videos"]) == ["a.mp4", "b.mp4"] and "2 videos" in capfd.readouterr().out
    assert figures["videos"]["b.mp4"]["motion"] == pytest.approx(2, abs=0.5)
    with pytest.raises(ValueError, match="has no videos"):
        measure_folder(tmp_path / "none")


def test_a_distance_that_cannot_be_is_told_before_any_video_is_measured(
    texture, tmp_path, monkeypatch, capfd
):
    for name in ("ours", "one", "empty"):
        (tmp_path / name).mkdir()
    for path in ("ours/a.mp4", "ours/b.mp4", "one/a.mp4"):
        with VideoWriter(tmp_path / path, 8, (80, 80)) as writer:
            writer.write(clip(texture, 0, 1, frames=2))
    monkeypatch.setattr("pyramid.evaluation.offline.measure_folder", lambda *_: pytest.fail("measured"))
    for features, reference, words in (
        ("judge", "empty", "has no videos"),
        ("judge", "one", "has one video: a Fréchet distance takes two"),
        ("nothing", "ours", "--features nothing: give judge"),
    ):
        more = ["--features", features, "--reference", str(tmp_path / reference)]
        assert cli.main(["evaluate", "offline", str(tmp_path / "ours"), *more]) == 2
        assert words in capfd.readouterr().err


def test_a_distance_to_the_same_videos_is_none(texture, tmp_path, capfd):
    for name, across in (("a", 0), ("b", 2)):
        with VideoWriter(tmp_path / f"{name}.mp4", 8, (80, 80)) as writer:
            writer.write(clip(texture, 0, across))
    out = tmp_path / "out.json"
    asked = ["--features", "judge", "--reference", str(tmp_path), "--json", str(out)]
    assert cli.main(["evaluate", "offline", str(tmp_path), *asked]) == 0
    told = json.loads(out.read_text())["frechet"]["judge"]
    assert told["videos"] == [2, 2] and told["distance"] == pytest.approx(0, abs=1e-9)
