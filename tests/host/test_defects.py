"""What was once found broken, each held by the test that showed it; three hosts a release."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from faults.files import RUN_FULL, VAR_FULL
from host import Host
from kinds import DEAF, FOUR, service
from product import ACTIVE, DONE, INCOMPLETE, NOT_RELEASED, RECORD, WATCH, Ess
from trading import FLAG, Trading
from waiting import SOON, hold, now_ns, wait_until

BEGAN = "/run/quantum-ess/began"
SENTRY = "quantum-ess-sentry.service"


def blink(trading: Trading) -> None:
    """Set the flag and remove it as soon as somebody has acted on it: a flag of a millisecond."""
    host = trading.host
    host.sh(f"rm -f {BEGAN}; touch {FLAG}; until [ -e {BEGAN} ]; do :; done; rm {FLAG}")


def test_a_flag_of_a_millisecond_is_an_activation_and_a_release(trading: Trading) -> None:
    """Whatever was killed for it is on record, and runs again: nothing is left half latched."""
    host, ess = trading.host, Ess(trading.host)
    trading.put_down(FOUR[3])  # what did not run must not be started
    kept = trading.kept_pids()
    blink(trading)
    ess.wait_event("released")
    names = [event["ESS_EVENT"] for event in ess.events()]
    assert [name for name in names if not name.startswith("marker")] == [
        "initiated",
        "latched",
        *["stopped"] * 3,
        "activated",
        "complete",
        "release-initiated",
        "unlatched",
        *["started"] * 3,
        "released",
    ]
    assert len(ess.incidents()) == 1
    trading.all_running(FOUR[:3])
    assert not trading.living(FOUR[3])
    assert trading.kept_pids() == kept
    assert not ess.latched()

    # The same if the flag goes after the sentry has looked, and before anybody else has.
    with host.frozen():
        host.sh(
            f"rm -f {BEGAN}; touch {FLAG}; until [ -e {BEGAN} ]; do :; done; sleep 0.5; rm {FLAG}"
        )
    ess.wait_event("released", 2)
    trading.all_running(FOUR[:3])
    assert not trading.living(FOUR[3])
    assert not ess.latched()
    hold(ess.latched, 6.0, "stopped again by what is long over")

    # An activation that comes before the removal is carried out takes the flag over: it stays.
    host.run("systemctl", "stop", *WATCH)
    blink(trading)
    ess.wait_event("complete", 3)
    ess("activate")
    host.run("systemctl", "start", "quantum-ess-watch.service")
    host.run("systemctl", "start", "quantum-ess-release.service")
    assert ess.first_line() == ACTIVE
    assert not trading.alive()
    assert len(ess.named("released")) == 2


@pytest.mark.parametrize("python", [True, False], ids=["python", "halt"])
def test_what_pid_1_stopped_long_before_anybody_noted_a_time(
    trading: Trading, python: bool
) -> None:
    """By unit: PID 1 stops first, and whoever sets the flag is slow to begin."""
    host, halt = trading.host, "/usr/lib/quantum-ess/halt"
    host.run("systemctl", "stop", SENTRY, "quantum-ess.path")
    host.run("mv", halt, f"{halt}.real")
    host.write_file(halt, f'#!/bin/sh\nsleep 3\nexec {halt}.real "$@"\n', 0o755)
    if not python:
        host.run("mv", "/usr/bin/python3", "/usr/bin/python3.away")
    host.run("systemctl", "start", "quantum-ess.service")
    assert sorted(json.loads(host.read_file(RECORD))["running"]) == sorted(FOUR)


def test_a_start_refused_before_there_is_a_record(trading: Trading) -> None:
    """It belongs to the incident that the flag began."""
    host, ess = trading.host, Ess(trading.host)
    watchers = ("quantum-ess.path", "quantum-ess-watch.path", *WATCH)
    host.run("systemctl", "stop", SENTRY, *watchers, FOUR[3])
    host.run("touch", FLAG)
    assert host.run("systemctl", "start", FOUR[3], check=False).returncode != 0
    (refused,) = ess.wait_event("refused")
    boot = host.read_file("/proc/sys/kernel/random/boot_id")
    inode = host.run("stat", "-c", "%i", FLAG).stdout.strip()
    assert refused["ESS_INCIDENT"] == f"{boot[:8]}-{inode}"
    ess("activate")
    assert ess.incidents() == [refused["ESS_INCIDENT"]]


def test_a_record_that_is_not_read_at_first_is_read_all_the_same(trading: Trading) -> None:
    """A release that took it for empty started nothing. No call of the reading but one may fail."""
    host, ess = trading.host, Ess(trading.host)
    for call in ("newfstatat,fstat", "read"):
        ess("activate")
        injection = ("-P", RECORD, "-e", f"inject={call}:error=EIO:when=1")
        host.run("strace", "-f", "-o", "/dev/null", *injection, "quantum-ess", "deactivate")
        trading.all_running()

    # A controller that hangs: the stop and the latch hold, and the command returns.
    pids = trading.kept_pids()
    host.sh("mv /usr/bin/python3 /usr/bin/python3.away")
    host.sh("printf '#!/bin/sh\\nkill -STOP $$\\n' >/run/hang; chmod 755 /run/hang")
    host.sh("ln -sf /run/hang /usr/bin/python3")
    command = host.spawn("quantum-ess", "activate")
    out, err = command.communicate(timeout=40)
    assert command.returncode == INCOMPLETE, (out, err)
    assert ACTIVE in out and "the controller failed (status 137)" in err
    assert not trading.remaining()
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    host.sh("mv /usr/bin/python3.away /usr/bin/python3")
    host.run("systemctl", "kill", "-s", "KILL", "quantum-ess-trigger", "quantum-ess-watch")
    assert ess("activate").returncode == DONE
    ess.wait_complete()
    ess("deactivate")
    trading.all_running()
    assert trading.kept_pids() == pids

    # Nowhere to note that the trail is complete: it is written once all the same.
    with RUN_FULL.made(host), VAR_FULL.made(host):
        pull = trading.pull("flag")
        trading.assert_stopped(pull.time)
        count = len(ess.wait_event("complete", 4))
        for _ in range(3):
            host.run("systemctl", "start", "quantum-ess-watch.service")
        assert len(ess.named("complete")) == count
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0


MTIME = f"stat -c %.9Y {FLAG}"
# The watch looks every second, so that this takes no longer than it must.
OFTEN = """
mkdir -p /run/systemd/system/quantum-ess-watch.timer.d
cat >/run/systemd/system/quantum-ess-watch.timer.d/test.conf <<END
[Timer]
OnBootSec=
OnActiveSec=1s
OnUnitInactiveSec=1s
END
systemctl daemon-reload; systemctl restart quantum-ess-watch.timer
"""


def test_flags_that_go_while_the_trigger_is_at_work(trading: Trading) -> None:
    """It fills a flag that may have gone, and been set again by the sentry, since it looked."""
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[resume]\nsettle = 0\n")
    host.sh(OFTEN)
    for pause in range(20, 80, 5):
        released = len(ess.named("released"))
        host.sh(f"touch {FLAG}; sleep 0.0{pause}; rm -f {FLAG}")
        ess.wait_event("released", released + 1)
        trading.all_running()
        assert not ess.latched()


def test_a_stop_without_python_beats_a_release_that_has_looked(trading: Trading) -> None:
    """The release has noted the flag and waits; nobody but the shell says that it was set again."""
    host, ess = trading.host, Ess(trading.host)
    ess("activate")
    ess.wait_complete()
    locked = host.spawn("flock", "/run/quantum-ess/lock", "sleep", "5")
    wait_until(
        lambda: host.run("flock", "-n", "/run/quantum-ess/lock", "true", check=False).returncode,
        SOON,
        "a lock that is held",
    )
    release = host.spawn("quantum-ess", "deactivate")
    at_work = ("pgrep", "-f", "[c]ontroller deactivate")
    wait_until(lambda: host.run(*at_work, check=False).stdout, SOON, "a release that has looked")
    host.sh("mv /usr/bin/python3 /usr/bin/python3.away")
    done = ess("activate", check=False)
    host.sh("mv /usr/bin/python3.away /usr/bin/python3")
    assert (done.returncode, done.stdout.strip()) == (INCOMPLETE, ACTIVE), done
    locked.communicate(timeout=SOON)
    release.communicate(timeout=SOON)
    assert release.returncode == NOT_RELEASED
    assert ess.latched() and not trading.remaining()


SLOW_DD = """#!/bin/sh
touch /run/filling
while [ ! -e /run/fill ]; do sleep 0.01; done
exec dd.real "$@"
"""


def test_an_activation_while_halt_fills_a_flag_beats_a_release_that_has_looked(
    trading: Trading,
) -> None:
    """halt gives the flag back the time that it was set at, but not that which was noted."""
    host = trading.host
    host.sh("mv /usr/bin/dd /usr/bin/dd.real; mkdir -p /run/quantum-ess")
    host.write_file("/usr/bin/dd", SLOW_DD, 0o755)
    locked = host.spawn("flock", "/run/quantum-ess/lock", "sleep", "4")
    lock_is_free = ("flock", "-n", "/run/quantum-ess/lock", "true")
    wait_until(lambda: host.run(*lock_is_free, check=False).returncode, SOON, "a lock that is held")
    host.sh(f"touch {FLAG}")
    wait_until(lambda: host.exists("/run/filling"), SOON, "a flag that is being filled")
    at = host.sh(MTIME)
    release = host.spawn("quantum-ess", "deactivate")
    at_work = ("pgrep", "-f", "[c]ontroller deactivate")
    wait_until(lambda: host.run(*at_work, check=False).stdout, SOON, "a release that has looked")
    activation = host.spawn("quantum-ess", "activate")
    wait_until(lambda: host.sh(MTIME) != at, SOON, "a flag that is marked")
    host.sh("touch /run/fill")
    wait_until(lambda: host.sh(f"cat {FLAG}"), SOON, "a flag that is filled")
    locked.communicate(timeout=SOON)
    activation.communicate(timeout=SOON)
    release.communicate(timeout=SOON)
    assert (activation.returncode, release.returncode) == (DONE, NOT_RELEASED)
    assert Ess(host).latched() and not trading.remaining()


def test_a_release_that_was_to_start_nothing_and_is_broken_off(trading: Trading) -> None:
    """Killed after it had taken the flag away: the watch goes on with it, and not with another."""
    host, ess = trading.host, Ess(trading.host)
    ess("activate")
    ess.wait_complete()
    incident = ess.status()["incident"]
    note = {"version": 1, "incident": incident, "running": [], "pid": 4_000_000}
    host.run("tee", "/run/quantum-ess/releasing", input=json.dumps(note))
    begun = now_ns()
    host.run("rm", FLAG)
    ess.wait_event("released")
    hold(lambda: trading.born_after(begun), 1.0, "started, though nothing was to be")


def parts(host: Host) -> dict[int, str]:
    """Processes of the sentry: pid outside of the host to name."""
    found = {}
    for pid in host.processes(SENTRY):
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def restarts(host: Host) -> int:
    """How often systemd has started the sentry again by itself."""
    return int(host.properties(SENTRY, "NRestarts")["NRestarts"])


def hang(host: Host, part: str) -> None:
    """Stop the part of that name with SIGSTOP; of the sentry's shells the one that kills."""
    if part == "sentry":
        host.sh(f"kill -STOP $(systemctl show -P MainPID {SENTRY})")
        return
    wait_until(lambda: stop_one(host, part), SOON, part)


