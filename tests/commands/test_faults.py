"""What goes wrong outside of the program: each fault has its one sentence, exit code 2,
and leaves nothing behind.

python -m pytest tests/commands/test_faults.py
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import zlib

import pytest
import torch
from PIL import Image

from pyramid.commands import cli, console
from pyramid.events import Notice, Preview
from pyramid.generate.pipeline import PyramidFlowPipeline
from pyramid.jobs.recorder import Recorder
from pyramid.media.files import ffmpeg
from pyramid.media.video_reader import read_video

PROMPT = "a red ball"
QUICK = ["--steps", "1", "--video-steps", "1", "--num-frames", "25", "--seed", "5"]


@pytest.fixture
def generate(tiny_checkpoint, tmp_path, capfd):
    """Runs `generate`: exit code, the line of the error, and the names of all files in the output folder."""

    def run(*flags, model=tiny_checkpoint, prompt=PROMPT, output=tmp_path / "out"):
        capfd.readouterr()
        code = cli.main(
            [
                "generate",
                "--model",
                str(model),
                "--prompt",
                prompt,
                "--output",
                str(output),
                *QUICK,
                *map(str, flags),
            ]
        )
        said = capfd.readouterr().err
        assert "Traceback" not in said
        error = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
        return code, "".join(error), sorted(path.name for path in output.rglob("*"))

    return run


# ------------------------------------------------------------------------------------------------------------
# Weights


TRANSFORMER = "diffusion_transformer_128p/diffusion_pytorch_model.safetensors"
TRANSFORMER_CONFIG = "diffusion_transformer_128p/config.json"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


def put(path, start, content):
    data = bytearray(path.read_bytes())
    data[start : start + len(content)] = content
    path.write_bytes(bytes(data))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_weights(folder):
    """A file that is whole, of another model."""
    shutil.copy(folder / "causal_video_vae/diffusion_pytorch_model.safetensors", folder / TRANSFORMER)


WEIGHTS = {
    "corrupt": (
        lambda f: put(f / TRANSFORMER, 8, b"\xff" * 32),
        f"{TRANSFORMER} is damaged: its header cannot be read; download it again",
    ),
    "truncated": (
        lambda f: (f / TRANSFORMER).write_bytes((f / TRANSFORMER).read_bytes()[:-1]),
        rf"{TRANSFORMER} is truncated: [\d,]+ of [\d,]+ bytes; download it again",
    ),
    "empty": (
        lambda f: (f / TRANSFORMER).write_bytes(b""),
        f"{TRANSFORMER} is truncated: 0 bytes do not even hold its header; download it again",
    ),
    "pointer": (
        lambda f: (f / TRANSFORMER).write_bytes(LFS),
        f"{TRANSFORMER} is a Git LFS pointer, not the weights: run git lfs pull, or download the model",
    ),
    "missing": (
        lambda f: (f / TRANSFORMER).unlink(),
        "diffusion_transformer_128p has no weights: diffusion_pytorch_model.safetensors, for example",
    ),
    "no folder": (lambda f: shutil.rmtree(f / "causal_video_vae"), "the folder causal_video_vae is missing"),
    "no text": (lambda f: (f / "text_encoder_2/model.safetensors").unlink(), "text_encoder_2 has no weights"),
    "another's": (other_weights, "does not fit|lacks|missing"),
    "shapes": (
        lambda f: edit(f / TRANSFORMER_CONFIG, joint_attention_dim=64, pooled_projection_dim=48),
        "of another "
        r"shape: context_embedder.weight \(32, 32\) in place of \(32, 64\), time_text_embed.*Download the "
        "folder again, or check its config.json",
    ),
    "words for numbers": (
        lambda f: edit(f / TRANSFORMER_CONFIG, num_attention_heads="three"),
        "config.json says num_attention_heads = 'three', not a whole number; download it again",
    ),
    "shapes of T5": (
        lambda f: edit(f / "text_encoder_2/config.json", d_model=64),
        "model/text_encoder_2: 11 weights "
        r"have another shape than its config.json says, .* \(32, 32\) in place of \(32, 64\); download "
        "it again",
    ),
    "T5 of words": (
        lambda f: edit(f / "text_encoder_2/config.json", d_kv="one"),
        "model/text_encoder_2 cannot be loaded",
    ),
    "no tokens": (
        lambda f: (f / "tokenizer_2/tokenizer.json").write_text("{}"),
        "model/tokenizer_2 cannot be loaded "
        r"\(Exception: Model missing.*\): .* download it again",
    ),
    "no sizes": (
        lambda f: edit(f / "pyramid.json", sizes=[]),
        "model/pyramid.json holds a value of the wrong kind: sizes is empty; fix it, or get the model again",
    ),
    "a type of its header": (
        lambda f: put(f / TRANSFORMER, (f / TRANSFORMER).read_bytes().index(b"F32"), b"X"),
        f"{TRANSFORMER} is damaged: its header cannot be read; download it again",
    ),
}


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights(fault, generate, tiny_checkpoint, tmp_path):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    harm, message = WEIGHTS[fault]
    harm(model)
    code, error, files = generate(model=model)
    assert code == 2 and files == []
    assert re.search(message, error), error


@pytest.mark.parametrize("fault", ["empty", "corrupt", "pointer"])
def test_plans_of_weights_that_cannot_be_used(fault, tiny_checkpoint, tmp_path, capfd):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    harm, message = WEIGHTS[fault]
    harm(model)
    assert cli.main(["plan", "--model", str(model)]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_a_variant_that_is_not_there(generate, tiny_checkpoint):
    code, error, files = generate("--variant", "768p")
    assert (code, files) == (2, [])
    assert error == f"{tiny_checkpoint} has no variant '768p', only 128p; choose one of those"


# ------------------------------------------------------------------------------------------------------------
# What is given


def png(path, width, height, rows=b""):
    """A PNG of one bit a pixel that says it is of this size; `rows` are what is really in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def large(path):
    return png(path, 20_000, 10_000, b"\0" * (2501 * 10_000))


