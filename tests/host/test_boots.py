"""The latch over a shutdown, a soft-reboot, and a boot with a /var that comes late."""

import json

import pytest

from conftest import HostMaker
from host import Host
from kinds import FOUR, KINDS
from product import ACTIVE, INACTIVE, RECORD, WATCH, Ess
from trading import FLAG, Trading
from waiting import SOON, hold, now_ns, wait_until

DIRECTORY = "/run/quantum"
GROUP = "trading-stop"
DEAF = KINDS["ignores-sigterm"].replace("[Install]", "TimeoutStopSec=15\n[Install]")


def held_after(trading: Trading, boot: int) -> None:
    """Nothing has run since that boot (ns), a start is refused, and the flag is there."""
    host, ess = trading.host, Ess(trading.host)
    hold(lambda: trading.born_after(boot), 1.0, "ran after the boot")
    assert ess.first_line() == ACTIVE and host.exists(FLAG)
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0


@pytest.mark.parametrize(
    "way", ["flag", "command", "flag without Python", "flag and stop category 1"]
)
def test_a_stop_while_the_host_shuts_down(make_host: HostMaker, way: str) -> None:
    """PID 1 starts nothing any more; what is slow to stop trades on. The boot is held down."""
    host = make_host()
    trading = Trading(host)
    trading.write_unit(FOUR[1], DEAF)
    ess = Ess(host)
    one = "stop_category = 1\ngrace = 500ms\n"
    ess.configure(f"[unit {FOUR[1]}]\n{one}" if way.endswith("1") else "")
    host.run("systemctl", "enable", *FOUR)
    trading.start()
    host.run("systemctl", "poweroff", "--no-block")
    wait_until(lambda: trading.alive() == [FOUR[1]], SOON, "an end of all but the deaf one")
    hold(lambda: not host.processes(FOUR[1]), 1.0, "the deaf one ends by itself")
    trigger, _, situation = way.partition(" ")
    if situation == "without Python":
        host.run("mv", "/usr/bin/python3", "/usr/bin/away")
    trading.assert_stopped(trading.pull(trigger).time, watch=0)
    host.wait_end()
    boot = host.power_cut()
    hold(lambda: trading.born_after(boot), 1.0, "ran after the boot")
    if situation == "without Python":
        host.run("mv", "/usr/bin/away", "/usr/bin/python3")
    held_after(trading, boot)
    assert ess.status()["trigger"] == trigger
    ess.wait_complete()
    assert "the enabled units" in ess("deactivate").stdout  # not only what the shutdown had left
    trading.all_running()


def test_a_unit_of_another_generator_stays_held(make_host: HostMaker) -> None:
    """At a boot only the last good tree tells of it; so it does after a wrong configuration."""
    host = make_host()
    ess, made = Ess(host), "made1.service"
    trading = Trading(host, dict.fromkeys((*FOUR, made), "normal"))
    generator = "/etc/systemd/system-generators/made"
    wants = '"$1/multi-user.target.wants"'
    makes = f'cp /etc/{made} "$1/"; mkdir -p {wants}; ln -s ../{made} {wants}/'
    host.write_file(generator, f"#!/bin/sh\n{makes}\n", 0o755)
    host.run("mv", f"/etc/systemd/system/{made}", "/etc/")
    protected = f"[protect]\nunits = {' '.join(FOUR)} made*\n"
    ess.configure(protected)
    trading.start()
    host.run("systemctl", "daemon-reload")  # from here on it is known: it runs
    trading.assert_stopped(trading.pull("flag").time)
    ess.wait_complete()
    kept = f"/var/lib/quantum-ess/good/{made}.d"
    wait_until(lambda: host.exists(kept), 60, "the last good tree on disk")
    for wrong in (False, True):
        if wrong:
            ess.configure("oops\n")
        boot = host.power_cut()
        if wrong:
            ess.configure(protected)
        held_after(trading, boot)
        assert host.run("systemctl", "start", made, check=False).returncode != 0
        hold(lambda: not host.exists(kept), 6.0, "the gate on disk lost")
    ess("deactivate")
    trading.all_running()


def can_soft_reboot(host: Host) -> bool:
    """Not with Debian 12's systemd, which says so."""
    if host.release != "bookworm":
        return True
    refused = host.run("systemctl", "soft-reboot", check=False)
    assert "Unknown command" in refused.stderr, refused
    return False


