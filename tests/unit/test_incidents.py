"""Incidents as they are told, when a clock or a hand has been at the records."""

from typing import Any

from quantum_ess import historycommand
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
