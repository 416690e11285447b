"""Maintainer scripts: dpkg killed anywhere, beside running trading and while latched.

All deeds are done once whole, under strace, which counts the system calls that change something;
then each is done again and dpkg killed at one of those calls, chosen at random. They follow each
other in an order in which each leaves what the next one needs. SEED (in the environment) repeats a
run; the seed and every point are printed. All the while one loop tries to start a protected unit
and another reloads PID 1's units.
"""

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from debs import field, previous
from host import Host, lean
from kinds import FOUR
from product import Ess
from roots import root_tree
from trading import FLAG, Trading
from waiting import now_ns, wait_until

SEED = int(os.environ.get("SEED", random.randrange(10**6)))
POINTS = int(os.environ.get("POINTS", "1"))  # interruptions of each deed, beside latch and release
CALLS = "rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,clone,vfork,wait4"
OPTIONS = "--force-confdef --force-confold --force-downgrade"
CONFFILE = "/etc/quantum-ess/quantum-ess.conf"  # edited; each version ships it with another text
LOCAL = {
    CONFFILE: "# By hand.\n",
    "/etc/quantum-ess/quantum-ess.conf.d/local.conf": "[redis]\nenabled = no\n",
    "/etc/systemd/system/quantum-ess-sentry.service.d/local.conf": "[Service]\nNice=-1\n",
}

OLD, NEW = "/var/cache/old.deb", "/var/cache/new.deb"
# Deed: what must be installed before ("" for nothing) and dpkg's arguments.
DEEDS = {
    "install": ("", f"--install {NEW}"),
    "downgrade": (NEW, f"--install {OLD}"),
    "upgrade": (OLD, f"--install {NEW}"),
    "reinstall": (NEW, f"--install {NEW}"),
    "remove": (NEW, "--remove quantum-ess"),
    "purge": (NEW, "--purge quantum-ess"),
}
LOOP = "while :; do {}; done"
TRY_TO_START = "systemctl start {} 2>/dev/null && echo {} >>/run/started; sleep 0.1"
RELOAD = "systemctl daemon-reload; sleep 1"


@pytest.fixture
def packages(deb: Path, tmp_path: Path) -> dict[str, Path]:
    """The package and one that it upgrades, by where they lie in a host."""
    return {OLD: previous(deb, tmp_path), NEW: deb}


class Machine:
    """A host on which dpkg is killed, and what must hold there whatever happens."""

    def __init__(self, host: Host, packages: dict[str, Path]) -> None:
        self.host = host
        self.packages = packages
        for place, deb in packages.items():
            host.write_file(place, "")
            (host.remains.directory / "root" / place.lstrip("/")).write_bytes(deb.read_bytes())
        self.versions = {place: field(deb, "Version") for place, deb in packages.items()}
        self.calls: dict[tuple[str, str], int] = {}  # how many of CALLS a deed takes
        self.random = random.Random(f"{SEED} {host.release}")

    def dpkg(self, arguments: str) -> int:
        """Run dpkg, as apt would; its exit status."""
        done = self.host.run("sh", "-c", f"dpkg {OPTIONS} {arguments}", check=False, timeout=120)
        return done.returncode

    def whole(self, before: str, arguments: str) -> None:
        """Do a deed to its end, and count how many of CALLS dpkg itself makes."""
        self.bring(before)
        command = f"strace -qq -o /run/calls -e trace={CALLS} dpkg {OPTIONS} {arguments}"
        self.host.run("sh", "-c", command, check=False, timeout=120)
        calls = re.findall(r"^\w+\(", self.host.read_file("/run/calls"), re.M)
        self.calls[before, arguments] = len(calls)

    def kill(self, before: str, arguments: str) -> str:
        """Do a deed and kill dpkg before one of CALLS, its scripts too each second time; where."""
        self.bring(before)
        calls = self.calls[before, arguments]
        point = self.random.randint(1, calls)
        where = f"seed {SEED} {self.host.release}: dpkg {arguments}: call {point} of {calls}"
        print(where)
        inject = f"-e trace={CALLS} -e inject={CALLS}:signal=KILL:when={point}"
        command = f"strace -qq -o /run/calls {inject} dpkg {OPTIONS} {arguments}; "
        self.host.run(
            *("systemd-run", "--quiet", "--wait", "--collect", "--unit=killed-dpkg"),
            f"--property=KillMode={'control-group' if point % 2 else 'process'}",
            *("--property=KillSignal=SIGKILL", "sh", "-c", command),
            check=False,
            timeout=120,
        )
        return where

    def status(self) -> tuple[str, str]:
        """What dpkg calls the package's state, and the version; empty if it knows none."""
        shown = ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "quantum-ess")
        status, _, version = self.host.run(*shown, check=False).stdout.partition(" ")
        return status, version

    def installed(self) -> str:
        """The installed version; empty unless the package is installed and configured."""
        status, version = self.status()
        return version if status == "installed" else ""

    def assert_not_removed(self, arguments: str) -> None:
        """An interrupted removal, tried again, is refused again, and the package whole.

        dpkg itself calls it half-configured if the first one was killed before its refusal, and
        `--configure -a` passes over what somebody wants removed: it has to be named.
        """
        self.dpkg("--configure -a")
        assert self.dpkg(arguments) != 0
        status, _ = self.status()
        assert status == "installed" or (
            status == "half-configured" and self.dpkg("--configure quantum-ess") == 0
        )
        assert self.installed()

    def bring(self, place: str) -> None:
        """Have the package of that place installed, or none; local files as an admin left them."""
        if not place:
            if self.host.exists("/var/lib/dpkg/info/quantum-ess.list"):
                assert self.dpkg("--purge quantum-ess") == 0
        elif self.installed() != self.versions[place]:
            assert self.dpkg(f"--install {place}") == 0
        for path, text in LOCAL.items():
            self.host.write_file(path, text)

    def finish(self, arguments: str) -> None:
        """What an admin does after the interruption: configure what is left, then once more."""
        self.dpkg("--configure -a")
        assert self.dpkg(arguments) == 0

    @contextmanager
    def loops(self, *scripts: str) -> Iterator[None]:
        """Run shell commands over and over."""
        units = [f"loop-{number}" for number, _ in enumerate(scripts)]
        for unit, script in zip(units, scripts, strict=True):
            looped = LOOP.format(script)
            options = ("--quiet", "--collect", "--property=SuccessExitStatus=KILL")
            self.host.run("systemd-run", *options, f"--unit={unit}", "sh", "-c", looped)
        try:
            yield
        finally:
            self.host.run("systemctl", "kill", "--signal=KILL", *units, check=False)

    def assert_local_files(self, deed: str) -> None:
        """What an admin wrote is there, but for what a purge takes from the package's own place."""
        for path, text in LOCAL.items():
            if deed != "purge" or "/systemd/" in path:
                assert self.host.read_file(path) == text, path


