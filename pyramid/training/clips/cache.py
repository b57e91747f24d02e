"""Latents and text features of a list, made once: safetensors shards, resumable, by one process or several.

    cache = Cache.open(folder, about)                                     # ValueError when of other weights
    fill_cache(cache, listing, encode, share=(rank, processes))           # what is there is not made again
    for entry in cache.entries(): latents = cache.read(entry)             # Stored; or cache.named("a/1.mp4")

A shard holds, of each item, the mean and the deviation of the autoencoder's posterior as it makes them (not
normalized), and the text encoders' features of each caption and of the empty one. `index-*.jsonl` says where
each is, by name and by the digest of what it was made from, and which items were broken. So a folder may hold
the items of several lists, and what a list no longer says: `entries` and `broken` are of the list that was
filled in or named by `use`. The reference's `.pt` files stand in for what they hold.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyramid.disk import whole, write_json
from pyramid.models.network import load_saved
from pyramid.training.clips.lists import Item, Listing
from pyramid.training.clips.sample import Broken, BrokenItem, Sample, digest_of

ABOUT = "cache.json"
SHARD_BYTES = 2**28  # of a shard, about
SHARD_SECONDS = 300.0  # an item waits no longer for others, so an end at any moment costs no more
NOTHING = "nothing"  # the name of the empty caption's features
MOST_OPEN = 64  # shards that are held open: each is a map of its file, and a header of thousands of names


@dataclass(frozen=True)
class Stored:
    """One item: latents `(c, t, h, w)` as mean and deviation, and for each caption its text."""

    mean: Tensor
    deviation: Tensor | None  # None: only a sample of the posterior is known
    texts: tuple["Text", ...]


@dataclass(frozen=True)
class Text:
    """A caption as the transformer reads it: states `(l, d)` without padding, and the pooled vector."""

    states: Tensor
    pooled: Tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an item lies, and its shape: units, height and width in latents. There are millions of them."""

    name: str
    shard: str
    key: str
    kind: str
    shape: tuple[int, int, int]
    captions: int


