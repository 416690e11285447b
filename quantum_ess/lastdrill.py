"""The last drill that came to a result: /var/lib/quantum-ess/drill.json, and whether one is due.

Written by `drill`; status, check and monitoring read it (docs/design.md).
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from quantum_ess import latch, record
from quantum_ess.plan import Plan

PATH = "/var/lib/quantum-ess/drill.json"
LATEST = 253402300800  # the first second of the year 10000
AMISS = 300  # seconds
OVERDUE_MS = 8 * 86400 * 1000
PASSED, FAILED = "passed", "failed"


def load(path: str = PATH) -> dict[str, Any] | None:
    """The result as it was stored, None if there is none that makes sense."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            data = json.loads(file.read(record.LONGEST))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or data.get("result") not in (PASSED, FAILED):
        return None
    epoch = data.get("epoch")
    if isinstance(epoch, bool) or not isinstance(epoch, int | float):
        return None
    if not 0 <= epoch < LATEST or not latch.is_time(str(data.get("time"))):
        return None
    failures = data.get("failures")
    data["failures"] = failures if isinstance(failures, list) else []
    return data


def state(plan: Plan, path: str = PATH) -> dict[str, Any]:
    """For status: time, result, failures; seconds since; whether the next one is overdue.

    A host on which there never was one is overdue too. With `[drill] overdue = 0` none ever is.
    """
    limit = plan.duration("drill.overdue_ms", OVERDUE_MS)
    known = load(path)
    age = None if known is None else int(time.time() - known["epoch"])
    if age is not None and age < 0:  # the clock has been set back since: nobody knows how old it is
        age = 0 if age > -AMISS else None
    return {
        "time": known and known["time"],
        "result": known and known["result"],
        "failures": [str(text) for text in known["failures"]] if known else [],
        "seconds": age,
        "overdue": bool(limit) and (age is None or age > limit),
    }
