"""Chosen pairs and more: what makes up for one thing is broken too."""

import pytest

from faults.conftest import Table
from faults.fault import COMMAND, TOUCH, UNIT, Fault
from faults.files import (
    CONFIG_GARBAGE,
    DIRECTORY_MISSING,
    RUN_FULL,
    RUN_WITHOUT_INODES,
    VAR_FULL,
    VAR_READ_ONLY,
)
from faults.matrix import stop
from faults.pressure import OVERLOAD
from faults.services import (
    AS_THE_FLAG_APPEARS,
    BUS_HUNG,
    JOURNAL_FULL,
    JOURNALD_HUNG,
    MID_STOP,
    PID1_HUNG,
    REDIS_HUNG,
    SENTRY_HUNG,
    SENTRY_STOPPED,
)
from faults.software import PYTHON_MISSING, SYSTEMCTL_FAULTS
from host import Host
from trading import WAYS

ALL_WAYS = tuple(WAYS)

# What the sentry may not be needed for. With PID 1 hung as well nobody is left to see a flag.
KEY = (BUS_HUNG, JOURNALD_HUNG, RUN_FULL, VAR_READ_ONLY, CONFIG_GARBAGE)

PAIRS: tuple[tuple[tuple[Fault, ...], tuple[str, ...]], ...] = (
    *(((SENTRY_STOPPED, fault), ALL_WAYS) for fault in KEY),
    ((SENTRY_STOPPED, PID1_HUNG), (COMMAND,)),
    ((SENTRY_STOPPED, RUN_WITHOUT_INODES), (COMMAND, UNIT)),
    ((SENTRY_STOPPED, PYTHON_MISSING), ALL_WAYS),
    ((SENTRY_STOPPED, OVERLOAD), ALL_WAYS),
    # Only then the stop goes by what it says.
    *(((SENTRY_STOPPED, PYTHON_MISSING, asked), (COMMAND, TOUCH)) for asked in SYSTEMCTL_FAULTS),
    ((SENTRY_HUNG, BUS_HUNG), ALL_WAYS),
    ((PYTHON_MISSING, BUS_HUNG), ALL_WAYS),
    ((PYTHON_MISSING, VAR_READ_ONLY), ALL_WAYS),
    ((RUN_FULL, VAR_FULL), ALL_WAYS),
    ((RUN_WITHOUT_INODES, VAR_READ_ONLY), (COMMAND, UNIT)),
    # By command halt gets its inode back from the sentry, in time or not.
    ((RUN_WITHOUT_INODES, PYTHON_MISSING), (UNIT,)),
    ((DIRECTORY_MISSING, PYTHON_MISSING), (COMMAND, UNIT)),
    ((JOURNALD_HUNG, PYTHON_MISSING), ALL_WAYS),
    ((PID1_HUNG, BUS_HUNG), (COMMAND, TOUCH)),
    ((JOURNALD_HUNG, PID1_HUNG), (COMMAND, TOUCH)),
    ((PID1_HUNG, REDIS_HUNG), (COMMAND, TOUCH)),
    ((JOURNALD_HUNG, VAR_READ_ONLY), ALL_WAYS),
    ((JOURNALD_HUNG, VAR_FULL), ALL_WAYS),
    ((JOURNAL_FULL, VAR_FULL), ALL_WAYS),
    ((SENTRY_STOPPED, MID_STOP[0]), (COMMAND,)),
    *(((SENTRY_STOPPED, busy), (COMMAND, TOUCH)) for busy in AS_THE_FLAG_APPEARS),
    ((JOURNALD_HUNG, MID_STOP[1]), ALL_WAYS),
    ((JOURNALD_HUNG, BUS_HUNG, REDIS_HUNG, CONFIG_GARBAGE), ALL_WAYS),
)


def cells() -> list[object]:
    """Each pair with each trigger that can be pulled under it."""
    return [
        pytest.param(faults, way, id=f"{named(faults)}-{way}")
        for faults, ways in PAIRS
        for way in ways
    ]


def named(faults: tuple[Fault, ...]) -> str:
    """The name of a pair."""
    return " + ".join(fault.name for fault in faults)


@pytest.mark.parametrize(("faults", "way"), cells())
def test_together(host: Host, table: Table, faults: tuple[Fault, ...], way: str) -> None:
    table.add(named(faults), way, stop(host, way, *faults))
