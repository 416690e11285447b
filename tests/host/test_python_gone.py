"""Without Python: PID 1 and a shell stop and hold, and the rest is made up for later.

The sentry is stopped as well: it would be quicker than PID 1 in everything.
"""

import json
import re
import time

import pytest

from conftest import CHECKOUT
from faults.files import RUN_WITHOUT_INODES
from host import Host
from kinds import FOUR, REDIS, ROUNDS
from product import ACTIVE, INCOMPLETE, RECORD, WATCH, Ess
from trading import FLAG, Trading
from waiting import SOON, hold, wait_until

PYTHON = "/usr/bin/python3"
MODULES = "/usr/lib/python3/dist-packages/quantum_ess"
WATCHERS = ("quantum-ess.path", "quantum-ess-watch.path", *WATCH)
SCRIPTS = ("quantum-ess", "strike", "halt", "witness")


def take_away(host: Host) -> None:
    """Move every Python of the host out of reach, and leave the stop to PID 1 alone."""
    host.run("systemctl", "stop", "quantum-ess-sentry")
    host.sh("cd /usr/bin; mkdir /usr/away; for p in python3*; do mv $p /usr/away/; done")
    assert not host.exists(PYTHON)


def give_back(host: Host) -> None:
    """Undo `take_away`."""
    host.sh("mv /usr/away/* /usr/bin/")
    host.run(PYTHON, "-c", "")


@pytest.mark.parametrize(
    ("way", "kinds"),
    [("command", ROUNDS[1]), ("unit", ROUNDS[1]), *(("flag", kinds) for kinds in ROUNDS)],
    ids=lambda value: value if isinstance(value, str) else "+".join(value.values()),
)
def test_every_kind_dies_and_stays_down(host: Host, way: str, kinds: dict[str, str]) -> None:
    trading = Trading(host, kinds)
    trading.start()
    neighbours = trading.bystanders()
    take_away(host)
    pull = trading.pull(way)
    trading.assert_stopped(pull.time)
    trading.assert_inactive()
    assert trading.bystanders() == neighbours
    for verb in ("start", "restart"):
        assert host.run("systemctl", verb, FOUR[0], check=False).returncode != 0
    hold(lambda: trading.late(pull.time), 0.5, "alive again")


def test_it_holds_through_daemon_reload_and_a_power_cut(trading: Trading) -> None:
    """The generator needs Python: without, the last good gate is what it puts in place."""
    host = trading.host
    host.run("systemctl", "enable", *FOUR)
    take_away(host)
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time, watch=0.1)
    host.run("systemctl", "daemon-reload")
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    wait_until(lambda: host.exists("/var/lib/quantum-ess/latched"), SOON, "the record")
    flag = host.read_file(FLAG)
    cut = host.power_cut()
    hold(lambda: trading.born_after(cut), 1.5, "ran after the boot")
    assert host.read_file(FLAG) == flag
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    assert trading.born_after(cut) == {}


def test_what_was_missing_is_made_up_for(trading: Trading) -> None:
    """Trail, record and marker are complete once Python is back, and a release works."""
    host = trading.host
    ess = Ess(host)
    take_away(host)
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    trail = ("-t", "quantum-ess", "-o", "cat")
    begun = "ESS ACTIVATION INITIATED"
    wait_until(lambda: begun in host.journal(*trail), SOON, "a trail without Python")
    told = ess("status", check=False)
    assert told.returncode == 1 and told.stdout == ACTIVE + "\n"
    assert "Python is missing: apt install" in told.stderr
    assert ess("status", "--quiet", check=False).returncode == 0
    refused = ess("deactivate", check=False)
    assert refused.returncode == 1 and "Python is missing" in refused.stderr
    give_back(host)
    ess.wait_event("complete")
    assert ess.first_line() == ACTIVE
    assert len(ess.incidents()) == 1
    marker = ("redis-cli", "GET", "quantum:ess:active")
    wait_until(lambda: host.run(*marker).stdout.strip(), SOON, "the marker")
    assert host.main_pid(REDIS)
    ess("deactivate")
    trading.all_running()


