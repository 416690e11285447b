"""Readings from Redis, in a thread of its own: whatever Redis does, the guard's loop goes on.

A second connection is told of changes (CLIENT TRACKING, where the server allows it), so that what
is written is read at once; everything is read every `poll` all the same.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from quantum_ess.guard.data import Content, Problem, age, number
from quantum_ess.guard.evaluate import Reading
from quantum_ess.guard.rules import Rule, Rules
from quantum_ess.redisclient import Client, Refused, Settings, Unavailable

CHANNEL = "__redis__:invalidate"
LONGEST = 1 << 20  # bytes of a string that are read
APART = 0.01  # seconds between two readings of what is written all the time
BACKOFF = 2.0  # seconds at most between two attempts to connect
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
            fresh = pushed or content != before
            base = Reading(now, fresh=fresh, first=before is None)
            found += [(rule.name, reading(rule, content, base, wall)) for rule in self._rules[key]]
        return found

    def _contents(self, keys: list[str]) -> dict[str, Content]:
        found: dict[str, Content] = {}
        for _ in range(3):  # a key that changes its type in between is asked about again
            left = [key for key in keys if key not in found]
            new = [key for key in left if key not in self._kinds]
            kinds = self.client.ask(*(("TYPE", key) for key in new)) if new else []
            for key, kind in zip(new, kinds, strict=True):
                self._kinds[key] = kind.decode() if isinstance(kind, bytes) else f"secret: {kind}"
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
            held = {f: _text(v) for f, v in zip(fields, reply, strict=True) if v is not None}
            return Content("hash", held) if held else self._maybe_gone(key)
        if kind == "string":
            return Content("string", text=_text(reply)) if reply else self._maybe_gone(key)
        now = _text(reply)
        return Content(kind) if now == kind else None

    def _maybe_gone(self, key: str) -> Content | None:
        """A hash without the fields, or an empty string: both may be there all the same."""
        (kind,) = self.client.ask(("TYPE", key))
        if not isinstance(kind, bytes) or kind.decode() != self._kinds[key]:
            return None
        return Content(self._kinds[key])


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


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


class Tracker:
    """The second connection, on which the server says what has changed."""

    def __init__(self, settings: Settings, reading: Client) -> None:
        """Raises Unavailable or Refused: then there is only polling."""
        self.client = Client(settings)
        try:
            identity, subscribed = self.client.ask(("CLIENT", "ID"), ("SUBSCRIBE", CHANNEL))
            (tracking,) = reading.ask(("CLIENT", "TRACKING", "ON", "REDIRECT", str(identity)))
            for reply in (identity, subscribed, tracking):
                if isinstance(reply, Refused):
                    raise reply
        except BaseException:
            self.client.close()
            raise

    def changed(self, seconds: float) -> set[str] | None:
        """Keys that were written within that time; None for all of them (FLUSHALL)."""
        keys: set[str] = set()
        while self.client.wait(seconds):
            message = self.client.read()
            if isinstance(message, list) and message[0] == b"message":
                if message[2] is None:
                    return None
                keys.update(_text(key) for key in message[2])
            seconds = 0
        return keys


class RedisSource(threading.Thread):
    """Reads until it is told to end; what it finds goes to `post`."""

    def __init__(
        self,
        rules: Rules,
        post: Callable[[Readings], None],
        renew: Callable[[Client], None] = lambda client: None,
    ) -> None:
        """renew: called after every poll, with the connection, to look after the marker."""
        super().__init__(name="redis", daemon=True)
        self.rules = rules
        self.settings = Settings(rules.redis)
        self.state, self.problem, self.push = "starting", "", False
        self.server = self.settings.server()
        self.answered: float | None = None  # when everything was last read, monotonic
        self.since = time.monotonic()  # in this state
        self._post = post
        self._renew = renew
        self._ended = threading.Event()

    def end(self) -> None:
        """Have the thread end, at the next poll at the latest."""
        self._ended.set()

    def run(self) -> None:
        """Connect and read; after a failure again, ever less often, and not all guards at once."""
        pause = 0.05
        while not self._ended.is_set():
            before = self.answered
            try:
                self._session()
            except Exception as error:  # also a defect: it must show, and not end the thread
                known = isinstance(error, Unavailable)
                self._down(str(error) if known else f"{type(error).__name__}: {error}")
            if self.answered != before:
                pause = 0.05
            self._ended.wait(random.uniform(pause / 2, pause))
            pause = min(2 * pause, BACKOFF, max(self.rules.poll, 0.1))

    def _session(self) -> None:
        client = Client(self.settings)
        tracker: Tracker | None = None
        try:
            try:
                tracker = Tracker(self.settings, client)
            except (Unavailable, Refused) as error:
                self.problem = f"changes are not pushed: {error}"
            reader = Reader(self.rules, client)
            self._poll(reader)
            self._up(client, tracker)
            while not self._ended.is_set():
                self._until_next_poll(reader, tracker, time.monotonic() + self.rules.poll)
                if self.settings.sentinels:
                    _stay_with_master(client)
                self._poll(reader)
                self._renew(client)
        finally:
            client.close()
            if tracker is not None:
                tracker.client.close()

    def _poll(self, reader: Reader) -> None:
        if reader.keys:
            self._post(reader.read(reader.keys))
        else:
            reader.client.ask(("PING",))
        self.answered = time.monotonic()

    def _until_next_poll(self, reader: Reader, tracker: Tracker | None, next_poll: float) -> None:
        while (left := next_poll - time.monotonic()) > 0 and not self._ended.is_set():
            if tracker is None:
                self._ended.wait(left)
                return
            keys = tracker.changed(left)
            if keys is None or keys:
                self._post(reader.read(reader.keys if keys is None else keys, pushed=True))
                self._ended.wait(min(APART, max(next_poll - time.monotonic(), 0)))

    def _up(self, client: Client, tracker: Tracker | None) -> None:
        self.push = tracker is not None
        if self.push:
            self.problem = ""
        self.server = client.address
        self.state, self.since = "up", time.monotonic()

    def _down(self, problem: str) -> None:
        now = time.monotonic()
        if self.state != "down":
            self.state, self.since = "down", now
        self.problem, self.push = problem, False
        gone = Reading(now, problem="Redis does not answer", reachable=False)
        self._post([(rule.name, gone) for rule in self.rules.rules if rule.redis])


def _stay_with_master(client: Client) -> None:
    """Raises Unavailable once the server is not the master any more."""
    (role,) = client.ask(("ROLE",))
    if isinstance(role, Refused) or _text(role[0]) != "master":
        raise Unavailable(f"{client.address} is not the master any more")
