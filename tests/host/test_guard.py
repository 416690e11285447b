"""The guard on real hosts with a real Redis: what it acts on, and what it must not act on."""

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import time

import pytest

import replay
from faults.fault import Fault, hung
from faults.pressure import PRESSURE_FAULTS
from faults.services import REDIS_FAULTS, instead_of_redis
from guarding import NOTICED, STATE, UNIT, WATCHER, Guarded, condition
from host import STAMPS, STANDIN, Host
from kinds import REDIS
from product import CONFIGURATION, FAILED, USAGE, Ess, sent
from trading import FLAG, TRIGGER, Trading
from waiting import SOON, hold, now_ns, wait_until

PORTFOLIO, EQUITY = "quantum:state:portfolio", "quantum:equity:current"
PYTHON_DAEMON = "/usr/lib/python3/dist-packages/daemon"
STILL_BREACHED = 11
ROUNDS = 5  # of a flag with Redis as ever, and with Redis hung
GRAIN = 1.0  # ms: two beats of a stand-in
NEVER = 1.5  # seconds: some polls and repeats, in which a mistake would show


def now() -> int:
    """Epoch seconds, as the applications write them."""
    return int(time.time())


def test_every_kind_of_value(trading: Trading) -> None:
    """Each fires on a real breach and not on one bad sample; hash, JSON and plain text alike."""
    guard = Guarded(trading.host)
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.01", "timestamp", now())
    guard.redis("SET", "json", json.dumps({"risk": [{"drawdown": 0.01}]}))
    guard.redis("HSET", EQUITY, "equity", 100000)
    guard.redis("SET", "beat", now())
    guard.redis("SET", "counter", 1)
    guard.redis("SET", "alive", 1)
    guard.configure(
        condition("hash", redis=PORTFOLIO, field="drawdown", limit="> 0.05", samples=2),
        condition("text", redis="json", field="risk.0.drawdown", limit="> 0.05", samples=2),
        condition("drop", redis=EQUITY, field="equity", measure="drop", limit=">= 3%", samples=1),
        condition("age", redis="beat", measure="age", limit="> 3600s"),
        condition("stuck", redis="counter", measure="unchanged", limit="> 1h"),
        condition("gone", redis="alive", measure="missing", lasting="10s"),  # DEL to SET
        repeat="1h",  # so that a sample is a write, however long this machine takes between two
    )
    assert {row["state"] for row in guard.rows().values()} == {"fine"}
    assert guard.state()["redis"]["push"], guard.state()["redis"]

    # One bad sample each, mended before the next.
    expiring = f"HSET {PORTFOLIO} drawdown 0.9\\nEXPIRE {PORTFOLIO} 3600\\n"
    trading.host.sh(f"printf '{expiring}' | redis-cli")  # two changes, and one sample
    guard.redis("SET", "json", json.dumps({"risk": [{"drawdown": 0.9}]}))
    guard.redis("HSET", EQUITY, "equity", 1000000)
    guard.wait("hash", state="breached")
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.02")
    guard.redis("SET", "json", json.dumps({"risk": [{"drawdown": 0.02}]}))
    guard.redis("HSET", EQUITY, "equity", 100000)
    guard.redis("DEL", "alive")
    guard.wait("gone", state="breached")
    guard.redis("SET", "alive", 1)
    guard.wait("gone", state="fine")
    for bad in ("nan", "inf", "lots", ""):
        guard.redis("HSET", PORTFOLIO, "drawdown", bad)
        assert guard.wait("hash", state="unknown")["problem"]
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.02")
    hold(guard.latched, NEVER, "an activation by one bad sample")

    # And what must act. The Redis side of each breach, and of its end.
    breaches = {
        "hash": (("HSET", PORTFOLIO, "drawdown", "0.12"), ("HSET", PORTFOLIO, "drawdown", "0.01")),
        "text": (
            ("SET", "json", '{"risk": [{"drawdown": 0.12}]}'),
            ("SET", "json", '{"risk": [{"drawdown": 0}]}'),
        ),
        "drop": (("HSET", EQUITY, "equity", 96000), ("HSET", EQUITY, "equity", 100000)),
        "age": (("SET", "beat", now() - 4000), ("SET", "beat", now())),
        "gone": (("DEL", "alive"), ("SET", "alive", 1)),
    }
    for name, (breach, end) in breaches.items():
        guard.redis(*breach)
        if name in ("hash", "text", "age"):
            guard.wait(name, state="breached")
            hold(guard.latched, 0.2, "an activation by one sample")  # less is one write to it
            guard.redis(*breach)
        reason = guard.wait_fired(name)
        if name == "hash":
            assert reason == f"condition hash: {PORTFOLIO} drawdown 0.12 > 0.05"
        guard.redis(*end)
        guard.calm(name)
    trading.all_running()
    messages = guard.ess.messages()
    assert messages.count("ESS ACTIVATION COMPLETE") == len(breaches)


