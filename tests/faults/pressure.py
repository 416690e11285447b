"""Faults of supply: memory, process numbers, processor and disk time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from faults.fault import COMMAND, TOUCH, UNIT, Fault, meanwhile, script
from host import Host
from product import DONE, INCOMPLETE
from remains import cgroup_roots

OVERSUBSCRIBED = 8  # busy processes for each processor
MEMORY = 192 << 20  # bytes for a whole host
# Half of it stays taken; two at a time take the rest, to be killed first and begun anew. One that
# takes all, as a new Python each time, takes so long that a whole stop has memory enough.
HOG = f"""
import os
def may_be_killed(score):
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(score)
def take():
    if os.fork() == 0:
        may_be_killed("1000")
        while True:
            held.append(bytearray(1 << 20))
may_be_killed("500")
held = [bytearray({MEMORY // 2})]
take()
while True:
    take()
    os.wait()
    print("killed", flush=True)
"""


class Confined:
    """A resource controller of the machine outside, around a whole host and what enters it."""

    def __init__(self, host: Host, controller: str) -> None:
        legacy = Path("/sys/fs/cgroup") / controller
        self.v1 = legacy.is_dir()
        if self.v1:
            self.directory = legacy / host.name
            host.remains.cgroups.append(self.directory)  # who enters joins it; removed with it
            (self.directory / "payload").mkdir(parents=True, exist_ok=True)
            for pid in host.remains.processes():
                with contextlib.suppress(ProcessLookupError):  # it has ended since it was listed
                    (self.directory / "payload/cgroup.procs").write_text(str(pid))
        else:
            root = cgroup_roots()[0]
            (root / "cgroup.subtree_control").write_text(f"+{controller}")
            self.directory = root / host.name

    def read(self, v1: str, v2: str) -> str:
        """One of its files, as either version names it."""
        return (self.directory / (v1 if self.v1 else v2)).read_text()

    def write(self, v1: str, v2: str, value: str) -> None:
        """Set one of its limits."""
        (self.directory / (v1 if self.v1 else v2)).write_text(value)


@contextlib.contextmanager
def _out_of_memory(host: Host) -> Iterator[None]:
    """Processes that take all memory there is, killed by the kernel and started again."""
    memory = Confined(host, "memory")

    def refusals() -> int:
        """How often the limit was hit."""
        if memory.v1:
            return int(memory.read("memory.failcnt", ""))
        rows = memory.read("", "memory.events").splitlines()
        return next(int(row.split()[1]) for row in rows if row.startswith("max "))

    memory.write("memory.limit_in_bytes", "memory.max", str(MEMORY))
    loop = f"while :; do python3 -c '{HOG}'; done 2>/dev/null"
    with meanwhile(loop, until="killed")(host):
        before = refusals()
        yield
        assert refusals() > before, "there was memory enough during the stop"
    memory.write("memory.limit_in_bytes", "memory.max", "-1" if memory.v1 else "max")


@contextlib.contextmanager
def _no_process(host: Host) -> Iterator[None]:
    """The host has as many processes as it may have: no fork succeeds."""
    pids = Confined(host, "pids")
    pids.write("pids.max", "pids.max", pids.read("pids.current", "pids.current").strip())
    yield
    pids.write("pids.max", "pids.max", "max")


# A user of trading has as many processes as one of its services may have. The kernel counts them
# over all hosts on this machine, so its number is one that no other host has.
_GOVERNOR = "/run/systemd/system/quantum-governor.service.d"
_AS_TRADER = "setpriv --reuid=trader --clear-groups prlimit --nproc=16:16"
_NO_USER_PROCESS = script(
    "number=$((200000 + $(stat -Lc %i /proc/1/ns/pid) % 100000))\n"
    'echo "trader:x:$number:1::/:/bin/sh" >>/etc/passwd\n'
    f"mkdir -p {_GOVERNOR}\n"
    f"printf '[Service]\\nUser=trader\\nLimitNPROC=16\\n' >{_GOVERNOR}/limit.conf\n"
    "systemctl daemon-reload; systemctl restart quantum-governor.service\n"
    f"{_AS_TRADER} sh -c 'while :; do sleep 60 & done' >/dev/null 2>&1 || true\n"
    f"! {_AS_TRADER} sh -c '/bin/true; true' 2>/dev/null",
    f"rm -r {_GOVERNOR}; pkill -u trader -x sleep || true; systemctl daemon-reload",
)


def busy() -> str:
    """A script that keeps every processor and the disk busy, many times over (stress-ng)."""
    count = OVERSUBSCRIBED * (os.cpu_count() or 1)
    return (
        f"stress-ng --quiet --temp-path /var/tmp --cpu {count} --hdd {count} --hdd-bytes 8m &\n"
        f"while [ $(pgrep -c stress-ng) -le {2 * count} ]; do :; done; echo busy; wait"
    )


OVERLOAD = Fault(
    f"processors and disk {OVERSUBSCRIBED} times oversubscribed", meanwhile(busy(), until="busy")
)
PRESSURE_FAULTS = (
    Fault("out of memory", _out_of_memory, statuses=(DONE, INCOMPLETE), smoke=(COMMAND,)),
    Fault("no process for trading's user", _NO_USER_PROCESS),
    Fault(
        "no process for anybody",
        _no_process,
        impossible={UNIT: "PID 1 can't start anything"},
        statuses=(DONE, INCOMPLETE),
        starts=False,
        python=False,  # in time for it, or not
        smoke=(COMMAND, TOUCH),
    ),
    OVERLOAD,
)
