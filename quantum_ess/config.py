"""The configuration: quantum-ess.conf(5) as a value.

The fields of Config and of the classes in NAMED are the table of options: adding one is adding a
line there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from quantum_ess import configvalues as values
from quantum_ess import unitnames
from quantum_ess.configfile import Word
from quantum_ess.configoption import Option, option, options_of
from quantum_ess.errors import ConfigError
from quantum_ess.guard.condition import ACTIONS, Condition, parse_rearm

MAIN = "/etc/quantum-ess/quantum-ess.conf"
DROP_INS = MAIN + ".d"
MOST_GRACE = 1.5  # seconds: everything must be dead in 2

Origins = Mapping[tuple[str, str, str], Word]


@dataclass(frozen=True, slots=True)
class UnitStop:
    """How to stop one unit or pattern. None: as [stop] says. Grace in seconds."""

    name: str
    stop_category: int | None = option(
        "unit", "stop_category", values.category, "", "0: kill at once; 1: SIGTERM, grace, kill"
    )
    grace: float | None = option(
        "unit", "grace", values.span(0, MOST_GRACE), "", "from SIGTERM to the kill in category 1"
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. Time spans in seconds, names in full."""

    protect: tuple[str, ...] = option(
        "protect",
        "units",
        values.protected_unit,
        "quantum-ai-engine quantum-execution quantum-apply-layer quantum-governor",
        "units to stop and hold down",
        many=True,
    )
    keep: tuple[str, ...] = option(
        "keep",
        "units",
        values.unit,
        "grafana-server quantum-rl-monitor redis-server prometheus",
        "units not to touch",
        many=True,
    )
    stop_category: int = option(
        "stop", "stop_category", values.category, "0", "0: kill at once; 1: SIGTERM, grace, kill"
    )
    grace: float = option(
        "stop", "grace", values.span(0, MOST_GRACE), "0", "from SIGTERM to the kill in category 1"
    )
    order: tuple[str, ...] = option(
        "resume", "order", values.protected_unit, "", "what to restart first", many=True
    )
    what: str = option(
        "resume", "what", values.choice("running", "enabled", "none"), "running", "what to restart"
    )
    settle: float = option(
        "resume", "settle", values.span(0, 60), "500ms", "how long a unit must stay up"
    )
    timeout: float = option(
        "resume", "timeout", values.span(0.1, 3600), "60s", "how long a unit may take to come up"
    )
    redis_enabled: bool = option(
        "redis", "enabled", values.boolean, "yes", "whether to keep a marker in Redis"
    )
    redis_url: str = option(
        "redis", "url", values.url, "redis://127.0.0.1:6379/0", "where Redis is"
    )
    redis_timeout: float = option(
        "redis", "timeout", values.span(0.001, 10), "500ms", "how long Redis may take"
    )
    redis_username: str | None = option("redis", "username", values.word, "", "user of Redis's ACL")
    redis_password_file: str | None = option(
        "redis", "password_file", values.path, "", "file with the password, for root only"
    )
    redis_sentinel: tuple[str, ...] = option(
        "redis", "sentinel", values.address, "", "Sentinels to ask for the master", many=True
    )
    redis_master: str | None = option(
        "redis", "master", values.word, "", "the name that Sentinel has for the master"
    )
    redis_ca_file: str | None = option(
        "redis", "ca_file", values.path, "", "certificates that sign the server's, for TLS"
    )
    redis_cert_file: str | None = option(
        "redis", "cert_file", values.path, "", "our certificate, for TLS"
    )
    redis_key_file: str | None = option(
        "redis", "key_file", values.path, "", "its key, for root only"
    )
    drill_overdue: float = option(
        "drill",
        "overdue",
        values.span(0, 366 * 86400),
        "8d",
        "age at which a drill is due; 0: never",
    )
    hooks_timeout: float = option(
        "hooks", "timeout", values.span(0.1, 3600), "30s", "how long a hook may take"
    )
    guard_mode: str = option(
        "guard", "mode", values.choice("shadow", "enforce"), "shadow", "only report, or act"
    )
    guard_poll: float = option(
        "guard", "poll", values.span(0.05, 60), "1s", "how often everything is read"
    )
    guard_repeat: float = option(
        "guard", "repeat", values.span(0.05, 3600), "5s", "unchanged data count as new after this"
    )
    guard_unknown: str = option(
        "guard", "unknown", ACTIONS, "warn", "what to do if a value is not known"
    )
    guard_unknown_for: float = option(
        "guard", "unknown_for", values.span(0, 86400), "1min", "how long it may be unknown"
    )
    guard_rearm_after: float = option(
        "guard", "rearm_after", parse_rearm, "15min", "when a condition acts again after a release"
    )
    guard_redis_down: str = option(
        "guard", "redis_down", ACTIONS, "ignore", "what to do if Redis does not answer"
    )
    guard_redis_down_for: float = option(
        "guard", "redis_down_for", values.span(1, 86400), "30s", "how long it may not answer"
    )
    stop_group: str | None = option(
        "access", "stop_group", values.group, "", "whose members may activate without root"
    )
    units: tuple[UnitStop, ...] = ()
    conditions: tuple[Condition, ...] = ()
    origins: Origins = field(default_factory=dict, repr=False, compare=False)

    def origin(self, section: str, key: str, name: str) -> Word:
        """Where a name in a list comes from; line 0 for a default."""
        return self.origins.get((section, key, name), Word(name, "built-in defaults", 0))

    def kept(self, name: str) -> bool:
        """Whether the unit, or all that the pattern stands for, is not to be touched."""
        return any(unitnames.matches(kept, name) for kept in self.keep)

    def covers(self, name: str) -> bool:
        """Whether [protect] names the unit or pattern, or has a pattern that takes it in."""
        return any(unitnames.matches(entry, name) for entry in self.protect)

    def stop_of(self, name: str, alias: str = "") -> tuple[int, float]:
        """Stop category and grace in seconds of a unit or pattern.

        A unit's own section counts, else that of the alias by which it is protected; else the last
        one whose pattern takes in either; else [stop].
        """
        names = [name, alias] if alias else [name]
        single = [each for each in reversed(names) if not unitnames.is_pattern(each)]
        own = [entry for each in single for entry in self.units if entry.name == each]
        taking_in = [
            entry
            for entry in self.units
            if any(unitnames.matches(entry.name, each) for each in names)
        ]
        chosen = (own or taking_in or [UnitStop("")])[-1]
        category = self.stop_category if chosen.stop_category is None else chosen.stop_category
        grace = self.grace if chosen.grace is None else chosen.grace
        return category, grace if category else 0.0


