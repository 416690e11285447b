"""Metrics of the guard: does it live, and what does it see? From its file in /run."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from quantum_ess.group import Group
from quantum_ess.guard import state
from quantum_ess.metricfamily import Document, Samples, gauge, number


def families(group: Group) -> Iterator[Metric]:
    """Nothing if no guard is configured. Of a guard that does not live, no values: they are old."""
    seen = state.read(group)
    health = state.health(group, seen)
    if health == "off":
        return
    up = health == "running"
    yield gauge("guard_up", "1 if the guard lives: it has given a sign in time.", [({}, up)])
    if seen is None or not up:
        return
    redis = seen.get("redis")
    known: Samples = [({}, redis.get("state") == "up")] if isinstance(redis, dict) else []
    yield gauge("guard_redis_up", "1 if the guard can read Redis.", known)
    conditions = [row for row in seen["conditions"] if isinstance(row, dict)]
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


def _numbers(conditions: list[Document], key: str) -> Samples:
    rows = [(_name(row), number(row.get(key))) for row in conditions]
    return [(labels, value) for labels, value in rows if value is not None]


def _states(conditions: list[Document], wanted: str) -> Samples:
    return [(_name(row), row.get("state") == wanted) for row in conditions]


def _name(row: Document) -> dict[str, str]:
    return {"condition": str(row.get("name", ""))}
