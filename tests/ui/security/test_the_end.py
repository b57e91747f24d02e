"""SIGTERM ends the program within seconds: while the model loads, and with all at once that may be under way:
open pages, an upload, a job.
"""

import os
import signal
import socket
import time

import pytest
from helpers import program
from security_helpers import GUARDED, SLOW, Server

WITHIN = 5  # seconds
pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows knows no SIGTERM")


def seconds_to_end(process) -> float:
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    return time.monotonic() - began


def connect(server: Server, text: str) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2])), timeout=60)
    line.sendall(text.replace("\n", "\r\n").encode())
    return line


def test_it_ends_while_the_model_loads(tiny_checkpoint, tmp_path):
    with program(tmp_path, "--model", str(tiny_checkpoint)) as (process, _, _):
        assert seconds_to_end(process) < WITHIN


def test_it_ends_whatever_is_under_way(tiny_checkpoint, tmp_path):
    flags = [*GUARDED, "--public", "--model", str(tiny_checkpoint)]
    with program(tmp_path, *flags) as (process, url, _):
        server = Server(process, url.replace("0.0.0.0", "127.0.0.1"), tmp_path / "outputs", tmp_path)
        ana = server.visitor()
        job = ana.generate(settings=SLOW)
        while not ana.call("status", job_id=job["id"]).get("progress"):
            time.sleep(0.1)
        open_lines = [
            connect(server, "GET /gradio_api/heartbeat/abc HTTP/1.1\nHost: x\n\n"),
            connect(server, "GET /gradio_api/queue/data?session_hash=abc HTTP/1.1\nHost: x\n\n"),
            connect(
                server,
                "POST /gradio_api/upload HTTP/1.1\nHost: x\nContent-Length: 9000000\n"
                "Content-Type: multipart/form-data; boundary=b\n\n--b\nContent-Disposition: form-data; "
                'name="files"; filename="a.png"\n\nbegun',
            ),
        ]
        assert open_lines[0].recv(15).startswith(b"HTTP/1.1 200")
        assert seconds_to_end(process) < WITHIN
        for line in open_lines:
            line.close()
