"""debian/quantum-ess.*: what dpkg --root has them do is done to that root directory alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from madeup import HERE

PROGRAMS = ("cat", "findmnt", "grep", "rm", "rmdir", "sed", "systemctl", "timeout", "umount")
REMOVED = ["rm -f /image/var/lib/prometheus/node-exporter/quantum-ess.prom"]
PURGED = [
    "rm -rf /image/var/lib/quantum-ess",
    "rmdir /image/run/quantum",
    "rm -f /image/var/lib/systemd/timers/stamp-quantum-ess-drill.timer",
]


@pytest.mark.parametrize(
    ("script", "argument", "does"),
    [
        ("postinst", "configure", []),
        ("prerm", "remove", []),
        ("prerm", "upgrade", []),
        ("postrm", "remove", REMOVED),
        ("postrm", "purge", REMOVED + PURGED),
    ],
)
def test_another_root(tmp_path: Path, script: str, argument: str, does: list[str]) -> None:
    """Although ESS is active on this host."""
    said = tmp_path / "said"
    said.touch()
    for name in PROGRAMS:  # so that nothing happens to this host either
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{said}\necho quantum-ess\n')
        program.chmod(0o755)
    text = (HERE / f"debian/quantum-ess.{script}").read_text()
    (tmp_path / "script").write_text(text.replace("/run/quantum/ESS_ON", str(said)))
    done = subprocess.run(
        ["/bin/sh", str(tmp_path / "script"), argument],
        env={"PATH": str(tmp_path), "DPKG_ROOT": "/image"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert said.read_text().splitlines() == does


@pytest.mark.parametrize(("script", "argument"), [("prerm", "remove"), ("postrm", "remove")])
def test_another_root_that_is_latched(tmp_path: Path, script: str, argument: str) -> None:
    """Its record is on its disk, and its next boot would trade without the package."""
    record = tmp_path / "var/lib/quantum-ess/latched"
    record.parent.mkdir(parents=True)
    record.touch()
    done = subprocess.run(
        ["/bin/sh", str(HERE / f"debian/quantum-ess.{script}"), argument],
        env={"PATH": "/usr/bin:/bin", "DPKG_ROOT": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "quantum-ess: " in done.stderr and record.exists()
