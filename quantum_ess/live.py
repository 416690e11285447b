"""A text shown again and again: in place on a terminal, elsewhere each time that it has changed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress

INTERVAL = 1.0  # seconds
HOME, REST_OF_LINE, REST_OF_SCREEN = "\033[H", "\033[K", "\033[J"
CLEAR = "\033[2J"
# The cursor; and the wrapping of long lines, which would scroll the first one away.
HIDE, SHOW = "\033[?25l\033[?7l", "\033[?7h\033[?25h"
AGE = re.compile(r" \([^()]* ago\)")


def run(text: Callable[[bool], str]) -> None:
    """Show text(paint) until interrupted."""
    terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    with suppress(KeyboardInterrupt):
        if not terminal:
            _changes(text)
            return
        try:
            print(HIDE + CLEAR, end="")
            while True:
                print(screen(text(not os.environ.get("NO_COLOR"))), end="", flush=True)
                time.sleep(INTERVAL)
        finally:
            print(SHOW, flush=True)


def screen(text: str) -> str:
    """The text as it overwrites the one before, line by line, as far as the screen goes."""
    lines = [f"{time.strftime('%H:%M:%S')}  (Ctrl-C ends)", *text.splitlines()]
    room = max(shutil.get_terminal_size().lines - 1, 2)
    shown = lines if len(lines) <= room else lines[: room - 1]
    if shown is not lines:
        shown = [*shown, f"... {len(lines) - len(shown)} more lines: quantum-ess status"]
    return HOME + "".join(f"{line}{REST_OF_LINE}\r\n" for line in shown) + REST_OF_SCREEN


def _changes(text: Callable[[bool], str]) -> None:
    before = ""
    while True:
        now = text(False)
        if AGE.sub("", now) != before:  # that it has grown older is no change
            print(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n{now}", flush=True)
            before = AGE.sub("", now)
        time.sleep(INTERVAL)
