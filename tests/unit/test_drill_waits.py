"""The drill: what it takes for the end of a stop."""

import time
from pathlib import Path

import pytest

from quantum_ess import cgroup, drill, observe
from quantum_ess import plan as plans
from quantum_ess.group import TRADING, Group


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


@pytest.mark.parametrize("looks", [0, 3])
def test_a_unit_is_dead_from_the_look_that_found_it_so(
    looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it was dead before the first one: a stop in 0 ms is none that was measured."""
    seen: list[float] = []

    def populated(path: str) -> bool:
        seen.append(time.monotonic())
        return len(seen) <= looks

    monkeypatch.setattr(cgroup, "populated", populated)
    monkeypatch.setattr(observe, "populated", lambda plan: {})
    began = time.monotonic()
    found = observe.deaths(plans.read(TRADING), {"a.service": "/a"}, 30, lambda: None)
    assert found.living == []
    assert seen[looks] <= found.at["a.service"] <= seen[looks + 1]
    assert found.last(began) == found.at["a.service"] - began > 0
