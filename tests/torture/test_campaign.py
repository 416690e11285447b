"""The syscall campaign: each system call of a command fails, or is its last.

By default a sample, drawn by SEED (printed), of FAULTS faults a test; TORTURE=all takes every call,
in one of the situations that its command has, and SEED + 1 in the other. `make test` leaves out
those that are marked long. PART=3/12 takes a twelfth of all faults: the whole takes hours.
FAULT repeats some, e.g. FAULT=openat:37:EIO,clone:1:KILL, together with -k for the test that
printed them.
"""

import os
import random
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import syscalls
from syscalls import Call, Fault, Tracee

from conftest import HostMaker
from host import CommandFailed
from kinds import FOUR, KEPT
from product import ACTIVE, DONE, INACTIVE, INCOMPLETE, RECORD, Ess
from trading import FLAG, LIMIT, Trading
from waiting import SOON, Timeout, hold, now_ns, wait_until

ALL = os.environ.get("TORTURE") == "all"
SEED = int(os.environ["SEED"])  # conftest.py
ONE = os.environ.get("FAULT")
PART, PARTS = map(int, os.environ.get("PART", "1/1").split("/"))
WATCHERS = (
    "quantum-ess.path",
    "quantum-ess-watch.path",
    "quantum-ess-watch.timer",
    "quantum-ess-watch.service",  # as the timer has just started it
    "quantum-ess-sentry.service",
)
METRICS = "quantum-ess-metrics.service"
NEVER = "[Unit]\nConditionPathExists=/nowhere\n"
KINDS = ("restarts-at-once", "normal", "restarts-at-once", "normal")
RELEASING = "/run/quantum-ess/releasing"
STARTS = ("clone", "clone3", "vfork")  # of another process
SAMPLE = max(
    4, int(os.environ.get("FAULTS") or 8)
)  # faults of a test in a sample, half of them kills
SHARES = 8 if ALL else 1  # hosts for each subject, so that none is the last for long
CUTS = SAMPLE // 2  # power cuts in a sample


class Subject(NamedTuple):
    """What the faults are made in. command: what is being done; lives: the stop does not end with
    the process, since the shell that started it goes on; halt is for units and latches by status 0.
    """

    command: str
    tracee: Tracee
    lives: bool = False
    claims: tuple[int, ...] = (DONE, INCOMPLETE)


SHELL, CONTROLLER, RELEASE, HALT = (
    Subject("activate", Tracee(("quantum-ess", "activate"), threads=False)),
    Subject("activate", Tracee(("quantum-ess", "activate"), python=True), lives=True),
    Subject("deactivate", Tracee(("quantum-ess", "deactivate"))),
    Subject("activate", Tracee(("/usr/lib/quantum-ess/halt", "--raise"), threads=False)),
)
SUBJECTS = {
    "shell-watched": (SHELL, True),
    "shell-alone": (SHELL, False),
    "controller-watched": (CONTROLLER, True),
    "controller-alone": (CONTROLLER, False),
    "halt-alone": (HALT, False),
    "deactivate-watched": (RELEASE, True),
    "deactivate-alone": (RELEASE, False),
}
# What an interpreter says that does not come as far as the program. A deactivation may show it: the
# shell has become that interpreter, and nobody is left to say it in a line.
CANT_START = re.compile("^Python runtime state: (preinitialized|core initialized)$", re.M)
MOST_MISSED = 0.2  # of all faults: those of which the call was not reached
SPARE = 4  # of a sample, as many for each that is to be made

# Flag and record agree, and PID 1 has no jobs.
AT_REST = f"""
[ -e {FLAG} ] && flag=1 || flag=
[ -e {RECORD} ] && record=1 || record=
[ "$flag" = "$record" ] && [ ! "$(systemctl list-jobs --no-legend)" ]
"""
# One look at the host, in one entry. A unit is only asked to start if that must be refused.
LOOK = f"""
echo "flag $([ -e {FLAG} ] && stat -c %.9Y {FLAG} || echo no)"
echo "record $([ -e {RECORD} ] && stat -c %.9Y {RECORD} || echo no)"
echo "first $(quantum-ess status | head -n 1)"
if [ -e {FLAG} ] || [ -e {RECORD} ]; then systemctl start {FOUR[0]} 2>/dev/null; fi
echo "start $?"
"""


