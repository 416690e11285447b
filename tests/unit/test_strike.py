"""The shell's own judgement of which units are protected, wherever it is called."""

import os
import subprocess
from pathlib import Path

import pytest
from madeup import HERE

from quantum_ess import plan

STRIKE = HERE / "quantum_ess/libexec/strike"
PLAN = """\
quantum-ess-plan 1
protect quantum-a.service 0 0
protect bot@BTC\\x2dUSD.service 1 800
protect trading.slice 1 300
protect quantum-*.service 1 700
protect quantum-b*.service 0 0
protect bot@?.service 0 0
protect *.timer 0 0
keep quantum-rl-monitor.service
keep *-watch.service
end
"""
UNITS = (
    "quantum-a.service",
    "quantum-b.service",
    "quantum-rl-monitor.service",
    "quantum-a-watch.service",
    "bot@BTC\\x2dUSD.service",
    "bot@BTCx2dUSD.service",
    "bot@B.service",
    "trading.slice",
    "systemd-tmpfiles-clean.timer",
    "quantum-ess-watch.timer",
    "backup.timer",
    "nginx.service",
)
ASK = """
. "$1"
plans=$2
read_plan
shift 2
for unit in "$@"; do
    if protected "$unit"; then grace_of "$unit"; else due=no; fi
    printf '%s %s\\n' "$unit" "$due"
done
echo *
"""


@pytest.mark.parametrize(
    "decoys", [(), ("quantum-a.service", "node-watch.service", "quantum-a.service=700", "a.timer")]
)
def test_the_shell_judges_units_as_python_does(tmp_path: Path, decoys: tuple[str, ...]) -> None:
    """Nor has the directory a say that the command is given in: anybody may put files there."""
    for name in (*decoys, "x"):
        (tmp_path / name).touch()
    path = tmp_path.with_suffix(".plan")
    path.write_text(PLAN)
    done = subprocess.run(
        ["sh", "-c", ASK, "sh", STRIKE, path, *UNITS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    python = plan.Plan(PLAN, "")
    wanted = []
    for unit in UNITS:
        how = python.match(unit)
        wanted.append(f"{unit} {'no' if how is None else round(1000 * how.grace)}")
    *said, files = done.stdout.splitlines()
    assert said == wanted
    assert files.split() == sorted((*decoys, "x"))


def test_what_is_in_a_slice_has_the_slice_s_grace(tmp_path: Path) -> None:
    """Unless its own name is protected: of category 1 is what cancels orders before it goes."""
    members = ("foo.service", "quantum-a.service", "quantum-ess-watch.service")
    for member in members:
        unit = tmp_path / "trading.slice/trading-b.slice" / member
        unit.mkdir(parents=True)
        (unit / "cgroup.procs").write_text("7\n")
        (unit / "cgroup.events").write_text("populated 1\nfrozen 0\n")
        (unit / "cgroup.kill").touch()
    path = tmp_path / "plan"
    path.write_text(PLAN)
    script = f"""
. {STRIKE}
plans={path}
read_plan
kill() {{ echo "kill $*"; }}
clock() {{ :; }}
top={tmp_path} forced=1 began=0 now=0 warned=' '
blow
"""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "kill -TERM 7\n"  # to foo.service
    slice_ = tmp_path / "trading.slice/trading-b.slice"
    killed = [member for member in members if (slice_ / member / "cgroup.kill").read_text()]
    assert killed == ["quantum-a.service"]


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
slow=' quantum-a.service=700 ' slow_patterns='' protect=' '
forced=1 began=0 now=0 warned=' ' few='' count=0
strike quantum-a.service {unit} 2>&1
strike quantum-a.service {unit} 2>&1
now=701
strike quantum-a.service {unit} 2>&1
"""
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    terms = [f"kill -TERM {number}" for number in range(2, 6)]
    assert done.stdout.splitlines() == terms + [line.replace("TERM", "KILL") for line in terms]


def asks(directory: Path, noted: str, run: str = "/proc", what: str = "swept") -> bool:
    """Whether the flag went with its directory, the noted one; `run` is on another file system."""
    script = f'. {STRIKE}; flag={directory}/ESS_ON run={run}; {what} "$1"'
    return subprocess.run(["sh", "-c", script, "sh", noted]).returncode == 0


def test_what_goes_with_its_directory(tmp_path: Path) -> None:
    """Gone: the directory, or what stands for it on a file system of its own."""
    directory, here = tmp_path / "flags", tmp_path / "flags/.here"
    directory.mkdir()
    device, number = os.lstat(directory).st_dev, os.lstat(directory).st_ino
    alone = f"{device} {number}"
    shared = str(tmp_path)
    for noted in ("", str(device), alone):
        assert not asks(directory, noted, shared)
        assert asks(directory, noted), "nothing stands for it"
    here.mkdir()
    noted = f"{alone} {os.lstat(here).st_ino}"
    for known in ("", str(device), alone, noted):
        assert not asks(directory, known)
    for other in (
        f"{device} {number + 1}",
        f"{device + 1}",
        f"{alone} {os.lstat(here).st_ino + 1}",
    ):
        assert asks(directory, other)
    here.rmdir()
    assert asks(directory, noted)
    directory.rmdir()
    for known in ("", noted):
        assert asks(directory, known)


def test_what_is_removed_a_little_later(tmp_path: Path) -> None:
    """PID 1 empties a directory name by name, and the flag's may be the first."""
    directory, here = tmp_path / "flags", tmp_path / "flags/.here"
    here.mkdir(parents=True)
    noted = " ".join(str(os.lstat(path).st_ino) for path in (directory, here))
    noted = f"{os.lstat(directory).st_dev} {noted}"
    late = f"{{ sleep 0.05; rmdir {here}; }} & swept"
    assert not asks(directory, noted)
    assert asks(directory, noted, what=late)
