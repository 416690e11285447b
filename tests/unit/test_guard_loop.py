"""The guard's loop and what it does, without sources: nothing is read but what a test puts in."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from madeup import group_below

from quantum_ess import account, activate, latch, plan, record
from quantum_ess.group import Group
from quantum_ess.guard import rules, sources, state
from quantum_ess.guard.actions import Actions
from quantum_ess.guard.condition import parse_limit
from quantum_ess.guard.evaluate import BREACHED, FINE, UNKNOWN, Reading, Watch
from quantum_ess.guard.rules import Rule, Rules
from quantum_ess.guard.service import Guard
from quantum_ess.redisclient import Client
from quantum_ess.trail import Trail


class Quiet(sources.Sources):
    """Reads nothing; keeps what it was told to read, and where to post that."""

    def __init__(self, keep: Callable[[Client], None]) -> None:
        super().__init__(keep)
        self.followed: list[tuple[Rules, sources.Post]] = []

    def follow(self, rules: Rules, post: sources.Post) -> None:
        self.followed.append((rules, post))


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return group_below(tmp_path)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that are told, and "stop" for each stop that is made."""
    told: list[str] = []

    def stop(group: Group, request: activate.Request) -> activate.Outcome:
        told.append("stop")
        flag = latch.Flag(latch.inode(group), request.created is not None)
        return activate.Outcome(flag, activate.Strike(plan.Plan(plan.BUILT_IN, "")))

    monkeypatch.setattr(activate, "activate", stop)
    monkeypatch.setattr(account, "settle", lambda *_: None)
    monkeypatch.setattr(Actions, "tell", lambda self, event, *_: told.append(event))
    return told


class Clock:
    """The guard's clock, which only a test sets forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("quantum_ess.guard.service.time", self)

    def monotonic(self) -> float:
        return self.now

    time = monotonic


def rule(what: str = "value", redis: str = "k", below: str = "> 10") -> Rule:
    return Rule(name="c", what=what, mode="enforce", redis=redis, limit=parse_limit(below))


def guard_with(
    monkeypatch: pytest.MonkeyPatch, group: Group, *found: Rule
) -> tuple[Guard, Quiet, Path]:
    """A guard with these rules in force, and the file of them."""
    monkeypatch.setattr("quantum_ess.guard.service.Sources", Quiet)
    path = Path(state.rules_path(group))
    path.write_text(rules.text(Rules(rules=found)))
    guard = Guard(group)
    assert guard._load()
    assert isinstance(guard.sources, Quiet)
    return guard, guard.sources, path


@pytest.mark.parametrize(
    ("there", "does"),
    [
        ("", ["stop"]),
        ("flag record", ["guard-joined"]),
        # Removed, and the release has not begun: the incident goes on by the flag that is set anew.
        ("record", ["stop", "guard-joined"]),
        # It has, and has taken the flag: it goes on to take the record as well.
        ("record release", ["stop"]),
    ],
)
def test_what_is_due(group: Group, told: list[str], there: str, does: list[str]) -> None:
    if "flag" in there:
        Path(group.flag).touch()
    if "record" in there:
        Path(group.record).touch()
    if "release" in there:
        Path(group.run, "releasing").write_text(f'{{"pid": {os.getpid()}}}')
    joined = "guard-joined" in does
    before = latch.mark(group.flag)
    watch = Watch(rule("missing"), 5.0)
    acts = Actions(group)
    assert acts.act(watch, "breach")
    acts.finish(10)  # else its clerk writes into the next test's trail
    assert told == does
    # What a stop of others brought about needs no --override at the release.
    assert watch.tripped and watch.excused == joined
    assert acts.last is not None and acts.last["did"] == ("joined" if joined else "activated")
    if there:
        assert latch.mark(group.flag) not in (None, before)


def test_a_reading_of_other_rules(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a source posts while other rules come in force is not what those are about."""
    guard, quiet, path = guard_with(monkeypatch, group, rule(redis="old"))
    ((_, old),) = quiet.followed
    path.write_text(rules.text(Rules(rules=(rule(redis="new"),))))
    old([("c", Reading(time.monotonic(), 1e6))])  # not yet received
    assert guard._tick()
    old([("c", Reading(time.monotonic(), 1e6))])
    guard._receive(0.05)
    assert guard.watches["c"].evaluator.reading is None and not told
    _, new = quiet.followed[-1]
    new([("c", Reading(time.monotonic(), 1.0))])
    guard._receive(0.05)
    assert guard.watches["c"].evaluator.reading is not None


AGE = rule("age", below="> 30s")
GONE = replace(rule("missing"), lasting=10.0)
STUCK = rule("unchanged", below="> 30s")
DOUBT = replace(rule(), unknown="activate", unknown_for=10.0)


