"""Accounting for an activation: record, trail, marker. Slow things, after the stop, under the lock.

Whoever comes first writes it, with what the claim says of who set the flag; the others find it
done. So the trail is complete whichever process lives to write it.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from quantum_ess import actor, history, latch, marker, outbox, record, refresh, stage
from quantum_ess.errors import shown
from quantum_ess.group import Group
from quantum_ess.plan import Plan
from quantum_ess.record import Record
from quantum_ess.trail import NOTICE, Trail, flush, short

if TYPE_CHECKING:
    from quantum_ess.activate import Outcome, Request
    from quantum_ess.systemd import Manager

LOCK_SECONDS = 6.0  # a neighbour may write 30 files durably, on a busy disk
CLAIM_SECONDS = 3.0  # for who set the flag to account for it
CLAIMANTS = ("quantum-ess", "halt")  # of libexec
MARGIN = 0.02  # seconds; the grain of the clocks that the witnesses note the time by
AMISS = 5.0  # seconds that the flag's own time may be late, by activations that repeat it
FINISH_SECONDS = 1.0  # the same, for a release, which is to be quick
ABOUT = ("trigger", "actor", "reason")  # of a record, for the history
HEAD = ("since", "epoch", *ABOUT, "stop_ms")
PATIENCE = 2.0  # seconds for PID 1 to answer; nothing waits for this any more
LONGEST_REASON = 200  # characters of it in a line of the trail; the field has them all
GRAIN = 1.0  # seconds; a flag's text has no finer time
LATE = 10.0  # seconds from a kill until a flag that PID 1 sees: the watch's period, twice
RECENT = 2.0  # seconds that PID 1 may have been quicker than whoever notes the time
BROKEN_INTO = 60.0  # seconds from a release's beginning to a stop that may have interrupted it
SLOW = 30.0  # the same, of a halt target that is active: of this stop, for a release ends it


class Account:
    """What the accounting came to, for the caller to print."""

    def __init__(self) -> None:
        self.incident = ""
        self.record: Record = {}
        self.first = False  # this process wrote the incident's trail
        self.shutdown = False  # the host is shutting down
        self.unknown = False  # PID 1 has not said what ran
        self.latched = True  # by flag or record
        # Units that a release was to start, and of which nobody knows that they ran.
        self.listed: set[str] = set()
        self.killed: list[str] = []  # by a stop of that time; what ran before it is not known
        self.over = False  # it was released before it could be accounted for
        self.problems: list[str] = []  # what should have worked and did not
        self.notes: list[str] = []  # what will be put right later

    @property
    def stopped(self) -> list[str] | None:
        """The units that were stopped, in the order of restart; None if that is not known."""
        return self.record.get("running", self.killed or None)


def settle(group: Group, request: Request, outcome: Outcome) -> Account:
    """Write record, trail and marker of an activation, once an incident. Raises nothing."""
    account = Account()
    _await_claimant(group, outcome)
    with record.lock(group.lock, LOCK_SECONDS):
        _try(account, "run directory", lambda: latch.mend_directory(group.run))
        existing = record.load(group.record)
        claim = _claim(group, outcome)
        account.incident = (existing or {}).get("incident") or latch.incident(outcome.flag.inode)
        account.record = _record(group, request, outcome, existing, claim, account)
        account.over = existing is None and _released(group, outcome, account.incident)
        if account.over and outcome.flag.inode is not None:  # by the id that it had
            over = record.load(group.released) or {}
            account.incident = str(over.get("incident", account.incident))
        if not account.over:
            known = existing is not None and {"stop_ms", "incident"} <= existing.keys()
            if not known and _try(
                account, "record", lambda: record.store(group.record, account.record)
            ):
                _renew(group, account.record)
            account.latched = outcome.flag.held or os.path.lexists(group.record)
            _witness(group, request, outcome, account)
        flush(group)
        trail = Trail(group, account.incident, account.record)
        reached = stage.of(group, account.incident)
        account.first = not reached
        if account.first:
            _log_stop(trail, outcome, account)
        if account.first or reached == stage.STOPPED:
            _remember_stop(outcome, account, group)
            _mark_redis(trail, outcome, account)
            _complete(trail, outcome, account)
        if _repeats(request, outcome, claim, account):
            _log_repeated(trail, request, account)
        if os.path.lexists(group.logged_volatile):
            _reached(group, account, stage.COMPLETE)  # the disk may take it by now
        account.problems += [f"audit entry lost: {why}" for why in trail.lost]
        if trail.kept:
            account.problems.append(f"journald did not listen: {trail.kept} audit entries kept")
    refresh.metrics()
    return account


def _released(group: Group, outcome: Outcome, incident: str) -> bool:
    """True if a deactivation has ended this incident already: a record now would latch again."""
    if latch.inode(group) is not None:
        return False
    if outcome.flag.inode is not None:
        released = record.load(group.released) or {}
        known = (released.get("incident"), released.get("flag"))
        return incident in known or latch.incident(outcome.flag.inode) in known
    return record.under_way(group)


def _log_stop(trail: Trail, outcome: Outcome, account: Account) -> None:
    trail.log("initiated", "ESS ACTIVATION INITIATED")
    if account.latched:
        by = "FLAG" if outcome.flag.inode else "RECORD"
        trail.log("latched", f"ESS LATCH {by} SET")
    for unit in account.stopped or []:
        if unit not in outcome.living:
            trail.log("stopped", f"ESS STOPPED SERVICE: {short(unit)}", unit=unit, **_took(outcome))
    for unit in outcome.living:
        trail.log("living", f"ESS FAILED TO STOP: {short(unit)}", unit=unit)
    _reached(trail.group, account, stage.STOPPED)


def finish(group: Group, incident: str) -> None:
    """Write a trail to its end from the record, before a release, if nobody else does any more.

    Whoever was at it was killed. What lives is seen now; Redis is told by the release.
    """
    from quantum_ess import activate, cgroup, plan

    with record.lock(group.lock, FINISH_SECONDS) as locked:
        known = record.load(group.record)
        reached = stage.of(group, incident)
        if not locked or not known or reached == stage.COMPLETE:
            return
        if known.get("incident", incident) != incident:
            return  # another stop has come meanwhile; who carries it out accounts for it
        last = incident.rpartition("-")[2]
        number = int(last) if last.isdecimal() else None
        outcome = activate.Outcome(latch.Flag(number, False), activate.Strike(plan.read(group)))
        found = cgroup.find(outcome.strike.plan)
        outcome.living = sorted({each.unit for each in found if cgroup.populated(each.path)})
        account = Account()
        account.incident, account.record = incident, known
        outcome.seconds = known.get("stop_ms", math.nan) / 1000
        if "stop_ms" not in known:  # it is by `halt`, which may have come before who left word
            claim = _claim(group, outcome)
            account.record = {**known, **{key: claim[key] for key in ABOUT if key in claim}}
            account.record["actor"] = _named(account.record.get("actor") or {})
        since = str(known.get("since") or latch.now())
        account.record = {"since": since, "epoch": latch.epoch(since), **account.record}
        trail = Trail(group, incident, account.record)
        if not reached:
            _log_stop(trail, outcome, account)
        _remember_stop(outcome, account, group)
        _want_marker(group, account)  # if the release fails
        _complete(trail, outcome, account)


def _remember_stop(outcome: Outcome, account: Account, group: Group) -> None:
    about = {key: account.record.get(key) for key in HEAD}
    facts = {"stopped": account.stopped, "living": outcome.living or None, **about}
    facts |= {"host": os.uname().nodename, "latched": None if account.latched else False}
    remember(group, account, "activated", facts, once=True)


def _want_marker(group: Group, account: Account) -> None:
    since, epoch = str(account.record["since"]), float(account.record["epoch"])
    want = (group, since, epoch, account.incident, str(account.record.get("reason", "")))
    _try(account, "marker", lambda: marker.want(*want))


def _mark_redis(trail: Trail, outcome: Outcome, account: Account) -> None:
    if not account.over:
        _want_marker(trail.group, account)
    tell_redis(trail, outcome.strike.plan, account)


def _complete(trail: Trail, outcome: Outcome, account: Account) -> None:
    about = {key: account.record.get(key) for key in HEAD}
    about["actor"] = actor.describe(account.record.get("actor") or {})
    units = account.stopped
    job = {"incident": account.incident, "units": units, "living": outcome.living}
    trail.log("activated", _headline(about))
    if outcome.verified:
        trail.log("complete", "ESS ACTIVATION COMPLETE", **_took(outcome))
    else:
        text = "ESS ACTIVATION NOT VERIFIED" + ("" if account.latched else ": NOT LATCHED")
        trail.log("incomplete", text, living=" ".join(outcome.living))
    account.problems += outbox.announce(
        trail.group, "activate", {**about, **job, "latched": account.latched}
    )
    _reached(trail.group, account, stage.COMPLETE)


def _took(outcome: Outcome) -> dict[str, int]:
    """How long it took, for the trail; nothing where nobody knows."""
    known = not math.isnan(outcome.seconds)
    return {"duration_usec": int(1e6 * outcome.seconds)} if known else {}


def _headline(about: dict[str, Any]) -> str:
    """Who and why in one line, for those who read no fields: `journalctl ... | grep ACTIVATED`.

    A control character in it would have journalctl(1) show "[blob data]" instead.
    """
    reason = shown(" ".join(str(about["reason"] or "").split()))[:LONGEST_REASON]
    why = f": {reason}" if reason else ""
    return f"ESS ACTIVATED by {about['actor']} ({about['trigger']}){why}"


def remember(
    group: Group, account: Account, event: str, facts: dict[str, Any], once: bool = False
) -> None:
    """Add a record to the history; a failure is a note, or a problem if the record is lost."""
    try:
        waits = history.append(group, history.entry(event, account.incident, **facts), once)
    except Exception as error:  # the history is the least of an activation's worries
        account.problems.append(f"history: record of {event!r} lost: {error}")
        return
    if waits:
        account.notes.append(f"history not written: {waits} (will be tried again)")


def tell_redis(trail: Trail, plan: Plan, account: Account, again: bool = False) -> None:
    """Bring the marker up to date and log it; a failure is a note, never an error.

    again: it is owed already, so that a failure is on the trail.
    """
    done, problem = marker.settle(trail.group, plan)
    if problem is not None:
        account.notes.append(f"Redis marker not {done.lower()}: {problem} (will be tried again)")
        if not again:
            text = f"ESS REDIS MARKER NOT {done}: {problem}"
            trail.log("marker-pending", text, priority=NOTICE)
    elif done:
        event = "marker-set" if done == "SET" else "marker-cleared"
        trail.log(event, f"ESS REDIS MARKER {done}")


def _ours(claim: dict[str, Any], outcome: Outcome) -> bool:
    """True if this process, or `halt` in the same run of quantum-ess.service, set the flag."""
    invocation = os.environ.get("INVOCATION_ID")
    return outcome.flag.created or bool(invocation and claim.get("invocation") == invocation)


def _repeats(request: Request, outcome: Outcome, claim: dict[str, Any], account: Account) -> bool:
    """True of a command or unit that has found the incident under way; not of who began it."""
    ours = _ours(claim, outcome)
    if outcome.flag.created and not account.first:
        # A release that gives way may have taken the flag of this incident away for a moment.
        ours = account.incident == latch.incident(outcome.flag.inode)
    if request.trigger not in ("command", "unit") or ours:
        return False
    by_unit = request.trigger == account.record.get("trigger") == "unit"
    return not account.first or (outcome.flag.inode is not None and not by_unit)


def _log_repeated(trail: Trail, request: Request, account: Account) -> None:
    who = actor.current()
    trail.record = {**account.record, "actor": who, "trigger": request.trigger}
    trail.record["reason"] = request.reason
    trail.log("repeated", "ESS ALREADY ACTIVE", priority=NOTICE)
    remember(trail.group, account, "repeated", {key: trail.record.get(key) for key in ABOUT})


def _renew(group: Group, known: Record) -> None:
    """A flag that somebody else made is open for writing there still: a new one, once it is noted.

    Not before: its number is the incident's id.
    """
    if known.get("actor", {}).get("uid") and latch.secure(group) and os.path.isfile(group.flag):
        with suppress(OSError):
            latch.renew(group, str(known["since"]), int(1e9 * float(known["epoch"])))


def _reached(group: Group, account: Account, what: str) -> None:
    _try(account, "trail", lambda: stage.mark(group, account.incident, what))


def _record(
    group: Group,
    request: Request,
    outcome: Outcome,
    existing: Record | None,
    claim: dict[str, Any],
    account: Account,
) -> Record:
    """The record of this incident: what is already known of it, else what we know."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot_id = file.read().strip()
    about = _about(group, request, outcome, existing, claim)
    since, epoch = latch.since(group)
    taken = _taken_over(group, outcome) if claim and about["actor"].get("uid") else epoch
    told = taken - LATE <= epoch <= taken + GRAIN
    if not told:  # a member of the stop group may write any time into the flag
        since, epoch = latch.iso(taken), taken
    ours: Record = {
        "incident": account.incident,
        "since": since,
        "epoch": epoch,
        **about,
        "boot_id": boot_id,
        "stop_ms": round(1000 * outcome.seconds, 1),
    }
    if existing and "stop_ms" in existing:
        return {**ours, **existing}
    this_boot = not existing or existing.get("boot_id", boot_id) == boot_id
    if this_boot and not latch.of_another_boot(group):
        known = (existing or {}).get("running", [])
        began = _began(group, epoch, outcome.flag.monotonic, outcome.strike.began)
        running = _running(group, outcome, began, known, account)
        # After a boot with a record that does not say: unknown, a release starts what is enabled.
        # Nor is it known in a shutdown, which has stopped some before, or without PID 1's word.
        # But for a command that found none alive: it looked before PID 1 could act.
        processes = all(
            e.name.endswith((".service", ".scope")) for e in outcome.strike.plan.protect
        )
        first_to_look = processes and request.trigger == "command" and outcome.flag.created
        if account.shutdown or (account.unknown and not running and not first_to_look):
            account.killed = running
        elif running or "running" in (existing or {}) or not os.path.lexists(group.restored):
            ours["running"] = running
            if account.unknown and not processes:  # a timer, say, is no process
                ours["unsure"] = True
            if account.listed:
                ours["ran"] = [name for name in running if name not in account.listed]
    # What `halt` or an interrupted activation has written says when, and no more than we know.
    keys = ("since", "boot_id") if told else ("boot_id",)
    first = {key: existing[key] for key in keys if existing and existing.get(key)}
    if existing and request.trigger == "resume" and existing.get("trigger"):
        # A release that fails latches anew, but it is no other incident.
        first |= {"reason": "", **{key: existing[key] for key in ABOUT if key in existing}}
    return {**(existing or {}), **ours, **first}


