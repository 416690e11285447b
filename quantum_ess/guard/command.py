"""`quantum-ess guard`: in the foreground, detached, or one look."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from types import TracebackType

from quantum_ess.errors import Failed, shown
from quantum_ess.group import Group
from quantum_ess.guard import once, rules, state
from quantum_ess.guard.evaluate import BREACHED, UNKNOWN
from quantum_ess.guard.service import Guard


class PidFile:
    """Holds the lock of the one guard of a group, with its process id in it, while it runs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def __enter__(self) -> PidFile:
        """Raises Failed if another guard runs."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(self._fd, 20).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise Failed(
                f"a guard is running already, process {other or 'unknown'}",
                hint="systemctl stop quantum-ess-guard.path quantum-ess-guard",
            ) from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go. The file stays, empty: to remove it would let two guards lock two files."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def run(group: Group, daemon: bool) -> int:
    """Guard until SIGTERM or SIGINT, or until there is nothing to guard. Raises Failed."""
    if not os.path.lexists(state.rules_path(group)):
        print("nothing to guard: no condition is configured", flush=True)
        return 0
    pid_file = PidFile(group.run + "/guard.pid")
    if daemon and not os.environ.get("NOTIFY_SOCKET"):
        return _detached(group, pid_file)
    with pid_file:
        guard = Guard(group)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, guard.stop)
        os.umask(0o022)
        guard.run()
    return 0


def _detached(group: Group, pid_file: PidFile) -> int:
    """As a daemon (PEP 3143): the caller's terminal, directory and files are let go."""
    try:
        from daemon import DaemonContext
    except Exception as error:  # missing, or broken
        hint = "apt install --reinstall python3-daemon; without --daemon it is not needed"
        raise Failed(f"python-daemon can't be loaded: {error}", hint=hint) from None
    with pid_file:
        pass  # told to who asked, who will not hear of it later
    guard: list[Guard] = []

    def stop(number: int, frame: object) -> None:
        for each in guard:
            each.stop()

    context = DaemonContext(
        pidfile=pid_file,
        umask=0o022,
        working_directory="/",
        detach_process=True,
        signal_map={
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGHUP: None,
            signal.SIGTTIN: None,
            signal.SIGTTOU: None,
            signal.SIGTSTP: None,
        },
    )
    with context:
        guard.append(Guard(group))
        guard[0].run()
    return 0


def check() -> int:
    """One look by the configuration on disk, as a table. Raises ConfigError.

    Exit status 0: all fine; 11: something is breached; 1: something is not known.
    """
    from quantum_ess import config

    found = rules.of(config.load())
    if not found.rules:
        print("nothing to guard: no condition is configured")
        return 0
    watches, problem = once.look(found)
    print("\n".join(line[2:] for line in state.table([state.condition(w) for w in watches])))
    if problem:
        print(shown(f"quantum-ess: Redis does not answer: {problem}"), file=sys.stderr)
    states = {watch.evaluator.state for watch in watches}
    return 11 if BREACHED in states else 1 if UNKNOWN in states or problem else 0
