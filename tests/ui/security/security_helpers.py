"""Started servers, and visitors who come with addresses of their own, for the attack suite.

The servers believe X-Forwarded-For of this machine (`--trusted-proxy`), so a test can be visitors whom nobody
has seen before, and no bound that one test reaches is felt by another.
"""

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

NUMBERS = count(1)
QUICK = {"num_inference_steps": [1, 1, 1], "video_num_inference_steps": [1, 1, 1], "num_frames": 9}
STILL = QUICK | {"num_frames": 1}
SLOW = {"num_inference_steps": [50] * 3, "video_num_inference_steps": [50] * 3}
GUARDED = ["--listen", "--trusted-proxy", "127.0.0.1"]


class Told(Exception):
    """What the server says of why something was not done."""


@dataclass
class Server:
    """A started program."""

    process: object
    url: str
    folder: Path  # the results
    uploads: Path
    config: dict = field(default_factory=dict)

    def visitor(self, address: str | None = None, **headers: str) -> "Visitor":
        number = next(NUMBERS)
        headers |= {"X-Forwarded-For": address or f"10.1.{number // 250}.{number % 250 + 1}"}
        http = httpx.Client(base_url=self.url, headers=headers, timeout=120)
        return Visitor(self, http, f"made-up-token-number-{number:04}")

    def jobs_of(self, visitor: "Visitor") -> int:
        """How many jobs a visitor has, whatever their state."""
        with closing(sqlite3.connect(self.folder / ".pyramid" / "jobs.sqlite", timeout=30)) as db:
            query = "SELECT count(*) FROM jobs WHERE owner = ?"
            return db.execute(query, [f"visitor:{visitor.token}"]).fetchone()[0]

    def memory(self, name: str) -> float:
        """MB of the program: VmRSS now, VmHWM the most since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{name}:")[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@dataclass
class Visitor:
    """Somebody with an address and a token, who speaks to the server as the page does."""

    server: Server
    http: httpx.Client
    token: str
    jobs: list[dict] = field(default_factory=list)  # to be stopped at the end of a test

    def upload(self, name: str, content: bytes) -> dict:
        answer = self.http.post("gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return file_of(answer.json()[0], name)

    def call(self, name: str, **arguments):
        """What an endpoint returns. Raises Told."""
        if name not in ("presets", "models"):
            arguments = {"token": self.token} | arguments
        joined = self.http.post(f"gradio_api/call/v2/{name}", json=arguments)
        if joined.status_code != 200:
            raise Told(joined.text)
        kind = ""
        with self.http.stream("GET", f"gradio_api/call/v2/{name}/{joined.json()['event_id']}") as answer:
            for line in answer.iter_lines():
                kind = line[7:] if line.startswith("event: ") else kind
                if line.startswith("data: ") and kind == "complete":
                    return json.loads(line[6:])[0]
                if line.startswith("data: ") and kind == "error":
                    raise Told(line[6:])
        raise Told("no answer")

    def event(self, name: str, event_data: dict | None = None, **fields):
        """What an event of the page returns; `fields` by the elem_id of a component, the others as the page
        opens. Raises Told.
        """
        if not self.server.config:
            self.server.config = self.http.get("config").json()
        config = self.server.config
        parts = {part["id"]: part for part in config["components"]}
        event = next(one for one in config["dependencies"] if one["api_name"] == name)
        data = []
        for part in (parts[number] for number in event["inputs"]):
            given = part["props"].get("elem_id") or part["type"]
            given = (
                self.token
                if part["type"] == "browserstate"
                else fields.get(given, part["props"].get("value"))
            )
            data.append(given)
        body = {
            "data": data,
            "fn_index": event["id"],
            "event_data": event_data,
            "session_hash": self.token[-12:],
        }
        joined = self.http.post("gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            raise Told(joined.text)
        with self.http.stream(
            "GET", "gradio_api/queue/data", params={"session_hash": self.token[-12:]}
        ) as answer:
            for line in answer.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise Told(json.dumps(message["output"]))
                    return message["output"]["data"]
        raise Told("no answer")

    def generate(self, prompt: str = "a red ball", settings: dict | None = None, **more) -> dict:
        return self.call("generate", prompt=prompt, settings=settings or (QUICK if more else STILL), **more)

    def ended(self, job: dict) -> dict:
        """A job once it has ended."""
        while (now := self.call("status", job_id=job["id"]))["state"] in ("queued", "running"):
            time.sleep(0.1)
        return now


def file_of(path: str, name: str = "") -> dict:
    return {"path": path, "orig_name": name or Path(path).name, "meta": {"_type": "gradio.FileData"}}