def no_frames(path):
    """A video file with sound alone."""
    command = [ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "sine=duration=1", str(path)]
    subprocess.run(command, check=True)
    return path


GIVEN = {
    "bomb": (
        "--image",
        "bomb.png",
        lambda p: png(p, 60_000, 60_000),
        "{!r} has more than 178 million pixels: make it smaller first",
    ),
    "200 megapixels": (
        "--image",
        "large.png",
        large,
        "{!r} has more than 178 million pixels: make it smaller first",
    ),
    "no picture": (
        "--image",
        "words.png",
        lambda p: p.write_text("words"),
        "{!r} is not a picture this program can "
        "read: use PNG, JPEG, WebP, AVIF or TIFF (a video is given as video)",
    ),
    "truncated": ("--image", "half.png", lambda p: png(p, 64, 64, b"\0" * 20), "{!r} cannot be read: "),
    "sound alone": ("--video", "sound.mp4", no_frames, "{!r} is not a video this program can read"),
    "empty video": ("--video", "empty.mp4", lambda p: p.touch(), "{!r} is not a video this program can read"),
    "no file": ("--image", "none.png", lambda p: None, "{!r} cannot be read: No such file or directory"),
}


@pytest.mark.parametrize("fault", GIVEN)
def test_pictures_and_videos(fault, generate, tmp_path):
    flag, name, make, message = GIVEN[fault]
    make(tmp_path / name)
    code, error, files = generate(flag, tmp_path / name)
    assert (code, files) == (2, [])
    assert error.startswith(message.format(str(tmp_path / name))), error


def test_a_picture_of_one_pixel_is_a_picture(generate, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    code, error, files = generate("--image", tmp_path / "dot.png")
    assert (code, error, files) == (0, "", ["a-red-ball-5.mp4"])
    first = read_video(tmp_path / "out" / files[0], 64, 64, fps=8, num_frames=99)
    assert len(first) == 25


PROMPTS = {
    "not UTF-8": (
        os.fsdecode(b"a red b\xe4ll"),
        "--prompt holds bytes that are no text (at 'a red b'): type it again",
    ),
    "100,000 characters": ("x" * 100_000, "--prompt has 100000 characters: use at most 2000"),
    "empty": ("  ", 'the prompt is empty: say what to see, such as "a red ball stays still"'),
}


@pytest.mark.parametrize("fault", PROMPTS)
def test_prompts(fault, generate):
    prompt, message = PROMPTS[fault]
    assert generate(prompt=prompt) == (2, message, [])


# ------------------------------------------------------------------------------------------------------------
# Where it goes


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own: `disk(options)` mounts it, or mounts it again with others."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        again = ["-o", "remount"] * os.path.ismount(folder)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", *again, "-o", options, "tmpfs", folder], capture_output=True
        )
        if done.returncode:
            pytest.skip("nothing can be mounted here")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_folder_that_cannot_be_written(generate, disk):
    folder = disk("ro")
    assert generate(output=folder / "new") == (
        2,
        f"--output {folder}/new/a-red-ball-5.mp4: nothing can be written in {folder}: Read-only file system",
        [],
    )


def test_a_run_waits_for_a_full_disk_and_goes_on_with_what_is_finished(generate, disk, monkeypatch):
    folder = disk("size=320k")
    said = []

    def waiting(self, why):
        said.append((why, [path.name for path in folder.glob("[!.]*.mp4")]))
        threading.Timer(1, disk, ["size=9m"]).start()  # somebody frees some space

    monkeypatch.setattr(console.Display, "waiting", waiting)
    fill = folder / "fill"
    monkeypatch.setattr(
        Recorder, "_keep", lambda *a, keep=Recorder._keep: (fill.write_bytes(bytes(2**17)), keep(*a))
    )
    code, error, files = generate(output=folder)
    assert (code, error) == (0, "") and files == ["a-red-ball-5.mp4", "fill"]
    assert len(said) == 1 and not said[0][1]  # nothing half-written under its final name
    assert "No space left on device: free some space there" in said[0][0]
    assert len(read_video(folder / "a-red-ball-5.mp4", 64, 64, fps=8, num_frames=99)) == 25


