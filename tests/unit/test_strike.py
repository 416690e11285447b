"""The shell's own judgement of which units are protected, wherever it is called."""

import subprocess
from pathlib import Path

import pytest
from madeup import HERE

STRIKE = HERE / "quantum_ess/libexec/strike"
ASK = """
. "$1"
patterns=' quantum-*.service' keep=' *-monitor.service ' protect=' quantum-a.service '
slow=' quantum-*.service=700'
for unit in quantum-a quantum-b quantum-rl-monitor nginx; do
    protected $unit.service && echo "$unit"
done
grace_of quantum-b.service
echo "$due" *
"""


@pytest.mark.parametrize(
    "decoys", [(), ("quantum-a.service", "node-monitor.service", "quantum-a.service=700")]
)
def test_patterns_are_of_units_and_not_of_files(tmp_path: Path, decoys: tuple[str, ...]) -> None:
    """The directory that the command is given in has no say: anybody may have put files there."""
    for name in (*decoys, "x"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["sh", "-c", ASK, "sh", STRIKE], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    files = " ".join(sorted((*decoys, "x")))
    assert done.stdout.splitlines() == ["quantum-a", "quantum-b", f"700 {files}"]


def test_sigterm_is_sent_once_and_to_every_process_below(tmp_path: Path) -> None:
    """Of a unit with a grace; it may take a second one for an order to leave at once."""
    unit = tmp_path / "quantum-a.service"
    for number, below in enumerate(("", "a", "a/b", "a/b/.c"), 2):
        (unit / below).mkdir(parents=True)
        (unit / below / "cgroup.procs").write_text(f"0\n1\n{number}\n")
    (unit / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    script = f"""
. {STRIKE}
kill() {{ echo "kill $*"; }}
slow=' quantum-a.service=700' forced=1 began=0 now=0 warned=' ' few='' count=0
strike quantum-a.service {unit} 2>&1
strike quantum-a.service {unit} 2>&1
now=701
strike quantum-a.service {unit} 2>&1
"""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    terms = [f"kill -TERM {number}" for number in range(2, 6)]
    assert done.stdout.splitlines() == terms + [line.replace("TERM", "KILL") for line in terms]
