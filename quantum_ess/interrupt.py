"""Interruption: Ctrl-C, SIGTERM and a closed terminal end the work, but not what puts it right.

Ctrl-Z ends nothing, and nobody would put it right: it is nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)  # a terminal's: they stop halfway


class Interruption:
    """The first of the signals is a KeyboardInterrupt; those that follow, together with it even
    (systemd sends SIGTERM and SIGHUP), are nothing."""

    def __init__(self) -> None:
        self._deaf = self._deferred = self._heard = False

    def hear(self, *_: object) -> None:
        """The handler."""
        self._heard = True
        if not self._deaf and not self._deferred:
            self._deaf = True
            raise KeyboardInterrupt

    def be_deaf(self, numbers: Iterable[signal.Signals]) -> None:
        """From now on they are nothing, nor to programs that are started now."""
        self._deaf = True
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What comes in the body is raised at its end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self._heard:
            self.hear()


@contextmanager
def interruptible(restore: Callable[[], None]) -> Iterator[Interruption]:
    """Run the body; each of the signals is a KeyboardInterrupt. Then restore, undisturbed.

    A signal that is ignored, as nohup(1) has it, stays so. A terminal stops neither of the two.
    """
    interruption = Interruption()
    found = {number: signal.getsignal(number) for number in (*NUMBERS, *STOPS)}
    before = {number: how for number, how in found.items() if how != signal.SIG_IGN}
    for number in before:
        # Not a handler for the stops: a write that SIGTTOU breaks off would be tried for ever.
        signal.signal(number, signal.SIG_IGN if number in STOPS else interruption.hear)
    try:
        yield interruption
    finally:
        interruption.be_deaf(before)
        try:
            restore()
        finally:
            for number, how in before.items():
                signal.signal(number, how)
