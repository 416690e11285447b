"""A configuration and the unit directories, compiled into a plan: which units, exactly.

Used by the generator; the stop path reads the plan's text only (quantum_ess.plan).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from quantum_ess import unitnames
from quantum_ess.config import TABLE, Config
from quantum_ess.configvalues import milliseconds
from quantum_ess.errors import ConfigError
from quantum_ess.unitfiles import UnitFiles

HEADER = "quantum-ess-plan 1"


class Compiled:
    """A configuration on a host; on no host if files is None, then nothing is looked up.

    Raises ConfigError: a protected name is an alias of a unit that must not be stopped.
    """

    def __init__(self, config: Config, files: UnitFiles | None = None) -> None:
        self.config = config
        self._files = files
        self._named_by: dict[str, str] = {}  # real unit: what the configuration says
        self._behind_aliases: dict[str, list[tuple[str, str]]] = {}
        self.keep = tuple(dict.fromkeys(self._kept()))
        self.protected = tuple(dict.fromkeys(self._rows(self._singled_out)))
        self._order = tuple(dict.fromkeys(self._rows(self._inside)))
        self.patterns = tuple(filter(unitnames.is_pattern, self.protected))

    @cached_property
    def known(self) -> dict[str, bool]:
        """Names on this host that a protected pattern takes in: whether they are to be stopped."""
        if self._files is None or not self.patterns:
            return {}
        names = {name for pattern in self.patterns for name in self._files.matching(pattern)}
        return {name: self._stopped(name) for name in sorted(names)}

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Every single unit to be stopped that is known by name, in the order of restart."""
        named = [name for name in self.protected if not unitnames.is_pattern(name)]
        found = [name for name, stopped in self.known.items() if stopped]
        found = [name for name in found if not unitnames.is_template(name)]
        return tuple(dict.fromkeys(named + found))

    def excluded(self, name: str) -> bool:
        """Whether a pattern that takes in the name must leave it alone all the same."""
        kept = any(unitnames.matches(entry, name) for entry in self.keep)
        return kept or unitnames.is_own(name) or unitnames.is_system(name)

    def has_own_root(self, name: str) -> bool:
        """Whether a service is known to run in a root directory of its own."""
        return self._files is not None and self._files.has_own_root(name)

    def plan(self) -> str:
        """The text of the plan (docs/design.md)."""
        lines = [HEADER]
        for name in self.protected:
            category, grace = self.config.stop_of(name, self._named_by.get(name, ""))
            lines.append(f"protect {name} {category} {milliseconds(grace)}")
        if self._order != self.protected:
            lines += [f"order {name}" for name in self._order]
        lines += [f"keep {name}" for name in self.keep]
        lines += [f"set {key} {value}" for key, value in self._settings()]
        return "\n".join([*lines, "end"]) + "\n"

    def _settings(self) -> Iterator[tuple[str, str]]:
        """The options that run time needs: time spans in milliseconds, switches as yes and no."""
        for (section, key), (field, option) in TABLE.items():
            value = getattr(self.config, field)
            if section == "redis" and option.many:
                value = " ".join(value)
            if option.many and not (section == "redis" and value):
                continue
            if section in ("stop", "guard") or value is None:
                continue
            if (section, key) == ("redis", "url") and not self.config.redis_enabled:
                value = "-"
            if isinstance(value, bool):
                yield f"{section}.{key}", "yes" if value else "no"
            elif isinstance(value, float):
                yield f"{section}.{key}_ms", str(milliseconds(value))
            else:
                yield f"{section}.{key}", str(value)

    def _rows(self, sections: Callable[[str], list[str]]) -> Iterator[str]:
        """The names and patterns to protect, each after those of `sections` and followed by what
        its aliases stand for."""
        for entry in dict.fromkeys((*self.config.order, *self.config.protect)):
            for name in (*sections(entry), entry):
                real = self.real(name)
                if self.excluded(real):
                    raise self._wrong_alias(name, real)
                yield name
                if real != name:
                    self._named_by.setdefault(real, name)
                    yield real
                yield from self._behind(name)

    def _singled_out(self, entry: str) -> list[str]:
        """What [unit] sections say of patterns, before every pattern; names first, the last section
        before: of the plan's rows the first one counts.

        Of a section that stands for more than is protected, the protected patterns in it.
        """
        if not unitnames.is_pattern(entry):
            return []
        config, lists = self.config, (*self.config.order, *self.config.protect)
        found: list[str] = []
        for stop in reversed(config.units):
            if unitnames.is_pattern(stop.name) and not config.covers(stop.name):
                found += [name for name in lists if unitnames.matches(stop.name, name)]
            elif unitnames.is_pattern(stop.name) or stop.name not in lists:
                found.append(stop.name)
        return sorted(dict.fromkeys(found), key=unitnames.is_pattern)

    def _inside(self, entry: str) -> list[str]:
        """Those that the pattern takes in, and that have no place of their own in the order."""
        config = self.config
        named = {*config.order, *config.protect}
        own = [stop.name for stop in reversed(config.units) if stop.name not in named]
        inside = [name for name in own if unitnames.matches(entry, name)]
        return sorted(inside, key=unitnames.is_pattern)

    def _kept(self) -> Iterator[str]:
        named = {*self.config.order, *self.config.protect}
        for entry in self.config.keep:
            yield entry
            yield self.real(entry)
            yield from (real for _, real in self._aliases(entry) if real not in named)

    def _stands_for(self, entry: str, name: str) -> bool:
        """Whether a name or pattern is, or takes in, an alias of that unit."""
        return self.real(entry) == name or name in dict(self._aliases(entry)).values()

    def _behind(self, pattern: str) -> Iterator[str]:
        """Units that a protected pattern takes in only by an alias."""
        for name, real in self._aliases(pattern):
            left_alone = self.excluded(name) or self.excluded(real)
            if not left_alone and not self.config.covers(real):
                self._named_by.setdefault(real, name)
                yield real

    def _aliases(self, pattern: str) -> list[tuple[str, str]]:
        """The aliases on this host that a pattern takes in, and what they stand for."""
        if pattern not in self._behind_aliases:
            self._behind_aliases[pattern] = list(self._find_aliases(pattern))
        return self._behind_aliases[pattern]

    def _find_aliases(self, pattern: str) -> Iterator[tuple[str, str]]:
        if self._files is None or not unitnames.is_pattern(pattern):
            return
        template = unitnames.template_of(pattern)
        whole = not unitnames.is_pattern(template)  # else the "@" may be one of "[@a]"
        spelt_out = [template] if template in self._files.names else []
        for name in dict.fromkeys((*self._files.matching(pattern), *spelt_out)):
            real = self.real(name)
            if unitnames.is_template(real):  # instances bear its name: all that fit the pattern
                instances = (whole and unitnames.instance_of(pattern)) or "*"
                name, real = (each.replace("@.", f"@{instances}.", 1) for each in (name, real))
                if unitnames.is_system(real):
                    continue
            if real != name:
                yield name, real

    def _stopped(self, name: str) -> bool:
        return not (self.excluded(name) or self.excluded(self.real(name)))

    def real(self, name: str) -> str:
        """The unit that a name stands for, if this host says so."""
        if self._files is None or unitnames.is_pattern(name):
            return name
        return self._files.real(name)

    def _wrong_alias(self, name: str, real: str) -> ConfigError:
        places = (("protect", "units"), ("resume", "order"), ("unit", ""))
        origins = [self.config.origin(*place, name) for place in places]
        place = next((origin for origin in origins if origin.line), origins[0])
        if name == real:
            kept = next(filter(lambda each: self._stands_for(each, name), self.config.keep), "")
            there = self.config.origin("keep", "units", kept)
            place = place if place.line else there
            return place.error(f"{name} is both protected and kept, by {kept} in [keep]")
        return place.error(f"{name} is an alias of {real}, which must not be stopped")
