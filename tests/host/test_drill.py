"""The drill: every way to stop, on canaries, while trading goes on and knows nothing of it."""

import json
import signal

import pytest

from host import Host
from product import DONE, FAILED, Ess
from trading import FLAG, Trading
from waiting import SOON, now_ns, wait_until

DRILL_FLAG = "/run/quantum-drill/DRILL_ON"
LEFT = ("/run/quantum-drill", "/run/quantum-ess-drill", "/var/lib/quantum-ess/drill")
RESULT = "/var/lib/quantum-ess/drill.json"
REDIS_WRITES = (
    "redis-cli INFO commandstats | grep -c -e cmdstat_set -e cmdstat_del -e cmdstat_publish || true"
)
WAYS = ("command", "unit", "path", "sentry")


def drill(host: Host, *more: str) -> tuple[int, str, str]:
    """Run a drill to its end."""
    done = host.run("quantum-ess", "drill", *more, check=False, timeout=150)
    return done.returncode, done.stdout, done.stderr


def everybody(trading: Trading) -> dict[str, str]:
    """Main PIDs of all services but ESS's own, the protected ones among them."""
    mine = {unit: str(trading.host.main_pid(unit)) for unit in trading.kinds}
    return {**trading.bystanders(), **mine}


def assert_nothing_left(host: Host) -> None:
    """No unit, process, flag, record or directory of a drill."""
    Ess(host).wait_idle()  # the last of it is stopped without waiting for that
    units = ("systemctl", "list-units", "--all", "--plain", "--no-legend", "--state=active,failed")
    # A slice of instances is systemd's and stays.
    assert host.run(*units, "quantum-ess-drill*", "quantum-ess-canary-*").stdout == ""
    assert [path for path in LEFT if host.exists(path)] == []
    canaries = "(/usr/bin/)?sleep infinity"  # the real sentry sleeps too, but not for ever
    assert host.run("pgrep", "-fxa", canaries, check=False).stdout == ""


def test_at_noon(host: Host, trading: Trading) -> None:
    """All ways pass; trading, Redis and the trail of emergencies are untouched; status tells."""
    ess = Ess(host)
    assert ess.status()["drill"]["overdue"]
    assert "never; OVERDUE" in ess("status").stdout
    before, redis = everybody(trading), host.sh(REDIS_WRITES)
    status, out, _ = drill(host)
    assert status == DONE, out
    assert out.splitlines()[-1].startswith("[SUMMARY] PASS: ")
    assert "FAIL" not in out
    assert everybody(trading) == before
    assert host.sh(REDIS_WRITES) == redis
    assert_nothing_left(host)
    assert ess.events() == [], "an entry of a drill was taken for an emergency"
    assert not ess.latched()
    assert ess.status()["problems"] == []
    kept = json.loads(host.read_file(RESULT))
    assert kept["result"] == "passed"
    assert tuple(kept["stop_ms"]) == WAYS
    assert all(0 < ms < 2000 for ms in kept["stop_ms"].values())
    last = ess.status()["drill"]
    assert (last["result"], last["time"], last["overdue"]) == ("passed", kept["time"], False)
    ess.configure("[drill]\noverdue = 1ms\n")
    assert "passed, " in ess("status").stdout
    assert "OVERDUE" in ess("status").stdout
    for line in ("ACTIVATION INITIATED", "STOPPED SERVICE: quantum-ess-canary-deaf", "PASSED"):
        assert f"[ESS DRILL] DRILL {line}" in host.journal("-t", "quantum-ess-drill")
    assert host.run("systemctl", "is-enabled", "quantum-ess-drill.timer", check=False).returncode


def test_what_is_broken_is_found(host: Host, trading: Trading) -> None:
    """A dead sentry and a gate that a later drop-in has undone; and the next drill passes again."""
    sentry = host.read_file("/usr/lib/quantum-ess/sentry")
    host.write_file("/usr/lib/quantum-ess/sentry", "#!/bin/sh\nexec sleep 1000\n", 0o755)
    opened = "/etc/systemd/system/quantum-ess-canary-deaf.service.d/zzz.conf"
    host.write_file(opened, "[Unit]\nAssertPathExists=\n[Service]\nExecCondition=\n")
    host.run("systemctl", "daemon-reload")
    before = everybody(trading)
    status, out, err = drill(host, "--json")
    assert status == FAILED, err
    result = json.loads(out)
    assert result["result"] == "failed"
    failed = [(c["step"], c["name"]) for c in result["checks"] if c["verdict"] == "FAIL"]
    assert {name for step, name in failed if step == 2} >= {"start refused"}
    assert "quantum-ess-canary-deaf" in " ".join(result["failures"])
    assert (5, "stopped") in failed
    assert (4, "stopped") not in failed
    assert everybody(trading) == before
    assert_nothing_left(host)
    assert any("drill FAILED" in problem for problem in Ess(host).status()["problems"])
    host.write_file("/usr/lib/quantum-ess/sentry", sentry, 0o755)
    host.run("rm", opened)
    host.run("systemctl", "daemon-reload")
    # As the timer does it, every week.
    host.run("systemctl", "start", "quantum-ess-drill.service", timeout=150)
    assert json.loads(host.read_file(RESULT))["result"] == "passed"
    assert_nothing_left(host)
    host.run("systemctl", "enable", "--now", "quantum-ess-drill.timer")
    assert host.properties("quantum-ess-drill.timer", "NextElapseUSecRealtime").popitem()[1]


