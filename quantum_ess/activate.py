"""An activation: set the flag, kill, tell PID 1, verify, then account for it.

The stop path is `activate` below, read top to bottom. Called by the command, it finds that
libexec/quantum-ess has set the flag and struck once already; it does not rely on that. Until the
first blow has fallen nothing is imported but `os` and `time`, nothing is parsed but the plan, no
lock is taken, nobody is asked.
"""

import os
import time

from quantum_ess import cgroup, latch, plan
from quantum_ess.group import Group

LIMIT = 2.0  # seconds from the trigger to the last sign of life (operations card)
PROMPT = 0.5  # seconds in which PID 1 mostly sees that all are dead, asked by a crowd or not
LOOK = 0.2  # seconds for a look at what it still waits for
DYING = 0.02  # seconds from a kill to an empty cgroup, on a busy machine
MANY = 64  # names; with more of them PID 1 is asked for what is not at rest instead
TYPE_CHECKING = False
if TYPE_CHECKING:
    from quantum_ess.systemd import Manager, Unit


class Request:
    """Who wants the stop and why. trigger: command, unit, flag, boot or resume.

    created: libexec/quantum-ess has latched for this request, and has killed, at that time
    (milliseconds of CLOCK_BOOTTIME).
    """

    __slots__ = ("created", "reason", "trigger")

    def __init__(
        self, trigger: str = "command", reason: str = "", created: int | None = None
    ) -> None:
        self.trigger = trigger
        self.reason = reason
        self.created = created


class Strike:
    """The kill, repeated until nothing lives: each blow looks at the cgroups afresh.

    seen: of which group a flag was seen, and no more: what a release is starting by now is spared.
    """

    __slots__ = ("began", "hit", "plan", "seen", "spare", "strays", "turn", "warned")

    def __init__(self, the_plan: plan.Plan, seen: Group | None = None) -> None:
        self.plan = the_plan
        self.seen = seen
        self.spare = False  # a release has opened the latch since
        self.began = time.monotonic()
        self.hit: list[str] = []  # units that were seen alive
        self.warned: set[str] = set()  # category 1: SIGTERM sent
        self.strays: set[str] = set()  # units with a main process outside of their cgroup
        self.turn = 0  # whose is next to be looked at

    def _look(self) -> None:
        if self.seen is None or self.spare or self.seen.latched():
            return
        from quantum_ess import record

        self.spare = record.under_way(self.seen) and not self.seen.latched()

    def outside(self, manager: "Manager", units: "list[Unit]", deadline: float) -> list[str]:
        """Kill main processes that are in no protected cgroup but known to PID 1; their units.

        su(1) and PAMName= have them moved into a session. Those that are not come to before the
        deadline are looked at first the next time. Raises Unreachable.
        """
        from quantum_ess.systemd import Refused, outsider

        for _ in units:
            if time.monotonic() >= deadline:
                break
            unit = units[self.turn % len(units)]
            self.turn += 1
            try:
                pid, how = outsider(manager, unit), self.plan.match(unit.name)
            except Refused:
                continue
            self.strays.discard(unit.name)
            if pid and how:
                self.strays.add(unit.name)
                if time.monotonic() - self.began >= how.grace:
                    cgroup.end(pid)
        return [unit.name for unit in units if unit.name in self.strays]

    def blow(self) -> list[str]:
        """Kill what lives in protected cgroups; returns the units that were alive just now."""
        self._look()
        if self.spare:
            return []
        living = [f for f in cgroup.find(self.plan) if cgroup.populated(f.path)]
        for found in living:
            if time.monotonic() - self.began >= found.how.grace:
                cgroup.kill(found.path)
            elif found.unit not in self.warned:
                cgroup.signal_all(found.path, cgroup.SIGTERM)
                self.warned.add(found.unit)
        self.hit += [f.unit for f in living if f.unit not in self.hit]
        return [f.unit for f in living]


class Outcome:
    """What the stop came to. living: units that still run; problems: what could not be done;
    told: units without a process that PID 1 was told to stop.
    """

    __slots__ = ("flag", "living", "problems", "seconds", "strike", "told")

    def __init__(self, flag: latch.Flag, strike: Strike) -> None:
        self.flag = flag
        self.strike = strike
        self.living: list[str] = []
        self.problems: list[str] = []
        self.told: set[str] = set()
        self.seconds = 0.0

    @property
    def verified(self) -> bool:
        """Every protected cgroup is empty and the gate is shut."""
        return not self.living and self.flag.held


def activate(group: Group, request: Request) -> Outcome:
    """Stop every protected unit and latch. Raises nothing: the outcome says what went wrong."""
    flag = _flag(group, request)
    strike = Strike(plan.read(group), group if request.trigger == "flag" else None)
    strike.blow()

    # The first blow has fallen. From here on things may be slow, but everything is bounded.
    outcome = Outcome(flag, strike)
    _claim(group, request, flag)
    _note_owner(group, flag)
    latch.fill(group)
    _tell_and_verify(outcome, strike.began + LIMIT)
    if flag.owner:
        latch.secure(group)
    while request.trigger != "flag" and flag.inode and latch.inode(group) is None:
        # A release that was under way took the flag; the stop wins.
        outcome.flag = flag = latch.shut(group)
        _claim(group, request, flag)
        _tell_and_verify(outcome, time.monotonic() + LIMIT)
    outcome.seconds = time.monotonic() - flag.monotonic
    if flag.error:
        outcome.problems.append(f"flag not set: {flag.error}")
    return outcome


