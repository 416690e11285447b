"""The configuration: what is read, what is refused, and that table, file and man page agree."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from madeup import HERE

from quantum_ess import config
from quantum_ess.compiler import Compiled
from quantum_ess.config import Config, load
from quantum_ess.errors import ConfigError

SHIPPED = HERE / "etc/quantum-ess.conf"
MAN_PAGE = HERE / "man/quantum-ess.conf.5"

FOUR = tuple(
    f"quantum-{name}.service" for name in ("ai-engine", "execution", "apply-layer", "governor")
)


class Files:
    """Configuration files in the order in which they are to be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths: list[str] = []

    def add(self, content: str | bytes) -> None:
        path = self.directory / f"{len(self.paths)}.conf"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.paths.append(str(path))

    def load(self, *contents: str | bytes) -> Config:
        for content in contents:
            self.add(content)
        return load(self.paths)

    def error(self, *contents: str | bytes) -> str:
        """Every error, with the file's number for its name."""
        with pytest.raises(ConfigError) as caught:
            self.load(*contents)
        errors = [caught.value, *caught.value.others]
        return "\n".join(str(each).replace(f"{self.directory}/", "") for each in errors)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_no_file_means_the_defaults() -> None:
    assert load([]) == Config()
    assert Config().protect == FOUR
    assert Config().redis_url == "redis://127.0.0.1:6379/0"
    assert (Config().settle, Config().timeout) == (0.5, 60)


def test_the_shipped_file_changes_nothing() -> None:
    assert load([str(SHIPPED)]) == Config()


def test_every_option(files: Files) -> None:
    read = files.load(
        "[protect]\nunits = a b.timer\n\tc@*.service\n\t# a comment inside\n\n\td\n",
        "[keep]\nunits = k\n[stop]\nstop_category = 1\ngrace = 1s\n",
        "[unit a]\nstop_category = 0\n[unit c@*]\ngrace = 500ms\n",
        "[resume]\norder = d a\nwhat = enabled\nsettle = 2\ntimeout = 1min 30s\n",
        "[redis]\nenabled = off\nurl = unix:///run/redis.sock\ntimeout = 1s\n",
    )
    assert read.protect == ("a.service", "b.timer", "c@*.service", "d.service")
    assert read.keep == ("k.service",)
    assert read.stop_of("a.service") == (0, 0)
    assert read.stop_of("b.timer") == (1, 1)
    assert read.stop_of("c@1.service") == (1, 0.5)
    assert read.order == ("d.service", "a.service")
    assert (read.what, read.settle, read.timeout) == ("enabled", 2, 90)
    assert (read.redis_enabled, read.redis_timeout) == (False, 1)
    assert read.redis_url == "unix:///run/redis.sock"


def test_lists_add_up_and_an_empty_assignment_empties_them(files: Files) -> None:
    assert files.load("[protect]\nunits = a", "[protect]\nunits = b a").protect == (
        "a.service",
        "b.service",
    )
    assert files.load("[protect]\nunits =\n", "[protect]\nunits = c").protect == ("c.service",)
    assert files.load("[protect]\nunits =\nunits = d e").protect == ("d.service", "e.service")
    assert files.load("[keep]\nunits =").keep == ()


def test_an_error_names_the_line_that_counts(files: Files) -> None:
    """Not one that an empty assignment has undone."""
    protect = "[protect]\nunits = x\n"
    said = files.error("[keep]\nunits = x\n", "[keep]\nunits =\nunits = y\n\tx x", protect)
    assert said == "2.conf:2: x.service is both protected and kept, see 1.conf:4"
    files.paths.clear()
    emptied = "[protect]\nunits =\n[keep]\nunits = y\n\tx\n"
    said = files.error(protect, emptied, protect)
    assert said == "2.conf:2: x.service is both protected and kept, see 1.conf:5"


def test_an_empty_scalar_is_the_default_again(files: Files) -> None:
    assert files.load("[resume]\nsettle = 3s", "[resume]\nsettle =").settle == 0.5


