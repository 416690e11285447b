"""What others see of the guard: guard.json (docs/design.md), lines of status, a table."""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any

from quantum_ess.group import Group
from quantum_ess.guard.evaluate import UNKNOWN, Watch, shown

VERSION = 1
WATCHDOG = 5.0  # seconds, as WatchdogSec= of the unit
LONGEST = 1 << 22
State = dict[str, Any]


def path(group: Group) -> str:
    """Where the guard says what it sees."""
    return group.run + "/guard.json"


def rules_path(group: Group) -> str:
    """Where the rules in force are; there only if there is something to guard."""
    return group.run + "/guard-plan"


def boottime() -> float:
    """Seconds since boot, suspended or not: the same clock for whoever reads the state."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def condition(watch: Watch) -> State:
    """One condition as guard.json gives it."""
    rule, evaluator = watch.rule, watch.evaluator
    reading, now = evaluator.reading, time.monotonic()
    since_reading = None if reading is None else now - reading.time
    data_age = None
    if reading is not None and reading.age is not None and since_reading is not None:
        data_age = reading.age + since_reading
    has_limit = rule.what not in ("missing", "failed", "down", "redis-down")
    row = {
        "name": rule.name,
        "mode": rule.mode,
        "what": rule.what,
        "source": rule.source,
        "state": evaluator.state,
        "value": evaluator.value,
        "shown": None if evaluator.value is None else shown(rule, evaluator.value),
        "bound": rule.bound,
        "limit": rule.limit.number if has_limit else None,
        "operator": rule.limit.operator if has_limit else "",
        "unit": "%" if rule.what == "pressure" else rule.limit.kind,
        "breached_seconds": _since(evaluator.breached_since, now),
        "unknown_seconds": _since(evaluator.unknown_since, now),
        "data_age": data_age,
        "reading_age": since_reading,
        "armed": watch.armed,
        "tripped": watch.tripped,
        "objects": watch.objects,
        "problem": evaluator.problem or None,
        "finding": watch.finding(),
    }
    if watch.disarmed is not None:
        row["disarmed_seconds"] = _since(watch.disarmed, now)
    if evaluator.pardoned is not None:
        row["pardoned_seconds"] = max(0.0, evaluator.pardoned - now)
    extreme = evaluator.extreme.remembered()
    if extreme is not None and not evaluator.lost:
        row["extreme"] = extreme
    return {key: _rounded(value) for key, value in row.items()}


def _since(start: float | None, now: float) -> float | None:
    return None if start is None else max(0.0, now - start)


def _rounded(value: Any) -> Any:
    """Numbers that JSON can hold."""
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    return value


def write(group: Group, data: State) -> None:
    """Replace guard.json. Raises OSError. No fsync: /run is memory."""
    whole = path(group)
    draft = f"{whole}.{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(draft, flags, 0o644), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        json.dump(data, file)
    os.rename(draft, whole)


def read(group: Group) -> State | None:
    """What the guard last wrote, with its age added; None if there is nothing usable."""
    try:
        fd = os.open(path(group), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            data = json.loads(file.read(LONGEST))
        if data["version"] != VERSION or not isinstance(data["conditions"], list):
            return None
        data["age"] = boottime() - float(data["boottime"])
        return dict(data)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def health(group: Group, data: State | None) -> str:
    """``off`` (nothing to guard), ``running``, or what is wrong with it."""
    if not os.path.lexists(rules_path(group)):
        return "off"
    if data is None:
        return "not running"
    if data.get("stopped"):
        return "stopped"
    if data["age"] > data.get("watchdog", WATCHDOG) or data["age"] < -1:
        return f"no sign of life for {data['age']:.0f} s"
    return "running"


def summary(group: Group) -> State:
    """The ``guard`` member of ``status --json``; ``state`` is health()."""
    data = read(group)
    said = health(group, data)
    if said == "off":
        return {"state": "off", "conditions": []}
    kept = ("pid", "started", "time", "age", "poll", "redis", "conditions", "last", "problem")
    return {"state": said, "conditions": [], **{k: data[k] for k in kept if data and k in data}}


def problems(guard: State) -> list[str]:
    """What `status` warns of."""
    found = []
    if guard["state"] not in ("off", "running"):
        found.append(f"the guard: {guard['state']}; systemctl restart quantum-ess-guard")
    if guard.get("problem"):
        found.append(f"the guard: {guard['problem']}")
    for row in guard["conditions"]:
        if row.get("state") == UNKNOWN and row.get("warned"):
            found.append(f"condition {row['name']}: {row.get('finding')}")
    redis = guard.get("redis") or {}
    if redis.get("state") == "down" and redis.get("warned"):
        found.append(f"the guard: Redis does not answer: {redis.get('problem')}")
    return found


def lines(guard: State) -> list[str]:
    """The guard's lines in `status`."""
    if guard["state"] == "off":
        return ["Guard:     off: no condition is configured"]
    redis = guard.get("redis")
    how = guard["state"]
    if redis:
        pushed = ", changes are pushed" if redis.get("push") else ""
        how += f", Redis {redis.get('state')}{pushed if redis.get('state') == 'up' else ''}"
    return [f"Guard:     {how}", *table(guard["conditions"])]


def table(rows: list[State]) -> list[str]:
    """Conditions as a table: name, mode, state, value against limit, since when, data's age."""
    cells = [
        (
            str(row["name"]),
            str(row["mode"]),
            _state(row),
            f"{row['source']} {row['shown'] if row['shown'] is not None else '?'}",
            f"limit {row['bound']}",
            _remarks(row),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)] if cells else []
    padded = [[f"{c:{w}}" for c, w in zip(row, widths, strict=True)] for row in cells]
    return ["  " + "  ".join(row).rstrip() for row in padded]


def _state(row: State) -> str:
    for key in ("breached_seconds", "unknown_seconds"):
        if row[key] is not None and row["state"] == key.partition("_")[0]:
            return f"{row['state']} {row[key]:.0f} s"
    return str(row["state"])


def _remarks(row: State) -> str:
    said = [] if row["data_age"] is None else [f"data {row['data_age']:.1f} s old"]
    if row["problem"]:
        said.append(str(row["problem"]))
    if row["tripped"]:
        said.append("tripped")
    elif not row["armed"]:
        said.append("not armed")
    return "; ".join(said)
