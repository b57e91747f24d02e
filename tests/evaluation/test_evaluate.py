"""The evaluation: its shares and scores, and the whole of it on a tiny model."""

import json
import shutil

import numpy as np
import pytest

from pyramid.commands.cli import main
from pyramid.evaluation.evaluate import Share, choose_scenes, contact_sheet, psnr, score, sharpness, world_of
from pyramid.evaluation.judge import Verdict
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.settings import MAX_SEED
from pyramid.training.world import CPU_WORLD, Scene, World

TRAINED_ON = {
    "shapes": ["ball", "star"],
    "colours": ["red", "blue", "white"],
    "backgrounds": ["sky", "sea"],
    "motions": ["right", "stay"],
    "cameras": ["zoom in"],
}


def test_shares_have_wilson_intervals():
    low, high = Share(50, 100).interval
    assert (low, high) == (pytest.approx(0.404, abs=0.002), pytest.approx(0.596, abs=0.002))
    assert Share(0, 10).interval[0] == 0 and Share(10, 10).interval[1] == 1
    assert str(Share(9, 12)).startswith("75.0%  (9 of 12")


def test_scores_count_moving_kinds_apart():
    scenes = [Scene("ball", "red", "sky", "stay"), Scene("star", "blue", "sea", "up")]
    verdicts = [Verdict("red", "stay", "ball", 1.0), Verdict("red", "stay", "star", 0.9)]
    results = score(verdicts, scenes)
    assert (results["colour right"].right, results["motion right, all kinds"].right) == (1, 1)
    assert results["motion right, kinds that move"] == Share(0, 1)
    assert results["shape right"] == Share(2, 2)
    assert results["object present throughout"] == Share(1, 2)


def test_scenes_are_held_out_and_each_as_frequent():
    world = CPU_WORLD
    scenes = choose_scenes(world, 2 * len(world.held_out_scenes()), 3)
    assert sorted(map(repr, scenes)) == sorted(2 * [repr(scene) for scene in world.held_out_scenes()])
    assert choose_scenes(world, 20, 3) == scenes[:20] != choose_scenes(world, 20, 4)
    with pytest.raises(ValueError, match="held out"):
        choose_scenes(World(("ball",), ("red",), ("meadow",), ("right",)), 2, 0)


def test_psnr_is_in_decibels():
    assert psnr(np.full(10, 0.1), np.zeros(10), 1.0) == pytest.approx(20)
    assert psnr(np.full(10, 2.55), np.zeros(10), 255.0) == pytest.approx(40)


def test_a_contact_sheet_has_a_row_for_each_clip():
    assert contact_sheet(np.zeros((2, 25, 16, 16, 3), np.uint8), columns=5).size == (80, 32)


@pytest.fixture(scope="module")
def trained_checkpoint(tmp_path_factory):
    """A tiny model that says it was trained on a tiny world: 17 frames of 64 pixels, one step a stage."""
    from tiny import make_checkpoint

    folder = make_checkpoint(tmp_path_factory.mktemp("trained"))
    details = json.loads((folder / "pyramid.json").read_text())
    details |= {"trained_on": TRAINED_ON, "max_units": 2, "num_frames": 9}
    details |= {"num_inference_steps": [1, 1, 1], "video_num_inference_steps": [1, 1, 1]}
    (folder / "pyramid.json").write_text(json.dumps(details))
    return folder


def test_the_world_is_the_one_the_checkpoint_names(trained_checkpoint, tiny_checkpoint):
    world = world_of(PyramidFlowPipeline.from_pretrained(trained_checkpoint))
    assert (world.size, world.frames, world.fps) == (64, 9, 8)
    assert (world.motions, world.photo_cameras) == (("right", "stay"), ("zoom in",))
    with pytest.raises(ValueError, match="trained_on"):
        world_of(PyramidFlowPipeline.from_pretrained(tiny_checkpoint))


def test_the_command_measures_prints_and_writes(trained_checkpoint, tmp_path, capsys):
    out, sheet = tmp_path / "new" / "results.json", tmp_path / "sheet.png"
    words = f"evaluate --model {trained_checkpoint} --videos 2 --pictures 1 --out {out} --sheet {sheet}"
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert "colour right" in said and "photo camera moves right" in said
    written = json.loads(out.read_text())
    assert written["asked"]["videos"] == 2
    results = written["results"]
    assert results["motion right, all kinds"]["total"] == 2
    assert results["photo camera moves right"]["total"] == 6
    assert results["first frame kept, the least"] > 40  # the given picture is decoded like any other unit
    assert sheet.is_file()


def test_too_few_videos_are_refused(trained_checkpoint, capsys):
    assert main(["evaluate", "--model", str(trained_checkpoint), "--videos", "0"]) == 2
    assert "error: --videos 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked, words",
    [
        (["--seed", "-1"], "--seed -1: seeds go from 0 to"),
        (["--seed", str(MAX_SEED), "--pictures", "1"], "seeds go from 0 to"),  # the second video's is beyond
        (["--photographs", "-1"], "--photographs -1"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_the_model_is_loaded(asked, words, capsys):
    assert main(["evaluate", "--model", "none", "--videos", "2", *asked]) == 2
    assert words in capsys.readouterr().err


def test_ways_to_run_a_model_are_one_table(trained_checkpoint, tmp_path, capsys):
    """A fast variant, here the same weights, stands beside the model with as few steps."""
    folder = shutil.copytree(trained_checkpoint, tmp_path / "two")
    shutil.copytree(folder / "diffusion_transformer_128p", folder / "diffusion_transformer_128p-fast")
    details = json.loads((folder / "pyramid.json").read_text())
    fast = {"sampler": "even", "num_inference_steps": [2, 2, 1], "video_num_inference_steps": [2, 2, 1]}
    details["variants"] = {"128p-fast": fast | {"guidance_scale": 1.0, "video_guidance_scale": 1.0}}
    (folder / "pyramid.json").write_text(json.dumps(details))
    out = tmp_path / "results.json"
    words = f"evaluate --model {folder} --variant 128p-fast --videos 2 --pictures 1 --out {out} --compare"
    assert main([*words.split(), "--photographs", "1"]) == 0
    said = capsys.readouterr().out
    assert "128p-fast" in said and "over photographs" in said
    written = json.loads(out.read_text())
    assert written["asked"]["variant"] == "128p-fast"
    rows = {(row["variant"], row["sampler"], *row["steps"]): row for row in written["compared"]}
    undistilled, student = rows["128p", "even", 2, 2, 1], rows["128p-fast", "even", 2, 2, 1]
    assert undistilled["evaluations"] == student["evaluations"] == 10  # of two units
    assert (undistilled["forwards"], student["forwards"]) == (20, 10)  # a student has no guidance
    assert set(student["scores"]) == {"color", "shape", "present", "motion"}
    moved = student["photographs"]["direction"]
    assert moved["total"] == 4 and moved["interval"][1] <= 1
    assert student["error"] > 0 and student["sharpness"] > 0 and student["diversity"] > 0


def test_sharpness_sees_a_blur():
    noise = np.random.default_rng(0).integers(0, 255, (2, 16, 16, 3)).astype(np.uint8)
    smooth = np.repeat(np.repeat(noise[:, ::4, ::4], 4, axis=1), 4, axis=2)
    assert sharpness(noise) > 1.5 * sharpness(smooth) > 0 == sharpness(np.full((2, 16, 16, 3), 9, np.uint8))
