"""Pictures for reports, as inline SVG: a timeline with lanes, and bars against a limit.

Times in seconds. Every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, LEFT, RIGHT, ROW = 960, 240, 20, 30
COLOURS = {
    "up": "#3f9b63",  # running
    "stop": "#c4262e",
    "release": "#2f6fb5",
    "hold": "#e3a008",
    "event": "#53606f",
    "death": "#c4262e",
}
INK, FAINT, GRID = "#1d2530", "#53606f", "#dde3ea"


class Span(NamedTuple):
    """Something that lasted; kind: one of COLOURS."""

    start: float
    end: float
    kind: str
    label: str = ""


class Point(NamedTuple):
    """Something that happened at one time."""

    at: float
    kind: str
    label: str = ""


class Lane(NamedTuple):
    """One row of a timeline."""

    name: str
    spans: Sequence[Span] = ()
    points: Sequence[Point] = ()


def timeline(lanes: Sequence[Lane], seconds: float) -> str:
    """Rows over time; what a colour means is told by the caller's caption."""
    seconds = max(seconds, 0.001)
    scale = (WIDTH - LEFT - RIGHT) / seconds
    height = ROW * len(lanes) + 40
    parts = _axis(seconds, scale, ROW * len(lanes) + 6)
    for row, lane in enumerate(lanes):
        top = row * ROW + 6
        if row:
            parts.append(_line(0, top, WIDTH - RIGHT, top, GRID))
        parts.append(_text(LEFT - 12, top + 19, lane.name, "end", INK))
        parts += [_span(span, top, scale) for span in lane.spans]
        parts += [_point(point, top, scale) for point in lane.points]
    return _svg(height, parts, "timeline")


def bars(rows: Sequence[tuple[str, float, str]], limit: float) -> str:
    """One bar a row: name, seconds, kind. The limit is a line if it is near, else told."""
    longest = max((value for _, value, _ in rows), default=0.0)
    near = longest > limit / 4
    seconds = max(longest, limit if near else 0.0, 0.001) * 1.15
    scale = (WIDTH - LEFT - RIGHT - 70) / seconds
    head = 20 if near else 6
    height = ROW * len(rows) + head + 34
    parts = _axis(seconds, scale, ROW * len(rows) + head)
    for row, (name, value, kind) in enumerate(rows):
        top, width = row * ROW + head, max(value * scale, 1.5)
        parts.append(_text(LEFT - 12, top + 19, name, "end", INK))
        parts.append(_rect(LEFT, top + 6, width, ROW - 12, COLOURS.get(kind, FAINT), name))
        parts.append(_text(LEFT + width + 6, top + 19, duration(value), "start", INK))
    if near:
        x = LEFT + limit * scale
        parts.append(_line(x, 2, x, height - 34, INK, 2))
        parts.append(_text(x - 6, 14, f"limit {duration(limit)}", "end", INK))
    return _svg(height, parts, "measured times")


def duration(seconds: float) -> str:
    """A time for people: ms below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _axis(seconds: float, scale: float, bottom: float) -> list[str]:
    step = _step(seconds / 8)
    parts = []
    for index in range(floor(seconds / step) + 1):
        x = LEFT + index * step * scale
        parts.append(_line(x, 2, x, bottom, GRID))
        parts.append(_text(x, bottom + 18, _tick(index * step, step), "middle", FAINT))
    return parts


def _step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power: float = 10.0 ** floor(log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough * 0.999)


def _tick(value: float, step: float) -> str:
    if step < 0.5:
        return f"{value * 1000:.{max(0, ceil(-log10(step * 1000)))}f} ms"
    return f"{value:g} s"


def _span(span: Span, top: float, scale: float) -> str:
    x, width = LEFT + span.start * scale, max((span.end - span.start) * scale, 2)
    colour = COLOURS.get(span.kind, FAINT)
    title = f"{span.label} {span.start:.3f} s to {span.end:.3f} s".strip()
    shape = _rect(x, top + 6, width, ROW - 12, colour, title)
    if span.label and width > 7 * len(span.label) + 8:
        shape += _text(x + 5, top + 19, span.label, "start", "#fff")
    return shape


def _point(point: Point, top: float, scale: float) -> str:
    x = LEFT + point.at * scale
    colour = COLOURS.get(point.kind, FAINT)
    title = escape(f"{point.label} {point.at:.3f} s".strip())
    return (
        f'<circle cx="{x:.1f}" cy="{top + ROW / 2:.1f}" r="4" fill="{colour}" stroke="#fff">'
        f"<title>{title}</title></circle>"
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2" '
        f'fill="{colour}"><title>{escape(title)}</title></rect>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width:g}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str) -> str:
    if len(text) > 32 and anchor == "end":
        text = f"{text[:31]}\u2026"
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} fill="{colour}">{escape(text)}</text>'


def _svg(height: float, parts: list[str], label: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui, DejaVu Sans, sans-serif" '
        f'font-size="12.5">{"".join(parts)}</svg>'
    )