def test_the_order_of_files_in_a_directory(tmp_path: Path) -> None:
    drop_ins = tmp_path / "etc/quantum-ess/quantum-ess.conf.d"
    drop_ins.mkdir(parents=True)
    for name in ("20-b.conf", "10-a.conf", ".hidden.conf", "readme"):
        (drop_ins / name).touch()
    (drop_ins.parent / "quantum-ess.conf").touch()
    paths = [path.rpartition("/")[2] for path in config.default_paths(str(tmp_path))]
    assert paths == ["quantum-ess.conf", "10-a.conf", "20-b.conf"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "[protect]\nunit = a",
            "0.conf:2: 'unit' is not a key of [protect]; did you mean 'units'?",
        ),
        ("[protekt]\nunits = a", "0.conf:1: [protekt] is not a section; did you mean [protect]?"),
        ("[zzz]", "0.conf:1: [zzz] is not a section; expected [protect]"),
        ("\nunits = a\n", "0.conf:2: 'units' stands before the first [SECTION]"),
        ("[stop]\nurl = x", "0.conf:2: 'url' is not a key of [stop]; it belongs in [redis]"),
        ("[stop]\ngrace = 1\n\ngrace = 1", "0.conf:4: 'grace' is set twice in [stop]"),
        ("[stop]\n[keep]\n[stop]", "0.conf:3: [stop] is here twice"),
        ("[protect]\nunits = a\nb", "0.conf:3: expected KEY = VALUE, [SECTION]"),
        ("[Protect]\n", "0.conf:1: [Protect] is not a section; did you mean [protect]?"),
        ("[keep]\n[protect] junk", "0.conf:2: expected KEY = VALUE"),
        ("[stop]\nstop_category = 2", "0.conf:2: stop_category: expected 0 or 1, not '2'"),
        ("[stop]\ngrace = soon", "0.conf:2: grace: expected a time span such as 500ms"),
        ("[stop]\ngrace = 1501ms", "0.conf:2: grace: '1501ms' is not between 0s and 1500ms"),
        ("[stop]\nstop_category = 1", "0.conf:2: stop category 1 needs a grace, up to 1500ms"),
        ("[stop]\ngrace = 1s", "0.conf:2: grace only has an effect with stop_category = 1"),
        ("[unit quantum-governor]\ngrace = 1", "0.conf:2: grace only has an effect with"),
        ("[unit nobody]\n", "0.conf:1: [unit nobody.service]: not protected"),
        ("[unit]\n", "0.conf:1: [unit] lacks the unit's name"),
        ("[unit quantum-governor]\n[unit quantum-governor.service]", "0.conf:2: [unit quantum-"),
        ("[resume]\nwhat = all", "0.conf:2: what: expected running, enabled or none, not 'all'"),
        ("[resume]\norder =\n  nobody", "0.conf:3: order: nobody.service is not protected"),
        ("[redis]\nenabled = maybe", "0.conf:2: enabled: expected yes or no, not 'maybe'"),
        ("[redis]\nurl = http://x", "0.conf:2: url: expected redis://HOST:PORT/DATABASE"),
        ("[protect]\nunits =", "0.conf:2: [protect] units is empty"),
        ("[protect]\nunits = a\n  b\n  c;", "0.conf:4: units: 'c;' is not a unit name: ';'"),
        ("[protect]\nunits = a # b", "'#' is not allowed; a comment needs a line of its own"),
        ("[protect]\nunits = a.mount", "0.conf:2: units: 'a.mount': a mount is not possible here"),
        ("[protect]\nunits = a.b", "'a.b' does not end in a unit type; expected a service, "),
        ("[protect]\nunits = a@", "'a@' is a template; write a@*.service for all"),
        ("[protect]\nunits = @x", "'@x' is not a unit name"),
        ("[protect]\nunits = a[b", "'a[b.service': expected '[', characters or ranges, and ']'"),
        ("[protect]\nunits = a\\x2d*", "a pattern cannot hold a backslash; write '?' in its place"),
        ("[protect]\nunits = -x.slice", "is not a slice name, see systemd.slice(5)"),
        ("[protect]\nunits = " + "a" * 300, "is longer than the 255 characters of a unit name"),
        ("[protect]\nunits = " + "a" * 246, "is longer than 253 characters"),
        ("[protect]\nunits = quantum-ess.path", "is one of ESS's own units"),
        ("[protect]\nunits = quantum-ess-*", "is one of ESS's own units"),
        ("[protect]\nunits = init.scope", "'init.scope' is a unit that the system itself needs"),
        ("[protect]\nunits = systemd-resolved", "is a unit that the system itself needs"),
        ("[protect]\nunits = *", "'*' takes in units that the system itself needs"),
        ("[protect]\nunits = x\n[keep]\nunits = x", "0.conf:2: x.service is both protected and"),
        ("[keep]\nunits = quantum-governor", "0.conf:2: quantum-governor.service is both"),
        ("[keep]\nunits = quantum-*", "0.conf:2: quantum-ai-engine.service is both protected"),
        (b"[protect]\nunits = \xff", "0.conf:2: is not UTF-8 text"),
        (b"\n\n\0", "0.conf:3: holds a NUL byte"),
        (b"#" * ((1 << 20) + 1), "0.conf: is larger than 1 MiB"),
    ],
)
def test_refused(files: Files, content: str | bytes, expected: str) -> None:
    assert expected in files.error(content)


