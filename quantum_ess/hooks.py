"""Hooks: the operator's programs, run after a transition, each with a time limit of its own.

In /etc/quantum-ess/activate.d and deactivate.d, named as run-parts(8) wants, root's and writable by
nobody else. All at once, output to the journal. Each runs once a transition: one that a crash or a
power cut broke off is told as failed and not run again.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from contextlib import suppress
from typing import Any

from quantum_ess import history, outbox, plan, record
from quantum_ess.group import Group
from quantum_ess.outbox import Due, Job
from quantum_ess.trail import ERR, Trail

NAME = re.compile(r"[a-zA-Z0-9_-]+")  # run-parts(8)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
Result = dict[str, Any]


class Hook:
    """One program, running."""

    def __init__(self, path: str, job: Job, seconds: float) -> None:
        self.path = path
        self.began = time.monotonic()
        self.deadline = self.began + seconds
        self.result: Result | None = None
        try:
            self.process = subprocess.Popen(
                [path],
                stdin=subprocess.DEVNULL,
                env=environment(job),
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self.finish(f"could not be started: {error}")

    def look(self) -> bool:
        """Whether it has ended; ends it once its time is up."""
        if self.result is None and (status := self.process.poll()) is not None:
            said = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
            self.finish(said if status else "")
        elif self.result is None and time.monotonic() >= self.deadline:
            with suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # in uninterruptible sleep, say
                self.process.wait(1.0)
            self.finish(f"did not end within {self.deadline - self.began:g} s, and was killed")
        return self.result is not None

    def finish(self, problem: str) -> None:
        """Note what came of it."""
        took = round(time.monotonic() - self.began, 3)
        self.result = {"hook": name_of(self.path), "seconds": took, "problem": problem}


def environment(job: Job) -> dict[str, str]:
    """What a hook is told (quantum-ess(8))."""
    told = {
        "TRANSITION": job["transition"],
        "INCIDENT": job["incident"],
        "TRIGGER": job.get("trigger", ""),
        "REASON": job.get("reason", ""),
        "ACTOR": job.get("actor", ""),
        "UNITS": " ".join(job.get("units") or []),
        "LIVING": " ".join(job.get("living") or []),
        "TIME": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job["epoch"])),
    }
    values = {f"ESS_{key}": str(value).replace("\0", "") for key, value in told.items()}
    return {"PATH": PATH, "LANG": "C.UTF-8", **values}


def find(directory: str) -> tuple[list[str], list[Result]]:
    """The programs to run, and those that are refused."""
    try:
        names = sorted(name for name in os.listdir(directory) if NAME.fullmatch(name))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [{"hook": name_of(directory), "seconds": 0.0, "problem": str(error.strerror)}]
    why = unsafe(directory, directory=True)
    checked = {f"{directory}/{name}": why or unsafe(f"{directory}/{name}") for name in names}
    runnable = [
        path for path, problem in checked.items() if not problem and os.access(path, os.X_OK)
    ]
    refused = [
        {"hook": name_of(path), "seconds": 0.0, "problem": f"refused: {problem}"}
        for path, problem in checked.items()
        if problem
    ]
    return runnable, refused


def unsafe(path: str, directory: bool = False) -> str:
    """Why root must not run this, "" if it may: somebody else could have written it."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return str(error.strerror)
    if not (stat.S_ISDIR if directory else stat.S_ISREG)(found.st_mode):
        return f"{path} is not a {'directory' if directory else 'regular file'}"
    if found.st_uid != 0:
        return f"{path} is not root's"
    return f"others than root may write to {path}" if found.st_mode & 0o022 else ""


def name_of(path: str) -> str:
    """A hook's name as status and journal give it: activate.d/NAME."""
    return "/".join(path.split("/")[-2:])


def work(group: Group) -> None:
    """Run what is owed, transitions that come meanwhile included, until nothing is left."""
    seconds = plan.read(group).duration("hooks.timeout_ms", 30000)
    running: list[tuple[Due, list[Hook], list[Result]]] = []
    taken: set[str] = set()  # never twice, whatever can't be noted of them
    while True:
        for due in outbox.jobs(group, "hooks"):
            name = os.path.basename(due.path)
            if name not in taken:
                taken.add(name)
                running.append(_begin(group, due, seconds))
        if not running:
            return
        for entry in list(running):
            due, hooks, results = entry
            ended = [hook.look() for hook in hooks]
            if all(ended):
                _end(group, due, results + [hook.result for hook in hooks if hook.result])
                running.remove(entry)
        time.sleep(0.02)  # waits for children and for files: there is no one thing to wait for


def _begin(group: Group, due: Due, seconds: float) -> tuple[Due, list[Hook], list[Result]]:
    if "begun" in due.job:
        names = due.job["begun"]
        return due, [], [{"hook": n, "seconds": 0.0, "problem": "was broken off"} for n in names]
    paths, refused = find(outbox.HOOK_DIRECTORIES.get(due.job["transition"], ""))
    with suppress(OSError):  # else a crash would run them again
        begun = [name_of(path) for path in paths]
        outbox.update(group, "hooks", due, {**due.job, "begun": begun})
    return due, [Hook(path, due.job, seconds) for path in paths], refused


def _end(group: Group, due: Due, results: list[Result]) -> None:
    """Journal, history, status; then the job is done."""
    job = due.job
    trail = Trail(group, job["incident"], {"trigger": job.get("trigger", "unknown")})
    failed = [result for result in results if result["problem"]]
    for result in failed:
        text = f"ESS HOOK FAILED: {result['hook']}: {result['problem']}"
        trail.log("hook-failed", text, priority=ERR, hook=result["hook"])
    for result in results:
        if not result["problem"]:
            usec = int(1e6 * result["seconds"])
            trail.log("hook-done", f"ESS HOOK DONE: {result['hook']}", duration_usec=usec)
    with suppress(OSError):
        facts = {"transition": job["transition"], "hooks": results}
        if results:
            history.append(group, history.entry("hooks", job["incident"], **facts))
    lines = [f"{result['hook']} of {job['incident']}: {result['problem']}" for result in failed]
    with suppress(OSError):
        record.write(group.run + "/hook-problem", ("\n".join(lines) + "\n").encode())
    outbox.done(group, "hooks", due.path)