def _about(
    group: Group,
    request: Request,
    outcome: Outcome,
    existing: Record | None,
    claim: dict[str, Any],
) -> Record:
    """Trigger, actor and reason: of who set the flag, not of who found it set."""
    ours: Record = {
        "trigger": request.trigger,
        "actor": _default_actor(group, request, outcome),
        "reason": request.reason,
    }
    known: Record = {}
    if claim.get("trigger"):
        known = {"reason": "", **{key: claim[key] for key in ABOUT if key in claim}}
    elif not outcome.flag.created and existing and existing.get("actor"):
        known = {"reason": "", **{key: existing[key] for key in ABOUT if key in existing}}
    elif _joined(request, outcome):
        uid = outcome.flag.owner
        known = {"actor": actor.user(uid) if uid else actor.owner(group.flag)}
        known |= {"trigger": "flag", "reason": ""}
    about = {**ours, **known}
    about["actor"] = _named(about["actor"])
    if about["actor"].get("uid") and not about["reason"]:
        about["reason"] = latch.reason(group)
    return about


def _named(who: actor.Actor) -> actor.Actor:
    """With a name: the shell knows the number alone."""
    return {**actor.user(int(who["uid"])), **who} if "uid" in who and "user" not in who else who


def _joined(request: Request, outcome: Outcome) -> bool:
    """True of a command that has found the flag set already."""
    flag = outcome.flag
    return request.trigger == "command" and flag.inode is not None and not flag.created


