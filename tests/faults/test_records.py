"""The record is spoilt, or its disk comes late: after a power cut it latches all the same."""

import pytest

from faults.files import RECORDS
from kinds import FOUR
from product import INACTIVE, RECORD, Ess
from trading import FLAG, Trading
from waiting import hold, wait_until


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


def test_a_record_on_a_mount_that_comes_late(trading: Trading) -> None:
    """Its directory is a mount of its own that takes a second: trading waits, and is held."""
    host = trading.host
    ess = Ess(host)
    host.run("systemctl", "enable", *FOUR)
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
    ess("activate")
    ess.wait_complete()
    assert host.exists(f"{STORE}/latched")
    cut_and_look(trading)
    ess("deactivate")
    trading.all_running()
