"""Files read from outside, with anything in them: a usable value or the last good one, no error.

hypothesis prints a failing example and `@reproduce_failure`, which replays it.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from madeup import HERE

from quantum_ess import account, activate, actor, latch, marker, plan, record, status, trail
from quantum_ess.group import Group

ISO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
DEEP = b"[" * 20_000  # past the depth that json can recurse to
STRIKE = HERE / "quantum_ess/libexec/strike"
many = settings(max_examples=300, deadline=None)

texts = st.text(max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 1 << 64, 0.5])
    | st.floats()
    | texts
    | st.sampled_from(["\ud800", "a\nb", "\0", "2026-01-28T00:15:23Z", "2026-1-2T3:4:5Z"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
KEYS = "version incident since trigger reason actor boot_id running living stop_ms epoch".split()
records = st.dictionaries(
    st.sampled_from([*KEYS, "monotonic", "invocation", "event"]),
    values | st.dictionaries(st.sampled_from(["uid", "user", "tty", "login"]), scalars),
)
contents = (
    st.binary(max_size=80)
    | (values | records).map(lambda value: json.dumps(value).encode())
    | records.map(lambda value: json.dumps(value).encode()[:-1])
)


@pytest.fixture
def group(tmp_path: Path) -> Group:
    """A latch whose files are all below the test's own directory."""
    for name in ("flag", "run", "state"):
        (tmp_path / name).mkdir()
    below = (f"{tmp_path}/flag/ON", f"{tmp_path}/run", f"{tmp_path}/state")
    return Group(*below)


def put(path: str, content: bytes) -> None:
    """Write a file as it is."""
    Path(path).write_bytes(content)


def assert_usable(found: record.Record) -> None:
    """What the rest of the program does with a record works."""
    json.dumps(found).encode("ascii")
    "".join(str(value) for value in found.values()).encode()  # nothing that can't be printed
    assert "incident" not in found or re.fullmatch("[0-9a-z-]{1,64}", found["incident"])
    assert "since" not in found or ISO_TIME.fullmatch(found["since"])
    assert all(re.fullmatch(r"[\w:.\\@-]+", unit, re.A) for unit in found.get("running", []))
    assert all(math.isfinite(int(found[key])) for key in ("epoch", "stop_ms") if key in found)
    actor.describe(found.get("actor", {}))
    status._age(found.get("epoch"))
    trail.encode(trail.Trail(Group("", "", ""), "", found)._fields("", "", 2))


def test_a_record(group: Group) -> None:
    @many
    @example(b"")
    @example(b'{"epoch": 1e999, "stop_ms": NaN}')
    @given(contents)
    def check(content: bytes) -> None:
        put(group.record, content)
        found = record.load(group.record)
        assert found is not None, "a record that is there latches"
        assert_usable(found)

    check()


def test_a_record_is_read_as_it_was_written(group: Group) -> None:
    @many
    @given(st.text(max_size=200), st.integers(0, 1 << 31))
    def check(reason: str, epoch: int) -> None:
        wanted = {"incident": "0badcafe-12", "reason": reason, "epoch": epoch, "living": ["a.path"]}
        record.store(group.record, wanted)
        assert record.load(group.record) == wanted

    check()
    longest = {"incident": "0badcafe-12", "reason": "\u00fc" * 131_000, "running": ["a.service"]}
    record.store(group.record, longest)
    assert record.load(group.record) == longest, "the longest argument that a command can have"


def test_half_a_name_is_no_unit_to_be_started(group: Group) -> None:
    """PID 1 would not take it, and the release would end with it."""
    record.store(group.record, {"running": ["quan", "a.service", "b@x.timer", "a.service\n"]})
    assert record.load(group.record) == {"running": ["a.service", "b@x.timer"]}


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/none", path)])
def test_a_record_that_is_no_file(group: Group, make: Callable[[str], None]) -> None:
    make(group.record)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert record.load(group.record) == {}
    assert group.latched()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_claim(group: Group) -> None:
    @many
    @given(contents)
    def check(content: bytes) -> None:
        put(record.claim_path(group, 7), content)
        strike = activate.Strike(plan.Plan(plan.BUILT_IN, ""))
        outcome = activate.Outcome(latch.Flag(7, False), strike)
        claim = account._claim(group, outcome)
        assert_usable(claim)
        assert math.isfinite(account._began(group, 0.0, time.monotonic(), 9.0))
        request = activate.Request("flag", "")
        so_far = account.Account()
        so_far.incident = "0badcafe-7"
        known = account._record(group, request, outcome, {"stop_ms": 1}, claim, so_far)
        assert_usable(known)

    check()


