"""The guard's loop: take readings, decide, act. Nothing in it waits for a network, a disk or PID 1.

What can hang has a thread: Redis, PID 1, and the clerk, who writes the trail. The loop alone feeds
the watchdog. An activation is `quantum_ess.activate.activate`, called right here.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from quantum_ess import account, activate, latch, marker, plan, record, redisclient
from quantum_ess.errors import Failed
from quantum_ess.group import Group
from quantum_ess.guard import hostsource, rules, sdnotify, state
from quantum_ess.guard.evaluate import BREACHED, FINE, STARTING, Reading, Watch
from quantum_ess.guard.redissource import RedisSource
from quantum_ess.guard.rules import DOWN, Rules
from quantum_ess.trail import CRIT, NOTICE, Trail

WARNING = 4
WRITE = 2.0  # seconds: the state is written this often if nothing changes
RENEW = 5.0  # seconds between two looks at the marker, but for a new connection
Readings = list[tuple[str, Reading]]


class Clerk(threading.Thread):
    """Does one after another what may take long, and outlives whatever goes wrong with it."""

    def __init__(self) -> None:
        super().__init__(name="clerk", daemon=True)
        self.work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            job = self.work.get()
            try:
                job()
            except Exception as error:  # one entry is lost; the loop and the next job go on
                print(f"guard: {type(error).__name__}: {error}", flush=True)


class Guard:
    """One group's guard. run() returns when there is nothing to guard, or after stop()."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rules = Rules()
        self.watches: dict[str, Watch] = {}
        self.redis: RedisSource | None = None
        self.units: hostsource.UnitSource | None = None
        self.inbox: queue.SimpleQueue[Readings] = queue.SimpleQueue()
        self.clerk = Clerk()
        self.problem = ""
        self.last: dict[str, Any] | None = None
        self._mark: tuple[int, int] | None = None
        self._stopping = threading.Event()
        self._started = time.time()
        self._loaded = time.monotonic()
        self._written = 0.0
        self._renewed: tuple[object, float] = (None, 0.0)  # connection, and when
        self._changed = True
        self._latched = group.latched()
        self._flag = latch.inode(group)

    def stop(self, *_: object) -> None:
        """End in order; also a signal handler."""
        self._stopping.set()
        self.inbox.put([])

    def run(self) -> None:
        """Guard. Raises Failed if there are rules that can't be read."""
        preload()
        self.clerk.start()
        if not self._load():
            if self.problem:
                raise Failed(self.problem)
            return
        self._recall()
        self._tell("guard-started", "ESS GUARD STARTED", NOTICE)
        sdnotify.notify("READY=1")
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= next_tick:
                if not self._tick():
                    break
                next_tick = max(next_tick + self._period(), now)
            self._receive(next_tick - time.monotonic())
        self._end()

    def _period(self) -> float:
        return min(self.rules.poll, WRITE)

    def _receive(self, seconds: float) -> None:
        try:
            readings = self.inbox.get(timeout=max(seconds, 0.0))
        except queue.Empty:
            return
        for name, reading in readings:
            self.take(name, reading)
        if self._changed:
            self._write()

    def take(self, name: str, reading: Reading) -> None:
        """One reading: judge it, and act if that is due."""
        watch = self.watches.get(name)
        if watch is None:
            return  # of rules that are no more
        before = watch.evaluator.state
        due = watch.take(reading)
        self._changed |= watch.evaluator.state != before
        if due:
            self._act(watch, due)

    # Acting

    def _act(self, watch: Watch, due: str) -> None:
        if not watch.acts(due):
            self._warn(watch)
            return
        watch.tripped = True
        reason = f"condition {watch.reason()}"
        if watch.rule.mode == "shadow":
            self._done(watch, reason, "would activate")
            self._tell("guard-shadow", f"ESS GUARD WOULD ACTIVATE: {reason}", WARNING, reason)
        elif self.group.latched():
            self._done(watch, reason, "joined")
            text = f"ESS GUARD: active already when it came true: {reason}"
            self._tell("guard-joined", text, NOTICE, reason)
        else:
            self._activate(watch, reason)

    def _activate(self, watch: Watch, reason: str) -> None:
        request = activate.Request("guard", reason)
        outcome = activate.activate(self.group, request)
        self._latched, self._flag = True, latch.inode(self.group)
        self._done(watch, reason, "activated")
        self.clerk.work.put(lambda: account.settle(self.group, request, outcome))

    def _warn(self, watch: Watch) -> None:
        if not watch.warned:
            watch.warned = self._changed = True
            text = f"ESS GUARD WARNING: {watch.reason()}"
            self._tell("guard-warning", text, WARNING, watch.reason())

    def _done(self, watch: Watch, reason: str, did: str) -> None:
        self.last = {
            "time": time.time(),
            "condition": watch.rule.name,
            "reason": reason,
            "did": did,
        }
        self._changed = True

    def _tell(self, event: str, text: str, priority: int = CRIT, reason: str = "") -> None:
        """An entry of the trail, by the clerk: the disk and the lock may take their time."""

        def log() -> None:
            known = record.load(self.group.record) if self.group.latched() else None
            about = {"trigger": "guard", "reason": reason}
            trail = Trail(self.group, str((known or {}).get("incident", "")), about)
            trail.log(event, text, priority=priority)

        self.clerk.work.put(log)

    # Once a period

    def _tick(self) -> bool:
        """Look after everything that no reading brings; False if there is nothing to guard."""
        if rules.mark(state.rules_path(self.group)) != self._mark and not self._load():
            return False
        self._look_at_latch()
        now = time.monotonic()
        for watch in list(self.watches.values()):
            if watch.rule.pressure:
                self.take(watch.rule.name, hostsource.pressure(watch.rule))
            elif watch.rule.what == DOWN:
                self.take(DOWN, Reading(now, float(not self._redis_answers(now))))
            else:
                self._miss(watch, now)
        sdnotify.notify("WATCHDOG=1")
        if self._changed or now - self._written >= WRITE:
            self._write()
        return True

    def _look_at_latch(self) -> None:
        latched, flag = self.group.latched(), latch.inode(self.group)
        another = None not in (flag, self._flag) and flag != self._flag
        if self._latched and (not latched or another):
            for watch in self.watches.values():
                if watch.tripped and watch.evaluator.state != FINE:
                    text = f"ESS GUARD: released although {watch.reason()}"
                    self._tell("guard-released", text, WARNING)
                watch.released(time.monotonic())
            self._changed = True
        self._latched, self._flag = latched, flag

    def _patience(self) -> float:
        """How long a source may be silent before what it last said is unknown."""
        waits = self.redis.settings.timeout if self.redis else 0.0
        return self.rules.poll + 2 * max(waits, hostsource.TIMEOUT) + 1

    def _redis_answers(self, now: float) -> bool:
        redis = self.redis
        if redis is None or redis.state != "up" or redis.answered is None:
            return False
        return now - redis.answered < self._patience()

    def _miss(self, watch: Watch, now: float) -> None:
        """A thread that is stuck in a read posts nothing: what it last said does not count on."""
        reading = watch.evaluator.reading
        since = reading.time if reading else self._loaded
        if now - since > self._patience():
            said = f"no reading for {now - since:.0f} s"
            gone = Reading(now, problem=said, reachable=not watch.rule.redis)
            self.take(watch.rule.name, gone)

    # Rules and state

    def _load(self) -> bool:
        """Read the rules if there are any, and begin to read what they are about."""
        path = state.rules_path(self.group)
        self._mark = rules.mark(path)
        try:
            found = rules.read(path)
        except (OSError, ValueError) as error:
            self.problem = f"{path}: {error}"
            return bool(self.rules.rules)
        if found is None or not found.rules:
            return False
        if not redisclient.Settings(found.redis).loadable():
            return False  # to be started again, with TLS
        self.problem = ""
        self._loaded = time.monotonic()
        if found != self.rules:
            self._follow(found)
        return True

    def _follow(self, found: Rules) -> None:
        old = self.watches
        kept = {
            name: watch
            for name, watch in old.items()
            if watch.rule in found.rules and found.repeat == self.rules.repeat
        }
        self.watches = {
            rule.name: kept.get(rule.name) or Watch(rule, found.repeat) for rule in found.rules
        }
        for name, watch in self.watches.items():
            if name in old and watch is not old[name]:
                watch.tripped, watch.disarmed = old[name].tripped, old[name].disarmed
        self.rules, self._changed = found, True
        for source in (self.redis, self.units):
            if source is not None:
                source.end()
        self.redis = self.units = None
        if found.uses_redis:
            self.redis = RedisSource(found, self.inbox.put, self._renew)
            self.redis.start()
        if any(rule.unit for rule in found.rules):
            self.units = hostsource.UnitSource(found, self.inbox.put)
            self.units.start()

    def _renew(self, client: redisclient.Client) -> None:
        """In the Redis thread, after a poll: the marker, in case that Redis has lost it."""
        known, when = self._renewed
        if known is client and time.monotonic() - when < RENEW:
            return
        self._renewed = client, time.monotonic()
        if plan.read(self.group).options.get("redis.enabled", "yes") != "yes":
            return
        try:
            done = marker.renew(self.group, client.ask)
        except redisclient.Refused:
            return  # whoever may read but not write: the controller's own attempt is on record
        if done:
            self._tell("marker-renewed", f"ESS REDIS MARKER {done} AGAIN", NOTICE)

    def _recall(self) -> None:
        """What the guard before this one knew and no reading tells."""
        known = state.read(self.group) or {"conditions": [], "stopped": True}
        if not known.get("stopped"):
            self._tell("guard-died", "ESS GUARD HAD DIED and was started again", WARNING)
        now = time.monotonic()
        for row in known["conditions"]:
            watch = self.watches.get(str(row.get("name"))) if isinstance(row, dict) else None
            if watch is None:
                continue
            since = row.get("disarmed_seconds")
            if isinstance(since, int | float):
                watch.disarmed = now - since - max(0.0, known.get("age", 0.0))
            if isinstance(row.get("extreme"), int | float) and row.get("what") == watch.rule.what:
                watch.evaluator.extreme.recall(row["extreme"])
            watch.tripped = row.get("tripped") is True and watch.rule.mode == "enforce"
            if watch.tripped and not self._latched:
                watch.released(now)
        self.last = known.get("last") if isinstance(known.get("last"), dict) else None

    def _write(self, stopped: bool = False) -> None:
        self._changed = False
        self._written = time.monotonic()
        try:
            state.write(self.group, self.snapshot(stopped))
        except OSError as error:  # /run is full: status will say that we are silent
            self.problem = f"{error.filename}: {error.strerror}"

    def snapshot(self, stopped: bool = False) -> dict[str, Any]:
        """What guard.json holds (docs/design.md)."""
        return {
            "version": state.VERSION,
            "pid": os.getpid(),
            "started": self._started,
            "time": time.time(),
            "boottime": state.boottime(),
            "watchdog": state.WATCHDOG,
            "stopped": stopped,
            "poll": self.rules.poll,
            "redis": self._redis_state(),
            "conditions": [
                {**state.condition(watch), "warned": watch.warned}
                for watch in self.watches.values()
            ],
            "last": self.last,
            "problem": self.problem or None,
        }

    def _redis_state(self) -> dict[str, Any] | None:
        redis = self.redis
        if redis is None:
            return None
        now = time.monotonic()
        up = self._redis_answers(now)
        said = "up" if up else "starting" if redis.state == STARTING else "down"
        down = self.watches.get(DOWN)
        silent = "no answer" if redis.state == "up" and not up else None
        return {
            "state": said,
            "server": redis.server,
            "push": redis.push and up,
            "problem": redis.problem or silent,
            "down_seconds": None if up else round(now - (redis.answered or redis.since), 3),
            "warned": bool(down and down.evaluator.state == BREACHED),
        }

    def _end(self) -> None:
        sdnotify.notify("STOPPING=1")
        for source in (self.redis, self.units):
            if source is not None:
                source.end()
        finished = threading.Event()
        self._tell("guard-stopped", "ESS GUARD STOPPED", NOTICE)
        self.clerk.work.put(finished.set)
        finished.wait(5)
        self._write(stopped=True)


def preload() -> None:
    """Import now what an activation would import: not while trading goes on, and not from a disk
    that may be gone by then."""
    import json
    import uuid

    from quantum_ess import actor, release, systemd

    del json, uuid, actor, release, systemd
