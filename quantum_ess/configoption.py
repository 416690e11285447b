"""What an option of the configuration is: a field of a dataclass, with all that is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, NamedTuple


class Option(NamedTuple):
    """One option: where it stands, how its text becomes a value, its default as text."""

    section: str
    key: str
    parse: Callable[[str], Any]
    default: str
    doc: str
    many: bool = False


def option(
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
    row = Option(section, key, parse, default, doc, many)
    return field(default=value, metadata={"option": row})


def options_of(table: type) -> dict[tuple[str, str], tuple[str, Option]]:
    """The options of a dataclass: section and key to the field's name and the option."""
    rows = ((row.name, row.metadata.get("option")) for row in fields(table))
    return {(found.section, found.key): (name, found) for name, found in rows if found}
