"""A server in the Hub's form for tests: one repository, its files, and what goes wrong with them."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """One repository, `someone/tiny`: its listing and its files. What goes wrong is set by the tests."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Answer)
        self.folder = folder
        self.breaks: dict[str, int] = {}  # path -> how often an answer still ends half-way
        self.damaged: dict[str, int] = {}  # path -> how often a wrong byte is still sent
        self.ranges, self.hashes, self.refuse = True, True, 0
        self.asked: list[tuple[str, int]] = []  # (path, first byte) of every request for a file
        self.half = threading.Event()  # half of a file went out, and
        self.go_on = threading.Event()  # the rest waits for this
        self.go_on.set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self) -> dict:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return {
            "id": "someone/tiny",
            "modelId": "someone/tiny",
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "cardData": {"license": "apache-2.0"},
            "siblings": [self.entry(path) for path in files],
        }

    def entry(self, path: Path) -> dict:
        data, name = path.read_bytes(), path.relative_to(self.folder).as_posix()
        if not self.hashes:
            return {"rfilename": name, "size": len(data)}
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        large = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"rfilename": name, "size": len(data), "blobId": git} | (
            {"lfs": large} if len(data) > 10_000 else {}
        )


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        hub: Hub = self.server
        if hub.refuse:
            self.send_error(hub.refuse)
        elif self.path.startswith("/api/models/someone/tiny"):
            self.reply(json.dumps(hub.listing()).encode(), "application/json")
        elif self.path.startswith(f"/someone/tiny/resolve/{COMMIT}/"):
            self.send_file(self.path.split(COMMIT + "/")[1])
        else:
            self.send_error(404)

    def reply(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_file(self, name: str) -> None:
        hub: Hub = self.server
        data = (hub.folder / name).read_bytes()
        start = int(self.headers["Range"][6:-1]) if hub.ranges and self.headers["Range"] else 0
        hub.asked.append((name, start))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        rest = data[start:]
        if hub.damaged.get(name, 0):
            hub.damaged[name] -= 1
            rest = rest[:-1] + bytes([rest[-1] ^ 1])
        self.wfile.write(rest[: len(rest) // 2])
        hub.half.set()
        hub.go_on.wait(60)
        if hub.breaks.get(name, 0):
            hub.breaks[name] -= 1
            self.close_connection = True  # with half of what was announced unsent
            return
        self.wfile.write(rest[len(rest) // 2 :])

    def log_message(self, *args):
        pass


@contextmanager
def serving(server: Hub):
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
