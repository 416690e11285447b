"""One cell of the matrix: make the faults, pull the trigger, look at everything that must hold."""

import contextlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from faults.fault import COMMAND, UNIT, Fault, await_line
from host import STAMPS, STANDIN, Host
from kinds import FOUR
from product import DONE, INCOMPLETE, RECORD, Ess
from trading import TRIGGER, WAYS, Pull, Trading
from waiting import hold, now_ns, wait_until

COMMAND_LIMIT = 10.0  # seconds that `quantum-ess activate` may take, whatever is broken
REST = 0.4  # seconds for which nothing may come back, of units that restart at once
LOGGED = "/var/lib/quantum-ess/logged /run/quantum-ess/logged"
LATER = 60.0  # seconds after the faults are undone until the trail must be complete
KINDS = dict(
    zip(FOUR, ("restarts-at-once", "ignores-sigterm", "forks-with-setsid", "normal"), strict=True)
)


class Measured(NamedTuple):
    """What a stop came to. life: ms from the trigger to the last sign of life, >= 0."""

    life: float
    status: int


class Trigger:
    """A trigger that waits in the host for its moment, as an operator's shell does.

    It needs no new process when it is pulled, so it can be pulled on a host that has none left.
    """

    def __init__(self, trading: Trading, mode: str, *argv: str) -> None:
        self.trading = trading
        stamp = f"{STAMPS}/{TRIGGER}"
        wait = 'echo ready; read -r go; exec "$@"'
        words = ("sh", "-c", wait, "sh", STANDIN, mode, stamp, *argv)
        self.process = trading.host.spawn(*words)
        await_line(self.process, "ready")

    def begin(self) -> None:
        """Pull it, and do not wait for its end."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self, timeout: float = 40) -> Pull:
        """Wait for the end of what was pulled."""
        out, err = self.process.communicate(timeout=timeout)
        return Pull(self.trading.pulled(), self.process.returncode, out, err)


def stop(host: Host, way: str, *faults: Fault) -> Measured:
    """Stop trading by that trigger under those faults, undo them, check all that is promised."""
    trading = Trading(host, KINDS)
    trading.start()
    kept = trading.kept_pids()
    trigger = Trigger(trading, *WAYS[way])
    with contextlib.ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.made(host))
        trigger.begin()
        pull = trigger.end()
        ended = now_ns()
        trading.assert_stopped(pull.time, watch=REST)
        answered(way, pull, (ended - pull.time) / 1e9, faults)
        if way != COMMAND:
            told(host)
        if all(fault.starts for fault in faults):
            assert_shut(trading)
    settled(trading, pull, faults)
    harmed = {unit for fault in faults for unit in fault.harms}
    untouched = {unit: pid for unit, pid in kept.items() if unit not in harmed}
    now = trading.kept_pids()
    assert {unit: now[unit] for unit in untouched} == untouched
    life = max(0, trading.last_sign_of_life() - pull.time) / 1e6
    return Measured(life, pull.status)


def answered(way: str, pull: Pull, seconds: float, faults: Sequence[Fault]) -> None:
    """What the caller was told: truth in the exit status, a sentence, no traceback, in time."""
    assert not re.search("Traceback|Fatal Python error", pull.err), pull
    if way == UNIT:
        assert pull.status == DONE, pull
    if way != COMMAND:
        return
    assert pull.status in may_be(faults), pull
    assert seconds < COMMAND_LIMIT, f"{seconds:.1f} s: {pull}"
    if pull.status == INCOMPLETE:
        assert "stop" in pull.err, pull
    for fault in faults:
        # One of several that may or may not come to something leaves it open whose the 8 is.
        if pull.status in fault.statuses and (len(faults) == 1 or len(fault.statuses) == 1):
            assert re.search(fault.says, pull.err, re.I | re.S), (fault.says, pull)


def may_be(faults: Sequence[Fault]) -> set[int]:
    """Exit statuses that these faults together allow: the worst that one of them demands."""
    each = [set(fault.statuses) for fault in faults]
    if {INCOMPLETE} in each:
        return {INCOMPLETE}
    return {DONE}.union(*each)


def told(host: Host) -> None:
    """Whoever asks afterwards is told what could not be done: by status, or by its own failure."""
    done = host.run("quantum-ess", "status", check=False)
    assert not re.search("Traceback|Fatal Python error", done.stderr), done
    if done.returncode == DONE and "Warning:" not in done.stdout:
        incident = next(line for line in done.stdout.splitlines() if line.startswith("Incident:"))
        marks = host.sh(f"cat {RECORD} {LOGGED} 2>/dev/null || :")
        assert f"{incident.split()[1].rstrip(';')} complete\n" in marks, (done.stdout, marks)
        assert '"stop_ms"' in marks, (done.stdout, marks)


def assert_shut(trading: Trading) -> None:
    """A start of a protected unit is refused, and nothing of it ever ran.

    Once PID 1 has got over the kill: a start that meets an automatic restart joins it, and is then
    skipped by the gate without an error (docs/reliability.md).
    """
    moving = {"active", "activating", "deactivating"}
    wait_until(lambda: not moving & set(trading.states().values()), LATER, "units at rest")
    began = now_ns()
    for unit in FOUR[:2]:
        done = trading.host.run("systemctl", "start", unit, check=False)
        assert done.returncode != 0, f"{unit} could be started: {done}"
    assert trading.born_after(began) == {}


def settled(trading: Trading, pull: Pull, faults: Sequence[Fault]) -> None:
    """The faults are undone: the latch is shut, the trail complete, nothing came back meanwhile."""
    host, ess = trading.host, Ess(trading.host)
    hold(trading.alive, 0.1, "alive again")
    assert_shut(trading)
    # What the watch timer does every five seconds, now.
    host.run("systemctl", "start", "quantum-ess-watch.service", check=False)
    ess.wait_complete(LATER)
    for event in ("initiated", "latched", "complete"):
        assert len(ess.named(event)) == 1, (event, ess.messages())
    assert len(ess.incidents()) == 1, ess.incidents()
    units = sorted(str(event.get("ESS_UNIT", "")) for event in ess.named("stopped"))
    without_python = [""] if not all(fault.python for fault in faults) else sorted(FOUR)
    assert units in (sorted(FOUR), without_python), ess.messages()
    assert ess.latched()
    assert not trading.late(pull.time)
    assert not trading.remaining()
    wait_until(
        lambda: host.run("redis-cli", "GET", "quantum:ess:active").stdout.strip(), LATER, "mark"
    )
