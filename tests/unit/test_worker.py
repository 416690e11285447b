"""Calls that may hang: nobody waits for them longer than their limit."""

import _thread
import signal
import threading
from collections.abc import Iterator

import pytest

from quantum_ess import actor, marker, worker

NOBODY = 4_000_000_000  # uid
HANGS = 20  # seconds


@pytest.fixture
def alarm() -> Iterator[None]:
    """End what hangs."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(HANGS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_the_event_is_set_when_the_call_has_ended() -> None:
    may = threading.Event()
    ended = worker.start(may.wait)
    assert not ended.wait(0.05)
    may.set()
    assert ended.wait(5)


def test_the_event_is_set_when_the_call_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise SystemExit  # which a thread may, without a word

    assert worker.start(fail).wait(5)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("alarm")
def test_a_thread_without_memory_to_begin_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has made it, and it ends before it has done anything."""

    def start(*_: object, **__: object) -> int:
        return 1

    monkeypatch.setattr(_thread, "start_new_thread", start)
    for name in ("_start_new_thread", "_start_joinable_thread"):  # until Python 3.12, since
        monkeypatch.setattr(threading, name, start, raising=False)
    monkeypatch.setattr(marker, "LOADING", 0.1)
    assert actor.name(NOBODY) == str(NOBODY)
    said = marker._in_time({"enabled": "yes"}, 0.1, lambda: None)
    assert said == "no answer within 0.7 s"


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", start)
    assert actor.name(NOBODY) == str(NOBODY)
    assert marker._in_time({"enabled": "yes"}, 0.1, lambda: None) == "can't start new thread"
