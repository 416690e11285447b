"""Who did it: taken from the kernel where it can be, from sudo's environment only for root."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from quantum_ess import worker

Answer = TypeVar("Answer", str, int)
Actor = dict[str, str | int]
NAME_SERVICE = 1.0  # seconds
UNSET = 4294967295  # loginuid of a process that nobody logged in for (audit, proc(5))


def current() -> Actor:
    """The caller: uid, login name of that uid, audit login, sudo user, tty."""
    actor: Actor = {"uid": os.getuid(), "user": name(os.getuid())}
    try:
        with open("/proc/self/loginuid", encoding="ascii") as file:
            login = int(file.read())
        if login != UNSET:
            actor["login"] = name(login)
    except (OSError, ValueError):
        pass
    sudo = os.environ.get("SUDO_USER", "")
    if sudo and os.getuid() == 0:
        actor["sudo_user"] = sudo[:256]
    tty = _tty()
    if tty:
        actor["tty"] = tty
    return actor


def owner(path: str) -> Actor:
    """The owner of a file, for a flag that was set by hand."""
    try:
        return user(os.lstat(path).st_uid)
    except OSError:
        return {}


def user(uid: int) -> Actor:
    """A user of whom nothing but the uid is known."""
    return {"uid": uid, "user": name(uid)}


def name(uid: int) -> str:
    """Login name of that uid, or the number as text if none is known within a second.

    Not every name service has a time limit: only the local one is asked right here.
    """
    local = next((row[0] for row in _local() if row[2] == str(uid)), "")
    return local or _in_time(lambda: pwd.getpwuid(uid).pw_name) or str(uid)


def number(user: str) -> int | None:
    """Uid of that login name, None if none is known within a second."""
    local = next((row[2] for row in _local() if row[0] == user), "")
    return int(local) if local.isdecimal() else _in_time(lambda: pwd.getpwnam(user).pw_uid)


def _in_time(ask: Callable[[], Answer]) -> Answer | None:
    answers: list[Answer] = []

    def run() -> None:
        with suppress(KeyError, ValueError):
            answers.append(ask())

    with suppress(RuntimeError):  # no thread to be had
        worker.start(run).wait(NAME_SERVICE)
    return answers[0] if answers else None


def _local() -> list[list[str]]:
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            rows = [line.split(":") for line in file]
    except OSError:
        return []
    return [row for row in rows if len(row) > 2]


def _tty() -> str:
    for fd in (0, 1, 2):
        try:
            return os.ttyname(fd)
        except OSError:
            continue
    return ""


def describe(actor: Actor) -> str:
    """One short phrase for status and log, e.g. `root (sudo: alice, tty /dev/pts/0)`."""
    extra = [
        f"{key.split('_')[0]}: {actor[key]}" for key in ("login", "sudo_user") if actor.get(key)
    ]
    if actor.get("tty"):
        extra.append(str(actor["tty"]))
    who = str(actor.get("user") or name(int(actor["uid"])) if "uid" in actor else "unknown")
    return f"{who} ({', '.join(extra)})" if extra else who
