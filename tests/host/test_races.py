"""Races: a hundred activations at once, and activations at random during deactivations.

The random ones print their seed; QUANTUM_ESS_SEED repeats a run.
"""

import json
import os
import random

import pytest

from kinds import FOUR
from product import DONE, NOT_RELEASED, Ess, sent
from trading import FLAG, WAYS, Trading
from waiting import SOON, hold, now_ns, wait_until

HUNDRED = 100
ROUNDS = 12
STARTED = "39f53479d3a045ac8e11786248231fbf"  # SD_MESSAGE_UNIT_STARTED of sd-messages.h


def assert_all_stopped(trading: Trading, ess: Ess) -> None:
    """Stopped, latched, quiet, and nothing in a bad state."""
    trading.assert_inactive()
    ess.wait_idle()
    assert trading.remaining() == {}
    assert ess.latched() and trading.host.exists(FLAG)
    assert ess.status()["problems"] == []
    assert ess.failed_units() == ""
    marker = ("redis-cli", "GET", "quantum:ess:active")
    wait_until(lambda: trading.host.run(*marker).stdout.strip(), SOON, "the marker")
    assert trading.host.run("systemctl", "start", FOUR[0], check=False).returncode != 0


@pytest.mark.alone
def test_a_hundred_at_once(trading: Trading) -> None:
    """All three ways mixed, all released by one event: one incident, everyone succeeds."""
    host = trading.host
    ess = Ess(host)
    calls = {
        "command": "quantum-ess activate >/dev/null",
        "unit": "systemctl start quantum-ess.service",
        "flag": f"touch {FLAG}",
    }
    ways = [calls[tuple(WAYS)[n % 3]] for n in range(HUNDRED)]
    script = "mkfifo /run/gate; "
    for way in ways:
        script += f"(read _ </run/gate; {way} 2>>/run/said; echo $? >>/run/statuses) & "
    script += "wait"
    crowd = host.spawn("bash", "-c", script)
    # Opening the FIFO for writing waits for the readers; closing it lets them all go at once.
    waiting = "pgrep -fc 'read _ </run/gate' || true"
    wait_until(lambda: int(host.sh(waiting) or 0) >= HUNDRED, SOON, "a hundred at the gate")
    begun = now_ns()
    host.sh("exec 3>/run/gate; exec 3>&-")
    trading.assert_stopped(begun)
    crowd.communicate(timeout=120)
    statuses = host.read_file("/run/statuses").split()
    assert statuses == ["0"] * HUNDRED, host.read_file("/run/said")
    ess.wait_event("complete")
    assert_all_stopped(trading, ess)
    assert len(ess.incidents()) == 1
    for event in ("initiated", "latched", "complete", "marker-set"):
        assert len(ess.named(event)) == 1, event
    assert sorted(e["ESS_UNIT"] for e in ess.named("stopped")) == sorted(FOUR)
    ess("deactivate")
    trading.all_running()


def test_activations_at_random_during_deactivations(trading: Trading) -> None:
    """Whatever the moment: it ends stopped, with one incident for each activation that won.

    The journal says when a deactivation began and ended. An activation before that may be released
    by it, as a whole; one after it stops again what it has started; between the two, it wins.
    """
    seed = int(os.environ.get("QUANTUM_ESS_SEED", random.randrange(1 << 32)))
    print(f"QUANTUM_ESS_SEED={seed}")
    chance = random.Random(seed)
    host = trading.host
    ess = Ess(host)
    ess.configure("[resume]\nsettle = 50ms\n")
    ess("activate")
    for number in range(ROUNDS):
        way, by_flag = chance.choice(tuple(WAYS)), chance.random() < 0.3
        delay = int(chance.uniform(0, 600)) * 1_000_000
        print(
            f"{number}: {way}, {delay / 1e6} ms into a release by {'rm' if by_flag else 'command'}"
        )
        settle(ess)
        incidents, begun = len(ess.incidents()), now_ns()
        release = host.spawn(*(("rm", FLAG) if by_flag else ("quantum-ess", "deactivate")))
        if by_flag:
            release.wait(SOON)
        wait_until(lambda: now_ns() >= begun + delay, 2, "the moment")  # noqa: B023
        pull = trading.pull(way)
        assert pull.status == DONE, pull
        release.communicate(timeout=SOON)
        done = release.returncode == DONE
        if done and not by_flag and pull.time < when(ess, "release-initiated"):
            trading.all_running()
            ess("activate")
        else:
            # Until it has started the last one it must give way; then it is as good as done.
            gave_way = release.returncode == NOT_RELEASED
            up = [unit for unit in FOUR if begun < came_up(trading, unit) < pull.time]
            assert by_flag or gave_way or up == list(FOUR)
            trading.assert_stopped(pull.time, watch=0.3)
        settle(ess)
        assert_all_stopped(trading, ess)
        assert incidents <= len(ess.incidents()) <= incidents + 1
    ended = now_ns()
    hold(lambda: trading.born_after(ended), 6.0, "started again")
    ess("deactivate")
    trading.all_running()


