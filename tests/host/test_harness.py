"""The harness itself, without the product: what the other tests' verdicts stand on."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import remains
from host import CommandFailed, Host
from kinds import FOUR, KEPT, KINDS, REDIS, ROUNDS
from roots import RELEASES, root_tree
from trading import LIMIT, TRIGGER, Trading, trigger_time
from waiting import SOON, hold, now_ns, wait_until

VERSIONS = {"bookworm": "systemd 252", "trixie": "systemd 257"}


@pytest.fixture
def trading(bare_host: Host) -> Trading:
    """Normal stand-ins on a host without the package."""
    trading = Trading(bare_host)
    trading.start()
    return trading


def test_a_whole_systemd_runs(bare_host: Host) -> None:
    assert bare_host.run("systemctl", "is-system-running").stdout == "running\n"
    assert bare_host.run("systemctl", "--version").stdout.startswith(VERSIONS[bare_host.release])
    assert bare_host.run("systemctl", "list-jobs", "--no-legend").stdout == ""
    assert bare_host.run("redis-cli", "ping").stdout == "PONG\n"
    assert "0::/user.slice/" in bare_host.read_file("/proc/self/cgroup")
    assert Path("/proc/self/cgroup").read_text() != bare_host.read_file("/proc/self/cgroup")


def test_failures_of_commands_are_errors(bare_host: Host) -> None:
    with pytest.raises(CommandFailed, match="exit status 3"):
        bare_host.run("sh", "-c", "exit 3")
    assert bare_host.run("sh", "-c", "exit 3", check=False).returncode == 3
    with pytest.raises(CommandFailed):
        bare_host.sh("false; true")
    assert bare_host.run("id", "-un", user="nobody").stdout == "nobody\n"
    assert bare_host.run("cat", input="text").stdout == "text"
    bare_host.write_file("/etc/made/file", "text\n", 0o600)
    assert bare_host.sh("stat -c %a /etc/made/file; cat /etc/made/file") == "600\ntext\n"


def test_stamps_move_and_end_with_a_stop(trading: Trading) -> None:
    trading.all_running()
    begun = now_ns()
    wait_until(lambda: trading.last_sign_of_life() > begun, SOON, "stamps that move")
    pids = trading.kept_pids()
    assert all(pids.values()) and set(pids) == {*KEPT, REDIS}

    command = ("exec", f"/run/standin/{TRIGGER}", "systemctl", "stop", *FOUR)
    before = now_ns()
    trading.host.run("/usr/local/bin/standin", *command)
    pulled = trading.pulled()
    assert before < pulled
    assert before < trading.last_sign_of_life() < pulled + LIMIT
    trading.assert_stopped(pulled, watch=0.2)
    trading.assert_inactive()
    assert trading.kept_pids() == pids
    trading.all_running(KEPT)


def test_a_touch_is_timed(bare_host: Host) -> None:
    stamps = Trading(bare_host)
    before = now_ns()
    bare_host.run("/usr/local/bin/standin", "touch", f"/run/standin/{TRIGGER}", "/run/touched")
    assert before < trigger_time(bare_host.stamps / TRIGGER) == stamps.pulled() < now_ns()
    assert bare_host.exists("/run/touched")


@pytest.mark.parametrize("kinds", ROUNDS, ids=lambda kinds: "+".join(kinds.values()))
def test_every_kind_lives_and_resists_as_named(bare_host: Host, kinds: dict[str, str]) -> None:
    """A stand-in that `systemctl stop` ends at once would prove nothing about a harder stop."""
    trading = Trading(bare_host, kinds)
    trading.start()
    resists = {
        *("ignores-sigterm", "slow-to-shut-down", "kill-mode-process", "kill-mode-none"),
        *("sends-no-sigkill", "exec-stop-sleeps", "exec-stop-post-sleeps", "own-cgroup"),
        *("forks-with-setsid", "still-starting", "reloading"),
    }
    wanted = {unit for unit, kind in kinds.items() if kind in resists}
    begun = now_ns()
    stop = bare_host.spawn("systemctl", "stop", *kinds)
    easy = set(kinds) - wanted
    wait_until(lambda: not set(trading.alive()) & easy, SOON, f"the end of {easy}")
    late = {unit for unit in wanted if kinds[unit].startswith("exec-stop-")}
    wait_until(lambda: late <= set(trading.born_after(begun)), SOON, "what the stop starts")
    hold(lambda: wanted & trading.ended(), 0.5, "gave in to a plain stop")
    os.killpg(stop.pid, 9)
    stop.communicate()


def test_restarting_stand_ins_come_back(bare_host: Host) -> None:
    trading = Trading(bare_host, ROUNDS[1] | {FOUR[1]: "restarts-after-1s"})
    trading.start()
    killed = now_ns()
    bare_host.run("systemctl", "kill", "--signal=KILL", FOUR[0], FOUR[1])
    wait_until(lambda: {FOUR[0], FOUR[1]} <= set(trading.born_after(killed)), SOON, "restarts")


def test_states_of_the_unfinished(bare_host: Host) -> None:
    kinds = {FOUR[0]: "never-ready", FOUR[1]: "still-starting", FOUR[2]: "reloading"}
    trading = Trading(bare_host, kinds)
    trading.start()
    states = {FOUR[0]: "activating", FOUR[1]: "activating", FOUR[2]: "reloading"}
    assert trading.states() == states


def test_power_cut(trading: Trading) -> None:
    host = trading.host
    before = host.boot_id()
    host.sh("touch /run/volatile /var/lib/kept")
    host.run("systemctl", "enable", FOUR[0])
    cut = host.power_cut()
    assert host.boot_id() != before
    assert not host.exists("/run/volatile") and host.exists("/var/lib/kept")
    assert host.run("systemctl", "is-system-running").stdout == "running\n"
    wait_until(lambda: trading.alive() == [FOUR[0]], SOON, "the enabled one")
    assert list(trading.born_after(cut)) == [FOUR[0]]


def test_kinds_are_all_used() -> None:
    used = {kind for kinds in ROUNDS for kind in kinds.values()}
    assert set(KINDS) - used == {"cannot-start"}


@pytest.mark.parametrize("end", ["leave", "raise", "interrupt", "shut down", "abandon"])
def test_nothing_is_left(release: str, end: str) -> None:
    ends: dict[str, Callable[[Host], object]] = {
        "raise": lambda host: host.sh("false"),
        "interrupt": lambda host: os.kill(os.getpid(), 2),
        "shut down": Host.shutdown,
    }
    host = Host(release, [root_tree(release)])
    left = host.remains.leaks
    try:
        with host:
            assert len(left()) > 3
            if end in ends:
                ends[end](host)
            if end == "abandon":
                assert host.name in remains.LIVING
                host.remains.remove()
                assert host.name not in remains.LIVING
    except (CommandFailed, KeyboardInterrupt):
        assert end in ("raise", "interrupt")
    assert left() == []


def test_the_next_run_removes_what_a_killed_one_left() -> None:
    """A run ended by SIGKILL: its host dies with it; its mount and directories go next time."""
    child = os.fork()
    if child == 0:
        Host(RELEASES[0], [root_tree(RELEASES[0])]).__enter__()
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    found = remains.Remains.abandoned()
    assert len(found) == 1 and str(child) in found[0].name
    wait_until(lambda: not found[0].processes(), SOON, "the death of the orphaned host")
    assert found[0].leaks()
    found[0].remove()
    assert found[0].leaks() == []