@dataclass
class Cache:
    """A folder of shards."""

    folder: Path
    used: set[str] | None = None  # digests of the list's items; None: whatever is there
    _places: dict[str, Entry] = field(default_factory=dict)  # by digest; by name where none was noted
    _broken: dict[str, tuple[str, str]] = field(default_factory=dict)  # by the same: name and reason
    _names: dict[str, Entry] | None = field(default=None, repr=False)
    _open: dict[str, tuple[Any, frozenset[str]]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path, about: dict[str, Any]) -> "Cache":
        """The cache in a folder, which is made. ValueError where it holds what other weights or another
        recipe have made, or an earlier version that noted less of them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ABOUT
        wanted = json.loads(json.dumps(about))
        if path.is_file():
            there = json.loads(path.read_text(encoding="utf-8"))
            if unknown := [key for key in wanted if key not in there]:
                raise ValueError(
                    f"the cache in {folder} was made by an earlier version, which did not note "
                    f"{', '.join(unknown)}: delete it, or give another --output"
                )
            if odd := [key for key in wanted if there[key] != wanted[key]]:
                raise ValueError(
                    f"the cache in {folder} was made with another {', '.join(odd)}: delete it, or give "
                    "another --output"
                )
        else:
            write_json(path, wanted)
        return cls(folder)._load()

    def _load(self) -> "Cache":
        self._broken = {}
        self._places = {}
        self._names = None
        shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        for index in sorted(self.folder.glob("index-*.jsonl")):
            for line in index.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except ValueError:  # a line that an end cut off
                    continue
                digest = row.pop("digest", row["name"])
                if "broken" in row:
                    self._broken[digest] = row["name"], row["broken"]
                else:
                    shape = tuple(row["shape"])
                    row["shape"] = shapes.setdefault(shape, shape)
                    for key in ("shard", "key", "kind"):  # of a million rows a few thousand words
                        row[key] = sys.intern(row[key])
                    self._places[digest] = Entry(**row)
        return self

    def use(self, listing: Listing) -> "Cache":
        """The same cache, of whose items only those count that the list has, as the list has them now."""
        self.used = {digest_of(name, item) for name, item in listing.named_apart()}
        return self

    def entries(self) -> list[Entry]:
        """All items of the list, by their names: the same order whoever made them."""
        self._load()
        return sorted(self._usable(), key=lambda entry: entry.name)

    def _usable(self) -> list[Entry]:
        return [entry for digest, entry in self._places.items() if digest != NOTHING and self._uses(digest)]

    def _uses(self, digest: str) -> bool:
        return self.used is None or digest in self.used

    @property
    def broken(self) -> dict[str, str]:
        """The reason for each item of the list that could not be used, by its name."""
        broken = {digest: told for digest, told in self._broken.items() if digest not in self._places}
        return dict(told for digest, told in broken.items() if self._uses(digest))

    def knows(self, digest: str) -> bool:
        """Whether an item was made."""
        return digest in self._places

    def read(self, entry: Entry) -> Stored:
        """An item, as float32."""
        file, names = self._shard(entry.shard)

        def get(part: str) -> Tensor:
            return file.get_tensor(f"{entry.key}.{part}").float()

        deviation = get("deviation") if f"{entry.key}.deviation" in names else None
        texts = tuple(Text(get(f"text{number}"), get(f"pooled{number}")) for number in range(entry.captions))
        return Stored(get("mean"), deviation, texts)

    def named(self, name: str) -> Stored:
        """An item by the name that its list has for it. Raises ValueError: broken there, or not there."""
        if self._names is None:
            self._names = {entry.name: entry for entry in self._usable()}
        if name in self._names:
            return self.read(self._names[name])
        if name in self.broken:
            raise ValueError(f"{name} could not be used: {self.broken[name]}")
        raise ValueError(f"the cache in {self.folder} has no {name!r}")

    def _shard(self, name: str) -> tuple[Any, frozenset[str]]:
        """A shard, open, and the names in it: a step reads items of several, again and again."""
        if name not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.pop(next(iter(self._open)))
            file = safe_open(self.folder / name, framework="pt")
            self._open[name] = file, frozenset(file.keys())
        return self._open[name]

    def nothing(self) -> Text:
        """The features of the empty caption."""
        return self.read(self._places[NOTHING]).texts[0]


class ShardWriter:
    """Collects items and writes them when there are enough; what was not written is made again."""

    def __init__(self, cache: Cache, rank: int):
        self.cache = cache
        self.rank = rank
        self.tensors: dict[str, Tensor] = {}
        self.rows: list[dict[str, Any]] = []
        self.bytes = 0
        self.begun = 0.0  # when the first of them came
        there = [path.stem.rpartition("-")[2] for path in cache.folder.glob(f"shard-{rank}-*.safetensors")]
        used = {entry.shard for entry in cache._places.values()}
        numbers = [int(number) for number in there if f"shard-{rank}-{number}.safetensors" in used]
        self.number = max(numbers, default=-1) + 1

    def add(self, name: str, kind: str, item: Stored, digest: str | None = None) -> None:
        """One more item. `digest`: of what it was made from; its name alone tells it apart when None."""
        if not self.rows:
            self.begun = time.monotonic()
        key = str(len(self.rows))
        self.tensors[f"{key}.mean"] = item.mean.to(torch.bfloat16).contiguous()
        if item.deviation is not None:
            self.tensors[f"{key}.deviation"] = item.deviation.to(torch.bfloat16).contiguous()
        for number, text in enumerate(item.texts):
            self.tensors[f"{key}.text{number}"] = text.states.to(torch.bfloat16).contiguous()
            self.tensors[f"{key}.pooled{number}"] = text.pooled.to(torch.bfloat16).contiguous()
        shape = [*item.mean.shape[1:]]
        row: dict[str, Any] = {"name": name, "shard": self._shard, "key": key, "kind": kind, "shape": shape}
        row |= {"captions": len(item.texts)}
        self.rows.append(row if digest is None else row | {"digest": digest})
        numbers = item.mean.numel() * (1 if item.deviation is None else 2)
        self.bytes += 2 * (numbers + sum(text.states.numel() + text.pooled.numel() for text in item.texts))
        if self.bytes > SHARD_BYTES or time.monotonic() - self.begun > SHARD_SECONDS:
            self.write()

    def broken(self, name: str, reason: str, digest: str) -> None:
        """An item that cannot be used."""
        if self.cache._broken.get(digest) != (name, reason):
            self._note([{"name": name, "broken": reason, "digest": digest}])

    @property
    def _shard(self) -> str:
        return f"shard-{self.rank}-{self.number}.safetensors"

    def write(self) -> None:
        """Bring what was collected to the disk: the shard first, then the lines that name it."""
        if not self.rows:
            return
        with whole(self.cache.folder / self._shard) as part:
            save_file(self.tensors, part)
        self._note(self.rows)
        self.tensors = {}
        self.rows = []
        self.bytes = 0
        self.number += 1

    def _note(self, rows: list[dict[str, Any]]) -> None:
        path = self.cache.folder / f"index-{self.rank}.jsonl"
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that an end cut off
                    file.write(b"\n")
            for row in rows:
                file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def fill_cache(
    cache: Cache,
    listing: Listing,
    encode: Callable[[Sample], Stored],
    nothing: Callable[[], Text],
    *,
    share: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Encode what the cache does not have yet of a list, which it is of from then on. `share`: this process
    and how many there are.

    Broken items are told by name and noted; `encode` raises BrokenItem for them. The next call tries them
    again: what a disk or a busy machine refused once may be read then.
    """
    rank, processes = share
    writer = ShardWriter(cache, rank)
    if rank == 0 and not cache.knows(NOTHING):
        text = nothing()
        writer.add(NOTHING, "text", Stored(torch.zeros(1, 0, 0, 0), None, (text,)))
    cache.used = set()
    try:
        for place, (name, item) in enumerate(listing.named_apart()):
            digest = digest_of(name, item)
            cache.used.add(digest)
            if place % processes != rank or cache.knows(digest):
                continue
            try:
                kind, stored = _encoded(item, encode)
            except BrokenItem as error:
                say(f"skipped: {name}: {error.reason}")
                writer.broken(name, error.reason, digest)
                continue
            writer.add(name, kind, stored, digest)
    except (KeyboardInterrupt, SystemExit):  # asked to end: what is made is kept
        writer.write()
        raise
    writer.write()


