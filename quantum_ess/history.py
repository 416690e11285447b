"""The history: one JSON line a transition, appended for good, each with the hash of the one before.

Written after the stop, whether or not journald lives. A line that a power cut tore stays, and the
chain goes on after it; what the disk does not take waits in /run. Rotated files (logrotate(8), by
renaming) are read as one with the file in use: the chain does not notice.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, NamedTuple

from quantum_ess import record as records
from quantum_ess.group import Group

ZERO = "0" * 64  # the hash that record 1 carries
NOT_A_FILE = (errno.EINVAL, errno.ELOOP, errno.ENXIO)
NO_FILE = (errno.ENOENT, *NOT_A_FILE)  # it has gone, or is something else
DAMAGED = "damaged: "  # what is wrong with a file for good, and not for once
TAIL = 1 << 20  # bytes; more than the longest record
LONGEST_TEXT = 4096  # characters of a reason, as in the journal
LOCK_SECONDS = 2.0
QUIET = 60.0  # seconds without a refused start: the burst is over
BUSY = "another writer holds it"

Entry = dict[str, Any]


class Link(NamedTuple):
    """Where the chain stands: number and hash of a record."""

    n: int
    hash: str


class Line(NamedTuple):
    """One line of a file. entry: None if it is no record."""

    file: str
    number: int
    raw: bytes
    entry: Entry | None

    @property
    def place(self) -> str:
        """FILE:LINE, for messages."""
        return f"{self.file}:{self.number}"


def entry(event: str, incident: str, **facts: object) -> Entry:
    """A record before it is numbered. None and empty texts are left out; long ones are cut."""
    kept = {key: value for key, value in facts.items() if value not in (None, "")}
    if "reason" in kept:
        kept["reason"] = str(kept["reason"])[:LONGEST_TEXT]
    return {"time": now(), "event": event, "incident": incident, **kept}


def now() -> str:
    """The time in UTC, to the millisecond."""
    return stamp(time.time())


def stamp(epoch: float) -> str:
    """Epoch seconds as ISO-8601, UTC, to the millisecond."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch))
    return f"{whole}.{int(epoch % 1 * 1000):03d}Z"


def append(group: Group, new: Entry, once: bool = False) -> str:
    """Append a record, and before it whatever waits; "" or why it has to wait too.

    once: not if the incident has a record of that event already, be it one that waits. Raises
    OSError if it could not even be made to wait.
    """
    with records.lock(group.history_lock, LOCK_SECONDS) as locked:
        problem = _flush(group) if locked else BUSY
        if once and any(_alike(known, new) for known in waiting(group)):
            return problem
        if not problem and once and _recorded(group, new):
            return ""
        if not problem:
            problem = _try(group, new)
        if problem:
            _keep(group, new)
    return problem


def flush(group: Group) -> str:
    """Append what waits; "" or why that did not work."""
    with records.lock(group.history_lock, LOCK_SECONDS) as locked:
        return _flush(group) if locked else BUSY


def fold(group: Group, quiet: float = QUIET) -> None:
    """Let refused starts wait with the rest: those bursts that have been quiet for so long (s).

    By a rename, so that libexec/held, which counts them, begins a new burst with the next one.
    """
    for number, path in enumerate(_listed(group.refused)):
        with suppress(OSError):
            if not 0 <= time.time() - os.lstat(path).st_mtime < quiet:  # one of the future too
                os.makedirs(group.history_spool, 0o755, exist_ok=True)
                name = f"{time.time_ns():020d}.{os.getpid()}.{number}"
                os.rename(path, f"{group.history_spool}/{name}")


def waiting(group: Group) -> list[Entry]:
    """Records that are not in the file yet, oldest first.

    Looked for in the order in which they move on, so that none is missed on its way.
    """
    refused, spooled = (_bodies(path) for path in (group.refused, group.history_spool))
    return spooled + [new for new in refused if new not in spooled]


