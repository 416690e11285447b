"""The history: a chain that goes on whatever happens to its file, and that shows what was done."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quantum_ess import chain, history, historyreport, incidents, record
from quantum_ess.group import Group


@pytest.fixture
def group(tmp_path: Path) -> Group:
    run, state = tmp_path / "run", tmp_path / "state"
    run.mkdir()
    state.mkdir()
    return Group(f"{run}/ESS_ON", str(run), str(state))


def add(group: Group, count: int, event: str = "repeated") -> None:
    for number in range(count):
        assert history.append(group, history.entry(event, f"i-{number}", reason="é\n")) == ""


def raw(group: Group) -> list[bytes]:
    return Path(group.history).read_bytes().splitlines()


def numbers(group: Group) -> list[int]:
    return [line.entry["n"] for line in chain.Chain(group).records if line.entry]


def flaws(group: Group) -> list[str]:
    """What is gravely wrong."""
    return [str(flaw) for flaw in chain.Chain(group).flaws if flaw.grave]


def test_records_are_numbered_and_chained(group: Group) -> None:
    add(group, 3)
    assert numbers(group) == [1, 2, 3]
    assert json.loads(raw(group)[1])["prev"] == history.digest(raw(group)[0])
    assert flaws(group) == [] and chain.Chain(group).end.n == 3
    assert os.stat(group.history).st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("tail", "torn"),
    [(b'{"n": 4, "prev": "12', 1), (b"\0\0\0\0", 1), (b'{"n": 4}\n', 1), (b"", 0)],
)
def test_a_torn_line_is_left_and_the_chain_goes_on(group: Group, tail: bytes, torn: int) -> None:
    add(group, 3)
    with open(group.history, "ab") as file:
        file.write(tail)
    add(group, 2)
    assert numbers(group) == [1, 2, 3, 4, 5]
    found = chain.Chain(group).flaws
    assert [flaw.grave for flaw in found] == [False] * torn
    assert [flaw.place for flaw in found] == [f"{group.history}:4"] * torn


def test_an_end_that_is_not_on_record(group: Group) -> None:
    """Noted once nobody is at it any more: a power cut came before the release's last record."""
    for event, name in (("activated", "i-1"), ("released", "i-1"), ("activated", "i-2")):
        assert history.append(group, history.entry(event, name)) == ""

    def noted() -> list[tuple[str, bool]]:
        return [(flaw.place, flaw.grave) for flaw in chain.Chain(group).flaws]

    record.store(group.record, {"incident": "i-2"})
    assert noted() == [], "it goes on"
    os.rename(group.record, group.released)
    Path(group.record).touch()
    assert noted() == [], "nobody can tell which one goes on"
    os.unlink(group.record)
    record.store(f"{group.run}/releasing", {"pid": os.getpid()})
    assert noted() == [], "it is being released"
    os.unlink(f"{group.run}/releasing")
    assert noted() == [(f"{group.history}:3", False)]
    assert "ESS_INCIDENT=i-2" in str(chain.Chain(group).flaws[0])
    history._keep(group, history.entry("released", "i-2"))
    assert noted() == [], "it waits to be written"
    assert history.flush(group) == "" and noted() == []


def test_a_whole_line_that_only_lost_its_end_counts(group: Group) -> None:
    add(group, 2)
    with open(group.history, "r+b") as file:
        file.truncate(os.stat(group.history).st_size - 1)
    add(group, 1)
    assert numbers(group) == [1, 2, 3]
    assert chain.Chain(group).flaws == []


