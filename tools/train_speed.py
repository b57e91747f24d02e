"""Samples a second of our trainer beside the reference's, in turns, on the same cores:

    python tools/train_speed.py FOLDER [--rounds 3] [--units 8] [--size 640 384]
        [--precision bf16] [--json FILE]

FOLDER is a checkout of https://github.com/jy0205/Pyramid-Flow; its trainer's own loop is run, no copy. Both
train the same miniFLUX from the same weights, in float32 or bfloat16's autocast, on the same latents and
texts, in memory, with the same batch, optimizer and stage shares, each in a process of its own, as each is
run: ours tells the system to keep freed memory, which the other does not. A step of one follows a step of
the other, so that what else the machine does slows both alike; a round sweeps all lengths of the prefix
once. A sample is one clip at one of the three stages, its past before it: a step of both has four, one, two
and one of each. What the reference imports and a step never calls (torchvision, timm) need not be
installed, and the empty caption, without which it stops, is given to it. Behind the turns one more sweep of
ours is profiled: the share of the time that matrix products and attention take.
"""

import argparse
import importlib.machinery
import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import Accelerator

from pyramid.hub.families import FAMILIES
from pyramid.memory.threads import Threads
from pyramid.models.flux import PyramidFluxTransformer
from pyramid.training.clip_dit import Stepper, make_loop
from pyramid.training.clips.cache import Entry, Stored, Text
from pyramid.training.clips.recipe import ClipRecipe, DataRecipe, TrainRecipe

SIZES = {
    "num_layers": 2,
    "num_single_layers": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "joint_attention_dim": 1024,
    "pooled_projection_dim": 768,
    "axes_dims_rope": (16, 24, 24),
}
BATCH, TOKENS, ITEMS = 4, 128, 16
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "flash_attention", "scaled_dot_product")


class Absent(types.ModuleType):
    """A package that is not there: whatever is asked of it is an empty class."""

    __path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Absentees:
    """Finds packages that the reference imports and its training step does not use."""

    names = ("torchvision", "timm", "cv2", "decord", "IPython", "tensorboardX")

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Absent(spec.name)

    def exec_module(self, module):
        pass


