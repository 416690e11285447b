"""The gate: which unit gets which drop-in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from madeup import Host, of

from quantum_ess import gate


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_gate_of_every_type(host: Host) -> None:
    types = ("service", "scope", "slice", "timer", "socket", "path", "target")
    host.configure("[protect]\nunits = " + " ".join(f"a.{kind}" for kind in types))
    tree = host.tree()
    for kind in types:
        text = of(tree, f"a.{kind}")
        assert "AssertPathExists=!/run/quantum/ESS_ON\n" in text
        assert "AssertPathExists=!/var/lib/quantum-ess/latched\n" in text
        assert ("[Service]\nExecCondition=+/usr/bin/test ! -e /run" in text) == (kind == "service")
        assert f"\nConflicts=a.{kind}\n" in tree[gate.CONFLICTS]


def test_a_pattern_holds_what_exists_is_enabled_or_runs(host: Host) -> None:
    host.configure("[protect]\nunits = *-q.service\n[keep]\nunits = k-q\n")
    host.unit("a-q.service", "k-q.service", "quantum-ess-q.service", "x.service", "a-q.timer")
    host.alias("multi-user.target.wants/b-q.service", "/opt/b-q.service")
    running = host.root / "run/systemd/units"
    running.mkdir(parents=True)
    (running / "invocation:c-q.service").symlink_to("0")
    tree = host.tree()
    held = sorted(path.partition(".d/")[0] for path in tree if path.endswith(gate.DROP_IN))
    assert held == ["a-q.service", "b-q.service", "c-q.service"]
    assert tree[gate.CONFLICTS].count("Conflicts=") == 3


def test_a_template_pattern_holds_unknown_instances(host: Host) -> None:
    host.configure("[protect]\nunits = s@*.service\n[keep]\nunits = s@kept\n")
    tree = host.tree()
    assert of(tree, "s@.service") == gate.full("s@.service")
    assert "Exec" not in of(tree, "s@kept.service")
    assert "Conflicts=" not in tree[gate.CONFLICTS]


def test_a_pattern_that_restricts_the_instance_asks_for_the_name(host: Host) -> None:
    host.configure("[protect]\nunits = s@[a-c]*.service\n[keep]\nunits = s@ab*.service\n")
    host.unit("s@a.service")
    tree = host.tree()
    text = of(tree, "s@.service")
    assert "Assert" not in text
    condition = next(line for line in text.splitlines() if line.startswith("ExecCondition="))
    script = condition.partition("'")[2].rpartition("'")[0].replace("$$", "$")
    script = script.replace("test !", "false && test !")  # as if latched
    for instance, held in {"a": True, "ab": False, "c1": True, "d": False}.items():
        command = ["/bin/sh", "-c", script, "sh", f"s@{instance}.service"]
        assert (subprocess.run(command, check=False).returncode != 0) == held
    assert of(tree, "s@a.service") == gate.full("s@a.service")


def test_a_prefix_pattern_holds_unknown_units_but_not_the_kept(host: Host) -> None:
    host.configure("[protect]\nunits = quantum-*\n[keep]\nunits = quantum-rl-monitor redis\n")
    host.unit("redis.service", "quantum-t@.service")
    host.alias("quantum-cache.service", "redis.service")
    tree = host.tree()
    assert of(tree, "quantum-.service") == gate.full("x.service")
    assert of(tree, "quantum-t@.service") == gate.full("x.service")
    for name in ("quantum-ess", "quantum-ess-", "quantum-rl-monitor", "quantum-cache", "redis"):
        assert "Exec" not in of(tree, f"{name}.service")
        assert of(tree, f"{name}.service") != "absent"
    assert "Conflicts=quantum-cache" not in tree[gate.CONFLICTS]


def test_a_service_with_its_own_root_can_still_start(host: Host) -> None:
    host.configure("[protect]\nunits = a b@x c d\n")
    host.unit("a.service", "d.service", text="[Service]\nRootDirectory = /srv/bare\n")
    host.unit("b@.service.d/x.conf", text="[Service]\nRootImage=/srv/x.raw\n")
    host.unit("d.service.d/x.conf", text="[Service]\nRootDirectory=\n")
    tree = host.tree()
    names = ("a.service", "b@x.service", "c.service", "d.service")
    held_twice = [name for name in names if "\nExecCondition=" in of(tree, name)]
    assert held_twice == ["c.service", "d.service"]
