"""VBench's figures from its result files: dimensions, quality, semantic and total, beside published rows.

    figures = aggregate(read_results(Path("results")))
    figures["quality"], figures["semantic"], figures["total"]     # percent; None where a dimension is missing
    figures["missing"]                                             # which ones

A result file of VBench is JSON: `{"subject_consistency": [0.97, [{"video_path": …}, …]], …}`, one dimension
or several a file. Each score is brought to 0 … 1 by the lowest and highest value of its dimension; quality
and semantic are weighted means of those; total is (4 · quality + semantic) / 5. VBench itself needs CUDA and
the weights of its judges, and is run by its own command line in an environment of its own.

Source: Huang et al., arXiv 2311.17982; bounds, weights and published rows as on its leaderboard (0.1.5).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RANGES = {  # dimension -> the lowest and the highest value, by which scores are normalized
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "dynamic_degree": (0.0, 1.0),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
    "object_class": (0.0, 1.0),
    "multiple_objects": (0.0, 1.0),
    "human_action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
QUALITY = tuple(RANGES)[:7]
SEMANTIC = tuple(RANGES)[7:]
WEIGHTS = {"dynamic_degree": 0.5}  # the others count once
PUBLISHED = {  # total, quality and semantic in percent
    "Pyramid Flow (paper)": (81.72, 84.74, 69.62),
    "Gen-3": (82.32, 84.11, 75.17),
    "Kling": (81.85, 83.38, 75.68),
    "CogVideoX-5B": (81.61, 82.75, 77.04),
    "CogVideoX-2B": (80.91, 82.18, 75.83),
    "Pika 1.0": (80.69, 82.92, 71.77),
    "Open-Sora 1.2": (79.76, 81.35, 73.39),
    "Open-Sora Plan v1.3": (77.23, 80.14, 65.62),
}


def read_results(folder: Path) -> dict[str, float]:
    """The score of each dimension in the result files of a folder, as VBench wrote it.

    ValueError where there is none, where a file is something else, and where two disagree.
    """
    files = sorted(folder.glob("**/*.json")) if folder.is_dir() else []
    scores: dict[str, float] = {}
    for path in files:
        for name, score in _scores_of(path).items():
            if scores.setdefault(name, score) != score:
                raise ValueError(
                    f"{folder}: two files have {name}, {scores[name]:g} and {score:g}: keep one of them"
                )
    if not scores:
        raise ValueError(f"{folder} has no result files of VBench (…_eval_results.json with its dimensions)")
    return scores


def _scores_of(path: Path) -> dict[str, float]:
    """The dimensions in one file; {} in one that is no result, such as VBench's list of prompts."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read as JSON: {error}") from None
    entries = found if isinstance(found, dict) else {}
    scores = {}
    for name, entry in entries.items():
        if (key := name.strip().lower().replace(" ", "_")) in RANGES:
            score = entry[0] if isinstance(entry, list) and entry else entry
            if isinstance(score, bool) or not isinstance(score, int | float) or not -1 <= score <= 100:
                raise ValueError(f"{path.name}: {name} = {score!r} is no score of VBench")
            scores[key] = float(score)
    return scores


def aggregate(scores: Mapping[str, float]) -> dict[str, Any]:
    """`quality`, `semantic`, `total` and `dimensions` (the raw scores) in percent, and what is `missing`.

    A mean that a missing dimension belongs to is None: it is not known, and that dimension is no 0.
    """
    quality = _mean(scores, QUALITY)
    semantic = _mean(scores, SEMANTIC)
    total = None if quality is None or semantic is None else (4 * quality + semantic) / 5
    return {
        "quality": quality,
        "semantic": semantic,
        "total": total,
        "dimensions": {name: 100 * scores[name] for name in RANGES if name in scores},
        "missing": [name for name in RANGES if name not in scores],
    }


def _mean(scores: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    """The weighted mean of normalized scores, in percent."""
    if any(name not in scores for name in names):
        return None
    weights = {name: WEIGHTS.get(name, 1.0) for name in names}
    spans = {name: RANGES[name] for name in names}
    parts = [w * (scores[n] - spans[n][0]) / (spans[n][1] - spans[n][0]) for n, w in weights.items()]
    return 100 * sum(parts) / sum(weights.values())
