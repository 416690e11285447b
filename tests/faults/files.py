"""Faults of files: /run, /var, the flag's directory, the record, the configuration."""

import contextlib
from collections.abc import Iterator

from faults.fault import COMMAND, TOUCH, UNIT, Fault, Made, script
from host import Host, read_only
from product import DONE, INCOMPLETE, RECORD

_ROOM = "mount -o remount,size=256M,nr_inodes=64k /run"
RUN_FULL = Fault(
    "/run full",
    script(
        "used=$(df --output=used -k /run | tail -n 1)\n"
        "mount -o remount,size=$((used + 64))k /run\n"
        "cat /dev/zero >/run/filler 2>/dev/null || true",
        f"{_ROOM}; rm /run/filler",
    ),
    statuses=(DONE, INCOMPLETE),
    smoke=(COMMAND,),
)
RUN_WITHOUT_INODES = Fault(
    "/run without inodes",
    script(
        "used=$(df --output=iused /run | tail -n 1)\n"
        "mount -o remount,nr_inodes=$((used + 8)) /run\n"
        "for i in $(seq 64); do touch /run/filler.$i 2>/dev/null || break; done",
        f"{_ROOM}; rm /run/filler.*",
    ),
    impossible={TOUCH: "there is no inode for the flag"},
    statuses=(DONE, INCOMPLETE),  # what the kill ends frees inodes: there may be one for the flag
    smoke=(COMMAND,),
)

# On a mount of its own, as /var often is. It stays mounted: what is written there is to stay.
_SMALL = (
    "mkdir /var/small; mount -t tmpfs -o size=256k,nr_inodes=64 tmpfs /var/small\n"
    "cp -a /var/lib/quantum-ess/. /var/small/\n"
    "mount --bind /var/small /var/lib/quantum-ess; cd /var/lib/quantum-ess\n"
)
VAR_READ_ONLY = Fault(
    "/var read-only",
    script(read_only("/var"), "mount -o remount,bind,rw /var"),
    statuses=(INCOMPLETE,),
    says="record not written: Read-only file system",
    smoke=(TOUCH,),
)
VAR_FULL = Fault(
    "/var full",
    script(f"{_SMALL}cat /dev/zero >filler 2>/dev/null || true", "rm /var/lib/quantum-ess/filler"),
    statuses=(INCOMPLETE,),
    says="record not written: No space left",
)
VAR_FAULTS = (
    VAR_FULL,
    Fault(
        "/var without inodes",
        script(
            f"{_SMALL}for i in $(seq 99); do touch filler.$i 2>/dev/null || break; done",
            "rm /var/lib/quantum-ess/filler.*",
        ),
        statuses=(INCOMPLETE,),
        says="record not written: No space left",
    ),
    VAR_READ_ONLY,
    Fault(
        "/var/lib/quantum-ess gone",
        script("mv /var/lib/quantum-ess /var/lib/away", "true"),
        statuses=(DONE, INCOMPLETE),
    ),
)

DIRECTORY_MISSING = Fault(
    "flag's directory missing",
    script("rmdir /run/quantum", "true"),
    impossible={TOUCH: "touch itself fails"},
)

DIRECTORY_FAULTS = (
    DIRECTORY_MISSING,
    Fault("flag's directory made anew", script("rmdir /run/quantum; mkdir /run/quantum", "true")),
    Fault(
        "flag's directory a file",
        script("rmdir /run/quantum; echo x >/run/quantum", "true"),
        impossible={TOUCH: "touch itself fails"},
        smoke=(COMMAND,),
    ),
    Fault(
        "flag's directory a symlink",
        script("rmdir /run/quantum; mkdir /run/other; ln -s other /run/quantum", "true"),
    ),
    Fault(
        "flag's directory a dangling symlink",
        script("rmdir /run/quantum; ln -s nowhere /run/quantum", "true"),
        impossible={TOUCH: "touch itself fails"},
    ),
    Fault("own directory in /run missing", script("mv /run/quantum-ess /run/away", "true")),
    Fault(
        "own directory in /run a file",
        script("mv /run/quantum-ess /run/away; echo x >/run/quantum-ess", "true"),
    ),
)

# A record that is there shuts the gate, whatever is in it.
RECORDS = {
    "record empty": "",
    "record truncated": '{"version": 1, "incident": "0123456',
    "record garbage": "\\000\\377[[[[{{{{",
    "record of a newer version": '{"version": 99, "incident": {"id": 7}, "running": {"a": []}}',
    "record of wrong types": '{"version": "1", "since": 5, "running": [1, null], "actor": "root"}',
}
RECORD_FAULTS = (
    *(
        Fault(
            name,
            script(f"printf '{text}' >{RECORD}", "true"),
            smoke=(UNIT,) if name == "record garbage" else (),
        )
        for name, text in RECORDS.items()
    ),
    Fault("record a directory", script(f"mkdir {RECORD}", "true"), statuses=(INCOMPLETE,)),
)


# The configuration

CONF = "/etc/quantum-ess/quantum-ess.conf"


def config(text: str | None) -> Made:
    """The configuration file replaced by that text, None for no file, and the new one in force."""

    @contextlib.contextmanager
    def made(host: Host) -> Iterator[None]:
        before = host.read_file(CONF)
        if text is None:
            host.run("rm", CONF)
        else:
            host.write_file(CONF, text)
        host.run("systemctl", "daemon-reload")
        yield
        host.write_file(CONF, before)
        host.run("systemctl", "daemon-reload")

    return made


CONFIG_GARBAGE = Fault("config garbage", config("\0\xff[protect\nunits\n]]]=\n"), smoke=(TOUCH,))
CONFIG_FAULTS = (
    Fault("config missing", config(None)),
    Fault("config empty", config("")),
    CONFIG_GARBAGE,
    Fault("config of 10 MB", config("[protect]\nunits = quantum-x.service\nx\n" * 250_000)),
    Fault(
        "config unreadable",
        script(
            f"mv {CONF} /etc/away; mkdir {CONF}; systemctl daemon-reload",
            f"rmdir {CONF}; mv /etc/away {CONF}; systemctl daemon-reload",
        ),
    ),
)

NAME_FAULTS = (
    Fault(
        "no hostname, no machine-id",
        script(
            "mv /etc/hostname /etc/away; mv /etc/machine-id /etc/gone\n"
            "hostname >/run/name; "
            "python3 -c 'import socket; socket.sethostname(\"(none)\")'",
            "mv /etc/away /etc/hostname; mv /etc/gone /etc/machine-id\nhostname -F /run/name",
        ),
    ),
)

FILE_FAULTS = (
    RUN_FULL,
    RUN_WITHOUT_INODES,
    *VAR_FAULTS,
    *DIRECTORY_FAULTS,
    *RECORD_FAULTS,
    *CONFIG_FAULTS,
    *NAME_FAULTS,
)
