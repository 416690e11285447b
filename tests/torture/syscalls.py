"""The system calls of one process in a host, and making one of them fail or be its last (strace).

strace counts calls of one name for each process and thread by itself; so does `record`. So that a
number means one process and no other, strace follows threads but is told which process it is: the
command itself, or the Python that it starts.
"""

import random
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

from host import Host
from waiting import wait_until

TRACE = "/run/trace"
HANGS = 60.0  # seconds that a command may take under strace, on a busy machine
OPTIONS = "TRACED"  # the variable with strace's options for the Python of a command
TRACED = f"""\
#!/bin/sh
options=${{{OPTIONS}-}}
unset {OPTIONS}
[ "$options" ] && exec strace $options REAL "$@"
exec REAL "$@"
"""
LINE = re.compile(r"(?:(\d+) +)?(\w+)\((.*)")

# Errors that the call can really return to root on a healthy or ailing machine (its man page).
ERRORS: dict[str, tuple[str, ...]] = {
    "access": ("ENOENT", "EIO", "ENOMEM"),
    "clock_nanosleep": ("EINTR",),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "connect": ("ECONNREFUSED", "EAGAIN", "ENOENT", "ETIMEDOUT"),
    "dup2": ("EBUSY", "EMFILE"),
    "epoll_create1": ("EMFILE", "ENFILE", "ENOMEM"),
    "execve": ("ENOENT", "ENOMEM", "EIO", "EAGAIN"),
    "faccessat": ("ENOENT", "EIO", "ENOMEM"),
    "faccessat2": ("ENOENT", "EIO", "ENOMEM"),
    "fchmod": ("EIO", "EROFS"),
    "fchown": ("EIO", "EROFS"),
    "chmod": ("EIO", "EROFS", "ENOENT"),
    "fcntl": ("EMFILE", "EINTR"),
    "fgetxattr": ("ENODATA", "EIO"),
    "flock": ("EINTR", "ENOLCK", "EAGAIN"),
    "fstat": ("EIO", "ENOMEM", "EOVERFLOW"),
    "fsync": ("EIO", "ENOSPC", "EROFS"),
    "ftruncate": ("EIO", "EROFS"),
    "futex": ("EINTR", "EAGAIN"),
    "getcwd": ("ENOENT", "ENOMEM"),
    "getdents64": ("EIO", "ENOENT", "ENOMEM"),
    "getrandom": ("EAGAIN", "EINTR"),
    "getsockname": ("ENOBUFS",),
    "getsockopt": ("ENOPROTOOPT", "ENOBUFS"),
    "ioctl": ("ENOTTY", "EIO", "ENOMEM"),
    "lchown": ("EIO", "EROFS"),
    "link": ("ENOSPC", "EIO", "EROFS", "ENOMEM"),
    "linkat": ("ENOSPC", "EIO", "EROFS", "ENOMEM"),
    "lseek": ("ESPIPE", "EOVERFLOW"),
    "lstat": ("EIO", "ENOMEM"),
    "mkdir": ("ENOSPC", "EIO", "EROFS", "ENOMEM"),
    "mlockall": ("ENOMEM", "EPERM"),
    "mmap": ("ENOMEM", "EAGAIN"),
    "mprotect": ("ENOMEM",),
    "mremap": ("ENOMEM",),
    "newfstatat": ("ENOENT", "EIO", "ENOMEM"),
    "open": ("EMFILE", "ENFILE", "ENOMEM", "EIO"),
    "openat": ("EMFILE", "ENFILE", "ENOMEM", "EIO", "ENOENT", "ENOSPC"),
    "pipe2": ("EMFILE", "ENFILE"),
    "pipe": ("EMFILE", "ENFILE"),
    "poll": ("EINTR", "ENOMEM"),
    "ppoll": ("EINTR", "ENOMEM"),
    "pread64": ("EIO",),
    "prlimit64": ("EPERM",),
    "read": ("EIO", "EINTR", "ENOMEM"),
    "readlink": ("ENOENT", "EIO", "EINVAL"),
    "recvfrom": ("ECONNRESET", "EINTR", "ENOMEM"),
    "recvmsg": ("ECONNRESET", "EINTR", "ENOMEM"),
    "rename": ("ENOSPC", "EIO", "EROFS", "ENOMEM"),
    "rmdir": ("EBUSY", "EIO"),
    "sendmsg": ("ENOBUFS", "EPIPE", "EAGAIN", "ECONNRESET"),
    "sendto": ("ENOBUFS", "EPIPE", "EAGAIN", "ECONNRESET"),
    "setsockopt": ("ENOBUFS", "ENOPROTOOPT"),
    "socket": ("EMFILE", "ENFILE", "ENOBUFS", "EAFNOSUPPORT"),
    "stat": ("ENOENT", "EIO", "ENOMEM"),
    "statfs": ("EIO", "ENOMEM"),
    "statx": ("EIO", "ENOMEM"),
    "unlink": ("EIO", "EROFS", "EBUSY"),
    "unlinkat": ("EIO", "EROFS", "EBUSY"),
    "utimensat": ("EIO", "EROFS", "ENOMEM"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "wait4": ("EINTR",),
    "write": ("EIO", "ENOSPC", "EINTR"),
}

# Calls that cannot fail, with what they are given, or whose callers must not react to it.
UNFAILING = frozenset(
    "arch_prctl brk close exit_group getegid geteuid getgid getpid getppid gettid getuid munmap"
    " rseq rt_sigaction rt_sigprocmask rt_sigreturn set_robust_list set_tid_address sysinfo umask"
    " uname".split()
)

# Calls that change nothing outside the process and wait for nobody; more of them in Call.silent.
SILENT = frozenset(
    "access arch_prctl brk dup faccessat faccessat2 fgetxattr fstat getcwd getdents64 getegid"
    " geteuid getgid getpid getppid getrandom getrlimit getsockname getsockopt gettid getuid"
    " getxattr ioctl lseek lstat madvise mmap mprotect mremap munmap newfstatat prctl prlimit64"
    " readlink readlinkat rseq rt_sigaction rt_sigprocmask sched_getaffinity set_robust_list"
    " set_tid_address setsockopt sigaltstack socket stat statfs statx sysinfo umask uname".split()
)
FILE = re.compile(r"\d+</")  # no pipe or socket, where another process may wait
OF_NOBODY = re.compile(r"\d+</(usr|lib|etc|proc|sys|dev)/")  # closing it unlocks nothing


@dataclass(frozen=True)
class Call:
    """The `number`-th call of that name that the main thread made; what strace said of it."""

    name: str
    number: int
    text: str

    @property
    def silent(self) -> bool:
        """Whether a process killed right after it leaves the same behind as one killed before."""
        match self.name:
            case "open" | "openat":
                return "O_RDONLY" in self.text and "O_CREAT" not in self.text
            case "read" | "pread64":
                return FILE.match(self.text) is not None
            case "close":
                return OF_NOBODY.match(self.text) is not None
            case "fcntl":
                return "LK" not in self.text
        return self.name in SILENT


class Fault(NamedTuple):
    """One call that fails with that errno, or that the process is killed at (KILL)."""

    name: str
    number: int
    error: str

    def __str__(self) -> str:
        return f"{self.name}:{self.number}:{self.error}"

    @property
    def kills(self) -> bool:
        """Whether the process ends here."""
        return self.error == "KILL"

    @property
    def option(self) -> str:
        """As strace's -e."""
        what = "signal=KILL" if self.kills else f"error={self.error}"
        return f"inject={self.name}:{what}:when={self.number}"


def parse(text: str) -> Fault:
    """A fault as `str` gives it."""
    name, number, error = text.split(":")
    return Fault(name, int(number), error)


def wrap_python(host: Host) -> None:
    """Put a script in the place of /usr/bin/python3, which does what the variable TRACED says."""
    real = host.run("readlink", "-f", "/usr/bin/python3").stdout.strip()
    host.run("rm", "/usr/bin/python3")
    host.write_file("/usr/bin/python3", TRACED.replace("REAL", real), 0o755)


class Tracee(NamedTuple):
    """A process to trace: the command itself, or (python) the Python that it starts and waits for.

    threads: also those that it starts, each counted by itself; else its children are left alone.
    """

    argv: tuple[str, ...]
    python: bool = False
    threads: bool = True

    def run(self, host: Host, *options: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run the command with strace, with these options, around that process."""
        argv, env = self._traced(*options)
        return host.run(*argv, env=env, **how)

    def spawn(self, host: Host, *options: str) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        argv, env = self._traced(*options)
        return host.spawn(*argv, env=env)

    def _traced(self, *options: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """The command line, and the variables that it needs."""
        options = (*(("-f",) if self.threads else ()), "-qq", "-o", TRACE, *options)
        if self.python:
            return self.argv, {OPTIONS: " ".join(options)}
        return ("strace", *options, *self.argv), {}


def record(host: Host, tracee: Tracee) -> list[Call]:
    """Run the command and list the calls of the main thread, in order.

    AssertionError for one that nobody has said of whether it can fail.
    """
    tracee.run(host, "-y")
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    main = ""
    for line in host.read_file(TRACE).splitlines():
        if (match := LINE.match(line)) is None:
            continue  # the second half of a call, or a signal
        main = main or match[1] or "only"
        if (match[1] or "only") == main:
            counts[match[2]] += 1
            calls.append(Call(match[2], counts[match[2]], match[3]))
    unheard_of = {call.name for call in calls} - set(ERRORS) - UNFAILING
    assert not unheard_of, f"to be named in ERRORS or UNFAILING: {unheard_of}"
    return calls


def inject(
    host: Host, fault: Fault, tracee: Tracee
) -> tuple[subprocess.CompletedProcess[str], bool]:
    """Run the command with that fault; what it said, and whether the call was reached at all.

    Raises subprocess.TimeoutExpired if it does not end within HANGS.
    """
    host.run("rm", "-f", TRACE)
    options = ("-e", f"trace={fault.name}", "-e", fault.option)
    done = tracee.run(host, *options, check=False, timeout=HANGS)
    said = host.run("cat", TRACE, check=False).stdout
    return done, "(INJECTED)" in said or "killed by SIGKILL" in said


def cut_after(host: Host, call: Call, tracee: Tracee) -> tuple[int, bool]:
    """Run the command, and cut the power when that call has been made: it is held there until then.

    When the power was cut (ns), and whether the call was reached; if not, the command had ended.
    """
    host.run("rm", "-f", TRACE)
    inject = f"inject={call.name}:signal=STOP:when={call.number}"
    trace = host.seen_from_outside(TRACE)
    process = tracee.spawn(host, "-e", f"trace={call.name}", "-e", inject)

    def held() -> bool:
        return trace.exists() and "stopped by SIGSTOP" in trace.read_text()

    wait_until(lambda: held() or process.poll() is not None, HANGS, "the call")
    reached = held()
    moment = host.power_cut()
    process.communicate(timeout=HANGS)
    return moment, reached


def errors(calls: list[Call], chance: random.Random) -> list[Fault]:
    """Each call that can fail, with one of its errors, drawn."""
    can = [call for call in calls if call.name in ERRORS]
    return [Fault(call.name, call.number, chance.choice(ERRORS[call.name])) for call in can]


def crash_points(calls: list[Call]) -> list[Call]:
    """One call of each state that a killed process can leave behind: the first, and each after one
    that is not silent."""
    pairs = zip([None, *calls], calls, strict=False)
    return [call for before, call in pairs if before is None or not before.silent]


def kills(calls: list[Call]) -> list[Fault]:
    """The end of the process at each call."""
    return [Fault(call.name, call.number, "KILL") for call in calls]
