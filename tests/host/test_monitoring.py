"""Monitoring, the real chain: the package, Debian's node_exporter and Debian's Prometheus.

One host a release, on which docs/monitoring.md was followed; each test leaves trading running.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rules
from host import Host
from product import Ess
from prometheus import FILE, METRICS, Market, Prometheus, Row, monitored
from trading import FLAG
from waiting import wait_until

CHECKOUT = Path(__file__).parent.parent.parent
GUIDE = CHECKOUT / "docs/monitoring.md"
DASHBOARD = CHECKOUT / "monitoring/dashboards/quantum-ess.json"
SCRAPE = 15.0  # seconds: Debian's configuration of Prometheus
SLACK = 8.0  # seconds for writing and for asking, on a machine that boots other hosts meanwhile
WATCHING = (
    "quantum-ess.path",
    "quantum-ess-sentry.service",
    "quantum-ess-watch.timer",
    "quantum-ess-metrics.timer",
    "prometheus-node-exporter.service",
    "redis-server.service",
    "quantum-rl-monitor.service",
)
SOON = 8.0  # seconds for an alert, with spans of time shortened to a second


def commands() -> list[str]:
    """The guide's blocks of commands, in their order."""
    return re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.M | re.S)


class Desk:
    """The host, what runs on it and who watches it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.market = Market(host)
        self.ess = Ess(host)
        self.prometheus = Prometheus(host)
        self.fired: set[str] = set()  # every alert that was ever seen to fire
        self.seconds = 0.0  # from the guide's activation until Prometheus knew
        self.said: list[str] = []

    def follow_the_guide(self) -> None:
        """Type what it says; after the activation, wait for Prometheus to know."""
        for block in commands():
            self.said.append(
                self.host.sh(f"export DEBIAN_FRONTEND=noninteractive\n{block}", timeout=60)
            )
            if "quantum-ess activate" in block:
                begun = time.monotonic()
                self.wait_for('quantum_ess_active{group="trading"} == 1', SCRAPE + SLACK)
                self.seconds = time.monotonic() - begun

    def wait_for(self, expression: str, timeout: float) -> None:
        """Wait until Prometheus has a sample for that."""
        wait_until(lambda: self.prometheus.query(expression)[0], timeout, expression)

    def wait_alert(self, alert: str, fires: bool = True) -> None:
        """Wait until that alert fires, or does not."""
        name = f"QuantumEss{alert}"
        wait_until(lambda: (name in self.firing()) == fires, SOON, f"{name}: {fires}")

    def firing(self) -> dict[str, list[dict[str, Row]]]:
        """What fires now; each with a text that could be made of it."""
        found = self.prometheus.firing()
        self.fired |= found.keys()
        texts = [
            text for some in found.values() for a in some for text in a["annotations"].values()
        ]
        assert not [text for text in texts if "error" in text or "<no value>" in text]
        return found


@pytest.fixture(scope="module")
def desk(release: str, deb: Path) -> Iterator[Desk]:
    """A host with the package, on which somebody has followed the guide."""
    with monitored(release) as host:
        host.write_file("/etc/hosts", "127.0.0.1 localhost\n")
        host.install(deb)
        desk = Desk(host)
        desk.market.start()
        desk.follow_the_guide()
        desk.prometheus.hurry()
        yield desk


@pytest.fixture(autouse=True)
def calm(desk: Desk) -> Iterator[None]:
    """What a test has stopped runs again after it, also if it failed."""
    yield
    if desk.ess.latched():
        desk.ess("deactivate")
    desk.host.run("systemctl", "start", *WATCHING)


def test_a_newcomer_sees_the_activation_within_one_scrape(desk: Desk) -> None:
    said = "\n".join(desk.said)
    assert 'quantum_ess_armed{group="trading"} 1.0' in said
    assert f"SUCCESS: {desk.host.read_file(rules.SHIPPED).count('alert:')} rules found" in said
    assert 'quantum_ess_active{group="trading", instance="localhost:9100", job="node"} => 1' in said
    assert 'reason="trying the monitoring"' in said
    assert desk.seconds < SCRAPE + SLACK


def test_the_rules_by_promtool(desk: Desk) -> None:
    """Each alert fires on its cases and not on the others; the metrics are in good form."""
    host = desk.host
    host.write_file("/root/cases.yml", rules.promtool_file(rules.SHIPPED))
    assert "SUCCESS" in host.run("promtool", "check", "rules", rules.SHIPPED).stdout
    assert "SUCCESS" in host.run("promtool", "test", "rules", "/root/cases.yml").stdout
    metrics = desk.ess("metrics").stdout
    checked = host.run("promtool", "check", "metrics", input=metrics, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_without_root_and_without_the_directory(desk: Desk) -> None:
    """Anyone may read them; where no node_exporter is, nothing is written and nothing fails."""
    host, ess = desk.host, desk.ess
    assert families(ess("metrics", user="nobody").stdout) == families(ess("metrics").stdout)
    refused = ess("metrics", "--write", user="nobody", check=False)
    assert refused.returncode == 4
    host.sh("mv /var/lib/prometheus/node-exporter /var/lib/prometheus/away")
    try:
        assert "is not there" in ess("metrics", "--write").stderr
        assert ess("activate").returncode == 0
        assert ess("deactivate").returncode == 0
        host.run("systemctl", "start", METRICS)
        assert ess.failed_units() == ""
    finally:
        host.sh("mv /var/lib/prometheus/away /var/lib/prometheus/node-exporter")


def families(text: str) -> set[str]:
    """Names of the metrics in a text."""
    return set(re.findall(r"^# TYPE (\S+)", text, re.M))


def test_a_link_in_the_directory_is_not_followed(desk: Desk) -> None:
    """The file is replaced, whatever is there, and never written through."""
    host = desk.host
    host.sh(f"echo precious >/root/file; ln -sf /root/file {FILE}")
    desk.ess("metrics", "--write")
    assert host.read_file("/root/file") == "precious\n"
    assert host.sh(f"stat -c '%F %a %U' {FILE}") == "regular file 644 root\n"
    assert host.sh(f"ls {Path(FILE).parent}") == Path(FILE).name + "\n"


def test_without_the_library(desk: Desk) -> None:
    """Everything works but the metrics, which say what is missing."""
    library, away = "/usr/lib/python3/dist-packages/prometheus_client", "/root/prometheus_client"
    desk.host.sh(f"systemctl stop quantum-ess-metrics.timer {METRICS}; mv {library} {away}")
    try:
        done = desk.ess("metrics", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "python3-prometheus-client" in done.stderr
        assert desk.ess("activate").returncode == 0
        assert desk.ess("deactivate").returncode == 0
        desk.host.run("systemctl", "start", METRICS)
        assert desk.ess.failed_units() == ""
    finally:
        desk.host.sh(f"mv {away} {library}; systemctl start quantum-ess-metrics.timer")


def expressions() -> dict[str, list[str]]:
    """Each panel's queries, with Grafana's variables as it would fill them in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in panels}
    return {
        title: [e.replace("$instance", ".*").replace("$__range", "5m") for e in each]
        for title, each in found.items()
    }


