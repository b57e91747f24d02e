"""VBench's figures from its result files: dimensions, quality, semantic and total, beside published rows.

    figures = aggregate(read_results(Path("results")))
    figures["quality"], figures["semantic"], figures["total"]     # percent; None where a dimension is missing
    figures["missing"]                                             # which ones
    read_suite(Path("venv-vbench"))["a person is riding a bike"]   # the dimensions that are judged on it

A result file of VBench is JSON: `{"subject_consistency": [0.97, [{"video_path": …}, …]], …}`, one dimension
or several a file; names may have spaces or capitals, as on its leaderboard. Each score is brought to 0 … 1 by
the lowest and highest value of its dimension; quality and semantic are weighted means of those; total is
(4 · quality + semantic) / 5. VBench itself needs CUDA and the weights of its judges, and is run by its own
command line in an environment of its own.

Source: Huang et al., arXiv 2311.17982; bounds, weights and published rows as on its leaderboard (0.1.5).
"""

import json
import math
from collections.abc import Callable, Mapping
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


OF_SUITES = {  # dimensions that are judged on the prompts of another
    "background_consistency": "scene",
    "motion_smoothness": "subject_consistency",
    "dynamic_degree": "subject_consistency",
    "aesthetic_quality": "overall_consistency",
    "imaging_quality": "overall_consistency",
}
INFO = "VBench_full_info.json"
ROUNDING = 1e-4  # a share may be so much above 1
SAME = 1e-6  # two files that have a dimension may differ by so much
UNFIT = set('/\\:*?"<>|')  # in the name of a file


def read_suite(place: Path) -> dict[str, list[str]]:
    """The prompts of VBench, each with the dimensions that are judged on it, in VBench's order.

    `place`: its VBench_full_info.json, a folder with that file or with prompts_per_dimension (its repository
    has both), or the environment that it is installed in. ValueError where there is none of them.
    """
    for path in (place, place / INFO, place / "vbench" / INFO, *sorted(place.glob(f"**/vbench/{INFO}"))):
        if path.is_file():
            return _suite_of_info(path)
    lists = [place, place / "prompts_per_dimension", place / "prompts" / "prompts_per_dimension"]
    for folder in lists:
        if any((folder / f"{name}.txt").is_file() for name in RANGES):
            return _suite_of_lists(folder)
    raise ValueError(
        f"{place} has no prompts of VBench: name its {INFO}, a folder with it or with prompts_per_dimension, "
        "or the environment that VBench is installed in"
    )


def _suite_of_info(path: Path) -> dict[str, list[str]]:
    suite: dict[str, list[str]] = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8-sig")):
            own = suite.setdefault(entry["prompt_en"].strip(), [])
            own += [name for name in entry["dimension"] if name in RANGES and name not in own]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path} is not VBench's list of prompts (prompt_en and dimension)") from None
    return _checked(suite, path)


def _suite_of_lists(folder: Path) -> dict[str, list[str]]:
    suite: dict[str, list[str]] = {}
    for name in RANGES:
        path = folder / f"{OF_SUITES.get(name, name)}.txt"
        for line in path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else ():
            if line.strip():
                suite.setdefault(line.strip(), []).append(name)
    return _checked(suite, folder)


def _checked(suite: dict[str, list[str]], path: Path) -> dict[str, list[str]]:
    """The suite, if each prompt can be the name of a file, as VBench finds videos by it."""
    if unfit := [prompt for prompt in suite if UNFIT & set(prompt) or len(prompt.encode()) > 240]:
        raise ValueError(f"{path}: {unfit[0]!r} cannot be the name of a file, and VBench names videos so")
    if not suite:
        raise ValueError(f"{path} has no prompts")
    return suite


def read_results(place: Path, tell: Callable[[str], Any] = lambda sentence: None) -> dict[str, float]:
    """The score of each dimension, as a share, in the result files of a folder, or in one file.

    A dimension that VBench wrote without a number (NaN, null, an empty list) is none; `tell` hears of it, and
    of scores above 1, which are taken as percent. ValueError where there is no result, where a file is
    something else, and where two disagree.
    """
    scores: dict[str, float] = {}
    for path in _files(place):
        for name, score in _scores_of(path, tell).items():
            if abs(scores.setdefault(name, score) - score) > SAME:
                raise ValueError(
                    f"{place}: two files have {name}, {scores[name]} and {score}: keep one of them"
                )
    if not scores:
        raise ValueError(f"{place} has no result files of VBench (…_eval_results.json with its dimensions)")
    return scores


def _files(place: Path) -> list[Path]:
    """What may be results. Hidden files are none: some systems leave those beside others."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise ValueError(f"{place} is not there: name the folder that holds VBench's result files")
    found = (path for path in place.rglob("*") if path.suffix.lower() == ".json" and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def _scores_of(path: Path, tell: Callable[[str], Any]) -> dict[str, float]:
    """The dimensions in one file; {} in one that is no result, such as VBench's list of prompts."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read as JSON: {error}") from None
    written: dict[str, float] = {}
    for name, entry in found.items() if isinstance(found, dict) else ():
        if (key := "_".join(name.strip().lower().replace("-", " ").replace("_", " ").split())) in RANGES:
            score = _number(entry, f"{path.name}: {name}")
            if score is None:
                tell(f"{path.name} has no number for {key}: it counts as missing")
            else:
                written[key] = score
    return _as_shares(written, path.name, tell)


def _number(entry: Any, where: str) -> float | None:
    """The score of an entry: a number, or first in a list, or in a list within it. None for no number yet;
    ValueError for what is no score.
    """
    score = entry
    while isinstance(score, list):
        if not score:
            return None
        score = score[0]
    if score is None:
        return None
    try:
        number = math.nan if isinstance(score, bool | dict) else float(score)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if isinstance(score, float | str) and math.isnan(number):
        return None
    if not -1 <= number <= 100:
        raise ValueError(f"{where} = {score!r} is no score of VBench")
    return number


def _as_shares(written: Mapping[str, float], where: str, tell: Callable[[str], Any]) -> dict[str, float]:
    """Scores of 0 to 1. VBench writes those; tables are often in percent, and so is a score above 1.

    ValueError for a file in percent with a score of which that cannot be told.
    """
    written = {name: 1.0 if 1 < score < 1 + ROUNDING else score for name, score in written.items()}
    percent = [name for name, score in written.items() if score > 1]
    unsure = [name for name, score in written.items() if 0 < score <= 1]
    if percent and len(percent) > len(unsure) > 0:
        raise ValueError(
            f"{where}: most scores are in percent, and {unsure[0]} = {written[unsure[0]]:g} may be either: "
            "write all of them as shares of 1"
        )
    if percent:
        tell(f"{where}: taken as percent: {', '.join(percent)}")
    return {name: score / 100 if name in percent else score for name, score in written.items()}


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
