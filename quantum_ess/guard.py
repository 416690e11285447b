"""The resident: sees the flag by inotify and kills in the same process, within a millisecond.

Nothing needs it: when it is dead, the path unit and the timer do everything as before. It only
kills; systemd is told, and the record written, by quantum-ess-trigger.service. It imports little,
so that it stays small, and reads nothing but the plan.
"""

import contextlib
import os
import select
import sys
import time

from quantum_ess import inotify, latch, plan
from quantum_ess.activate import LIMIT, Strike
from quantum_ess.group import TRADING, Group

CHANGES = (
    inotify.CREATE | inotify.MOVED_TO | inotify.ATTRIB | inotify.DELETE_SELF | inotify.MOVE_SELF
)
ALIVE = 2.0  # seconds between two signs of life to the watchdog; the unit allows ten


class Guard:
    """Watches one group's flag."""

    def __init__(self, group: Group) -> None:
        """Raises OSError if inotify can't be had."""
        self.group = group
        self.directory = os.path.dirname(group.flag)
        self.watcher = inotify.Inotify()
        self.notices = _Notices()
        self.poll = select.poll()
        self.poll.register(self.watcher.fd, select.POLLIN)
        self.watched: tuple[int, int] | None = None
        self.seen: int | None = None  # inode of the flag that was last acted upon

    def run(self) -> None:
        """Watch for ever."""
        self._watch()
        with contextlib.suppress(OSError):  # a host that is out of memory pages out the rest
            self.watcher.lock_memory()
        self.notices.send("READY=1")
        while True:
            if self._flag_is_new():
                self._strike()
            self.poll.poll(1000 * ALIVE)
            self.watcher.read()
            self._watch()
            self.notices.send("WATCHDOG=1")

    def _flag_is_new(self) -> bool:
        number = latch.inode(self.group)
        new = number is not None and number != self.seen
        self.seen = number
        return new

    def _watch(self) -> None:
        """Watch the flag's directory; again, if it is another one now."""
        try:
            status = os.stat(self.directory)
            here = (status.st_dev, status.st_ino)
            if here != self.watched:
                self.watcher.watch(self.directory, CHANGES | inotify.ONLYDIR)
                self.watched = here
        except OSError:
            self.watched = None  # looked for again at every sign of life

    def _strike(self) -> None:
        """Kill until nothing protected has lived for a while, or the latch is open again."""
        strike = Strike(plan.read(self.group))
        deadline, quiet = strike.began + LIMIT, 0
        known: list[str] = []
        while quiet < 20 and time.monotonic() < deadline and self.group.latched():
            quiet = 0 if strike.blow() else quiet + 1
            if strike.hit != known:
                known = list(strike.hit)
                self._leave_word(known)
            time.sleep(0.005)  # systemd may be starting something: look again soon
        self.notices.send("WATCHDOG=1")

    def _leave_word(self, units: list[str]) -> None:
        """Say which units were alive: whoever writes the record finds them dead."""
        path = f"{self.group.run}/struck.{self.seen}"  # record.struck_path, which costs imports
        with contextlib.suppress(OSError), open(path, "w") as file:
            file.write("\n".join(units) + "\n")


class _Notices:
    """sd_notify(3), without a library; silent where nobody asked for it."""

    def __init__(self) -> None:
        self.address = os.environ.get("NOTIFY_SOCKET", "")
        if self.address:
            import socket

            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def send(self, text: str) -> None:
        if self.address:
            try:
                self.socket.sendto(text.encode(), self.address.replace("@", "\0", 1))
            except OSError:
                return  # PID 1 is busy or hung: the kill does not wait for it


def main() -> None:
    """Run the guard of the trading group until it is stopped."""
    try:
        Guard(TRADING).run()
    except KeyboardInterrupt:
        sys.exit(0)
