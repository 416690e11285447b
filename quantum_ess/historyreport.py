"""The history as an HTML page for an auditor: all incidents, or one from beginning to end."""

from __future__ import annotations

import os

from quantum_ess import chain, history, incidents, report, svg
from quantum_ess.actor import describe
from quantum_ess.errors import Failed
from quantum_ess.group import Group
from quantum_ess.historycommand import COLUMNS, row, span
from quantum_ess.incidents import Incident
from quantum_ess.trail import short

CAPTION = (
    "Red: the stop. Yellow: the unit is held down. Blue: the release. Green: the unit runs again. "
    "Dots: a start that was refused."
)


def write(path: str, html: str) -> None:
    """Write the page. Raises Failed."""
    try:
        report.write(path, html)
    except OSError as error:
        raise Failed(f"no report: {path}: {error.strerror}") from None


def of_all(group: Group, known: list[Incident]) -> str:
    """Every incident, and whether the record of them is whole."""
    subtitle = f"{os.uname().nodename}, {history.now()}"
    sheet = report.Page("Emergency stop: history", "", subtitle)
    _chain(sheet, group)
    if known:
        sheet.table("Incidents", COLUMNS, [row(incident) for incident in known])
    else:
        sheet.text("Incidents", "No incident is on record.")
    return sheet.html()


def of_one(group: Group, incident: Incident) -> str:
    """One incident: facts, picture, what happened in order."""
    data = incident.summary()
    verdict = "ACTIVE" if incident.active else ""
    title = f"Emergency stop: incident {incident.id}"
    host = data["host"] or "host not on record"
    sheet = report.Page(title, verdict, f"{host}, {incident.began}")
    down, stop = data["downtime_s"], data["stop_ms"]
    facts = (
        ("State", data["state"]),
        ("Trigger", data["trigger"] or "unknown"),
        ("By", describe(data["actor"] or {})),
        ("Reason", data["reason"] or "(none given)"),
        ("Stopped within", "unknown" if stop is None else f"{stop / 1000:.3f} s"),
        ("Verified", incident.verified),
        ("Units", "not known" if incident.units is None else " ".join(map(short, data["stopped"]))),
        ("Refused starts", str(sum(entry["count"] or 1 for entry in data["refused"]))),
        ("Downtime", "not over" if down is None else span(down)),
    )
    sheet.facts("The incident", facts)
    if incident.start:
        lanes, seconds = _lanes(incident)
        sheet.picture("Timeline", svg.timeline(lanes, seconds), CAPTION)
    day = incident.began[:10]
    rows = [(_moment(when, day), text) for when, text in incident.timeline()]
    sheet.table("What happened", ("Time (UTC)", "What"), rows)
    _chain(sheet, group)
    return sheet.html()


def _moment(when: str, day: str) -> str:
    """The time of day, with the day if it is another one."""
    return when[11:23] if when[:10] == day else f"{when[:10]} {when[11:23]}"


def _chain(sheet: report.Page, group: Group) -> None:
    found = chain.Chain(group)
    grave = [str(flaw) for flaw in found.flaws if flaw.grave]
    facts = [
        ("Records", str(len(found.records))),
        ("Chain of hashes", "NOT WHOLE" if grave else "whole"),
        ("Last record", f"{found.end.n}, SHA-256 {found.end.hash}"),
    ]
    sheet.facts("The record", [*facts, *(("Flaw", flaw) for flaw in grave)])


def _lanes(incident: Incident) -> tuple[list[svg.Lane], float]:
    """One row for ESS and one for each unit; and the seconds that they span."""
    began = incidents.seconds(incident.began)
    at = [incidents.seconds(when) - began for when, _ in incident.timeline()]
    whole = max(at) * 1.05 + 0.1
    stopped = (incident.start.get("stop_ms") or 0) / 1000
    opened = next((e for e in incident.entries if e["event"] == "unlatched"), None)
    release = incidents.seconds(opened["time"]) - began if opened else whole
    spans = [svg.Span(0, stopped, "stop"), svg.Span(stopped, release, "hold")]
    if opened:
        over = incident.end.get("time")
        end = incidents.seconds(over) - began if over else max(at)
        spans.append(svg.Span(release, max(end, release), "release"))
    lanes = [svg.Lane("ESS", spans)]
    started = {
        entry["unit"]: incidents.seconds(entry["time"]) - began
        for entry in incident.end.get("started") or []
    }
    for unit in incident.start.get("stopped") or []:
        back = started.get(unit, whole)
        parts = [svg.Span(0, stopped, "stop"), svg.Span(stopped, min(back, whole), "hold")]
        if unit in started:
            parts.append(svg.Span(back, whole, "up"))
        dots = [
            svg.Point(incidents.seconds(entry["time"]) - began, "event", "refused")
            for entry in incident.refused
            if entry.get("unit") == unit
        ]
        lanes.append(svg.Lane(short(unit), parts, dots))
    return lanes, whole
