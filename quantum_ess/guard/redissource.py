"""Readings from Redis, in a thread of its own: whatever Redis does, the guard's loop goes on.

A second connection is told of changes (CLIENT TRACKING, where the server allows it), so that what
is written is read at once; everything is read every `poll` all the same.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from quantum_ess.guard.evaluate import Reading
from quantum_ess.guard.keyreader import Reader, Readings, text_of
from quantum_ess.guard.rules import Rules
from quantum_ess.redisclient import Client, Refused, Settings, Unavailable

CHANNEL = "__redis__:invalidate"
APART = 0.01  # seconds between two readings of what is written all the time
BACKOFF = 2.0  # seconds at most between two attempts to connect


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
                keys.update(text_of(key) for key in message[2])
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
        self._ended = threading.Event()
        self._post = post
        self._renew = renew

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
                if self._ended.is_set():
                    break
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
    if isinstance(role, Refused) or text_of(role[0]) != "master":
        raise Unavailable(f"{client.address} is not the master any more")