def test_beside_running_trading(release: str, packages: dict[str, Path]) -> None:
    """Each deed, whole and interrupted: trading's processes never change."""
    with Host(release, [root_tree(release)], volatile=True, prepare=lean) as host:
        host.apt("install", "--no-install-recommends", "python3-jeepney", "python3-daemon",
                 "python3-redis")  # fmt: skip
        machine = Machine(host, packages)
        trading = Trading(host)
        trading.start()
        pids = {unit: host.main_pid(unit) for unit in FOUR} | trading.kept_pids()
        begun = now_ns()
        with machine.loops(RELOAD):
            for deed, (before, arguments) in DEEDS.items():
                machine.whole(before, arguments)
                machine.assert_local_files(deed)
                assert trading.born_after(begun) == {}, deed
            for deed, (before, arguments) in POINTS * [*DEEDS.items()]:
                where = machine.kill(before, arguments)
                assert trading.born_after(begun) == {}, where
                machine.finish(arguments)
                machine.assert_local_files(deed)
                now = {unit: host.main_pid(unit) for unit in FOUR} | trading.kept_pids()
                assert now == pids, where
        trading.all_running()
        machine.bring(NEW)
        assert not Ess(host).latched()
        pull = trading.pull("flag")
        trading.assert_stopped(pull.time)


def test_while_latched(release: str, layers: list[Path], packages: dict[str, Path]) -> None:
    """Each deed, whole and interrupted: no start gets through, and removal is refused.

    That loop and trading's own `Restart=` try: the units are of one kind, so two are enough.
    """
    with Host(release, layers, volatile=True) as host:
        trading = Trading(host)
        trading.start()
        machine = Machine(host, packages)
        deeds_while_latched(machine, trading, Ess(host))
        install_under_a_flag(machine, trading, Ess(host))


def deeds_while_latched(machine: Machine, trading: Trading, ess: Ess) -> None:
    """From one activation to its release."""
    host = machine.host
    pull = trading.pull("command")
    trading.assert_stopped(pull.time, watch=0.1)
    ess.wait_complete()
    incident = ess.status()["incident"]
    kept, begun = trading.kept_pids(), now_ns()
    deeds = [deed for name, deed in DEEDS.items() if name != "install"]
    tries = "; ".join(TRY_TO_START.format(unit, unit) for unit in FOUR[:2])
    with machine.loops(RELOAD, tries):
        for before, arguments in deeds:
            machine.whole(before, arguments)
            assert ess.latched(), arguments
            assert trading.born_after(begun) == {}, arguments
            assert not host.exists("/run/started"), arguments
        for before, arguments in POINTS * deeds:
            where = machine.kill(before, arguments)
            assert ess.latched(), where
            if "--install" in arguments:
                machine.finish(arguments)
            else:
                machine.assert_not_removed(arguments)
            machine.assert_local_files("")
            assert trading.born_after(begun) == {}, where
            assert not host.exists("/run/started"), where
    assert trading.kept_pids() == kept
    assert ess.status()["incident"] == incident
    assert not ess.failed_units().strip()
    ess("deactivate")
    wait_until(lambda: trading.alive() == list(FOUR), 60, "trading again")


def install_under_a_flag(machine: Machine, trading: Trading, ess: Ess) -> None:
    """Where no package is, a flag lies there, as of an older installation: it stays latched."""
    host = machine.host
    before, arguments = DEEDS["install"]

    def begin() -> None:
        ess("deactivate", "--no-start", check=False)  # not active at first
        machine.bring("")
        host.sh(f"systemctl stop {' '.join(FOUR)}; mkdir -p /run/quantum; touch {FLAG}")

    def assert_held() -> None:
        assert host.exists(FLAG)
        for unit in FOUR:
            assert host.run("systemctl", "start", unit, check=False).returncode != 0
        assert trading.alive() == []
        machine.assert_local_files("")

    begin()
    machine.whole(before, arguments)
    assert_held()
    for _ in range(POINTS):
        begin()
        machine.kill(before, arguments)
        machine.finish(arguments)
        assert_held()