def _taken_over(group: Group, outcome: Outcome) -> float:
    """When the flag was seen and its owner noted, in epoch seconds; now if that is not known."""
    try:
        return os.stat(record.claim_path(group, outcome.flag.inode or 0)).st_mtime
    except OSError:
        return time.time()


def _default_actor(group: Group, request: Request, outcome: Outcome) -> actor.Actor:
    if outcome.flag.owner:
        return actor.user(outcome.flag.owner)
    return actor.owner(group.flag) if request.trigger == "flag" else actor.current()


def _began(group: Group, epoch: float, noticed: float, struck: float) -> float:
    """When the flag was set, on the monotonic clock, in seconds; never later than it was.

    The earliest of what the witnesses say: the flag's own time; the process's that was to set it,
    for where /run has no inode left there is no flag; the first blows', for a flag may have been
    touched again, be gone by now or, the clock set back, be of the future. Blows of an earlier stop
    say nothing, if they were left. Nor does a flag that is older than any watcher needs to see it,
    where the blows are known: its owner may give it any time, and what was stopped on purpose
    before would be started.
    """
    boottime = _ahead(time.CLOCK_BOOTTIME)
    blows = [when - boottime for when, _ in _first_blows(group)]
    earliest = min([struck, *blows])
    by_flag = epoch - _ahead(time.CLOCK_REALTIME)
    oldest = earliest - LATE if blows else -math.inf
    told = [when if when >= oldest else earliest for when in (by_flag, noticed)]
    known = min(struck, *told)
    return min([known, *(when for when in blows if when > known - AMISS)]) - MARGIN


