"""Configuration files into one Config: merged as systemd merges drop-ins, then checked as a whole.

Lists add up over the files and an empty assignment empties them; anything else is overridden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from quantum_ess import configfile, unitnames
from quantum_ess import configvalues as values
from quantum_ess.config import NAMED, TABLE, Config
from quantum_ess.configfile import Assignment, Word
from quantum_ess.configoption import Option
from quantum_ess.errors import ConfigError
from quantum_ess.guard import configcheck

_SECTIONS = list(dict.fromkeys(section for section, _ in TABLE))


class Loading:
    """What has been read so far. Errors are collected, so that all can be shown at once."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._named: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in NAMED}
        self._origins: dict[tuple[str, str, str], Word] = {}
        self._errors: list[ConfigError] = []

    def read(self, path: str) -> None:
        """Read one more file."""
        try:
            assignments = configfile.read(path)
        except ConfigError as error:
            self._errors += [error, *error.others]
            return
        self.take(assignments)

    def take(self, assignments: Iterable[Assignment]) -> None:
        """Merge the assignments of one file."""
        headers: set[str] = set()
        name = ""
        for assignment in assignments:
            kind = _kind(assignment.section)
            if not assignment.key:
                name = self._header(assignment, headers)
            elif kind:
                if name:
                    self._assign(assignment, NAMED[kind].options, kind, name)
            elif assignment.section in _SECTIONS:
                self._assign(assignment, TABLE, assignment.section, "")

    def config(self) -> Config:
        """The configuration. Raises ConfigError."""
        sections: dict[str, Any] = {
            NAMED[kind].attribute: tuple(
                NAMED[kind].table(name, **found) for name, found in self._named[kind].items()
            )
            for kind in NAMED
        }
        config = Config(**self._values, **sections, origins=self._origins)
        errors = self._errors or list(_conflicts(config))
        if errors:
            errors[0].others = tuple(errors[1:])
            raise errors[0]
        return config

    def _header(self, header: Assignment, seen: set[str]) -> str:
        """Check a section header; the name if it is a section with one."""
        section, place = header.section, header.place._replace(text=header.section)
        kind = _kind(section)
        if not kind:
            if section not in _SECTIONS:
                self._errors.append(place.error(_unknown_section(section)))
            return ""
        try:
            name = NAMED[kind].parse(section.removeprefix(kind).strip())
            if f"{kind} {name}" in seen:
                raise ValueError(f"[{kind} {name}] is here twice; put its keys together")
        except ValueError as error:
            self._errors.append(place.error(str(error)))
            return ""
        seen.add(f"{kind} {name}")
        self._named[kind].setdefault(name, {})
        self._origins.setdefault((kind, "", name), place)
        return name

    def _assign(
        self,
        assignment: Assignment,
        table: dict[tuple[str, str], tuple[str, Option]],
        section: str,
        name: str,
    ) -> None:
        row = table.get((section, assignment.key))
        if row is None:
            message = _unknown_key(section, assignment.key, table)
            self._errors.append(assignment.place.error(message))
            return
        field, option = row
        target = self._named[section][name] if name else self._values
        self._origins[section, assignment.key, name] = assignment.place
        if option.many:
            target[field] = self._extended(target.get(field, ()), assignment, option)
        elif not assignment.text:
            target.pop(field, None)
        else:
            target.update(self._parsed(field, assignment, option))

    def _extended(
        self, before: tuple[Any, ...], assignment: Assignment, option: Option
    ) -> tuple[Any, ...]:
        """The list with the assignment's words added; empty after an empty assignment."""
        if not assignment.text:
            for value in before:
                self._origins.pop((option.section, option.key, value), None)
            return ()
        found = list(before)
        for word in assignment.words:
            try:
                value = option.parse(word.text)
            except ValueError as error:
                self._errors.append(word.error(f"{assignment.key}: {error}"))
                continue
            self._origins.setdefault((option.section, option.key, value), word)
            found.append(value)
        return tuple(dict.fromkeys(found))

    def _parsed(self, field: str, assignment: Assignment, option: Option) -> dict[str, Any]:
        try:
            return {field: option.parse(assignment.text)}
        except ValueError as error:
            self._errors.append(assignment.place.error(f"{assignment.key}: {error}"))
            return {}


