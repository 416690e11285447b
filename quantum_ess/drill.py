"""A drill: every way to stop, each alone, tried on canaries of our own while trading goes on.

The canaries are the group DRILL: another flag, record and gate, and the same code and units. It
gives way to a real activation at once, and takes everything away that it made, also after it was
interrupted or killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from quantum_ess import __version__, activate, actor, lastdrill, latch, observe, record, stage
from quantum_ess import plan as plans
from quantum_ess.errors import Failed
from quantum_ess.evidence import Evidence
from quantum_ess.group import DRILL, TRADING
from quantum_ess.interrupt import interruptible
from quantum_ess.process import Process, says
from quantum_ess.systemd import Manager, Refused, Unreachable
from quantum_ess.trail import Trail, short

COMMAND = ("/usr/bin/quantum-ess", "--group=drill")
PATH_UNIT, SENTRY = f"{DRILL.prefix}.path", f"{DRILL.prefix}-sentry.service"
# Cleans up if we can't: started first, stopped last.
UNDERTAKER = f"{DRILL.prefix}-clean.timer"
OURS = (UNDERTAKER, *(f"{DRILL.prefix}{end}" for end in (".service", ".timer", "-clean.service")))
LOCK = TRADING.run + "/drill.lock"
EVENTS = ("initiated", "latched", "stopped", "complete")
PATIENCE = 10.0  # seconds for anything but the stop itself


class GaveWay(Exception):
    """A real activation arrived."""


class Way(NamedTuple):
    """One way to stop: what watches the flag meanwhile, and the command; none: set the flag."""

    name: str
    title: str
    watcher: str = ""
    command: tuple[str, ...] = ()


WAYS = (
    Way("command", "the command alone", command=(*COMMAND, "activate", "--reason=drill")),
    Way("unit", "a unit, by systemctl", command=("systemctl", "start", DRILL.activation)),
    Way("path", "the flag, seen by PID 1 alone", PATH_UNIT),
    Way("sentry", "the flag, seen by the sentry alone", SENTRY),
)


class Drill:
    """One drill. Use `perform`."""

    def __init__(self, evidence: Evidence, manager: Manager) -> None:
        self.evidence = evidence
        self.manager = manager
        self.plan = plans.read(DRILL)
        self.canaries = [entry.name for entry in self.plan.protect]
        self.stop_ms: dict[str, float] = {}
        self.stops: list[tuple[str, str, float]] = []  # canary, way, seconds

    def guard(self) -> None:
        """Raises GaveWay as soon as trading is being stopped."""
        if TRADING.latched():
            raise GaveWay

    def run(self) -> None:
        """All steps. Raises GaveWay, Unreachable, OSError."""
        say = self.evidence
        plan = plans.read(TRADING)
        patterns = [entry.name for entry in plan.protect] + plan.keep
        before = observe.identities(self.manager, patterns)
        say.begin(f"canaries: {' '.join(short(unit) for unit in self.canaries)}")
        self._stage()
        for way in WAYS:
            self.guard()
            say.begin(f"stop by {way.title}")
            self._try(way)
        say.begin("trading and the kept units")
        self.guard()
        after = observe.identities(self.manager, patterns)
        self.guard()  # what changed by an activation is not the drill's
        changed = [unit for unit, identity in before.items() if after.get(unit) != identity]
        measured = f"{len(before)} units, the same main PIDs" if before else "none runs"
        say.check("trading untouched", "same main PIDs", " ".join(changed) or measured, not changed)

    def _stage(self) -> None:
        """Canaries up; nothing watches yet."""
        self.manager.start(UNDERTAKER)
        latch.mend_directory(os.path.dirname(DRILL.flag))
        latch.mend_directory(DRILL.run)
        os.makedirs(DRILL.state, 0o755, exist_ok=True)
        # For the sentry's tail(1), which wants a file that is there.
        record.write(DRILL.run + "/plan", DRILL.built_in.encode())
        began = time.monotonic()
        for unit in self.canaries:
            self.manager.start(unit)
        up = self._wait(lambda: self._running() == set(self.canaries))
        measured = f"{len(self._running())} run ({time.monotonic() - began:.2f} s)"
        self.evidence.check("canaries start", f"all {len(self.canaries)} run", measured, up)

    def _try(self, way: Way) -> None:
        self.evidence.progress.doing(way.title)
        if way.watcher:
            self.manager.start(way.watcher)
            self._wait(lambda: not self._restless([way.watcher]))
        alive = observe.populated(self.plan)
        with Process(*way.command) if way.command else _flagged() as trigger:
            found = observe.deaths(self.plan, alive, activate.LIMIT + 1, self.guard)
            if isinstance(trigger, Process):
                trigger.wait(PATIENCE, self.guard)
        self._judge_stop(way, trigger.began, found, sorted(alive))
        if isinstance(trigger, Process):
            measured = "0" if trigger.status == 0 else f"{trigger.status}: {says(trigger)}"
            self.evidence.check("exit status", "0", measured, trigger.status == 0)
        if way.watcher == SENTRY:  # which only kills: the rest is PID 1's
            self.manager.start(PATH_UNIT)
        self._judge_latch()
        if way.watcher:
            for unit in (PATH_UNIT, SENTRY):
                self.manager.stop(unit, "replace")
        self._release()

    def _judge_stop(self, way: Way, began: float, found: observe.Deaths, alive: list[str]) -> None:
        seconds = found.last(began)
        self.stop_ms[way.name] = round(1000 * seconds, 1)
        for unit, at in found.at.items():
            self.evidence.mark(short(unit), way.name, at, kind="death")
            self.stops.append((short(unit), way.name, at - began))
        self.evidence.mark("ESS", way.name, began, began + seconds, "stop")
        measured = f"{1000 * seconds:.0f} ms for {len(alive)} canaries"
        if found.living:
            measured = f"alive after {activate.LIMIT + 1:g} s: {' '.join(found.living)}"
        ok = not found.living and seconds < activate.LIMIT and len(alive) == len(self.canaries)
        self.evidence.check(
            "stopped", f"all cgroups empty within {activate.LIMIT:g} s", measured, ok
        )

    def _judge_latch(self) -> None:
        """Record, refused starts, trail, and that nothing comes back."""
        say = self.evidence.check
        kept = self._wait(_accounted_for)
        rest = self._wait(lambda: not self._restless([*self.canaries, *DRILL.holders[:2]]))
        latched = os.path.lexists(DRILL.flag) and os.path.lexists(DRILL.record)
        measured = "flag and record" if latched else "not both flag and record"
        say("latched", "flag and record", measured, latched and kept and rest)
        asked = observe.ask_to_start(self.canaries)
        say("start refused", f"all {len(self.canaries)}", asked.text, asked.refused)
        alive = observe.hold(self.plan, 0.2, self.guard)
        say(
            "stays stopped", "nothing comes back", " ".join(alive) or "nothing came back", not alive
        )
        incident = str((record.load(DRILL.record) or {}).get("incident", ""))
        wanted = {f"drill-{event}" for event in EVENTS}
        missing = set(wanted)

        def told() -> bool:
            found = observe.entries(DRILL.prefix, incident)
            missing.difference_update(entry["ESS_EVENT"] for entry in found)
            return not missing

        whole = bool(incident) and self._wait(told, 3.0)
        measured = f"missing: {' '.join(sorted(missing))}" if missing else f"incident {incident}"
        say("trail", "every event in the journal", measured, whole)

    def _release(self) -> None:
        self.evidence.progress.doing("release")
        began = time.monotonic()
        with Process(*COMMAND, "deactivate", "--reason=drill") as done:
            done.wait(60, self.guard)
        entered = []
        for unit in self.canaries:
            path = self.manager.load(unit)
            entered.append(int(self.manager.get(path, "Unit", "ActiveEnterTimestampMonotonic")))
            self.evidence.mark(short(unit), "runs again", entered[-1] / 1e6, kind="up")
        up = self._running() == set(self.canaries)
        ok = done.status == 0 and up and entered == sorted(entered) and not DRILL.latched()
        measured = f"in order, {time.monotonic() - began:.2f} s" if ok else says(done)
        self.evidence.mark("ESS", "release", began, time.monotonic(), "release")
        self.evidence.check("released", "all started again, in order", measured, ok)

    def _running(self) -> set[str]:
        """Canaries that are up: a process alone may be that of the gate, which comes first."""
        rows = self.manager.units(self.canaries)
        active = {unit.name for unit in rows if unit.active == "active" and not unit.job}
        return active & observe.populated(self.plan).keys()

    def _restless(self, units: list[str]) -> list[str]:
        rows = self.manager.units(units)
        return [u.name for u in rows if u.job or u.active in ("activating", "deactivating")]

    def _wait(self, look: Any, seconds: float = PATIENCE) -> bool:
        deadline = time.monotonic() + seconds
        while not look():
            self.guard()
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True


def _accounted_for() -> bool:
    """Whether record and trail of this stop are whole: those of the way before are still there."""
    incident = (record.load(DRILL.record) or {}).get("incident")
    return incident is not None and stage.of(DRILL, incident) == stage.COMPLETE


class _Flag:
    """The flag, set as touch(1) sets it; began is taken right before."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        os.close(os.open(DRILL.flag, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


