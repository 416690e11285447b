"""[access] stop_group=: members may stop, and nothing else, whatever they try."""

import calendar
import json
import time

import pytest

from host import Host
from kinds import FOUR
from product import (
    ACTIVE,
    DONE,
    INACTIVE,
    NOT_PERMITTED,
    NOT_RELEASED,
    NOT_VERIFIED,
    RECORD,
    WATCH,
    Ess,
)
from trading import FLAG, Trading
from waiting import SOON, hold, now_ns, wait_until

MEMBER, STRANGER, GROUP = "alice", "mallory", "stoppers"
DIRECTORY = "/run/quantum"
WATCHING = "quantum-ess-watch.service"
SECRET = "/etc/secret"  # stands for any file of root's that must stay as it is

# Each must fail, as a member, while ESS is active; all must leave the flag where and as it is.
REFUSED = (
    f"rm -f {FLAG}",
    f"mv {FLAG} {DIRECTORY}/elsewhere",
    f"touch {DIRECTORY}/mine && mv -f {DIRECTORY}/mine {FLAG}",
    f"ln -f {DIRECTORY}/mine {FLAG}",
    f"ln -sfn /nowhere {FLAG}",
    f"ln {FLAG} {DIRECTORY}/second && rm {FLAG}",
    f"touch -d yesterday {FLAG}",
    f"echo forged >>{FLAG}",
    f"chmod 666 {FLAG}",
    f"chown {MEMBER} {FLAG}",
    f"truncate -s 0 {FLAG}",
    f"mount -t tmpfs none {DIRECTORY}",
    f"umount {DIRECTORY}",
    f"rm {RECORD}",
    f"mv {DIRECTORY} /run/elsewhere",
    f"touch {DIRECTORY}-ess/withdrawn",
    f"rm {DIRECTORY}-ess/seen",
    "systemctl stop quantum-ess.path",
    "systemctl start quantum-ess-release.service",
    "systemctl start quantum-execution",
    "pkill -KILL -f quantum-ess/sentry",
    "quantum-ess deactivate",
    "quantum-ess tend",
)

# Whatever a member puts in the flag's place stops trading, and reaches nothing else.
PLANTED = {
    "a directory": f"cd {DIRECTORY}; mkdir d; touch d/file; mv -T d {FLAG}",
    "a symlink to a file of root's": f"ln -s {SECRET} {FLAG}",
    "a symlink that dangles": f"ln -s /etc/made-by-root {FLAG}",
    "a FIFO": f"mkfifo {FLAG}; exec timeout 20 quantum-ess activate",
    "one of two names": f"cd {DIRECTORY}; touch $$; ln $$ {FLAG}",
    "held open": f"exec 3>{FLAG}; sleep 3 & echo",
    "forged": f"printf '2001-01-01T00:00:00Z\\nreason: \\033[2Jroot did it\\n' >{FLAG}",
}


# Modules that are not ours, and would say so; and what else a caller can set.
HOSTILE = """
mkdir -p /tmp/h/quantum_ess; cd /tmp/h; chmod 777 /tmp/h
for module in quantum_ess/__init__ quantum_ess/cli json redis jeepney sitecustomize; do
    echo 'open("/tmp/h/loaded", "w")' >$module.py
done
"""
HOSTILE_VARIABLES = {
    **dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"), "/tmp/h"),
    "PYTHONSTARTUP": "/tmp/h/json.py",
    "PYTHONINSPECT": "1",
    "ENV": "/tmp/h/json.py",
    "IFS": "/",
    "LC_ALL": "C",
    "TZ": "/etc/secret",
    "SUDO_USER": "mallory",
    "whole": "1",
}


def as_member(host: Host, script: str, user: str = MEMBER) -> int:
    """Run a shell script as that user; its exit status."""
    done = host.run("sh", "-c", script, user=user, check=False)
    return done.returncode


def may_create(host: Host) -> bool:
    """Whether a member can make a file beside the flag. Not one that is there: it stays its own."""
    return as_member(host, f"file=$(mktemp -p {DIRECTORY}) && rm $file") == 0


