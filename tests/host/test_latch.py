"""Latch: while it is set, no way to start a protected unit succeeds, a power cut included.

Each way is first shown to work on an open latch, then refused on a shut one: else a way that never
starts anything would count as refused.
"""

import re

import pytest

from host import STAMPS, Host
from kinds import FOUR, KEPT, NORMAL, service
from product import ACTIVE, ISO_TIME, RECORD, WATCH, Ess
from trading import FLAG, WAYS, Trading
from waiting import SOON, hold, now_ns, wait_until

UNIT = FOUR[1]
BUS_NAME = "org.example.Trading"

# Files that a way to start needs, in /etc/systemd/system or as a full path.
FILES = {
    "try.timer": f"[Timer]\nOnActiveSec=100ms\nAccuracySec=1ms\nUnit={UNIT}\n",
    "try.socket": f"[Socket]\nListenStream=/run/try.sock\nService={UNIT}\n",
    "try.path": f"[Path]\nPathExists=/run/try\nUnit={UNIT}\n",
    "wants.target": f"[Unit]\nWants={UNIT}\nAfter={UNIT}\n",
    "requires.service": service("/bin/true", "Type=oneshot").replace(
        "[Unit]", f"[Unit]\nRequires={UNIT}\nAfter={UNIT}"
    ),
    "binds.target": f"[Unit]\nBindsTo={UNIT}\nAfter={UNIT}\n",
    "upholds.target": f"[Unit]\nUpholds={UNIT}\n",
    "on-success.service": service("/bin/true", "Type=oneshot").replace(
        "[Unit]", f"[Unit]\nOnSuccess={UNIT}"
    ),
    "on-failure.service": service("/bin/false", "Type=oneshot").replace(
        "[Unit]", f"[Unit]\nOnFailure={UNIT}"
    ),
    "isolated.target": f"[Unit]\nAllowIsolate=yes\nRequires=multi-user.target\nWants={UNIT}\n",
    f"/usr/share/dbus-1/system-services/{BUS_NAME}.service": (
        f"[D-BUS Service]\nName={BUS_NAME}\nExec=/bin/false\nUser=root\nSystemdService={UNIT}\n"
    ),
}

# How to start UNIT, as a shell script; it may fail, and it may not wait.
STARTS = {
    "start": f"systemctl start {UNIT}",
    "start --no-block": f"systemctl start --no-block {UNIT}",
    "restart": f"systemctl restart {UNIT}",
    "reload-or-restart": f"systemctl reload-or-restart {UNIT}",
    "job mode": f"systemctl start --job-mode=ignore-dependencies {UNIT}",
    "enable --now": f"systemctl enable --now {UNIT}",
    "a timer": "systemctl restart try.timer",
    "a socket": "systemctl restart try.socket; bash -c 'timeout 1 redis-cli -s /run/try.sock ping'",
    "a path": "touch /run/try; systemctl restart try.path",
    "Wants=": "systemctl start wants.target",
    "Requires=": "systemctl start requires.service",
    "BindsTo=": "systemctl start binds.target",
    "Upholds=": "systemctl start upholds.target",
    "OnSuccess=": "systemctl start on-success.service",
    "OnFailure=": "systemctl start on-failure.service",
    "D-Bus": (
        "busctl call --timeout=2 org.freedesktop.DBus / org.freedesktop.DBus"
        f" StartServiceByName su {BUS_NAME} 0"
    ),
    "the bus of PID 1": (
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1"
        f" org.freedesktop.systemd1.Manager StartUnit ss {UNIT} replace"
    ),
    "isolate": "systemctl isolate isolated.target",  # stops much else: the last one
}
UNDO = "systemctl stop try.timer try.socket try.path wants.target binds.target upholds.target"


def prepare(host: Host) -> Trading:
    """Stand-ins, and everything that could start one, none of it running but the kept units."""
    trading = Trading(host, dict.fromkeys(FOUR, "normal"))
    for name, text in FILES.items():
        host.write_file(name if name.startswith("/") else f"/etc/systemd/system/{name}", text)
    host.sh("systemctl daemon-reload; systemctl reload dbus")
    host.run("systemctl", "start", *KEPT)
    return trading


