"""The guard's loop: take readings, decide, act. Nothing in it waits for a network, a disk or PID 1.

What can hang has a thread: Redis and PID 1 (sources), and the clerk, who writes the trail
(actions). The loop alone feeds the watchdog.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any

from quantum_ess import latch, marker, record, redisclient
from quantum_ess.errors import Failed
from quantum_ess.group import Group
from quantum_ess.guard import rules, sdnotify, state
from quantum_ess.guard.actions import WARNING, Actions, preload
from quantum_ess.guard.condition import number
from quantum_ess.guard.evaluate import BREACHED, FINE, Reading, Watch
from quantum_ess.guard.rules import DOWN, Rules
from quantum_ess.guard.sources import Keeper, Sources
from quantum_ess.trail import NOTICE

LIVES = 60.0  # seconds after which a guard is well
MANY = 3  # deaths in a row that status warns of
WRITE = 2.0  # seconds: the state is written this often if nothing changes
UNREAD = (0, 0)  # no file's mark
Readings = list[tuple[str, Reading]]


class Guard:
    """One group's guard. run() returns when there is nothing to guard, or after stop()."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.rules = Rules()
        self.watches: dict[str, Watch] = {}
        self.inbox: queue.SimpleQueue[Readings] = queue.SimpleQueue()
        self.actions = Actions(group)
        self.sources = Sources(Keeper(group, self._marker_renewed))
        self.problem = ""
        self._mark: tuple[int, int] | None = UNREAD
        self._stopping = threading.Event()
        self._started = time.time()
        self._deaths = 0  # of guards before this one, in a row
        self._written = 0.0
        self._changed = True
        self._flag = latch.inode(group)
        self._latched = group.latched()

    def stop(self, *_: object) -> None:
        """End in order; also a signal handler."""
        self._stopping.set()
        self.inbox.put([])

    def run(self) -> None:
        """Guard. Raises Failed if there are rules that can't be read."""
        preload()
        if not self._load():
            if self.problem:
                raise Failed(self.problem)
            return
        self._recall()
        self.actions.tell("guard-started", "ESS GUARD STARTED", NOTICE)
        sdnotify.notify("READY=1")
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if now >= next_tick:
                if not self._tick():
                    break
                next_tick = max(next_tick + min(self.rules.poll, WRITE), now)
            self._receive(next_tick - time.monotonic())
        self._end()

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
        if due and self._latched:  # unless it was released since the last tick
            self._look_at_latch()
            due = watch.due
        if due and self.actions.act(watch, due):
            self._flag, self._latched = latch.inode(self.group), self.group.latched()
            self._changed = True
        self._changed |= watch.evaluator.state != before

    # Once a period

    def _tick(self) -> bool:
        """Look after everything that no reading brings; False if there is nothing to guard."""
        if rules.mark(state.rules_path(self.group)) != self._mark and not self._load():
            return False
        self._look_at_latch()
        now = time.monotonic()
        for name, watch in list(self.watches.items()):
            reading = self.sources.look(watch, now)
            if reading is not None:
                self.take(name, reading)
        sdnotify.notify("WATCHDOG=1")
        if self._changed or now - self._written >= WRITE:
            self._write()
        return True

    def _look_at_latch(self) -> None:
        """A release, by whatever way: what had tripped waits until it was seen fine."""
        flag = latch.inode(self.group)
        another = None not in (flag, self._flag) and flag != self._flag
        if (
            another and self.group.latched()
        ):  # a member's flag is replaced by root's: the same incident
            known = (record.load(self.group.record) or {}).get("incident")
            another = known != latch.incident(self._flag)
        self._flag = flag
        before, self._latched = self._latched, self.group.latched()
        if self._latched and not another:
            return
        now = time.monotonic()
        for watch in self.watches.values():
            if watch.objects and watch.rule.mode == "enforce" and watch.evaluator.state != FINE:
                text = f"ESS GUARD: released although {watch.reason()}"
                self.actions.tell("guard-released", text, WARNING)
            self._changed |= watch.released(now)
            if before:
                watch.pardon(now)

    # Rules and state

    def _load(self) -> bool:
        """Read the rules if there are any, and begin to read what they are about."""
        path = state.rules_path(self.group)
        self._mark = rules.mark(path)
        try:
            found = rules.read(path)
        except (OSError, ValueError) as error:
            self.problem = f"{path}: {error}"
            self._mark = UNREAD  # once more with the next look
            return bool(self.rules.rules)
        if found is None or not found.rules:
            return False
        if not redisclient.Settings(found.redis).loadable():
            return False  # to be started again, with TLS
        self.problem = ""
        if found != self.rules:
            self._follow(found)
        return True

    def _follow(self, found: Rules) -> None:
        """Conditions that are as they were go on; the others begin anew."""
        old, same = self.watches, found.repeat == self.rules.repeat
        same_redis = redisclient.same_place(_place(found), _place(self.rules))
        self.watches = {}
        for rule in found.rules:
            before = old.get(rule.name)
            # What another Redis held says nothing of the values of this one.
            goes_on = same and (same_redis or not rule.on_redis)
            if before is None or before.rule != rule or not goes_on:
                self.watches[rule.name] = Watch(rule, found.repeat, before, same_redis)
            else:
                self.watches[rule.name] = before
        self._tell_given_up([state.condition(watch) for watch in old.values()], same_redis)
        self.rules, self._changed = found, True
        self.inbox = queue.SimpleQueue()  # what is on its way was read by other rules
        self.sources.follow(found, self.inbox.put)

    def _recall(self) -> None:
        """What the guard before this one knew and no reading tells."""
        known = state.read(self.group) or {"conditions": [], "stopped": True}
        if not known.get("stopped"):
            before = known.get("deaths")
            self._deaths = 1 + (before if isinstance(before, int) else 0)
            self.actions.tell("guard-died", "ESS GUARD HAD DIED and was started again", WARNING)
        now, place = time.monotonic(), _place(self.rules)
        written = str(known.get("place", place))  # one of an older version does not say it
        same_redis = redisclient.same_place(written, place)
        rows = [row for row in known["conditions"] if isinstance(row, dict)]
        for row in rows:
            watch = self.watches.get(str(row.get("name")))
            if watch is not None:
                watch.recall(row, now, max(0.0, known.get("age", 0.0)), same_redis)
        self._tell_given_up(rows, same_redis)
        latched = known.get("latched")
        if isinstance(latched, bool):  # a release meanwhile is seen with the first look
            self._latched = latched
        self.actions.last = known.get("last") if isinstance(known.get("last"), dict) else None

    def _tell_given_up(self, rows: list[state.State], same_redis: bool) -> None:
        """Which peaks no condition is measured from any more, of those that were so (rows)."""
        for row in rows:
            peak, name = row.get("extreme"), str(row.get("name"))
            watch = self.watches.get(name)
            now = state.condition(watch) if watch else {}
            if not isinstance(peak, int | float) or now.get("extreme") == peak:
                continue
            why = "" if same_redis else " in another Redis"
            text = (
                f"ESS GUARD: condition {name}: the peak {number(peak)} of {row.get('source')}{why}"
            )
            self.actions.tell("guard-anew", f"{text} is given up", WARNING)

    def _marker_renewed(self, done: str) -> None:
        event = "marker-pending" if done.startswith("NOT") else "marker-renewed"
        self.actions.tell(event, marker.news(done), NOTICE)

    def _write(self, stopped: bool = False) -> None:
        self._changed = False
        self._written = time.monotonic()
        try:
            state.write(self.group, self.snapshot(stopped))
        except OSError as error:  # /run is full: status will say that we are silent
            self.problem = f"{error.filename}: {error.strerror}"

    def snapshot(self, stopped: bool = False) -> dict[str, Any]:
        """What guard.json holds (docs/design.md)."""
        down = self.watches.get(DOWN)
        # Who dies before it has seen anything through guards nothing, however alive it looks.
        deaths = self._deaths if time.time() - self._started < LIVES else 0
        dying = f"it has died {deaths} times in a row: journalctl -u quantum-ess-guard"
        conditions = [
            {**state.condition(watch), "warned": watch.warned} for watch in self.watches.values()
        ]
        return {
            "version": state.VERSION,
            "pid": os.getpid(),
            "started": self._started,
            "time": time.time(),
            "boottime": state.boottime(),
            "watchdog": state.WATCHDOG,
            "stopped": stopped,
            "poll": self.rules.poll,
            "latched": self._latched,
            "place": _place(self.rules),
            "redis": self.sources.redis_state(bool(down and down.evaluator.state == BREACHED)),
            "conditions": conditions,
            "last": self.actions.last,
            "deaths": deaths,
            "problem": self.problem or (dying if deaths >= MANY else None),
        }

    def _end(self) -> None:
        sdnotify.notify("STOPPING=1")
        self.actions.tell("guard-stopped", "ESS GUARD STOPPED", NOTICE)
        self.actions.finish(5)
        self._write(stopped=True)
        self.sources.end()


def _place(found: Rules) -> str:
    """Which Redis these rules are about."""
    return redisclient.Settings(found.redis).place()
