"""The end-to-end proof of the operations card, on the real protected units: it stops trading.

Every method to stop and both to resume, judged by what the kernel, systemd, the journal and Redis
say and not by what the product says of itself. What ran before runs again afterwards, also when the
proof is interrupted; but an emergency that somebody else declares meanwhile is left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from quantum_ess import (
    __version__,
    activate,
    actor,
    gate,
    incidents,
    latch,
    marker,
    observe,
    record,
    stage,
)
from quantum_ess import plan as plans
from quantum_ess.errors import Failed
from quantum_ess.evidence import Evidence
from quantum_ess.group import TRADING
from quantum_ess.interrupt import Interruption, interruptible
from quantum_ess.process import Process, run, says
from quantum_ess.status import WATCHERS
from quantum_ess.systemd import Manager, Refused, Unreachable
from quantum_ess.trail import Trail, short

HEADER = f"{'=' * 60}\nESS (EMERGENCY STOP SYSTEM) - E2E PROOF\n{'=' * 60}"
PASSED = "PASS: All ESS components verified"
COMMAND = "/usr/bin/quantum-ess"
TOUCHED = "/var/run/quantum/ESS_ON"  # as the operations card has it
WHY = "quantum-ess proof"
REASON = f"--reason={WHY}"
PATIENCE = 10.0  # seconds for anything that has no limit of its own
LONGEST = 40.0  # seconds; more than an activation may take, also as a unit
PICKED_UP = 5.0  # seconds until the flag's removal is noticed (operations card)
# Nanoseconds by which an activation that finds the flag set makes its time later (latch._join), as
# the unit does with its own. A touch(1) makes it the present.
AGAIN = 500_000
CALM = 1.0  # seconds for which nothing may come back
PULLED = ("RequiredBy", "WantedBy", "BoundBy")
EVENTS = ("initiated", "latched", "complete")


class Overtaken(Exception):
    """Somebody else has activated ESS, or a release has failed: it must stay active."""


class Way(NamedTuple):
    """A method to stop, and the one to resume that is tried with it."""

    name: str
    title: str
    command: tuple[str, ...]
    by_flag: bool = False


WAYS = (
    Way("command", "quantum-ess activate", (COMMAND, "activate", REASON)),
    Way("flag", f"touch {TOUCHED}", ("touch", TOUCHED), by_flag=True),
    Way("unit", "systemctl start quantum-ess.service", ("systemctl", "start", TRADING.activation)),
)


class Proof:
    """One proof. ran: the units to be found running afterwards, in the order of restart."""

    def __init__(self, evidence: Evidence, manager: Manager) -> None:
        self.evidence = evidence
        self.manager = manager
        self.plan = plans.read(TRADING)
        self.names = [entry.name for entry in self.plan.protect]
        self.ran = self._running()
        self.stops: list[tuple[str, str, float]] = []  # unit, way, seconds
        self._mark: tuple[int, int] | None = None  # of the flag, if it is ours
        self._overtaken = False
        self._interruption = Interruption()

    def run(self, interruption: Interruption) -> None:
        """All steps. Raises Overtaken, Unreachable, OSError, KeyboardInterrupt."""
        self._interruption = interruption
        kept_before = observe.identities(self.manager, self.plan.keep)
        self.evidence.begin("The host before")
        self._watchers()
        self._gates()
        for way in WAYS:
            self.evidence.begin(f"Stop: {way.title}")
            with interruption.deferred():  # else nobody could tell whose the flag is
                trigger, found = self._pull(way)
            stopped = self._judge_stop(way, trigger, found)
            self.evidence.begin(f"Resume: {'rm ' + TOUCHED if way.by_flag else 'deactivate'}")
            if not (self._resume(way) and stopped):
                return  # what can't be stopped, or does not come back, is not to be stopped again
        self.evidence.begin("Nothing else")
        kept = observe.identities(self.manager, self.plan.keep)
        changed = [unit for unit, identity in kept_before.items() if kept.get(unit) != identity]
        measured = " ".join(changed) or f"{len(kept_before)} run, the same main PIDs"
        self.evidence.check("kept units untouched", "same main PIDs", measured, not changed)

    # The host before

    def _running(self) -> list[str]:
        alive = observe.populated(self.plan)
        rows = self.manager.units(self.names)
        active = {u.name for u in rows if u.active in ("active", "reloading")}
        other = {u.name for u in rows if u.active == "activating"}  # a oneshot at its work, say
        found = {unit for unit in {*alive, *active} - other if self.plan.match(unit)}
        found = {unit for unit in found if not unit.endswith(".scope")}  # nobody starts those again
        return sorted(found, key=lambda unit: (self.plan.position(unit), unit))

    def _watchers(self) -> None:
        states = {unit.name: unit.active for unit in self.manager.units(list(WATCHERS))}
        dead = [name for name in WATCHERS if states.get(name) != "active"]
        measured = f"not active: {' '.join(dead)}" if dead else "all active"
        self.evidence.check("watchers", " ".join(WATCHERS), measured, not dead)

    def _gates(self) -> None:
        """Both halves of the gate, read back from systemd (a later drop-in may have undone it)."""
        open_ = []
        for unit in self.ran:
            path = self.manager.load(unit)
            known: dict[str, Any] = {}
            for kind in ("Unit", unit.rpartition(".")[2].capitalize()):
                known |= self.manager.get_all(path, kind)
            if halves := gate.missing(known, unit):
                open_.append(f"{unit} ({' and '.join(halves)})")
        measured = f"MISSING: {' '.join(open_)}" if open_ else f"{len(self.ran)} units have it"
        self.evidence.check("gate", "on every protected unit", measured, not open_)

    # Stop

    def _pull(self, way: Way) -> tuple[Process, observe.Deaths]:
        """One stop, until all of it is on record, and whether it is ours alone.

        Raises Overtaken: there is one already.
        """
        self._not_overtaken()
        self.evidence.progress.doing("stopping")
        alive = observe.populated(self.plan)
        with Process(*way.command) as trigger:
            noted = False

            def note() -> None:
                # touch(1) makes the file first and sets its time then; the unit writes to its own.
                nonlocal noted
                ended = trigger.ended
                if noted or (way.by_flag and not ended):
                    return
                with suppress(FileNotFoundError):
                    whole = os.lstat(TRADING.flag).st_size > 0 or way.name == "command"
                    self._mark = latch.mark(TRADING.flag) or self._mark
                    noted = ended or whole

            found = observe.deaths(self.plan, alive, activate.LIMIT + 1, note)
            trigger.wait(LONGEST, note)
            note()
        self._settle()
        known = record.load(TRADING.record) or {}
        self._mark = self._mark or latch.mark(TRADING.flag)
        later = AGAIN if way.name == "unit" else 0
        # Giving the flag its content changes its time for a moment.
        _wait(lambda: self._as_noted(latch.mark(TRADING.flag), later), 0.5)
        mark = latch.mark(TRADING.flag)  # first: what comes while we look at the rest is seen later
        why = WHY if way.name == "command" else ""
        ours = (known.get("trigger", way.name), known.get("reason", why)) == (way.name, why)
        self._overtaken = not (self._as_noted(mark, later) and ours and not self._joined())
        self._mark = mark
        return trigger, found

    def _as_noted(self, mark: tuple[int, int] | None, later: int) -> bool:
        """Whether nobody has marked the flag since: that makes its time a later one.

        later: nanoseconds by which it may be, by our own doing.
        """
        noted = self._mark
        if mark is None or noted is None:
            return mark is noted
        return mark[0] == noted[0] and mark[1] <= noted[1] + later

    def _joined(self) -> bool:
        """Whether somebody else has activated since the flag was set, as the history has it."""
        incident = (record.load(TRADING.record) or {}).get("incident")
        if incident is None:
            return False
        entries = [i.entries for i in incidents.load(TRADING, []) if i.id == incident]
        again = [e for known in entries for e in known if e["event"] == "repeated"]
        return any(entry.get("reason") != WHY for entry in again)

    def _judge_stop(self, way: Way, trigger: Process, found: observe.Deaths) -> bool:
        """All that is to be seen of a stop; False if something is still alive."""
        say = self.evidence
        seconds = found.last(trigger.began)
        for unit in self.ran:
            at = found.at.get(unit, trigger.began)
            self.stops.append((short(unit), way.name, at - trigger.began))
            say.mark(short(unit), way.name, at, kind="death")
        say.mark("ESS", way.name, trigger.began, trigger.began + max(seconds, 0.001), "stop")
        measured = f"{1000 * seconds:.0f} ms, {len(self.ran)} units"
        if found.living:
            measured = f"STILL ALIVE: {' '.join(found.living)}"
        ok = not found.living and seconds <= activate.LIMIT
        say.check("stopped", f"every process dead within {activate.LIMIT:g} s", measured, ok)
        say.check("exit status", "0", _status(trigger), trigger.status == 0)
        self._not_overtaken()
        if way.by_flag:
            self._path_unit(trigger.began)
        self._latch()
        self._refused()
        self._trail()
        self._redis(active=True)
        return not found.living

    def _path_unit(self, began: float) -> None:
        """That PID 1 has seen the flag by itself, and not only the sentry or the timer."""
        path = self.manager.load(TRADING.trigger)
        entered = self.manager.get(path, "Unit", "InactiveExitTimestampMonotonic") / 1e6
        seconds = entered - began
        started = seconds >= -0.1
        measured = f"after {1000 * max(seconds, 0):.0f} ms" if started else "never"
        ok = started and seconds <= activate.LIMIT
        self.evidence.check(
            "path unit", f"starts the trigger within {activate.LIMIT:g} s", measured, ok
        )

    def _settle(self) -> None:
        """Wait until the activation's own bookkeeping is done."""
        self.evidence.progress.doing("record and trail")
        busy = [TRADING.trigger, TRADING.activation]

        def done() -> bool:
            rows = self.manager.units(busy)
            still = any(u.job or u.active == "activating" for u in rows)
            incident = str((record.load(TRADING.record) or {}).get("incident", ""))
            return not still and stage.of(TRADING, incident) == stage.COMPLETE

        _wait(done, PATIENCE)

    def _latch(self) -> None:
        """Flag, record, status; nothing comes back."""
        say = self.evidence
        said = run(COMMAND, "status").out.splitlines() or [""]
        both = os.path.lexists(TRADING.flag) and os.path.lexists(TRADING.record)
        measured = f"{'flag and record' if both else 'NOT both flag and record'}, {said[0]!r}"
        say.check(
            "latched", "flag, record, status", measured, both and said[0] == "ESS Status: ACTIVE"
        )
        say.progress.doing("watching that nothing comes back")
        alive = observe.hold(self.plan, CALM, lambda: None)
        measured = f"ALIVE AGAIN: {' '.join(alive)}" if alive else f"nothing, for {CALM:g} s"
        say.check("no restart", "nothing comes back", measured, not alive)

    def _refused(self) -> None:
        self.evidence.progress.doing("trying to start what is held")
        asked = observe.ask_to_start(self.ran)
        self.evidence.check("start refused", "systemctl start fails", asked.text, asked.refused)
        if asked.started:
            self._not_overtaken()
            with self._interruption.deferred():
                run(COMMAND, "activate", REASON)
                mark = latch.mark(TRADING.flag)
                self._overtaken = not self._as_noted(mark, AGAIN) or self._joined()
                self._mark = mark

    def _trail(self) -> None:
        incident = str((record.load(TRADING.record) or {}).get("incident", ""))
        missing = {*EVENTS, *(f"stopped {short(unit)}" for unit in self.ran)}
        told: list[str] = []

        def whole() -> bool:
            for entry in observe.entries(TRADING.prefix, incident):
                told.append(entry["ESS_EVENT"])
                unit = short(entry.get("ESS_UNIT", ""))
                missing.discard(f"{entry['ESS_EVENT']} {unit}".strip())
                missing.discard(entry["ESS_EVENT"])
            return not missing

        self.evidence.progress.doing("reading the journal")
        ok = bool(incident) and _wait(whole, 5.0)
        measured = f"MISSING: {', '.join(sorted(missing))}" if missing else f"incident {incident}"
        self.evidence.check("audit lines", "the whole trail in the journal", measured, ok)

    def _redis(self, active: bool) -> None:
        """The marker; that Redis is down, or not used, is no failure of the stop."""
        what = "Redis marker set" if active else "Redis marker cleared"
        wanted = "the time of the activation" if active else "no key"
        value: str | None = None
        problem: str | None = "not used ([redis] enabled = no)"
        right = False

        def look() -> bool:
            nonlocal value, problem, right
            value, problem = marker.look(self.plan)
            since = (record.load(TRADING.record) or {}).get("since")
            right = not problem and (value == since if active else value is None)
            return right

        if self.plan.options.get("redis.enabled", "yes") == "yes":
            _wait(look, 2.0)
        if problem:
            self.evidence.check(what, wanted, f"not shown: {problem}", None)
            return
        measured = f"{marker.KEY} = {value}" if value else f"{marker.KEY} is absent"
        self.evidence.check(what, wanted, measured, right)

    # Resume

    def _resume(self, way: Way) -> bool:
        """One release and all that is to be seen of it; False if something does not run again."""
        say = self.evidence
        say.progress.doing("restarting, one after another")
        self._not_overtaken()
        began = time.monotonic()
        if way.by_flag:
            with self._interruption.deferred():
                os.unlink(TRADING.flag)
                self._mark = None
            under_way = _wait(lambda: not TRADING.latched(), PICKED_UP + PATIENCE)
            seconds = time.monotonic() - began
            ok = under_way and seconds <= PICKED_UP
            say.check("removal noticed", f"within {PICKED_UP:g} s", f"{seconds:.2f} s", ok)
            self._await_release()
        else:
            done = self._deactivate()
            self._mark = None
            say.check("exit status", "0", _status(done), done.status == 0)
        all_run = self._judge_restart(began)
        self._redis(active=False)
        return all_run

    def _judge_restart(self, began: float) -> bool:
        say = self.evidence
        say.mark("ESS", "resume", began, time.monotonic(), "release")
        missing = [unit for unit in self.ran if unit not in self._running()]
        entered = {unit: self._entered(unit) for unit in self.ran if unit not in missing}
        for unit, at in entered.items():
            say.mark(short(unit), "runs again", at, kind="up")
        early = self._early(entered)
        measured = f"{len(self.ran)} units run, {time.monotonic() - began:.2f} s"
        if missing:
            measured = f"DO NOT RUN: {' '.join(missing)}"
        elif early:
            measured = f"run, but were not started in order: {' '.join(early)}"
        what = self.plan.options.get("resume.what", "running")
        if what != "running" and missing:
            say.check("restart", f"[resume] what = {what}", measured, None)
            self._start(missing)
        else:
            say.check(
                "restart", "what ran runs again, in order", measured, not missing and not early
            )
        return set(self.ran) <= set(self._running())

    def _early(self, entered: dict[str, float]) -> list[str]:
        """Units that were up before one that comes before them, by the release's own doing."""
        latest, early = 0.0, []
        for unit, at in entered.items():
            if at < latest and not self._by_itself(unit):
                early.append(unit)
            latest = max(latest, at)
        return early

    def _by_itself(self, unit: str) -> bool:
        """Whether PID 1 may start it before its turn, with another one or for one.

        A target does not count: it stays active under the latch, and nothing starts it again.
        """
        if not unit.endswith(".service"):
            return True  # a release opens a socket before its service, a slice comes with any
        known = self.manager.get_all(self.manager.load(unit), "Unit")
        pullers = [name for key in PULLED for name in known.get(key, [])]
        started = any(known.get(key) for key in ("TriggeredBy", "UpheldBy"))
        return started or not all(name.endswith(".target") for name in pullers)

    def _entered(self, unit: str) -> float:
        stamp = self.manager.get(self.manager.load(unit), "Unit", "ActiveEnterTimestampMonotonic")
        return float(stamp) / 1e6

    # Afterwards

    def restore(self) -> None:
        """Have what ran run again. An emergency of somebody else's stays."""
        try:
            # A flag that has gone is being released; a release that was killed goes on by itself.
            _wait(lambda: os.path.lexists(TRADING.flag) or not TRADING.latched(), 2 * PICKED_UP)
            self._await_release()
            if not TRADING.latched():
                self._mark = None
            if TRADING.latched() or os.path.lexists(TRADING.run + "/releasing"):
                with suppress(Overtaken):
                    self._not_overtaken()
                    self._deactivate()
                self._await_release()
            with Manager.lasting() as self.manager:  # the one before may be what has failed
                self._start_missing()
        except (Unreachable, Refused) as error:
            self.evidence.check("left as found", "what ran runs", f"systemd: {error}", False)
        if self._overtaken:
            measured = "activated by somebody else, or a release failed: ESS stays ACTIVE"
            if not TRADING.latched():
                measured = "somebody else has released ESS meanwhile"
            self.evidence.check("left as found", "nobody else does anything", measured, False)

    def _start_missing(self) -> None:
        missing = [unit for unit in self.ran if unit not in self._running()]
        if missing and not TRADING.latched() and not self._overtaken:
            self._start(missing)
        left = [unit for unit in self.ran if unit not in self._running()]
        if left:
            measured = f"DO NOT RUN: {' '.join(left)}"
            self.evidence.check("left as found", "what ran runs", measured, False)

    def _start(self, units: list[str]) -> None:
        for unit in units:
            with suppress(Refused):
                self.manager.start(unit)
        _wait(lambda: set(units) <= set(self._running()), PATIENCE)

    def _deactivate(self) -> Process:
        """Release what we have set, and nothing that somebody else has set since."""
        ours = ("--only", *map(str, self._mark)) if self._mark else ()
        return run(COMMAND, "deactivate", REASON, *ours, seconds=self._release_takes())

    def _release_takes(self) -> float:
        """Seconds that a release may take, as it is configured."""
        plan = self.plan
        each = plan.duration("resume.timeout_ms", 60000) + plan.duration("resume.settle_ms", 500)
        return each * len(self.ran) + PATIENCE

    def _await_release(self) -> None:
        """Until none is under way; systemd starts one again that was killed."""
        seen = time.monotonic()

        def over() -> bool:
            nonlocal seen
            if record.under_way(TRADING):
                seen = time.monotonic()
            gone = not os.path.lexists(TRADING.run + "/releasing")
            return gone or time.monotonic() - seen > PATIENCE

        _wait(over, self._release_takes())

    def _not_overtaken(self) -> None:
        """Raises Overtaken if the flag is not as it was after our own activation.

        Or if somebody has joined that, who may have been on record only later.
        """
        if self._overtaken or self._joined() or latch.mark(TRADING.flag) != self._mark:
            self._overtaken = True
            raise Overtaken


