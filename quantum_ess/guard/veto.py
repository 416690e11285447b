"""What the guard has to say before a deactivation: a condition that tripped must be fine by now."""

from __future__ import annotations

from quantum_ess import account, actor, record
from quantum_ess.errors import StillBreached
from quantum_ess.group import Group
from quantum_ess.guard import state
from quantum_ess.guard.evaluate import FINE
from quantum_ess.trail import Trail


def ask(group: Group, override: bool, reason: str) -> list[str]:
    """Notes for the operator. Raises StillBreached unless it is overridden, which is recorded."""
    if not group.latched():
        return []
    known = record.load(group.record) or {}
    objections, notes = _objections(group, known)
    if not objections:
        return notes
    if not override:
        raise StillBreached(
            f"not released: {'; '.join([*objections, *notes])}",
            hint='mend it, or: quantum-ess deactivate --override --reason "why"',
        )
    notes += _record(group, str(known.get("incident", "")), objections, reason)
    return [*notes, *(f"overridden: {each}" for each in objections)]


def _record(group: Group, incident: str, objections: list[str], reason: str) -> list[str]:
    """Keep who overrode what and why, in the trail and in the history; what went wrong with it."""
    about = {"trigger": "command", "actor": actor.current(), "reason": reason}
    trail = Trail(group, incident, about)
    trail.log("override", f"ESS GUARD OVERRIDDEN: {'; '.join(objections)} (reason: {reason})")
    kept = account.Account()
    kept.incident = incident
    account.remember(group, kept, "override", {**about, "objections": objections})
    return [*kept.notes, *kept.problems, *trail.lost]


def _objections(group: Group, known: record.Record) -> tuple[list[str], list[str]]:
    data = state.read(group)
    health = state.health(group, data)
    if health == "off":
        return [], []
    rows = (data or {"conditions": []})["conditions"]
    tripped = [row for row in rows if row.get("objects") and row.get("mode") == "enforce"]
    if health == "running":
        return [f"{r['name']}: {r['finding']}" for r in tripped if r["state"] != FINE], []
    names = {str(row.get("name")) for row in tripped}
    return _without_guard(group, names | _by_record(known), health)


def _by_record(known: record.Record) -> set[str]:
    """The condition that the incident's own reason names, if the guard set the flag."""
    words = str(known.get("reason", "")).split(" ", 2)
    if known.get("trigger") == "guard" and words[0] == "condition" and len(words) > 1:
        return {words[1].removesuffix(":")}
    return set()


def _without_guard(group: Group, tripped: set[str], health: str) -> tuple[list[str], list[str]]:
    """Look here and now at what tripped, since nobody else does."""
    notes = [f"the guard: {health}; looked once instead"]
    if not tripped:
        return [], notes
    from quantum_ess.guard import once, rules

    try:
        found = rules.read(state.rules_path(group))
    except (OSError, ValueError) as error:
        unread = f"the guard's rules can't be read: {error}"
        return [f"{name}: {unread}" for name in sorted(tripped)], notes
    watches = once.look(found)[0] if found else []
    return [
        watch.reason()
        for watch in watches
        if watch.rule.name in tripped
        and watch.rule.mode == "enforce"
        and watch.evaluator.state != FINE
    ], notes
