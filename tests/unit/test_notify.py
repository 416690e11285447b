"""Notifications without a network: what is sent to whom, how often, and what is noted of it."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from madeup import group_below

from quantum_ess import history, notify, outbox, record, trail
from quantum_ess.group import Group

INCIDENT = "0badcafe-7"
MAIL, CHAT, SMS = "mailto://ops:s3cret@example.org", "slack://a/b/c", "sns://d/e"


@pytest.fixture
def group(tmp_path: Path) -> Group:
    found = group_below(tmp_path)
    os.makedirs(f"{found.state}/notify")
    return found


class Services:
    """What apprise would speak to. why: of a URL, why its service takes nothing."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.why: dict[str, str] = {}
        self.taken: list[tuple[str, str]] = []
        self.meanwhile: Callable[[str], object] = lambda url: None

    def urls(self) -> dict[str, str]:
        rows = enumerate(self.lines, 1)
        return {f"line {n} ({line.partition(':')[0]})": line for n, line in rows if line}

    def take(self, url: str, job: outbox.Job, *since: str) -> str:
        self.meanwhile(url)
        if not self.why.get(url):
            self.taken.append((url, outbox.body(job, *since)))
        return self.why.get(url, "")

    @property
    def told(self) -> list[str]:
        return [url for url, _ in self.taken]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    found = Services()
    monkeypatch.setattr(notify, "urls", found.urls)
    monkeypatch.setattr(notify, "_apprise", found.take)
    monkeypatch.setattr(trail, "send", lambda _: True)
    return found


def owe(group: Group, transition: str = "activate", **facts: Any) -> str:
    """Leave a job that is due; its file."""
    job = {"transition": transition, "incident": INCIDENT, "epoch": time.time(), "tries": 0}
    path = f"{group.state}/notify/{transition}.{facts.get('incident', INCIDENT)}"
    outbox.save(path, {**job, **facts}, due=1.0)
    return path


def again(group: Group) -> None:
    """The time of the next attempt has come."""
    for due in outbox.jobs(group, "notify"):
        os.utime(due.path, (1, 1))
    notify.work(group)


def recorded(group: Group) -> list[Any]:
    return [line.entry["sent"] for line in history.lines(group.history) if line.entry]


def test_an_edit_of_the_list_loses_and_doubles_nothing(group: Group, services: Services) -> None:
    services.lines, services.why = [MAIL, CHAT], {CHAT: "down"}
    path = owe(group)
    notify.work(group)
    assert services.told == [MAIL]
    assert "s3cret" not in Path(path).read_text()
    services.lines, services.why = ["", CHAT, SMS, MAIL], {}
    again(group)
    assert sorted(services.told) == sorted([MAIL, CHAT, SMS])
    assert outbox.jobs(group, "notify") == []
    assert recorded(group) == [["line 1 (mailto)", "line 2 (slack)", "line 3 (sns)"]]


def test_a_job_that_notes_lines(group: Group, services: Services) -> None:
    """As one that is owed since before an upgrade does."""
    services.lines = [MAIL, CHAT]
    owe(group, sent=["line 1 (mailto)"], tries=1)
    notify.work(group)
    assert services.told == [CHAT]
    assert recorded(group) == [["line 1 (mailto)", "line 2 (slack)"]]


