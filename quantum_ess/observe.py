"""Measuring a stop from outside: when the last process of each unit died, what is refused.

Used by drill and proof, which do not trust what the stop says of itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from quantum_ess import cgroup, process, trail
from quantum_ess.plan import Plan
from quantum_ess.systemd import Manager, Refused

CALM = 0.05  # seconds for which all must be empty to count as dead
LOOK = 0.0005  # seconds between two looks
Guard = Callable[[], None]


class Deaths:
    """By when each unit was dead. at: unit -> monotonic seconds; living: still alive."""

    def __init__(self, at: dict[str, float], living: list[str]) -> None:
        self.at = at
        self.living = living

    def last(self, began: float) -> float:
        """Seconds from then to the first look at which all were dead."""
        return max((at - began for at in self.at.values()), default=0.0)


def populated(plan: Plan) -> dict[str, str]:
    """Protected units with processes, and their cgroups."""
    return {f.unit: f.path for f in cgroup.find(plan) if cgroup.populated(f.path)}


def deaths(plan: Plan, units: dict[str, str], seconds: float, guard: Guard) -> Deaths:
    """Watch until all of those cgroups, and any new ones, are empty; at most so long.

    A unit counts as dead from the look that found it so: what died before the first look, or
    between two on a busy machine, is given the longer time.
    """
    deadline = time.monotonic() + seconds
    dead: dict[str, float] = {}
    looked = calm_since = time.monotonic()
    watched = dict(units)
    while True:
        guard()
        living = [unit for unit, path in watched.items() if cgroup.populated(path)]
        now = time.monotonic()
        dead = {unit: dead.get(unit, now) for unit in watched if unit not in living}
        if living or now - looked > 0.02:
            looked = now
            watched.update(populated(plan))
        if living:
            calm_since = time.monotonic()
        elif now - calm_since >= CALM:
            return Deaths(dead, [])
        if now >= deadline:
            return Deaths({**dead, **dict.fromkeys(living, now)}, living)
        time.sleep(LOOK)


def hold(plan: Plan, seconds: float, guard: Guard) -> list[str]:
    """Watch for so long that nothing comes alive; the units that did."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        guard()
        if found := populated(plan):
            return list(found)
        time.sleep(0.01)
    return []


class Asked:
    """What came of asking systemd to start units. started: those that it did not refuse."""

    def __init__(self, ends: dict[str, process.Process]) -> None:
        self.started = [unit for unit, done in ends.items() if done.status in (0, None)]
        # Neither: systemctl could not be run, or could not reach systemd.
        unasked = [u for u, done in ends.items() if done.status == 127 or UNASKED in done.out]
        held = len(ends) - len(self.started) - len(unasked)
        self.refused = held == len(ends)
        self.text = f"{held} refused"
        if unasked:
            self.text = f"NOT ASKED: {' '.join(unasked)} ({process.says(ends[unasked[0]])})"
        if self.started:
            self.text = f"STARTED: {' '.join(self.started)}"


UNASKED = "Failed to connect"  # systemctl's words for that


def ask_to_start(units: list[str]) -> Asked:
    """Ask systemd to start each of them, as a person would."""
    return Asked({unit: process.run("systemctl", "start", unit, seconds=15) for unit in units})


def identities(manager: Manager, patterns: list[str]) -> dict[str, str]:
    """What tells whether a running unit is still the same: main PID (services) and invocation."""
    found = {}
    for unit in manager.units(patterns):
        if unit.active != "active":
            continue
        try:
            invocation = bytes(manager.get(unit.path, "Unit", "InvocationID")).hex()
            pid = ""
            if unit.name.endswith(".service"):
                pid = f"PID {manager.get(unit.path, 'Service', 'MainPID')}"
        except Refused:
            continue  # it went away meanwhile
        found[unit.name] = f"{pid} {invocation}".strip()
    return found


def entries(identifier: str, incident: str) -> list[dict[str, str]]:
    """Audit entries of one incident of this boot in the journal; [] if it can't be read.

    By matches alone, which are indexed: the clock may have been set back since it began. Nothing is
    asked of journald itself, which may hang.
    """
    match = (trail.OURS, f"ESS_INCIDENT={incident}")
    options = ("-b", "-t", identifier, "-o", "json", "--all", "--no-pager")
    done = process.run("journalctl", "--quiet", *options, *match, seconds=5)
    found = []
    for line in done.out.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "ESS_EVENT" in entry:
            found.append({str(key): str(value) for key, value in entry.items()})
    return found