def test_who_and_why_are_known_of_a_command_without_python(trading: Trading) -> None:
    host, ess = trading.host, Ess(trading.host)
    take_away(host)
    why = 'a "quote", a \\backslash, a\nline'
    done = ess("activate", "--reason", why, check=False, SUDO_USER="alice")
    assert done.returncode == INCOMPLETE and done.stdout == ACTIVE + "\n"
    give_back(host)
    ess.wait_event("complete")
    found = json.loads(host.read_file(RECORD))
    assert found["trigger"] == "command" and found["reason"] == why.replace("\n", " ")
    assert found["actor"]["sudo_user"] == "alice"


def test_they_are_after_a_boot_too(trading: Trading) -> None:
    """The word that was left of it is in /run, which a boot empties."""
    host, ess = trading.host, Ess(trading.host)
    take_away(host)
    ess("activate", "--reason", "a drill", check=False, SUDO_USER="alice")
    assert not trading.remaining()
    host.power_cut()
    give_back(host)
    ess.wait_event("complete")
    found = ess.status()
    assert (found["trigger"], found["reason"]) == ("command", "a drill")
    assert found["actor"]["sudo_user"] == "alice"


def test_the_caller_s_variables_have_no_say(trading: Trading) -> None:
    """Whatever is exported under a name that the scripts use: here, where only they can stop."""
    host, ess = trading.host, Ess(trading.host)
    take_away(host)
    host.run("systemctl", "stop", "quantum-ess.path", *WATCH)
    scripts = (CHECKOUT / "quantum_ess/libexec" / name for name in SCRIPTS)
    names = {name for file in scripts for name in re.findall(r"\b([a-z_]+)=", file.read_text())}
    assert {"protect", "whole", "group", "plans"} < names
    done = ess("activate", check=False, **dict.fromkeys(names, "x"))
    assert (done.returncode, done.stdout) == (INCOMPLETE, ACTIVE + "\n"), done
    assert "parameter not set" not in done.stderr
    assert not trading.remaining()


def test_a_plan_that_can_t_be_read_on(trading: Trading) -> None:
    """To a shell it looks like one that ends: the next plan's names are added. Halt alone stops."""
    host = trading.host
    take_away(host)
    host.run("systemctl", "stop", *WATCHERS)
    host.sh("sed -i '3,$d' /run/quantum-ess/plan")
    assert host.read_file("/run/quantum-ess/plan").endswith(f"\nprotect {FOUR[0]} 0 0\n")
    host.run("/usr/lib/quantum-ess/halt", "--raise")
    assert not trading.remaining()


def test_a_clock_that_does_not_answer(trading: Trading) -> None:
    """Halt alone, which asks /proc/uptime for the time."""
    host = trading.host
    take_away(host)
    host.run("systemctl", "stop", *WATCHERS)
    fails = ("-P", "/proc/uptime", "-e", "inject=openat:error=ENOMEM")
    command = ("/usr/lib/quantum-ess/halt", "--raise")
    done = host.run("strace", "-qq", "-o", "/run/trace", *fails, *command)
    assert "(INJECTED)" in host.read_file("/run/trace")
    assert not trading.remaining(), done


def test_a_look_at_the_flag_that_fails_once(trading: Trading) -> None:
    """Whichever of halt's: it is no open latch. Halt alone again, with Python for the release."""
    host, ess = trading.host, Ess(trading.host)
    host.run("systemctl", "stop", "quantum-ess-sentry", *WATCHERS)
    command = ("/usr/lib/quantum-ess/halt", "--raise")
    for number in range(1, 13):
        fails = ("-P", FLAG, "-e", f"inject=newfstatat:error=EIO:when={number}")
        done = host.run("strace", "-qq", "-o", "/run/trace", *fails, *command)
        assert "(INJECTED)" in host.read_file("/run/trace")
        assert not trading.remaining() and host.exists(RECORD), (number, done)
        ess("deactivate")
        trading.all_running()