class Named(NamedTuple):
    """A kind of section that there may be many of: ``[KIND NAME]``.

    table: the dataclass, whose first field is the name. parse: the name's text to the name, raises
    ValueError. attribute: where Config has them.
    """

    table: type
    parse: Callable[[str], str]
    attribute: str
    doc: str  # what the name is of

    @property
    def options(self) -> dict[tuple[str, str], tuple[str, Option]]:
        """Its keys."""
        return options_of(self.table)


TABLE = options_of(Config)
NAMED = {
    "unit": Named(UnitStop, values.protected_unit, "units", "unit's"),
    "condition": Named(Condition, values.name, "conditions", "condition's"),
}


def options() -> list[Option]:
    """Every option that there is."""
    tables = (TABLE, *(named.options for named in NAMED.values()))
    return [found for table in tables for _, found in table.values()]


def default_paths(root: str = "") -> list[str]:
    """The files that are there: the main one, then its drop-ins in the order of their names.

    Raises ConfigError for a directory that cannot be listed.
    """
    main, directory = root + MAIN, root + DROP_INS
    paths = [main] if os.path.lexists(main) else []
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise ConfigError(directory, 0, f"cannot be listed: {error.strerror}") from None
    drop_ins = [name for name in names if name.endswith(".conf") and not name.startswith(".")]
    return paths + [f"{directory}/{name}" for name in drop_ins]


def load(paths: Sequence[str] | None = None) -> Config:
    """The configuration in force if these files are read in this order; none: the defaults.

    Raises ConfigError for the first error, with every further one in ``others``.
    """
    from quantum_ess.configload import Loading

    loading = Loading()
    for path in default_paths() if paths is None else paths:
        loading.read(path)
    return loading.config()
