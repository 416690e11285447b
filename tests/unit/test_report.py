"""Reports: nothing becomes markup, nothing is fetched; and what is kept of a drill."""

from __future__ import annotations

import io
import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ess import evidencereport, lastdrill, plan, report, svg
from quantum_ess.evidence import Evidence
from quantum_ess.group import CANARIES, DRILL
from quantum_ess.progress import Progress

EVIL = "</td><script>alert(1)</script><img src=x onerror=y>&\"'"


class Reader(HTMLParser):
    """Which elements and attributes a page has, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_everything_is_escaped_and_nothing_is_fetched() -> None:
    sheet = report.Page(EVIL, EVIL, EVIL)
    sheet.text(EVIL, EVIL)
    sheet.facts(EVIL, [(EVIL, EVIL), ("verdict", "FAIL")])
    sheet.table(EVIL, (EVIL,), [(EVIL,), ("PASS",)])
    lane = svg.Lane(EVIL, [svg.Span(0, 9, "up", EVIL)], [svg.Point(1, "death", EVIL)])
    sheet.picture(EVIL, svg.timeline([lane], 10), EVIL)
    sheet.picture(EVIL, svg.bars([(EVIL, 0.1, EVIL)], 2.0), EVIL)
    found = read(sheet.html())
    assert not {"script", "img", "link", "iframe", "object"} & set(found.elements)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "src"]
    assert EVIL in found.text
    outside = [v for k, v in found.attributes if v and "://" in v and k != "xmlns"]
    assert outside == []


@given(st.lists(st.tuples(st.text(max_size=5), st.floats(0, 1e4)), max_size=5), st.floats(0, 1e5))
def test_every_picture_is_xml(rows: list[tuple[str, float]], seconds: float) -> None:
    printable = [(re.sub(r"[^ -~]", "?", name), value) for name, value in rows]
    ElementTree.fromstring(svg.bars([(name, value, "stop") for name, value in printable], 2.0))
    lanes = [svg.Lane(name, [svg.Span(0, value, "up")]) for name, value in printable]
    ElementTree.fromstring(svg.timeline(lanes, seconds))


def test_a_report_replaces_a_file_and_nothing_else(tmp_path: Path) -> None:
    """What /dev/null and /dev/stdout are, a device and a link, would be gone for everybody."""
    path = tmp_path / "report.html"
    path.write_text("an older one")
    report.write(str(path), "page")
    assert path.read_text() == "page"
    assert path.stat().st_mode & 0o777 == 0o600
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(path)
    os.mkfifo(pipe)
    for other in (link, pipe, tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            report.write(str(other), "another")
    assert link.is_symlink() and path.read_text() == "page"
    assert len(list(tmp_path.iterdir())) == 3


def test_the_report_of_a_failure_says_what_failed() -> None:
    evidence = Evidence(Progress(io.StringIO()))
    evidence.begin("Stop")
    evidence.mark("ESS", "command", time.monotonic(), time.monotonic() + 0.1, "stop")
    evidence.mark("a", "command", time.monotonic(), kind="death")
    evidence.mark("a", "again", time.monotonic() + 1, kind="up")
    evidence.check("stopped", "within 2 s", "3 s", False)
    evidence.check("redis", "set", "down", None)
    assert evidence.failures == ["1. Stop: stopped: 3 s"]
    result = {
        **evidence.summary(),
        "failures": evidence.failures,
        "actor": {"uid": 0, "user": EVIL},
    }
    found = read(evidencereport.page("Proof", evidence, result, [("a", "command", 3.0)]))
    for text in ("FAIL", "within 2 s", "3.00 s", "limit 2.00 s", EVIL):
        assert text in found.text


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError


def test_plain_lines_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    progress = Progress(out)
    progress.doing("work")
    progress.line("done")
    progress.end()
    assert out.getvalue() == "done\n"


def test_one_changing_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = Progress(out)
    progress.doing("work")
    progress.line("done")
    assert "work ..." in out.getvalue()
    assert out.getvalue().endswith("\r\033[Kdone\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"result": "passed"}',
        '{"result": "passed", "epoch": true, "time": "x"}',
        "[" * 9999,
    ],
)
def test_a_result_that_makes_no_sense_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "drill.json"
    path.write_text(text)
    assert lastdrill.load(str(path)) is None


@pytest.mark.parametrize(
    ("age", "limit", "overdue"), [(100, 200, False), (300, 200, True), (300, 0, False)]
)
def test_a_drill_is_overdue(tmp_path: Path, age: int, limit: int, overdue: bool) -> None:
    path = tmp_path / "drill.json"
    data = {"result": "passed", "epoch": time.time() - age, "time": "2026-01-28T00:15:23Z"}
    path.write_text(json.dumps(data))
    text = f"{plan.HEADER}\nprotect a.service 0 0\nset drill.overdue_ms {limit * 1000}\n"
    state = lastdrill.state(plan.Plan(text, ""), str(path))
    assert state["overdue"] == overdue
    assert age <= state["seconds"] < age + 60
    assert lastdrill.state(plan.Plan(text, ""), str(tmp_path / "none"))["overdue"] == bool(limit)


def test_a_drill_can_kill_nothing_but_canaries(tmp_path: Path) -> None:
    """Whatever lies where a plan would be read; and no pattern takes in a canary."""
    assert DRILL.plans == ()
    known = plan.read(DRILL)
    assert known.source == "built-in"
    assert [entry.name for entry in known.protect] == [
        line.split()[1] for line in CANARIES.splitlines() if line.startswith("protect")
    ]
    assert all(entry.name.startswith("quantum-ess-canary-") for entry in known.protect)
    assert known.options["redis.enabled"] == "no"
    trading = plan.Plan(f"{plan.HEADER}\nprotect quantum-*.service 0 0\n", "")
    assert all(trading.match(entry.name) is None for entry in known.protect)
