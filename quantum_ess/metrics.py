"""Metrics in Prometheus' text format: what is active, armed and running, and how stops went.

Names and units: https://prometheus.io/docs/practices/naming/. Only the metric modules import
prometheus_client, and nothing but `quantum-ess metrics` imports them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from quantum_ess import (
    __version__,
    actor,
    armed,
    latch,
    metricdrill,
    metricguard,
    metrichistory,
    record,
    status,
)
from quantum_ess.group import Group
from quantum_ess.metricfamily import Samples, gauge, short
from quantum_ess.refresh import DIRECTORY

FILE = "quantum-ess.prom"
AT_REST = ("inactive", "failed", "no processes", "not-found", "masked", "error", "bad-setting")
NOT_THERE = ("not-found", "masked", "unknown")  # says nothing of a kept unit

Status = dict[str, Any]
TRADING = {"group": "trading"}  # the labels of what is said of trading only


class Host(Collector):
    """What prometheus_client asks for the metrics of this host."""

    def __init__(self, groups: dict[str, Group]) -> None:
        """groups: by their names; `trading` is the one that there is most to say of."""
        self.groups = groups

    def collect(self) -> Iterator[Metric]:
        """Every family, once."""
        yield gauge("build_info", "Version of quantum-ess.", [({"version": __version__}, 1)])
        trading = self.groups["trading"]
        seen = status.collect(trading)
        latched = {name: group.latched() for name, group in self.groups.items()}
        latched["trading"] = seen["status"] == "ACTIVE"  # of the moment that the units are shown at
        active: Samples = [({"group": name}, value) for name, value in latched.items()]
        yield gauge("active", "1 while ESS is active: no protected unit may run.", active)
        yield from _incident(trading, latched["trading"])
        yield from _units(seen)
        yield from _armed(trading)
        yield from metrichistory.families(trading)
        yield from metricdrill.families(trading, seen)
        yield from metricguard.families(trading)
        yield gauge("written_timestamp_seconds", "When this was written.", [({}, time.time())])


def _incident(group: Group, active: bool) -> Iterator[Metric]:
    """Of the incident that is, or else of the last one; nothing if there never was any.

    What is not on record yet of the one that is, or can't be read, is not made up from the last.
    """
    known = record.load(group.record if active else group.released) or {}
    if active and "epoch" not in known and os.path.lexists(group.flag):
        known["epoch"] = latch.since(group)[1]
    yield gauge(
        "last_activation_timestamp_seconds",
        "When ESS was last activated; while it is active, since when it is.",
        [(TRADING, known["epoch"])] if "epoch" in known else [],
    )
    yield gauge(
        "last_stop_seconds",
        "From the last activation's trigger to the verification that nothing lives any more.",
        [(TRADING, known["stop_ms"] / 1e3)] if "stop_ms" in known else [],
    )
    story = {
        "incident": str(known.get("incident")),
        "trigger": str(known.get("trigger", "")),
        "actor": short(actor.describe(known.get("actor", {}))),
        "reason": short(str(known.get("reason", ""))),
    }
    yield gauge(
        "last_incident_info",
        "Who activated ESS last and why. One series: what a text does to Prometheus is bounded.",
        [(TRADING | story, 1)] if "incident" in known else [],
    )


def _units(seen: Status) -> Iterator[Metric]:
    protected: Samples = [
        (TRADING | {"unit": row["unit"]}, row["state"].partition(" (")[0] not in AT_REST)
        for row in seen["protected"]
        if row["state"] != "unknown"
    ]
    yield gauge("protected_unit_running", "1 if the protected unit is not at rest.", protected)
    kept: Samples = [
        ({"unit": row["unit"]}, row["state"].startswith(("active", "reloading")))
        for row in seen["kept"]
        if row["state"] not in NOT_THERE
    ]
    yield gauge("kept_unit_running", "1 if the kept unit is up; none if it does not exist.", kept)


def _armed(group: Group) -> Iterator[Metric]:
    good = armed.parts(group)
    text = "1 if path unit, timer, resident and gate are all good: a stop would come and hold."
    yield gauge("armed", text, [(TRADING, all(good.values()))])
    each: Samples = [(TRADING | {"part": part}, value) for part, value in good.items()]
    yield gauge("armed_part", "The same for each part.", each)
    owed = os.path.lexists(group.pending_marker) or os.path.lexists(group.pending_marker_volatile)
    text = "1 if Redis says of ESS what is so, as far as is known."
    yield gauge("marker_agrees", text, [(TRADING, not owed)])


def text(groups: dict[str, Group]) -> str:
    """Everything, as node_exporter reads it. A family without a sample is left out."""
    registry = CollectorRegistry()
    registry.register(_Known(Host(groups)))
    return generate_latest(registry).decode()


class _Known(Collector):
    """Without the families that have no sample."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def collect(self) -> Iterator[Metric]:
        return (family for family in self._host.collect() if family.samples)

    def describe(self) -> list[Metric]:
        """Nothing: else registering would collect once more."""
        return []


def write(groups: dict[str, Group], directory: str = DIRECTORY) -> bool:
    """Replace the file that node_exporter reads, atomically; False if it reads none here.

    No fsync: after a power cut the next one is a moment away. Raises OSError.
    """
    if not os.path.isdir(directory):
        return False
    content = text(groups).encode()
    try:
        _replace(directory, content)
    except FileNotFoundError:  # node_exporter has just been removed
        return False
    return True


def _replace(directory: str, content: bytes) -> None:
    draft = f"{directory}/{FILE}.{os.getpid()}"  # not *.prom: half a file is not read
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        os.rename(draft, f"{directory}/{FILE}")
    except BaseException:
        record.remove(draft)
        raise
