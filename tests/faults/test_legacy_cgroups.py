"""A host with cgroup v1, where there is no cgroup.kill: the same guarantees."""

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
from kinds import ROUNDS
from trading import WAYS, Trading

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


@pytest.fixture
def legacy_host(release: str, layers: list[Path]) -> Iterator[Host]:
    """A running host with the package, on cgroup v1."""

    def prepare(host: Host) -> None:
        host.write_file("/etc/systemd/system.conf.d/v1.conf", NO_RELEASE_AGENT)

    with Host(release, layers, unified=False, prepare=prepare) as host:
        assert not host.exists("/sys/fs/cgroup/cgroup.controllers")
        assert host.exists("/sys/fs/cgroup/systemd/cgroup.procs")
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
def test_on_cgroup_v1(legacy_host: Host, table: Table, faults: tuple[Fault, ...], way: str) -> None:
    name = " + ".join(("cgroup v1", *(fault.name for fault in faults)))
    table.add(name, way, stop(legacy_host, way, *faults))


@pytest.mark.parametrize("kinds", ROUNDS, ids=lambda kinds: "+".join(kinds.values()))
def test_every_kind_on_cgroup_v1(legacy_host: Host, table: Table, kinds: dict[str, str]) -> None:
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
    table.add("cgroup v1, every kind of service", "command", Measured(life, pull.status))
