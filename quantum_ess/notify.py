"""Notifications: one for each transition and URL, through apprise, tried until it arrives.

The only module that imports apprise. URLs hold secrets: they are read from a file that only root
can read, and never printed; a URL is named by its line and its scheme.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from contextlib import suppress
from typing import Any

from quantum_ess import history, outbox, record, worker
from quantum_ess.errors import Failed
from quantum_ess.group import Group
from quantum_ess.outbox import URLS, Due
from quantum_ess.trail import ERR, NOTICE, Trail

LIMIT = 30.0  # seconds for one URL
FIRST, LONGEST = 5.0, 600.0  # seconds to the next attempt: doubled each time, up to that
GIVE_UP = 86400.0  # seconds after which nobody wants to hear of it any more


def urls(path: str = URLS) -> dict[str, str]:
    """Each URL by its name, such as `line 3 (mailto)`. Raises Failed if others can read it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from error
    with open(fd, encoding="utf-8", errors="replace") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid or found.st_mode & 0o077:
            hint = f"chown root:root {path}; chmod 600 {path}"
            raise Failed(f"{path} is refused: others than root can read or write it", hint=hint)
        lines = [line.strip() for line in file]
    return {
        f"line {number} ({_scheme(line)})": line
        for number, line in enumerate(lines, 1)
        if line and not line.startswith("#")
    }


def _mark(url: str, job: outbox.Job) -> str:
    """What is noted of a URL that has had its message: lines move when the list is edited."""
    return hashlib.sha256(f"{job['incident']} {url}".encode()).hexdigest()[:16]


def _scheme(line: str) -> str:
    """What may be told of a URL; of a line that is none, nothing."""
    found = re.match(r"([a-z][a-z0-9+.-]{0,30})://", line, re.ASCII | re.IGNORECASE)
    return found[1] if found else "no URL"


def work(group: Group) -> None:
    """Send what is due; what fails is due again later. Raises nothing."""
    for due in outbox.jobs(group, "notify", time.time()):
        _attempt(group, due)
    left = outbox.jobs(group, "notify")
    lines = [line for due in left if due.job["tries"] and (line := _complaint(due))]
    with suppress(OSError):
        record.write(group.run + "/notify-problem", ("\n".join(lines) + "\n").encode())


def _complaint(due: Due) -> str:
    job = due.job
    failed = "; ".join(f"{name}: {why}" for name, why in job.get("failed", {}).items())
    return f"{job['transition']} of {job['incident']}: {failed} ({job['tries']} attempts)"


def _attempt(group: Group, due: Due) -> None:
    job = dict(due.job)
    sent = job.get("sent", {})
    sent = (
        dict(sent) if isinstance(sent, dict) else {name: name for name in sent}
    )  # as it was once noted
    try:
        wanted = {_mark(url, job): (name, url) for name, url in urls().items()}
        left = {name: url for mark, (name, url) in wanted.items() if not {mark, name} & sent.keys()}
        failed = {name: why for name, url in left.items() if (why := _send(url, job))}
    except Failed as error:
        wanted, left, failed = {}, {}, {URLS: str(error)}
    arrived = [name for name in left if name not in failed]
    sent |= {mark: name for mark, (name, _) in wanted.items() if name in arrived}
    job |= {"failed": failed, "sent": sent, "tries": job["tries"] + 1}
    trail = Trail(group, job["incident"], {"trigger": job.get("trigger", "unknown")})
    for name in arrived:
        trail.log("notified", f"ESS NOTIFICATION SENT: {name}", priority=NOTICE)
    over = time.time() - job["epoch"] > GIVE_UP
    if failed and (job["tries"] == 1 or over):
        text = "; ".join(f"{name}: {why}" for name, why in failed.items())
        then = "given up" if over else "will be tried again"
        trail.log("notify-failed", f"ESS NOTIFICATION NOT SENT: {text} ({then})", priority=ERR)
    if failed and not over:
        wait = min(FIRST * 2 ** (job["tries"] - 1), LONGEST)
        with suppress(OSError):
            outbox.update(group, "notify", due, job, time.time() + wait)
        return
    with suppress(OSError):
        facts = {key: job[key] for key in ("transition", "failed", "tries")}
        entry = history.entry("notified", job["incident"], sent=list(sent.values()), **facts)
        history.append(group, entry)
    outbox.done(group, "notify", due.path)


def _send(url: str, job: outbox.Job) -> str:
    """Why it could not be sent, "" if it was. In a thread: not every service has a time limit."""
    result: list[str] = []
    try:
        worker.start(lambda: result.append(_apprise(url, job))).wait(LIMIT)
    except RuntimeError as error:  # no more threads to be had
        return str(error)
    return result[0] if result else f"no answer within {LIMIT:g} s"


def _reason(said: str, url: str) -> str:
    """The last line that apprise logged, without anything of the URL that could be a secret."""
    line = " ".join((said.strip() or "not taken").splitlines()[-1].split())[:200]
    for part in re.split(r"[:/@?&=]+", url):
        if len(part) >= 4:
            line = line.replace(part, "***")
    return re.sub(r"^[\d: ,-]*(- )?(WARNING|ERROR) - ", "", line)


def _apprise(url: str, job: outbox.Job) -> str:
    try:
        import apprise
    except ImportError:
        return "apprise is not installed (apt install apprise)"
    try:
        sender: Any = apprise.Apprise()
        if not sender.add(url):
            return "apprise does not know this URL (see its documentation, or the journal)"
        kind = apprise.NotifyType.INFO
        if job["transition"] != "deactivate":
            kind = apprise.NotifyType.FAILURE
        with apprise.LogCapture(level=logging.WARNING) as said:
            sent = sender.notify(title=outbox.subject(job), body=outbox.body(job), notify_type=kind)
            return "" if sent else _reason(said.getvalue(), url)
    except Exception as error:  # whatever its hundred services raise; never the URL itself
        return type(error).__name__