def test_what_systemd_and_the_kernel_say(trading: Trading) -> None:
    """Without Redis: restarts, a failed unit, a kept unit that is down, pressure."""
    host = trading.host
    guard = Guarded(host)
    host.write_file(
        "/etc/systemd/system/weak.service",
        "[Service]\nExecStart=/bin/sleep 999\n"
        "Restart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=0\n",
    )
    host.write_file("/etc/systemd/system/job.service", "[Service]\nExecStart=/bin/sleep 999\n")
    host.sh("systemctl daemon-reload; systemctl start weak job; systemctl stop redis-server")
    guard.configure(
        condition("restarts", unit="weak", measure="restarts", limit="> 2", window="1min"),
        condition("failed", unit="job", lasting="500ms"),
        condition("down", unit="grafana-server", measure="down", lasting="1s"),
        condition("typo", unit="grafana-serve", lasting="1s"),
        condition("pressure", pressure="io", limit=">= 100%", lasting="1h"),  # is shown
    )
    assert "not-found" in guard.wait("typo", state="unknown")["problem"]
    assert guard.state()["redis"] is None, "nothing is read there"
    host.sh("systemctl kill -s KILL weak")
    guard.wait("restarts", value=1.0)
    hold(guard.latched, NEVER, "an activation by one restart")
    for count in (2.0, 3.0):
        host.sh("systemctl kill -s KILL weak")
        guard.wait("restarts", value=count) if count < 3 else None
    guard.wait_fired("restarts")
    refused = guard.ess("deactivate", check=False)
    assert refused.returncode == STILL_BREACHED and "restarts" in refused.stderr
    guard.ess("deactivate", "--override", "--reason", "weak is mended")
    host.sh("systemctl kill -s KILL job")
    guard.wait_fired("failed")
    host.sh("systemctl reset-failed job; systemctl start job")
    guard.calm("failed")
    host.run("systemctl", "stop", "grafana-server")
    guard.wait_fired("down")
    host.run("systemctl", "start", "grafana-server")
    guard.calm("down")
    # Whatever else this machine does is pressure: the limit is what is made to be crossed.
    guard.configure(condition("pressure", pressure="cpu", limit="> 0%", lasting="1s"))
    host.sh("for n in 1 2 3 4 5 6; do timeout 12 sh -c 'while :; do :; done' & done")
    guard.wait_fired("pressure")


def test_neither_a_restart_of_redis_nor_its_own_start_is_a_breach(trading: Trading) -> None:
    host = trading.host
    guard = Guarded(host)
    guard.redis("CONFIG", "SET", "save", "")
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.12")
    guard.redis("SET", "alive", 1)
    rules = (
        condition("drawdown", redis=PORTFOLIO, field="drawdown", limit="> 0.05", lasting="20s"),
        condition("alive", redis="alive", measure="missing", lasting="20s"),
    )
    guard.configure(*rules, redis_down="activate", redis_down_for="20s", unknown="activate")
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.01")
    host.sh("systemctl restart quantum-ess-guard")
    guard.redis("SET", "alive", 1)
    guard.wait("drawdown", state="fine")

    # Redis comes back empty; the applications write again within a second.
    host.sh("systemctl restart redis-server")
    guard.wait("alive", state="breached")
    guard.redis("SET", "alive", 1)
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.01")
    guard.wait("alive", state="fine")
    guard.wait("drawdown", state="fine")
    hold(guard.latched, NEVER, "an activation by a restart")

    # The marker: renewed while latched whatever Redis forgets, gone after the release.
    guard.ess("activate")
    guard.ess.wait_complete()
    since = guard.ess.status()["since"]
    for forget in ("redis-cli FLUSHALL", "systemctl restart redis-server"):
        host.sh(forget)
        wait_until(lambda: guard.redis("GET", "quantum:ess:active") == since, SOON, "the marker")
    assert guard.redis("TTL", "quantum:ess:active") == "-1"
    guard.redis("SET", "alive", 1)
    guard.redis("HSET", PORTFOLIO, "drawdown", "0.01")
    guard.wait("alive", state="fine")
    guard.ess("deactivate")
    assert guard.redis("EXISTS", "quantum:ess:active") == "0"
    guard.redis("SET", "quantum:ess:active", since)  # as a failover that lost the deletion
    wait_until(lambda: guard.redis("EXISTS", "quantum:ess:active") == "0", SOON, "its removal")

    # And what is configured to act on Redis's absence does.
    guard.configure(*rules, redis_down="activate", redis_down_for="2s")
    with host.frozen(*host.processes(REDIS)):
        wait_until(lambda: guard.latched(), SOON, "redis-down to act")
    guard.wait_fired("redis-down")


