"""Values of the configuration: text to value. Each parser raises ValueError with what it expected.

Time spans after systemd.time(7), booleans after systemd.syntax(7).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from quantum_ess import unitnames

_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,30}[a-z0-9_$-]?")
_BOOLEANS = dict.fromkeys(("1", "yes", "y", "true", "t", "on"), True) | dict.fromkeys(
    ("0", "no", "n", "false", "f", "off"), False
)
_SECONDS = {
    name: seconds
    for names, seconds in (
        ("usec us \u00b5s \u03bcs", 1e-6),
        ("msec ms", 1e-3),
        ("seconds second sec s", 1.0),
        ("minutes minute min m", 60.0),
        ("hours hour hr h", 3600.0),
        ("days day d", 86400.0),
        ("weeks week w", 604800.0),
        ("months month M", 2629800.0),
        ("years year y", 31557600.0),
    )
    for name in names.split()
}
_SPAN = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,15})?)\s*([a-zA-Z\u00b5\u03bc]*)\s*")
_URL = re.compile(r"(?:rediss?://[^\s/?#]+(?:/[0-9]{0,3})?(?:\?\S*)?|unix://\S+)")


def boolean(text: str) -> bool:
    """``yes`` or ``no``, in any of systemd's spellings."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"expected yes or no, not {text[:40]!r}") from None


def choice(*values: str) -> Callable[[str], str]:
    """A parser for one of a few words."""

    def parse(text: str) -> str:
        if text in values:
            return text
        raise ValueError(f"expected {', '.join(values[:-1])} or {values[-1]}, not {text[:40]!r}")

    return parse


def category(text: str) -> int:
    """A stop category: 0 or 1."""
    return int(choice("0", "1")(text))


def span(least: float, most: float) -> Callable[[str], float]:
    """A parser for a time span within bounds; all in seconds."""

    def parse(text: str) -> float:
        seconds = seconds_of(text)
        if least <= seconds <= most:
            return seconds
        raise ValueError(f"{text[:40]!r} is not between {shown(least)} and {shown(most)}")

    return parse


def seconds_of(text: str) -> float:
    """A time span such as ``500ms``, ``2min 30s`` or ``1.5`` (seconds), in seconds."""
    total, position = 0.0, 0
    while found := _SPAN.match(text, position):
        number, unit = found.groups()
        if unit and unit not in _SECONDS:
            break
        total += float(number) * _SECONDS.get(unit, 1.0)
        position = found.end()
    if not text or position < len(text):
        raise ValueError(f"expected a time span such as 500ms or 2min 30s, not {text[:40]!r}")
    return total


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, none lost: what is not nothing does not become 0."""
    return round(seconds * 1000) or (1 if seconds > 0 else 0)


def shown(seconds: float) -> str:
    """The time span as it would be written."""
    whole = milliseconds(seconds)
    if whole % 60000 == 0 and whole:
        return f"{whole // 60000}min"
    return f"{whole}ms" if whole % 1000 else f"{whole // 1000}s"


def url(text: str) -> str:
    """The address of a Redis server, as redis-py takes it."""
    if _URL.fullmatch(text):
        return text
    shown = f"{text[:60]!r}"
    if "@" in text or "password" in text:  # everybody may read what this goes to
        shown = "this one, which has a password in it"
    raise ValueError(f"expected redis://HOST:PORT/DATABASE or unix:///SOCKET, not {shown}")


def group(text: str) -> str:
    """The name of a group of users (useradd(8)); whether there is one, the host will say."""
    if _GROUP.fullmatch(text):
        return text
    raise ValueError(f"expected the name of a group, not {text[:40]!r}")


def unit(text: str) -> str:
    """A unit name or pattern."""
    return unitnames.normalise(text)


def protected_unit(text: str) -> str:
    """A unit name or pattern that may be protected."""
    name = unitnames.normalise(text)
    if unitnames.is_own(name):
        raise ValueError(f"{text!r} is one of ESS's own units and cannot be protected")
    if unitnames.is_system(name):
        what = "takes in units" if unitnames.is_pattern(name) else "is a unit"
        raise ValueError(f"{text!r} {what} that the system itself needs and cannot be protected")
    if len(name) > unitnames.PROTECTED_MAX:
        raise ValueError(f"{text[:40]!r}... is longer than {unitnames.PROTECTED_MAX} characters")
    return name


def name(text: str) -> str:
    """A name of one's own choice, as it will stand in reasons and in the journal."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", text):
        return text
    raise ValueError(f"{text[:40]!r} is not a name: up to 40 letters, digits, '_', '-' and '.'")


def word(text: str) -> str:
    """Any text without white space in it."""
    if re.fullmatch(r"[!-~]{1,255}", text):
        return text
    raise ValueError(f"expected one word of ASCII characters, not {text[:40]!r}")


def path(text: str) -> str:
    """An absolute path."""
    if re.fullmatch(r"/\S{1,1023}", text):
        return text
    raise ValueError(f"expected an absolute path without spaces, not {text[:40]!r}")


def address(text: str) -> str:
    """HOST:PORT; an IPv6 address stands in brackets."""
    found = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})", text)
    if found and 0 < int(found[1]) < 65536:
        return text
    raise ValueError(f"expected HOST:PORT, not {text[:60]!r}")
