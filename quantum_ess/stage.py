"""How far an incident's trail has come: marks on disk, or in /run where the disk takes none."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress

from quantum_ess import record
from quantum_ess.group import Group

STOPPED, COMPLETE = STAGES = ("stopped", "complete")
HINT = "journalctl -u quantum-ess-watch -u quantum-ess-trigger"  # why nobody has completed it


def of(group: Group, incident: str) -> str:
    """The furthest mark of that incident: "", "stopped" or "complete".

    Where there was no room for one at first there may have been for the next.
    """
    marks = [record.text(path).partition(" ") for path in (group.logged_volatile, group.logged)]
    found = [stage for known, _, stage in marks if known == incident and stage in STAGES]
    with suppress(OSError):
        noted = int(os.stat(group.lock).st_mtime)
        found += [stage for stage in STAGES if noted == number(incident, stage)]
    return max(found, key=STAGES.index, default="")


def mark(group: Group, incident: str, stage: str) -> None:
    """Note that stage. Raises OSError if there is room for it neither on disk nor in /run."""
    data = f"{incident} {stage}\n".encode()
    try:
        record.write(group.logged, data)
        record.remove(group.logged_volatile)
    except OSError:  # kept where it prevents a second trail in this boot
        with suppress(OSError):  # and where that needs no room: the time of a file that is there
            time = number(incident, stage)
            os.utime(group.lock, (time, time))
        record.write(group.logged_volatile, data)


def number(incident: str, stage: str) -> int:
    """That stage of that incident as a time in epoch seconds, before 2106."""
    return zlib.crc32(f"{incident} {stage}".encode())
