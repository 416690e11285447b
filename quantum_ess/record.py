"""The record: what is known of an incident, on a disk that outlives a reboot.

Its presence latches; its content informs. It is therefore never replaced by something worse, and a
record that can't be read still counts as latched.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from quantum_ess.group import Group

VERSION = 1
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
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    with open(fd, "rb") as file:
        try:
            data = json.loads(file.read(65536))
        except (OSError, ValueError, RecursionError):
            return {}
    return _checked(data) if isinstance(data, dict) else {}


def _checked(data: dict[str, Any]) -> Record:
    """Only what has the type that the rest of the program relies on."""
    texts = ("incident", "since", "trigger", "reason", "boot_id")
    kept: Record = {key: data[key] for key in texts if isinstance(data.get(key), str)}
    if isinstance(data.get("actor"), dict):
        kept["actor"] = {str(k): v for k, v in data["actor"].items() if isinstance(v, str | int)}
    for key in ("running", "living"):
        if isinstance(data.get(key), list):
            kept[key] = [unit for unit in data[key] if isinstance(unit, str)]
    for key in ("stop_ms", "epoch"):
        if isinstance(data.get(key), int | float):
            kept[key] = data[key]
    return kept


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


def text(path: str) -> str:
    """A small file's content without surrounding space, "" if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(4096).strip()
    except OSError:
        return ""


def claim_path(group: Group, inode: int) -> str:
    """Where the process that set the flag with that inode says who it is."""
    return f"{group.run}/claim.{inode}"
