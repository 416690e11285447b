"""What a host makes on the machine outside it, under one name, and how all of it goes again."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TextIO

from roots import cache_directory, locked
from waiting import Timeout, wait_until

DEATH = 20.0  # seconds until every killed process must be gone and its mounts released
PREFIX = "qess-"
SHARED_MEMORY = Path("/dev/shm")


def state_directory() -> Path:
    """Where hosts live while they run; on a filesystem that an overlay's upper layer can be on."""
    return cache_directory() / "hosts"


def cgroup_roots() -> list[Path]:
    """Mount points of the hierarchies that systemd keeps its units in: v2, and v1's named one."""
    rows = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [
        Path(row[1])
        for row in rows
        if row[2] == "cgroup2" or (row[2] == "cgroup" and "name=systemd" in row[3].split(","))
    ]


class Remains:
    """The directories, mount and cgroups of the host `name`.

    A lock on its `owner` file is held as long as the process that made it lives, so that whoever
    gets the lock knows that the maker is gone.
    """

    def __init__(self, name: str, owner: TextIO) -> None:
        self.name = name
        self.directory = state_directory() / name
        self.stamps = SHARED_MEMORY / name
        self.cgroups = [root / name for root in cgroup_roots()]
        self._owner = owner
        self._guard: subprocess.Popen[bytes] | None = None

    @classmethod
    def claim(cls, name: str) -> Self:
        """Make the directories of a new host, owned by this process."""
        directory = state_directory() / name
        with locked(state_directory()):  # or somebody could find it before it has its owner
            directory.mkdir()
            owner = (directory / "owner").open("w")
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for part in ("up", "work", "root"):
            (directory / part).mkdir()
        remains = cls(name, owner)
        remains.stamps.mkdir(mode=0o755)
        remains._guard = remains._make_guard()
        LIVING[name] = remains
        return remains

    @classmethod
    def abandoned(cls) -> list[Self]:
        """Hosts whose makers are dead, taken over by this process."""
        found = []
        with locked(state_directory()):
            for directory in state_directory().glob(PREFIX + "*"):
                owner = (directory / "owner").open("a")
                try:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    owner.close()
                else:
                    found.append(cls(directory.name, owner))
        return found

    def _make_guard(self) -> subprocess.Popen[bytes]:
        """A process that kills the host when its maker dies, however: its input ends then."""
        kills = "".join(f"echo 1 >{cgroup}/cgroup.kill; " for cgroup in self.cgroups)
        return subprocess.Popen(
            ("sh", "-c", f"read never; {kills}"),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def inside_cgroup(self, command: Sequence[str]) -> list[str]:
        """`command` as a command that first moves into the host's own cgroups."""
        for cgroup in self.cgroups:
            cgroup.mkdir(exist_ok=True)
        return _moved([cgroup / "cgroup.procs" for cgroup in self.cgroups], command)

    def inside_session(self, command: Sequence[str]) -> list[str]:
        """`command` as a command that first moves to where a login session of the host would be.

        So a program that asks for its own cgroup finds one of the host, and a power cut ends it.
        """
        files = []
        for cgroup in self.cgroups:
            session = cgroup / "payload/user.slice/user-0.slice/session-1.scope"
            if (cgroup / "payload").is_dir():
                session.mkdir(parents=True, exist_ok=True)
                files.append(session / "cgroup.procs")
        return _moved(files, command)

    def processes(self, unit: str = "") -> list[int]:
        """Processes in the host's cgroups, or in the one of a unit, and in all beneath it."""
        found: set[int] = set()
        for cgroup in self.cgroups:
            for directory, _, files in os.walk(cgroup):
                if "cgroup.procs" in files and (not unit or f"/{unit}/" in f"{directory}/"):
                    try:
                        found.update(map(int, Path(directory, "cgroup.procs").read_text().split()))
                    except OSError:  # removed meanwhile: ENOENT or ENODEV
                        continue
        return sorted(found)

    def kill(self) -> None:
        """Kill every process in the host's cgroups, wait for the end of the last, remove them.

        They may not be used for the next boot: Linux since 6.13 also kills what PID 1 clones into
        a cgroup that has ever been killed (systemd 257 starts services that way).
        """

        def all_dead() -> bool:
            for cgroup in self.cgroups:
                if (cgroup / "cgroup.kill").exists():
                    (cgroup / "cgroup.kill").write_text("1")
            for pid in self.processes():
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            return not self.processes()

        try:
            wait_until(all_dead, DEATH, f"the end of every process of {self.name}")
        except Timeout as error:
            error.add_note("\n".join(map(_what_it_does, self.processes())))
            raise
        for cgroup in self.cgroups:
            for directory in [*sorted(cgroup.rglob("*/"), reverse=True), cgroup]:
                if directory.is_dir():
                    directory.rmdir()

    def remove(self) -> None:
        """Take away processes, cgroups, mount and directories; safe to repeat."""
        self.kill()
        self.unmount()
        shutil.rmtree(self.stamps, ignore_errors=True)
        with locked(state_directory()):
            shutil.rmtree(self.directory, ignore_errors=True)
            self._owner.close()
        if self._guard is not None:
            self._guard.communicate()
        LIVING.pop(self.name, None)
        left = self.leaks()
        assert not left, f"{self.name} left behind: {left}"

    def unmount(self) -> None:
        """Unmount the disk of a dead host; Timeout if something keeps it busy."""
        wait_until(self._unmounted, DEATH, f"unmounting {self.directory / 'root'}")

    def _unmounted(self) -> bool:
        root = self.directory / "root"
        if not os.path.ismount(root):
            return True
        # Busy for a moment: the dead host's mount namespace goes away a little after its processes.
        return subprocess.run(("umount", str(root)), capture_output=True).returncode == 0

    def leaks(self) -> list[str]:
        """What is left of the host: processes, mounts, directories, cgroups."""
        found = [f"process {pid}" for pid in self.processes()]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found += [line for line in mounts if f"/{self.name}/" in line]
        paths = (self.directory, self.stamps, *self.cgroups)
        return found + [str(path) for path in paths if path.exists()]


LIVING: dict[str, Remains] = {}  # the hosts of this process


def remove_all() -> list[str]:
    """Remove what is left of this process's hosts and of dead ones'; the names that were there."""
    left = [*LIVING.values(), *Remains.abandoned()]
    for remains in left:
        remains.remove()
    return [remains.name for remains in left]


def _moved(files: Sequence[Path], command: Sequence[str]) -> list[str]:
    script = "".join(f"echo $$ >{file}; " for file in files)
    return ["sh", "-ec", script + 'exec "$@"', "sh", *command]


def _what_it_does(pid: int) -> str:
    """Name, state and where in the kernel a process waits, proc(5)."""
    try:
        status, where = (Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "wchan"))
    except OSError as error:
        return f"{pid}: {error.strerror}"
    return f"{pid}: {' '.join(status.split()[1:6])}, in {where}"