def stopped(trading: Trading) -> None:
    """Nothing lives, a start is refused, and PID 1 and the record say so too."""
    ess = Ess(trading.host)
    wait_until(lambda: not trading.remaining(), 2, "the end")
    wait_until(lambda: "stop_ms" in trading.host.sh(f"cat {RECORD} || :"), SOON, "the record")
    ess.wait_idle()
    assert trading.host.run("systemctl", "start", FOUR[0], check=False).returncode != 0
    assert ess.first_line() == ACTIVE


def told_s(ess: Ess) -> int:
    """Since when ESS is said to be active, in epoch seconds."""
    return calendar.timegm(time.strptime(ess.status()["since"], "%Y-%m-%dT%H:%M:%SZ"))


def resume(trading: Trading) -> None:
    """Root releases; everything runs again."""
    assert Ess(trading.host)("deactivate").stdout.splitlines()[-1] == INACTIVE
    trading.all_running()


@pytest.fixture
def market(trading: Trading) -> Trading:
    """Trading on a host with a stop group, one member of it, and one who is not."""
    host = trading.host
    host.sh(
        f"groupadd {GROUP}; useradd -g {GROUP} {MEMBER}; useradd {STRANGER}\n"
        f"umask 077; echo secret >{SECRET}"
    )
    for script in (f"touch {FLAG}", "systemctl start quantum-ess", f"systemctl stop {FOUR[0]}"):
        assert as_member(host, script) != 0, script
    for command in ("activate", "deactivate"):
        assert Ess(host)(command, user=MEMBER, check=False).returncode == NOT_PERMITTED
    Ess(host).configure(f"[resume]\nsettle = 0\n[access]\nstop_group = {GROUP}\n")
    mode = ("stat", "-c", "%a %U:%G", DIRECTORY)
    wait_until(lambda: host.run(*mode).stdout == f"1775 root:{GROUP}\n", SOON, "the directory")
    Ess(host).wait_idle()
    return trading


def test_a_trail_that_somebody_else_has_written(trading: Trading) -> None:
    """Everybody may write to the journal: `log` and `proof` go by whose entry it is."""
    host, ess = trading.host, Ess(trading.host)
    host.sh(f"useradd {STRANGER}")
    ess("activate")
    ess.wait_complete()
    incident = ess.status()["incident"]
    forged = "SYSLOG_IDENTIFIER=quantum-ess\nMESSAGE=[ESS AUDIT] forged\nESS_EVENT=complete"
    script = f"printf '{forged}\nESS_INCIDENT={incident}\n_UID=0\n' | logger --journald"
    assert as_member(host, script, STRANGER) == DONE
    assert "forged" in host.journal("-t", "quantum-ess"), "nothing to see through"
    shown = ess("log").stdout
    assert "ESS ACTIVATED" in shown and "forged" not in shown
    entries = f"observe.entries('quantum-ess', '{incident}')"
    script = f"from quantum_ess import observe\nprint([e['MESSAGE'] for e in {entries}])"
    read = host.run("python3", "-c", script).stdout
    assert "ESS ACTIVATED" in read and "forged" not in read


