"""Two systems in one report: figures of known clips, a whole run on a tiny model, a file that stands alone.

python -m pytest tests/training/test_compare.py
"""

import json
import re

import numpy as np
import pytest

from pyramid.commands import cli
from pyramid.evaluation.compare import Tools, compare, difference
from pyramid.media.video import VideoWriter

PROMPTS = [f"words {number}" for number in range(4)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Videos of a picture that stands still, and of the same that moves two pixels a frame."""
    root = tmp_path_factory.mktemp("systems")
    picture = np.random.default_rng(0).integers(0, 256, (18, 24), dtype=np.uint8)
    picture = picture.repeat(8, 0).repeat(8, 1)
    for name, step in (("still", 0), ("moving", 2)):
        (root / name).mkdir()
        for number, prompt in enumerate(PROMPTS):
            starts = [number + step * n for n in range(3)]
            clip = np.stack([picture[:64, x : x + 64] for x in starts])[..., None].repeat(3, -1)
            with VideoWriter(root / name / f"{prompt}-0.mp4", 8, (64, 64), keep="none") as writer:
                writer.write(clip)
    return root


def test_a_difference_has_an_interval_of_its_pairs():
    told = difference(np.zeros(40), np.array([1.0, 2.0] * 20))
    assert told["mean"] == 1.5 and told["interval"][0] < 1.5 < told["interval"][1]
    assert told["interval"][1] - told["interval"][0] == pytest.approx(4 * 0.5 / 40**0.5, rel=0.2)
    assert difference(np.zeros(1), np.ones(1)) == {"mean": 1.0, "interval": None}


def test_what_moves_is_found_to_move(folders):
    videos = {
        name: {prompt: folders / name / f"{prompt}-0.mp4" for prompt in PROMPTS}
        for name in ("still", "moving")
    }
    found = compare(videos, Tools({"mean": lambda clip: clip.mean((0, 1, 2))}))
    motion = found["measures"]["motion"]
    assert motion["difference"]["interval"][0] > 0.5 and motion["means"]["still"] < 0.2
    assert found["measures"]["frames"]["difference"]["mean"] == 0 and "seconds" not in found["measures"]
    assert found["frechet"]["mean"]["between"]["videos"] == [4, 4] and found["judged"] == {}


def test_the_report_of_two_folders_needs_nothing_beside_it(folders, tmp_path, capfd):
    out, figures = tmp_path / "report.html", tmp_path / "figures.json"
    run = ["evaluate", "compare", f"<b>={folders / 'still'}", str(folders / "moving"), "--out", str(out)]
    assert cli.main([*run, "--json", str(figures)]) == 0
    text = out.read_text()
    assert text.count("data:image/jpeg;base64,") == 8 and text.count("<svg") == 5
    assert "<b>" not in text and "&lt;b&gt;" in text and not re.search(r"(src|href)=.(?!data:)", text)
    assert json.loads(figures.read_text())["prompts"] == PROMPTS and "motion" in capfd.readouterr().out
    (tmp_path / "prompts.txt").write_text("other words\n")
    assert cli.main([*run, "--prompts", str(tmp_path / "prompts.txt")]) == 2
    assert "no video for 1 of 1 prompts" in capfd.readouterr().err


def test_a_preset_makes_its_videos_once_beside_a_folder(folders, tiny_checkpoint, tmp_path, capfd):
    """The second call makes nothing; without prompts, a model has to know scenes of its own."""
    (tmp_path / "few.toml").write_text(
        f'description = "few steps"\nmodel = "{tiny_checkpoint}"\nnum_frames = 9\n'
        "num_inference_steps = [1, 1, 1]\n"
    )
    (tmp_path / "prompts.txt").write_text(f"{PROMPTS[2]}\n\n{PROMPTS[0]}\n")
    out = tmp_path / "r.html"
    work = tmp_path / "work"
    few = f"few={tmp_path / 'few.toml'}"
    made = ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(out), "--work", str(work)]
    run = ["evaluate", "compare", str(folders / "still"), few, *made]
    assert cli.main(run) == 0 and "few" in out.read_text()
    assert "2 videos, 0 made before" in capfd.readouterr().err
    assert cli.main(run) == 0 and "2 videos, 2 made before, 0 to make" in capfd.readouterr().err
    assert len(list(work.glob("*/*.mp4"))) == 2
    assert cli.main(["evaluate", "compare", few, f"more={tmp_path / 'few.toml'}"]) == 2
    assert "--prompts FILE" in capfd.readouterr().err
