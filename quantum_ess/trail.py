"""The audit trail: journald's native protocol, never blocking, kept on disk while nobody listens.

Protocol: systemd's docs/JOURNAL_NATIVE_PROTOCOL.md. One datagram an entry; a socket that does not
take it at once means that journald is dead or hung: the entry goes to the spool and `flush`
delivers it later, in order.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import uuid
from contextlib import suppress

from quantum_ess import record as records
from quantum_ess.actor import Actor
from quantum_ess.events import MESSAGE_IDS
from quantum_ess.group import Group
from quantum_ess.record import Record

JOURNAL = "/run/systemd/journal/socket"
OURS = "_UID=0"  # everybody may write to the journal, and claim to be whoever he likes
CRIT, ERR, NOTICE = 2, 3, 5
SPOOL_DONE = "/spool-done"  # in /run


class Trail:
    """The trail of one incident. What journald does not take is spooled; neither ever raises."""

    def __init__(self, group: Group, incident: str, record: Record) -> None:
        self.group = group
        self.incident = incident
        self.record = record
        self.kept = 0  # entries that went to the spool
        self.lost: list[str] = []  # why an entry could go nowhere

    def log(self, event: str, text: str, *, priority: int = CRIT, **more: object) -> None:
        """Log one event. text: without the [ESS AUDIT] prefix. more: unit, usec, actor, reason."""
        try:
            fields = self._fields(event, text, priority)
        except OSError as error:  # no random number for the entry's id
            self.lost.append(f"{text}: {error.strerror}")
            return
        fields.update({f"ESS_{key.upper()}": str(value) for key, value in more.items()})
        entry = encode(fields)
        if spooled(self.group) or not send(entry):
            self._keep(entry)

    def _fields(self, event: str, text: str, priority: int) -> dict[str, str]:
        trigger, group = str(self.record.get("trigger", "unknown")), self.group
        message = f"[ESS AUDIT] {text}"
        if group.drill:  # nobody, and no alert, may take it for an emergency
            message = f"[ESS DRILL] {text.replace('ESS ', 'DRILL ', 1)}"
            event, priority = f"drill-{event}", NOTICE if priority == CRIT else priority
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": self.group.prefix,
            "SYSLOG_PID": str(os.getpid()),
            "OBJECT_SYSTEMD_UNIT": group.trigger if trigger == "flag" else group.activation,
            "ESS_INCIDENT": self.incident,
            "ESS_EVENT": event,
            "ESS_EVENT_ID": uuid.uuid4().hex,
            "ESS_TIME": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "ESS_TRIGGER": trigger,
            "ESS_REASON": str(self.record.get("reason", "")),
        }
        kind = "drill" if group.drill else event
        if kind in MESSAGE_IDS:
            fields["MESSAGE_ID"] = MESSAGE_IDS[kind]
        return {**fields, **_actor_fields(self.record.get("actor", {}))}

    def _keep(self, entry: bytes) -> None:
        name = f"{time.time_ns():020d}.{os.getpid()}"
        for directory in (self.group.spool, self.group.run + "/spool"):
            try:
                records.write(f"{directory}/{name}", entry)
                self.kept += 1
                return
            except OSError as error:
                problem = f"{directory}: {error.strerror}"
                with suppress(OSError):  # it may be there all the same: not twice
                    records.remove(f"{directory}/{name}")
        self.lost.append(problem)


def _actor_fields(actor: Actor) -> dict[str, str]:
    keys = {"uid": "UID", "user": "USER", "login": "LOGIN", "sudo_user": "SUDO_USER", "tty": "TTY"}
    return {f"ESS_ACTOR_{keys[key]}": str(actor[key]) for key in keys if key in actor}


def encode(fields: dict[str, str]) -> bytes:
    """One entry in the native protocol; a value with a line break gets the length-prefixed form."""
    parts = []
    for key, value in fields.items():
        data = value.encode("utf-8", "replace")[:4096]
        if b"\n" in data:
            parts.append(key.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            parts.append(key.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def send(entry: bytes) -> bool:
    """Give one entry to journald; False if it did not take it at once."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.sendto(entry, JOURNAL)
    except OSError:
        return False
    return True


def listens() -> bool:
    """Whether anybody listens where journald should."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(JOURNAL)
    except OSError:
        return False
    return True


def spooled(group: Group) -> list[str]:
    """Entries that wait for journald, oldest first; full paths."""
    paths, over = [], delivered(group)
    for directory in (group.spool, group.run + "/spool"):
        try:
            names = [n for n in os.listdir(directory) if not n.endswith(".new") and n not in over]
        except OSError:
            continue
        paths += [f"{directory}/{name}" for name in names]
    return sorted(paths, key=os.path.basename)


def delivered(group: Group) -> set[str]:
    """Names of entries that journald has taken, while the disk lets go of none of them."""
    return set(records.text(group.run + SPOOL_DONE, records.LONGEST).split())


def flush(group: Group) -> int:
    """Deliver what waits, in order; returns how many still wait."""
    left = 0
    waiting = spooled(group)
    for done, path in enumerate(waiting):
        try:
            with open(path, "rb") as file:
                entry = file.read()
        except OSError as error:
            left += error.errno != errno.ENOENT
            continue
        if not send(entry):
            return left + len(waiting) - done
        _let_go(group, path)
    _sweep(group)
    return left


def _let_go(group: Group, path: str) -> None:
    """Remove what was delivered; on a disk that takes no removal, note it in /run."""
    with suppress(OSError):
        records.remove(path)
        return
    with suppress(OSError), open(group.run + SPOOL_DONE, "a", encoding="utf-8") as noted:
        noted.write(os.path.basename(path) + "\n")


def _sweep(group: Group) -> None:
    """Remove what was noted so, once the disk lets go of it."""
    over = delivered(group)
    if not over or not os.path.isdir(group.spool):
        return
    try:
        for name in over:
            records.remove(f"{group.spool}/{name}")
        records.remove(group.run + SPOOL_DONE)
    except OSError:
        return  # it still holds them


def short(unit: str) -> str:
    """A unit's name as the trail gives it: services without their suffix."""
    return unit.removesuffix(".service")
