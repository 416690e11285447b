"""Unit names and patterns: what is legal, what matches what, what is never to be protected.

After systemd.unit(5); patterns are those of systemctl(1), that is fnmatch(3). Pure functions.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache

Token = frozenset[str] | None  # the characters that one place takes; None is a `*`
TYPES = ("service", "scope", "slice", "timer", "socket", "path", "target")
OTHER_TYPES = ("mount", "automount", "swap", "device", "snapshot")
NAME_MAX = 255
PROTECTED_MAX = NAME_MAX - len(".d")  # the drop-in directory's name must fit into a file name

OWN_PREFIXES = ("quantum-ess.", "quantum-ess-")
SYSTEM_PREFIX = "systemd-"
SYSTEM_UNITS = frozenset(
    """
    init.scope -.slice system.slice user.slice machine.slice
    dbus.service dbus.socket dbus-broker.service
    systemd-journald.service systemd-logind.service systemd-udevd.service systemd-journald.socket
    systemd-tmpfiles-clean.timer systemd-ask-password-console.path
    sysinit.target basic.target sockets.target timers.target paths.target slices.target
    local-fs.target local-fs-pre.target remote-fs.target swap.target network.target
    multi-user.target graphical.target default.target rescue.target emergency.target
    shutdown.target umount.target final.target reboot.target poweroff.target halt.target
    """.split()
)

# Of what a pattern may take in by mistake: who can't log in any more can't release either.
SAMPLES = frozenset(
    """
    ssh.service sshd.service user@0.service session-1.scope user-0.slice getty@tty1.service
    systemd-networkd.service systemd-resolved.service systemd-timesyncd.service
    """.split()
)

MOST_WAYS = 5_000
_LEGAL = frozenset(string.ascii_letters + string.digits + ":-_.\\@")
_GLOB = frozenset("*?[]!")


def is_pattern(name: str) -> bool:
    """Whether the name holds a wildcard."""
    return any(char in name for char in "*?[")


def unit_type(name: str) -> str:
    """The part after the last dot."""
    return name.rpartition(".")[2]


def template_of(name: str) -> str:
    """``foo@.service`` for ``foo@x.service``; empty if the name is no instance."""
    stem, _, kind = name.rpartition(".")
    prefix, at, instance = stem.partition("@")
    return f"{prefix}@.{kind}" if at and instance else ""


def instance_of(name: str) -> str:
    """``x`` for ``foo@x.service``; empty if the name is no instance."""
    return name.rpartition(".")[0].partition("@")[2]


def drop_in_names(name: str) -> Iterator[str]:
    """Names whose ``.d`` directories hold drop-ins for that unit, the most specific first.

    Its own, its template's, and for ``a-b-c`` those of ``a-b-`` and ``a-`` (systemd.unit(5)).
    """
    yield name
    if template := template_of(name):
        yield from drop_in_names(template)
    stem, _, kind = name.rpartition(".")
    prefix, _, instance = stem.partition("@")
    dash = prefix.removesuffix("-").rfind("-")
    if dash > 0:
        yield from drop_in_names(f"{prefix[: dash + 1]}{f'@{instance}' if instance else ''}.{kind}")


def is_template(name: str) -> bool:
    """Whether the name is ``foo@.service``: a template without an instance."""
    return name.rpartition(".")[0].partition("@")[1:] == ("@", "")


def matches(pattern: str, name: str) -> bool:
    """Whether the name is the pattern or matches it; of a pattern, whether all its names do."""
    if pattern == name or not is_pattern(name):
        return pattern == name or fnmatchcase(name, pattern)
    return is_pattern(pattern) and _takes_in(pattern, name)


def is_own(name: str) -> bool:
    """Whether the unit, or every unit of the pattern, is one of ESS's own."""
    return name.startswith(OWN_PREFIXES)


def is_system(name: str) -> bool:
    """Whether the system needs the unit; for a pattern: whether it takes in such a unit."""
    if is_pattern(name):
        taken_in = any(fnmatchcase(unit, name) for unit in SYSTEM_UNITS | SAMPLES)
        return taken_in or name.startswith(SYSTEM_PREFIX)
    return name in SYSTEM_UNITS or name.startswith(SYSTEM_PREFIX)


def normalise(word: str) -> str:
    """The full unit name or pattern that a word in the configuration stands for.

    A name without a dot means a service. Raises ValueError with what was expected.
    """
    name = word if "." in word else word + ".service"
    pattern = is_pattern(name)
    _check_characters(word, name, pattern)
    stem, _, kind = name.rpartition(".")
    _check_type(word, kind)
    if not stem or stem.startswith("@"):
        raise ValueError(f"{word!r} is not a unit name: nothing before the '{name[len(stem)]}'")
    if is_template(name) and not pattern:
        whole = name.replace("@.", "@*.")
        raise ValueError(f"{word!r} is a template; write {whole} for all of its instances")
    if kind == "slice" and name != "-.slice":
        _check_slice(word, stem)
    return name


