"""The endpoints alone as a running server, and what its tests ask for.

page, app = serve(folder, checkpoint, local=False)
done = wait(client, client.predict("a red ball", settings=QUICK, api_name="/generate"))
close(page, app)
"""

import time
from pathlib import Path

from gradio_client import Client

from pyramid.jobs.queue import JobStore, Limits
from pyramid.jobs.worker import Worker
from pyramid.ui import App
from pyramid.ui.api import register_api
from pyramid.ui.errors import Telling
from pyramid.ui.security.guard import doors

QUICK = {"num_inference_steps": [1, 1, 1], "video_num_inference_steps": [1, 1, 1], "num_frames": 9}
SLOW = {"num_inference_steps": [200] * 3, "video_num_inference_steps": [200] * 3}
TOKENS = "a-secret-of-the-first", "a-secret-of-the-other"


def serve(folder: Path, checkpoint: Path, *, local: bool, accounts=None, limits=None, mcp=False):
    """The endpoints alone as a running server: (page, app)."""
    store = JobStore(folder, limits or Limits())
    app = App(store, Worker(store, model=str(checkpoint)), store.folder, store.limits, local)
    with Telling(app, analytics_enabled=False) as page:
        register_api(app)
    page.launch(prevent_thread_lock=True, quiet=True, mcp_server=mcp, **doors(app, accounts))
    return page, app


def close(page, app) -> None:
    page.close(verbose=False)
    app.worker.close()
    app.store.close()


def wait(client: Client, job: dict, until=lambda job: job["ended"], **token) -> dict:
    """The job once `until` holds."""
    end = time.monotonic() + 180
    while not until(job):
        assert time.monotonic() < end and not (job["ended"] and job["error"]), job
        time.sleep(0.1)
        job = client.predict(job["id"], **token, api_name="/status")
    return job