@contextmanager
def _flagged() -> Iterator[_Flag]:
    yield _Flag()


def clean() -> None:
    """Take away everything of a drill: processes, units, flag, record, directories.

    Raises Unreachable, OSError. Watchers go first, so that nobody takes the flag's removal for a
    release.
    """
    plan = plans.read(DRILL)
    with Manager.lasting() as manager:
        if not _traces(manager):
            return
        first = (PATH_UNIT, SENTRY, *DRILL.holders)
        for unit in first:
            with suppress(Refused):
                manager.stop(unit, "replace")
        _kill_helpers()
        strike = activate.Strike(plan)
        deadline = time.monotonic() + PATIENCE
        while True:
            living = strike.blow()
            left = [u for u in _units(manager) if not u.at_rest]
            if not living and not left:
                break
            for unit in left:
                if unit.active != "deactivating":
                    with suppress(Refused):
                        manager.stop(unit.name, "replace")
            if time.monotonic() > deadline:
                raise Unreachable(f"not at rest: {' '.join(living or [u.name for u in left])}")
            manager.wait(0.02)
        for unit in _units(manager):
            if unit.active == "failed":
                with suppress(Refused):  # it has been forgotten meanwhile
                    manager.reset_failed(unit.name)
        for path in (os.path.dirname(DRILL.flag), DRILL.run, DRILL.state):
            if os.path.lexists(path):
                shutil.rmtree(path)
        with suppress(Refused):
            manager.stop(UNDERTAKER, "replace")


