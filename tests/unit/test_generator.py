"""The generator: publishing, errors and the fallback of libexec/generator."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from madeup import HERE, Host

from quantum_ess import gate, generator
from quantum_ess.compiler import Compiled
from quantum_ess.config import load
from quantum_ess.guard import rules

SCRIPT = HERE / "quantum_ess/libexec/generator"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_generate_publishes_and_a_later_error_changes_nothing(host: Host) -> None:
    host.configure("[protect]\nunits = a\n")
    assert generator.main([str(host.early), str(host.root)]) == 0
    plan = (host.run / "plan").read_text()
    assert "protect a.service" in plan
    assert (host.run / "good" / gate.PLAN).read_text() == plan
    assert (host.early / "a.service.d" / gate.DROP_IN).exists()
    host.configure("[protect]\nunits = b.mount\nx = y\n")
    assert generator.main([str(host.early), str(host.root)]) == 6
    error = (host.run / "config-error").read_text()
    assert error.count("/etc/quantum-ess/quantum-ess.conf:") == error.count("\n") == 2
    assert str(host.root) not in error
    assert (host.run / "plan").read_text() == plan
    host.configure("[protect]\nunits = c\n")
    assert generator.main([str(host.early), str(host.root)]) == 0
    assert not (host.run / "config-error").exists()
    assert sorted(path.name for path in host.run.iterdir()) == ["good", "plan"]


def test_an_error_in_a_file_whose_name_is_no_text(host: Host) -> None:
    host.configure("")
    drop_in = host.root / "etc/quantum-ess/quantum-ess.conf.d/\udcff.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("oops")
    assert generator.main([str(host.early), str(host.root)]) == 6
    said = (host.run / "config-error").read_text()
    assert said.startswith("/etc/quantum-ess/quantum-ess.conf.d/?.conf:1: 'oops'")


def test_a_password_is_for_root_only(host: Host) -> None:
    host.configure("[redis]\nurl = redis://:secret@127.0.0.1:6379/0\n")
    assert generator.main([str(host.early), str(host.root)]) == 0
    for path in (host.run / "plan", host.run / "good" / gate.PLAN, host.early / gate.PLAN):
        assert path.stat().st_mode & 0o777 == 0o600


GUARDED = "[condition c]\nredis = k\nlimit = > 1\n"


def test_the_guards_rules_stand_and_fall_with_the_plan(host: Host) -> None:
    run = [str(host.early), str(host.root)]
    host.configure(GUARDED)
    assert generator.main(run) == 0
    text = (host.run / "guard-plan").read_text()
    assert rules.parse(text).rules[0].name == "c"
    assert (host.run / "good" / rules.FILE).read_text() == text
    host.configure(GUARDED + "limit = > 2\n")
    assert generator.main(run) == 6
    assert (host.run / "guard-plan").read_text() == text
    host.configure(GUARDED + "[redis]\nurl = redis://:secret@127.0.0.1:6379/0\n")
    assert generator.main(run) == 0
    assert (host.run / "guard-plan").stat().st_mode & 0o777 == 0o600
    host.configure("")
    assert generator.main(run) == 0
    assert not (host.run / "guard-plan").exists()
    assert not (host.run / "good" / rules.FILE).exists()


def test_the_default_tree_looks_at_no_host(tmp_path: Path) -> None:
    shipped = str(HERE / "etc/quantum-ess.conf")
    assert generator.main(["--default", shipped, str(tmp_path / "tree")]) == 0
    lines = (tmp_path / "tree" / gate.PLAN).read_text().splitlines()
    plan = Compiled(load([])).plan().splitlines()
    assert [line for line in lines if not line.startswith("tree ")] == plan
    assert len(list((tmp_path / "tree").glob("*/*.conf"))) == 5


def test_usage_and_unwritable(tmp_path: Path) -> None:
    assert generator.main([]) == 2
    (tmp_path / "file").touch()
    assert generator.main([str(tmp_path), str(tmp_path / "file")]) == 1


def run_script(host: Host) -> str:
    """Run the sh generator as PID 1 would; what it said. It never fails."""
    arguments = [str(host.root / "normal"), str(host.early), str(host.root / "late")]
    # An empty PATH would be no different: PID 1 hands down one of its own.
    done = subprocess.run(
        ["/bin/sh", str(SCRIPT), *arguments, str(host.root)],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stderr


class TestScript:
    """libexec/generator."""

    @pytest.fixture(autouse=True)
    def installed(self, host: Host) -> None:
        modules = host.root / "usr/lib/python3/dist-packages"
        modules.mkdir(parents=True)
        (modules / "quantum_ess").symlink_to(HERE / "quantum_ess")

    def default_tree(self, host: Host) -> Path:
        tree = host.root / "usr/lib/quantum-ess/default"
        command = [sys.executable, "-m", "quantum_ess.generator", "--default"]
        command += [str(HERE / "etc/quantum-ess.conf"), str(tree)]
        subprocess.run(command, check=True, env={"PYTHONPATH": str(HERE)})
        return tree

    def test_good_configuration(self, host: Host) -> None:
        assert run_script(host) == ""
        assert (host.early / "quantum-governor.service.d" / gate.DROP_IN).exists()
        assert not (host.run / "config-error").exists()

    def test_while_latched_what_is_held_stays_so(self, host: Host) -> None:
        """A unit that was made at run time is known by nothing but that it runs."""
        host.configure("[protect]\nunits = quantum*\n")
        running = host.root / "run/systemd/units/invocation:quantum1.service"
        running.parent.mkdir(parents=True)
        running.symlink_to("0")
        run_script(host)
        running.unlink()
        flag = host.root / "run/quantum/ESS_ON"
        flag.parent.mkdir(parents=True)
        for latched in (True, False):
            flag.touch() if latched else flag.unlink()
            for _ in range(2):
                shutil.rmtree(host.early)
                host.early.mkdir()
                run_script(host)
                held = (host.early / "quantum1.service.d" / gate.DROP_IN).exists()
                assert held == latched

    def test_while_latched_what_is_held_stays_so_over_a_boot(self, host: Host) -> None:
        """A unit of another generator: /run is empty, only the last good tree tells of it."""
        host.configure("[protect]\nunits = quantum*\n")
        kept = host.root / "var/lib/quantum-ess/good"
        for name in ("quantum1.service", "quantum-ess-halt.target"):
            (kept / f"{name}.d").mkdir(parents=True)
        (kept / "quantum1.service.d" / gate.DROP_IN).touch()
        for latched in (True, False):
            record = host.root / "var/lib/quantum-ess/latched"
            record.touch() if latched else record.unlink()
            shutil.rmtree(host.run, ignore_errors=True)
            shutil.rmtree(host.early)
            host.early.mkdir()
            assert run_script(host) == ""
            for tree in (host.early, host.run / "good"):
                assert (tree / "quantum1.service.d" / gate.DROP_IN).exists() == latched

    def test_bad_configuration_keeps_the_last_good_one(self, host: Host) -> None:
        host.configure("[protect]\nunits = mine\n")
        run_script(host)
        shutil.rmtree(host.early)
        host.early.mkdir()
        host.configure("oops")
        said = run_script(host)
        assert (host.early / "mine.service.d" / gate.DROP_IN).exists()
        assert "protect mine.service" in (host.run / "plan").read_text()
        assert "quantum-ess.conf:1: 'oops'" in (host.run / "config-error").read_text()
        assert said.count("\n") == 1

    def test_the_copy_on_disk_then_the_default(self, host: Host) -> None:
        default = self.default_tree(host)
        host.configure("oops")
        run_script(host)
        assert "protect quantum-governor.service" in (host.run / "plan").read_text()
        kept = host.root / "var/lib/quantum-ess/good"
        shutil.copytree(default, kept)
        (kept / gate.PLAN).write_text("quantum-ess-plan 1\nprotect disk.service 0 0\n")
        run_script(host)
        assert "protect disk.service" in (host.run / "plan").read_text()
        assert (host.early / "quantum-governor.service.d" / gate.DROP_IN).exists()

    def test_broken_python(self, host: Host) -> None:
        self.default_tree(host)
        os.unlink(host.root / "usr/lib/python3/dist-packages/quantum_ess")
        run_script(host)
        error = (host.run / "config-error").read_text()
        assert error.startswith("Python did not run: ")
        assert "quantum_ess" in error
        assert error.count("\n") == 1
        assert (host.early / "quantum-governor.service.d" / gate.DROP_IN).exists()

    def test_nothing_left_at_all(self, host: Host) -> None:
        host.configure("oops")
        assert "NO GATE" in run_script(host)
        assert not list(host.early.iterdir())


def no_process() -> None:
    """For a child: a user who may not start any (root always may)."""
    if os.geteuid() == 0:
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def test_where_no_process_can_be_started_the_last_good_tree_is_put_in_place() -> None:
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        host = Host(Path(top))
        host.configure("[protect]\nunits = a\n")
        assert generator.main([str(host.early), str(host.root)]) == 0
        early, script = Path(top) / "again", Path(top) / "generator"
        early.mkdir()
        early.chmod(0o777)
        shutil.copy(SCRIPT, script)
        where = ["/none", str(early), "/none", str(host.root)]
        subprocess.run(["sh", str(script), *where], preexec_fn=no_process, check=False, timeout=20)
        assert (early / "a.service.d" / gate.DROP_IN).exists()
        assert (early / gate.PLAN).exists()