def test_all_errors_at_once(files: Files) -> None:
    assert files.error("[stop]\nx = 1\ny = 2", "oops").count("\n") == 2


def test_a_kept_name_outranks_a_protecting_pattern(files: Files) -> None:
    read = files.load("[protect]\nunits = q-*\n[keep]\nunits = q-monitor")
    assert read.covers("q-monitor.service")
    assert read.kept("q-monitor.service")


def test_files_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(SHIPPED)
    os.mkfifo(tmp_path / "fifo")
    for name, expected in {
        ".": "is not a regular file",
        "link": "is a symbolic link; put the file itself here",
        "fifo": "is not a regular file",
        "none": "does not exist",
    }.items():
        with pytest.raises(ConfigError, match=expected):
            load([str(tmp_path / name)])


def test_an_error_as_text() -> None:
    assert str(ConfigError("/etc/x.conf", 3, "no")) == "/etc/x.conf:3: no"
    assert str(ConfigError("/etc/x.conf", 0, "no")) == "/etc/x.conf: no"
    assert ConfigError.status == 6


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("hypothesis")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    keys = [option.key for option in config.options()]
    pieces = ["[protect]", "[keep]", "[stop]", "[unit a*]", "[unit ", "]", "[", "=", " = ", "#"]
    pieces += ["\n", "\n ", "\n\t", "\r", "\x0b", "\x85", "\u2028", "a*", "1s", "\0", *keys]
    text = st.lists(st.sampled_from(pieces) | st.text(max_size=3), max_size=30)
    path = tmp_path / "x.conf"

    @settings(max_examples=400, deadline=None)
    @given(st.binary(max_size=60) | text.map(lambda words: "".join(words).encode(errors="replace")))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            Compiled(load([str(path)])).plan()
        except ConfigError as error:
            assert error.line <= content.count(b"\n") + 1
            assert "\n" not in str(error)

    check()


def documented(text: str) -> dict[tuple[str, str], str]:
    """Section and key to default, from the shipped file's commented assignments."""
    found, section = {}, ""
    for line in text.splitlines():
        if header := re.match(r"#?\[(\w+).*\]$", line):
            section = header[1]
        elif assignment := re.match(r"#(\w+) =(.*)$", line):
            found[section, assignment[1]] = assignment[2].strip()
    return found


def described(text: str) -> dict[tuple[str, str], str]:
    """Section and key to default, from the man page's lists; unset is empty text."""
    found, section, key = {}, "", ""
    for line in text.replace("Default:\n.Ql ", "Default: ").splitlines():
        if header := re.match(r"\.Ss \[(\w+).*\]$", line):
            section = header[1]
        elif item := re.match(r"\.It Cm (\w+) No = ", line):
            key = item[1]
        elif default := re.match(r"Default: (.*?)[ .,]*(which is the order of|as in)?$", line):
            found[section, key] = "" if default[1] in ("empty", "as in") else default[1]
    return found


def test_table_file_and_man_page_agree() -> None:
    table = {(option.section, option.key): option.default for option in config.options()}
    shipped = documented(SHIPPED.read_text())
    assert shipped.keys() == table.keys()
    assert described(MAN_PAGE.read_text()) == table
    # A section with a name has no default; the file shows examples.
    assert {k: v for k, v in shipped.items() if k[0] not in config.NAMED} == {
        k: v for k, v in table.items() if k[0] not in config.NAMED
    }
