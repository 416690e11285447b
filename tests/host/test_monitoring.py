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
from product import DROP_IN, RECORD, WATCH, Ess, sent
from prometheus import FILE, METRICS, PATIENCE, Market, Prometheus, Row, monitored
from trading import FLAG
from waiting import wait_until

CHECKOUT = Path(__file__).parent.parent.parent
GUIDE = CHECKOUT / "docs/monitoring.md"
DASHBOARD = CHECKOUT / "monitoring/dashboards/quantum-ess.json"
PLAN = "/run/quantum-ess/plan"
DRILL = 150.0  # seconds; where a unit is broken it takes 31 even on an idle machine
WATCHING = (
    "quantum-ess.path",
    "quantum-ess-sentry.service",
    "quantum-ess-watch.timer",
    "quantum-ess-metrics.timer",
    "prometheus-node-exporter.service",
    "redis-server.service",
    "quantum-rl-monitor.service",
)


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
        self.activated = 0.0  # when the guide's activation was over
        self.said: list[str] = []

    def follow_the_guide(self) -> None:
        """Type what it says; after the activation, wait for Prometheus to know."""
        for block in commands():
            self.said.append(
                self.host.sh(f"export DEBIAN_FRONTEND=noninteractive\n{block}", timeout=180)
            )
            if "quantum-ess activate" in block:
                self.activated = time.time()
                self.wait_for('quantum_ess_active{group="trading"} == 1')

    def drill(self, check: bool = True) -> int:
        """Run a drill to its end; its exit status."""
        return self.host.run("quantum-ess", "drill", check=check, timeout=DRILL).returncode

    def wait_for(self, expression: str) -> None:
        """Wait until Prometheus has a sample for that."""
        wait_until(lambda: self.prometheus.query(expression)[0], PATIENCE, expression)

    def catch_up(self) -> None:
        """Wait until Prometheus knows what is so by now: all of it was written at one time."""
        self.wait_for(f"quantum_ess_written_timestamp_seconds >= {time.time()}")

    def wait_alert(self, alert: str, fires: bool = True) -> None:
        """Wait until that alert fires, or does not."""
        name = f"QuantumEss{alert}"
        wait_until(lambda: (name in self.firing()) == fires, PATIENCE, f"{name}: {fires}")

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
    scrapes = desk.prometheus.scrapes('quantum_ess_active{group="trading"}', desk.activated)
    assert scrapes.index(1) <= 1, "a scrape may cross the writing, the next one knows"


def shown(file: str, key: str) -> str:
    """What a shipped example of provisioning says for that key."""
    text = (CHECKOUT / "monitoring/provisioning" / file).read_text()
    (value,) = re.findall(rf"^ +{key}: (.+)$", text, re.M)
    return str(value)


