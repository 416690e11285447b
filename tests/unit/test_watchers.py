"""libexec/watchers: whether what watches the flag may be started while it is set."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from madeup import HERE

PLAN = """\
quantum-ess-plan 1
protect quantum-*.service 0 0
protect bot@BTC\\x2dUSD.service 0 0
keep quantum-rl-*.service
end
"""
SYSTEMCTL = """\
#!/bin/sh
case $* in
is-active*) echo inactive ;;
list-units*) cat "${0%/*}/running" ;;
*) echo "$*" >"${0%/*}/did" ;;
esac
"""


@pytest.mark.parametrize("unit", ["", "quantum-a.service", "bot@BTC\\x2dUSD.service"])
def test_only_what_a_stop_would_kill_keeps_them_off(tmp_path: Path, unit: str) -> None:
    """Neither ESS's own units nor kept ones, which a pattern takes in as well."""
    places = {f"{top}/quantum": f"{tmp_path}/quantum" for top in ("/usr/lib", "/var/lib", "/run")}
    for name in ("watchers", "strike"):
        text = (HERE / "quantum_ess/libexec" / name).read_text()
        text = text.replace("PATH=", f"PATH={tmp_path}:")
        for path, made_up in places.items():
            text = text.replace(path, made_up)
        script = tmp_path / "quantum-ess" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(text)
    (script.parent / "plan").write_text(PLAN)
    (tmp_path / "quantum").mkdir()
    (tmp_path / "quantum/ESS_ON").touch()
    run = ("quantum-ess-watch.timer", "quantum-ess-watch.service", "quantum-rl-monitor.service")
    lines = [f"{name} loaded active running\n" for name in (*run, unit, "x.service") if name]
    (tmp_path / "running").write_text("".join(lines))
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    command = ["sh", str(script.with_name("watchers"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, (tmp_path / "did").exists()) == ((3, False) if unit else (0, True))
    if unit:
        assert f"yet these protected units run: {unit} \n" in done.stderr
