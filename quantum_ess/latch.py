"""The latch: the flag in /run and the record on disk. Presence of either shuts the gate.

Only `os` and `time` are imported: setting the flag comes before the kill.
"""

import os
import stat
import time

from quantum_ess.group import Group

DEVICE = 10**9  # times the number of a device: more than a tmpfs counts its inodes to
LONG_AGO = 60.0  # seconds; an older flag says nothing of when this activation began


class Flag:
    """What setting the flag came to.

    inode: of the flag, None if there is none. created: this call made it. error: why the flag
    could not be made; the record was created in its place if `held` is true.
    """

    __slots__ = ("created", "error", "held", "inode", "monotonic", "owner")

    def __init__(
        self, inode: int | None, created: bool, error: str | None = None, held: bool = True
    ) -> None:
        self.inode = inode
        self.created = created
        self.error = error
        self.held = held
        self.monotonic = time.monotonic()
        self.owner = 0  # uid of who made it, if that was not root


def now() -> str:
    """The time as the flag, the marker and the record give it: ISO-8601, UTC, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def iso(epoch: float) -> str:
    """That time in epoch seconds as `now` gives it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))


def is_time(text: str) -> bool:
    """True if that text is a time as `now` writes it."""
    try:
        time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return False
    return len(text) == 20 and text.isascii()  # strptime takes 2026-1-2 too


