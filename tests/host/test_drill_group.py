"""The drill's group: another latch, with the same code and the same units as trading's."""

import pytest

from host import Host
from product import DONE, Ess
from trading import Trading
from waiting import hold, wait_until

FLAG = "/run/quantum-drill/DRILL_ON"
RECORD = "/var/lib/quantum-ess/drill/latched"
CANARIES = tuple(
    f"quantum-ess-canary-{kind}.service" for kind in ("normal", "deaf", "forks", "restarts")
)


def stage(host: Host) -> None:
    """Canaries and watchers up, as the drill command sets them up."""
    host.run("mkdir", "-p", "/run/quantum-drill", "/run/quantum-ess-drill")
    host.run("touch", "/run/quantum-ess-drill/plan")
    host.run("systemctl", "start", *CANARIES)
    wait_until(lambda: all(alive(host)), 5, "canaries")


def alive(host: Host) -> list[bool]:
    """Which canaries have processes."""
    return [bool(host.processes(unit)) for unit in CANARIES]


@pytest.mark.parametrize(
    ("watcher", "trigger"),
    [
        ("", "quantum-ess --group=drill activate"),
        ("", "systemctl start quantum-ess-drill-activate.service"),
        ("quantum-ess-drill.path", f"touch {FLAG}"),
        ("quantum-ess-drill-sentry.service", f"touch {FLAG}"),
    ],
    ids=("command", "unit", "path", "sentry"),
)
def test_each_way_stops_canaries_and_nothing_else(
    host: Host, trading: Trading, watcher: str, trigger: str
) -> None:
    stage(host)
    neighbours = {**trading.bystanders(), **{u: str(host.main_pid(u)) for u in trading.kinds}}
    if watcher:
        host.run("systemctl", "start", watcher)
    host.sh(trigger)
    wait_until(lambda: not any(alive(host)), 2, "an end of the canaries")
    hold(lambda: any(alive(host)), 0.3, "alive again")
    for unit in CANARIES:
        assert host.run("systemctl", "start", unit, check=False).returncode != 0
    assert host.exists(FLAG)
    if watcher != "quantum-ess-drill-sentry.service":
        wait_until(lambda: host.exists(RECORD), 2, "the record")
    ess = Ess(host)
    done = ess("--group=drill", "deactivate")
    assert done.returncode == DONE, done
    wait_until(lambda: not host.exists(FLAG), 2, "release")
    now = {**trading.bystanders(), **{u: str(host.main_pid(u)) for u in trading.kinds}}
    assert now == neighbours
    assert not ess.latched()
    assert not ess.events(), "an entry of a drill was taken for an emergency"
    if watcher != "quantum-ess-drill-sentry.service":
        assert "DRILL ACTIVATION COMPLETE" in host.journal("-t", "quantum-ess-drill")
        wait_until(lambda: all(alive(host)), 5, "canaries released")
