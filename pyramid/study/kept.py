"""A blind preference study on the disk: what raters see, in which order, and what they answered.

    study = Study.make(folder, {"ours": {"a red ball": path, …}, "theirs": {…}}, Plan(raters=("ana", "ben")))
    token = study.links()["ana"]                  # the secret part of a rater's address
    study.state(token)                            # {"done": 0, "of": 56, …}: nothing that tells a system
    study.answer(token, 0, {"aesthetics": "a", "motion": "tie", "prompt": "b"})
    study.answers()                               # for `pyramid.study.statistics`, by the systems' names

Every rater has an order and sides of their own, drawn once: each pair of systems comes as often on either
side. Attention checks show a clip beside its own ruins, half of the time on the left. A rater whose checks
fail more often than not is left out of the figures, and named in the report.
"""

import json
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pyramid.jobs.database import Database
from pyramid.study.clips import Clip, copy_blind
from pyramid.study.statistics import Answer

FILE = "study.sqlite"
QUESTIONS = {
    "aesthetics": "Which one looks better?",
    "motion": "In which one do things move better?",
    "prompt": "Which one shows better what the words say?",
}
CHOICES = {"a": "left", "b": "right", "tie": "tie"}  # the first is shown on the left, or on top
MOST_RATERS = 1000
SOONER = 0.9  # of a clip's length: who answers before that has not seen its end
SCHEMA = [
    """
    CREATE TABLE study (told TEXT NOT NULL);
    CREATE TABLE clips (
        id TEXT PRIMARY KEY, system TEXT NOT NULL, prompt TEXT NOT NULL, ruined INTEGER NOT NULL,
        looks TEXT NOT NULL
    );
    CREATE TABLE raters (
        number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, token TEXT UNIQUE NOT NULL,
        account INTEGER NOT NULL
    );
    CREATE TABLE items (
        rater INTEGER NOT NULL, place INTEGER NOT NULL, prompt TEXT NOT NULL, a TEXT NOT NULL,
        b TEXT NOT NULL, is_check INTEGER NOT NULL, PRIMARY KEY (rater, place)
    );
    CREATE TABLE answers (
        rater INTEGER NOT NULL, place INTEGER NOT NULL, question TEXT NOT NULL, choice TEXT NOT NULL,
        seconds REAL NOT NULL, at REAL NOT NULL, PRIMARY KEY (rater, place, question)
    );
    """,
    """
    CREATE TABLE sent (
        rater INTEGER NOT NULL, place INTEGER NOT NULL, side TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (rater, place, side)
    );
    """,
]


@dataclass(frozen=True)
class Plan:
    """Who rates, and how much. `items`: pairs that each rater sees; None for all of them."""

    raters: tuple[str, ...] = ()
    items: int | None = None
    checks: int = 4
    seed: int = 0
    title: str = "Which video is better?"

    def check(self, pairs: int) -> None:
        """ValueError for a plan that cannot be."""
        if len(set(self.raters)) != len(self.raters) or not all(name.strip() for name in self.raters):
            raise ValueError("every rater needs a name that no other has")
        if not 0 < len(self.raters) <= MOST_RATERS:
            raise ValueError(f"{len(self.raters)} raters: 1 to {MOST_RATERS}")
        if self.checks % 2 or not 0 <= self.checks <= 50:
            raise ValueError(f"{self.checks} attention checks: an even number up to 50, half on each side")
        if self.items is not None and not 0 < self.items <= pairs:
            raise ValueError(f"{self.items} pairs for each rater: 1 to {pairs}, as there are {pairs} pairs")


