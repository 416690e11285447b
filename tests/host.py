"""A Debian host for tests: a whole systemd, booted by systemd-nspawn over an overlay.

    with Host("bookworm", lower=[root_tree("bookworm")]) as host:
        host.run("systemctl", "is-system-running")
        host.power_cut()

Everything that a host makes on the machine outside hangs on its name: one directory under
`state_directory()`, one under /dev/shm (the stand-ins' stamps), one overlay mount, one cgroup per
hierarchy. What kills, kills the processes in that cgroup and no others; `leftovers.py` uses the
same to clean up after a run that was itself killed.

Hosts need a cgroup each: nspawn would put all of them into the same `/payload`, and killing a
service's cgroup in one host would kill its namesake in another.
"""

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from remains import Remains
from roots import SYSTEM_PATH, cache_directory, locked, root_tree, standin_binary
from waiting import wait_until

BOOT = 60.0  # seconds; a boot takes about one
COMMAND = 30.0  # seconds that a command in the host may take unless told otherwise
STAMPS = "/run/standin"  # where a host sees the directory of stamps
STANDIN = "/usr/local/bin/standin"


class CommandFailed(AssertionError):
    """A command in a host had an exit status that the test did not allow."""


def installed(release: str, debs: Sequence[Path]) -> list[Path]:
    """Disk layers, topmost first, of a host of `release` on which apt has installed these packages.

    Made once for each content of these files, by whichever process comes first; what nobody has
    asked for in a day goes.
    """
    tree = root_tree(release)
    key = hashlib.sha256(tree.name.encode())
    for file in (Path(__file__), *debs):
        key.update(hashlib.sha256(file.read_bytes()).digest())
    place = cache_directory() / f"installed-{release}-{key.hexdigest()[:12]}"
    with locked(cache_directory() / "locks" / place.name):
        if not place.is_dir():
            for other in place.parent.glob(f"installed-{release}-*"):
                if other.stat().st_mtime < time.time() - 86400:
                    shutil.rmtree(other)
            with Host(release, [tree], volatile=True, prepare=lean) as maker:
                maker.install(*debs)
                maker.freeze()[0].rename(place)
        os.utime(place)
    return [place, tree]


