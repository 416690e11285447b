"""Any number of protected units that do nothing, and when the last process of them died.

A thousand of the stand-ins that stamp twice a millisecond would be a load of their own. These
sleep; each one's death is seen from outside by a pidfd, which the kernel makes readable when the
process has exited (pidfd_open(2)), by a thread of real-time priority that does nothing else.
"""

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

from host import STAMPS, STANDIN, Host
from product import DONE, DROP_IN, INCOMPLETE
from trading import RECORD, RECORDS, TRIGGER, WAYS, trigger_time
from waiting import now_ns, wait_until

UNIT = """\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/sleep infinity
"""
START = 120.0  # seconds that a thousand services may take to start
END = 30.0  # seconds until all must be dead


class Crowd:
    """`count` protected services on a host, named one by one in the configuration."""

    def __init__(self, host: Host, count: int) -> None:
        self.host = host
        self.units = [f"quantum-crowd@{number}.service" for number in range(count)]
        stamps = host.stamps / TRIGGER
        stamps.write_bytes(bytes(RECORD.size * RECORDS))
        stamps.chmod(0o666)
        host.write_file("/etc/systemd/system/quantum-crowd@.service", UNIT)
        names = "\n    ".join(self.units)
        host.write_file(DROP_IN, f"[resume]\nsettle = 0\n[protect]\nunits = {names}\n")
        host.run("systemctl", "daemon-reload", timeout=START)

    def start(self) -> None:
        """Start all and wait until each has its process."""
        self.host.run("systemctl", "start", *self.units, timeout=START)
        wait_until(lambda: len(self.pids()) == len(self.units), START, "a whole crowd")

    def pids(self) -> list[int]:
        """Their processes, as numbered outside the host."""
        return self.host.processes("system-quantum\\x2dcrowd.slice")

    def pull(self, *argv: str) -> float:
        """Run a trigger, `standin`'s way and what follows; seconds to the last death.

        INCOMPLETE is an answer as well: with a thousand deaths to look after PID 1 may not answer
        within the command's time, and journald takes its entries later.
        """

        def run() -> None:
            done = self.host.run(STANDIN, argv[0], self._stamps, *argv[1:], check=False)
            assert done.returncode in (DONE, INCOMPLETE), (done.returncode, done.stderr)

        return self.dying(run)

    def trigger(self, way: str) -> float:
        """Pull one of the triggers of trading.WAYS; seconds to the last death."""
        return self.pull(*WAYS[way])

    @property
    def _stamps(self) -> str:
        return f"{STAMPS}/{TRIGGER}"

    def dying(self, act: Callable[[], object]) -> float:
        """Do that; seconds from the trigger's own time to the death of the last."""
        watch = Watch(self.pids())
        act()
        last = watch.end()
        assert not self.pids(), "somebody came back"
        return (last - trigger_time(self.host.stamps / TRIGGER)) / 1e9


class Watch:
    """Waits for the end of processes; the time of the last one's, in ns."""

    def __init__(self, pids: list[int]) -> None:
        self._poll = select.poll()
        self._open: set[int] = set()
        for pid in pids:
            fd = os.pidfd_open(pid)
            self._open.add(fd)
            self._poll.register(fd, select.POLLIN)
        self.last = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(60))
        while self._open:
            found = self._poll.poll()
            self.last = now_ns()
            for fd, _ in found:
                self._poll.unregister(fd)
                os.close(fd)
                self._open.discard(fd)

    def end(self) -> int:
        """When the last of them died; AssertionError if one is still there after END."""
        self._thread.join(END)
        assert not self._open, f"{len(self._open)} processes live"
        return self.last
