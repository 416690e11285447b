"""Audit: every transition leaves its full trail in the journal, whichever way it came."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from host import Host
from kinds import FOUR
from product import RECORD, Ess, Event
from trading import FLAG, LIMIT, WAYS, Trading
from waiting import SOON, wait_until

CRIT = "2"
BY_UNIT = ("-u", "quantum-ess", "-u", "quantum-ess-trigger")
SPOOL = "/var/lib/quantum-ess/spool"


BEGIN = ("ESS ACTIVATION INITIATED", "ESS LATCH FLAG SET")


def end(way: str) -> list[str]:
    """The last lines."""
    return [f"ESS ACTIVATED by root ({way})", "ESS ACTIVATION COMPLETE"]


def stopped() -> list[str]:
    """The lines about the four."""
    return [f"ESS STOPPED SERVICE: {unit.removesuffix('.service')}" for unit in FOUR]


def text(event: Event) -> str:
    """An entry's message without its prefix."""
    return str(event["MESSAGE"]).removeprefix("[ESS AUDIT] ")


def ids(events: list[Event]) -> list[str]:
    """What tells the entries apart."""
    return [event["ESS_EVENT_ID"] for event in events]


@pytest.mark.parametrize("way", WAYS)
def test_the_lines_of_the_operations_card(trading: Trading, way: str) -> None:
    """Their wording, their order, for both of the card's journalctl commands."""
    ess = Ess(trading.host)
    trading.pull(way)
    ess.wait_complete()
    who, complete = end(way)
    assert ess.messages() == [*BEGIN, *stopped(), "ESS REDIS MARKER SET", who, complete]
    found = trading.host.sh('journalctl -t quantum-ess | grep "ACTIVATED"')  # as the card has it
    assert found.count("\n") == found.count(who) == 1
    for options in (("-t", "quantum-ess"), BY_UNIT):
        lines = trading.host.journal("-o", "cat", *options).splitlines()
        audit = [line for line in lines if line.startswith("[ESS AUDIT] ")]
        assert audit == [f"[ESS AUDIT] {message}" for message in ess.messages()], options
    short = trading.host.journal("-t", "quantum-ess")
    assert re.search(r" quantum-ess\[\d+\]: \[ESS AUDIT\] ESS ACTIVATION INITIATED$", short, re.M)
    assert len(ess.named("initiated")) == len(ess.named("complete")) == 1


@pytest.mark.parametrize("way", WAYS)
def test_fields(trading: Trading, way: str) -> None:
    ess = Ess(trading.host)
    trading.pull(way)
    ess.wait_complete()
    events = ess.events()
    assert {event["PRIORITY"] for event in events} == {CRIT}
    assert {event["ESS_INCIDENT"] for event in events} == {ess.status()["incident"]}
    assert {event["ESS_TRIGGER"] for event in events} == {way}
    assert {event["ESS_ACTOR_UID"] for event in events} == {"0"}
    assert {event["ESS_ACTOR_USER"] for event in events} == {"root"}
    assert [event["ESS_UNIT"] for event in ess.named("stopped")] == list(FOUR)
    assert 0 < int(ess.named("complete")[0]["ESS_DURATION_USEC"]) < LIMIT / 1e3
    assert len(set(ids(events))) == len(events)


def test_who_and_why(trading: Trading) -> None:
    """Through sudo on a terminal, as people do it: user, sudo user, tty and reason."""
    host = trading.host
    ess = Ess(host)
    host.sh("useradd --create-home alice; echo 'alice ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/a")
    command = 'sudo quantum-ess activate --reason "feed is stale; 2nd line: \\"é\\""'
    as_alice = f"setpriv --reuid=alice --regid=alice --init-groups {command}"
    host.run("script", "--quiet", "--return", "--command", as_alice, "/dev/null")
    ess.wait_complete()
    for event in ess.events():
        assert event["ESS_REASON"] == 'feed is stale; 2nd line: "é"'
        assert event["ESS_ACTOR_SUDO_USER"] == "alice"
        assert event["ESS_ACTOR_UID"] == "0"
        assert event["ESS_ACTOR_TTY"].startswith("/dev/pts/")
    said = ess("status").stdout
    assert "alice" in said and "feed is stale" in said