def _kill_helpers() -> None:
    """End what a drill that was killed has left at work: it would make its files again."""
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if COMMAND[1].encode() in words and any(b"quantum-ess" in word for word in words[:4]):
                os.kill(int(name), signal.SIGKILL)
        except (OSError, ValueError):
            continue  # no process, or it has gone


def _units(manager: Manager) -> list[Any]:
    found = manager.units([f"{DRILL.prefix}*", "quantum-ess-canary-*"])
    return [unit for unit in found if unit.name not in OURS]


def _traces(manager: Manager) -> bool:
    paths = (os.path.dirname(DRILL.flag), DRILL.run, DRILL.state)
    if any(os.path.lexists(path) for path in paths):
        return True
    units = [*_units(manager), *manager.units([UNDERTAKER])]
    return any(unit.active != "inactive" for unit in units)


def perform(evidence: Evidence) -> tuple[Drill, dict[str, Any]]:
    """Run a drill; it, and what it came to, as stored.

    Raises Failed: it could not be made, or gave way.
    """
    if TRADING.latched():
        raise Failed("ESS is ACTIVE: no drill now", hint="see quantum-ess status")
    with record.lock(LOCK, 0.0) as locked:
        if not locked and not record.lockable(LOCK):
            raise Failed(f"{LOCK} can't be made: nothing was proved", hint=record.ROOM)
        if not locked:
            raise Failed(
                "another drill is running", hint="watch it: journalctl -ft quantum-ess-drill"
            )
        drill: Drill | None = None
        try:
            clean()
            with Manager.lasting() as manager, interruptible(clean):
                drill = Drill(evidence, manager)
                drill.run()
        except GaveWay:
            _log("gave-way", "GAVE WAY TO AN ACTIVATION")
            raise Failed(
                "the drill gave way: ESS was activated", hint="see quantum-ess status"
            ) from None
        except KeyboardInterrupt:
            _log("interrupted", "INTERRUPTED")
            raise
        except (Unreachable, Refused, OSError) as error:
            if drill is None:
                raise Failed(str(error), hint="nothing was proved; see the journal") from None
            evidence.check("the drill itself", "can be made and cleaned up", str(error), False)
        return drill, _store(evidence, drill.stop_ms)


def _store(evidence: Evidence, stop_ms: dict[str, float]) -> dict[str, Any]:
    failures = evidence.failures
    times = ", ".join(f"{way} {ms:.0f} ms" for way, ms in stop_ms.items())
    result = {
        **evidence.summary(),
        "result": lastdrill.FAILED if failures else lastdrill.PASSED,
        "failures": failures,
        "stop_ms": stop_ms,
        "actor": actor.current(),
        "product": __version__,
    }
    try:
        record.store(lastdrill.PATH, result)
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}", hint="the result is lost") from None
    if failures:
        _log("failed", f"FAILED: {'; '.join(failures)}", priority=3)
    else:
        _log("passed", f"PASSED: {times}")
    return result


def _log(event: str, text: str, priority: int = 5) -> None:
    trail = Trail(DRILL, "", {"trigger": "drill", "actor": actor.current()})
    trail.log(event, f"ESS {text}", priority=priority)


def clean_up() -> None:
    """For the undertaker: clean, unless a drill is running. Raises Failed."""
    with record.lock(LOCK, 0.0) as locked:
        if not locked and not record.lockable(LOCK):
            raise Failed(f"{LOCK} can't be made: nothing was cleaned up", hint=record.ROOM)
        if not locked:
            raise Failed("a drill is running")
        try:
            clean()
        except (Unreachable, Refused, OSError) as error:
            raise Failed(str(error)) from None
