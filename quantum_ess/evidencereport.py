"""The report of a drill or a proof for an auditor: host, verdicts, measured times, a picture."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

from quantum_ess import __version__, actor, plan, process, report, svg
from quantum_ess.activate import LIMIT
from quantum_ess.errors import Failed
from quantum_ess.evidence import Evidence, Mark
from quantum_ess.group import TRADING

Stops = list[tuple[str, str, float]]


def write(path: str, title: str, evidence: Evidence, result: dict[str, Any], stops: Stops) -> None:
    """Write the report. Raises Failed."""
    try:
        report.write(path, page(title, evidence, result, stops))
    except OSError as error:
        raise Failed(f"no report: {path}: {error.strerror}") from None


def page(title: str, evidence: Evidence, result: dict[str, Any], stops: Stops) -> str:
    """The report as HTML. stops: unit, way, seconds from the trigger until it was seen dead."""
    failures = result["failures"]
    subtitle = f"{platform.node()}, {evidence.since}"
    sheet = report.Page(title, "FAIL" if failures else "PASS", subtitle)
    if failures:
        sheet.text("What failed", *failures)
    sheet.facts("Circumstances", _facts(evidence, result))
    caption = (
        "Green: the unit runs. Red dot: seen dead. Row ESS: red while the stop takes "
        "place, yellow while latched, blue while units are restarted."
    )
    sheet.picture("Timeline", svg.timeline(_lanes(evidence), evidence.at()), caption)
    kinds = {True: "stop", False: "release"}  # red beyond the limit
    bars = [(f"{unit} ({way})", took, kinds[took > LIMIT]) for unit, way, took in stops]
    caption = (
        f"Each unit and way to stop. The limit is {LIMIT:g} s for every process of every unit."
    )
    sheet.picture("From the trigger until the unit was seen dead", svg.bars(bars, LIMIT), caption)
    heads = ("Check", "Expected", "Measured", "At", "Verdict")
    for number, text in enumerate(evidence.titles, 1):
        rows = [
            (c.name, c.expected, c.measured, f"{c.at:.2f}\u00a0s", c.verdict)
            for c in evidence.checks
            if c.step == number
        ]
        sheet.table(f"{number}. {text}", heads, rows)
    return sheet.html()


def _facts(evidence: Evidence, result: dict[str, Any]) -> list[tuple[str, str]]:
    known = plan.read(TRADING)
    return [
        ("Host", platform.node()),
        ("System", _system()),
        ("Kernel", platform.release()),
        ("systemd", process.run("systemctl", "--version").out.partition("\n")[0]),
        ("quantum-ess", __version__),
        ("Made by", actor.describe(result["actor"])),
        ("Began", f"{evidence.since} (UTC)"),
        ("Took", f"{result['seconds']:.1f} s"),
        ("Protected units", " ".join(entry.name for entry in known.protect)),
        ("Kept units", " ".join(known.keep)),
        ("Plan in force", known.source),
        ("Time zone of the host", time.tzname[0]),
    ]


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, LookupError):
        return os.uname().sysname


def _lanes(evidence: Evidence) -> list[svg.Lane]:
    end = evidence.at()
    names = list(dict.fromkeys(mark.lane for mark in evidence.marks if mark.lane != "ESS"))
    lanes = [svg.Lane("ESS", _ess([m for m in evidence.marks if m.lane == "ESS"], end))]
    for name in names:
        marks = sorted((m for m in evidence.marks if m.lane == name), key=lambda mark: mark.at)
        points = [
            svg.Point(m.at, m.kind, f"{name} ({m.label})") for m in marks if m.kind == "death"
        ]
        lanes.append(svg.Lane(name, _alive(marks, end), points))
    return lanes


def _ess(marks: list[Mark], end: float) -> list[svg.Span]:
    """Stops and releases, and between them the latch."""
    spans = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        until = mark.at if mark.until is None else mark.until
        spans.append(svg.Span(mark.at, until, mark.kind, mark.label))
        if mark.kind == "stop":
            spans.append(svg.Span(until, following.at if following else end, "hold", "latched"))
    return spans


def _alive(marks: list[Mark], end: float) -> list[svg.Span]:
    spans: list[svg.Span] = []
    since: float | None = 0.0 if marks and marks[0].kind == "death" else None
    for mark in marks:
        if mark.kind == "up":
            since = max(mark.at, 0.0)
        elif since is not None:
            spans.append(svg.Span(since, mark.at, "up"))
            since = None
    if since is not None:
        spans.append(svg.Span(since, end, "up"))
    return spans
