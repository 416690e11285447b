"""``[condition NAME]``: what the guard watches, as the configuration gives it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from quantum_ess import configvalues as values
from quantum_ess.configoption import option

ACTIONS = values.choice("ignore", "warn", "activate")
DAY = 86400.0
REDIS = ("value", "drop", "rise", "age", "missing", "unchanged")
UNIT = ("failed", "restarts", "down")
PRESSURE = ("pressure",)
_LIMIT = re.compile(r"(>=|<=|>|<)\s*(.+)")
_NUMBER = re.compile(r"([+-]?[0-9]{1,30}(?:\.[0-9]{0,30})?(?:[eE][+-]?[0-9]{1,3})?)\s*(%?)")


class Limit(NamedTuple):
    """What a value may not be. kind: "" for a number, "%", or "s" for a time span in seconds."""

    operator: str
    number: float
    kind: str = ""

    def broken_by(self, value: float) -> bool:
        """Whether that value, which is not NaN, is beyond the limit."""
        match self.operator:
            case ">":
                return value > self.number
            case ">=":
                return value >= self.number
            case "<":
                return value < self.number
        return value <= self.number

    def __str__(self) -> str:
        return f"{self.operator} {number(self.number)}{'%' if self.kind == '%' else self.kind}"


def number(value: float) -> str:
    """A number as people write it: no exponent for what is not huge or tiny."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.10g}"


def parse_limit(text: str) -> Limit:
    """``> 0.05``, ``<= -3%`` or ``> 30s``."""
    found = _LIMIT.fullmatch(text)
    if not found:
        raise ValueError(f"expected >, >=, < or <= and a number, not {text[:40]!r}")
    operator, rest = found.groups()
    plain = _NUMBER.fullmatch(rest)
    if plain:
        value = float(plain[1])
        if not math.isfinite(value):
            raise ValueError(f"{rest[:40]!r} is too large for a number")
        return Limit(operator, value, plain[2])
    try:
        return Limit(operator, values.seconds_of(rest), "s")
    except ValueError:
        message = f"expected a number, a percentage or a time span, not {rest[:40]!r}"
        raise ValueError(message) from None


def parse_rearm(text: str) -> float:
    """A time span; ``healthy`` is never by time alone, which is infinite."""
    return math.inf if text == "healthy" else values.span(1, 30 * DAY)(text)


def parse_samples(text: str) -> int:
    """How many samples in a row: 1 to 1000."""
    if re.fullmatch(r"[0-9]{1,4}", text) and 1 <= int(text) <= 1000:
        return int(text)
    raise ValueError(f"expected a number from 1 to 1000, not {text[:40]!r}")


def whole_text(text: str) -> str:
    """Any text of one line, without what a mistake has made part of it: another is looked for then,
    and found missing.
    """
    if re.search(r"\s([#;]|=(\s|$))", text):
        raise ValueError(f"{text[:60]!r}: a comment, or another key, needs a line of its own")
    if text.isprintable() and len(text) <= 512:
        return text
    raise ValueError(f"expected printable text of at most 512 characters, not {text[:40]!r}")


def path(text: str) -> str:
    """A field of a hash, or a path into JSON: names and indices with dots between them."""
    return whole_text(text)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. None: not given; then [guard] or the measure says. Spans in seconds."""

    name: str
    redis: str | None = option("condition", "redis", whole_text, "", "the key to read")
    type: str = option(
        "condition",
        "type",
        values.choice("auto", "hash", "json", "plain"),
        "auto",
        "what the key holds",
    )
    field: str | None = option("condition", "field", path, "", "field of the hash, or JSON path")
    timestamp: str | None = option(
        "condition", "timestamp", path, "", "where it says when the data were written"
    )
    max_age: float | None = option(
        "condition", "max_age", values.span(0.1, DAY), "", "older data are unknown"
    )
    unit: str | None = option("condition", "unit", values.unit, "", "the unit to watch")
    pressure: str | None = option(
        "condition", "pressure", values.choice("memory", "cpu", "io"), "", "of the whole host"
    )
    share: str = option(
        "condition", "share", values.choice("some", "full"), "some", "who is held up"
    )
    average: str = option(
        "condition", "average", values.choice("10s", "60s", "300s"), "10s", "over which time"
    )
    measure: str | None = option(
        "condition", "measure", values.choice(*REDIS, *UNIT), "", "what to compare or watch for"
    )
    limit: Limit | None = option(  # noqa: RUF009 (a NamedTuple, which can't change either)
        "condition", "limit", parse_limit, "", "what the value may not be"
    )
    window: float | None = option(
        "condition", "window", values.span(1, DAY), "", "how far back a change counts"
    )
    lasting: float | None = option(
        "condition", "for", values.span(0, DAY), "", "how long it must last"
    )
    samples: int | None = option("condition", "samples", parse_samples, "", "how many in a row")
    mode: str | None = option(
        "condition", "mode", values.choice("shadow", "enforce"), "", "only report, or act"
    )
    unknown: str | None = option("condition", "unknown", ACTIONS, "", "if the value is not known")
    unknown_for: float | None = option(
        "condition", "unknown_for", values.span(0, DAY), "", "how long it may be unknown"
    )
    rearm_after: float | None = option(
        "condition", "rearm_after", parse_rearm, "", "when it acts again after a release"
    )

    @property
    def what(self) -> str:
        """The measure, also if none is named."""
        if self.measure:
            return self.measure
        return "pressure" if self.pressure else "failed" if self.unit else "value"

    @property
    def source(self) -> str:
        """What it reads: ``redis``, ``unit`` or ``pressure``; "" if nothing or more than one."""
        given = [key for key in ("redis", "unit", "pressure") if getattr(self, key)]
        return given[0] if len(given) == 1 else ""
