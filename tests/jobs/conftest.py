"""What the tests of jobs share: a worker at work on the tiny checkpoint."""

import pytest

from pyramid.jobs.queue import JobStore
from pyramid.jobs.worker import Worker


@pytest.fixture(scope="module")
def worker(tiny_checkpoint, tmp_path_factory):
    """With a folder of its own, for all tests of a file."""
    store = JobStore(tmp_path_factory.mktemp("outputs"))
    worker = Worker(store, model=str(tiny_checkpoint))
    yield worker
    worker.close()
    store.close()
