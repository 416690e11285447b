"""What the shells read, with any bytes in it: they judge on, and by the next good plan."""

import re
import subprocess
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_strike import ASK, PLAN, STRIKE

many = settings(max_examples=120, deadline=None)
LIMIT = 10.0  # seconds; what takes longer hangs
UNITS = ("quantum-a.service", "bot@B.service", "nginx.service", "quantum-rl-monitor.service")
READ = 'printf %s "$protect$keep$patterns$slow$slow_patterns" | tr -c "a-z@.*-" _'
TIME = '. "$1"; flag=$2; flag_time; echo "$since"'
FIELD = '. "$1"; state=$2; field incident; echo; field since'

words = st.sampled_from(PLAN.split()) | st.text(
    "*?[]!\\\"'`$();&|<>#~-=. \t@\x7f\u00e9", max_size=9
)
lines = st.lists(words, max_size=6).map(" ".join)
plans = st.lists(lines, max_size=12).map(lambda rows: "\n".join(rows).encode()) | st.binary(
    max_size=99
)
records = st.binary(max_size=80) | st.from_regex(
    r'.*"(incident|since)": ".*".*', fullmatch=True
).map(lambda text: text.encode("utf-8", "surrogatepass"))

stamps = st.from_regex(
    rb"[0-9TZ?*:-]{4}-[0-9]{2}-[0-9 ]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z[^0]?", fullmatch=True
)


def shell(directory: Path, script: str, *argv: object) -> list[str]:
    """What the script says; AssertionError if it fails, complains or hangs."""
    done = subprocess.run(
        ["sh", "-c", script, "sh", STRIKE, *map(str, argv)],
        cwd=directory,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def whole(plan: bytes) -> bool:
    """Whether it ends as a plan does, to a shell: which passes over NUL and an unended line."""
    rows = plan.replace(b"\0", b"").split(b"\n")[:-1]
    return any(re.fullmatch(rb"[ \t]*end[ \t]*", row) for row in rows)


def test_a_plan_of_any_bytes(tmp_path: Path) -> None:
    place, plan, good = (tmp_path / name for name in ("place", "plan", "good"))
    place.mkdir()
    (place / "decoy.service").touch()
    good.write_text(PLAN)

    @many
    @example(b"keep *\nprotect * 0 0\nprotect $(touch made) 0 0\nprotect `touch made` 0 0\nend\n")
    @example(b"protect quantum-a.service 1 08\nprotect [ 1 -1\nend\n")
    @given(plans)
    def check(content: bytes) -> None:
        plan.write_bytes(content)
        *said, read, files = shell(place, ASK + READ, f"{plan} {good}", *UNITS)[:6]
        assert "decoy" not in files, "the plan was expanded"
        assert read == "decoy.service", "the plan was run"
        judged = dict(line.split(" ", 1) for line in said)
        assert tuple(judged) == UNITS
        if not whole(content):
            assert judged["quantum-a.service"] != "no", "the next plan's names were not added"

    check()


def test_a_record_of_any_bytes(tmp_path: Path) -> None:
    @many
    @given(records)
    def check(content: bytes) -> None:
        (tmp_path / "latched").write_bytes(content)
        said = shell(tmp_path, FIELD, tmp_path)
        assert all(re.fullmatch(r"[0-9a-zTZ:-]*", line) for line in said), said

    check()


def test_a_flag_of_any_bytes(tmp_path: Path) -> None:
    """Its time goes into record and journal, and whoever may stop may have written it."""
    flag = tmp_path / "ESS_ON"

    @many
    @example(b"2026-11-28T16:30:00Z\n")
    @example(b"2026-11-28T16:30:00Z and more")
    @example(b'2026-11-28T16:3"\0",\n0Z')
    @given(st.binary(max_size=40) | stamps)
    def check(content: bytes) -> None:
        flag.write_bytes(content)
        [said] = shell(tmp_path, TIME, flag)
        assert re.fullmatch(r"|[\dTZ:-]{20}", said, re.ASCII)
        if re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", content):
            assert said == content[:20].decode()

    check()
