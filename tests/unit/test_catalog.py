"""The message catalog: every event that the code can log has an id and an explanation."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from madeup import HERE

from quantum_ess.events import MESSAGE_IDS

CATALOG = HERE / "debian/catalog/quantum-ess.catalog"


def logged() -> Iterator[tuple[str, str]]:
    """The events that Python gives to a trail, each with its place."""
    for path in sorted(HERE.glob("quantum_ess/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("log", "_tell"):
                owner, _, how = ast.unparse(node.func).rpartition(".")
                if how == "_tell" or owner.rpartition(".")[2] in ("trail", "entries"):
                    for event in events(node.args[0], path):
                        yield event, f"{path.name}:{node.lineno}"


def events(argument: ast.expr, path: Path) -> list[str]:
    """What that expression can be: a literal, or a name that one or two literals are given to."""
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    assert isinstance(argument, ast.Name), f"{path.name}:{argument.lineno}: not a literal event"
    given = re.search(rf"\b{argument.id} = (.*)", path.read_text())
    if not given and re.search(rf"\b{argument.id}: str\b", path.read_text()):
        return []  # handed on: those that give it are looked at
    assert given, argument.id
    return [word for word in re.findall(r'"([a-z-]+)"', given[1]) if word in MESSAGE_IDS]


def by_shell() -> Iterator[tuple[str, str]]:
    """Event and id of the writers without Python."""
    for path in sorted((HERE / "quantum_ess/libexec").iterdir()):
        text = path.read_text()
        for event, number in re.findall(r"say ([a-z-]+) ([0-9a-f]{32})", text):
            yield event, number
        for event in re.findall(r'"ESS_EVENT=\$\{event\}([a-z-]+)"', text):
            (number,) = re.findall(r"\bid=([0-9a-f]{32})", text)
            yield event, number
        for number, event in re.findall(r"MESSAGE_ID=([0-9a-f]{32}) .*\bESS_EVENT=([a-z-]+)", text):
            yield event, number
        for number in re.findall(r"\bdrill_id=([0-9a-f]{32})", text):
            yield "drill", number


def entries() -> dict[str, str]:
    """The catalog: id to text."""
    parts = re.split(r"^-- ([0-9a-f]+)$", CATALOG.read_text(), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_event_has_an_id() -> None:
    found = dict(logged())
    assert {"initiated", "released", "marker-set", "marker-cleared"} <= set(found)
    assert {event: place for event, place in found.items() if event not in MESSAGE_IDS} == {}


def test_the_shell_gives_the_same_ids() -> None:
    found = list(by_shell())
    assert {event for event, _ in found} == {
        *("initiated", "latched", "stopped", "refused", "restored", "guard-ended", "drill")
    }
    assert [(event, number) for event, number in found if MESSAGE_IDS[event] != number] == []


def test_whoever_writes_to_the_journal_gives_an_id() -> None:
    """One for each entry: where there is a logger(1) there is an id."""
    texts = [path.read_text() for path in (HERE / "quantum_ess/libexec").iterdir()]
    writers = [text for text in texts if "logger --journald" in text]
    assert len(writers) == 4
    for text in writers:
        assert text.count("MESSAGE_ID=") == text.count("logger --journald"), text


def test_nothing_but_comments_comes_before_the_first_id() -> None:
    """Else systemd 257 refuses the file, and with it the catalogs of all other packages."""
    head = CATALOG.read_text().partition("\n-- ")[0].splitlines()
    assert [line for line in head if line and not line.startswith("#")] == []


def test_every_id_is_explained() -> None:
    """What happened, what it means, what to do."""
    found = entries()
    assert list(found) == list(MESSAGE_IDS.values())
    for number, text in found.items():
        assert re.match(r"\nSubject: .+\nDefined-By: quantum-ess\nDocumentation: man:", text), (
            number
        )
        body = text.split("\n\n", 1)[1]
        assert len(body.split("\n\n")) >= 2, text
        assert re.search("Nothing to do|What to do|If nobody meant this", body), text
        assert max(map(len, text.splitlines())) <= 79, text


def test_the_man_page_has_the_table() -> None:
    page = (HERE / "man/quantum-ess.8").read_text()
    for event, number in MESSAGE_IDS.items():
        assert f".It {event} Ta {number}" in page, event
