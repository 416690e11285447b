"""The system calls of a command in a host, and making one of them fail or be its last (strace).

strace counts calls of one name for each process and thread by itself; so does `record`.
"""

import random
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from host import Host

TRACE = "/run/trace"
LINE = re.compile(r"(\d+) +(\w+)\((.*)")

# Errors that the call can really return to root on a healthy or ailing machine (its man page).
# Not here: calls that cannot fail, and close(2) and brk(2), whose callers must not react to it.
ERRORS: dict[str, tuple[str, ...]] = {
    "access": ("ENOENT", "EIO", "ENOMEM"),
    "clock_nanosleep": ("EINTR",),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "connect": ("ECONNREFUSED", "EAGAIN", "ENOENT", "ETIMEDOUT"),
    "execve": ("ENOENT", "ENOMEM", "EIO", "EAGAIN"),
    "fchmod": ("EIO", "EROFS"),
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
    "write": ("EIO", "ENOSPC", "EINTR"),
}


@dataclass(frozen=True)
class Call:
    """The `number`-th call of that name that the main thread made; what strace said of it."""

    name: str
    number: int
    text: str


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


def record(host: Host, *argv: str) -> list[Call]:
    """Run the command and list the calls of its main thread, in order."""
    host.run("strace", "-f", "-y", "-qq", "-o", TRACE, *argv)
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    main = ""
    for line in host.read_file(TRACE).splitlines():
        if (match := LINE.match(line)) is None:
            continue  # the second half of a call, or a signal
        main = main or match[1]
        if match[1] == main:
            counts[match[2]] += 1
            calls.append(Call(match[2], counts[match[2]], match[3]))
    return calls


def inject(host: Host, fault: Fault, *argv: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    """Run the command with that fault; what it said, and whether the call was reached at all."""
    options = ("-f", "-qq", "-o", TRACE, "-e", f"trace={fault.name}", "-e", fault.option)
    done = host.run("strace", *options, *argv, check=False, timeout=60)
    said = host.read_file(TRACE)
    return done, "(INJECTED)" in said or "killed by SIGKILL" in said


def errors(calls: list[Call], chance: random.Random) -> list[Fault]:
    """Each call that can fail, with one of its errors, drawn."""
    can = [call for call in calls if call.name in ERRORS]
    return [Fault(call.name, call.number, chance.choice(ERRORS[call.name])) for call in can]


def kills(calls: list[Call]) -> list[Fault]:
    """The end of the process at each call."""
    return [Fault(call.name, call.number, "KILL") for call in calls]
