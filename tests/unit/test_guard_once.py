"""One look in the guard's place: what it can't tell is not fine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from madeup import group_below

from quantum_ess import record
from quantum_ess.errors import StillBreached
from quantum_ess.group import Group
from quantum_ess.guard import command, once, rules, state, veto
from quantum_ess.guard.condition import parse_limit
from quantum_ess.guard.evaluate import BREACHED, FINE, UNKNOWN, Reading
from quantum_ess.guard.rules import Rule, Rules


def rule(what: str, limit: str) -> Rule:
    unit = "u.service" if what == "restarts" else ""
    redis = "" if unit else "k"
    bound = parse_limit(limit)
    return Rule("c", what, "enforce", redis=redis, unit=unit, limit=bound, window=60.0)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The value that is read of any condition."""
    shown = [1.0]

    def read(found: Rules, readings: dict[str, Reading], problem: object = None) -> None:
        readings.update({r.name: Reading(time.monotonic(), shown[0]) for r in found.rules})
        if isinstance(problem, list):
            problem.append("")

    monkeypatch.setattr(once, "_redis", read)
    monkeypatch.setattr(once, "_units", read)
    return shown


WHAT = [
    ("value", "> 5", FINE),
    ("drop", "> 3%", UNKNOWN),
    ("rise", "> 3", UNKNOWN),
    ("unchanged", "> 30s", UNKNOWN),
    ("restarts", "> 2", UNKNOWN),
]


@pytest.mark.parametrize(("what", "limit", "expected"), WHAT)
def test_what_one_look_can_tell(
    shown: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    limit: str,
    expected: str,
) -> None:
    found = Rules(rules=(rule(what, limit),))
    ((watch,), problem) = once.look(found)
    assert watch.evaluator.state == expected and not problem
    monkeypatch.setattr("quantum_ess.config.load", lambda: None)
    monkeypatch.setattr(rules, "of", lambda config: found)
    assert command.check() == (0 if expected == FINE else 1)
    assert ("one look can't tell" in capsys.readouterr().out) == (expected != FINE)


def test_a_breach_is_one(shown: list[float]) -> None:
    shown[0] = 6.0
    ((watch,), _) = once.look(Rules(rules=(rule("value", "> 5"),)))
    assert watch.evaluator.state == BREACHED


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """ESS is active by condition c, and the guard is dead."""
    group = group_below(tmp_path)
    Path(group.flag).touch()
    record.store(
        group.record, {"incident": "i", "trigger": "guard", "reason": "condition c: 9 > 5"}
    )
    return group


@pytest.mark.parametrize(("what", "limit", "expected"), WHAT)
def test_a_release_without_a_guard(
    group: Group, shown: list[float], what: str, limit: str, expected: str
) -> None:
    Path(state.rules_path(group)).write_text(rules.text(Rules(rules=(rule(what, limit),))))
    if expected == FINE:
        assert veto.ask(group, False, "") == ["the guard: not running; looked once instead"]
        return
    with pytest.raises(StillBreached, match=r"c: .* is unknown: one look can't tell"):
        veto.ask(group, False, "")


def test_rules_that_cant_be_read(group: Group) -> None:
    """Then nothing says that what had tripped is fine."""
    Path(state.rules_path(group)).write_text("{")
    with pytest.raises(StillBreached, match="c: the guard's rules can't be read"):
        veto.ask(group, False, "")
    record.store(group.record, {"incident": "i", "trigger": "flag"})
    assert veto.ask(group, False, "")
