"""The record: what is known of an incident, on a disk that outlives a reboot.

Its presence latches; its content informs. It is therefore never replaced by something worse, and a
record that can't be read still counts as latched.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from quantum_ess import latch
from quantum_ess.group import Group

VERSION = 1
LONGEST = 1 << 20  # bytes; the longest argument of a command line (execve(2)) fits, JSON-escaped
INCIDENT = re.compile(r"[0-9a-z-]{1,64}")
# For an error that says that a file can't be locked, because it can't be made.
ROOM = "see what is in its place, and what room there is: df /run; df -i /run"
UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,247}\.[a-z]{4,7}")  # systemd.unit(5)
Record = dict[str, Any]


@contextmanager
def lock(path: str, seconds: float) -> Iterator[bool]:
    """Hold an exclusive lock on that file; yields False if it was not had within the time.

    The caller goes on without it: a hung neighbour must not keep the record from being written.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _lock(fd, time.monotonic() + seconds)
    finally:
        os.close(fd)


def lockable(path: str) -> bool:
    """Whether there is a file to be locked: if `lock` did not have it, somebody else has."""
    return os.path.isfile(path) and not os.path.islink(path)


def _lock(fd: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)  # flock(2) has no time limit of its own
        except OSError:
            return False


def load(path: str) -> Record | None:
    """The record in that file, {} if it is there but says nothing usable, None if there is none."""
    try:
        fd = _open_once_more(path)
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    try:
        data = json.loads(_read(fd))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(fd)
    return _checked(data) if isinstance(data, dict) else {}


# No single call that fails may empty a record: a release that could not read what ran before would
# start nothing, or what did not run.
def _open_once_more(path: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError:
        return os.open(path, flags)


def _read(fd: int) -> bytes:
    """All of a file, with read(2) alone: what open() asks of it first could fail as well.

    Raises OSError.
    """
    data = b""
    while part := _once_more(fd, LONGEST - len(data)):
        data += part
    return data


def _once_more(fd: int, count: int) -> bytes:
    try:
        return os.read(fd, count)
    except OSError:
        return os.read(fd, count)


def _checked(data: dict[str, Any]) -> Record:
    """Only what has the type and the range that the rest of the program relies on."""
    texts = ("trigger", "reason", "boot_id", "invocation", "flag")
    kept: Record = {key: _clean(data[key]) for key in texts if isinstance(data.get(key), str)}
    if INCIDENT.fullmatch(str(data.get("incident"))) and isinstance(data["incident"], str):
        kept["incident"] = data["incident"]
    if isinstance(data.get("since"), str) and latch.is_time(data["since"]):
        kept["since"] = data["since"]
    if isinstance(data.get("actor"), dict):
        kept["actor"] = _actor(data["actor"])
    for key in ("running", "living", "ran"):
        if isinstance(data.get(key), list):
            names = [u for u in data[key] if isinstance(u, str) and UNIT.fullmatch(u)]
            if names or not data[key]:  # else it does not say "none"
                kept[key] = names
    if data.get("unsure") is True:
        kept["unsure"] = True
    for key in ("stop_ms", "epoch", "monotonic"):
        value = data.get(key)
        if isinstance(value, int | float) and -1e12 < value < 1e12 and math.isfinite(value):
            kept[key] = value
    return kept


def _actor(data: dict[str, Any]) -> dict[str, str | int]:
    kept: dict[str, str | int] = {k: _clean(v) for k, v in data.items() if isinstance(v, str)}
    kept.pop("uid", None)
    if isinstance(data.get("uid"), int) and 0 <= data["uid"] < 1 << 32:
        kept["uid"] = data["uid"]
    return kept


def _clean(text: str) -> str:
    """Without what no terminal and no journal can encode (lone surrogates)."""
    return text.encode("utf-8", "replace").decode()


def store(path: str, record: Record) -> None:
    """Replace that file by the record, durably. Raises OSError; the old one is then still there."""
    write(path, json.dumps({"version": VERSION, **record}, indent=1).encode() + b"\n")


def write(path: str, data: bytes) -> None:
    """Replace a file atomically and durably: write, fsync, rename, fsync the directory."""
    directory = os.path.dirname(path)
    os.makedirs(directory, 0o755, exist_ok=True)
    draft = f"{path}.{os.getpid()}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except BaseException:
        remove(draft)
        raise
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Make renames and removals in that directory durable (fsync(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove a file if it is there. Raises OSError if it is there and stays."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def text(path: str, most: int = 4096) -> str:
    """A small file's content without surrounding space, "" if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(most).strip()
    except OSError:
        return ""


def under_way(group: Group) -> bool:
    """Whether a release is at work: its note is there, and so is the process that wrote it."""
    path = group.run + "/releasing"
    found = re.search(r'"pid": (\d+)', text(path, LONGEST))
    return os.path.lexists(f"/proc/{found[1]}" if found else path)


def claim_path(group: Group, inode: int) -> str:
    """Where the process that set the flag with that inode says who it is."""
    return f"{group.run}/claim.{inode}"
