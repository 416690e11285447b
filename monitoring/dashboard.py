"""The Grafana dashboard as code: `dashboard.py >dashboards/quantum-ess.json`, or `make dashboard`.

Built with Grafana's own SDK for its oldest schema that has one (10.1), which every later Grafana
reads. tests/unit/test_dashboard.py holds the committed JSON to this file and to the schema.
"""

from __future__ import annotations

import json

from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    VizLegendOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.statetimeline import Panel as StateTimeline
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

GREEN, AMBER, RED, GREY = "green", "orange", "red", "text"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HOST = 'instance=~"$instance"'
TRADING = f'{HOST}, group="trading"'


def build() -> Dashboard:
    """The whole dashboard, top to bottom."""
    return (
        Dashboard("quantum-ess: emergency stop")
        .uid("quantum-ess")
        .description("Is trading stopped, who did it and why, and would the next stop work?")
        .tags(["quantum-ess", "trading"])
        .readonly()
        .refresh("10s")
        .time("now-6h", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            QueryVariable("instance")
            .label("Host")
            .datasource(SOURCE)
            .query("label_values(quantum_ess_build_info, instance)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(text="All", value="$__all"))
        )
        .with_panel(state("ESS", f"quantum_ess_active{{{TRADING}}}", "inactive", "ACTIVE", RED))
        .with_panel(state("Armed", f"quantum_ess_armed{{{TRADING}}}", "NOT ARMED", "armed", GREEN))
        .with_panel(
            figure("Last stop", f"quantum_ess_last_stop_seconds{{{TRADING}}}", "s")
            .description("From the trigger to the verification that nothing lives any more.")
            .thresholds(steps((None, GREEN), (1, AMBER), (2, RED)))
        )
        .with_panel(
            figure(
                "Since the last drill",
                f"time() - quantum_ess_drill_last_timestamp_seconds{{{HOST}}}",
                "s",
            )
            .decimals(0)
            .thresholds(steps((None, GREEN), (7 * 86400, AMBER), (14 * 86400, RED)))
        )
        .with_panel(
            timeline("State", 24, 8)
            .with_target(query(f"quantum_ess_active{{{TRADING}}} * 2", "ESS {{instance}}"))
            .with_target(
                query(f"quantum_ess_protected_unit_running{{{TRADING}}}", "{{unit}} {{instance}}")
            )
            .with_target(
                query(f"quantum_ess_kept_unit_running{{{HOST}}}", "kept: {{unit}} {{instance}}")
            )
            .mappings(mapping({"0": ("down", GREY), "1": ("up", GREEN), "2": ("ACTIVE", RED)}))
        )
        .with_panel(story())
        .with_panel(
            lines("Stop times", 8)
            .unit("s")
            .min(0)
            .show_points(VisibilityMode.ALWAYS)
            .thresholds(steps((None, GREEN), (2, RED)))
            .thresholds_style(GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
            .with_target(query(f"quantum_ess_last_stop_seconds{{{TRADING}}}", "last {{instance}}"))
            .with_target(
                query(
                    "histogram_quantile(0.99, sum by (le) "
                    f"(quantum_ess_stop_seconds_bucket{{{TRADING}}}))",
                    "99 % of all",
                )
            )
            .with_target(
                query(f"quantum_ess_drill_last_stop_seconds{{{HOST}}}", "drill, by {{way}}")
            )
        )
        .with_panel(
            lines("Conditions against their limits", 8)
            .description("A condition trips on the wrong side of its limit for its time.")
            .with_target(
                query(f"quantum_ess_guard_condition_value{{{HOST}}}", "{{condition}} {{instance}}")
            )
            .with_target(
                query(
                    f"quantum_ess_guard_condition_limit{{{HOST}}}",
                    "limit of {{condition}} {{instance}}",
                )
            )
        )
        .with_panel(
            timeline("Armed, part by part", 12, 7)
            .with_target(query(f"quantum_ess_armed_part{{{TRADING}}}", "{{part}} {{instance}}"))
            .with_target(query(f"quantum_ess_guard_up{{{HOST}}}", "guard {{instance}}"))
            .with_target(query(f"quantum_ess_marker_agrees{{{TRADING}}}", "marker {{instance}}"))
            .mappings(mapping({"0": ("bad", RED), "1": ("good", GREEN)}))
        )
        .with_panel(
            timeline("Drills", 12, 7)
            .with_target(query(f"quantum_ess_drill_last_success{{{HOST}}}", "{{instance}}"))
            .mappings(mapping({"0": ("failed", RED), "1": ("passed", GREEN)}))
        )
        .with_panel(
            lines("Activations and refused starts", 7)
            .decimals(0)
            .with_target(
                query(
                    f"sum by (trigger) (quantum_ess_activations_total{{{TRADING}}})", "{{trigger}}"
                )
            )
            .with_target(
                query(f"sum(quantum_ess_refused_starts_total{{{TRADING}}})", "refused starts")
            )
        )
    )


def query(expr: str, legend: str) -> Dataquery:
    """One range query."""
    return Dataquery().expr(expr).legend_format(legend).range()


def state(title: str, expr: str, no: str, yes: str, colour: str) -> Stat:
    """A 0 or 1 in large letters; `colour` is that of 1."""
    other = RED if colour == GREEN else GREEN
    return (
        stat(title, expr)
        .mappings(mapping({"0": (no, other), "1": (yes, colour)}))
        .color_mode(BigValueColorMode.BACKGROUND)
    )


def figure(title: str, expr: str, unit: str) -> Stat:
    """A number in large letters."""
    return stat(title, expr).unit(unit).no_value("none yet")


def stat(title: str, expr: str) -> Stat:
    """The last value of an expression, in a quarter of the width."""
    return (
        Stat()
        .title(title)
        .datasource(SOURCE)
        .height(4)
        .span(6)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(Dataquery().expr(expr).legend_format("{{instance}}").instant())
    )


def lines(title: str, height: int) -> TimeSeries:
    """Numbers over time, in half of the width."""
    return (
        TimeSeries()
        .title(title)
        .datasource(SOURCE)
        .height(height)
        .span(12)
        .draw_style(GraphDrawStyle.LINE)
        .legend(legend())
    )


def timeline(title: str, width: int, height: int) -> StateTimeline:
    """States over time, one line a series."""
    return (
        StateTimeline()
        .title(title)
        .datasource(SOURCE)
        .height(height)
        .span(width)
        .merge_values(True)
        .show_value(VisibilityMode.NEVER)
        .row_height(0.8)
        .fill_opacity(80)
        .line_width(0)
        .legend(legend())
    )


def story() -> Table:
    """Who, when and why: a line an incident that Prometheus has seen in the time shown."""
    names = {"Value": "when", "incident": "incident", "trigger": "trigger"}
    hidden = dict.fromkeys(("Time", "__name__", "job", "group"), True)
    return (
        Table()
        .title("Who and why")
        .datasource(SOURCE)
        .height(8)
        .span(12)
        .show_header(True)
        .no_value("never activated")
        .with_target(
            Dataquery()
            .expr(
                f"max_over_time((quantum_ess_last_incident_info{{{TRADING}}} "
                "* on (instance, group) group_left () "
                f"quantum_ess_last_activation_timestamp_seconds{{{TRADING}}})[$__range:]) * 1000"
            )
            .format(PromQueryFormat.TABLE)
            .instant()
        )
        .with_transformation(
            DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": hidden,
                    "renameByName": names,
                    "indexByName": {"Value": 0},
                },
            )
        )
        .with_transformation(
            DataTransformerConfig(
                id_val="sortBy", options={"sort": [{"field": "when", "desc": True}]}
            )
        )
        .override_by_name("when", [unit_of("dateTimeAsIso")])
    )


def unit_of(unit: str) -> DynamicConfigValue:
    """An override of a field's unit."""
    return DynamicConfigValue(id_val="unit", value=unit)


def legend() -> VizLegendOptions:
    """A legend below."""
    return (
        VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )


def mapping(texts: dict[str, tuple[str, str]]) -> list[ValueMapping]:
    """Value to text and colour."""
    return [ValueMap({key: ValueMappingResult(*shown) for key, shown in texts.items()})]


def steps(*rows: tuple[float | None, str]) -> ThresholdsConfig:
    """From which value on which colour; None for the lowest."""
    colours = [Threshold(value, colour) for value, colour in rows]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(colours)


def text() -> str:
    """The dashboard as Grafana reads it."""
    return json.dumps(build().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(text(), end="")
