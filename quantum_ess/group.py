"""A group: where one latch keeps its flag, its record and its plan.

Everything that stops, holds or releases takes a Group, so that a second group (a drill's canaries)
is another value and not another code path. Only `os` is imported: this is on the stop path.
"""

import os

SHIPPED = "/usr/lib/quantum-ess/default"


class Group:
    """Paths and unit names of one latch. All paths are absolute and root-owned.

    flag: its presence means active (tmpfs, gone after a reboot).
    run: scratch directory on the same tmpfs (claims, lock, plan).
    state: directory that outlives a reboot (record, spool).
    trigger, halt, watches: the units with which PID 1 holds the latch; a release stops them.
    """

    __slots__ = ("flag", "halt", "run", "state", "trigger", "watches")

    def __init__(
        self, flag: str, run: str, state: str, trigger: str, halt: str, watches: tuple[str, ...]
    ) -> None:
        self.flag = flag
        self.run = run
        self.state = state
        self.trigger = trigger
        self.halt = halt
        self.watches = watches

    @property
    def record(self) -> str:
        """The record: its presence on disk shuts the gate, whatever it contains."""
        return self.state + "/latched"

    @property
    def released(self) -> str:
        """The last record, moved here by a release."""
        return self.state + "/released"

    @property
    def logged(self) -> str:
        """Holds the id of the incident whose activation trail is complete."""
        return self.state + "/logged"

    @property
    def logged_volatile(self) -> str:
        """The same, while `logged` can't be written."""
        return self.run + "/logged"

    @property
    def spool(self) -> str:
        """Audit entries that journald has not taken yet."""
        return self.state + "/spool"

    @property
    def pending_marker(self) -> str:
        """Present while Redis does not yet say what it should."""
        return self.state + "/marker-pending"

    @property
    def pending_marker_volatile(self) -> str:
        """The same, while `pending_marker` can't be written."""
        return self.run + "/marker-pending"

    @property
    def seen(self) -> str:
        """Present once the flag was seen in this boot: its absence is then a release."""
        return self.run + "/seen"

    @property
    def began(self) -> str:
        """When the first blow of this stop fell, in milliseconds of CLOCK_BOOTTIME."""
        return self.run + "/began"

    @property
    def lock(self) -> str:
        """Held while record and trail are written; never before a kill."""
        return self.run + "/lock"

    @property
    def plans(self) -> tuple[str, ...]:
        """Where the plan may be, best first."""
        return (
            self.run + "/plan",
            self.state + "/good/quantum-ess.plan",
            SHIPPED + "/quantum-ess.plan",
        )

    def latched(self) -> bool:
        """True if a protected unit must not run: flag or record present."""
        return os.path.lexists(self.flag) or os.path.lexists(self.record)


TRADING = Group(
    flag="/run/quantum/ESS_ON",
    run="/run/quantum-ess",
    state="/var/lib/quantum-ess",
    trigger="quantum-ess-trigger.service",
    halt="quantum-ess-halt.target",
    watches=("quantum-ess-watch.path",),
)
