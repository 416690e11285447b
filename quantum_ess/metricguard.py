"""Metrics of the guard: does it live, and what does it see? From its file in /run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from prometheus_client.core import Metric

from quantum_ess.group import Group
from quantum_ess.metricfamily import Document, Samples, document, gauge, number

PATIENCE = 10.0  # seconds, if the guard does not say after how many it must give a sign of life


def families(group: Group) -> Iterator[Metric]:
    """Nothing if no guard is configured. Of a guard that does not live, no values: they are old."""
    if not os.path.lexists(group.run + "/guard-plan"):
        return
    seen = document(group.run + "/guard.json") or {}
    up = _lives(seen)
    yield gauge("guard_up", "1 if the guard lives: it has given a sign in time.", [({}, up)])
    if not up:
        return
    redis = seen.get("redis")
    known: Samples = [({}, redis.get("state") == "up")] if isinstance(redis, dict) else []
    yield gauge("guard_redis_up", "1 if the guard can read Redis.", known)
    rows = seen.get("conditions")
    conditions = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    text = "What the condition's measure is now, in the condition's own unit."
    yield gauge("guard_condition_value", text, _numbers(conditions, "value"))
    yield gauge(
        "guard_condition_limit", "What that is held against.", _numbers(conditions, "limit")
    )
    text = "Age of the data, where they say."
    yield gauge("guard_condition_data_age_seconds", text, _numbers(conditions, "data_age"))
    text = "1 while the value is on the wrong side of the limit."
    yield gauge("guard_condition_breached", text, _states(conditions, "breached"))
    text = "1 while there is no value: data missing, old, or no number."
    yield gauge("guard_condition_unknown", text, _states(conditions, "unknown"))


def _lives(seen: Document) -> bool:
    """Whether it has written within its watchdog's time, by a clock that nobody sets."""
    written, patience = number(seen.get("boottime")), number(seen.get("watchdog")) or PATIENCE
    if written is None or seen.get("stopped"):
        return False
    return time.clock_gettime(time.CLOCK_BOOTTIME) - written < patience


def _numbers(conditions: list[Document], key: str) -> Samples:
    rows = [(_name(row), number(row.get(key))) for row in conditions]
    return [(labels, value) for labels, value in rows if value is not None]


def _states(conditions: list[Document], state: str) -> Samples:
    return [(_name(row), row.get("state") == state) for row in conditions]


def _name(row: Document) -> dict[str, str]:
    return {"condition": str(row.get("name", ""))}