def test_the_rules_by_promtool(desk: Desk) -> None:
    """Each alert fires on its cases and not on the others; the metrics are in good form."""
    host = desk.host
    host.write_file("/root/cases.yml", rules.promtool_file(rules.SHIPPED))
    assert "SUCCESS" in host.run("promtool", "check", "rules", rules.SHIPPED).stdout
    assert "SUCCESS" in host.run("promtool", "test", "rules", "/root/cases.yml").stdout
    assert host.exists(f"{shown('dashboard.yml', 'path')}/{DASHBOARD.name}")
    assert shown("datasource.yml", "url") == "http://localhost:9090"
    metrics = desk.ess("metrics").stdout
    checked = host.run("promtool", "check", "metrics", input=metrics, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_without_root_and_without_the_directory(desk: Desk) -> None:
    """Anyone may read them; where no node_exporter is, nothing is written and nothing fails."""
    host, ess = desk.host, desk.ess
    assert families(ess("metrics", user="nobody").stdout) == families(ess("metrics").stdout)
    refused = ess("metrics", "--write", user="nobody", check=False)
    assert refused.returncode == 4
    host.sh(
        f"systemctl stop quantum-ess-metrics.timer {METRICS};"
        "mv /var/lib/prometheus/node-exporter /var/lib/prometheus/away"
    )
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
    # Else the timer's writer may be at work when we look. Killed, it would leave its draft.
    host.run("systemctl", "stop", "quantum-ess-metrics.timer")
    desk.ess.wait_idle()
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


# The operations card's own, answered by node_exporter itself.
ENGINE = 'node_systemd_unit_state{name="quantum-ai-engine.service", state="active"}'


def test_the_answers_while_stopped_and_released(desk: Desk) -> None:
    """State, who and why, stop time and units as Prometheus tells them, each in time."""
    prometheus, ess = desk.prometheus, desk.ess
    running = 'sum(quantum_ess_protected_unit_running{group="trading"})'
    counted = ('quantum_ess_activations_total{trigger="flag"}', "quantum_ess_refused_starts_total")
    desk.catch_up()
    flags, refused = prometheus.values(*counted)
    assert prometheus.value('quantum_ess_active{group="trading"}') == 0
    assert prometheus.value(running) == 4
    assert prometheus.value(ENGINE) == 1
    ess("activate", "--reason", 'feed "stale"\n for \\ minutes ' + "x" * 200)
    status = ess.status()
    desk.catch_up()
    active, since, seconds, stopped, armed, kept = prometheus.values(
        'quantum_ess_active{group="trading"}',
        "quantum_ess_last_activation_timestamp_seconds",
        "quantum_ess_last_stop_seconds",
        running,
        "quantum_ess_armed",
        "min(quantum_ess_kept_unit_running)",
    )
    assert (active, stopped, armed, kept) == (1, 0, 1, 1)
    assert prometheus.value(ENGINE) == 0
    assert time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)) == status["since"]
    assert seconds == status["stop_ms"] / 1000
    info = "quantum_ess_last_incident_info"
    this = f'{info}{{incident="{status["incident"]}"}}'
    desk.wait_for(this)
    labels, _ = prometheus.query(this)[0][0]
    assert labels["incident"] == status["incident"]
    assert (labels["trigger"], labels["actor"].split()[0]) == ("command", "root")
    assert labels["reason"].startswith('feed "stale" for \\ minutes xxx')
    assert len(labels["reason"]) == 120
    assert desk.host.run("systemctl", "start", desk.market.units[0], check=False).returncode
    desk.wait_for(f"{counted[1]} == {refused + 1}")
    ess("deactivate")
    desk.catch_up()
    assert prometheus.value('quantum_ess_active{group="trading"}') == 0
    assert prometheus.value(running) == 4
    desk.host.sh(f"touch {FLAG}")
    desk.wait_for(f"{counted[0]} == {flags + 1}")
    assert prometheus.value(f'{info}{{trigger="flag"}}') == 1
    assert prometheus.value('quantum_ess_active{group="trading"}') == 1
    ess("deactivate")


def hangs_since(desk: Desk) -> int:
    """When the writer that is at work was started (ns), 0 if there is none."""
    shown = desk.host.properties(METRICS, "ActiveState", "InactiveExitTimestampMonotonic")
    return (
        int(shown["InactiveExitTimestampMonotonic"]) * 1000 * (shown["ActiveState"] == "activating")
    )


def test_a_stop_waits_for_no_metrics(desk: Desk) -> None:
    """The writer starts when all of the stop is over, and one that hangs holds up nothing."""
    host, ess = desk.host, desk.ess
    host.run("systemctl", "stop", "quantum-ess-metrics.timer", METRICS)
    began = "/etc/systemd/system/quantum-ess-metrics.service.d/hangs.conf"
    host.write_file(began, "[Service]\nExecStart=\nExecStart=sleep infinity\nTimeoutStartSec=1h\n")
    host.run("systemctl", "daemon-reload")
    try:
        for _ in range(2):  # the second one finds a writer that hangs
            ess("activate")
            complete = sent(ess.named("complete")[-1])
            assert desk.market.last_sign_of_life() < complete
            wait_until(lambda: hangs_since(desk) > complete, PATIENCE, "a writer, after all else")  # noqa: B023
            ess("deactivate")
    finally:
        host.sh(f"rm {began}; systemctl daemon-reload; systemctl stop {METRICS}")


