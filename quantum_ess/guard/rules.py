"""The guard's part of the configuration, compiled: written by the generator, read by the guard.

One JSON object (docs/design.md). It is there only if there is something to guard.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from quantum_ess.guard.condition import Limit

if TYPE_CHECKING:
    from quantum_ess.config import Config
    from quantum_ess.guard.condition import Condition

VERSION = 1
FILE = "quantum-ess.guard"  # in the generator's tree; /run/quantum-ess/guard-plan is in force
LONGEST = 1 << 22
DOWN = "redis-down"
NO_LIMIT = Limit(">", 0.0)
CALM = {"value": 2, "drop": 2, "rise": 2, "age": 2}  # samples in a row unless the operator says


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition, every default filled in. Spans in seconds."""

    name: str
    what: str
    mode: str
    redis: str = ""
    type: str = "auto"
    field: str = ""
    timestamp: str = ""
    max_age: float = math.inf
    unit: str = ""
    pressure: str = ""
    share: str = "some"
    average: str = "10s"
    limit: Limit = NO_LIMIT
    window: float = math.inf
    lasting: float = 0.0
    samples: int = 1
    unknown: str = "warn"
    unknown_for: float = 60.0
    rearm_after: float = 900.0

    @property
    def on_redis(self) -> bool:
        """Whether it is about what Redis holds, or about Redis itself."""
        return bool(self.redis) or self.what == DOWN

    @property
    def source(self) -> str:
        """What it looks at, for people."""
        if self.what == DOWN:
            return "Redis"
        if self.unit:
            return self.unit
        if self.pressure:
            return f"pressure {self.pressure} {self.share} avg{self.average.removesuffix('s')}"
        return f"{self.redis} {self.field}".strip()

    @property
    def bound(self) -> str:
        """What may not be, for people."""
        match self.what:
            case "missing" | "failed" | "down":
                return f"{self.what} for {span(self.lasting)}"
            case "redis-down":
                return f"no answer for {span(self.lasting)}"
            case "drop" | "rise":
                over = "" if math.isinf(self.window) else f" in {span(self.window)}"
                return f"{self.what} {self.limit}{over}"
            case "restarts":
                return f"restarts {self.limit} in {span(self.window)}"
            case "age" | "unchanged":
                return f"{self.what} {self.limit.operator} {span(self.limit.number)}"
            case "pressure":
                return f"{self.limit.operator} {self.limit.number:g}%"
        return str(self.limit)


@dataclass(frozen=True, slots=True)
class Rules:
    """All that the guard is told. redis: options for quantum_ess.redisclient.Settings."""

    poll: float = 1.0
    repeat: float = 5.0
    redis: dict[str, str] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    @property
    def uses_redis(self) -> bool:
        """Whether anything is read from Redis, or its absence counts."""
        return any(rule.on_redis for rule in self.rules)


def span(seconds: float) -> str:
    """A time span for people: 500 ms, 30 s, 5 min."""
    if seconds < 1:
        return f"{1000 * seconds:g} ms"
    if seconds >= 120 and seconds % 60 == 0:
        return f"{seconds / 60:g} min"
    return f"{seconds:g} s"


def of(config: Config) -> Rules:
    """The rules of a configuration."""
    rules = [_rule(config, condition) for condition in config.conditions]
    if config.guard_redis_down != "ignore":
        act = config.guard_redis_down == "activate"
        lasting = config.guard_redis_down_for
        mode = config.guard_mode if act else "warn"
        rearm = config.guard_rearm_after
        rules.append(Rule(DOWN, DOWN, mode, lasting=lasting, rearm_after=rearm, unknown="ignore"))
    return Rules(config.guard_poll, config.guard_repeat, redis_options(config), tuple(rules))


def redis_options(config: Config) -> dict[str, str]:
    """What quantum_ess.redisclient needs to know, by the names that it has in a plan."""
    from quantum_ess.config import TABLE

    found: dict[str, str] = {}
    for (section, key), (name, option) in TABLE.items():
        value = getattr(config, name)
        if section != "redis" or value is None or key == "enabled":
            continue
        if key == "timeout":
            found["redis.timeout_ms"] = str(max(1, round(1000 * value)))
        elif value:
            found[f"redis.{key}"] = " ".join(value) if option.many else str(value)
    return found


def _rule(config: Config, condition: Condition) -> Rule:
    given: dict[str, Any] = {
        name: getattr(condition, name)
        for name in (row.name for row in fields(condition))
        if name in Rule.__slots__ and getattr(condition, name) is not None
    }
    what = condition.what
    fall_back = {
        "mode": config.guard_mode,
        "unknown": config.guard_unknown,
        "unknown_for": config.guard_unknown_for,
        "rearm_after": config.guard_rearm_after,
        "samples": CALM.get(what, 1) if condition.lasting is None else 1,
    }
    return Rule(**{**fall_back, **given, "what": what})


def text(rules: Rules) -> str:
    """The file's content; "" if there is nothing to guard."""
    if not rules.rules:
        return ""
    data = {"version": VERSION, **asdict(rules)}
    data["rules"] = [_finite(asdict(rule)) for rule in rules.rules]
    return json.dumps(data, indent=1) + "\n"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Without what JSON can't hold: infinite is what is left out."""
    return {key: value for key, value in row.items() if value != math.inf}


def parse(content: str) -> Rules:
    """Rules from the file's content. Raises ValueError."""
    try:
        data = json.loads(content)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}")
        rules = tuple(_row(row) for row in data["rules"])
        redis = {str(key): str(value) for key, value in data["redis"].items()}
        return Rules(float(data["poll"]), float(data["repeat"]), redis, rules)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not the guard's rules: {error!r}") from None


def _row(row: dict[str, Any]) -> Rule:
    limit = row.get("limit", (">", 0.0, ""))
    rest = {key: value for key, value in row.items() if key != "limit"}
    infinite = {key: math.inf for key in ("window", "rearm_after") if key not in rest}
    return Rule(
        **{**rest, **infinite, "limit": Limit(str(limit[0]), float(limit[1]), str(limit[2]))}
    )


def read(path: str) -> Rules | None:
    """Rules in that file, None if there is no such file. Raises ValueError, OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, encoding="utf-8") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST:
            raise ValueError(f"{path} is not the guard's rules")
        return parse(file.read())


def mark(path: str) -> tuple[int, int] | None:
    """What tells one version of the file from the next."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
