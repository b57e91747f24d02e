"""What the start of a command costs, as what it imports: seconds differ between machines, modules do not."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# Each takes as long as torch itself, or brings what does; nothing of a plain run needs them.
SLOW = (
    "diffusers",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "peft",
    "scipy",
    "sympy",
    "gradio",
    "pandas",
)
COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch.aot_autograd")
RUN = """
import json, sys
from pyramid.commands import cli
code = cli.main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def modules_of(*arguments: str) -> tuple[int, list[str]]:
    """The exit code of a command in a process of its own, and the modules that it has loaded."""
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def slow(modules: list[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] in SLOW or name in COMPILER}


@pytest.mark.parametrize("picture", [False, True], ids=["text", "picture"])
def test_a_clip_is_made_without_what_loads_longer_than_torch(tiny_checkpoint, tmp_path, picture):
    given = ()
    if picture:
        from PIL import Image

        Image.new("RGB", (64, 64), "red").save(tmp_path / "ball.png")
        given = ("--image", str(tmp_path / "ball.png"))
    prompt = "words that no cache holds, so that both encoders read them"
    few = ("--steps", "1", "--video-steps", "1", "--num-frames", "9", "--output", str(tmp_path))
    code, modules = modules_of("generate", "--prompt", prompt, "--model", str(tiny_checkpoint), *few, *given)
    assert code == 0 and "torch" in modules
    assert slow(modules) == set()


def test_commands_that_run_no_model_load_no_torch(tmp_path):
    for command in (["inspect", str(tmp_path / "none.mp4")], ["resume", str(tmp_path)]):
        code, modules = modules_of(*command)
        assert code == 2 and slow(modules) == set() and "torch" not in modules, command


def test_torch_alone_makes_what_the_models_of_diffusers_make(tiny_checkpoint):
    from pyramid.events import Finished
    from pyramid.generate.loaded import load_for, load_quickly
    from pyramid.generate.pipeline import PyramidFlow
    from pyramid.hub.checkpoints import find
    from pyramid.settings import Settings

    few = {"num_frames": 9, "num_inference_steps": (1, 1, 1), "video_num_inference_steps": (1, 1, 1)}
    model = {"prompt": "a red ball", "device": "cpu", "seed": 3} | few
    settings = Settings.for_model(str(tiny_checkpoint), "128p", find(str(tiny_checkpoint)).defaults, **model)
    plain, full = load_quickly(settings), load_for(settings)
    assert type(plain) is PyramidFlow and isinstance(full, PyramidFlow) and type(full) is not PyramidFlow
    made, wanted = ([*pipe.stream(settings)][-1] for pipe in (plain, full))
    assert isinstance(made, Finished) and made.latents.equal(wanted.latents)


def test_of_what_bitsandbytes_says_one_notice_is_kept_back():
    import pyramid  # noqa: F401 - it is what keeps it back

    said = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def passes(words: str) -> bool:
        return bool(
            said.filter(said.makeRecord(said.name, logging.WARNING, "ops.py", 1, words, ("x",), None))
        )

    assert not passes("Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please make sure …")
    assert passes("no library was found: %s")
