"""Metrics: names and units, what is left out, and that nothing on disk makes them fail."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantum_ess import armed, history, metrics, refresh, status
from quantum_ess.group import Group

UNIT = "quantum-execution.service"

Sample = tuple[str, dict[str, str], float]


class Made:
    """A host made up: its group below a temporary directory, and what status would say of it."""

    def __init__(self, directory: Path) -> None:
        flag, run, state = (str(directory / name) for name in ("flag", "run", "state"))
        self.group = Group(flag, run, state)
        os.mkdir(self.group.run)
        os.mkdir(self.group.state)
        self.status: dict[str, Any] = {"protected": [], "kept": []}
        self.parts = dict.fromkeys(armed.PARTS, True)

    def samples(self, name: str = "") -> list[Sample]:
        """The samples whose metric's name begins so."""
        text = metrics.text({"trading": self.group})
        return [
            (sample.name.removeprefix("quantum_ess_"), sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith(f"quantum_ess_{name}")
        ]

    def record(self, **known: object) -> None:
        """An incident on disk."""
        Path(self.group.record).write_text(json.dumps({"incident": "1-2", **known}))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    host = Made(tmp_path)
    title = {True: "ACTIVE", False: "INACTIVE"}
    monkeypatch.setattr(
        status, "collect", lambda group: {**host.status, "status": title[group.latched()]}
    )
    monkeypatch.setattr(armed, "parts", lambda group: host.parts)
    return host


def test_names_and_help(made: Made) -> None:
    """Prefix, base units, no type in the name: https://prometheus.io/docs/practices/naming/."""
    made.record(epoch=1e9, stop_ms=2.5, trigger="flag")
    for line in metrics.text({"trading": made.group}).splitlines():
        if line.startswith("# TYPE"):
            name, kind = line.split()[2:]
            assert re.fullmatch(r"quantum_ess_[a-z_]+", name)
            assert (kind == "counter") == name.endswith("_total")
            assert "_ms" not in name and "gauge" not in name
            assert "time" not in name or name.endswith("_timestamp_seconds")


def test_never_active(made: Made) -> None:
    assert made.samples("active") == [("active", {"group": "trading"}, 0)]
    assert made.samples("last") == []


def test_an_incident(made: Made) -> None:
    actor = {"uid": 0, "user": "root", "sudo_user": "alice"}
    made.record(
        epoch=1.5e9, stop_ms=3.5, trigger="command", actor=actor, reason="a\n b" + "c" * 200
    )
    assert made.samples("active") == [("active", {"group": "trading"}, 1)]
    assert made.samples("last_stop")[0][2] == 0.0035
    assert made.samples("last_activation")[0][2] == 1.5e9
    (_, labels, value), *more = made.samples("last_incident_info")
    assert (value, more) == (1, [])
    assert labels["actor"] == "root (sudo: alice)"
    assert labels["reason"].startswith("a bccc") and len(labels["reason"]) == 120


def test_the_last_incident_is_told_after_its_release(made: Made) -> None:
    Path(made.group.released).write_text('{"incident": "3-4", "stop_ms": 1}')
    assert [labels["incident"] for _, labels, _ in made.samples("last_incident")] == ["3-4"]
    assert made.samples("last_stop_seconds") == [("last_stop_seconds", {"group": "trading"}, 0.001)]


def test_while_active_nothing_is_told_of_the_incident_before(made: Made) -> None:
    """Not on record yet, or a record that can't be read: since when it is, the flag knows."""
    Path(made.group.released).write_text('{"incident": "3-4", "stop_ms": 1, "epoch": 1e9}')
    Path(made.group.flag).write_text("2026-01-28T00:15:23Z\n")
    os.utime(made.group.flag, (1769559323.5, 1769559323.5))
    trading = {"group": "trading"}
    since = [("last_activation_timestamp_seconds", trading, 1769559323.5)]
    for record in (None, b"", b"\xff"):
        if record is not None:
            Path(made.group.record).write_bytes(record)
        assert made.samples("active") == [("active", trading, 1)]
        assert made.samples("last") == since
    os.unlink(made.group.flag)
    assert made.samples("active") == [("active", trading, 1)]
    assert made.samples("last") == []


@pytest.mark.parametrize(
    ("state", "protected", "kept"),
    [
        ("active (running)", [1], [1]),
        ("activating (auto-restart)", [1], [0]),
        ("deactivating (stop-sigterm)", [1], [0]),
        ("running", [1], [0]),
        ("reloading", [1], [1]),
        ("inactive", [0], [0]),
        ("failed", [0], [0]),
        ("no processes", [0], [0]),
        ("not-found", [0], []),
        ("masked", [0], []),
        ("unknown", [], []),
    ],
)
def test_units(made: Made, state: str, protected: list[int], kept: list[int]) -> None:
    """Anything alive counts as running; a kept unit that does not exist is not down."""
    made.status["protected"] = made.status["kept"] = [{"unit": UNIT, "state": state}]
    assert [value for *_, value in made.samples("protected_unit_running")] == protected
    assert [value for *_, value in made.samples("kept_unit_running")] == kept


@pytest.mark.parametrize("part", armed.PARTS)
def test_armed_only_if_every_part_is(made: Made, part: str) -> None:
    assert made.samples("armed")[0][2] == 1
    made.parts[part] = False
    assert made.samples("armed")[0][2] == 0
    down = [labels["part"] for _, labels, value in made.samples("armed_part") if not value]
    assert down == [part]


def test_marker(made: Made) -> None:
    assert made.samples("marker")[0][2] == 1
    Path(made.group.pending_marker).touch()
    assert made.samples("marker")[0][2] == 0


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[1]", b"{}", b'{"epoch": NaN}', b"9" * 5000])
def test_garbage_on_disk(made: Made, content: bytes) -> None:
    """What can't be read has no sample, and hides nothing else."""
    for path in (made.group.record, made.group.released):
        Path(path).write_bytes(content)
    assert made.samples("last") == []
    assert made.samples("active") != []


def test_written_whole_or_not_at_all(made: Made, tmp_path: Path) -> None:
    directory, precious = tmp_path / "textfiles", tmp_path / "precious"
    assert not metrics.write({"trading": made.group}, str(directory))
    directory.mkdir()
    precious.write_text("precious")
    (directory / metrics.FILE).symlink_to(precious)
    assert metrics.write({"trading": made.group}, str(directory))
    assert precious.read_text() == "precious"
    assert (directory / metrics.FILE).read_text().endswith("\n")
    assert os.listdir(directory) == [metrics.FILE]
    assert (directory / metrics.FILE).stat().st_mode & 0o777 == 0o644
    (directory / metrics.FILE).unlink()
    (directory / metrics.FILE).mkdir()
    with pytest.raises(OSError):
        metrics.write({"trading": made.group}, str(directory))
    assert os.listdir(directory) == [metrics.FILE]


def test_an_exporter_that_goes_meanwhile(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "textfiles"

    def text(groups: object) -> str:
        directory.rmdir()
        return ""

    monkeypatch.setattr(metrics, "text", text)
    directory.mkdir()
    assert not metrics.write({"trading": made.group}, str(directory))
    assert not directory.exists()


def test_nobody_is_asked_where_no_exporter_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Asked:
        def __init__(self, timeout: float) -> None:
            asked.append(f"within {timeout}")
            raise OSError("PID 1 hangs")

    monkeypatch.setattr("quantum_ess.systemd.Manager", Asked)
    monkeypatch.setattr(refresh, "DIRECTORY", str(tmp_path / "none"))
    refresh.metrics()
    assert asked == []
    monkeypatch.setattr(refresh, "DIRECTORY", str(tmp_path))
    refresh.metrics()
    assert asked == ["within 2.0"]


def test_the_stop_path_knows_nothing_of_metrics() -> None:
    """What stops, accounts for it and releases: the library costs it no import."""
    stop = "import quantum_ess.activate, quantum_ess.account, quantum_ess.release, sys"
    said = "print(*[m for m in sys.modules if 'prometheus' in m or 'quantum_ess.metric' in m])"
    assert subprocess.check_output([sys.executable, "-c", f"{stop}; {said}"], text=True) == "\n"


# The guard


def guard(made: Made, **seen: object) -> None:
    """A guard that is configured, and its file."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    Path(made.group.run, "guard-plan").touch()
    said = {"version": 1, "boottime": now, "watchdog": 5, "stopped": False, **seen}
    Path(made.group.run, "guard.json").write_text(json.dumps(said))


CONDITION = {"name": "drawdown", "state": "fine", "value": 3.5, "limit": 10, "data_age": 0.5}


def test_no_guard_is_not_a_dead_one(made: Made) -> None:
    assert made.samples("guard") == []
    Path(made.group.run, "guard-plan").touch()
    assert made.samples("guard") == [("guard_up", {}, 0)]


def test_a_condition(made: Made) -> None:
    guard(made, redis={"state": "up"}, conditions=[CONDITION])
    label = {"condition": "drawdown"}
    assert sorted(made.samples("guard"), key=lambda sample: sample[0]) == [
        ("guard_condition_breached", label, 0),
        ("guard_condition_data_age_seconds", label, 0.5),
        ("guard_condition_limit", label, 10),
        ("guard_condition_unknown", label, 0),
        ("guard_condition_value", label, 3.5),
        ("guard_redis_up", {}, 1),
        ("guard_up", {}, 1),
    ]


@pytest.mark.parametrize("state", ["fine", "breached", "unknown", "starting"])
def test_the_state_of_a_condition(made: Made, state: str) -> None:
    """What is not known has no value, and the data no age where they do not say."""
    value = None if state in ("unknown", "starting") else 11
    guard(made, conditions=[CONDITION | {"state": state, "value": value, "data_age": None}])
    assert made.samples("guard_condition_breached")[0][2] == (state == "breached")
    assert made.samples("guard_condition_unknown")[0][2] == (state == "unknown")
    assert [sample[2] for sample in made.samples("guard_condition_value")] == [11] * bool(value)
    assert made.samples("guard_condition_data_age") == []


@pytest.mark.parametrize(
    "seen",
    [
        {"stopped": True},
        {"boottime": 0},
        {"boottime": None},
        {"boottime": "soon"},
        {"conditions": None},
        {"version": 9},
        {"watchdog": 1e-9},
    ],
)
def test_a_guard_that_does_not_live_has_no_values(made: Made, seen: dict[str, object]) -> None:
    guard(made, **{"conditions": [CONDITION]} | seen)
    assert made.samples("guard") == [("guard_up", {}, 0)]


@pytest.mark.parametrize(
    "seen",
    [
        {"conditions": [], "redis": 7},
        {"conditions": [1, "x", {}, {"name": 3, "value": "4", "limit": [], "state": 9}]},
    ],
)
def test_a_guard_that_writes_nonsense(made: Made, seen: dict[str, object]) -> None:
    guard(made, **seen)
    assert ("guard_up", {}, 1) in made.samples("guard")
    assert made.samples("guard_condition_value") == []


# The drill


def drilled(made: Made, outcome: object, **more: object) -> None:
    """A drill that came to that result."""
    last = {"result": outcome, "epoch": 1.5e9, "time": "2020-09-13T12:26:40Z", **more}
    Path(made.group.state, "drill.json").write_text(json.dumps(last))


def test_a_drill(made: Made) -> None:
    made.status["drill"] = {"overdue": False}
    drilled(made, "passed", epoch=1.6e9, stop_ms={"command": 12.5, "moon": 3})
    assert made.samples("drill") == [
        ("drill_overdue", {}, 0),
        ("drill_last_timestamp_seconds", {}, 1.6e9),
        ("drill_last_success", {}, 1),
        ("drill_last_stop_seconds", {"way": "command"}, 0.0125),
    ]


def test_a_failed_drill_and_none(made: Made) -> None:
    made.status["drill"] = {"overdue": True}
    assert made.samples("drill") == [("drill_overdue", {}, 1)]
    drilled(made, "failed")
    assert ("drill_last_success", {}, 0) in made.samples("drill_last")
    for nonsense in ({"epoch": "x"}, {"epoch": math.nan}, {"result": 1}):
        drilled(made, "failed", **nonsense)
        assert made.samples("drill_last") == []
    drilled(made, "passed", stop_ms=[])
    assert made.samples("drill_last_stop") == []


# The history


def remember(made: Made, event: str, incident: str = "1-2", **facts: object) -> None:
    """One more record in the history."""
    assert history.append(made.group, history.entry(event, incident, **facts)) == ""


def test_no_history(made: Made) -> None:
    for name in ("activations", "stop_seconds", "refused", "notification"):
        assert made.samples(name) == []


def test_the_history(made: Made) -> None:
    remember(made, "activated", trigger="flag", stop_ms=3.0)
    remember(made, "refused", unit=UNIT, count=7)
    remember(made, "refused", unit=UNIT, count=2)
    remember(made, "notified", tries=3)
    remember(made, "notified", tries=2, failed={"line 1 (mailto)": "refused"})
    remember(made, "released")
    remember(made, "activated", "1-3", trigger="command", stop_ms=2100)
    remember(made, "activated", "1-4", trigger="moon")
    by = {labels["trigger"]: value for _, labels, value in made.samples("activations_total")}
    assert by == {"command": 1, "unit": 0, "flag": 1, "guard": 0, "resume": 0, "other": 1}
    assert made.samples("refused")[0][2] == 9
    assert made.samples("notification_failures")[0][2] == 4
    buckets = {labels["le"]: value for _, labels, value in made.samples("stop_seconds_bucket")}
    assert (buckets["0.0025"], buckets["0.005"], buckets["2.0"], buckets["+Inf"]) == (0, 1, 1, 2)
    assert made.samples("stop_seconds_sum")[0][2] == pytest.approx(2.103)


def test_counters_outlive_a_rotation(made: Made) -> None:
    """A counter that falls back to a number other than 0 would look like new activations."""
    remember(made, "activated", trigger="flag", stop_ms=3.0)
    os.rename(made.group.history, made.group.history + ".1")
    remember(made, "activated", "1-3", trigger="flag", stop_ms=4.0)
    assert sum(value for *_, value in made.samples("activations_total")) == 2


def test_notifications_that_wait(made: Made) -> None:
    Path(made.group.run, "notify-problem").write_text("activation of 1-2: ...\n")
    assert made.samples("notifications_pending") == [("notifications_pending", {}, 1)]
