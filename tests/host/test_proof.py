"""The proof: passes on a good host, fails on each broken one, and leaves it as it found it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from host import Host
from kinds import FOUR, NORMAL, REDIS, service
from product import ACTIVE, DONE, FAILED, INACTIVE, RECORD, USAGE, Ess
from trading import FLAG, Trading
from waiting import SOON, hold, wait_until

HEADER = [
    "============================================================",
    "ESS (EMERGENCY STOP SYSTEM) - E2E PROOF",
    "============================================================",
]
PASSED = "[SUMMARY] PASS: All ESS components verified"
REPORT = "/root/proof.html"
# The release is a process of its own, which begins later than the emergency: by its time alone it
# would be taken for one that was meant.
LATE_EMERGENCY = """#!/bin/sh
[ "$1" != deactivate ] || { quantum-ess.real activate --reason "a late one"; sleep 0.1; }
quantum-ess.real "$@"
"""


def proof(host: Host, *more: str) -> subprocess.CompletedProcess[str]:
    """Run a proof to its end."""
    return host.run("quantum-ess", "proof", "--yes", *more, check=False, timeout=240)


def failures(host: Host) -> dict[str, str]:
    """Names of the checks that fail, and what they measured."""
    done = proof(host, "--json")
    assert done.returncode == FAILED, done
    result = json.loads(done.stdout)
    assert result["result"] == "failed"
    return {c["name"]: c["measured"] for c in result["checks"] if c["verdict"] == "FAIL"}


def browse(page: Path, *options: str) -> str:
    """What headless Chromium says of a page."""
    browser = shutil.which("chromium")
    assert browser, "chromium is not installed: make setup"
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    flags += " --disable-background-networking --disable-component-update"
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [browser, *flags.split(), profile, *options, f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_a_good_host(host: Host, trading: Trading, tmp_path: Path) -> None:
    """PASS; what ran runs again and nothing else; the report is fit to be read in a browser."""
    idle = FOUR[3]
    trading.put_down(idle)
    kept = trading.kept_pids()
    done = proof(host, "--report", REPORT)
    lines = done.stdout.splitlines()
    assert done.returncode == DONE, done
    assert lines[:3] == HEADER
    assert lines[-1] == PASSED
    assert trading.kept_pids() == kept
    assert trading.states() == dict.fromkeys(FOUR[:3], "active") | {idle: "inactive"}
    ess = Ess(host)
    assert ess.first_line() == INACTIVE
    assert len(ess.incidents()) == 3
    assert host.run("redis-cli", "GET", "quantum:ess:active").stdout.strip() == ""
    page = tmp_path / "proof.html"
    page.write_text(host.read_file(REPORT))
    assert host.run("stat", "-c", "%a", REPORT).stdout.strip() == "600"
    dom = browse(page, "--dump-dom")
    for text in ("PASS", "Timeline", "quantum-ai-engine (command)", "every process dead", "<svg"):
        assert text in dom
    assert "FAIL" not in dom
    browse(page, f"--screenshot={tmp_path / 'proof.png'}", "--window-size=1000,1400")
    assert (tmp_path / "proof.png").stat().st_size > 50_000
    # The three stops as the history has them: a list, and the last one told.
    ess("history", "--report", REPORT)
    page.write_text(host.read_file(REPORT))
    dom = browse(page, "--dump-dom")
    assert [dom.count(incident) > 0 for incident in ess.incidents()] == [True] * 3
    ess("history", "last", "--report", REPORT)
    page.write_text(host.read_file(REPORT))
    dom = browse(page, "--dump-dom")
    for text in (ess.incidents()[-1], "<svg", "verified stopped in", "RELEASED"):
        assert text in dom
    browse(page, f"--screenshot={tmp_path / 'history.png'}", "--window-size=1000,1400")
    assert (tmp_path / "history.png").stat().st_size > 30_000

    host.run("systemctl", "stop", REDIS)
    done = proof(host, "--json")
    result: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, result["result"]) == (DONE, "passed"), done
    notes = [c for c in result["checks"] if c["verdict"] == "NOTE"]
    assert len(notes) == 6
    assert all("Redis" in c["name"] and "not shown" in c["measured"] for c in notes)


def test_gate_path_unit_and_journal(host: Host, trading: Trading) -> None:
    """A gate undone by a later drop-in, a dead path unit and a hung journald: each is found."""
    open_ = FOUR[1]
    opened = f"/etc/systemd/system/{open_}.d/zzzz.conf"
    host.write_file(opened, "[Unit]\nAssertPathExists=\n[Service]\nExecCondition=\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "stop", "quantum-ess.path")
    host.run("systemctl", "kill", "-s", "STOP", "systemd-journald")
    found = failures(host)
    assert open_ in found["gate"]
    assert open_ in found["start refused"]
    assert "quantum-ess.path" in found["watchers"]
    assert "MISSING" in found["audit lines"]
    assert "ExecCondition=" in found["gate"]
    found.pop("path unit", "")  # the watch has revived it, or not yet
    found.pop("exit status", "")  # a hung journald takes entries until its socket is full
    assert set(found) == {"gate", "start refused", "watchers", "audit lines"}
    host.run("systemctl", "kill", "-s", "CONT", "systemd-journald")
    assert trading.states() == dict.fromkeys(FOUR, "active")


def test_a_survivor_and_a_slow_stop(host: Host, trading: Trading) -> None:
    """Somebody keeps putting processes into a protected cgroup; and the way to the kill is slow."""
    group = f"/sys/fs/cgroup/system.slice/{FOUR[2]}"
    strike = "/usr/lib/quantum-ess/strike"
    fast = host.read_file(strike)
    host.write_file(strike, fast.replace("set -u\n", "set -u\nsleep 2.2\n", 1))
    host.run("systemctl", "stop", "quantum-ess-sentry")  # it has read the quick one
    found = failures(host)
    assert "ms" not in found["stopped"] or int(found["stopped"].split()[0]) > 2000
    assert trading.states() == dict.fromkeys(FOUR, "active")
    host.write_file(strike, fast)
    host.run("systemctl", "start", "quantum-ess-sentry")
    raise_dead = f"""
    while :; do
        mkdir -p {group}
        [ $(wc -l <{group}/cgroup.procs) -gt 1 ] || {{ sleep 100 & echo $! >{group}/cgroup.procs; }}
        sleep 0.01
    done 2>/dev/null"""
    host.run("systemd-run", "--unit=necromancer", "--quiet", "/bin/sh", "-c", raise_dead)
    wait_until(lambda: len(host.processes(FOUR[2])) > 1, 30, "a second process")
    found = failures(host)
    # Dead for a moment, where it is raised too slowly: then it is alive again.
    assert FOUR[2] in found.get("stopped", "") + found.get("no restart", "")
    host.run("systemctl", "stop", "necromancer")


def test_interrupted_and_overtaken(host: Host, trading: Trading) -> None:
    """After SIGTERM what ran runs again. An emergency that somebody declares meanwhile stays."""
    ess = Ess(host)
    running = host.spawn("quantum-ess", "proof", "--yes")
    wait_until(lambda: len(ess.named("complete")) == 1, 60, "the first stop")
    host.sh("kill -TERM $(pgrep -f '[c]ontroller proof')")
    running.communicate(timeout=180)
    assert running.returncode == 130
    assert trading.states() == dict.fromkeys(FOUR, "active")
    assert ess.first_line() == INACTIVE

    before = len(ess.named("refused"))
    running = host.spawn("quantum-ess", "proof", "--yes")
    wait_until(lambda: len(ess.named("refused")) >= before + 4, 60, "refused starts")
    assert ess("activate", "--reason", "a real one").returncode == DONE
    out, _ = running.communicate(timeout=180)
    assert running.returncode == FAILED, out
    assert out.splitlines()[-1].startswith("[SUMMARY] FAIL: ")
    assert "ESS stays ACTIVE" in out
    assert ess.first_line() == ACTIVE
    hold(lambda: trading.remaining(), 0.5, "running")
    done = proof(host)
    assert (done.returncode, "ACTIVE already" in done.stderr) == (FAILED, True)

    # Somebody releases in the midst of it: nothing is proved, and everything runs.
    ess("deactivate")
    trading.all_running()
    removed = host.spawn("sh", "-c", f"until grep -qs stop_ms {RECORD}; do :; done; rm {FLAG}")
    done = proof(host)
    assert removed.wait(timeout=60) == 0
    assert (done.returncode, "somebody else has released ESS" in done.stdout) == (FAILED, True), (
        done
    )
    trading.all_running()
    ess("activate")

    # One that comes right before the proof's own release: it is not what that is to release.
    ess("deactivate")
    trading.all_running()
    host.sh("mv /usr/bin/quantum-ess /usr/bin/quantum-ess.real")
    host.write_file("/usr/bin/quantum-ess", LATE_EMERGENCY, 0o755)
    before = len(ess.named("released"))
    done = proof(host)
    assert (done.returncode, "ESS stays ACTIVE" in done.stdout) == (FAILED, True), done
    assert len(ess.named("released")) == before, done.stdout
    host.sh("mv /usr/bin/quantum-ess.real /usr/bin/quantum-ess")
    assert ess.first_line() == ACTIVE
    assert ess.named("repeated")[-1]["ESS_REASON"] == "a late one"
    hold(lambda: trading.remaining(), 0.5, "running")


@pytest.mark.parametrize("key", ["\x1a", "\x13"], ids=["Ctrl-Z", "Ctrl-S"])
def test_a_key_in_the_middle(host: Host, trading: Trading, key: str) -> None:
    """On a terminal: neither stops it halfway, with ESS active."""
    ess = Ess(host)
    # By a shell with job control, as in test_together.py.
    command = "bash -mc 'quantum-ess proof --yes; true'"
    terminal = host.spawn("script", "-qec", command, "/dev/null")
    wait_until(lambda: host.exists(FLAG), 60, "the first stop")
    assert terminal.stdin is not None
    terminal.stdin.write(key)
    terminal.stdin.flush()
    ess.wait_event("proof-passed", timeout=180)
    trading.all_running()
    assert ess.first_line() == INACTIVE
    terminal.kill()
    terminal.communicate(timeout=SOON)


def test_a_daemon_reexec_in_the_middle(host: Host, trading: Trading) -> None:
    """PID 1 closes its connections: that is no failure, neither of the proof nor of what ran."""
    ess = Ess(host)
    running = host.spawn("quantum-ess", "proof", "--yes")
    ess.wait_event("unlatched", timeout=60)
    host.run("systemctl", "daemon-reexec")
    out, said = running.communicate(timeout=240)
    assert running.returncode == DONE, (out, said)
    assert out.splitlines()[-1] == PASSED
    assert trading.states() == dict.fromkeys(FOUR, "active")


def test_a_socket_and_what_another_unit_wants(host: Host) -> None:
    """PID 1 starts them before their turn: that is in order."""
    trading = Trading(
        host, dict.fromkeys(("gw.service", "engine.service", "feed.service"), "normal")
    )
    trading.write_unit("gw.socket", "[Socket]\nListenStream=/run/gw\n")
    trading.write_unit("gw.service", f"[Unit]\nWants=feed.service\n{service(NORMAL)}")
    host.run("systemctl", "daemon-reload")
    Ess(host).configure("[protect]\nunits = gw engine feed gw.socket\n[resume]\nsettle = 100ms\n")
    host.run("systemctl", "start", "gw.socket")
    trading.start()
    done = proof(host)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (DONE, PASSED), done
    assert host.unit_state("gw.socket") == "active"


def test_a_touch_during_the_stop_by_unit(host: Host, trading: Trading) -> None:
    """The unit marks the flag as well: that is the proof's own, and the touch is not."""
    third = f"""
    for stop in 1 2 3; do
        until [ -e {FLAG} ]; do sleep 0.02; done
        [ $stop = 3 ] || while [ -e {FLAG} ]; do sleep 0.02; done
    done
    # Not while it is given its time: that would undo it.
    until [ -s {FLAG} ]; do sleep 0.02; done
    sleep 0.1
    touch {FLAG}"""
    touched = host.spawn("sh", "-c", third)
    done = proof(host)
    assert touched.wait(timeout=SOON) == 0
    assert (done.returncode, "ESS stays ACTIVE" in done.stdout) == (FAILED, True), done
    assert Ess(host).first_line() == ACTIVE
    hold(lambda: trading.remaining(), 0.5, "running")


def test_with_a_stop_group(host: Host, trading: Trading) -> None:
    """There the shell sets the flag in two steps: both are the proof's own."""
    Ess(host).configure("[resume]\nsettle = 100ms\n[access]\nstop_group = adm\n")
    mode = ("stat", "-c", "%a %G", "/run/quantum")
    wait_until(lambda: host.run(*mode).stdout == "1775 adm\n", SOON, "the group's right")
    done = proof(host)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (DONE, PASSED), done


def test_it_asks_first(host: Host, trading: Trading) -> None:
    """Without a terminal it needs --yes; on a terminal, anything but yes means no."""
    pids = {unit: host.main_pid(unit) for unit in FOUR}
    done = host.run("quantum-ess", "proof", check=False)
    assert (done.returncode, "--yes" in done.stderr) == (USAGE, True)
    asked = host.run("script", "-qec", "quantum-ess proof", "/dev/null", check=False, input="no\n")
    assert asked.returncode == FAILED
    assert "STOPS TRADING" in asked.stdout
    assert "nothing was done" in asked.stdout
    assert {unit: host.main_pid(unit) for unit in FOUR} == pids
    assert not host.exists(FLAG)
