"""The cache of latents: read by name, filled by several workers or on a Ray cluster."""

import json
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from pyramid.commands import cli
from pyramid.training.clip_dit import Run
from pyramid.training.clips import cache as cache_module
from pyramid.training.clips import workers
from pyramid.training.clips.cache import Cache, ShardWriter, Stored, Text, fill_cache
from pyramid.training.clips.lists import open_list

RECIPE = """
name = "mine"
[data]
width = 64
height = 64
fps = 8
frames = 9
most_broken = 0.5
[network]
parts = "{parts}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_checkpoint) -> Path:
    """Four pictures with captions, one that is none, and a recipe."""
    home = tmp_path_factory.mktemp("home")
    (home / "clips").mkdir()
    for number in range(4):
        Image.new("RGB", (80, 64), (40 * number, 90, 60)).save(home / "clips" / f"{number}.png")
        (home / "clips" / f"{number}.txt").write_text(f"number {number}")
    (home / "clips" / "no.png").write_text("<html>")
    (home / "clips" / "no.txt").write_text("none")
    (home / "recipe.toml").write_text(RECIPE.format(parts=tiny_checkpoint))
    return home


def run_of(home: Path) -> Run:
    return Run("dit", str(home / "clips"), str(home / "recipe.toml"))


def contents(cache: Cache) -> dict[str, torch.Tensor]:
    return {entry.name: cache.read(entry).mean for entry in cache.entries()}


def in_threads(monkeypatch) -> None:
    """Workers as one thread: a process that loads all of torch takes seconds, and two threads cannot load
    models of transformers at once, which changes torch's modules meanwhile.
    """
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda count, mp_context, **_: ThreadPoolExecutor(1))


def test_several_workers_make_what_one_makes(home, tmp_path, monkeypatch):
    told: list[str] = []
    whole = workers.fill_by_processes(run_of(home), tmp_path / "one", 1, say=told.append)
    assert told == ["skipped: no.png: unreadable"] and whole.broken == {"no.png": "unreadable"}
    in_threads(monkeypatch)
    parts = workers.fill_by_processes(run_of(home), tmp_path / "two", 2, say=told.append)
    assert contents(parts).keys() == contents(whole).keys() == {f"{number}.png" for number in range(4)}
    assert all(map(torch.equal, contents(parts).values(), contents(whole).values()))
    assert {path.name for path in (tmp_path / "two").glob("index-*")} == {"index-0.jsonl", "index-1.jsonl"}
    assert parts.named("2.png").texts[0].states.shape == whole.named("2.png").texts[0].states.shape
    for name, why in (("no.png", "could not be used: unreadable"), ("gone.png", "has no 'gone.png'")):
        with pytest.raises(ValueError, match=why):
            whole.named(name)


def test_what_another_number_of_workers_has_made_is_not_made_again(home, tmp_path, monkeypatch, capsys):
    workers.fill_part(run_of(home), tmp_path / "runs" / "cache", (1, 2))
    made = Cache.open(tmp_path / "runs" / "cache", {})
    there = {entry.name for entry in made.entries()}
    assert 0 < len(there) < 4
    flags = ["--config", str(home / "recipe.toml"), "--output", str(tmp_path / "runs")]
    assert cli.main(["data", "cache", str(home / "clips"), *flags]) == 0
    assert "4 items in" in capsys.readouterr().out
    shards = {entry.name: entry.shard for entry in made.entries()}
    assert {name for name, shard in shards.items() if shard.startswith("shard-1")} == there


def test_a_worker_that_is_ended_is_told(home, tmp_path, monkeypatch):
    class Ended(ThreadPoolExecutor):
        def submit(self, *_):
            raise BrokenProcessPool

    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda count, mp_context, **_: Ended(count))
    with pytest.raises(ValueError, match="the same command goes on"):
        workers.fill_by_processes(run_of(home), tmp_path, 2)


@pytest.mark.parametrize(
    "flags, why",
    [
        (["--processes", "0"], "--processes 0: at least 1"),
        (["--workers", "2"], "only with --ray"),
        (["--ray", "--processes", "2"], "give one of them"),
    ],
)
def test_who_works_is_said_once(home, tmp_path, capsys, flags, why):
    command = ["data", "cache", str(home / "clips"), "--config", str(home / "recipe.toml"), *flags]
    assert cli.main(command) == 2 and why in capsys.readouterr().err


class Tasks:
    """What `fill_by_ray` asks of Ray, in this process."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause = ValueError("the list is gone")

    def cluster_resources(self):
        return {"CPU": 2.0}

    def remote(self, *, num_cpus, num_gpus):
        assert (num_cpus, num_gpus) == (1, 0)
        return lambda work: SimpleNamespace(remote=lambda *given: lambda: work(*given))

    def get(self, tasks):
        return [task() for task in tasks]


