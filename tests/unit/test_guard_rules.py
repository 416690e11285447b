"""Conditions: what the configuration refuses, what is compiled, what Redis's data come to."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from madeup import HERE
from test_config import Files
from test_guard_evaluate import fired, rule

from quantum_ess.config import load
from quantum_ess.guard import keyreader, rules
from quantum_ess.guard.condition import Limit, parse_limit
from quantum_ess.guard.data import Content, Problem, age, number
from quantum_ess.guard.evaluate import BREACHED, FINE, Reading, Watch
from quantum_ess.guard.keyreader import AGAIN, Reader, reading
from quantum_ess.redisclient import Client, Refused, Unavailable
from replay import BEGAN, CONDITIONS, CRASH, GAP, STEP, TICK, day, expected

REDIS = "redis = k\n"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", "0.conf:1: [condition c] needs exactly one of redis, unit and pressure"),
        ("redis = k\nunit = u", "0.conf:1: [condition c] needs exactly one of"),
        (REDIS, "[condition c] needs limit (measure = value)"),
        (REDIS + "limit = 3", "0.conf:3: limit: expected >, >=, < or <= and a number, not '3'"),
        (REDIS + "limit = > nan", "0.conf:3: limit: expected a number, a percentage or a time"),
        (REDIS + "limit = > 1e999", "is too large for a number"),
        (REDIS + "limit = > 3%", "0.conf:3: [condition c] limit of a value is a number without %"),
        (REDIS + "limit = > 3s", "limit of a value is a number without unit"),
        (REDIS + "type = list\nlimit = > 3", "0.conf:3: type: expected auto, hash, json or plain"),
        (REDIS + "type = hash\nlimit = > 3", "0.conf:3: [condition c] type = hash needs field"),
        (REDIS + "type = plain\nfield = f\nlimit = > 3", "type = plain has no fields"),
        (REDIS + "measure = missing", "[condition c] needs for (measure = missing)"),
        (REDIS + "measure = missing\nfor = 0", "0.conf:4: [condition c] for = 0 would act on a"),
        (REDIS + "measure = failed\nfor = 1", "measure = failed is not possible with redis"),
        (REDIS + "measure = age\nlimit = < 5s", "small is good: use > or >="),
        (REDIS + "measure = age\nlimit = > 5", "limit of measure = age is a time span"),
        (REDIS + "measure = drop\nlimit = > -3%", "> -3% is always true"),
        (REDIS + "measure = drop\nlimit = >= 0", ">= 0 is always true"),
        (REDIS + "limit = > 3\nwindow = 5s", "0.conf:4: [condition c] window has no effect with"),
        (REDIS + "limit = > 3\nmax_age = 5s", "max_age needs timestamp"),
        (REDIS + "limit = > 3\nsamples = 0", "samples: expected a number from 1 to 1000, not '0'"),
        (
            REDIS + "limit = > 3\nunknown = activate\nunknown_for = 0",
            "unknown_for = 0 would",
        ),
        ("unit = u*\nfor = 1", "0.conf:2: [condition c] u*.service is a pattern"),
        ("unit = u", "needs for (measure = failed)"),
        ("unit = u\nmeasure = restarts\nlimit = > 3", "needs window (measure = restarts)"),
        ("unit = u.timer\nmeasure = restarts\nlimit = > 3\nwindow = 5", "only a service restarts"),
        ("unit = quantum-governor\nmeasure = down\nfor = 1", "0.conf:2: [condition c] quantum-gov"),
        ("pressure = memory\nlimit = > 100%\nfor = 1", "can never be true: pressure is 0 to 100"),
        ("pressure = cpu\nshare = full\nlimit = > 1%\nfor = 1", "0.conf:3: [condition c] full can"),
        ("pressure = memory\nlimit = > 9%", "needs for (measure = pressure)"),
        ("redis = k  # every 5 s\nlimit = > 3", "0.conf:2: redis: 'k  # every 5 s': a comment, or"),
        (
            "redis = k\n  mode = shadow\nlimit = > 3",
            "redis: 'k mode = shadow': a comment, or another",
        ),
        (REDIS + "limt = > 3", "'limt' is not a key of [condition]; did you mean 'limit'?"),
    ],
)
def test_refused(files: Files, keys: str, expected: str) -> None:
    assert expected in files.error(f"[condition c]\n{keys}\n")


def test_refused_names_and_redis(files: Files) -> None:
    errors = files.error("[condition a b]\n[condition redis-down]\nredis = k\nlimit = > 1\n")
    assert "0.conf:1: 'a b' is not a name" in errors
    errors = Files(files.directory).error("[condition redis-down]\nredis = k\nlimit = > 1\n")
    assert "0.conf:1: [condition redis-down] 'redis-down' is the name of" in errors
    errors = Files(files.directory).error(
        "[redis]\nsentinel = a:1 b:2\nusername = u\nca_file = /c\ncert_file = /c\n"
    )
    for line, text in ((2, "sentinel: needs the name"), (3, "username: needs a password_file")):
        assert f"0.conf:{line}: {text}" in errors
    assert "0.conf:4: ca_file: has an effect only with url = rediss:" in errors
    assert "0.conf:5: cert_file: cert_file and key_file need each other" in errors
    errors = Files(files.directory).error("[guard]\nredis_down = activate\nredis_down_for = 0\n")
    assert "0.conf:3: redis_down_for: " in errors
    assert "expected HOST:PORT" in Files(files.directory).error("[redis]\nsentinel = a:0\n")


def shipped_examples() -> str:
    """The shipped file's conditions, in force."""
    text = (HERE / "etc/quantum-ess.conf").read_text()
    examples = text[text.index("# Examples") :]
    return re.sub(r"^#(?=\S)", "", examples, flags=re.M)


