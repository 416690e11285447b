"""Whoever writes a trail dies in the middle of it: somebody else writes it to its end, once."""

import pytest
import syscalls
from syscalls import Tracee

from conftest import HostMaker
from kinds import FOUR
from product import ACTIVE, INACTIVE, RECORD, WATCH, Ess
from trading import FLAG, Trading

CONTROLLER = Tracee(("quantum-ess", "activate"), python=True)
NEVER = "[Unit]\nConditionPathExists=/nowhere\n"
PATHS = ("quantum-ess.path", "quantum-ess-watch.path")
SOCKETS = ("", "-dev-log", "-audit")
JOURNALD = ("systemd-journald.service", *(f"systemd-journald{name}.socket" for name in SOCKETS))
STAGE = "/var/lib/quantum-ess/logged"
WHOLE = ["initiated", "latched", *["stopped"] * len(FOUR), "activated", "complete"]
# What it opens next after the record, and after the stop's part of the trail.
SEEN, HISTORY = "/run/quantum-ess/seen", "/var/lib/quantum-ess/history.jsonl"


def stand(make_host: HostMaker, *never: str) -> Trading:
    """Trading on a host of which nobody but the command acts; units in `never` not even if asked.

    An incident is over already: what is known of it must not be taken for the next one's.
    """
    host = make_host()
    ess, trading = Ess(host), Trading(host)
    for unit in never:
        host.write_file(f"/etc/systemd/system/{unit}.d/not.conf", NEVER)
    ess.configure("[resume]\nsettle = 0\n[redis]\nenabled = no\n")
    trading.start()
    host.run("systemctl", "stop", *WATCH, *PATHS)
    ess("activate")
    ess("deactivate")
    trading.all_running()
    syscalls.wrap_python(host)
    return trading


def die_at(trading: Trading, path: str) -> str:
    """An activation whose controller is killed when it opens that file; the incident."""
    inject = ("-P", path, "-e", "trace=openat", "-e", "inject=openat:signal=KILL:when=1")
    done = CONTROLLER.run(trading.host, *inject, check=False)
    assert "the controller failed (status 137)" in done.stderr, done
    assert "stop_ms" in trading.host.read_file(RECORD)
    ess = Ess(trading.host)
    assert ess.first_line() == ACTIVE
    return str(ess.status()["incident"])


def told(trading: Trading, incident: str) -> list[str]:
    """The events of the trail of that incident."""
    return [e["ESS_EVENT"] for e in Ess(trading.host).events(f"ESS_INCIDENT={incident}")]


@pytest.mark.parametrize("way", ["command", "flag"])
@pytest.mark.parametrize("path", [SEEN, HISTORY], ids=["record", "stop"])
def test_the_release_writes_the_end(make_host: HostMaker, path: str, way: str) -> None:
    """And the watch can't."""
    trading = stand(make_host, WATCH[1], "quantum-ess-trigger.service")
    host, ess = trading.host, Ess(trading.host)
    incident = die_at(trading, path)
    before = told(trading, incident)
    assert "stopped" in before and not {"activated", "complete"} & set(before), before

    if way == "command":
        ess("deactivate")
    else:
        host.run("rm", FLAG)
        host.run("systemctl", "start", "quantum-ess-release.service")
    trading.all_running()
    assert ess.first_line() == INACTIVE
    after = told(trading, incident)
    released = ["activated", "complete", "release-initiated", "unlatched"]
    assert after == [*before, *released, *["started"] * len(FOUR), "released"]
    assert f'"{incident}"' in ess("history", "--json").stdout
    assert "ESS ACTIVATED by root (command)" in ess.messages()[-len(after) :]


def test_the_watch_writes_it_when_journald_listens_again(make_host: HostMaker) -> None:
    """Nothing of it is written yet."""
    trading = stand(make_host)
    host = trading.host
    host.run("systemctl", "stop", *JOURNALD)
    incident = die_at(trading, SEEN)
    host.run("systemctl", "start", *JOURNALD)
    assert incident not in host.read_file(STAGE)
    host.run("touch", "/run/quantum-ess/marker-seen")  # else it asks Redis now, and sees more
    host.run("systemctl", "start", WATCH[1])
    assert told(trading, incident) == WHOLE