class Study:
    """A study that was made. ValueError where there is none."""

    def __init__(self, folder: Path):
        if not (folder / FILE).is_file():
            raise ValueError(f"{folder} holds no study: make one with `evaluate study --make A B`")
        self.folder = folder
        self.db = Database(folder / FILE, SCHEMA)
        told = self.db.rows("SELECT told FROM study")
        if not told:
            self.db.close()
            raise ValueError(
                f"the study in {folder} was not made to its end: delete the folder, make it again"
            )
        self.told: dict[str, Any] = json.loads(told[0]["told"])

    def close(self) -> None:
        self.db.close()

    # -- making one
    @classmethod
    def make(cls, folder: Path, systems: Mapping[str, Mapping[str, Path]], plan: Plan) -> "Study":
        """Copy all clips without their names, and draw every rater's order. `systems`: the video of each
        prompt, by the system's name; all have the same prompts.

        ValueError for fewer than two systems, and where there is a study already.
        """
        prompts = check_systems(systems)
        pairs = [(prompt, *pair) for prompt in prompts for pair in combinations(systems, 2)]
        plan.check(len(pairs))
        if (folder / FILE).exists():
            raise ValueError(f"{folder} holds a study already: take another folder, or delete that one")
        (folder / "clips").mkdir(parents=True, exist_ok=True)
        db = Database(folder / FILE, SCHEMA)
        try:
            clips = list(_copies(folder / "clips", systems, plan))
            told = asdict(plan) | {"systems": list(systems), "prompts": prompts, "questions": QUESTIONS}
            with db.change() as connection:
                connection.executemany("INSERT INTO clips VALUES (?, ?, ?, ?, ?)", clips)
                connection.execute("INSERT INTO study VALUES (?)", [json.dumps(told)])
        finally:
            db.close()
        study = cls(folder)
        for name in plan.raters:
            study.add_rater(name)
        return study

    def add_rater(self, name: str, *, account: bool = False) -> str:
        """One more rater, with an order of their own; returns the token. ValueError for one too many."""
        token = secrets.token_urlsafe(18)
        with self.db.change() as connection:
            number = connection.execute("SELECT count(*) FROM raters").fetchone()[0]
            if number >= MOST_RATERS:
                raise ValueError(f"this study has {MOST_RATERS} raters already")
            connection.execute("INSERT INTO raters VALUES (?, ?, ?, ?)", [number, name, token, int(account)])
            items = self._drawn(number)
            rows = [(number, place, *item) for place, item in enumerate(items)]
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
        return token

    def _drawn(self, number: int) -> list[tuple[str, str, str, int]]:
        """What the rater with this number sees: (prompt, left clip, right clip, whether it is a check)."""
        clips = self.db.rows("SELECT * FROM clips")
        whole = {(row["system"], row["prompt"]): row["id"] for row in clips if not row["ruined"]}
        ruined = [(row["system"], row["prompt"], row["id"]) for row in clips if row["ruined"]]
        draw = random.Random(f"{self.told['seed']} {number}")
        chosen = self._dealt(number)
        items = []
        for (prompt, *pair), turned in zip(chosen, _halves(len(chosen), draw), strict=True):
            a, b = pair[::-1] if turned else pair
            items.append((prompt, whole[a, prompt], whole[b, prompt], 0))
        draw.shuffle(ruined)
        checks = [ruined[index % len(ruined)] for index in range(self.told["checks"])]
        for (system, prompt, ruin), turned in zip(checks, _halves(len(checks), draw), strict=True):
            a, b = (ruin, whole[system, prompt]) if turned else (whole[system, prompt], ruin)
            items.append((prompt, a, b, 1))
        draw.shuffle(items)
        return items

    def _dealt(self, number: int) -> list[tuple[str, str, str]]:
        """The pairs of one rater. Where raters see a part of them, all pairs are seen about as often: they
        are dealt from the whole deck, which is shuffled anew each time that it has been dealt.
        """
        systems = self.told["systems"]
        deck = [(prompt, *pair) for prompt in self.told["prompts"] for pair in combinations(systems, 2)]
        count = self.told["items"] or len(deck)
        if count == len(deck):
            return deck
        draw = random.Random(f"deck {self.told['seed']}")
        dealt: list[tuple[str, str, str]] = []
        hand: list[tuple[str, str, str]] = []
        for _ in range(number + 1):
            hand = []
            while len(hand) < count:
                dealt = dealt or draw.sample(deck, len(deck))
                # A pair that this rater has already waits for the next one.
                card = next((card for card in dealt if card not in hand), None)
                if card is None:
                    dealt += draw.sample(deck, len(deck))
                    continue
                dealt.remove(card)
                hand.append(card)
        return hand

    # -- what a rater may know
    def knows(self, token: str) -> bool:
        return bool(self.db.rows("SELECT 1 FROM raters WHERE token = ?", [token]))

    def links(self) -> dict[str, str]:
        """The token of each rater, by name."""
        return {row["name"]: row["token"] for row in self.db.rows("SELECT * FROM raters ORDER BY number")}

    def token_of_account(self, name: str) -> str:
        """The token of somebody who has logged in: they become a rater when they first come."""
        query = "SELECT token FROM raters WHERE name = ? AND account = 1"
        with self.db.lock:  # or two pages that are opened at once would both add them
            rows = self.db.rows(query, [f"account {name}"])
            return rows[0]["token"] if rows else self.add_rater(f"account {name}", account=True)

    def state(self, token: str) -> dict[str, Any]:
        """How far a rater is: the title, the questions, how many pairs there are and the first that is not
        answered. KeyError for a token that is none.
        """
        number = self._number(token)
        places = self.db.rows("SELECT count(*) AS n FROM items WHERE rater = ?", [number])[0]["n"]
        answered = {
            row["place"] for row in self.db.rows("SELECT place FROM answers WHERE rater = ?", [number])
        }
        done = next((place for place in range(places) if place not in answered), places)
        return {"title": self.told["title"], "questions": QUESTIONS, "of": places, "done": done}

    def item(self, token: str, place: int) -> dict[str, Any]:
        """The words of a pair, and what the rater has answered so far. KeyError where there is none."""
        row = self._row(token, place)
        query = "SELECT question, choice FROM answers WHERE rater = ? AND place = ?"
        given = {each["question"]: each["choice"] for each in self.db.rows(query, [row["rater"], place])}
        return {"place": place, "prompt": row["prompt"], "given": given}

    def clip(self, token: str, place: int, side: str) -> Path:
        """The file of a side, "a" or "b". KeyError where there is none."""
        return self.folder / "clips" / f"{self._row(token, place)[side]}.mp4"

    def sent(self, token: str, place: int, side: str) -> Path:
        """The same, of a clip that is sent now, which is remembered."""
        path = self.clip(token, place, side)
        with self.db.change() as connection:
            values = [self._number(token), place, side, time.time()]
            connection.execute("INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?)", values)
        return path

    def check_sent(self, token: str, place: int, seconds: float) -> float:
        """So many seconds, and no more than have passed since both clips of a pair were there.

        ValueError where they were never sent: an answer to what nobody has seen is none.
        """
        query = "SELECT at FROM sent WHERE rater = ? AND place = ?"
        times = [row["at"] for row in self.db.rows(query, [self._row(token, place)["rater"], place])]
        if len(times) < 2:
            raise ValueError("an answer comes after both clips: they were not fetched yet")
        return min(seconds, max(0.0, time.time() - max(times)))

    def answer(self, token: str, place: int, choices: Mapping[str, Any], seconds: float = 0.0) -> None:
        """Keep what a rater chose. A later answer for a place replaces an earlier one; seconds add up.

        ValueError for anything but one choice of CHOICES a question.
        """
        row = self._row(token, place)
        if set(choices) != set(QUESTIONS) or not all(
            isinstance(c, str) and c in CHOICES for c in choices.values()
        ):
            raise ValueError(f"an answer to each of {', '.join(QUESTIONS)} is expected: {', '.join(CHOICES)}")
        took = min(max(seconds, 0.0), 86400.0) if math.isfinite(seconds) else 0.0
        before = "SELECT max(seconds) AS s FROM answers WHERE rater = ? AND place = ?"
        took += self.db.rows(before, [row["rater"], place])[0]["s"] or 0.0
        rows = [(row["rater"], place, q, choices[q], took, time.time()) for q in QUESTIONS]
        with self.db.change() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _number(self, token: str) -> int:
        rows = self.db.rows("SELECT number FROM raters WHERE token = ?", [token])
        if not rows:
            raise KeyError("there is no such rater")
        return rows[0]["number"]

    def _row(self, token: str, place: int) -> Any:
        query = "SELECT * FROM items WHERE rater = ? AND place = ?"
        rows = self.db.rows(query, [self._number(token), place])
        if not rows:
            raise KeyError(f"there is no pair {place}")
        return rows[0]

    # -- what the owner may know
    def raters(self) -> list[dict[str, Any]]:
        """Of each rater: how much they answered, how many checks they passed, whether they count."""
        told = []
        for row in self.db.rows("SELECT * FROM raters ORDER BY number"):
            places = self.db.rows("SELECT * FROM items WHERE rater = ?", [row["number"]])
            answers = self._answers_of(row["number"])
            seen = [
                self._passed(item, answers[item["place"]])
                for item in places
                if item["is_check"] and item["place"] in answers
            ]
            counts = not seen or 2 * sum(seen) > len(seen)
            told.append(
                {
                    "name": row["name"],
                    "pairs": sum(not item["is_check"] for item in places if item["place"] in answers),
                    "of": sum(not item["is_check"] for item in places),
                    "checks passed": sum(seen),
                    "checks seen": len(seen),
                    "answered before the clips ended": self._hasty(row["number"]),
                    "counted": counts and bool(answers),
                }
            )
        return told

    def _answers_of(self, number: int) -> dict[int, dict[str, str]]:
        found: dict[int, dict[str, str]] = {}
        for row in self.db.rows("SELECT * FROM answers WHERE rater = ?", [number]):
            found.setdefault(row["place"], {})[row["question"]] = row["choice"]
        return found

    def _hasty(self, number: int) -> int:
        """How many pairs a rater answered sooner than their clips take to be seen."""
        rows = self.db.rows(
            "SELECT max(w.seconds) AS took, a.looks AS a, b.looks AS b FROM answers w"
            " JOIN items i ON i.rater = w.rater AND i.place = w.place"
            " JOIN clips a ON a.id = i.a JOIN clips b ON b.id = i.b WHERE w.rater = ? GROUP BY w.place",
            [number],
        )
        looks = [(row["took"], [Clip(**json.loads(row[side])) for side in ("a", "b")]) for row in rows]
        return sum(took < SOONER * max(each.frames / each.fps for each in both) for took, both in looks)

    def _passed(self, item: Any, given: Mapping[str, str]) -> bool:
        """Whether the clip was preferred to its ruins: in its looks, and nowhere the other way round."""
        ruined = self.db.rows("SELECT ruined FROM clips WHERE id = ?", [item["a"]])[0]["ruined"]
        right, wrong = ("b", "a") if ruined else ("a", "b")
        return given["aesthetics"] == right and wrong not in given.values()

    def answers(self, *, all_raters: bool = False) -> list[Answer]:
        """The answers to pairs of systems, by the systems' names; of raters who count, or of all."""
        counted = {row["name"] for row in self.raters() if all_raters or row["counted"]}
        rows = self.db.rows(
            "SELECT r.name, i.prompt, a.system AS left, b.system AS right, w.question, w.choice"
            " FROM answers w JOIN raters r ON r.number = w.rater"
            " JOIN items i ON i.rater = w.rater AND i.place = w.place"
            " JOIN clips a ON a.id = i.a JOIN clips b ON b.id = i.b"
            " WHERE NOT i.is_check ORDER BY r.number, i.place, w.rowid"
        )
        return [
            Answer(
                row["name"], row["prompt"], row["left"], row["right"], row["question"], CHOICES[row["choice"]]
            )
            for row in rows
            if row["name"] in counted
        ]

    def blindness(self) -> dict[str, Any]:
        """How blind the study was: what was hidden, and what still can tell one system from another."""
        looks: dict[str, Counter] = {name: Counter() for name in self.told["systems"]}
        sizes: dict[str, list[int]] = {name: [] for name in self.told["systems"]}
        for row in self.db.rows("SELECT * FROM clips WHERE NOT ruined"):
            looks[row["system"]][Clip(**json.loads(row["looks"]))] += 1
            sizes[row["system"]].append((self.folder / "clips" / f"{row['id']}.mp4").stat().st_size)
        tells = list(_tells(looks))
        return {
            "hidden": [
                "names of systems",
                "file names (random)",
                "addresses (a number of the pair)",
                "metadata and sound (left out)",
                "the encoder (one for all)",
            ],
            "sides": "drawn for each rater, half of the pairs each way",
            "order": "drawn for each rater",
            "differences that can be seen": tells,
            "bytes of a clip, mean": {name: sum(each) / max(len(each), 1) for name, each in sizes.items()},
            "looks": {
                name: [asdict(clip) | {"clips": count} for clip, count in each.most_common()]
                for name, each in looks.items()
            },
        }


