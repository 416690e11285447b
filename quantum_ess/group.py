"""A group: where one latch keeps its flag, its record and its plan.

Everything that stops, holds or releases takes a Group: the drill's canaries are another value and
not another code path. libexec/strike has the same two. On the stop path: only `os` and `errno` are
imported.
"""

import errno
import os

SHIPPED = "/usr/lib/quantum-ess/default"
UNSURE = (errno.EIO, errno.ENOMEM, errno.ESTALE)  # of a look: says nothing of what is there

# The four units of the operations card: the last resort when no plan is left.
FOUR = """\
protect quantum-ai-engine.service 0 0
protect quantum-execution.service 0 0
protect quantum-apply-layer.service 0 0
protect quantum-governor.service 0 0
"""
# A drill's whole plan. It knows nothing of Redis, and waits no longer than it must.
CANARIES = """\
protect quantum-ess-canary-normal.service 0 0
protect quantum-ess-canary-deaf.service 0 0
protect quantum-ess-canary-forks.service 0 0
protect quantum-ess-canary-restarts.service 0 0
set redis.enabled no
set resume.settle_ms 100
set resume.timeout_ms 10000
"""


class Group:
    """Paths and unit names of one latch. All paths are absolute and root-owned.

    flag: its presence means active (tmpfs, gone after a reboot).
    run: scratch directory on the same tmpfs (claims, lock, plan).
    state: directory that outlives a reboot (record, spool).
    prefix: its journal identifier, and what the names of its units begin with.
    activation: the unit whose start is an activation.
    built_in: what is protected if no plan can be read: lines of a plan.
    drill: nothing of it is an emergency, and it has no plan to read: no file can make a drill kill
    anything but its canaries.
    """

    __slots__ = ("activation", "built_in", "drill", "flag", "prefix", "run", "state")

    def __init__(
        self,
        flag: str,
        run: str,
        state: str,
        *,
        prefix: str = "quantum-ess",
        activation: str = "quantum-ess.service",
        built_in: str = FOUR,
        drill: bool = False,
    ) -> None:
        self.flag = flag
        self.run = run
        self.state = state
        self.prefix = prefix
        self.activation = activation
        self.built_in = built_in
        self.drill = drill

    @property
    def trigger(self) -> str:
        """The unit that the flag starts; it stays active while latched."""
        return self.prefix + "-trigger.service"

    @property
    def halt(self) -> str:
        """The target that conflicts with every protected unit."""
        return self.prefix + "-halt.target"

    @property
    def watch(self) -> str:
        """The unit that compares the host with the flag."""
        return self.prefix + "-watch.service"

    @property
    def holders(self) -> tuple[str, ...]:
        """The units with which PID 1 holds the latch; a release stops them."""
        return (self.trigger, self.halt, self.prefix + "-watch.path")

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
    def marker_told(self) -> str:
        """Present once Redis was seen to say what it should since the latch was last opened."""
        return self.run + "/marker-told"

    @property
    def history(self) -> str:
        """Every transition, appended for good: one line of JSON each."""
        return self.state + "/history.jsonl"

    @property
    def history_head(self) -> str:
        """Number and hash of the history's last record."""
        return self.state + "/history-head"

    @property
    def history_lock(self) -> str:
        """Held while the history is appended to."""
        return self.state + "/history-lock"

    @property
    def history_spool(self) -> str:
        """Records that the disk has not taken yet, and those that the shell leaves."""
        return self.run + "/history-spool"

    @property
    def refused(self) -> str:
        """Refused starts, a file a unit, counted by libexec/held until a burst of them is over."""
        return self.run + "/refused"

    @property
    def seen(self) -> str:
        """Present once the flag was seen in this boot: its absence is then a release."""
        return self.run + "/seen"

    @property
    def restored(self) -> str:
        """Present while the flag is one that was set again from the record."""
        return self.run + "/restored"

    @property
    def began(self) -> str:
        """When the first blow of this stop fell (ms of CLOCK_BOOTTIME), and whom it found alive."""
        return self.run + "/began"

    @property
    def withdrawn(self) -> str:
        """Which flag (inode, mtime) was set again only until the stop is on record."""
        return self.run + "/withdrawn"

    @property
    def renewed(self) -> str:
        """Which flag (inode, mtime) was put in the place of which, once that was on record."""
        return self.run + "/renewed"

    @property
    def lock(self) -> str:
        """Held while record and trail are written; never before a kill."""
        return self.run + "/lock"

    @property
    def plans(self) -> tuple[str, ...]:
        """Where the plan may be, best first."""
        if self.drill:
            return ()
        return (
            self.run + "/plan",
            self.state + "/good/quantum-ess.plan",
            SHIPPED + "/quantum-ess.plan",
        )

    def latched(self, unsure: bool = True) -> bool:
        """True if a protected unit must not run: flag or record present.

        unsure: what counts if the file system does not say.
        """
        return _there(self.flag, unsure) or _there(self.record, unsure)


def _there(path: str, unsure: bool) -> bool:
    """Whether something is there. A look that fails is made again."""
    for _ in range(2):
        try:
            os.lstat(path)
            return True
        except OSError as error:
            if error.errno not in UNSURE:
                return False
    return unsure


TRADING = Group("/run/quantum/ESS_ON", "/run/quantum-ess", "/var/lib/quantum-ess")
DRILL = Group(
    "/run/quantum-drill/DRILL_ON",
    "/run/quantum-ess-drill",
    "/var/lib/quantum-ess/drill",
    prefix="quantum-ess-drill",
    activation="quantum-ess-drill-activate.service",
    built_in=CANARIES,
    drill=True,
)