def _ahead(clock: int) -> float:
    """How far that clock is ahead of the monotonic one, in seconds.

    By the quickest of several looks: whoever is interrupted between two clocks is wrong by that.
    """
    looks = []
    for _ in range(10):
        before = time.monotonic()
        ahead = time.clock_gettime(clock) - before
        looks.append((time.monotonic() - before, ahead))
    return min(looks)[1]


def _first_blows(group: Group) -> list[tuple[float, list[str]]]:
    """When each first blow from a shell fell (CLOCK_BOOTTIME, seconds), and who was alive then.

    The command's, the sentry's and `halt`'s fall together, and each sees what the others left.
    """
    blows = []
    for line in record.text(group.began, record.LONGEST).splitlines():
        noted, *units = line.split() or [""]
        if noted.isascii() and noted.isdigit() and len(noted) < 16:
            blows.append((int(noted) / 1000, list(filter(record.UNIT.fullmatch, units))))
    return blows


def struck(group: Group) -> bool:
    """Whether somebody has carried out what the flag says, as far as its time tells.

    One of the future, the clock set back, tells nothing.
    """
    since, ahead = latch.since(group)[1], _ahead(time.CLOCK_BOOTTIME) - _ahead(time.CLOCK_REALTIME)
    oldest = since + ahead - LATE if since <= time.time() else 0.0
    return any(when >= oldest for when, _ in _first_blows(group))


