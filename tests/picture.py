"""The picture of the dashboard in the README: `make picture`. No screenshot: it is drawn here.

A host is booted with Debian's node_exporter and Prometheus, trading on it is stopped and released
for real, and then every panel of the dashboard asks Prometheus its own queries, as Grafana would;
what comes back is drawn with matplotlib at the panel's place.
"""

import json
import math
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from host import Host
from product import Ess
from prometheus import Market, Prometheus, monitored

CHECKOUT = Path(__file__).parent.parent
DASHBOARD = CHECKOUT / "monitoring/dashboards/quantum-ess.json"
DEB = sorted(CHECKOUT.glob("dist/quantum-ess_*.deb"))
COLUMN, ROW = 0.5, 0.31  # inches of one unit of the grid
PAPER, PLATE, INK, FAINT = "#111217", "#181b1f", "#d8d9da", "#7b8087"
COLOURS = {"green": "#56a64b", "red": "#e02f44", "orange": "#ff9830", "text": "#4d525a"}
LINES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#d8d9da", "#7b8087")

Panel = dict[str, Any]
Series = list[tuple[str, list[tuple[float, float]]]]


CONDITION = """
[condition drawdown]
redis = quantum:state:portfolio
field = drawdown
limit = > 0.10
samples = 2
mode = enforce
"""


class Day:
    """Some minutes of a trading day that does not go well."""

    def __init__(self, host: Host) -> None:
        self.host, self.ess, self.market = host, Ess(host), Market(host)
        self.drawdown = 0.02

    def pass_by(self, seconds: int, to: float) -> None:
        """Let time pass, which is what the picture's width is made of; the drawdown goes there."""
        step = (to - self.drawdown) / seconds
        for moment in range(seconds):
            self.drawdown += step
            shown = f"{self.drawdown + 0.002 * math.sin(moment):.4f}"
            begun = time.monotonic()
            self.host.run("redis-cli", "HSET", "quantum:state:portfolio", "drawdown", shown)
            time.sleep(max(0.0, begun + 1 - time.monotonic()))

    def play(self) -> float:
        """A drill at noon, a stop by hand, a resident that is down, and a stop by the guard.

        When Prometheus first knew of all (epoch seconds).
        """
        host, ess = self.host, self.ess
        self.market.start()
        prometheus = Prometheus(host)
        prometheus.hurry()
        host.run("redis-cli", "HSET", "quantum:state:portfolio", "drawdown", str(self.drawdown))
        ess.configure(CONDITION)
        prometheus.value("quantum_ess_guard_condition_value")
        began = time.time()
        self.pass_by(8, 0.03)
        ess("drill")
        self.pass_by(8, 0.05)
        ess("activate", "--reason", "spread on BTC is 40 times the usual")
        self.pass_by(10, 0.05)
        host.run("systemctl", "start", self.market.units[0], check=False)
        self.pass_by(8, 0.04)
        ess("deactivate", "--reason", "feed repaired")
        self.pass_by(10, 0.06)
        host.run("systemctl", "stop", "quantum-rl-monitor", "quantum-ess-sentry")
        self.pass_by(12, 0.05)
        host.run("systemctl", "start", "quantum-rl-monitor", "quantum-ess-sentry")
        self.pass_by(15, 0.12)
        ess.wait_event("complete", 2)
        self.pass_by(12, 0.06)
        ess("deactivate", "--reason", "position closed by hand")
        self.pass_by(12, 0.05)
        return began


class Scene:
    """What Prometheus says from the beginning to the end of the play."""

    def __init__(self, prometheus: Prometheus, start: float, end: float) -> None:
        self.prometheus = prometheus
        self.start, self.end = start, end

    def filled(self, expression: str) -> str:
        """The expression with Grafana's variables filled in."""
        expression = expression.replace("$instance", ".*")
        return expression.replace("$__range", f"{int(self.end - self.start)}s")

    def over_time(self, panel: Panel) -> Series:
        """Every series of the panel: its legend, and time and value of each point."""
        found: Series = []
        for target in panel["targets"]:
            fields = {"query": self.filled(target["expr"]), "start": self.start}
            fields |= {"end": self.end, "step": 1}
            (data,) = self.prometheus.ask(("query_range", fields))
            for row in data["result"]:
                name = target.get("legendFormat", "")
                for label, value in row["metric"].items():
                    name = name.replace("{{" + label + "}}", value)
                points = [(moment, float(value)) for moment, value in row["values"]]
                short = name.replace("localhost:9100", "").replace(".service", "").strip()
                found.append((short or name, points))
        return found

    def now(self, panel: Panel) -> list[tuple[dict[str, str], float]]:
        """What an instant panel shows."""
        return self.prometheus.query(self.filled(panel["targets"][0]["expr"]))[0]


def mapped(panel: Panel) -> dict[str, dict[str, str]]:
    """The panel's texts and colours of values."""
    mappings = panel["fieldConfig"]["defaults"].get("mappings") or [{"options": {}}]
    options: dict[str, dict[str, str]] = mappings[0]["options"]
    return options


