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
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
)
_SAME = {"/lib/systemd/system": "/usr/lib/systemd/system"}
# PID 1 keeps a link "invocation:UNIT" here for each unit that runs.
RUNNING = "/run/systemd/units"
_LINK_DIRECTORIES = (".wants", ".requires", ".upholds")
_MOST_LINKS = 8


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
        for directory in SEARCH_PATH:
            for entry in _listing(self._root + directory):
                found.add(entry)
                if entry.endswith(_LINK_DIRECTORIES):
                    found.update(_listing(f"{self._root}{directory}/{entry}"))
        found.update(entry.partition(":")[2] for entry in _listing(self._root + RUNNING))
        return frozenset(filter(_is_unit, found))

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
        """Whether the service runs below a RootDirectory= or in a RootImage=."""
        root = ""
        for line in self._lines(self.real(name)):
            key, _, value = line.partition("=")
            if key.strip() in ("RootDirectory", "RootImage"):
                root = value.strip()
        return root not in ("", "/")

    def _lines(self, name: str) -> Iterator[str]:
        """Every line of the unit file and then of its drop-ins."""
        names = list(filter(None, (name, unitnames.template_of(name))))
        files = [f"{directory}/{each}" for each in names for directory in SEARCH_PATH]
        paths = [next((path for path in files if os.path.exists(self._root + path)), "")]
        drop_ins = {
            entry: f"{path}.d/{entry}" for path in reversed(files) for entry in self._conf(path)
        }
        paths += [drop_ins[entry] for entry in sorted(drop_ins)]
        for path in filter(None, paths):
            try:
                with open(self._root + path, encoding="utf-8", errors="replace") as file:
                    yield from file
            except OSError as error:
                _absent(error)

    def _conf(self, path: str) -> list[str]:
        listing = _listing(f"{self._root}{path}.d")
        return [entry for entry in listing if entry.endswith(".conf")]

    def _linked(self, name: str) -> str:
        """The name that the unit file links to; the name itself if it is a file, empty if none."""
        for directory in SEARCH_PATH:
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
    try:
        return unitnames.is_template(name) or unitnames.normalise(name) == name
    except ValueError:
        return False
