"""The record is spoilt, or its disk comes late: after a power cut it latches all the same."""

import pytest

from conftest import HostMaker
from faults.conftest import Table
from faults.files import RECORDS
from faults.matrix import Measured
from host import Host
from kinds import FOUR
from product import INACTIVE, RECORD, Ess
from trading import FLAG, WAYS, Trading
from waiting import SOON, hold, wait_until


def cut_and_look(trading: Trading) -> None:
    """Cut the power: nothing may run after the boot, and status says active."""
    host = trading.host
    moment = host.power_cut()
    hold(lambda: trading.born_after(moment), 0.5, "ran after the boot")
    for unit in FOUR[:2]:
        assert host.run("systemctl", "start", unit, check=False).returncode != 0
    wait_until(lambda: host.exists(FLAG), 10, "the flag, set again")
    assert trading.born_after(moment) == {}
    assert Ess(host)("status", "--quiet").returncode == 0


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.smoke if "types" in kind else ()) for kind in RECORDS],
)
def test_a_spoilt_record_after_a_power_cut(trading: Trading, kind: str) -> None:
    """Active after the boot; a stop works; the release starts the enabled units."""
    host = trading.host
    ess = Ess(host)
    host.run("systemctl", "enable", *FOUR)
    ess("activate")
    ess.wait_complete()
    host.sh(f"printf '{RECORDS[kind]}' >{RECORD}; sync")
    cut_and_look(trading)
    assert ess("activate").returncode == 0
    ess.wait_idle()
    assert ess("deactivate").stdout.splitlines()[-1] == INACTIVE
    trading.all_running()


MOUNT = "var-lib-quantum\\x2dess.mount"
STORE = "/srv/store"
OWN = "own-engine.service"


def mount_store(host: Host) -> None:
    """The state's directory on a mount of its own, which takes a second at boot."""
    host.write_file(
        f"/etc/systemd/system/{MOUNT}",
        f"[Unit]\nRequires=slow.service\nAfter=slow.service\n[Mount]\nWhat={STORE}\n"
        "Where=/var/lib/quantum-ess\nType=none\nOptions=bind\n"
        "[Install]\nWantedBy=local-fs.target\n",
    )
    host.write_file(
        "/etc/systemd/system/slow.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/bin/sleep 1\n",
    )
    host.sh(f"mkdir {STORE}; systemctl daemon-reload; systemctl enable --now '{MOUNT}'")


def test_a_record_on_a_mount_that_comes_late(trading: Trading) -> None:
    """Trading waits for it, and is held."""
    host = trading.host
    ess = Ess(host)
    host.run("systemctl", "enable", *FOUR)
    mount_store(host)
    ess("activate")
    ess.wait_complete()
    assert host.exists(f"{STORE}/latched")
    cut_and_look(trading)
    ess("deactivate")
    trading.all_running()


@pytest.mark.parametrize("broken", ["configuration", "Python"])
@pytest.mark.parametrize("latched", [True, False], ids=["latched", "open"])
def test_a_broken_host_whose_mount_comes_late(
    make_host: HostMaker, broken: str, latched: bool
) -> None:
    """The generator can't see the last good tree: it is put in force once that is there."""
    host = make_host()
    ess, trading = Ess(host), Trading(host, {OWN: "normal"})
    mount_store(host)
    ess.configure(f"[protect]\nunits = {OWN}\n")
    host.run("systemctl", "enable", OWN)
    trading.start()
    kept = lambda: OWN in host.sh(f"cat {STORE}/good/quantum-ess.plan || :")  # noqa: E731
    wait_until(kept, SOON, "a copy of the good tree")
    if latched:
        ess("activate")
        ess.wait_complete()
    if broken == "Python":
        host.run("mv", "/usr/bin/python3", "/usr/bin/away")
    else:
        host.write_file("/etc/quantum-ess/quantum-ess.conf.d/broken.conf", "[protect\n")
    moment = host.power_cut()
    if latched:
        hold(lambda: trading.born_after(moment), 1.5, "ran after the boot")
        assert host.run("systemctl", "start", OWN, check=False).returncode != 0
    else:
        trading.all_running()
        trading.assert_stopped(trading.pull("flag").time)


@pytest.mark.parametrize("way", WAYS)
def test_stopped_while_the_mount_is_not_there(trading: Trading, table: Table, way: str) -> None:
    """The record is written beneath it; once the mount covers that, it is written anew."""
    host = trading.host
    ess = Ess(host)
    host.run("systemctl", "enable", *FOUR)
    mount_store(host)
    # Not by systemd, which would stop what requires it.
    host.run("umount", "/var/lib/quantum-ess")
    trading.all_running()
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    assert pull.status == 0, pull
    life = max(0, trading.last_sign_of_life() - pull.time) / 1e6
    table.add("/var/lib/quantum-ess not mounted yet", way, Measured(life, pull.status))
    ess.wait_complete()
    host.run("systemctl", "restart", MOUNT)
    assert ess.latched()
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    wait_until(lambda: host.exists(f"{STORE}/latched"), SOON, "a record on the mount")
    cut_and_look(trading)
    ess("deactivate")
    trading.all_running()