def test_members_may_stop_and_nothing_else(market: Trading) -> None:
    host, ess, kept = market.host, Ess(market.host), market.kept_pids()
    secret = host.sh(f"stat -c '%a %u %Z' {SECRET}; cat {SECRET}")

    # By command, from a hostile place.
    host.sh(HOSTILE)
    done = host.run(
        *("sh", "-c", 'cd /tmp/h; exec quantum-ess activate --reason "prices are stale"'),
        user=MEMBER,
        env=HOSTILE_VARIABLES,
    )
    assert done.stdout.splitlines() == [ACTIVE]
    stopped(market)
    assert "sudo_user" not in ess.status()["actor"]
    said = ess.status()
    uid = int(host.run("id", "-u", MEMBER).stdout)
    assert (said["actor"]["user"], said["actor"]["uid"]) == (MEMBER, uid)
    assert said["reason"] == "prices are stale"
    assert {event["ESS_ACTOR_UID"] for event in ess.named("initiated")} == {str(uid)}
    before = host.sh(f"stat -c '%i %a %u %Y' {FLAG}; cat {FLAG}")
    for script in REFUSED:
        assert as_member(host, f"umask 0; {script}") != 0, script
        assert host.sh(f"stat -c '%i %a %u %Y' {FLAG}; cat {FLAG}") == before, script
    assert as_member(host, "quantum-ess deactivate") == NOT_PERMITTED
    assert ess("activate", user=STRANGER, check=False).returncode == NOT_PERMITTED
    assert ess("activate", user=MEMBER).returncode == DONE  # again: nothing new
    assert ess.status()["incident"] == said["incident"]
    assert not ess.named("released")
    resume(market)

    # Root in the same place. What sudo(8) would not pass on has no say there either.
    host.run("sh", "-c", "cd /tmp/h; exec quantum-ess activate", env=HOSTILE_VARIABLES)
    stopped(market)
    host.run("sh", "-c", "cd /tmp/h; exec quantum-ess deactivate", env=HOSTILE_VARIABLES)
    market.all_running()
    assert not host.exists("/tmp/h/loaded")

    # A further name of a flag becomes root's with it, and does not stay.
    assert as_member(host, f"touch {DIRECTORY}/two; ln {DIRECTORY}/two {FLAG}") == 0
    stopped(market)
    resume(market)
    host.run("mkdir", "-p", f"{DIRECTORY}/of-a-service")
    wait_until(lambda: not host.exists(f"{DIRECTORY}/two"), SOON, "the watch's clearing away")
    assert host.exists(f"{DIRECTORY}/of-a-service")

    # As with Linux before 5.10 on the second round: there a symlink there would be followed.
    for option in ("nosymfollow", "symfollow"):
        host.run("mount", "-o", f"remount,{option}", DIRECTORY)
        for name, script in PLANTED.items():
            done = host.run("sh", "-c", script, user=MEMBER, check=False)
            assert done.returncode == 0, (name, done.stderr, host.sh(f"ls -lai {DIRECTORY}"))
            stopped(market)
            assert ess.status()["actor"]["user"] == MEMBER, name
            assert abs(told_s(ess) - time.time()) < SOON, (name, ess.status())
            assert "\033" not in ess("status").stdout
            assert not host.exists("/etc/made-by-root")
            resume(market)

    # Nor does a time of his choice make a stop of what its operator had stopped before.
    market.put_down(FOUR[3])
    for python in ("/usr/bin/python3", "/usr/bin/python3.away"):
        host.sh(f"[ -e {python} ] || mv /usr/bin/python3 {python}")
        assert as_member(host, f"{PLANTED['forged']}; touch -d '2 hours ago' {FLAG}") == 0
        wait_until(lambda: "running" in host.sh(f"cat {RECORD} || :"), SOON, "the record")
        host.sh(f"[ {python} = /usr/bin/python3 ] || mv {python} /usr/bin/python3")
        stopped(market)
        ess("deactivate")
        market.all_running(FOUR[:3])
        assert not market.living(FOUR[3])
    host.run("systemctl", "start", FOUR[3])

    assert host.sh(f"stat -c '%a %u %Z' {SECRET}; cat {SECRET}") == secret
    assert market.kept_pids() == kept


def test_a_member_with_hardly_any_means(market: Trading) -> None:
    """Whatever is left to the command: it stops trading, or it fails and has done nothing."""
    host, ess, outcomes = market.host, Ess(market.host), []
    killed = "quantum-ess activate & sleep 0.0{}; kill -KILL $!; wait $!"
    limits = ("-f 0", "-n 3", "-n 4", "-n 12", "-v 9000", "-v 40000", "-s 64", "-t 0", "-d 100")
    for script in (
        *(f"ulimit {limit}; quantum-ess activate" for limit in limits),
        *(killed.format(delay) for delay in (0, 1, 3, 9)),
        "trap '' TERM INT HUP XFSZ PIPE; quantum-ess activate >&- 2>&-",
        "quantum-ess activate >/dev/full",
    ):
        before = market.states()
        status = as_member(host, script)
        if ess.latched() or status == DONE:
            stopped(market)
            assert ess.status()["actor"]["user"] == MEMBER, script
            resume(market)
        else:
            hold(lambda: market.states() != before, 0.3, f"changed, but {status}: {script}")  # noqa: B023
        outcomes.append((script, status))
    assert [status for _, status in outcomes].count(DONE) > 1, outcomes
    assert outcomes[-1][1] == DONE, outcomes


