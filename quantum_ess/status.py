"""Status: what is latched, since when, by whom, and what every unit does.

Needs neither root nor D-Bus nor a valid configuration: what could not be read is said.
"""

from __future__ import annotations

import os
import time
from typing import Any

from quantum_ess import actor, cgroup, lastdrill, latch, record, stage
from quantum_ess import plan as plans
from quantum_ess.errors import shown
from quantum_ess.group import Group
from quantum_ess.guard import state as guards
from quantum_ess.plan import Plan

WATCHERS = ("quantum-ess.path", "quantum-ess-watch.timer", "quantum-ess-sentry.service")
STATES = ("LoadState", "ActiveState", "SubState")
Units = dict[str, str]


def collect(group: Group) -> dict[str, Any]:
    """Everything that `status --json` prints (documented in quantum-ess(8)). Raises nothing."""
    plan = plans.read(group)
    problems: list[str] = []
    active = group.latched()
    states = _states(plan, problems)
    if group.latched() != active:  # in the middle of a stop or of a release
        active = not active
        problems.clear()
        states = _states(plan, problems)
    kept = [name for name in states if plan.keeps(name) and not plan.match(name)]
    protected = [name for name in states if plan.match(name)]
    data: dict[str, Any] = {
        "status": "ACTIVE" if active else "INACTIVE",
        "latch": {
            "flag": os.path.lexists(group.flag),
            "record": os.path.lexists(group.record),
        },
        "incident": None,
        **(_incident(group, problems) if active else {}),
        "protected": [{"unit": name, "state": states[name]} for name in protected],
        "kept": [{"unit": name, "state": states[name]} for name in kept],
        "guard": guards.summary(group),
        "config": {"plan": plan.source, "error": _config_error(group, plan)},
    }
    problems += guards.problems(data["guard"])
    problems += [
        f"{name} is {states[name]}: {_watch_hint(name)}"
        for name in WATCHERS
        if not states.get(name, "active").startswith("active")
    ]
    if not active and os.path.lexists(group.run + "/releasing"):
        problems.append("a release is under way or was interrupted: see quantum-ess deactivate")
    if active:
        problems += [
            f"{name} is RUNNING although ESS is active"
            for name in protected
            if states[name].startswith(("active", "running", "reloading"))
        ]
    data["drill"] = lastdrill.state(plan)
    if data["drill"]["failures"]:
        problems.append(f"the last drill FAILED: {'; '.join(data['drill']['failures'])}")
    if denied := record.text(group.run + "/access-error"):
        problems.append(denied)
    for name in ("hook-problem", "notify-problem"):
        kind = {"hook-problem": "hook failed", "notify-problem": "notification not sent"}[name]
        lines = record.text(f"{group.run}/{name}", record.LONGEST).splitlines()
        problems += [f"{kind}: {line}" for line in lines]
    data["problems"] = problems
    return data


def _watch_hint(name: str) -> str:
    lost = "the flag is seen later" if name.endswith(".service") else "the flag is not watched"
    return f"{lost}; systemctl enable --now {name}"


def _incident(group: Group, problems: list[str]) -> dict[str, Any]:
    known = record.load(group.record)
    if known is None:
        problems.append(f"{group.record} is not there (yet): a reboot would open the latch")
    elif "incident" not in known:
        problems.append(f"{group.record} can't be read; it latches all the same")
    elif stage.of(group, known["incident"]) != stage.COMPLETE:
        problems.append(f"the audit trail is not complete (yet): {stage.HINT}")
    known = known or {}
    since, epoch = latch.since(group) if os.path.lexists(group.flag) else (None, None)
    who = known.get("actor") or actor.owner(group.flag)
    return {
        "incident": known.get("incident") or latch.incident(latch.inode(group)),
        "since": known.get("since", since),
        "seconds": _age(known.get("epoch", epoch)),
        "trigger": known.get("trigger", "flag"),
        "actor": who,
        "reason": known.get("reason", ""),
        "stop_ms": known.get("stop_ms"),
    }


def _age(epoch: float | None) -> int | None:
    return None if epoch is None else max(0, int(time.time() - epoch))