def check_systems(systems: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """The prompts of all systems. ValueError where they are not the same, or there is one system only."""
    if len(systems) < 2:
        raise ValueError("a study compares two systems or more")
    first, *others = systems.values()
    if not first or any(set(other) != set(first) for other in others):
        raise ValueError("all systems of a study need a video of each prompt")
    return list(first)


def _copies(folder: Path, systems: Mapping[str, Mapping[str, Path]], plan: Plan) -> Iterator[Sequence]:
    """Rows of the table of clips, each copied on the way: all videos, and ruins for the checks."""
    draw = random.Random(f"ruins {plan.seed}")
    every = [(system, prompt, path) for system, videos in systems.items() for prompt, path in videos.items()]
    ruins = draw.sample(every, min(plan.checks, len(every)))
    for ruined, wanted in ((False, every), (True, ruins)):
        for system, prompt, path in wanted:
            name = secrets.token_hex(12)
            looks = copy_blind(path, folder / f"{name}.mp4", ruined=ruined)
            yield name, system, prompt, int(ruined), json.dumps(asdict(looks))


def _halves(count: int, draw: random.Random) -> list[bool]:
    """As many True as False, in a drawn order; one more of either where the count is odd."""
    sides = [index % 2 == 0 for index in range(count)]
    if count % 2 and draw.random() < 0.5:
        sides = [not side for side in sides]
    draw.shuffle(sides)
    return sides


def _tells(looks: Mapping[str, Counter]) -> Iterator[str]:
    """What of sizes, rates and lengths is not the same for all systems."""
    for name, words in (("size", "sizes"), ("fps", "frame rates"), ("frames", "numbers of frames")):
        of = {
            system: sorted({(c.width, c.height) if name == "size" else getattr(c, name) for c in each})
            for system, each in looks.items()
        }
        if len({tuple(each) for each in of.values()}) > 1:
            yield f"{words} differ: " + "; ".join(f"{system} {each}" for system, each in of.items())