def test_a_reason_cannot_forge_fields(trading: Trading) -> None:
    ess = Ess(trading.host)
    ess("activate", "--reason", "x\nPRIORITY=7\nESS_EVENT=released")
    ess.wait_complete()
    event = ess.named("initiated")[0]
    assert event["ESS_REASON"] == "x\nPRIORITY=7\nESS_EVENT=released"
    assert event["PRIORITY"] == CRIT


# As touch(1) on a busy machine: it makes the file, and sets its times when it gets the processor
# again.
SLOW_TOUCH = """
import os, sys, time
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o666)
time.sleep(0.03)
os.utime(file)
"""


def test_the_owner_of_a_flag(trading: Trading) -> None:
    """A flag that somebody else may set: the trail names its owner, who is told of no error."""
    host = trading.host
    host.sh("useradd bob; chown root:bob /run/quantum; chmod 775 /run/quantum")
    # After 0.2 s the flag is root's: a busy machine must not keep the touch from its processor.
    as_bob = ("setpriv", "--reuid=bob", "--regid=bob", "--clear-groups")
    host.run("chrt", "--rr", "1", *as_bob, "python3", "-c", SLOW_TOUCH, FLAG)
    ess = Ess(host)
    ess.wait_complete()
    assert {event["ESS_ACTOR_USER"] for event in ess.events()} == {"bob"}
    assert "bob" in ess("status").stdout


def test_the_trail_of_a_release(trading: Trading) -> None:
    ess = Ess(trading.host)
    ess("activate")
    ess.wait_complete()
    count = len(ess.events())
    ess("deactivate", "--reason", "mended")
    ess.wait_event("released")
    events = ess.events()[count:]
    messages = [text(event) for event in events]
    started = [f"ESS STARTED SERVICE: {unit.removesuffix('.service')}" for unit in FOUR]
    assert messages[:2] == ["ESS DEACTIVATION INITIATED", "ESS LATCH FLAG CLEARED"]
    assert [line for line in messages if "STARTED" in line] == started
    assert "ESS REDIS MARKER CLEARED" in messages
    assert messages[-1] == "ESS DEACTIVATION COMPLETE"
    assert {event["ESS_REASON"] for event in events} == {"mended"}
    assert {event["PRIORITY"] for event in events} == {CRIT}
    assert len(ess.incidents()) == 1


# Fill a socket that nobody reads: each sender's own buffer ends before the receiver's queue does.
FILL = """
import socket
senders = []
while True:
    senders.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
    try:
        sent = 0
        while True:
            senders[-1].sendto(b"MESSAGE=filler\\n", "/run/systemd/journal/socket")
            sent += 1
    except BlockingIOError:
        if not sent:
            break
"""


@contextlib.contextmanager
def deaf_journald(host: Host, state: str) -> Iterator[None]:
    """journald stopped in its tracks, its socket full; or not there at all."""
    if state == "hung":
        with host.frozen(*host.processes("systemd-journald.service")):
            host.run("python3", "-c", FILL)
            yield
        return
    journald = "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket"
    host.sh(f"systemctl stop {journald} systemd-journald-audit.socket 2>/dev/null || true")
    wait_until(lambda: not host.processes("systemd-journald.service"), 5, "journald's end")
    yield
    host.run("systemctl", "start", *journald.split())


@pytest.mark.parametrize("state", ["hung", "dead"])
@pytest.mark.parametrize("way", WAYS)
def test_a_journald_that_does_not_listen(trading: Trading, way: str, state: str) -> None:
    """It delays nothing; the trail is kept and delivered, complete and in order, later."""
    host = trading.host
    ess = Ess(host)
    waiting = f"ls {SPOOL} 2>/dev/null || true"
    with deaf_journald(host, state):
        pull = trading.pull(way)
        trading.assert_stopped(pull.time)
        wait_until(lambda: host.exists(RECORD), SOON, "the record")
        wait_until(lambda: host.sh(waiting), SOON, "entries that wait")
    ess.wait_event("complete")
    wait_until(lambda: not host.sh(waiting), SOON, "an empty spool")
    events = [event for event in ess.events() if "MARKER" not in event["MESSAGE"]]
    assert [text(event) for event in events] == [*BEGIN, *stopped(), *end(way)]
    assert len(set(ids(events))) == len(events)
