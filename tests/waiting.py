"""Waits with a deadline, and the one clock that hosts and tests share.

CLOCK_MONOTONIC has no namespace of its own in a host that systemd-nspawn boots, so a time that a
process stamps inside can be compared with one read outside. All such times are nanoseconds.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SOON = 60.0  # seconds for what must come at some time, on the slowest machine under any load
POLL = 0.01  # seconds between two looks; most things waited for take ten times as long
LONGEST_POLL = 0.5  # seconds


class Timeout(AssertionError):
    """What a test waited for did not happen in time."""


def now_ns() -> int:
    """CLOCK_MONOTONIC in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def wait_until(look: Callable[[], T], timeout: float, what: str) -> T:
    """The first true value that `look` returns; Timeout, naming `what`, after `timeout` seconds.

    A look that costs something rests as long as it took: else waiting would slow down what it waits
    for.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if value := look():
            return value
        ended = time.monotonic()
        if ended >= deadline:
            raise Timeout(f"not within {timeout:g} s: {what}")
        time.sleep(min(max(POLL, ended - began), LONGEST_POLL))


def hold(look: Callable[[], object], seconds: float, what: str) -> None:
    """Watch for `seconds` that `look` stays false; AssertionError, with its value, if it does not.

    The way to say "never": as long as a late start could take, nothing of the kind is seen.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := look():
            raise AssertionError(f"{what}: {value!r}")
        time.sleep(POLL)
