"""Stop: every process of every protected unit is dead within 2 s, whatever it is, however asked."""

import pytest

from conftest import HostMaker
from host import Host
from kinds import DEAF, FOUR, KEPT, ROUNDS, service, standin
from product import ACTIVE, DONE, NOT_PERMITTED, NOT_VERIFIED, USAGE, Ess
from trading import FLAG, LIMIT, WAYS, Trading
from waiting import hold, wait_until


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kinds", ROUNDS, ids=lambda kinds: "+".join(kinds.values()))
def test_every_kind_dies_by_every_way(host: Host, way: str, kinds: dict[str, str]) -> None:
    trading = Trading(host, kinds)
    trading.start()
    neighbours = trading.bystanders()
    assert set(trading.kept_pids()) < set(neighbours)

    pull = trading.pull(way)

    trading.assert_stopped(pull.time)
    assert pull.status == DONE, pull
    trading.assert_inactive()
    Ess(host).wait_idle()
    assert Ess(host).failed_units() == ""
    assert trading.bystanders() == neighbours
    trading.all_running(KEPT)
    assert Ess(host).latched()


def test_success_is_printed_only_when_all_are_dead(host: Host) -> None:
    """Nothing is alive at the moment that the command says so, not only a little later."""
    trading = Trading(host, ROUNDS[3])
    trading.start()
    pull = trading.pull("command")
    assert trading.remaining() == {}
    assert pull.out.splitlines()[0] == ACTIVE
    assert trading.last_sign_of_life() < pull.time + LIMIT


def test_what_lives_is_named(trading: Trading) -> None:
    """PID 1 hangs and the kernel refuses every kill: no success is claimed, exit status 5."""
    host = trading.host
    host.run("systemctl", "stop", "quantum-ess-sentry")  # nobody refuses it anything
    refuse = [f"--inject={call}:error=EPERM" for call in ("kill", "tkill", "pidfd_send_signal")]
    strace = ["strace", "--follow-forks", "--output=/dev/null", *refuse]
    read_only = "mount -o bind,remount,ro /sys/fs/cgroup; exec "
    command = ["unshare", "--mount", "sh", "-ec", read_only + '"$@"', "sh", *strace]
    with host.frozen():
        done = host.run(*command, "quantum-ess", "activate", check=False)
        trading.all_running()
    assert done.returncode == NOT_VERIFIED, done
    assert ACTIVE not in done.stdout
    for unit in FOUR:
        assert unit.removesuffix(".service") in done.stderr
    wait_until(lambda: not trading.remaining(), 5, "the stop by PID 1, once it runs again")


def test_already_active_is_success_again(trading: Trading) -> None:
    ess = Ess(trading.host)
    ess("activate", "--reason", "first")
    ess.wait_complete()
    before = ess.status()
    again = ess("activate", "--reason", "second")
    assert again.returncode == DONE
    assert again.stdout.splitlines()[0] == ACTIVE
    assert "already" in again.stdout
    ess.wait_idle()
    after = ess.status()
    assert [after[key] for key in ("incident", "since", "reason")] == [
        before[key] for key in ("incident", "since", "reason")
    ]
    assert len(ess.incidents()) == 1
    assert len(ess.named("complete")) == 1


def test_only_root_may(trading: Trading) -> None:
    ess = Ess(trading.host)
    for command in ("activate", "deactivate"):
        done = ess(command, check=False, user="nobody")
        assert done.returncode == NOT_PERMITTED
        assert "root" in done.stderr
    refused = trading.host.run("touch", FLAG, check=False, user="nobody")
    assert refused.returncode != 0
    hold(trading.ended, 0.5, "stopped by nobody")
    assert not ess.latched()


def test_usage(trading: Trading) -> None:
    for argv in (["activat"], ["activate", "--no"], ["status", "x"], ["--x"], [""]):
        done = Ess(trading.host)(*argv, check=False)
        assert done.returncode == USAGE
        assert "usage" in done.stderr
    assert not Ess(trading.host).latched()


def exited(trading: Trading, unit: str) -> float:
    """When systemd saw the main process end, in s: its last stamp may be much older."""
    (shown,) = trading.host.properties(unit, "ExecMainExitTimestampMonotonic").values()
    return int(shown) / 1e6


def test_category_1_with_pid_1_hung(host: Host) -> None:
    """By flag the sentry alone is left to see it through."""
    trading = Trading(host, {FOUR[0]: "ignores-sigterm"})
    Ess(host).configure(f"[unit {FOUR[0]}]\nstop_category = 1\ngrace = 500ms\n")
    trading.start()
    with host.frozen():
        pull = trading.pull("flag")
        trading.assert_stopped(pull.time, watch=0)
    assert trading.last_sign_of_life() > pull.time + 0.4e9, "it had no grace"
    Ess(host).wait_complete()


