"""Two systems on the same prompts: every measure side by side, with intervals of what differs.

    found = compare({"a": {"a red ball": path}, "b": {"a red ball": path}}, Tools(clip=Clip(folder)))
    found["measures"]["motion"]["difference"]           # of the second from the first, with its 95 % interval

Each prompt is one pair: differences are of pairs, and intervals from a bootstrap over them. Fréchet distances
are between the two, and of each to a reference set where there is one.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pyramid.evaluation.evaluate import as_plain, score
from pyramid.evaluation.frechet import Clip, Features, distance
from pyramid.evaluation.judge import judge
from pyramid.evaluation.offline import NAMES, Measures, read_clip
from pyramid.media.files import read_metadata
from pyramid.training.world import Scene, World

DRAWS = 2000
SECONDS = "seconds"  # that a video took to make, as its record says
CLIP = "clip similarity"


@dataclass(frozen=True)
class Truth:
    """What the videos of prompts should show, where that is known: scenes of the synthetic world."""

    world: World
    scenes: Mapping[str, Scene]


@dataclass(frozen=True)
class Tools:
    """What is measured beside what needs no model. `features`, `reference`: by their names."""

    features: Mapping[str, Features] = field(default_factory=dict)
    reference: Sequence[Path] = ()
    clip: Clip | None = None
    truth: Truth | None = None


def compare(videos: Mapping[str, Mapping[str, Path]], tools: Tools, seed: int = 0) -> dict[str, Any]:
    """All figures, in JSON's types; `videos`: of two systems, by name, the file of each prompt."""
    names = list(videos)
    prompts = list(videos[names[0]])
    rows: dict[str, list[dict[str, float]]] = {}
    vectors: dict[str, dict[str, list[np.ndarray]]] = {kind: {} for kind in tools.features}
    judged = {}
    for name in names:
        clips = [read_clip(videos[name][prompt]) for prompt in prompts]
        rows[name] = [
            measured(clip, prompt, videos[name][prompt], tools)
            for clip, prompt in zip(clips, prompts, strict=True)
        ]
        for kind, features in tools.features.items():
            vectors[kind][name] = [features(clip) for clip in clips]
        if tools.truth:
            judged[name] = right(clips, prompts, tools.truth)
    return {
        "systems": names,
        "prompts": prompts,
        "measures": measures(rows, names, seed),
        "frechet": {kind: distances(found, names, tools, kind) for kind, found in vectors.items()},
        "judged": judged,
    }


def measured(clip: np.ndarray, prompt: str, path: Path, tools: Tools) -> dict[str, float]:
    """The measures of one video."""
    found = Measures.of(clip).told()
    if tools.clip:
        found[CLIP] = tools.clip.similarity(clip, prompt)
    with suppress(ValueError, KeyError, TypeError):  # others' videos say nothing of that
        found[SECONDS] = float(read_metadata(path)["timings"]["total"])
    return found


def measures(rows: Mapping[str, list[dict[str, float]]], names: Sequence[str], seed: int) -> dict[str, Any]:
    """Of each measure that all videos have: the values of each system, their means, and the difference."""
    first, second = (rows[name] for name in names)
    shared = [key for key in (*NAMES, CLIP, SECONDS) if all(key in row for row in (*first, *second))]
    told = {}
    for key in shared:
        a, b = (np.array([row[key] for row in each]) for each in (first, second))
        told[key] = {
            "values": {names[0]: a.tolist(), names[1]: b.tolist()},
            "means": {names[0]: float(a.mean()), names[1]: float(b.mean())},
            "difference": difference(a, b, seed),
        }
    return told


def difference(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """The mean of b − a over pairs, (n,) each, and its 95 % interval from a bootstrap over pairs; None for
    the interval of a single pair.
    """
    apart = b - a
    if len(apart) < 2:
        return {"mean": float(apart.mean()), "interval": None}
    drawn = np.random.default_rng(seed).integers(0, len(apart), (DRAWS, len(apart)))
    low, high = np.percentile(apart[drawn].mean(1), [2.5, 97.5])
    return {"mean": float(apart.mean()), "interval": [float(low), float(high)]}


def distances(
    found: Mapping[str, list[np.ndarray]], names: Sequence[str], tools: Tools, kind: str
) -> dict[str, Any]:
    """Fréchet distances in one kind of features: between the systems, and of each to the reference."""
    told = {"between": distance(found[names[0]], found[names[1]]).told()}
    reference = reference_of(tools, kind)
    if reference:
        told |= {f"{name} to the reference": distance(found[name], reference).told() for name in names}
    return told


def reference_of(tools: Tools, kind: str) -> list[np.ndarray]:
    """The features of the reference: its videos, or clips of the world that show the very scenes."""
    features = tools.features[kind]
    if tools.reference:
        return [features(read_clip(path)) for path in tools.reference]
    if tools.truth:
        draw = np.random.default_rng(0)
        world = tools.truth.world
        return [features(world.render(scene, draw)) for scene in tools.truth.scenes.values()]
    return []


def right(clips: Sequence[np.ndarray], prompts: Sequence[str], truth: Truth) -> dict[str, Any]:
    """How many videos show what their prompts say, by the judge, with intervals."""
    verdicts = [judge(clip, truth.world) for clip in clips]
    shares = score(verdicts, [truth.scenes[prompt] for prompt in prompts])
    return {name: as_plain(share) for name, share in shares.items()}
