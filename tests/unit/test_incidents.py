"""Incidents as they are told, when a clock or a hand has been at the records."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from madeup import group_below

from quantum_ess import historycommand, incidents, latch
from quantum_ess.incidents import Incident

BEFORE = "2026-01-01T12:00:00.000Z"
AFTER = "2026-01-01T11:05:00.000Z"  # the clock was set back by an hour meanwhile


def entry(event: str, time: str, **more: Any) -> dict[str, Any]:
    return {"event": event, "time": time, "incident": "0badcafe-7", **more}


def test_a_clock_that_was_set_back() -> None:
    """The order is that of the records, and nobody is told of a stop that ended before it began."""
    told = [entry("activated", BEFORE, stop_ms=5), entry("unlatched", AFTER)]
    known = Incident("0badcafe-7", [*told, entry("released", AFTER)], active=False)
    texts = [text for _, text in known.timeline()]
    assert texts[0].startswith("ACTIVATED") and texts[-1] == "RELEASED"
    assert known.downtime is None and known.summary()["downtime_s"] is None
    assert "released" in historycommand.row(known)
    assert "+-" not in historycommand.tell(known)


def test_one_that_was_altered_hides_no_other() -> None:
    whole = Incident("0badcafe-7", [entry("activated", BEFORE, stop_ms=5)], active=False)
    altered = Incident("0badcafe-8", [entry("activated", BEFORE, stop_ms="5")], active=False)
    lines = historycommand.table([altered, whole], 200).splitlines()
    assert "ALTERED" in lines[1] and "0.005 s" in lines[2]


@pytest.mark.parametrize(
    ("facts", "units", "verified"),
    [
        ({}, "?", "yes"),
        ({"stopped": []}, "0", "yes"),
        ({"stopped": ["a.service"], "living": ["a.service"]}, "1", "NO: a.service"),
        ({"stopped": ["a.service"], "latched": False}, "1", "NO: not latched"),
    ],
)
def test_what_is_not_known_is_no_fact(facts: dict[str, Any], units: str, verified: str) -> None:
    known = Incident("0badcafe-7", [entry("activated", BEFORE, epoch=0, **facts)], active=True)
    assert historycommand.row(known)[4] == units
    assert known.verified == verified
    assert ("what ran is not known" in historycommand.tell(known)) == (units == "?")
    assert ("NOT LATCHED" in historycommand.tell(known)) == (verified == "NO: not latched")


def test_one_of_which_the_beginning_is_not_on_record() -> None:
    known = Incident("0badcafe-7", [entry("refused", BEFORE, unit="a.service")], active=False)
    assert known.verified == "not on record" and historycommand.row(known)[4] == "?"


def test_one_that_holds_without_a_record_is_active(tmp_path: Path) -> None:
    """On a disk that takes none, as status has it."""
    group = group_below(tmp_path)
    os.makedirs(os.path.dirname(group.flag), exist_ok=True)
    Path(group.flag).touch()
    name = latch.incident(latch.inode(group))
    line = json.dumps({"n": 1, "prev": "", **entry("activated", BEFORE), "incident": name})
    os.makedirs(os.path.dirname(group.history), exist_ok=True)
    Path(group.history).write_text(line + "\n")
    (known,) = incidents.load(group, [])
    assert known.active and known.state == "active"
