"""The command `drafts`, and `generate` from one of them."""

import pytest
from PIL import Image

from pyramid.commands import cli, drafts
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_video


def test_a_speed_decides_the_steps_of_drafts():
    args = cli.parser("drafts").parse_args(["drafts", "--prompt", "x", "--speed", "balanced", "--count", "1"])
    settings, seeds, _ = drafts.asked(args)
    assert settings.sampler == "multistep" and settings.num_inference_steps == (5, 5, 5) and len(seeds) == 1


@pytest.fixture
def command(tiny_checkpoint, tmp_path, capfd, monkeypatch):
    """Runs a command in `tmp_path`: exit code, what it printed to stdout (lines), and what to stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name, *flags):
        capfd.readouterr()
        code = cli.main([name, *map(str, flags)])
        said = capfd.readouterr()
        return code, said.out.splitlines(), said.err

    return run


def test_a_draft_becomes_the_video_of_its_seed(command, tiny_checkpoint, tmp_path):
    model = "--prompt", "a red ball", "--model", tiny_checkpoint
    code, paths, err = command("drafts", *model, "--seeds", "1,2,3", "--output-dir", tmp_path)
    assert code == 0 and [path.split("-")[-1] for path in paths] == [f"{n}.safetensors" for n in (1, 2, 3)]
    assert Image.open(tmp_path / "sheet.png").size > (160, 160) and "sheet.png" in err
    assert (tmp_path / "draft-2.png").is_file()
    code, [begun], _ = command("generate", "--from-draft", paths[1], "--output", tmp_path / "a.mp4")
    assert code == 0
    code, [whole], _ = command("generate", *model, "--seed", 2, "--output", tmp_path / "b.mp4")
    assert code == 0 and read_metadata(begun)["settings"] == read_metadata(whole)["settings"]
    frames = [read_video(path, 64, 64, fps=8, num_frames=17) for path in (begun, whole)]
    assert (frames[0] == frames[1]).all()


def test_variations_move_and_what_does_not_go_together_is_refused(command, tiny_checkpoint, tmp_path):
    model = "--prompt", "a red ball", "--model", tiny_checkpoint, "--num-frames", 9
    _, [path], _ = command("drafts", *model, "--seeds", 7, "--output-dir", tmp_path)
    vary = "drafts", "--vary", path, "--output-dir", tmp_path
    code, paths, err = command(*vary, "--count", 2, "--units", "all", "--variation-strength", 0.2)
    assert code == 0 and [p.rpartition("/")[2] for p in paths] == [
        "draft-7-1.safetensors",
        "draft-7-2.safetensors",
    ]
    assert Image.open(tmp_path / "sheet.gif").n_frames == 9 and "previews" in err
    code, [video], err = command("generate", "--from-draft", paths[1], "--output", tmp_path / "v.mp4")
    assert code == 0 and "departs from its draft" in err
    assert read_metadata(video)["settings"]["variation_seed"] == 2
    short = "--video-steps", 1, "--output", tmp_path / "short.mp4"
    code, [video], _ = command("generate", "--from-draft", paths[1], *short)
    assert code == 0 and read_metadata(video)["settings"]["video_num_inference_steps"] == [1, 1, 1]
    for refused, words in (
        (["generate", "--from-draft", path, "--prompt", "a star"], "was made with prompt"),
        (["generate", "--from-draft", tmp_path / "no"], "is not there"),
        (["generate", "--from-draft", path, "--preset", "quick"], "--preset with --from-draft"),
        ([*vary, "--prompt", "a star"], "--prompt with --vary"),
        ([*vary, "--preset", "quick"], "--preset with --vary"),
        ([*vary, "--model", tiny_checkpoint], "--model with --vary"),
        ([*vary, "--seconds", 3], "--seconds with --vary"),
        ([*vary, "--speed", "quick"], "--speed with --vary"),
        ([*vary, "--variation-seed", 5, "--seeds", 9], "--variation-seed with --seeds"),
        (["drafts", *model, "--seeds", "1,2", "--seed", 3], "--seed with --seeds"),
        (["drafts", *model, "--seeds", "1,2", "--count", 5], "--count with --seeds"),
        (["drafts", *model, "--seeds", "-1"], "--seeds: -1 is outside 0 to"),
        (["drafts", *model, "--count", 0], "--count 0"),
        (["drafts", *model, "--count", 65], "--count 65: 1 to 64"),
        (["drafts", *model, "--count", 100_000_000], "--count 100000000: 1 to 64"),
        (["drafts", *model, "--seeds", ",".join(map(str, range(65)))], "at most 64"),
        (["drafts", *model, "--output-dir", video], f"--output-dir {video}: nothing can be written"),
        (["drafts", *model, "--memory", "foo"], "--memory = 'foo' is no plan"),
    ):
        code, out, err = command(*refused)
        assert code == 2 and not out and words in err, err
    assert not (tmp_path / "drafts").exists()  # the folder of their own that they would have made
