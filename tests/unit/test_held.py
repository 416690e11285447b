"""Refused starts, as the shell counts them: each once, whoever takes the count away meanwhile."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from madeup import HERE, group_below

from quantum_ess import history
from quantum_ess.group import Group

UNIT = "bot@BTC\\x2dUSD.service"


@pytest.fixture
def group(tmp_path: Path) -> Group:
    found = group_below(tmp_path)
    os.makedirs(found.history_spool)
    return found


def refuse(group: Group, meanwhile: str = "") -> int:
    """Run libexec/held; meanwhile: what happens between its look at the count and the new one."""
    places = f"flag={group.flag} run={group.run} state={group.state}"
    library = HERE / "quantum_ess/libexec/strike"
    script = (HERE / "quantum_ess/libexec/held").read_text()
    for ours, made in (
        (". /usr/lib/quantum-ess/strike", f". {library}; {places}"),
        ("timeout 2 logger --journald", "cat >/dev/null"),
        ("mkdir -p $run/refused\n", f"mkdir -p $run/refused; {meanwhile or 'true'}\n"),
    ):
        assert script.count(ours) == 1
        script = script.replace(ours, made)
    return subprocess.run(["sh", "-c", script, "held", UNIT, "0badcafe"], timeout=20).returncode


def counts(group: Group) -> list[int]:
    return [new["count"] for new in history.waiting(group)]


def test_a_burst_is_one_record(group: Group) -> None:
    for count in (1, 2, 3):
        assert refuse(group) == 0 and counts(group) == [count]
    assert os.listdir(group.refused) == [UNIT]
    history.fold(group, quiet=0)
    assert refuse(group) == 0 and counts(group) == [3, 1]
    (new, _) = history.waiting(group)
    assert new["unit"] == UNIT


def test_a_burst_that_is_handed_on_meanwhile(group: Group) -> None:
    """By a release, which waits for no minute."""
    for _ in range(3):
        refuse(group)
    assert refuse(group, f'mv "$counted" {group.history_spool}/1') == 0
    assert counts(group) == [3, 1] and os.listdir(group.refused) == [UNIT]
    last = history.waiting(group)[-1]
    assert last["epoch"] == last["last"]


@pytest.mark.parametrize("content", ["", "{}", '{"epoch": ., "count": }', "\n\n", "\0"])
def test_a_count_that_is_none(group: Group, content: str) -> None:
    os.makedirs(group.refused)
    Path(group.refused, UNIT).write_text(content)
    assert refuse(group) == 0 and counts(group) == [1]
    assert refuse(group) == 0 and counts(group) == [2]
    assert os.listdir(group.refused) == [UNIT]


def test_a_burst_that_is_over(group: Group) -> None:
    refuse(group)
    path = Path(group.refused, UNIT)
    os.utime(path, (1e9, 1e9))
    assert refuse(group) == 0 and counts(group) == [1, 1]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epoch": 1.5}))
    assert refuse(group) == 0 and counts(group) == [1, 1, 1], "an hour in all"
