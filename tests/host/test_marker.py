"""The Redis marker: what consumers read there, and that Redis never delays anything."""

import contextlib
import json
import re
import time
from collections.abc import Iterator

import pytest

from faults.matrix import COMMAND_LIMIT
from host import Host
from kinds import REDIS
from product import DONE, ISO_TIME, Ess
from trading import FLAG, WAYS, Trading
from waiting import SOON, now_ns, wait_until

KEY, CHANNEL = "quantum:ess:active", "quantum:event:ess"


def marker(host: Host) -> str:
    """The key's value; empty if it is absent."""
    return host.run("redis-cli", "GET", KEY).stdout.strip()


@contextlib.contextmanager
def silent_redis(host: Host, state: str) -> Iterator[None]:
    """Redis stopped in its tracks, or not there at all."""
    if state == "hung":
        with host.frozen(*host.processes(REDIS)):
            yield
        return
    host.run("systemctl", "stop", REDIS)
    yield
    host.run("systemctl", "start", REDIS)


class Listener:
    """A subscriber of the channel, from before the event on."""

    def __init__(self, host: Host) -> None:
        host.sh(f"nohup redis-cli SUBSCRIBE {CHANNEL} >/run/heard 2>&1 </dev/null &")
        self.host = host
        wait_until(lambda: "subscribe" in host.read_file("/run/heard"), SOON, "a subscription")

    def heard(self, count: int) -> list[dict[str, object]]:
        """The first messages, waited for; AssertionError if there are more than `count`."""

        def messages() -> list[dict[str, object]]:
            lines = self.host.read_file("/run/heard").splitlines()
            return [json.loads(line) for line in lines if line.startswith("{")]

        wait_until(lambda: len(messages()) >= count, SOON, f"{count} messages")
        assert len(messages()) == count
        return messages()


@pytest.mark.parametrize("way", WAYS)
def test_key_and_event(trading: Trading, way: str) -> None:
    host = trading.host
    listener = Listener(host)
    before = int(time.time())
    trading.pull(way)
    ess = Ess(host)
    ess.wait_complete()
    value = marker(host)
    assert re.fullmatch(ISO_TIME, value)
    assert value == ess.status()["since"] == host.read_file(FLAG).strip()
    assert host.run("redis-cli", "TTL", KEY).stdout == "-1\n", "it must not expire while latched"
    event = listener.heard(1)[0]
    assert event["event"] == "ess_activated"
    assert isinstance(event["timestamp"], int) and before <= event["timestamp"] <= time.time()

    ess("deactivate")
    assert marker(host) == ""
    assert host.run("redis-cli", "EXISTS", KEY).stdout == "0\n"
    assert [message["event"] for message in listener.heard(2)] == [
        "ess_activated",
        "ess_deactivated",
    ]


def test_removing_the_flag_clears_it(trading: Trading) -> None:
    trading.pull("flag")
    ess = Ess(trading.host)
    ess.wait_complete()
    assert marker(trading.host)
    trading.host.run("rm", FLAG)
    ess.wait_event("released")
    assert marker(trading.host) == ""


@pytest.mark.parametrize("state", ["hung", "dead"])
@pytest.mark.parametrize("way", WAYS)
def test_a_redis_that_does_not_answer(trading: Trading, way: str, state: str) -> None:
    """The stop is as quick, and as successful; the marker is put right once Redis is back."""
    host = trading.host
    ess = Ess(host)
    with silent_redis(host, state):
        pull = trading.pull(way)
        took = (now_ns() - pull.time) / 1e9
        trading.assert_stopped(pull.time)
        assert pull.status == DONE, pull
        assert took < COMMAND_LIMIT, "an activation that waits for Redis"
        ess.wait_event("marker-pending")
    wait_until(lambda: marker(host), SOON, "the marker, put right by the watch timer")
    assert marker(host) == ess.status()["since"]

    with silent_redis(host, state):
        done = ess("deactivate")
        assert done.returncode == DONE
        trading.all_running()
    wait_until(lambda: not marker(host), SOON, "the marker, deleted by the watch timer")


def test_the_last_word_counts(trading: Trading) -> None:
    """Redis away during an activation and its release: afterwards nothing says active."""
    host = trading.host
    ess = Ess(host)
    host.run("systemctl", "stop", REDIS)
    ess("activate")
    ess.wait_complete()
    ess("deactivate")
    host.run("systemctl", "start", REDIS)
    wait_until(lambda: not host.exists("/var/lib/quantum-ess/marker-pending"), SOON, "a retry")
    assert marker(host) == ""


def test_switched_off_and_elsewhere(trading: Trading) -> None:
    host = trading.host
    ess = Ess(host)
    ess.configure("[redis]\nenabled = no\n")
    ess("activate")
    ess.wait_complete()
    assert marker(host) == ""
    ess("deactivate")
    ess.configure("[redis]\nurl = redis://127.0.0.1:6379/3\n")
    ess("activate")
    third = ("redis-cli", "-n", "3", "GET", KEY)
    wait_until(lambda: host.run(*third).stdout.strip(), SOON, "the marker")
    assert marker(host) == ""


def test_redis_is_not_imported_before_the_stop(trading: Trading) -> None:
    """Reading python3-redis off the disk may take as long as it likes: it comes after the kill."""
    host = trading.host
    # They would leave nothing to kill: the traced command is slow.
    watchers = ("sentry.service", "watch.timer", "watch.path", "watch.service")
    host.run("systemctl", "stop", "quantum-ess.path", *(f"quantum-ess-{name}" for name in watchers))
    trace = "/run/trace"
    strace = ("strace", "-f", "-ttt", "-y", "-e", "trace=openat,write,kill", "-o", trace)
    host.run(*strace, "quantum-ess", "activate")
    lines = host.read_file(trace).splitlines()
    kills = [n for n, line in enumerate(lines) if "cgroup.kill" in line and "write(" in line]
    imports = [n for n, line in enumerate(lines) if "dist-packages/redis/" in line]
    assert kills, "no write to cgroup.kill was seen"
    assert imports, "redis was never imported"
    assert max(kills) < min(imports)
