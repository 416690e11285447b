"""How far a trail has come, where its marks disagree."""

import os
from pathlib import Path

import pytest

from quantum_ess import stage
from quantum_ess.group import Group


@pytest.mark.parametrize("place", ["logged", "logged_volatile"])
def test_the_furthest_mark_counts(tmp_path: Path, place: str) -> None:
    """The disk took the second mark and not the first, which is the lock's time; or the reverse."""
    (tmp_path / "run").mkdir()
    (tmp_path / "state").mkdir()
    group = Group(f"{tmp_path}/ON", f"{tmp_path}/run", f"{tmp_path}/state")
    assert stage.of(group, "a-1") == ""
    for file, lock in (("complete", "stopped"), ("stopped", "complete"), ("complete", "complete")):
        Path(getattr(group, place)).write_text(f"a-1 {file}\n")
        Path(group.lock).touch()
        number = stage.number("a-1", lock)
        os.utime(group.lock, (number, number))
        assert stage.of(group, "a-1") == "complete"
        assert stage.of(group, "a-2") == ""
