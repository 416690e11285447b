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
import threading
import time
from contextlib import suppress
from typing import Any

from quantum_ess import history, outbox, record, worker
from quantum_ess.errors import Failed
from quantum_ess.group import Group
from quantum_ess.outbox import URLS, Due
from quantum_ess.trail import ERR, NOTICE, Trail

LIMIT = 30.0  # seconds for one URL
PAUSE = 0.05  # seconds between two looks at what is on its way
FIRST, LONGEST = 5.0, 600.0  # seconds to the next attempt: doubled each time, up to that
LATE = 60.0  # seconds after which a message says that it is late
GIVE_UP = 86400.0  # seconds after which nobody wants to hear of it any more
LEAST = 5  # attempts all the same: the clock may have been set forward


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
    """Send what is due, transitions that come meanwhile included, until nothing is on its way; what
    fails is due again later. Raises nothing.

    All at once, the newest first: an address that hangs holds up nobody but itself.
    """
    running: list[Attempt] = []
    taken: set[str] = set()  # once each: one that failed is for the next run
    while True:
        for due in outbox.jobs(group, "notify", time.time())[::-1]:
            if (name := os.path.basename(due.path)) not in taken:
                taken.add(name)
                running.append(Attempt(group, due))
        over = [attempt for attempt in running if attempt.look()]
        for attempt in over:
            running.remove(attempt)
            attempt.end()
        if over or not running:
            _complain(group)
        if not running:
            return
        time.sleep(PAUSE)


def _complain(group: Group) -> None:
    left = outbox.jobs(group, "notify")
    lines = [line for due in left if due.job["tries"] and (line := _complaint(due))]
    with suppress(OSError):
        record.write(group.run + "/notify-problem", ("\n".join(lines) + "\n").encode())


def _complaint(due: Due) -> str:
    job = due.job
    failed = "; ".join(f"{name}: {why}" for name, why in job.get("failed", {}).items())
    return f"{job['transition']} of {job['incident']}: {failed} ({job['tries']} attempts)"


class Attempt:
    """One job on its way to every URL that it has not reached yet, each in a thread of its own."""

    def __init__(self, group: Group, due: Due) -> None:
        self.group, self.due, job = group, due, due.job
        self.deadline = time.monotonic() + LIMIT
        sent = job.get("sent", {})  # once it was a list of names
        self.sent = dict(sent) if isinstance(sent, dict) else {name: name for name in sent}
        self.job = {**job, "sent": self.sent}
        self.trail = Trail(group, job["incident"], {"trigger": job.get("trigger", "unknown")})
        self.failed: dict[str, str] = {}
        self.waits: dict[str, tuple[str, list[str]]] = {}  # mark -> name, and what comes of it
        try:
            wanted = {_mark(url, job): (name, url) for name, url in urls().items()}
        except Failed as error:
            wanted, self.failed = {}, {URLS: str(error)}
        for mark, (name, url) in wanted.items():
            if not {mark, name} & self.sent.keys():
                self.waits[mark] = (name, _send(url, job, _since(group, job)))

    def look(self) -> bool:
        """Note what has come of it by now; whether that is all."""
        late = time.monotonic() >= self.deadline
        for mark, (name, result) in list(self.waits.items()):
            if not result and not late:
                continue
            del self.waits[mark]
            why = result[0] if result else f"no answer within {LIMIT:g} s"
            if why:
                self.failed[name] = why
            else:
                self.sent[mark] = name
                self._save()  # a crash from here on must not send it again
                self.trail.log("notified", f"ESS NOTIFICATION SENT: {name}", priority=NOTICE)
        return not self.waits

    def end(self) -> None:
        """Have what failed tried again; else the job is done."""
        tries, failed = self.job["tries"] + 1, self.failed
        # Not by when it happened: the host may have been dead since, or its clock have been set.
        over = tries >= LEAST and time.time() - self.job.get("made", self.job["epoch"]) > GIVE_UP
        if failed and (tries == 1 or over):
            text = "; ".join(f"{name}: {why}" for name, why in failed.items())
            then = "given up" if over else "will be tried again"
            text = f"ESS NOTIFICATION NOT SENT: {text} ({then})"
            self.trail.log("notify-failed", text, priority=ERR)
        if failed and not over:
            wait = min(FIRST * 2 ** (tries - 1), LONGEST)
            self.job |= {"failed": failed, "tries": tries}
            self._save(time.time() + wait)
            return
        with suppress(OSError):
            facts = {"transition": self.job["transition"], "sent": list(self.sent.values())}
            facts |= {"failed": failed, "tries": tries}
            history.append(self.group, history.entry("notified", self.job["incident"], **facts))
        outbox.done(self.group, "notify", self.due.path)

    def _save(self, when: float | None = None) -> None:
        with suppress(OSError):
            outbox.update(self.group, "notify", self.due, self.job, when)


def _since(group: Group, job: outbox.Job) -> str:
    """How things are by now, if the message is late or was overtaken; "" if it is news."""
    active = group.latched()
    if time.time() - job["epoch"] < LATE and active is (job["transition"] != "deactivate"):
        return ""
    now = (record.load(group.record) or {}).get("incident")
    another = f" (incident {now})" if active and now and now != job["incident"] else ""
    return f"ESS IS {'ACTIVE' if active else 'INACTIVE'} by now{another}"


def _send(url: str, job: outbox.Job, since: str) -> list[str]:
    """Begin to send it; why it could not be sent, "" if it was, is in that list once it is known.

    In a thread: not every service has a time limit.
    """
    result: list[str] = []
    try:
        worker.start(lambda: result.append(_apprise(url, job, since)))
    except RuntimeError as error:  # no more threads to be had
        result.append(str(error))
    return result


def _reason(said: list[str], url: str) -> str:
    """The last line that apprise logged, without anything of the URL that could be a secret."""
    text = "\n".join(said).strip() or "not taken"
    line = " ".join(text.splitlines()[-1].split())[:200]
    for part in re.split(r"[:/@?&=]+", url):
        if len(part) >= 4:
            line = line.replace(part, "***")
    return line


class _Said(logging.Handler):
    """What apprise logs in this thread: others send to other URLs, whose secrets are not ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.thread != self._thread:
            return
        with suppress(Exception):  # what a service gives its log is its own affair
            kind = record.exc_info[0] if record.exc_info else None
            self.lines.append(record.getMessage() + (f": {kind.__name__}" if kind else ""))

    def __enter__(self) -> _Said:
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)


def _apprise(url: str, job: outbox.Job, since: str = "") -> str:
    try:
        import apprise
    except ImportError:
        return "apprise is not installed (apt install apprise)"
    try:
        # Not in threads of its own: Python waits for these before it ends.
        sender: Any = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
        kind = apprise.NotifyType.INFO
        if job["transition"] != "deactivate":
            kind = apprise.NotifyType.FAILURE
        with _Said() as said:
            if not sender.add(url):  # why is not told: it may be the whole URL
                return "apprise does not know this URL (see its documentation)"
            title, body = outbox.subject(job), outbox.body(job, since)
            sent = sender.notify(title=title, body=body, notify_type=kind)
            return "" if sent else _reason(said.lines, url)
    except Exception as error:  # whatever its hundred services raise; never the URL itself
        return type(error).__name__
