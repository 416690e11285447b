"""Status: exact first line, who, why, since when, every unit; also when little can be read."""

import json
import re

import pytest

from kinds import FOUR, KEPT, REDIS
from product import ACTIVE, DONE, FAILED, INACTIVE, IS_INACTIVE, ISO_TIME, WATCH, Ess
from trading import FLAG, WAYS, Trading
from waiting import wait_until

COLOUR = "\x1b["


def test_inactive(trading: Trading) -> None:
    ess = Ess(trading.host)
    said = ess("status").stdout
    assert said.splitlines()[0] == INACTIVE
    for unit in (*FOUR, *KEPT, REDIS):
        assert re.search(rf"^ +{re.escape(unit)} +active", said, re.M), said
    assert "Warning" not in said
    assert ess("status", "--quiet", check=False).returncode == IS_INACTIVE


@pytest.mark.parametrize("way", WAYS)
def test_active(trading: Trading, way: str) -> None:
    more = ("--reason", "feed is stale") if way == "command" else ()
    trading.pull(way, *more)
    ess = Ess(trading.host)
    ess.wait_complete()
    said = ess("status").stdout
    assert said.splitlines()[0] == ACTIVE
    since = re.search(ISO_TIME, said)
    assert since and since[0] == trading.host.read_file(FLAG).strip()
    assert "root" in said and way in said
    if more:
        assert "feed is stale" in said
    for unit in FOUR:
        assert re.search(rf"^ +{re.escape(unit)} +inactive", said, re.M), said
    for unit in (*KEPT, REDIS):
        assert re.search(rf"^ +{re.escape(unit)} +active", said, re.M), said
    assert "quantum-ess deactivate" in said
    assert "Warning" not in said
    quiet = ess("status", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (DONE, "", "")


def test_flag_that_was_touched_gets_its_documented_form(trading: Trading) -> None:
    trading.pull("flag")
    Ess(trading.host).wait_complete()
    assert re.fullmatch(ISO_TIME + "\n", trading.host.read_file(FLAG))
    assert trading.host.sh(f"stat -c %a {FLAG}") == "644\n"


def test_no_arguments_print_status(trading: Trading) -> None:
    ess = Ess(trading.host)
    assert ess().stdout == ess("status").stdout
    ess("activate")
    assert ess().stdout.splitlines()[0] == ACTIVE


def test_output_that_can_t_be_written(trading: Trading) -> None:
    """It is no damage to the product, and is said once."""
    told = {
        "quantum-ess status >/dev/full": "quantum-ess: output: No space left on device\n",
        "trap '' PIPE; quantum-ess status | true; exit 1": "",
    }
    for script, said in told.items():
        done = trading.host.run("sh", "-c", script, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (FAILED, "", said), script


def test_json(trading: Trading) -> None:
    """The documented keys, with the same meaning whether active or not."""
    ess = Ess(trading.host)
    data = ess.status()
    assert data["status"] == "INACTIVE"
    assert data["latch"] == {"flag": False, "record": False}
    assert data["incident"] is None
    assert {row["unit"]: row["state"] for row in data["protected"]} == dict.fromkeys(
        FOUR, "active (running)"
    )
    assert {row["unit"] for row in data["kept"]} == {*KEPT, REDIS}
    assert data["problems"] == []
    assert data["config"]["error"] is None

    ess("activate", "--reason", 'line 1\nline 2 "quoted" é')
    ess.wait_complete()
    data = ess.status()
    assert data["status"] == "ACTIVE"
    assert data["latch"] == {"flag": True, "record": True}
    assert re.fullmatch(ISO_TIME, data["since"])
    assert data["reason"] == 'line 1\nline 2 "quoted" é'
    assert data["trigger"] == "command"
    assert data["actor"]["user"] == "root" and data["actor"]["uid"] == 0
    assert data["incident"] == ess.incidents()[0]
    assert {row["state"] for row in data["protected"]} == {"inactive"}
    page = trading.host.sh("gzip -dc /usr/share/man/man8/quantum-ess.8.gz")
    assert [key for key in data if key not in page] == []


def test_without_root(trading: Trading) -> None:
    ess = Ess(trading.host)
    assert ess("status", user="nobody").stdout == ess("status").stdout
    ess("activate", "--reason", "feed is stale")
    ess.wait_complete()
    said = ess("status", user="nobody").stdout
    assert said.splitlines()[0] == ACTIVE
    assert "feed is stale" in said
    assert re.search(rf"^ +{FOUR[0]} +inactive", said, re.M)


@pytest.mark.parametrize("user", [None, "nobody"])
def test_without_d_bus(trading: Trading, user: str | None) -> None:
    """Root still reaches PID 1; nobody gets the cgroups' word and is told so."""
    host = trading.host
    ess = Ess(host)
    ess("activate")
    ess.wait_complete()
    host.sh("systemctl mask --runtime dbus.socket; systemctl stop dbus.socket dbus.service; true")
    host.sh("rm -f /run/dbus/system_bus_socket")
    said = ess("status", user=user).stdout
    assert said.splitlines()[0] == ACTIVE
    assert all(unit in said for unit in (*FOUR, *KEPT))
    assert ("could not be asked" in said) == (user is not None)


def test_with_pid_1_hung(trading: Trading) -> None:
    ess = Ess(trading.host)
    ess("activate")
    ess.wait_complete()
    with trading.host.frozen():
        said = ess("status").stdout
    assert said.splitlines()[0] == ACTIVE
    assert "could not be asked" in said


def test_with_a_broken_configuration(trading: Trading) -> None:
    """File and line of the error, and what is in force instead."""
    ess = Ess(trading.host)
    ess.configure("# a comment\n[protect]\nunit = x\n")
    said = ess("status").stdout
    assert said.splitlines()[0] == INACTIVE
    assert "/etc/quantum-ess/quantum-ess.conf.d/test.conf:3" in said
    assert "last good" in said
    assert all(unit in said for unit in FOUR)
    assert "test.conf:3" in ess.status()["config"]["error"]
    ess.configure("")
    assert "last good" not in ess("status").stdout
    assert ess.status()["config"]["error"] is None


def test_with_an_unreadable_record(trading: Trading) -> None:
    ess = Ess(trading.host)
    ess("activate")
    ess.wait_complete()
    # Else `tend` writes the record anew, perhaps before it is looked at.
    trading.host.run("systemctl", "stop", *WATCH)
    trading.host.sh("printf garbage >/var/lib/quantum-ess/latched")
    said = ess("status").stdout
    assert said.splitlines()[0] == ACTIVE
    assert "/var/lib/quantum-ess/latched" in said
    assert json.loads(ess("status", "--json").stdout)["status"] == "ACTIVE"


def test_says_that_the_flag_is_not_watched(trading: Trading) -> None:
    trading.host.run("systemctl", "stop", "quantum-ess.path")
    said = Ess(trading.host)("status").stdout
    assert "quantum-ess.path" in said and "Warning" in said


def test_says_that_a_unit_runs_while_active(trading: Trading) -> None:
    host = trading.host
    host.run("systemctl", "stop", "quantum-ess-sentry")
    with host.frozen():
        host.sh(f"touch {FLAG}")
        said = Ess(host)("status").stdout
    assert said.splitlines()[0] == ACTIVE
    assert re.search(rf"^ +{FOUR[0]} +running", said, re.M), said


def test_watch(trading: Trading) -> None:
    """Elsewhere a block for each change; on a terminal the screen is written over, in place."""
    host, ess = trading.host, Ess(trading.host)
    watch = "quantum-ess status --watch"
    host.sh(f"({watch} >/run/plain & echo $! >/run/pid) 2>/dev/null")
    terminal = host.spawn("script", "-qec", watch, "/run/screen", env={"TERM": "xterm"})
    for path in ("/run/plain", "/run/screen"):
        wait_until(lambda p=path: host.exists(p) and INACTIVE in host.read_file(p), 30, path)  # type: ignore[misc]
    ess("activate")
    for path in ("/run/plain", "/run/screen"):
        wait_until(lambda p=path: ACTIVE in host.read_file(p), 30, path)  # type: ignore[misc]
    plain, screen = host.read_file("/run/plain"), host.read_file("/run/screen")
    assert COLOUR not in plain and plain.index(INACTIVE) < plain.index(ACTIVE)
    assert "\x1b[H" in screen and screen.index(INACTIVE) < screen.index(ACTIVE)
    host.sh("kill $(cat /run/pid); pkill -INT -f '[c]ontroller status'")
    terminal.communicate(timeout=30)
    assert "\x1b[?25h" in host.read_file("/run/screen")[-200:], "the cursor is back"


def test_colour_only_on_a_terminal(trading: Trading) -> None:
    host = trading.host
    on_a_terminal = ("script", "--quiet", "--return", "--command", "quantum-ess", "/dev/null")
    assert COLOUR not in Ess(host)("status").stdout
    assert COLOUR in host.run(*on_a_terminal, env={"TERM": "xterm"}).stdout
    plain = host.run(*on_a_terminal, env={"TERM": "xterm", "NO_COLOR": "1"}).stdout
    assert COLOUR not in plain
    assert plain.splitlines()[0] == INACTIVE
