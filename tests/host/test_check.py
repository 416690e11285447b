"""Check: a clean host has no finding; each finding is brought about and found, and goes again."""

import json
import re
import struct
import time
from pathlib import Path

import pytest

from guarding import UNIT, WATCHER, Guarded, condition
from host import Host, read_only
from kinds import FOUR, REDIS
from product import DROP_IN, WATCH, Ess
from trading import FLAG, Trading
from waiting import SOON, wait_until

FINE, WARNINGS, ERRORS = 0, 9, 10
NO_DRILL = "/etc/quantum-ess/quantum-ess.conf.d/drill.conf"
SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"
Found = set[tuple[str, str]]
AI, EXECUTION, APPLY, GOVERNOR = FOUR


@pytest.fixture
def trading(trading: Trading) -> Trading:
    """Trading, on a host of which no drill is asked."""
    trading.host.write_file(NO_DRILL, "[drill]\noverdue = 0\n")
    trading.host.run("systemctl", "daemon-reload")
    return trading


def check(ess: Ess, status: int | None = None) -> Found:
    """Id and unit of every finding, as --json has them."""
    done = ess("check", "--json", check=False)
    if status is not None:
        assert done.returncode == status, done.stdout + done.stderr
    data = json.loads(done.stdout)
    assert all(finding["hint"] for finding in data["findings"])
    assert not [f for f in data["findings"] if f["id"] == "not-checked"], data
    return {(finding["id"], finding["unit"]) for finding in data["findings"]}


def ids(ess: Ess, status: int | None = None) -> set[str]:
    return {found for found, _ in check(ess, status)}


STRIKE = "/usr/lib/quantum-ess/strike"
GUARDED = "[condition never]\\nredis = k\\nlimit = > 3\\n"


def drop_in(trading: Trading, unit: str, text: str, name: str = "test") -> None:
    trading.write_unit(f"{unit}.d/{name}.conf", text)


def test_a_clean_host(trading: Trading) -> None:
    """Once there was a drill: nothing, in words and in the exit status. Only root may ask."""
    ess = Ess(trading.host)
    trading.host.sh(f"rm {NO_DRILL}; systemctl daemon-reload")
    assert check(ess, WARNINGS) == {("drill-overdue", "")}
    ess("drill")
    assert check(ess, FINE) == set()
    assert ess("check").stdout == "quantum-ess check: nothing found\n"
    assert ess("check", user="nobody", check=False).returncode == 4
    ess("activate")
    ess.wait_complete()
    assert check(ess, FINE) == set()


