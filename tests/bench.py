"""How long from the trigger to the last sign of life, beside `systemctl stop` in the same run.

    python3 tests/bench.py dist/quantum-ess_*.deb [--release bookworm] [--units 50] [--load idle]
        [--rounds 10]

On a real host of each Debian release: four stand-ins that stamp a file twice a millisecond, and
crowds of services that sleep, whose death a pidfd tells (crowd.py); idle, and with processors and
disk eight times oversubscribed. The ways take turns, so that whatever the machine is busy with
slows all of them alike. A time starts right before `exec` (or right before the flag is created) and
ends with the last sign of life of any process.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import bench_guard
import remains
from crowd import Crowd
from faults.pressure import OVERLOAD
from host import STAMPS, STANDIN, Host
from kinds import FOUR
from product import RECORD, Ess
from roots import RELEASES, root_tree
from trading import FLAG, TRIGGER, WAYS, Trading
from waiting import now_ns, wait_until

SYSTEMCTL = "systemctl stop"
COMMAND = "quantum-ess activate"
FLAG_TOUCHED = "flag, resident"
FLAG_ALONE = "flag, no Python"
PID_1_ALONE = "flag, PID 1 alone"  # neither Python nor the sentry: what is left when all else is
START = "systemctl start"
DEACTIVATE = "quantum-ess deactivate"
STOPS = (SYSTEMCTL, COMMAND, FLAG_TOUCHED, FLAG_ALONE, PID_1_ALONE)

# What must hold of the medians, as multiples of systemctl stop of the same units in the same run.
RATIOS = {COMMAND: 0.8, FLAG_ALONE: 1.2}
RATIOS_CROWD = {COMMAND: 0.5, FLAG_TOUCHED: 0.5}  # of the largest one
RESIDENT = 1 / 20  # of systemctl stop; or a millisecond above the clock's grain, if that is more
GRAIN = 0.0005  # seconds between two stamps of a stand-in

UNITS = (4, 50, 250, 1000)
IDLE, OVERSUBSCRIBED = LOADS = ("idle", "oversubscribed")
IDLE_SECONDS = 60
BOOTS = 5
MEMORY, PROCESSOR = 15e6, 0.001  # the resident's bounds: bytes, share of a processor
SENTRY = "quantum-ess-sentry.service"

Times = dict[str, list[float]]  # way -> seconds of each round


class Bench:
    """The ways to stop four stand-ins, on one running host with the package installed."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ess = Ess(host)
        self.ess.configure(
            "[resume]\nsettle = 0\n"
        )  # how long a start takes, not how long it is watched
        self.trading = Trading(host, beat=500_000)
        self.trading.start()
        self._ways: dict[str, Callable[[], float]] = {
            SYSTEMCTL: self._systemctl,
            COMMAND: lambda: self._pulled("command"),
            FLAG_TOUCHED: lambda: self._pulled("flag"),
            FLAG_ALONE: lambda: without_python(self.host, lambda: self._pulled("flag")),
            PID_1_ALONE: lambda: without_sentry(self.host, lambda: self._pulled("flag")),
        }

    def run(self, count: int, ways: Sequence[str] = STOPS) -> Times:
        """`count` rounds, in each of which every way has its turn."""
        times: Times = {way: [] for way in (*ways, START, DEACTIVATE)}
        for _ in range(count):
            for way in ways:
                self._settle()
                times[way].append(self._ways[way]())
                back = {SYSTEMCTL: START, COMMAND: DEACTIVATE}.get(way, "")
                seconds = self._resume(back == DEACTIVATE)
                if back:
                    times[back].append(seconds)
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

    def _resume(self, by_release: bool) -> float:
        """Have the four running again; how long the release, or else systemctl, took for it."""
        self.ess.wait_idle(20)
        if by_release:
            return timed(lambda: self.ess("deactivate"))
        if self.host.exists(FLAG):
            self.ess("deactivate", "--no-start")
        return timed(lambda: self.host.run("systemctl", "start", *FOUR))


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    begun = now_ns()
    act()
    return (now_ns() - begun) / 1e9


def without_python(host: Host, stop: Callable[[], float]) -> float:
    """A stop with no Python to be found; waits until it is on record."""
    host.run("mv", "/usr/bin/python3", "/usr/bin/python3.away")
    try:
        seconds = stop()
        wait_until(lambda: host.exists(RECORD), 10, "the record")
    finally:
        host.run("mv", "/usr/bin/python3.away", "/usr/bin/python3")
    return seconds


