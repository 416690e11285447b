"""Migration: what a hand-copied installation has left is told, moved away, and can be put back."""

from pathlib import Path

import oldhost
from host import Host
from kinds import FOUR
from oldhost import CONTROLLER, UNITS, UNITS_OF
from product import ACTIVE, NOT_PERMITTED, Ess
from trading import FLAG, Trading
from waiting import hold, wait_until

WATCHERS = ("quantum-ess.path", "quantum-ess-watch.timer", "quantum-ess-sentry.service")


def fragment(host: Host, unit: str) -> str:
    """Where PID 1 has that unit from."""
    return host.properties(unit, "FragmentPath")["FragmentPath"]


def disk(host: Host) -> str:
    """The old installation's files as they are: mode, owner, target of a link, checksum."""
    listed = f"find {UNITS_OF} /home/qt -name '*ess*' ! -name '*sentry*' ! -name '*restore*'"
    listed += " ! -name '*guard*' ! -name '*metrics*'"
    return host.sh(f"{listed} -printf '%p %M %u:%g %l\\n' | sort; sha256sum {CONTROLLER}")


def state(trading: Trading) -> dict[str, int]:
    """Main PIDs of protected and kept units."""
    return {unit: trading.host.main_pid(unit) for unit in trading.units} | trading.kept_pids()


def test_take_over_and_back(bare_host: Host, deb: Path) -> None:
    """Told at install; shown; done with copies; the old command's path works; undone; done again.

    Nothing of it touches trading; at a boot afterwards nothing is stopped.
    """
    host, ess = bare_host, Ess(bare_host)
    trading = Trading(host)
    trading.start()
    oldhost.install(host)
    before, pids = disk(host), state(trading)

    said = host.install(deb)
    assert "quantum-ess migrate --apply" in said
    for name in UNITS:
        assert f"{UNITS_OF}/{name}" in said
    assert disk(host) == before

    shown = ess("migrate").stdout
    for path in (
        *(f"{UNITS_OF}/{name}" for name in UNITS),
        f"{UNITS_OF}/multi-user.target.wants/quantum-ess.service",
        f"{CONTROLLER}",
        "/etc/cron.d/quantum:2",
        "/usr/local/bin/panic:2",
        "/home/qt/bin/check.sh:2",
    ):
        assert path in shown, path
    assert "/etc/cron.d/quantum:1" not in shown, "a comment calls nothing"
    assert disk(host) == before, "showing changes nothing"
    assert ess("migrate", "--apply", check=False, user="daemon").returncode == NOT_PERMITTED

    done = ess("migrate", "--apply").stdout
    assert "--undo" in done
    assert state(trading) == pids
    for name in UNITS:
        assert fragment(host, name).endswith(f"/lib/systemd/system/{name}")
    assert host.sh(f"systemctl is-active {' '.join(WATCHERS)}").split() == ["active"] * 3
    assert host.sh(f"systemctl is-enabled {' '.join(WATCHERS)}").split() == ["enabled"] * 3
    assert not host.exists(f"{UNITS_OF}/multi-user.target.wants/quantum-ess.service")
    assert host.sh(f"stat -c '%U %a' {CONTROLLER}") == "qt 755\n"
    assert ess("migrate").stdout.startswith("no older installation")

    # The old path of the command, as somebody's script has it.
    assert host.run("bash", CONTROLLER, "status").stdout.splitlines()[0] == "ESS Status: INACTIVE"
    host.run("/usr/local/bin/panic")
    wait_until(lambda: not trading.alive(), 60, "the end of trading")
    assert ess.latched()
    ess.wait_complete()
    host.run("bash", CONTROLLER, "deactivate")
    trading.all_running()

    pids = state(trading)
    ess("migrate", "--undo")
    assert disk(host) == before
    assert state(trading) == pids
    assert fragment(host, "quantum-ess.path") == f"{UNITS_OF}/quantum-ess.path"
    assert ess("migrate", "--undo", check=False).returncode == 1

    ess("migrate", "--apply")
    host.power_cut()
    host.run("systemctl", "start", *FOUR)
    assert not ess.latched(), "the old unit's enabling link would stop trading at every boot"
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)


def test_an_old_flag_stays_latched(bare_host: Host, deb: Path) -> None:
    """Set by the old controller, found at install: latched, and nothing stops or starts."""
    host, ess = bare_host, Ess(bare_host)
    trading = Trading(host)
    trading.start()
    oldhost.install(host, enable_stop=False)
    host.sh("systemctl stop quantum-ess.path quantum-ess-watch.timer")  # they never end otherwise
    host.run("bash", CONTROLLER, "activate")
    wait_until(lambda: not trading.alive(), 60, "the end of trading")
    kept = trading.kept_pids()

    said = host.install(deb)
    assert "was ACTIVE before this installation" in said and "quantum-ess deactivate" in said
    for step in ("install", "apply", "undo"):
        if step != "install":
            ess("migrate", f"--{step}")
        assert host.exists(FLAG)
        assert ess.first_line() == ACTIVE, step
        assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0, step
        hold(trading.alive, 0.5, f"started by {step}")
    ess("migrate", "--apply")
    wait_until(lambda: host.exists("/var/lib/quantum-ess/latched"), 60, "the record")
    host.power_cut()
    assert ess.first_line() == ACTIVE
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    assert kept.keys() == trading.kept_pids().keys()


def test_an_old_flag_beside_running_trading(bare_host: Host, deb: Path) -> None:
    """The old flag stopped nothing. Neither installing nor migrating decides what should be."""
    host, ess = bare_host, Ess(bare_host)
    trading = Trading(host)
    trading.start()
    oldhost.install(host)
    host.sh("systemctl stop quantum-ess.path quantum-ess-watch.timer; touch /run/quantum/ESS_ON")
    pids = state(trading)
    said = host.install(deb)
    assert "quantum-ess activate" in said and "quantum-ess deactivate" in said
    said = ess("migrate", "--apply").stdout
    assert "quantum-ess activate" in said and "quantum-ess deactivate" in said
    hold(trading.ended, 1.0, "stopped by a migration")
    assert state(trading) == pids
    ess("activate")
    trading.assert_inactive()