def stop_one(host: Host, part: str) -> bool:
    """SIGSTOP to that part, which may be ending: a sleep lives for a second. False if it was."""
    pid = {name: pid for pid, name in parts(host).items()}.get(part, 0)
    if not pid:
        return False
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
        return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()
    return False


def test_a_sentry_that_hangs_is_started_again(host: Host) -> None:
    """Whichever part it is: the loop that kills feeds the watchdog, by the way of the flag."""
    host.sh(
        f"mkdir -p /run/systemd/system/{SENTRY}.d\n"
        f"printf '[Service]\\nWatchdogSec=3\\n' >/run/systemd/system/{SENTRY}.d/test.conf\n"
        f"systemctl daemon-reload; systemctl restart {SENTRY}"
    )
    hold(lambda: restarts(host), 5, "restarted")
    for part in ("sentry", "tail", "sleep"):
        before = restarts(host)
        hang(host, part)
        wait_until(
            lambda was=before: restarts(host) > was,  # type: ignore[misc]
            SOON,
            f"a restart after its {part} was hung",
        )
        wait_until(lambda: "tail" in parts(host).values(), SOON, "the sentry at work")
    trading = Trading(host)
    trading.start()
    host.run("systemctl", "stop", "quantum-ess.path", *WATCH)
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)


