"""Two ordinary things at once: a stop or a release, and what nobody had thought of beside it."""

import pytest

from conftest import HostMaker
from host import Host
from kinds import FOUR, KINDS, NORMAL, service
from product import ACTIVE, DONE, INACTIVE, INCOMPLETE, NOT_RELEASED, RECORD, WATCH, Ess
from trading import FLAG, Trading
from waiting import SOON, now_ns, wait_until

WATCHERS = ("quantum-ess.path", "quantum-ess-watch.path", *WATCH, "quantum-ess-sentry.service")
GO = "/run/go"
CALL = "quantum-ess activate --reason drawdown"
CALLS = {
    "": f"{CALL}; sleep 99",
    ", left behind": f"(sleep 0.3; {CALL}) & exec sleep 99",
    ", an orphan": f"(sleep 0.3; {CALL}) & exit",
}
OWN = "[protect]\nunits = {}\n[resume]\nsettle = 0\n"


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("how", CALLS)
def test_activated_by_a_protected_unit(make_host: HostMaker, watched: bool, how: str) -> None:
    """It does not die with its caller before it has said who and why, and killed the rest."""
    host = make_host()
    ess = Ess(host)
    trading = Trading(host, dict.fromkeys(FOUR[1:], "normal"))
    calls = f"until [ -e {GO} ]; do sleep 0.05; done; {CALLS[how]}"
    trading.write_unit(
        FOUR[0], service(f"/bin/sh -c '{calls}'", "Type=oneshot", "KillMode=process")
    )
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "--no-block", FOUR[0])
    trading.start()
    if not watched:
        host.run("systemctl", "stop", *WATCHERS)
    began = now_ns()
    host.run("touch", GO)
    wait_until(lambda: host.exists(FLAG), SOON, "the flag")
    trading.assert_stopped(began + 2_000_000_000)
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


@pytest.mark.parametrize("python", [True, False], ids=["python", "no-python"])
def test_an_activation_that_a_release_overtakes(trading: Trading, python: bool) -> None:
    """It has found the flag set, and the release takes that one away before it has marked it."""
    host, ess = trading.host, Ess(trading.host)
    trading.assert_stopped(trading.pull("command").time)
    ess.wait_complete()
    slow, held = "linkat:delay_exit", "/usr/bin/quantum-ess activate"
    if not python:  # stat(1) looks for what it is to mark
        slow, held = "statx:delay_enter", "/usr/lib/quantum-ess/halt --command '' why 1"
    strace = f"exec strace -fqq -o /run/trace -P {FLAG} -e inject={slow}=3000000:when=1 {held}"
    activation = host.spawn("sh", "-c", strace)
    wait_until(lambda: slow.split(":")[0] in host.sh("cat /run/trace || :"), SOON, "the call")
    ess("deactivate", "--no-start")
    out, said = activation.communicate(timeout=60)
    assert activation.returncode == (DONE if python else INCOMPLETE), (out, said)
    assert "flag" not in said and host.exists(FLAG)
    assert ess.first_line() == ACTIVE
    assert not trading.remaining()


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
    assert ess.first_line() == INACTIVE
    terminal.kill()
    terminal.communicate(timeout=SOON)


@pytest.mark.parametrize("units", ["gw gw.socket engine", "gw.socket engine gw"])
def test_a_socket_beside_its_service(host: Host, units: str) -> None:
    """It is opened first: once its service runs PID 1 would refuse. Where it is first it stays."""
    trading = Trading(host, {"gw.service": "normal", "engine.service": "normal"})
    trading.write_unit("gw.socket", "[Socket]\nListenStream=/run/gw\n")
    client = service(NORMAL, "ExecStartPre=/usr/bin/test -S /run/gw")
    trading.write_unit("engine.service", client)
    host.run("systemctl", "daemon-reload")
    ess = Ess(host)
    ess.configure(OWN.format(units))
    host.run("systemctl", "start", "gw.socket")
    trading.start()
    trading.assert_stopped(trading.pull("command").time)
    ess("deactivate")
    trading.all_running()
    assert host.unit_state("gw.socket") == "active"