@pytest.mark.parametrize("lost", ["/usr/bin/python3", "/usr/lib/python3.*/encodings"])
def test_a_member_without_python(market: Trading, lost: str) -> None:
    host, ess = market.host, Ess(market.host)
    (name,) = host.sh(f"readlink -m {lost}").split()
    host.run("mv", name, "/usr/away")
    done = host.run("quantum-ess", "activate", user=MEMBER, check=False)
    assert (done.returncode, done.stdout) == (NOT_VERIFIED, ""), done
    first, second = done.stderr.splitlines()
    assert (
        first.startswith("quantum-ess: the controller failed (status ") and "is latched" in second
    )
    wait_until(lambda: not market.remaining(), 2, "the end")
    host.run("mv", "/usr/away", name)
    stopped(market)
    assert ess.status()["actor"]["user"] == MEMBER
    resume(market)


def test_a_member_may_not_begin_a_drill(market: Trading) -> None:
    """Nor is he told of trading instead."""
    ess = Ess(market.host)
    ess("activate")
    done = ess("--group=drill", "activate", user=MEMBER, check=False)
    assert (done.returncode, done.stdout) == (NOT_PERMITTED, ""), done
    resume(market)


def test_a_member_by_a_further_group(market: Trading) -> None:
    host = market.host
    host.sh(f"useradd -G {GROUP} bob; useradd carol")
    for user, status in (("carol", NOT_PERMITTED), ("bob", DONE)):
        words = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        done = host.run(*words, "quantum-ess", "activate", check=False)
        assert done.returncode == status, done
    stopped(market)
    assert Ess(host).status()["actor"]["user"] == "bob"
    resume(market)


def test_what_a_member_sets_a_member_cannot_take_back(market: Trading) -> None:
    """Not even before root has it: a flag that was acted upon is set again."""
    host, ess = market.host, Ess(market.host)
    host.sh("rm -f /run/quantum-ess/began")
    assert (
        as_member(
            host, f"touch {FLAG}; until [ -e /run/quantum-ess/began ]; do :; done; rm {FLAG}; :"
        )
        == 0
    )
    stopped(market)
    hold(lambda: ess.first_line() == INACTIVE, 6, "released by a member")
    assert not ess.named("release-initiated")
    resume(market)

    # Nor with the sentry dead and PID 1 not answering, nor with a file held open.
    host.run("systemctl", "stop", "quantum-ess-sentry")
    as_member(host, f"exec 3>{FLAG}; rm -f {FLAG}; :")
    # PID 1 alone has to act on it first, in 15 s at most; 0.2 s later the flag is root's.
    acted = "[ -e /run/quantum-ess/began ] || [ $((n += 1)) -gt 150 ]"
    script = f"exec 3>{FLAG}; n=0; until {acted}; do sleep 0.1; done; sleep 0.3; "
    as_member(host, script + f"rm -f {FLAG}; head -c 70000 /dev/zero >&3; sleep 9 &")
    stopped(market)
    assert ess.status()["since"].startswith("20")
    hold(lambda: ess.first_line() == INACTIVE, 6, "released by a member")
    host.run("systemctl", "start", "quantum-ess-sentry")
    resume(market)

    # A directory that is full, of data and of names.
    as_member(host, f"cat /dev/zero >{DIRECTORY}/x")
    as_member(host, f"cd {DIRECTORY}; i=0; while touch $((i += 1)); do :; done")
    assert len(host.sh(f"ls {DIRECTORY}").split()) < 64
    assert int(host.sh("df --output=avail -k /run | tail -n 1")) > 1000
    pull = market.pull("command")
    market.assert_stopped(pull.time)
    assert pull.status == DONE or "flag not set" in pull.err
    stopped(market)
    resume(market)
    assert as_member(host, f"touch {FLAG}", STRANGER) != 0

    # The group goes, and its number may be another's tomorrow.
    mode = ("stat", "-c", "%a %U:%G", DIRECTORY)
    host.run("groupmod", "-n", "others", GROUP)
    wait_until(lambda: host.run(*mode).stdout == "755 root:root\n", SOON, "a closed directory")
    assert f"there is no group {GROUP}" in ess("status").stdout
    host.run("groupmod", "-n", GROUP, "others")
    wait_until(lambda: host.run(*mode).stdout == f"1775 root:{GROUP}\n", SOON, "an open one")

    # And when the configuration takes it back. First, what filled the directory has to go.
    wait_until(lambda: may_create(host), SOON, "room for a file")
    ess.configure("[access]\n")
    wait_until(lambda: not may_create(host), SOON, "only root may")


