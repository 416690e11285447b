"""Whether a unit of a release was begun at all: by the end of our own start job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jeepney import HeaderFields

from quantum_ess.release import SKIPPED, _unbegun
from quantum_ess.systemd import LOST, PENDING, Manager, Unit

JOB, PID1 = "/org/freedesktop/systemd1/job/7", "org.freedesktop.systemd1"
BEGAN = 100.0  # s
BEFORE, SINCE = 99_000_000, 101_000_000  # us
LOOKED = {"ConditionTimestampMonotonic": SINCE, "ConditionResult": False}


class Fake:
    """PID 1 as it answers about one oneshot."""

    def __init__(self, ended: str, **more: object) -> None:
        self.ended = {JOB: ended}
        self.known: dict[str, Any] = {
            "Type": "oneshot",
            "ConditionTimestampMonotonic": BEFORE,
            "ConditionResult": True,
            "InactiveEnterTimestampMonotonic": BEFORE,
            **more,
        }

    def get(self, path: str, interface: str, name: str) -> Any:
        return self.known[name]


@pytest.mark.parametrize(
    ("ended", "known", "says"),
    [
        ("done", {}, ""),
        ("dependency", {}, "its start came to nothing: dependency"),
        ("canceled", {}, "its start came to nothing: canceled"),
        (PENDING, {}, "its start came to nothing: PID 1 did not say why"),
        (PENDING, {"InactiveEnterTimestampMonotonic": SINCE}, ""),
        (PENDING, {"InactiveEnterTimestampMonotonic": 0}, "its start came to nothing"),
        # A daemon-reexec: it came to rest since, or is forgotten, or never left its rest.
        (LOST, {"InactiveEnterTimestampMonotonic": SINCE}, ""),
        (LOST, {"InactiveEnterTimestampMonotonic": 0}, ""),
        (LOST, {}, "its start came to nothing: lost"),
        ("done", LOOKED, SKIPPED),
        ("done", {**LOOKED, "Type": "simple"}, f"it was never begun: {SKIPPED}"),
        ("done", {**LOOKED, "ConditionTimestampMonotonic": BEFORE}, ""),
    ],
)
def test_a_oneshot_at_rest(ended: str, known: dict[str, object], says: str) -> None:
    unit = Unit("prepare.service", "loaded", "inactive", "dead", "/path", 0)
    said = _unbegun(Fake(ended, **known), unit, BEGAN, JOB)  # type: ignore[arg-type]
    assert said.startswith(says) and bool(said) == bool(says)


@pytest.mark.parametrize(
    ("sender", "body", "result"),
    [
        (PID1, (7, JOB, "a.service", "failed"), "failed"),
        (":1.99", (7, JOB, "a.service", "failed"), PENDING),  # anybody may say so on a bus
        (PID1, (), PENDING),
        (PID1, (8, JOB + "8", "a.service", "failed"), PENDING),
    ],
)
def test_the_end_of_a_job(sender: str, body: tuple[object, ...], result: str) -> None:
    manager = Manager.__new__(Manager)
    manager.ended, manager._peer = {JOB: PENDING}, PID1
    fields = {HeaderFields.member: "JobRemoved", HeaderFields.sender: sender}
    message: Any = SimpleNamespace(header=SimpleNamespace(fields=fields), body=body)
    manager._note(message)
    assert manager.ended == {JOB: result}
