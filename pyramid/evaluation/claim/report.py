"""What the runs of the claim say: curves with intervals, the factor of operations to equal quality.

    points = read_points(folder)                        # {arm: {seed: [point, …]}}
    summary = summarize(points)                         # JSON's types: what docs/claim.md tells

Intervals are over seeds: of a mean by Student's t, of a factor by drawing seeds with replacement, all ways of
drawing them counted. With three seeds they are wide, and honest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

Points = dict[str, dict[int, list[dict[str, Any]]]]
METRICS: dict[str, tuple[str, Callable[[dict[str, Any]], float], bool]] = {  # title, value, higher is better
    "judge": ("color, shape and motion right, by the judge", lambda p: p["judge"]["mean"], True),
    "classifier": ("the same, by our classifier", lambda p: _mean_right(p["classifier"]), True),
    "frechet": ("distance of features (Frechet)", lambda p: p["frechet"], False),
}

WAYS = {"factors": 1.0, "factors half way": 0.5}  # names in the summary, and how much of the way is asked for


def _mean_right(shares: dict[str, float]) -> float:
    return (shares["color"] + shares["shape"] + shares["motion"]) / 3


def read_points(folder: Path) -> Points:
    """The measurements in `folder/<arm>/<seed>/results.json`, of each arm those runs that went furthest:
    a run that is under way is left out.
    """
    found: Points = {}
    for path in sorted(folder.glob("*/*/results.json")):
        seed = int(path.parent.name)
        arm = path.parent.parent.name
        found.setdefault(arm, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    most = {arm: max(map(len, runs.values())) for arm, runs in found.items()}
    return {
        arm: {seed: points for seed, points in runs.items() if len(points) == most[arm]}
        for arm, runs in found.items()
    }


def curve(runs: dict[int, list[dict[str, Any]]], metric: str) -> list[dict[str, Any]]:
    """For each measurement that all seeds have: operations, the mean, its 95 % interval and all values."""
    value = METRICS[metric][1]
    rows = []
    for points in zip(*runs.values(), strict=False):
        values = [value(point) for point in points]
        mean = float(np.mean(values))
        half = 0.0
        if len(values) > 1:
            half = float(
                stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
            )
        flops = float(np.mean([point["flops"] for point in points]))
        rows.append({"flops": flops, "mean": mean, "interval": [mean - half, mean + half], "values": values})
    return rows


def rising(runs: Sequence[list[dict[str, Any]]], metric: str) -> list[tuple[float, float]]:
    """(operations, mean over runs) of each measurement, of a quality that is better the higher it is."""
    value = METRICS[metric][1]
    sign = 1 if METRICS[metric][2] else -1
    return [
        (float(np.mean([p["flops"] for p in row])), sign * float(np.mean([value(p) for p in row])))
        for row in zip(*runs, strict=False)
    ]


def flops_to(means: Sequence[tuple[float, float]], quality: float) -> float | None:
    """Operations after which a curve of `rising` reaches a quality: between measurements on a line over the
    logarithm of operations, those of the first one where it is reached there, None where it never is.
    """
    before: tuple[float, float] | None = None
    for flops, mean in means:
        if mean >= quality:
            if before is None:
                return flops
            share = (quality - before[1]) / (mean - before[1])
            return math.exp(math.log(before[0]) + share * math.log(flops / before[0]))
        before = (flops, mean)
    return None


def factor(
    first: Sequence[list[dict[str, Any]]],
    other: Sequence[list[dict[str, Any]]],
    metric: str,
    way: float = 1.0,
) -> float:
    """How many times the operations of `first` the others need for equal quality: for the best that both
    reach, or so much of the way there from the first measurements. Above 1: `first` is cheaper.
    """
    curves = rising(first, metric), rising(other, metric)
    best = min(max(mean for _, mean in means) for means in curves)
    start = min(best, max(means[0][1] for means in curves))
    quality = best - (1 - way) * (best - start)
    here, there = (flops_to(means, quality) for means in curves)
    assert here is not None and there is not None
    return there / here


def factor_with_interval(
    points: Points, first: str, other: str, metric: str, way: float = 1.0
) -> dict[str, Any]:
    """The factor between two arms, and the middle 95 % of it over all draws of seeds with replacement; no
    interval where an arm has one seed only.
    """
    one, two = list(points[first].values()), list(points[other].values())
    if min(len(one), len(two)) < 2:
        return {"factor": factor(one, two, metric, way), "interval": None}
    draws = [
        factor([one[i] for i in own], [two[i] for i in others], metric, way)
        for own in product(range(len(one)), repeat=len(one))
        for others in product(range(len(two)), repeat=len(two))
    ]
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return {"factor": factor(one, two, metric, way), "interval": [low, high]}


def summarize(points: Points, first: str = "pyramid") -> dict[str, Any]:
    """Curves of all arms, and the factors of `first` against each of the others."""
    summary: dict[str, Any] = {
        "seeds": {arm: sorted(runs) for arm, runs in points.items()},
        "curves": {m: {arm: curve(runs, m) for arm, runs in points.items()} for m in METRICS},
        "last": {arm: [run[-1] for run in runs.values()] for arm, runs in points.items()},
    }
    others = [arm for arm in points if arm != first] if first in points else []
    for name, way in WAYS.items():
        summary[name] = {
            metric: {arm: factor_with_interval(points, first, arm, metric, way) for arm in others}
            for metric in METRICS
        }
    return summary
