"""A Redis that hangs, closes, trickles or answers nonsense: a text, within the time it has."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantum_ess import marker

SECONDS = 0.15  # what the plan allows for one step
BOUND = 2 * SECONDS + 0.5  # for the whole exchange, whatever happens
SLACK = 0.5  # of a busy machine
WANTED = marker.Marker("2026-01-28T00:15:23Z", {"event": "ess_activated", "timestamp": 1})


def options(url: str, seconds: float) -> dict[str, str]:
    """What the plan says of Redis."""
    return {"redis.url": url, "redis.timeout_ms": str(int(1000 * seconds))}


def good(request: bytes) -> bytes:
    """What Redis answers to these commands; clients of RESP3 begin with HELLO."""
    commands = [part for part in b"\n".join([b"", request]).split(b"\n*")[1:] if part]
    replies = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"SET": b"+OK\r\n", b"": b":1\r\n"}
    return b"".join(next(replies[n] for n in replies if n in command) for command in commands)


class Server:
    """Answers each request on each connection with the same bytes; then hangs or closes."""

    def __init__(self) -> None:
        self.answer, self.good, self.hang, self.pause = b"", False, False, 0.0
        self.done = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            if self.done.is_set():
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(BOUND)
            while request := connection.recv(65536):
                if self.good:
                    connection.sendall(good(request))
                elif self.pause:
                    for byte in self.answer:  # a byte at a time: no single read is late
                        self.done.wait(self.pause)
                        connection.sendall(bytes([byte]))
                else:
                    connection.sendall(self.answer)
                if self.hang:
                    self.done.wait(BOUND)
                    return
                if not self.answer and not self.good:
                    return

    def close(self) -> None:
        self.done.set()
        socket.create_connection(self.listener.getsockname()).close()
        for thread in self.threads:
            thread.join()
        self.listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def ask(server: Server) -> str | None:
    """One exchange; AssertionError if it takes longer than it may."""
    began = time.monotonic()
    problem = marker._bounded(options(server.url, SECONDS), SECONDS, WANTED)
    assert time.monotonic() - began < BOUND + SLACK
    assert problem is None or (problem and "\n" not in problem)
    return problem


pieces = st.sampled_from(
    [
        *(b"+OK\r\n", b":1\r\n", b"-ERR no\r\n", b"-NOAUTH x\r\n", b"-LOADING x\r\n", b"$-1\r\n"),
        *(b"$5\r\nab", b"$99999999999\r\n", b"*3\r\n", b"*-1\r\n", b"*9999999\r\n", b":x\r\n"),
        *(b"*1\r\n" * 3000, b"%2\r\n", b"_\r\n", b"#t\r\n", b",nan\r\n", b">1\r\n+x\r\n", b"\r\n"),
    ]
)


def test_any_answer(server: Server) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(pieces, max_size=4).map(b"".join) | st.binary(max_size=40))
    def check(answer: bytes) -> None:
        server.answer = answer
        told = ask(server)
        assert told is not None or b"+OK\r\n" in answer, "set, but the server has not said so"

    check()


@pytest.mark.parametrize("query", ["", "?decode_responses=True"])
def test_a_good_one(server: Server, query: str) -> None:
    server.good = True
    server.url += query
    assert ask(server) is None


@pytest.mark.parametrize("answer", [b"", b"+O", b"*9\r\n"])
def test_silence(server: Server, answer: bytes) -> None:
    server.answer, server.hang = answer, True
    assert ask(server)


def test_a_trickle(server: Server) -> None:
    server.answer, server.pause = b"+" + b"x" * 200, SECONDS / 3
    assert ask(server) == f"no answer within {BOUND:g} s"


def test_nobody_there(server: Server) -> None:
    server.url = "redis://127.0.0.1:1/0"
    assert ask(server)


def test_addresses_that_are_none() -> None:
    @settings(max_examples=40, deadline=None)
    @given(st.text(max_size=12).map(lambda rest: f"redis://127.0.0.1:1/{rest}") | st.text())
    def check(url: str) -> None:
        assert marker._bounded(options(url, 0.05), 0.05, WANTED)

    check()
