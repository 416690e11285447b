"""Hardening: each service's exposure, as systemd counts, is at most what docs/security.md says."""

import re

from conftest import CHECKOUT
from host import Host

ROW = re.compile(r"\| `(quantum-ess\S*\.service)` \| ([\d.]+) \| ([\d.]+) \|")


def test_exposure_is_as_documented(host: Host) -> None:
    documented = ROW.findall((CHECKOUT / "docs/security.md").read_text())
    assert len(documented) >= 7
    for unit, twelve, thirteen in documented:
        most = float(twelve if host.release == "bookworm" else thirteen)
        name = unit.replace("@", "@x")
        said = host.run("systemd-analyze", "security", "--no-pager", name).stdout
        found = re.search(r"exposure level for \S+: ([\d.]+)", said)
        assert found and float(found[1]) <= most, (unit, said)
