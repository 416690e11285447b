"""A stop that neither flag nor record could latch says so wherever it is on record."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from madeup import group_below

from quantum_ess import account, activate, history, latch, outbox, plan, record, refresh, trail
from quantum_ess.group import Group
from quantum_ess.outbox import Job


def test_it_is_nowhere_called_latched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = group_below(tmp_path)
    sent: list[bytes] = []
    jobs: list[Job] = []
    real = record.store

    def store(path: str, known: record.Record) -> None:
        if path == group.record:
            raise PermissionError(1, os.strerror(1), path)
        real(path, known)

    def send(data: bytes) -> bool:
        sent.append(data)
        return True

    def announce(_: Group, transition: str, job: Job) -> list[str]:
        jobs.append({**job, "transition": transition})
        return []

    monkeypatch.setattr(record, "store", store)
    monkeypatch.setattr(refresh, "metrics", lambda: None)
    monkeypatch.setattr(trail, "send", send)
    monkeypatch.setattr(outbox, "announce", announce)
    os.makedirs(group.state, exist_ok=True)
    stop = activate.Strike(plan.Plan(plan.BUILT_IN, ""))
    flag = latch.Flag(None, False, "no room", held=False)
    outcome = activate.Outcome(flag, stop)
    account.settle(group, activate.Request("command"), outcome)
    text = b"\n".join(sent).decode()
    assert "ESS ACTIVATION NOT VERIFIED: NOT LATCHED" in text and "ESS LATCH" not in text
    (line,) = [line.entry for line in history.lines(group.history) if line.entry]
    assert line["event"] == "activated" and line["latched"] is False
    assert line["host"] == os.uname().nodename
    (job,) = jobs
    assert job["latched"] is False