class Memory:
    """Latents and texts as the cache gives them, in memory; `size`: of a clip, in pixels."""

    def __init__(self, units: int, size: tuple[int, int]):
        self.units = units
        self.shape = (units, size[1] // 8, size[0] // 8)
        rng = torch.Generator().manual_seed(0)
        self.items = []
        for _ in range(ITEMS):
            length = int(torch.randint(20, TOKENS, (1,), generator=rng))
            text = Text(torch.randn(length, 1024, generator=rng), torch.randn(768, generator=rng))
            latents = torch.randn(16, *self.shape, generator=rng)
            self.items.append(Stored(latents, None, (text,)))

    def entries(self):
        return [Entry(f"{i}", "", str(i), "video", self.shape, 1) for i in range(ITEMS)]

    def read(self, entry):
        return self.items[int(entry.key)]

    def nothing(self):
        return Text(torch.zeros(1, 1024), torch.zeros(768))


def reference_texts(items) -> dict[str, torch.Tensor]:
    """A batch of texts as the reference's loader makes it: padded to 128 tokens."""
    states, mask = torch.zeros(len(items), TOKENS, 1024), torch.zeros(len(items), TOKENS).long()
    for row, item in enumerate(items):
        length = len(item.texts[0].states)
        states[row, :length], mask[row, :length] = item.texts[0].states, 1
    pooled = torch.stack([item.texts[0].pooled for item in items])
    return {"prompt_embeds": states, "prompt_attention_mask": mask, "pooled_prompt_embeds": pooled}


def now() -> tuple[float, float]:
    """Seconds, and processor seconds, which a busy machine does not lengthen much."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    wall, processor = now()
    return wall - began[0], processor - began[1]


class Reference:
    """The reference's trainer, ready for one epoch after the other."""

    def __init__(self, folder: Path, weights: dict, memory: Memory, precision: str):
        sys.meta_path.append(Absentees())
        sys.path.insert(0, str(folder.resolve()))
        from pyramid_dit import PyramidDiTForVideoGeneration as Runner
        from pyramid_dit.flux_modules import PyramidFluxTransformer as Network
        from trainer_misc import create_optimizer, train_one_epoch_with_fsdp

        self.runner = self._runner(Runner, Network, memory.units)
        self.runner.dit.load_state_dict(weights)
        self.args = types.SimpleNamespace(
            opt="adamw",
            weight_decay=1e-4,
            lr=1e-4,
            opt_eps=1e-6,
            opt_beta1=0.9,
            opt_beta2=0.95,
            gradient_accumulation_steps=1,
            batch_size=BATCH,
        )
        self.accelerator = Accelerator(mixed_precision=precision, cpu=True)
        optimizer = create_optimizer(self.args, self.runner.dit)
        self.runner.dit, self.optimizer = self.accelerator.prepare(self.runner.dit, optimizer)
        self.epoch = train_one_epoch_with_fsdp
        self.precision = precision
        self.memory = memory
        self.data = self.batches()
        self.done = 0

    def _runner(self, Runner, Network, units: int):
        """The reference's model and what it trains it with, from a folder, which it needs."""
        with tempfile.TemporaryDirectory() as home:
            network = Network(in_channels=64, patch_size=1, use_flash_attn=False, **SIZES)
            network.save_pretrained(Path(home) / "diffusion_transformer_768p")
            runner = Runner(
                home,
                model_dtype="fp32",
                model_name="pyramid_flux",
                sample_ratios=[1, 2, 1],
                load_text_encoder=False,
                load_vae=False,
                max_temporal_length=units,
                video_sync_group=1,
            )
        runner.null_text_embeds = {
            "prompt_embed": torch.zeros(TOKENS, 1024),
            "prompt_attention_mask": torch.eye(TOKENS)[0].long(),
            "pooled_prompt_embed": torch.zeros(768),
        }
        return runner

    def batches(self):
        at = 0
        while True:
            items = [self.memory.items[(at + row) % ITEMS] for row in range(BATCH)]
            video = torch.stack([item.mean for item in items])
            yield {"video": video, "text": reference_texts(items), "identifier": ["video"] * BATCH}
            at += BATCH

    def step(self) -> tuple[float, float]:
        """One step of its loop, which says much: seconds, and processor seconds."""
        began = now()
        with redirect_stdout(io.StringIO()):
            self.epoch(
                self.runner,
                None,
                self.accelerator,
                self.precision,
                self.data,
                self.optimizer,
                None,
                self.accelerator.device,
                epoch=0,
                start_steps=self.done,
                args=self.args,
                print_freq=1000,
                iters_per_epoch=1,
            )
        self.done += 1
        return since(began)


def make_network() -> Any:
    """The network that both begin with: the same weights in every process."""
    torch.manual_seed(0)
    model = PyramidFluxTransformer(**SIZES)
    for weight in model.parameters():  # a fresh model's last layers are zero
        torch.nn.init.normal_(weight, std=0.02) if weight.ndim > 1 else None
    return model


def serve(connection, folder: Path, units: int, size: tuple[int, int], precision: str) -> None:
    """The reference's process: a step for each word that comes, its times back."""
    theirs = Reference(folder, make_network().state_dict(), Memory(units, size), precision)
    while connection.recv():
        connection.send(theirs.step())


@contextmanager
def reference_steps(
    folder: Path, units: int, size: tuple[int, int], precision: str
) -> Iterator[Callable[[], tuple]]:
    """What makes one step of the reference, in its own process, and says how long it took."""
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(there, folder, units, size, precision), daemon=True)
    process.start()
    there.close()  # its end is in its process alone: where that dies, `recv` says so

    def step() -> tuple[float, float]:
        here.send(True)
        return here.recv()

    yield step
    here.send(False)
    process.join()