def _encoded(item: Item, encode: Callable[[Sample], Stored]) -> tuple[str, Stored]:
    """The kind of an item and what is stored of it. Raises BrokenItem."""
    if isinstance(item, Broken):
        raise BrokenItem(item.reason)
    if not item.captions:
        raise BrokenItem("no caption")
    return item.kind, encode(item)


def check_broken(cache: Cache, most: float) -> None:
    """ValueError, with the reasons, where more than the share `most` of the items is unusable."""
    usable = len(cache.entries())
    broken = len(cache.broken)
    if not usable or broken > most * (usable + broken):
        reasons = ", ".join(
            f"{reason} {count}" for reason, count in Counter(cache.broken.values()).most_common()
        )
        raise ValueError(
            f"{broken} of {usable + broken} items cannot be used ({reasons or 'the list is empty'}), more "
            f"than the share {most:g} of [data] most_broken: data doctor says which"
        )


# -- the reference's files
def reference_latent(path: Path) -> Tensor:
    """A latent that the reference's extractor has written, `(c, t, h, w)`: a sample, not normalized.

    Raises BrokenItem.
    """
    latent = _weights_only(path)
    if not isinstance(latent, Tensor) or latent.ndim != 5 or latent.shape[0] != 1:
        raise BrokenItem("damaged latent", f"{path.name} holds no latent (1, c, t, h, w)")
    return latent[0].float()


def reference_text(path: Path) -> Text:
    """Text features that the reference's extractor has written. Raises BrokenItem."""
    table = _weights_only(path)
    try:
        states = table["prompt_embed"][0].float()
        mask = table["prompt_attention_mask"][0]
        return Text(states[mask.bool()], table["pooled_prompt_embed"][0].float())
    except (KeyError, TypeError, IndexError, AttributeError):
        raise BrokenItem("damaged text features", f"{path.name} holds no text features") from None


def _weights_only(path: Path) -> Any:
    try:
        return load_saved(path)
    except FileNotFoundError:
        raise BrokenItem("missing", f"{path} is not there") from None
    except (ValueError, OSError) as error:
        raise BrokenItem("damaged latent", str(error)) from None