def test_the_marker_is_renewed_without_a_guard(trading: Trading) -> None:
    guard = Guarded(trading.host)
    guard.ess("activate")
    guard.ess.wait_complete()
    seen = "/run/quantum-ess/marker-seen"
    wait_until(lambda: trading.host.exists(seen), SOON, "the watch's first look")
    guard.redis("FLUSHALL")
    trading.host.run("touch", "-d", "-2 minutes", seen)
    since = guard.ess.status()["since"]
    wait_until(lambda: guard.redis("GET", "quantum:ess:active") == since, SOON, "the marker")


def test_deactivation_knows_the_guard(trading: Trading) -> None:
    host = trading.host
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    guard.configure(condition("risk", redis="risk", limit="> 10", samples=1, rearm_after="healthy"))
    guard.redis("SET", "risk", 42)
    guard.wait_fired("risk")
    trading.assert_inactive()
    listed = guard.ess("status").stdout
    assert "risk 42 " in listed and "limit > 10" in listed and "tripped" in listed, listed

    said = guard.ess("deactivate", "--reason", "please", check=False)
    assert said.returncode == STILL_BREACHED
    assert "risk 42 > 10" in said.stderr and "--override" in said.stderr
    assert guard.ess("deactivate", "--override", check=False).returncode == USAGE
    assert guard.latched()

    # With the guard dead the command looks by itself.
    host.run("systemctl", "stop", WATCHER, UNIT)
    said = guard.ess("deactivate", check=False)
    assert said.returncode == STILL_BREACHED
    assert "risk 42 > 10" in said.stderr and "the guard: stopped" in said.stderr, said.stderr
    host.run("systemctl", "start", WATCHER)
    guard.alive()
    guard.wait("risk", state="breached", tripped=True)
    assert guard.ess("deactivate", check=False).returncode == STILL_BREACHED

    guard.ess("deactivate", "--override", "--reason", "the feed is wrong")
    (entry,) = guard.ess.named("override")
    assert "risk 42 > 10" in entry["MESSAGE"] and entry["ESS_REASON"] == "the feed is wrong"
    assert entry["ESS_ACTOR_USER"] == "root"
    told = guard.ess("history", "last").stdout
    overridden = (
        "guard OVERRIDDEN by root (command): the feed is wrong; it said: risk: risk 42 > 10"
    )
    assert overridden in told, told
    guard.wait("risk", state="breached", armed=False)
    hold(guard.latched, NEVER, "flapping")
    host.run("systemctl", "restart", UNIT)
    guard.alive()
    guard.wait("risk", state="breached", armed=False)
    hold(guard.latched, NEVER, "flapping after a restart of the guard")
    guard.redis("SET", "risk", 1)
    guard.wait("risk", state="fine", armed=True)
    guard.redis("SET", "risk", 43)
    guard.wait_fired("risk")

    # Removing the flag releases whatever the guard thinks; it does not act again until healthy.
    host.run("rm", FLAG)
    guard.ess.wait_event("released", 2)
    guard.wait("risk", state="breached", armed=False)
    assert guard.ess.wait_event("guard-released")


