"""How good the clips of a run are: by the committed judge, our classifier, and a Fréchet distance.

    ruler = Ruler.of(clips)
    point = measure(run, ruler, Parts())                    # a dictionary for results.json

Every run is asked for the same scenes with the same seeds, whatever way it was trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyramid.evaluation.claim.arms import ArmRun
from pyramid.evaluation.claim.bench import Bench, Clips, Item, Parts, answers_of, labels_of
from pyramid.evaluation.claim.features import Classifier, answers_right, train_classifier
from pyramid.evaluation.frechet import frechet
from pyramid.evaluation.judge import Verdict, judge
from pyramid.generate.latents import denormalize
from pyramid.training.clips.cache import Text
from pyramid.training.world import CAMERAS, Scene

SEED = 1000  # of the first clip that is made; the others follow
DECODED = 4  # clips at a time
QUESTIONS = ("shape", "color", "background", "motion")
KEPT = 6  # clips of the last measurement whose frames are kept for the picture


@dataclass(frozen=True)
class Ruler:
    """The classifier, the features of real held-out clips, and what is asked for."""

    classifier: Classifier
    real: np.ndarray  # n features
    right_of_real: dict[str, float]
    asked: list[Item]  # toys first

    @classmethod
    def of(cls, clips: Clips) -> Ruler:
        """Trained on the training clips, always alike."""
        answers = answers_of(clips.bench.world)
        classifier = train_classifier(*clips.latents(held_out=False), answers, seed=0)
        real, labels = clips.latents(held_out=True)
        right = answers_right(classifier, real, labels)
        toys = labels[:, 1] >= 0
        shares = dict(zip(QUESTIONS, right[toys].float().mean(0).tolist(), strict=True))
        return cls(classifier, _features(classifier, real), shares, asked_of(clips.bench))


def asked_of(bench: Bench) -> list[Item]:
    """What is to be made: held-out scenes in turn, then cameras over photographs."""
    scenes = bench.world.held_out_scenes()
    toys = [Item(f"asked toy {number}", scenes[number % len(scenes)]) for number in range(bench.toys)]
    cameras = [CAMERAS[number % len(CAMERAS)] for number in range(bench.photos)]
    return toys + [Item(f"asked photo {number}", camera=camera) for number, camera in enumerate(cameras)]


@torch.no_grad()
def _features(classifier: Classifier, latents: Tensor) -> np.ndarray:
    return classifier.features(latents).double().numpy()


def measure(run: ArmRun, ruler: Ruler, parts: Parts) -> dict[str, Any]:
    """The figures of a run as it is; its frames are kept beside its state."""
    bench = run.clips.bench
    texts = [_text_of(run.clips, item) for item in ruler.asked]
    latents = run.sample(texts, SEED)
    labels = torch.tensor([labels_of(bench.world, item.scene, item.camera) for item in ruler.asked])
    right = answers_right(ruler.classifier, latents[: bench.toys], labels[: bench.toys])
    frames = decode(parts, latents[: bench.judged])
    scenes = [item.scene for item in ruler.asked[: bench.judged] if item.scene is not None]
    np.savez_compressed(run.folder / "frames.npz", frames=frames[:KEPT])
    return {
        "step": run.step,
        "flops": run.flops,
        "frechet": frechet(_features(ruler.classifier, latents), ruler.real),
        "classifier": dict(zip(QUESTIONS, right.float().mean(0).tolist(), strict=True)),
        "judge": judged([judge(clip, bench.world) for clip in frames], scenes),
        "judged": len(scenes),
    }


def _text_of(clips: Clips, item: Item) -> Text:
    """The words of what is asked for, as the real clip of them has them."""
    wanted = (item.scene, item.camera)
    same = (own for own in clips.items.values() if (own.scene, own.camera) == wanted)
    return clips.stored[next(same).name].texts[0]


def judged(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares of clips in which the judge saw what was asked for; "all": color, shape and motion at once."""
    pairs = list(zip(verdicts, scenes, strict=True))
    rows = [(v.color == s.color, v.shape == s.shape, v.motion == s.motion) for v, s in pairs]
    color, shape, motion = np.mean(rows, axis=0).tolist()
    return {
        "color": color,
        "shape": shape,
        "motion": motion,
        "mean": (color + shape + motion) / 3,
        "all": float(np.mean([all(row) for row in rows])),
        "present": float(np.mean([v.present for v in verdicts])),
    }


@torch.no_grad()
def decode(parts: Parts, latents: Tensor) -> np.ndarray:
    """Latents `(n, c, t, h, w)` in the transformer's space to frames uint8 `(n, f, h, w, 3)`."""
    made = []
    for some in latents.split(DECODED):
        video = parts.vae.decode(denormalize(some, parts.scales).to(torch.bfloat16)).sample.float()
        made.append(((video.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).numpy())
    return np.concatenate(made)
