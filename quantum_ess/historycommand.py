"""`quantum-ess history` and `quantum-ess log`: what happened, for people and for programs."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from typing import Any

from quantum_ess import chain, history, incidents, process, trail
from quantum_ess.actor import describe
from quantum_ess.errors import Failed, Usage, shown
from quantum_ess.group import Group
from quantum_ess.incidents import Incident

COLUMNS = ("INCIDENT", "BEGAN (UTC)", "DOWN", "STOP", "UNITS", "REFUSED", "BY", "REASON")
POLL = 0.5  # seconds between two looks at the file, where journald can't be followed


def show_history(group: Group, args: argparse.Namespace) -> int:
    """List incidents, tell one, or verify. Raises Failed, Usage."""
    if args.verify:
        if args.incident:
            raise Usage("--verify checks the whole history: it takes no ID")
        return verify(group, args.json)
    unread: list[str] = []
    if args.incident:
        found = incidents.find(group, args.incident, unread)
        if args.report:
            _report(args.report, group, found)
        data: Any = {**found.summary(), "records": found.entries}
        print(json.dumps(data, indent=2) if args.json else tell(found))
        return _whole(unread)
    known = incidents.load(group, unread)
    if args.report:
        _report(args.report, group, known)
    if args.json:
        print(json.dumps([incident.summary() for incident in known], indent=2))
    elif known:
        print(table(known, _width()))
    elif not unread:
        print("No incident is on record.")
    return _whole(unread)


def _whole(unread: list[str]) -> int:
    """0 if all could be read. Raises Failed."""
    if unread:
        raise Failed(
            f"not all of the history could be read: {'; '.join(unread)}",
            hint="the trail is in the journal too: journalctl -t quantum-ess",
        )
    return 0


def _report(path: str, group: Group, what: Incident | list[Incident]) -> None:
    """Write a report. Raises Failed, also for a history that somebody made nonsense of."""
    from quantum_ess import historyreport

    try:
        if isinstance(what, Incident):
            html = historyreport.of_one(group, what)
        else:
            html = historyreport.of_all(group, what)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        hint = "quantum-ess history --verify"
        raise Failed(f"no report: the history makes no sense: {error}", hint=hint) from None
    historyreport.write(path, html)


def verify(group: Group, as_json: bool) -> int:
    """Check the chain of records; print what is wrong. Raises Failed if anything is."""
    found = chain.Chain(group)
    grave = sum(flaw.grave for flaw in found.flaws)
    waits = len(history.waiting(group))
    if as_json:
        flaws = [flaw._asdict() for flaw in found.flaws]
        data = {"records": len(found.records), "last": found.end._asdict(), "flaws": flaws}
        print(json.dumps({**data, "waiting": waits}, indent=2))
    else:
        for flaw in found.flaws:
            print(flaw if flaw.grave else f"{flaw.place}: note: {flaw.text}")
        if waits:
            print(f"note: {waits} records are not written yet")
        said = "whole" if not grave else f"NOT WHOLE: {grave} {'flaw' if grave == 1 else 'flaws'}"
        print(
            f"history: {len(found.records)} records, {said}; last: {found.end.n} {found.end.hash}"
        )
    if grave:
        raise Failed(
            "the history is not whole",
            hint="compare with a backup and with: journalctl -t quantum-ess",
        )
    return 0


def table(known: list[Incident], width: int) -> str:
    """One line an incident; only the reason is cut, where a line would be wider than that."""
    rows = [COLUMNS, *map(_row, known)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(_cut(shown(line).rstrip(), width) for line in lines)


def _row(incident: Incident) -> tuple[str, ...]:
    try:
        return row(incident)
    except (TypeError, ValueError, LookupError, AttributeError):  # it hides none of the others
        unknown = ("?",) * (len(COLUMNS) - 2)
        return (incident.id, *unknown, "ALTERED, see: quantum-ess history --verify")


def row(incident: Incident) -> tuple[str, ...]:
    """An incident as the cells of COLUMNS."""
    data = incident.summary()
    stop = f"{data['stop_ms'] / 1000:.3f} s" if data["stop_ms"] is not None else "?"
    down = span(data["downtime_s"]) if data["downtime_s"] is not None else data["state"]
    refused = sum(entry["count"] or 1 for entry in data["refused"])
    return (
        incident.id,
        f"{incident.began[:10]} {incidents.clock(incident.began)}",
        down,
        f"{stop} NOT VERIFIED" if incident.verified.startswith("NO") else stop,
        "?" if incident.units is None else str(incident.units),
        str(refused),
        f"{describe(data['actor'] or {})}, {data['trigger'] or 'unknown'}",
        " ".join(data["reason"].split()),
    )


def tell(incident: Incident) -> str:
    """One incident from its first moment to its last, line by line."""
    data = incident.summary()
    lines = [f"Incident {incident.id}: {data['state']}"]
    if data["downtime_s"] is not None:
        lines[0] += f" after {span(data['downtime_s'])}"
    start = incidents.seconds(incident.began)
    for when, text in incident.timeline():
        after = incidents.seconds(when) - start
        later = f"{after:+.3f} s" if after < 60 else f"+{span(after)}"
        lines.append(f"{when[:10]} {when[11:23]}  {later:>14}  {shown(text)}")
    return "\n".join(lines)


def span(seconds: float) -> str:
    """A time span in its two largest units, e.g. `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 1 << 20


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def show_log(group: Group, follow: bool, count: int) -> int:
    """The trail out of the journal; out of the history while journald does not listen."""
    listens = trail.listens()
    if listens and not trail.spooled(group):
        lines = str(count)
        if follow and not _in_the_journal():
            lines = "all"  # with a number, journalctl passes over entries until it has shown one
        command = ["journalctl", "-t", "quantum-ess", trail.OURS, "-n", lines]
        os.execvp(command[0], command + (["-f"] if follow else []))
    why = "journald has not all of it yet" if listens else "journald does not listen"
    print(f"quantum-ess: {why}: this is the history", file=sys.stderr)
    unread: list[str] = []
    known = _told(group, unread)
    for problem in unread:
        print(f"quantum-ess: could not be read: {problem}", file=sys.stderr)
    print("\n".join(known[-count:]), flush=True)
    told = set(known)
    while follow:
        time.sleep(POLL)
        # Not always at the end: a start may be refused before the stop itself is on record.
        for line in _told(group, []):
            if line not in told:
                print(line, flush=True)
                told.add(line)
    return 0


def _in_the_journal() -> bool:
    """Whether the journal has an entry of the trail since the boot: --follow implies --boot."""
    command = ("journalctl", "-qb", "-t", "quantum-ess", trail.OURS, "-n", "1", "-o", "cat")
    return bool(process.run(*command, seconds=10).out)


def _told(group: Group, unread: list[str]) -> list[str]:
    return [
        shown(f"{when} {incident.id}: {text}")
        for incident in incidents.load(group, unread)
        for when, text in incident.timeline()
    ]
