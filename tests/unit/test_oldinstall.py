"""What an older installation has left, on a host that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantum_ess import migrate, oldinstall
from quantum_ess.oldinstall import OURS

ETC = "/etc/systemd/system"


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name in ("quantum-ess-watch.service", "quantum-ess-canary-normal.service.d/gate.conf"):
        put(str(tmp_path), f"{OURS}/{name}")
    return str(tmp_path)


def put(root: str, path: str) -> None:
    file = Path(root + path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_a_drop_in_of_a_canary_is_no_older_installation(root: str) -> None:
    """The package ships one, in a directory of that name."""
    put(root, f"{ETC}/quantum-ess-canary-normal.service.d/override.conf")
    assert oldinstall.find(root).steps == ()


def test_drop_ins_of_our_units_are_told_and_left(root: str) -> None:
    paths = [f"{ETC}/quantum-ess-watch.service{end}" for end in ("", ".d/a.conf", ".d/a.conf.bak")]
    for path in paths:
        put(root, path)
    found = oldinstall.find(root)
    assert [step.path for step in found.steps] == paths[:1]
    said: list[str] = []
    migrate.show(found, said.append)
    assert [line.strip() for line in said].count(paths[1]) == 1
    migrate.apply(found, said.append, root)
    assert [Path(root + path).exists() for path in paths] == [False, True, True]
