"""The program itself: it starts, serves, ends and starts again. What the page does is in test_page.py."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from helpers import end, program

from pyramid.ui.api import OWN
from pyramid.ui.api_direct import DIRECTING

ROOT = Path(__file__).parent.parent.parent


def test_the_page_is_built_without_waiting_for_torch():
    code = """
import sys, tempfile, threading, app
from pyramid.ui import page
options = app.parse(["--output-dir", tempfile.mkdtemp()])
made = app.make_app(options, True, threading.Event())
page.build(made)
print("torch" in sys.modules or "moviepy" in sys.modules)
made.worker.close()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["False"], done.stderr


@pytest.mark.skipif(os.name != "posix", reason="Windows knows no SIGHUP")
def test_what_runs_is_taken_up_again_at_the_next_start_and_the_queue_survives(tiny_checkpoint, tmp_path):
    slow = {"num_inference_steps": [200] * 3, "video_num_inference_steps": [200] * 3}
    with program(tmp_path, "--model", str(tiny_checkpoint)) as (process, address, _):
        assert httpx.get(address).status_code == 200
        client = Client(address, verbose=False, download_files=False)
        named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
        assert set(named) == {f"/{name}" for name in (*OWN, *DIRECTING)}, "and no event's"
        first, second = (
            client.predict(name, settings=slow, api_name="/generate") for name in ("first", "second")
        )
        while not client.predict(first["id"], api_name="/status").get("progress"):
            pass
        client.close()  # a page that stays open is given 5 seconds
        assert "Traceback" not in end(process, signal.SIGHUP)  # its terminal was closed
    with program(tmp_path, "--model", str(tiny_checkpoint)) as (process, address, _):
        client = Client(address, verbose=False, download_files=False)
        state = client.predict(first["id"], api_name="/status")["state"]
        assert state in ("queued", "running")
        assert client.predict(second["id"], api_name="/status")["state"] == "queued"
        for job in (second, first):
            client.predict(job["id"], api_name="/stop")
        while client.predict(first["id"], api_name="/status")["state"] == "running":
            pass
        again = client.predict(first["id"], api_name="/resume")
        assert again["state"] in ("queued", "running")
        client.predict(again["id"], api_name="/stop")
        client.close()
        end(process)


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, str(ROOT / "app.py"), "--port", port, "--output-dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert (
        last.startswith(f"error: port {port} cannot be had")
        and "--port" in last
        and "GRADIO" not in done.stderr
    )


def test_a_share_link_that_fails_is_a_notice_and_the_page_is_there(tiny_checkpoint, tmp_path):
    nowhere = {
        "GRADIO_SHARE_SERVER_ADDRESS": "127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "HTTPS_PROXY": "127.0.0.1:9",
    }
    flags = ["--share", "--public", "--model", str(tiny_checkpoint)]
    with program(tmp_path, *flags, **nowhere) as (process, address, _):
        assert "note: there is no public link" in process.stdout.readline()
        config = httpx.get(address + "config").json()
        assert config["max_file_size"] == 50_000_000
        assert str(tmp_path) not in json.dumps(config)
        end(process)