def test_its_death_is_noticed_and_touches_nothing(trading: Trading) -> None:
    """SIGKILL, SIGSTOP, no memory: status says so, the flag works, it comes back."""
    host = trading.host
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    guard.configure(condition("risk", redis="risk", limit="> 10", samples=1))
    assert guard.ess.status()["guard"]["state"] == "running"

    (stopped,) = host.processes(UNIT)
    pid = host.main_pid(UNIT)
    began = now_ns()
    os.kill(stopped, signal.SIGSTOP)  # it will not live to be continued
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    wait_until(lambda: host.main_pid(UNIT) not in (0, pid), SOON, "the watchdog")
    guard.ess.wait_complete()
    assert guard.ess.status()["trigger"] == "flag"
    guard.wait("risk", state="fine")
    guard.ess("deactivate")
    ended = guard.ess.wait_event("guard-ended")[0]
    assert "watchdog" in ended["MESSAGE"]
    explained = host.journal("-x", f"MESSAGE_ID={ended['MESSAGE_ID']}")
    assert "Subject: The guard has died" in explained and "What to do: " in explained
    assert (sent(ended) - began) / 1e9 < NOTICED

    # Stopped for good, were there no watchdog: status says that nothing is heard of it.
    host.sh(f"mkdir -p /run/systemd/system/{UNIT}.d")
    host.sh(f"printf '[Service]\\nWatchdogSec=0\\n' >/run/systemd/system/{UNIT}.d/test.conf")
    host.sh(f"systemctl daemon-reload; systemctl restart {UNIT}")
    guard.alive()
    with host.frozen(*host.processes(UNIT)):
        silent = "Warning:   the guard: no sign of life for"
        wait_until(lambda: silent in guard.ess("status").stdout, SOON, "status to say so")
    host.sh(f"rm /run/systemd/system/{UNIT}.d/test.conf; systemctl daemon-reload")
    host.run("systemctl", "restart", UNIT)
    guard.alive()

    guard.kill()
    guard.ess.wait_event("guard-ended", 2)
    guard.ess.wait_event("guard-died", 2)
    wait_until(lambda: guard.ess.status()["guard"]["state"] == "running", SOON, "a new guard")
    for deaths in (2, 3):  # alive each time that somebody looks, and guarding nothing
        guard.kill()
        wait_until(lambda n=deaths: guard.state().get("deaths") == n, SOON, "the next one")  # type: ignore[misc]
    assert "it has died 3 times in a row" in guard.ess("status").stdout

    # The host's memory is full, and then the guard itself gets none at all.
    (full,) = (fault for fault in PRESSURE_FAULTS if fault.name == "out of memory")
    with full.made(host):
        pull = trading.pull("flag")
        trading.assert_stopped(pull.time, watch=1)
    wait_until(lambda: guard.ess.status()["guard"]["state"] == "running", SOON, "a living guard")
    guard.ess.wait_complete()
    guard.ess("deactivate")
    died = len(guard.ess.named("guard-ended"))
    host.sh(f"printf '[Service]\\nLimitAS=24M\\n' >/run/systemd/system/{UNIT}.d/test.conf")
    host.run("systemctl", "daemon-reload")
    guard.kill()
    guard.ess.wait_event("guard-ended", died + 2)
    wait_until(lambda: guard.ess.status()["guard"]["state"] != "running", SOON, "status")
    assert "Warning:   the guard:" in guard.ess("status").stdout
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    host.sh(f"rm /run/systemd/system/{UNIT}.d/test.conf; systemctl daemon-reload")
    wait_until(lambda: guard.ess.status()["guard"]["state"] == "running", SOON, "a new guard")
    guard.ess.wait_idle()
    guard.ess("deactivate")

    # And it works as before: a breach still stops.
    guard.wait("risk", state="fine")
    guard.redis("SET", "risk", 11)
    guard.wait_fired("risk")


