"""History: every transition on disk, whatever becomes of journald, the disk or the power."""

import json
import re
import time
from typing import Any

import pytest

from host import read_only
from kinds import FOUR
from product import DONE, FAILED, USAGE, Ess
from trading import WAYS, Trading
from waiting import SOON, wait_until

HISTORY = "/var/lib/quantum-ess/history.jsonl"
JOURNALD = "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket"


def incidents(ess: Ess) -> list[dict[str, Any]]:
    """What `history --json` says."""
    found: list[dict[str, Any]] = json.loads(ess("history", "--json").stdout)
    return found


def records(ess: Ess, *events: str) -> list[dict[str, Any]]:
    """The records of the file in use, of these events if any are named."""
    if not ess.host.exists(HISTORY):
        return []
    found = [json.loads(line) for line in ess.host.read_file(HISTORY).splitlines()]
    return [entry for entry in found if not events or entry["event"] in events]


def refused(ess: Ess) -> list[int]:
    """How many starts were refused in each burst of the first incident."""
    return [row["count"] for row in incidents(ess)[0]["refused"]]


def assert_whole(ess: Ess) -> None:
    assert ess("history", "--verify").returncode == DONE


@pytest.mark.parametrize("way", WAYS)
def test_an_incident(trading: Trading, way: str) -> None:
    """From the stop over a refused start to the release: listed, told, whole."""
    ess, began = Ess(trading.host), time.time()
    assert ess("history").stdout == "No incident is on record.\n"
    why = ("--reason", "feed is stale") if way == "command" else ()
    trading.pull(way, *why)
    ess.wait_complete()
    (active,) = incidents(ess)
    assert (active["state"], active["incident"]) == ("active", ess.status()["incident"])
    assert (active["trigger"], active["actor"]["user"]) == (way, "root")
    assert active["reason"] == (why[1] if why else "")
    assert active["stopped"] == list(FOUR) and active["stop_ms"] > 0
    for count in range(1, 4):
        assert trading.host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
        wait_until(lambda c=count: refused(ess) == [c], SOON, f"refused start {count}")  # type: ignore[misc]
        ess.wait_idle()  # a start while that is being counted is refused, but not counted
    assert records(ess, "refused") == []  # the burst may go on
    ess("activate", "--reason", "to be sure")
    ess("deactivate", "--reason", "mended")
    (over,) = incidents(ess)
    assert over["state"] == "released" and over["refused"][0]["unit"] == FOUR[0]
    assert over["released"]["reason"] == "mended"
    assert [row["unit"] for row in over["released"]["started"]] == list(FOUR)
    assert 0 < over["downtime_s"] < time.time() - began
    assert [entry["event"] for entry in records(ess)] == [
        *("activated", "repeated", "refused", "unlatched", "released")
    ]
    listed = ess("history").stdout.splitlines()
    assert len(listed) == 2 and over["incident"] in listed[1] and way in listed[1]
    told = ess("history", over["incident"]).stdout
    assert told == ess("history", "last").stdout
    lines = ("ACTIVATED by root", "verified stopped in ", "refused to start quantum-ai-engine 3")
    for line in (*lines, "activated again by", "release begun by", "started", "RELEASED"):
        assert line in told, told
    assert ess("history", user="nobody").stdout == ess("history").stdout
    assert_whole(ess)
    ess("history", "last", "--report", "/var/cache/report.html")
    page = trading.host.read_file("/var/cache/report.html")
    assert over["incident"] in page and "<svg" in page and "RELEASED" in page
    # Whoever wrote it, every entry is explained.
    explained = trading.host.journal("-x", "-t", "quantum-ess")
    assert explained.count("Subject: ") == len(ess.events())
    assert "Subject: A start of protected unit quantum-ai-engine.service was refused" in explained


def test_following_misses_nothing(trading: Trading) -> None:
    """From the first entry of the first boot, and of one that has entries of another before it."""
    host, ess = trading.host, Ess(trading.host)
    for boot in (1, 2):
        follower = host.spawn("timeout", "300", "quantum-ess", "log", "--follow", "-n", "1000")
        wait_until(lambda: "journalctl" in host.sh("ps -eo comm"), SOON, "journalctl")
        ess("activate")
        ess.wait_complete()
        ess("deactivate", "--no-start")
        told = host.run("journalctl", "-b", "-q", "-t", "quantum-ess").stdout.splitlines()
        assert "ESS ACTIVATION COMPLETE" in "\n".join(told)
        assert follower.stdout is not None
        assert [follower.stdout.readline().rstrip() for _ in told] == told
        host.run("pkill", "-x", "journalctl")
        follower.communicate()
        if boot == 1:
            host.power_cut()


def test_journald_is_dead(trading: Trading) -> None:
    """The history has it all, and `log` shows it from there; else out of the journal."""
    host, ess = trading.host, Ess(trading.host)
    ess("activate")
    ess("deactivate")
    host.sh(f"systemctl stop {JOURNALD} systemd-journald-audit.socket 2>/dev/null || true")
    wait_until(lambda: not host.processes("systemd-journald.service"), SOON, "journald's end")
    ess("activate", "--reason", "in the dark", check=False)
    assert [entry.get("reason") for entry in records(ess, "activated")] == [None, "in the dark"]
    log = ess("log", "-n", "100")
    assert "journald does not listen" in log.stderr and "in the dark" in log.stdout
    host.run("systemctl", "start", *JOURNALD.split())
    ess.wait_event("complete", 2)
    wait_until(lambda: not ess("log").stderr, SOON, "a log out of the journal")
    assert "[ESS AUDIT] ESS ACTIVATION COMPLETE" in ess("log").stdout
    assert len(ess("log", "-n", "2").stdout.splitlines()) == 2
    assert ess("log", "-n", "none", check=False).returncode == USAGE


