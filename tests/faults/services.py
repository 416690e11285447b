"""Faults of services: the bus, PID 1, journald, the sentry, Redis."""

import contextlib
from collections.abc import Iterator

from faults.fault import UNIT, Fault, Made, both, hung, meanwhile, script
from host import Host
from kinds import REDIS
from product import DONE, INCOMPLETE
from waiting import wait_until

BUS, JOURNALD = "dbus.service", "systemd-journald.service"
SENTRY = "quantum-ess-sentry.service"

BUS_HUNG = Fault("dbus-daemon hung", hung(BUS), smoke=True)
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
    """`systemctl VERB` again and again, from before the trigger until after the stop."""
    line = f"while :; do systemctl {verb}; echo done; done 2>/dev/null"
    with meanwhile(line, until="done")(host):
        yield
    host.run("systemctl", "is-system-running", "--wait", check=False)


PID1_HUNG = Fault(
    "PID 1 hung",
    _pid1,
    impossible={UNIT: "PID 1 itself would have to start it"},
    statuses=(INCOMPLETE,),
    says="systemd was not told",
    starts=False,
    smoke=True,
)
PID1_FAULTS = (
    PID1_HUNG,
    Fault("daemon-reload meanwhile", lambda host: _loop(host, "daemon-reload"), smoke=True),
    Fault(
        "daemon-reexec meanwhile",
        lambda host: _loop(host, "daemon-reexec"),
        impossible={UNIT: "systemctl loses its connection to PID 1"},
        statuses=(DONE, INCOMPLETE),
        starts=False,
    ),
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


JOURNALD_HUNG = Fault(
    "journald hung, its socket full",
    _full_and_hung,
    statuses=(INCOMPLETE,),
    says="journald did not listen",
    smoke=True,
)
JOURNALD_FAULTS = (
    Fault("journald stopped", _no_journald, statuses=(INCOMPLETE,), says="journald did not listen"),
    JOURNALD_HUNG,
)

SENTRY_STOPPED = Fault(
    "sentry stopped", script(f"systemctl stop {SENTRY}", f"systemctl start {SENTRY}"), smoke=True
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


def _instead_of_redis(reply: str) -> Made:
    program = FAKE.replace("'", "'\\''")
    fake = meanwhile(f"exec python3 -c '{program}' '{reply}'", until="ready")
    return both(script(f"systemctl stop {REDIS}", f"systemctl start {REDIS}"), fake)


REDIS_HUNG = Fault("Redis hung", hung(REDIS), says="marker not set", smoke=True)
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
        Fault(name, _instead_of_redis(reply), says="marker not set", harms=(REDIS,))
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
