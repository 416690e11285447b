"""A call that may hang, in a thread of its own, so that whoever waits for it can stop waiting."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


def start(call: Callable[[], object]) -> threading.Event:
    """Begin with the call; the event is set when it has ended. The thread ends with the process.

    Not by threading.Thread: its start() waits without a limit for a thread that the kernel has made
    and that then has no memory to begin with. Raises RuntimeError if there is no thread to be had.
    """
    ended = threading.Event()

    def run() -> None:
        try:
            call()
        finally:
            ended.set()

    _thread.start_new_thread(run, ())
    return ended
