"""The operations card: each of its commands, typed as it stands there."""

import re

from host import STAMPS, STANDIN
from kinds import KEPT
from product import ISO_TIME, Ess
from trading import LIMIT, TRIGGER, Trading
from waiting import SOON, wait_until

FILE = '[[ -f /var/run/quantum/ESS_ON ]] && echo "ESS ACTIVE" || echo "ESS INACTIVE"'
MARKER = "redis-cli GET quantum:ess:active"
UNITS = ("-u", "quantum-ess", "-u", "quantum-ess-trigger")
TABLE = {
    "quantum-ess.service",
    "quantum-ess.path",
    "quantum-ess-trigger.service",
    "quantum-ess-watch.service",
    "quantum-ess-watch.timer",
}


def typed(trading: Trading, command: str) -> str:
    """What bash prints for it; CommandFailed if it fails."""
    return trading.host.run("bash", "-c", command).stdout


def test_the_playbook(trading: Trading) -> None:
    """Trading halt: activate, verify, look at the trail, deactivate."""
    assert typed(trading, FILE) == "ESS INACTIVE\n"
    assert typed(trading, MARKER) == "\n"
    kept = trading.kept_pids()
    stamped = (STANDIN, "exec", f"{STAMPS}/{TRIGGER}")
    trading.host.run(*stamped, "bash", "-c", "quantum-ess activate")
    assert trading.last_sign_of_life() - trading.pulled() < LIMIT
    assert typed(trading, "quantum-ess status").splitlines()[0] == "ESS Status: ACTIVE"
    assert typed(trading, FILE) == "ESS ACTIVE\n"
    assert re.fullmatch(f"{ISO_TIME}\n", typed(trading, MARKER))
    trading.host.run("journalctl", "--sync")
    for command in (
        'journalctl -t quantum-ess --since "5 minutes ago"',
        "journalctl -t quantum-ess --since today",
        "journalctl -u quantum-ess -u quantum-ess-trigger -n 50",
    ):
        assert "[ESS AUDIT] ESS ACTIVATION COMPLETE" in typed(trading, command), command
    assert "ESS ACTIVATED by root" in typed(trading, 'journalctl -t quantum-ess | grep "ACTIVATED"')
    follow = trading.host.spawn("timeout", "60", "journalctl", *UNITS, "-f", "-n", "0")
    try:
        wait_until(lambda: "journalctl" in trading.host.sh("ps -eo comm"), SOON, "journalctl")
        typed(trading, "quantum-ess deactivate")  # in less than 5 s: test_speed
        assert follow.stdout is not None
        assert any("ESS DEACTIVATION COMPLETE" in line for line in follow.stdout)
    finally:
        trading.host.run("pkill", "journalctl", check=False)
        follow.communicate()
    assert typed(trading, "quantum-ess status").splitlines()[0] == "ESS Status: INACTIVE"
    assert (typed(trading, FILE), typed(trading, MARKER)) == ("ESS INACTIVE\n", "\n")
    trading.all_running()
    assert trading.kept_pids() == kept


def test_units_and_troubleshooting(trading: Trading) -> None:
    """The table of units; what the card has people type when something is wrong."""
    listed = typed(trading, "systemctl list-unit-files | grep quantum-ess")
    assert set(re.findall(r"^\S+", listed, re.M)) >= TABLE
    typed(trading, "systemctl enable quantum-ess.path; systemctl start quantum-ess.path")
    for unit in ("quantum-ess.path", "quantum-ess-watch.timer"):
        assert "Active: active" in typed(trading, f"systemctl status {unit}")
    timer = typed(trading, "systemctl cat quantum-ess-watch.timer")
    assert re.search(r"^On\w+=.*\b5(s|$)|^OnCalendar=\*:\*:0/5$", timer, re.M), timer
    typed(trading, "mkdir -p /var/run/quantum; chmod 755 /var/run/quantum")
    assert typed(trading, "stat -c %a /run/quantum") == "755\n"

    typed(trading, "rm -rf /run/quantum; mkdir -p /var/run/quantum; touch /var/run/quantum/ESS_ON")
    wait_until(lambda: not trading.remaining(), SOON, "a stop, though the directory was made anew")
    Ess(trading.host).wait_complete()
    states = trading.states(*KEPT)
    assert set(states.values()) == {"active"}, states
