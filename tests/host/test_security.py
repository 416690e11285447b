"""Hardening: each service's exposure, as systemd counts, is at most what docs/security.md says."""

import fnmatch
import os
import re
from pathlib import Path

from conftest import CHECKOUT
from host import Host

CAP_SYS_RESOURCE = 24  # capabilities(7)
ROW = re.compile(r"\| (.*`quantum-ess\S*\.service`) \| ([\d.]+) \| ([\d.]+) \|")


def test_exposure_is_as_documented(host: Host) -> None:
    most: dict[str, float] = {}
    units = {file.name for file in (CHECKOUT / "debian/systemd").glob("*.service")}
    for names, twelve, thirteen in ROW.findall((CHECKOUT / "docs/security.md").read_text()):
        for name in re.findall("`(.*?)`", names):
            figure = float(twelve if host.release == "bookworm" else thirteen)
            most |= dict.fromkeys(fnmatch.filter(units, name), figure)
    assert most.keys() == units
    for unit, figure in most.items():
        name = unit.replace("@", "@x")
        said = host.run("systemd-analyze", "security", "--no-pager", name).stdout
        found = re.search(r"exposure level for \S+: ([\d.]+)", said)
        assert found and float(found[1]) <= figure, (unit, said)


def test_the_resident_is_the_last_to_go_short(host: Host) -> None:
    """Of memory and of processor time, all of its processes, sched(7) and proc(5).

    Where the machine outside may not lower an oom_score_adj (CAP_SYS_RESOURCE), systemd in a
    container goes on without; there it is only seen to ask for it.
    """
    unit = "quantum-ess-sentry.service"
    assert host.properties(unit, "OOMScoreAdjust") == {"OOMScoreAdjust": "-1000"}
    capabilities = re.search(r"^CapBnd:\s*(\w+)", Path("/proc/self/status").read_text(), re.M)
    assert capabilities
    lowers = int(capabilities[1], 16) >> CAP_SYS_RESOURCE & 1
    pids = host.processes(unit)
    assert pids
    for pid in pids:
        try:
            adjusted = Path(f"/proc/{pid}/oom_score_adj").read_text()
            assert adjusted == ("-1000\n" if lowers else "0\n")
            assert os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
            assert os.sched_getparam(pid).sched_priority == 50
        except (FileNotFoundError, ProcessLookupError):
            continue  # a sleep(1) of a second
