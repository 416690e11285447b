"""Keys of Redis as readings: what one connection finds there, and what that says of each rule."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from quantum_ess.guard.data import Content, Problem, age, number
from quantum_ess.guard.evaluate import Reading
from quantum_ess.guard.rules import Rule, Rules
from quantum_ess.redisclient import Client, Refused, Unavailable

LONGEST = 1 << 20  # bytes of a string that are read
AGAIN = 0.1  # seconds after which a value that is written again, unchanged, is another sample
Readings = list[tuple[str, Reading]]


class Reader:
    """One connection, and what was read on it. Its methods raise Unavailable."""

    def __init__(self, rules: Rules, client: Client) -> None:
        self.client = client
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules.rules:
            if rule.redis:
                self._rules.setdefault(rule.redis, []).append(rule)
        self._kinds: dict[str, str] = {}
        self._before: dict[str, Content] = {}
        self._polled: set[str] = set()  # seen to be written before the server has said so
        self._counted: dict[str, float] = {}  # rule -> when it was last fresh, monotonic

    @property
    def keys(self) -> list[str]:
        """Every key that is read."""
        return list(self._rules)

    def read(self, keys: Iterable[str], pushed: bool = False) -> Readings:
        """A reading for each rule on these keys. pushed: they are known to have been written."""
        wanted = [key for key in keys if key in self._rules]
        contents = self._contents(wanted)
        now, wall = time.monotonic(), time.time()
        found: Readings = []
        for key in wanted:
            before, content = self._before.get(key), contents[key]
            self._before[key] = content
            changed = content != before
            written = changed or (pushed and key not in self._polled)
            if pushed:
                self._polled.discard(key)
            elif changed and before is not None:
                self._polled.add(key)
            for rule in self._rules[key]:
                mine = before is None or _own(rule, content) != _own(rule, before)
                fresh = mine or (written and self._again(rule.name, now))
                if fresh:
                    self._counted[rule.name] = now
                base = Reading(now, fresh=fresh, first=before is None)
                found.append((rule.name, reading(rule, content, base, wall)))
        return found

    def _again(self, name: str, now: float) -> bool:
        """Whether it is long enough ago that this rule's value was written: EXPIRE, or HSET of
        another field, right after HSET is no second time."""
        return now - self._counted.get(name, -math.inf) >= AGAIN

    def _contents(self, keys: list[str]) -> dict[str, Content]:
        found: dict[str, Content] = {}
        for _ in range(3):  # a key that changes its type in between is asked about again
            left = [key for key in keys if key not in found]
            new = [key for key in left if key not in self._kinds]
            kinds = self.client.ask(*(("TYPE", key) for key in new)) if new else []
            for key, kind in zip(new, kinds, strict=True):
                self._kinds[key] = text_of(kind) if isinstance(kind, bytes) else f"secret: {kind}"
            replies = self.client.ask(*map(self._command, left)) if left else []
            for key, reply in zip(left, replies, strict=True):
                content = self._content(key, reply)
                if content is None:
                    del self._kinds[key]
                else:
                    found[key] = content
        return found | {key: Content("changing type") for key in keys if key not in found}

    def _fields(self, key: str) -> list[str]:
        both = ((rule.field, rule.timestamp) for rule in self._rules[key])
        return list(dict.fromkeys(name for pair in both for name in pair if name))

    def _command(self, key: str) -> tuple[str | int, ...]:
        kind, fields = self._kinds[key], self._fields(key)
        if kind == "hash" and fields:
            return ("HMGET", key, *fields)
        if kind == "string":
            return ("GETRANGE", key, 0, LONGEST)
        return ("TYPE", key)  # a read like the others, so that a change is told

    def _content(self, key: str, reply: Any) -> Content | None:
        """What was read; None if the key is of another type by now."""
        kind, fields = self._kinds[key], self._fields(key)
        if isinstance(reply, Refused):
            return None if str(reply).startswith("WRONGTYPE") else Content(f"secret: {reply}")
        if isinstance(reply, list):
            if len(reply) != len(fields):
                raise Unavailable("an answer to another question")
            held = {f: text_of(v) for f, v in zip(fields, reply, strict=True) if v is not None}
            return Content("hash", held) if held else self._maybe_gone(key)
        if kind == "string":
            return Content("string", text=text_of(reply)) if reply else self._maybe_gone(key)
        now = text_of(reply)
        return Content(kind) if now == kind else None

    def _maybe_gone(self, key: str) -> Content | None:
        """A hash without the fields, or an empty string: both may be there all the same."""
        (kind,) = self.client.ask(("TYPE", key))
        if not isinstance(kind, bytes) or text_of(kind) != self._kinds[key]:
            return None
        return Content(self._kinds[key])


def text_of(value: Any) -> str:
    """A reply as text, whatever bytes it has."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _own(rule: Rule, content: Content) -> tuple[str | None, ...]:
    """What of a key this rule is about: of a hash its field, else all of it."""
    return content.kind, content.fields.get(rule.field), content.text


def reading(rule: Rule, content: Content, base: Reading, wall: float) -> Reading:
    """What a key's content says of a rule. wall: now, in epoch seconds."""
    if rule.what == "missing":
        return _missing(rule, content, base)
    try:
        if rule.type != "auto" and content.kind not in ("none", _STORED[rule.type]):
            raise Problem(f"is a {content.kind}, not {rule.type}")
        text = content.find(rule.field)
        data_age = age(content.find(rule.timestamp), wall) if rule.timestamp else None
        if data_age is not None and data_age > rule.max_age:
            raise Problem(f"is {data_age:.0f} s old")
        if rule.what == "age":
            value = data_age = age(text, wall)
        elif rule.what == "unchanged":
            value = 0.0
        else:
            value = number(text)
    except Problem as problem:
        return base._replace(problem=str(problem))
    return base._replace(value=value, text=text, age=data_age)


_STORED = {"hash": "hash", "json": "string", "plain": "string"}


def _missing(rule: Rule, content: Content, base: Reading) -> Reading:
    if content.kind.startswith("secret"):
        return base._replace(problem=content.kind)
    try:
        if content.kind == "none" or rule.field:
            content.find(rule.field)
    except Problem as problem:
        gone = str(problem) in ("is not there", "is null")
        return base._replace(value=1.0) if gone else base._replace(problem=str(problem))
    return base._replace(value=0.0)