def test_what_can_not_be_read_hides_nothing_else(desk: Desk) -> None:
    """PID 1 hung; a record, a plan and a history that say nothing; no directory of state."""
    host, ess = desk.host, desk.ess
    mends = WATCH
    host.run("systemctl", "stop", "quantum-ess-metrics.timer", *mends)
    ess("activate")
    ess.wait_complete()  # else the trigger's account writes the record anew, among what is spoilt
    with host.frozen():
        assert known(ess("metrics").stdout) == {"active": "1.0", "armed": "0.0"}
        assert ess("status", check=False).stdout.startswith("ESS Status: ACTIVE")
    files = f"{RECORD} {PLAN} /var/lib/quantum-ess/history.jsonl"
    host.sh(f"for f in {files}; do cp -a $f $f.saved; echo -n '{{' >$f; done")
    try:
        found = ess("metrics").stdout
        assert known(found)["active"] == "1.0"
        assert "quantum_ess_last_activation_timestamp_seconds{" in found
        assert "quantum_ess_last_incident_info{" not in found
        assert ess("status", check=False).stdout.startswith("ESS Status: ACTIVE")
        host.sh(f"for f in {files.replace(PLAN, '')}; do rm $f; mkfifo $f; done")
        assert known(ess("metrics").stdout)["active"] == "1.0"
        assert ess("status", check=False).stdout.startswith("ESS Status: ACTIVE")
    finally:
        host.sh(f"for f in {files}; do rm -f $f; mv $f.saved $f; done")
    host.sh("mv /var/lib/quantum-ess /var/lib/away; mv /run/quantum-ess /run/away")
    try:
        assert known(ess("metrics").stdout)["active"] == "1.0"
        assert ess("status", check=False).stdout.startswith("ESS Status: ACTIVE")
    finally:
        host.sh("rm -rf /var/lib/quantum-ess /run/quantum-ess")
        host.sh("mv /var/lib/away /var/lib/quantum-ess; mv /run/away /run/quantum-ess")
    ess("deactivate")


def known(text: str) -> dict[str, str]:
    """Active and armed of trading, in a text of metrics."""
    return dict(re.findall(r'^quantum_ess_(active|armed)\{group="trading"\} (\S+)$', text, re.M))


# Alerts, each made to fire for real, with the spans of time in the rules shortened by `hurry`.


def refresh(desk: Desk) -> None:
    """What the timer does every 30 seconds, now."""
    desk.host.run("systemctl", "start", METRICS)


def test_alerts_on_a_stop_that_comes_late(desk: Desk) -> None:
    """Path unit and resident stopped: the timer alone stops trading, up to 5 s after the flag."""
    host = desk.host
    deaf = ("quantum-ess.path", "quantum-ess-sentry.service", *WATCH)
    desk.wait_alert("Active", fires=False)
    host.run("systemctl", "stop", *deaf)
    refresh(desk)
    desk.wait_alert("NotArmed")
    assert desk.prometheus.value("count(quantum_ess_armed_part == 0)") == 3
    host.run("touch", FLAG)
    refresh(desk)
    desk.wait_alert("ProtectedUnitRunning")
    alerts = desk.firing()["QuantumEssProtectedUnitRunning"]
    assert {alert["labels"]["unit"] for alert in alerts} == set(desk.market.units)
    desk.wait_alert("Active")
    host.run("touch", FLAG)  # what is waited for above may take longer than a stop is late
    late = time.monotonic() + 2.5
    wait_until(lambda: time.monotonic() > late, PATIENCE, "more than 2 s")
    host.run("systemctl", "start", *deaf)
    wait_until(lambda: not desk.market.remaining(), PATIENCE, "a late stop")
    desk.ess.wait_idle(PATIENCE)
    assert host.read_file(FLAG) == host.sh(f"date -u -r {FLAG} +%Y-%m-%dT%H:%M:%SZ")
    desk.wait_alert("StopSlow")
    seconds = desk.ess.status()["stop_ms"] / 1000
    assert seconds > 2
    assert desk.prometheus.value("quantum_ess_last_stop_seconds") == seconds
    summary = desk.firing()["QuantumEssStopSlow"][0]["annotations"]["summary"]
    assert re.search(r"took \d+(\.\d+)?s, not 2 s", summary)
    desk.wait_alert("NotArmed", fires=False)
    desk.wait_alert("ProtectedUnitRunning", fires=False)
    desk.ess("deactivate")
    desk.ess("activate")
    desk.wait_alert("StopSlow", fires=False)
    desk.ess("deactivate")
    desk.wait_alert("Active", fires=False)


