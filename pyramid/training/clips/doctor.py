"""Looks at every item of a list and says what can be trained on, and why the rest cannot.

    report = examine(open_list("clips.csv"), Limits())              # Report
    report.to_dict()          # {"format": …, "items": N, "usable": N, "broken": {"reason": ["name", …]}}

Items are looked at by several threads, each of which waits for ffmpeg. What was found is kept in a journal, a
line an item, so a look at a long list goes on where it was interrupted.
"""

import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageDraw

from pyramid.disk import whole
from pyramid.training.clips.lists import Item, Listing, line_of
from pyramid.training.clips.reading import Facts, look
from pyramid.training.clips.sample import Broken, BrokenItem, Sample, digest_of, root_of

SHEET = 48  # pictures of a contact sheet at most
TILE = 160  # pixels a side of each
AHEAD = 4  # items a thread that wait for it


@dataclass(frozen=True)
class Limits:
    """What an item must have, and how a list is looked at."""

    least_frames: int = 9  # of a video: two units
    least_side: int = 64  # pixels: one patch at the coarsest of three stages
    captions: bool = True  # whether an item needs one
    sample: int | None = None  # so many items, chosen by chance; None: all
    seed: int = 0
    workers: int = 2


@dataclass
class Report:
    """What was found. `broken` has the names by their reason."""

    format: str
    items: int = 0
    examined: int = 0
    usable: list[tuple[Sample, dict[str, Any]]] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The report as scripts read it."""
        return {
            "format": self.format,
            "items": self.items,
            "examined": self.examined,
            "usable": len(self.usable),
            "broken": self.broken,
        }

    def facts(self) -> list[Facts]:
        """What is known of the usable items."""
        return [Facts(**fact) for _, fact in self.usable]


def examine(
    listing: Listing,
    limits: Limits,
    *,
    journal: Path | None = None,
    sheet: bool = False,
    say: Callable[[int], None] = lambda done: None,
) -> Report:
    """Look at the items of a list; `sheet`: keep pictures of the first; `say` is told how many are done.

    `journal`: a file that is written meanwhile, and read when it is there already, of the same limits: what
    has changed since is looked at again. Raises ValueError where the list cannot be read.
    """
    report = Report(listing.format)
    known = _known(journal, limits)
    items: Iterable[Item] = listing
    if limits.sample is not None:
        report.items, items = _chosen(items, limits)
    with _opened(journal, limits, known) as file:
        for digest, item, verdict in _verdicts(items, known, limits, sheet):
            report.examined += 1
            report.items = max(report.items, report.examined)
            picture = verdict.pop("picture", None)
            if file is not None and digest not in known:
                file.write(json.dumps({"item": digest, **verdict}) + "\n")
                file.flush()
            if "reason" in verdict:
                report.broken.setdefault(verdict["reason"], []).append(item.name)
            elif isinstance(item, Sample):
                report.usable.append((item, verdict))
                if picture is not None:
                    report.pictures.append((item.name, picture))
            say(report.examined)
    return report


def _chosen(items: Iterable[Item], limits: Limits) -> tuple[int, list[Item]]:
    """How many items there are, and those to look at, in order; of a long list in one pass (Vitter, "Random
    sampling with a reservoir", algorithm R).
    """
    assert limits.sample is not None
    rng = random.Random(limits.seed)
    kept: list[tuple[int, Item]] = []
    total = 0
    for total, item in enumerate(items, 1):
        if len(kept) < limits.sample:
            kept.append((total, item))
        elif (place := rng.randrange(total)) < limits.sample:
            kept[place] = total, item
    return total, [item for _, item in sorted(kept, key=itemgetter(0))]


def _verdicts(
    items: Iterable[Item], known: dict[str, dict], limits: Limits, sheet: bool
) -> Iterator[tuple[str, Item, dict]]:
    """(digest, item, what was found) in the order of the list."""
    waiting: deque[tuple[str, Item, Future | dict]] = deque()

    def first() -> tuple[str, Item, dict]:
        digest, item, found = waiting.popleft()
        return digest, item, found.result() if isinstance(found, Future) else found

    with ThreadPoolExecutor(limits.workers) as pool:
        shown = 0
        for item in items:
            digest = digest_of(item.name, item)
            found: Future | dict
            if isinstance(item, Broken):
                found = {"reason": item.reason}
            elif digest in known and not (sheet and shown < SHEET and "reason" not in known[digest]):
                found = dict(known[digest])
            else:
                wants_picture = sheet and shown < SHEET
                shown += wants_picture
                found = pool.submit(_verdict, item, limits, wants_picture)
            waiting.append((digest, item, found))
            if len(waiting) > AHEAD * limits.workers:
                yield first()
        while waiting:
            yield first()


def _verdict(sample: Sample, limits: Limits, picture: bool) -> dict[str, Any]:
    """What there is to say of one sample: its facts, or a reason."""
    try:
        facts = look(
            sample,
            least_frames=limits.least_frames,
            least_side=limits.least_side,
            picture=picture,
            captions=limits.captions,
        )
    except BrokenItem as error:
        return {"reason": error.reason}
    found = {name: getattr(facts, name) for name in ("width", "height", "fps", "seconds")}
    return found | ({"picture": facts.picture} if picture and facts.picture else {})


# -- the journal
def _mark(limits: Limits) -> str:
    """The first line of a journal: the limits that decide."""
    return json.dumps({"limits": [limits.least_frames, limits.least_side, limits.captions]})


def _known(journal: Path | None, limits: Limits) -> dict[str, dict]:
    """What an earlier look with the same limits has found, by digests of the items as they were then."""
    if journal is None or not journal.is_file():
        return {}
    known: dict[str, dict] = {}
    lines = journal.read_text(encoding="utf-8").splitlines()
    if not lines or lines[0] != _mark(limits):
        return {}
    for line in lines[1:]:
        try:
            row = json.loads(line)
            known[row.pop("item")] = row
        except (ValueError, KeyError, AttributeError):  # the line that an end cut off
            break
    return known


def _opened(journal: Path | None, limits: Limits, known: dict[str, dict]) -> Any:
    """The journal to write on, what is known already in it; nothing without one."""
    if journal is None:
        return nullcontext(None)
    journal.parent.mkdir(parents=True, exist_ok=True)
    file: IO[str] = journal.open("w", encoding="utf-8")
    file.write(_mark(limits) + "\n")
    for digest, row in known.items():
        file.write(json.dumps({"item": digest, **row}) + "\n")
    return file


# -- what is made of it
def write_clean(report: Report, root: Path, path: Path) -> Path:
    """The usable items as a jsonl that every command here reads; returns the folder that its names start
    from: `root`, or one above the clips where some lie outside of it.

    Raises ValueError for items without a place of their own.
    """
    root = root_of((sample for sample, _ in report.usable), root)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half a character, as of a name that is no UTF-8, becomes the escape that json has for it.
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for sample, _ in report.usable:
            file.write(json.dumps(line_of(sample, root), ensure_ascii=False) + "\n")
    return root


def contact_sheet(report: Report) -> Image.Image | None:
    """The first pictures with their names below; None without any."""
    pictures = report.pictures
    if not pictures:
        return None
    columns = min(8, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * TILE, rows * (TILE + 14)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, picture) in enumerate(pictures):
        left = index % columns * TILE
        top = index // columns * (TILE + 14)
        small = picture.copy()
        small.thumbnail((TILE - 6, TILE - 6))
        sheet.paste(small, (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))
        draw.text((left + 4, top + TILE), shown(name)[-24:], fill="black")
    return sheet


def shown(name: str) -> str:
    """A name as it can be written anywhere: what is no character to be seen is a question mark."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