def recipe_of(rounds: int, units: int, size: tuple[int, int], precision: str) -> ClipRecipe:
    """The same training as the reference's, in our words; one sweep more is profiled, one more warms up."""
    train = TrainRecipe(
        steps=(rounds + 2) * units + 1,
        batch=BATCH,
        learning_rate=1e-4,
        precision=precision,
        gradient_checkpointing=False,
        save_every=10**9,
        warm_up=0,
        trackers=(),
    )
    return ClipRecipe("speed", data=DataRecipe(width=size[0], height=size[1], images=0), train=train)


def measure(folder: Path, rounds: int, units: int, size: tuple[int, int], precision: str) -> dict:
    """Steps of both in turns, the first sweep not counted, then a sweep of ours under the profiler."""
    memory = Memory(units, size)
    recipe = recipe_of(rounds, units, size, precision)
    ours: list[tuple[float, float]] = []
    reference: list[tuple[float, float]] = []
    began = now()
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    # The other trainer, at rest during a step of ours, is no load to make room for.
    still = mock.patch.object(Threads, "adapt")
    with (
        tempfile.TemporaryDirectory() as home,
        reference_steps(folder, units, size, precision) as theirs,
        still,
    ):
        loop = make_loop(Path(home), make_network().train(), recipe)
        stepper = Stepper(loop, memory, recipe, FAMILIES["miniflux"].scales)  # type: ignore[arg-type]

        def step(progress: float):
            """Ours, which last from call to call; between two of them one of the reference's."""
            nonlocal began
            if loop.step:
                ours.append(since(began))
            counted = (rounds + 1) * units
            if loop.step < counted:
                reference.append(theirs())
            elif loop.step == counted:
                profiler.start()
            elif loop.step == counted + units:
                profiler.stop()
            began = now()
            return stepper(progress)

        loop.run(step)
    sweeps = [sums(steps[units : (rounds + 1) * units], units) for steps in (ours, reference)]
    return table(*sweeps, BATCH * units, profiler)


def sums(steps: list[tuple], units: int) -> list[tuple]:
    """Of each sweep, seconds and processor seconds."""
    sweeps = [steps[at : at + units] for at in range(0, len(steps), units)]
    return [tuple(map(sum, zip(*sweep, strict=True))) for sweep in sweeps]


def table(ours: list[tuple], theirs: list[tuple], samples: int, profiler) -> dict:
    """What was measured, a row each."""
    figures: dict[str, float] = {"threads": torch.get_num_threads()}
    for index, of in enumerate(("second", "processor_second")):
        pairs = [(a[index], b[index]) for a, b in zip(theirs, ours, strict=True)]
        ratios = [a / b for a, b in pairs]
        figures |= {
            f"ours_samples_a_{of}": samples / statistics.median(b for _, b in pairs),
            f"reference_samples_a_{of}": samples / statistics.median(a for a, _ in pairs),
            f"times_by_{of}s": statistics.median(ratios),
            f"times_by_{of}s_lowest": min(ratios),
            f"times_by_{of}s_highest": max(ratios),
        }
    events = profiler.key_averages()
    products = [event for event in events if any(name in event.key for name in PRODUCTS)]
    whole, of_products = (sum(e.self_cpu_time_total for e in found) for found in (events, products))
    return figures | {"share_of_products": of_products / whole}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a checkout of the reference")
    parser.add_argument("--rounds", type=int, default=3, help="sweeps of each that are counted")
    text = "units of the longest prefix, and steps of a sweep (default: 8, which are 57 frames)"
    parser.add_argument("--units", type=int, default=8, help=text)
    text = "of the clips, in pixels (default: 640 384, as published)"
    parser.add_argument("--size", type=int, nargs=2, default=(640, 384), help=text)
    text = "no is float32, bf16 what the reference's own recipes take (default: no)"
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help=text)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    if not (args.folder / "pyramid_dit").is_dir():
        parser.error(f"{args.folder} is no checkout of the reference: it has no folder pyramid_dit")
    figures = measure(args.folder, args.rounds, args.units, tuple(args.size), args.precision)
    for name, value in figures.items():
        print(f"{name:40} {value:.3g}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