def test_a_release_at_once_is_no_new_activation(market: Trading) -> None:
    """The member's flag is made anew, and root's, while the release waits for the record."""
    ess = Ess(market.host)
    for script in (f"touch {FLAG}", "quantum-ess activate"):
        assert as_member(market.host, script) == 0
        assert ess("deactivate").stdout.splitlines()[-1] == INACTIVE
        market.all_running()
    assert not ess.named("release-superseded")


@pytest.mark.parametrize("whose", ["kept", "protected"])
def test_a_runtime_directory_on_a_file_system_of_its_own(market: Trading, whose: str) -> None:
    """PID 1 empties it when that unit ends, and can't remove it: nobody has meant a release."""
    host, ess = market.host, Ess(market.host)
    unit = "quantum-rl-monitor.service" if whose == "kept" else FOUR[2]
    setting = "[Service]\nRuntimeDirectory=quantum\n"
    host.write_file(f"/etc/systemd/system/{unit}.d/own.conf", setting)
    host.sh(f"systemctl daemon-reload; systemctl restart {unit}")
    if whose == "protected":  # the file system stays, and root's flag may be withdrawn
        ess.configure("[resume]\nsettle = 0\n[access]\n")
        wait_until(lambda: not may_create(host), SOON, "only root may")
    # That has emptied it too: what stands for it there comes back with the watch.
    here = f"{DIRECTORY}/.here"
    wait_until(lambda: host.exists(here), SOON, "the directory's stand-in")
    assert as_member(host, f"rm -rf {here}; mv {here} {DIRECTORY}/x") != 0
    pull = market.pull("command" if whose == "kept" else "flag")
    market.assert_stopped(pull.time)
    stopped(market)
    begun = now_ns()
    if whose == "kept":
        host.run("systemctl", "restart", unit)
    hold(lambda: market.born_after(begun), 8, "released by PID 1")
    assert ess.first_line() == ACTIVE and not ess.named("release-initiated")

    # And who means it is heard.
    wait_until(lambda: host.exists(FLAG) and host.exists(here), SOON, "flag and stand-in")
    host.run("rm", FLAG)
    market.all_running()


def test_the_watch_between_record_and_flag(market: Trading) -> None:
    """A command latches by an empty record here; its Python, which sets the flag, comes later."""
    host, ess = market.host, Ess(market.host)
    host.run("systemctl", "stop", "quantum-ess-watch.timer", "quantum-ess.path")
    python = "/usr/bin/python3"
    host.run("mv", python, f"{python}.real")
    host.write_file(python, f'#!/bin/sh\nsleep 3\nexec {python}.real "$@"\n', 0o755)
    activation = host.spawn("quantum-ess", "activate")
    wait_until(lambda: host.exists(RECORD), SOON, "the record")
    host.run("systemctl", "start", "quantum-ess-watch.service")
    said = activation.communicate(timeout=SOON)
    host.run("mv", f"{python}.real", python)
    assert activation.returncode == DONE, said
    ess.wait_complete()
    assert sorted(json.loads(host.read_file(RECORD)).get("running", [])) == sorted(FOUR)
    resume(market)


