"""A disposable copy of a root tree in which commands run without systemd, and with no network but
loopback.

    with Chroot(root_tree("trixie"), binds={Path("dist"): "/dist"}) as chroot:
        chroot.run("dpkg --install /dist/*.deb")

Each command gets mount, network and PID namespaces of its own, so no mount and no process can
outlive it, nor whoever asked for it; what it writes is there for the next one.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from host import CommandFailed
from roots import SYSTEM_PATH, cache_directory

# SIOCSIFFLAGS of "lo", to IFF_UP | IFF_LOOPBACK | IFF_RUNNING: what may not be used is the network.
LOOPBACK = (
    "import fcntl, socket, struct; up = struct.pack('16sh22x', b'lo', 0x49);"
    "fcntl.ioctl(socket.socket(), 0x8914, up)"
)

# Of what runs behind this no process and no mount outlives the one who started it, however that
# one ends: the namespaces go with their first process, which dies with unshare, and that with us.
ENCLOSED = (
    *("setpriv", "--pdeathsig", "KILL", "unshare"),
    *("--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


class Chroot:
    """One copy (an overlay) of a root tree; gone when its `with` block ends."""

    def __init__(self, tree: Path, binds: Mapping[Path, str] | None = None) -> None:
        self.tree = tree
        self.binds = dict(binds or {})

    def __enter__(self) -> Self:
        cache_directory().mkdir(parents=True, exist_ok=True)
        for left in cache_directory().glob("chroot.*"):  # of a process that was killed
            if not Path("/proc", left.name.split(".")[1]).exists():
                shutil.rmtree(left, ignore_errors=True)
        prefix = f"chroot.{os.getpid()}."
        self.place = Path(tempfile.mkdtemp(prefix=prefix, dir=cache_directory()))
        for part in ("up", "work", "root"):
            (self.place / part).mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.place)

    def path(self, path: str) -> Path:
        """Where a file that a command has written lies outside."""
        return self.place / "up" / path.lstrip("/")

    def command(self, *argv: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line outside that runs `argv`, and what is appended to it, in the chroot."""
        root = shlex.quote(str(self.place / "root"))
        layers = f"lowerdir={self.tree},upperdir={self.place}/up,workdir={self.place}/work"
        layers += ",volatile"  # fsync costs nothing, and the last mount's mark is in nobody's way
        binds = "".join(
            f"mkdir -p {root}{inside}; mount --bind {shlex.quote(str(outside))} {root}{inside}; "
            for outside, inside in self.binds.items()
        )
        mounts = (
            f"rm -rf {shlex.quote(str(self.place))}/work/work/incompat; "
            f"mount -t overlay overlay -o {shlex.quote(layers)} {root}; {binds}"
            f"mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev; "
            f"mount -t tmpfs tmpfs {root}/tmp; {shlex.join((sys.executable, '-c', LOOPBACK))}; "
        )
        clean = {"PATH": SYSTEM_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"} | dict(env or {})
        clean.setdefault("DEBIAN_FRONTEND", "noninteractive")
        words = [f"{name}={value}" for name, value in clean.items()]
        inner = shlex.join(("env", "-i", *words, "chroot", str(self.place / "root"), *argv))
        script = f'{mounts}exec {inner} "$@"'
        return [*ENCLOSED, "--net", "--ipc", "--uts", "sh", "-ec", script, "sh"]

    def run(
        self,
        script: str,
        check: bool = True,
        timeout: float = 900,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a shell script that ends at its first error; what it printed, stderr included.

        Raises CommandFailed with all of that if its exit status is not 0 and `check` is set.
        """
        done = subprocess.run(
            self.command("sh", "-ec", script, env=env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise CommandFailed(f"exit status {done.returncode}: {script}\n{done.stdout}")
        return done.stdout
