"""The trail's spool: entries wait for journald, and are delivered once each, in order."""

import errno
import os
from pathlib import Path

import pytest

from quantum_ess import record, trail
from quantum_ess.group import Group


@pytest.fixture
def group(tmp_path: Path) -> Group:
    found = Group(f"{tmp_path}/flag", f"{tmp_path}/run", f"{tmp_path}/state")
    for directory in (found.run, found.spool):
        os.makedirs(directory)
    return found


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What journald takes."""
    return listen(monkeypatch)


def listen(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    entries: list[bytes] = []

    def send(entry: bytes) -> bool:
        entries.append(entry)
        return True

    monkeypatch.setattr(trail, "send", send)
    return entries


def keep(group: Group, *names: str) -> None:
    for name in names:
        Path(group.spool, name).write_bytes(name.encode())


def test_a_disk_that_lets_go_of_nothing(
    group: Group, taken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went read-only while they waited: each is delivered once, and none holds up the rest."""
    keep(group, "1", "2")

    def stuck(path: str) -> None:
        if path.startswith(group.state):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    monkeypatch.setattr(record, "remove", stuck)
    assert trail.flush(group) == trail.flush(group) == 0
    assert taken == [b"1", b"2"] and trail.spooled(group) == []

    # It takes something again: they go without being said again.
    monkeypatch.undo()
    again = listen(monkeypatch)
    keep(group, "3")
    assert trail.flush(group) == 0
    assert again == [b"3"] and os.listdir(group.spool) == []
    assert not os.path.exists(group.run + trail.SPOOL_DONE)


def test_one_that_can_not_be_read_holds_up_nothing(group: Group, taken: list[bytes]) -> None:
    keep(group, "2")
    Path(group.spool, "1").mkdir()
    assert trail.flush(group) == 1
    assert taken == [b"2"]
