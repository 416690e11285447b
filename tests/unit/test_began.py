"""When a stop began, by what is left of its witnesses."""

import os
import time
from pathlib import Path

import pytest
from madeup import group_below

from quantum_ess import account, latch
from quantum_ess.group import Group

GRAIN = 1.0  # seconds; far from what is told apart here


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return group_below(tmp_path)


def blow(group: Group, ago: float) -> None:
    """Leave word of a first blow, in milliseconds as libexec/strike does."""
    when = time.clock_gettime(time.CLOCK_BOOTTIME) - ago
    with open(group.began, "a") as file:
        file.write(f"{int(1000 * when)} quantum-execution.service\n")


def age(group: Group, noticed: float, flag: float, struck: float | None = None) -> float:
    """Seconds since the stop began, if a process saw it and the flag was set that long ago.

    struck: and if that process dealt its own first blow then, by default when it saw it.
    """
    now = time.monotonic()
    struck = noticed if struck is None else struck
    return now - account._began(group, time.time() - flag, now - noticed, now - struck)


def test_by_who_was_to_set_the_flag(group: Group) -> None:
    """Nothing in /run: no flag, no word of a blow."""
    assert age(group, 1.5, 0) == pytest.approx(1.5, abs=GRAIN)


def test_by_the_first_blow(group: Group) -> None:
    """The flag was touched again, or is of the future, or has gone."""
    blow(group, 4.0)
    blow(group, 2.0)
    for flag in (1.0, -3600.0, 0.0):
        assert age(group, 0.5, flag) == pytest.approx(4.0, abs=GRAIN)


def test_not_by_a_blow_of_an_earlier_stop(group: Group) -> None:
    blow(group, 100.0)
    assert age(group, 0.5, 3.0) == pytest.approx(3.0, abs=GRAIN)


def test_by_the_flag_however_late_the_account_is(group: Group) -> None:
    blow(group, 3601.0)
    assert age(group, 0.5, 3600.0) == pytest.approx(3601.0, abs=GRAIN)


@pytest.mark.parametrize("flag", [30.0, 3600.0, 1e9])
def test_not_by_a_time_that_the_flag_s_owner_gave_it(group: Group, flag: float) -> None:
    """What was stopped on purpose in between was not stopped by this."""
    assert age(group, 0.5, flag) == pytest.approx(flag, abs=GRAIN), "nobody knows better"
    blow(group, 4.0)
    assert age(group, 0.5, flag) == pytest.approx(4.0, abs=GRAIN)
    assert age(group, flag, flag, struck=0.5) == pytest.approx(4.0, abs=GRAIN)


def test_by_the_empty_record_that_latches_instead(group: Group) -> None:
    assert latch.since(group)[1] == pytest.approx(time.time(), abs=GRAIN), "neither is there"
    when = time.time() - 3
    Path(group.record).touch()
    os.utime(group.record, (when, when))
    since, epoch = latch.since(group)
    assert epoch == pytest.approx(when, abs=GRAIN)
    assert since == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def test_not_by_a_record_that_is_written(group: Group) -> None:
    Path(group.record).write_text("{}")
    os.utime(group.record, (1, 1))
    assert latch.since(group)[1] == pytest.approx(time.time(), abs=GRAIN)
