"""Redis's client: whom it follows, whose password it uses, how long it waits between attempts."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from quantum_ess.guard.evaluate import Reading
from quantum_ess.guard.redissource import BACKOFF, RedisSource
from quantum_ess.guard.rules import Rules
from quantum_ess.redisclient import Client, Settings, Unavailable, password, same_place

MASTER, REPLICA = b"*1\r\n$6\r\nmaster\r\n", b"*1\r\n$5\r\nslave\r\n"


def bulk(*texts: object) -> bytes:
    """An array of texts, as a server sends it."""
    parts = [str(text).encode() for text in texts]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that answer SENTINEL and ROLE as told, and OK to all else; the port."""
    with ExitStack() as stack:

        def made(*, sentinel: bytes = b"*-1\r\n", role: bytes = MASTER) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    with connection:
                        while request := connection.recv(4096):
                            for command in request.split(b"\r\n*"):
                                known = {b"SENTINEL": sentinel, b"ROLE": role}
                                said = (r for word, r in known.items() if word in command)
                                connection.sendall(next(said, b"+OK\r\n"))

            threading.Thread(target=serve, daemon=True).start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return int(listener.getsockname()[1])

        yield made


def nobody() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def client(*ports: int) -> Client:
    """Connected to the master that these Sentinels name."""
    sentinels = " ".join(f"127.0.0.1:{port}" for port in ports)
    return Client(Settings({"redis.sentinel": sentinels, "redis.master": "trading"}))


def test_the_first_sentinel_that_names_a_living_master_counts(start: Start) -> None:
    """Others are dead, know none, name one that is dead, or one that is a replica by now."""
    master, replica = start(), start(role=REPLICA)
    answers = (b"*-1\r\n", *(bulk("127.0.0.1", port) for port in (nobody(), replica, master)))
    connected = client(nobody(), *(start(sentinel=answer) for answer in answers))
    assert connected.address == f"127.0.0.1:{master}"
    connected.close()


def test_no_master_is_a_reason(start: Start) -> None:
    with pytest.raises(Unavailable, match="no Sentinel knows a master 'trading'"):
        client(start())
    with pytest.raises(Unavailable, match="is a slave, not the master"):
        client(start(sentinel=bulk("127.0.0.1", start(role=REPLICA))))
    with pytest.raises(Unavailable):
        client(nobody())


@pytest.mark.parametrize(("mode", "said"), [(0o640, "mode 0600"), (0o604, "mode 0600")])
def test_a_password_that_others_can_read_is_not_used(tmp_path: Path, mode: int, said: str) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(mode)
    with pytest.raises(Unavailable, match=said):
        password(str(file))
    link = tmp_path / "link"
    link.symlink_to(file)
    for path in (link, tmp_path, tmp_path / "none"):
        with pytest.raises(Unavailable):
            password(str(path))
    if os.geteuid() == 0:
        file.chmod(0o600)
        assert password(str(file)) == "secret"


class Clock:
    """In place of the event that ends a source: notes each pause, ends after a dozen."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def is_set(self) -> bool:
        return len(self.pauses) >= 12


def test_attempts_to_connect_become_rare_and_are_not_made_in_step() -> None:
    posted: list[tuple[str, Reading]] = []
    seen = []
    for _ in range(2):
        rules = Rules(poll=30.0, redis={"redis.url": f"redis://127.0.0.1:{nobody()}/0"})
        source = RedisSource(rules, posted.extend)
        clock = Clock()
        source._ended = clock  # type: ignore[assignment]
        source.run()
        assert source.state == "down" and source.problem
        seen.append(clock.pauses)
        for number, pause in enumerate(clock.pauses):
            longest = min(0.05 * 2**number, BACKOFF)
            assert longest / 2 <= pause <= longest
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [  # URL and Sentinels
        (("redis://h",), ("rediss://u:p@H:6379/0",), True),
        (("redis://h/1",), ("redis://h?db=1",), True),
        (("redis://h/1",), ("redis://h/0",), False),
        (("redis://h",), ("redis://h:6380",), False),
        (("redis://[::1]",), ("redis://[::1]:6379",), True),
        (("redis://localhost/1",), ("redis://127.0.0.1:6379/1",), True),
        (("redis://localhost",), ("redis://[::1]",), True),
        (("redis://",), ("redis://127.0.0.1",), True),
        (("redis://localhost",), ("redis://127.0.0.1:6380",), False),
        (("redis://localhost",), ("redis://127.0.0.10",), False),
        (("redis://a", "localhost:1", "m"), ("redis://a", "127.0.0.1:1 u:1", "m"), True),
        (("unix:///run/r",), ("unix://u:p@/run/r?db=0",), True),
        (("unix:///run/r",), ("unix:///run/R",), False),
        (("redis://a/0", "s:1 t:1", "m"), ("redis://b", "t:1 u:1", "m"), True),
        (("redis://a/0", "s:1", "m"), ("redis://a/0", "u:1", "m"), False),
        (("redis://a/0", "s:1", "m"), ("redis://a/0", "s:1", "n"), False),
        (("redis://a/0", "s:1", "m"), ("redis://a/1", "s:1", "m"), False),
        (("redis://a/0", "s:1", "m"), ("redis://a/0",), False),
    ],
)
def test_the_same_redis(one: tuple[str, ...], other: tuple[str, ...], same: bool) -> None:
    names = ("redis.url", "redis.sentinel", "redis.master")
    places = [Settings(dict(zip(names, each, strict=False))).place() for each in (one, other)]
    assert same_place(*places) is same and same_place(*reversed(places)) is same
