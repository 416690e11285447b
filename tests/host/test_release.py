"""Release: deliberate, in order, only what ran before; a unit that fails latches all again."""

import itertools

import pytest

from host import STAMPS, STANDIN, Host
from kinds import FOUR, KINDS, service, standin
from product import DONE, INACTIVE, NOT_RELEASED, RECORD, WATCH, Ess, sent
from trading import FLAG, TRIGGER, WAYS, Trading
from waiting import SOON, hold, now_ns, wait_until

SETTLE = 0.5  # seconds, the default
RELEASED = 5.0  # seconds: the promise, with default settings
PICKED_UP = 5.0  # seconds until a removed flag must have been noticed
QUICK = ("quantum-ess.path", "quantum-ess-watch.path", "quantum-ess-sentry.service")
REST = "InactiveEnterTimestampMonotonic"
BY_TIMER = 5.5  # its period, its accuracy and the start of what it starts
STAMPED = ("exec", f"{STAMPS}/{TRIGGER}")  # STANDIN's way to time a command's beginning

# The watch is at rest, and need not copy the configuration to the disk, which may be a slow one.
KEPT_GOOD = """
for file in /run/quantum-ess/good/quantum-ess.*; do
    cmp -s "$file" "/var/lib/quantum-ess/good/${file##*/}" || exit 1
done
[ "$(systemctl is-active quantum-ess-watch.service)" = inactive ]
"""


@pytest.fixture
def brisk(trading: Trading) -> Trading:
    """Stand-ins that settle in a fifth of the time, where the settling is not what is tested."""
    Ess(trading.host).configure("[resume]\nsettle = 100ms\n")
    return trading


def stopped(trading: Trading, way: str = "command", *more: str) -> Ess:
    """Activate and wait until all of it is done."""
    pull = trading.pull(way, *more)
    trading.assert_stopped(pull.time, watch=0.05)
    ess = Ess(trading.host)
    ess.wait_complete()
    return ess


def noted(trading: Trading, stamp: str, since: int) -> dict[str, float]:
    """Units of which systemd noted that after `since` (ns), and when, in s from then, in order.

    Not when a process first stamped: on a busy machine that is later, by as much as it likes.
    """
    shown = {unit: trading.host.properties(unit, stamp)[stamp] for unit in trading.units}
    times = {unit: (1000 * int(usec) - since) / 1e9 for unit, usec in shown.items()}
    return {unit: s for unit, s in sorted(times.items(), key=lambda row: row[1]) if s > 0}


def came_up(trading: Trading, since: int) -> dict[str, float]:
    """When each unit was up that came up after `since` (ns), in s from then, in order."""
    return noted(trading, "ActiveEnterTimestampMonotonic", since)


def at_rest(host: Host) -> str:
    """When the watch last came to rest."""
    return host.properties(WATCH[1], REST)[REST]


def marker(host: Host) -> str:
    """What Redis says."""
    return host.run("redis-cli", "GET", "quantum:ess:active").stdout.strip()


# An interpreter whose start takes a deactivation as long as /run/slow is there.
SLOW = """#!/bin/sh
case "$*" in *deactivate*)
    touch /run/starting
    while [ -e /run/slow ]; do sleep 0.02; done ;;
esac
exec {0}.real "$@"
"""


def gaps(times: dict[str, float]) -> list[float]:
    """From each unit to the next, in s."""
    return [after - before for before, after in itertools.pairwise(times.values())]


@pytest.mark.parametrize("way", WAYS)
def test_deactivate_restarts_in_order(trading: Trading, way: str) -> None:
    """Each one up and settled before the next; kept units untouched. How fast: test_speed."""
    ess = stopped(trading, way)
    kept = trading.kept_pids()
    begun = now_ns()
    done = ess("deactivate", "--reason", "drill is over")
    ups = came_up(trading, begun)
    assert list(ups) == list(FOUR)
    assert min(gaps(ups)) >= SETTLE, ups
    trading.all_running()
    assert done.stdout.splitlines()[-1] == INACTIVE
    assert trading.kept_pids() == kept
    assert not ess.latched()
    hold(trading.ended, 1.0, "stopped again")
    assert all(count == 1 for count in trading.born_after(begun).values())


@pytest.mark.alone
def test_speed_after_a_boot_and_however_long(trading: Trading) -> None:
    """As fast for units that were down since before the boot, and with a record a month old."""
    host = trading.host
    stopped(trading)
    host.power_cut()
    host.sh(f"sed -i 's/20[0-9][0-9]-/2024-/' {RECORD}; touch -d '-30 days' {RECORD} {FLAG}")
    rested = at_rest(host)
    wait_until(lambda: at_rest(host) != rested, SOON, "the watch, which that has started")
    host.run(STANDIN, *STAMPED, "quantum-ess", "deactivate")
    ended, begun = now_ns(), trading.pulled()
    assert (ended - begun) / 1e9 < RELEASED
    assert list(came_up(trading, begun)) == list(FOUR)
    trading.all_running()


