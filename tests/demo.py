"""The product at work, as a transcript: `make demo`.

Boots one Debian host, installs the .deb there with apt, starts four trading stand-ins and the
services that must not be touched, and works the operations card. What is claimed about each
command is checked; the exit status is 1 if anything was not so.
"""

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

import remains
from host import Host
from kinds import FOUR, KEPT, REDIS
from roots import RELEASES, root_tree
from trading import FLAG, Trading
from waiting import Timeout, now_ns, wait_until

RECORD = "/var/lib/quantum-ess/latched"
RELEASE_TIME = 10.0  # seconds: a removed flag is noticed within 5, a restart takes less than 5
OUTCOME = {True: "ok", False: "NOT SO"}


class Demo:
    """One host and the transcript of what is done there."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.failed: list[str] = []
        self.trading: Trading

    def say(self, text: str) -> None:
        """A paragraph of explanation."""
        print(f"\n{text}", flush=True)

    def show(self, command: str, status: int = 0) -> str:
        """Run a command in the host and print it with output, exit status and duration."""
        began = time.monotonic()
        done = self.host.run("sh", "-c", f"{command} 2>&1", check=False)
        self.transcribe(command, done.stdout, done.returncode, time.monotonic() - began)
        if done.returncode != status:
            self.claim(f"exit status {status}", False)
        return done.stdout

    def transcribe(self, command: str, output: str, status: int, seconds: float) -> None:
        """Print a command as if typed."""
        print(f"\n  # {command}")
        for line in output.rstrip().splitlines():
            print(f"    {line}".rstrip())
        print(f"    [exit status {status}, {seconds:.2f} s]", flush=True)

    def claim(self, what: str, true: bool) -> None:
        """Print a claim and whether it holds."""
        print(f"  {OUTCOME[true]}: {what}", flush=True)
        if not true:
            self.failed.append(what)

    def stop(self, way: str, *more: str) -> None:
        """Pull a trigger, and say when each unit gave its last sign of life."""
        kept = self.trading.kept_pids()
        command = {"command": "quantum-ess activate", "flag": f"touch /var{FLAG}"}[way]
        pull = self.trading.pull(way, *more)
        seconds = (now_ns() - pull.time) / 1e9
        command = shlex.join((*command.split(), *more))
        self.transcribe(command, pull.out + pull.err, pull.status, seconds)
        self.claim("exit status 0", pull.status == 0)
        try:
            self.trading.assert_stopped(pull.time)
            stopped = True
        except AssertionError as error:
            print(f"  {error}")
            stopped = False
        for unit in FOUR:
            after = (self.trading.last_sign_of_life(unit) - pull.time) / 1e6
            print(f"      {unit:<30} last sign of life after {after:6.1f} ms")
        self.claim("all four dead within 2 s, and none of them came back", stopped)
        self.claim("the kept services run on, same process", self.trading.kept_pids() == kept)

    def running_again(self, since: int) -> None:
        """Claim that the four run again, and say how long that took."""
        try:
            self.trading.all_running(timeout=RELEASE_TIME)
            took = (now_ns() - since) / 1e9
            self.claim(f"all four trade again, {took:.1f} s after the command", took < RELEASE_TIME)
        except Timeout as error:
            self.claim(f"all four trade again: {error}", False)

    def status(self, state: str) -> None:
        """Show the status; its first line is exact."""
        first = self.show("quantum-ess status").partition("\n")[0]
        wanted = f"ESS Status: {state}"
        self.claim(f"the first line is exactly '{wanted}'", first == wanted)

    def install(self, deb: Path) -> None:
        """Install the package; it must not touch the trading services, which run already."""
        before = {unit: self.host.main_pid(unit) for unit in FOUR}
        began = time.monotonic()
        said = self.host.install(deb).splitlines()
        brief = [line for line in said if "quantum-ess" in line and line[0] not in " G"]
        command = f"apt-get install ./{deb.name}"
        self.transcribe(command, "\n".join(brief), 0, time.monotonic() - began)
        after = {unit: self.host.main_pid(unit) for unit in FOUR}
        self.claim("the trading services noticed nothing", before == after)
        self.show("systemctl is-active quantum-ess.path quantum-ess-watch.timer")

    def run(self, deb: Path) -> None:
        """The whole demonstration."""
        debian = self.host.read_file("/etc/debian_version").strip()
        systemd = " ".join(self.host.run("systemctl", "--version").stdout.split()[:2])
        self.say(f"A Debian {debian} host runs, with {systemd} as PID 1. On it trade")
        print("\n".join(f"  {unit}" for unit in FOUR))
        print("and beside them run " + ", ".join((*KEPT, REDIS)) + ".")
        self.trading = Trading(self.host)
        self.trading.start()

        self.say("1. INSTALL")
        self.install(deb)
        self.status("INACTIVE")

        self.say("2. STOP, by command")
        self.stop("command", "--reason", "demo")
        self.status("ACTIVE")

        self.say("3. HOLD: what is stopped stays stopped")
        self.show("systemctl start quantum-execution", status=1)
        self.claim("refused, and nothing was started", not self.trading.alive())
        self.show("journalctl -q -t quantum-ess -o short-precise --no-hostname")

        self.say("4. RELEASE, by command")
        since = now_ns()
        self.show("quantum-ess deactivate --reason 'demo is over'")
        self.running_again(since)
        self.status("INACTIVE")

        self.say("5. STOP, by the flag file")
        self.stop("flag")
        wait_until(lambda: self.host.exists(RECORD), 5, "the record on disk")
        self.status("ACTIVE")

        self.say("6. RELEASE, by removing the flag file")
        since = now_ns()
        self.show(f"rm /var{FLAG}")
        self.running_again(since)
        release = "quantum-ess-release.service"  # waits until the last one has settled
        wait_until(lambda: self.host.unit_state(release) == "inactive", 5, f"end of {release}")
        self.status("INACTIVE")


def main() -> int:
    """Run the demonstration; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("deb", type=Path)
    parser.add_argument("release", nargs="?", default="trixie", choices=RELEASES)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the host is cleaned up
    began = time.monotonic()
    print(f"Preparing a host with {args.release} (a minute, the first time)", flush=True)
    remains.remove_all()  # what an earlier run left when it was killed
    with Host(args.release, [root_tree(args.release)]) as host:
        demo = Demo(host)
        demo.run(args.deb.resolve(strict=True))
    print(f"\nThe host is gone again; {time.monotonic() - began:.0f} s in all.")
    for what in demo.failed:
        print(f"NOT SO: {what}")
    return 1 if demo.failed else 0


if __name__ == "__main__":
    sys.exit(main())