def _bodies(directory: str) -> list[Entry]:
    found = []
    for path in _listed(directory):
        with suppress(OSError):
            found.append(_body(path))
    return [new for new in found if new]


def files(group: Group, problems: list[str] | None = None) -> list[str]:
    """The file in use and the rotated ones, oldest first: by the numbers of their records.

    problems: takes what could not be read, and why.
    """
    directory, _, name = group.history.rpartition("/")
    try:
        names = [n for n in os.listdir(directory) if n.startswith(name) and not n.endswith(".new")]
    except OSError as error:
        _note(problems, directory, error)
        return []
    first = {path: _first(path, problems) for path in (f"{directory}/{name}" for name in names)}
    return sorted((path for path in first if first[path]), key=lambda path: (first[path], path))


def _note(problems: list[str] | None, path: str, error: Exception) -> None:
    if problems is None or getattr(error, "errno", None) in NOT_A_FILE:
        return
    # A file that is being compressed ends too early; its records are in the other one still.
    if not isinstance(error, EOFError) or not os.path.exists(path.removesuffix(".gz")):
        text = f"{path}: {getattr(error, 'strerror', None) or f'{DAMAGED}{error}'}"
        if text not in problems:
            problems.append(text)


def load(group: Group, problems: list[str]) -> tuple[list[Line], list[str]]:
    """Every line, oldest first, and the files that hold copies of another's records.

    While logrotate(8) compresses a file, and after it was broken off at that, both are there.
    problems: takes what could not be read, and why.
    """
    for _ in range(3):
        unread: list[str] = []
        found, copied = _load(group, unread)
        if not any(text.endswith(os.strerror(errno.ENOENT)) for text in unread):
            break  # else it was rotated meanwhile: its records are in another file
    problems += unread
    return found, copied


def _load(group: Group, problems: list[str]) -> tuple[list[Line], list[str]]:
    found: list[Line] = []
    holder: dict[bytes, str] = {}
    copied: list[str] = []
    for path in files(group, problems):
        for line in lines(path, problems):
            if not line.entry or holder.setdefault(line.raw, path) == path:
                found.append(line)
            elif path not in copied:
                copied.append(path)
    return found, copied


def _first(path: str, problems: list[str] | None) -> int:
    """The number of a file's first record, 0 if it has none."""
    return next((line.entry["n"] for line in lines(path, problems) if line.entry), 0)


def lines(path: str, problems: list[str] | None = None) -> Iterator[Line]:
    """Every line of a file, also a compressed one, as far as it can be read.

    problems: takes why it could not.
    """
    try:
        with open(path, "rb", opener=_open) as plain:
            file = _unpacked(plain) if path.endswith(".gz") else plain
            for number, raw in enumerate(file, 1):
                yield Line(path, number, raw.rstrip(b"\n"), parse(raw))
    except (OSError, EOFError, zlib.error) as error:
        _note(problems, path, error)


