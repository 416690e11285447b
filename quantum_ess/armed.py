"""Armed: would a flag set now be seen, and a unit that was stopped be held?

Asked of PID 1 itself, since a file on disk says nothing of what is in force. The gate is read back
once a daemon-reload, not once a question: a thousand units would keep PID 1 busy for a second.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress

from quantum_ess import checkunits, record
from quantum_ess import plan as plans
from quantum_ess.facts import Facts
from quantum_ess.group import Group
from quantum_ess.systemd import Manager, Refused, Unreachable

WATCHERS = {
    "path": "quantum-ess.path",
    "timer": "quantum-ess-watch.timer",
    "resident": "quantum-ess-sentry.service",
}
GATE = "gate"
PARTS = (*WATCHERS, GATE)


def parts(group: Group) -> dict[str, bool]:
    """Each part of PARTS: whether it is good. One that PID 1 could not be asked about is not."""
    good = dict.fromkeys(PARTS, False)
    try:
        with Manager(timeout=2.0) as manager:
            active = {u.name for u in manager.units([*WATCHERS.values()]) if u.active == "active"}
            good.update((part, unit in active) for part, unit in WATCHERS.items())
            good[GATE] = not _ungated(manager, group)
    except (Unreachable, Refused):
        pass
    return good


def _ungated(manager: Manager, group: Group) -> list[str]:
    """Protected units without the gate; from memory if PID 1 has loaded nothing anew since."""
    plan = plans.read(group)
    names = sorted({e.name for e in plan.protect if not plans.is_pattern(e.name)})
    patterns = [entry.name for entry in plan.protect if plans.is_pattern(entry.name)]
    if patterns:
        names += [u.name for u in manager.units(patterns) if plan.match(u.name)]
    loaded = manager.get("/org/freedesktop/systemd1", "Manager", "UnitsLoadTimestampMonotonic")
    key = hashlib.sha256(f"{loaded} {names}".encode()).hexdigest()
    memory = group.run + "/gate-seen"
    known, _, rest = record.text(memory).partition(" ")
    if known == key:
        return rest.split()
    bad = sorted({finding.unit for finding in checkunits.gates(Facts(group, manager))})
    _remember(memory, " ".join([key, *bad]))
    return bad


def _remember(path: str, text: str) -> None:
    draft = f"{path}.{os.getpid()}.new"
    try:
        with open(draft, "x", encoding="utf-8") as file:
            file.write(text)
        os.rename(draft, path)
    except OSError:
        return  # not root, or /run is full: the next one asks again
    finally:
        with suppress(OSError):
            os.unlink(draft)