def draw_stat(axes: Any, panel: Panel, scene: Scene) -> None:
    """A number, or the text that stands for it, in large letters."""
    defaults, rows = panel["fieldConfig"]["defaults"], scene.now(panel)
    if not rows:
        text, colour = defaults.get("noValue", "no data"), COLOURS["text"]
    elif shown := mapped(panel).get(f"{rows[0][1]:g}"):
        text, colour = shown["text"], COLOURS[shown["color"]]
    else:
        value = rows[0][1]
        text = f"{1000 * value:.0f} ms" if value < 1 else f"{value:.0f} s"
        steps = defaults["thresholds"]["steps"]
        colour = COLOURS[[s["color"] for s in steps if (s.get("value") or 0) <= value][-1]]
    axes.set_facecolor(colour)
    axes.text(0.5, 0.45, text, transform=axes.transAxes, ha="center", va="center", size=22)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_timeline(axes: Any, panel: Panel, scene: Scene) -> None:
    """One line a series, coloured by its state."""
    series, texts = scene.over_time(panel), mapped(panel)
    for place, (_, points) in enumerate(series):
        for moment, value in points:
            colour = COLOURS[texts[f"{value:g}"]["color"]]
            axes.broken_barh([(moment, 1.05)], (place - 0.4, 0.8), color=colour, linewidth=0)
    axes.set_yticks(range(len(series)), [name for name, _ in series])
    axes.invert_yaxis()


def draw_lines(axes: Any, panel: Panel, scene: Scene) -> None:
    """Numbers over time."""
    series = scene.over_time(panel)
    for colour, (name, points) in zip(LINES[: len(series)], series, strict=True):
        axes.plot(*zip(*points, strict=True), color=colour, label=name, linewidth=1.5)
    axes.set_ylim(bottom=0)
    if axes.lines:
        axes.legend(
            loc="upper left",
            fontsize=7,
            framealpha=0.8,
            facecolor=PLATE,
            edgecolor=PLATE,
            labelcolor=INK,
        )


def draw_table(axes: Any, panel: Panel, scene: Scene) -> None:
    """One line an incident, the latest first."""
    rows = sorted(scene.now(panel), key=lambda row: -row[1])
    texts = [
        [f"{datetime.fromtimestamp(value / 1000, UTC):%H:%M:%S}"]
        + [labels[key] for key in ("trigger", "actor")]
        + [textwrap.shorten(labels["reason"], 66, placeholder=" …")]
        for labels, value in rows
    ]
    axes.axis("off")
    table = axes.table(
        [["when", "trigger", "actor", "reason"], *texts],
        colWidths=[0.12, 0.12, 0.08, 0.68],
        cellLoc="left",
        edges="horizontal",
        loc="upper center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.scale(1, 1.6)
    for (line, _), cell in table.get_celld().items():
        cell.set_edgecolor("#2c3036")
        cell.get_text().set_color(FAINT if line == 0 else INK)


DRAW: dict[str, Callable[[Any, Panel, Scene], None]] = {
    "stat": draw_stat,
    "state-timeline": draw_timeline,
    "timeseries": draw_lines,
    "table": draw_table,
}


def draw(scene: Scene, file: Path) -> None:
    """The whole dashboard, each panel at its place on the grid."""
    matplotlib.rcParams.update({"font.size": 8, "text.color": INK, "svg.fonttype": "none"})
    matplotlib.rcParams.update(dict.fromkeys(("xtick.color", "ytick.color"), FAINT))
    dashboard = json.loads(DASHBOARD.read_text())
    height = max(p["gridPos"].get("y", 0) + p["gridPos"]["h"] for p in dashboard["panels"]) + 1
    figure = plt.figure(figsize=(24 * COLUMN, height * ROW), facecolor=PAPER)
    figure.text(0.01, 1 - 0.6 / height, dashboard["title"], size=11, va="center")
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        wide = panel["type"] == "state-timeline"
        left = at.get("x", 0) / 24 + (0.14 if wide else 0.035 if at["h"] > 4 else 0.006)
        right = (at.get("x", 0) + at["w"]) / 24 - 0.006
        top = 1 - (at.get("y", 0) + 1.9) / height
        bottom = 1 - (at.get("y", 0) + at["h"] + (0.2 if at["h"] > 4 else 0.8)) / height
        axes = figure.add_axes((left, bottom, right - left, top - bottom), facecolor=PLATE)
        figure.text(at.get("x", 0) / 24 + 0.006, top + 0.35 / height, panel["title"], size=9)
        for spine in axes.spines.values():
            spine.set_visible(False)
        DRAW[panel["type"]](axes, panel, scene)
        if panel["type"] in ("state-timeline", "timeseries"):
            axes.set_xlim(scene.start, scene.end)
            ticks = [scene.start + part * (scene.end - scene.start) / 6 for part in range(1, 6)]
            axes.set_xticks(ticks, [f"{datetime.fromtimestamp(t, UTC):%H:%M:%S}" for t in ticks])
    figure.savefig(file, dpi=100, facecolor=PAPER)


def main(file: Path) -> None:
    """Boot, play, ask, draw."""
    with monitored("trixie") as host:
        host.write_file("/etc/hosts", "127.0.0.1 localhost\n")
        host.install(DEB[-1])
        host.apt("install", "--no-install-recommends", "python3-prometheus-client")
        prometheus = Prometheus(host)
        began = Day(host).play()
        prometheus.value('quantum_ess_active{group="trading"} == 0')
        scene = Scene(prometheus, began, time.time())
        draw(scene, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
