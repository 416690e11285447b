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


def test_files_whose_names_no_unit_can_have(host: Host) -> None:
    host.configure("[protect]\nunits = quantum* odd*\n")
    wanted = host.tree()
    stems = "odd[@ quantum-x!@ quantum-\udcff@ quantum-\udcff quantum-[a] odd* @"
    for name in stems.split():
        host.unit(f"{name}.service", f"{name}.service.d/x.conf")
    host.unit("quantum-x@.mount", "quantum-x@.slice")
    assert host.tree() == wanted


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


OWN_ROOT = "[Service]\nRootDirectory = /srv/bare\n"


def held_twice(host: Host, *names: str) -> list[str]:
    """Those of these services whose gate has ExecCondition= as well."""
    tree = host.tree()
    assert all("Assert" in of(tree, f"{name}.service") for name in names)
    return [name for name in names if "\nExecCondition=" in of(tree, f"{name}.service")]


def test_a_service_with_its_own_root_can_still_start(host: Host) -> None:
    host.configure("[protect]\nunits = a b@x c d e f g h\n")
    host.unit("a.service", "d.service", "f.service", text=OWN_ROOT)
    host.unit("b@.service.d/x.conf", text="[Service]\nRootImage=/srv/x.raw\n")
    host.unit("d.service.d/x.conf", text="[Service]\nRootDirectory=\n")
    # The one is no word about the other; what conditions see is that of the main process or not.
    host.unit("e.service", text="[Service]\nRootImage=/srv/x.raw\nRootDirectory=\n")
    host.unit("f.service.d/x.conf", text="[Service]\nRootDirectoryStartOnly=Yes\n")
    host.unit("g.service", text="[X-Service]\nRootDirectory=/a\n")
    continued = "[Service]\nExecStart=/bin/a \\\n# b \\\nRootDirectory=/a\n"
    host.unit("h.service", text=continued)
    assert held_twice(host, *"a b@x c d e f g h".split()) == ["c", "d", "f", "g", "h"]


@pytest.mark.parametrize(
    ("lines", "own"),
    [
        (["/"], True),
        (["/:ro"], True),
        (["/var /:ro,size=1M"], True),
        (['/var "//:ro"'], True),
        (["/", "/var"], True),
        (["/", "", "/var"], False),
        (["/var:ro /run"], False),
    ],
)
def test_an_empty_root_is_one_of_its_own(host: Host, lines: list[str], own: bool) -> None:
    """RootDirectoryStartOnly= is no word about it, systemd.service(5)."""
    host.configure("[protect]\nunits = a\n")
    text = "".join(f"TemporaryFileSystem={line}\n" for line in lines)
    host.unit("a.service", text=f"[Service]\n{text}RootDirectoryStartOnly=yes\n")
    assert held_twice(host, "a") == ([] if own else ["a"])


@pytest.mark.parametrize(
    "drop_in",
    [
        "a-b-c.service",
        "a-b-.service",
        "a-.service",
        "service",
        "alias.service",
        "../system.attached/a-b-c.service",
        "../../../run/systemd/system.attached/a-.service",
    ],
)
def test_a_root_of_its_own_from_any_drop_in(host: Host, drop_in: str) -> None:
    host.configure("[protect]\nunits = a-b-c\n")
    host.unit("a-b-c.service")
    host.alias("alias.service", "a-b-c.service")
    (host.root / "run/systemd").mkdir(parents=True)
    (host.units / f"{drop_in}.d").mkdir(parents=True)
    assert held_twice(host, "a-b-c") == ["a-b-c"]
    host.unit(f"{drop_in}.d/x.conf", text=OWN_ROOT)
    assert held_twice(host, "a-b-c") == []


def test_the_more_specific_drop_in_of_that_name_counts(host: Host) -> None:
    host.configure("[protect]\nunits = a-b\n")
    host.unit("a-.service.d/x.conf", text=OWN_ROOT)
    host.unit("service.d/y.conf", text=OWN_ROOT)
    assert held_twice(host, "a-b") == []
    host.unit("a-b.service.d/x.conf", "a-.service.d/y.conf")
    assert held_twice(host, "a-b") == ["a-b"]


def test_unknown_units_with_a_root_of_their_own(host: Host) -> None:
    """A gate for all of a prefix or template must not keep them from ever starting."""
    host.configure("[protect]\nunits = a-* b-* s@*\n[keep]\nunits = b-k-* s@k*\n")
    host.unit("a-.service.d/x.conf", "b-.service.d/x.conf", "s@.service", text=OWN_ROOT)
    tree = host.tree()
    assert "Assert" in of(tree, "a-.service")
    assert [name for name in ("a-", "b-", "s@") if "\nExec" in of(tree, f"{name}.service")] == []


def test_a_portable_service_behind_an_alias_is_stopped(host: Host) -> None:
    attached = host.units.parent / "system.attached"
    attached.mkdir()
    (attached / "p.service").touch()
    host.alias("engine.service", "/etc/systemd/system.attached/p.service")
    host.configure("[protect]\nunits = engine\n")
    assert "Conflicts=p.service\n" in host.tree()[gate.CONFLICTS]
    assert "protect p.service 0 0" in host.plan()


def test_kept_units_below_a_gate_that_asks_for_names(host: Host) -> None:
    """What is known to be kept needs no shell to start."""
    host.configure("[protect]\nunits = q-*\n[keep]\nunits = q-db-* q-x\n")
    host.unit("q-db-1.service")
    tree = host.tree()
    assert "case" in of(tree, "q-.service")
    opened = of(tree, "q-x.service")
    assert "empty, so that a more general gate does not apply" in opened
    assert of(tree, "q-db-1.service") == opened


def test_an_instance_that_only_a_drop_in_tells_of(host: Host) -> None:
    host.configure("[protect]\nunits = s@*\n")
    host.unit("s@.service")
    host.unit("s@a.service.d/x.conf", text=OWN_ROOT)
    assert held_twice(host, "s@", "s@a") == ["s@"]


@pytest.mark.parametrize(
    ("known", "lacks"),
    [
        ({"RootDirectory": "/srv/bare"}, False),
        ({"RootDirectory": "/srv/bare", "RootDirectoryStartOnly": True}, True),
        ({"RootDirectory": "/", "RootImage": ""}, True),
        ({"TemporaryFileSystem": [("/var", ""), ("/", "ro")]}, False),
        ({"TemporaryFileSystem": [("/", "")], "RootDirectoryStartOnly": True}, False),
        ({"TemporaryFileSystem": [("/run", "")]}, True),
    ],
)
def test_which_half_a_service_must_have(known: dict[str, object], lacks: bool) -> None:
    assert ("ExecCondition=" in gate.missing(known, "a.service")) == lacks