def test_shadow_mode_check_and_daemon(trading: Trading) -> None:
    host = trading.host
    guard = Guarded(host)
    ess = guard.ess
    assert not host.exists(STATE) and host.unit_state(UNIT) == "inactive", "nothing to guard"
    assert "off" in ess("status").stdout and ess.status()["guard"]["state"] == "off"
    guard.redis("SET", "risk", 1)
    guard.redis("SET", "old", now())
    risk = condition("risk", redis="risk", limit="> 10", samples=1)
    age = condition("old", redis="old", measure="age", limit="> 5min")
    guard.configure(risk, age, mode="shadow")
    table = ess("guard", "--check")
    assert re.search(r"^risk +shadow +fine +risk 1 +limit > 10$", table.stdout, re.M)
    old = r"^  old +shadow +fine +old [0-9.]+ s +limit age > 5 min +data [0-9.]+ s old$"
    assert re.search(old, ess("status").stdout, re.M)
    assert ess.status()["guard"]["conditions"][1]["data_age"] < 300
    guard.redis("SET", "risk", 11)
    guard.redis("SET", "old", now() + 500)
    assert "ahead of ours" in guard.wait("old", state="unknown")["problem"]
    (told,) = ess.wait_event("guard-shadow")
    assert "WOULD ACTIVATE: condition risk: risk 11 > 10" in told["MESSAGE"]
    assert not guard.latched()
    done = ess("guard", "--check", check=False)
    assert done.returncode == STILL_BREACHED and "breached" in done.stdout
    assert guard.state()["last"]["did"] == "would activate"
    assert re.search(r"^  risk +shadow +breached [0-9]+ s +risk 11 ", ess("status").stdout, re.M)

    # A second one is refused; by hand and detached it does the same as the service.
    assert "running already" in ess("guard", check=False).stderr
    host.run("systemctl", "stop", WATCHER, UNIT)
    for broken in ("mv {0} /usr/away", "mv {0} /usr/away; echo 'def (' >{0}.py"):
        host.sh(broken.format(PYTHON_DAEMON))
        done = ess("guard", "--daemon", check=False)
        assert done.returncode == FAILED and "python-daemon can't be loaded: " in done.stderr
        assert "Traceback" not in done.stderr and "apt install" in done.stderr
        host.sh(f"rm -f {PYTHON_DAEMON}.py; mv /usr/away {PYTHON_DAEMON}")
    ess("guard", "--daemon")
    pid = wait_until(lambda: host.read_file("/run/quantum-ess/guard.pid").strip(), SOON, "a daemon")

    def last_word() -> bool | None:
        """Whether guard.json says that this process has ended; None: it is another's."""
        state = guard.state()
        return bool(state["stopped"]) if state.get("pid") == int(pid) else None

    wait_until(lambda: last_word() is False, SOON, "its first word")
    guard.wait("risk", state="breached")
    where = host.sh(f"readlink /proc/{pid}/cwd /proc/{pid}/fd/0 /proc/{pid}/fd/2; ps -o tty= {pid}")
    assert where.split() == ["/", "/dev/null", "/dev/null", "?"]
    assert "0022" in host.sh(f"grep Umask /proc/{pid}/status")
    host.run("kill", pid)
    wait_until(last_word, SOON, "its end")
    wait_until(lambda: host.read_file("/run/quantum-ess/guard.pid") == "", SOON, "no pid")
    run = ("systemd-run", "--unit=managed", "--service-type=notify", "--property=NotifyAccess=all")
    host.run(*run, "quantum-ess", "guard", "--daemon")
    pid = host.read_file("/run/quantum-ess/guard.pid").strip()
    assert host.run("systemctl", "show", "-P", "MainPID", "managed").stdout.strip() == pid


LIES = Fault("Redis answers what nobody asked", instead_of_redis(":1"))


def test_a_broken_redis_stops_nothing(trading: Trading) -> None:
    """Each fault of the fault matrix: values are unknown, the loop lives, and all comes back."""
    host = trading.host
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    guard.configure(
        condition("risk", redis="risk", limit="> 10", samples=1),
        condition("alive", redis="risk", measure="missing", lasting="1s"),
    )
    for fault in (*REDIS_FAULTS, LIES):
        with fault.made(host):
            if "password" in fault.name:  # who is in stays in
                guard.redis("-a", "x", "CLIENT", "KILL", "TYPE", "normal")
            guard.wait("risk", state="unknown")
            began = guard.state()["boottime"]
            wait_until(lambda b=began: guard.state()["boottime"] > b, SOON, "a living loop")  # type: ignore[misc]
            hold(guard.latched, 0.5, f"an activation: {fault.name}")
        guard.wait("risk", state="fine")
        guard.wait("alive", state="fine")
    trading.all_running()
    guard.redis("SET", "risk", 11)
    guard.wait_fired("risk")


