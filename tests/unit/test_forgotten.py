"""A unit that systemd forgets while an activation is accounted for: at rest, it may go any time."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from quantum_ess import account, activate, latch, plan, systemd
from quantum_ess.group import Group

UNIT, INSIDE, SLICE = "quantum-execution.service", "quantum-venue.service", "venue.slice"
GONE = "org.freedesktop.systemd1.NoSuchUnit: not loaded"


class Forgetful:
    """PID 1 that lists units which it no longer knows when it is asked about them."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        pass

    def units(self, patterns: list[str]) -> list[systemd.Unit]:
        names = [INSIDE] if "*.service" in patterns else [UNIT, SLICE]
        return [systemd.Unit(n, "loaded", "failed", "failed", f"/{n}", 0) for n in names]

    def load(self, unit: str) -> str:
        return f"/{unit}"

    def get(self, path: str, interface: str, name: str) -> float:
        if path == f"/{INSIDE}":
            raise systemd.Refused(GONE)
        return 200e6 if path == f"/{UNIT}" else 0.0

    def reset_failed(self, unit: str) -> None:
        raise systemd.Refused(GONE)


def test_a_forgotten_unit_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that ran is on record, and there is nothing to complain about."""
    monkeypatch.setattr(systemd, "Manager", Forgetful)
    group = Group(str(tmp_path / "flag"), str(tmp_path), str(tmp_path))
    the_plan = plan.Plan(f"{plan.HEADER}\nprotect {UNIT} 0 0\nprotect {SLICE} 0 0\n", "here")
    outcome = activate.Outcome(latch.Flag(1, True), activate.Strike(the_plan))
    result = account.Account()
    assert account._running(group, outcome, 100.0, [], result) == [UNIT]
    assert result.problems == []