def test_a_member_of_a_domain(market: Trading) -> None:
    """Its name has a backslash in it, which neither record nor claim may stumble over."""
    host, ess = market.host, Ess(market.host)
    host.sh(f"sed -i 's/^{MEMBER}:/CORP\\\\{MEMBER}:/' /etc/passwd")
    uid = int(host.sh("grep CORP /etc/passwd").split(":")[2])
    python = "/usr/bin/python3"
    for away in (False, True):
        if away:
            host.run("mv", python, "/usr/bin/away")
        host.run("setpriv", f"--reuid={uid}", f"--regid={GROUP}", "--clear-groups", "touch", FLAG)
        wait_until(lambda: "since" in host.sh(f"cat {RECORD} || :"), SOON, "the record")
        if away:
            host.run("mv", "/usr/bin/away", python)
        ess.wait_complete() if not away else stopped(market)
        assert ess.status()["actor"]["uid"] == uid
        assert ess.status()["actor"]["user"] == f"CORP\\{MEMBER}"
        resume(market)


@pytest.mark.parametrize("who", ["root", MEMBER])
def test_an_activation_meanwhile_wins(market: Trading, who: str) -> None:
    """The release waits for the record of a member's stop. Root activates, and writes it; or a
    member does once more, who can't touch a flag that is root's by now.
    """
    host, ess, began = market.host, Ess(market.host), now_ns()
    slow = "[Service]\nExecStartPre=/usr/bin/sleep 300\nTimeoutStartSec=400\n"
    host.write_file("/etc/systemd/system/quantum-ess-trigger.service.d/slow.conf", slow)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "stop", *WATCH, "quantum-ess-watch.path")
    assert as_member(host, f"touch {FLAG}") == 0
    wait_until(lambda: not market.remaining(), SOON, "the sentry's kill")
    release = host.spawn("quantum-ess", "deactivate")
    wait_until(lambda: host.sh("pgrep -f '[c]ontroller deactivate' || :"), SOON, "the release")
    time.sleep(0.5)  # by now it may wait for the record: a release of any stage has to give way
    activation = host.spawn("quantum-ess", "activate", user=None if who == "root" else who)
    if who == MEMBER:  # nor does a second deactivation undo that
        wait_until(lambda: host.sh(f"ls {FLAG}.again.* 2>/dev/null || :"), SOON, "the word")
        second = ess("deactivate", check=False)
        assert "another deactivation is running" in second.stderr, second
    assert activation.communicate(timeout=SOON)[0].splitlines()[0] == ACTIVE
    said = release.communicate(timeout=SOON)
    assert release.returncode == NOT_RELEASED, said
    assert ess.first_line() == ACTIVE
    assert not market.born_after(began)


def test_a_member_s_word_of_before_a_removal(market: Trading) -> None:
    """The flag's removal is a release like any other: what was said before it is over."""
    host, ess = market.host, Ess(market.host)
    ess("activate")
    ess.wait_complete()
    assert ess("activate", user=MEMBER).returncode == DONE
    assert host.sh(f"ls {FLAG}.again.*")
    host.run("rm", FLAG)
    market.all_running()
    assert not ess.named("release-superseded")


def test_the_right_goes_at_once_though_the_disk_hangs(market: Trading) -> None:
    """The last good configuration is made durable after it: that waits for as long as it takes."""
    host, ess = market.host, Ess(market.host)
    kept = [f"{place}/quantum-ess/good/quantum-ess.plan" for place in ("/run", "/var/lib")]
    wait_until(lambda: host.run("cmp", *kept, check=False).returncode == 0, SOON, "a durable one")
    host.sh("mv /usr/bin/sync /usr/bin/sync.away; ln -s hung /usr/bin/sync")
    host.sh("printf '#!/bin/sh\\nexec sleep 300\\n' >/usr/bin/hung; chmod 755 /usr/bin/hung")
    try:
        assert may_create(host)
        ess.configure("[access]\n")
        wait_until(lambda: not may_create(host), SOON, "only root may")
        assert host.run("systemctl", "is-active", WATCHING, check=False).stdout == "activating\n"
    finally:
        host.sh(f"mv -f /usr/bin/sync.away /usr/bin/sync; systemctl kill {WATCHING}")