def test_a_crash_in_the_middle_sends_nothing_twice(
    group: Group, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had arrived by then is known, and the rest is due at once."""
    services.lines = [CHAT, MAIL]
    crashed = threading.Event()
    services.meanwhile = lambda url: url != MAIL and crashed.wait(20)
    real, now = outbox.update, time.monotonic()

    def crash(*args: Any) -> None:
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(outbox, "update", crash)
    monkeypatch.setattr(notify, "LIMIT", 2.0)
    owe(group)
    with pytest.raises(KeyboardInterrupt):
        notify.work(group)
    assert time.monotonic() - now < 1, "not at the job's end only"
    monkeypatch.setattr(outbox, "update", real)
    services.meanwhile = lambda url: None
    assert outbox.jobs(group, "notify", time.time())
    notify.work(group)
    crashed.set()
    assert services.told[:2] == [MAIL, CHAT]
    assert outbox.jobs(group, "notify") == []


@pytest.mark.parametrize(
    ("transition", "ago", "by_now", "first"),
    [
        ("activate", 0, INCIDENT, ""),
        ("activate", 7200, INCIDENT, "SENT LATE: ESS IS ACTIVE by now"),
        ("activate", 7200, None, "SENT LATE: ESS IS INACTIVE by now"),
        ("activate", 5, None, "SENT LATE: ESS IS INACTIVE by now"),
        ("fail", 7200, None, "SENT LATE: ESS IS INACTIVE by now"),
        ("activate", 7200, "feed-8", "SENT LATE: ESS IS ACTIVE by now (incident feed-8)"),
        ("deactivate", 0, None, ""),
        ("deactivate", 5, "feed-8", "SENT LATE: ESS IS ACTIVE by now (incident feed-8)"),
        ("deactivate", 7200, None, "SENT LATE: ESS IS INACTIVE by now"),
    ],
)
def test_a_late_one_says_how_things_are(
    group: Group, services: Services, transition: str, ago: int, by_now: str | None, first: str
) -> None:
    """Nobody is to be frightened, or calmed, by what is over."""
    if by_now:
        record.store(group.record, {"incident": by_now})
    services.lines = [MAIL]
    owe(group, transition, epoch=time.time() - ago)
    notify.work(group)
    ((_, body),) = services.taken
    rows = body.splitlines()
    assert rows[0] == first if first else rows[0].startswith("When: ")
    assert f"Incident: {INCIDENT}" in rows


def test_one_that_hangs_delays_nobody(group: Group, services: Services) -> None:
    """Neither the same job's other addresses nor a stop that comes meanwhile."""
    services.lines = [CHAT, MAIL]
    waited: list[bool] = []
    mails: list[str] = []
    newer_arrived = threading.Event()

    def meanwhile(url: str) -> None:
        if url == CHAT and not waited:
            waited.append(False)
            owe(group, incident="newer-8")
            waited[0] = newer_arrived.wait(5)
        if url == MAIL:
            mails.append(url)
        if len(mails) == 2:
            newer_arrived.set()

    services.meanwhile = meanwhile
    owe(group, epoch=time.time() - 100)
    notify.work(group)
    assert waited == [True]
    assert sorted(services.told) == [MAIL, MAIL, CHAT, CHAT]
    assert outbox.jobs(group, "notify") == []


def test_one_that_never_ends(
    group: Group, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job has its time, however many hang; then they are due again."""
    monkeypatch.setattr(notify, "LIMIT", 1.5)
    services.lines = [CHAT, SMS, MAIL]
    ended = threading.Event()
    services.meanwhile = lambda url: url != MAIL and ended.wait(20)
    owe(group)
    owe(group, "deactivate")
    began = time.monotonic()
    notify.work(group)
    assert time.monotonic() - began < 2.9
    ended.set()
    problems = Path(f"{group.run}/notify-problem").read_text().splitlines()
    assert len(problems) == 2 and all("line 2 (sns): no answer within 1.5 s" in p for p in problems)
    assert services.told[:2] == [MAIL, MAIL]


def test_why_is_told_of_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that are sent at once; and nothing that one URL holds beside the name of another."""
    both, why = threading.Barrier(2), {}

    class Apprise:
        def __init__(self, **_: object) -> None:
            pass

        def add(self, url: str) -> bool:
            self.url = url
            return True

        def notify(self, **_: object) -> bool:
            both.wait(5)
            logging.getLogger("apprise").warning("refused by %s", self.url)
            both.wait(5)
            return False

    fake = ModuleType("apprise")
    names: dict[str, Any] = {"Apprise": Apprise, "AppriseAsset": dict}
    names["NotifyType"] = ModuleType("NotifyType")
    names["NotifyType"].__dict__.update(INFO="info", FAILURE="failure")
    fake.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "apprise", fake)
    job = {"transition": "activate", "incident": INCIDENT, "epoch": 0.0}

    def send(url: str) -> None:
        why[url] = notify._apprise(url, job)

    threads = [threading.Thread(target=send, args=[url]) for url in (MAIL, CHAT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert why == {MAIL: "refused by ***://ops:***@***", CHAT: "refused by ***://a/b/c"}


def test_a_clock_that_was_set_gives_nothing_up(group: Group, services: Services) -> None:
    """Nor a host that was dead for days: it is told, late, and tried again until it is."""
    services.lines, services.why = [MAIL], {MAIL: "down"}
    path = owe(group, epoch=time.time() - 3 * 86400, made=time.time())
    notify.work(group)
    for _ in range(6):
        again(group)
    job = {**outbox.jobs(group, "notify")[0].job, "made": time.time() - 2 * 86400, "tries": 1}
    outbox.save(path, job, due=1.0)  # made by a clock that was two days behind
    notify.work(group)
    assert outbox.jobs(group, "notify") and not recorded(group)
    os.utime(path, (time.time() + 3600,) * 2)  # by one that was an hour ahead
    services.why = {}
    notify.work(group)
    assert services.told == [MAIL]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"transition": "deactivate", "units": ["a.service"]}, "ESS released, trading resumes"),
        ({"transition": "deactivate", "units": []}, "ESS released, nothing was started"),
        ({"latched": False}, "ESS ACTIVATED, BUT NOT LATCHED"),
        ({"latched": False, "living": ["a.service"]}, "ESS ACTIVATED, BUT NOT VERIFIED STOPPED"),
        ({"latched": True, "units": []}, "ESS ACTIVATED, trading is stopped"),
    ],
)
def test_what_a_subject_promises(facts: dict[str, Any], says: str) -> None:
    job = {"transition": "activate", "incident": INCIDENT, "epoch": 0.0, **facts}
    assert outbox.subject(job).endswith(f": {says}")
    assert ("Units: nothing was started" in outbox.body(job)) == ("nothing" in says)