OUTSIDE = "/sys/fs/cgroup/session.slice"
LEFT = f"/bin/sh -ec 'mkdir -p {OUTSIDE}; echo $$$$ >{OUTSIDE}/cgroup.procs; exec {DEAF}'"


@pytest.mark.parametrize("way", ["command", "flag", "command without Python"])
def test_a_main_process_outside_of_its_cgroup(trading: Trading, way: str) -> None:
    """As su(1) and PAMName= have it moved into a session: PID 1 still knows it."""
    host = trading.host
    trigger, _, situation = way.partition(" ")
    trading.write_unit(FOUR[1], service(LEFT, "TimeoutStopSec=60"))
    host.sh(f"systemctl daemon-reload; systemctl restart {FOUR[1]}")
    wait_until(lambda: host.sh(f"cat {OUTSIDE}/cgroup.procs || :") != "", SOON, "a way out")
    if situation:  # with a pattern, which PID 1 would take for more than we do
        pattern = "[protect]\nunits =\nunits = quantum-*\n[keep]\nunits = quantum-rl-monitor\n"
        Ess(host).configure(pattern)
        host.run("mv", "/usr/bin/python3", "/usr/bin/away")
    kept = {**trading.kept_pids(), SENTRY: host.main_pid(SENTRY)}
    pull = trading.pull(trigger)
    trading.assert_stopped(pull.time)
    assert {**trading.kept_pids(), SENTRY: host.main_pid(SENTRY)} == kept
    if situation:
        host.run("mv", "/usr/bin/away", "/usr/bin/python3")
    else:
        assert pull.status == DONE, pull


@pytest.mark.parametrize(
    ("whose", "way"), [("kept", "command"), ("protected", "command"), ("protected", "flag")]
)
def test_the_runtime_directory_of_a_unit(trading: Trading, whose: str, way: str) -> None:
    """PID 1 removes it, and the flag in it, whenever that unit ends: nobody has meant a release."""
    host, ess = trading.host, Ess(trading.host)
    unit = "quantum-rl-monitor.service" if whose == "kept" else FOUR[2]
    own = f"/etc/systemd/system/{unit}.d/own.conf"
    host.write_file(own, "[Service]\nRuntimeDirectory=quantum\n")
    host.sh(f"systemctl daemon-reload; systemctl restart {unit}")
    if way == "flag":  # nobody has noted yet where it was when it goes
        host.run("systemctl", "stop", SENTRY)
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    ess.wait_complete()
    begun = now_ns()
    if whose == "kept":
        host.run("systemctl", "restart", unit)
    hold(lambda: trading.born_after(begun), 8, "released by PID 1")
    assert ess.first_line() == ACTIVE and not ess.named("release-initiated")
    ess("deactivate")
    trading.all_running()
