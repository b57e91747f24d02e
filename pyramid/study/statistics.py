"""What a preference study says: shares with intervals, Bradley-Terry with its bootstrap, agreement.

    answers = read_answers(Path("answers.csv"))      # rater,prompt,left,right,question,choice
    report = evaluate_study(answers, draws=2000)
    report["questions"]["motion"]["pairs"]           # of each pair: wins, ties, share and its 95 % interval

`left` and `right` are the names of the systems that were shown there, `choice` is left, right or tie. A tie
is half a win for both. Sides: how often left was chosen, which a blind study has near one half.

Sources: Bradley and Terry 1952 (strengths as the maximum of the likelihood, by Hunter's iteration of 2004);
Wilson 1927 (intervals of shares); Krippendorff 2004 (alpha for names, as agreement beyond chance). The
bootstrap draws raters and prompts, and not single answers, as those of one rater or prompt are alike.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("rater", "prompt", "left", "right", "question", "choice")
CHOICES = ("left", "right", "tie")
Z = 1.959964  # of 95 %
UNTOLD = 0.05  # of the bootstrap's draws: so many may lack answers about a system
PSEUDO = 0.5  # wins that each pair is given both ways, so that strengths are finite


@dataclass(frozen=True)
class Answer:
    """One choice of one rater."""

    rater: str
    prompt: str
    left: str
    right: str
    question: str
    choice: str

    def share(self, first: str) -> float:
        """1 where the system `first`, one of the two, was preferred; 0 where the other; 0.5 for a tie."""
        if self.choice == "tie":
            return 0.5
        return float((self.left if self.choice == "left" else self.right) == first)


def read_answers(path: Path) -> list[Answer]:
    """The answers in a csv file with the columns COLUMNS. ValueError with the line that cannot be used."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: the answers cannot be read: {error}") from None
    if not rows:
        raise ValueError(f"{path.name} has no answers: a line each, below the names {', '.join(COLUMNS)}")
    if missing := [name for name in COLUMNS if name not in rows[0]]:
        raise ValueError(f"{path.name} has no column {missing[0]!r}: {', '.join(COLUMNS)} are needed")
    answers = []
    for number, row in enumerate(rows, 2):
        values = {name: (row[name] or "").strip() for name in COLUMNS}
        if values["choice"] not in CHOICES:
            given = f"line {number}: choice = {values['choice']!r}"
            raise ValueError(f"{path.name}, {given}: {', '.join(CHOICES)}")
        if "" in values.values() or values["left"] == values["right"]:
            raise ValueError(f"{path.name}, line {number}: two different systems, and no empty field")
        answers.append(Answer(**values))
    return answers


