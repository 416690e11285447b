"""The history's chain, checked: records that are missing, altered, doubled or out of order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from quantum_ess import history, incidents, record
from quantum_ess.group import Group
from quantum_ess.history import Line, Link


class Flaw(NamedTuple):
    """What is wrong, and where (FILE:LINE). grave: not by a power cut, which tears a line."""

    place: str
    text: str
    grave: bool = True

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Chain:
    """All records of a group's history as they lie in its files, rotated ones included."""

    def __init__(self, group: Group) -> None:
        self.noted = history.head(group)  # first: records may be added meanwhile
        going_on = _going_on(group)
        waits = history.waiting(group)
        self.unread: list[str] = []
        self.lines, self.copied = history.load(group, self.unread)
        self.records = [line for line in self.lines if line.entry]
        self.place = group.history
        ended = {entry["incident"] for entry in waits if entry["event"] in incidents.ENDS}
        self._not_over = {*going_on, *_going_on(group), *ended}
        self.flaws = sorted(self._flaws(), key=lambda flaw: flaw.grave, reverse=True)

    @property
    def end(self) -> Link:
        """Number and hash of the last record."""
        if not self.records:
            return Link(0, history.ZERO)
        last = max(self.records, key=_number)
        return Link(_number(last), history.digest(last.raw))

    def _flaws(self) -> Iterator[Flaw]:
        for text in self.unread:
            place, _, why = text.partition(": ")
            yield Flaw(place, f"could not be read: {why}")
        yield from self._misplaced()
        yield from self._altered()
        if not self.unread:  # else what is missing may be there
            yield from self._missing()
            yield from self._truncated()
            yield from self._without_end()
        for path in self.copied:
            yield Flaw(path, "its records are in another file too: a rotation broke off", False)
        missing = any(True for _ in self._missing())
        for line in self.lines:
            if not line.entry and line.raw:
                text = "is no record"
                text += (
                    ""
                    if missing
                    else (
                        ": torn by a power cut; an activation is recorded again, "
                        "of anything else see the journal"
                    )
                )
                yield Flaw(line.place, text, grave=missing)

    def _misplaced(self) -> Iterator[Flaw]:
        seen: set[int] = set()
        for line, before in zip(self.records[1:], self.records, strict=False):
            seen.add(_number(before))
            if _number(line) in seen:
                yield Flaw(line.place, f"record {_number(line)} is here again")
            elif _number(line) < _number(before):
                yield Flaw(line.place, f"record {_number(line)} comes after {_number(before)}")

    def _missing(self) -> Iterator[Flaw]:
        last = 0
        for line in sorted(self.records, key=_number):
            if _number(line) > last + 1:
                yield Flaw(line.place, f"{_range(last + 1, _number(line) - 1)} missing before this")
            last = _number(line)

    def _altered(self) -> Iterator[Flaw]:
        """A record whose hash is not the one that the next record carries."""
        known = {_number(line): line for line in self.records}
        for n, line in known.items():
            assert line.entry is not None
            before = known.get(n - 1)
            if n == 1 and line.entry["prev"] != history.ZERO:
                yield Flaw(line.place, "record 1 was altered: it names one before it")
            elif before and line.entry["prev"] != history.digest(before.raw):
                yield Flaw(
                    before.place, f"record {n - 1} was altered, or record {n} ({line.place})"
                )

    def _without_end(self) -> Iterator[Flaw]:
        """Incidents that are over, which the history does not say: its record comes last of all."""
        entries = [(line, line.entry) for line in self.records if line.entry]
        told = {entry["incident"] for _, entry in entries if entry["event"] in incidents.ENDS}
        for line, entry in entries if "" not in self._not_over else ():
            name = entry["incident"]
            if entry["event"] == "activated" and name not in {*told, *self._not_over}:
                text = f"the end of {name} is not on record, as after a power cut during a release"
                see = f"see: journalctl -t quantum-ess ESS_INCIDENT={name}"
                yield Flaw(line.place, f"{text}; {see}", False)

    def _truncated(self) -> Iterator[Flaw]:
        """The end, by what was noted beside the file."""
        if self.noted is None:
            if self.records:
                yield Flaw(self.place, "the note of its last record (history-head) is missing")
            return
        end = self.end
        if self.noted.n > end.n:
            yield Flaw(self.place, f"{_range(end.n + 1, self.noted.n)} missing at the end")
        elif self.noted.n == end.n and self.noted.hash != end.hash:
            last = max(self.records, key=_number)
            yield Flaw(last.place, f"record {end.n} was altered")


def _going_on(group: Group) -> set[str]:
    """Incidents that are not over, or whose release is not; "" for one that is not known."""
    paths = [group.record] if group.latched() else []
    paths += [group.released] if os.path.lexists(group.run + "/releasing") else []
    return {str((record.load(path) or {}).get("incident", "")) for path in paths}


def _number(line: Line) -> int:
    assert line.entry is not None
    return int(line.entry["n"])


def _range(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
