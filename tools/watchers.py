"""How much a job is slowed by those who watch it. Run by hand, on a machine that does nothing else:

    python tools/watchers.py  20 watchers, the embedded model, four jobs with and four without
    python tools/watchers.py --watchers 50 --rounds 2

It starts the program, opens as many connections as pages would, each following the running job as a page does
(the same endpoint, the same updates, read as fast as they come), and compares the job's seconds, and the
processor's seconds that the program took, with and without them, in turns. Real visitors have machines of
their own; here they are another process on the program's. It runs at the lowest priority, so that it takes
what the program leaves: what is measured is what serving costs. On a machine of few cores a little of the
reading still counts against the program.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
from gradio_client import Client

ROOT = Path(__file__).resolve().parent.parent
STEPS = {"num_inference_steps": [10, 10, 10], "video_num_inference_steps": [10, 10, 10]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watchers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4, help="jobs with watchers, and as many without")
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, program(options.model, folder) as process:
        url = address(process)
        client = Client(url, verbose=False, download_files=False)
        run(client)  # the first job also loads the model
        alone, watched = [], []
        for _ in range(options.rounds):
            seconds, cpu = measured(client, process)
            alone.append(seconds)
            print(f"alone {seconds:.2f} s ({cpu:.2f} s of processors)", end=", ", flush=True)
            with Watchers(url, options.watchers) as watchers:
                before = watchers.read.value, watchers.bytes.value
                seconds, cpu = measured(client, process)
                updates, size = watchers.read.value - before[0], watchers.bytes.value - before[1]
            watched.append(seconds)
            print(
                f"{options.watchers} watching {seconds:.2f} s ({cpu:.2f} s of processors, {updates} "
                f"updates of {size / max(updates, 1) / 1e3:.1f} kB)",
                flush=True,
            )
    ratio = statistics.median(watched) / statistics.median(alone)
    print(
        f"median alone {statistics.median(alone):.2f} s, watched {statistics.median(watched):.2f} s: "
        f"{(ratio - 1) * 100:+.1f} %"
    )


@contextmanager
def program(model: str, folder: str):
    """app.py at work, ended afterwards."""
    command = [sys.executable, "-u", str(ROOT / "app.py"), "--model", model, "--output-dir", folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()  # its last words are read: they would meet a closed pipe


def address(process: subprocess.Popen) -> str:
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise SystemExit("the program ended without serving a page")


def run(client: Client) -> float:
    """One job to its end: the seconds between its start and its end, as the server keeps them."""
    job = client.predict("a red ball moves to the right", seed=1, settings=STEPS, api_name="/generate")
    while not job["ended"]:
        asyncio.run(asyncio.sleep(0.5))
        job = client.predict(job["id"], api_name="/status")
    if job["state"] != "done":
        raise SystemExit(f"the job is {job['state']}: {job['error']}")
    return job["ended"] - job["started"]


def measured(client: Client, process: subprocess.Popen) -> tuple[float, float]:
    """`run`, and the seconds of processors that the program took meanwhile."""
    program = psutil.Process(process.pid)
    before = program.cpu_times()
    seconds, after = run(client), program.cpu_times()
    return seconds, after.user + after.system - before.user - before.system


class Watchers:
    """So many pages that follow what runs, in a process of their own."""

    def __init__(self, url: str, count: int):
        self.read, self.bytes = (multiprocessing.Value("q", 0) for _ in range(2))
        self.ready = multiprocessing.Event()
        told = url, count, self.read, self.bytes, self.ready
        self.process = multiprocessing.Process(target=watch_all, args=told, daemon=True)

    def __enter__(self) -> "Watchers":
        self.process.start()
        self.ready.wait()
        return self

    def __exit__(self, *error) -> None:
        self.process.terminate()
        self.process.join()


def watch_all(url: str, count: int, *told) -> None:
    if hasattr(os, "nice"):  # Windows has none
        os.nice(19)
    asyncio.run(_watch_all(url, count, *told))


async def _watch_all(url: str, count: int, read, size, ready) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        config = (await client.get("config")).json()
        index = next(d["id"] for d in config["dependencies"] if d["api_name"] == "watch")
        inputs = len(next(d for d in config["dependencies"] if d["id"] == index)["inputs"])
        tasks = [asyncio.create_task(watch(client, index, inputs, read, size)) for _ in range(count)]
        while read.value < count and not any(task.done() for task in tasks):
            await asyncio.sleep(0.05)
        ready.set()
        await asyncio.gather(*tasks)


async def watch(client: httpx.AsyncClient, index: int, inputs: int, read, size) -> None:
    """One page: it asks to watch, reads what comes, and asks again when that ends."""
    session = uuid.uuid4().hex[:10]
    while True:
        asked = {"data": ["a-page"] * inputs, "fn_index": index, "session_hash": session, "event_data": None}
        (await client.post("gradio_api/queue/join", json=asked)).raise_for_status()
        async with client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as answer:
            async for line in answer.aiter_lines():
                if '"process_generating"' in line:
                    with read.get_lock():
                        read.value += 1
                    with size.get_lock():
                        size.value += len(line)
                if '"process_completed"' in line and not json.loads(line[5:]).get("success", True):
                    raise SystemExit(f"watching failed: {line}")


if __name__ == "__main__":
    main()
