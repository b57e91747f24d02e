"""What several tests share: the program run as a user does, an idle page, how far tensors differ."""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GOLDENS = Path(__file__).parent / "data" / "goldens"


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
def program(folder: Path, *arguments: str, **environment: str):
    """app.py at work: (process, address of the page, the lines that it printed until it was there)."""
    command = [sys.executable, "-u", str(ROOT / "app.py"), "--output-dir", str(folder / "outputs")]
    values = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, *arguments], env=values, cwd=folder, **streams) as process:
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


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> str:
    """End it as a system does, or by another signal; the rest of what it printed."""
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait(120) in (0, 130)
    return rest
