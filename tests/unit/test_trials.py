"""Drill and proof: what they say and judge of what they find, without a host."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from madeup import group_below

from quantum_ess import drill, latch, observe, process, proof, record
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
        self.known: dict[str, dict[str, list[str]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.broken = True

    def units(self, names: list[str]) -> list[Unit]:
        if self.broken:
            raise Unreachable("PID 1: Bad file descriptor")
        return [Unit(name, "loaded", "active", "running", f"/{name}", 0) for name in names]

    def load(self, unit: str) -> str:
        return unit

    def get_all(self, unit: str, kind: str) -> dict[str, list[str]]:
        return {"WantedBy": ["multi-user.target"], **self.known.get(unit, {})}


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


@pytest.mark.parametrize(
    ("order", "early"),
    [
        ("engine gw other", ""),
        ("gw engine other", "gw"),
        ("engine other gw", "other"),
        ("gw.socket engine gw other", ""),
        ("trading.slice engine gw other", ""),
        ("fed engine gw other", ""),
        ("fired engine gw other", ""),
        ("engine other gw fed", "other"),
    ],
)
def test_what_pid_1_starts_by_itself_is_not_out_of_order(
    group: Group, pid1: Any, order: str, early: str
) -> None:
    """A socket, what another unit wants, what a timer triggers; but all others are."""
    pid1.known = {
        "fed.service": {"WantedBy": ["multi-user.target", "gw.service"]},
        "fired.service": {"TriggeredBy": ["fired.timer"]},
    }
    work = proof.Proof(evidence(), pid1)
    named = [name if "." in name else f"{name}.service" for name in order.split()]
    configured = ["engine", "gw", "other", "fed", "fired", "gw.socket", "trading.slice"]
    turns = [name if "." in name else f"{name}.service" for name in configured]
    up = {name: 1.0 + named.index(name) for name in turns if name in named}
    assert work._early(up) == [f"{name}.service" for name in early.split()]


def test_the_units_own_mark_is_not_somebody_elses(group: Group, pid1: Any) -> None:
    """It finds the flag that it has set itself; a touch at the same time is another's."""
    work = proof.Proof(evidence(), pid1)
    latch.shut(group)
    work._mark = latch.mark(group.flag)
    assert work._as_noted(work._mark, 0)
    latch.shut(group)
    assert work._as_noted(latch.mark(group.flag), proof.AGAIN)
    assert not work._as_noted(latch.mark(group.flag), 0)
    time.sleep(0.02)
    os.utime(group.flag)
    assert not work._as_noted(latch.mark(group.flag), proof.AGAIN)


def test_the_trail_is_found_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be set back during a proof: entries are then older than its beginning."""
    asked: list[str] = []

    def run(*argv: str, seconds: float) -> process.Process:
        asked.extend(argv)
        return process.Process("true")

    monkeypatch.setattr(process, "run", run)
    assert observe.entries("quantum-ess", "1234abcd-5") == []
    assert {"ESS_INCIDENT=1234abcd-5", "-b"} <= set(asked)
    assert not [word for word in asked if word.startswith(("--since", "-S"))]
