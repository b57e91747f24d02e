"""Whether the page stands many who ask at once, and many jobs. Run by hand:

    python tools/load.py                            20 clients for 60 seconds while jobs run, then 50 jobs
    python tools/load.py --clients 50 --seconds 10 --jobs 0

It starts the program on the embedded model. Each client asks for the status of a job once a second, as
programs do that wait for one: in a session of its own, as gradio_client does, or with `--strangers` without
one, as curl does, which has Gradio begin a session for each question. Printed are the errors, the 50th and
95th percentile of the answers' seconds, and the program's memory after each ten jobs. It fails on an error, a
95th percentile above half a second, or memory that grows by more than 20 MB over the last 40 jobs.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from watchers import address, program

STEPS = {"num_inference_steps": [10, 10, 10], "video_num_inference_steps": [10, 10, 10]}
SHORT = {"num_inference_steps": [1, 1, 1], "video_num_inference_steps": [1, 1, 1], "num_frames": 9}
MOST = 0.5  # seconds: the 95th percentile of a status
GROWTH = 20.0  # MB over the last jobs
WARM = 10  # jobs after which memory is compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--jobs", type=int, default=50, help="after that, to see whether memory grows")
    parser.add_argument("--strangers", action="store_true", help="ask without a session")
    parser.add_argument("--model", default="embedded")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, program(options.model, folder) as process:
        return asyncio.run(measure(address(process), psutil.Process(process.pid), options))


async def measure(url: str, process: psutil.Process, options: argparse.Namespace) -> int:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        await ended(client, (await call(client, "generate", prompt="the first", settings=SHORT))["id"])
        good = await load(client, options) if options.clients and options.seconds else True
        return int(not (good and (await flat(client, process, options.jobs) if options.jobs else True)))


async def load(client: httpx.AsyncClient, options: argparse.Namespace) -> bool:
    """Many who ask, while jobs run. Whether all were answered, and soon."""
    taken: list[float] = []
    errors: list[str] = []
    end = time.monotonic() + options.seconds
    asked = asyncio.create_task(keep_busy(client, end))
    await asyncio.sleep(1)
    job = (await call(client, "generate", prompt="who waits", settings=STEPS))["id"]
    sessions = [None if options.strangers else f"client{number}" for number in range(options.clients)]
    await asyncio.gather(*(ask(client, job, session, end, taken, errors) for session in sessions))
    await asked
    taken.sort()
    middle, late = taken[len(taken) // 2], taken[int(len(taken) * 0.95)]
    print(
        f"{options.clients} clients, {options.seconds:g} s: {len(taken)} answers, {len(errors)} errors, "
        f"median {middle:.3f} s, 95 % within {late:.3f} s, the slowest {taken[-1]:.3f} s",
        *errors[:3],
        sep="\n",
        flush=True,
    )
    return not errors and late < MOST


async def ask(
    client: httpx.AsyncClient,
    job: str,
    session: str | None,
    end: float,
    taken: list[float],
    errors: list[str],
) -> None:
    """One client: a status a second."""
    await asyncio.sleep(random.random())
    while (began := time.monotonic()) < end:
        try:
            if session is None:
                await call(client, "status", job_id=job)
            else:
                body = {"data": [job, ""], "session_hash": session}
                await answer_of(client, "call/status", body)
            taken.append(time.monotonic() - began)
        except (httpx.HTTPError, RuntimeError) as error:
            errors.append(repr(error))
        await asyncio.sleep(max(0.0, began + 1 - time.monotonic()))


async def keep_busy(client: httpx.AsyncClient, end: float) -> None:
    while time.monotonic() < end:
        await ended(client, (await call(client, "generate", prompt="a red ball", settings=STEPS))["id"])


async def flat(client: httpx.AsyncClient, process: psutil.Process, jobs: int) -> bool:
    """Many short jobs, one after the other. Whether memory stays what it was after the first."""
    used = []
    for number in range(jobs):
        job = await call(client, "generate", prompt=f"job {number}", settings=SHORT)
        await ended(client, job["id"])
        used.append(process.memory_info().rss / 1e6)
    shown = " ".join(f"{value:.0f}" for value in used[WARM - 1 :: 10])
    warm = used[min(WARM, len(used)) - 1]
    print(f"{jobs} jobs: {shown} MB after each ten, {used[-1] - warm:+.1f} MB since the tenth", flush=True)
    return used[-1] - warm < GROWTH


async def ended(client: httpx.AsyncClient, job: str) -> None:
    while (await call(client, "status", job_id=job))["state"] in ("queued", "running"):
        await asyncio.sleep(0.2)


async def call(client: httpx.AsyncClient, name: str, **arguments) -> dict:
    """What an endpoint returns. RuntimeError where it says that something is wrong."""
    return await answer_of(client, f"call/v2/{name}", arguments)


async def answer_of(client: httpx.AsyncClient, address: str, body: dict) -> dict:
    """What comes back once `body` is sent to an address. RuntimeError where something is wrong."""
    joined = (await client.post(f"gradio_api/{address}", json=body)).raise_for_status()
    kind = ""
    async with client.stream("GET", f"gradio_api/{address}/{joined.json()['event_id']}") as answer:
        async for line in answer.aiter_lines():
            kind = line[7:] if line.startswith("event: ") else kind
            if line.startswith("data: ") and kind == "complete":
                return json.loads(line[6:])[0]
            if line.startswith("data: ") and kind == "error":
                raise RuntimeError(line[6:])
    raise RuntimeError(f"{address} was not answered")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main())
