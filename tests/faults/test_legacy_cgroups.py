"""A host with cgroup v1, where there is no cgroup.kill, or with both (hybrid): the same guarantees.

https://systemd.io/CGROUP_DELEGATION, "Three Different Tree Setups".
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.conftest import Table
from faults.fault import COMMAND, Fault
from faults.matrix import Measured, stop
from faults.pressure import OVERLOAD
from faults.services import BUS_HUNG, JOURNALD_HUNG, PID1_HUNG, SENTRY_STOPPED
from faults.software import PYTHON_MISSING
from host import Host
from kinds import FOUR, KEPT, ROUNDS
from product import ACTIVE, INACTIVE, Ess
from trading import WAYS, Trading
from waiting import hold, now_ns

FAULTS: tuple[tuple[Fault, ...], ...] = (
    (),
    (SENTRY_STOPPED,),
    (PID1_HUNG,),
    (BUS_HUNG,),
    (JOURNALD_HUNG,),
    (PYTHON_MISSING,),
    (OVERLOAD,),
)


# On cgroup v1 the kernel's release agent tells PID 1 that a cgroup is empty; a container has none,
# and there PID 1 may miss the end of a process that is not its own child (seen in systemd 252: all
# dead, the unit "deactivating" until its time is up, which is 90 s by default).
NO_RELEASE_AGENT = "[Manager]\nDefaultTimeoutStopSec=10s\n"


# In the place of the host's init: gives it the second tree, and is it then.
SYSTEMD = "/usr/lib/systemd"
HYBRID_INIT = f"""#!/bin/sh
cd /sys/fs/cgroup
if ! [ -e unified/cgroup.procs ]; then # else this is daemon-reexec
    mount -o remount,rw /sys/fs/cgroup
    mkdir unified
    mount -t cgroup2 cgroup2 unified
    mount -o remount,ro /sys/fs/cgroup
fi
cd /
exec {SYSTEMD}/real/systemd "$@"
"""
KINDS_OF_HOST = ("cgroup v1", "hybrid")


@pytest.fixture(params=KINDS_OF_HOST)
def kind_of_host(request: pytest.FixtureRequest) -> str:
    """Which trees the host has."""
    return str(request.param)


@pytest.fixture
def legacy_host(release: str, layers: list[Path], kind_of_host: str) -> Iterator[Host]:
    """A running host with the package, on cgroup v1 or hybrid."""
    hybrid = kind_of_host == "hybrid"

    def prepare(host: Host) -> None:
        host.write_file("/etc/systemd/system.conf.d/v1.conf", NO_RELEASE_AGENT)
        if hybrid:
            init = host.remains.directory / f"root{SYSTEMD}/systemd"
            (init.parent / "real").mkdir()
            init.rename(init.parent / "real/systemd")
            host.write_file(f"{SYSTEMD}/systemd", HYBRID_INIT, 0o755)

    with Host(release, layers, unified=False, prepare=prepare) as host:
        assert not host.exists("/sys/fs/cgroup/cgroup.controllers")
        assert host.exists("/sys/fs/cgroup/systemd/cgroup.procs")
        tracked = host.sh("grep ^0:: /proc/1/cgroup")
        assert tracked == ("0::/init.scope\n" if hybrid else "0::/\n")
        yield host


def cells() -> list[object]:
    """Each of the faults with each trigger that can be pulled under it."""
    return [
        pytest.param(
            faults,
            way,
            id=f"{'+'.join(fault.name for fault in faults) or 'none'}-{way}",
            marks=pytest.mark.smoke if way == COMMAND and not faults else (),
        )
        for faults in FAULTS
        for way in WAYS
        if not any(way in fault.impossible for fault in faults)
    ]


@pytest.mark.parametrize(("faults", "way"), cells())
def test_with_cgroup_v1(
    legacy_host: Host, kind_of_host: str, table: Table, faults: tuple[Fault, ...], way: str
) -> None:
    name = " + ".join((kind_of_host, *(fault.name for fault in faults)))
    table.add(name, way, stop(legacy_host, way, *faults))


@pytest.mark.parametrize("kinds", ROUNDS, ids=lambda kinds: "+".join(kinds.values()))
def test_every_kind_with_cgroup_v1(
    legacy_host: Host, kind_of_host: str, table: Table, kinds: dict[str, str]
) -> None:
    """Forks, sessions of their own, no SIGKILL: signals until nothing is left."""
    # The stand-in with a cgroup of its own makes that where it is on cgroup v2.
    only_v1 = {unit: kind.replace("own-cgroup", "normal") for unit, kind in kinds.items()}
    trading = Trading(legacy_host, only_v1)
    trading.start()
    pull = trading.pull("command")
    trading.assert_stopped(pull.time)
    assert pull.status == 0, pull
    trading.assert_inactive()
    life = max(0, trading.last_sign_of_life() - pull.time) / 1e6
    table.add(f"{kind_of_host}, every kind of service", "command", Measured(life, pull.status))


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.smoke if way == COMMAND else ()) for way in WAYS]
)
def test_held_over_a_boot_and_released(legacy_host: Host, way: str) -> None:
    host, trading = legacy_host, Trading(legacy_host, ROUNDS[0])
    ess = Ess(host)
    host.run("systemctl", "enable", *trading.kinds, *KEPT)
    trading.start()
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    ess.wait_complete()
    cut = now_ns()
    host.power_cut()
    assert ess.first_line() == ACTIVE
    kept = trading.kept_pids()
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    hold(lambda: trading.born_after(cut), 0.4, "ran while latched")
    assert ess("deactivate").stdout.splitlines()[-1] == INACTIVE
    trading.all_running()
    assert trading.kept_pids() == kept
