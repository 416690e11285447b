"""A made-up host: a root directory with a configuration and unit files, and nothing running."""

from __future__ import annotations

from pathlib import Path

from quantum_ess import gate
from quantum_ess.compiler import Compiled
from quantum_ess.config import load
from quantum_ess.group import Group
from quantum_ess.unitfiles import UnitFiles

# Not parents[2]: the package build runs the tests in a copy of tests/ further down.
PARENTS = Path(__file__).resolve().parents
HERE = next(path for path in PARENTS if (path / "etc/quantum-ess.conf").exists())


class Host:
    """A root directory with a configuration and unit files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.early = root / "early"
        self.early.mkdir()
        self.units = root / "etc/systemd/system"
        self.units.mkdir(parents=True)
        self.run = root / "run/quantum-ess"

    def configure(self, text: str) -> None:
        path = self.root / "etc/quantum-ess/quantum-ess.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def unit(self, *names: str, text: str = "") -> None:
        for name in names:
            path = self.units / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def alias(self, name: str, target: str) -> None:
        path = self.units / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)

    def compiled(self) -> Compiled:
        path = self.root / "etc/quantum-ess/quantum-ess.conf"
        return Compiled(load([str(path)]), UnitFiles(str(self.root)))

    def tree(self) -> dict[str, str]:
        return gate.tree(self.compiled())

    def plan(self) -> list[str]:
        """The plan's protect and keep lines."""
        lines = self.compiled().plan().splitlines()[1:]
        return [line for line in lines if line.startswith(("protect ", "keep "))]


def group_below(directory: Path) -> Group:
    """A group all of whose files are below that directory."""
    for name in ("run", "state"):
        (directory / name).mkdir()
    return Group(f"{directory}/flag", f"{directory}/run", f"{directory}/state")


def of(tree: dict[str, str], name: str) -> str:
    """A unit's drop-in."""
    return tree.get(f"{name}.d/{gate.DROP_IN}", "absent")