@pytest.mark.parametrize("way", WAYS)
def test_category_1_gets_sigterm_and_its_grace(host: Host, way: str) -> None:
    """One that needs 0.3 s of its 1 s ends by itself; a deaf one is killed inside the 2 s.

    One of category 0 that would need 5 s is killed before either.
    """
    polite, deaf, at_once, _ = FOUR
    trading = Trading(host, {polite: "normal", deaf: "ignores-sigterm", at_once: "normal"})
    trading.write_unit(polite, service(standin("slow-term", "0.3")))
    trading.write_unit(at_once, service(standin("slow-term", "5")))
    one = "stop_category = 1\ngrace = 1s\n"
    Ess(host).configure(f"[unit {polite}]\n{one}[unit {deaf}]\n{one}")
    trading.start()
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    lives = {u: exited(trading, u) - pull.time / 1e9 for u in (polite, deaf, at_once)}
    assert lives[polite] > 0.25 and lives[deaf] > 0.9, lives
    assert lives[at_once] < lives[deaf], lives
    trading.assert_inactive()
    killed = [unit for unit in lives if "status=9/KILL" in host.journal("-u", unit)]
    assert killed == [deaf, at_once]


@pytest.mark.parametrize(
    ("way", "error"),
    [
        ("command", "[protect]\nunits = init.scope\n"),
        ("unit", "[protec]\nunits = x\n"),
        ("flag", "units\n"),
        ("flag", "\0"),
    ],
)
def test_no_configuration_error_prevents_the_stop(host: Host, way: str, error: str) -> None:
    """The last good configuration protects one more unit: that it dies too shows what was used."""
    extra = "quantum-extra.service"
    trading = Trading(host, dict.fromkeys((*FOUR, extra), "ignores-sigterm"))
    ess = Ess(host)
    ess.configure(f"[protect]\nunits = {' '.join(FOUR)} {extra}\n")
    ess.configure(error)
    trading.start()
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    trading.assert_inactive()
    assert "last good" in ess("status").stdout
    assert host.run("systemctl", "start", extra, check=False).returncode != 0


def test_a_configuration_that_was_never_good(make_host: HostMaker) -> None:
    """Broken from before the boot on: the copy on disk, or the shipped one, protects the four."""
    host = make_host()
    host.write_file("/etc/quantum-ess/quantum-ess.conf.d/broken.conf", "[protect]\nunit =\n")
    host.power_cut()
    trading = Trading(host)
    trading.start()
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    assert "broken.conf:2" in Ess(host)("status").stdout


def test_units_of_every_type_and_patterns(host: Host) -> None:
    """Patterns, a slice with services in it, a scope, and what starts units: all are at rest."""
    market = ("quantum-strategy@one.service", "quantum-strategy@two.service")
    in_slice = "venue-gateway.service"
    trading = Trading(host, dict.fromkeys((*market, in_slice, "venue-scope.scope"), "normal"))
    trading.write_unit("quantum-strategy@.service", service(DEAF))
    trading.write_unit(in_slice, service(DEAF, "Slice=venue.slice"))
    trading.write_unit("venue.timer", "[Timer]\nOnActiveSec=1h\nUnit=venue-gateway.service\n")
    trading.write_unit(
        "venue.socket", "[Socket]\nListenStream=/run/v\nService=venue-gateway.service\n"
    )
    trading.write_unit("venue.path", "[Path]\nPathExists=/run/v2\nUnit=venue-gateway.service\n")
    trading.write_unit("venue.target", "[Unit]\nWants=venue-gateway.service\n")
    for unit in (*market, "venue-scope.scope"):
        host.run("rm", "-f", f"/etc/systemd/system/{unit}")
    names = "venue.slice venue.timer venue.socket venue.path venue.target venue-scope.scope"
    Ess(host).configure(f"[protect]\nunits = quantum-strategy@*.service {names}\n")
    starters = ("venue.timer", "venue.socket", "venue.path", "venue.target")
    host.run("systemctl", "start", *starters)  # a socket can't be opened once its service runs
    host.run("systemctl", "start", *market, in_slice)
    scope = host.spawn(
        *("systemd-run", "--scope", "--unit=venue-scope.scope", "--quiet"),
        *("/usr/local/bin/standin", "ignore-term", "/run/standin/venue-scope.scope"),
    )
    trading.all_running()
    pull = trading.pull("command")
    trading.assert_stopped(pull.time)
    assert pull.status == DONE, pull
    scope.communicate(timeout=5)
    for unit in (*market, in_slice, *starters, "venue.slice", "venue-scope.scope"):
        assert host.unit_state(unit) == "inactive", unit
    for unit in (*market, in_slice, *starters, "quantum-strategy@three.service"):
        assert host.run("systemctl", "start", unit, check=False).returncode != 0, unit
    assert trading.born_after(pull.time) == {}
