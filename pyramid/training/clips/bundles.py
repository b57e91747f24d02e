"""Lists that bring their clips with them: webdataset's tar shards, and folders of Hugging Face's `datasets`.

Nothing of a tar is ever unpacked under the name that it has there; links, devices and sparse files in it are
refused. A data set that was saved with `save_to_disk`, or is of parquet files, needs the package `pyarrow`
(the extra `data`); one of files beside a `metadata.jsonl` or `metadata.csv` does not.
"""

import csv
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyramid.training.clips.sample import (
    Broken,
    BrokenItem,
    BytesSource,
    FileSource,
    Sample,
    TarSource,
    captions_of,
    inside,
    kind_of,
)

Item = Sample | Broken
MOST_SHARDS = 100_000
MOST_RATE = 1e6  # frames a second
ROWS = 16  # of a data set at a time: each may hold a whole clip
MOST_TEXT = 2**22  # bytes of a caption in a tar
MOST_FIELD = 2**24  # characters of a field of a csv
SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")
TABLES = ("metadata.jsonl", "metadata.csv")
CAPTIONS = ("text", "caption", "captions", "prompt", "label_text")


# -- webdataset
def shards_of(path: Path) -> list[Path]:
    """The tar shards that a list stands for: itself, those in a folder, or `name-{000..012}.tar`."""
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    if path.name.endswith((".tar.gz", ".tgz")):
        raise ValueError(
            f"{path.name} is packed, so its clips have no place to be read from: gunzip it first"
        )
    if path.suffix.lower() != ".tar":
        return []
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", path.name)
    if not found:
        return [path] if path.exists() else []
    first = int(found[2])
    last = int(found[3])
    if not 0 <= last - first < MOST_SHARDS:
        raise ValueError(f"{path.name} stands for {last - first + 1} shards: 1 to {MOST_SHARDS} are read")
    names = [f"{found[1]}{number:0{len(found[2])}}{found[4]}" for number in range(first, last + 1)]
    return [path.with_name(name) for name in names]


def read_webdataset(path: Path, _root: Path) -> Iterator[Item]:
    """Neighbors of one key are one sample: a clip or picture, and its .txt or .json."""
    for shard in shards_of(path):
        if not shard.is_file():
            yield Broken(shard.name, "missing")
            continue
        group: dict[str, TarSource] = {}
        key = ""
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    if not member.isreg() or member.issparse():
                        yield Broken(f"{shard.name}: {member.name}", "link in archive")
                        continue
                    begun, ending = _key(member.name)
                    if begun != key and group:
                        yield from _of_group(shard, key, group)
                        group = {}
                    key = begun
                    group[ending] = TarSource(shard, member.name, member.offset_data, member.size)
        except (tarfile.TarError, OSError, ValueError, EOFError):
            yield Broken(shard.name, "truncated")
        if group:
            yield from _of_group(shard, key, group)


def _key(name: str) -> tuple[str, str]:
    """The key of a member, and what follows it: the name is split at the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending.lower()


def _of_group(shard: Path, key: str, group: dict[str, TarSource]) -> Iterator[Item]:
    media = [(ending, source) for ending, source in group.items() if kind_of(f"x.{ending}")]
    if not media:
        yield Broken(f"{shard.name}: {key}", "missing")
        return
    ending, source = media[0]
    try:
        captions, more = _words(group)
    except (OSError, ValueError, RecursionError):
        yield Broken(source.member, "damaged line")
        return
    yield Sample(source.member, source, kind_of(f"x.{ending}") or "video", captions, **more)


def _words(group: dict[str, TarSource]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The captions beside a clip, and its rate where the json says it."""
    for ending in ("txt", "caption", "text"):
        if ending in group:
            return captions_of(_bytes(group[ending]).decode("utf-8-sig", errors="replace")), {}
    if "json" not in group:
        return (), {}
    table = json.loads(_bytes(group["json"]).decode("utf-8-sig", errors="replace"))
    if not isinstance(table, dict):
        return (), {}
    fps = table.get("fps")
    more = {"fps": float(fps)} if isinstance(fps, int | float) and 0 < fps < MOST_RATE else {}
    return captions_of(next((table[name] for name in CAPTIONS if table.get(name)), [])), more


def _bytes(source: TarSource) -> bytes:
    with source.archive.open("rb") as file:
        file.seek(source.offset)
        return file.read(min(source.size, MOST_TEXT))


