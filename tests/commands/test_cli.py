"""The command line: what it makes, what it refuses (exit 2, one line, nothing written), Ctrl-C, inspect."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyramid.commands import cli, console
from pyramid.commands.flags import asked_for, command_of
from pyramid.events import Frames, Preview
from pyramid.jobs.speed import step_tokens
from pyramid.media.files import read_metadata
from pyramid.media.video import VideoWriter
from pyramid.media.video_reader import probe, read_video
from pyramid.presets import load_preset, resolve
from pyramid.settings import FIELDS, Settings, at_home

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def generate(tiny_checkpoint, tmp_path, capfd):
    """Runs `generate` with the tiny checkpoint: exit code, stdout,
    stderr and the files in the output folder.
    """

    def run(*flags, prompt="a red ball", output=tmp_path / "out", model=tiny_checkpoint):
        capfd.readouterr()
        argv = ["generate", "--prompt", prompt, "--model", model, "--output", output, *flags]
        code = cli.main([str(word) for word in argv])
        said = capfd.readouterr()
        return code, said.out, said.err, sorted((tmp_path / "out").glob("**/*"))

    return run


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((200, 100)).convert("RGB").save(path)
    return path


# -- what it makes
def test_a_prompt_becomes_a_video_that_knows_its_settings(generate):
    code, out, err, files = generate("--seed", 3, "--steps", "2,1,1", "--video-steps", 1, "--guidance", 2)
    assert code == 0 and [str(path) for path in files] == [out.strip()]
    assert files[0].name == "a-red-ball-3.mp4" and "64x64, " in probe(files[0]) and "8 fps" in probe(files[0])
    assert read_video(files[0], 64, 64, fps=8, num_frames=99).shape == (17, 64, 64, 3)
    metadata = read_metadata(files[0])
    settings = Settings.from_dict(metadata["settings"])
    assert (settings.seed, settings.num_inference_steps, settings.guidance_scale) == (3, (2, 1, 1), 2.0)
    assert settings.video_num_inference_steps == (1, 1, 1) and settings.video_guidance_scale == 3.0
    assert metadata["model"]["identity"] == "tiny/128p" and metadata["timings"]["total"] > 0
    assert "Loading the model" in err and "seed 3" in err and "Traceback" not in err


def test_one_frame_becomes_a_picture_and_a_random_seed_is_kept(generate):
    code, out, _, files = generate("--num-frames", 1, "--steps", 1)
    assert code == 0 and files[0].suffix == ".png" and Image.open(files[0]).size == (64, 64)
    seed = read_metadata(files[0])["settings"]["seed"]
    assert files[0].stem == f"a-red-ball-{seed}"
    code, *_, files = generate("--num-frames", 1, "--steps", 1, "--seed", seed)
    assert code == 0 and len(files) == 2  # the first is not overwritten
    assert np.array_equal(*map(np.asarray, map(Image.open, files)))


def test_a_photo_is_the_first_frame_and_a_video_is_continued(generate, photo, tmp_path):
    code, *_, files = generate(
        "--image", photo, "--steps", 1, "--video-steps", 1, "--seconds", 1, "--seed", 1
    )
    metadata = read_metadata(files[0])
    assert (
        code == 0
        and at_home(metadata["settings"]["image"]) == photo
        and metadata["source"]["name"] == "photo.jpg"
    )
    made = read_video(files[0], 64, 64, fps=8, num_frames=99)
    assert len(made) == 9
    source = files[0]
    code, *_, files = generate(
        "--video",
        source,
        "--steps",
        1,
        "--video-steps",
        1,
        "--num-frames",
        25,
        "--seed",
        2,
        "--fit",
        "pad",
        output=tmp_path / "out" / "longer.mp4",
    )
    longer = tmp_path / "out" / "longer.mp4"
    assert code == 0 and longer in files
    assert len(read_video(longer, 64, 64, fps=8, num_frames=99)) == 25
    assert read_metadata(longer)["given_frames"] == 9
    assert cli.main(["export", str(longer), "--format", "joined", "--source", str(source)]) == 0
    assert len(read_video(tmp_path / "out" / "longer-joined.mp4", 64, 64, fps=8, num_frames=99)) == 25


def test_what_is_cut_of_a_long_prompt_is_told(generate):
    code, _, err, _ = generate("--steps", "1", "--num-frames", 1, prompt="a red ball " * 100)
    assert code == 0 and "too long" in err


def test_what_is_outside_training_is_noted(generate):
    code, _, err, _ = generate("--steps", "1,1", "--num-frames", 9, "--width", 96, "--height", 96)
    assert code == 0
    assert "note: 2 stages" in err and "note: 96×96" in err


# -- what it refuses
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--width", 100], ["--width = 100", "64 or 128"]),
        (["--height", "tall"], ["--height", "tall"]),
        (["--seconds", -1], ["--seconds = -1"]),
        (["--seconds", 0], ["--seconds = 0"]),
        (["--num-frames", -8], ["--num-frames = -8"]),
        (["--num-frames", 24], ["17 or 25"]),
        (["--seconds", 1, "--num-frames", 9], ["not allowed with"]),
        (["--seed", -5], ["--seed = -5"]),
        (["--seed", "lucky"], ["--seed", "lucky"]),
        (["--seed=-3"], ["--seed = -3 is outside 0 to 9007199254740991"]),
        (["--seed", "9" * 23], ["--seed = 99999999999999999999999 is outside"]),
        (["--steps", "a,b"], ["a,b", "20,20,10"]),
        (["--steps", "0"], ["--steps, stage 1 = 0"]),
        (["--guidance", "0.2"], ["--guidance = 0.2"]),
        (["--preset", "quik"], ["did you mean 'quick'"]),
        (["--preset", "missing.toml"], ["missing.toml"]),
        (["--variant", "384p"], ["384p", "128p"]),
        (["--dtype", "float16", "--device", "cpu"], ["float16", "bfloat16"]),
        (["--quantize", "int4"], ["did you mean 'int8'"]),
        (["--memory", "huge"], ["huge", "cpu"]),
        (["--device", "toaster"], ["toaster"]),
        (["--fit", "squeeze"], ["squeeze"]),
        (["--image", "gone.png"], ["gone.png", "No such file"]),
        (["--video", "gone.mp4"], ["gone.mp4"]),
        (["--image", __file__], ["not a picture"]),
        (["--video", __file__], ["not a video"]),
        (["--image", "a.png", "--video", "b.mp4"], ["both image and video"]),
        (["--nonsense"], ["--nonsense"]),
        (["--pro", "x"], ["--pro"]),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(generate, flags, words):
    check_refusal(generate(*flags), words)


def check_refusal(result, words):
    code, out, err, files = result
    assert code == 2 and out == "" and files == []
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert all(word in err for word in words), err


def test_empty_prompts_and_bad_outputs_are_refused(generate, tmp_path, monkeypatch):
    check_refusal(generate(prompt=""), ["prompt is empty"])
    check_refusal(generate(prompt="  "), ["prompt is empty"])
    check_refusal(generate(output=tmp_path / "out" / "a.gif"), [".mp4"])
    check_refusal(generate(output=tmp_path / "out" / "a.png"), ["17 frames", ".mp4"])
    check_refusal(generate("--num-frames", 1, output=tmp_path / "out" / "a.mp4"), ["1 frame", ".png"])
    (tmp_path / "file").write_text("")
    check_refusal(generate(output=tmp_path / "file" / "a.mp4"), ["nothing can be written"])
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    check_refusal(generate(), ["IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg", "unset it"])


def test_broken_checkpoints_are_refused(generate, tiny_checkpoint, tmp_path):
    check_refusal(generate(model=tmp_path / "nowhere"), ["nowhere"])
    (tmp_path / "empty").mkdir()
    check_refusal(generate(model=tmp_path / "empty"), ["not a Pyramid Flow checkpoint"])
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    weights = broken / "diffusion_transformer_128p" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    shutil.rmtree(broken / "tokenizer")
    check_refusal(generate(model=broken), ["truncated", "diffusion_transformer_128p", "tokenizer is missing"])
    (broken / "causal_video_vae" / "config.json").write_text("{")
    check_refusal(generate(model=broken), ["causal_video_vae"])


def test_from_a_shell_too(tiny_checkpoint, tmp_path):
    command = [
        sys.executable,
        "-m",
        "pyramid",
        "generate",
        "--prompt",
        "",
        "--model",
        tiny_checkpoint,
        "--output",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: the prompt is empty") and done.stderr.count("\n") == 1


def test_help_is_fast_because_it_imports_no_torch():
    code = (
        "import sys; from pyramid.commands.cli import COMMANDS, parser\n"
        "for name in {'', *COMMANDS}:\n"
        "    parser(name).format_help()\n"
        "    assert not {'torch', 'diffusers'} & set(sys.modules), name"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "--help"])
    assert ended.value.code == 0


# -- interruptions
def when_decoded(monkeypatch, unit, act):
    """Calls `act` when the frames of `unit` are shown."""
    show = console.Display.show

    def show_and_act(self, event):
        show(self, event)
        if isinstance(event, Frames) and event.unit == unit:
            act()

    monkeypatch.setattr(console.Display, "show", show_and_act)


@pytest.mark.parametrize("more", [[], ["--keep-units"]], ids=" ".join)
def test_ctrl_c_keeps_the_finished_units_and_says_so(generate, monkeypatch, more):
    when_decoded(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    code, out, err, files = generate("--num-frames", 25, "--steps", 1, "--video-steps", 1, "--seed", 1, *more)
    assert code == 130 and "2 of 4 units" in err
    shown = Path(out.strip())
    assert shown.name == "a-red-ball-1-partial.mp4" and read_metadata(shown)["partial"]
    assert len(read_video(shown, 64, 64, fps=8, num_frames=99)) == 9
    assert signal.getsignal(signal.SIGINT) is before

    monkeypatch.undo()  # the command that it told goes on, to the whole video
    assert cli.main(shlex.split(err.split("python -m pyramid ")[-1].splitlines()[0])) == 0
    assert sorted(path.name for path in shown.parent.iterdir()) == [shown.name, "a-red-ball-1.mp4"]
    assert len(read_video(shown.with_name("a-red-ball-1.mp4"), 64, 64, fps=8, num_frames=99)) == 25


def test_a_folder_of_units_that_vanishes_hides_no_error(generate, monkeypatch, tmp_path):
    def vanish():
        shutil.rmtree(next(tmp_path.rglob(".*.units")))
        raise OSError("the drive is gone")

    when_decoded(monkeypatch, 0, vanish)
    code, out, err, _ = generate("--num-frames", 25, "--steps", 1, "--video-steps", 1)
    assert code == 1 and "the drive is gone" in err and "Traceback" not in err


def test_ctrl_c_before_anything_is_made_leaves_nothing(generate, photo, monkeypatch):
    when_decoded(monkeypatch, 0, lambda: signal.raise_signal(signal.SIGINT))
    code, out, err, files = generate("--image", photo, "--steps", 1, "--video-steps", 1)
    assert (code, out, files) == (130, "", []) and "Stopped" in err


def test_ctrl_c_before_the_first_unit_says_that_nothing_was_kept(generate, monkeypatch):
    show = console.Display.show

    def stop(self, event):
        show(self, event)
        if isinstance(event, Preview):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console.Display, "show", stop)
    code, out, err, files = generate("--num-frames", 57, "--steps", 2, "--video-steps", 1)
    assert (code, out, files) == (130, "", [])
    assert "Sampling 0 of 8 units" in err and "Nothing was kept, as no unit was finished." in err


def test_the_stages_of_a_result_are_kept_and_exported(generate, capfd):
    code, out, err, files = generate("--previews", "--steps", 2, "--video-steps", 1, "--seed", 3)
    result = Path(out.strip())
    kept = result.with_name("a-red-ball-3.stages")
    assert code == 0 and len(list(kept.glob("*.png"))) == 9 and str(kept) in err
    assert cli.main(["export", str(result), "--format", "stages"]) == 0
    assert capfd.readouterr().out.strip().endswith("a-red-ball-3-stages.mp4")
    assert generate("--previews", "--endless", "--max-units", 2)[0] == 2


def test_an_error_on_the_way_keeps_the_finished_units(generate, monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("the card fell off the bus")

    when_decoded(monkeypatch, 1, fail)
    assert generate("--steps", 1, "--video-steps", 1, "--seed", 1)[0] == 1
    names = {
        path.name for path in (tmp_path / "out").iterdir()
    }  # the video so far, and what it can go on from
    assert names == {"a-red-ball-1-partial.mp4", ".a-red-ball-1.units"}


# -- settings from everywhere
def settings_from(words, start=None, preset=None):
    args = cli.parser("generate").parse_args(["generate", *words])
    start = start or Settings.for_model(args.model or "embedded", args.variant)
    return resolve(start, preset, asked_for(args), seconds=args.seconds)


def test_every_setting_has_a_flag():
    assert set(FIELDS) <= set(vars(cli.parser("generate").parse_args(["generate"])))


def test_flags_win_over_presets_and_presets_over_the_model():
    settings = settings_from(["--prompt", "x", "--guidance", "6"], preset=load_preset("quality"))
    assert settings.guidance_scale == 6 and settings.preset == "quality"
    assert settings.num_inference_steps == tuple(load_preset("quality").values["num_inference_steps"])
    assert settings.num_frames == 25
    other = settings_from(["--prompt", "x"], Settings.for_model("sd3"), load_preset("released-768p"))
    assert (other.model, other.variant, other.guidance_scale) == ("sd3", "384p", 9.0)


def test_seconds_and_step_counts_are_spelled_out():
    settings = settings_from(["--seconds", "2", "--steps", "7", "--fps", "16"])
    assert settings.num_frames == 33 and settings.num_inference_steps == (7, 7, 7)
    two = settings_from(["--steps", "7,3"])
    several = settings_from(["--steps", "1,2", "--video-steps", "3"])
    assert (several.num_inference_steps, several.video_num_inference_steps) == ((1, 2), (3, 3))
    several = settings_from(["--steps", "4", "--video-steps", "3,2"])
    assert (several.num_inference_steps, several.video_num_inference_steps) == ((4, 4), (3, 2))
    assert two.video_num_inference_steps == (7, 3) and replace(two, prompt="x").validate()


@pytest.mark.parametrize(
    "settings",
    [
        Settings(prompt='it\'s "red"; --seed 5', seed=0, num_frames=17),
        Settings.for_model(
            "miniflux",
            "768p",
            prompt="größer",
            negative_prompt="-x",
            seed=4,
            image=str(Path("a b.png").absolute()),
            fit="fit",
            num_inference_steps=(5, 6),
            video_num_inference_steps=(1, 2),
            dtype="bfloat16",
            quantize="nf4",
            guidance_decay=0.5,
            prompt_suffix="",
            device="cuda:1",
            fps=12,
        ),
        Settings(prompt="a still", num_inference_steps=(9,), video_num_inference_steps=(8,), width=80),
    ],
)
def test_the_command_that_inspect_prints_makes_the_same_settings(settings):
    words = shlex.split(command_of(settings))
    assert words[:4] == ["python", "-m", "pyramid", "generate"]
    args = cli.parser("generate").parse_args(words[3:])
    start = Settings.for_model(args.model, args.variant, expects=None)
    assert resolve(start, None, asked_for(args)) == settings


def test_inspect_prints_a_table_or_json(tmp_path, capsys):
    metadata = {
        "program": "pyramid",
        "settings": Settings(prompt="a [red] ball", seed=5).to_dict(),
        "model": {"identity": "embedded/128p", "weights": {"vae": ["ab"]}},
        "timings": {"total": 1.5},
    }
    with VideoWriter(tmp_path / "out.mp4", 8, (64, 64), metadata) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    assert cli.main(["inspect", str(tmp_path / "out.mp4"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == metadata
    assert cli.main(["inspect", str(tmp_path / "out.mp4")]) == 0
    out = capsys.readouterr().out
    assert "a [red] ball" in out and "embedded/128p" in out and "--seed=5" in out
    assert cli.main(["inspect", str(tmp_path / "gone.mp4")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_progress_weighs_steps_by_what_they_cost():
    settings = Settings.for_model("miniflux", "384p")
    assert [step_tokens(settings, 0, stage) for stage in range(3)] == [128 + 60, 128 + 240, 128 + 960]
    assert step_tokens(settings, 3, 2) == 128 + 960 + 960 + 240 + 60
    assert step_tokens(settings, 2, 0) == 128 + 60 * 3


def test_former_flags_are_understood_and_not_shown(capsys):
    parsed = cli.parser("generate").parse_args(["generate", "--prompt", "a red ball", "--quantise", "int8"])
    assert parsed.quantize == "int8"
    with pytest.raises(SystemExit):
        cli.parser("generate").parse_args(["generate", "--help"])
    assert "quantise" not in capsys.readouterr().out
