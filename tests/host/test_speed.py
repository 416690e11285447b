"""Speed: the stop against `systemctl stop` of the same units in the same run."""

import statistics

import pytest

from bench import (
    COMMAND,
    DEACTIVATE,
    FLAG_ALONE,
    FLAG_TOUCHED,
    RATIOS,
    STOPS,
    SYSTEMCTL,
    Bench,
    ratio,
    resident_bound,
    table,
)
from host import Host

COUNT = 12


@pytest.mark.alone
def test_no_slower_than_systemctl_stop(host: Host) -> None:
    """Medians of 12: the command, the flag with the resident, and the flag without Python."""
    times = Bench(host).run(COUNT, STOPS[:-1])
    print(table(host.release, times))
    assert ratio(times, COMMAND) <= RATIOS[COMMAND]
    assert ratio(times, FLAG_ALONE) <= RATIOS[FLAG_ALONE]
    assert statistics.median(times[FLAG_TOUCHED]) <= resident_bound(times)
    assert statistics.median(times[DEACTIVATE]) < 5
    assert max(max(times[way]) for way in STOPS[1:-1]) < 2
    assert SYSTEMCTL in times