@pytest.mark.parametrize(
    ("found", "before", "silent", "acts"),
    [  # what is read until the release, what from then on, and the second at which that stops
        (AGE, 25.0, 31.0, 30),
        (replace(AGE, samples=2), 25.0, 31.0, 35),  # one more `repeat`
        (replace(AGE, samples=2), 31.0, 32.0, 36),
        (replace(AGE, lasting=5.0), 31.0, 32.0, 35),
        (GONE, 1.0, 1.0, 10),
        (replace(GONE, lasting=3.0), 0.0, 1.0, 3),
        (STUCK, 1.0, 1.0, 31),
        (DOUBT, None, None, 10),
    ],
)
def test_what_the_stop_held_back_does_not_stop_again(
    group: Group,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    found: Rule,
    before: float | None,
    silent: float | None,
    acts: int,
) -> None:
    """An incident shorter than it takes to trip: whoever writes has that long to write again."""
    clock = Clock(monkeypatch)
    Path(group.flag).touch()
    guard, _, _ = guard_with(monkeypatch, group, found)

    def read(value: float | None) -> None:
        problem = "" if value is not None else "is not there"
        guard.take("c", Reading(clock.now, value, problem, fresh=False, text="same"))

    guard.take("c", Reading(clock.now, 0.0, first=True, text="same"))
    for _ in range(5):
        clock.now += 1
        read(before)
    assert guard._tick() and not told
    Path(group.flag).unlink()
    if found is not AGE:  # its breach is read before the loop has looked at the latch again
        assert guard._tick()
    for _ in range(acts):
        read(silent)
        assert not told, clock.now
        clock.now += 1
    read(silent)
    assert told == ["stop"]