def test_the_answers_while_stopped_and_released(desk: Desk) -> None:
    """State, who and why, stop time and units as Prometheus tells them, each in time."""
    prometheus, ess = desk.prometheus, desk.ess
    running = 'sum(quantum_ess_protected_unit_running{group="trading"})'
    desk.wait_for('quantum_ess_active{group="trading"} == 0', 5)
    assert prometheus.value(running) == 4
    ess("activate", "--reason", 'feed "stale"\n for \\ minutes ' + "x" * 200)
    desk.wait_for('quantum_ess_active{group="trading"} == 1', SOON)
    since, seconds, stopped, armed, kept = (
        rows[0][1]
        for rows in prometheus.query(
            "time() - quantum_ess_last_activation_timestamp_seconds",
            "quantum_ess_last_stop_seconds",
            running,
            "quantum_ess_armed",
            "min(quantum_ess_kept_unit_running)",
        )
    )
    status = ess.status()
    assert abs(since - status["seconds"]) < 5
    assert seconds == status["stop_ms"] / 1000
    assert (stopped, armed, kept) == (0, 1, 1)
    labels, _ = prometheus.query("quantum_ess_last_incident_info")[0][0]
    assert labels["incident"] == status["incident"]
    assert (labels["trigger"], labels["actor"].split()[0]) == ("command", "root")
    assert labels["reason"].startswith('feed "stale" for \\ minutes xxx')
    assert len(labels["reason"]) == 120
    ess("deactivate")
    desk.wait_for('quantum_ess_active{group="trading"} == 0', SOON)
    assert prometheus.value(running) == 4
    desk.host.sh(f"touch {FLAG}")
    desk.wait_for('quantum_ess_last_incident_info{trigger="flag"}', SOON)
    desk.wait_for('quantum_ess_active{group="trading"} == 1', SOON)
    ess.wait_complete()
    ess("deactivate")