def test_the_shipped_examples_are_right_once_their_marks_are_gone(files: Files) -> None:
    found = rules.of(files.load(shipped_examples()))
    assert [rule.name for rule in found.rules] == [
        "drawdown",
        "portfolio-missing",
        "portfolio-stale",
        "equity-drop",
        "governor-restarts",
        "memory",
    ]
    assert rules.parse(rules.text(found)) == found
    assert {rule.mode for rule in found.rules} == {"shadow"}


def test_off_by_default_and_what_comes_of_the_guards_section(files: Files) -> None:
    assert rules.text(rules.of(load([]))) == ""
    head = "[guard]\nmode = enforce\nrearm_after = healthy\nunknown = activate\nredis_down = warn\n"
    made = rules.of(files.load(head + "[condition c]\nredis = k\nlimit = > 1\nfor = 2\n"))
    one, down = made.rules
    assert (one.mode, one.unknown, one.samples, one.lasting) == ("enforce", "activate", 1, 2)
    assert math.isinf(one.rearm_after) and math.isinf(one.window)
    assert (down.name, down.mode) == ("redis-down", "warn")
    assert rules.parse(rules.text(made)) == made


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_rules_of_any_bytes(text: str) -> None:
    for content in (text, json.dumps({"version": 1, "poll": text, "rules": [text]})):
        with pytest.raises(ValueError):
            rules.parse(content)


def test_limits() -> None:
    assert parse_limit(">=3 %") == Limit(">=", 3, "%")
    assert parse_limit("<= -1e3") == Limit("<=", -1000)
    assert parse_limit("> 2min 30s") == Limit(">", 150, "s")
    held = [(op, value) for op in (">", ">=", "<", "<=") for value in (1, 2, 3)]
    broken = [pair for pair in held if Limit(pair[0], 2).broken_by(pair[1])]
    assert broken == [(">", 3), (">=", 2), (">=", 3), ("<", 1), ("<=", 1), ("<=", 2)]


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1_0", "1e999", "0x1", "1" * 500])
def test_no_numbers(text: str) -> None:
    with pytest.raises(Problem):
        number(text)


def test_times() -> None:
    assert age("1000", 1010.5) == 10.5
    assert age("1769559323000", 1769559323 + 3) == 3
    assert age("2026-01-28T00:15:23Z", 1769559333) == 10
    assert age("2026-01-28 00:15:23", 1769559333) == 10
    assert age("2026-01-28T02:15:23+02:00", 1769559333) == 10
    assert age("1001.9", 1000) == 0, "clocks differ a little"
    with pytest.raises(Problem, match="from a clock 30 s ahead of ours"):
        age("1030", 1000)
    for text in ("", "yesterday", "nan", "1e400"):
        with pytest.raises(Problem):
            age(text, 1000)


HASH = Content("hash", {"drawdown": "0.1", "timestamp": "1000"})
TEXT = Content("string", text='{"drawdown": 0.1, "timestamp": 1000, "a": [{"b": 7}], "x": null}')
BASE = Reading(5.0)


