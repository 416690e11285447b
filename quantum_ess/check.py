"""`quantum-ess check`: everything that would make a stop fail or leak, found beforehand.

The checks are the table below: each takes the facts and yields findings. One that breaks is a
finding itself; it keeps no other from being made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from quantum_ess import checkhost, checkunits, findings
from quantum_ess.errors import shown
from quantum_ess.facts import Facts
from quantum_ess.findings import ERROR, Finding
from quantum_ess.group import Group
from quantum_ess.systemd import Manager, Refused, Unreachable

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    checkunits.watchers,
    checkunits.shadows,
    checkhost.program,
    checkhost.configuration,
    checkunits.loadable,
    checkunits.gates,
    checkunits.runtime_directories,
    checkunits.dragged,
    checkunits.unneeded,
    checkunits.actions,
    checkunits.startable,
    checkunits.slices,
    checkunits.revivers,
    checkunits.needrestart,
    checkunits.stopping,
    checkunits.outsiders,
    checkunits.elsewhere,
    checkhost.cgroups,
    checkhost.flag_directory,
    checkhost.disk,
    checkhost.records,
    checkhost.journal,
    checkhost.clock,
    checkhost.redis,
    checkhost.guard,
    checkhost.drill,
    checkhost.outgoing,
)


def run(group: Group) -> list[Finding]:
    """All findings, worst first. Raises nothing."""
    try:
        with Manager(timeout=5.0) as manager:
            return findings.ordered(_all(Facts(group, manager)))
    except (Unreachable, Refused) as error:
        hint = "a stop does not need PID 1, but check does; see dmesg"
        return [Finding(ERROR, "pid-1", f"systemd could not be asked: {error}", hint)]


def _all(facts: Facts) -> list[Finding]:
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(facts)
        except Unreachable:
            raise
        except Exception as error:
            text = f"{check.__name__} could not be checked: {type(error).__name__}: {error}"
            found.append(Finding(ERROR, "not-checked", text, "report this", check.__name__))
    return found


def document(found: list[Finding]) -> dict[str, Any]:
    """What `check --json` prints (quantum-ess(8))."""
    count = {name: sum(f.severity == name for f in found) for name in findings.SEVERITIES}
    return {"findings": [finding._asdict() for finding in found], **count}


def render(found: list[Finding], paint: bool) -> str:
    """The text for people."""
    colours = {"error": 31, "warning": 33, "note": 36}
    lines = []
    for finding in found:
        label = f"{finding.severity}:"
        if paint:
            label = f"\033[1;{colours[finding.severity]}m{label}\033[0m"
        lines += [f"{label} {shown(finding.text)} [{finding.id}]"]
        lines += [f"    to do: {shown(finding.hint)}"]
    counts = [sum(f.severity == name for f in found) for name in findings.SEVERITIES]
    many = zip(counts, findings.SEVERITIES, strict=True)
    said = ", ".join(f"{n} {name}{'s' if n != 1 else ''}" for n, name in many if n)
    return "\n".join([*lines, f"quantum-ess check: {said or 'nothing found'}"])
