"""The trading stand-ins of a host: installing, starting, and reading their signs of life."""

import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from host import STAMPS, STANDIN, Host
from kinds import FOUR, KEPT, KINDS, REDIS
from waiting import hold, now_ns, wait_until

RECORD = struct.Struct("=4q")  # pid, first stamp, last stamp, beat: standin.c's struct slot
RECORDS = 4096
TRIGGER = "trigger"  # the file of stamps that says when a trigger was pulled
BEAT = 5_000_000  # ns between two stamps of a process
SPAWNS = 2_000_000  # ns between two stamps, and two children, of who starts them all the time
ALIVE = 50_000_000  # ns; who has not stamped for this long (10 beats) is not running
LIMIT = 2_000_000_000  # ns from a trigger to the last sign of life: the product's promise
START = 60.0  # seconds until a stand-in must give its first sign of life

FLAG = "/run/quantum/ESS_ON"

# The three methods of the operations card, each with the stand-in's way to time its beginning.
WAYS: Mapping[str, tuple[str, ...]] = {
    "command": ("exec", "quantum-ess", "activate"),
    "unit": ("exec", "systemctl", "start", "quantum-ess.service"),
    "flag": ("touch", "/var/run/quantum/ESS_ON"),
}


class Stamp(NamedTuple):
    """One process: its pid in the host, its first and last sign of life in ns."""

    pid: int
    first: int
    last: int


@dataclass(frozen=True)
class Pull:
    """A trigger that was pulled: when (ns, right before exec or touch), and what it answered."""

    time: int
    status: int
    out: str
    err: str


