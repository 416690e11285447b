"""Two ordinary things at once: a stop or a release, and what nobody had thought of beside it."""

import pytest

from conftest import HostMaker
from host import Host
from kinds import FOUR, KINDS, NORMAL, service
from product import ACTIVE, DONE, INACTIVE, INCOMPLETE, RECORD, WATCH, Ess
from trading import FLAG, Trading
from waiting import SOON, now_ns, wait_until

WATCHERS = ("quantum-ess.path", "quantum-ess-watch.path", *WATCH, "quantum-ess-sentry.service")
GO = "/run/go"
CALLS = "until [ -e {}/go ]; do sleep 0.05; done; quantum-ess activate --reason drawdown; sleep 99"


@pytest.mark.parametrize("watched", [True, False])
def test_activated_by_a_protected_unit(make_host: HostMaker, watched: bool) -> None:
    """It does not die with its caller before it has said who and why, and killed the rest."""
    host = make_host()
    ess = Ess(host)
    trading = Trading(host, dict.fromkeys(FOUR[1:], "normal"))
    trading.write_unit(FOUR[0], service(f"/bin/sh -c '{CALLS.format('/run')}'"))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", FOUR[0])
    trading.start()
    if not watched:
        host.run("systemctl", "stop", *WATCHERS)
    began = now_ns()
    host.run("touch", GO)
    wait_until(lambda: host.exists(FLAG), SOON, "the flag")
    trading.assert_stopped(began + 1_000_000_000)
    wait_until(lambda: "stop_ms" in host.sh(f"cat {RECORD} || :"), SOON, "the record")
    said = ess.status()
    assert (said["trigger"], said["reason"]) == ("command", "drawdown")
    assert not host.processes(FOUR[0])
    ess.wait_complete()


@pytest.mark.parametrize("way", ["activate", "activate without Python", "halt"])
def test_activated_under_a_limit_to_the_size_of_files(host: Host, way: str) -> None:
    """RLIMIT_FSIZE=0: what can't be written is said, and everything else is done."""
    trading, ess = Trading(host), Ess(host)
    ess.configure(f"[unit {FOUR[0]}]\nstop_category = 1\ngrace = 200ms\n")
    trading.write_unit(FOUR[0], KINDS["ignores-sigterm"])
    host.run("systemctl", "daemon-reload")
    trading.start()
    host.run("systemctl", "stop", *WATCHERS)
    if "without" in way:
        host.run("mv", "/usr/bin/python3", "/usr/bin/away")
    command = "/usr/lib/quantum-ess/halt --raise" if way == "halt" else "quantum-ess activate"
    done = host.run("sh", "-c", f"ulimit -f 0; exec {command}", check=False)
    assert done.returncode in (DONE, INCOMPLETE), done
    trading.assert_stopped(now_ns())
    assert host.exists(FLAG)


def test_nothing_ran_or_nobody_knows(host: Host) -> None:
    """Without PID 1's answer an empty list of what ran is not made."""
    Trading(host)
    ess = Ess(host)
    host.run("systemctl", "stop", *WATCHERS)
    for known in (True, False):
        if not known:
            host.sh("mv /usr/bin/systemctl /usr/bin/away; ln -s false /usr/bin/systemctl")
        host.run("/usr/lib/quantum-ess/halt", "--raise")
        assert ('"running": []' in host.read_file(RECORD)) == known
        if known:
            ess("deactivate")


def test_members_of_a_slice_that_are_enabled(host: Host) -> None:
    """`[resume] what = enabled` starts them too."""
    members = ("venue-a.service", "venue-b.service")
    trading = Trading(host, dict.fromkeys(members, "normal"))
    for unit in members:
        trading.write_unit(unit, service(NORMAL, "Slice=venue.slice"))
    ess = Ess(host)
    ess.configure("[protect]\nunits = venue.slice\n[resume]\nwhat = enabled\nsettle = 0\n")
    host.run("systemctl", "enable", *members)
    trading.start()
    pull = trading.pull("command")
    trading.assert_stopped(pull.time)
    ess("deactivate")
    trading.all_running()


@pytest.mark.parametrize("what", ["daemon-reexec", "reload"])
def test_in_the_middle_of_a_release(trading: Trading, what: str) -> None:
    """PID 1 closes its connections, or a unit reloads while it settles: that is no failure."""
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[resume]\nsettle = 2s\n")
    reloads = KINDS["normal"].replace("[Install]", "ExecReload=/bin/sleep 1\n[Install]")
    trading.write_unit(FOUR[0], reloads)
    host.run("systemctl", "daemon-reload")
    trading.assert_stopped(trading.pull("command").time)
    ess.wait_complete()
    began = now_ns()
    release = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: FOUR[0] in trading.born_after(began), SOON, "the first unit")
    wait_until(lambda: host.unit_state(FOUR[0]) == "active", SOON, "it to be up")
    host.run("systemctl", what, *([FOUR[0]] if what == "reload" else []))
    out, said = release.communicate(timeout=60)
    assert release.returncode == DONE, (out, said)
    assert out.splitlines()[-1] == INACTIVE
    trading.all_running()


@pytest.mark.parametrize("key", ["\x1a", "\x13"], ids=["Ctrl-Z", "Ctrl-S"])
def test_a_key_in_the_middle_of_a_release(trading: Trading, key: str) -> None:
    """On a terminal: neither stops it halfway, which would leave the latch open for good."""
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[resume]\nsettle = 500ms\n")
    trading.assert_stopped(trading.pull("command").time)
    ess.wait_complete()
    began = now_ns()
    # By a shell with job control: nothing else could be continued, so the kernel would not stop it.
    command = "bash -mc 'quantum-ess deactivate; true'"
    terminal = host.spawn("script", "-qec", command, "/dev/null")
    wait_until(lambda: FOUR[0] in trading.born_after(began), SOON, "the first unit")
    assert terminal.stdin is not None
    terminal.stdin.write(key)
    terminal.stdin.flush()
    wait_until(lambda: len(trading.born_after(began)) == len(FOUR), 20, "all units")
    ess.wait_event("released", timeout=20)
    trading.all_running()
    assert ess.first_line() == INACTIVE != ACTIVE
    terminal.kill()
    terminal.communicate(timeout=SOON)
