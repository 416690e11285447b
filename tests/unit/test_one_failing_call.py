"""One call fails, once: nothing is lost, doubled or taken for something else by it."""

import builtins
import errno
import gzip
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from madeup import HERE, group_below

from quantum_ess import (
    account,
    activate,
    actor,
    cgroup,
    chain,
    history,
    hooks,
    incidents,
    latch,
    marker,
    outbox,
    plan,
    record,
    redisclient,
    trail,
    unitfiles,
)
from quantum_ess.group import Group
from quantum_ess.guard.actions import Actions
from quantum_ess.guard.condition import parse_limit
from quantum_ess.guard.evaluate import Reading, Watch
from quantum_ess.guard.rules import Rule
from quantum_ess.guard.sources import Keeper
from quantum_ess.progress import Progress

STRIKE = HERE / "quantum_ess/libexec/strike"
Fail = Callable[[Any, str, str, int], None]


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return group_below(tmp_path)


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Make the first call of module.name with that in its arguments end with that error."""

    def fail(module: Any, name: str, about: str, error: int) -> None:
        real, left = getattr(module, name), [1]

        def call(*args: Any, **kwargs: Any) -> Any:
            if left and about in str(args):
                left.clear()
                raise OSError(error, os.strerror(error), *args[:1])
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    return fail


def entry(event: str = "activated") -> dict[str, Any]:
    return history.entry(event, "0badcafe-7")


def events(group: Group) -> list[str]:
    """What the history has, in order."""
    return [line.entry["event"] for line in history.lines(group.history) if line.entry]


def test_journald_without_a_socket_to_ask_it_by(group: Group, fail: Fail) -> None:
    fail(socket, "socket", "", errno.EMFILE)
    entries = trail.Trail(group, "0badcafe-7", {})
    entries.log("released", "ESS DEACTIVATION COMPLETE")
    assert entries.kept == 1 and not entries.lost
    assert len(trail.spooled(group)) == 1


def test_an_entry_without_a_random_number(group: Group, fail: Fail) -> None:
    fail(os, "urandom", "", errno.EAGAIN)
    entries = trail.Trail(group, "0badcafe-7", {})
    entries.log("released", "ESS DEACTIVATION COMPLETE")
    assert entries.lost or entries.kept, "neither lost nor kept"


@pytest.mark.parametrize("kind", ["trail", "outbox"])
def test_what_is_written_but_not_known_to_last_is_not_written_twice(
    group: Group, fail: Fail, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail, "send", lambda _: False)
    os.makedirs(group.spool)
    os.makedirs(f"{group.state}/hooks")
    fail(record, "sync_directory", group.state, errno.EIO)
    if kind == "trail":
        trail.Trail(group, "0badcafe-7", {}).log("released", "ESS DEACTIVATION COMPLETE")
        assert len(trail.spooled(group)) == 1
    else:
        outbox._put(group, "hooks", "activate.0badcafe-7", {"transition": "activate"})
        assert len(outbox.jobs(group, "hooks")) == 1


def test_a_history_that_is_new(group: Group, fail: Fail) -> None:
    fail(record, "sync_directory", group.state, errno.EIO)
    assert history.append(group, entry()) == ""
    assert history.flush(group) == ""
    assert events(group) == ["activated"]


def test_a_record_of_the_history_that_waits(group: Group, fail: Fail) -> None:
    history._keep(group, entry())
    fail(os, "open", "history-spool", errno.EMFILE)
    assert history.flush(group) == "" and not os.path.exists(group.history)
    assert history.flush(group) == ""
    assert events(group) == ["activated"]


def test_a_record_that_was_added_and_still_waits(group: Group, fail: Fail) -> None:
    history._keep(group, entry())
    history._keep(group, entry("released"))
    fail(os, "unlink", "history-spool", errno.EIO)
    assert history.flush(group) == ""
    assert history.flush(group) == ""
    assert events(group) == ["activated", "released"]
    assert not os.listdir(group.history_spool)


def test_what_redis_is_owed(group: Group, fail: Fail) -> None:
    marker.want(group, None, 0.0, "0badcafe-7", "")
    fail(builtins, "open", "marker-pending", errno.ENFILE)
    done, problem = marker.settle(group, plan.Plan(plan.BUILT_IN, ""))
    assert done == "CLEARED" and problem and os.strerror(errno.ENFILE) in problem
    assert os.path.exists(group.pending_marker)


class Replica:
    """A Redis that has lost the marker, and lets nobody write."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.meanwhile = meanwhile

    def ask(self, *commands: tuple[str, ...]) -> list[Any]:
        if commands[0][0] == "GET":
            return [None]
        self.meanwhile()
        return [redisclient.Refused("READONLY")]


