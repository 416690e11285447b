"""What the unit directories say: which units exist, which name is an alias of which.

After systemd.unit(5), "Unit File Load Path". Nothing here asks PID 1, so it works in a generator.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from functools import cached_property

from quantum_ess import unitnames
from quantum_ess.errors import passing

# In order of precedence. The generators' own directories are left out: they are being rewritten
# while a generator runs.
SEARCH_PATH = (
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",  # of portable services, portablectl(1)
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
)
_SAME = {"/lib/systemd/system": "/usr/lib/systemd/system"}
# PID 1 keeps a link "invocation:UNIT" here for each unit that runs.
RUNNING = "/run/systemd/units"
_LINK_DIRECTORIES = (".wants", ".requires", ".upholds")
_MOST_LINKS = 8
_YES = ("1", "yes", "y", "true", "t", "on")


class UnitFiles:
    """The unit directories of this host, or of the one whose root directory is given."""

    def __init__(self, root: str = "/", known: Iterable[str] = ()) -> None:
        """known: further names."""
        self._root = root.rstrip("/")
        self._known = known

    @cached_property
    def names(self) -> frozenset[str]:
        """Every unit and template of a type to protect: installed, enabled or running."""
        found: set[str] = set(self._known)
        for directory, entries in self._entries.items():
            for entry in entries:
                found.add(entry)
                if entry.endswith(_LINK_DIRECTORIES):
                    found.update(_listing(f"{self._root}{directory}/{entry}"))
                elif entry.endswith(".d"):  # may be all that tells of an instance
                    instance = entry.removesuffix(".d")
                    found.update([instance] if unitnames.template_of(instance) else [])
        found.update(entry.partition(":")[2] for entry in _listing(self._root + RUNNING))
        return frozenset(filter(_is_unit, found))

    @cached_property
    def _entries(self) -> dict[str, frozenset[str]]:
        """What is in each directory, in order of precedence."""
        return {path: frozenset(_listing(self._root + path)) for path in SEARCH_PATH}

    @cached_property
    def _aliases(self) -> dict[str, list[str]]:
        """The further names of each unit and template."""
        found: dict[str, list[str]] = {}
        for name in sorted(filter(_is_unit, set().union(*self._entries.values()))):
            real = self.real(name)
            if real != name:
                found.setdefault(real, []).append(name)
        return found

    def matching(self, pattern: str) -> list[str]:
        """The names that match the pattern, sorted."""
        return sorted(name for name in self.names if unitnames.matches(pattern, name))

    def real(self, name: str) -> str:
        """The unit that the name stands for: its own name unless it is an alias."""
        for _ in range(_MOST_LINKS):
            target = self._linked(name) or self._linked_template(name)
            if target in ("", name):
                break
            name = target
        return name

    def has_own_root(self, name: str) -> bool:
        """Whether its conditions run in a RootDirectory= or RootImage=, systemd.exec(5), or on an
        empty root by TemporaryFileSystem=, of which RootDirectoryStartOnly= says nothing."""
        directory = image = ""
        start_only = empty = False
        for path in self.paths(name):
            for key, value in self._service_section(path):
                match key:
                    case "RootDirectory":
                        directory = value
                    case "RootImage":
                        image = value
                    case "RootDirectoryStartOnly":
                        start_only = value.lower() in _YES
                    case "TemporaryFileSystem":
                        empty = value != "" and (empty or any(map(_is_root, value.split())))
        return empty or (not start_only and (directory not in ("", "/") or image != ""))

    def has_setting(self, name: str, setting: str) -> bool:
        """Whether a file of the service has that setting, whatever its value."""
        lines = (line for path in self.paths(name) for line in self._service_section(path))
        return any(key == setting for key, _ in lines)

    def paths(self, name: str) -> list[str]:
        """The unit file and then its drop-ins, in the order in which they are read."""
        real = self.real(name)
        names = filter(None, (real, unitnames.template_of(real)))
        files = (
            f"{path}/{each}" for each in names for path in SEARCH_PATH if self._has(path, each)
        )
        found: dict[str, str] = {}
        for directory in self._drop_in_directories(real):
            for entry in _listing(self._root + directory):
                if entry.endswith(".conf"):
                    found.setdefault(entry, f"{directory}/{entry}")
        first = [path for path in files if os.path.exists(self._root + path)][:1]
        return first + [found[entry] for entry in sorted(found)]

    def _drop_in_directories(self, real: str) -> Iterator[str]:
        """Where PID 1 looks for drop-ins: of files of the same name the first one counts."""
        template = unitnames.template_of(real)
        aliases = list(self._aliases.get(real, []))
        for name in self._aliases.get(template, []) if template else []:
            aliases.append(name.replace("@.", f"@{unitnames.instance_of(real)}.", 1))
        for name in (real, *aliases):
            chain = list(unitnames.drop_in_names(name))
            for path in SEARCH_PATH:
                yield from (f"{path}/{each}.d" for each in chain if self._has(path, f"{each}.d"))
        of_the_type = f"{unitnames.unit_type(real)}.d"
        yield from (f"{path}/{of_the_type}" for path in SEARCH_PATH if self._has(path, of_the_type))

    def _has(self, directory: str, entry: str) -> bool:
        return entry in self._entries[directory]

    def _service_section(self, path: str) -> Iterator[tuple[str, str]]:
        """The assignments in [Service] of that file, systemd.syntax(7)."""
        section = begun = ""
        for line in self._lines(path):
            if line.lstrip().startswith(("#", ";")):
                continue
            line = begun + line.rstrip("\n")
            begun = f"{line[:-1]} " if line.endswith("\\") else ""
            if begun:
                continue
            if line.lstrip().startswith("["):
                section = line.strip()
            elif section == "[Service]":
                key, _, value = line.partition("=")
                yield key.strip(), value.strip()

    def _lines(self, path: str) -> Iterator[str]:
        try:
            with open(self._root + path, encoding="utf-8", errors="replace") as file:
                yield from file
        except OSError as error:
            _absent(error)

    def _linked(self, name: str) -> str:
        """The name that the unit file links to; the name itself if it is a file, empty if none."""
        for directory in SEARCH_PATH:
            if not self._has(directory, name):
                continue
            try:
                link = os.readlink(f"{self._root}{directory}/{name}")
            except OSError as error:
                _absent(error)
                if error.errno == errno.EINVAL:  # a file, not a link
                    return name
                continue
            return _alias(name, directory, link)
        return ""

    def _linked_template(self, name: str) -> str:
        template = unitnames.template_of(name)
        target = self._linked(template) if template else ""
        if target in ("", template) or not unitnames.is_template(target):
            return target and name
        return target.replace("@.", f"@{unitnames.instance_of(name)}.", 1)


def _is_root(entry: str) -> bool:
    """Whether that PATH[:OPTIONS] mounts something on the root directory."""
    path = entry.strip("\"'").partition(":")[0]
    return path != "" and path.strip("/") == ""


def _alias(name: str, directory: str, link: str) -> str:
    parent, target = os.path.split(os.path.normpath(os.path.join(directory, link)))
    # A link that leads out of the unit directories installs a unit under the link's own name.
    if _SAME.get(parent, parent) not in SEARCH_PATH or not _is_unit(target):
        return name
    if unitnames.is_template(target) and unitnames.template_of(name):
        return target.replace("@.", f"@{unitnames.instance_of(name)}.", 1)
    return target


def _listing(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        _absent(error)
        return []


def _absent(error: OSError) -> None:
    """Raises that error if what was looked for may be there: the last gate is better than half."""
    if passing(error):
        raise error


def _is_unit(name: str) -> bool:
    """Whether a unit, or a template's instance, can have that name; a file can have any."""
    whole = name.replace("@.", "@x.") if unitnames.is_template(name) else name
    try:
        return not unitnames.is_pattern(name) and unitnames.normalise(whole) == whole
    except ValueError:
        return False
