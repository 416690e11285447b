"""The order of the stop path, by strace: nothing is started or waited for before the kill.

A fork may be refused, and a program may be on a disk that does not answer.
"""

import re

import pytest

from host import Host
from kinds import FOUR
from product import WATCH, Ess
from trading import FLAG, Trading
from waiting import wait_until

TRACE = "/run/trace"
# What may wait for somebody else, or for a disk.
WAITING = (
    "connect,sendto,sendmsg,flock,fsync,fdatasync,poll,ppoll,pselect6,epoll_wait,futex,nanosleep"
)
STRACE = ("strace", "-f", "-y", "-qq", "-o", TRACE, "-e", f"trace=%process,read,write,{WAITING}")
KILL = re.compile(r"write\(.*/cgroup\.kill>")
START = re.compile(r"^\d+ +(?:clone3?|v?fork|execve)\(")
WAIT = re.compile(rf"^\d+ +(?:{WAITING.replace(',', '|')})\(")
ARRANGED = {"": "true", "stop group": "chmod 1775 /run/quantum"}  # as libexec/access leaves it


def before_the_kills(host: Host) -> list[str]:
    """What was traced before the last of the first four kills. AssertionError if there are less."""
    lines = host.read_file(TRACE).splitlines()
    kills = [number for number, line in enumerate(lines) if KILL.search(line)]
    assert len(kills) >= len(FOUR), "\n".join(lines)
    return lines[: kills[len(FOUR) - 1]]


@pytest.mark.parametrize("access", ARRANGED)
def test_the_kill_comes_before_every_other_program(trading: Trading, access: str) -> None:
    host, ess = trading.host, Ess(trading.host)
    ess.configure("[resume]\nsettle = 50ms\n")
    # What else watches the flag would be the first to kill. A release that has the watch account
    # for a stop has it start the path unit as well.
    watchers = ("quantum-ess.path", "quantum-ess-watch.path", *WATCH)
    host.run("systemctl", "stop", "quantum-ess-sentry")
    for command in (("quantum-ess", "activate"), ("/usr/lib/quantum-ess/halt", "--raise")):
        host.sh(ARRANGED[access])
        host.run("systemctl", "stop", *watchers)
        host.run(*STRACE, *command)
        before = before_the_kills(host)
        started = [line for line in before if START.match(line)]
        assert len(started) == 1, started  # itself
        assert not [line for line in before if WAIT.match(line)], before
        assert ess.latched()
        ess("deactivate")
        wait_until(lambda: sorted(trading.alive()) == sorted(FOUR), 30, "trading")

    host.run("systemctl", "stop", *watchers)
    host.run("systemctl", "start", "quantum-ess-sentry")
    # The loop that kills, once it has told systemd that it is the main process: a child of another.
    main = (
        "p=$(systemctl show -P MainPID quantum-ess-sentry); [ $(ps -o ppid= $p) -ne 1 ] && echo $p"
    )
    pid = wait_until(lambda: host.run("sh", "-c", main, check=False).stdout.strip(), 30, "its loop")
    with_pid = host.spawn(*STRACE, "-p", pid)
    traced = f"grep -q 'TracerPid:.*[1-9]' /proc/{pid}/status"
    wait_until(lambda: host.run("sh", "-c", traced, check=False).returncode == 0, 30, "strace")
    host.run("touch", FLAG)
    wait_until(lambda: not trading.remaining(), 30, "the stop")
    host.run("kill", "-INT", host.run("pidof", "strace").stdout.strip())
    with_pid.communicate(timeout=30)
    lines = before_the_kills(host)
    heard = max(number for number, line in enumerate(lines) if " read(0<" in line)
    assert not [line for line in lines[heard:] if START.match(line) or WAIT.match(line)], lines[
        heard:
    ]
