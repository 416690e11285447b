"""The configuration: quantum-ess.conf(5) as a value.

The fields of Config and UnitStop are the table of options: adding one is adding a line there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from quantum_ess import configvalues as values
from quantum_ess import unitnames
from quantum_ess.configfile import Word
from quantum_ess.errors import ConfigError

MAIN = "/etc/quantum-ess/quantum-ess.conf"
DROP_INS = MAIN + ".d"
MOST_GRACE = 1.5  # seconds: everything must be dead in 2

Origins = Mapping[tuple[str, str, str], Word]


class Option(NamedTuple):
    """One option: where it stands, how its text becomes a value, its default as text."""

    section: str
    key: str
    parse: Callable[[str], Any]
    default: str
    doc: str
    many: bool = False


def _option(
    section: str,
    key: str,
    parse: Callable[[str], Any],
    default: str,
    doc: str,
    many: bool = False,
) -> Any:
    """A field that is an option, with its default; None if that is empty text."""
    value: Any = tuple(map(parse, default.split())) if many else None
    if default and not many:
        value = parse(default)
    option = Option(section, key, parse, default, doc, many)
    return field(default=value, metadata={"option": option})


@dataclass(frozen=True, slots=True)
class UnitStop:
    """How to stop one unit or pattern. None: as [stop] says. Grace in seconds."""

    name: str
    stop_category: int | None = _option(
        "unit", "stop_category", values.category, "", "0: kill at once; 1: SIGTERM, grace, kill"
    )
    grace: float | None = _option(
        "unit", "grace", values.span(0, MOST_GRACE), "", "from SIGTERM to the kill in category 1"
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. Time spans in seconds, names in full."""

    protect: tuple[str, ...] = _option(
        "protect",
        "units",
        values.protected_unit,
        "quantum-ai-engine quantum-execution quantum-apply-layer quantum-governor",
        "units to stop and hold down",
        many=True,
    )
    keep: tuple[str, ...] = _option(
        "keep",
        "units",
        values.unit,
        "grafana-server quantum-rl-monitor redis-server prometheus",
        "units not to touch",
        many=True,
    )
    stop_category: int = _option(
        "stop", "stop_category", values.category, "0", "0: kill at once; 1: SIGTERM, grace, kill"
    )
    grace: float = _option(
        "stop", "grace", values.span(0, MOST_GRACE), "0", "from SIGTERM to the kill in category 1"
    )
    order: tuple[str, ...] = _option(
        "resume", "order", values.protected_unit, "", "what to restart first", many=True
    )
    what: str = _option(
        "resume", "what", values.choice("running", "enabled", "none"), "running", "what to restart"
    )
    settle: float = _option(
        "resume", "settle", values.span(0, 60), "500ms", "how long a unit must stay up"
    )
    timeout: float = _option(
        "resume", "timeout", values.span(0.1, 3600), "60s", "how long a unit may take to come up"
    )
    redis_enabled: bool = _option(
        "redis", "enabled", values.boolean, "yes", "whether to keep a marker in Redis"
    )
    redis_url: str = _option(
        "redis", "url", values.url, "redis://127.0.0.1:6379/0", "where Redis is"
    )
    redis_timeout: float = _option(
        "redis", "timeout", values.span(0.001, 10), "500ms", "how long Redis may take"
    )
    units: tuple[UnitStop, ...] = ()
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

    def stop_of(self, name: str) -> tuple[int, float]:
        """Stop category and grace in seconds of a unit or pattern.

        Its own section counts; else the last one whose pattern takes it in; else [stop].
        """
        own = [entry for entry in self.units if entry.name == name]
        taking_in = [entry for entry in self.units if unitnames.matches(entry.name, name)]
        chosen = (own or taking_in or [UnitStop("")])[-1]
        category = self.stop_category if chosen.stop_category is None else chosen.stop_category
        grace = self.grace if chosen.grace is None else chosen.grace
        return category, grace if category else 0.0

    def plan(self) -> str:
        """The text of the plan, without the aliases that only a host's unit files tell."""
        from quantum_ess.compiler import Compiled

        return Compiled(self).plan()


def _options(table: type) -> dict[tuple[str, str], tuple[str, Option]]:
    rows = ((row.name, row.metadata.get("option")) for row in fields(table))
    return {(option.section, option.key): (name, option) for name, option in rows if option}


TABLE = _options(Config)
UNIT_TABLE = _options(UnitStop)


def options() -> list[Option]:
    """Every option that there is."""
    return [option for _, option in (*TABLE.values(), *UNIT_TABLE.values())]


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