def shut(group: Group) -> Flag:
    """Set the flag, atomically with its content, or mark the one that is there as set again.

    Raises nothing: the kill that follows must not depend on it. If /run can't hold the flag, the
    record's mere presence shuts the gate.
    """
    problem = ""
    for _ in range(3):  # a release, or who removes its directory, may be quicker than a join
        try:
            return _link_flag(group)
        except OSError as error:
            problem = f"{group.flag}: {error.strerror}"
            if error.errno != 2:  # ENOENT
                break
    try:
        fd = os.open(group.record, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.close(fd)
    except OSError as error:
        return Flag(None, False, f"{problem}; {group.record}: {error.strerror}", held=False)
    try:
        if not os.path.lexists(group.flag):
            os.unlink(group.seen)  # of an earlier flag: the absence of this one is no release
    except OSError:
        pass  # it is not there
    return Flag(None, False, problem)


def _link_flag(group: Group) -> Flag:
    mend_directory(os.path.dirname(group.flag))
    mend_directory(group.run)
    draft = f"{group.run}/.flag.{os.getpid()}.{os.urandom(4).hex()}"
    status = _make(draft, now())
    try:
        os.link(draft, group.flag, follow_symlinks=False)
        return Flag(status.st_ino, True)
    except FileExistsError:
        return _join(group)
    except OSError as error:
        if error.errno != 18:  # EXDEV: its directory is a file system of its own, libexec/access
            raise
    finally:
        os.unlink(draft)
    try:
        return Flag(number(group, _make(group.flag, now())), True)
    except FileExistsError:
        return _join(group)


def _make(path: str, text: str) -> os.stat_result:
    """Make a flag at that path, where nothing may be yet. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever the umask
        try:  # noqa: SIM105 (contextlib costs 2 ms to import)
            os.write(fd, text.encode() + b"\n")
        except OSError:
            pass  # /run is full: an empty flag latches as well as a full one
        return os.fstat(fd)
    finally:
        os.close(fd)


def _join(group: Group) -> Flag:
    """Mark the flag that is there as set again. Raises OSError."""
    status = os.lstat(group.flag)
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        # A release that is under way sees another mtime and gives way. It is a little later than
        # before and not the present: what ran when the flag was first set is told by it.
        # More than `fill` takes; and a note, should that undo it.
        later = status.st_mtime_ns + 3 + time.monotonic_ns() % 100_000
        _note_joined(group, status)
        os.utime(group.flag, ns=(status.st_atime_ns, later), follow_symlinks=False)
        return Flag(number(group, os.lstat(group.flag)), False)
    # A symlink may dangle, and then the gate would not see it; a FIFO would hang its readers.
    return Flag(replace(group, now()), True)


def _note_joined(group: Group, status: os.stat_result) -> None:
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(joined_path(group, number(group, status)), flags, 0o644))
    except OSError:
        pass  # /run is full: the mtime says it


def joined_path(group: Group, number: int) -> str:
    """There once an activation has found the flag with that number set."""
    return f"{group.run}/joined.{number}"


def replace(group: Group, text: str, time_ns: int | None = None) -> int:
    """Put a new flag in the place of what is there; its number. Raises OSError."""
    new = f"{group.flag}.{os.urandom(6).hex()}"
    status = _make(new, text)
    try:
        if time_ns is not None:
            os.utime(new, ns=(time_ns, time_ns), follow_symlinks=False)
        os.rename(new, group.flag)
    except OSError:
        os.unlink(new)
        raise
    return number(group, status)


def renew(group: Group, text: str, time_ns: int) -> None:
    """Put a flag of root's own in the place of the one that is there, and note which that was.

    Only who has seen that one, as it was in the end, may take the new one for it. Raises OSError.
    """
    old = f"{_beside(group)}/.released.{os.getpid()}.{os.urandom(6).hex()}"
    os.link(group.flag, old, follow_symlinks=False)
    try:
        number_now = replace(group, text, time_ns)
        before = mark(old)
    finally:
        os.unlink(old)
    if before:
        with open(group.renewed, "w", encoding="ascii") as file:
            file.write(f"{before[0]} {before[1]} {number_now % DEVICE} {time_ns}\n")


def renewed(group: Group) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The marks of the last flag that was put in another's place: that one's, and its own."""
    try:
        with open(group.renewed, encoding="ascii") as file:
            old, old_ns, new, new_ns = (int(word) for word in file.read(200).split())
    except (OSError, ValueError):
        return None
    return (old, old_ns), (new, new_ns)


def secure(group: Group) -> bool:
    """Make the flag root's, so that nobody else can take it away; False if there is none.

    Before that, whoever made it can: then the record sets it again (libexec/watch).
    """
    try:
        os.chown(group.flag, 0, 0, follow_symlinks=False)
    except OSError:
        return False
    return True


def shared(group: Group) -> bool:
    """True if others than root may make flags."""
    try:
        return bool(os.lstat(os.path.dirname(group.flag)).st_mode & 0o022)
    except OSError:
        return False


def asked_again(group: Group) -> set[str]:
    """What members of the stop group who found the flag set have left beside it: a file each, since
    they can't touch it, it being root's by then (libexec/quantum-ess). Absolute paths.
    """
    beside, name = os.path.split(group.flag)
    try:
        return {f"{beside}/{f}" for f in os.listdir(beside) if f.startswith(f"{name}.again.")}
    except OSError:
        return set()


def mend_directory(path: str) -> None:
    """Make sure that path is a directory of its own, not a link to somewhere else. OSError."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            return
        os.rename(path, f"{path}.not-a-directory.{os.getpid()}")
    except FileNotFoundError:
        pass
    try:
        os.mkdir(path, 0o755)
        os.chmod(path, 0o755)
    except FileExistsError:
        pass  # another activation was quicker


def inode(group: Group) -> int | None:
    """The flag's number, None if there is no flag."""
    try:
        return number(group, os.lstat(group.flag))
    except OSError:
        return None


def number(group: Group, status: os.stat_result) -> int:
    """What no other flag of this boot has: its inode number, and the device if that is its own."""
    own = os.lstat(group.run).st_dev != status.st_dev
    return status.st_ino + (status.st_dev * DEVICE if own else 0)  # as in libexec/halt


def incident(number: int | None) -> str:
    """Id of the incident that the flag with that inode number began, in this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read(8)}-{number or f't{int(time.time())}'}"


def epoch(text: str) -> int:
    """That time in epoch seconds. Raises ValueError for what `now` does not write."""
    import calendar

    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))


def since(group: Group) -> tuple[str, float]:
    """When the flag was set: ISO-8601 and epoch seconds; its content, else its mtime, else now.

    The mtime is finer than the content, but somebody may have touched the flag again. Of an empty
    record that latches in its place, the mtime.
    """
    try:
        mtime = os.lstat(group.flag).st_mtime
        fd = os.open(group.flag, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(fd, 64).decode("ascii", "replace").split("\n")[0].strip()
        finally:
            os.close(fd)
    except OSError:
        text, mtime = "", _since_record(group)
    if is_time(text):
        written = epoch(text)
        return text, mtime if written <= mtime < written + 2 else written
    if not 0 <= mtime < 253402300800:  # touched with a year of more or less than four digits
        return now(), time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(mtime)), mtime


def _since_record(group: Group) -> float:
    """When `shut` made the record instead of the flag, in epoch seconds; now if it did not."""
    try:
        status = os.lstat(group.record)
        if status.st_size == 0 and not os.path.lexists(group.flag):
            return status.st_mtime
    except OSError:
        pass
    return time.time()


def reason(group: Group) -> str:
    """The reason that a member of the stop group gave, in the flag's second line; "" if none."""
    try:
        fd = os.open(group.flag, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            lines = os.read(fd, 1024).decode("utf-8", "replace").split("\n")
        finally:
            os.close(fd)
    except OSError:
        return ""
    if len(lines) < 2 or not lines[1].startswith("reason: "):
        return ""
    return "".join(c if c.isprintable() else "?" for c in lines[1][8:])


def found(group: Group) -> Flag:
    """The flag as somebody else set it. It may be gone again by now: it still was set."""
    flag = Flag(inode(group), False)
    age = time.time() - since(group)[1]
    if 0 <= age < LONG_AGO and not of_another_boot(group):
        flag.monotonic -= age
    return flag


def of_another_boot(group: Group) -> bool:
    """True if the stop began before the last boot, or soft-reboot.

    Then its age is not how long it took, and what runs now says nothing of what ran.
    """
    try:
        return os.stat(group.restored).st_size > 0
    except OSError:
        return False


def fill(group: Group) -> None:
    """Give a flag that was set by hand the form that its readers rely on: time, mode 0644."""
    try:
        fd = os.open(group.flag, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            return  # see secure()
        os.fchmod(fd, 0o644)
        if status.st_size == 0 and stat.S_ISREG(status.st_mode):
            os.write(fd, since(group)[0].encode() + b"\n")
            # What ran when it was set is told by it. But for a nanosecond, as in libexec/halt: a
            # release follows that (release._follow), unless an activation has left its note.
            os.utime(fd, ns=(status.st_atime_ns, filled(status.st_mtime_ns)))
    except OSError:
        pass  # /run is full: an empty flag latches as well as a full one
    finally:
        os.close(fd)


def filled(time_ns: int) -> int:
    """The mtime of an empty flag once it has its content."""
    return time_ns + (-1 if time_ns % 10**9 else 1)


def mark(flag: str) -> tuple[int, int] | None:
    """What tells one setting of the flag from the next: inode and mtime; None without a flag."""
    try:
        status = os.lstat(flag)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def withdrawn(group: Group, flag: tuple[int, int]) -> bool:
    """True if the flag with that mark was set again only until the stop is on record.

    Somebody had removed it before (libexec/strike).
    """
    try:
        fd = os.open(group.withdrawn, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        noted = os.read(fd, 64).decode("ascii", "replace")
    finally:
        os.close(fd)
    number, time_ns = flag
    return noted == f"{number} {time_ns // 10**9}.{time_ns % 10**9:09d}\n"


def open_flag(group: Group, before: tuple[int, int] | None) -> bool:
    """Take the flag away if it is still as it was; False, and the flag stays, if it is not.

    It is renamed and looked at afterwards: an activation that marked it before the rename is seen
    here, and one that comes later finds no flag and sets a new one. Raises OSError.
    """
    if before is None:
        return not os.path.lexists(group.flag)
    away = f"{_beside(group)}/.released.{os.getpid()}.{os.urandom(6).hex()}"
    try:
        os.rename(group.flag, away)
    except FileNotFoundError:
        return not os.path.lexists(group.flag)
    try:
        if mark(away) == before:
            return True
        os.link(away, group.flag, follow_symlinks=False)
        return False
    except FileExistsError:
        return False  # a newer flag is there already
    finally:
        _discard(away)


def _beside(group: Group) -> str:
    """A directory into which the flag can be renamed."""
    directory = os.path.dirname(group.flag)
    same = os.lstat(directory).st_dev == os.lstat(group.run).st_dev
    return group.run if same else directory


def _discard(path: str) -> None:
    """Remove what was the flag. A directory with something in it stays, under a name of its own."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    try:
        os.rmdir(path)
    except OSError:
        os.rename(path, f"{path}.{time.time_ns()}")