def test_a_gate_slower_than_the_kill_of_a_shell_alone(host: Host) -> None:
    """Its process is the unit's: killed without a pause, it never gets to say no."""
    trading = Trading(host, dict.fromkeys(FOUR, "restarts-at-once"))
    trading.start()
    host.run("systemctl", "stop", "quantum-ess-sentry", *WATCHERS)
    host.run("mv", "/usr/bin/test", "/usr/bin/test.real")
    host.write_file("/usr/bin/test", '#!/bin/sh\nsleep 0.2; exec test.real "$@"\n', 0o755)
    fails = ("-e", "inject=clone,clone3,vfork:error=EAGAIN")
    halt = ("/usr/lib/quantum-ess/halt", "--raise")
    done = host.run("strace", "-qq", "-o", "/run/trace", *fails, *halt, check=False)
    assert "stopped by the shell alone" in done.stderr and "NOT STOPPED" not in done.stderr, done
    assert done.returncode == 0
    wait_until(lambda: trading.states() == dict.fromkeys(FOUR, "inactive"), SOON, "units at rest")


def test_a_grace_that_a_shell_alone_gives(host: Host) -> None:
    """It ends when it is over, and not at the next of ever rarer blows."""
    trading = Trading(host, {FOUR[0]: "ignores-sigterm"})
    Ess(host).configure(f"[unit {FOUR[0]}]\nstop_category = 1\ngrace = 1100ms\n")
    trading.start()
    host.run("systemctl", "stop", "quantum-ess-sentry", *WATCHERS)
    fails = ("-e", "inject=clone,clone3,vfork:error=EAGAIN")
    halt = ("/usr/lib/quantum-ess/halt", "--raise")
    done = host.run("strace", "-qq", "-o", "/run/trace", *fails, *halt)
    assert "stopped by the shell alone" in done.stderr and "NOT STOPPED" not in done.stderr, done
    began = int(host.read_file("/run/quantum-ess/began").split()[0]) / 1e3
    grace = trading.last_sign_of_life() / 1e9 - began
    assert 0.95 < grace < 1.45, grace


def test_what_its_operator_stopped_is_no_work_of_halt(trading: Trading) -> None:
    """Also with a flag that has gone again, of which nobody can say how old it was."""
    host = trading.host
    host.run("systemctl", "stop", "quantum-ess-sentry", *WATCHERS, FOUR[3])
    time.sleep(0.3)
    fails = ("-P", FLAG, "-e", "inject=statx:error=ENOENT")  # stat(1)'s
    host.run("strace", "-fqq", "-o", "/run/trace", *fails, "/usr/lib/quantum-ess/halt", "--raise")
    assert "(INJECTED)" in host.read_file("/run/trace")
    assert json.loads(host.read_file(RECORD))["running"] == sorted(FOUR[:3])


def test_a_controller_that_python_can_t_read(trading: Trading) -> None:
    """Not one byte of it, as from a bad sector: no status of Python's is the controller's word."""
    host, ess = trading.host, Ess(trading.host)
    host.run("mv", PYTHON, f"{PYTHON}.real")
    which = "-path '/usr/lib/*-ess/*' -o -name '__main__*'"
    files = f"$(find /usr/lib/quantum-ess {MODULES} {which} | sed 's/^/-P /')"
    traced = f"strace -f -o /run/trace -e inject=read:error=EIO {files} {PYTHON}.real"
    host.write_file(
        PYTHON,
        "#!/bin/sh\n"
        f'case "$*" in *--created=*) exec {traced} "$@" ;; esac\n'  # the command's
        f'exec {PYTHON}.real "$@"\n',
        0o755,
    )
    done = ess("activate", check=False)
    assert "(INJECTED)" in host.read_file("/run/trace")
    assert (done.returncode, done.stdout) == (INCOMPLETE, ACTIVE + "\n"), done
    assert "Traceback" not in done.stderr and "OSError" in done.stderr, done
    assert not trading.remaining() and host.exists(RECORD)


