"""What Redis holds, as values: numbers, times, paths into JSON. Pure."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

AHEAD = 2.0  # seconds that a clock may be ahead of ours
MILLISECONDS = 1e11  # a number of seconds beyond this would be in the year 5138
NOT_THERE = "is not there"


class Problem(Exception):
    """Why there is no value; one short phrase."""


class Content(NamedTuple):
    """What a key holds. kind: ``none``, ``hash``, ``string`` or another type of Redis."""

    kind: str
    fields: dict[str, str] = {}  # noqa: RUF012 (never changed)
    text: str = ""

    def find(self, path: str) -> str:
        """The text at that field or path, the whole text without one. Raises Problem."""
        if self.kind == "none":
            raise Problem(NOT_THERE)
        if self.kind == "hash":
            if not path:
                raise Problem("is a hash: say which field")
            if path not in self.fields:
                raise Problem(NOT_THERE)
            return self.fields[path]
        if self.kind != "string":
            raise Problem(f"is a {self.kind}")
        return _in_json(self.text, path) if path else self.text


def _in_json(text: str, path: str) -> str:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise Problem("is not JSON") from None
    if isinstance(found, dict) and path in found:
        found = found[path]
    else:
        for step in path.split("."):
            found = _step(found, step)
    if found is None:
        raise Problem("is null")
    if isinstance(found, bool | dict | list):
        raise Problem(f"is {json.dumps(found)[:20]}, not a number")
    return str(found)


def _step(found: Any, step: str) -> Any:
    if isinstance(found, dict) and step in found:
        return found[step]
    if isinstance(found, list) and step.isdecimal() and len(step) < 9 and int(step) < len(found):
        return found[int(step)]
    raise Problem(NOT_THERE)


def number(text: str) -> float:
    """The number that a text stands for. Raises Problem; also for NaN and infinity."""
    try:
        if "_" in text or len(text) > 400:
            raise ValueError
        value = float(text)
    except (ValueError, OverflowError):
        raise Problem(f"{text[:20]!r} is not a number") from None
    if not math.isfinite(value):
        raise Problem(f"{text[:20]!r} is not finite")
    return value


def age(text: str, now: float) -> float:
    """How long ago a time was, in seconds; now in epoch seconds. Raises Problem.

    Seconds or milliseconds since 1970, or ISO 8601, which is UTC unless it says otherwise.
    """
    passed = now - _epoch(text)
    if passed < -AHEAD:
        raise Problem(f"is from a clock {-passed:.0f} s ahead of ours")
    return max(passed, 0.0)


def _epoch(text: str) -> float:
    try:
        value = number(text)
        return value / 1000 if abs(value) >= MILLISECONDS else value
    except Problem:
        pass
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Problem(f"{text[:30]!r} is not a time") from None