class Trading:
    """Stand-ins for the units named in `kinds` (unit -> kind), and for the kept services.

    beat: ns between two signs of life. On a host that has not booted yet it only writes the units,
    which spares it a daemon-reload.
    """

    def __init__(
        self, host: Host, kinds: Mapping[str, str] | None = None, beat: int = BEAT
    ) -> None:
        self.host = host
        self.beat = beat
        self.kinds = dict(kinds or dict.fromkeys(FOUR, "normal"))
        for unit in (*self.kinds, *KEPT, TRIGGER):
            self.make_stamps(unit)
        units = {**self.kinds, **dict.fromkeys(KEPT, "normal")}
        changed = [self.write_unit(unit, KINDS[kind]) for unit, kind in units.items()]
        if any(changed) and host.leader:
            host.run("systemctl", "daemon-reload")

    @property
    def units(self) -> list[str]:
        """The protected units."""
        return list(self.kinds)

    def make_stamps(self, unit: str) -> None:
        """An empty file of stamps, for any user in the host to write."""
        file = self.host.stamps / unit
        beat = SPAWNS if self.kinds.get(unit) == "spawns-all-the-time" else self.beat
        file.write_bytes(RECORD.pack(0, 0, 0, beat).ljust(RECORD.size * RECORDS, b"\0"))
        file.chmod(0o666)

    def write_unit(self, unit: str, text: str) -> bool:
        """A unit file where administrators put theirs; whether that changed anything."""
        return self.host.write_file(f"/etc/systemd/system/{unit}", text)

    def start(self) -> None:
        """Start all, the kept ones too, and wait for each one's first signs of life."""
        self.host.run("systemctl", "start", "--no-block", *self.kinds, *KEPT)
        everyone = (*self.kinds, *KEPT)
        wait_until(lambda: len(self.alive(everyone)) == len(everyone), START, "a living market")
        for unit, kind in self.kinds.items():
            if kind == "reloading":
                self.host.run("systemctl", "reload", "--no-block", unit)
                wait_until(lambda u=unit: len(self.living(u)) > 1, START, f"reload of {unit}")  # type: ignore[misc]

    # Signs of life

    def processes(self, unit: str) -> list[Stamp]:
        """Every process that ever ran in this unit (the last 4095 of them)."""
        data = (self.host.stamps / unit).read_bytes()
        records = list(RECORD.iter_unpack(data))[1:]
        return [Stamp(pid, first, last) for pid, first, last, _ in records if pid]

    def living(self, unit: str) -> list[Stamp]:
        """The processes that have stamped in the last ALIVE ns."""
        since = now_ns() - ALIVE
        return [stamp for stamp in self.processes(unit) if stamp.last > since]

    def alive(self, units: Iterable[str] | None = None) -> list[str]:
        """Those of the units (all protected ones by default) that show a sign of life now."""
        return [unit for unit in units or self.kinds if self.living(unit)]

    def last_sign_of_life(self, *units: str) -> int:
        """The newest stamp, in ns, of the units (all protected ones by default); 0: never any."""
        stamps = [s.last for unit in units or self.kinds for s in self.processes(unit)]
        return max(stamps, default=0)

    def born_after(self, moment: int) -> dict[str, int]:
        """Units with a process that began after `moment` (ns), and how many such."""
        born = {
            unit: sum(stamp.first > moment for stamp in self.processes(unit)) for unit in self.kinds
        }
        return {unit: count for unit, count in born.items() if count}

    def all_running(self, units: Iterable[str] | None = None, timeout: float = START) -> None:
        """Wait until each of the units (all protected ones by default) shows signs of life."""
        wanted = list(units or self.kinds)
        wait_until(lambda: self.alive(wanted) == wanted, timeout, f"signs of life of {wanted}")

    # The stop

    def pull(self, way: str, *more: str) -> Pull:
        """Pull the trigger `way`, with further arguments, and wait for the command's end."""
        mode, *argv = WAYS[way]
        stamp = f"{STAMPS}/{TRIGGER}"
        done = self.host.run(STANDIN, mode, stamp, *argv, *more, check=False)
        return Pull(self.pulled(), done.returncode, done.stdout, done.stderr)

    def pulled(self) -> int:
        """When the trigger was last pulled, in ns."""
        return trigger_time(self.host.stamps / TRIGGER)

    def assert_stopped(self, since: int, watch: float | None = None) -> None:
        """Every process dead within LIMIT of `since` (ns), and none seen for `watch` s from then.

        By default the watch is longer than the longest RestartSec= among the kinds.
        """
        if watch is None:
            watch = 1.4 if "restarts-after-1s" in self.kinds.values() else 0.4
        wait_until(lambda: not self.remaining() or now_ns() > since + LIMIT, 5, "the end")
        hold(lambda: self.late(since), watch, "alive more than 2 s after the trigger")
        hold(lambda: self.alive() and now_ns() > since + LIMIT, 0.1, "alive")
        assert not self.remaining()
        assert not self.late(since)

    def late(self, since: int) -> dict[str, str]:
        """Units with a sign of life later than LIMIT after `since`, and how much later (s)."""
        lives = {unit: (self.last_sign_of_life(unit) - since) / 1e9 for unit in self.kinds}
        return {unit: f"{life:.3f} s" for unit, life in lives.items() if life > LIMIT / 1e9}

    def remaining(self) -> dict[str, list[int]]:
        """Processes that the kernel still counts in the units' cgroups."""
        found = {unit: self.host.processes(unit) for unit in self.kinds}
        return {unit: pids for unit, pids in found.items() if pids}

    def ended(self) -> set[str]:
        """Protected units in which the kernel counts no process.

        Not all that is not alive(): who has not stamped lately may be waiting for a processor.
        """
        return set(self.kinds) - set(self.remaining())

    def put_down(self, unit: str) -> None:
        """Stop a unit as its operator would, and so that it is not taken for part of what follows.

        ESS takes 20 ms off the time at which a stop began, and clocks are some more apart.
        """
        self.host.run("systemctl", "stop", unit)
        time.sleep(0.2)

    def states(self, *units: str) -> dict[str, str]:
        """ActiveState of each of the units (all protected ones by default)."""
        return {unit: self.host.unit_state(unit) for unit in units or self.kinds}

    def assert_inactive(self) -> None:
        """Every protected unit ends `inactive`.

        What was killed is `failed` first, until whoever accounts for the stop sets it back.
        """
        wanted = dict.fromkeys(self.kinds, "inactive")
        wait_until(lambda: self.states() == wanted, 30, "all inactive, and none failed")

    # Those that must not be touched

    def kept_pids(self) -> dict[str, int]:
        """Main PIDs of the kept units."""
        units = (*KEPT, REDIS)
        shown = self.host.run("systemctl", "show", "-pMainPID", "--value", "--", *units).stdout
        return dict(zip(units, map(int, shown.split()), strict=True))

    def bystanders(self) -> dict[str, str]:
        """Main PID of every running service of the host but the protected ones and ESS's own."""
        shown = self.host.run("systemctl", "show", "--property=Id,MainPID", "*.service").stdout
        units = (dict(row.split("=", 1) for row in b.splitlines()) for b in shown.split("\n\n"))
        pids = {unit["Id"]: unit["MainPID"] for unit in units if unit["MainPID"] != "0"}
        return {
            unit: pid
            for unit, pid in pids.items()
            if unit not in self.kinds and not unit.startswith("quantum-ess")
        }


def trigger_time(file: Path) -> int:
    """When `standin exec` or `standin touch` last wrote to this file of stamps, in ns."""
    last: int = RECORD.unpack_from(file.read_bytes())[2]
    return last