def test_units(trading: Trading) -> None:
    """What unit files can do to a stop; all at once, each found with its unit."""
    host, ess = trading.host, Ess(trading.host)
    trading.write_unit("upholder.service", f"[Unit]\nUpholds={AI}\n{SLEEPER}")
    trading.write_unit("often.timer", f"[Timer]\nOnCalendar=hourly\nUnit={AI}\n")
    trading.write_unit("ask.path", f"[Path]\nPathExists=/nowhere\nUnit={AI}\n")
    trading.write_unit("ask.socket", f"[Socket]\nListenStream=/run/ask\nService={AI}\n")
    drop_in(trading, AI, "[Unit]\nAssertPathExists=\n", "zzzz-later")
    drop_in(trading, EXECUTION, "[Service]\nExecCondition=\n", "zzzz-later")
    drop_in(trading, APPLY, "[Service]\nKillMode=process\nSendSIGKILL=no\nTimeoutStopSec=1h\n")
    drop_in(trading, "grafana-server.service", f"[Unit]\nPartOf={APPLY}\n")
    depends = f"[Unit]\nBindsTo={APPLY}\nAfter={APPLY} ask.socket\n"  # or it would not be loaded
    trading.write_unit("middle.service", depends + SLEEPER)
    drop_in(trading, "quantum-rl-monitor.service", "[Unit]\nRequires=middle.service\n")
    drop_in(trading, GOVERNOR, "[Service]\nExecStart=\nExecStart=/usr/bin/docker run governor\n")
    drop_in(trading, AI, "[Unit]\nRefuseManualStart=yes\n")
    split = "/usr/bin/podman run --name execution --cgroups=split execution"
    drop_in(trading, EXECUTION, f"[Service]\nExecStart=\nExecStart={split}\n")
    bus = "/usr/share/dbus-1/system-services/org.example.Governor.service"
    host.write_file(bus, f"[D-BUS Service]\nName=org.example.Governor\nSystemdService={GOVERNOR}\n")
    host.sh("cp /usr/lib/systemd/system/quantum-ess.path /etc/systemd/system/")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "middle.service", "upholder.service", "often.timer", "ask.path")
    assert check(ess, ERRORS) == {
        ("upheld", AI),
        ("timer-not-protected", AI),
        ("path-not-protected", AI),
        ("socket-not-protected", AI),
        ("manual-start-refused", AI),
        ("gate-undone", AI),
        ("gate-undone", EXECUTION),
        ("kill-mode", APPLY),
        ("no-sigkill", APPLY),
        ("long-stop-timeout", APPLY),
        ("kept-dragged", "grafana-server.service"),
        ("dragged", "middle.service"),
        ("kept-dragged", "quantum-rl-monitor.service"),
        ("container", GOVERNOR),
        ("bus-activated", GOVERNOR),
        ("unit-shadowed", "quantum-ess.path"),
    }
    said = ess("check", check=False).stdout
    assert f"/etc/systemd/system/{AI}.d/zzzz-later.conf" in said
    assert "rm /etc/systemd/system/quantum-ess.path" in said
    assert re.search(r"^error: .* \[gate-undone\]\n    to do: ", said, re.M)


