"""sd_notify(3): tell the service manager that we are up, and that we are alive."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send one state such as ``READY=1``; nothing happens without a manager that listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto(state.encode(), address)
        except OSError:
            return  # PID 1 is too busy to read: the next sign of life may get through
