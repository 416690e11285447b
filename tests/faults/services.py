"""Faults of services: the bus, PID 1, journald, the sentry, Redis."""

import contextlib
import functools
import threading
from collections.abc import Iterator

from faults.fault import COMMAND, TOUCH, UNIT, Fault, Made, both, hung, meanwhile, script
from host import Host
from kinds import REDIS
from product import DONE, INCOMPLETE
from trading import FLAG
from waiting import hold, wait_until

BUS, JOURNALD = "dbus.service", "systemd-journald.service"
SENTRY = "quantum-ess-sentry.service"

BUS_HUNG = Fault("dbus-daemon hung", hung(BUS), smoke=(UNIT,))
BUS_FAULTS = (
    Fault(
        "dbus-daemon stopped",
        script(
            "systemctl stop dbus.socket dbus.service 2>/dev/null; ! systemctl -q is-active dbus",
            "systemctl start dbus.socket dbus.service",
        ),
    ),
    BUS_HUNG,
    Fault(
        "the bus's socket is gone",
        script(
            "mv /run/dbus/system_bus_socket /run/dbus/away",
            "mv /run/dbus/away /run/dbus/system_bus_socket",
        ),
    ),
)

# PID 1


def _pid1(host: Host) -> contextlib.AbstractContextManager[object]:
    return host.frozen()


@contextlib.contextmanager
def _loop(host: Host, verb: str) -> Iterator[None]:
    """`systemctl VERB` again and again, from before the trigger until after the stop.

    With a breath between two of them: without one PID 1 does nothing else, and what it is asked to
    do meanwhile takes as many reloads as it takes steps.
    """
    line = f"while :; do systemctl {verb}; echo done; sleep 0.2; done 2>/dev/null"
    with meanwhile(line, until="done")(host):
        yield
    wait_until(lambda: host.run("systemctl", "is-system-running", check=False).stdout, 20, "PID 1")


@contextlib.contextmanager
def _as_the_flag_appears(host: Host, verb: str) -> Iterator[None]:
    """`systemctl VERB` that has begun when the trigger is pulled, and is at it under the flag."""
    ended = f"/var/tmp/{verb}"
    # systemctl does not wait for the new PID 1, but it is heard by no other.
    answers = "until systemctl show -p Version; do :; done"
    script = f"exec 2>/dev/null; echo begun; systemctl {verb}; {answers}; date +%s.%N >{ended}"
    with meanwhile(script, until="begun")(host):
        yield
        wait_until(lambda: host.exists(ended) and host.read_file(ended), 20, f"an end of {verb}")
    flag = float(host.run("stat", "-c", "%.9Y", FLAG).stdout)
    assert flag < float(host.read_file(ended)), f"the {verb} was over before the flag was there"


PID1_HUNG = Fault(
    "PID 1 hung",
    _pid1,
    impossible={UNIT: "PID 1 itself would have to start it"},
    statuses=(INCOMPLETE,),
    says="systemd was not told",
    starts=False,
    smoke=(COMMAND, TOUCH),
)
ASLEEP = 2.5  # seconds; longer than the stop may take


def _hangs_in_mid_stop(delay: float) -> Made:
    """PID 1 hangs that many seconds after the flag is there, and wakes when all must be over."""

    @contextlib.contextmanager
    def made(host: Host) -> Iterator[None]:
        over = threading.Event()
        slept = threading.Event()

        def hang() -> None:
            while not over.is_set():
                if host.seen_from_outside(FLAG).exists():
                    over.wait(delay)
                    with host.frozen():
                        slept.set()
                        over.wait(ASLEEP)
                    return
                over.wait(0.0005)

        thread = threading.Thread(target=hang)
        thread.start()
        try:
            yield
            assert slept.is_set(), "the flag was not seen"
        finally:
            over.set()
            thread.join()
        # Awake again: it does what it was asked to before, and the gate decides.
        hold(lambda: not host.seen_from_outside(FLAG).exists(), 0.5, "the flag has gone")

    return made


MID_STOP = tuple(
    Fault(
        f"PID 1 hangs {1e3 * delay:.0f} ms after the flag, wakes {ASLEEP} s later",
        _hangs_in_mid_stop(delay),
        statuses=(DONE, INCOMPLETE),
        says="PID 1 did not answer",
        smoke=(COMMAND,) if delay == 0.01 else (),
    )
    for delay in (0, 0.01, 0.05)
)
AS_THE_FLAG_APPEARS = tuple(
    Fault(
        f"{verb} as the flag appears",
        functools.partial(_as_the_flag_appears, verb=verb),
        impossible={UNIT: "PID 1 begins with it only after that"},
        statuses=(DONE, INCOMPLETE),
        starts=False,
        smoke=(COMMAND,) if verb == "daemon-reload" else (),
    )
    for verb in ("daemon-reload", "daemon-reexec")
)
PID1_FAULTS = (
    PID1_HUNG,
    *MID_STOP,
    Fault(
        "daemon-reload meanwhile",
        lambda host: _loop(host, "daemon-reload"),
        statuses=(DONE, INCOMPLETE),  # on a slow machine it does not answer for seconds
        starts=False,  # now and then PID 1 loses, in a reload, the message that systemctl waits for
    ),
    Fault(
        "daemon-reexec meanwhile",
        lambda host: _loop(host, "daemon-reexec"),
        impossible={UNIT: "systemctl loses its connection to PID 1"},
        statuses=(DONE, INCOMPLETE),
        starts=False,
    ),
    *AS_THE_FLAG_APPEARS,
)

