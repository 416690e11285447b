"""Signals that come together, or at the worst moment: what puts things right is done anyway."""

import signal
from collections.abc import Iterator

import pytest

from quantum_ess.interrupt import NUMBERS, STOPS, interruptible


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever happens, those of pytest afterwards."""
    before = {number: signal.getsignal(number) for number in (*NUMBERS, *STOPS)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` has it ignored
    yield
    for number, how in before.items():
        signal.signal(number, how)


def send(*numbers: signal.Signals) -> None:
    """All of them to this thread, so that they are pending together.

    Not to the process: another thread, left by another test, might take one, and be late with it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        signal.raise_signal(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@pytest.mark.parametrize("numbers", [NUMBERS, NUMBERS[1:], NUMBERS[:1]])
def test_however_many_come_at_once(numbers: tuple[signal.Signals, ...]) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interruptible(lambda: done.append("restored")):
        send(*numbers)
        done.append("not interrupted")
    assert done == ["restored"]


def test_while_it_is_put_right() -> None:
    done = []

    def restore() -> None:
        send(*NUMBERS)
        done.append("restored")

    with interruptible(restore):
        done.append("worked")
    assert done == ["worked", "restored"]


def test_deferred() -> None:
    done = []
    with (
        pytest.raises(KeyboardInterrupt),
        interruptible(lambda: done.append("restored")) as interruption,
    ):
        with interruption.deferred():
            send(*NUMBERS)
            done.append("whole")
        done.append("not interrupted")
    assert done == ["whole", "restored"]


def test_what_is_ignored_stays_ignored() -> None:
    """As nohup(1) has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    done = []
    with interruptible(lambda: done.append("restored")):
        send(signal.SIGHUP)
        done.append("worked")
    assert done == ["worked", "restored"]
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_terminal_does_not_stop_it_halfway() -> None:
    """Neither the work nor what puts it right; afterwards it may again."""
    seen = []

    def look() -> None:
        seen.append([signal.getsignal(number) for number in STOPS])

    with interruptible(look):
        look()
    assert seen == [[signal.SIG_IGN] * len(STOPS)] * 2
    look()
    assert seen[-1] == [signal.SIG_DFL] * len(STOPS)
