"""The drill: what it takes for the end of a stop."""

from pathlib import Path

import pytest

from quantum_ess import drill
from quantum_ess.group import Group


def test_the_trail_of_the_way_before_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slow machine is judged before its record is written."""
    group = Group(str(tmp_path / "flag"), str(tmp_path), str(tmp_path))
    monkeypatch.setattr(drill, "DRILL", group)
    seen = []
    for incident, logged in (
        (None, "1-2 complete"),
        ("1-3", "1-2 complete"),
        ("1-3", "1-3 stopped"),
        ("1-3", "1-3 complete"),
    ):
        if incident:
            Path(group.record).write_text(f'{{"incident": "{incident}"}}')
        Path(group.logged).write_text(logged)
        seen.append(drill._accounted_for())
    assert seen == [False, False, False, True]
