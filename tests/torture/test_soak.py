"""A soak against a model: random acts, and after each of them what must hold then.

The seed is printed; SEED=N STEPS=M repeats a run (as far as its races repeat). TORTURE=all takes
10,000 steps, on several hosts, each with a seed of its own. On failure the last 30 steps are
printed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from conftest import HostMaker
from kinds import FOUR, KEPT, REDIS
from product import ACTIVE, DONE, INACTIVE, INCOMPLETE, NOT_RELEASED, RECORD, Ess
from trading import FLAG, LIMIT, WAYS, Trading
from waiting import SOON, now_ns, wait_until

SEED = int(os.environ["SEED"])  # conftest.py
HOSTS = 4 if os.environ.get("TORTURE") == "all" else 1  # of each release
STEPS = int(os.environ.get("STEPS") or (10_000 // HOSTS if HOSTS > 1 else 100))  # on each
RELEASING = "/run/quantum-ess/releasing"
OURS = ("quantum-ess-trigger.service", "quantum-ess.service", "quantum-ess-watch.service")
SENTRY = "quantum-ess-sentry.service"
QUIET = 300_000_000  # ns for which a flag of a moment must have had no consequences
KINDS = ("normal", "restarts-at-once", "ignores-sigterm", "forks-with-setsid")

# At rest: flag and record agree, PID 1 has no jobs, nothing of ours is still at work.
AT_REST = f"""
[ -e {FLAG} ] && flag=1 || flag=0
[ -e {RECORD} ] && record=1 || record=0
jobs=$(systemctl list-jobs --no-legend | grep -v {SENTRY} | grep -c . || :)
echo "$flag$record$jobs"
"""
OPEN, SHUT = "000", "110"  # what it says then

# The host in one look. The start of a unit is tried only where it must be refused.
LOOK = f"""
flag=$(stat -c %.9Y {FLAG} 2>/dev/null) record=$(stat -c %.9Y {RECORD} 2>/dev/null)
start=0
if [ "$flag$record" ]; then systemctl start "$1" 2>/dev/null; start=$?; fi
kept=$(systemctl show -p MainPID --value {" ".join((*KEPT, REDIS))} | paste -sd' ')
[ -e {RELEASING} ] && releasing=1 || releasing=
echo "$flag|$record|$start|$kept|$releasing"
quantum-ess status --json
"""


class Soak:
    """One host and the model of it: latched or not, which incident, and what runs or ran."""

    def __init__(self, make_host: HostMaker, seed: int) -> None:
        self.seed = seed
        self.host = make_host()
        self.ess = Ess(self.host)
        self.ess.configure("[resume]\nsettle = 50ms\n")
        self.trading = Trading(self.host, dict(zip(FOUR, KINDS, strict=True)))
        self.host.run("systemctl", "enable", *FOUR, *KEPT)
        self.trading.start()
        self.chance = random.Random(seed)
        self.latched = False
        self.since = 0  # when the latch was shut, ns
        self.incident = ""
        self.incidents: set[str] = set()
        self.seen: dict[str, str] = {}  # the step at which each was first
        self.assaulted: set[str] = set()  # those in which one of ours was killed while at work
        self.running = set(FOUR)  # now, or before the activation
        self.kept = ""
        self.counts: Counter[str] = Counter()
        self.steps: deque[str] = deque(maxlen=30)
        self.check()

    # What can happen. Each act leaves the model as the host must be; None: whatever is observed.

    def activate(self) -> None:
        """By any of the three ways."""
        way = self.chance.choice(tuple(WAYS))
        self.note(way)
        pull = self.trading.pull(way)
        assert pull.status in (DONE, INCOMPLETE), pull
        self.shut(pull.time)

    def deactivate(self) -> None:
        done = self.ess("deactivate", check=False)
        assert done.returncode == DONE, done
        self.latched = False

    def remove_flag(self) -> None:
        self.host.run("rm", "-f", FLAG)
        self.latched = False

    def blink(self) -> None:
        """The flag set and removed again at once: whatever it stopped runs again.

        Nobody may have seen it; or it is set again, at the latest by the next look of the watch
        timer, until the stop is on record (docs/design.md): only then is the latch open for good.
        """
        pause = self.chance.choice(("0", "0.002", "0.02", "0.05", "0.2"))
        self.note(pause)
        self.host.sh(f"touch {FLAG}; sleep {pause}; rm -f {FLAG}")
        self.latched = False
        wanted = sorted(self.running)
        since = [now_ns()]

        def over() -> bool:
            at_rest = self.host.sh(AT_REST, check=False).strip() == OPEN
            if not at_rest or sorted(self.trading.alive()) != wanted:
                since[0] = now_ns()
            return now_ns() - since[0] >= QUIET

        wait_until(over, SOON, f"an open latch, and that just {wanted} run")

    def reload(self) -> None:
        self.host.run("systemctl", self.chance.choice(("daemon-reload", "daemon-reexec")))

    def start(self) -> None:
        unit = self.chance.choice(FOUR)
        self.note(unit)
        done = self.host.run("systemctl", "start", unit, check=False)
        assert (done.returncode != 0) == self.latched, done
        if not self.latched:
            self.running.add(unit)

    def stop(self) -> None:
        """An operator stops one unit: it must not come back by a release."""
        unit = self.chance.choice(FOUR)
        self.note(unit)
        self.host.run("systemctl", "kill", "-s", "KILL", unit, check=False)
        self.trading.put_down(unit)
        if not self.latched:
            self.running.discard(unit)

    def kill_sentry(self) -> None:
        self.host.run("systemctl", "kill", "-s", "KILL", SENTRY, check=False)

    def kill_during_activation(self) -> None:
        """One of ours, or the command, dies in the middle of an activation: latched or nothing."""
        way = self.chance.choice(tuple(WAYS))
        was = self.latched
        self.assault(self.host.spawn(*(WAYS[way][1:] if way != "flag" else ("touch", FLAG))), way)
        self.observe()
        assert self.latched or not was, "an activation opened the latch"

    def kill_during_release(self) -> None:
        """The same in the middle of a release; a further deactivation completes it."""
        by_flag = self.chance.random() < 0.3
        command = ("rm", "-f", FLAG) if by_flag else ("quantum-ess", "deactivate")
        self.assault(self.host.spawn(*command), command[0])
        self.observe()
        if not self.latched:
            self.deactivate()

    def activate_during_release(self) -> None:
        """The stop wins over a release that has begun; before that it is the release's to undo."""
        if not self.latched:
            self.activate()
            return
        self.note(delay := f"{self.chance.uniform(0, 0.5):.3f}")
        which = f"stat -c '%i %.9Y' {RELEASING} 2>/dev/null || :"  # one that gave way leaves it
        before = self.host.sh(which)
        release = self.host.spawn("quantum-ess", "deactivate")
        begun = lambda: self.host.sh(which) != before or release.poll() is not None  # noqa: E731
        wait_until(begun, SOON, "a release under way")
        self.pause(float(delay))
        pull = self.trading.pull(self.chance.choice(tuple(WAYS)))
        assert pull.status in (DONE, INCOMPLETE), pull
        said = release.communicate(timeout=60)
        assert release.returncode in (DONE, NOT_RELEASED), said
        self.incident = ""  # the old one goes on, or a new one has begun
        self.shut(pull.time)

    def cut_power(self) -> None:
        self.host.power_cut()
        if not self.latched:
            self.running = set(FOUR)  # all are enabled
        self.kept = ""

    # Helpers of the acts

    def note(self, text: str) -> None:
        """More about this step, for the list of the last ones."""
        self.steps[-1] += f" {text}"

    def pause(self, seconds: float) -> None:
        """Let the other side come as far as it will."""
        moment = now_ns() + int(seconds * 1e9)
        wait_until(lambda: now_ns() >= moment, seconds + 1, "the moment")

    def assault(self, process: "subprocess.Popen[str]", name: str) -> None:
        """SIGKILL to the command itself, or to one of our units, some time after it began."""
        victim = self.chance.choice(("itself", *OURS, SENTRY))
        delay = self.chance.uniform(0, 0.5)
        self.note(f"{name}, {victim} after {delay:.3f} s")
        self.pause(delay)
        if victim == "itself":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            self.host.run("systemctl", "kill", "-s", "KILL", victim, check=False)
        process.communicate(timeout=60)
        self.assaulted |= {self.incident, "the next"}

    def shut(self, moment: int) -> None:
        """The model is latched, since that moment if it was not before."""
        if not self.latched or not self.incident:
            self.since, self.incident = moment, ""
        self.latched = True

    def observe(self) -> None:
        """Latched or not, as the host says when it has come to rest."""
        self.rest(0.5)
        self.latched = self.host.exists(FLAG)

    # What must hold after each

    def rest(self, quiet: float = 0.0) -> None:
        """Wait until everybody is done, and has been for `quiet` seconds."""
        since = [now_ns()]

        def at_rest() -> bool:
            said = self.host.sh(AT_REST, check=False).strip()
            if said not in (OPEN, SHUT):
                since[0] = now_ns()
            return said in (OPEN, SHUT) and now_ns() - since[0] >= quiet * 1e9

        wait_until(at_rest, SOON, "an end of all reactions")

    def check(self) -> None:
        """All invariants, against the model."""
        unit = self.chance.choice(FOUR)
        first, _, rest = self.host.run("sh", "-c", LOOK, "look", unit).stdout.partition("\n")
        flag, record, start, kept, releasing = first.split("|")
        status: dict[str, Any] = json.loads(rest)
        assert bool(flag) == bool(record) == self.latched, first
        assert f"ESS Status: {status['status']}" == (ACTIVE if self.latched else INACTIVE)
        if self.latched:
            # Both clocks are the kernel's and the same in the host: read here, nothing in between.
            shut = now_ns() - (time.time_ns() - int(1e9 * min(float(flag), float(record))))
            self.since = self.since or shut
            late = self.trading.late(self.since)
            assert not late, f"lived longer than {LIMIT / 1e9:g} s: {late}"
            assert not self.trading.remaining()
            assert start != "0", f"{unit} was started while latched"
            self.check_incident(status["incident"])
        else:
            self.since, self.incident = 0, ""
            wanted = sorted(self.running)
            wait_until(
                lambda: sorted(self.trading.alive()) == wanted, SOON, f"that just {wanted} run"
            )
            assert not releasing, "a release was left unfinished"
        self.kept = self.kept or kept
        assert kept == self.kept, f"a kept unit was touched: {self.kept} {kept}"

    def check_incident(self, incident: str) -> None:
        """One from the activation to its release, and never the same again."""
        if not self.incident:
            self.counts["incidents"] += incident not in self.incidents
            self.incident = incident
            self.incidents.add(incident)
            self.seen.setdefault(incident, self.steps[-1])
            if "the next" in self.assaulted:
                self.assaulted.add(incident)
        self.assaulted.discard("the next")
        assert incident == self.incident, f"{self.incident} became {incident}"

    def check_trail(self) -> None:
        """Of each incident that was seen its beginning and its end; once, unless somebody died."""
        events = self.ess.events("--output-fields=ESS_INCIDENT,ESS_EVENT")
        told = Counter((str(e.get("ESS_INCIDENT", "")), e["ESS_EVENT"]) for e in events)
        for incident in self.incidents - self.assaulted:
            counts = [told[incident, event] for event in ("initiated", "latched", "complete")]
            assert counts == [1, 1, 1], f"trail of {incident}: {counts}"
            self.counts["trails"] += 1
        for incident in self.incidents & self.assaulted:
            known = {event: count for (other, event), count in told.items() if other == incident}
            whole = "initiated" in known and {"complete", "incomplete"} & known.keys()
            assert whole, f"trail of {incident} ({self.seen[incident]}): {known}"
            self.counts["trails"] += 1

    # The soak

    def acts(self) -> dict[Callable[[], None], int]:
        """What can happen next, and how often."""
        return {
            self.activate: 20,
            self.deactivate: 14,
            self.remove_flag: 8,
            self.blink: 4,
            self.reload: 6,
            self.start: 10,
            self.stop: 5,
            self.kill_sentry: 4,
            self.kill_during_activation: 10,
            self.kill_during_release: 10,
            self.activate_during_release: 7,
            self.cut_power: 2,
        }

    def step(self, number: int) -> None:
        """One act, the rest after it, and the invariants."""
        self.chance = random.Random(f"{self.seed} {number}")  # whatever the steps before it drew
        acts = self.acts()
        (act,) = self.chance.choices(list(acts), list(acts.values()))
        self.steps.append(f"{number}: {'latched' if self.latched else 'open'}: {act.__name__}")
        self.counts[act.__name__] += 1
        act()
        self.rest()
        self.check()


@contextmanager
def last_steps(soak: Soak) -> Iterator[None]:
    """Say what led to it, if something fails."""
    try:
        yield
    except BaseException as error:
        said = f"SEED={soak.seed} STEPS={STEPS}; the last steps:"
        error.add_note("\n".join([said, *soak.steps]))
        raise


@pytest.mark.parametrize("number", range(HOSTS))
def test_soak(make_host: HostMaker, number: int, count: Callable[[str], None]) -> None:
    soak = Soak(make_host, SEED + number)
    with last_steps(soak):
        for step in range(1, STEPS + 1):
            soak.step(step)
            if step % 500 == 0:
                said = f"{soak.host.release} SEED={soak.seed}: {step} steps"
                print(said, file=sys.stderr, flush=True)
        soak.check_trail()
    counts = ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items()))
    count(f"{soak.host.release} SEED={soak.seed}: {STEPS} steps, {counts}, 0 violations")