def test_every_query_of_the_dashboard_has_data(desk: Desk) -> None:
    asked = [(title, each) for title, some in expressions().items() for each in some]
    answers = desk.prometheus.query(*(each for _, each in asked))
    empty = [question for question, rows in zip(asked, answers, strict=True) if not rows]
    assert empty == []


# Alerts, each made to fire for real, with the spans of time in the rules shortened by `hurry`.


def refresh(desk: Desk) -> None:
    """What the timer does every 30 seconds, now."""
    desk.host.run("systemctl", "start", METRICS)


def test_alerts_on_a_stop_that_comes_late(desk: Desk) -> None:
    """Path unit and resident stopped: the timer alone stops trading, up to 5 s after the flag."""
    host = desk.host
    deaf = ("quantum-ess.path", "quantum-ess-sentry.service", "quantum-ess-watch.timer")
    desk.wait_alert("Active", fires=False)
    host.run("systemctl", "stop", *deaf)
    refresh(desk)
    desk.wait_alert("NotArmed")
    assert desk.prometheus.value("count(quantum_ess_armed_part == 0)") == 3
    host.run("touch", FLAG)
    begun = time.monotonic()
    refresh(desk)
    desk.wait_alert("ProtectedUnitRunning")
    alerts = desk.firing()["QuantumEssProtectedUnitRunning"]
    assert {alert["labels"]["unit"] for alert in alerts} == set(desk.market.units)
    desk.wait_alert("Active")
    assert time.monotonic() - begun > 2
    host.run("systemctl", "start", *deaf)
    wait_until(lambda: not desk.market.remaining(), 5, "a late stop")
    desk.wait_alert("StopSlow")
    alert = desk.firing()["QuantumEssStopSlow"][0]
    assert re.search(r"took [2-9]\.\d+s, not 2 s", alert["annotations"]["summary"])
    desk.wait_alert("NotArmed", fires=False)
    desk.wait_alert("ProtectedUnitRunning", fires=False)
    desk.ess.wait_complete()
    desk.ess("deactivate")
    desk.ess("activate")
    desk.wait_alert("StopSlow", fires=False)
    desk.ess("deactivate")
    desk.wait_alert("Active", fires=False)


def test_a_gate_that_was_undone_is_not_armed(desk: Desk) -> None:
    """Read back from PID 1 after each daemon-reload: a later drop-in counts."""
    undone = f"/etc/systemd/system/{desk.market.units[1]}.d/zzzz.conf"
    desk.wait_for('quantum_ess_armed_part{part="gate"} == 1', SOON)
    desk.host.write_file(undone, "[Service]\nExecCondition=\n")
    desk.host.run("systemctl", "daemon-reload")
    desk.wait_for('quantum_ess_armed_part{part="gate"} == 0', SOON)
    assert desk.prometheus.value("quantum_ess_armed") == 0
    desk.host.sh(f"rm {undone}; systemctl daemon-reload")
    desk.wait_for('quantum_ess_armed_part{part="gate"} == 1', SOON)