# -- datasets
def is_data_set(path: Path) -> bool:
    """Whether a folder is one that `datasets` saved or would load by its metadata."""
    if any((path / name).is_file() for name in SAVED) or tables_of(path):
        return True
    return any(path.glob("*.parquet")) or any(path.glob("data/*.parquet"))


def tables_of(path: Path) -> list[Path]:
    """The metadata of a folder of files: its own, or that of each of its splits."""
    own = [path / name for name in TABLES if (path / name).is_file()]
    return own[:1] or sorted(
        table for name in TABLES for table in path.glob(f"*/{name}") if _names_files(table)
    )


def _names_files(table: Path) -> bool:
    """Whether a table is one of files: of another the folder is one of clips."""
    try:
        with table.open("rb") as file:
            return b"file_name" in file.readline(MOST_TEXT)
    except OSError:
        return False


def read_data_set(path: Path, root: Path) -> Iterator[Item]:
    """The rows of a folder of `datasets`. ValueError where the package is needed and missing."""
    tables = tables_of(path)
    rows = _saved_rows(path) if not tables else (row for table in tables for row in _named_rows(path, table))
    for number, row in enumerate(rows):
        try:
            yield _of_row(path, number, row)
        except BrokenItem as error:
            yield Broken(str(row.get("file_name") or f"row {number}"), error.reason)
        except OSError:
            yield Broken(f"row {number}", "unreadable")


def _named_rows(path: Path, table: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, the names of their files from `path` on."""
    within = table.parent.relative_to(path)
    for row in _table_rows(table):
        name = row.get("file_name")
        yield row | {"file_name": str(within / name)} if isinstance(name, str) and name else row


def _table_rows(table: Path) -> Iterator[dict[str, Any]]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        if table.suffix == ".csv":
            csv.field_size_limit(MOST_FIELD)
            rows = csv.DictReader(file)
            while True:
                try:
                    yield next(rows)
                except StopIteration:
                    return
                except csv.Error:
                    yield {}
        for line in file:
            try:
                row = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                row = {}
            if row is not None:
                yield row if isinstance(row, dict) else {}


def _saved_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the arrow or parquet files of a data set, with videos and pictures as they were stored."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(
            f"{path} is a data set of Hugging Face's: reading it takes the package pyarrow, which "
            'pip install "pyramid-flow[data]" brings'
        ) from None
    try:
        for file in sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=ROWS):
                yield from batch.to_pylist()
        for file in sorted(path.rglob("*.arrow")):  # of all splits
            if file.name.startswith("cache-") or not file.resolve().is_relative_to(path.resolve()):
                continue
            with pyarrow.memory_map(str(file)) as data, pyarrow.ipc.open_stream(data) as batches:
                for batch in batches:
                    for start in range(0, batch.num_rows, ROWS):
                        yield from batch.slice(start, ROWS).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a data set: {error}") from None


def _of_row(path: Path, number: int, row: dict[str, Any]) -> Sample:
    captions = captions_of(next((row[name] for name in CAPTIONS if row.get(name)), []))
    if isinstance(row.get("file_name"), str) and row["file_name"]:
        name = row["file_name"]
        kind = kind_of(name)
        if kind is None:
            raise BrokenItem("unknown kind")
        return Sample(name, FileSource(inside(path, name)), kind, captions)
    column = next((name for name in ("video", "mp4", "image", "jpg", "png") if row.get(name)), None)
    if column is None:
        raise BrokenItem("missing")
    kind = "video" if column in ("video", "mp4") else "image"
    cell = row[column]
    if isinstance(cell, str | bytes):
        cell = {"path" if isinstance(cell, str) else "bytes": cell}
    if not isinstance(cell, dict) or not isinstance(cell.get("path") or "", str):
        raise BrokenItem("damaged line")
    name = Path(cell.get("path") or f"row-{number}.{'mp4' if kind == 'video' else 'png'}").name
    if isinstance(cell.get("bytes"), bytes) and cell["bytes"]:
        return Sample(f"row {number}: {name}", BytesSource(bytes(cell["bytes"]), name), kind, captions)
    if not cell.get("path"):
        raise BrokenItem("missing")
    return Sample(cell["path"], FileSource(inside(path, cell["path"])), kind, captions)