def test_a_python_that_can_t_start(trading: Trading) -> None:
    """Its standard library is damaged: a line each, and not the pages that it says itself."""
    host, ess = trading.host, Ess(trading.host)
    codecs = host.sh("echo /usr/lib/python3.*/encodings").strip()
    host.run("mv", codecs, "/usr/away")
    done = ess("activate", check=False)
    assert (done.returncode, done.stdout) == (INCOMPLETE, ACTIVE + "\n"), done
    failed = "quantum-ess: the controller failed (status 1); stopping without it"
    assert all(line.startswith("quantum-ess: ") for line in done.stderr.splitlines()), done
    assert done.stderr.startswith(failed) and not trading.remaining()
    told = ess("status", check=False)
    assert (told.returncode, told.stdout) == (1, ACTIVE + "\n")
    assert told.stderr == (
        "quantum-ess: the controller failed (status 1); if it goes on, dpkg --verify names damaged"
        " files; activate works without\n"
    )
    assert ess("status", "--quiet", check=False).returncode == 0
    # And the shell's library ends early, as one that can't be read on.
    host.sh("cd /usr/lib/quantum-ess; mv strike strike.whole; head -c 1500 strike.whole >strike")
    assert ess("status", check=False).stdout == ACTIVE + "\n"
    host.run("mv", "/usr/lib/quantum-ess/strike.whole", "/usr/lib/quantum-ess/strike")
    host.run("mv", "/usr/away", codecs)
    ess("deactivate")
    trading.all_running()


def test_status_with_no_process_to_be_had(trading: Trading) -> None:
    host = trading.host
    Ess(host)("activate")
    nobody = ("setpriv", "--reuid=231234", "--clear-groups", "prlimit", "--nproc=1:1")
    told = host.run(*nobody, "quantum-ess", check=False)
    assert (told.returncode, told.stdout) == (1, ACTIVE + "\n"), told
    assert "the controller failed (no process could be started)" in told.stderr
    assert host.run(*nobody, "quantum-ess", "status", "-q", check=False).returncode == 0
    Ess(host)("deactivate")
    assert host.run(*nobody, "quantum-ess", "status", "--quiet", check=False).returncode == 3


def test_a_python_that_ends_late_and_badly_with_no_inode_in_run(trading: Trading) -> None:
    """By its own status 2; nothing but the command knows by then when it began."""
    host = trading.host
    host.run("systemctl", "stop", "quantum-ess-sentry", *WATCHERS)
    host.run("mv", PYTHON, f"{PYTHON}.real")
    host.write_file(PYTHON, "#!/bin/sh\nsleep 0.5\nexit 2\n", 0o755)
    with RUN_WITHOUT_INODES.made(host):
        done = Ess(host)("activate", check=False)
    assert done.returncode == INCOMPLETE, done
    assert not trading.remaining()
    assert json.loads(host.read_file(RECORD))["running"] == sorted(FOUR)


@pytest.mark.parametrize(
    "said", ["a\nESS_EVENT=forg\nX=y", '", "uid": 7, "x": "1'], ids=["entry", "record"]
)
def test_what_the_flag_says_forges_nothing(trading: Trading, said: str) -> None:
    """Members of a stop group may write into it: record and journal take nothing of that over."""
    host, ess = trading.host, Ess(trading.host)
    take_away(host)
    host.run("sh", "-ec", f'printf %s "$1" >/run/made; mv /run/made {FLAG}', "sh", said)
    wait_until(
        lambda: host.sh(f"cat {RECORD} 2>/dev/null || :").endswith("}\n"), SOON, "the record"
    )
    known = json.loads(host.read_file(RECORD))
    assert known["actor"] == {"uid": 0} and "x" not in known
    assert re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}Z", known["since"])
    assert host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    for entry in ess.wait_event("refused"):
        assert entry["ESS_EVENT"] == "refused" and entry["ESS_INCIDENT"] == known["incident"]
        assert entry["MESSAGE"].endswith("(ESS is ACTIVE; to release: quantum-ess deactivate)")


def test_removing_the_flag_without_python(trading: Trading) -> None:
    """Nothing can release: it stays latched by the record, and says so, rather than half open."""
    host = trading.host
    take_away(host)
    pull = trading.pull("flag")
    trading.assert_stopped(pull.time)
    wait_until(lambda: host.exists("/var/lib/quantum-ess/latched"), SOON, "the record")
    host.run("rm", FLAG)
    hold(lambda: trading.late(pull.time), 6.0, "started")
    give_back(host)
    trading.all_running()