def _config_error(group: Group, plan: Plan) -> str | None:
    error = record.text(group.run + "/config-error")
    if error:
        return error
    if plan.source != group.plans[0]:
        return (
            f"the plan in force comes from {plan.source}; systemctl daemon-reload makes a new one"
        )
    return None


def _states(plan: Plan, problems: list[str]) -> Units:
    """State of each protected, kept and watching unit: by systemd, else by the cgroups."""
    names = [entry.name for entry in plan.protect] + plan.keep
    states = {name: "unknown" for name in names if not plans.is_pattern(name)}
    try:
        from quantum_ess.systemd import Manager, Refused, Unreachable
    except Exception as error:  # a broken jeepney must not hide the latch
        return _by_cgroup(plan, states, problems, f"jeepney: {error}")
    try:
        with Manager(timeout=2.0) as manager:
            known = {u.name: u for u in manager.units([*names, *WATCHERS])}
            for name in states:
                if name not in known:
                    path = manager.load(name)  # an alias too, which systemd does not list
                    load, active, sub = (str(manager.get(path, "Unit", key)) for key in STATES)
                    states[name] = _phrase(load, active, sub)
    except (Unreachable, Refused) as error:
        return _by_cgroup(plan, states, problems, str(error))
    states.update({name: _phrase(u.load, u.active, u.sub) for name, u in known.items()})
    states.update({name: "inactive" for name in WATCHERS if name not in known})
    return states


def _phrase(load: str, active: str, sub: str) -> str:
    if load != "loaded" and active == "inactive":
        return load
    return active if sub in (active, "dead", "failed") else f"{active} ({sub})"


def _by_cgroup(plan: Plan, states: Units, problems: list[str], why: str) -> Units:
    problems.append(f"systemd could not be asked ({why}); states are those of the cgroups")
    for name in states:
        states[name] = "no processes" if plan.match(name) else "unknown"
    for found in cgroup.find(plan):
        alive = cgroup.populated(found.path)
        states[found.unit] = "running" if alive else "no processes"
    return states


def render(data: dict[str, Any], paint: bool) -> str:
    """The text for people; first line exactly `ESS Status: ACTIVE` or `ESS Status: INACTIVE`."""
    first = f"ESS Status: {data['status']}"
    if paint:
        first = f"\033[1;{31 if data['status'] == 'ACTIVE' else 32}m{first}\033[0m"
    lines = []
    if data["status"] == "ACTIVE":
        lines += [
            f"Since:     {data['since']}{_ago(data['seconds'])}",
            f"By:        {actor.describe(data['actor'])}, trigger: {data['trigger']}",
            f"Reason:    {data['reason'] or '(none given)'}",
            f"Incident:  {data['incident']}",
        ]
    for title in ("protected", "kept"):
        lines.append(f"{title.capitalize()} units:")
        width = max((len(row["unit"]) for row in data[title]), default=0)
        lines += [f"  {row['unit']:{width}}  {row['state']}" for row in data[title]]
    lines += guards.lines(data["guard"])
    lines.append(f"Drill:     {_drill(data['drill'])}")
    if data["config"]["error"]:
        lines.append(f"Config:    last good configuration in force; {data['config']['error']}")
    lines += [f"Warning:   {problem}" for problem in data["problems"]]
    if data["status"] == "ACTIVE":
        lines.append("To resume: quantum-ess deactivate")
    return "\n".join([first, *(shown(line).replace("\n", "?") for line in lines)])


def _drill(last: dict[str, Any]) -> str:
    """When the last drill was and how it ended."""
    due = "; OVERDUE: quantum-ess drill" if last["overdue"] else ""
    if last["time"] is None:
        return f"never{due}"
    return f"{last['result']}, {last['time']}{_ago(last['seconds'])}{due}"


def _ago(seconds: int | None) -> str:
    if seconds is None:
        return ""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (secs, "s")]
    shown = [f"{n} {unit}" for n, unit in parts if n][:2]
    return f" ({' '.join(shown) or '0 s'} ago)"