def settle(ess: Ess) -> None:
    """Wait until the latch is whole and the trail of every incident complete."""
    wait_until(lambda: ess.status()["latch"] == {"flag": True, "record": True}, SOON, "a latch")
    complete = "one complete trail an incident"
    wait_until(lambda: len(ess.named("complete")) == len(ess.incidents()), SOON, complete)
    ess.wait_idle()


def came_up(trading: Trading, unit: str) -> int:
    """When PID 1 last said that the unit is up, in ns, 0 if never: it may stamp much later."""
    said = trading.host.journal("--output=json", f"MESSAGE_ID={STARTED}", f"UNIT={unit}")
    return sent(json.loads(said.splitlines()[-1])) if said else 0


def when(ess: Ess, event: str) -> int:
    """When the last event of that name was sent, in ns."""
    return sent(ess.named(event)[-1])


@pytest.mark.parametrize("way", WAYS)
def test_started_during_the_stop(trading: Trading, way: str) -> None:
    """Somebody who starts units in a loop meanwhile does not get a single one past the gate."""
    host = trading.host
    loop = f"while :; do systemctl restart --no-block {' '.join(FOUR)}; done"
    starters = [host.spawn("sh", "-c", loop) for _ in range(2)]
    wait_until(lambda: len(trading.processes(FOUR[0])) > 3, SOON, "restarts under way")
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    for starter in starters:
        os.killpg(starter.pid, 9)
        starter.communicate()
    Ess(host).wait_event("complete")
    trading.assert_inactive()


def test_two_deactivations(trading: Trading) -> None:
    """One does it; the other says so and starts nothing twice."""
    host = trading.host
    ess = Ess(host)
    ess.configure("[resume]\nsettle = 2s\n")  # the one is at work when the other begins
    ess("activate")
    ess.wait_complete()
    begun = now_ns()
    both = [host.spawn("quantum-ess", "deactivate") for _ in range(2)]
    said = [process.communicate(timeout=SOON) for process in both]
    assert sorted(process.returncode for process in both) == [DONE, NOT_RELEASED], said
    trading.all_running()
    assert set(trading.born_after(begun).values()) == {1}


def test_flag_cycles(trading: Trading) -> None:
    """Forty settings of the flag in a row: no limit is hit that would leave the watch deaf."""
    host = trading.host
    ess = Ess(host)
    host.sh(f"for n in $(seq 40); do touch {FLAG}; rm {FLAG}; done", timeout=60)
    ess.wait_idle()
    host.run("systemctl", "is-active", "quantum-ess.path")
    trading.host.run("systemctl", "start", *FOUR, check=False)
    wait_until(lambda: not ess.latched(), SOON, "an open latch")
    wait_until(
        lambda: ess.host.run("systemctl", "start", *FOUR, check=False).returncode == 0,
        SOON,
        "a start",
    )
    trading.all_running()
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    wait_until(lambda: ess.failed_units() == "", SOON, "no unit left as failed")