def test_a_disk_that_is_full_from_the_start(generate, disk):
    folder = disk("size=4k")
    (folder / "full").write_bytes(b"\0" * 4096)
    code, error, files = generate(output=folder)
    assert code in (1, 2) and "No space left on device" in error and files == ["full"]


@pytest.mark.skipif(sys.platform == "win32", reason="files there cannot be claimed")
def test_what_a_killed_process_left_half_written_is_cleaned(generate, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in (
        ".a-red-ball-5.part.mp4",
        ".another-1.part.mp4",
        ".another-1.part-tagged.mp4",
        ".still.part.png",
    ):
        (out / name).write_bytes(b"half")
    code, _, files = generate()
    assert code == 0 and files == ["a-red-ball-5.mp4"]


# ------------------------------------------------------------------------------------------------------------
# Numbers that overflow


def narrow(tiny_checkpoint, gain=1.0, dtype=torch.float16):
    """A pipeline in `dtype` whose last layer's weights, the same in all types, are `gain` times as large."""
    pipe = PyramidFlowPipeline.from_pretrained(tiny_checkpoint, dtype=torch.float16)
    with torch.no_grad():
        pipe.transformer.proj_out.weight.mul_(gain)
    torch.nn.Module.to(pipe.transformer, dtype)
    return pipe


REQUEST = dict(num_frames=9, num_inference_steps=[1, 2, 1], video_num_inference_steps=[1, 1, 1], seed=5)


def finished(pipe):
    *_, last = pipe.stream(*pipe.request(PROMPT, **REQUEST))
    return last


def test_float16_is_for_the_transformer_alone_and_needs_no_retry_where_nothing_overflows(tiny_checkpoint):
    pipe = narrow(tiny_checkpoint)
    assert (pipe.transformer.dtype, pipe.vae.dtype, pipe.text.dtype) == (
        torch.float16,
        torch.float32,
        torch.float32,
    )
    events = list(pipe.stream(*pipe.request(PROMPT, **REQUEST)))
    assert not [event for event in events if isinstance(event, Notice) and event.kind == "precision"]
    exact = finished(narrow(tiny_checkpoint, dtype=torch.float32))
    difference = (events[-1].latents - exact.latents).abs().max() / exact.latents.abs().max()
    assert 0 < difference < 0.02


def test_a_step_that_overflows_is_taken_again_in_float32(tiny_checkpoint):
    pipe = narrow(tiny_checkpoint, gain=1e5)
    before = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    events = list(pipe.stream(*pipe.request(PROMPT, **REQUEST)))
    told = [event.message for event in events if isinstance(event, Notice) and event.kind == "precision"]
    assert told[1] == "Unit 1, stage 2, step 1: float16 overflowed, so this step was taken in float32."
    assert len(told) == sum(isinstance(event, Preview) for event in events) == 7
    exact = finished(narrow(tiny_checkpoint, gain=1e5, dtype=torch.float32))
    difference = (events[-1].latents - exact.latents).abs().max() / exact.latents.abs().max()
    assert difference < 0.01  # the prompt's embeddings alone were rounded
    after = pipe.transformer.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())  # float16 as it was


def test_weights_that_overflow_everywhere_make_no_black_video(tiny_checkpoint):
    pipe = narrow(tiny_checkpoint, gain=float("nan"))
    with pytest.raises(
        FloatingPointError, match=r"hold NaN or infinity \(proj_out.weight\): the checkpoint is"
    ):
        list(pipe.stream(*pipe.request(PROMPT, **REQUEST)))
    told = {
        torch.bfloat16: "bfloat16 and in float32 too: its weights are damaged",
        torch.float32: "overflows in float32",
    }
    for dtype, words in told.items():  # weights that are numbers, and too large for either
        pipe = narrow(tiny_checkpoint, dtype=dtype)
        with torch.no_grad():
            weight = pipe.transformer.proj_out.weight
            weight.div_(weight.abs().max()).mul_(3e38)
        with pytest.raises(FloatingPointError, match=words):
            list(pipe.stream(*pipe.request(PROMPT, **REQUEST)))
    vae = narrow(tiny_checkpoint)
    with torch.no_grad():
        vae.vae.decoder.conv_out.conv.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="Unit 0 overflows .* decoded"):
        list(vae.stream(*vae.request(PROMPT, **REQUEST)))
    with torch.no_grad():
        vae.vae.decoder.conv_out.conv.bias.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="autoencoder's weights hold NaN or infinity"):
        list(vae.stream(*vae.request(PROMPT, **REQUEST)))
