"""Metrics of the last drill: when, how it ended, how quick each way to stop was, and is one due?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import Metric

from quantum_ess import lastdrill
from quantum_ess.group import Group
from quantum_ess.metricfamily import Samples, gauge, number

WAYS = ("command", "unit", "path", "sentry")


def families(group: Group, status: dict[str, Any]) -> Iterator[Metric]:
    """From the drill's result on disk; whether one is due is for status to say."""
    due = status.get("drill")
    overdue: Samples = [({}, bool(due.get("overdue")))] if isinstance(due, dict) else []
    yield gauge("drill_overdue", "1 if the last drill is too long ago, or never was.", overdue)
    last = lastdrill.load(group.state + "/drill.json")
    if last is None:
        return
    text = "When the last drill began that came to a result."
    yield gauge("drill_last_timestamp_seconds", text, [({}, last["epoch"])])
    passed = last["result"] == lastdrill.PASSED
    yield gauge("drill_last_success", "1 if the last drill passed, 0 if it failed.", [({}, passed)])
    took = last.get("stop_ms")
    took = took if isinstance(took, dict) else {}
    ways: Samples = [({"way": w}, ms / 1000) for w in WAYS if (ms := number(took.get(w)))]
    text = "From trigger until seen dead in the last drill, each way to stop by itself."
    yield gauge("drill_last_stop_seconds", text, ways)
