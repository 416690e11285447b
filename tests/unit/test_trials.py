"""Drill and proof: what they say and judge of what they find, without a host."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from madeup import group_below

from quantum_ess import drill, proof, record
from quantum_ess.errors import Failed
from quantum_ess.evidence import Evidence
from quantum_ess.group import Group
from quantum_ess.progress import Progress


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