def test_only_what_ran_before(brisk: Trading) -> None:
    host = brisk.host
    idle = FOUR[1]
    brisk.put_down(idle)
    host.run("systemctl", "enable", *FOUR)
    ess = stopped(brisk)
    begun = now_ns()
    ess("deactivate")
    assert list(came_up(brisk, begun)) == [unit for unit in FOUR if unit != idle]
    hold(lambda: idle in brisk.born_after(begun), 1.0, "started, though it did not run before")


@pytest.mark.parametrize("way", WAYS)
def test_removing_the_flag_releases(brisk: Trading, way: str) -> None:
    ess = stopped(brisk, way)
    brisk.host.run(STANDIN, *STAMPED, "rm", "/var/run/quantum/ESS_ON")
    begun = brisk.pulled()
    picked_up = (sent(ess.wait_event("release-initiated")[-1]) - begun) / 1e9
    assert picked_up < PICKED_UP
    ess.wait_event("released")
    ups = came_up(brisk, begun)
    assert list(ups) == list(FOUR)
    assert max(ups.values()) < picked_up + RELEASED
    assert not ess.latched()
    hold(brisk.ended, 1.0, "stopped again")


def test_the_timer_alone_notices_the_flag(brisk: Trading) -> None:
    """The fallback for the day when the path units are dead: set and removed, one period later."""
    host = brisk.host
    good = "the new configuration on disk"
    wait_until(lambda: host.run("sh", "-c", KEPT_GOOD, check=False).returncode == 0, SOON, good)
    host.run("systemctl", "stop", *QUICK)
    rested = at_rest(host)  # one that has just looked would be the next one's 5 s later
    wait_until(lambda: at_rest(host) != rested, SOON, "the end of a watch")
    pull = brisk.pull("flag")
    wait_until(lambda: not brisk.remaining(), BY_TIMER, "a stop by the timer")
    assert brisk.last_sign_of_life() - pull.time < BY_TIMER * 1e9
    Ess(host).wait_event("complete")
    Ess(host).wait_idle()
    host.run("systemctl", "stop", *QUICK)
    begun = now_ns()
    host.run("rm", FLAG)
    # One period, and then what a release takes on a busy machine.
    wait_until(lambda: brisk.born_after(begun), BY_TIMER + 15, "a release by the timer")


def test_no_start_only_releases(brisk: Trading) -> None:
    ess = stopped(brisk)
    begun = now_ns()
    done = ess("deactivate", "--no-start")
    assert done.stdout.splitlines()[-1] == INACTIVE
    assert not ess.latched()
    hold(lambda: brisk.born_after(begun), 6.0, "started after --no-start")
    brisk.host.run("systemctl", "start", *FOUR)
    brisk.all_running()


def test_not_active(trading: Trading) -> None:
    """A deactivation of what is not active succeeds and starts nothing."""
    trading.host.run("systemctl", "stop", FOUR[0])
    begun = now_ns()
    done = Ess(trading.host)("deactivate")
    assert done.returncode == DONE
    assert INACTIVE in done.stdout
    hold(lambda: trading.born_after(begun), 1.0, "started")


@pytest.mark.parametrize("how", ["command", "flag"])
@pytest.mark.parametrize("which", [0, 2])
def test_one_that_fails_latches_everything_again(brisk: Trading, which: int, how: str) -> None:
    bad = FOUR[which]
    ess = stopped(brisk)
    brisk.write_unit(bad, KINDS["cannot-start"])
    brisk.host.run("systemctl", "daemon-reload")
    begun = now_ns()
    if how == "command":
        done = ess("deactivate", check=False)
        assert done.returncode == NOT_RELEASED
        assert bad.removesuffix(".service") in done.stderr
        assert "exit-code" in done.stderr
        assert INACTIVE not in done.stdout
    else:
        brisk.host.run("rm", FLAG)
    failure = ess.wait_event("release-failed")[-1]
    assert bad.removesuffix(".service") in failure["MESSAGE"]
    wait_until(lambda: not brisk.remaining(), 2, "a stop of what had been started")
    started = noted(brisk, "InactiveExitTimestampMonotonic", begun)
    assert list(started) == list(FOUR[: which + 1])
    ess.wait_idle()
    assert brisk.host.exists(FLAG) and brisk.host.exists(RECORD)
    assert brisk.host.run("systemctl", "start", FOUR[3], check=False).returncode != 0
    ended = now_ns()
    hold(lambda: brisk.born_after(ended), 1.0, "running while latched again")
    brisk.host.run("systemctl", "start", "quantum-ess-watch.service")
    assert marker(brisk.host) and not ess.named("marker-cleared")

    brisk.write_unit(bad, KINDS["normal"])
    brisk.host.run("systemctl", "daemon-reload")
    ess("deactivate")
    brisk.all_running()