class Look(NamedTuple):
    """The host as seen once. since: when the latch was shut (ns), None if it is open."""

    since: int | None
    first: str
    start: int


class Violation(AssertionError):
    """An invariant did not hold."""


class Campaign:
    """One host, one command, one fault after another."""

    def __init__(self, make_host: HostMaker, name: str) -> None:
        self.host = make_host()
        self.name = name
        subject, watched = SUBJECTS[name]
        self.subject = subject
        self.command = subject.command
        self.watched = watched
        self.ess = Ess(self.host)
        # Of no interest here, and a Python each, for every fault.
        self.host.write_file(f"/etc/systemd/system/{METRICS}.d/not.conf", NEVER)
        redis = "yes" if subject.tracee.threads else "no"
        self.ess.configure(f"[resume]\nsettle = 50ms\n[redis]\nenabled = {redis}\n")
        self.trading = Trading(self.host, dict(zip(FOUR, KINDS, strict=True)))
        self.host.run("systemctl", "enable", *FOUR, *KEPT)
        self.trading.start()
        if not watched:
            self.host.run("systemctl", "stop", *WATCHERS)
        self.kept = self.trading.kept_pids()
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.chance = random.Random(SEED)
        if subject.tracee.python:
            syscalls.wrap_python(self.host)  # nowhere else: it is a script, and read as one
        self.prepare()
        self.calls = syscalls.record(self.host, subject.tracee)
        numbers = [(call.name, call.number) for call in self.calls]
        self.beginning = script_read(self.calls, subject.tracee.argv[0])
        # Whatever fails in the shell from there on, the controller or halt goes on in its place.
        self.carried: set[tuple[str, int]] = set()
        if subject is SHELL:
            self.carried.update(numbers[numbers.index(self.beginning) + 1 :])
        elif subject is HALT:
            self.carried.update(number for number in numbers if number[0] in STARTS)
        self.settle()
        if self.command == "activate":
            self.restore()
        self.prepare()

    # State

    def prepare(self) -> None:
        """The state that the command starts from: trading runs, or is stopped and at rest."""
        self.settle()
        if not self.watched:  # a release may have asked the watch, which starts the path unit
            self.host.run("systemctl", "stop", *WATCHERS)
        if self.command == "deactivate":
            self.expect(self.ess("activate", check=False).returncode == DONE, "activate fails")
            self.settle()
            self.expect(not self.trading.remaining(), "activate leaves something alive")

    def restore(self) -> None:
        """Trading runs again and nothing is left of the last fault."""
        done = self.ess("deactivate", check=False)
        said = f"deactivate does not repair: {done.returncode}: {done.stderr}"
        self.expect(done.returncode == DONE, said)
        try:
            self.trading.all_running()
        except Timeout as error:
            raise Violation(f"not running after deactivate: {self.trading.states()}") from error
        left = self.host.sh(f"ls -d {FLAG} {RECORD} {RELEASING} 2>/dev/null || :")
        self.expect(not left, f"left after a successful deactivate: {left}")
        self.expect(self.trading.kept_pids() == self.kept, "a kept unit was touched")

    def settle(self) -> None:
        """Wait until whatever watches the flag has done what it does."""

        if self.watched:
            at_rest = lambda: self.host.run("sh", "-c", AT_REST, check=False).returncode == 0  # noqa: E731
            wait_until(at_rest, SOON, "an end of the reactions to the flag")

    # Invariants

    def expect(self, holds: object, what: str) -> None:
        """Raises Violation unless that holds."""
        if not holds:
            raise Violation(what)

    def look(self) -> Look:
        """The latch, what status says, and whether a start is refused while it is shut."""
        rows = dict(
            line.split(" ", 1)
            for line in self.host.run("sh", "-c", LOOK, check=False).stdout.splitlines()
        )
        shut = [float(rows[name]) for name in ("flag", "record") if rows[name] != "no"]
        # Both clocks are the kernel's and the same in the host: read here, nothing in between.
        since = now_ns() - (time.time_ns() - int(1e9 * min(shut))) if shut else None
        return Look(since, rows["first"], int(rows["start"]))

    def check_latch(self, controller_lived: bool) -> bool:
        """Shut or open, and nothing in between; True if shut."""
        running = set(self.trading.remaining())
        look = self.look()
        if look.since is None:
            self.expect(look.first == INACTIVE, f"open, but status says {look.first!r}")
            return False
        self.expect(look.first == ACTIVE, f"shut, but status says {look.first!r}")
        stopped = self.watched or controller_lived or FOUR[0] not in running
        self.expect(look.start or not stopped, "a start was not refused while the latch is shut")
        if self.watched or controller_lived:
            since = look.since
            wait_until(
                lambda: not self.trading.remaining() or now_ns() > since + LIMIT, 5, "the end"
            )
            late = self.trading.late(since)
            self.expect(not late, f"alive after the flag: {late}")
            self.expect(not self.trading.remaining(), "cgroups are not empty")
        return True

    def check(self, fault: Fault, status: int, born: dict[str, list[int]]) -> None:
        """After the command with its fault, whatever became of it."""
        begins = (fault.name, fault.number) == self.beginning
        if begins and not fault.kills and fault.error != "EINTR":  # the shell asks again after that
            # To the shell an empty script, that ends with 0 (docs/reliability.md) and does nothing.
            self.counts["not begun"] += 1
            self.expect(status == DONE and self.pids() == born, "an empty script did something")
            latched = self.look().since is not None
            self.expect(
                latched == (self.command == "deactivate"), "an empty script moved the latch"
            )
            return
        claims = status in self.subject.claims
        shut = self.check_latch(self.subject.lives or not fault.kills)
        self.counts["latched" if shut else "open"] += 1
        if self.command == "activate":
            must = (fault.name, fault.number) in self.carried and not fault.kills
            self.expect(claims or not must, f"status {status}, though another way was left")
            self.expect(shut or not claims, f"status {status}, but the latch is open")
            if not shut:
                pids = self.pids()
                self.expect(pids == born, f"open, but something was stopped: {born} {pids}")
        elif claims:
            self.expect(not shut, f"status {status}, but the latch is shut")
            self.expect(not self.trading.ended(), "released, but not running")

    def pids(self) -> dict[str, list[int]]:
        return {unit: self.host.processes(unit) for unit in FOUR}

    # Faults

    def one(self, fault: Fault) -> None:
        """One fault, its invariants, the repair by the next command, and the state restored."""
        born = self.pids()
        try:
            done, reached = syscalls.inject(self.host, fault, self.subject.tracee)
        except subprocess.TimeoutExpired as error:
            raise Violation("it hangs") from error
        if self.command == "activate" or not CANT_START.search(done.stderr):
            told = not re.search("Traceback|Fatal Python error", done.stderr)
            self.expect(told, f"a traceback: {done.stderr}")
        self.counts["killed" if fault.kills else "failed"] += reached
        self.counts["not reached"] += not reached
        self.settle()
        self.check(fault, done.returncode, born)
        if self.chance.random() < 0.5:  # the next command is an activation
            again = self.ess("activate", check=False)
            said = f"activate does not repair: {again.returncode}: {again.stderr}"
            self.expect(again.returncode in (DONE, INCOMPLETE), said)
            self.expect(not self.trading.remaining(), "activate does not repair: something lives")
            self.settle()
            self.expect(self.check_latch(True), "activate does not repair: the latch is open")
        self.restore()

    @property
    def tried(self) -> int:
        """How many faults have been made, of those that were to be."""
        return self.counts["killed"] + self.counts["failed"] + self.counts["cut"]

    def run(self, faults: list[Fault], wanted: int) -> None:
        """Those faults until `wanted` have been made, for a call may not be reached.

        What is violated is collected, and the host is made anew after it.
        """
        wanted += self.tried
        for number, fault in enumerate(faults, 1):
            if self.tried >= wanted:
                break
            try:
                self.one(fault)
                self.prepare()
            except (Violation, CommandFailed, Timeout) as error:
                self.violations.append(f"{self.command} FAULT={fault}: {error}")
                self.say(self.violations[-1])
                self.power_cut()
                self.recover()
            if number % 100 == 0:
                self.say(f"{number} of {len(faults)} faults")

    def say(self, text: str) -> None:
        """To whoever waits for hours (stdout is kept back where tests run side by side)."""
        print(f"{self.host.release} {self.name}: {text}", file=sys.stderr, flush=True)

    def power_cut(self) -> None:
        """Cut the power, boot, and let watch who is to."""
        self.host.power_cut()
        if not self.watched:
            self.host.run("systemctl", "stop", *WATCHERS)

    def recover(self) -> None:
        """After whatever state a violation has left."""
        self.host.run("quantum-ess", "deactivate", check=False)
        self.host.run("quantum-ess", "deactivate", "--no-start", check=False)
        self.trading.start()
        self.kept = self.trading.kept_pids()
        self.prepare()

    def report(self, calls: int, name: str) -> str:
        """The counts as a line."""
        name += f" PART={PART}/{PARTS}" if ALL and PARTS > 1 else ""
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        found = len(self.violations)
        return (
            f"{self.host.release} {name} SEED={SEED}: {calls} calls, {counts}, {found} violations"
        )

    def judge(self, wanted: int) -> None:
        """AssertionError if anything was violated, or too much of what was wanted was not tried."""
        assert not self.violations, "\n".join([f"SEED={SEED}", *self.violations])
        assert self.tried >= max(1, (1 - MOST_MISSED) * wanted - 1), (wanted, self.counts)