WORDS = ["protect", "keep", "set", "0", "1", "250", "-1", "a.service", "a*", "[", "resume.what"]
NUMBERS = ["9" * 400, "9" * 5000, "\u00b2", "\u0663", "1.5", "resume.settle_ms", "redis.timeout_ms"]
lines = st.lists(st.sampled_from([*WORDS, *NUMBERS]) | texts, max_size=5).map(" ".join)
plans = st.text(max_size=40) | st.lists(lines, max_size=6).map(
    lambda rows: "\n".join([plan.HEADER, *rows, ""])
)


def test_a_plan(group: Group) -> None:
    @many
    @example(plan.HEADER + "\nprotect a.service 0 " + "9" * 400 + "\n")
    @example(plan.HEADER + "\nprotect a.service 1 60000\n")
    @given(plans)
    def check(text: str) -> None:
        put(group.plans[0], text.encode("utf-8", "surrogatepass"))
        found = plan.read(group)
        assert found.protect, "there is always something to stop"
        try:
            assert found.source == plan.Plan(text, group.plans[0]).source
        except ValueError:
            assert found.source != group.plans[0]
        assert all(0 <= entry.grace <= 1.5 for entry in found.protect)
        for key in found.options:
            assert 0 <= found.duration(key, 500) < 1e6
        for unit in ("a.service", "quantum-execution.service", "quantum-ess.path"):
            found.position(unit)
            assert found.match("quantum-ess.path") is None

    check()


def test_a_plan_of_any_bytes(group: Group) -> None:
    @many
    @given(st.binary(max_size=60))
    def check(content: bytes) -> None:
        for path in group.plans[:2]:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            put(path, content)
        assert plan.read(group).protect

    check()


def test_a_plan_that_is_a_fifo(group: Group) -> None:
    """Neither the controller nor the shell waits for somebody to write to it."""
    os.mkfifo(group.plans[0])
    assert plan.read(group).source != group.plans[0]
    shell = f'. {STRIKE}; plans={group.plans[0]}; read_plan; echo "$protect"'
    said = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=20)
    assert "quantum-execution.service" in said.stdout, said


def test_the_flag(group: Group) -> None:
    # The ends of what a file system can hold as a time of last change, and past a year of 4 digits.
    times = st.integers(-(1 << 31), (1 << 34) - 1) | st.sampled_from([253402300800, 1 << 62])

    @many
    @example(b"2026-1-2T3:4:5Z", 0)
    @example(b"2026-01-28T00:15:60Z", 0)
    @given(st.binary(max_size=80) | texts.map(lambda t: t.encode(errors="replace")), times)
    def check(content: bytes, mtime: int) -> None:
        put(group.flag, content)
        os.utime(group.flag, (0, min(mtime, 9_223_372_036)))
        since, epoch = latch.since(group)
        assert ISO_TIME.fullmatch(since)
        assert math.isfinite(epoch)
        status._age(epoch)

    check()


@pytest.mark.parametrize("year", ["1e17", "-1e17", "253402300800"])
def test_a_flag_of_a_time_without_a_year(
    group: Group, year: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tmpfs holds times that the calendar does not."""
    put(group.flag, b"")
    real = os.lstat

    class Touched:
        st_mtime = float(year)

    monkeypatch.setattr(os, "lstat", lambda path: Touched() if path == group.flag else real(path))
    assert ISO_TIME.fullmatch(latch.since(group)[0])


def test_what_redis_is_still_owed(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []

    def told(url: str, seconds: float, wanted: marker.Marker) -> None:
        said.append((wanted.since, json.dumps(wanted.event)))

    monkeypatch.setattr(marker, "_bounded", told)
    the_plan = plan.Plan(plan.BUILT_IN, "")

    @many
    @example(b'{"since": 1, "event": {}}')
    @given(
        contents
        | st.fixed_dictionaries({"since": scalars, "event": values}).map(
            lambda value: json.dumps(value).encode()
        )
    )
    def check(content: bytes) -> None:
        said.clear()
        put(group.pending_marker, content)
        done, problem = marker.settle(group, the_plan)
        assert problem is None
        assert done in ("", "SET", "CLEARED")
        assert len(said) == bool(done)
        assert not os.path.exists(group.pending_marker)
        assert all(since is None or ISO_TIME.fullmatch(since) for since, _ in said)

    check()


def test_nested_too_deep(group: Group) -> None:
    """No assertion rewriting here: the content would fill the screen."""
    for path in (group.record, group.pending_marker):
        put(path, DEEP)
    if record.load(group.record) != {}:
        pytest.fail("not {}")
    assert marker.settle(group, plan.Plan(plan.BUILT_IN, "")) == ("", None)


def test_owed_but_no_file(group: Group) -> None:
    os.mkdir(group.pending_marker)
    assert marker.settle(group, plan.Plan(plan.BUILT_IN, "")) == ("", None)


def test_small_texts(group: Group) -> None:
    @many
    @given(st.binary(max_size=80))
    def check(content: bytes) -> None:
        for path in (group.logged, group.run + "/config-error"):
            put(path, content)
            record.text(path).encode()

    check()