def test_one_that_dies_while_it_settles(trading: Trading) -> None:
    """Up is not enough: it must stay up for the settle time."""
    ess = stopped(trading)
    trading.write_unit(FOUR[1], service(standin("sleep", "0.2"), "Restart=always"))
    trading.host.run("systemctl", "daemon-reload")
    done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED
    assert FOUR[1].removesuffix(".service") in done.stderr
    assert trading.remaining() == {}
    assert ess.latched()


def test_one_that_may_not_be_started_keeps_the_latch_shut(trading: Trading) -> None:
    """PID 1 would refuse it: that is found before anything has been started."""
    ess = stopped(trading)
    drop_in = f"{FOUR[2]}.d/test.conf"
    trading.write_unit(drop_in, "[Unit]\nRefuseManualStart=yes\n")
    trading.host.run("systemctl", "daemon-reload")
    begun = now_ns()
    done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED
    assert "quantum-apply-layer can't be started: it has RefuseManualStart=yes" in done.stderr
    assert ess.latched()
    assert noted(trading, "InactiveExitTimestampMonotonic", begun) == {}
    trading.write_unit(drop_in, "")
    trading.host.run("systemctl", "daemon-reload")
    ess("deactivate")
    trading.all_running()


def oneshots(host: Host, condition: str) -> Ess:
    """prepare.service, which requires needed.service, ran and is stopped; the latter is broken."""
    once = "Type=oneshot", "RemainAfterExit=yes"
    needed = service("/bin/sh -c 'test ! -e /run/broken'", *once)
    prepare = service("/bin/true", *once)
    unit = f"[Unit]\nRequires=needed.service\nAfter=needed.service\n{condition}\n"
    host.write_file("/etc/systemd/system/needed.service", needed)
    host.write_file("/etc/systemd/system/prepare.service", prepare.replace("[Unit]\n", unit))
    ess = Ess(host)
    ess.configure(f"[protect]\nunits = prepare {FOUR[3]}\n[resume]\nsettle = 50ms\n")
    host.run("systemctl", "start", "prepare.service")
    assert ess("activate").returncode == DONE
    host.run("systemctl", "stop", "needed.service")
    return ess


def test_a_oneshot_of_which_a_dependency_fails(host: Host) -> None:
    """It is no more up than any other, though nothing of it has failed."""
    ess = oneshots(host, "")
    host.run("touch", "/run/broken")
    refused = ess("deactivate", check=False)
    assert refused.returncode == NOT_RELEASED, refused
    assert "prepare did not come up: its start came to nothing: dependency" in refused.stderr
    assert ess.latched() and not ess.named("started")
    host.run("rm", "/run/broken")
    assert "started prepare" in ess("deactivate").stdout
    assert host.unit_state("prepare.service") == "active"


def test_a_oneshot_that_has_nothing_to_do(host: Host) -> None:
    """One for a first boot, by its own condition: that is no failure, but no start either."""
    ess = oneshots(host, "ConditionPathExists=!/run/prepared")
    host.run("touch", "/run/prepared")
    said = ess("deactivate").stdout
    assert "note: prepare was not started: a condition of its own is not met" in said
    assert "started prepare" not in said and not ess.named("started")


def test_a_oneshot_that_another_one_wants(host: Host) -> None:
    """Its start has been asked for by then, and fails later."""
    ess = oneshots(host, "")
    slow = service("/bin/sh -c 'sleep 1; test ! -e /run/broken'", "Type=oneshot")
    host.write_file("/etc/systemd/system/needed.service", slow)
    host.write_file(f"/etc/systemd/system/{FOUR[3]}", service("/bin/sleep 1000"))
    wants = f"/etc/systemd/system/{FOUR[3]}.d/wants.conf"
    host.write_file(wants, "[Unit]\nWants=prepare.service\n")
    ess.configure(
        f"[protect]\nunits = prepare {FOUR[3]}\n[resume]\nsettle = 50ms\norder = {FOUR[3]}\n"
    )
    ess("deactivate")
    host.run("systemctl", "start", FOUR[3])
    assert ess("activate").returncode == DONE
    host.run("touch", "/run/broken")
    refused = ess("deactivate", check=False)
    assert refused.returncode == NOT_RELEASED, refused
    assert "started quantum-governor" in refused.stdout and "came to nothing" in refused.stderr


