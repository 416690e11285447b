"""Other programs, run to the end within a time limit. The only module that starts any."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class Process:
    """One program. status is None until it has ended, and stays None if time was up."""

    def __init__(self, *argv: str) -> None:
        """Start it; began is taken right before. A program that is not there has status 127."""
        self.status: int | None = None
        self.out = ""
        self.began = time.monotonic()
        self.seconds = 0.0
        self._child: subprocess.Popen[str] | None = None
        try:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=ENVIRONMENT,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to deal with
            )
        except OSError as error:
            self.status, self.out = 127, f"{argv[0]}: {error.strerror}"

    @property
    def ended(self) -> bool:
        """Whether it has ended by now."""
        return self._child is None or self._child.poll() is not None

    def wait(self, seconds: float, guard: Callable[[], None] | None = None) -> Process:
        """Wait for its end, at most so long; then it is killed. guard is asked meanwhile."""
        deadline = time.monotonic() + seconds
        while self._child is not None and self.status is None:
            try:
                self.out, _ = self._child.communicate(timeout=0.05 if guard else seconds)
                self.status = self._child.returncode
            except subprocess.TimeoutExpired:
                if guard:
                    guard()
                if time.monotonic() >= deadline:
                    self.__exit__()
                    self.out = f"no end within {seconds:g} s"
                    break
        self.seconds = time.monotonic() - self.began
        return self

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        """Whatever happened meanwhile: do not leave it behind."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            if self._child.stdout:
                self._child.stdout.close()  # it may have children
            self._child.wait()


def run(*argv: str, seconds: float = 10.0) -> Process:
    """Run a program to its end."""
    return Process(*argv).wait(seconds)


def says(process: Process) -> str:
    """The last line that it printed, or its exit status."""
    lines = process.out.strip().splitlines()
    return lines[-1] if lines else f"exit status {process.status}"