def test_an_append_that_does_not_fit_leaves_nothing(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(group, 1)
    before, write = raw(group), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        assert "No space left" in history.append(group, history.entry("released", "a"))
        assert history.append(group, history.entry("repeated", "b"))
        assert raw(group) == before
        assert [new["incident"] for new in history.waiting(group)] == ["a", "b"]
    assert history.append(group, history.entry("repeated", "c")) == ""
    known = [line.entry["incident"] for line in chain.Chain(group).records if line.entry]
    assert known == ["i-0", "a", "b", "c"]
    assert history.waiting(group) == [] and flaws(group) == []


def test_neither_disk_nor_run_take_it(group: Group) -> None:
    os.mkdir(group.history)
    Path(group.history_spool).touch()
    with pytest.raises(OSError, match="history-spool"):
        history.append(group, history.entry("released", "a"))


@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory"])
def test_what_is_no_file_is_neither_written_nor_waited_for(group: Group, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(group.history)
    elif kind == "symlink":
        os.symlink(group.state + "/elsewhere", group.history)
    else:
        os.mkdir(group.history)
    assert history.append(group, history.entry("released", "a"))
    assert len(history.waiting(group)) == 1
    assert not os.path.exists(group.state + "/elsewhere")
    assert history.files(group) == []


@pytest.mark.parametrize("way", ["numbers", "dates", "compressed", "moved away"])
def test_rotation(group: Group, way: str) -> None:
    """The chain goes on in the next file, and all files are read as one."""
    name = {"dates": ".jsonl-2026{}", "compressed": ".jsonl.{}.gz"}.get(way, ".jsonl.{}")
    for number in (11, 10, 9):
        add(group, 2)
        rotated = group.history.replace(".jsonl", name.format(number))
        if way == "compressed":
            Path(rotated).write_bytes(gzip.compress(Path(group.history).read_bytes()))
            os.unlink(group.history)
        else:
            os.rename(group.history, rotated)
    add(group, 1)
    assert numbers(group) == [1, 2, 3, 4, 5, 6, 7]
    assert flaws(group) == []
    if way == "moved away":
        os.unlink(group.history + ".11")
        assert flaws(group) == [f"{group.history}.10:1: records 1 to 2 are missing before this"]


@pytest.mark.parametrize("torn", [False, True])
def test_a_compression_that_broke_off(group: Group, torn: bool) -> None:
    """The file and its copy, whole or not, are both there: every record is told once."""
    add(group, 2)
    packed = gzip.compress(Path(group.history).read_bytes())
    os.rename(group.history, group.history + ".1")
    Path(group.history + ".1.gz").write_bytes(packed[:-12] if torn else packed)
    add(group, 1)
    assert numbers(group) == [1, 2, 3]
    told = [len(incident.entries) for incident in incidents.load(group, [])]
    assert sum(told) == 3
    (flaw,) = chain.Chain(group).flaws
    assert not flaw.grave and str(flaw).startswith(f"{group.history}.1.gz: its records are in")


def test_rotation_with_the_head_lost(group: Group) -> None:
    add(group, 2)
    os.rename(group.history, group.history + ".1")
    os.unlink(group.history_head)
    add(group, 1)
    assert numbers(group) == [1, 2, 3] and flaws(group) == []


def test_rotation_with_a_head_that_is_one_behind(group: Group) -> None:
    """It could not be written, or a power cut came before it was."""
    add(group, 1)
    behind = Path(group.history_head).read_text()
    add(group, 1)
    Path(group.history_head).write_text(behind)
    os.rename(group.history, group.history + ".1")
    add(group, 1)
    assert numbers(group) == [1, 2, 3] and flaws(group) == []


def test_once(group: Group) -> None:
    """Also across a rotation, and while the first one still waits."""
    new = history.entry("activated", "a")
    history.append(group, new, once=True)
    history.append(group, new, once=True)
    os.rename(group.history, group.history + ".1")
    history.append(group, history.entry("released", "a"))
    history.append(group, new, once=True)
    assert numbers(group) == [1, 2]


def test_many_writers(group: Group) -> None:
    code = (
        "import sys\nfrom quantum_ess import history\nfrom quantum_ess.group import Group\n"
        f"group = Group({group.flag!r}, {group.run!r}, {group.state!r})\n"
        "for n in range(20): history.append(group, history.entry('repeated', sys.argv[1]))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, f"w-{n}"]) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert history.flush(group) == ""
    assert numbers(group) == list(range(1, 81)) and flaws(group) == []


def edit(change: Callable[[list[bytes]], object]) -> Callable[[Group], None]:
    def do(group: Group) -> None:
        lines = raw(group)
        change(lines)
        Path(group.history).write_bytes(b"".join(line + b"\n" for line in lines))

    return do


def replace(index: int) -> Callable[[list[bytes]], None]:
    def change(lines: list[bytes]) -> None:
        lines[index] = lines[index].replace(b"repeated", b"released")

    return change


TAMPERING = {
    "altered": (edit(replace(2)), ":3: record 3 was altered, or record 4"),
    "last altered": (edit(replace(5)), ":6: record 6 was altered"),
    "first altered": (edit(replace(0)), ":1: record 1 was altered, or record 2"),
    "removed": (edit(lambda lines: lines.pop(3)), ":4: record 4 is missing before this"),
    "first removed": (edit(lambda lines: lines.pop(0)), ":1: record 1 is missing before this"),
    "two removed": (
        edit(lambda lines: lines.__delitem__(slice(1, 3))),
        "records 2 to 3 are missing",
    ),
    "last removed": (edit(lambda lines: lines.pop()), ": record 6 is missing at the end"),
    "swapped": (
        edit(lambda lines: lines.insert(2, lines.pop(3))),
        ":4: record 3 comes after 4",
    ),
    "doubled": (edit(lambda lines: lines.insert(3, lines[1])), ":4: record 2 is here again"),
    "garbled": (edit(lambda lines: lines.__setitem__(2, b"{")), ":3: is no record"),
    "all removed": (lambda group: os.unlink(group.history), ": records 1 to 6 are missing at the"),
    "head removed": (lambda group: os.unlink(group.history_head), "(history-head) is missing"),
}


@pytest.mark.parametrize("deed", TAMPERING)
@pytest.mark.parametrize("later", [0, 2])
def test_tampering_is_found(group: Group, deed: str, later: int) -> None:
    """With the line, at once and after more was appended."""
    add(group, 6)
    do, expected = TAMPERING[deed]
    do(group)
    if later and deed in ("head removed", "last removed", "all removed"):
        later = 0  # what more would bring it about again, or says "before this" of the gap
    add(group, later)
    found = flaws(group)
    assert any(expected in flaw for flaw in found), found
    if deed not in ("garbled", "swapped", "doubled"):
        assert len(found) == 1


def test_records_removed_from_the_end_stay_missing(group: Group) -> None:
    add(group, 6)
    edit(lambda lines: lines.pop())(group)
    add(group, 1)
    assert numbers(group) == [1, 2, 3, 4, 5, 7]
    assert flaws(group) == [f"{group.history}:6: record 6 is missing before this"]


def test_what_the_shell_leaves_is_taken_in(group: Group) -> None:
    os.makedirs(group.history_spool)
    os.makedirs(group.refused)
    written = '{"event": "restored", "incident": "a-1", "epoch": 1769559323.5}\n'
    Path(group.history_spool, "00001").write_text(written)
    Path(group.history_spool, "00002").write_text("garbage")
    Path(group.refused, "x.service").write_text(written.replace("restored", "refused"))
    Path(group.refused, ".new").write_text("half")
    history.fold(group)
    assert [new["event"] for new in history.waiting(group)] == ["restored", "refused"]
    history.fold(group, quiet=0)
    assert history.flush(group) == ""
    entries = [line.entry for line in chain.Chain(group).records]
    assert [entry["event"] for entry in entries if entry] == ["restored", "refused"]
    assert entries[0] and entries[0]["time"] == "2026-01-28T00:15:23.500Z"
    assert history.waiting(group) == []


def test_a_record_that_is_wanted_once_waits_once(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With /var full, an activation and who completes it later both keep it in /run."""
    with monkeypatch.context() as full:
        full.setattr(history, "_try", lambda *_: "No space left on device")
        for _ in range(2):
            assert history.append(group, history.entry("activated", "a-1"), once=True)
    assert history.append(group, history.entry("released", "a-1"), once=True) == ""
    entries = [line.entry for line in chain.Chain(group).records]
    assert [entry["event"] for entry in entries if entry] == ["activated", "released"]


def test_incidents(group: Group) -> None:
    """Two incidents, the second one open; records put together, times counted."""
    who = {"uid": 0, "user": "root", "sudo_user": "alice"}
    about = {"trigger": "command", "actor": who, "reason": "<b>stale"}
    start = history.entry(
        "activated", "a-1", epoch=1000.25, stop_ms=12.5, stopped=["x.service"], **about
    )
    end = history.entry("released", "a-1", started=[], **about) | {"time": history.stamp(1010.75)}
    refused = history.entry("refused", "a-1", unit="x.service", count=3)
    for new in (start, refused, end, history.entry("activated", "a-2", epoch=2000, living=["y"])):
        history.append(group, new)
    Path(group.record).write_text('{"incident": "a-2"}')
    first, second = incidents.load(group, [])
    data = first.summary()
    assert (data["state"], data["downtime_s"], data["stop_ms"]) == ("released", 10.5, 12.5)
    assert data["began"] == "1970-01-01T00:16:40.250Z" and data["stopped"] == ["x.service"]
    assert [(entry["unit"], entry["count"]) for entry in data["refused"]] == [("x.service", 3)]
    assert second.summary()["state"] == "active" and second.summary()["downtime_s"] is None
    told = [text for _, text in first.timeline()]
    assert told[0] == "ACTIVATED by root (sudo: alice) (command): <b>stale"
    assert "verified stopped in 0.013 s" in told and "refused to start x 3 times" in told
    assert "NOT VERIFIED: still alive: y" in [text for _, text in second.timeline()]
    page = historyreport.of_one(group, first) + historyreport.of_all(group, [second])
    assert first.id in page and "verified stopped in 0.013 s" in page and "NOT VERIFIED" in page
    assert "<b>stale" not in page and "&lt;b&gt;stale" in page
    assert incidents.find(group, "a-1", []).id == "a-1"
    assert incidents.find(group, "last", []).id == "a-2"


def test_an_altered_record_breaks_nothing(group: Group) -> None:
    odd = {"epoch": "soon", "stop_ms": [], "started": 1, "actor": 7, "living": {}, "why": None}
    for event in ("activated", "released", "refused", "unlatched", "release-failed", "whatever"):
        history.append(group, {**history.entry(event, "a"), **odd})
    (incident,) = incidents.load(group, [])
    assert len(incident.timeline()) >= 6
    json.dumps(incident.summary())
