"""Drill and proof: what they say and judge of what they find, without a host."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from madeup import group_below

from quantum_ess import drill, observe, proof, record
from quantum_ess.errors import Failed
from quantum_ess.evidence import Evidence
from quantum_ess.group import Group
from quantum_ess.progress import Progress
from quantum_ess.systemd import Manager, Unit, Unreachable


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Group:
    """Trading's files are below a directory."""
    group = group_below(tmp_path)
    for module in (drill, proof):
        monkeypatch.setattr(module, "TRADING", group)
    monkeypatch.setattr(drill, "LOCK", group.run + "/drill.lock")
    return group


def evidence() -> Evidence:
    return Evidence(Progress(quiet=True))


class Pid1:
    """A connection to it, by which all units that are asked for are up."""

    def __init__(self) -> None:
        self.broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.broken = True

    def units(self, names: list[str]) -> list[Unit]:
        if self.broken:
            raise Unreachable("PID 1: Bad file descriptor")
        return [Unit(name, "loaded", "active", "running", f"/{name}", 0) for name in names]


@pytest.fixture
def pid1(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(observe, "populated", lambda plan: {})
    return Pid1()


WORK: dict[str, tuple[str, Callable[[], object]]] = {
    "proof": ("proof.lock", lambda: proof.perform(evidence())),
    "drill": ("drill.lock", lambda: drill.perform(evidence())),
    "clean": ("drill.lock", drill.clean_up),
}


@pytest.mark.parametrize("what", WORK)
def test_a_lock_that_cannot_be_made_is_nobody_elses(group: Group, what: str) -> None:
    name, work = WORK[what]
    lock = f"{group.run}/{name}"
    os.symlink("/nowhere/lock", lock)
    with pytest.raises(Failed, match=f"{name} can't be made") as raised:
        work()
    assert raised.value.hint == record.ROOM
    os.unlink(lock)
    with record.lock(lock, 0.0), pytest.raises(Failed, match="is running"):
        work()


def test_what_ran_is_restored_by_another_connection(
    group: Group, pid1: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that the proof had may be what it has failed by."""
    monkeypatch.setattr(Manager, "lasting", Pid1)
    work = proof.Proof(evidence(), pid1)
    assert len(work.ran) == 4
    pid1.broken = True
    work.restore()
    assert work.evidence.failures == []
