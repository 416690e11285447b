"""The threads that read for the guard's loop, and what the loop knows of their health."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from quantum_ess import marker, plan, redisclient
from quantum_ess.group import Group
from quantum_ess.guard import hostsource
from quantum_ess.guard.evaluate import STARTING, Reading, Watch
from quantum_ess.guard.redissource import RedisSource
from quantum_ess.guard.rules import DOWN, Rules

RENEW = 5.0  # seconds between two looks at the marker, but for a new connection
Post = Callable[[list[tuple[str, Reading]]], None]


class Sources:
    """Redis and PID 1, each in a thread of its own: either may hang, and the loop goes on."""

    def __init__(self, keep: Callable[[redisclient.Client], None]) -> None:
        """keep: is called with the connection to Redis after each poll."""
        self.redis: RedisSource | None = None
        self.units: hostsource.UnitSource | None = None
        self._keep = keep
        self._poll = 1.0
        self._since = time.monotonic()

    def follow(self, rules: Rules, post: Post) -> None:
        """Read what these rules are about, and nothing else any more; `post` takes the readings.

        What was being read for other rules still goes to theirs.
        """
        self.end()
        self._poll = rules.poll
        self._since = time.monotonic()
        if rules.uses_redis:
            self.redis = RedisSource(rules, post, self._keep)
            self.redis.start()
        if any(rule.unit for rule in rules.rules):
            self.units = hostsource.UnitSource(rules, post)
            self.units.start()

    def end(self) -> None:
        """Have the threads end, without waiting for them."""
        for source in (self.redis, self.units):
            if source is not None:
                source.end()
        self.redis = self.units = None

    def look(self, watch: Watch, now: float) -> Reading | None:
        """A reading that no thread brings, None if none is due.

        The host's pressure; whether Redis answers; and that a thread is stuck in a read: then what
        it last said does not count on.
        """
        rule, last = watch.rule, watch.evaluator.reading
        if rule.pressure:
            return hostsource.pressure(rule)
        if rule.what == DOWN:
            return Reading(now, float(not self._redis_answers(now)))
        silent = now - (last.time if last else self._since)
        if silent <= self._patience():
            return None
        return Reading(now, problem=f"no reading for {silent:.0f} s", reachable=not rule.redis)

    def _patience(self) -> float:
        waits = self.redis.settings.timeout if self.redis else 0.0
        return self._poll + 2 * max(waits, hostsource.TIMEOUT) + 1

    def _redis_answers(self, now: float) -> bool:
        redis = self.redis
        if redis is None or redis.state != "up" or redis.answered is None:
            return False
        return now - redis.answered < self._patience()

    def redis_state(self, warned: bool) -> dict[str, Any] | None:
        """The member `redis` of guard.json (docs/design.md); None if nothing is read there."""
        redis = self.redis
        if redis is None:
            return None
        now = time.monotonic()
        up = self._redis_answers(now)
        silent = "no answer" if redis.state == "up" and not up else None
        return {
            "state": "up" if up else "starting" if redis.state == STARTING else "down",
            "server": redis.server,
            "push": redis.push and up,
            "problem": redis.problem or silent,
            "down_seconds": None if up else round(now - (redis.answered or redis.since), 3),
            "warned": warned,
        }


class Keeper:
    """Looks after the marker on the guard's own connection, in case that Redis has lost it."""

    def __init__(self, group: Group, renewed: Callable[[str], None]) -> None:
        """renewed: is told what was done (marker.renew)."""
        self._group = group
        self._renewed = renewed
        self._last: tuple[object, float] = (None, 0.0)  # connection, and when

    def __call__(self, client: redisclient.Client) -> None:
        """Look at once on a new connection, else now and then. Raises Unavailable."""
        known, when = self._last
        if known is client and time.monotonic() - when < RENEW:
            return
        self._last = client, time.monotonic()
        if plan.read(self._group).options.get("redis.enabled", "yes") != "yes":
            return
        try:
            done = marker.renew(self._group, client.ask)
        except redisclient.Refused:
            return  # whoever may not read it
        if done:
            self._renewed(done)