@pytest.mark.alone
def test_speed_of_a_flag_with_redis_hung(host: Host) -> None:
    """In turns, in the same run: as quick with Redis hung, whatever the guard does about it."""
    trading = Trading(host, beat=int(GRAIN * 1e6 / 2))
    trading.start()
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    guard.configure(condition("risk", redis="risk", limit="> 10", samples=1))
    times: dict[bool, list[int]] = {False: [], True: []}
    for hangs in (False, True) * ROUNDS:
        guard.wait("risk", state="fine")
        with hung(REDIS)(host) if hangs else contextlib.nullcontext():
            if hangs:
                guard.wait("risk", state="unknown")
            pull = trading.pull("flag")
            wait_until(lambda: not trading.remaining(), SOON, "the end of the four")
            times[hangs].append(trading.last_sign_of_life() - pull.time)
        guard.ess.wait_idle()
        guard.ess("deactivate")
        trading.all_running()
    before, now = (statistics.median(times[hangs]) / 1e6 for hangs in (False, True))
    print(f"{host.release}: flag {before:.2f} ms, with Redis hung {now:.2f} ms")
    assert now <= 1.5 * before + GRAIN, (before, now)


def test_a_breach_stops_while_everything_else_hangs(trading: Trading) -> None:
    """PID 1, the bus and journald: the guard's stop is the controller's and needs none of them."""
    host = trading.host
    guard = Guarded(host)
    guard.redis("SET", "risk", 1)
    guard.configure(condition("risk", redis="risk", limit="> 10", samples=1))
    host.run("systemctl", "stop", "quantum-ess-sentry")  # it would leave nothing to stop
    with hung("dbus.service", "systemd-journald.service")(host), host.frozen():
        host.run(STANDIN, "exec", f"{STAMPS}/{TRIGGER}", "redis-cli", "SET", "risk", "11")
        written = trading.pulled()
        trading.assert_stopped(written)
    assert guard.wait_fired("risk") == "condition risk: risk 11 > 10"
    assert not trading.late(written)


def test_unknown_values_and_data_that_end_with_the_stop(trading: Trading) -> None:
    host = trading.host
    guard = Guarded(host)
    guard.redis("MSET", "risk", 1, "alive", 1)
    guard.configure(
        condition("risk", redis="risk", limit="> 10", unknown="activate", unknown_for="1s"),
        condition("alive", redis="alive", measure="missing", lasting="1s"),
        redis_down="warn",
        redis_down_for="1s",
    )
    guard.redis("SET", "risk", "nan")
    assert guard.wait_fired("risk") == "condition risk: risk is unknown: 'nan' is not finite"
    guard.redis("DEL", "alive")  # as if who writes it had been stopped
    guard.wait("alive", tripped=True, objects=False)
    refused = guard.ess("deactivate", check=False)
    assert refused.returncode == STILL_BREACHED and "alive" not in refused.stderr, refused.stderr
    guard.redis("SET", "risk", 1)
    guard.calm("risk")
    guard.wait("alive", state="breached", armed=False, tripped=False)
    hold(guard.latched, NEVER, "flapping")
    guard.redis("SET", "alive", 1)
    guard.wait("alive", state="fine", armed=True)
    with hung(REDIS)(host):
        guard.ess.wait_event("guard-warning")
        assert "Warning:   the guard: Redis does not answer" in guard.ess("status").stdout
        assert not guard.latched()
    guard.wait("alive", state="fine")
    guard.redis("DEL", "alive")
    guard.wait_fired("alive")


@pytest.mark.parametrize("kind", ["hash", "json"])
def test_a_day_of_portfolio_states(host: Host, kind: str) -> None:
    """Through a real Redis and the product's own reader, as fast as they go: judged as by hand."""
    Ess(host).configure(replay.CONDITIONS)
    host.run("systemctl", "stop", WATCHER, UNIT)  # it has a clock of its own
    states = replay.day(7)
    assert replay.replay(host, states, kind) == replay.expected(states)


def test_a_condition_that_can_never_fire(host: Host) -> None:
    ess = Ess(host)
    ess.configure(condition("never", pressure="memory", limit="> 100%", lasting="1s"))
    mistake = "test.conf:3: [condition never] > 100% can never be true"
    checked = ess("config", check=False)
    assert checked.returncode == CONFIGURATION and mistake in checked.stderr
    assert ess("guard", "--check", check=False).returncode == CONFIGURATION
    assert mistake in ess("status").stdout
    assert not host.exists("/run/quantum-ess/guard-plan")