def test_workers_of_a_cluster_share_the_list_and_their_failures_are_told(home, tmp_path):
    told: list[str] = []
    cache = workers.fill_by_ray(run_of(home), tmp_path / "cache", Tasks(), 3, say=told.append)
    assert len(cache.entries()) == 4 and told == ["skipped: no.png: unreadable"]
    for error, why in (
        (Tasks.exceptions.RayTaskError, "the list is gone"),
        (Tasks.exceptions.RayError, "lost"),
    ):
        ray = Tasks()
        ray.get = Mock(side_effect=error)
        with pytest.raises(ValueError, match=why):
            workers.fill_by_ray(run_of(home), tmp_path / "cache", ray, 2)


def test_a_ray_cluster_fills_the_cache(home, tmp_path, capsys):
    pytest.importorskip("ray")
    flags = ["--config", str(home / "recipe.toml"), "--output", str(tmp_path), "--ray", "--workers", "2"]
    assert cli.main(["data", "cache", str(home / "clips"), *flags]) == 0
    assert "4 items in" in capsys.readouterr().out
    assert len(Cache.open(tmp_path / "cache", {}).entries()) == 4


def test_shards_are_held_open_and_not_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MOST_OPEN", 2)
    cache = Cache.open(tmp_path, {})
    writer = ShardWriter(cache, 0)
    for number in range(5):
        latent = torch.full((2, 1, 2, 2), float(number))
        writer.add(str(number), "image", Stored(latent, latent, (Text(latent[0, 0], latent[0, 0, 0]),)))
        assert writer.bytes == 2 * (8 + 8 + 4 + 2)
        writer.write()
    for _ in range(2):
        assert [float(cache.read(entry).mean[0, 0, 0, 0]) for entry in cache.entries()] == [0, 1, 2, 3, 4]
    assert len(cache._open) == 2
    lines = (tmp_path / "index-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["shard"] for line in lines] == [f"shard-0-{n}.safetensors" for n in range(5)]
    assert np.isclose(float(cache.named("3").texts[0].pooled[0]), 3)


def test_what_is_made_is_kept_when_the_work_is_ended_and_waits_for_others_not_too_long(
    home, tmp_path, monkeypatch
):
    latent = torch.ones(2, 1, 2, 2)
    stored = Stored(latent, latent, (Text(latent[0, 0], latent[0, 0, 0]),))
    encode = Mock(side_effect=[stored, stored, KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        fill_cache(Cache.open(tmp_path, {}), open_list(home / "clips"), encode, lambda: stored.texts[0])
    assert [entry.name for entry in Cache.open(tmp_path, {}).entries()] == ["0.png", "1.png"]
    monkeypatch.setattr(cache_module, "SHARD_SECONDS", -1.0)
    writer = ShardWriter(Cache.open(tmp_path / "slow", {}), 0)
    writer.add("a", "image", stored)
    assert writer.number == 1 and not writer.rows


def encoder(told: list[str]):
    """An encoder that reads no picture, and notes what it is asked for."""

    def encode(sample) -> Stored:
        with sample.source.path():
            told.append(sample.name)
        latent = torch.ones(2, 1, 2, 2)
        return Stored(latent, latent, tuple(Text(latent[0, 0], latent[0, 0, 0]) for _ in sample.captions))

    return encode


def nothing() -> Text:
    return Text(torch.ones(2, 2), torch.ones(2))


def lines(path: Path, **captions: str) -> Path:
    """A list of pictures by their names without ending."""
    rows = [{"image": f"{name}.png", "text": text} for name, text in captions.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_only_what_the_list_has_counts(home, tmp_path):
    folder = tmp_path / "cache"
    clips = home / "clips"
    made: list[str] = []
    all_three = lines(tmp_path / "all.jsonl", **{"0": "a", "1": "b", "gone": "c"})
    fill_cache(Cache.open(folder, {}), open_list(all_three, clips), encoder(made), nothing)
    one = Cache.open(folder, {})
    fill_cache(one, open_list(lines(tmp_path / "one.jsonl", **{"1": "b"}), clips), encoder(made), nothing)
    assert made == ["0.png", "1.png"] and [entry.name for entry in one.entries()] == ["1.png"]
    assert one.broken == {}
    cache_module.check_broken(one, 0)
    whole = Cache.open(folder, {}).use(open_list(all_three, clips))
    assert [entry.name for entry in whole.entries()] == ["0.png", "1.png"]
    assert whole.broken == {"gone.png": "missing"}
    with pytest.raises(ValueError, match="1 of 3 items"):
        cache_module.check_broken(whole, 0.1)


def test_what_was_broken_is_tried_again(home, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    listing = open_list(lines(tmp_path / "list.jsonl", **{"0": "a"}), clips)
    made: list[str] = []
    cache = Cache.open(tmp_path / "cache", {})
    for _ in range(2):
        fill_cache(cache, listing, encoder(made), nothing)
        assert cache.entries() == [] and cache.broken == {"0.png": "missing"}
    assert len((tmp_path / "cache" / "index-0.jsonl").read_text().splitlines()) == 2  # noted once
    (clips / "0.png").write_bytes((home / "clips" / "0.png").read_bytes())
    fill_cache(cache, listing, encoder(made), nothing)
    assert [entry.name for entry in cache.entries()] == ["0.png"] and cache.broken == {}
    cache_module.check_broken(cache, 0)
    assert Cache.open(tmp_path / "cache", {}).named("0.png").texts


def test_what_has_changed_is_made_again(home, tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "0.png").write_bytes((home / "clips" / "0.png").read_bytes())
    row = {"image": "0.png", "text": ["a"]}
    made: list[str] = []

    def fill(row: dict) -> Cache:
        (tmp_path / "list.jsonl").write_text(json.dumps(row) + "\n")
        cache = Cache.open(tmp_path / "cache", {})
        fill_cache(cache, open_list(tmp_path / "list.jsonl", clips), encoder(made), nothing)
        return cache

    fill(row)
    fill(row)
    assert len(made) == 1
    changes: list[dict] = [{"text": ["a", "b"]}, {"crop": [0, 64, 0, 64]}, {"start": 3}, {"frames": [0, 2]}]
    for count, change in enumerate(changes, 2):
        fill(row | change)
        assert len(made) == count, change
    assert [entry.captions for entry in fill(row | {"text": ["a", "b"]}).entries()] == [2]
    (clips / "0.png").write_bytes((home / "clips" / "1.png").read_bytes() + b" ")
    assert len(fill(row).entries()) == 1 and len(made) == 6


def test_a_cache_with_cuts_is_not_one_without_and_old_ones_are_refused(home, tmp_path):
    workers.fill_by_processes(run_of(home), tmp_path / "cache", 1, say=str)
    other = tmp_path / "recipe.toml"
    other.write_text((home / "recipe.toml").read_text().replace("fps = 8", "fps = 8\ncuts = false"))
    with pytest.raises(ValueError, match="made with another cuts"):
        workers.fill_by_processes(Run("dit", str(home / "clips"), str(other)), tmp_path / "cache", 1)
    about = json.loads((tmp_path / "cache" / "cache.json").read_text())
    about.pop("cuts")
    (tmp_path / "cache" / "cache.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="an earlier version, which did not note cuts"):
        workers.fill_by_processes(run_of(home), tmp_path / "cache", 1)


def test_lines_behind_one_that_an_end_cut_off_count(tmp_path):
    writer = ShardWriter(Cache.open(tmp_path, {}), 0)
    latent = torch.ones(2, 1, 2, 2)
    for name in ("a", "b"):
        writer.add(name, "image", Stored(latent, latent, ()))
        writer.write()
        with (tmp_path / "index-0.jsonl").open("a") as file:
            file.write('{"name": "c", "sh')
    assert [entry.name for entry in Cache.open(tmp_path, {}).entries()] == ["a", "b"]
