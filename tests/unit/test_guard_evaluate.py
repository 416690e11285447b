"""The guard's decisions against a plain reference, and case by case."""

from __future__ import annotations

import math
from itertools import pairwise, takewhile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ess.guard.condition import Limit, parse_limit
from quantum_ess.guard.evaluate import BREACHED, FINE, UNKNOWN, Evaluator, Reading, Watch
from quantum_ess.guard.rules import Rule

REPEAT = 5.0
NAN, INF = math.nan, math.inf


def rule(what: str = "value", limit: str = "> 10", **more: object) -> Rule:
    return Rule(name="c", what=what, mode="enforce", redis="k", limit=parse_limit(limit), **more)  # type: ignore[arg-type]


def fired(rule: Rule, readings: list[Reading]) -> list[int]:
    """Which readings something was due at."""
    evaluator = Evaluator(rule, REPEAT)
    return [number for number, reading in enumerate(readings) if evaluator.take(reading)]


def series(*values: float | None, step: float = 1.0) -> list[Reading]:
    """A reading each step, the first one of a connection."""
    return [
        Reading(step * n, value, "" if value is not None else "gone", first=n == 0)
        for n, value in enumerate(values)
    ]


# The reference: everything is computed anew from the whole series, at every reading.


def known(reading: Reading) -> bool:
    return reading.value is not None and math.isfinite(reading.value)


def slot(time: float, window: float) -> int:
    return 0 if math.isinf(window) else math.floor(time * 1000 / window)


def measured(rule: Rule, readings: list[Reading], at: int, samples: list[bool]) -> float | None:
    now = readings[at]
    if not known(now):
        return None
    assert now.value is not None
    if rule.what in ("value", "missing", "age"):
        return now.value
    seen = [(r.time, r.value or 0.0, r.text) for r in readings[: at + 1] if known(r)]
    if rule.what == "unchanged":
        same = len(list(takewhile(lambda row: row[2] == now.text, reversed(seen))))
        since = seen[-same][0]
        gaps = [
            later.time - max(r.time for r in readings[:n] if r.reachable)
            for n, later in enumerate(readings[: at + 1])
            if later.first and later.reachable and later.time > since
        ]
        return now.time - since - sum(gaps)
    if rule.what == "restarts":
        return sum(
            value - before if value >= before else value
            for (_, before, _), (time, value, _) in pairwise(seen)
            if slot(time, rule.window) > slot(now.time, rule.window) - 1000
        )
    sign = 1 if rule.what == "drop" else -1
    values = [(n, sign * r.value) for n, r in enumerate(readings[: at + 1]) if known(r)]  # type: ignore[operator]
    shown = [(n, value) for n, value in values if samples[n] or n == values[0][0]]
    twice = [
        min(before, value)
        for (_, before), (n, value) in pairwise(shown)
        if slot(readings[n].time, rule.window) > slot(now.time, rule.window) - 1000
    ]
    extreme = sign * max([*twice, values[-1][1]])
    if rule.limit.kind == "%":
        return 100 * abs(extreme - now.value) / extreme if extreme > 0 else None
    return abs(extreme - now.value)


def reference(rule: Rule, readings: list[Reading]) -> list[int]:
    """Which readings a breach or a doubt is due at, said as plainly as it can be."""
    due: list[int] = []
    states: list[bool | None] = []
    samples: list[bool] = []
    counts: list[bool] = []
    last = -INF
    for at, reading in enumerate(readings):
        sample = not reading.first and (reading.fresh or reading.time - last >= REPEAT)
        samples.append(sample)
        value = measured(rule, readings, at, samples)
        limit = Limit(">", 0) if rule.what == "missing" else rule.limit
        state = None if value is None else limit.broken_by(value)
        episode = next((n for n in range(at - 1, -1, -1) if states[n] is False), -1) + 1
        begins = state is True and True not in states[episode:]
        counts.append(not reading.first if begins else sample)
        if reading.first or (sample and reading.value is not None) or (state and counts[at]):
            last = reading.time
        states.append(state)
        if state:
            breaches = [n for n in range(episode, at + 1) if states[n]]
            lasted = sum(
                readings[n].time - readings[n - 1].time
                for n in breaches
                if n - 1 in breaches and not readings[n].first
            )
            enough = sum(counts[n] for n in breaches) >= rule.samples
            if enough and lasted >= rule.lasting - 1e-9:
                due.append(at)
        if state is None and rule.unknown != "ignore" and reading.reachable:
            start = at
            while start and states[start - 1] is None and readings[start - 1].reachable:
                start -= 1
            if reading.time - readings[start].time >= rule.unknown_for:
                due.append(at)
    return due