def test_a_user_with_a_password_and_a_socket(trading: Trading) -> None:
    """An ACL user that may not ask for changes, by a socket file; the password only for root."""
    host = trading.host
    guard = Guarded(host)
    host.sh("echo 'unixsocket /run/redis/guard.sock' >>/etc/redis/redis.conf")
    host.run("systemctl", "restart", REDIS)
    guard.redis("ACL", "SETUSER", "guard", "on", ">secret", "~*", "&*", "+@all", "-client|tracking")
    guard.redis("SET", "risk", 1)
    host.write_file("/etc/quantum-ess/redis.password", "secret\n", 0o644)
    where = "[redis]\nurl = unix:///run/redis/guard.sock\nusername = guard\n"
    where += "password_file = /etc/quantum-ess/redis.password\n"
    guard.configure(where, condition("risk", redis="risk", limit="> 10", samples=1))
    redis = guard.state()["redis"]
    assert redis["state"] == "down" and "mode 0600" in redis["problem"], redis
    host.run("chmod", "600", "/etc/quantum-ess/redis.password")
    guard.wait("risk", state="fine")
    redis = guard.state()["redis"]
    assert not redis["push"] and "not pushed" in redis["problem"], redis
    assert "secret" not in host.run("cat", STATE, "/run/quantum-ess/guard-plan").stdout
    guard.redis("SET", "risk", 11)
    guard.wait_fired("risk")
    wait_until(lambda: guard.redis("GET", "quantum:ess:active"), SOON, "the marker")


TLS = """[Service]
ExecStart=/usr/bin/redis-server --port 0 --tls-port 6390 --tls-auth-clients yes --dir /tmp \\
 --tls-cert-file /etc/tls/server.crt --tls-key-file /etc/tls/server.key \\
 --tls-ca-cert-file /etc/tls/ca.crt
"""


def make_certificates(host: Host) -> None:
    """An authority, and what it signed for the server `localhost` and for a client."""
    where = host.seen_from_outside("/etc/tls")
    where.mkdir()
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
    for name, subject in (("ca", "authority"), ("server", "localhost"), ("client", "guard")):
        command = [*new, "-subj", f"/CN={subject}", "-addext", f"subjectAltName=DNS:{subject}"]
        command += ["-out", f"{name}.crt", "-keyout", f"{name}.key"]
        if name == "ca":  # Python 3.13 wants it said what an authority's certificate is for
            command += ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
        else:
            command += ["-addext", "basicConstraints=critical,CA:FALSE"]
            command += ["-CA", "ca.crt", "-CAkey", "ca.key"]
        subprocess.run(command, cwd=where, check=True, capture_output=True)


def test_tls(trading: Trading) -> None:
    """Both sides show a certificate; a name that is not the server's is not talked to."""
    host = trading.host
    guard = Guarded(host)
    make_certificates(host)
    host.write_file("/etc/systemd/system/tls.service", TLS)
    host.sh("echo 127.0.0.1 localhost >>/etc/hosts; systemctl daemon-reload; systemctl start tls")
    tls = "-p 6390 --tls --cacert /etc/tls/ca.crt --cert /etc/tls/client.crt --key".split()
    tls.append("/etc/tls/client.key")
    written = ("redis-cli", *tls, "SET", "risk", "1")
    wait_until(lambda: host.run(*written, check=False).returncode == 0, SOON, "a server")
    risk = condition("risk", redis="risk", limit="> 10", samples=1)
    guard.configure(risk)  # redis-py is now loaded without TLS

    keys = "[redis]\nca_file = /etc/tls/ca.crt\ncert_file = /etc/tls/client.crt\n"
    keys += "key_file = /etc/tls/client.key\n"
    guard.configure(f"{keys}url = rediss://127.0.0.1:6390/0\n", risk)
    wrong = "IP address mismatch"  # and not another mistake in the certificate
    wait_until(lambda: wrong in str(guard.state()["redis"]["problem"]), SOON, "a refusal")
    assert guard.rows()["risk"]["state"] == "unknown"
    guard.configure(f"{keys}url = rediss://localhost:6390/0\n", risk)
    guard.wait("risk", state="fine")
    assert guard.state()["redis"]["push"], guard.state()["redis"]
    guard.redis(*tls, "SET", "risk", 11)
    guard.wait_fired("risk")
    wait_until(lambda: guard.redis(*tls, "GET", "quantum:ess:active"), SOON, "the marker")