def without_sentry(host: Host, stop: Callable[[], float]) -> float:
    """The same, and with no sentry."""
    host.run("systemctl", "stop", SENTRY)
    try:
        return without_python(host, stop)
    finally:
        host.run("systemctl", "start", SENTRY)


def measure_crowd(host: Host, count: int, rounds: int) -> Times:
    """The same ways, and both ways back, for `count` units."""
    crowd, ess = Crowd(host, count), Ess(host)
    ways: dict[str, Callable[[], float]] = {
        SYSTEMCTL: lambda: crowd.pull("exec", "systemctl", "stop", *crowd.units),
        COMMAND: lambda: crowd.trigger("command"),
        FLAG_TOUCHED: lambda: crowd.trigger("flag"),
        FLAG_ALONE: lambda: without_python(host, lambda: crowd.trigger("flag")),
        PID_1_ALONE: lambda: without_sentry(host, lambda: crowd.trigger("flag")),
    }
    times: Times = {way: [] for way in (*STOPS, START, DEACTIVATE)}

    def release() -> None:
        host.run("quantum-ess", "deactivate", timeout=300)

    crowd.start()
    for _ in range(rounds):
        for way, stop in ways.items():
            ess.wait_idle(60)
            times[way].append(stop())
            ess.wait_idle(60)
            if way == COMMAND:
                times[DEACTIVATE].append(timed(release))
                continue
            if way != SYSTEMCTL:
                ess("deactivate", "--no-start")
            seconds = timed(crowd.start)
            if way == SYSTEMCTL:
                times[START].append(seconds)
    host.run("systemctl", "stop", *crowd.units, timeout=60)
    return times


