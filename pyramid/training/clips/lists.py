"""Readers of the lists that clips come in: WebVid, OpenVid, Open-Sora Plan, jsonl, folders, tars, data sets.

    listing = open_list("clips/list.csv", root="clips")          # ValueError where it is no list
    for item in listing:                                         # in order, each a Sample or a Broken
        ...

Columns are found by their names, never by their places. What a line lacks makes that line Broken, with a
reason and a name; only a list that cannot be read at all is an error.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyramid.disk import check_file
from pyramid.training.clips import bundles
from pyramid.training.clips.sample import (
    MOST_CAPTION,
    PACKED,
    Broken,
    BrokenItem,
    FileSource,
    Sample,
    Source,
    TarSource,
    ZipSource,
    captions_of,
    inside,
    kind_of,
    open_zip,
    short,
)
from pyramid.training.clips.tables import columns_of, csv_rows, encoding_of, json_rows, open_text

Item = Sample | Broken
MOST_JSON = 2**31  # bytes of a json that is read as a whole
SCORES = ("aesthetic score", "motion score", "temporal consistency score")


@dataclass(frozen=True)
class Listing:
    """A list that was recognized: iterate over it, as often as wanted."""

    format: str
    path: Path
    root: Path
    read: Callable[[Path, Path], Iterator[Item]]

    def __iter__(self) -> Iterator[Item]:
        return self.read(self.path, self.root)

    def note(self) -> str:
        """What of a folder is not read, because a part of it was taken for the list; "" where all is."""
        if self.format == "webdataset" and self.path.is_dir():
            loose = next((file.name for file in self.path.rglob("*") if kind_of(file.name)), None)
            return f"only the tars are read, not {loose} and what else lies beside them" if loose else ""
        names = [str(table.relative_to(self.path)) for table in bundles.tables_of(self.path)]
        if self.format == "datasets" and names and names[0] not in bundles.TABLES:
            return f"only what {', '.join(names)} names is read"
        return ""

    def named_apart(self) -> Iterator[tuple[str, Item]]:
        """(name, item), no sample's name twice: what a list names again, as another part of a clip, or as
        the same number in another shard, is `name (2)`.
        """
        counts: Counter[str] = Counter()
        for item in self:
            counts[item.name] += 1
            count = counts[item.name]
            again = isinstance(item, Sample) and count > 1
            yield f"{item.name} ({count})" if again else item.name, item


def open_list(path: str | Path, root: str | Path | None = None) -> Listing:
    """The list in a file or folder. `root`: the folder that its names start from; the list's own when None.

    Raises ValueError where it is missing or in none of the formats.
    """
    path = Path(path)
    try:
        shards = bundles.shards_of(path)
        there = path.exists()
    except OSError as error:  # a name that is too long
        raise ValueError(f"{str(path)[:80]!r}…: {error.strerror}") from None
    if not there and not shards:
        raise ValueError(f"{str(path)!r} is not there: give a list (csv, json, jsonl, txt, tar) or a folder")
    if not path.is_dir() and not shards:
        check_file(path)
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"--root {str(root)!r} is not a folder")
    home = path if path.is_dir() else path.parent
    name = "webdataset" if shards else format_of(path)
    return Listing(name, path, Path(root) if root is not None else home, READERS[name])


def format_of(path: Path) -> str:
    """Which of the formats a list is in, by its name and its first line. ValueError for none of them."""
    if path.is_dir():
        if bundles.is_data_set(path):
            return "datasets"
        if any(kind_of(file.name) for file in path.rglob("*")):
            return "folder"
        raise ValueError(f"{path} holds no videos, no pictures and no tar shards")
    match path.suffix.lower():
        case ".csv":
            return _format_of_csv(path)
        case ".jsonl":
            return "jsonl"
        case ".json" | ".txt":
            return "open-sora-plan"
        case ".gz" | ".zip" | ".zst" | ".bz2" | ".xz":
            raise ValueError(f"{path.name} is packed: unpack it first")
        case ".pkl" | ".pickle":
            raise ValueError(f"{path.name}: a pickle can run programs, so it is not opened: save it as json")
    raise ValueError(f"{path.name} is no list this program reads: csv, json, jsonl, txt, tar or a folder")


def _format_of_csv(path: Path) -> str:
    columns = set(columns_of(path))
    if {"videoid", "page dir", "name"} <= columns:
        return "webvid"
    if {"video", "caption"} <= columns:
        return "openvid"
    raise ValueError(
        f"{path.name} has the columns {', '.join(sorted(columns)) or 'none'}: WebVid's (videoid, page_dir, "
        "name) or OpenVid's (video, caption) are expected in its first line"
    )


def _guarded(name: str, make: Callable[..., Sample], *arguments: Any) -> Item:
    """What `make` makes of the arguments, or why it cannot."""
    try:
        return make(*arguments)
    except BrokenItem as error:
        return Broken(name, error.reason)
    except OSError:  # a name that is longer than the disk allows, a file that may not be read
        return Broken(name, "unreadable")


# -- WebVid and OpenVid
def read_webvid(path: Path, root: Path) -> Iterator[Item]:
    """`videos/{page_dir}/{videoid}.mp4`. Its durations are not believed, a repeated id counts once."""
    seen: set[str] = set()
    base = "videos" if (root / "videos").is_dir() else "."
    for line, row in csv_rows(path):
        if row is None:
            yield Broken(f"line {line}", "damaged line")
            continue
        name = row["videoid"].strip()
        page = row["page dir"].strip().strip("/")
        if not name:
            yield Broken(f"line {line}", "damaged line")
        elif name in seen:
            yield Broken(name, "repeated")
        elif page.lower() in ("", "nan"):  # never downloaded
            yield Broken(name, "missing")
        else:
            yield _guarded(name, _webvid, root, base, f"{page}/{name}.mp4", row)
        seen.add(name)


def _webvid(root: Path, base: str, file: str, row: dict[str, str]) -> Sample:
    source = FileSource(inside(inside(root, base), file))
    return Sample(row["videoid"].strip(), source, "video", captions_of(row["name"]))


def read_openvid(path: Path, root: Path) -> Iterator[Item]:
    """Clips in one flat folder (the root, or `video` in it), or in zips there, which may be split."""
    zips, damaged = _zip_index(root)
    for line, row in csv_rows(path):
        if row is None:
            yield Broken(f"line {line}", "damaged line")
            continue
        name = row["video"].strip()
        if name:
            yield _guarded(name, _openvid, root, name, row, zips, damaged)
        else:
            yield Broken(f"line {line}", "damaged line")


def _openvid(root: Path, name: str, row: dict[str, str], zips: dict[str, ZipSource], damaged: bool) -> Sample:
    places = [inside(root, str(Path(folder) / name)) for folder in ("video", "videos", ".")]
    there = next((place for place in places if place.is_file()), None)
    packed = zips.get(Path(name).name)
    if there is None and packed is None and damaged:
        raise BrokenItem("damaged archive")
    source: Source = FileSource(there) if there else packed or FileSource(places[0])
    numbers = {score.replace(" ", "_"): _number(row.get(score)) for score in SCORES}
    scores = {score: number for score, number in numbers.items() if number is not None}
    return Sample(
        name, source, "video", captions_of(row["caption"]), fps=_number(row.get("fps")), scores=scores
    )


def _zip_index(root: Path) -> tuple[dict[str, ZipSource], bool]:
    """Every clip in the zips of a folder by its bare name, and whether a zip cannot be read."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(root.iterdir()):
        piece = re.fullmatch(r"(.+)[._]part[a-z]{2}", file.name)
        if file.is_file() and (piece or file.suffix.lower() == ".zip"):
            groups.setdefault(piece[1] if piece else file.name, []).append(file)
    index: dict[str, ZipSource] = {}
    damaged = False
    for parts in groups.values():
        try:
            with open_zip(tuple(parts)) as archive:
                members = [info.filename for info in archive.infolist() if not info.is_dir()]
        except PACKED:
            damaged = True
            continue
        for member in members:
            if kind_of(member):
                index.setdefault(Path(member).name, ZipSource(tuple(parts), member))
    return index, damaged


