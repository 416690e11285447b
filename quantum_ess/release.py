"""A release: open the latch and restart, one unit after another, what ran before.

An activation that arrives meanwhile wins: it sets the flag (again), and this looks for the flag
before every step. A unit that does not come up latches everything again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

from quantum_ess import (
    account,
    activate,
    actor,
    cgroup,
    history,
    latch,
    marker,
    outbox,
    record,
    refresh,
    stage,
)
from quantum_ess import plan as plans
from quantum_ess.errors import NotReleased
from quantum_ess.group import Group
from quantum_ess.plan import Plan
from quantum_ess.progress import Progress
from quantum_ess.systemd import LOST, PENDING, Manager, Refused, Unit, Unreachable, covered
from quantum_ess.trail import Trail, flush, short

UP = ("active", "reloading", "refreshing")  # systemd's UNIT_IS_ACTIVE_OR_RELOADING
NO_FLAG = (0, 0)  # libexec/quantum-ess
WANTED_BY = ("WantedBy", "RequiredBy")
QUIET = (".slice", ".scope")  # come and go with others
SKIPPED = "a condition of its own is not met"
ACCOUNT_SECONDS = 5.0  # for an activation's record and trail; usually a third of one


class Superseded(Exception):
    """An activation arrived; it owns the latch now."""


class Release:
    """One deactivation of one group. trigger: command or flag (its removal)."""

    def __init__(
        self,
        group: Group,
        trigger: str,
        reason: str,
        progress: Progress,
        only: tuple[int, int] | None = None,
    ) -> None:
        self.group = group
        self.trigger = trigger
        self.progress = progress
        self.say = progress.line
        self.plan: Plan = plans.read(group)
        self.mark = latch.mark(group.flag) if only is None else only
        if only == NO_FLAG:
            self.mark = None
        self.number = latch.inode(group)
        who = actor.current() if trigger == "command" else {}
        self.about: dict[str, Any] = {"trigger": trigger, "reason": reason, "actor": who}
        self.started: list[dict[str, object]] = []
        # By command the launcher has put away what was there before.
        self.asked = latch.asked_again(group) if trigger == "flag" else set()
        self.ran: set[str] = set()  # units that are known to have run
        self.early = False
        self.opened = False
        self._look()
        self.joined = self._joined()

    def _look(self) -> None:
        """Take in what is known of the incident."""
        known = record.load(self.group.record)
        # By flag the sentry's kill is a tenth of a second earlier than the record. The note of a
        # release is then one that gave way to it, and of the incident before.
        self.early = not known and (self.early or self.group.latched())
        self.record = known or ({} if self.early else record.load(self._under_way)) or {}
        number = latch.inode(self.group)
        self.incident = str(self.record.get("incident") or latch.incident(number))
        self.trail = Trail(self.group, self.incident, {**self.record, **self.about})

    @property
    def _under_way(self) -> str:
        return self.group.run + "/releasing"

    def run(self, start: bool) -> bool:
        """Release, and restart unless start is false; False if a removed flag was set again.

        Raises NotReleased: PID 1 does not answer, an activation won, or a unit failed to come up.
        """
        began = time.monotonic()
        for word in self.asked:
            with contextlib.suppress(OSError):
                os.unlink(word)
        try:
            try:
                notes = self._carry_out(start)
            except (Unreachable, Refused) as error:
                self._give_up(f"systemd: {error}")
            except OSError as error:
                self._give_up(f"{error.filename}: {error.strerror}")
        except Superseded:
            self.trail.log("release-superseded", "ESS DEACTIVATION GAVE WAY TO AN ACTIVATION")
            self._remember("release-superseded")
            if self.trigger == "flag":
                return False  # nobody waits for an answer, and no unit should fail for this
            raise NotReleased(
                "an activation arrived during the deactivation and won: ESS is ACTIVE",
                hint="see who and why: quantum-ess status",
            ) from None
        self._finish(began, notes)
        return True

    def _carry_out(self, start: bool) -> list[str]:
        """All of it, in order; notes on what is less than perfect."""
        with Manager(timeout=5.0, again=self._guard_if_open) as manager:
            self._await_account(manager)
            units = self._in_order(manager, self._to_start(manager)) if start else []
            with record.lock(self.group.lock, account.LOCK_SECONDS):
                flush(self.group)
            self.trail.log("release-initiated", "ESS DEACTIVATION INITIATED")
            self._open(manager, units)
            self.trail.log("unlatched", "ESS LATCH FLAG CLEARED")
            self._remember("unlatched", to_start=units)
            for unit in units:
                self._start(manager, unit)
            self._still_up(manager)
            self._guard()
        notes = self._clear_marker()
        self._guard()
        return notes

    def _await_account(self, manager: Manager) -> None:
        """Let the activation be put on record: to open the latch ends whoever is at it.

        Whoever did it may have been killed; then the watch does, at its next look.
        """
        by_flag = self.trigger == "flag"  # its removal is to be carried out within five seconds
        group, deadline = self.group, time.monotonic() + (1.0 if by_flag else ACCOUNT_SECONDS)
        asked = by_flag or self.mark is None or not account.struck(group)
        while stage.of(group, self.incident) != stage.COMPLETE and time.monotonic() < deadline:
            units = manager.units([group.trigger, group.watch])
            if not any(unit.job or unit.active == "activating" for unit in units):
                if asked:
                    break
                asked = True
                with contextlib.suppress(Refused):
                    manager.start(group.watch)
            self.progress.doing("waiting until the activation is on record")
            manager.wait(0.05)
        account.finish(group, self.incident)
        self._look()
        self._follow()

    def _follow(self) -> None:
        """Tell what the accounting has made of the flag from a new activation.

        It gives an empty one its time, one nanosecond beside (latch.fill), and puts a new one of
        the time on record in the place of a member's (account._renew).
        """
        now = latch.mark(self.group.flag)
        if not self.mark or not now:
            return
        self.joined = self._joined()
        filled = (self.mark[0], latch.filled(self.mark[1]))
        renewed = latch.renewed(self.group)
        if (now == filled and not self.joined) or (
            renewed and renewed[0] in (self.mark, filled) and now == renewed[1]
        ):
            self.mark = now

    def _joined(self) -> bool:
        """Whether an activation has found the noted flag set, ever."""
        return any(os.path.lexists(latch.joined_path(self.group, n)) for n in self._numbers())

    def _asked_again(self) -> set[str]:
        """What members of the stop group have left who found it set since this was begun."""
        return latch.asked_again(self.group) - self.asked

    def _set_for(self, word: str) -> None:
        """Set the flag again, for the member who left that."""
        flag = latch.shut(self.group)
        if flag.created and flag.inode is not None:
            with contextlib.suppress(OSError):
                # In one line, as libexec/strike has it: `halt` may read it.
                claim = {"trigger": "flag", "actor": {"uid": os.lstat(word).st_uid}}
                path = record.claim_path(self.group, flag.inode)
                record.write(path, json.dumps(claim).encode() + b"\n")

    def _numbers(self) -> set[int]:
        """The flag's, and the one that the incident is named after."""
        last = self.incident.rpartition("-")[2]
        return {n for n in (self.number, int(last) if last.isdecimal() else 0) if n}

    def _clear_marker(self) -> list[str]:
        result = account.Account()
        with record.lock(self.group.lock, account.LOCK_SECONDS):
            if not self.group.latched():  # else the marker is the activation's
                with contextlib.suppress(OSError):
                    marker.want(self.group, None, time.time(), self.incident, "")
                account.tell_redis(self.trail, self.plan, result)
        return result.notes

    def _finish(self, began: float, notes: list[str]) -> None:
        """It is over: what fails from here on is a note, and undoes nothing."""
        usec = int(1e6 * (time.monotonic() - began))
        self.trail.log("released", "ESS DEACTIVATION COMPLETE", duration_usec=usec)
        host = os.uname().nodename
        notes += self._remember("released", release_ms=usec // 1000, host=host)
        notes += self._announce("deactivate")
        for _ in range(2):  # while it is there, this release counts as interrupted
            with contextlib.suppress(OSError):
                record.remove(self._under_way)
        notes += [f"audit entry lost: {why}" for why in self.trail.lost]
        with contextlib.suppress(OSError):
            for number in self._numbers():
                record.remove(record.claim_path(self.group, number))
                record.remove(latch.joined_path(self.group, number))
        refresh.metrics()
        for note in notes:
            self.say(f"note: {note}")

    def _remember(self, event: str, **facts: object) -> list[str]:
        """Add a record to the history; what went wrong with it."""
        result = account.Account()
        result.incident = self.incident
        history.fold(self.group, quiet=0)
        account.remember(
            self.group, result, event, {**self.about, "started": self.started, **facts}
        )
        return result.notes + result.problems

    def _announce(self, transition: str, **facts: object) -> list[str]:
        """Have hooks and notifications done; what went wrong with that."""
        units = [str(row["unit"]) for row in self.started]
        who = actor.describe(self.about["actor"])
        job = {"incident": self.incident, **self.about, "actor": who, "units": units, **facts}
        return outbox.announce(self.group, transition, job)

    def _to_start(self, manager: Manager) -> list[str]:
        what = self.plan.options.get("resume.what", "running")
        if what == "none":
            return []
        note = record.load(self._under_way) or {}
        if self.trigger == "flag" and note.get("incident") == self.incident and "running" in note:
            self.ran.update(note.get("ran", ()))
            return list(note["running"])  # of a command that was broken off: it knew what to start
        if what == "running" and "running" in self.record:
            listed = list(self.record["running"])
            self.ran.update(self.record.get("ran", listed))
            if not self.record.get("unsure"):
                return listed
            self.say("note: systemd had not said what else ran; starting the enabled units too")
            return list(dict.fromkeys((*listed, *_enabled(manager, self.plan))))
        if what == "running" and self.early:
            ran = account.ran(self.group)
            if ran is not None:
                self.ran.update(ran[1])
                return ran[0]
            if "running" in note:
                self.ran.update(note.get("ran", ()))
                self.say("note: what ran before is not on record; starting what was to be started")
                return list(note["running"])
        if what == "running":
            self.say("note: what ran before is not on record; starting the enabled units")
        return _enabled(manager, self.plan)

    def _in_order(self, manager: Manager, units: list[str]) -> list[str]:
        """In the order of the configuration in force, but a socket before what it starts.

        A unit that can't be started is found here, with the latch still shut. Raises NotReleased.
        """
        ready = []
        slices = any(entry.name.endswith(".slice") for entry in self.plan.protect)
        for name in sorted(units, key=lambda name: (self.plan.position(name), name)):
            state = "loaded" if name.endswith(".scope") else _load_state(manager, name)
            if state == "not-found" and not (slices or self.plan.match(name)):
                self.say(f"note: {name} is neither there nor protected any more: not started")
                continue
            if state != "loaded":
                self._give_up(f"{short(name)} can't be started: {state}", name)
            real = name if name.endswith(".scope") else _id(manager, name)
            if real not in ready:
                ready.append(real)
        for socket in [name for name in ready if name.endswith(".socket")]:
            # Once its service runs PID 1 refuses to open it (systemd.socket(5)).
            services = manager.get(manager.load(socket), "Unit", "Triggers")
            here = ready.index(socket)
            place = min([here, *(ready.index(name) for name in services if name in ready)])
            ready.insert(place, ready.pop(here))
        return ready

    def _open(self, manager: Manager, units: list[str]) -> None:
        """Open the latch: flag first, then record, then the units that PID 1 holds it with."""
        with record.lock(self.group.lock, account.LOCK_SECONDS):
            # From here on whoever finds the latch open can tell that it is this release's doing.
            before = record.load(self._under_way)
            number = latch.inode(self.group)
            mine = {"pid": os.getpid()}
            about = {**self.record, "incident": self.incident, "running": units}
            about["ran"] = sorted(self.ran)
            record.store(self._under_way, {**about, **mine})
            again = self._joined() > self.joined or self._asked_again()
            if again or not latch.open_flag(self.group, self.mark):
                with contextlib.suppress(OSError):
                    if before:  # another was broken off: what it had to start is still to be known
                        record.store(self._under_way, {**before, **mine})
                    else:
                        record.remove(self._under_way)
                raise Superseded
            # Whoever still accounts for this incident finds here that it is over.
            over = {**self.record, "incident": self.incident, "release": self.about}
            if number is not None:  # restored at a boot, or renewed, it has another than the id's
                over["flag"] = latch.incident(number)
            record.store(self.group.released, over)
            record.remove(self.group.record)
            self.opened = True
            record.sync_directory(self.group.state)
            group = self.group
            notes = (group.began, group.seen, group.restored, group.withdrawn, group.renewed)
            for note in (*notes, group.marker_told):  # without the last the watch asks Redis
                with contextlib.suppress(OSError):
                    record.remove(note)
        if words := self._asked_again():  # in this very moment: it has found the flag set
            self._set_for(min(words))
        self._guard()
        held = list(self.group.holders)
        for unit in held:
            with contextlib.suppress(Refused):
                manager.stop(unit, "replace")  # the path unit may want it again in a moment
        if left := self._wait_at_rest(manager, held, 5.0):
            raise Unreachable(f"{' and '.join(left)} did not end")
        # The watch may be in the middle of a kill; it sees the open latch before the next one.
        self._wait_at_rest(manager, [self.group.watch], 1.0)

    def _wait_at_rest(self, manager: Manager, units: list[str], seconds: float) -> list[str]:
        """Wait until those units are at rest; returns the ones that are not when time is up."""
        deadline = time.monotonic() + seconds
        while True:
            self._guard()
            states = {unit.name: unit.at_rest for unit in manager.units(units)}
            units = [name for name in units if not states.get(name, True)]
            if not units or time.monotonic() > deadline:
                return units
            manager.wait(0.01)

    def _guard_if_open(self) -> None:
        if self.opened:
            self._guard()

    def _guard(self) -> None:
        if self.group.latched():
            raise Superseded

    def _start(self, manager: Manager, name: str) -> None:
        """Start one unit and wait until it is up and has stayed up for the settle time."""
        self._guard()
        self.progress.doing(f"starting {short(name)}")
        began = time.monotonic()
        if name.endswith(".scope"):
            self.say(f"note: {name} can't be restarted: a scope belongs to who made it")
            return
        try:
            with contextlib.suppress(Refused):
                manager.reset_failed(name)
            if _row(manager, name).at_rest:
                cgroup.clear(self.plan, name)
            if name.endswith(".target") and name in self.ran:
                job = self._start_target(manager, name)
            else:
                job = manager.start(name)
            problem = self._wait_up(manager, name, began, job)
        except Refused as error:
            problem = str(error)
        self._guard()
        if problem == SKIPPED:
            self.say(f"note: {short(name)} was not started: {SKIPPED}")
            return
        if problem:
            self._yield_to_activation(manager)
            self._give_up(f"{short(name)} did not come up: {problem}", name)
        usec = int(1e6 * (time.monotonic() - began))
        self.trail.log(
            "started", f"ESS STARTED SERVICE: {short(name)}", unit=name, duration_usec=usec
        )
        self.started.append({"time": history.now(), "unit": name, "ms": usec // 1000})
        self.say(f"started {short(name)} ({usec / 1e6:.2f} s)")

    def _start_target(self, manager: Manager, name: str) -> str:
        """One that ran, without the protected units that it wants: those that ran are started by
        themselves, in their order. What else it wants it takes with it.
        """
        path = manager.load(name)
        wants = (*manager.get(path, "Unit", "Wants"), *manager.get(path, "Unit", "Requires"))
        protected = {unit.name for unit in covered(manager, self.plan)}
        job = manager.start(name, "ignore-dependencies")
        for wanted in wants:
            if not (wanted in protected or self.plan.match(wanted) or wanted.endswith(QUIET)):
                with contextlib.suppress(Refused):
                    manager.start(wanted)
        return job

    def _still_up(self, manager: Manager) -> None:
        """Look once more at what was started first: it may have ended while others took their time.

        And tell what has come up beside it, because one of them wants it. Raises NotReleased.
        """
        started = [str(row["unit"]) for row in self.started]
        for name in started:
            unit = _row(manager, name)
            if not unit.at_rest or _finished(manager, unit):
                continue
            why = f"{short(name)} came up and has ended since: {_result(manager, unit)}"
            if unit.active == "failed":
                self._yield_to_activation(manager)
                self._give_up(why, name)
            self._guard()
            self.say(f"note: {why}")
        for unit in covered(manager, self.plan):
            if unit.active in UP and unit.name not in started and not unit.name.endswith(QUIET):
                self.say(f"note: {short(unit.name)} runs too: something that was started wants it")

    def _yield_to_activation(self, manager: Manager) -> None:
        """Before a unit is blamed: is somebody stopping it whose flag we do not see yet?

        Starting the activation unit stops the units by halt.target at once and sets the flag a
        moment later. Raises Superseded.
        """
        stopping = [self.group.halt, self.group.trigger, self.group.activation]
        self._wait_at_rest(manager, stopping, 2.0)

    def _wait_up(self, manager: Manager, name: str, began: float, job: str) -> str:
        """Why the unit is not up and settled, "" if it is. began, job: of its start."""
        deadline = began + self.plan.duration("resume.timeout_ms", 60000)
        settle = self.plan.duration("resume.settle_ms", 500)
        up_since, invocation = 0.0, None
        while True:
            self._guard()
            unit = _row(manager, name)
            now, pause = time.monotonic(), 0.02
            if unit.active in UP:
                current = manager.get(unit.path, "Unit", "InvocationID")
                if invocation is None:
                    up_since, invocation = now, current
                elif current != invocation:
                    return "it restarted while it settled"
                if now - up_since >= settle:
                    return ""
                pause = min(up_since + settle - now, 0.1)  # any change of state ends it
            elif unit.at_rest and (why := _unbegun(manager, unit, began, job)):
                return why
            elif unit.at_rest and _finished(manager, unit):
                return ""
            elif invocation is not None or unit.at_rest or unit.sub == "auto-restart":
                return f"{unit.active} ({unit.sub}), {_result(manager, unit)}"
            if now >= deadline:
                return f"still {unit.active} ({unit.sub}) after {now - began:.0f} s"
            manager.wait(pause)

    def _give_up(self, why: str, unit: str = "") -> NoReturn:
        """Latch everything again and say why. Raises NotReleased; Superseded, if it is latched."""
        # What runs by now is not to wait for its stop until a neighbour has done with Redis.
        with record.lock(self.group.lock, 0.2), contextlib.suppress(OSError):
            if self.opened:
                self._guard()  # else a stop that is not this incident's would get its record
            if not os.path.lexists(self.group.record) and self.record:
                record.store(self.group.record, self.record)
        request = activate.Request("resume", why)
        if not self.opened and os.path.lexists(self.group.flag):
            request = activate.Request("flag")  # somebody else's, who may not be on record yet
        outcome = activate.activate(self.group, request)
        account.settle(self.group, request, outcome)
        self.trail.log("release-failed", f"ESS DEACTIVATION FAILED: {why}", unit=unit)
        self._remember("release-failed", why=why, unit=unit, living=outcome.living or None)
        self._announce("fail", why=why, living=outcome.living)
        with contextlib.suppress(OSError):
            record.remove(self._under_way)
        living = f"; STILL ALIVE: {' '.join(outcome.living)}" if outcome.living else ""
        raise NotReleased(
            f"{why}; everything is stopped and latched again{living}",
            hint=f"mend it, then: quantum-ess deactivate"
            f"{f' (journalctl -u {unit})' if unit else ''}, or: quantum-ess deactivate --no-start",
        )


def _withdrawn(group: Group, flag: tuple[int, int]) -> bool:
    """True if that flag was removed by somebody who may release."""
    return latch.withdrawn(group, flag) and not latch.shared(group)


def _row(manager: Manager, name: str) -> Unit:
    """The unit's state. Raises Refused if systemd does not know it."""
    rows = [unit for unit in manager.units([name]) if unit.name == name]
    if rows:
        return rows[0]
    path = manager.load(name)
    read: Callable[[str], Any] = lambda key: manager.get(path, "Unit", key)  # noqa: E731
    job = int(read("Job")[0])
    return Unit(name, read("LoadState"), read("ActiveState"), read("SubState"), path, job)


def _load_state(manager: Manager, name: str) -> str:
    """LoadState= of a unit, or what keeps it from being started."""
    try:
        path = manager.load(name)
        if manager.get(path, "Unit", "RefuseManualStart"):
            return "it has RefuseManualStart=yes"
        return str(manager.get(path, "Unit", "LoadState"))
    except Refused as error:
        return str(error)


def _id(manager: Manager, name: str) -> str:
    """The unit's own name; the one that it was asked for by may be an alias."""
    return str(manager.get(manager.load(name), "Unit", "Id"))


def _finished(manager: Manager, unit: Unit) -> bool:
    """True for a oneshot that ran and is done: it has no other way to be up."""
    if not _oneshot(manager, unit) or manager.get(unit.path, "Service", "RemainAfterExit"):
        return False
    return _result(manager, unit) == "success" and unit.load == "loaded"


def _oneshot(manager: Manager, unit: Unit) -> bool:
    service = unit.name.endswith(".service")
    return service and manager.get(unit.path, "Service", "Type") == "oneshot"


def _unbegun(manager: Manager, unit: Unit, began: float, job: str) -> str:
    """Why PID 1 did not begin a unit that was to start since `began`, by that job; "" if it did.

    SKIPPED, which to PID 1 is a success, for a oneshot that has nothing to do: one for a first
    boot, say. What nothing refers to PID 1 forgets at once: then the job's result alone is known.
    """
    read: Callable[[str], Any] = lambda key: manager.get(unit.path, "Unit", key)  # noqa: E731
    ended = manager.ended.get(job, PENDING)
    if read("ConditionTimestampMonotonic") >= 1e6 * began and not read("ConditionResult"):
        return SKIPPED if _oneshot(manager, unit) else f"it was never begun: {SKIPPED}"
    if ended == "done" or unit.active == "failed":
        return ""
    rested = read("InactiveEnterTimestampMonotonic")  # it may have been begun before, for another
    if ended in (PENDING, LOST) and (rested >= 1e6 * began or (ended == LOST and not rested)):
        return ""  # not heard of; or forgotten as well, which what was not begun would not be
    return f"its start came to nothing: {ended or 'PID 1 did not say why'}"


def _result(manager: Manager, unit: Unit) -> str:
    if unit.load != "loaded":
        return f"unit {unit.load}"
    if not unit.name.endswith(".service"):
        return "not started"
    return str(manager.get(unit.path, "Service", "Result"))


def _enabled(manager: Manager, plan: Plan) -> list[str]:
    """Protected units that are enabled, in the order of restart; of patterns, slices the loaded."""
    literal = [entry.name for entry in plan.protect if not plans.is_pattern(entry.name)]
    names = {*filter(plan.match, literal), *(unit.name for unit in covered(manager, plan))}
    enabled = [name for name in names if _is_enabled(manager, name)]
    return sorted(enabled, key=lambda name: (plan.position(name), name))


def _is_enabled(manager: Manager, name: str) -> bool:
    try:
        path = manager.load(name)
        state = str(manager.get(path, "Unit", "UnitFileState"))
        # One that a generator makes is enabled by it, implicitly (systemctl(1)).
        wanted = [manager.get(path, "Unit", by) for by in WANTED_BY if state == "generated"]
    except Refused:
        return False
    return state.startswith("enabled") or any(wanted)


def deactivate(
    group: Group,
    trigger: str,
    reason: str,
    start: bool,
    progress: Progress,
    only: tuple[int, int] | None = None,
) -> bool:
    """Release that group; False if there was nothing to release. Raises NotReleased.

    only: the one setting of the flag (latch.mark) that is to be released, and none that came since;
    NO_FLAG if there was no flag.
    """
    lock = group.run + "/release.lock"
    with record.lock(lock, 0.0) as locked:
        if not locked and not record.lockable(lock):
            raise NotReleased(f"{lock} can't be made: nothing was released", hint=record.ROOM)
        if not locked and trigger == "flag":
            return False  # it is being released already
        if not locked:
            raise NotReleased(
                "another deactivation is running", hint="watch it: journalctl -ft quantum-ess"
            )
        interrupted = os.path.lexists(group.run + "/releasing")
        if not group.latched() and not interrupted:
            return False
        if trigger == "flag" and os.path.lexists(group.record) and not os.path.lexists(group.seen):
            return (
                False  # an activation has latched by the record alone: there was no flag to remove
            )
        release = Release(group, trigger, reason, progress, only)
        if trigger == "flag" and release.mark and not _withdrawn(group, release.mark):
            with contextlib.suppress(OSError):
                record.remove(group.withdrawn)  # it is of a flag that an activation took over
            return False  # it was set again before we came to it
        return release.run(start)