def test_a_target_starts_no_more_than_what_ran(host: Host) -> None:
    """It wants what had been stopped on purpose too; and what then runs beside it is told."""
    trading = Trading(host, dict.fromkeys(FOUR[:3], "normal"))
    target = f"[Unit]\nWants={' '.join(FOUR[:3])}\n[Install]\nWantedBy=multi-user.target\n"
    host.write_file("/etc/systemd/system/trade.target", target)
    ess = Ess(host)
    ess.configure(f"[protect]\nunits = trade.target {' '.join(FOUR[:3])}\n")
    trading.start()
    host.run("systemctl", "start", "trade.target")
    trading.put_down(FOUR[2])
    assert ess("activate").returncode == DONE
    began = now_ns()
    said = ess("deactivate").stdout
    trading.all_running(FOUR[:2])
    assert tuple(came_up(trading, began)) == FOUR[:2] and FOUR[2] not in said
    assert host.unit_state("trade.target") == "active"
    assert min(gaps(came_up(trading, began))) >= SETTLE
    host.write_file(f"/etc/systemd/system/{FOUR[0]}.d/w.conf", f"[Unit]\nWants={FOUR[2]}\n")
    ess.configure(f"[protect]\nunits = {' '.join(FOUR[:3])}\n")
    ess("activate")
    assert "note: quantum-apply-layer runs too" in ess("deactivate").stdout
    host.sh(f"rm /etc/systemd/system/{FOUR[0]}.d/w.conf")
    for unit in FOUR[:3]:
        host.write_file(
            f"/etc/systemd/system/{unit}.d/slice.conf", "[Service]\nSlice=market.slice\n"
        )
    ess.configure("[protect]\nunits = trade.target market.slice\n")
    host.run("systemctl", "restart", *FOUR[:2])
    host.run("systemctl", "start", "trade.target")
    trading.put_down(FOUR[2])
    ess("activate")
    assert "quantum-apply-layer" not in ess("deactivate").stdout
    assert trading.states(*FOUR[:3]) == {**dict.fromkeys(FOUR[:2], "active"), FOUR[2]: "inactive"}


def batch(host: Host, again: str, setting: str = "") -> Ess:
    """A oneshot of a protected slice, stopped at its work. again: what it does the next time."""
    does = f"/bin/sh -c 'test -e /run/again || exec sleep 1000; {again}'"
    unit = service(does, "Type=oneshot", "Slice=trading.slice")
    unit = unit.replace("[Unit]\n", f"[Unit]\n{setting}\n")
    host.write_file("/etc/systemd/system/batch.service", unit)
    ess = Ess(host)
    ess.configure("[protect]\nunits = trading.slice\n[resume]\nsettle = 50ms\n")
    host.run("systemctl", "start", "--no-block", "batch.service")
    wait_until(lambda: host.processes("batch.service"), SOON, "it is at it")
    assert ess("activate").returncode == DONE
    host.run("touch", "/run/again")
    return ess


def test_a_oneshot_that_fails_and_is_forgotten(host: Host) -> None:
    """PID 1 keeps nothing of it: it is the job's result that tells."""
    ess = batch(host, "exit 1", "CollectMode=inactive-or-failed")
    refused = ess("deactivate", check=False)
    assert refused.returncode == NOT_RELEASED, refused
    assert "batch did not come up" in refused.stderr and "started batch" not in refused.stdout


def test_an_enabled_target_brings_what_it_wants(host: Host) -> None:
    """Where the enabled units are to start that is all that says which."""
    trading = Trading(host, dict.fromkeys(FOUR[:2], "normal"))
    target = f"[Unit]\nWants={' '.join(FOUR[:2])}\n[Install]\nWantedBy=multi-user.target\n"
    host.write_file("/etc/systemd/system/trade.target", target)
    host.run("systemctl", "enable", "trade.target")
    ess = Ess(host)
    ess.configure(
        f"[protect]\nunits = trade.target {' '.join(FOUR[:2])}\n[resume]\nwhat = enabled\n"
    )
    trading.start()
    assert ess("activate").returncode == DONE
    assert "started trade.target" in ess("deactivate").stdout
    trading.all_running()


@pytest.mark.parametrize(
    ("takes", "by"), [("0", "private"), ("0.5", "private"), ("0", "the bus"), ("0.5", "the bus")]
)
def test_a_oneshot_that_systemd_forgets(host: Host, takes: str, by: str) -> None:
    """Nothing refers to it: once it has ended nobody can say any more that it ran."""
    ess = batch(host, f"exec sleep {takes}")
    if by == "the bus":
        host.run("mv", "/run/systemd/private", "/run/systemd/away")
    assert "started batch" in ess("deactivate").stdout


def test_one_that_ends_while_a_later_one_starts(host: Host) -> None:
    trading = Trading(host, {FOUR[0]: "normal"})
    short = service("/bin/sh -c 'sleep 1; test ! -e /run/broken && exec sleep 1000'")
    host.write_file(f"/etc/systemd/system/{FOUR[1]}", short)
    slow = service("/bin/sleep 1000", "ExecStartPre=/bin/sleep 2")
    host.write_file(f"/etc/systemd/system/{FOUR[2]}", slow)
    ess = Ess(host)
    ess.configure(f"[protect]\nunits = {' '.join(FOUR[:3])}\n[resume]\nsettle = 100ms\n")
    trading.start()
    host.run("systemctl", "start", *FOUR[1:3])
    assert ess("activate").returncode == DONE
    host.run("touch", "/run/broken")
    refused = ess("deactivate", check=False)
    assert refused.returncode == NOT_RELEASED, refused
    assert "quantum-execution came up and has ended since: exit-code" in refused.stderr
    assert ess.latched() and not trading.remaining()