def test_what_is_written_after_a_release_counts(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old data that are written anew, and what is no lack of data."""
    clock = Clock(monkeypatch)
    for found, tick in ((replace(AGE, samples=2), True), (replace(DOUBT, samples=2), False)):
        Path(group.flag).touch()
        guard, _, _ = guard_with(monkeypatch, group, found)
        guard.take("c", Reading(clock.now, 0.0))
        Path(group.flag).unlink()
        assert not tick or guard._tick()
        guard.take("c", Reading(clock.now, 99.0, text="old"))
        assert not told
        guard.take("c", Reading(clock.now, 99.0, text="old"))
        assert told.pop() == "stop"


def test_what_others_write_after_a_release_does_not_count(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into the same hash, after a server that was silent: the time stays that of before."""
    clock = Clock(monkeypatch)
    Path(group.flag).touch()
    guard, _, _ = guard_with(monkeypatch, group, AGE)
    guard.take("c", Reading(clock.now, 25.0, text="old"))
    Path(group.flag).unlink()
    assert guard._tick()
    guard.take("c", Reading(clock.now, problem="no reading for 9 s", reachable=False))
    for _ in range(30):
        guard.take("c", Reading(clock.now, 31.0, text="old"))
        assert not told, clock.now
        clock.now += 1
    guard.take("c", Reading(clock.now, 61.0, text="old"))
    assert told == ["stop"]


def test_what_waits_to_be_seen_healthy_does_not_seem_so(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    Path(group.flag).touch()
    guard, _, _ = guard_with(monkeypatch, group, STUCK)
    guard.take("c", Reading(clock.now, 1.0, text="same"))
    clock.now += 31
    guard.take("c", Reading(clock.now, 1.0, text="same"))
    assert told == ["guard-joined"]
    Path(group.flag).unlink()
    assert guard._tick()
    guard.take("c", Reading(clock.now, 1.0, text="same"))
    watch = guard.watches["c"]
    assert watch.evaluator.state == BREACHED and not watch.armed


@pytest.mark.parametrize(("mode", "entry"), [("shadow", "guard-shadow"), ("warn", "guard-warning")])
def test_what_flickers_does_not_flood_the_trail(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch, mode: str, entry: str
) -> None:
    """An entry a minute, however often it comes and goes; one that waits is not lost."""
    guard, _, _ = guard_with(monkeypatch, group, replace(rule(), mode=mode, samples=1))
    for n in range(20 * 60 * 10):
        guard.take("c", Reading(n / 20, 11.0 if n % 2 else 9.0))
        if n == 2:
            assert told == [entry]
    assert told == [entry] * 10
    now = 601.0
    guard.take("c", Reading(now, 9.0))
    for n in range(100):  # breached right after an entry, and then for good
        guard.take("c", Reading(now + 1 + n, 11.0))
    assert told == [entry] * 11
    guard.take("c", Reading(now + 101, 9.0))
    guard.take("c", Reading(now + 200, 9.0))
    guard.take("c", Reading(now + 201, 11.0))
    assert told == [entry] * 12


def test_a_stop_is_accounted_for_before_what_waits(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many entries wait for a disk that takes its time."""
    done: list[str] = []
    go_on, begun = threading.Event(), threading.Event()

    def log(trail: Trail, event: str, *_: object, **__: object) -> None:
        begun.set()
        go_on.wait()
        done.append(f"{event} {trail.incident}".strip())

    def stop(group: Group, request: activate.Request) -> activate.Outcome:
        Path(group.flag).touch()
        strike = activate.Strike(plan.Plan(plan.BUILT_IN, ""))
        return activate.Outcome(latch.Flag(latch.inode(group), True), strike)

    def settle(*_: object) -> None:
        record.store(group.record, {"incident": "1"})
        done.append("settle")

    monkeypatch.setattr(Trail, "log", log)
    monkeypatch.setattr(activate, "activate", stop)
    monkeypatch.setattr(account, "settle", settle)
    acts = Actions(group)
    acts.tell("first", "")
    assert begun.wait(10)
    acts.tell("second", "")
    acts.act(Watch(rule("missing"), 5.0), "breach")
    acts.tell("third", "")
    go_on.set()
    acts.finish(10)
    assert done == ["first", "settle", "second", "third 1"]


HERE, THERE = "redis://127.0.0.1/0", "redis://:secret@127.0.0.1/1"


def fall(field: str = "equity") -> Rule:
    return replace(rule("drop", below="> 50%"), field=field, samples=1)


def peak(guard: Guard) -> float | None:
    return guard.watches["c"].evaluator.extreme.remembered()


def show_peak(guard: Guard) -> None:
    """A peak of 100, and then a fall by half at most."""
    for n, value in enumerate((100, 100, 60)):
        guard.take("c", Reading(float(n), value))
    assert peak(guard) == 100


def test_another_redis_begins_anew(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak of what one Redis held is not applied to what another holds."""
    Path(group.flag).touch()
    guard, _, path = guard_with(monkeypatch, group, fall())
    show_peak(guard)
    guard.watches["c"].tripped = True

    def reload(url: str, timeout: str) -> None:
        redis = {"redis.url": url, "redis.timeout_ms": timeout}
        path.write_text(rules.text(Rules(redis=redis, rules=(fall(),))))
        assert guard._tick()

    reload(HERE.replace("/0", ":6379/0"), "700")
    assert peak(guard) == 100, "the same Redis"
    reload(THERE, "700")
    assert peak(guard) is None
    assert guard.watches["c"].tripped, "the incident goes on all the same"
    reload(THERE, "800")
    assert told == ["guard-anew"], "once"


@pytest.mark.parametrize(
    ("url", "field", "expected"),
    [
        (HERE, "equity", 100),
        (HERE.replace("//", "//user:other@"), "equity", 100),
        (THERE, "equity", None),
        (HERE, "exposure", None),
    ],
)
def test_what_a_restart_remembers(
    group: Group,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    field: str,
    expected: float | None,
) -> None:
    """The peak, if it is of the same field in the same Redis."""
    found = Rules(redis={"redis.url": HERE}, rules=(fall(),))
    guard, _, path = guard_with(monkeypatch, group, fall())
    path.write_text(rules.text(found))
    assert guard._load()
    show_peak(guard)
    guard.watches["c"].tripped = True
    guard._write()
    path.write_text(rules.text(replace(found, redis={"redis.url": url}, rules=(fall(field),))))
    guard = Guard(group)
    assert guard._load()
    guard._recall()
    assert peak(guard) == expected
    assert guard.watches["c"].tripped
    assert told.count("guard-anew") == (expected is None)
    guard._write()
    guard = Guard(group)
    assert guard._load()
    guard._recall()
    assert told.count("guard-anew") == (expected is None), "once"
    assert "secret" not in Path(state.path(group)).read_text()


@pytest.mark.parametrize(
    "found", [(), (replace(fall(), name="d"),), (replace(fall(), window=60.0),)]
)
@pytest.mark.parametrize("restart", [True, False])
def test_a_peak_that_is_given_up_is_told(
    group: Group, monkeypatch: pytest.MonkeyPatch, found: tuple[Rule, ...], restart: bool
) -> None:
    """Of a condition that is no more, has another name or now has a window."""
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(Actions, "tell", lambda self, event, text, *_: said.append((event, text)))
    guard, _, path = guard_with(monkeypatch, group, fall())
    show_peak(guard)
    guard._write(stopped=True)
    path.write_text(rules.text(Rules(rules=(*found, replace(rule(), name="e")))))
    if restart:
        guard = Guard(group)
    assert guard._load()
    if restart:
        guard._recall()
    assert said == [("guard-anew", "ESS GUARD: condition c: the peak 100 of k equity is given up")]


def after(guard: Guard, path: Path, found: Rule, restart: bool) -> Guard:
    """The guard that follows with that rule: another process, or the same after a reload."""
    guard._write()
    path.write_text(rules.text(Rules(rules=(found,))))
    if restart:
        guard = Guard(guard.group)
    assert guard._load()
    if restart:
        guard._recall()
    return guard


RESTARTS = Rule("c", "restarts", "enforce", unit="u", limit=parse_limit("> 2"), window=60.0)
DIP = replace(fall(), window=60.0)


@pytest.mark.parametrize(
    ("found", "restart"), [(RESTARTS, True), (RESTARTS, False), (DIP, True), (fall(), True)]
)
def test_without_its_history_nothing_seems_fine(
    group: Group,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    found: Rule,
    restart: bool,
) -> None:
    """What had tripped objects to a release until what it is measured against is known again."""
    Path(group.flag).touch()
    guard, _, path = guard_with(monkeypatch, group, found)
    guard.watches["c"].tripped = True
    changed = replace(found, limit=parse_limit("> 7"), lasting=1.0)
    guard = after(guard, path, found if restart else changed, restart)
    watch = guard.watches["c"]
    for n in range(60):
        guard.take("c", Reading(1000.0 + n, 5.0, first=not n))
        assert (watch.evaluator.state, watch.objects) == (UNKNOWN, True)
    assert "its history is lost" in watch.finding()
    assert peak(guard) is None or "extreme" not in state.condition(watch), "not yet another peak"
    guard.take("c", Reading(1060.0, 5.0))
    assert watch.evaluator.state == (UNKNOWN if found == fall() else FINE)
    watch.released(1061.0)
    guard.take("c", Reading(1062.0, 5.0))
    assert watch.evaluator.state == FINE and watch.armed and "stop" not in told


@pytest.mark.parametrize("restart", [True, False])
def test_what_still_does_not_change_is_not_armed_by_a_restart(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    guard, _, path = guard_with(monkeypatch, group, replace(STUCK, lasting=1.0))
    guard.watches["c"].disarmed = time.monotonic()
    guard = after(guard, path, STUCK, restart)
    watch, now = guard.watches["c"], time.monotonic()
    for n in range(40):
        guard.take("c", Reading(now + n, 1.0, first=not n, text="same"))
        assert watch.evaluator.state == (UNKNOWN if n < 31 else BREACHED)
        assert not watch.armed and "stop" not in told
    guard.take("c", Reading(now + 40, 1.0, text="new"))
    assert watch.evaluator.state == FINE and watch.armed


@pytest.mark.parametrize("how", ["down at the release", "restart", "reload"])
def test_a_pardon_outlives_the_guard(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A guard that was not there at the release, or not from then on."""
    Path(group.flag).touch()
    guard, _, path = guard_with(monkeypatch, group, AGE)
    now = time.monotonic()
    guard.take("c", Reading(now - 1, 25.0, text="old"))
    guard._look_at_latch()
    if how == "down at the release":
        guard._write()
    Path(group.flag).unlink()
    if how != "down at the release":
        guard._look_at_latch()
        guard._write()
    guard = Guard(group) if how != "reload" else guard
    if how == "reload":
        guard = after(guard, path, replace(AGE, limit=parse_limit("> 29s")), restart=False)
    else:
        assert guard._load()
        guard._recall()
    guard._look_at_latch()
    guard.take("c", Reading(now + 1, 31.0, first=True, text="old"))
    for n in (2, 20, 29):
        guard.take("c", Reading(now + n, 31.0 + n, text="old"))
        assert "stop" not in told, n
    guard.take("c", Reading(now + 40, 71.0, text="old"))
    assert "stop" in told


def test_another_limit_is_held_against_the_same_peak(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for found in (fall(), DIP):
        guard, _, path = guard_with(monkeypatch, group, found)
        for n, value in enumerate((100.0, 100.0, 60.0)):
            guard.take("c", Reading(float(n), value))
        guard = after(guard, path, replace(found, limit=parse_limit("> 30%")), restart=False)
        guard.take("c", Reading(3.0, 60.0, first=True))
        assert not told, "what is read first counts for none"
        guard.take("c", Reading(4.0, 60.0))
        assert told.pop() == "stop"
        guard = after(guard, path, replace(found, lasting=9.0), restart=False)
        guard.take("c", Reading(5.0, 40.0, first=True))
        assert guard.watches["c"].evaluator.state == BREACHED
        Path(group.flag).unlink(missing_ok=True)
        guard = after(guard, path, replace(found, field="other"), restart=False)
        guard.take("c", Reading(6.0, 40.0, first=True))
        assert guard.watches["c"].evaluator.state == UNKNOWN
        assert told == ["guard-anew"] * (found != DIP)
        told.clear()


def test_rules_that_go_while_they_could_not_be_read(
    group: Group, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, _, path = guard_with(monkeypatch, group, rule())
    path.write_text("{")
    assert guard._tick() and guard.problem  # those known before stay in force
    path.unlink()
    assert not guard._tick()
