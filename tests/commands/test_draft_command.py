"""The command `drafts`, and `generate` from one of them."""

import pytest
from PIL import Image

from pyramid.commands import cli
from pyramid.media.files import read_metadata
from pyramid.media.video_reader import read_video


@pytest.fixture
def command(tiny_checkpoint, tmp_path, capfd):
    """Runs a command: exit code, what it printed to stdout, line by line, and what to stderr."""

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
    for refused, words in (
        (["generate", "--from-draft", path, "--prompt", "a star"], "was made with prompt"),
        (["generate", "--from-draft", tmp_path / "no"], "is not there"),
        (["generate", "--from-draft", path, "--preset", "quick"], "--preset with --from-draft"),
        ([*vary, "--prompt", "a star"], "leave --prompt out"),
        (["drafts", *model, "--seeds", "1,2", "--seed", 3], "both --seed and --seeds"),
        (["drafts", *model, "--count", 0], "--count 0"),
        (["drafts", *model, "--count", 65], "at most 64"),
    ):
        code, out, err = command(*refused)
        assert code == 2 and not out and words in err, err