def test_timers_that_systemd_forgets(host: Host) -> None:
    """An instance that nothing refers to any more, once it is stopped: what was told knows it."""
    timer = "[Timer]\nOnActiveSec=1h\n"
    host.write_file("/etc/systemd/system/poll@.timer", timer)
    host.write_file("/etc/systemd/system/poll@.service", service("/bin/true"))
    ess = Ess(host)
    ess.configure("[protect]\nunits = poll@*.timer poll@*.service\n[resume]\nsettle = 50ms\n")
    host.run("systemctl", "start", "poll@btc.timer")
    assert ess("activate").returncode == DONE
    assert host.unit_state("poll@btc.timer") == "inactive"
    assert "started poll@btc.timer" in ess("deactivate").stdout
    assert host.unit_state("poll@btc.timer") == "active"


def test_generated_units_are_enabled(host: Host) -> None:
    """By their generator, implicitly: as Quadlet's, or those of an init script."""
    generator = "/etc/systemd/system-generators/trade"
    unit = service("/bin/sleep 1000").replace("'", "")
    script = (
        f"#!/bin/sh\nmkdir -p $1/multi-user.target.wants\ncat >$1/trade.service <<END\n{unit}END\n"
        "ln -s ../trade.service $1/multi-user.target.wants/\n"
    )
    host.write_file(generator, script, 0o755)
    ess = Ess(host)
    ess.configure("[protect]\nunits = trade\n[resume]\nwhat = enabled\nsettle = 50ms\n")
    host.run("systemctl", "start", "trade.service")
    assert ess("activate").returncode == DONE
    assert "started trade" in ess("deactivate").stdout


def test_an_alias_that_waits_for_a_dependency(host: Host) -> None:
    """Its job is the unit's, and the unit is started once."""
    trading = Trading(host, {FOUR[3]: "normal"})
    slow = service("/bin/sleep 1", "Type=oneshot", "RemainAfterExit=yes")
    host.write_file("/etc/systemd/system/slow.service", slow)
    place = f"/etc/systemd/system/{FOUR[3]}"
    needs = "[Unit]\nRequires=slow.service\nAfter=slow.service\n"
    host.write_file(f"{place}.d/slow.conf", needs)
    host.run("ln", "-s", place, "/etc/systemd/system/trade.service")
    host.run("systemctl", "enable", FOUR[3])
    ess = Ess(host)
    ess.configure("[protect]\nunits = trade\n[resume]\nwhat = enabled\nsettle = 50ms\n")
    trading.start()
    assert ess("activate").returncode == DONE
    assert not trading.remaining()
    host.run("systemctl", "stop", "slow.service")
    said = ess("deactivate").stdout
    assert said.count("started") == 1 and "started quantum-governor" in said, said
    trading.all_running()


def test_configured_order_settle_and_selection(host: Host) -> None:
    trading = Trading(host)
    order = [FOUR[3], FOUR[0], FOUR[2], FOUR[1]]
    resume = f"[resume]\norder = {FOUR[3]} {FOUR[0]} {FOUR[2]}\nsettle = 1500ms\nwhat = enabled\n"
    Ess(host).configure(resume)
    host.run("systemctl", "enable", FOUR[3], FOUR[0], FOUR[1])
    trading.start()
    ess = stopped(trading)
    begun = now_ns()
    ess("deactivate")
    ups = came_up(trading, begun)
    assert list(ups) == [unit for unit in order if unit != FOUR[2]]
    assert min(gaps(ups)) >= 1.5, ups


@pytest.mark.parametrize("way", WAYS)
def test_an_activation_in_the_middle_wins(trading: Trading, way: str) -> None:
    Ess(trading.host).configure("[resume]\nsettle = 2s\n")  # 6 s are left for the activation
    ess = stopped(trading)
    begun = now_ns()
    release = trading.host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: FOUR[1] in trading.born_after(begun), SOON, "half a release")
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    _, said = release.communicate(timeout=SOON)
    assert release.returncode == NOT_RELEASED
    assert "activation" in said
    trading.assert_inactive()
    assert ess.latched()
    ess.wait_idle()
    assert trading.born_after(pull.time + 2_000_000_000) == {}

    begun = now_ns()
    ess("deactivate")
    assert list(came_up(trading, begun)) == list(FOUR)


