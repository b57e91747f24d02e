"""Connections that ask for nothing are closed, and those that ask are not."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import uvicorn

from pyramid.ui.security.connections import MOST, Silence
from pyramid.ui.security.proxies import Proxies


class Connection:
    def __init__(self, address, cycle=None):
        self.client = (address, 1)
        self.cycle = cycle


def silence(connections, proxies=(), at=0.0):
    state = SimpleNamespace(connections=connections)
    now = [at]
    return Silence(SimpleNamespace(server_state=state), Proxies(proxies), clock=lambda: now[0]), now


def test_a_connection_has_some_seconds_for_the_head_of_a_request():
    busy = Connection("1.2.3.4", SimpleNamespace(response_complete=False))
    slow = Connection("1.2.3.4")
    again = Connection("1.2.3.4", SimpleNamespace(response_complete=True))
    watch, now = silence({busy, slow, again})
    assert watch.silent() == []
    now[0] = 15
    again.cycle = SimpleNamespace(response_complete=True)  # it asked for something meanwhile
    assert watch.silent() == []
    now[0] = 21
    assert watch.silent() == [slow]
    now[0] = 36
    assert watch.silent() == [slow, again] or watch.silent() == [again, slow]


def test_an_address_has_so_many_of_them_and_a_proxy_as_many_as_it_likes():
    eve = [Connection("1.2.3.4") for _ in range(MOST + 5)]
    ana = Connection("5.6.7.8")
    proxy = [Connection("10.0.0.5") for _ in range(MOST + 5)]
    watch, _ = silence([*eve, ana, *proxy], ["10.0.0.0/8"])
    assert watch.silent() == eve[MOST:]
    home = [Connection(f"2001:db8::{number:x}") for number in range(MOST + 5)]  # of one network
    watch, _ = silence(home)
    assert watch.silent() == home[MOST:]


@contextmanager
def started(app):
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


async def slow(scope, receive, send):
    """An answer that takes longer than a head may."""
    if scope["type"] == "http":
        await asyncio.sleep(1.5)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here it is"})


def test_a_real_server_closes_them_and_answers_the_others():
    with started(slow) as (server, port):
        Silence(server, Proxies(), patience=0.5).begin(pause=0.1)
        nothing, half, whole = (socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(3))
        half.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        whole.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert nothing.recv(10) == b"" and half.recv(10) == b""
        answer = b"".join(iter(lambda: whole.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"here it is\r\n0\r\n\r\n")


@pytest.mark.parametrize("name", ["cycle", "client", "transport", "loop"])
def test_what_is_read_of_uvicorn_is_there(name):
    from uvicorn.protocols.http.h11_impl import H11Protocol

    config = uvicorn.Config(slow)
    config.load()
    made = H11Protocol(config, uvicorn.server.ServerState(), {}, asyncio.new_event_loop())
    assert hasattr(made, name) and hasattr(uvicorn.protocols.http.h11_impl.RequestResponseCycle, "run_asgi")