def test_no_way_to_start(host: Host) -> None:
    """Each of them starts the unit while the latch is open, and none while it is shut."""
    trading = prepare(host)
    for name, start in STARTS.items():
        host.sh(start + " || true")
        wait_until(lambda: trading.alive([UNIT]), SOON, f"a start by {name} on an open latch")
        host.sh(f"{UNDO} 2>/dev/null || true; systemctl stop {UNIT}; rm -f /run/try /run/try.sock")
        wait_until(lambda: not trading.remaining(), SOON, "a plain stop")

    pull = trading.pull("command")
    for name, start in STARTS.items():
        host.sh(start + " || true")
        hold(lambda: trading.born_after(pull.time), 0.6, f"started by {name} while latched")
        assert host.unit_state(UNIT) in ("inactive", "failed")
        assert Ess(host).latched()
        host.sh(f"{UNDO} 2>/dev/null || true; rm -f /run/try /run/try.sock")


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_start_is_loud(trading: Trading, way: str) -> None:
    """The caller gets a failure; the journal says who holds the unit and how to release it."""
    host = trading.host
    pull = trading.pull(way)
    trading.assert_stopped(pull.time, watch=0.1)
    Ess(host).wait_complete()
    for verb in ("start", "restart"):
        refused = host.run("systemctl", verb, UNIT, check=False)
        assert refused.returncode != 0
        assert refused.stderr
    ess = Ess(host)
    for entry in ess.wait_event("refused"):
        assert "quantum-ess deactivate" in entry["MESSAGE"]
        assert UNIT.removesuffix(".service") in entry["MESSAGE"]
    assert "quantum-ess deactivate" in host.journal("-u", UNIT)
    assert "quantum-ess deactivate" in host.journal("-t", "quantum-ess")
    assert trading.born_after(pull.time) == {}


@pytest.mark.parametrize("seen", ["/usr/local/bin/standin", "/usr /lib /lib64"])
def test_a_service_on_an_empty_root(host: Host, seen: str) -> None:
    """Without test(1), or with it and without a sight of the flag: it starts, and is held."""
    bare = ("TemporaryFileSystem=/:ro", f"BindReadOnlyPaths={seen}", f"BindPaths={STAMPS}")
    trading = Trading(host)
    trading.write_unit(UNIT, service(NORMAL, *bare, "Restart=always", "RestartSec=0"))
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", UNIT)
    trading.start()
    pull = trading.pull("command")
    trading.assert_stopped(pull.time)
    Ess(host).wait_complete()
    assert host.run("systemctl", "start", UNIT, check=False).returncode != 0
    hold(lambda: trading.remaining(), 0.4, "started while latched")
    Ess(host)("deactivate")
    trading.all_running()


@pytest.mark.parametrize("reload", ["daemon-reload", "daemon-reexec"])
@pytest.mark.parametrize("kind", ["restarts-at-once", "restarts-after-1s"])
def test_reloading_systemd_opens_nothing(host: Host, kind: str, reload: str) -> None:
    trading = Trading(host, dict.fromkeys(FOUR, kind))
    trading.start()
    pull = trading.pull("command")
    trading.assert_stopped(pull.time, watch=0.1)
    for _ in range(3):
        host.run("systemctl", reload)
        assert host.run("systemctl", "start", UNIT, check=False).returncode != 0
    hold(lambda: trading.late(pull.time), 1.2, "alive again")


@pytest.mark.parametrize("kind", ["restarts-at-once", "restarts-after-1s"])
def test_the_kill_alone_is_final(host: Host, kind: str) -> None:
    """The gate without any stop job: PID 1 restarts what was killed, if the gate lets it."""
    trading = Trading(host, dict.fromkeys(FOUR, kind))
    trading.start()
    host.sh(f"systemctl stop quantum-ess.path {' '.join(WATCH)} quantum-ess-sentry")
    host.sh(f"touch {FLAG}")
    killed = now_ns()
    for unit in FOUR:
        host.sh(f"echo 1 >/sys/fs/cgroup/system.slice/{unit}/cgroup.kill")
    hold(lambda: trading.born_after(killed), 2.5, "restarted while latched")
    trading.assert_inactive()


def test_either_half_of_the_latch_holds(host: Host) -> None:
    """The flag alone and the record alone refuse a start, before anyone has reacted to them."""
    trading = Trading(host)
    host.sh(f"systemctl stop quantum-ess.path {' '.join(WATCH)} quantum-ess-sentry")
    for path in (FLAG, RECORD):
        host.sh(f"touch {path}")
        begun = now_ns()
        assert host.run("systemctl", "start", UNIT, check=False).returncode != 0
        assert trading.born_after(begun) == {}
        host.sh(f"rm {path}")
    host.run("systemctl", "start", UNIT)
    wait_until(lambda: trading.alive([UNIT]), SOON, "a start on an open latch")


