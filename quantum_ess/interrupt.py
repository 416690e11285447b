"""Interruption: Ctrl-C, SIGTERM and a closed terminal end the work, but not what puts it right."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible(restore: Callable[[], None]) -> Iterator[None]:
    """Run the body; each of the signals is a KeyboardInterrupt. Then restore, undisturbed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in NUMBERS}
    try:
        yield
    finally:
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        try:
            restore()
        finally:
            for number in NUMBERS:
                signal.signal(number, before[number])
