"""What several tests share: the program run as a user does, an idle page, how far tensors differ."""

import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from forks import start

ROOT = Path(__file__).parent.parent
GOLDENS = Path(__file__).parent / "data" / "goldens"
SLOW_APP = Path(__file__).parent / "slow_app.py"
CALM = {"reduced_motion": "reduce"}  # of a page of a browser without a card, which draws animations by itself


def error(ours, theirs) -> float:
    """The largest difference of two tensors as a share of the largest value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@contextmanager
def idle_app(checkpoint: Path, folder: Path, limits=None):
    """What the page stands on, with a worker that loads nothing."""
    from pyramid.jobs.queue import JobStore
    from pyramid.jobs.record import Limits
    from pyramid.jobs.worker import Worker
    from pyramid.ui import App

    store = JobStore(folder, limits or Limits())
    worker = Worker(store, model=str(checkpoint), begin=threading.Event())
    yield App(store, worker, store.folder, store.limits)
    worker.close()
    store.close()


def left_of(app):
    """The form with all around it, not served."""
    import gradio as gr

    from pyramid.ui import page

    with gr.Blocks(analytics_enabled=False):
        return page.build_left(app)


@contextmanager
def program(
    folder: Path, *arguments: str, forked: bool = False, script: Path = ROOT / "app.py", **environment: str
):
    """app.py at work: (process, address of the page, the lines that it printed until it was there).

    `forked`: in a fork, for a test that is about the page and not about its start. `script`: what stands for
    app.py.
    """
    kind = {} if forked else {"fresh": True}
    command = [script, "--output-dir", folder / "outputs", *arguments]
    with start(*command, cwd=folder, env=environment, merged=True, **kind) as process:
        try:
            printed = []
            for line in process.stdout:
                printed.append(line)
                if found := re.search(r"The page is at (\S+)", line):
                    yield process, found[1], printed
                    break
            else:
                pytest.fail("app.py ended without serving a page: " + "".join(printed))
        finally:
            process.kill()


@contextmanager
def slowly_in(folder: Path):
    """Programs of SLOW_APP that were started in `folder` wait at each step, as long as its file is there."""
    mark = folder / "slowly"
    mark.touch()
    yield mark
    mark.unlink(missing_ok=True)


def tidy_form(page) -> None:
    """Bring back into a page's form what tests that share it count on."""
    if page.locator("#mode input:checked").input_value() != "text":
        page.locator("#mode").get_by_label("Text").check(force=True)
    seconds = page.locator("#seconds input[type=number]")
    if seconds.input_value() != "2":
        seconds.fill("2")
        seconds.blur()


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> str:
    """End it as a system does, or by another signal; the rest of what it printed."""
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(120) in (0, 130)
    return rest


def until(worker, true, seconds: float = 120):
    """Wait for a state of a worker's jobs: what `true` found."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"it does not come: {worker.lives} {worker.error}"
        worker.store.wait(worker.store.version, 0.02)
    return found


def finish(worker, job):
    """A job that has ended, and that no device is at any more."""
    until(worker, lambda: worker.store.get(job.id).over)
    until(worker, lambda: all(hand.run is None or hand.run.job.id != job.id for hand in worker.hands))
    return worker.store.get(job.id)