def test_a_gate_that_was_undone_is_not_armed(desk: Desk) -> None:
    """Read back from PID 1 after each daemon-reload: a later drop-in counts."""
    undone = f"/etc/systemd/system/{desk.market.units[1]}.d/zzzz.conf"
    desk.wait_for('quantum_ess_armed_part{part="gate"} == 1')
    desk.host.write_file(undone, "[Service]\nExecCondition=\n")
    desk.host.run("systemctl", "daemon-reload")
    desk.wait_for('quantum_ess_armed_part{part="gate"} == 0')
    assert desk.prometheus.value("quantum_ess_armed") == 0
    desk.host.sh(f"rm {undone}; systemctl daemon-reload")
    desk.wait_for('quantum_ess_armed_part{part="gate"} == 1')


def test_alerts_on_what_should_be_up(desk: Desk) -> None:
    """A kept unit that is down; Redis down at a stop, and the marker with it; nothing written."""
    host = desk.host
    host.run("systemctl", "stop", "redis-server", "quantum-ess-watch.timer")
    refresh(desk)
    desk.wait_alert("KeptUnitDown")
    desk.ess("activate", check=False)
    desk.wait_alert("MarkerDisagrees")
    host.run("systemctl", "start", "redis-server", "quantum-ess-watch.timer")
    wait_until(
        lambda: not host.exists("/var/lib/quantum-ess/marker-pending"), PATIENCE, "the marker"
    )
    refresh(desk)
    desk.wait_alert("MarkerDisagrees", fires=False)
    desk.wait_alert("KeptUnitDown", fires=False)
    desk.ess("deactivate")

    host.run("systemctl", "stop", "quantum-ess-metrics.timer")
    desk.wait_alert("MetricsStale")
    host.run("systemctl", "start", "quantum-ess-metrics.timer")
    desk.wait_alert("MetricsStale", fires=False)
    host.run("systemctl", "stop", "prometheus-node-exporter")
    desk.wait_alert("MetricsStale")
    host.run("systemctl", "start", "prometheus-node-exporter")
    desk.wait_alert("MetricsStale", fires=False)


CONDITION = """
[condition drawdown]
redis = quantum:state:portfolio
field = drawdown
timestamp = timestamp
limit = > 0.10
"""


def say(desk: Desk, drawdown: float) -> None:
    """Let Redis say that of the portfolio, as of now."""
    fields = ("drawdown", str(drawdown), "timestamp", str(int(time.time())))
    desk.host.run("redis-cli", "HSET", "quantum:state:portfolio", *fields)


