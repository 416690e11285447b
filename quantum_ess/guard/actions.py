"""What the guard does when a condition is due: activate, warn, or say what it would have done."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from quantum_ess import account, activate, latch, record
from quantum_ess.group import Group
from quantum_ess.guard.evaluate import SHADOW, WARNED, Watch
from quantum_ess.trail import CRIT, NOTICE, Trail

WARNING = 4


class Clerk(threading.Thread):
    """Does one after another what may take long, and outlives whatever goes wrong with it.

    The account of a stop comes before everything else that waits.
    """

    def __init__(self) -> None:
        super().__init__(name="clerk", daemon=True)
        self._work: queue.PriorityQueue[tuple[bool, int, Callable[[], object]]]
        self._work = queue.PriorityQueue()
        self._numbers = itertools.count()

    def put(self, job: Callable[[], object], stop: bool = False) -> None:
        """Have it done; stop: it is the account of one."""
        self._work.put((not stop, next(self._numbers), job))

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            *_, job = self._work.get()
            try:
                job()
            except Exception as error:  # one entry is lost; the loop and the next job go on
                print(f"guard: {type(error).__name__}: {error}", flush=True)


class Actions:
    """The stop is made right here, by the controller's own code; the clerk writes about it."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.last: dict[str, Any] | None = None  # as guard.json has it
        self._clerk = Clerk()
        self._clerk.start()

    def act(self, watch: Watch, due: str) -> bool:
        """Do what is due ("breach" or "unknown") of a condition that may act; false if that is done
        already."""
        if not watch.acts(due):
            return self._warn(watch)
        if watch.rule.mode == "shadow":
            return self._would_activate(watch, due)
        # A release may have looked at the flag already: it gives way to one that is set again. If
        # it has taken the flag, this is an activation; the incident goes on if only the flag was
        # removed. In doubt: better one activation too many.
        latched, created = self.group.latched(unsure=False), False
        if latched:
            created = latch.shut(self.group).created
        ending = created and record.under_way(self.group)
        goes_on = latched and (not created or (os.path.lexists(self.group.record) and not ending))
        watch.trip(due, goes_on)
        reason = f"condition {watch.reason()}"
        if not latched or created:
            boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
            request = activate.Request("guard", reason, boottime if created else None)
            outcome = activate.activate(self.group, request)
            if not outcome.flag.held:  # nothing keeps it down: the next reading acts again
                watch.tripped = False
            self._clerk.put(lambda: account.settle(self.group, request, outcome), stop=True)
        self._done(watch, reason, "joined" if goes_on else "activated")
        if goes_on:
            text = f"ESS GUARD: active already when it came true: {reason}"
            self.tell("guard-joined", text, NOTICE, reason)
        return True

    def _would_activate(self, watch: Watch, due: str) -> bool:
        news, reason = not watch.tripped, f"condition {watch.reason()}"
        if news:
            watch.trip(due, self.group.latched(unsure=False))
            self._done(watch, reason, "would activate")
        if watch.tell(SHADOW, news):
            self.tell(SHADOW, f"ESS GUARD WOULD ACTIVATE: {reason}", WARNING, reason)
        return news

    def _warn(self, watch: Watch) -> bool:
        news, watch.warned = not watch.warned, True
        if watch.tell(WARNED, news):
            text = f"ESS GUARD WARNING: {watch.reason()}"
            self.tell(WARNED, text, WARNING, watch.reason())
        return news

    def _done(self, watch: Watch, reason: str, did: str) -> None:
        condition = watch.rule.name
        self.last = {"time": time.time(), "condition": condition, "reason": reason, "did": did}

    def tell(self, event: str, text: str, priority: int = CRIT, reason: str = "") -> None:
        """An entry of the trail, by the clerk: the disk and the lock may take their time.

        It belongs to the incident of now: by the time it is written there may be another.
        """
        latched = self.group.latched()

        def log() -> None:
            known = record.load(self.group.record) if latched and self.group.latched() else None
            about = {"trigger": "guard", "reason": reason}
            trail = Trail(self.group, str((known or {}).get("incident", "")), about)
            trail.log(event, text, priority=priority)

        self._clerk.put(log)

    def finish(self, seconds: float) -> None:
        """Wait until everything is written, at most so long."""
        finished = threading.Event()
        self._clerk.put(finished.set)
        finished.wait(seconds)


def preload() -> None:
    """Import now what an activation would import: not while trading goes on, and not from a disk
    that may be gone by then."""
    import json
    import uuid

    from quantum_ess import actor, release, systemd

    del json, uuid, actor, release, systemd