@pytest.mark.parametrize("content", [HASH, TEXT])
def test_a_hash_and_a_json_string_are_alike(content: Content) -> None:
    one = rule(field="drawdown", timestamp="timestamp", max_age=30.0)
    assert reading(one, content, BASE, 1010.0)[1:3] == (0.1, "")
    assert reading(one, content, BASE, 1010.0).age == 10
    assert reading(one, content, BASE, 1031.0).problem == "is 31 s old"
    assert "ahead of ours" in reading(one, content, BASE, 900.0).problem
    assert reading(rule(field="no"), content, BASE, 0).problem == "is not there"
    assert reading(rule("missing", field="no"), content, BASE, 0).value == 1
    assert reading(rule("missing", field="drawdown"), content, BASE, 0).value == 0
    assert reading(rule("missing"), content, BASE, 0).value == 0


def test_paths_into_json_and_what_is_no_number_there() -> None:
    assert reading(rule(field="a.0.b"), TEXT, BASE, 0).value == 7
    for path, said in (("a", "not a number"), ("x", "is null"), ("a.1.b", "not there")):
        assert said in reading(rule(field=path), TEXT, BASE, 0).problem
    deep = Content("string", text="[" * 100000)
    assert reading(rule(field="a"), deep, BASE, 0).problem == "is not JSON"
    assert reading(rule(), Content("list"), BASE, 0).problem == "is a list"
    assert reading(rule(), Content("none"), BASE, 0).problem == "is not there"
    assert reading(rule(type="hash", field="a"), TEXT, BASE, 0).problem == "is a string, not hash"
    assert reading(rule("missing"), Content("none"), BASE, 0).value == 1
    assert reading(rule("missing"), Content("secret: NOPERM"), BASE, 0).value is None


def test_a_day_of_portfolio_states(files: Files) -> None:
    """Conditions as configured, without a Redis; tests/host has the same day with one."""
    states = day(7)
    wanted = expected(states)
    assert TICK not in wanted["drop"] and wanted["drop"][0] in CRASH
    assert wanted["stale"][0] == GAP.start - 1 + 13 and wanted["doubt"][0] == GAP.start + 18

    texts = [json.dumps({key: float(value) for key, value in state.items()}) for state in states]
    for watched in rules.of(files.load(CONDITIONS)).rules:
        for contents in (
            [Content("hash", state) for state in states],
            [Content("string", text=text) for text in texts],
        ):
            made = [
                reading(watched, content, Reading(STEP * n, first=not n), BEGAN + STEP * n)
                for n, content in enumerate(contents)
            ]
            assert fired(watched, made) == wanted[watched.name]


class Held(Client):
    """A connection to a Redis that holds one string."""

    value = b"1"

    def __init__(self) -> None:
        pass

    def ask(self, *commands: tuple[str | bytes | int, ...]) -> list[object]:
        return [b"string" if command[0] == "TYPE" else self.value for command in commands]


class Clock:
    """The reader's clock; a test sets it forward."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


def test_a_write_counts_once(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that a poll has read before Redis has told of it."""
    clock = Clock()
    monkeypatch.setattr(keyreader, "time", clock)
    made = rules.of(files.load("[condition c]\nredis = k\nlimit = > 5\n"))
    client = Held()
    reader = Reader(made, client)

    def fresh(pushed: bool) -> bool:
        ((_, found),) = reader.read(["k"], pushed)
        return found.fresh and not found.first

    assert not fresh(False)  # what was there before
    client.value = b"9"
    assert fresh(False)  # by the poll
    clock.now += 2 * AGAIN
    assert not fresh(True)  # the same write, told of
    assert fresh(True)  # written again, with the same value
    client.value = b"8"
    assert fresh(True)
    assert not fresh(False)


@pytest.mark.parametrize(
    ("keys", "bad", "state"),
    [("limit = > 5", b"9", BREACHED), ("measure = drop\nlimit = > 50%", b"100", FINE)],
)
def test_what_is_written_at_once_is_one_sample(
    files: Files, monkeypatch: pytest.MonkeyPatch, keys: str, bad: bytes, state: str
) -> None:
    """HSET and then EXPIRE: Redis tells of both, 1 ms apart, and the data are the same."""
    clock = Clock()
    monkeypatch.setattr(keyreader, "time", clock)
    made = rules.of(files.load(f"[condition c]\nredis = k\n{keys}\n"))
    client = Held()
    reader, watch = Reader(made, client), Watch(made.rules[0], made.repeat)

    def take(seconds: float, pushed: bool = True) -> str:
        clock.now += seconds
        ((_, found),) = reader.read(["k"], pushed)
        return watch.take(found)

    take(0, pushed=False)
    client.value = bad
    for seconds in (1, 0.001, 0.01):
        assert not take(seconds) and watch.evaluator.state == state
    assert watch.evaluator.extreme.remembered() != float(bad), "one tick is no peak"
    client.value = b"1"
    assert not take(1) and not take(0.001) and watch.evaluator.state == FINE
    client.value = b"9"
    take(1)
    if "drop" not in keys:
        assert take(2 * AGAIN) == "breach", "written again, with the same value"


