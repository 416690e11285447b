"""The plan: order of restart, stop categories, aliases."""

from __future__ import annotations

from pathlib import Path

import pytest
from madeup import Host, of

from quantum_ess import cli, config, unitfiles
from quantum_ess.compiler import Compiled
from quantum_ess.config import load
from quantum_ess.errors import ConfigError
from quantum_ess.plan import Plan
from quantum_ess.unitfiles import UnitFiles


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_default_plan() -> None:
    assert Compiled(load([])).plan() == (
        "quantum-ess-plan 1\n"
        "protect quantum-ai-engine.service 0 0\n"
        "protect quantum-execution.service 0 0\n"
        "protect quantum-apply-layer.service 0 0\n"
        "protect quantum-governor.service 0 0\n"
        "keep grafana-server.service\n"
        "keep quantum-rl-monitor.service\n"
        "keep redis-server.service\n"
        "keep prometheus.service\n"
        "set resume.what running\n"
        "set resume.settle_ms 500\n"
        "set resume.timeout_ms 60000\n"
        "set redis.enabled yes\n"
        "set redis.url redis://127.0.0.1:6379/0\n"
        "set redis.timeout_ms 500\n"
        "set drill.overdue_ms 691200000\n"
        "set hooks.timeout_ms 30000\n"
        "end\n"
    )


def test_plan_in_the_order_of_restart_with_stop_categories(host: Host) -> None:
    host.configure(
        "[protect]\nunits = a b q-*\n[keep]\nunits = k\n[resume]\norder = b\n"
        "[unit q-x]\nstop_category = 1\ngrace = 250ms\n[redis]\nenabled = no\n"
    )
    assert host.plan() == [
        "protect b.service 0 0",
        "protect a.service 0 0",
        "protect q-x.service 1 250",
        "protect q-*.service 0 0",
        "keep k.service",
    ]
    assert "set redis.url -\n" in host.compiled().plan()


def test_an_alias_brings_the_unit_behind_it(host: Host) -> None:
    host.configure("[protect]\nunits = a i@x q-*\n[keep]\nunits = redis\n")
    host.unit("real.service", "redis-server.service", "other.service", "j@.service")
    host.alias("a.service", "real.service")
    host.alias("redis.service", "/etc/systemd/system/redis-server.service")
    host.alias("q-z.service", "/lib/systemd/system/other.service")
    host.alias("i@.service", "j@.service")
    assert host.plan() == [
        "protect a.service 0 0",
        "protect real.service 0 0",
        "protect i@x.service 0 0",
        "protect j@x.service 0 0",
        "protect q-*.service 0 0",
        "protect other.service 0 0",
        "keep redis.service",
        "keep redis-server.service",
    ]


def test_the_unit_behind_an_alias_is_stopped_as_the_alias_is(host: Host) -> None:
    """The cgroup bears the real name."""
    host.configure(
        "[protect]\nunits = trader q-*\n[unit trader]\nstop_category = 1\ngrace = 800ms\n"
        "[unit q-*]\nstop_category = 1\ngrace = 300ms\n"
    )
    host.unit("engine.service", "other.service")
    host.alias("trader.service", "engine.service")
    host.alias("q-z.service", "other.service")
    assert host.plan()[:4] == [
        "protect trader.service 1 800",
        "protect engine.service 1 800",
        "protect q-*.service 1 300",
        "protect other.service 1 300",
    ]


def test_instances_of_a_template_behind_an_alias(host: Host) -> None:
    """They bear the real template's name, which no literal is."""
    host.configure("[protect]\nunits = strat@*\n")
    host.unit("quantum-strategy@.service")
    host.alias("strat@.service", "quantum-strategy@.service")
    assert host.plan()[:2] == [
        "protect strat@*.service 0 0",
        "protect quantum-strategy@*.service 0 0",
    ]


def test_a_pattern_is_not_widened_by_a_section(host: Host) -> None:
    section = "[unit quantum-*]\nstop_category = 1\ngrace = 300ms\n"
    host.configure("[protect]\nunits = quantum-[!x]*\n" + section)
    assert host.plan()[:2] == [
        "protect quantum-[!x]*.service 1 300",
        "keep grafana-server.service",
    ]


@pytest.mark.parametrize(
    "units", ["systemd-nspawn@*", "s[!y]*", "*@*", "[!i]*.scope", "user-*.slice", "getty@*"]
)
def test_a_pattern_that_takes_in_the_system_s_own_is_refused(host: Host, units: str) -> None:
    host.configure(f"[protect]\nunits = {units}\n")
    with pytest.raises(ConfigError, match=r"conf:2: "):
        host.compiled()


def test_a_link_out_of_the_unit_directories_is_no_alias(host: Host) -> None:
    host.configure("[protect]\nunits = a b c\n")
    host.alias("a.service", "/opt/trading/engine.service")
    host.alias("b.service", "/dev/null")
    host.alias("c.service", "c.service")
    assert host.plan()[:3] == [f"protect {name}.service 0 0" for name in "abc"]


@pytest.mark.parametrize("target", ["redis-server.service", "dbus.service", "quantum-ess.service"])
def test_an_alias_of_what_must_run_is_refused(host: Host, target: str) -> None:
    host.configure("[protect]\nunits = a\n")
    host.alias("a.service", target)
    with pytest.raises(ConfigError, match=rf"conf:2: a.service is an alias of {target}"):
        host.compiled()


