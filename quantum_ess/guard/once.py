"""One look at every condition: for `guard --check`, and while the guard is dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from quantum_ess import worker
from quantum_ess.guard import hostsource
from quantum_ess.guard.evaluate import FINE, HISTORY, Reading, Watch
from quantum_ess.guard.keyreader import Reader, Readings
from quantum_ess.guard.rules import DOWN, Rules
from quantum_ess.redisclient import Client, Settings
from quantum_ess.systemd import Manager


def look(rules: Rules) -> tuple[list[Watch], str]:
    """Each condition with one reading, and what is wrong with Redis, "" if nothing.

    One look takes a breach for one however short it is, and what needs a history for unknown.
    """
    found: dict[str, Reading] = {}
    problem: list[str] = []
    jobs: list[Callable[[], None]] = [lambda: _units(rules, found)]
    if rules.uses_redis:
        jobs.append(lambda: _redis(rules, found, problem))
    begun = []
    for job in jobs:
        with suppress(RuntimeError):  # no thread to be had: as if it had not answered
            begun.append(worker.start(job))
    deadline = time.monotonic() + 4 * max(Settings(rules.redis).timeout, 1.0)
    for ended in begun:
        ended.wait(max(0.0, deadline - time.monotonic()))
    if rules.uses_redis and not problem:
        problem.append("no answer in time")
    watches = []
    for rule in rules.rules:
        if rule.pressure:
            found[rule.name] = hostsource.pressure(rule)
        elif rule.what == DOWN:
            found[DOWN] = Reading(time.monotonic(), float(bool(problem[0])))
        watch = Watch(rule, rules.repeat)
        late = Reading(time.monotonic(), problem="Redis does not answer" if rule.redis else "late")
        reading = found.get(rule.name, late)
        watch.take(reading)
        if rule.what in HISTORY and watch.evaluator.state == FINE:
            watch.take(reading._replace(value=None, problem="one look can't tell"))
        watches.append(watch)
    return watches, problem[0] if problem else ""


def _redis(rules: Rules, found: dict[str, Reading], problem: list[str]) -> None:
    try:
        client = Client(Settings(rules.redis))
        reader = Reader(rules, client)
        found.update(reader.read(reader.keys) if reader.keys else [])
        client.close()
        problem.append("")
    except Exception as error:
        problem.append(str(error) or type(error).__name__)


def _units(rules: Rules, found: dict[str, Reading]) -> None:
    watched = [rule for rule in rules.rules if rule.unit]
    if not watched:
        return
    readings: Readings
    try:
        with Manager(hostsource.TIMEOUT) as manager:
            readings = hostsource.units(manager, watched)
    except Exception as error:
        now = time.monotonic()
        readings = [(rule.name, Reading(now, problem=str(error))) for rule in watched]
    found.update(readings)