readings = st.lists(
    st.tuples(
        st.sampled_from([0.25, 0.5, 1.0, 2.0, 6.0]),  # exact in binary, so that sums are too
        st.sampled_from([None, NAN, INF, -5.0, 0.0, 9.0, 10.0, 10.5, 11.0, 50.0, 100.0]),
        st.booleans(),
        st.integers(0, 9),
    ),
    max_size=60,
)
bounds = st.fixed_dictionaries(
    {
        "limit": st.sampled_from(["> 10", ">= 10", "> 0", "< 1", "<= 0", "> 50%", ">= 10%"]),
        "samples": st.integers(1, 4),
        "lasting": st.sampled_from([0.0, 0.5, 2.0, 7.0]),
        "window": st.sampled_from([2.0, 8.0]) | st.just(INF),
        "unknown": st.sampled_from(["ignore", "warn", "activate"]),
        "unknown_for": st.sampled_from([0.0, 1.0, 4.0]),
    }
)


@pytest.mark.parametrize(
    "what", ["value", "drop", "rise", "age", "missing", "unchanged", "restarts"]
)
@settings(max_examples=150, deadline=None)
@given(bounds, readings)
def test_the_same_as_the_reference(
    what: str, bounds: dict[str, Any], steps: list[tuple[float, float | None, bool, int]]
) -> None:
    watched = rule(what, **bounds)
    time, made = 0.0, []
    for number, (step, value, fresh, odd) in enumerate(steps):
        time += step
        reachable, first = value is not None or odd > 3, not number or not odd
        made.append(Reading(time, value, "x", fresh, first, str(value), reachable=reachable))
    assert fired(watched, made) == reference(watched, made)


def test_samples_in_a_row() -> None:
    assert fired(rule(samples=3), series(0, 11, 11, 0, 11, 11, 11, 11)) == [6, 7]
    assert fired(rule(samples=1), series(0, 11)) == [1]
    assert fired(rule(samples=2), series(0, 11, None, 11)) == [3], "unknown does not end a breach"


def test_one_bad_tick_is_not_enough_however_long_it_is_read() -> None:
    tick = [Reading(n / 4, 11, fresh=n == 1) for n in range(1, 20)]
    assert fired(rule(samples=2), [Reading(0, 0), *tick]) == []
    assert fired(rule(samples=2), [Reading(0, 0), *tick, Reading(6, 11, fresh=False)]) == [20]


def test_the_first_look_counts_for_nothing() -> None:
    assert fired(rule(samples=1), [Reading(0, 11, first=True), Reading(1, 11, fresh=False)]) == []
    assert fired(rule(samples=1), series(11, 11)) == [1]


def test_time_that_nobody_saw_does_not_count() -> None:
    """Breached right before Redis went away, and right after it came back a minute later."""
    away = [Reading(n, None, "no answer", reachable=False) for n in range(2, 60)]
    back = [Reading(60, 11, first=True), *(Reading(n, 11) for n in range(61, 80))]
    lasting = rule(lasting=10)
    assert fired(lasting, [Reading(0, 0), Reading(1, 11), *away, *back])[0] == 70


