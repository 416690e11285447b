"""Cases for `promtool test rules`, made by code: each alert fires on its own cases and no others.

A host on which all is well, sampled every 15 s for ten minutes; a case replaces some of its series.
That the other alerts stay silent is checked in each case too.
"""

import json
from typing import Any

SHIPPED = "/usr/share/quantum-ess/monitoring/quantum-ess.rules.yml"
HOST = 'instance="desk:9100",job="node"'
GROUP = f'group="trading",{HOST}'
UNIT = f'{GROUP},unit="quantum-execution.service"'
REDIS = f'{HOST},unit="redis-server.service"'
CONDITION = f'condition="drawdown",{HOST}'

Series = dict[str, str]  # series to values in promtool's notation

WELL: Series = {
    f"quantum_ess_active{{{GROUP}}}": "0x40",
    f"quantum_ess_armed{{{GROUP}}}": "1x40",
    f"quantum_ess_last_stop_seconds{{{GROUP}}}": "0.004x40",
    f"quantum_ess_protected_unit_running{{{UNIT}}}": "1x40",
    f"quantum_ess_kept_unit_running{{{REDIS}}}": "1x40",
    f"quantum_ess_drill_overdue{{{HOST}}}": "0x40",
    f"quantum_ess_drill_last_success{{{HOST}}}": "1x40",
    f"quantum_ess_guard_up{{{HOST}}}": "1x40",
    f"quantum_ess_guard_condition_unknown{{{CONDITION}}}": "0x40",
    f"quantum_ess_written_timestamp_seconds{{{HOST}}}": "0+15x40",
    f"quantum_ess_marker_agrees{{{GROUP}}}": "1x40",
}
ACTIVE, ARMED, STOP, RUNNING, KEPT, DUE, PASSED, GUARD, UNKNOWN, WRITTEN, MARKER = WELL
STOPPED = {ACTIVE: "1x40", RUNNING: "0x40"}

# What is shown: the series that are otherwise, and which alerts fire after how many seconds.
Case = tuple[Series, dict[int, list[str]]]
CASES: dict[str, Case] = {
    "all is well": ({}, {0: [], 300: [], 600: []}),
    "stopped": (STOPPED, {15: ["Active"], 600: ["Active"]}),
    "released again": ({ACTIVE: "1x4 0x36"}, {600: []}),
    "a minute not armed": ({ARMED: "0x40"}, {45: [], 75: ["NotArmed"]}),
    "armed again in time": ({ARMED: "0x2 1x38"}, {45: [], 75: []}),
    "a stop of 2.3 s": ({STOP: "2.3x40"}, {15: ["StopSlow"]}),
    "a stop of 1.9 s": ({STOP: "1.9x40"}, {600: []}),
    "runs while active": (
        {ACTIVE: "1x40"},
        {0: ["Active"], 30: ["Active", "ProtectedUnitRunning"]},
    ),
    "seen at the moment of the stop": (
        {ACTIVE: "0x3 1x36", RUNNING: "1x4 0x35"},
        {60: ["Active"], 75: ["Active"]},
    ),
    "Redis down": ({KEPT: "0x40"}, {45: [], 75: ["KeptUnitDown"]}),
    "Redis restarts": ({KEPT: "1x4 0x1 1x34"}, {75: [], 120: []}),
    "no drill for long": ({DUE: "1x40"}, {285: [], 315: ["DrillOverdue"]}),
    "drilled in time": ({DUE: "1x10 0x29"}, {165: [], 600: []}),
    "never a drill": ({DUE: "1x40", PASSED: "_x40"}, {315: ["DrillOverdue"]}),
    "a drill failed": ({PASSED: "0x40"}, {15: ["DrillFailed"]}),
    "guard dead": ({GUARD: "0x40"}, {15: [], 45: ["GuardDown"]}),
    "guard restarts": ({GUARD: "1x4 0x1 1x34"}, {75: [], 105: []}),
    "no guard": ({GUARD: "_x40", UNKNOWN: "_x40"}, {600: []}),
    "its data stale": ({UNKNOWN: "1x40"}, {45: [], 75: ["GuardDataStale"]}),
    "one bad tick": ({UNKNOWN: "0x4 1x1 0x34"}, {75: [], 135: []}),
    "written no more": ({WRITTEN: "0x40"}, {105: [], 150: ["MetricsStale"]}),
    "gone altogether": (
        {WRITTEN: "0 15 stale"},
        {120: [], 150: ["MetricsStale"], 7200: ["MetricsStale"]},
    ),
    "written late": ({WRITTEN: "0+7x40"}, {210: []}),
    "marker wrong": ({MARKER: "0x40"}, {45: [], 75: ["MarkerDisagrees"]}),
    "marker late": ({MARKER: "1x4 0x2 1x33"}, {75: [], 150: []}),
}


def promtool_file(rules: str) -> str:
    """What `promtool test rules` reads (JSON is YAML); `rules` is the path of the rules."""
    tests = [_test(name, *case) for name, case in CASES.items()]
    return json.dumps(
        {"rule_files": [rules], "evaluation_interval": "15s", "tests": tests}, indent=1
    )


def _test(name: str, other: Series, firing: dict[int, list[str]]) -> dict[str, Any]:
    series = [{"series": key, "values": values} for key, values in (WELL | other).items()]
    asked = [
        {
            "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": f"{moment}s",
            "exp_samples": [
                {"labels": f'{{alertname="QuantumEss{alert}"}}', "value": 1} for alert in alerts
            ],
        }
        for moment, alerts in firing.items()
    ]
    return {"name": name, "interval": "15s", "input_series": series, "promql_expr_test": asked}
