"""Where the time of one `quantum-ess activate` goes: its milestones, by strace, on a booted host.

Only what changes something outside is traced (seccomp-bpf), so that the process is slowed down by
little; the times are still those of a traced process, and some of a millisecond each.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path

import remains
from bench import Bench
from host import Host
from kinds import FOUR
from roots import RELEASES, root_tree

TRACE = "/run/trace"
CALLS = "execve,openat,write,connect,sendmsg,sendto,rename,link,linkat,exit_group"
STRACE = ("strace", "-f", "--seccomp-bpf", "-ttt", "-y", "-s", "600", "-o", TRACE)

FAILED = re.compile(r" = -1 E(?!INPROGRESS)")
# What is looked for, in this order; each is the first (or, with True, the last) line that fits.
MILESTONES = (
    ("the shell is started", r'execve\("/usr/bin/quantum-ess"', False),
    ("the flag is there", r"openat\(.*/run/quantum/ESS_ON.*O_EXCL", False),
    ("the first cgroup is killed", r"write\(.*cgroup\.kill", False),
    ("the last cgroup is", r"write\(.*cgroup\.kill", True),
    ("Python is started", r'execve\("/usr/bin/python3"', False),
    ("PID 1 is asked", r"connect\(.*(system_bus_socket|systemd/private)", False),
    ("the record is on disk", r"rename.*/var/lib/quantum-ess/latched", False),
    ("the trail begins", r"send(msg|to)\(.*ACTIVATION INITIATED", False),
    ("Redis is asked", r"connect\(.*htons\(6379\)", False),
    ("the trail is complete", r"send(msg|to)\(.*ACTIVATION COMPLETE", False),
    ("the end", r"exit_group", True),
)


def milestones(trace: str) -> dict[str, float]:
    """Milliseconds from the shell's start to each milestone that is in the trace."""
    lines = [line.split(maxsplit=2) for line in trace.splitlines()]
    events = [(float(row[1]), row[2]) for row in lines if len(row) == 3]
    found = {}
    for name, pattern, last in MILESTONES:
        times = [
            time for time, call in events if re.search(pattern, call) and not FAILED.search(call)
        ]
        if times:
            found[name] = times[-1 if last else 0]
    began = found[MILESTONES[0][0]]
    return {name: 1000 * (time - began) for name, time in found.items()}


def profile(release: str, deb: Path, rounds: int) -> dict[str, list[float]]:
    """Each milestone's times, in ms."""
    times: dict[str, list[float]] = {name: [] for name, _, _ in MILESTONES}
    with Host(release, [root_tree(release)]) as host:
        host.install(deb)
        host.power_cut()
        bench = Bench(host)
        for _ in range(rounds):
            bench.trading.all_running()
            bench.ess.wait_idle(20)
            host.run(*STRACE, "-e", f"trace={CALLS}", "quantum-ess", "activate")
            for name, time in milestones(host.read_file(TRACE)).items():
                times[name].append(time)
            bench.ess("deactivate", "--no-start")
            host.run("systemctl", "start", *FOUR)
    return times


def main() -> int:
    """Print a table for each release."""
    parser = argparse.ArgumentParser(description="Where the time of one activation goes.")
    parser.add_argument("deb", type=Path, help="the package to measure")
    parser.add_argument("--rounds", type=int, default=20, help="how many activations (20)")
    parser.add_argument("--release", choices=RELEASES, nargs="+", default=RELEASES)
    args = parser.parse_args()
    remains.remove_all()
    try:
        for release in args.release:
            print(f"{release}: ms from the start of the command, medians of {args.rounds}")
            for name, found in profile(release, args.deb.resolve(strict=True), args.rounds).items():
                shown = f"{statistics.median(found):8.1f}" if found else "       -"
                print(f"{shown}  {name}", flush=True)
    finally:
        remains.remove_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