def test_evidence_that_could_not_be_written_is_none(host: Host) -> None:
    done = host.run("sh", "-c", "quantum-ess drill >/dev/full", check=False, timeout=150)
    assert done.returncode == FAILED and "could not be written" in done.stderr, done
    assert json.loads(host.read_file(RESULT))["result"] == "passed"


@pytest.mark.parametrize("how", ["INT", "TERM", "KILL", "power cut"])
def test_interrupted(host: Host, how: str) -> None:
    """Nothing is left, or the next drill, or its undertaker, takes it away."""
    running = host.spawn("quantum-ess", "drill")
    wait_until(lambda: host.exists(DRILL_FLAG), SOON, "a flag")
    if how == "power cut":
        host.power_cut()
        running.communicate()
        assert_nothing_left(host)
        assert drill(host)[0] == DONE
        return
    host.sh(f"kill -{how} $(pgrep -f '[c]ontroller drill')")
    running.communicate(timeout=60)
    if how == "KILL":
        assert host.exists("/run/quantum-ess-drill")
        assert host.unit_state("quantum-ess-drill-clean.timer") == "active"
        host.run("systemctl", "start", "quantum-ess-drill-clean.service")
    else:
        assert running.returncode == 128 + signal.SIGINT
    assert_nothing_left(host)
    assert not host.exists(RESULT)


def test_the_undertaker_tries_again(host: Host) -> None:
    """If it finds a drill at work: that may be killed as well."""
    clean, lock = "quantum-ess-drill-clean.service", "/run/quantum-ess/drill.lock"
    running = host.spawn("quantum-ess", "drill")
    wait_until(lambda: host.exists(DRILL_FLAG), SOON, "a flag")
    host.sh("kill -KILL $(pgrep -f '[c]ontroller drill')")
    running.communicate(timeout=60)
    held = host.spawn("flock", lock, "cat")
    try_it = ("flock", "--nonblock", lock, "true")
    wait_until(lambda: host.run(*try_it, check=False).returncode, SOON, "the lock to be held")
    host.run("systemctl", "start", "--no-block", clean)
    wait_until(lambda: "a drill is running" in host.journal("-u", clean), SOON, "a try")
    assert host.exists("/run/quantum-ess-drill")
    held.communicate(timeout=SOON)
    wait_until(lambda: host.unit_state(clean) == "inactive", 30, "another try")
    assert_nothing_left(host)
    assert host.run("quantum-ess", "drill", "--clean").stdout == ""  # there is nothing to clean


@pytest.mark.parametrize("key", ["\x1a", "\x13"], ids=["Ctrl-Z", "Ctrl-S"])
def test_a_key_in_the_middle(host: Host, key: str) -> None:
    """On a terminal: neither stops it halfway, with canaries that run for good."""
    command = "bash -mc 'quantum-ess drill; true'"
    terminal = host.spawn("script", "-qec", command, "/dev/null")
    wait_until(lambda: host.exists(DRILL_FLAG), SOON, "a flag")
    assert terminal.stdin is not None
    terminal.stdin.write(key)
    terminal.stdin.flush()
    wait_until(lambda: host.exists(RESULT), 60, "its result")
    assert json.loads(host.read_file(RESULT))["result"] == "passed"
    assert_nothing_left(host)
    terminal.kill()
    terminal.communicate(timeout=SOON)


def test_a_daemon_reexec_in_the_middle(host: Host) -> None:
    """PID 1 closes its connections: that is no failure."""
    ours = ("-t", "quantum-ess-drill")
    running = host.spawn("quantum-ess", "drill")
    # Not a way whose command waits for PID 1: that would be cut off as well, by systemctl's doing.
    wait_until(
        lambda: host.journal(*ours).count("LATCH FLAG CLEARED") == 3, 60, "the last but one release"
    )
    host.run("systemctl", "daemon-reexec")
    out, said = running.communicate(timeout=150)
    assert running.returncode == DONE, (out, said)
    assert_nothing_left(host)


def test_it_gives_way_to_an_activation(host: Host, trading: Trading) -> None:
    """An activation during a drill stops trading as fast as ever, and the drill goes away."""
    running = host.spawn("quantum-ess", "drill")
    wait_until(lambda: host.exists(DRILL_FLAG), SOON, "a flag")
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    out, err = running.communicate(timeout=60)
    assert running.returncode == FAILED, out
    assert "gave way" in err
    assert_nothing_left(host)
    assert not host.exists(RESULT)
    began = now_ns()
    status, _, err = drill(host)
    assert (status, "ESS is ACTIVE" in err) == (FAILED, True)
    assert now_ns() - began < 5e9
    assert host.exists(FLAG)
    Ess(host).wait_event("complete", timeout=60)
    assert len(Ess(host).incidents()) == 1