def test_alerts_of_the_guard(desk: Desk) -> None:
    """Its values against their limits; a guard that has ended; data that are gone."""
    host, prometheus = desk.host, desk.prometheus
    condition = 'quantum_ess_guard_condition_%s{condition="drawdown"}'
    say(desk, 0.04)
    desk.ess.configure(CONDITION)
    desk.wait_for(f"{condition % 'value'} == 0.04")
    assert prometheus.value(condition % "limit") == 0.1
    assert prometheus.value(condition % "breached") == 0
    assert prometheus.value(condition % "unknown") == 0
    assert prometheus.value("quantum_ess_guard_up") == 1
    assert prometheus.value("quantum_ess_guard_redis_up") == 1
    desk.wait_for(f"{condition % 'data_age_seconds'} > 2")
    say(desk, 0.2)
    desk.wait_for(f"{condition % 'breached'} == 1")
    host.run("redis-cli", "DEL", "quantum:state:portfolio")
    desk.wait_alert("GuardDataStale")
    host.run("systemctl", "stop", "redis-server")
    desk.wait_for("quantum_ess_guard_redis_up == 0")
    host.run("systemctl", "start", "redis-server")
    host.run("systemctl", "stop", "quantum-ess-guard.path", "quantum-ess-guard.service")
    desk.wait_alert("GuardDown")
    desk.wait_alert("GuardDataStale", fires=False)
    host.run("systemctl", "start", "quantum-ess-guard.path")
    desk.wait_alert("GuardDown", fires=False)
    assert not desk.ess.latched()  # as shipped, a condition only watches
    host.run("rm", DROP_IN)
    host.run("systemctl", "daemon-reload")
    desk.wait_for("absent(quantum_ess_guard_up)")  # no guard is no dead guard


def test_alerts_of_the_drill(desk: Desk) -> None:
    """None yet, one that passed, one that failed."""
    host, prometheus = desk.host, desk.prometheus
    desk.wait_alert("DrillOverdue")
    begun = time.time()
    desk.drill()
    ended = time.time()
    desk.wait_alert("DrillOverdue", fires=False)
    assert prometheus.value("quantum_ess_drill_last_success") == 1
    assert begun - 1 < prometheus.value("quantum_ess_drill_last_timestamp_seconds") <= ended
    ways = {
        labels["way"]: took
        for labels, took in prometheus.query("quantum_ess_drill_last_stop_seconds")[0]
    }
    assert ways.keys() == {"command", "unit", "path", "sentry"}
    assert max(ways.values()) < 2
    host.run("systemctl", "mask", "--runtime", "quantum-ess-drill-trigger.service")
    assert desk.drill(check=False) != 0
    desk.wait_alert("DrillFailed")
    host.run("systemctl", "unmask", "--runtime", "quantum-ess-drill-trigger.service")
    desk.drill()
    desk.wait_alert("DrillFailed", fires=False)


def test_every_query_and_every_metric_has_data(desk: Desk) -> None:
    """On a host that has a guard and notifications that fail, was drilled, stopped and released."""
    say(desk, 0.04)
    desk.ess.configure(CONDITION)
    desk.host.write_file("/etc/quantum-ess/notify.urls", "json://127.0.0.1:9/\n", 0o600)
    desk.drill()
    for command in ("activate", "deactivate"):
        desk.ess(command)
    desk.wait_for("quantum_ess_guard_condition_value")
    asked = [(title, each) for title, some in expressions().items() for each in some]

    def empty() -> list[tuple[str, str]]:
        answers = desk.prometheus.query(*(each for _, each in asked))
        return [question for question, rows in zip(asked, answers, strict=True) if not rows]

    wait_until(lambda: not empty(), PATIENCE, f"data for {empty()}")
    assert len(asked) > 15
    desk.wait_for("quantum_ess_notifications_pending > 0")
    documented = set(re.findall(r"quantum_ess_[a-z_]+", GUIDE.read_text()))
    assert documented == families(desk.ess("metrics").stdout)


def test_every_alert_has_fired(desk: Desk) -> None:
    """For real, in the tests above."""
    named = re.findall(r"alert: (\w+)", desk.host.read_file(rules.SHIPPED))
    assert set(named) - desk.fired == set()
