"""What every test may count on: one thread, no network, a cache of its own, the goldens, a tiny checkpoint.

Run all with `python launch.py test`, one file with `python -m pytest -q tests/generate/test_schedule.py`.
"""

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import GOLDENS
from safetensors.torch import load_file

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
LONGEST = (  # by processor seconds
    "ui/test_page.py",
    "ui/test_results.py",
    "training/test_clip_dit.py",
    "ui/test_direct.py",
    "test_docs.py",
    "jobs/test_worker.py",
    "jobs/test_workers.py",
    "jobs/test_directing.py",
    "ui/security/test_inputs.py",
    "ui/security/test_visitors.py",
    "ui/security/test_page_markup.py",
    "ui/security/test_the_end.py",
    "ui/test_study.py",
    "ui/test_app.py",
    "test_field_cases.py",
    "test_types.py",
    "memory/test_parallel.py",
    "memory/test_ladder.py",
    "commands/test_batch.py",
    "training/test_vae_published.py",
    "ui/test_models.py",
)


def pytest_configure(config):
    """Before any test module is imported: neither downloads, nor the user's own cache, nor several threads.

    The models are too small to gain by a second thread, and one that waits for a busy core costs a lot.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["PYRAMID_CACHE"] = config.pyramid_cache = tempfile.mkdtemp(prefix="pyramid-tests-")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGHUP"):  # ignored here, as behind nohup, started programs ignore them too
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_unconfigure(config):
    shutil.rmtree(config.pyramid_cache, ignore_errors=True)


def pytest_collection_modifyitems(items):
    """The longest files come first: two processes share the files between them, and a long one at the end
    would run alone. Skip what needs a card where is none.
    """
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA card"))


@pytest.fixture(scope="module")
def browser():
    """Chromium, of which every test opens pages of its own. Skips where there is none."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip("no Chromium was found; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def goldens() -> dict:
    """The reference's tensors on tiny weights by name, and under "settings" the sizes and step counts."""
    settings = json.loads((GOLDENS / "golden.json").read_text())
    return load_file(GOLDENS / "golden.safetensors") | {"settings": settings}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A folder in the released layout (variant "128p") with tiny random weights, made once a run."""
    from tiny import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    """A tiny checkpoint of its own, for a test that changes or breaks it."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")
