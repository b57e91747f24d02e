"""How often a draft shows what its clip becomes: python tools/glances.py

For some prompts of the embedded model's world and nine seeds each: what the coarsest stage's own estimate
shows, and what the glance shows that `pyramid.generate.drafts` makes of it, judged beside the first frame of
the clip that goes on from the draft (`pyramid.evaluation.judge`). Processor seconds are given as a share of a
clip's.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyramid.evaluation.judge import judge
from pyramid.events import Frames
from pyramid.generate.drafts import Draft, make_drafts
from pyramid.generate.latents import denormalize
from pyramid.generate.loaded import ModelHolder
from pyramid.generate.request import Inputs
from pyramid.settings import Settings
from pyramid.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = (
    "a red ball moves to the right over a green meadow",
    "a yellow star falls in front of the night sky",
    "a blue square rises over a desert",
    "a white heart grows over the sea",
    "a purple triangle moves to the left over a sunset",
)
SEEDS = range(1, 10)


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns; its processor seconds are added to `name`."""
    began = time.process_time()
    made = work()
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
    return made


def own_estimate(pipe: Any, draft: Draft) -> np.ndarray:
    """What the latents of the coarsest stage look like by themselves: uint8 (h, w, 3)."""
    with torch.no_grad():
        vae_latents = denormalize(draft.clean[:, :, :1], pipe.scales, first=True)
        video = pipe.vae.stream()(vae_latents.to(pipe.vae.dtype)).float()  # 1 3 1 h w
    return ((video[0, :, 0] * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)).permute(1, 2, 0).numpy()


def first_frames(pipe: Any, drafts: list[Draft]) -> list[np.ndarray]:
    """The first frame of each draft's clip, which goes on from its latents."""
    seeds = [draft.settings.seed or 0 for draft in drafts]
    latents = torch.cat([draft.latents for draft in drafts])
    settings = replace(drafts[0].settings, num_frames=1)
    inputs = Inputs(prompts=[settings.prompt] * len(seeds), seeds=seeds, draft=latents)
    shown = {
        event.sample: event.video[0] for event in pipe.stream(settings, inputs) if isinstance(event, Frames)
    }
    return [shown[row] for row in range(len(seeds))]


def seen(frame: np.ndarray, side: int, world: Any) -> tuple[str | None, str | None]:
    """Color and shape of what a frame shows."""
    large = np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC))
    verdict = judge(large[None], world)
    return verdict.color, verdict.shape


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many of them")
    args = parser.parse_args()
    base = Settings.for_model("embedded", "128p", device="cpu", prompt=PROMPTS[0], seed=1)
    pipe = ModelHolder().bring(base).pipeline
    world = load_recipe(ROOT / "presets" / "training" / "embedded-cpu.toml").world
    seconds: dict[str, float] = {}
    agree: dict[str, list[tuple[bool, bool]]] = {"the stage's own estimate": [], "the glance": []}
    for prompt in PROMPTS[: args.prompts]:
        settings = replace(base, prompt=prompt)
        drafts = timed(seconds, "nine drafts", lambda s=settings: make_drafts(pipe, s, list(SEEDS)))
        timed(seconds, "one clip", lambda s=settings: list(pipe.stream(s, Inputs())))
        for draft, clip in zip(drafts, first_frames(pipe, drafts), strict=True):
            real = seen(clip, base.width, world)
            for name, frame in zip(agree, (own_estimate(pipe, draft), draft.frames[0]), strict=True):
                color, shape = seen(frame, base.width, world)
                agree[name].append((color == real[0], shape == real[1]))
        print(prompt, file=sys.stderr, flush=True)
    for name, found in agree.items():
        color, shape, both = (
            sum(values) for values in zip(*[(c, s, c and s) for c, s in found], strict=True)
        )
        print(f"{name:26} of {len(found)}: color as in the clip {color}, shape {shape}, both {both}")
    share = seconds["nine drafts"] / seconds["one clip"]
    print(f"nine drafts take {share:.2f} times the processor seconds of one clip")


if __name__ == "__main__":
    main()
