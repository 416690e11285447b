"""Armed: only what PID 1 itself says is good, and the gate is read back once a daemon-reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantum_ess import armed, checkunits
from quantum_ess.findings import ERROR, Finding
from quantum_ess.group import Group
from quantum_ess.systemd import Refused, Unit, Unreachable


class Pid1:
    """A PID 1 made up: which watchers are active, when it loaded its units, whether it answers."""

    def __init__(self) -> None:
        self.active = set(armed.WATCHERS.values())
        self.loaded = 1
        self.problem: Exception | None = None

    def __call__(self, timeout: float) -> Pid1:
        if isinstance(self.problem, Unreachable):
            raise self.problem
        return self

    def __enter__(self) -> Pid1:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def units(self, names: list[str]) -> list[Unit]:
        if self.problem:
            raise self.problem
        state = {True: "active", False: "failed"}
        return [Unit(n, "loaded", state[n in self.active], "", "/x", 0) for n in names]

    def get(self, *what: str) -> Any:
        return self.loaded


@pytest.fixture
def pid1(monkeypatch: pytest.MonkeyPatch) -> Pid1:
    made = Pid1()
    monkeypatch.setattr(armed, "Manager", made)
    return made


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Units whose gate is undone; each reading is counted as well."""
    units: list[str] = []

    def gates(facts: object) -> Iterator[Finding]:
        readings.append(len(units))
        yield from (Finding(ERROR, "gate-undone", "", "", name) for name in units)

    readings.clear()
    monkeypatch.setattr(armed, "Facts", lambda group, manager: None)
    monkeypatch.setattr(checkunits, "gates", gates)
    return units


readings: list[int] = []


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(str(tmp_path / "flag"), str(tmp_path), str(tmp_path / "state"))


def test_all_good(pid1: Pid1, bad: list[str], group: Group) -> None:
    assert armed.parts(group) == dict.fromkeys(armed.PARTS, True)


@pytest.mark.parametrize("part", armed.WATCHERS)
def test_a_watcher_that_is_not_active(pid1: Pid1, bad: list[str], group: Group, part: str) -> None:
    pid1.active.remove(armed.WATCHERS[part])
    assert armed.parts(group) == dict.fromkeys(armed.PARTS, True) | {part: False}


@pytest.mark.parametrize("problem", [Unreachable("hung"), Refused("no")])
def test_nothing_is_good_if_pid_1_does_not_say_so(
    pid1: Pid1, bad: list[str], group: Group, problem: Exception
) -> None:
    pid1.problem = problem
    assert armed.parts(group) == dict.fromkeys(armed.PARTS, False)


def test_the_gate_is_read_back_once_a_reload(pid1: Pid1, bad: list[str], group: Group) -> None:
    assert armed.parts(group)[armed.GATE]
    bad.append("quantum-execution.service")
    assert armed.parts(group)[armed.GATE] and len(readings) == 1
    pid1.loaded = 2
    assert not armed.parts(group)[armed.GATE]
    assert not armed.parts(group)[armed.GATE] and len(readings) == 2


def test_where_nothing_can_be_remembered(pid1: Pid1, bad: list[str], tmp_path: Path) -> None:
    """As for anyone but root: it is read each time."""
    group = Group(str(tmp_path / "flag"), str(tmp_path / "no/such"), str(tmp_path / "state"))
    assert armed.parts(group)[armed.GATE] and armed.parts(group)[armed.GATE]
    assert len(readings) == 2