# journald

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
_SOCKETS = "systemd-journald.socket systemd-journald-dev-log.socket"


@contextlib.contextmanager
def _full_and_hung(host: Host) -> Iterator[None]:
    with hung(JOURNALD)(host):
        host.run("python3", "-c", FILL)
        yield


@contextlib.contextmanager
def _no_journald(host: Host) -> Iterator[None]:
    stop = f"systemctl stop {JOURNALD} {_SOCKETS} systemd-journald-audit.socket"
    host.sh(f"{stop} 2>/dev/null || true")
    wait_until(lambda: not host.processes(JOURNALD), 5, "journald's end")
    yield
    host.run("systemctl", "start", JOURNALD, *_SOCKETS.split())


# journald takes every entry from its socket and, with no room on its disk, keeps it in /run.
_DISK = "/var/log/journal"
JOURNAL_FULL = Fault(
    "journal disk full",
    script(
        f"mount -t tmpfs -o size=24M tmpfs {_DISK}\n"
        f"systemctl restart {JOURNALD}; journalctl --flush; logger before; journalctl --sync\n"
        f"cat /dev/zero >{_DISK}/filler 2>/dev/null || true\n"
        "head -c 900000 /dev/urandom | base64 -w 2000 | logger -t filler\n"
        "journalctl --sync; ls /run/log/journal/*/system.journal",
        f"rm {_DISK}/filler; journalctl --flush; systemctl restart {JOURNALD}",
    ),
)
JOURNALD_HUNG = Fault(
    "journald hung, its socket full",
    _full_and_hung,
    statuses=(INCOMPLETE,),
    says="journald did not listen",
    smoke=(COMMAND,),
)
JOURNALD_FAULTS = (
    Fault("journald stopped", _no_journald, statuses=(INCOMPLETE,), says="journald did not listen"),
    JOURNALD_HUNG,
    JOURNAL_FULL,
)

SENTRY_STOPPED = Fault(
    "sentry stopped",
    script(f"systemctl stop {SENTRY}", f"systemctl start {SENTRY}"),
    smoke=(TOUCH,),
)
SENTRY_HUNG = Fault("sentry hung", hung(SENTRY))

# Redis

# A server that answers every command with argv[1], or never if that is empty; with argv[1] = full
# its queue of connections is full, so that the next one is never answered: as a host that is off.
FAKE = r"""
import socket, sys, threading
reply = sys.argv[1]
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 6379))
server.listen(0 if reply == "full" else 16)
clients = []
if reply == "full":
    for _ in range(4):
        clients.append(socket.socket())
        clients[-1].setblocking(False)
        clients[-1].connect_ex(("127.0.0.1", 6379))
print("ready", flush=True)
def serve(client):
    while client.recv(4096):
        if reply:
            client.sendall(reply.encode() + b"\r\n")
while True:
    if reply == "full":
        threading.Event().wait()
    clients.append(server.accept()[0])
    threading.Thread(target=serve, args=clients[-1:], daemon=True).start()
"""


def instead_of_redis(reply: str) -> Made:
    """A server in Redis's place that answers everything with `reply`; "": never."""
    program = FAKE.replace("'", "'\\''")
    fake = meanwhile(f"exec python3 -c '{program}' '{reply}'", until="ready")
    return both(script(f"systemctl stop {REDIS}", f"systemctl start {REDIS}"), fake)


REDIS_HUNG = Fault("Redis hung", hung(REDIS), says="marker not set", smoke=(COMMAND,))
REDIS_FAULTS = (
    REDIS_HUNG,
    Fault(
        "Redis stopped",
        script(f"systemctl stop {REDIS}", f"systemctl start {REDIS}"),
        says="marker not set",
        harms=(REDIS,),
    ),
    Fault(
        "Redis asks for a password",
        script(
            "redis-cli CONFIG SET requirepass x",
            "redis-cli -a x --no-auth-warning CONFIG SET requirepass ''",
        ),
        says="marker not set",
    ),
    *(
        Fault(name, instead_of_redis(reply), says="marker not set", harms=(REDIS,))
        for name, reply in {
            "Redis accepts and is silent": "",
            "Redis answers errors": "-ERR unknown command",
            "Redis loads its data set": "-LOADING Redis is loading the dataset in memory",
            "Redis answers garbage": "HTTP/1.1 400 Bad Request",
            "Redis's host never answers": "full",
        }.items()
    ),
)

SERVICE_FAULTS = (
    *BUS_FAULTS,
    *PID1_FAULTS,
    *JOURNALD_FAULTS,
    SENTRY_STOPPED,
    SENTRY_HUNG,
    *REDIS_FAULTS,
)
