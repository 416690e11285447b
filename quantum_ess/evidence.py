"""Evidence: what a drill or a proof expected, measured and found; the steps, numbered and timed."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from quantum_ess import latch
from quantum_ess.progress import Progress

PASS, FAIL, NOTE = "PASS", "FAIL", "NOTE"


class Check(NamedTuple):
    """One check. at: seconds since the beginning. verdict: PASS, FAIL or NOTE (not counted)."""

    step: int
    name: str
    expected: str
    measured: str
    verdict: str
    at: float


class Mark(NamedTuple):
    """Something that happened, for the picture: a point, or a span if it ended."""

    lane: str
    label: str
    at: float
    until: float | None = None
    kind: str = ""


class Evidence:
    """Checks and marks of one run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.began = time.monotonic()
        self.since, self.epoch = latch.now(), time.time()
        self.checks: list[Check] = []
        self.marks: list[Mark] = []
        self.titles: list[str] = []

    def at(self, monotonic: float | None = None) -> float:
        """Seconds since the beginning, now or at a monotonic time."""
        return (time.monotonic() if monotonic is None else monotonic) - self.began

    def begin(self, title: str) -> None:
        """A new numbered step."""
        self.titles.append(title)
        self.progress.line(f"{len(self.titles):2}. {title}")

    def check(self, name: str, expected: str, measured: str, ok: bool | None) -> bool:
        """Note one check and print it; ok is None for what is worth a note and no more."""
        verdict = NOTE if ok is None else PASS if ok else FAIL
        self.checks.append(Check(len(self.titles), name, expected, measured, verdict, self.at()))
        wanted = f" (expected: {expected})" if verdict == FAIL else ""
        self.progress.line(f"    {verdict}  {name}: {measured}{wanted}")
        return ok is not False

    def mark(
        self, lane: str, label: str, at: float, until: float | None = None, kind: str = ""
    ) -> None:
        """Note something for the picture; times are monotonic."""
        end = None if until is None else self.at(until)
        self.marks.append(Mark(lane, label, self.at(at), end, kind))

    @property
    def failures(self) -> list[str]:
        """The checks that failed, in a few words each."""
        failed = [check for check in self.checks if check.verdict == FAIL]
        return [f"{self._title(c.step)}{c.name}: {c.measured}" for c in failed]

    def _title(self, step: int) -> str:
        return f"{step}. {self.titles[step - 1]}: " if step else ""

    def summary(self) -> dict[str, Any]:
        """For `--json` and for the disk."""
        return {
            "time": self.since,
            "epoch": self.epoch,
            "seconds": round(self.at(), 3),
            "checks": [check._asdict() for check in self.checks],
        }
