"""Transitions whose hooks and notifications are still owed. Written after the stop, worked off by
quantum-ess-hooks.service and quantum-ess-notify.service, which the command never waits for.

A job is a file, made once a transition; its modification time says when it is due.
"""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from typing import Any, NamedTuple

from quantum_ess import record
from quantum_ess.group import TRADING, Group
from quantum_ess.trail import short

ETC = "/etc/quantum-ess"
URLS = ETC + "/notify.urls"
HOOK_DIRECTORIES = {"activate": ETC + "/activate.d", "deactivate": ETC + "/deactivate.d"}
SERVICES = {"hooks": "quantum-ess-hooks.service", "notify": "quantum-ess-notify.service"}

NOTHING = "nothing was started"
FAR = 900.0  # seconds; libexec/watch has it too
Job = dict[str, Any]


class Due(NamedTuple):
    """A job, and the file that it is in."""

    path: str
    job: Job


def announce(group: Group, transition: str, job: Job) -> list[str]:
    """Note what a transition owes, and have it done; what could not be noted.

    transition: activate, deactivate or fail (a release that failed). Only of trading: a drill's
    group has no hooks.
    """
    if group is not TRADING:
        return []
    problems, wanted = [], []
    now = time.time()
    job = {"transition": transition, "epoch": now, "tries": 0, **job, "made": now}
    name = f"{transition}.{job['incident']}"
    if transition == "fail":  # a release may do so again and again
        name += f".{time.time_ns()}"
    if _any_hook(transition):
        wanted.append("hooks")
    if _there(URLS):
        wanted.append("notify")
    for kind in wanted:
        try:
            _put(group, kind, name, job)
        except OSError as error:
            problems.append(f"{kind} of this transition lost: {error.strerror} ({error.filename})")
    if wanted:
        _start([SERVICES[kind] for kind in wanted])
    return problems


def _any_hook(transition: str) -> bool:
    try:
        return bool(os.listdir(HOOK_DIRECTORIES[transition]))
    except (FileNotFoundError, KeyError):
        return False
    except OSError:
        return True  # who works it off says so


def _there(path: str) -> bool:
    """Whether there is such a file; a look that fails is a yes, for the same reason."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _start(services: list[str]) -> None:
    """Start them without waiting. What fails here is started by the watch, within 5 seconds."""
    try:
        from quantum_ess.systemd import Manager

        with Manager(timeout=0.5) as manager:
            for service in services:
                manager.start(service)
    except Exception:  # PID 1 may be hung, jeepney broken
        return


def directories(group: Group, kind: str) -> tuple[str, str]:
    """Where jobs of that kind are: on disk, and where they go while the disk takes none."""
    return f"{group.state}/{kind}", f"{group.run}/{kind}"


def _put(group: Group, kind: str, name: str, job: Job) -> None:
    """Write a job, once: not if it is there, or was done. Raises OSError."""
    places = directories(group, kind)
    if name in _done(group, kind) or any(os.path.lexists(f"{place}/{name}") for place in places):
        return
    for place in places:
        try:
            os.makedirs(place, 0o700, exist_ok=True)
            save(f"{place}/{name}", job)
            return
        except OSError as error:
            problem = error
            with suppress(OSError):  # it may be there all the same: not twice
                record.remove(f"{place}/{name}")
    raise problem


def save(path: str, job: Job, due: float | None = None) -> None:
    """Write a job's file, due at that time (epoch seconds), at once if None. Raises OSError."""
    record.write(path, json.dumps(job).encode())
    os.chmod(path, 0o600)
    if due is not None:
        os.utime(path, (due, due))


def update(group: Group, kind: str, due: Due, job: Job, when: float | None = None) -> None:
    """Replace a job, in /run as long as the disk takes nothing. Raises OSError."""
    kept, volatile = (f"{place}/{os.path.basename(due.path)}" for place in directories(group, kind))
    try:
        if not os.path.lexists(os.path.dirname(kept)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), kept)
        save(kept, job, when)
        record.remove(volatile)
    except OSError:
        os.makedirs(os.path.dirname(volatile), 0o700, exist_ok=True)
        save(volatile, job, when)


def jobs(group: Group, kind: str, now: float | None = None) -> list[Due]:
    """Jobs of that kind, oldest first; only those that are due by then, unless now is None."""
    paths = {
        name: f"{place}/{name}" for place in directories(group, kind) for name in _names(place)
    }
    found, over = [], _done(group, kind)
    for name, path in paths.items():  # that in /run is the newer one of two
        with suppress(OSError, ValueError):
            if name not in over and (now is None or _is_due(os.stat(path).st_mtime, now)):
                with open(path, encoding="utf-8") as file:
                    found.append(Due(path, dict(json.load(file))))
    return sorted(found, key=lambda due: float(due.job.get("epoch", 0)))


def _is_due(when: float, now: float) -> bool:
    """Also one that is due later than anything is put off: the clock was set back since."""
    return when <= now or when > now + FAR


def done(group: Group, kind: str, path: str) -> None:
    """A job is done: note that, and remove it. On a disk that takes neither, in /run."""
    name = os.path.basename(path)
    for noted in _done_files(group, kind):
        names = [*record.text(noted).split()[-20:], name]
        with suppress(OSError):  # else a crash right now would do it twice
            record.write(noted, ("\n".join(names) + "\n").encode())
            break
    for place in directories(group, kind):
        with suppress(OSError):
            record.remove(f"{place}/{name}")


def _done_files(group: Group, kind: str) -> tuple[str, str]:
    return f"{group.state}/{kind}-done", f"{group.run}/{kind}-done"


def _done(group: Group, kind: str) -> list[str]:
    return [name for path in _done_files(group, kind) for name in record.text(path).split()]


def _names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.endswith(".new")]
    except OSError:
        return []


def subject(job: Job) -> str:
    """One line that says what has happened to this host."""
    host = os.uname().nodename
    if job["transition"] == "deactivate":
        return f"{host}: ESS released, {'trading resumes' if job.get('units') else NOTHING}"
    if job["transition"] == "fail":
        return f"{host}: ESS RELEASE FAILED, everything is stopped again"
    if job.get("living"):
        return f"{host}: ESS ACTIVATED, BUT NOT VERIFIED STOPPED"
    if job.get("latched") is False:
        return f"{host}: ESS ACTIVATED, BUT NOT LATCHED"
    return f"{host}: ESS ACTIVATED, trading is stopped"


def body(job: Job, since: str = "") -> str:
    """The text of a notification. since: how things are by now, if it comes late."""
    units = " ".join(map(short, job.get("units") or []))
    rows = (
        ("SENT LATE", since),
        ("When", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(job["epoch"]))),
        ("By", f"{job.get('actor', 'unknown')} ({job.get('trigger', 'unknown')})"),
        ("Reason", job.get("reason") or "(none given)"),
        ("What", job.get("why")),
        ("STILL ALIVE", " ".join(map(short, job.get("living") or []))),
        ("Units", units or (NOTHING if job["transition"] == "deactivate" else "")),
        ("Incident", job["incident"]),
    )
    return "\n".join(f"{name}: {value}" for name, value in rows if value)