def test_names(trading: Trading) -> None:
    """A name that is no unit, a masked one, an alias, a broken one; a slice with a kept unit."""
    host, ess = trading.host, Ess(trading.host)
    host.run("systemctl", "mask", "masked.service")
    trading.write_unit("broken.service", "[Service]\nType=simple\n")
    host.sh(f"ln -s {AI} /etc/systemd/system/trade.service")
    drop_in(trading, "grafana-server.service", "[Service]\nSlice=market-data.slice\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "grafana-server.service")
    ess.configure("[protect]\nunits = no-such masked broken trade market.slice\n")
    found = check(ess, ERRORS)
    assert found >= {
        ("unit-not-found", "no-such.service"),
        ("unit-masked", "masked.service"),
        ("unit-broken", "broken.service"),
        ("unit-alias", "trade.service"),
        ("kept-in-protected-slice", "grafana-server.service"),
    }
    # What was protected is not any more, and its processes are those of a trading user.
    assert {name for name, _ in found} - {"process-outside"} == {
        *("unit-not-found", "unit-masked", "unit-broken", "unit-alias", "kept-in-protected-slice")
    }


def test_a_unit_that_takes_the_flag_away(trading: Trading) -> None:
    """Running or only installed, by a specifier too; and so it does. Not who is beside the flag."""
    host, ess = trading.host, Ess(trading.host)
    trading.write_unit("recorder.service", f"{SLEEPER}RuntimeDirectory=feed quantum\n")
    host.run("ln", "-s", "recorder.service", "/etc/systemd/system/alias.service")
    mine = f"{SLEEPER}RuntimeDirectory=%N\nRuntimeDirectoryPreserve=yes\n"
    trading.write_unit("quantum.service", f"{mine}User=daemon\n")
    trading.write_unit("beside.service", f"{SLEEPER}RuntimeDirectory=quantum/feed quantum-x\n")
    host.run("systemctl", "daemon-reload")
    taken = {("runtime-directory", "recorder.service"), ("runtime-directory", "quantum.service")}
    assert check(ess, ERRORS) == taken
    host.run("systemctl", "start", "recorder.service", "beside.service")
    assert check(ess, ERRORS) == taken
    host.run("systemctl", "stop", "beside.service")
    assert check(ess, ERRORS) == taken
    drop_in(trading, "quantum.service", "[Service]\nUser=root\n")
    host.run("systemctl", "daemon-reload")
    assert check(ess, ERRORS) == {("runtime-directory", "recorder.service")}
    host.run("systemctl", "stop", "recorder.service")
    assert "flag-directory-missing" in ids(ess, ERRORS)


def test_a_main_process_elsewhere(trading: Trading) -> None:
    """What moves itself out of its unit, and what may: pam_systemd does that."""
    host, ess = trading.host, Ess(trading.host)
    drop_in(trading, AI, "[Service]\nPAMName=login\n")
    drop_in(trading, APPLY, "[Service]\nExecStart=\nExecStart=/bin/su daemon -c /bin/true\n")
    host.run("systemctl", "daemon-reload")
    may = {("pam-session", AI), ("pam-session", APPLY)}
    assert check(ess, WARNINGS) == may
    move = "echo $(systemctl show -PMainPID {}) >/sys/fs/cgroup/system.slice/{}/cgroup.procs"
    host.sh(move.format(GOVERNOR, EXECUTION))  # there a kill finds it
    assert check(ess, WARNINGS) == may
    host.sh(move.format(GOVERNOR, "grafana-server.service"))
    assert check(ess, ERRORS) == {*may, ("main-process-elsewhere", GOVERNOR)}


def test_what_nobody_needs_after_a_stop(trading: Trading) -> None:
    """PID 1 stops it then: check says so, and so it is. Not what others need too."""
    host, ess = trading.host, Ess(trading.host)
    monitor = "quantum-rl-monitor.service"
    unneeded = "[Unit]\nStopWhenUnneeded=yes\n"
    trading.write_unit("bridge.service", unneeded + SLEEPER)
    trading.write_unit("shared.service", unneeded + SLEEPER)
    drop_in(trading, monitor, unneeded)
    drop_in(trading, AI, f"[Unit]\nWants=bridge.service shared.service {monitor}\n")
    drop_in(trading, "grafana-server.service", "[Unit]\nWants=shared.service\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "bridge.service", "shared.service")
    assert check(ess, ERRORS) == {("dragged", "bridge.service"), ("kept-dragged", monitor)}
    trading.assert_stopped(trading.pull("command").time)
    stopped = lambda: {host.unit_state("bridge.service"), host.unit_state(monitor)} == {"inactive"}  # noqa: E731
    wait_until(stopped, SOON, "an end of what nobody needs")
    assert host.unit_state("shared.service") == "active"


def test_an_alias_that_a_generator_makes(trading: Trading) -> None:
    """The plan does not know what it stands for, unless that is named too."""
    host, ess = trading.host, Ess(trading.host)
    trading.write_unit("engine.service", SLEEPER)
    generator = "/etc/systemd/system-generators/alias"
    link = 'ln -s /etc/systemd/system/engine.service "$1/trade.service"'
    host.write_file(generator, f"#!/bin/sh\n{link}\n")
    host.run("chmod", "755", generator)
    for also, severity, status in (("", "error", ERRORS), (" engine", "note", FINE)):
        ess.configure(f"[protect]\nunits = {' '.join(FOUR)} trade{also}\n")
        assert check(ess, status) == {("unit-alias", "trade.service")}
        said = json.loads(ess("check", "--json", check=False).stdout)["findings"]
        assert [finding["severity"] for finding in said] == [severity]


def test_what_a_stop_would_set_off(trading: Trading) -> None:
    """Another unit, or the end of the host: check says so, and so it is."""
    host, ess = trading.host, Ess(trading.host)
    trading.write_unit("standby.service", SLEEPER)
    drop_in(trading, APPLY, "[Unit]\nOnFailure=standby.service\n")
    host.run("systemctl", "daemon-reload")
    assert check(ess, WARNINGS) == {("starts-another", APPLY)}
    trading.assert_stopped(trading.pull("flag").time)
    standby = lambda: host.run("systemctl", "is-active", "standby", check=False).returncode == 0  # noqa: E731
    wait_until(standby, SOON, "a failed unit's OnFailure=")
    ess.wait_complete()
    ess("deactivate")
    trading.all_running()

    ess.configure(f"[protect]\nunits = {' '.join(FOUR)} standby\n")
    assert check(ess, 0) == set()
    drop_in(trading, APPLY, "[Unit]\nFailureAction=exit-force\n")
    host.run("systemctl", "daemon-reload")
    assert check(ess, ERRORS) == {("action-on-host", APPLY)}
    host.run("touch", FLAG)
    host.wait_end()


def with_a_clock(host: Host, error: int) -> list[str]:
    """What check finds where the kernel gives its clock that error (µs) and STA_UNSYNC."""
    timex = struct.pack("@I4li", 0, 0, 0, error, error, 64).hex()
    inject = f"inject=clock_adjtime:retval=5:poke_exit=@arg2={timex}"
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", inject)
    done = host.run(*strace, "quantum-ess", "check", "--json", check=False, timeout=60)
    return [finding["id"] for finding in json.loads(done.stdout)["findings"]]


def test_the_host_around(trading: Trading) -> None:
    """Watchers, gate, directories, journal, clock, Redis and more, one after another and gone.

    All for real but two. The clock is this machine's, whose state is not ours to change: what its
    kernel says is compared with systemd's word, and strace gives both answers besides. And no
    kernel that runs this test lacks cgroup.kill (Linux 5.14): strace hides the file.
    """
    host, ess = trading.host, Ess(trading.host)
    journald = "/etc/systemd/journald.conf.d/test.conf"
    nrconf = "/etc/needrestart/conf.d/trading.conf"
    generator = "/usr/lib/systemd/system-generators/quantum-ess-generator"
    cases = (
        (
            "watcher-down",
            "systemctl stop quantum-ess.path",
            "systemctl start quantum-ess.path",
        ),
        (
            "watcher-not-enabled",
            "systemctl disable quantum-ess-sentry 2>/dev/null",
            "systemctl enable quantum-ess-sentry 2>/dev/null",
        ),
        (
            "gate-missing",
            f"chmod -x {generator}; systemctl daemon-reload",
            f"chmod +x {generator}; systemctl daemon-reload",
        ),
        (
            "apprise-missing",
            "install -m 600 /dev/null /etc/quantum-ess/notify.urls",
            "rm /etc/quantum-ess/notify.urls",
        ),
        (
            "notify-urls apprise-missing",
            "touch /etc/quantum-ess/notify.urls",
            "rm /etc/quantum-ess/notify.urls",
        ),
        (
            "process-outside",
            "systemd-run --quiet --unit=stray --uid=daemon /bin/sleep 100",
            "systemctl stop stray",
        ),
        ("flag-directory-writable", "chmod 777 /run/quantum", "chmod 755 /run/quantum"),
        (
            "watcher-down",
            "systemctl stop quantum-ess-watch.timer",
            "systemctl start quantum-ess-watch.timer",
        ),
        ("flag-directory-missing", "rmdir /run/quantum", "systemd-tmpfiles --create"),
        (
            "plan-missing watcher-down",  # the watch has a new one made
            f"systemctl stop {' '.join(WATCH)}; mv /run/quantum-ess/plan /run/plan.away",
            "mv /run/plan.away /run/quantum-ess/plan; systemctl start quantum-ess-watch.timer",
        ),
        ("redis-unreachable", f"systemctl stop {REDIS}", f"systemctl start {REDIS}"),
        ("file-changed", f"cp -p {STRIKE} /run; echo >>{STRIKE}", f"cp -p /run/strike {STRIKE}"),
        (
            "config-not-in-force",
            f"mkdir -p $(dirname {DROP_IN}); printf '[resume]\\nsettle = 2s\\n' >{DROP_IN}",
            "systemctl daemon-reload",
        ),
        ("config-error", f"echo '[x]' >{DROP_IN}", f"rm {DROP_IN}; systemctl daemon-reload"),
        # What is guarded is not in the plan.
        ("config-not-in-force", f"printf '{GUARDED}' >{DROP_IN}", f"rm {DROP_IN}"),
        (
            "journal-volatile",
            f"mkdir -p $(dirname {journald}); printf '[Journal]\\nStorage=volatile\\n' >{journald}",
            f"rm {journald}",
        ),
        (
            "journal-rate-limited",
            f"printf '[Journal]\\nRateLimitBurst=50\\n' >{journald}",
            f"rm {journald}",
        ),
        (
            "needrestart",
            f"mkdir -p $(dirname {nrconf}); touch /usr/sbin/needrestart;"
            f"echo '#$nrconf{{override_rc}}{{qr(^quantum-)}} = 0;' >{nrconf}",
            f"sed -i 's/^#//' {nrconf}",
        ),
        (
            "reload-needed",
            f"touch -d '1 hour' /etc/systemd/system/{AI}",
            f"touch /etc/systemd/system/{AI}; systemctl daemon-reload",
        ),
        (
            "disk-full",
            read_only("/var/lib/quantum-ess"),
            "umount --lazy /var/lib/quantum-ess /mnt",  # the watch may be reading there
        ),
        (
            "hook-refused",
            "install -m 777 /bin/true /etc/quantum-ess/activate.d/cancel",
            "chmod 755 /etc/quantum-ess/activate.d/cancel",
        ),
        (
            "hook-ignored",
            "install /bin/true /etc/quantum-ess/activate.d/cancel.sh",
            "rm /etc/quantum-ess/activate.d/*",
        ),
        (
            "journald-down",
            "systemctl stop systemd-journald.socket systemd-journald-dev-log.socket"
            " systemd-journald-audit.socket systemd-journald.service 2>/dev/null || true",
            "systemctl start systemd-journald.socket systemd-journald.service",
        ),
    )
    for expected, deed, remedy in cases:
        host.sh(deed)
        assert ids(ess) == set(expected.split()), expected
        host.sh(remedy)
        wait_until(lambda: ids(ess) == set(), SOON, f"an end of {expected}")
    session = host.spawn("sleep", "99", user="daemon")
    wait_until(lambda: ids(ess) == {"process-outside"}, SOON, "the process in a session")
    assert "trading user daemon runs sleep (" in ess("check", check=False).stdout
    host.run("pkill", "-u", "daemon", "sleep")
    session.communicate()
    # A container, as a test host is one, has no clock of its own: there nothing is said. Else it
    # is the kernel's word, and timedatectl's.
    host.sh("umount /run/systemd/container 2>/dev/null || true; rm /run/systemd/container")
    synchronised = host.run(
        "timedatectl", "show", "--property=NTPSynchronized", "--value"
    ).stdout.strip()
    assert ids(ess) == {"yes": set(), "no": {"clock-unsynchronised"}}[synchronised]
    for error in (15_999_999, 16_000_000):
        assert with_a_clock(host, error) == ["clock-unsynchronised"] * (error == 16_000_000)
    host.sh("echo systemd-nspawn >/run/systemd/container")
    # Linux before 5.14, as a check would see it.
    kill = "/sys/fs/cgroup/system.slice/cgroup.kill"
    old = ("-P", kill, "-e", "inject=newfstatat,stat,statx:error=ENOENT")
    done = host.run(
        *("strace", "-f", "-qq", "-o", "/dev/null", *old, "quantum-ess", "check", "--json"),
        check=False,
        timeout=60,
    )
    assert [f["id"] for f in json.loads(done.stdout)["findings"]] == ["no-cgroup-kill"]
    # With nobody to make it anew: the state's directory gone, then an entry that nobody delivers.
    host.run("systemctl", "stop", *WATCH, "quantum-ess-watch.path")
    host.sh("mv /var/lib/quantum-ess /var/lib/away")
    assert "directory-missing" in ids(ess, ERRORS)
    host.sh("rm -rf /var/lib/quantum-ess; mv /var/lib/away /var/lib/quantum-ess")
    assert ids(ess) == {"watcher-down"}
    host.sh("mkdir -p /run/quantum-ess/spool; echo x >/run/quantum-ess/spool/1")
    assert ids(ess) == {"watcher-down", "entries-waiting"}
    host.sh("rm /run/quantum-ess/spool/1")
    # A path unit that has failed, for its directory is none.
    host.sh("rmdir /run/quantum; touch /run/quantum; systemctl restart quantum-ess.path || true")
    assert ids(ess) == {"watcher-down", "flag-directory-odd"}
    host.sh("rm /run/quantum; systemd-tmpfiles --create; systemctl reset-failed quantum-ess.path")
    host.run("systemctl", "start", "quantum-ess.path", "quantum-ess-watch.timer")
    wait_until(lambda: ids(ess) == set(), SOON, "an end of all this")
    began = time.monotonic()
    with host.frozen():
        assert ids(ess, ERRORS) == {"pid-1"}
    assert time.monotonic() - began < 15


def test_the_guard(trading: Trading) -> None:
    """Dead, not there after a boot, or blind; nothing is said where there is nothing to guard."""
    host, ess, guard = trading.host, Ess(trading.host), Guarded(trading.host)
    guard.redis("SET", "risk", 1)
    risk = condition("risk", redis="risk", limit="> 10", unknown_for="2s")
    guard.configure(risk)
    guard.wait("risk", state="fine")
    assert check(ess, FINE) == set()
    host.run("systemctl", "disable", WATCHER)
    assert check(ess, ERRORS) == {("guard-not-enabled", WATCHER)}
    host.run("systemctl", "enable", WATCHER)
    host.run("systemctl", "stop", WATCHER, UNIT)
    assert check(ess, ERRORS) == {("guard-dead", UNIT)}
    host.run("systemctl", "start", WATCHER)
    # Else it would be the dead one's last word that is read.
    wait_until(lambda: ess.status()["guard"]["state"] == "running", SOON, "a guard again")
    guard.wait("risk", state="fine")
    assert check(ess, FINE) == set()
    guard.redis("DEL", "risk")
    wait_until(lambda: ids(ess) == {"guard-blind"}, SOON, "a blind guard")
    assert not guard.latched()


def test_our_own_files(trading: Trading) -> None:
    host, ess = trading.host, Ess(trading.host)
    ess("activate")
    ess.wait_complete()
    # Else `tend` writes the record anew, perhaps before it is looked at.
    host.run("systemctl", "stop", *WATCH)
    host.sh("cp /var/lib/quantum-ess/latched /var/cache/kept; echo x >/var/lib/quantum-ess/latched")
    assert ids(ess, ERRORS) == {"watcher-down", "record-unreadable"}
    host.sh("rm /var/lib/quantum-ess/latched")
    assert ids(ess, ERRORS) == {"watcher-down", "record-missing"}
    host.run("systemctl", "start", "quantum-ess-watch.timer")
    wait_until(lambda: ids(ess) == set(), SOON, "the record, written anew")
    host.sh("cp /var/cache/kept /var/lib/quantum-ess/latched")
    failed = (
        '{"version": 1, "time": "2026-01-28T00:15:23Z", "epoch": 1769559323, "result": "failed"'
    )
    host.sh(f'echo \'{failed}, "failures": ["slow"]}}\' >/var/lib/quantum-ess/drill.json')
    assert ids(ess, ERRORS) == {"drill-failed"}
    host.sh("rm /var/lib/quantum-ess/drill.json")
    host.sh("sed -i 's/activated/released/' /var/lib/quantum-ess/history.jsonl")
    assert ids(ess, WARNINGS) == {"history-not-whole"}
    host.sh("rm /var/lib/quantum-ess/history*")
    ess("deactivate")
    host.sh("echo '{}' >/run/quantum-ess/releasing")
    assert ids(ess, WARNINGS) == {"release-interrupted"}


def test_legacy_cgroups(release: str, layers: list[Path]) -> None:
    with Host(release, layers, unified=False) as host:
        trading = Trading(host)
        trading.start()
        assert ids(Ess(host), WARNINGS) == {"cgroup-v1", "drill-overdue"}