@pytest.mark.parametrize(
    ("way", "active"), [*((way, True) for way in WAYS), ("flag", False)], ids=[*WAYS, "first"]
)
def test_an_activation_before_the_release_has_looked_wins(
    trading: Trading, way: str, active: bool
) -> None:
    """While the deactivation's interpreter starts, which is made slow, and the flag is there."""
    ess, python = stopped(trading) if active else Ess(trading.host), "/usr/bin/python3"
    host = trading.host
    host.run("mv", python, f"{python}.real")
    host.write_file(python, SLOW.format(python), 0o755)
    host.run("touch", "/run/slow")
    release = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: host.exists("/run/starting"), SOON, "the release's interpreter")
    pull = trading.pull(way)
    assert pull.status == DONE, pull
    host.run("rm", "/run/slow")
    _, said = release.communicate(timeout=SOON)
    assert release.returncode == NOT_RELEASED, said
    assert ess.latched() and not trading.remaining()
    # Giving a flag its content changes its time: a release that had looked before would give way.
    ess.wait_complete()
    ess.wait_idle()
    ess("deactivate")
    trading.all_running()


def nobody_accounts(host: Host) -> None:
    """By flag the sentry kills, and nobody comes to write down what ran."""
    slow = "[Service]\nExecStartPre=/usr/bin/sleep 300\nTimeoutStartSec=400\n"
    host.write_file("/etc/systemd/system/quantum-ess-trigger.service.d/slow.conf", slow)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "stop", *WATCH, "quantum-ess-watch.path")


def test_a_release_before_the_stop_is_on_record(trading: Trading) -> None:
    host = trading.host
    nobody_accounts(host)
    ess, began = Ess(host), now_ns()
    assert trading.pull("flag").status == DONE
    wait_until(lambda: not trading.remaining(), SOON, "the sentry's kill")
    assert not host.exists(RECORD)
    ess("deactivate")
    assert list(came_up(trading, began)) == list(FOUR)
    trading.all_running()


def test_one_that_pid_1_does_not_answer_is_not_who_activated(trading: Trading) -> None:
    """The stop is not on record yet; PID 1 hangs from before it to after the release has failed."""
    host, ess = trading.host, Ess(trading.host)
    with host.frozen():
        trading.pull("flag")
        wait_until(lambda: not trading.remaining(), SOON, "the sentry's kill")
        done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED and "PID 1 did not answer" in done.stderr, done
    ess.wait_complete()
    assert ess.status()["trigger"] == "flag" and not ess.status()["reason"]
    assert [entry["ESS_TRIGGER"] for entry in ess.named("activated")] == ["flag"]
    (failed,) = ess.named("release-failed")
    assert failed["ESS_INCIDENT"] == ess.status()["incident"]
    ess("deactivate")
    trading.all_running()


def test_the_same_with_half_a_record(trading: Trading) -> None:
    """Halt has written what ran, without who and how long; PID 1 hangs before the rest."""
    host, ess = trading.host, Ess(trading.host)
    nobody_accounts(host)
    host.run("touch", FLAG)
    host.run("/usr/lib/quantum-ess/halt")
    assert "stop_ms" not in host.read_file(RECORD)
    with host.frozen():
        done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED and "PID 1 did not answer" in done.stderr, done
    assert ess.status()["trigger"] == "flag"


def test_the_same_without_the_flag(trading: Trading) -> None:
    """It was removed; the release that fails sets another, of the same incident."""
    host, ess = trading.host, Ess(trading.host)
    nobody_accounts(host)
    host.run("touch", FLAG)
    host.run("/usr/lib/quantum-ess/halt")
    before = ess.status()["incident"]
    with host.frozen():
        host.run("rm", FLAG)
        done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED and "PID 1 did not answer" in done.stderr, done
    after = ess.status()
    assert (after["incident"], after["trigger"], after["reason"]) == (before, "flag", "")


def test_an_activation_while_pid_1_does_not_answer_a_release(trading: Trading) -> None:
    """The latch is open already, and the release is waiting for an answer: it gives way."""
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[resume]\nsettle = 3s\n")
    stopped(trading)
    before = ess.status()["incident"]
    begun = now_ns()
    release = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: FOUR[0] in trading.born_after(begun), SOON, "the first unit")
    with host.frozen():
        hold(lambda: release.poll() is not None, 4.0, "it waits for PID 1")
        trading.pull("flag")
        _, said = release.communicate(timeout=SOON)
    assert release.returncode == NOT_RELEASED, said
    ess.wait_event("complete", 2)
    assert ess.status()["incident"] != before
    assert ess.status()["trigger"] == "flag"
    assert not ess.named("release-failed")
    ess("deactivate")
    trading.all_running()


