"""Lists that bring their clips with them: webdataset's tar shards, and folders of Hugging Face's `datasets`.

Nothing of a tar is ever unpacked under the name that it has there; links, devices and sparse files in it are
refused. A data set that was saved with `save_to_disk`, or is of parquet files, needs the package `pyarrow`
(the extra `data`); one of files beside a `metadata.jsonl` or `metadata.csv` does not.
"""

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
from pyramid.training.clips.tables import columns_of, csv_rows, json_rows

Item = Sample | Broken
MOST_SHARDS = 100_000
MOST_RATE = 1e6  # frames a second
ROWS = 16  # of a data set at a time: each may hold a whole clip
MOST_TEXT = 2**22  # bytes of a caption in a tar
SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")
TABLES = ("metadata.jsonl", "metadata.csv")
CAPTIONS = ("text", "caption", "captions", "prompt", "label_text")
CLIPS = ("video", "mp4", "image", "jpg", "png")  # columns that hold them, or their names


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
    """Neighbors of one key are one sample: a clip or picture, and its .txt or .json. ValueError where none of
    the shards is a tar.
    """
    for shard in _checked(path, shards_of(path)):
        if not shard.is_file():
            yield Broken(shard.name, "missing")
            continue
        group: dict[str, TarSource] = {}
        key = ""
        try:
            with tarfile.open(shard, "r:") as archive:
                for member in archive:
                    if member.isdir() or _hidden(member):
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


def _checked(path: Path, shards: list[Path]) -> list[Path]:
    """The same shards. ValueError where none is a tar, so there is no list."""
    if any(map(_is_tar, shards)):
        return shards
    if any(shard.exists() for shard in shards):
        raise ValueError(f"{path} is no tar, or a packed one: its clips have no place to be read from")
    raise ValueError(f"{path}: none of these shards is there")


def _hidden(member: tarfile.TarInfo) -> bool:
    """Whether a member is none of the list's, such as `._1.mp4`, which macOS puts beside `1.mp4`."""
    return Path(member.name).name.startswith(".")


def _is_tar(shard: Path) -> bool:
    """Whether a file begins as an unpacked tar does."""
    try:
        tarfile.open(shard, "r:").close()
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return False
    return True


def _key(name: str) -> tuple[str, str]:
    """The key of a member, and what follows it: the name is split at the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return folder + slash + stem, ending.lower()


def _of_group(shard: Path, key: str, group: dict[str, TarSource]) -> Iterator[Item]:
    """The sample of a key, if it is one: the clip, where a picture of it lies beside it."""
    kinds = {ending: kind_of(f"x.{ending}") for ending in group}
    media = [ending for ending, kind in kinds.items() if kind]
    if not media:
        yield Broken(f"{shard.name}: {key}", "missing")
        return
    ending = next((ending for ending in media if kinds[ending] == "video"), media[0])
    source = group[ending]
    try:
        captions, more = _words(group)
    except (OSError, ValueError, RecursionError):
        yield Broken(source.member, "damaged line")
        return
    yield Sample(source.member, source, kinds[ending] or "video", captions, **more)


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
        if isinstance(row, Broken):
            yield row
            continue
        try:
            yield _of_row(path, number, row)
        except BrokenItem as error:
            yield Broken(str(row.get("file_name") or f"row {number}"), error.reason)
        except OSError:
            yield Broken(f"row {number}", "unreadable")


def _named_rows(path: Path, table: Path) -> Iterator[dict[str, Any] | Broken]:
    """The rows of a table, the names of their files from `path` on. ValueError where none has a file."""
    if table.suffix == ".csv":
        columns = columns_of(table, str.strip)
        if not {"file_name", *CLIPS} & set(columns):
            raise ValueError(
                f"{table.name} has the columns {', '.join(sorted(columns)) or 'none'}: file_name is expected "
                "in its first line, and commas"
            )
    within = table.parent.relative_to(path)
    for line, row in csv_rows(table, str.strip) if table.suffix == ".csv" else json_rows(table):
        if row is None:
            yield Broken(f"{within / table.name}: line {line}", "damaged line")
            continue
        name = row.get("file_name")
        yield row | {"file_name": str(within / name)} if isinstance(name, str) and name else row


def _saved_rows(path: Path) -> Iterator[dict[str, Any] | Broken]:
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
    column = next((name for name in CLIPS if row.get(name)), None)
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