def test_a_kept_alias_keeps_the_unit_behind_it(host: Host) -> None:
    host.alias("mine.service", "q-real.service")
    host.unit("q-real.service")
    host.configure("[protect]\nunits = q-*\n[keep]\nunits = mine\n")
    assert "Exec" not in of(host.tree(), "q-real.service")
    assert host.plan()[-1] == "keep q-real.service"
    host.configure("[protect]\nunits = q-real\n[keep]\nunits = mine\n")
    with pytest.raises(ConfigError, match=r"conf:2: q-real.service is both protected and kept"):
        host.compiled()


@pytest.mark.parametrize("kept", ["mine", "mine-*", "k@*"])
def test_a_kept_pattern_keeps_what_is_behind_its_aliases(host: Host, kept: str) -> None:
    host.unit("q-real.service", "q-s@.service")
    host.alias("mine.service", "q-real.service")
    host.alias("mine-a.service", "q-real.service")
    host.alias("k@.service", "q-s@.service")
    real = "q-s@*.service" if "@" in kept else "q-real.service"
    host.configure(f"[protect]\nunits = q-*\n[keep]\nunits = {kept}\n")
    assert host.plan()[-1] == f"keep {real}"
    assert f"Conflicts={real}" not in host.tree()["quantum-ess-halt.target.d/zzz-units.conf"]
    # But not what is protected by its own name: a link to it must not undo that.
    host.configure(f"[protect]\nunits = {real}\n[keep]\nunits = {kept}\n")
    if kept == "mine":
        with pytest.raises(ConfigError, match=r"conf:2: .* is both protected and kept, by mine"):
            host.compiled()
    else:
        assert host.plan() == [f"protect {real} 0 0", f"keep {kept}.service"]


@pytest.mark.parametrize(
    ("protect", "sections", "unit", "row"),
    [
        # The last section that takes it in counts, whatever singles out less.
        ("s@*", ("s@a*", "s@*"), "s@a1", 2),
        ("q-*", ("q-*", "q-a*"), "q-a1", 2),
        # The rows are in the order of restart; the section counts all the same.
        ("q-* q-a*", ("q-*", "q-a*"), "q-a1", 2),
        ("*-x.service q-*", ("q-a*",), "q-a-x", 1),
        ("*-live.service q-e-*", ("q-*",), "q-e-live", 1),
        ("*-live.service q-*", ("q-*", "q-[ab]*"), "q-a", 2),
        ("q-ab* q-*", ("q-*x.service", "q-a*"), "q-abx", 2),
        # By an alias as by itself.
        ("q-*", ("q-z*",), "other", 1),
        ("strat@*", ("strat@a*",), "real@a1", 1),
    ],
)
def test_which_section_counts(
    host: Host, protect: str, sections: tuple[str, ...], unit: str, row: int
) -> None:
    text = f"[protect]\nunits = {protect}\n"
    for number, section in enumerate(sections, 1):
        text += f"[unit {section}]\nstop_category = 1\ngrace = {number}00ms\n"
    host.configure(text)
    host.unit("other.service", "real@.service")
    host.alias("q-z1.service", "other.service")
    host.alias("strat@.service", "real@.service")
    found = Plan(host.compiled().plan(), "test").match(f"{unit}.service")
    assert found and (found.category, found.grace) == (1, row / 10)


@pytest.mark.parametrize(
    ("lists", "sections", "order"),
    [
        ("[protect]\nunits = q-z* q-*", ("q-*",), "q-z1 q-a1"),
        (
            "[protect]\nunits = q-* f-* *-eu.service f-b\n[resume]\norder = f-* *-eu f-b",
            ("*-eu",),
            "f-1 f-a-eu x-eu f-b q-1",
        ),
        ("[protect]\nunits = *-x q-*", ("q-a*",), "b-x q-a-x q-a1"),
        # Singled out of one pattern, and of no other: before the rest of it, as ever.
        ("[protect]\nunits = a-* q-*", ("q-b*",), "a-1 q-b1 q-a1"),
    ],
)
def test_the_order_of_restart_is_that_of_the_lists(
    host: Host, lists: str, sections: tuple[str, ...], order: str
) -> None:
    """Whatever the sections single out."""
    text = f"{lists}\n"
    for section in sections:
        text += f"[unit {section}]\nstop_category = 1\ngrace = 100ms\n"
    host.configure(text.replace("*-x q", "*-x.service q"))
    plan = Plan(host.compiled().plan(), "test")
    units = [f"{name}.service" for name in order.split()]
    assert sorted(sorted(units), key=plan.position) == units


def test_config_checks_what_a_reload_will(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With this host's aliases: to the command alone the name of a kept unit would look fine."""
    host.alias("trade.service", "q-real.service")
    paths = [str(host.root / "etc/quantum-ess/quantum-ess.conf")]
    monkeypatch.setattr(config, "load", lambda: load(paths))
    monkeypatch.setattr(unitfiles, "UnitFiles", lambda known: UnitFiles(str(host.root), known))
    host.configure("[protect]\nunits = trade\n")
    assert cli.main(["config"]) == 0
    assert "protect q-real.service 0 0\n" in capsys.readouterr().out
    host.configure("[protect]\nunits = trade\n[keep]\nunits = q-real\n")
    with pytest.raises(ConfigError, match=r"conf:2: trade.service is an alias of q-real.service"):
        cli.main(["config"])


def test_a_kept_alias_of_a_default_has_a_place(host: Host) -> None:
    host.alias("gov.service", "quantum-governor.service")
    host.configure("[keep]\nunits = gov\n")
    with pytest.raises(ConfigError, match=r"conf:2: quantum-governor.service .* by gov.service in"):
        host.compiled()