def resident(host: Host) -> tuple[float, float]:
    """The sentry's memory in bytes and its share of a processor, with nothing to do.

    Memory is the resident set of its processes: not every host has the memory controller.
    """
    group = f"/sys/fs/cgroup/system.slice/{SENTRY}"

    def used() -> float:
        return int(host.read_file(f"{group}/cpu.stat").split()[1]) / 1e6

    before, began = used(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    share = (used() - before) / (time.monotonic() - began)
    shown = host.sh(
        f"for pid in $(cat {group}/cgroup.procs); do grep VmRSS /proc/$pid/status; done"
    )
    return 1024.0 * sum(int(line.split()[1]) for line in shown.splitlines()), share


def generator(host: Host) -> tuple[float, float]:
    """Seconds: the generator by itself, a daemon-reload."""
    alone = "mkdir -p /run/g; /usr/lib/systemd/system-generators/quantum-ess-generator /run/g"
    ours = statistics.median(timed(lambda: host.sh(alone)) for _ in range(10))
    nothing = statistics.median(timed(lambda: host.sh("mkdir -p /run/g")) for _ in range(10))
    reload_ = statistics.median(
        timed(lambda: host.run("systemctl", "daemon-reload")) for _ in range(10)
    )
    return ours - nothing, reload_


def boots(host: Host, count: int) -> tuple[float, float]:
    """Median seconds of so many boots: all generators, which run side by side; the whole boot."""
    names = ("GeneratorsStart", "GeneratorsFinish", "Userspace", "Finish")
    taken = []
    for _ in range(count):
        host.power_cut()
        asked = (f"-p{name}TimestampMonotonic" for name in names)
        shown = host.run("systemctl", "show", *asked).stdout
        stamps = dict(line.split("=") for line in shown.split())
        first, last, user, end = (int(stamps[f"{name}TimestampMonotonic"]) / 1e6 for name in names)
        taken.append((last - first, end - user))
    generators, whole = zip(*taken, strict=True)
    return statistics.median(generators), statistics.median(whole)


def ratio(times: Times, way: str) -> float:
    """Median of that way, as a multiple of the median of `systemctl stop`."""
    return statistics.median(times[way]) / statistics.median(times[SYSTEMCTL])


def resident_bound(times: Times) -> float:
    """Seconds that the flag may take with the sentry: median."""
    return max(0.001 + GRAIN, RESIDENT * statistics.median(times[SYSTEMCTL]))


def percentile_99(values: Sequence[float]) -> float:
    """The 99th percentile: what 99 of a hundred do not exceed; of fewer values, their maximum."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def table(title: str, times: Times, ratios: dict[str, float] | None = None) -> str:
    """The times in ms, a line a way."""
    ratios = RATIOS if ratios is None else ratios
    lines = [f"{title:34} {'median':>9} {'p99':>10} {'of':>5} {'ratio':>7} {'at most':>8}"]
    for way, values in times.items():
        if not values:
            continue
        median, worst = statistics.median(values) * 1e3, percentile_99(values) * 1e3
        line = f"  {way:32} {median:7.1f} ms {worst:7.1f} ms {len(values):4}"
        if way in STOPS:
            line += f" {ratio(times, way):7.2f}"
        if way in ratios:
            line += f" {ratios[way]:8.2f}"
        lines.append(line)
    return "\n".join(lines)


def too_slow(title: str, times: Times, ratios: dict[str, float]) -> list[str]:
    """The ways that take longer than they may."""
    return [
        f"{title}: {way} {ratio(times, way):.2f} > {most}"
        for way, most in ratios.items()
        if ratio(times, way) > most
    ]


def measure(release: str, deb: Path, args: argparse.Namespace) -> list[str]:
    """Take and print the times of one release that were asked for; what is not as it should be."""
    bad: list[str] = []
    for count in args.units:
        with Host(release, [root_tree(release)]) as host:
            host.install(deb)
            host.power_cut()
            if count == len(FOUR):
                bad += footprint(host)
            for load in args.load:
                overload: AbstractContextManager[object] = (
                    OVERLOAD.made(host) if load == OVERSUBSCRIBED else nullcontext()
                )
                with overload:
                    if count == len(FOUR):
                        times = Bench(host).run(args.rounds)
                    else:
                        times = measure_crowd(host, count, args.rounds)
                bad += judge(f"{release}, {count} units, {load}", times, count, load)
    return bad


def judge(title: str, times: Times, count: int, load: str) -> list[str]:
    """Print the times; what of them is not as it should be."""
    ratios = {len(FOUR): RATIOS, max(UNITS): RATIOS_CROWD}.get(count, {}) if load == IDLE else {}
    print(table(title, times, ratios), end="\n\n", flush=True)
    bad = too_slow(title, times, ratios)
    if ratios is RATIOS and statistics.median(times[FLAG_TOUCHED]) > resident_bound(times):
        bad.append(f"{title}: {FLAG_TOUCHED} later than {resident_bound(times):.4f} s")
    return bad


def footprint(host: Host) -> list[str]:
    """Print what the product takes when nothing happens; what of it is more than it may be."""
    memory, share = resident(host)
    print(f"{host.release}: resident, idle: {memory / 1e6:.1f} MB, {share:.3%} of a processor")
    ours, reload_ = generator(host)
    print(f"{host.release}: generator {ours * 1e3:.0f} ms, a daemon-reload {reload_ * 1e3:.0f} ms;")
    masked = "/etc/systemd/system-generators/quantum-ess-generator"
    for what, deed in (("with", "true"), ("without", f"ln -s /dev/null {masked}")):
        host.sh(f"mkdir -p $(dirname {masked}); {deed}")
        all_, boot = (1e3 * seconds for seconds in boots(host, BOOTS))
        print(f"a boot {what} ours: all generators {all_:.0f} ms, the whole {boot:.0f} ms")
    host.run("rm", masked)
    host.power_cut()
    print(flush=True)
    if memory > MEMORY or share > PROCESSOR:
        return [f"{host.release}: the resident takes more than it may"]
    return []


def main() -> int:
    """Print the tables; exit status 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(description="Time from the trigger to the last sign of life.")
    parser.add_argument("deb", type=Path, help="the package to measure")
    parser.add_argument("--rounds", type=int, default=100, help="how many of each way (100)")
    parser.add_argument("--release", choices=RELEASES, nargs="+", default=RELEASES)
    parser.add_argument("--units", type=int, choices=UNITS, nargs="+", default=UNITS)
    parser.add_argument("--load", choices=LOADS, nargs="+", default=LOADS)
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench.py: needs root: it mounts and boots")
    remains.remove_all()
    deb = args.deb.resolve(strict=True)
    bad: list[str] = []
    try:
        for release in args.release:
            bad += measure(release, deb, args)
            if len(FOUR) in args.units and IDLE in args.load:
                bad += bench_guard.report(release, deb, args.rounds)
    finally:
        remains.remove_all()
    for line in bad:
        print(f"bench.py: {line}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
