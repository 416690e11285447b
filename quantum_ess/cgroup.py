"""Control groups: find the processes of protected units and kill them, without asking anyone.

systemd puts a system unit's processes below its slice, in a cgroup named like the unit
(systemd.slice(5), systemd's docs/CGROUP_DELEGATION.md). Writing 1 to `cgroup.kill` kills the whole
subtree at once, forks included (cgroups(7), Linux 5.14). On cgroup v1 there is no such file: there
signals are sent until nothing is left. Needs neither PID 1 nor any bus.
"""

import os

from quantum_ess.plan import Plan, Protected, is_own

SIGKILL, SIGTERM = 9, 15  # signal(7); the signal module costs 3 ms to import
ROOTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
UNITS = (".service", ".scope", ".socket", ".mount", ".swap")


class Found:
    """A protected unit that has a cgroup."""

    __slots__ = ("how", "path", "unit")

    def __init__(self, unit: str, path: str, how: Protected) -> None:
        self.unit = unit
        self.path = path
        self.how = how


def root() -> str:
    """The tree in which systemd tracks units: v2, hybrid's v2, or v1's name=systemd."""
    for path in ROOTS:
        if os.path.exists(path + "/cgroup.procs"):
            return path
    return ROOTS[0]


def find(plan: Plan, top: str | None = None) -> list[Found]:
    """Protected units that have a cgroup. Only slices are descended into.

    A directory inside a service is delegated to it and may bear any name: a user's or a
    container's `quantum-execution.service` is not ours.
    """
    found: list[Found] = []
    _walk(plan, top or root(), None, found)
    return found


def _walk(plan: Plan, path: str, inherited: Protected | None, found: list[Found]) -> None:
    try:
        entries = list(os.scandir(path))
    except OSError:
        return  # the cgroup went away while we looked: nothing lives there
    for entry in entries:
        name = entry.name
        if name.startswith("_"):
            name = name[1:]  # systemd escapes names that could clash with the kernel's files
        if name.endswith(".slice"):
            _walk(plan, entry.path, plan.match(name) or inherited, found)
        elif name.endswith(UNITS):
            how = plan.match(name)
            if how is None and inherited and not plan.keeps(name) and not is_own(name):
                how = inherited
            if how is not None:
                found.append(Found(name, entry.path, how))


def kill(path: str) -> None:
    """SIGKILL every process below that cgroup. Raises nothing: verify afterwards."""
    try:
        fd = os.open(path + "/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.path.exists(path):
            signal_all(path, SIGKILL)  # cgroup v1, or a kernel before 5.14
        return
    except OSError:
        signal_all(path, SIGKILL)
        return
    try:
        os.write(fd, b"1")
    except OSError:
        signal_all(path, SIGKILL)
    finally:
        os.close(fd)


def signal_all(path: str, number: int) -> None:
    """Send one signal to every process below that cgroup. Raises nothing."""
    for pid in pids(path):
        try:
            os.kill(pid, number)
        except OSError:
            continue  # it has gone, which is what we want


def end(pid: int) -> None:
    """SIGKILL one process. Raises nothing."""
    try:  # noqa: SIM105 (contextlib costs 2 ms to import)
        os.kill(pid, SIGKILL)
    except OSError:
        pass  # it has gone


def of(pid: int) -> list[str]:
    """The cgroups of a living process, as systemd names them; none if it lives no more."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            if file.read().rpartition(") ")[2][:1] in "ZX":
                return []
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n").split(":", 2)[-1] for line in file]
    except OSError:
        return []


def pids(path: str) -> list[int]:
    """Process ids below that cgroup, children included."""
    result: list[int] = []
    for directory, _, _ in os.walk(path):
        try:
            with open(directory + "/cgroup.procs", encoding="ascii") as file:
                result += [int(line) for line in file]
        except (OSError, ValueError):
            continue
    # 0 stands for a process outside our pid namespace: os.kill(0) would hit ourselves.
    return [pid for pid in result if pid > 1]


def populated(path: str) -> bool:
    """True while any process lives below that cgroup (zombies do not count)."""
    try:
        with open(path + "/cgroup.events", encoding="ascii") as file:
            return "populated 1" in file.read()
    except FileNotFoundError:
        return bool(pids(path))
    except OSError:
        return False  # ENODEV: removed while open


def clear(plan: Plan, unit: str) -> None:
    """Remove what is left of a unit's empty cgroup, so that its next start gets a new one.

    Linux 6.13 and later kill whatever is cloned into a cgroup that has ever been killed, and
    systemd 257 starts processes that way. PID 1 removes the directory itself, mostly.
    """
    for found in find(plan):
        if found.unit == unit and not populated(found.path):
            for directory, _, _ in os.walk(found.path, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    return  # in use after all: PID 1 knows better