def _number(text: Any) -> float | None:
    """A finite number, None where there is none."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


# -- Open-Sora Plan
def read_open_sora_plan(path: Path, root: Path) -> Iterator[Item]:
    """A `data.txt` of `root,annotation` lines, or one annotation: a json list of tables."""
    if path.suffix.lower() == ".json":
        yield from _annotation(path, root)
        return
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            folder, comma, annotation = map(str.strip, line.rpartition(","))  # a root may hold a comma
            if not comma or not annotation.endswith((".json", ".pkl")):
                raise ValueError(
                    f"{path.name}, line {number}: a folder, a comma and a .json are expected, not {line!r}"
                )
            yield from _annotation(root / annotation, root / folder)


def _annotation(path: Path, root: Path) -> Iterator[Item]:
    if path.suffix == ".pkl":
        raise ValueError(f"{path.name}: a pickle can run programs, so it is not opened: save it as json")
    try:
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"{path.name} is larger than {MOST_JSON // 2**30} GiB: split it, or use jsonl")
        data = path.read_bytes()
        rows = json.loads(data.decode(json.detect_encoding(data), errors="replace"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a json: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path.name} must be a list of tables, each with path and cap")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("path"), str):
            yield Broken(f"item {number}", "damaged line")
        else:
            yield _guarded(row["path"], _open_sora, root, row)


def _open_sora(root: Path, row: dict[str, Any]) -> Sample:
    name = row["path"]
    size = row.get("resolution")
    kind = kind_of(name)
    if kind is None:
        raise BrokenItem("unknown kind")
    numbers = {
        "aesthetic": _number(row.get("aesthetic", row.get("aes"))),
        "motion": _number(row.get("motion")),
    }
    start, end = _part(row.get("cut") or ())
    return Sample(
        name,
        FileSource(inside(root, name)),
        kind,
        captions_of(row.get("cap")),
        start=start,
        end=end,
        crop=_edges(row.get("crop")),
        fps=_number(row.get("fps")),
        size=_size(size) if isinstance(size, dict) else None,
        scores={key: number for key, number in numbers.items() if number is not None},
    )


def _whole(values: Any, count: int | None = None) -> tuple[int, ...] | None:
    """So many whole numbers of 0 or more, such as places of frames; None where it is anything else."""
    if not isinstance(values, list) or (count is not None and len(values) != count) or not values:
        return None
    numbers = [None if isinstance(value, bool) else _number(value) for value in values]
    good = [number for number in numbers if number is not None and 0 <= number < 2**53]
    return tuple(map(int, good)) if len(good) == len(values) else None


def _part(places: Any) -> tuple[int, int | None]:
    """The first frame of a part and the one behind its last, None for all. BrokenItem for what is no part:
    it would be another one in silence.
    """
    if not isinstance(places, list | tuple) or len(places) not in (0, 2):
        raise BrokenItem("wrong range")
    start, end = places or (None, None)
    first = 0.0 if start is None else _number(start)
    last = 2.0**53 if end is None else _number(end)
    if first is None or last is None or not 0 <= first < last:
        raise BrokenItem("wrong range")
    return int(first), None if end is None else int(last)


def _edges(values: Any) -> tuple[int, int, int, int] | None:
    """A crop: left, right, top, bottom. BrokenItem for one that is none."""
    if not values:
        return None
    edges = _whole(values, 4)
    if edges is None:
        raise BrokenItem("wrong crop")
    return edges[0], edges[1], edges[2], edges[3]


def _size(table: dict[str, Any]) -> tuple[int, int] | None:
    width = _number(table.get("width"))
    height = _number(table.get("height"))
    return (int(width), int(height)) if width and height and width > 0 and height > 0 else None


# -- the reference's jsonl, and the one that `data doctor` writes
def read_jsonl(path: Path, root: Path) -> Iterator[Item]:
    """A table a line: `video` or `image`, `text`, and perhaps `latent`, `text_fea`, `frames`; `path`, with
    `archive`, `start`, `end`, `crop` and `fps`, as a clean list has them.
    """
    for number, row in json_rows(path):
        name, kind = _named(row or {})
        if row is None or name is None:
            yield Broken(f"line {number}", "damaged line")
        else:
            yield _guarded(name, _jsonl, root, name, kind, row)


def _named(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """The file of a row and the kind that its key says, by the first key with a name: the others may be null,
    as they are where a table has a column for each kind.
    """
    for key in ("video", "image", "path"):
        if isinstance(row.get(key), str) and row[key]:
            return row[key], None if key == "path" else key
    return None, None


def _jsonl(root: Path, name: str, kind: str | None, row: dict[str, Any]) -> Sample:
    kind = kind or kind_of(name)
    if kind is None:
        raise BrokenItem("unknown kind")
    start, end = _part([row.get("start"), row.get("end")])
    frames = row.get("frames")
    chosen = _whole(frames) if isinstance(frames, list) else None  # a number would be how many there are
    if isinstance(frames, list) and chosen is None:
        raise BrokenItem("wrong range")
    files = {key: inside(root, row[key]) if isinstance(row.get(key), str) else None for key in FEATURES}
    return Sample(
        name,
        _source(root, name, row),
        kind,
        captions_of(row.get("text")),
        start=start,
        end=end,
        frames=chosen,
        crop=_edges(row.get("crop")),
        fps=_number(row.get("fps")),
        latent=files["latent"],
        text_features=files["text_fea"],
    )


FEATURES = ("latent", "text_fea")  # what the reference's extractors have written


def _source(root: Path, name: str, row: dict[str, Any]) -> Source:
    parts = row.get("archive")
    if parts is None:
        return FileSource(inside(root, name))
    if not isinstance(parts, list) or not parts:
        raise BrokenItem("damaged line")
    files = tuple(inside(root, str(part)) for part in parts)
    if "offset" not in row:
        return ZipSource(files, name)
    place = _whole([row["offset"], row.get("size")], 2)
    if place is None:
        raise BrokenItem("damaged line")
    return TarSource(files[0], name, *place)


def line_of(sample: Sample, root: Path) -> dict[str, Any]:
    """What stands for a sample in a clean list. ValueError where its bytes have no place of their own."""
    where = sample.source.named(root)
    if isinstance(sample.source, FileSource):
        where = {sample.kind: where["path"]}
    row: dict[str, Any] = where | {"text": list(sample.captions)}
    for key in ("end", "fps"):
        if getattr(sample, key) is not None:
            row[key] = getattr(sample, key)
    for key in ("frames", "crop"):
        if getattr(sample, key) is not None:
            row[key] = list(getattr(sample, key))
    for key, file in (("latent", sample.latent), ("text_fea", sample.text_features)):
        if file is not None:
            row[key] = short(file, root)
    return row | ({"start": sample.start} if sample.start else {})


# -- a folder
def read_folder(path: Path, root: Path) -> Iterator[Item]:
    """Clips and pictures of a folder and those in it, each with its caption in a .txt beside it."""
    for file in sorted(path.rglob("*")):
        if kind_of(file.name) and not any(part.startswith(".") for part in file.relative_to(path).parts):
            name = str(file.relative_to(path))
            yield _guarded(name, _of_folder, path, file, name)


def _of_folder(path: Path, file: Path, name: str) -> Sample:
    sample = Sample(name, FileSource(inside(path, name)), kind_of(name) or "video")
    texts = (file.with_suffix(ending) for ending in (".txt", ".TXT"))
    text = next((text for text in texts if text.is_file()), None)
    if text is None or text.stat().st_size > 4 * MOST_CAPTION:
        return sample
    data = inside(path, str(text.relative_to(path))).read_bytes()
    words = data.decode(encoding_of(data), errors="replace").split()
    return replace(sample, captions=captions_of(" ".join(words)))


READERS: dict[str, Callable[[Path, Path], Iterator[Item]]] = {
    "webvid": read_webvid,
    "openvid": read_openvid,
    "open-sora-plan": read_open_sora_plan,
    "jsonl": read_jsonl,
    "folder": read_folder,
    "webdataset": bundles.read_webdataset,
    "datasets": bundles.read_data_set,
}