def _status(process: Process) -> str:
    return "0" if process.status == 0 else f"{process.status}: {says(process)}"


def _wait(look: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def ready() -> list[str]:
    """The units that a proof would stop. Raises Failed: there can be no proof now."""
    if TRADING.latched():
        raise Failed("ESS is ACTIVE already: no proof now", hint="see quantum-ess status")
    if os.path.lexists(TRADING.run + "/releasing"):
        raise Failed("a release is under way", hint="see quantum-ess status")
    return _nonempty(list(observe.populated(plans.read(TRADING))))


def _nonempty(units: list[str]) -> list[str]:
    if not units:
        raise Failed("no protected unit runs: nothing to prove", hint="quantum-ess drill does")
    return units


def perform(evidence: Evidence) -> list[tuple[str, str, float]]:
    """Run the proof; its stops: unit, way, seconds. What ran before runs again in any case.

    Raises Failed, KeyboardInterrupt.
    """
    stops: list[tuple[str, str, float]] = []
    lock = TRADING.run + "/proof.lock"
    with record.lock(lock, 0.0) as locked:
        if not locked and not record.lockable(lock):
            raise Failed(f"{lock} can't be made: nothing was proved", hint=record.ROOM)
        if not locked:
            raise Failed("another proof is running")
        try:
            with Manager.lasting() as manager:
                proof = Proof(evidence, manager)
                _nonempty(proof.ran)  # somebody may have stopped them while we asked
                stops = proof.stops
                with interruptible(proof.restore) as interruption, suppress(Overtaken):
                    proof.run(interruption)  # whether it was overtaken, restore says
        except (Unreachable, Refused) as error:
            evidence.check("systemd", "answers", str(error), False)
        except OSError as error:
            evidence.check("files", "can be read and written", str(error), False)
        except KeyboardInterrupt:
            evidence.check("the proof", "runs to its end", "interrupted", False)
            _log(evidence)
            raise
    _log(evidence)
    return stops


def _log(evidence: Evidence) -> None:
    text = "; ".join(evidence.failures)
    who = {"trigger": "command", "actor": actor.current()}
    if text:
        Trail(TRADING, "", who).log("proof-failed", f"ESS PROOF FAILED: {text}", priority=3)
    else:
        Trail(TRADING, "", who).log("proof-passed", "ESS PROOF PASSED", priority=5)


def result(evidence: Evidence, stops: list[tuple[str, str, float]]) -> dict[str, Any]:
    """For `--json`."""
    failures = evidence.failures
    return {
        **evidence.summary(),
        "result": "failed" if failures else "passed",
        "failures": failures,
        "stops": [
            {"unit": unit, "way": way, "ms": round(1000 * seconds, 1)}
            for unit, way, seconds in stops
        ],
        "actor": actor.current(),
        "product": __version__,
    }