def test_the_same_after_one_that_gave_way(trading: Trading) -> None:
    """What that was going to start is not all that ran by now, and its incident is over."""
    host = trading.host
    ess = Ess(host)
    ess.configure("[resume]\nsettle = 2s\n")
    trading.put_down(FOUR[3])
    stopped(trading)
    nobody_accounts(host)
    begun = now_ns()
    release = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: FOUR[0] in trading.born_after(begun), SOON, "half a release")
    host.run("systemctl", "start", FOUR[3])
    trading.pull("flag")
    assert release.communicate(timeout=SOON) and release.returncode == NOT_RELEASED
    wait_until(lambda: not trading.remaining(), SOON, "the sentry's kill")
    assert not host.exists(RECORD)
    number = host.run("stat", "-c", "%i", FLAG).stdout.strip()
    ess.configure("[resume]\nsettle = 100ms\n")
    ess("deactivate")
    trading.all_running()
    assert str(ess.named("released")[-1]["ESS_INCIDENT"]).endswith(f"-{number}")


@pytest.mark.parametrize("broken", [False, True], ids=["slow", "broken off"])
def test_a_release_before_the_trail_is_written(trading: Trading, broken: bool) -> None:
    """It waits for who writes it, instead of ending him, or has the watch do it."""
    host, ess, python = trading.host, Ess(trading.host), "/usr/bin/python3"
    host.run("systemctl", "stop", *WATCH)
    host.run("mv", python, f"{python}.real")
    then = "exec sleep 2" if broken else "sleep 2"
    slow = f'case "$*" in *--trigger=flag*) {then} ;; esac; exec {python}.real "$@"'
    host.write_file(python, f"#!/bin/sh\n{slow}\n", 0o755)
    assert trading.pull("flag").status == DONE
    wait_until(lambda: host.exists(RECORD), SOON, "halt's record")
    if broken:
        ess.wait_idle()
        assert not ess.named("complete")
    ess("deactivate")
    trading.all_running()
    trail = [str(event["ESS_EVENT"]) for event in ess.events()]
    units = 1 if broken else len(FOUR)  # the witness has one line for all
    stop = ["initiated", "latched", *["stopped"] * units, "marker-set", "activated", "complete"]
    assert sorted(trail[: trail.index("release-initiated")]) == sorted(stop), trail
    assert trail.count("released") == 1 and len(ess.incidents()) == 1


def test_a_release_carries_out_no_flag(trading: Trading) -> None:
    """Nobody is there to see it; the blow on record is of an earlier stop."""
    host, ess = trading.host, Ess(trading.host)
    host.run("systemctl", "stop", *WATCH, *QUICK)
    host.sh(f"echo 1 {FOUR[0]} >/run/quantum-ess/began; touch {FLAG}")
    pids = {unit: host.processes(unit) for unit in FOUR}
    ess("deactivate")
    assert {unit: host.processes(unit) for unit in FOUR} == pids


def test_output_that_nobody_reads_is_no_failure(brisk: Trading) -> None:
    """Neither a full disk nor a closed pipe stops again what has been started."""
    host = brisk.host
    for number, command in enumerate(("quantum-ess deactivate >/dev/full", DEAF), 1):
        ess = stopped(brisk)
        host.sh(command)
        ess.wait_event("released", number)
        brisk.all_running()
        assert ess.first_line() == INACTIVE
    assert ess.named("release-failed") == []


# Its reader has gone before it writes a line; sh(1) has no pipefail.
DEAF = "{ sleep 0.2; quantum-ess deactivate; echo $? >/run/status; } | true; grep -qx 0 /run/status"


@pytest.mark.parametrize("way", ["command", "flag"])
def test_a_release_that_is_killed(trading: Trading, way: str) -> None:
    """By flag nobody would see it: systemd starts it again. By command its caller does."""
    host = trading.host
    Ess(host).configure("[resume]\nsettle = 2s\n")
    ess = stopped(trading)
    begun = now_ns()
    release = "quantum-ess-release.service"
    if way == "flag":
        host.run("rm", FLAG)
    else:
        command = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: FOUR[0] in trading.born_after(begun), SOON, "the first unit")
    if way == "flag":
        host.run("systemctl", "kill", "--signal=KILL", release)
        ess.wait_event("released", timeout=60)
        trading.all_running()
    else:
        host.sh("kill -KILL $(pgrep -f '[c]ontroller deactivate')")
        command.communicate(timeout=SOON)
        host.run("rm", "-f", "/run/quantum-ess/marker-seen")  # it asks once a minute
        wait_until(lambda: not marker(host), 30, "a marker that is gone")
        assert "was interrupted" in ess("status").stdout
        assert not trading.living(FOUR[3])
        ess("deactivate")
        trading.all_running()
    assert not marker(host)


def test_a_touch_and_a_release_at_once(brisk: Trading) -> None:
    """The accounting gives the empty flag its time meanwhile: that is no new activation."""
    host, ess = brisk.host, Ess(brisk.host)
    for _ in range(5):
        host.sh(f"touch {FLAG}; exec quantum-ess deactivate")
        brisk.all_running()
    assert not ess.named("release-superseded")


