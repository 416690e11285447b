"""What a fault is, and the parts that several kinds of faults are made of."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from host import Host
from product import DONE

Made = Callable[[Host], AbstractContextManager[object]]

COMMAND, UNIT, TOUCH = "command", "unit", "flag"  # the ways of trading.WAYS


@dataclass(frozen=True)
class Fault:
    """Something that is broken on a host, made for real and undone again.

    made: a context: arranged on entry, undone on exit. impossible: triggers that cannot be pulled
    under it, and why. statuses: exit statuses that `quantum-ess activate` may have. says: what its
    stderr must match. starts: whether PID 1 can be asked for a start under it. harms: kept units
    that the fault itself ends. python: whether the stop has a Python to account for it.
    smoke: triggers with which it is part of `make test`.
    """

    name: str
    made: Made
    impossible: Mapping[str, str] = field(default_factory=dict)
    statuses: tuple[int, ...] = (DONE,)
    says: str = ""
    starts: bool = True
    harms: tuple[str, ...] = ()
    python: bool = True
    smoke: tuple[str, ...] = ()


def script(arrange: str, undo: str) -> Made:
    """A fault made and undone by shell scripts that run in the host."""

    @contextlib.contextmanager
    def made(host: Host) -> Iterator[None]:
        host.sh(arrange)
        try:
            yield
        finally:
            host.sh(undo)

    return made


def hung(*units: str) -> Made:
    """A fault that stops every process of these units in its tracks, with SIGSTOP."""

    def made(host: Host) -> AbstractContextManager[object]:
        pids = [pid for unit in units for pid in host.processes(unit)]
        assert pids, f"nothing runs in {units}"
        return host.frozen(*pids)

    return made


def meanwhile(command: str, *, until: str = "") -> Made:
    """A fault that is a shell script, at work in the host until it is undone.

    until: a line that it prints once the fault is there.
    """

    @contextlib.contextmanager
    def made(host: Host) -> Iterator[None]:
        process = host.spawn("sh", "-c", command)
        try:
            if until:
                await_line(process, until)
            yield
        finally:
            end(process)

    return made


def both(first: Made, second: Made) -> Made:
    """A fault that consists of two, the second made within the first."""

    @contextlib.contextmanager
    def made(host: Host) -> Iterator[None]:
        with first(host), second(host):
            yield

    return made


def await_line(process: subprocess.Popen[str], wanted: str) -> None:
    """Read what the process prints up to the line `wanted`; AssertionError if it ends before."""
    assert process.stdout
    for line in process.stdout:
        if line.strip() == wanted:
            return
    raise AssertionError(f"ended before it said {wanted!r}: {process.communicate()[1]}")


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command that `Host.spawn` started, and all it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
