"""A PID 1 that refuses, hangs, closes or lies: Unreachable or Refused in time, nothing else."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jeepney import HeaderFields, Message, Parser, new_error, new_method_return

from quantum_ess import activate, plan, systemd
from quantum_ess.systemd import Manager, Refused, Unreachable

TIMEOUT = 0.1  # seconds for each call
SLACK = 0.5  # of a busy machine
ROWS = "a(ssssssouso)"
ROW = ("a.service", "", "loaded", "active", "running", "", "/x", 0, "", "/")

Answer = Callable[[Message, int], bytes]  # to that call, with a serial of one's own: raw bytes


def answer(signature: str, *body: object) -> Answer:
    """A well-formed reply with that body, whatever was asked."""

    def make(call: Message, serial: int) -> bytes:
        return bytes(new_method_return(call, signature, body).serialise(serial))

    return make


def error(signature: str | None, *body: object) -> Answer:
    """An error reply."""

    def make(call: Message, serial: int) -> bytes:
        return bytes(new_error(call, "org.example.No", signature, body).serialise(serial))

    return make


def raw(data: bytes) -> Answer:
    """Bytes, whatever was asked."""
    return lambda call, serial: data


def other(call: Message, serial: int) -> bytes:
    """A reply to another call."""
    reply = new_method_return(call, "s", ("x",))
    reply.header.fields[HeaderFields.reply_serial] = 1 << 30
    return bytes(reply.serialise(serial))


class FakeManager:
    """Answers the greeting like systemd, and then every call by `answer`."""

    def __init__(self, path: str) -> None:
        self.greeting = b"OK 0123456789abcdef0123456789abcdef\r\n"
        self.answer: Answer = answer("")
        self.greets = True
        self.closes = False
        self.done = threading.Event()
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
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
            said = b""
            while b"\r\n" not in said and (data := connection.recv(4096)):
                said += data
            connection.sendall(self.greeting)
            while b"BEGIN\r\n" not in said and (data := connection.recv(4096)):
                said += data
            parser, serial = Parser(), 0
            parser.add_data(said.partition(b"BEGIN\r\n")[2])
            while True:
                while (call := parser.get_next_message()) is not None:
                    serial += 1
                    if call.header.fields.get(HeaderFields.member) == "Ping" and self.greets:
                        connection.sendall(new_method_return(call).serialise(serial))
                        continue
                    connection.sendall(self.answer(call, serial))
                    if self.closes:
                        return
                if not (data := connection.recv(65536)):
                    return
                parser.add_data(data)

    def close(self) -> None:
        self.done.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        for thread in self.threads:
            thread.join()
        self.listener.close()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeManager]:
    fake = FakeManager(str(tmp_path / "private"))
    monkeypatch.setattr(systemd, "PRIVATE", fake.path)
    monkeypatch.setattr(systemd, "SYSTEM_BUS", str(tmp_path / "none"))
    yield fake
    fake.close()


CALLS: dict[str, Callable[[Manager], object]] = {
    "units": lambda manager: manager.units(["*"]),
    "busy": lambda manager: manager.busy(),
    "stop": lambda manager: manager.stop("a.service"),
    "start": lambda manager: manager.start("a.service"),
    "load": lambda manager: manager.load("a.service"),
    "get": lambda manager: manager.get("/x", "Unit", "Id"),
    "get_all": lambda manager: manager.get_all("/x", "Unit"),
    "restart": lambda manager: manager.restart("a.service"),
    "reset_failed": lambda manager: manager.reset_failed("a.service"),
    "covered": lambda manager: systemd.covered(manager, plan.Plan(plan.BUILT_IN, "")),
    "push": lambda manager: activate.push(manager, plan.Plan(plan.BUILT_IN, "")),
}


def ask(call: Callable[[Manager], object], timeout: float = TIMEOUT) -> tuple[str, Any]:
    """What came of one call on a new connection; AssertionError if it took too long."""
    began = time.monotonic()
    try:
        with Manager(timeout=timeout) as manager:
            result: tuple[str, Any] = "answer", call(manager)
    except Unreachable as problem:
        result = "Unreachable", str(problem)
    except Refused as problem:
        result = "Refused", str(problem)
    assert time.monotonic() - began < 3 * timeout + SLACK
    return result


# Bodies of any type: a signature and a value of it.
simple: st.SearchStrategy[tuple[str, object]] = st.one_of(
    st.tuples(st.just("s"), st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=6)),
    st.tuples(st.just("u"), st.integers(0, (1 << 32) - 1)),
    st.tuples(st.just("d"), st.floats()),
    st.tuples(st.just("b"), st.booleans()),
    st.tuples(st.just("ay"), st.binary(max_size=6)),
    st.tuples(st.just("o"), st.sampled_from(["/", "/x/y"])),
    st.tuples(st.just("as"), st.lists(st.just("x"), max_size=3)),
    st.tuples(st.just(ROWS), st.lists(st.just(ROW), max_size=2)),
    st.tuples(st.just("(su)"), st.just(("x", 1))),
    st.tuples(st.just("a{sv}"), st.just({"x": ("u", 1)})),
    st.tuples(st.just("v"), st.sampled_from([("s", "x"), ("u", 1), ("v", ("s", "x"))])),
)
bodies = st.lists(simple, max_size=3).map(lambda parts: list(zip(*parts, strict=True)) or [(), ()])
patient = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", CALLS)
def test_bodies_of_any_type(fake: FakeManager, name: str) -> None:
    @patient
    @given(bodies, st.booleans())
    def check(body: list[tuple[Any, ...]], wrong: bool) -> None:
        signature = "".join(body[0])
        fake.answer = error(signature, *body[1]) if wrong else answer(signature, *body[1])
        kind, said = ask(CALLS[name], 10.0)  # it answers at once, on a machine that lets it
        if wrong:
            assert kind == "Refused"
        if kind == "answer" and name == "units":
            assert all(isinstance(text, str) for unit in said for text in unit[:5])

    check()


def test_bytes_of_any_kind(fake: FakeManager) -> None:
    head = struct.pack("<cBBBIII", b"l", 2, 0, 1, 0, 1, 0)

    @patient
    @example(b"l\x02\0\x01\xff\xff\xff\xff" + b"\0" * 20)
    @example(b"l\x02\0\x01\0\0\0\0\1\0\0\0\xff\xff\xff\x7f")
    @given(st.binary(min_size=1, max_size=60) | st.binary(max_size=40).map(head.__add__))
    def check(data: bytes) -> None:
        fake.answer = raw(data)
        fake.closes = not fake.closes
        assert ask(CALLS["units"])[0] == "Unreachable"

    check()


def test_good_replies_cut_short_or_altered(fake: FakeManager) -> None:
    @patient
    @given(st.integers(0, 400), st.integers(0, 255), st.booleans())
    def check(place: int, value: int, cut: bool) -> None:
        short = []

        def make(call: Message, serial: int) -> bytes:
            data = bytearray(answer(ROWS, [ROW, ROW])(call, serial))
            short.append(cut and place < len(data))
            if cut:
                return bytes(data[:place])
            data[place % len(data)] = value
            return bytes(data)

        fake.answer, fake.closes = make, place % 2 == 0
        kind, _ = ask(CALLS["units"])
        assert kind == "Unreachable" or not any(short), "half a reply was taken for one"

    check()


def test_a_good_reply(fake: FakeManager) -> None:
    fake.answer = answer(ROWS, [ROW])
    kind, units = ask(CALLS["units"])
    assert kind == "answer"
    assert (units[0].name, units[0].active, units[0].at_rest) == ("a.service", "active", False)


@pytest.mark.parametrize("reply", [raw(b""), other, lambda c, s: other(c, s) * 2000])
@pytest.mark.parametrize("name", CALLS)
def test_no_reply(fake: FakeManager, name: str, reply: Answer) -> None:
    """Silence, and replies to what nobody asked."""
    fake.answer = reply
    assert ask(CALLS[name])[0] == "Unreachable"


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("reply", [raw(b""), raw(b"junk" * 9), error("s", "no"), error("u", 1)])
def test_a_greeting_that_goes_wrong(fake: FakeManager, reply: Answer, closes: bool) -> None:
    """The ping that comes before all else: hung, nonsense, refused, cut off."""
    fake.greets, fake.answer, fake.closes = False, reply, closes
    began = time.thread_time()
    assert ask(CALLS["units"])[0] == "Unreachable"
    assert time.thread_time() - began < TIMEOUT / 2, "a closed connection is asked again and again"


@pytest.mark.parametrize(
    "greeting",
    [b"", b"REJECTED\r\n", b"OK", b"ERROR\r\n", b"\0" * 5000, b"\xff\r\n", b"OK\r\n" * 9],
)
def test_an_authentication_that_goes_wrong(fake: FakeManager, greeting: bytes) -> None:
    fake.greeting, fake.greets = greeting, greeting.startswith(b"OK\r\n")
    fake.answer = raw(b"")
    assert ask(CALLS["units"])[0] == "Unreachable"


def test_what_dbus_cannot_carry(fake: FakeManager) -> None:
    """Names and paths that can't be sent at all."""
    assert ask(lambda manager: manager.stop("\ud800"))[0] == "Refused"
    fake.answer = answer(ROWS.replace("ou", "su"), [(*ROW[:6], "no path", *ROW[7:])])
    assert ask(lambda manager: manager.get(manager.units(["*"])[0].path, "Unit", "Id"))[0] in (
        "Refused",
        "Unreachable",
    )


def test_waiting(fake: FakeManager) -> None:
    """`wait` says whether the connection is good for waiting, and never raises."""

    @patient
    @given(st.binary(max_size=30))
    def check(data: bytes) -> None:
        fake.answer, fake.closes = raw(data), True
        with Manager(timeout=5.0) as manager:  # it answers at once; on a busy machine that is late
            with suppress(Unreachable, Refused):
                manager.stop("a.service")
            assert manager.wait(0.01) in (True, False)

    check()
