"""Incidents: the history's records put together, one activation up to its release each."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from quantum_ess import history, latch, record
from quantum_ess.actor import describe
from quantum_ess.errors import Failed
from quantum_ess.group import Group
from quantum_ess.history import Entry
from quantum_ess.trail import short

NEWEST = 1000  # records among which one is looked for that was just written
ENDS = ("released", "release-superseded")


class Incident:
    """One incident. Times are ISO-8601 in UTC, as in the records."""

    def __init__(self, incident: str, entries: list[Entry], active: bool) -> None:
        self.id = incident
        self.entries = entries
        self.active = active
        self.start = self._first("activated")
        self.end: Entry = {} if active else self._last(*ENDS)

    def _first(self, event: str) -> Entry:
        return next((entry for entry in self.entries if entry["event"] == event), {})

    def _last(self, *events: str) -> Entry:
        return next((entry for entry in self.entries[::-1] if entry["event"] in events), {})

    @property
    def began(self) -> str:
        """When the flag was set, as exactly as it is known."""
        if isinstance(self.start.get("epoch"), int | float):
            with suppress(ValueError, OverflowError, OSError):  # somebody has altered it
                return history.stamp(self.start["epoch"])
        return str(self.entries[0]["time"])

    @property
    def units(self) -> int | None:
        """How many were stopped, if that is known."""
        return len(self.start["stopped"]) if "stopped" in self.start else None

    @property
    def verified(self) -> str:
        """What is on record of whether all was dead and held down: "yes", or what was not so."""
        if not self.start:
            return "not on record"
        living = " ".join(self.start.get("living") or [])
        unlatched = "not latched" if self.start.get("latched") is False else ""
        why = ", ".join(filter(None, (living, unlatched)))
        return f"NO: {why}" if why else "yes"

    @property
    def refused(self) -> list[Entry]:
        """Bursts of refused starts."""
        return [entry for entry in self.entries if entry["event"] == "refused"]

    @property
    def downtime(self) -> float | None:
        """Seconds from the flag to the end of the release; None while that is not known."""
        if not self.end:
            return None
        after = seconds(str(self.end["time"])) - seconds(self.began)
        return after if after >= 0 else None  # the clock was set back meanwhile

    @property
    def state(self) -> str:
        """active, released, superseded (by an activation that came meanwhile), or unknown."""
        if self.active:
            return "active"
        states = {"released": "released", "release-superseded": "superseded"}
        return states.get(str(self.end.get("event")), "unknown")

    def summary(self) -> dict[str, Any]:
        """What `history --json` prints of it (quantum-ess(8))."""
        start, end, downtime = self.start, self.end, self.downtime
        return {
            "incident": self.id,
            "host": start.get("host"),
            "state": self.state,
            "began": self.began,
            "trigger": start.get("trigger"),
            "actor": start.get("actor"),
            "reason": start.get("reason", ""),
            "stop_ms": start.get("stop_ms"),
            "stopped": start.get("stopped", []),
            "living": start.get("living", []),
            "refused": [
                {key: entry.get(key) for key in ("time", "unit", "count")} for entry in self.refused
            ],
            "released": None
            if not end
            else {key: end.get(key) for key in ("time", "trigger", "actor", "reason", "started")},
            "downtime_s": None if downtime is None else round(downtime, 3),
        }

    def timeline(self) -> list[tuple[str, str]]:
        """What happened, in order: time and one line of text each."""
        told = [line for entry in self.entries for line in tell(entry)]
        if self.end and self.downtime is None:
            return told  # the clock was set back: only the order of the records is right
        return sorted(told, key=lambda line: line[0])


def load(group: Group, problems: list[str]) -> list[Incident]:
    """Every incident in the history, in the order of its records, with what waits to be written.

    problems: takes what could not be read, and why.
    """
    waits = history.waiting(group)  # first, or one could be missed that is being written
    entries = [line.entry for line in history.load(group, problems)[0] if line.entry]
    if waits:
        known = [{key: e[key] for key in e if key not in ("n", "prev")} for e in entries[-NEWEST:]]
        entries += [entry for entry in waits if entry not in known]
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry["incident"]:
            found.setdefault(entry["incident"], []).append(entry)
    now = None
    if group.latched():  # without a record the flag's number tells
        held = record.load(group.record) or {}
        now = held.get("incident") or latch.incident(latch.inode(group))
    # Not sorted by their times: the clock may have been set back.
    return [Incident(name, known, name == now) for name, known in found.items()]


def find(group: Group, wanted: str, problems: list[str]) -> Incident:
    """The incident of that id, or the one whose id begins so; `last` is the latest.

    Raises Failed.
    """
    known = load(group, problems)
    if wanted == "last" and known:
        return known[-1]
    exact = [incident for incident in known if incident.id == wanted]
    found = exact or [incident for incident in known if incident.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} incidents have an id that begins with" if found else "no incident"
    more = f"; not all could be read: {'; '.join(problems)}" if problems else ""
    raise Failed(f"{problem} {wanted!r}{more}", hint="quantum-ess history lists them")


def tell(entry: Entry) -> Iterator[tuple[str, str]]:
    """A record as lines of a timeline: time, text."""
    when, teller = str(entry["time"]), _TELLERS.get(entry["event"])
    try:
        yield from list(teller(when, entry)) if teller else [(when, _plain(entry))]
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError, OSError):
        yield when, _plain(entry)  # somebody has altered it, see --verify


def _activated(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    epoch = entry.get("epoch")
    began = history.stamp(epoch) if isinstance(epoch, int | float) else when
    yield began, f"ACTIVATED by {_who(entry)}"
    stop = entry.get("stop_ms")
    done = history.stamp(epoch + stop / 1000) if isinstance(epoch, int | float) and stop else when
    took = f" in {stop / 1000:.3f} s" if isinstance(stop, int | float) else ""
    living = entry.get("living") or []
    if living:
        yield done, f"NOT VERIFIED{took}: still alive: {' '.join(map(short, living))}"
    else:
        yield done, f"verified stopped{took}"
    if entry.get("latched") is False:
        yield done, "NOT LATCHED: neither flag nor record could be made"
    if "stopped" not in entry:
        yield done, "what ran is not known"
    for unit in entry.get("stopped") or []:
        if unit not in living:
            yield done, f"stopped {short(unit)}"


def _unlatched(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    units = " ".join(short(unit) for unit in entry.get("to_start") or [])
    yield when, f"release begun by {_who(entry)}; to start: {units or 'nothing'}"


def _released(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    yield from _started(entry)
    yield when, "RELEASED"


def _failed(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    yield from _started(entry)
    yield when, f"RELEASE FAILED: {entry.get('why', '')}; everything is stopped and latched again"


def _superseded(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    yield from _started(entry)
    yield when, f"release by {_who(entry)} gave way to an activation"


def _overridden(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    yield when, f"guard OVERRIDDEN by {_who(entry)}; it said: {'; '.join(entry['objections'])}"


def _refused(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    count, last = entry.get("count", 1), entry.get("last")
    until = f", until {clock(history.stamp(last))}" if isinstance(last, int | float) else ""
    more = f" {count} times{until}" if count != 1 else ""
    yield when, f"refused to start {short(str(entry.get('unit', '')))}{more}"


def _hooks(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    for row in entry["hooks"]:
        problem = f"FAILED: {row['problem']}" if row["problem"] else f"done ({row['seconds']:g} s)"
        yield when, f"hook {row['hook']} {problem}"


def _notified(when: str, entry: Entry) -> Iterator[tuple[str, str]]:
    for name in entry["sent"]:
        yield when, f"notification of {entry['transition']} sent: {name}"
    for name, why in entry["failed"].items():
        yield when, f"notification of {entry['transition']} GIVEN UP: {name}: {why}"


def _started(entry: Entry) -> Iterator[tuple[str, str]]:
    for row in entry.get("started") or []:
        yield str(row["time"]), f"started {short(str(row['unit']))} ({row['ms'] / 1000:.2f} s)"


_TELLERS = {
    "activated": _activated,
    "repeated": lambda when, entry: [(when, f"activated again by {_who(entry)}")],
    "refused": _refused,
    "restored": lambda when, entry: [(when, _restored(entry))],
    "unlatched": _unlatched,
    "released": _released,
    "override": _overridden,
    "release-failed": _failed,
    "hooks": _hooks,
    "notified": _notified,
    "release-superseded": _superseded,
}


def _restored(entry: Entry) -> str:
    if entry.get("booted", True):
        return "the host has booted: held down by the record"
    return "flag set again from the record"


def _who(entry: Entry) -> str:
    """Who, by what and why, in one phrase."""
    who = describe(entry.get("actor") or {})
    why = " ".join(str(entry.get("reason", "")).split())
    return f"{who} ({entry.get('trigger', 'unknown')})" + (f": {why}" if why else "")


def _plain(entry: Entry) -> str:
    known = ("n", "prev", "time", "event", "incident")
    told = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in known)
    return f"{entry['event']}: {told}"


def seconds(text: str) -> float:
    """Epoch seconds of a time as the records give it; 0 for what is none."""
    try:
        whole = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
        return whole + float("0" + text[19:].rstrip("Z"))
    except ValueError:
        return 0.0


def clock(text: str) -> str:
    """The time of day in it."""
    return text[11:19]
