"""What the start of a command costs, as what it imports: seconds differ between machines, modules do not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyramid.memory import device

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


@pytest.mark.parametrize("said", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}], ids=str)
def test_threads_wait_asleep_unless_the_user_says_otherwise(monkeypatch, said):
    monkeypatch.setattr(device.os, "environ", dict(said))
    device.wait_asleep()
    assert device.os.environ == (said or {"OMP_WAIT_POLICY": "PASSIVE"})
