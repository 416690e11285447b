"""The package's version is written twice, in debian/changelog and in the module: once is enough."""

import re
from pathlib import Path

import quantum_ess


def test_changelog_and_module_agree() -> None:
    for directory in Path(__file__).resolve().parents:
        if (changelog := directory / "debian/changelog").exists():
            break
    written = re.match(r"quantum-ess \((.+?)\)", changelog.read_text())
    assert written is not None
    assert written[1].partition("~")[0] == quantum_ess.__version__
