"""When a stop began, where nothing in /run could be made to say so."""

import os
import time
from pathlib import Path

import pytest

from quantum_ess import account, latch
from quantum_ess.group import Group

GRAIN = 1.0  # seconds; far from what is told apart here


@pytest.fixture
def group(tmp_path: Path) -> Group:
    os.mkdir(tmp_path / "state")
    return Group(f"{tmp_path}/flag", f"{tmp_path}/run", f"{tmp_path}/state")


def test_by_who_was_to_set_the_flag(group: Group) -> None:
    noticed = time.monotonic() - 1.5
    began = account._began(group, {}, time.time(), noticed)
    assert noticed - account.MARGIN - GRAIN < began < noticed


def test_by_the_empty_record_that_latches_instead(group: Group) -> None:
    assert abs(latch.since(group)[1] - time.time()) < GRAIN, "neither is there"
    when = time.time() - 3
    Path(group.record).touch()
    os.utime(group.record, (when, when))
    since, epoch = latch.since(group)
    assert abs(epoch - when) < GRAIN
    assert since == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    began = account._began(group, {}, epoch, time.monotonic())
    assert abs(began - (time.monotonic() - 3)) < GRAIN


def test_not_by_a_record_that_is_written(group: Group) -> None:
    Path(group.record).write_text("{}")
    os.utime(group.record, (1, 1))
    assert abs(latch.since(group)[1] - time.time()) < GRAIN


def test_not_earlier_than_the_flag_allows(group: Group) -> None:
    began = account._began(group, {"boottime": 1.0}, time.time(), time.monotonic())
    assert abs(began - (time.monotonic() - account.AMISS)) < GRAIN