def evaluate_study(answers: Sequence[Answer], draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """All figures, by question, in JSON's types."""
    questions = {
        q: [a for a in answers if a.question == q] for q in dict.fromkeys(a.question for a in answers)
    }
    lefts = sum(answer.choice == "left" for answer in answers)
    decided = sum(answer.choice != "tie" for answer in answers)
    return {
        "answers": len(answers),
        "raters": len({answer.rater for answer in answers}),
        "prompts": len({answer.prompt for answer in answers}),
        "sides": {"left": _share(lefts, decided)},
        "questions": {name: _question(own, draws, seed) for name, own in questions.items()},
    }


def _question(answers: Sequence[Answer], draws: int, seed: int) -> dict[str, Any]:
    names = sorted({name for answer in answers for name in (answer.left, answer.right)})
    pairs = []
    for first, second in combinations(names, 2):
        own = [answer for answer in answers if {answer.left, answer.right} == {first, second}]
        if own:
            counts = Counter(answer.share(first) for answer in own)
            won = counts[1.0] + counts[0.5] / 2
            told = {"first": first, "second": second, "wins": counts[1.0], "losses": counts[0.0]}
            pairs.append(told | {"ties": counts[0.5], "share of first": _share(won, len(own))})
    strengths = bradley_terry(answers, names)
    intervals = bootstrap(answers, names, draws, seed)
    return {
        "pairs": pairs,
        "bradley_terry": {
            name: {
                "strength": float(strengths[i]),
                "interval": None if intervals is None else intervals[i].tolist(),
            }
            for i, name in enumerate(names)
        },
        "agreement": agreement(answers),
    }


def _share(won: float, count: int) -> dict[str, Any]:
    """A share with its 95 % interval by Wilson."""
    if not count:
        return {"share": None, "interval": None, "of": 0}
    p = won / count
    center = (p + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * (p * (1 - p) / count + Z**2 / (4 * count**2)) ** 0.5
    return {"share": p, "interval": [center - half, center + half], "of": count}


def bradley_terry(answers: Sequence[Answer], names: Sequence[str]) -> np.ndarray:
    """The logarithms of the systems' strengths, (n,), with mean 0."""
    place = {name: index for index, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for answer in answers:
        i, j = place[answer.left], place[answer.right]
        wins[i, j] += (share := answer.share(answer.left))
        wins[j, i] += 1 - share
    return _strengths(wins)


def _strengths(wins: np.ndarray, rounds: int = 200) -> np.ndarray:
    """Hunter's iteration on a matrix of wins of a row over a column."""
    met = (wins + wins.T) > 0
    wins = wins + PSEUDO * met
    games = wins + wins.T
    strength = np.ones(len(wins))
    for _ in range(rounds):
        expected = (games / (strength[:, None] + strength[None])).sum(1)
        new = wins.sum(1) / np.maximum(expected, 1e-12)
        new /= np.exp(np.log(np.maximum(new, 1e-12)).mean())
        done = np.abs(new - strength).max() < 1e-9
        strength = new
        if done:
            break
    logs = np.log(np.maximum(strength, 1e-12))
    return logs - logs.mean()


def bootstrap(answers: Sequence[Answer], names: Sequence[str], draws: int, seed: int) -> np.ndarray | None:
    """The 95 % interval of each strength, (n, 2), from draws of raters and of prompts.

    None for answers that are too few to tell: of one rater to one prompt, or such that more than `UNTOLD` of
    the draws have none about some system.
    """
    place = {name: index for index, name in enumerate(names)}
    raters = {rater: i for i, rater in enumerate(dict.fromkeys(a.rater for a in answers))}
    prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(a.prompt for a in answers))}
    who = np.array([raters[a.rater] for a in answers])
    what = np.array([prompts[a.prompt] for a in answers])
    left, right = (np.array([place[getattr(a, side)] for a in answers]) for side in ("left", "right"))
    shares = np.array([a.share(a.left) for a in answers])
    random = np.random.default_rng(seed)
    if len(raters) == len(prompts) == 1:  # every draw is the same
        return None
    found = []
    for _ in range(draws):
        weights = _drawn(random, len(raters))[who] * _drawn(random, len(prompts))[what]
        wins = np.zeros((len(names), len(names)))
        np.add.at(wins, (left, right), weights * shares)
        np.add.at(wins, (right, left), weights * (1 - shares))
        if (wins + wins.T).any(1).all():  # a system that a draw has no answer about has no strength in it
            found.append(_strengths(wins, rounds=60))
    if len(found) < max((1 - UNTOLD) * draws, 1):
        return None
    return np.percentile(found, [2.5, 97.5], axis=0).T


def _drawn(random: np.random.Generator, count: int) -> np.ndarray:
    """How often each of `count` comes in as many draws with replacement."""
    return np.bincount(random.integers(0, count, count), minlength=count)


def agreement(answers: Sequence[Answer]) -> float | None:
    """Krippendorff's alpha of who was preferred: 1 is agreement, 0 is chance.

    None where no two raters saw the same.
    """
    items: dict[tuple, Counter] = defaultdict(Counter)
    for answer in answers:
        first = min(answer.left, answer.right)
        pair = (answer.prompt, *sorted((answer.left, answer.right)))
        items[pair][answer.share(first)] += 1
    items = {pair: counts for pair, counts in items.items() if counts.total() > 1}
    total: Counter = sum(items.values(), Counter())
    count = total.total()
    if count < 2 or len(total) < 2:
        return None if count < 2 else 1.0
    apart = sum(
        (counts.total() ** 2 - sum(n * n for n in counts.values())) / (counts.total() - 1)
        for counts in items.values()
    )
    by_chance = (count**2 - sum(n * n for n in total.values())) / (count - 1)
    return 1 - apart / by_chance