def test_alerts_on_what_should_be_up(desk: Desk) -> None:
    """A kept unit that is down; Redis down at a stop, and the marker with it; nothing written."""
    host = desk.host
    host.run("systemctl", "stop", "redis-server", "quantum-ess-watch.timer")
    refresh(desk)
    desk.wait_alert("KeptUnitDown")
    desk.ess("activate", check=False)
    desk.wait_alert("MarkerDisagrees")
    host.run("systemctl", "start", "redis-server", "quantum-ess-watch.timer")
    wait_until(lambda: not host.exists("/var/lib/quantum-ess/marker-pending"), 10, "the marker")
    refresh(desk)
    desk.wait_alert("MarkerDisagrees", fires=False)
    desk.wait_alert("KeptUnitDown", fires=False)
    desk.ess("deactivate")

    host.run("systemctl", "stop", "quantum-ess-metrics.timer")
    desk.wait_alert("MetricsStale")
    host.run("systemctl", "stop", "prometheus-node-exporter")
    desk.wait_alert("MetricsStale")
    host.run("systemctl", "start", "prometheus-node-exporter", "quantum-ess-metrics.timer")
    desk.wait_alert("MetricsStale", fires=False)


CONDITION = """
[condition drawdown]
redis = quantum:state:portfolio
field = drawdown
limit = > 0.10
"""


def test_alerts_of_the_guard(desk: Desk) -> None:
    """Its values against their limits; a guard that has ended; data that are gone."""
    host, prometheus = desk.host, desk.prometheus
    host.run("redis-cli", "HSET", "quantum:state:portfolio", "drawdown", "0.04")
    desk.ess.configure(CONDITION)
    desk.wait_for("quantum_ess_guard_condition_value == 0.04", SOON)
    assert prometheus.value('quantum_ess_guard_condition_limit{condition="drawdown"}') == 0.1
    assert prometheus.value("quantum_ess_guard_condition_breached") == 0
    host.run("redis-cli", "HSET", "quantum:state:portfolio", "drawdown", "0.2")
    desk.wait_for("quantum_ess_guard_condition_breached == 1", SOON)
    host.run("redis-cli", "DEL", "quantum:state:portfolio")
    desk.wait_alert("GuardDataStale")
    host.run("systemctl", "stop", "quantum-ess-guard.path", "quantum-ess-guard.service")
    desk.wait_alert("GuardDown")
    desk.wait_alert("GuardDataStale", fires=False)
    host.run("systemctl", "start", "quantum-ess-guard.path")
    desk.wait_alert("GuardDown", fires=False)
    assert not desk.ess.latched()  # as shipped, a condition only watches


def test_alerts_of_the_drill(desk: Desk) -> None:
    """None yet, one that passed, one that failed."""
    host, prometheus = desk.host, desk.prometheus
    desk.wait_alert("DrillOverdue")
    desk.ess("drill")
    desk.wait_alert("DrillOverdue", fires=False)
    assert prometheus.value("quantum_ess_drill_last_success") == 1
    assert (prometheus.value("time() - quantum_ess_drill_last_timestamp_seconds") or 99) < 60
    assert (prometheus.value("max(quantum_ess_drill_last_stop_seconds)") or 99) < 2
    host.run("systemctl", "mask", "--runtime", "quantum-ess-drill-trigger.service")
    assert desk.ess("drill", check=False).returncode != 0
    desk.wait_alert("DrillFailed")
    host.run("systemctl", "unmask", "--runtime", "quantum-ess-drill-trigger.service")
    desk.ess("drill")
    desk.wait_alert("DrillFailed", fires=False)


def test_every_alert_has_fired(desk: Desk) -> None:
    """For real, in the tests above."""
    named = re.findall(r"alert: (\w+)", desk.host.read_file(rules.SHIPPED))
    assert set(named) - desk.fired == set()