def _flag(group: Group, request: Request) -> latch.Flag:
    """Shut the latch, unless somebody has done it for this request."""
    if request.trigger == "flag":
        return latch.found(group)
    if request.created is None:
        return latch.shut(group)
    number = latch.inode(group)  # None: it has latched by the record, for the flag takes programs
    flag = latch.shut(group) if number is None else latch.Flag(number, True)
    flag.monotonic -= time.clock_gettime(time.CLOCK_BOOTTIME) - request.created / 1000
    return flag


def _claim(group: Group, request: Request, flag: latch.Flag) -> None:
    """Leave word who set the flag, for whoever completes the trail if we do not live to do it."""
    if not flag.created:
        return
    import json

    from quantum_ess import actor, record

    claim = {
        "trigger": request.trigger,
        "reason": request.reason,
        "actor": actor.current(),
    }
    path = record.claim_path(group, flag.inode or 0)
    try:
        with open(path, "x", encoding="utf-8", opener=_private) as file:
            json.dump(claim, file)
    except OSError:
        pass  # /run is full: the trail will name the flag's owner instead


def _note_owner(group: Group, flag: latch.Flag) -> None:
    """Note who set the flag if it was not root: it is made root's as soon as all is dead."""
    try:
        flag.owner = os.lstat(group.flag).st_uid
    except OSError:
        return
    if flag.owner == os.geteuid():
        flag.owner = 0
        return
    import json

    from quantum_ess import actor, record

    claim = {"trigger": "flag", "actor": actor.user(flag.owner)}
    try:
        with open(record.claim_path(group, flag.inode or 0), "x", opener=_private) as file:
            json.dump(claim, file)
    except OSError:
        pass  # somebody has, or there is no room: flag.owner says it in this process


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _tell_and_verify(outcome: Outcome, deadline: float) -> None:
    """Have PID 1 stop the units and look until every cgroup is empty, at most to the deadline.

    Both are repeated together: a process that was being started during the first blow appears
    later, and an ExecStopPost= comes only when the main process is gone.
    """
    strike = outcome.strike
    manager: Manager | None = None
    problem = ""
    units: list[Unit] = []
    outside: list[str] = []
    next_look = time.monotonic() + PROMPT
    while True:
        outcome.living = strike.blow()
        restless = True
        try:
            manager = manager or _connect(deadline)
            units = [] if strike.spare else push(manager, strike.plan)
            restless = bool(units)
            outcome.told.update(unit.name for unit in units if _without_process(unit))
            if units and not outcome.living and time.monotonic() >= next_look:
                next_look = time.monotonic() + 2 * PROMPT
                outside = strike.outside(manager, units, time.monotonic() + LOOK)
            problem = ""
        except Exception as error:  # whatever it is, the kill goes on without PID 1
            problem = f"systemd was not told: {error}"
            manager = None
        if not outcome.living and not restless:
            outside = []
            outcome.living = strike.blow()
            if not outcome.living:
                break
        if time.monotonic() >= deadline:
            break
        if manager is None or not manager.wait(0.01):
            time.sleep(0.005)  # nothing to wait for without PID 1
    if (outcome.living or outside) and not strike.spare:  # seen alive just now, and killed
        time.sleep(DYING)
        outcome.living = strike.blow()
        outcome.living += _still(outcome, manager, [u for u in units if u.name in outside])
    if problem:
        outcome.problems.append(problem)
    if manager is not None:
        manager.close()


def _without_process(unit: "Unit") -> bool:
    """Whether it is up without one: then it is not killed, and PID 1 may forget it once stopped."""
    runs = unit.name.endswith((".service", ".scope")) and unit.sub != "exited"
    return unit.active == "active" and not runs


def _still(outcome: Outcome, manager: "Manager | None", units: "list[Unit]") -> list[str]:
    """Of those units, the ones with a main process outside of its cgroup that lives on."""
    try:
        if manager:
            return outcome.strike.outside(manager, units, time.monotonic() + LOOK)
    except Exception:  # as above: they were seen alive
        pass
    return [unit.name for unit in units]


def _connect(deadline: float) -> "Manager":
    from quantum_ess.systemd import Manager

    return Manager(timeout=min(0.5, max(0.05, deadline - time.monotonic())))


def push(manager: "Manager", the_plan: plan.Plan) -> "list[Unit]":
    """Queue a stop job for each protected unit that is not at rest; those units.

    Raises Unreachable.
    """
    from quantum_ess.systemd import Refused

    restless = []
    if len(the_plan.protect) > MANY:
        units, jobs = manager.busy()
    else:
        units, jobs = manager.units([entry.name for entry in the_plan.protect]), {}
    for unit in units:
        if unit.at_rest or the_plan.match(unit.name) is None:
            continue
        restless.append(unit)
        if unit.active != "deactivating" and jobs.get(unit.name) != "stop":
            try:
                manager.stop(unit.name)
            except Refused:
                continue  # it is masked or going: the cgroup decides
    return restless
