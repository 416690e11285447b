"""Readings from systemd and the kernel. PID 1 may hang: it is asked in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from quantum_ess.guard.evaluate import Reading
from quantum_ess.guard.rules import Rule, Rules
from quantum_ess.systemd import Manager, Refused, Unit, Unreachable

TIMEOUT = 2.0  # seconds for each call to PID 1
PRESSURE = "/proc/pressure"
Readings = list[tuple[str, Reading]]


def pressure(rule: Rule, directory: str = PRESSURE) -> Reading:
    """The host's pressure as proc(5) gives it, in percent."""
    now = time.monotonic()
    try:
        with open(f"{directory}/{rule.pressure}", encoding="ascii") as file:
            lines = dict(line.split(" ", 1) for line in file)
        averages = dict(pair.split("=") for pair in lines[rule.share].split())
        return Reading(now, float(averages["avg" + rule.average.removesuffix("s")]))
    except OSError as error:
        return Reading(now, problem=f"{directory}/{rule.pressure}: {error.strerror}")
    except (ValueError, LookupError):
        return Reading(now, problem=f"{directory}/{rule.pressure} says nothing of {rule.share}")


def units(manager: Manager, rules: list[Rule]) -> Readings:
    """A reading for each rule on a unit. Raises Unreachable."""
    names = list(dict.fromkeys(rule.unit for rule in rules))
    found = {unit.name: unit for unit in manager.units(names)}
    return [(rule.name, _reading(manager, rule, found.get(rule.unit))) for rule in rules]


def _reading(manager: Manager, rule: Rule, unit: Unit | None) -> Reading:
    now = time.monotonic()
    try:
        if unit is None:
            path = manager.load(rule.unit)
            # An alias too, which systemd does not list.
            states = ("LoadState", "ActiveState", "SubState")
            load, active, sub = (str(manager.get(path, "Unit", key)) for key in states)
            unit = Unit(rule.unit, load, active, sub, path, 0)
        if unit.load in ("not-found", "error", "bad-setting"):
            return Reading(now, problem=f"unit {unit.load}")
        if rule.what == "restarts":
            return Reading(now, float(manager.get(unit.path, "Service", "NRestarts")))
    except Refused as error:
        return Reading(now, problem=str(error))
    if rule.what == "failed":
        return Reading(now, float(unit.active == "failed"))
    return Reading(now, float(unit.active not in ("active", "reloading", "refreshing")))


class UnitSource(threading.Thread):
    """Asks PID 1 until it is told to end; what it finds goes to `post`."""

    def __init__(self, rules: Rules, post: Callable[[Readings], None]) -> None:
        super().__init__(name="units", daemon=True)
        self._rules = [rule for rule in rules.rules if rule.unit]
        self._poll = rules.poll
        self._ended = threading.Event()
        self._post = post

    def end(self) -> None:
        """Have the thread end, at the next poll at the latest."""
        self._ended.set()

    def run(self) -> None:
        """Ask and wait, again and again; a new connection after each failure."""
        manager: Manager | None = None
        while True:
            try:
                manager = manager or Manager(TIMEOUT)
                self._post(units(manager, self._rules))
            except Exception as error:  # also a defect: it must show, and not end the thread
                known = isinstance(error, Unreachable)
                said = f"systemd: {error}" if known else f"{type(error).__name__}: {error}"
                now = time.monotonic()
                self._post([(rule.name, Reading(now, problem=said)) for rule in self._rules])
                if manager is not None:
                    manager.close()
                manager = None
            if self._ended.wait(self._poll):
                break
        if manager is not None:
            manager.close()