def test_power_cuts(trading: Trading) -> None:
    """A cut while latched, a line that it tore, a boot; then on without a gap."""
    host, ess = trading.host, Ess(trading.host)
    ess("activate", "--reason", "before the cut")
    ess.wait_complete()
    host.sh(f"head -c 40 {HISTORY} >>{HISTORY}; sync")
    host.power_cut()
    wait_until(lambda: '"restored"' in host.read_file(HISTORY), SOON, "the boot on record")
    ess("deactivate", "--no-start")
    checked = ess("history", "--verify")
    assert re.search(rf"^{HISTORY}:2: note: is no record: torn by a power cut", checked.stdout)
    (incident,) = incidents(ess)
    assert incident["state"] == "released" and incident["reason"] == "before the cut"
    assert "the host has booted" in ess("history", "last").stdout


def test_rotation_and_tampering(trading: Trading) -> None:
    """The real logrotate, with what the package ships: between and within incidents, compressed."""
    host, ess = trading.host, Ess(trading.host)
    host.apt("install", "--no-install-recommends", "logrotate")
    ours = "/etc/logrotate.d/quantum-ess"

    def rotate(files: int) -> set[str]:
        second = int(time.time())
        wait_until(lambda: int(time.time()) > second, SOON, "a new name: dated to the second")
        assert host.run("logrotate", "--force", ours).stderr == ""
        assert not host.exists(HISTORY)
        found = host.sh(f"cd $(dirname {HISTORY}); ls | grep history.jsonl").split()
        assert len(found) == files, found
        return set(found)

    ess("activate", "--reason", "one")
    ess("deactivate", "--no-start")
    (first,) = rotate(1)
    assert len(incidents(ess)) == 1
    # `log` follows the history itself while journald is dead.
    host.sh(f"systemctl stop {JOURNALD} systemd-journald-audit.socket 2>/dev/null || true")
    follower = host.spawn("sh", "-c", "exec quantum-ess log --follow -n 100 >/run/told")

    def told() -> str:
        return host.sh("cat /run/told 2>/dev/null || true")

    wait_until(lambda: "command): one" in told(), SOON, "the first incident")
    ess("activate", "--reason", "two", check=False)
    rotate(2)
    ess("deactivate", "--no-start", "--reason", "mended")
    host.run("sed", "-i", "s/nocompress/compress/", ours)  # as an administrator may
    assert len([name for name in rotate(3) if name.endswith(".gz")]) == 1
    ess("activate", "--reason", "three", check=False)
    ess("deactivate", "--no-start", "--reason", "over")
    log = ess("log", "-n", "100").stdout
    wait_until(lambda: told() == log, SOON, f"{log} and not {told()}")
    for text in ("two", "release begun by root (command): mended", "three"):
        assert log.count(text) == 1, log
    host.sh("kill $(pgrep -f '[c]ontroller log')")
    follower.communicate(timeout=SOON)
    host.sh("systemctl start systemd-journald.socket systemd-journald.service")
    assert [(row["reason"], row["state"]) for row in incidents(ess)] == [
        *(("one", "released"), ("two", "released"), ("three", "released"))
    ]
    assert len(ess("history").stdout.splitlines()) == 4
    # The second one began in one file and ended in the next.
    second = ess("history", incidents(ess)[1]["incident"]).stdout
    assert "ACTIVATED by root (command): two" in second and second.endswith("RELEASED\n"), second
    assert_whole(ess)
    host.sh(f"sed -i '2s/unlatched/released/' $(dirname {HISTORY})/{first}")
    found = ess("history", "--verify", check=False)
    assert found.returncode == FAILED
    assert f"{first}:2: record 2 was altered, or record 3 " in found.stdout, found.stdout


def test_a_disk_that_takes_nothing_and_python_gone(trading: Trading) -> None:
    """What the disk can't take waits in /run, what had no Python for the controller; in order."""
    host, ess = trading.host, Ess(trading.host)
    ess("activate")
    ess("deactivate")
    host.sh(read_only("/var/lib/quantum-ess"))
    ess("activate", "--reason", "no room", check=False)
    assert len(records(ess, "activated")) == 1
    assert [row["reason"] for row in incidents(ess)] == ["", "no room"]
    host.sh("mount -o remount,bind,rw /var/lib/quantum-ess")
    wait_until(lambda: len(records(ess, "activated")) == 2, SOON, "the record")
    ess("deactivate", "--no-start")
    host.sh("mv /usr/bin/python3 /usr/bin/python3.away")
    trading.pull("flag")
    logged = "cat /var/lib/quantum-ess/logged"
    wait_until(lambda: "stopped" in host.sh(logged), SOON, "the witness")
    assert len(records(ess, "activated")) == 2
    host.sh("mv /usr/bin/python3.away /usr/bin/python3")
    wait_until(lambda: len(records(ess, "activated")) == 3, SOON, "the third record")
    assert incidents(ess)[-1]["trigger"] == "flag"
    assert_whole(ess)