SINCE = "2026-11-27T10:00:00Z"


@pytest.mark.parametrize("under_way", [True, False])
def test_a_marker_is_not_set_once_the_latch_is_open(
    group: Group, under_way: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was owed still: a release in the middle has another word, and so has one that is over."""
    marker.want(group, SINCE, 0.0, "0badcafe-7", "")
    asked: list[object] = []
    monkeypatch.setattr(marker, "_bounded", lambda *_: asked.append(1))
    if under_way:
        record.store(f"{group.run}/releasing", {"pid": os.getpid()})
    assert marker.settle(group, plan.Plan(plan.BUILT_IN, "")) == ("", None)
    assert not asked and os.path.exists(group.pending_marker) == under_way


def test_a_marker_that_redis_has_lost_and_does_not_take_back_is_owed(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard finds out; the trail has it once, however often the watch tries again."""
    record.store(group.record, {"incident": "0badcafe-7", "since": SINCE, "epoch": 1})
    told: list[str] = []
    sent: list[bytes] = []
    for _ in range(2):
        Keeper(group, told.append)(cast(redisclient.Client, Replica()))
    assert told == ["NOT SET: READONLY"]
    assert marker.news(told[0]) == "ESS REDIS MARKER NOT SET: READONLY"
    data = json.loads(Path(group.pending_marker_volatile).read_text())
    assert data["since"] == SINCE and data["event"]["incident"] == "0badcafe-7"
    monkeypatch.setattr(trail, "send", lambda entry: sent.__iadd__([entry]))
    monkeypatch.setattr(marker, "_bounded", lambda *_: "READONLY")
    entries = trail.Trail(group, "0badcafe-7", {})
    account.tell_redis(entries, plan.Plan(plan.BUILT_IN, ""), account.Account(), again=True)
    assert not sent and os.path.exists(group.pending_marker_volatile)
    monkeypatch.setattr(marker, "_bounded", lambda *_: None)
    account.tell_redis(entries, plan.Plan(plan.BUILT_IN, ""), account.Account(), again=True)
    assert len(sent) == 1 and not os.path.exists(group.pending_marker_volatile)


def test_a_release_has_the_last_word_on_the_marker(group: Group) -> None:
    record.store(group.record, {"incident": "0badcafe-7", "since": SINCE, "epoch": 1})

    def release() -> None:
        os.rename(group.record, group.released)
        marker.want(group, None, 2.0, "0badcafe-7", "")

    with pytest.raises(redisclient.Refused):
        marker.renew(group, Replica(release).ask)
    assert json.loads(Path(group.pending_marker).read_text())["since"] is None


def test_a_record(group: Group, fail: Fail) -> None:
    record.store(group.record, {"incident": "0badcafe-7", "running": ["a.service"]})
    fail(os, "open", group.record, errno.EMFILE)
    assert (record.load(group.record) or {})["running"] == ["a.service"]


def test_a_flag_that_can_t_be_made(group: Group, fail: Fail) -> None:
    """Its absence is no release, whatever was seen of an earlier one."""
    Path(group.seen).touch()
    fail(os, "link", "", errno.ENOSPC)
    flag = latch.shut(group)
    assert flag.held and flag.inode is None
    assert os.path.exists(group.record) and not os.path.exists(group.seen)


@pytest.mark.parametrize("call", ["link", "utime"])
@pytest.mark.parametrize("before", [True, False])
def test_a_flag_that_goes_while_it_is_set_again(
    group: Group, call: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a release, or with its directory: who was told to stop has set one all the same."""
    latch.shut(group)
    real, left = getattr(os, call), [1]

    def meanwhile(*args: Any, **kwargs: Any) -> None:
        try:
            if not before:
                real(*args, **kwargs)
        finally:
            if left.pop() if left else False:
                shutil.rmtree(os.path.dirname(group.flag))
        if before:
            real(*args, **kwargs)

    monkeypatch.setattr(os, call, meanwhile)
    flag = latch.shut(group)
    assert not left and flag.error is None and flag.created
    assert flag.inode == latch.inode(group) and not os.path.exists(group.record)


def test_a_flag_that_the_shell_can_t_make(group: Group) -> None:
    Path(group.seen).touch()
    where = f"flag=/proc/none/ESS_ON run={group.run} state={group.state}"
    done = subprocess.run(["sh", "-c", f". {STRIKE}; {where}; set_flag"], timeout=20)
    assert done.returncode == 0
    assert os.path.exists(group.record) and not os.path.exists(group.seen)


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_job_on_a_disk_that_takes_nothing_any_more(
    group: Group, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been done of it is known all the same, and it is done once."""
    outbox._put(group, "notify", "activate.0badcafe-7", {"epoch": 1, "sent": []})
    (due,) = outbox.jobs(group, "notify")
    write, remove = record.write, record.remove

    def refuse(real: Callable[..., None]) -> Callable[..., None]:
        def call(path: str, *more: Any) -> None:
            if path.startswith(group.state):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            real(path, *more)

        return call

    monkeypatch.setattr(record, "write", refuse(write))
    if kind == "read-only":
        monkeypatch.setattr(record, "remove", refuse(remove))
    outbox.update(group, "notify", due, {"epoch": 1, "sent": ["line 1"]}, 5.0)
    assert outbox.jobs(group, "notify", 4.0) == []
    (later,) = outbox.jobs(group, "notify", 6.0)
    assert later.job["sent"] == ["line 1"]
    outbox.done(group, "notify", later.path)
    assert outbox.jobs(group, "notify") == []
    assert os.path.exists(due.path) is (kind == "read-only")
    outbox._put(group, "notify", "activate.0badcafe-7", {"epoch": 1})
    assert outbox.jobs(group, "notify") == [], "done twice"


def test_hooks_that_can_t_be_listed(fail: Fail, tmp_path: Path) -> None:
    fail(os, "listdir", str(tmp_path), errno.EMFILE)
    runnable, refused = hooks.find(str(tmp_path))
    assert not runnable and refused[0]["problem"] == os.strerror(errno.EMFILE)
    assert hooks.find(f"{tmp_path}/none") == ([], [])


@pytest.mark.parametrize("call", ["listdir", "readlink"])
def test_units_that_can_t_be_listed(fail: Fail, tmp_path: Path, call: str) -> None:
    """Half a gate is worse than the last whole one, which the generator then takes."""
    directory = tmp_path / "etc/systemd/system"
    os.makedirs(directory)
    (directory / "trade-a.service").touch()
    os.symlink("trade-a.service", directory / "trade-b.service")
    files = unitfiles.UnitFiles(str(tmp_path))
    fail(os, call, str(directory), errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.real("trade-b.service") if call == "readlink" else list(files.names)


def test_a_guard_that_can_t_shut_the_latch_acts_again(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [False, True]

    def stop(_: Group, request: activate.Request) -> activate.Outcome:
        flag = latch.Flag(None, False, "no room", held=held.pop(0))
        return activate.Outcome(flag, activate.Strike(plan.Plan(plan.BUILT_IN, "")))

    monkeypatch.setattr(activate, "activate", stop)
    monkeypatch.setattr(account, "settle", lambda *_: None)
    limit = parse_limit("> 10")
    watch = Watch(Rule(name="c", what="value", mode="enforce", redis="k", limit=limit), 5.0)
    acts = Actions(group)
    acted = [acts.act(watch, "breach") for n in range(3) if watch.take(Reading(n, 11.0, ""))]
    acts.finish(10)
    assert len(acted) == 2 and not held and watch.tripped


def test_a_name_service_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(uid: int) -> None:
        time.sleep(5)
        raise KeyError(uid)

    monkeypatch.setattr(actor, "NAME_SERVICE", 0.05)
    monkeypatch.setattr(pwd, "getpwuid", hang)
    assert actor.name(0) == "root"
    assert actor.name(3_999_999_999) == "3999999999"


def test_output_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as out:
        with Progress(out) as progress:
            progress.line("started quantum-execution")
            progress.line("started quantum-governor")
        out.flush()


def test_a_release_that_has_ended(group: Group) -> None:
    path = f"{group.run}/releasing"
    assert not record.under_way(group)
    for pid, expected in ((os.getpid(), True), (4_194_305, False)):  # more than pid_max can be
        record.store(path, {"incident": "0badcafe-7", "pid": pid})
        assert record.under_way(group) is expected
    Path(path).write_text(json.dumps({"version": 1}))
    assert record.under_way(group), "of a version that did not say"


def test_what_was_killed_at_the_last_moment_is_looked_at_again(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that had no time before has found them alive, and is late by then."""
    alive = ["trade.service"]

    def blow(strike: activate.Strike) -> list[str]:
        return [alive.pop()] if alive else []

    def refuse(_: float) -> None:
        raise OSError("PID 1 does not answer")

    monkeypatch.setattr(activate.Strike, "blow", blow)
    monkeypatch.setattr(activate, "_connect", refuse)
    strike = activate.Strike(plan.Plan(plan.BUILT_IN, ""))
    outcome = activate.Outcome(latch.Flag(1, True), strike)
    activate._tell_and_verify(outcome, deadline=0.0)
    assert outcome.verified and outcome.problems


def test_who_has_only_seen_a_flag_spares_what_a_release_starts(
    group: Group, fail: Fail, monkeypatch: pytest.MonkeyPatch
) -> None:
    the_plan = plan.Plan(plan.BUILT_IN, "")
    how = the_plan.protect[0]
    killed: list[str] = []
    found = [cgroup.Found(how.name, "/group", how)]
    monkeypatch.setattr(cgroup, "find", lambda _: found)
    monkeypatch.setattr(cgroup, "populated", lambda _: True)
    monkeypatch.setattr(cgroup, "kill", killed.append)
    assert activate.Strike(the_plan, group).blow() == [how.name], (
        "the flag was there, and is no more"
    )
    releasing = f"{group.run}/releasing"
    record.store(releasing, {"pid": os.getpid()})
    assert activate.Strike(the_plan).blow() == [how.name], "it is to shut the latch itself"
    Path(group.flag).touch()
    strike = activate.Strike(the_plan, group)
    assert strike.blow() == [how.name] and len(killed) == 3
    os.unlink(group.flag)
    assert strike.blow() == []
    os.unlink(releasing)
    assert strike.blow() == [] and len(killed) == 3, "what it started is up by now"


def test_a_look_at_the_latch_that_fails_is_no_open_latch(group: Group, fail: Fail) -> None:
    assert not group.latched()
    Path(group.record).write_text("{}")
    fail(os, "lstat", group.record, errno.EIO)
    assert group.latched(), "it looks again"
    os.unlink(group.record)
    for _ in range(2):
        fail(os, "lstat", group.flag, errno.EIO)
    assert group.latched(), "nobody can say that it is open"


def test_a_history_that_can_t_be_read_is_not_an_empty_one(group: Group, fail: Fail) -> None:
    assert history.append(group, entry()) == ""
    unread: list[str] = []
    fail(os, "open", "history.jsonl", errno.EMFILE)
    assert history.load(group, unread)[0] == []
    assert unread == [f"{group.history}: Too many open files"]
    fail(os, "open", "history.jsonl", errno.EIO)
    (flaw,) = chain.Chain(group).flaws
    assert str(flaw) == f"{group.history}: could not be read: Input/output error"


def test_a_record_beside_a_rotated_file_that_is_damaged(group: Group) -> None:
    assert history.append(group, entry()) == ""
    packed = bytearray(gzip.compress(Path(group.history).read_bytes() * 50))
    packed[20:30] = bytes(10)
    Path(group.history + ".1.gz").write_bytes(packed)
    assert history.append(group, entry("released"), once=True) == ""
    assert "released" in events(group)
    unread: list[str] = []
    history.load(group, unread)
    assert len(unread) == 1 and unread[0].startswith(f"{group.history}.1.gz: ")


def test_a_burst_that_is_being_written_is_told_once(group: Group) -> None:
    """Written, and not removed yet from where it has waited."""
    burst = {"event": "refused", "incident": "0badcafe-7", "unit": "a.service", "epoch": 1e9}
    os.makedirs(group.history_spool)
    waits = Path(f"{group.history_spool}/{1:020d}.1")
    waits.write_text(json.dumps(burst))
    assert history.flush(group) == "" and not waits.exists()
    waits.write_text(json.dumps(burst))
    (incident,) = incidents.load(group, [])
    assert len(incident.refused) == 1


@pytest.mark.parametrize(
    "argv", [["deactivate", "--override"], ["history", "no-such"], ["nonsense"]]
)
def test_the_exit_status_does_not_depend_on_who_reads_stderr(argv: list[str]) -> None:
    command = [sys.executable, "-m", "quantum_ess", *argv]
    quiet = subprocess.run(command, cwd=HERE, capture_output=True)
    assert quiet.returncode not in (0, 120)
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, cwd=HERE, stderr=full).returncode == quiet.returncode
    read, write = os.pipe()
    os.close(read)
    try:
        assert subprocess.run(command, cwd=HERE, stderr=write).returncode == quiet.returncode
    finally:
        os.close(write)
