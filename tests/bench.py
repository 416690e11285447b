"""How long from the trigger to the last sign of life, beside `systemctl stop` in the same run.

    python3 tests/bench.py dist/quantum-ess_*.deb [--count 20] [--release bookworm]

Four normal stand-ins on a real host of each Debian release. The ways take turns, so that whatever
the machine is busy with meanwhile slows all of them alike. A time starts right before `exec` (or
right before the flag is created) and ends with the last stamp that any process of the four made.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import remains
from host import STAMPS, STANDIN, Host
from kinds import FOUR
from product import RECORD, Ess
from roots import RELEASES, root_tree
from trading import FLAG, TRIGGER, WAYS, Trading
from waiting import now_ns, wait_until

SYSTEMCTL = "systemctl stop"
COMMAND = "quantum-ess activate"
FLAG_TOUCHED = "flag"
FLAG_ALONE = "flag, no Python"
PID_1_ALONE = "flag, PID 1 alone"  # neither Python nor the sentry: what is left when all else is
DEACTIVATE = "quantum-ess deactivate"
STOPS = (SYSTEMCTL, COMMAND, FLAG_TOUCHED, FLAG_ALONE, PID_1_ALONE)

# What must hold of the medians, as multiples of systemctl stop of the same four in the same run.
RATIOS = {COMMAND: 1.0, FLAG_ALONE: 1.3}

Times = dict[str, list[float]]  # way -> seconds of each round


class Bench:
    """The ways to stop, on one running host with the package installed."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ess = Ess(host)
        self.trading = Trading(host)
        self.trading.start()
        self._ways: dict[str, Callable[[], float]] = {
            SYSTEMCTL: self._systemctl,
            COMMAND: lambda: self._pulled("command"),
            FLAG_TOUCHED: lambda: self._pulled("flag"),
            FLAG_ALONE: self._without_python,
            PID_1_ALONE: self._by_pid_1,
        }

    def run(self, count: int) -> Times:
        """`count` rounds, in each of which every way has its turn."""
        times: Times = {way: [] for way in (*STOPS, DEACTIVATE)}
        for number in range(count):
            for way in STOPS:
                self._settle()
                times[way].append(self._ways[way]())
                # A whole release settles for two seconds: one in four rounds is enough of it.
                times[DEACTIVATE] += self._resume(way == COMMAND and number % 4 == 0)
        return times

    def _settle(self) -> None:
        """Start each turn alike: all alive, no job in PID 1's queue."""
        self.trading.all_running()
        self.ess.wait_idle(20)

    def _death(self, since: int) -> float:
        wait_until(lambda: not self.trading.remaining(), 10, "the end of the four")
        return (self.trading.last_sign_of_life() - since) / 1e9

    def _systemctl(self) -> float:
        words = ("exec", f"{STAMPS}/{TRIGGER}", "systemctl", "stop", *FOUR)
        self.host.run(STANDIN, *words)
        return self._death(self.trading.pulled())

    def _pulled(self, way: str) -> float:
        assert way in WAYS
        return self._death(self.trading.pull(way).time)

    def _without_python(self) -> float:
        self.host.run("mv", "/usr/bin/python3", "/usr/bin/python3.away")
        try:
            time = self._pulled("flag")
            wait_until(lambda: self.host.exists(RECORD), 10, "the record")
        finally:
            self.host.run("mv", "/usr/bin/python3.away", "/usr/bin/python3")
        return time

    def _by_pid_1(self) -> float:
        self.host.run("systemctl", "stop", "quantum-ess-sentry")
        try:
            return self._without_python()
        finally:
            self.host.run("systemctl", "start", "quantum-ess-sentry")

    def _resume(self, released: bool) -> list[float]:
        """Have the four running again; how long a full release took, if it was one."""
        if not self.host.exists(FLAG):
            self.host.run("systemctl", "start", *FOUR)
            return []
        self.ess.wait_idle(20)
        begun = now_ns()
        self.ess("deactivate", *(() if released else ("--no-start",)))
        took = (now_ns() - begun) / 1e9
        if not released:
            self.host.run("systemctl", "start", *FOUR)
        return [took] if released else []


def measure(release: str, deb: Path, count: int) -> Times:
    """Boot a host of `release`, install the package there, and take the times."""
    with Host(release, [root_tree(release)]) as host:
        host.install(deb)
        return Bench(host).run(count)


def ratio(times: Times, way: str) -> float:
    """Median of that way, as a multiple of the median of `systemctl stop`."""
    return statistics.median(times[way]) / statistics.median(times[SYSTEMCTL])


def percentile_99(values: Sequence[float]) -> float:
    """The 99th percentile; of fewer than a hundred values, their maximum."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def table(release: str, times: Times) -> str:
    """The times in ms, a line a way."""
    lines = [f"{release:22} {'median':>9} {'p99':>9} {'ratio':>7} {'at most':>8}"]
    for way, values in times.items():
        median, worst = statistics.median(values) * 1e3, percentile_99(values) * 1e3
        line = f"{way:22} {median:6.1f} ms {worst:6.1f} ms"
        if way != DEACTIVATE:
            line += f" {ratio(times, way):7.2f}"
        if way in RATIOS:
            line += f" {RATIOS[way]:8.2f}"
        lines.append(line)
    return "\n".join(lines)


def main() -> int:
    """Print a table a release; exit status 1 if a ratio is not kept."""
    parser = argparse.ArgumentParser(description="Time from the trigger to the last sign of life.")
    parser.add_argument("deb", type=Path, help="the package to measure")
    parser.add_argument("--count", type=int, default=20, help="rounds (20)")
    parser.add_argument("--release", choices=RELEASES, action="append", help="only this one")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench.py: needs root: it mounts and boots")
    remains.remove_all()
    kept = True
    try:
        for release in args.release or RELEASES:
            times = measure(release, args.deb.resolve(strict=True), args.count)
            print(table(release, times), end="\n\n", flush=True)
            kept &= all(ratio(times, way) <= most for way, most in RATIOS.items())
    finally:
        remains.remove_all()
    if not kept:
        print("bench.py: a ratio is larger than it may be", file=sys.stderr)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
