"""Programs in processes of their own that need not import torch, diffusers and Gradio anew, which takes
seconds: they are forked from one that has (`multiprocessing`'s forkserver).

    with start("-m", "pyramid", "generate", "--prompt", "a ball", cwd=folder) as process:
        said, errors = process.communicate()

Not for a test of what a start itself does, as what it imports or which variables it sets for torch. Elsewhere
than on Linux, where a fork of a program with threads and frameworks is not safe, `start` is `Popen`.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).parent.parent
PRELOADED = [
    "pyramid.generate.for_diffusers",
    "pyramid.commands.cli",
    "pyramid.ui.page",
    "pyramid.jobs.worker",
]
PRELOADED += ["pyramid.training.clip_dit", "peft"]


def start(
    *words: str | Path,
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
    merged: bool = False,
    quiet: bool = False,
    fresh: bool = sys.platform != "linux",
) -> "subprocess.Popen | Forked":
    """Run a script, `-m` and a module, or `-c` and code. `merged`: errors come in the output, line by line.
    `quiet`: nobody reads what it says. `fresh`: with a Python that has imported nothing.
    """
    values = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    arguments = list(map(str, words))
    if not fresh:
        return Forked(arguments, str(cwd), values, 0 if quiet else 2 - merged)
    out = subprocess.DEVNULL if quiet else subprocess.PIPE
    errors = subprocess.STDOUT if merged else out
    command = [sys.executable, "-u", *arguments]
    own = {"start_new_session": True, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=values, stdout=out, stderr=errors, **own)


def joined(*words: str | Path, count: int = 2) -> str:
    """Run it as so many processes, told of each other as by torchrun; what the first said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    processes = [start(*words, env=shared | rank) for rank in ranks]
    try:
        with ThreadPoolExecutor(count) as pool:
            said = list(pool.map(lambda process: process.communicate(timeout=500), processes))
    finally:
        for process in processes:
            process.kill()
    assert not any(process.wait() for process in processes), "\n".join(errors[-3000:] for _, errors in said)
    return said[0][0]


class Forked:
    """A forked program, with what tests use of `subprocess.Popen`."""

    def __init__(self, words: list[str], cwd: str, env: dict[str, str], count: int):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        outputs = [context.Pipe(duplex=False) for _ in range(count)]
        ends = [end for _, end in outputs]
        self.process = context.Process(target=_run, args=(words, cwd, env, ends))
        self.process.start()
        for end in ends:
            end.close()
        self._streams = [os.fdopen(os.dup(end.fileno()), "r", errors="replace") for end, _ in outputs]
        self.stdout, self.stderr = [*self._streams, None, None][:2]
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    poll = returncode.fget

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it says, until it ends."""
        said: list[str] = ["", ""]
        readers = [Thread(target=_read, args=(stream, said, n)) for n, stream in enumerate(self._streams)]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return said[0], said[1]

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *error) -> None:
        for stream in self._streams:
            stream.close()
        self.wait()


def _read(stream, said: list[str], place: int) -> None:
    said[place] = stream.read()


def _run(words: list[str], cwd: str, env: dict[str, str], outputs: list[Connection]) -> None:
    """In the fork: become the program, with its children in a group of its own."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    numbers = [output.fileno() for output in outputs] or [nowhere]
    os.dup2(numbers[0], 1)
    os.dup2(numbers[-1], 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
