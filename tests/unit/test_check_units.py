"""Checks of units by a PID 1 that is made up."""

from __future__ import annotations

from typing import Any

import pytest

from quantum_ess import checkunits, facts, plan
from quantum_ess.group import DRILL
from quantum_ess.systemd import Manager, Unit

SLICES = {
    "market.slice": "-.slice",
    "static.service": "system.slice",
    "enabled.service": "system.slice",
    "feed.service": "market-data.slice",
    "other.service": "system.slice",
}
STATES = {
    "enabled.service": "enabled",
    "feed.service": "enabled-runtime",
    "other.service": "enabled",
}
PROTECTED = "protect market.slice 0 0\nprotect static.service 0 0\nprotect enabled.service 0 0\n"


class Pid1(Manager):
    """Has those units loaded, all with RefuseManualStart=yes. An object's path is its name."""

    def __init__(self) -> None:
        pass

    def units(self, patterns: list[str]) -> list[Unit]:
        names = [n for n in SLICES if not patterns or {n, f"*{n[n.index('.') :]}"} & set(patterns)]
        return [Unit(name, "loaded", "active", "running", name, 0) for name in names]

    def get(self, path: str, interface: str, name: str) -> Any:
        return self.get_all(path, interface)[name]

    def get_all(self, path: str, interface: str) -> dict[str, Any]:
        known = {"Id": path, "LoadState": "loaded", "Slice": SLICES.get(path)}
        return {**known, "RefuseManualStart": True, "UnitFileState": STATES.get(path, "static")}


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("", {"market.slice", "static.service", "enabled.service", "feed.service"}),
        ("set resume.what running\n", {*SLICES} - {"other.service"}),
        ("set resume.what enabled\n", {"enabled.service", "feed.service"}),
        ("set resume.what none\n", set()),
    ],
)
def test_what_a_release_could_not_start(
    monkeypatch: pytest.MonkeyPatch, what: str, found: set[str]
) -> None:
    """Just what it would start: by name, and for the slice that it lies in."""
    the_plan = plan.Plan(f"{plan.HEADER}\n{PROTECTED}{what}", "")
    monkeypatch.setattr(plan, "read", lambda _: the_plan)
    findings = checkunits.startable(facts.Facts(DRILL, Pid1()))
    assert {finding.unit for finding in findings} == found