def test_an_activation_that_a_filling_undoes(trading: Trading) -> None:
    """It joins between a look at the empty flag and its filling, which gives the old time back."""
    host, ess, began = trading.host, Ess(trading.host), now_ns()
    nobody_accounts(host)
    host.run("touch", FLAG)
    wait_until(lambda: not trading.remaining(), SOON, "the sentry's kill")
    before = host.sh(f"stat -c %.9Y {FLAG}").strip()
    release = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: host.sh("pgrep -f '[c]ontroller deactivate' || :"), SOON, "the release")
    host.run("/usr/lib/quantum-ess/halt", "--raise")  # marks it, as a unit does
    seconds, _, part = before.partition(".")
    host.sh(f"touch -c -d @{seconds}.{int(part) - 1:09d} {FLAG}")
    said = release.communicate(timeout=SOON)
    assert release.returncode == NOT_RELEASED, said
    assert ess.latched() and not trading.born_after(began)


def test_a_note_of_long_ago(trading: Trading) -> None:
    """Of a release that was killed. What was stopped on purpose since then stays so."""
    host = trading.host
    Ess(host).configure("[resume]\nsettle = 2s\n")
    ess, begun = stopped(trading), now_ns()
    command = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: FOUR[0] in trading.born_after(begun), SOON, "the first unit")
    host.sh("kill -KILL $(pgrep -f '[c]ontroller deactivate')")
    command.communicate(timeout=SOON)
    host.run("systemctl", "start", *FOUR)
    trading.put_down(FOUR[3])
    host.sh("touch -c -d '2 minutes ago' /run/quantum-ess/releasing")
    ess("activate")
    ess.wait_event("complete", 2)
    last = ess.status()["incident"]
    stopped_now = [e["ESS_UNIT"] for e in ess.named("stopped") if e["ESS_INCIDENT"] == last]
    assert stopped_now == list(FOUR[:3])
    ess("deactivate")
    assert not trading.living(FOUR[3])


def test_a_second_operator_is_not_who_stopped(trading: Trading) -> None:
    """PID 1 hangs, so the flag is not on record yet; he finds all dead, and his word is kept."""
    host, ess = trading.host, Ess(trading.host)
    with host.frozen():
        trading.pull("flag")
        wait_until(lambda: not trading.remaining(), SOON, "the sentry's kill")
        ess("activate", "--reason", "checking", check=False)
    ess.wait_complete()
    status = ess.status()
    assert (status["trigger"], status["reason"]) == ("flag", "")
    (repeated,) = ess.named("repeated")
    assert (repeated["ESS_TRIGGER"], repeated["ESS_REASON"]) == ("command", "checking")
    ess("deactivate")
    trading.all_running()


def test_no_room_for_the_releases_lock(trading: Trading) -> None:
    """That is not another release, and by flag it is no success."""
    host, ess = trading.host, stopped(trading)
    lock = "/run/quantum-ess/release.lock"
    host.sh(f"rm -f {lock}; ln -s /nowhere/lock {lock}")
    done = ess("deactivate", check=False)
    assert done.returncode == NOT_RELEASED and "can't be" in done.stderr, done
    assert "another deactivation" not in done.stderr
    host.run("rm", lock)
    ess("deactivate")
    trading.all_running()


def test_release_is_repeatable(trading: Trading) -> None:
    """Ten cycles in a row: nothing wears out, no start limit is hit, no incident is shared."""
    ess = Ess(trading.host)
    ess.configure("[resume]\nsettle = 0\n")
    for cycle in range(10):
        way = tuple(WAYS)[cycle % 3]
        stopped_at = trading.pull(way)
        trading.assert_stopped(stopped_at.time, watch=0)
        ess.wait_event("complete", cycle + 1)
        if cycle % 2:
            trading.host.run("rm", FLAG)
        else:
            ess("deactivate")
        ess.wait_event("released", cycle + 1)
        trading.all_running()
    assert len(ess.incidents()) == 10
    assert ess.failed_units() == ""


def test_a_removal_while_the_watch_is_at_work(host: Host, trading: Trading) -> None:
    """watch.path can't start what runs: the watch looks once more before it ends.

    And its halt, begun with the flag there, does not set it again.
    """
    Ess(host)("activate")
    Ess(host).wait_complete()
    host.run("systemctl", "stop", *WATCH)
    halt = "/usr/lib/quantum-ess/halt"
    busy = "#!/bin/sh\nwhile [ -e /run/busy ]; do sleep 0.01; done\n"
    host.write_file(halt, host.read_file(halt).replace("#!/bin/sh\n", busy, 1), 0o755)
    host.run("touch", "/run/busy")
    host.run("systemctl", "start", "--no-block", "quantum-ess-watch.service")
    watch = "quantum-ess-watch.service"
    wait_until(lambda: host.unit_state(watch) == "activating", SOON, "the watch")
    host.run("rm", FLAG)
    host.run("rm", "/run/busy")
    Ess(host).wait_event("released", timeout=60)
