"""The plan: the compiled configuration, read without a parser on the stop path.

Line 1 is `quantum-ess-plan 1`; then `protect NAME CATEGORY GRACE_MS`, `keep NAME` and
`set KEY VALUE` lines, in the order of restart unless there are `order NAME` lines,
`tree CHECKSUM`, and `end`, by which the shell scripts know that they have read all of it
(docs/design.md).
"""

import os

from quantum_ess.group import FOUR, Group

HEADER = "quantum-ess-plan 1"
LONGEST_GRACE_MS = 1500  # quantum-ess.conf(5); a damaged plan must not put off the kill
BUILT_IN = f"{HEADER}\n{FOUR}"


class Protected:
    """One protected unit or pattern: stop category (IEC 60204-1) and grace in seconds."""

    __slots__ = ("category", "grace", "name")

    def __init__(self, name: str, category: int = 0, grace: float = 0.0) -> None:
        self.name = name
        self.category = category
        self.grace = grace


class Plan:
    """Which units to stop and how, which to keep, and the options that run time needs."""

    __slots__ = ("_literal", "_order", "_patterns", "keep", "options", "protect", "source")

    def __init__(self, text: str, source: str) -> None:
        """Read a plan's text. Raises ValueError if it is not a whole plan."""
        lines = text.split("\n")
        if lines[0] != HEADER or lines[-1]:
            raise ValueError(f"{source}: not a whole quantum-ess plan")
        self.source = source
        self.protect: list[Protected] = []
        self.keep: list[str] = []
        self.options: dict[str, str] = {}
        self._order: list[str] = []
        for line in lines[1:-1]:
            word, _, rest = line.partition(" ")
            if word == "protect":
                name, category, grace = rest.split(" ")
                self.protect.append(Protected(name, int(category), _grace(grace)))
            elif word == "keep":
                self.keep.append(rest)
            elif word == "order":
                self._order.append(rest)
            elif word == "set":
                key, _, value = rest.partition(" ")
                self.options[key] = value
        if not self.protect:
            raise ValueError(f"{source}: protects nothing")
        self._literal = {entry.name: entry for entry in self.protect}
        self._patterns = [entry for entry in self.protect if is_pattern(entry.name)]

    def match(self, unit: str) -> Protected | None:
        """How to stop that unit, or None if it is not protected.

        A literal name outranks a pattern, and keeping outranks a pattern that protects. ESS's own
        units can't be named in the configuration, so a literal among them is a drill's canary.
        """
        entry = self._literal.get(unit)
        if entry is None and self._patterns and not self.keeps(unit) and not _spared(unit):
            return next((e for e in self._patterns if _fnmatch(unit, e.name)), None)
        return entry

    def keeps(self, unit: str) -> bool:
        """True if that unit must not be touched."""
        return unit in self.keep or any(
            is_pattern(name) and _fnmatch(unit, name) for name in self.keep
        )

    def position(self, unit: str) -> int:
        """Place in the order of restart; units of one pattern share it."""
        entry = self.match(unit)
        if entry and not self._order:
            return self.protect.index(entry)
        if entry and unit in self._order:
            return self._order.index(unit)
        found = (n for n, name in enumerate(self._order) if entry and _fnmatch(unit, name))
        return next(found, len(self.protect))

    def duration(self, key: str, default_ms: int) -> float:
        """An option given in milliseconds, in seconds."""
        value = self.options.get(key, "")
        if value.isascii() and value.isdigit() and len(value) < 15:
            return int(value) / 1000
        return default_ms / 1000


def _grace(text: str) -> float:
    """Seconds of grace. Raises ValueError, also if it is more than the configuration allows."""
    if not 0 <= int(text) <= LONGEST_GRACE_MS:
        raise ValueError(f"a grace of {text} ms")
    return int(text) / 1000


def is_own(unit: str) -> bool:
    """ESS's own units and init.scope are protected by no pattern."""
    return unit.startswith(("quantum-ess.", "quantum-ess-")) or unit == "init.scope"


def _spared(unit: str) -> bool:
    """Those and systemd's are protected by no pattern."""
    return is_own(unit) or unit.startswith("systemd-")


def is_pattern(name: str) -> bool:
    """True if that name holds a wildcard of fnmatch(3)."""
    return any(c in name for c in "*?[")


def _fnmatch(unit: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase  # costs 5 ms (re), so only where a pattern asks for it

    return fnmatchcase(unit, pattern)


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would hang the stop


def read(group: Group) -> Plan:
    """The best plan that can be read whole; the built-in one if none can. Raises nothing."""
    for path in group.plans:
        try:
            with open(path, encoding="utf-8", opener=_at_once) as file:
                return Plan(file.read(), path)
        except (OSError, ValueError):
            continue
    return Plan(f"{HEADER}\n{group.built_in}", "built-in")
