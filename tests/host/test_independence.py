"""Independence: what the stop does without. Each thing is missing, dead or hung, some together."""

import contextlib
import json
from collections.abc import Callable, Iterator

import pytest

from host import Host, read_only
from kinds import FOUR, REDIS
from product import ACTIVE, DONE, INCOMPLETE, RECORD, Ess
from trading import FLAG, Trading
from waiting import hold, wait_until

STATE = "/var/lib/quantum-ess"


@contextlib.contextmanager
def bus_dead(host: Host) -> Iterator[None]:
    """No message bus at all."""
    host.sh(
        "systemctl mask --runtime dbus.socket 2>/dev/null; systemctl stop dbus.socket dbus || true"
    )
    host.sh("rm -f /run/dbus/system_bus_socket")
    yield


@contextlib.contextmanager
def bus_hung(host: Host) -> Iterator[None]:
    """A bus that takes connections and never answers."""
    with host.frozen(*host.processes("dbus.service")):
        yield


@contextlib.contextmanager
def systemd_hung(host: Host) -> Iterator[None]:
    """PID 1 under SIGSTOP."""
    with host.frozen():
        yield


@contextlib.contextmanager
def disk_read_only(host: Host) -> Iterator[None]:
    """Nothing can be written where the record goes."""
    host.sh(read_only(STATE))
    yield


@contextlib.contextmanager
def run_full(host: Host) -> Iterator[None]:
    """Not a block left in /run."""
    host.sh("mount -o remount,size=8M /run; cat /dev/zero >/run/fill 2>/dev/null || true")
    yield


@contextlib.contextmanager
def network_and_redis_gone(host: Host) -> Iterator[None]:
    """Not even a loopback interface."""
    host.sh(f"systemctl stop {REDIS}")
    host.run("python3", "-c", DOWN)
    yield


# A minimal host has no ip(8): SIOCGIFFLAGS, clear IFF_UP, SIOCSIFFLAGS on lo (netdevice(7)).
DOWN = """
import fcntl, socket, struct
s = socket.socket()
name, flags = struct.unpack("16sH", fcntl.ioctl(s, 0x8913, struct.pack("16sH14x", b"lo", 0))[:18])
fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", flags & ~1))
"""

Missing = Callable[[Host], contextlib.AbstractContextManager[None]]
BY_COMMAND: list[tuple[Missing, ...]] = [
    (bus_dead,),
    (bus_hung,),
    (systemd_hung,),
    (disk_read_only,),
    (run_full,),
    (network_and_redis_gone,),
    (network_and_redis_gone, disk_read_only, run_full, bus_hung, systemd_hung),
]
BY_PID_1: list[tuple[Missing, ...]] = [
    (bus_dead,),
    (bus_hung,),
    (disk_read_only,),
    (network_and_redis_gone, disk_read_only, bus_hung),
]


def names(missing: object) -> str:
    """A test's id: what is missing in it."""
    if not isinstance(missing, tuple):
        return str(missing)
    return "+".join(part.__name__ for part in missing)


@pytest.mark.parametrize(
    ("way", "missing"),
    [
        *(("command", missing) for missing in BY_COMMAND),
        *((way, missing) for way in ("unit", "flag") for missing in BY_PID_1),
    ],
    ids=names,
)
def test_the_stop_without(host: Host, way: str, missing: tuple[Missing, ...]) -> None:
    trading = Trading(host, dict.fromkeys(FOUR, "restarts-at-once"))
    trading.start()
    with contextlib.ExitStack() as stack:
        for part in missing:
            stack.enter_context(part(host))
        pull = trading.pull(way)
        wait_until(lambda: not trading.remaining() or trading.late(pull.time), 5, "the end")
        assert not trading.late(pull.time)
        if way == "command":
            assert pull.status in (DONE, INCOMPLETE), pull
            assert pull.out.splitlines()[0] == ACTIVE
            assert pull.status == DONE or pull.err, "incomplete without saying what"
    trading.assert_stopped(pull.time)
    trading.assert_inactive()
    assert host.exists(FLAG) or host.exists(RECORD)
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    hold(lambda: trading.late(pull.time), 0.3, "alive again")


def test_what_could_not_be_written_is_said(trading: Trading) -> None:
    with disk_read_only(trading.host):
        pull = trading.pull("command")
    assert pull.status == INCOMPLETE
    assert STATE in pull.err
    said = Ess(trading.host)("status").stdout
    assert said.splitlines()[0] == ACTIVE
    assert RECORD in said, "that a reboot would open the latch"


def test_who_set_the_flag_says_so_however_slow_it_is(trading: Trading) -> None:
    """Who has only seen the flag is at the account first, and waits for the command's word."""
    host, ess = trading.host, Ess(trading.host)
    python = "/usr/bin/python3"
    host.run("mv", python, f"{python}.real")
    slow = 'case "$*" in *--created=*) sleep 1.5 ;; esac'  # the command's, and no other
    host.write_file(python, f'#!/bin/sh\n{slow}\nexec {python}.real "$@"\n', 0o755)
    ess("activate", "--reason", "why")
    ess.wait_complete()
    known = json.loads(host.read_file(RECORD))
    assert (known["trigger"], known["reason"]) == ("command", "why")
    for event in ("initiated", "complete"):
        (entry,) = ess.named(event)
        assert (entry["ESS_TRIGGER"], entry["ESS_REASON"]) == ("command", "why")
