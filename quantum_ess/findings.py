"""What `check` says of a host: findings, each with a stable id, a severity and what to do."""

from __future__ import annotations

from typing import NamedTuple

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
STATUS = {ERROR: 10, WARNING: 9}  # exit statuses, see quantum-ess(8)


class Finding(NamedTuple):
    """One thing that is not as it should be.

    severity: error (a stop would fail or leak), warning (it works, but not as well, or will not
    for long) or note. id: fixed. unit: whom it is about, or "".
    """

    severity: str
    id: str
    text: str
    hint: str
    unit: str = ""


def status(found: list[Finding]) -> int:
    """The exit status for these findings: that of the worst."""
    for severity in (ERROR, WARNING):
        if any(finding.severity == severity for finding in found):
            return STATUS[severity]
    return 0


def ordered(found: list[Finding]) -> list[Finding]:
    """Worst first, otherwise as they were found; no finding twice."""
    return sorted(dict.fromkeys(found), key=lambda finding: SEVERITIES.index(finding.severity))