def script_read(calls: list[Call], program: str) -> tuple[str, int]:
    """The call by which the shell reads the beginning of its script, which is all of it."""
    for call in calls:
        if call.name == "read" and call.text.split(",")[0].endswith(f"/{Path(program).name}>"):
            return call.name, call.number
    return "", 0  # Python has no such thing


def choose(calls: list[Call], name: str, share: int) -> list[tuple[list[Fault], int]]:
    """Every fault of those calls that this host is to make, or a sample; with how many to make.

    Of the kills every one that leaves another state behind; the sample is drawn from all, mostly of
    what comes after Python's own start. It holds SPARE times as many as are to be made: no two runs
    make the same calls, above all at the end of a command that waits for others.
    """
    chance = random.Random(SEED)
    if ONE:
        faults = [syscalls.parse(text) for text in ONE.split(",")]
        return [(faults, len(faults))]
    if ALL:
        faults = syscalls.errors(calls, chance) + syscalls.kills(syscalls.crash_points(calls))
        faults = [fault for fault in faults if mine(fault, name, share)]
        return [(faults, len(faults))]
    pools = []
    begin = next(n for n, call in enumerate(calls) if "/run/quantum" in call.text)
    for some in (calls[:begin], calls[begin:]):
        pools.append((syscalls.errors(some, chance), syscalls.kills(some)))
    drawn = []
    early = max(1, SAMPLE // 8)
    for kind in (0, 1):
        for pool, wanted in ((pools[0][kind], early), (pools[1][kind], SAMPLE // 2 - early)):
            drawn.append((chance.sample(pool, min(len(pool), SPARE * wanted)), wanted))
    return drawn


def mine(fault: Fault, name: str, share: int) -> bool:
    """Whether that host is to try it: by the fault alone, since each host lists its own calls."""
    draw = zlib.crc32(f"{fault.name}:{fault.number}:{fault.kills}".encode())
    draw, host = divmod(draw, SHARES)
    draw, part = divmod(draw, PARTS)
    command, _, situation = name.partition("-")
    situations = [each for each in ("watched", "alone") if f"{command}-{each}" in SUBJECTS]
    drawn = situations[(draw + SEED) % len(situations)]
    return (host, part, situation) == (share, PART - 1, drawn)


def subjects(*short: str, of: Iterable[str] = SUBJECTS) -> list[object]:
    """Those of the subjects, all but `short` marked as long."""
    return [pytest.param(name, marks=() if name in short else pytest.mark.long) for name in of]


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("name", subjects("shell-alone", "controller-alone", "deactivate-watched"))
def test_every_call(
    make_host: HostMaker, name: str, share: int, count: Callable[[str], None]
) -> None:
    """With all that watches the flag alive, and with that process alone."""
    campaign = Campaign(make_host, name)
    chosen = choose(campaign.calls, name, share)
    for faults, wanted in chosen:
        campaign.run(faults, wanted)
    count(campaign.report(len(campaign.calls), name))
    campaign.judge(sum(wanted for _, wanted in chosen))


@pytest.mark.parametrize(
    "name",
    subjects(
        *("controller-watched", "halt-alone"),
        of=("controller-watched", "halt-alone", "deactivate-watched"),
    ),
)
def test_power_cut_at_every_write(
    make_host: HostMaker, name: str, count: Callable[[str], None]
) -> None:
    """The process is held right after a call that touches the state on disk, and the host ends.

    After the boot trading is held or runs, as the record says, and nothing is in between.
    """
    campaign = Campaign(make_host, name)
    host, trading = campaign.host, campaign.trading
    writes = "openat|rename|fsync|write|fchmod|unlink|unlinkat|linkat|link|mkdir|close"
    touching = [
        call
        for call in campaign.calls
        if re.fullmatch(writes, call.name) and "/var/lib/quantum-ess" in call.text
    ]
    tracee = campaign.subject.tracee
    if campaign.subject is HALT:  # not the shell writes, but the programs that it starts
        tracee = tracee._replace(threads=True)
        touching = [Call(call, 1, "") for call in ("fsync", "linkat", "unlinkat")]
    if ONE:
        chosen = [(fault.name, fault.number) for fault in map(syscalls.parse, ONE.split(","))]
        touching = [call for call in touching if (call.name, call.number) in chosen]
    elif ALL:
        touching = touching[PART - 1 :: PARTS]
    wanted = len(touching)
    if not (ONE or ALL):  # with spares, as in `choose`
        wanted = min(CUTS, wanted)
        touching = random.Random(SEED).sample(touching, min(SPARE * CUTS, len(touching)))
    for call in touching:
        if campaign.tried >= wanted:
            break
        cut, reached = syscalls.cut_after(host, call, tracee)
        campaign.counts["cut" if reached else "not reached"] += 1
        try:
            check_boot(campaign, cut)
        except (Violation, Timeout) as error:
            fault = f"{call.name}:{call.number}:STOP"
            campaign.violations.append(f"{name} FAULT={fault}, then a power cut: {error}")
            campaign.say(campaign.violations[-1])
        if not campaign.watched:
            host.run("systemctl", "stop", *WATCHERS)
        campaign.kept = trading.kept_pids()
        campaign.restore()
        campaign.prepare()
    count(campaign.report(len(touching), f"{name}, power cut"))
    campaign.judge(wanted)
    whole = ALL and not ONE  # else it may be that none of those drawn had a record
    assert campaign.counts["latched"] or not whole, "no cut came while there was a record"


def check_boot(campaign: Campaign, cut: int) -> None:
    """Held down, or running."""
    trading = campaign.trading
    if not campaign.host.exists(RECORD):
        campaign.counts["open"] += 1
        trading.all_running()
        campaign.expect(campaign.look().since is None, "no record, but latched")
        return
    campaign.counts["latched"] += 1
    hold(lambda: trading.born_after(cut), 0.3, "ran after the boot")
    campaign.expect(campaign.look().first == ACTIVE, "a record, but status is not ACTIVE")
    campaign.expect(campaign.look().start != 0, "a start was not refused after the boot")
    campaign.expect(not trading.born_after(cut), "ran after the boot")