def test_a_configuration_that_changes_under_the_latch(trading: Trading) -> None:
    """Order and names are those of today; what is added is stopped; what is gone is found early."""
    host, ess = trading.host, Ess(trading.host)
    late = "late.service"
    trading.write_unit(late, service("/bin/sleep infinity"))
    trading.assert_stopped(trading.pull("command").time)
    ess.wait_complete()
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", late)
    ess.configure(OWN.format(f"{' '.join(reversed(FOUR))} {late}"))
    wait_until(lambda: not host.processes(late), 2, "an end of what is protected now")

    host.run("mv", f"/etc/systemd/system/{FOUR[0]}", "/run/away")
    host.run("systemctl", "daemon-reload")
    flag, began = host.run("stat", "-c", "%i", FLAG).stdout, now_ns()
    done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED and "can't be started: not-found" in done.stderr, done
    assert host.run("stat", "-c", "%i", FLAG).stdout == flag
    assert not trading.born_after(began)

    host.run("mv", "/run/away", f"/etc/systemd/system/{FOUR[0]}")
    host.run("systemctl", "daemon-reload")
    started = [line for line in ess("deactivate").stdout.splitlines() if "started" in line]
    names = [line.split()[1] for line in started]
    assert names == [unit.removesuffix(".service") for unit in reversed(FOUR)]

    trading.assert_stopped(trading.pull("command").time)
    host.run("rm", f"/etc/systemd/system/{FOUR[0]}")
    ess.configure(OWN.format(" ".join(FOUR[1:])))
    assert f"note: {FOUR[0]} is neither there nor protected" in ess("deactivate").stdout
    trading.all_running(FOUR[1:])


def test_what_has_no_process_and_a_hung_pid_1(host: Host) -> None:
    """That nothing was alive does not say that no timer ran."""
    ess, trading = Ess(host), Trading(host, {})
    timer = "rebalance.timer"
    trading.write_unit("rebalance.service", service("/bin/true"))
    text = "[Timer]\nOnActiveSec=1h\n[Install]\nWantedBy=timers.target\n"
    trading.write_unit(timer, text)
    ess.configure(OWN.format(f"rebalance {timer}"))
    host.run("systemctl", "enable", "--now", timer)
    with host.frozen():
        assert ess("activate", check=False).returncode == INCOMPLETE
    ess.wait_idle()
    assert host.unit_state(timer) == "inactive"
    ess("deactivate")
    assert host.unit_state(timer) == "active"


def test_a_timer_beside_a_service_and_a_hung_pid_1(host: Host) -> None:
    """That the service was alive does not say that no timer ran: those enabled are started too."""
    ess, trading = Ess(host), Trading(host, {FOUR[0]: "normal"})
    trading.write_unit("rebalance.service", service("/bin/true"))
    timer = "[Timer]\nOnActiveSec=1h\n[Install]\nWantedBy=timers.target\n"
    trading.write_unit("rebalance.timer", timer)
    ess.configure(OWN.format(f"{FOUR[0]} rebalance rebalance.timer"))
    trading.start()
    host.run("systemctl", "enable", "--now", "rebalance.timer")
    with host.frozen():
        assert ess("activate", check=False).returncode == INCOMPLETE
    ess.wait_idle()
    said = ess("deactivate").stdout
    assert "note: systemd had not said what else ran" in said
    assert "started rebalance.timer" in said and "started quantum-ai-engine" in said


def test_half_an_answer_of_what_ran(host: Host) -> None:
    """Of a unit that has "end" in its name: it is not the answer's."""
    Ess(host).configure(OWN.format("quantum-sender"))
    host.run("systemctl", "stop", *WATCHERS)
    cut = "#!/bin/sh\necho Id=quantum-sender.service; exit 1\n"
    host.run("mv", "/usr/bin/systemctl", "/usr/bin/away")
    host.write_file("/usr/bin/systemctl", cut, 0o755)
    host.run("/usr/lib/quantum-ess/halt", "--raise")
    assert "running" not in host.read_file(RECORD)