@pytest.mark.parametrize("way", WAYS)
def test_power_cut(host: Host, way: str) -> None:
    """No protected unit runs even for a moment; the flag is back; status says since when."""
    trading = Trading(host, dict.fromkeys(FOUR, "restarts-at-once"))
    ess = Ess(host)
    host.run("systemctl", "enable", *FOUR, *KEPT)
    trading.start()
    trading.pull(way)
    ess.wait_complete()
    before = ess.status()
    flag = host.read_file(FLAG)
    assert re.fullmatch(ISO_TIME + "\n", flag)

    for _ in range(2):
        cut = host.power_cut()
        hold(lambda: trading.born_after(cut), 1.0, "ran after the boot")  # noqa: B023
        assert trading.states() == dict.fromkeys(FOUR, "inactive")
        trading.all_running(KEPT)
        assert "ordering cycle" not in host.journal("-b"), "PID 1 has dropped a job"
        assert host.read_file(FLAG) == flag
        assert host.sh(f"stat -c '%a %U' {FLAG}") == "644 root\n"
        after = ess.status()
        for key in ("status", "incident", "since", "trigger", "reason"):
            assert after[key] == before[key], key
        assert ess.first_line() == ACTIVE
        assert before["since"] in ess("status").stdout
        assert host.run("systemctl", "start", UNIT, check=False).returncode != 0
        assert trading.born_after(cut) == {}
    assert ess.incidents() == [before["incident"]]


# What must follow one another on the disk, as strace -y prints it; N is a process's number.
STATE = "/var/lib/quantum-ess"
WRITTEN = (r"write\(\d+<STATE/latched.N.new>", r"fsync\(\d+<STATE/latched.N.new>\) += 0")
DURABLE = {
    ("quantum-ess", "activate"): (
        *WRITTEN,
        r'rename\("STATE/latched.N.new", "STATE/latched"\) += 0',
        r"fsync\(\d+<STATE>\) += 0",
        r"fsync\(\d+<STATE/history.jsonl>\) += 0",
    ),
    ("quantum-ess", "deactivate"): (
        r'unlink\("STATE/latched"\) += 0',
        r"fsync\(\d+<STATE>\) += 0",
        r"fsync\(\d+<STATE/history.jsonl>\) += 0",
    ),
    ("/usr/lib/quantum-ess/halt", "--raise"): (
        *WRITTEN,
        r'linkat\(\S+, "STATE/latched.N.new", \S+, "STATE/latched", 0\) += 0',
        r"fsync\(\d+<STATE>\) += 0",
    ),
}


def test_the_record_is_durable_before_it_counts(host: Host) -> None:
    """A cut of the container's power keeps the kernel's cache; that a disk has it, fsync(2) says.

    Nobody else is at work, so that nobody else's calls are seen.
    """
    Trading(host).start()
    host.sh(f"systemctl stop quantum-ess.path {' '.join(WATCH)} quantum-ess-sentry")
    calls = "trace=write,fsync,rename,linkat,unlink"
    for argv, steps in DURABLE.items():
        host.run("strace", "-f", "-qq", "-y", "-s", "0", "-o", "/run/calls", "-e", calls, *argv)
        made = host.read_file("/run/calls")
        for step in steps:
            pattern = step.replace("STATE", STATE).replace(".N.", r"\.\d+\.")
            found = re.search(pattern, made)
            assert found, f"{argv}: no {pattern} after what must come before it"
            made = made[found.end() :]


def test_power_cut_and_the_flag_does_not_restart_trading(host: Host) -> None:
    """After the boot the absence of the flag is the boot's doing, not somebody's release."""
    trading = Trading(host)
    host.run("systemctl", "enable", *FOUR)
    trading.start()
    trading.pull("command")
    Ess(host).wait_complete()
    host.run("systemctl", "mask", "quantum-ess-restore.service")
    cut = host.power_cut()
    wait_until(lambda: host.exists(FLAG), SOON, "the flag, set again by the watch timer")
    hold(lambda: trading.born_after(cut), 1.0, "ran after the boot")


def test_a_boot_without_hostname_and_machine_id(host: Host) -> None:
    """To systemd the first boot of all, with presets that enable whatever can be."""
    trading = Trading(host)
    trading.start()
    trading.pull("command")
    ess = Ess(host)
    ess.wait_complete()
    before, identity = ess.status(), host.read_file("/etc/machine-id")
    host.run("rm", "/etc/hostname", "/etc/machine-id")
    cut = host.power_cut()
    assert host.read_file("/etc/machine-id") != identity
    assert "enabled" in host.run("systemctl", "is-enabled", UNIT, check=False).stdout
    hold(lambda: trading.born_after(cut), 1.0, "ran after the boot")
    assert ess.first_line() == ACTIVE and ess.status()["incident"] == before["incident"]
    assert host.run("systemctl", "start", UNIT, check=False).returncode != 0
    ess("deactivate")
    trading.all_running()
    trading.assert_stopped(trading.pull("flag").time)


def test_a_boot_without_a_latch_starts_trading(host: Host) -> None:
    trading = Trading(host)
    host.run("systemctl", "enable", *FOUR)
    cut = host.power_cut()
    wait_until(lambda: len(trading.born_after(cut)) == 4, SOON, "the four after a boot")
    assert not Ess(host).latched()