def test_a_stop_while_userspace_is_replaced(make_host: HostMaker) -> None:
    """A soft-reboot keeps /run and the boot's id: what ran before it is not known all the same."""
    host = make_host()
    if not can_soft_reboot(host):
        return
    trading, ess = Trading(host), Ess(host)
    trading.write_unit(FOUR[1], DEAF)
    host.run("systemctl", "enable", *FOUR)
    trading.start()
    journald = "systemd-journald.service"
    before = host.processes(journald)
    host.run("systemctl", "soft-reboot", "--no-block", check=False)
    wait_until(lambda: trading.alive() == [FOUR[1]], SOON, "an end of all but the deaf one")
    began = now_ns()
    trading.assert_stopped(trading.pull("flag").time, watch=0)
    wait_until(lambda: host.processes(journald) not in ([], before), 60, "another userspace")
    host.run("systemctl", "is-system-running", "--wait", check=False)
    held_after(trading, began)
    ess.wait_complete()
    record = json.loads(host.read_file(RECORD))
    assert "running" not in record and record["trigger"] == "flag", record
    # The stand-ins could not run, for they are on a mount that goes.
    assert "the enabled units" in ess("deactivate", check=False).stdout


def with_a_stop_group(ess: Ess) -> None:
    """The flag's directory is a file system of its own."""
    host = ess.host
    host.run("groupadd", GROUP)
    ess.configure(f"[access]\nstop_group = {GROUP}\n")
    mounted = lambda: host.run("mountpoint", DIRECTORY, check=False).returncode == 0  # noqa: E731
    wait_until(mounted, SOON, "a file system for the flag")


def soft_reboot(host: Host) -> None:
    """All of userspace ends and begins anew; /run stays, its mounts do not."""
    journald = "systemd-journald.service"
    before = host.processes(journald)
    host.run("systemctl", "soft-reboot", check=False)
    # Seen from outside: a command that runs inside meanwhile may be killed, or hang.
    wait_until(lambda: host.processes(journald) not in ([], before), 60, "another userspace")
    host.run("systemctl", "is-system-running", "--wait", check=False)
    counted = host.run("systemctl", "show", "--property=SoftRebootsCount", "--value").stdout
    assert counted == "1\n"


@pytest.mark.parametrize("shared", [False, True], ids=["root", "group"])
def test_a_soft_reboot(make_host: HostMaker, shared: bool) -> None:
    host = make_host()
    ess, trading = Ess(host), Trading(host)
    if not can_soft_reboot(host):
        return
    if shared:
        with_a_stop_group(ess)
    host.run("systemctl", "enable", *FOUR)
    trading.start()
    trading.assert_stopped(trading.pull("flag").time)
    ess.wait_complete()
    incident, moment = ess.status()["incident"], now_ns()
    soft_reboot(host)
    # The stand-ins could not run, for they are on such a mount too; nobody has asked for it either.
    hold(lambda: ess.named("release-initiated"), 6.0, "released")
    wait_until(lambda: host.exists(FLAG), SOON, "the flag, set again")
    held_after(trading, moment)
    assert ess.status()["incident"] == incident
    ess("deactivate", "--no-start")
    assert ess.first_line() == INACTIVE


def test_a_flag_that_goes_with_its_file_system(make_host: HostMaker) -> None:
    """It was not removed: no release."""
    host = make_host()
    ess, trading = Ess(host), Trading(host)
    with_a_stop_group(ess)
    trading.start()
    trading.assert_stopped(trading.pull("flag").time)
    ess.wait_complete()
    incident, moment = ess.status()["incident"], now_ns()
    host.run("umount", "--lazy", DIRECTORY)
    wait_until(lambda: host.exists(FLAG), SOON, "the flag, set again")
    hold(lambda: trading.born_after(moment), 6.0, "released")
    held_after(trading, moment)
    assert ess.status()["incident"] == incident
    host.run("rm", FLAG)
    trading.all_running()


def test_tmpfiles_leave_the_directory_to_the_stop_group(make_host: HostMaker) -> None:
    """As a reinstallation runs them."""
    host = make_host()
    ess = Ess(host)
    look = ("stat", "-c", "%a %U:%G", DIRECTORY)
    with_a_stop_group(ess)
    wait_until(lambda: GROUP in host.run(*look).stdout, SOON, "the group's directory")
    ess.wait_idle()
    host.run("systemctl", "stop", *WATCH)
    host.run("systemd-tmpfiles", "--create", "quantum-ess.conf")
    assert host.run(*look).stdout == f"1775 root:{GROUP}\n"