def _await_claimant(group: Group, outcome: Outcome) -> None:
    """Let the command or unit that set the flag account for it: it alone knows who and why.

    It is at work already, and may be slower than those who have only seen the flag.
    """
    if outcome.flag.created or outcome.flag.inode is None:
        return
    pid = record.text(group.run + "/claimant")
    deadline = time.monotonic() + CLAIM_SECONDS
    while pid.isdigit() and time.monotonic() < deadline:
        ended = record.text(f"/proc/{pid}/comm") not in CLAIMANTS
        if ended or "stop_ms" in (record.load(group.record) or {}):
            return
        time.sleep(0.02)


def _claim(group: Group, outcome: Outcome) -> dict[str, Any]:
    number = outcome.flag.inode
    if number is None:
        return {}
    return record.load(record.claim_path(group, number)) or {}


def _running(
    group: Group, outcome: Outcome, began: float, known: list[str], account: Account
) -> list[str]:
    """Units that ran when the flag was set, in the order of restart.

    The witnesses: the cgroups that the kill found alive; what PID 1 was told to stop; systemd's
    time stamps of units that came to rest since; what `halt` saw; and a release that this
    activation broke into. Also clears the `failed` state that the kill itself left behind, and no
    other.
    """
    plan = outcome.strike.plan
    running = {*outcome.strike.hit, *outcome.told, *known}
    left, left_at = releasing(group), _modified(group.run + "/releasing")
    # systemd forgets a unit that is at rest and not referred to, and with it when it came to rest.
    boottime = _ahead(time.CLOCK_BOOTTIME)
    # Of a flag that PID 1 does not see (a symlink that dangles) too. A release removes these words.
    # What is in a protected slice has no name in the plan.
    slices = any(entry.name.endswith(".slice") for entry in plan.protect)
    for when, alive in _first_blows(group):
        if when - boottime >= began - LATE:
            names = [name for name in alive if slices or plan.match(name)]
            running.update(name for name in names if plan.match(name) or not plan.keeps(name))
    try:
        from quantum_ess import systemd  # jeepney may be broken: the record must not depend on it

        with systemd.Manager(PATIENCE + len(plan.protect) / 500) as manager:
            state = manager.get("/org/freedesktop/systemd1", "Manager", "SystemState")
            account.shutdown = state == "stopping"
            # Never 0, the stamp of a unit that has not come to rest in this boot.
            began = max(_first_reaction(manager, group, began), MARGIN)
            rested = {}
            for unit in systemd.covered(manager, plan):
                # At rest, a unit may be forgotten any time since it was listed; the kill knows it.
                with suppress(systemd.Refused):
                    stamp = _stamp(manager, unit.path, "InactiveEnterTimestampMonotonic")
                    rested[unit.name] = stamp
                    if stamp >= began or not unit.at_rest:
                        running.add(unit.name)
                    if unit.active == "failed" and unit.name in running:
                        manager.reset_failed(unit.name)
        noted = (left_at or math.inf) - _ahead(time.CLOCK_REALTIME)
        if noted < began - BROKEN_INTO and not record.under_way(group):
            # Of a release that was killed before: the units' stamps tell what has run since. One
            # that this stop has just broken into may have had units stopped a little before it.
            left = [name for name in left if rested.get(name, 0) <= noted]
    except Exception as error:  # also whatever a broken module raises on import
        account.unknown = True
        account.problems.append(f"units that ran are not fully known: {error}")
    told = (record.load(group.run + "/releasing") or {}).get("ran", left)
    account.listed = set(left) - running - set(told)
    running |= set(left)
    return sorted(running, key=lambda name: (plan.position(name), name))