def parse(raw: bytes) -> Entry | None:
    """The record in that line, None if there is none: torn by a power cut, or no record at all."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    wanted = (("n", int), ("prev", str), ("time", str), ("event", str), ("incident", str))
    if not isinstance(found, dict):
        return None
    return found if all(isinstance(found.get(key), kind) for key, kind in wanted) else None


def digest(raw: bytes) -> str:
    """The hash of a record: of its line without the line break."""
    import hashlib  # here and below: an activation that has just stopped reads no line yet

    return hashlib.sha256(raw).hexdigest()


def head(group: Group) -> Link | None:
    """The last record as it was noted beside the file, None if that is not known."""
    n, _, noted = records.text(group.history_head).partition(" ")
    return Link(int(n), noted) if n.isdigit() and len(noted) == len(ZERO) else None


def _recorded(group: Group, new: Entry) -> bool:
    """Whether one of the last records, across the last rotation, is of that incident and event."""
    for path in files(group)[-2:]:
        for raw in _tail(path).split(b"\n"):
            known = parse(raw)
            if known and _alike(known, new):
                return True
    return False


def _alike(known: Entry, new: Entry) -> bool:
    return all(known[key] == new[key] for key in ("incident", "event"))


def _try(group: Group, new: Entry) -> str:
    try:
        _write(group, new)
        return ""
    except OSError as error:
        return f"{group.history}: {error.strerror}"


def _write(group: Group, new: Entry) -> None:
    """Append one record, durably, and note it as the head. Raises OSError and adds nothing."""
    os.makedirs(group.state, 0o755, exist_ok=True)
    created = not os.path.lexists(group.history)
    fd = _open(group.history, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        last, whole = _last(group)
        data = _encoded({"n": last.n + 1, "prev": last.hash, **new})
        _append(fd, (b"" if whole else b"\n") + data + b"\n")
    finally:
        os.close(fd)
    if created:
        with suppress(OSError):  # the record is there: kept as well, it would be added twice
            os.chmod(group.history, 0o644)
            records.sync_directory(group.state)
    with suppress(OSError):  # the head only guards it
        records.write(group.history_head, f"{last.n + 1} {digest(data)}\n".encode())


def _open(path: str, flags: int) -> int:
    """A regular file's descriptor. Raises OSError: also for a FIFO, which would hang us."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is not a regular file", path)
    return fd


def _append(fd: int, data: bytes) -> None:
    before = os.fstat(fd).st_size
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # only a part has fitted
        os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, before)
        raise


def _last(group: Group) -> tuple[Link, bool]:
    """Where the chain stands, and whether the file ends with a whole line."""
    noted = head(group) or Link(0, ZERO)
    tail = _tail(group.history)
    found = _last_in(tail)
    if not found:  # it may just have been rotated, and the head be lost or one behind
        older = files(group)
        found = _last_in(_tail(older[-1])) if older else None
    # At the same number the head counts: what was altered since must not be vouched for.
    return max(noted, found or noted, key=lambda link: link.n), tail[-1:] in (b"", b"\n")


def _last_in(tail: bytes) -> Link | None:
    for raw in reversed(tail.split(b"\n")):
        known = parse(raw)
        if known:
            return Link(known["n"], digest(raw))
    return None


def _tail(path: str) -> bytes:
    """The end of a file, b"" if it can't be read."""
    try:
        with open(path, "rb", opener=_open) as file:
            if path.endswith(".gz"):
                return _unpacked(file).read()[-TAIL:]
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return file.read()
    except (OSError, EOFError, zlib.error):
        return b""


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    import gzip

    return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]


def _keep(group: Group, new: Entry) -> None:
    """Let a record wait where the disk is not needed. Raises OSError."""
    name = f"{time.time_ns():020d}.{os.getpid()}"
    records.write(f"{group.history_spool}/{name}", json.dumps(new).encode())


def _flush(group: Group) -> str:
    """Append what waits; "" or why that did not work. What can't be read waits on."""
    paths = _listed(group.history_spool)
    known = _tail(group.history) if paths else b""
    for path in paths:
        try:
            found = _body(path)
        except OSError:
            continue
        # It may have been added by a flush that ended before it was removed.
        if found and _encoded(found)[1:] not in known and (failed := _try(group, found)):
            return failed
        with suppress(OSError):
            os.unlink(path)
    return ""


def _encoded(entry: Entry) -> bytes:
    """As in the file: number and hash come first."""
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace")


def _listed(directory: str) -> list[str]:
    """Files in that directory, in the order of their names, in full paths."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    names = [name for name in names if not name.startswith(".") and not name.endswith(".new")]
    return [f"{directory}/{name}" for name in names]


def _body(path: str) -> Entry | None:
    """A record that waits, None for what is none; the shell gives the time in epoch seconds.

    Raises OSError: it can't be read now.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            data = file.read(TAIL)
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
        return None  # it has gone, or is no file
    try:
        found = json.loads(data)
        if "time" not in found:
            found = {"time": stamp(float(found["epoch"])), **found}
        whole = all(isinstance(found[key], str) for key in ("time", "event", "incident"))
        return found if whole else None
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None
