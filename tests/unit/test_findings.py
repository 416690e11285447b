"""Findings: each has its place in the man page, and a severity decides the exit status."""

from __future__ import annotations

import re

from madeup import HERE

from quantum_ess import findings
from quantum_ess.findings import ERROR, NOTE, WARNING, Finding


def named() -> set[str]:
    """The ids in the code."""
    code = "".join(path.read_text() for path in sorted(HERE.glob("quantum_ess/check*.py")))
    return set(re.findall(r'Finding\(\s*(?:ERROR|WARNING|NOTE)[^,]*,\s*"([a-z0-9-]+)"', code))


def test_the_man_page_names_every_finding() -> None:
    page = (HERE / "man/quantum-ess.8").read_text()
    section = page[page.index(".Sh FINDINGS") : page.index(".Sh HOOKS AND")]
    documented = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", section))
    assert len(named()) > 30
    assert named() - documented == set()


def test_the_worst_decides() -> None:
    found = [Finding(kind, kind, "", "") for kind in (NOTE, WARNING, ERROR, NOTE)]
    assert findings.status(found) == 10
    assert findings.status(found[:2]) == 9
    assert findings.status(found[:1]) == findings.status([]) == 0
    assert [each.severity for each in findings.ordered(found)] == [ERROR, WARNING, NOTE]