def _check_characters(word: str, name: str, pattern: bool) -> None:
    if len(name) > NAME_MAX:
        raise ValueError(
            f"{word[:40]!r}... is longer than the {NAME_MAX} characters of a unit name"
        )
    bad = sorted(set(name) - _LEGAL - (_GLOB if pattern else frozenset()))
    if bad:
        comment = "; a comment needs a line of its own" if bad[0] in "#;" else ""
        raise ValueError(f"{word!r} is not a unit name: {bad[0]!r} is not allowed{comment}")
    if pattern and "\\" in name:
        raise ValueError(f"{word!r}: a pattern cannot hold a backslash; write '?' in its place")
    if pattern:
        tokens(name)


def _check_type(word: str, kind: str) -> None:
    if kind in TYPES:
        return
    allowed = f"{', '.join(TYPES[:-1])} or {TYPES[-1]}"
    if kind in OTHER_TYPES:
        raise ValueError(f"{word!r}: a {kind} is not possible here; expected a {allowed}")
    raise ValueError(f"{word!r} does not end in a unit type; expected a {allowed}")


def _check_slice(word: str, stem: str) -> None:
    if stem.startswith("-") or stem.endswith("-") or "--" in stem or "@" in stem:
        raise ValueError(f"{word!r} is not a slice name, see systemd.slice(5)")


def tokens(pattern: str) -> list[frozenset[str] | None]:
    """The pattern as a list: a set of characters for one character, None for ``*``.

    Raises ValueError for a bracket expression that shells and fnmatch(3) would read differently.
    """
    found: list[frozenset[str] | None] = []
    rest = pattern
    while rest:
        char, rest = rest[0], rest[1:]
        if char == "*":
            found.append(None)
        elif char == "?":
            found.append(_LEGAL)
        elif char == "[":
            inside, closed, rest = rest.partition("]")
            found.append(_bracket(pattern, inside if closed else ""))
        elif char in "]!":
            raise ValueError(f"{pattern!r}: '{char}' outside of '[...]'")
        else:
            found.append(frozenset(char))
    return found


def _bracket(pattern: str, inside: str) -> frozenset[str]:
    """The characters of ``[inside]``."""
    negated = inside.startswith("!")
    body = inside[1:] if negated else inside
    if not body or set(body) & _GLOB:
        raise ValueError(f"{pattern!r}: expected '[', characters or ranges, and ']'")
    chars: set[str] = set()
    while body:
        if len(body) > 2 and body[1] == "-":
            chars.update(char for char in _LEGAL if body[0] <= char <= body[2])
            body = body[3:]
        else:
            chars.add(body[0])
            body = body[1:]
    return _LEGAL - chars if negated else frozenset(chars)


@cache
def _takes_in(pattern: str, inner: str) -> bool:
    return _contains(tokens(pattern), tokens(inner))


def _contains(outer: list[Token], inner: list[Token]) -> bool:
    """Whether every name that the inner pattern matches is matched by the outer one.

    By walking both at once: where the inner one is, and where the outer one could be by then.
    """
    sets = [token for token in (*outer, *inner) if token is not None]
    # One character for all that no place tells apart.
    alike = {tuple(char in chars for chars in sets): char for char in _LEGAL}
    ways = [(0, _reach(outer, {0}))]
    seen = set(ways)
    while ways:
        place, others = ways.pop()
        if place == len(inner):
            if len(outer) not in others:
                return False
            continue
        token = inner[place]
        chars = [char for char in alike.values() if token is None or char in token]
        after = {(place + (token is not None), _step(outer, others, char)) for char in chars}
        if token is None:
            after.add((place + 1, others))
        ways += after - seen
        seen |= after
        if len(seen) > MOST_WAYS:  # of many `?` behind a `*`: nobody can say in time
            return False
    return True


def _step(outer: list[Token], places: frozenset[int], char: str) -> frozenset[int]:
    """Where that pattern is after one more character."""
    found = set()
    for place in places:
        if place < len(outer):
            token = outer[place]
            if token is None or char in token:
                found.add(place + (token is not None))
    return _reach(outer, found)


def _reach(outer: list[Token], places: set[int]) -> frozenset[int]:
    """Those places, and what comes after a `*` that takes nothing."""
    for place in sorted(places):
        while place < len(outer) and outer[place] is None:
            place += 1
            places = {*places, place}
    return frozenset(places)


def overlap(one: str, other: str) -> bool:
    """Whether some unit name can match both patterns (or is the literal and matches)."""
    left, right = tokens(one), tokens(other)
    # row[j]: whether left[i:] and right[j:] have a string in common, from the ends backwards
    below = _last_row(right)
    for mine in reversed(left):
        row = [False] * (len(right) + 1)
        row[-1] = mine is None and below[-1]
        for j in range(len(right) - 1, -1, -1):
            theirs = right[j]
            if mine is None or theirs is None:
                row[j] = below[j] or row[j + 1]
            else:
                row[j] = bool(mine & theirs) and below[j + 1]
        below = row
    return below[0]


def _last_row(right: list[frozenset[str] | None]) -> list[bool]:
    row = [True]
    for token in reversed(right):
        row.insert(0, token is None and row[0])
    return row
