"""The product in a host, as its users see it: the command, the journal, the files."""

import json
import subprocess
import time
from typing import Any

from host import Host
from trading import FLAG
from waiting import SOON, now_ns, wait_until

# The timer first, so that what it has just started is ended too.
WATCH = ("quantum-ess-watch.timer", "quantum-ess-watch.service")
RECORD = "/var/lib/quantum-ess/latched"
DROP_IN = "/etc/quantum-ess/quantum-ess.conf.d/test.conf"
ISO_TIME = r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-6]\dZ"  # 2026-01-28T00:15:23Z

# Exit statuses as the man page gives them.
DONE, FAILED, USAGE, IS_INACTIVE, NOT_PERMITTED = 0, 1, 2, 3, 4
NOT_VERIFIED, CONFIGURATION, NOT_RELEASED, INCOMPLETE = 5, 6, 7, 8

ACTIVE, INACTIVE = "ESS Status: ACTIVE", "ESS Status: INACTIVE"

Event = dict[str, Any]


def sent(event: Event) -> int:
    """When that was sent to journald, which may get round to it much later; as `now_ns`."""
    return now_ns() - (time.time_ns() - 1000 * int(event["_SOURCE_REALTIME_TIMESTAMP"]))


class Ess:
    """`quantum-ess` on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def __call__(
        self, *argv: str, check: bool = True, user: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `quantum-ess` with these arguments; CommandFailed if it fails and `check` is set."""
        return self.host.run("quantum-ess", *argv, check=check, user=user, env=env, timeout=60)

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        data: dict[str, Any] = json.loads(self("status", "--json").stdout)
        return data

    def first_line(self) -> str:
        """The first line of `status`."""
        return self("status").stdout.splitlines()[0]

    def events(self, *match: str) -> list[Event]:
        """Audit entries of the host, oldest first: the journal's fields."""
        wanted = ("--identifier=quantum-ess", "_UID=0", "--output=json", "--all", *match)
        entries = [json.loads(line) for line in self.host.journal(*wanted).splitlines()]
        return [entry for entry in entries if "ESS_EVENT" in entry]

    def named(self, event: str) -> list[Event]:
        """The entries of one kind."""
        return [entry for entry in self.events() if entry["ESS_EVENT"] == event]

    def wait_event(self, event: str, count: int = 1, timeout: float = SOON) -> list[Event]:
        """Wait until there are that many entries of the kind (or more)."""
        seen = -1

        def look() -> list[Event]:
            nonlocal seen
            before, seen = seen, self.host.journal_length()
            if seen == before:
                return []
            return found if len(found := self.named(event)) >= count else []

        return wait_until(look, timeout, f"{count} audit entries {event!r}")

    def messages(self) -> list[str]:
        """The lines of the trail, oldest first, without their prefix."""
        return [str(entry["MESSAGE"]).removeprefix("[ESS AUDIT] ") for entry in self.events()]

    def wait_complete(self, timeout: float = SOON) -> None:
        """Wait until nothing of an activation is left to do: trigger at rest, trail complete."""
        self.wait_event("complete", timeout=timeout)
        self.wait_idle(timeout)

    def wait_idle(self, timeout: float = SOON) -> None:
        """Wait until PID 1 has no jobs."""
        jobs = ("systemctl", "list-jobs", "--no-legend")
        wait_until(lambda: not self.host.run(*jobs).stdout.strip(), timeout, "an end of all jobs")

    def incidents(self) -> list[str]:
        """Ids of all incidents in the journal, in order of appearance."""
        found = (event.get("ESS_INCIDENT", "") for event in self.events())
        return list(dict.fromkeys(filter(None, found)))

    def latched(self) -> bool:
        """Whether flag or record is there."""
        return self.host.exists(FLAG) or self.host.exists(RECORD)

    def configure(self, text: str) -> None:
        """Put a configuration drop-in in force."""
        self.host.write_file(DROP_IN, text)
        self.host.run("systemctl", "daemon-reload")

    def failed_units(self) -> str:
        """What `systemctl --failed` lists."""
        return self.host.run("systemctl", "--failed", "--no-legend").stdout