# Of Debian's own, what a test host does without: nothing here logs in at a console, is mounted by
# fstab or updated by timers. It would be a third of the processor time of each boot.
SPARED = (
    *("console-getty.service", "getty-static.service", "getty.target", "run-lock.mount"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("e2scrub_all.timer", "e2scrub_reap.service", "systemd-tmpfiles-clean.timer"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "dev-hugepages.mount"),
    *("systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-binfmt.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path"),
    *("systemd-boot-update.service", "systemd-firstboot.service", "systemd-hwdb-update.service"),
    *("systemd-journal-catalog-update.service", "systemd-machine-id-commit.service"),
    *("systemd-random-seed.service", "systemd-sysctl.service", "systemd-update-done.service"),
    *("systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-setup-dev-early.service"),
)


def lean(host: "Host") -> None:
    """To prepare a host: without SPARED, and without systemd's own generators.

    Those have nothing to find on such a host, and each boot and each daemon-reload runs a dozen.
    """
    root = host.remains.directory / "root"
    generators = (root / "usr/lib/systemd/system-generators").glob("systemd-*")
    masks = [f"system-generators/{generator.name}" for generator in generators]
    for name in (*masks, *(f"system/{unit}" for unit in SPARED)):
        mask = root / "etc/systemd" / name
        mask.parent.mkdir(exist_ok=True)
        mask.symlink_to("/dev/null")


def read_only(path: str) -> str:
    """Shell commands that make a directory of a host read-only, until it is mounted rw or away.

    Not in its own place: what somebody writes to at that moment can't be made so.
    """
    return f"mount --bind {path} /mnt; mount -o remount,bind,ro /mnt; mount --bind /mnt {path}"


class Host:
    """One booted host; a context manager that boots on entry and leaves nothing on exit.

    `lower` lists overlay layers, topmost first. `unified` asks for cgroup v2 inside, else v1.
    `volatile` makes fsync cost nothing, for layers that are only prepared. `prepare` may write
    files before the first boot.
    """

    def __init__(
        self,
        release: str,
        lower: Sequence[Path],
        *,
        unified: bool = True,
        private_network: bool = True,
        volatile: bool = False,
        binds: Mapping[Path, str] | None = None,
        prepare: Callable[["Host"], object] | None = None,
    ) -> None:
        self.release = release
        self.lower = list(lower)
        self.unified = unified
        self.private_network = private_network
        self.volatile = volatile
        self.binds = dict(binds or {})
        self.prepare = prepare
        self.remains = Remains.claim(f"qess-{os.getpid()}-{uuid.uuid4().hex[:6]}")
        self.name = self.remains.name
        self.stamps = self.remains.stamps
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        try:
            self._mount()
            if self.prepare:
                self.prepare(self)
            self.boot()
        except BaseException:
            self.remains.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cut()
        self.remains.remove()

    # Life and death

    def _mount(self) -> None:
        place = self.remains.directory
        options = f"lowerdir={':'.join(map(str, self.lower))}"
        options += f",upperdir={place / 'up'},workdir={place / 'work'}"
        options += ",volatile" if self.volatile else ""
        command = ("mount", "-t", "overlay", "overlay", "-o", options, str(place / "root"))
        subprocess.run(command, check=True)
        identity = place / "root/etc/machine-id"
        if len(identity.read_text().strip()) != 32:  # else every boot would be a "first boot"
            identity.write_text(uuid.uuid4().hex + "\n")

    def boot(self) -> None:
        """Boot and wait until systemd has finished; Timeout if that takes longer than BOOT."""
        options = [f"--directory={self.remains.directory / 'root'}", f"--machine={self.name}"]
        options += [f"--bind={self.stamps}:{STAMPS}", f"--bind-ro={standin_binary()}:{STANDIN}"]
        options += [f"--bind={outside}:{inside}" for outside, inside in self.binds.items()]
        options += ["--private-network"] if self.private_network else []
        options += ["--quiet", "--boot", "--register=no", "--keep-unit", "--link-journal=no"]
        options += ["--resolv-conf=off", "--console=read-only"]
        command = ["systemd-nspawn", *options]
        with (self.remains.directory / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                self.remains.inside_cgroup(command),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={
                    "PATH": SYSTEM_PATH,
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": str(int(self.unified)),
                },
            )
        wait_until(self._find_leader, BOOT, f"PID 1 of {self.name}: {self.console()}")
        listening = self.seen_from_outside("/run/systemd/private")  # or systemctl would fail
        wait_until(listening.exists, BOOT, f"a systemd that listens on {self.name}")
        wait_until(self._is_booted, BOOT, f"the boot of {self.name}")

    def _find_leader(self) -> bool:
        """Find the host's PID 1: nspawn's child that is number 1 of a PID namespace below ours."""
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise CommandFailed(f"systemd-nspawn ended: {self.console()}")
        pid = self._nspawn.pid
        with suppress(FileNotFoundError, ProcessLookupError):  # nspawn's other child is short-lived
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                rows = Path(f"/proc/{child}/status").read_text().splitlines()
                if any(row.split()[2:] == ["1"] for row in rows if row.startswith("NSpid:")):
                    self._leader = int(child)
                    return Path(f"/proc/{child}/comm").read_text() == "systemd\n"
        return False

    def _is_booted(self) -> bool:
        answer = self.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT)
        return answer.stdout.strip() in ("running", "degraded")

    def cut(self) -> None:
        """Kill every process of the host at once, PID 1 and nspawn included."""
        self.remains.kill()
        if self._nspawn is not None:
            self._nspawn.wait(COMMAND)
        self._nspawn, self._leader = None, 0

    def power_cut(self) -> int:
        """Cut the power and boot the same disk again; the time of the cut in ns."""
        self.cut()
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self.boot()
        return moment

    def shutdown(self) -> None:
        """Shut down in order, as `systemctl poweroff` does, and wait for the end."""
        assert self._nspawn is not None
        self.run("systemctl", "poweroff", "--no-block", check=False)
        self.wait_end()
        self.cut()

    @property
    def leader(self) -> int:
        """The host's PID 1, as numbered outside."""
        return self._leader

    def wait_end(self) -> None:
        """Wait until the host has shut itself down, to reboot or for good."""
        assert self._nspawn is not None
        self._nspawn.wait(BOOT)

    @contextmanager
    def frozen(self, *pids: int) -> Iterator[None]:
        """Stop these processes (numbered outside), PID 1 if none is named, with SIGSTOP."""
        for pid in pids or (self._leader,):
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids or (self._leader,):
                os.kill(pid, signal.SIGCONT)

    def freeze(self) -> list[Path]:
        """Shut down for good; the layers, topmost first, on which further hosts can stand.

        They stay for as long as this host's `with` block lasts.
        """
        self.shutdown()
        for journal in (self.remains.directory / "root/var/log/journal").glob("*"):
            shutil.rmtree(journal)  # what a test finds in the journal is of its own host
        self.remains.unmount()
        return [self.remains.directory / "up", *self.lower]

    def seen_from_outside(self, path: str) -> Path:
        """An absolute path of the running host, mounts such as /run included, for a quick look."""
        return Path(f"/proc/{self._leader}/root{path}")

    # Commands

    def _entered(self, argv: Sequence[str], user: str | None, env: Mapping[str, str]) -> list[str]:
        """The command line outside that runs `argv` inside, in a session's cgroup, as `user`."""
        assert self._leader, f"{self.name} is not running"
        clean = {"PATH": SYSTEM_PATH, "HOME": "/root", "LANG": "C.UTF-8"} | dict(env)
        words = ["env", "-i", *(f"{name}={value}" for name, value in clean.items())]
        if user is not None:
            ids = self.run("getent", "passwd", user).stdout.split(":")[2:4]
            words += ["setpriv", f"--reuid={ids[0]}", f"--regid={ids[1]}", "--clear-groups"]
        entry = ["nsenter", "--target", str(self._leader), "--all", "--", *words, *argv]
        return self.remains.inside_session(entry)

    def run(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = COMMAND,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        input: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the host, as root or `user`, in a clean environment plus `env`.

        Raises CommandFailed with all it printed if its exit status is not 0 and `check` is set,
        subprocess.TimeoutExpired, after killing it, if it takes longer than `timeout` seconds.
        """
        process = self.spawn(*argv, user=user, env=env)
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            with suppress(ProcessLookupError):  # it may have ended by now
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if check and process.returncode:
            said = f"exit status {process.returncode}: {shlex.join(argv)}\n{out}{err}"
            raise CommandFailed(said)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def spawn(
        self, *argv: str, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in the host and do not wait for it."""
        return subprocess.Popen(
            self._entered(argv, user, env or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def sh(self, script: str, check: bool = True, timeout: float = COMMAND) -> str:
        """Run a shell script in the host that ends at its first error; what it printed."""
        return self.run("sh", "-ec", script, check=check, timeout=timeout).stdout

    # What the host looks like

    def read_file(self, path: str) -> str:
        """The text of a file; CommandFailed if there is none."""
        return self.run("cat", "--", path).stdout

    def write_file(self, path: str, text: str, mode: int = 0o644) -> bool:
        """Write a file of the host's disk and make the directories above it; False: it was there.

        Done from outside, so not for what is a mount in the host: /run, /tmp, /dev.
        """
        file = self.remains.directory / "root" / path.lstrip("/")
        if file.is_file() and file.read_text() == text and file.stat().st_mode & 0o7777 == mode:
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return True

    def exists(self, path: str) -> bool:
        """Whether the path exists in the host."""
        return self.run("test", "-e", path, check=False).returncode == 0

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit as `systemctl show` prints them."""
        shown = self.run("systemctl", "show", f"--property={','.join(names)}", "--", unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def unit_state(self, unit: str) -> str:
        """ActiveState of a unit."""
        return self.properties(unit, "ActiveState")["ActiveState"]

    def main_pid(self, unit: str) -> int:
        """Main PID of a service as the host numbers it; 0 if there is none."""
        return int(self.properties(unit, "MainPID")["MainPID"])

    def processes(self, unit: str) -> list[int]:
        """Processes in a unit's cgroup, sub-groups included, as numbered outside the host."""
        return self.remains.processes(unit)

    def boot_id(self) -> str:
        """The kernel's boot id, which nspawn makes anew for each boot."""
        return self.read_file("/proc/sys/kernel/random/boot_id").strip()

    def journal(self, *options: str) -> str:
        """What `journalctl` prints with these options, after journald has caught up."""
        self.run("journalctl", "--sync", check=False)
        return self.run("journalctl", "--no-pager", "--quiet", *options, check=False).stdout

    def journal_length(self) -> int:
        """Entries in the host's journal, by its files' headers: says cheaply that there are more.

        https://systemd.io/JOURNAL_FILE_FORMAT: le64 n_entries of struct Header.
        """
        total = 0
        for kind in ("run", "var"):
            for file in self.seen_from_outside(f"/{kind}/log/journal").glob("*/*.journal"):
                with suppress(OSError), file.open("rb") as opened:
                    total += int.from_bytes(os.pread(opened.fileno(), 8, 152), "little")
        return total

    def console(self) -> str:
        """What nspawn and the host's console have said."""
        return (self.remains.directory / "console.log").read_text(errors="replace")

    def install(self, *debs: Path) -> str:
        """`apt-get install` of package files; what apt said. Raises CommandFailed."""
        inside = []
        for deb in debs:
            # Where apt's sandbox user can read it; from /root or /tmp apt would complain.
            shutil.copy(deb, self.remains.directory / "root/var/cache" / deb.name)
            inside.append(f"/var/cache/{deb.name}")
        done = self.apt("install", "--no-install-recommends", *inside)
        return done.stdout + done.stderr

    def apt(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`apt-get` without questions, as an unattended upgrade runs it."""
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        command = ("apt-get", "--yes", *argv)
        return self.run(*command, check=check, env=environment, timeout=180)