class HeldHash(Client):
    """A connection to a Redis that holds one hash."""

    def __init__(self, **fields: bytes) -> None:
        self.fields = fields

    def ask(self, *commands: tuple[str | bytes | int, ...]) -> list[object]:
        return [
            b"hash" if command[0] == "TYPE" else [self.fields.get(str(f)) for f in command[2:]]
            for command in commands
        ]


@pytest.mark.parametrize("order", [("equity", "ts"), ("ts", "equity")])
@pytest.mark.parametrize("polled", [False, True])
def test_fields_that_are_written_one_by_one_are_one_sample(
    files: Files, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str], polled: bool
) -> None:
    """HSET of the value and HSET of the time, 1 ms apart; a poll may be the first to see it."""
    clock = Clock()
    monkeypatch.setattr(keyreader, "time", clock)
    keys = "redis = k\nfield = equity\ntimestamp = ts\nmax_age = 1h\nlimit = < 50\n"
    made = rules.of(files.load(f"[condition c]\n{keys}"))
    client = HeldHash(equity=b"100", ts=b"1000")
    reader, watch = Reader(made, client), Watch(made.rules[0], made.repeat)

    def write(field: str, value: bytes, seconds: float) -> list[str]:
        clock.now += seconds
        client.fields[field] = value
        takes = [True] if not polled else [False, True]
        return [watch.take(found) for p in takes for _, found in reader.read(["k"], pushed=p)]

    def tick(equity: bytes) -> list[str]:
        news = {"equity": equity, "ts": str(clock.now).encode()}
        return [d for n, f in enumerate(order) for d in write(f, news[f], 0.001 if n else 1)]

    reader.read(["k"])
    tick(b"100")
    assert not any(tick(b"0")), "one bad tick"
    assert watch.evaluator.state == BREACHED
    tick(b"100")
    assert watch.evaluator.state == FINE
    assert not any(tick(b"0"))
    assert any(write("equity", b"1", 0.001)), "a value that changes counts at once"
    tick(b"100")
    assert any(tick(b"0") + tick(b"0")), "and the same value, with another time, later"


class Lying(Client):
    """A connection to somebody who answers each question with anything."""

    def __init__(self) -> None:
        self.answers: list[object] = []

    def ask(self, *commands: tuple[str | bytes | int, ...]) -> list[object]:
        return [self.answers.pop(0) if self.answers else b"none" for _ in commands]


replies = st.recursive(
    st.sampled_from([b"none", b"hash", b"string", b"list", b"stream"])
    | st.none()
    | st.integers()
    | st.binary(max_size=12)
    | st.sampled_from([Refused("WRONGTYPE x"), Refused("BUSY x"), b"1e999", b"[" * 20_000]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)


def test_replies_of_any_bytes(files: Files) -> None:
    """Whatever a Redis says: of each rule a reading, that has a value or a problem, or an error."""
    conditions = (
        *("[condition a]\nredis = k\nlimit = > 1\n", "[condition b]\nredis = k\nfield = f.g"),
        *("\nlimit = > 1\n", "[condition c]\nredis = k\nmeasure = age\nlimit = > 5min\n"),
        *("[condition d]\nredis = k\nfield = f\ntimestamp = t\nmax_age = 9s\nlimit = > 1\n",),
        "[condition e]\nredis = k\nmeasure = missing\nfor = 2s\n",
    )
    made = rules.of(files.load("".join(conditions)))
    wanted = {watched.name for watched in made.rules if watched.redis}

    @settings(max_examples=300, deadline=None)
    @given(st.lists(replies, max_size=9))
    def check(answers: list[object]) -> None:
        client = Lying()
        reader = Reader(made, client)
        client.answers = answers
        for _ in range(2):
            try:
                found = dict(reader.read(["k"]))
            except Unavailable:
                continue
            assert set(found) == wanted
            for each in found.values():
                assert each.problem or each.value is not None
                assert each.value is None or math.isfinite(each.value)

    check()
