"""The cache of a list, filled by several processes of this machine or by a Ray cluster.

    cache = fill_by_processes(run, folder, 4)                    # ValueError as training itself raises
    cache = fill_by_ray(run, folder, ray, 8)                     # `ray` is connected already

Each worker loads the frozen parts, takes every n-th item of the list and writes shards of its own, so nobody
waits for anybody; a worker that dies leaves the rest of its share for the next time. Workers of a cluster see
clips and cache by the same paths: the folders lie on a disk that all of them have.
"""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pyramid.memory.threads import usable_cores
from pyramid.training.clip_dit import Run, fill_share, load_parts, read_recipe, source_checkpoint
from pyramid.training.clips.begin import begin
from pyramid.training.clips.cache import Cache, check_broken
from pyramid.training.clips.lists import open_list

WRITING = 10.0  # seconds that a process has for it when it is to end


def fill_part(run: Run, folder: Path, share: tuple[int, int]) -> list[str]:
    """What one worker does; returns what there is to say, of items that were skipped."""
    recipe = read_recipe(run)
    told: list[str] = []
    _, checkpoint = source_checkpoint(run, recipe)
    fill_share(run, recipe, load_parts(checkpoint, recipe.network.vae), folder, share, say=told.append)
    return told


def fill_by_processes(run: Run, folder: Path, count: int, say=print) -> Cache:
    """The complete cache, made by `count` processes. ValueError where one died: the same call goes on."""
    read_recipe(run)
    if count == 1:
        return _whole(run, folder, fill_part(run, folder, (0, 1)), say)
    context = multiprocessing.get_context("spawn")
    threads = max(1, min(torch.get_num_threads(), int(usable_cores())) // count)
    before = set(multiprocessing.active_children())
    parts: list[Future] = []
    with ProcessPoolExecutor(count, mp_context=context, initializer=begin, initargs=(threads,)) as pool:
        try:
            with _deaf():
                parts = [pool.submit(fill_part, run, folder, (rank, count)) for rank in range(count)]
            told = [line for part in parts for line in part.result()]
        except BrokenProcessPool:
            raise ValueError(
                "a process that filled the cache was ended (out of memory?): the same command goes on, "
                "with fewer --processes if need be"
            ) from None
        except BaseException:  # also Ctrl-C: they write what they have
            started = set(multiprocessing.active_children()) - before
            for process in started:
                process.terminate()
            wait(parts, timeout=WRITING)
            for process in started:
                process.kill()
            raise
    return _whole(run, folder, told, say)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that are started meanwhile do not hear Ctrl-C, which would make each of them tell where it
    was: the first one hears it, and ends them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def fill_by_ray(run: Run, folder: Path, ray: Any, count: int, say=print) -> Cache:
    """The complete cache, made by `count` tasks of a cluster. ValueError as the workers raise it."""
    read_recipe(run)
    cards = ray.cluster_resources().get("GPU", 0)
    task = ray.remote(num_cpus=1, num_gpus=1 if cards else 0)(fill_part)
    parts = [task.remote(run, folder, (rank, count)) for rank in range(count)]
    try:
        told = [line for lines in ray.get(parts) for line in lines]
    except ray.exceptions.RayTaskError as error:
        raise ValueError(f"a worker of the cluster failed: {error.cause}") from None
    except ray.exceptions.RayError as error:
        raise ValueError(f"a worker of the cluster was lost ({error}): the same command goes on") from None
    return _whole(run, folder, told, say)


def _whole(run: Run, folder: Path, told: list[str], say) -> Cache:
    """The cache that the workers have left, once it is good enough to train on."""
    for line in told:
        say(line)
    cache = Cache.open(folder, {}).use(open_list(run.data, run.root))
    check_broken(cache, read_recipe(run).data.most_broken)
    return cache
