"""A host with Debian's own Prometheus and node_exporter on it, and Prometheus' HTTP API."""

import json
import re
from typing import Any

from host import Host, lean
from kinds import KEPT, REDIS
from roots import root_tree
from trading import Trading
from waiting import SOON, wait_until

PACKAGES = ("prometheus", "prometheus-node-exporter")
CONFIG = "/etc/prometheus/prometheus.yml"
RULES = "/etc/prometheus/quantum-ess.rules.yml"
METRICS = "quantum-ess-metrics.service"
FILE = "/var/lib/prometheus/node-exporter/quantum-ess.prom"
BYSTANDERS = tuple(unit for unit in KEPT if unit != "prometheus.service")  # here it is the real one

PATIENCE = 60.0  # seconds for what must come at some time, on however slow a machine

Row = dict[str, str]

# Runs in the host: several questions to the API for the price of one entry into it.
ASK = """
import json, sys, urllib.parse, urllib.request
def ask(path, fields):
    url = "http://127.0.0.1:9090/api/v1/" + path + "?" + urllib.parse.urlencode(fields)
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]
print(json.dumps([ask(*question) for question in json.load(sys.stdin)]))
"""


def monitored(release: str) -> Host:
    """A host (to be entered) on which apt finds node_exporter and Prometheus installed."""
    return Host(release, [root_tree(release, extra=PACKAGES)], prepare=lean)


class Market(Trading):
    """Stand-ins for trading and for the kept services, but Prometheus: that is real."""

    def start(self) -> None:
        """Start all and wait for each one's first signs of life."""
        self.host.sh("rm -f /etc/systemd/system/prometheus.service; systemctl daemon-reload")
        everyone = (*self.kinds, *BYSTANDERS)
        self.host.run("systemctl", "start", "--no-block", "prometheus", REDIS, *everyone)
        wait_until(lambda: len(self.alive(everyone)) == len(everyone), SOON, "a living market")


class Prometheus:
    """The Prometheus of a host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def ask(self, *questions: tuple[str, dict[str, Any]]) -> list[Any]:
        """The data of each of these API calls: path below /api/v1 and fields."""
        done = self.host.run("python3", "-c", ASK, input=json.dumps(questions))
        answers: list[Any] = json.loads(done.stdout)
        return answers

    def query(self, *expressions: str) -> list[list[tuple[Row, float]]]:
        """Labels and value of each sample that each expression has now."""
        answers = self.ask(*(("query", {"query": expression}) for expression in expressions))
        return [
            [(row["metric"], float(row["value"][1])) for row in answer["result"]]
            for answer in answers
        ]

    def values(self, *expressions: str) -> list[float]:
        """The value of each expression, all of one time.

        Waits until all have one: a scrape that took too long leaves nothing until the next.
        """

        def look() -> list[list[tuple[Row, float]]]:
            answers = self.query(*expressions)
            return answers if all(answers) else []

        answers = wait_until(look, PATIENCE, f"samples of {expressions}")
        assert [len(rows) for rows in answers] == [1] * len(expressions), answers
        return [rows[0][1] for rows in answers]

    def value(self, expression: str) -> float:
        """The value of one."""
        return self.values(expression)[0]

    def scrapes(self, series: str, since: float) -> list[float]:
        """The values of a series, a scrape each, from that time on (epoch seconds)."""
        (data,) = self.ask(("query", {"query": f"{series}[10m]"}))
        (row,) = data["result"]
        return [float(value) for moment, value in row["values"] if moment >= since]

    def firing(self) -> dict[str, list[dict[str, Row]]]:
        """The alerts that fire now: name to labels and annotations of each."""
        (data,) = self.ask(("alerts", {}))
        found: dict[str, list[dict[str, Row]]] = {}
        for alert in data["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found

    def hurry(self) -> None:
        """Scrape and write every 2 s, evaluate each second, and wait for nothing longer than that.

        By a copy of the rules, made from the shipped ones: spans of time are shortened, no more.
        """
        timer = "/etc/systemd/system/quantum-ess-metrics.timer.d/quick.conf"
        self.host.write_file(timer, "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\n")
        self.host.run("systemctl", "daemon-reload")
        self.host.run("systemctl", "restart", "quantum-ess-metrics.timer")
        rules = self.host.read_file("/usr/share/quantum-ess/monitoring/quantum-ess.rules.yml")
        quick = re.sub(r"for: \d+[sm]", "for: 1s", rules)
        quick = re.sub(r"\[7d\]\) > 120", "[7d]) > 10", quick)
        assert quick.count("for: 1s") == rules.count("for: ") and "> 10" in quick
        self.host.write_file(RULES, quick)
        for what, was, seconds in (
            ("scrape_interval", "1?5s", 2),
            ("scrape_timeout", "5s", 2),
            ("evaluation_interval", "15s", 1),
        ):
            self.host.sh(f"sed -i -E 's/{what}: +{was}/{what}: {seconds}s/' {CONFIG}")
        # No more than is asked for: a slow machine takes longer than a second for all there is.
        only = "    params: {'collect[]': [textfile, systemd]}"
        self.host.sh(f'sed -i "s/^  - job_name: node$/&\\n{only}/" {CONFIG}')
        assert only in self.host.read_file(CONFIG)
        self.host.run("systemctl", "reload", "prometheus")
