"""Progress of long work: one line that changes on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from contextlib import suppress
from typing import TextIO

from quantum_ess.errors import shown

CLEAR = "\r\033[K"


class Progress:
    """Lines of finished work, and on a terminal one more: what is being done now.

    quiet: nothing at all, for output that programs read. Never raises: that nobody reads it any
    more (a closed pipe, a lost terminal, a full disk) must not end the work, such as a release.
    patience: seconds for a terminal that was stopped (Ctrl-S); what it does not take then is left
    out. None: it is waited for.
    """

    def __init__(
        self, out: TextIO | None = None, quiet: bool = False, patience: float | None = None
    ) -> None:
        self._out = out or sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (closed by the caller)
        self._quiet = quiet
        self._patience = patience
        self.lost = False  # something could not be written
        self._live = not quiet and self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def doing(self, text: str) -> None:
        """Say what is being done; shown on a terminal only, until the next call."""
        if self._live:
            width = shutil.get_terminal_size().columns
            line = f"{time.monotonic() - self._began:5.1f} s  {shown(text)} ..."
            self._write(CLEAR + line[: width - 1])

    def line(self, text: str = "") -> None:
        """Say what has been done; stays."""
        if not self._quiet:
            self._write(f"{CLEAR if self._live else ''}{shown(text)}\n")

    def end(self) -> None:
        """Take the changing line away."""
        if self._live:
            self._write(CLEAR)

    def _takes(self) -> bool:
        """Whether it can be written to."""
        if self._patience is None:
            return True
        try:
            poll = select.poll()
            poll.register(self._out.fileno(), select.POLLOUT)
            return bool(poll.poll(1000 * self._patience))
        except OSError:  # no file behind it
            return True

    def _write(self, text: str) -> None:
        if not self._takes():
            self._patience = 0.0  # it had its time
            return
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            self.lost, self._quiet, self._live = True, True, False
            with suppress(OSError):  # what is left in the buffer must not fail at the exit again
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