def _kind(section: str) -> str:
    """The kind of a section with a name; "" for any other."""
    kind, space, _ = section.partition(" ")
    return kind if space and kind in NAMED else ""


def _unknown_section(section: str) -> str:
    known = [*_SECTIONS, *(f"{kind} NAME" for kind in NAMED)]
    if section in NAMED:
        return f"[{section}] lacks the {NAMED[section].doc} name: [{section} NAME]"
    return f"[{section[:40]}] is not a section{_nearest(section, known, '[{}]')}"


def _unknown_key(section: str, key: str, table: dict[tuple[str, str], Any]) -> str:
    here = [name for where, name in table if where == section]
    tables = (TABLE, *(named.options for named in NAMED.values()))
    elsewhere = [where for each in tables for where, name in each if name == key]
    if elsewhere and not _close(key, here):
        return f"{key!r} is not a key of [{section}]; it belongs in [{elsewhere[0]}]"
    return f"{key[:40]!r} is not a key of [{section}]{_nearest(key, here, '{!r}')}"


def _close(word: str, known: list[str]) -> bool:
    from difflib import get_close_matches

    return bool(get_close_matches(word, known, 1, 0.8))


def _nearest(word: str, known: list[str], form: str) -> str:
    from difflib import get_close_matches  # only errors pay for it

    near = get_close_matches(word.lower(), known, 1)
    if near:
        return f"; did you mean {form.format(near[0])}?"
    return "; expected " + " or ".join(form.format(name) for name in known)


def _conflicts(config: Config) -> Iterator[ConfigError]:
    """What no single line shows to be wrong."""
    if not config.protect:
        place = config.origin("protect", "units", "")
        yield place.error("[protect] units is empty: nothing would be stopped")
    yield from _kept(config)
    yield from _strangers(config)
    yield from _graces(config)
    yield from configcheck.errors(config)


def _kept(config: Config) -> Iterator[ConfigError]:
    """Protected and kept: a kept name only wins over a pattern that takes it in."""
    for name in config.protect:
        for kept in config.keep:
            if unitnames.matches(kept, name):
                here = config.origin("protect", "units", name)
                there = config.origin("keep", "units", kept)
                place, other = (here, there) if here.line else (there, here)
                by = "" if kept == name else f" (by {kept})"
                where = f"{other.file}:{other.line}" if other.line else other.file
                yield place.error(f"{name} is both protected and kept{by}, see {where}")


def _strangers(config: Config) -> Iterator[ConfigError]:
    """Names that only make sense for a protected unit."""
    for name in config.order:
        if not config.covers(name) or config.kept(name):
            place = config.origin("resume", "order", name)
            yield place.error(f"order: {name} is not protected")
    for stop in config.units:
        taken_in = any(unitnames.matches(stop.name, name) for name in config.protect)
        if not (config.covers(stop.name) or taken_in) or config.kept(stop.name):
            place = config.origin("unit", "", stop.name)
            yield place.error(f"[unit {stop.name}]: not protected")


def _graces(config: Config) -> Iterator[ConfigError]:
    """A grace that is never given, and category 1 without one."""
    without = "grace only has an effect with stop_category = 1"
    needs = f"stop category 1 needs a grace, up to {values.shown(1.5)}"
    if config.stop_category and not config.grace:
        yield config.origin("stop", "stop_category", "").error(needs)
    inherited = any(stop.stop_category == 1 and stop.grace is None for stop in config.units)
    if config.grace and not (config.stop_category or inherited):
        yield config.origin("stop", "grace", "").error(without)
    for stop in config.units:
        category = config.stop_category if stop.stop_category is None else stop.stop_category
        grace = config.grace if stop.grace is None else stop.grace
        if category and not grace:
            key = "grace" if stop.grace == 0 else "stop_category"
            yield config.origin("unit", key, stop.name).error(needs)
        elif stop.grace and not category:
            yield config.origin("unit", "grace", stop.name).error(without)