def test_unknown_acts_only_while_the_source_answers() -> None:
    doubt = rule(unknown="activate", unknown_for=3.0)
    assert fired(doubt, series(0, None, None, None, None)) == [4]
    assert fired(doubt, series(0, NAN, INF, -INF, None)) == [4]
    dead = [Reading(n, None, "no answer", reachable=False) for n in range(99)]
    assert fired(doubt, dead) == []
    assert fired(rule(unknown="ignore"), series(*[None] * 99)) == []


def test_a_drop_from_the_peak() -> None:
    drop = rule("drop", ">= 3%", samples=1, window=10.0)
    assert fired(drop, series(100, 100, 98, 97.1, 97)) == [4]
    assert fired(drop, series(100, 1000, 100, 100, 100)) == [], "one high tick is no peak"
    read_often = [Reading(n / 4, 1000 if 4 < n < 9 else 100, fresh=n in (5, 9)) for n in range(20)]
    assert fired(drop, read_often) == [], "however often that tick is read"
    slow = [100 - n / 5 for n in range(40)]
    assert fired(drop, series(*slow)) == [], "2 % in any 10 s"


def test_a_window_holds_a_bounded_number_of_values() -> None:
    drop = Evaluator(rule("drop", ">= 99%", window=3600.0), REPEAT)
    for n in range(20000):
        drop.take(Reading(n / 4, 1e6 - n))
    assert len(drop.extreme._kept) <= 1000


def test_restarts_in_a_window() -> None:
    counted = rule("restarts", "> 2", window=10.0)
    assert fired(counted, series(7, 7, 8, 9, 10)) == [4]
    assert fired(counted, series(7, 0, 1, 2)) == [], "a counter that starts anew"
    assert fired(counted, series(0, 1, 2, 3, step=6.0)) == []


def test_unchanged() -> None:
    stuck = rule("unchanged", "> 3s")
    same = [Reading(n, 1, text="42") for n in range(5)]
    assert fired(stuck, same) == [4]
    assert fired(stuck, [Reading(n, 1, text=str(n)) for n in range(9)]) == []


def test_trips_once_and_arms_when_seen_healthy() -> None:
    watch = Watch(rule(samples=1, rearm_after=60.0), REPEAT)
    for reading in series(0, 11):
        due = watch.take(reading)
    assert due == "breach" and watch.acts(due)
    watch.tripped = True
    assert watch.take(Reading(2, 11)) == "" and watch.evaluator.state == BREACHED
    watch.released(3)
    assert watch.take(Reading(4, 12)) == "" and not watch.armed
    assert watch.take(Reading(5, None)) == "" and not watch.armed, "unknown is not healthy"
    assert watch.evaluator.state == UNKNOWN
    assert watch.take(Reading(6, 0)) == "" and watch.armed
    assert watch.evaluator.state == FINE
    assert watch.take(Reading(7, 11)) == "breach"


def test_what_only_lacks_data_after_a_stop_does_not_object_to_a_release() -> None:
    for what, due, latched, objects in (
        ("age", "breach", True, False),
        ("missing", "breach", True, False),
        ("unchanged", "breach", True, False),
        ("value", "unknown", True, False),
        ("value", "breach", True, True),
        ("down", "breach", True, True),
        ("age", "breach", False, True),
        ("value", "unknown", False, True),
    ):
        watch = Watch(rule(what), REPEAT)
        watch.trip(due, latched)
        assert watch.tripped and watch.objects is objects, (what, due, latched)
        watch.released(1)
        assert not watch.armed, "it does not act again before it was seen healthy"


def test_arms_by_time() -> None:
    watch = Watch(rule(samples=1, rearm_after=60.0), REPEAT)
    for reading in series(0, 11):
        watch.take(reading)
    watch.tripped = True
    watch.released(2)
    assert watch.take(Reading(61, 11)) == ""
    assert watch.take(Reading(62, 11)) == "breach"


def test_a_reason_has_value_and_limit() -> None:
    watch = Watch(rule("value", "> 0.05", field="drawdown"), REPEAT)
    watch.take(Reading(0, 0.12))
    assert watch.reason() == "c: k drawdown 0.12 > 0.05"
    assert str(Limit(">=", 3, "%")) == ">= 3%"
