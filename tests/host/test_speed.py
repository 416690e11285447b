"""Speed: the stop against `systemctl stop` of the same four in the same run, medians of 20."""

import statistics

from bench import COMMAND, DEACTIVATE, FLAG_ALONE, RATIOS, Bench, ratio, table
from host import Host

COUNT = 20


def test_no_slower_than_systemctl_stop(host: Host) -> None:
    """The command at most as long, the flag alone without Python at most 1.3 times as long."""
    times = Bench(host).run(COUNT)
    print(table(host.release, times))
    assert ratio(times, COMMAND) <= RATIOS[COMMAND]
    assert ratio(times, FLAG_ALONE) <= RATIOS[FLAG_ALONE]
    assert statistics.median(times[DEACTIVATE]) < 5
    assert max(times[COMMAND]) < 2 and max(times[FLAG_ALONE]) < 2