def _first_reaction(manager: Manager, group: Group, began: float) -> float:
    """When PID 1 began to stop units, if that was before the flag's time as it is known.

    It may come before `halt` has set the flag (the activation is a unit) and before anybody has
    noted when a flag was seen that has gone again. Of one transaction PID 1 runs the jobs of
    targets before those of services (unit_compare_priority in its source), and those of timers
    right before them.
    """
    path = manager.load(group.halt)
    stamp = _stamp(manager, path, "InactiveExitTimestampMonotonic") - MARGIN
    active = manager.get(path, "Unit", "ActiveState") == "active"
    return stamp if began - (SLOW if active else RECENT) < stamp < began else began


def ran(group: Group) -> tuple[list[str], set[str]] | None:
    """Units that ran when the flag was set, in the order of restart, of a stop not yet on record;
    and those of them that are known to have run, not only to be started by a release.

    None if that can't be known, or if no blow is: then nobody has carried it out.
    """
    from quantum_ess import activate, plan

    if not _first_blows(group):
        return None
    stop = activate.Outcome(latch.found(group), activate.Strike(plan.read(group)))
    account = Account()
    began = _began(group, latch.since(group)[1], stop.flag.monotonic, stop.strike.began)
    running = _running(group, stop, began, [], account)
    known = running or not os.path.lexists(group.restored)  # as in _record
    return (running, set(running) - account.listed) if known and not account.problems else None


def _modified(path: str) -> float | None:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return None


def _stamp(manager: Manager, path: str, name: str) -> float:
    """A monotonic time stamp of a unit, in seconds."""
    return float(manager.get(path, "Unit", name)) / 1e6


def releasing(group: Group) -> list[str]:
    """Units that a release under way was going to start, [] if there is none."""
    found = record.load(group.run + "/releasing")
    return list((found or {}).get("running", []))


def _witness(group: Group, request: Request, outcome: Outcome, account: Account) -> None:
    """Note that the flag was seen: from now on its absence is a release.

    Not if there never was one, because only the record could be written.
    """
    # And not unless root alone can have removed it.
    there = latch.secure(group) or not latch.shared(group)
    if there and (request.trigger == "flag" or outcome.flag.inode is not None):
        _try(account, "run directory", lambda: _see(group))
    latch.fill(group)


def _see(group: Group) -> None:
    """As strike's see. A flag that has gone was seen by others, if in another directory maybe."""
    if not os.path.lexists(group.flag) and record.text(group.seen):
        return
    directory = os.path.dirname(group.flag)
    status = os.lstat(directory)
    seen = f"{status.st_dev} {status.st_ino}"
    with suppress(OSError):
        seen += f" {os.lstat(f'{directory}/.here').st_ino}"
    with open(group.seen, "w", encoding="ascii") as file, suppress(OSError):
        file.write(seen + "\n")


def _try(account: Account, what: str, action: Any) -> bool:
    try:
        action()
    except OSError as error:
        account.problems.append(f"{what} not written: {error.strerror} ({error.filename})")
        return False
    return True
