"""Metrics of all that was: activations, stop times, refused starts, notifications."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import Metric

from quantum_ess import history, incidents, record
from quantum_ess.group import Group
from quantum_ess.history import Entry
from quantum_ess.metricfamily import Samples, counter, gauge, histogram, number

TRIGGERS = ("command", "unit", "flag", "guard", "resume")
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)  # seconds
TRADING = {"group": "trading"}


def families(group: Group) -> Iterator[Metric]:
    """Nothing if there is no history yet, or if not all of it can be read for once: a counter that
    goes back and returns counts twice."""
    yield from _notifications(group)
    unread: list[str] = []
    past = incidents.load(group, unread)
    once = [text for text in unread if f": {history.DAMAGED}" not in text]
    if once or not history.files(group):
        return
    by = Counter(str(incident.start.get("trigger")) for incident in past if incident.start)
    others = sum(count for trigger, count in by.items() if trigger not in TRIGGERS)
    counted: Samples = [(TRADING | {"trigger": name}, by[name]) for name in TRIGGERS]
    counted.append((TRADING | {"trigger": "other"}, others))
    yield counter("activations", "Incidents so far, by what activated ESS.", counted)
    took = [ms / 1000 for i in past if (ms := number(i.start.get("stop_ms"))) is not None]
    text = "From an activation's trigger to the verification that nothing lives any more."
    yield histogram("stop_seconds", text, BOUNDS, TRADING, took)
    refused = sum(number(burst.get("count", 1)) or 0 for i in past for burst in i.refused)
    text = "Starts of protected units that were refused while ESS was active."
    yield counter("refused_starts", text, [(TRADING, refused)])
    sent = [entry for i in past for entry in i.entries if entry["event"] == "notified"]
    text = "Attempts to send a notification that failed, of those that are over."
    yield counter("notification_failures", text, [({}, sum(map(_failures, sent)))])


def _failures(sent: Entry) -> float:
    """Failed attempts of a notification: all but the last one, and that too if it failed."""
    tries = number(sent.get("tries")) or 0
    return tries if sent.get("failed") else max(tries - 1, 0)


def _notifications(group: Group) -> Iterator[Metric]:
    """Those that were tried and have not arrived: a line each in a file that notify leaves."""
    path = group.run + "/notify-problem"
    waiting = len(record.text(path, record.LONGEST).splitlines())
    known: Samples = [({}, waiting)] if os.path.lexists(path) else []
    yield gauge("notifications_pending", "Notifications that failed and are tried again.", known)
