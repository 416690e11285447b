"""What `check` looks at, gathered once: units and their properties from PID 1, processes, files.

Every call is bounded, and the whole by one deadline; what could not be learnt is a problem of its
own, never silence.
"""

from __future__ import annotations

import os
import time
from functools import cached_property
from itertools import filterfalse
from typing import Any, NamedTuple

from quantum_ess import actor, systemd, unitnames
from quantum_ess import plan as plans
from quantum_ess.group import Group
from quantum_ess.systemd import Manager, Refused, Unit, Unreachable
from quantum_ess.unitfiles import UnitFiles

LIMIT = 15.0  # seconds for everything
SERVICE, UNIT = "Service", "Unit"
Properties = dict[str, Any]


class Process(NamedTuple):
    """A process: its control group as /proc says, and the unit that this makes it part of."""

    pid: int
    uid: int
    name: str
    unit: str


class Facts:
    """One host at one moment. Raises Unreachable if PID 1 does not answer within the limit."""

    def __init__(self, group: Group, manager: Manager) -> None:
        self.group = group
        self.plan = plans.read(group)
        self._manager = manager
        self._deadline = time.monotonic() + LIMIT
        self._known: dict[str, Properties] = {}
        self.loaded = {unit.name: unit for unit in manager.units([])}
        self.manager = self._properties("/org/freedesktop/systemd1", "Manager")

    def unit(self, name: str) -> Properties:
        """All properties of a unit, of its type's interface too; {} if systemd can't load it."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> Properties:
        try:
            path = self.loaded[name].path if name in self.loaded else self._manager.load(name)
            found = self._properties(path, UNIT)
            kind = name.rpartition(".")[2].capitalize()
            if found.get("LoadState") == "loaded":
                found.update(self._properties(path, kind))
            return found
        except Refused:
            return {}

    def _properties(self, path: str, interface: str) -> Properties:
        if time.monotonic() > self._deadline:
            raise self._late()
        return self._manager.get_all(path, interface)

    def _late(self) -> Unreachable:
        return Unreachable(f"PID 1 took more than {LIMIT:g} s for all of it")

    def ask(self, name: str, interface: str, key: str) -> Any:
        """One property of a unit, cheaper than all; None if systemd can't load it."""
        if time.monotonic() > self._deadline:
            raise self._late()
        try:
            path = self.loaded[name].path if name in self.loaded else self._manager.load(name)
            return self._manager.get(path, interface, key)
        except Refused:
            return None

    @cached_property
    def protected(self) -> list[str]:
        """Protected units: those that the plan names, and the loaded ones that its patterns take
        in, each under its own name and once."""
        literal = [e.name for e in self.plan.protect if not plans.is_pattern(e.name)]
        names = [*literal, *filter(self.plan.match, self.loaded)]
        return list(dict.fromkeys(self.real(name) for name in names))

    @cached_property
    def covered(self) -> list[str]:
        """The loaded ones of these, and what lies in a protected slice."""
        return [unit.name for unit in systemd.covered(self._manager, self.plan)]

    @cached_property
    def kept(self) -> list[str]:
        """Kept units that are loaded."""
        return [name for name in self.loaded if self.plan.keeps(name) and not self.protects(name)]

    def real(self, name: str) -> str:
        """The unit behind an alias; the name itself if it is none."""
        return str(self.unit(name).get("Id", name))

    def protects(self, name: str) -> bool:
        """Whether the plan stops that unit."""
        return self.plan.match(name) is not None

    def services(self) -> list[tuple[str, Properties]]:
        """The protected services that systemd could load."""
        named = [(name, self.unit(name)) for name in self.protected if name.endswith(".service")]
        return [(name, known) for name, known in named if known.get("LoadState") == "loaded"]

    def services_with(self, setting: str) -> list[str]:
        """Services that may have that setting, protected or not: the loaded ones, and of those
        that are only installed, which PID 1 would have to load first, the ones whose files do."""
        files = UnitFiles()
        names = filterfalse(unitnames.is_template, files.names.difference(self.loaded))
        installed = {n for n in names if files.real(n) == n and files.has_setting(n, setting)}
        return sorted(n for n in installed.union(self.loaded) if n.endswith(".service"))

    def is_loaded(self, name: str) -> Unit | None:
        """The unit's row if PID 1 has it in memory."""
        return self.loaded.get(name)

    def runs(self, name: str) -> bool:
        """Whether it runs, or is about to."""
        row = self.loaded.get(name)
        return row is not None and not row.at_rest

    @cached_property
    def processes(self) -> list[Process]:
        """Every process of the host."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    uid = entry.stat().st_uid
                    with open(f"{entry.path}/comm", encoding="utf-8", errors="replace") as file:
                        name = file.read().strip()
                    found.append(Process(int(entry.name), uid, name, _unit_of(entry.path)))
                except OSError:
                    continue  # it has ended
        return found

    def users(self) -> dict[int, str]:
        """Users that protected services run as, root not among them: uid to name."""
        found = {}
        for _, known in self.services():
            user = str(known.get("User") or "root")
            uid = int(user) if user.isdecimal() else actor.number(user)
            if uid:
                found[uid] = actor.name(uid)
        return found


def _unit_of(proc: str) -> str:
    """The system unit that a process belongs to, by its control group; "" if to none."""
    with open(f"{proc}/cgroup", encoding="utf-8", errors="replace") as file:
        paths = [line.rstrip("\n").split(":", 2)[2] for line in file if line.count(":") >= 2]
    for part in (max(paths, key=len) if paths else "").split("/"):
        name = part.removeprefix("_")
        if name.endswith((".service", ".scope", ".socket", ".mount", ".swap")):
            return name
    return ""
